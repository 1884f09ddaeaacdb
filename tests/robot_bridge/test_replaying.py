"""Recorded actions in the place of a server: from the beginning at each arming, and nothing after their end."""

import os
from dataclasses import replace
from threading import Event, Thread
from time import monotonic, monotonic_ns, sleep

import numpy as np
import pytest
from robot_bridge_rig import JOINT_POLICY, TOOL_POLICY

from robot_bridge import replaying
from robot_bridge.control import State
from robot_bridge.plan import Made, Plan
from sim.world import SPEC
from vla.errors import UnderstudyError

LENGTH = 10


class Played:
    """The process function in a thread, and rings in which the test says what the arm does."""

    def __init__(self, folder, policy, actions, monkeypatch):
        np.save(folder / "actions.npy", actions)
        policy = replace(policy, pred_horizon=8, exec_horizon=4, control_hz=50.0)
        self.plan = Plan(folder, Made("none"), Made("none"), policy, SPEC, actions=folder / "actions.npy")
        self.rings, self._over = self.plan.rings(make=True), Event()
        monkeypatch.setattr(replaying.os, "getppid", lambda: -1 if self._over.is_set() else 1)
        self._thread = Thread(target=replaying.replay, args=(self.plan, 1))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *about):
        self._over.set()
        self._thread.join(5.0)
        assert not self._thread.is_alive()

    def begin(self, episode):
        self.rings["task"].write(episode=episode)
        self.until(lambda: self.link["alive"] and int(self.link["episode"]) == episode)

    def control(self, state):
        self.rings["control"].write(stamp_ns=monotonic_ns(), state=state)

    @property
    def link(self):
        return self.rings["link"].newest()

    def until(self, condition):
        end = monotonic() + 5.0
        while self.link is None or not condition():
            assert monotonic() < end, "it did not happen"
            sleep(0.002)

    def chunks(self, count, since=0):
        self.until(lambda: self.rings["chunks"].written >= since + count)
        return self.rings["chunks"].since(since)[0]


@pytest.fixture
def play(tmp_path, monkeypatch):
    return lambda policy, actions: Played(tmp_path, policy, actions, monkeypatch)


def rows(policy, length=LENGTH):
    return np.arange(length, dtype=np.float32)[:, None] + 0.01 * np.arange(policy.action.dim, dtype=np.float32)


def test_chunk_after_chunk_at_its_time_and_the_last_row_is_held(play):
    asked = rows(JOINT_POLICY)
    with play(JOINT_POLICY, asked) as played:
        played.begin(1)
        played.control(State.IDLE)
        sleep(0.05)
        assert not played.rings["chunks"].written
        armed_ns = monotonic_ns()
        played.control(State.ARMED)
        played.until(lambda: played.rings["chunks"].written)
        played.control(State.TRACKING)
        first, second, third = played.chunks(3)
        step_ns = played.plan.step_ns
        assert armed_ns < int(first["stamp_ns"]) <= armed_ns + 3 * step_ns
        assert int(first["stamp_ns"]) % step_ns == 0
        for number, chunk in enumerate((first, second, third)):
            assert int(chunk["stamp_ns"]) == int(first["stamp_ns"]) + 4 * number * step_ns
            assert int(chunk["arrived_ns"]) >= int(chunk["stamp_ns"])
        held = np.concatenate([asked, np.repeat(asked[-1:], 6, axis=0)])
        for number, chunk in enumerate((first, second, third)):
            np.testing.assert_array_equal(chunk["actions"], held[4 * number : 4 * number + 8])
        assert played.link["alive"]
        played.until(lambda: not played.link["alive"])
        assert monotonic_ns() > int(first["stamp_ns"]) + LENGTH * step_ns
        assert played.link["trouble"] == b"the recording has been played"
        assert played.rings["chunks"].written == 3


def test_displacements_end_in_zeros_but_the_gripper_stays(play):
    asked = rows(TOOL_POLICY, 3) + 1
    with play(TOOL_POLICY, asked) as played:
        played.begin(1)
        played.control(State.ARMED)
        (chunk,) = played.chunks(1)
    np.testing.assert_array_equal(chunk["actions"][:3], asked)
    np.testing.assert_array_equal(chunk["actions"][3:, :3], np.zeros((5, 3)))
    np.testing.assert_array_equal(chunk["actions"][3:, 3], np.full(5, asked[-1, 3]))


@pytest.mark.parametrize("left", [State.RAMP_STOP, State.STOPPED, State.IDLE])
def test_armed_again_it_starts_from_the_beginning(play, left):
    asked = rows(JOINT_POLICY, 200)
    with play(JOINT_POLICY, asked) as played:
        played.begin(1)
        played.control(State.ARMED)
        played.chunks(1)
        played.control(State.EXTRAPOLATE)
        np.testing.assert_array_equal(played.chunks(1, since=1)[0]["actions"], asked[4:12])
        played.control(left)
        sleep(0.05)
        before = played.rings["chunks"].written
        sleep(0.15)
        assert played.rings["chunks"].written == before
        assert played.link["alive"]
        played.control(State.ARMED)
        again = played.chunks(1, since=before)[0]
        np.testing.assert_array_equal(again["actions"], asked[:8])


def test_after_its_end_it_can_be_played_again_within_the_same_episode(play):
    asked = rows(JOINT_POLICY, 3)
    with play(JOINT_POLICY, asked) as played:
        played.begin(1)
        for turn in range(2):
            played.control(State.ARMED)
            np.testing.assert_array_equal(played.chunks(1, since=turn)[0]["actions"][:3], asked)
            played.until(lambda: not played.link["alive"])
            played.control(State.STOPPED)
            played.until(lambda: played.link["alive"])


def test_a_new_episode_starts_from_the_beginning(play):
    asked = rows(JOINT_POLICY, 200)
    with play(JOINT_POLICY, asked) as played:
        played.begin(1)
        played.control(State.ARMED)
        played.chunks(2)
        played.control(State.TRACKING)
        played.begin(2)
        sleep(0.05)
        before = played.rings["chunks"].written
        played.control(State.ARMED)
        np.testing.assert_array_equal(played.chunks(1, since=before)[0]["actions"], asked[:8])


@pytest.mark.parametrize("shape", [(0, JOINT_POLICY.action.dim), (5, 1), (5,), (0,)])
def test_a_recording_with_nothing_to_play_is_refused(play, shape):
    played = play(JOINT_POLICY, np.zeros(shape, np.float32))
    with pytest.raises(UnderstudyError, match=r"actions\.npy has the shape"):
        replaying.replay(played.plan, os.getppid())


HZ = JOINT_POLICY.control_hz


def onward(length=100):
    path = np.tile(np.linspace(0.2, 1.0, length, dtype=np.float32)[:, None], len(SPEC.joints))
    path[:, 3] -= 2.0  # this joint bends one way only
    path[:, -1] = np.repeat([1.0, 0.0], length // 2)
    return path, replaying.Onward(path, SPEC, HZ)


def test_an_arm_is_led_to_where_the_path_begins():
    path, source = onward()
    measured = np.array([0.0, -0.15, 0.0, -2.55, 0.0, 2.4, 0.785, 0.4])
    rows = source.rows(measured)
    leading = len(rows) - len(path)
    np.testing.assert_allclose(rows[0, :7], measured[:7], atol=1e-6)
    np.testing.assert_array_equal(rows[leading:], path)
    assert (rows[:leading, 7] == path[0, 7]).all()  # the gripper does not wait
    speed = np.diff(rows[:leading, :7], axis=0) * HZ
    share = replaying.SHARE + 0.02
    assert (np.abs(speed) <= share * np.array(SPEC.limits.velocity[:7])).all()
    assert (np.abs(np.diff(speed, axis=0) * HZ) <= share * np.array(SPEC.limits.acceleration[:7])).all()
    assert np.abs(speed[[0, -1]]).max() < 0.1  # from rest to rest


def test_after_a_stop_it_goes_on_with_what_is_left():
    path, source = onward()
    leading = len(source.rows(path[0].astype(float))) - len(path)
    source.played(leading - 2)  # stopped on the way to the path
    np.testing.assert_array_equal(source.rows(path[0].astype(float))[-len(path) :], path)
    source.played(leading + 30)
    rows = source.rows(path[30] + 0.05)
    np.testing.assert_array_equal(rows[-70:], path[30:])
    np.testing.assert_allclose(rows[0, :7], path[30, :7] + 0.05, atol=1e-6)
    source.played(len(rows) - 40)
    np.testing.assert_array_equal(source.rows(path[60].astype(float))[-40:], path[60:])
    source.begin()
    np.testing.assert_array_equal(source.rows(path[0].astype(float))[-100:], path)
    source.played(1000)
    np.testing.assert_array_equal(source.rows(path[0].astype(float))[-100:], path)  # all of it, again


def test_a_path_is_played_from_where_the_arm_is(play):
    path, _ = onward(400)
    measured = path[0] + 0.1
    with play(JOINT_POLICY, path) as played:
        played.plan = replace(played.plan, goes_on=True)
        player = replaying.Player(played.plan)
        played.rings["state"].write(joints=measured)
        played.rings["task"].write(episode=1)
        played.control(State.ARMED)
        now = monotonic_ns()
        player.turn(now)
        before = played.rings["chunks"].written
        player.turn(now + 2 * played.plan.step_ns)
        chunk = played.rings["chunks"].since(before)[0][-1]
    np.testing.assert_allclose(chunk["actions"][0, :7], measured[:7], atol=1e-6)
