"""What can go wrong between the network and the motors, one tick after another, judged by how the arm really moved.

The numbers are those of the rows of faults that the bridge has to stand; the rest of them are in ``test_faults_run.py``
and ``test_faults_network.py``.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robot_bridge_rig import JOINT_POLICY, TICK_NS, TOOL_POLICY, Rig, check_motion, check_setpoints, sine

from robot_bridge.control import ControlConfig, Link, State
from sim.world import SPEC, Faults
from vla.types import ActionChunk

STEP_NS = 50_000_000


def tracking(seconds=0.6, **about):
    """A rig that follows its chunks."""
    rig = Rig(make=sine, **about)
    rig.arm()
    rig.run(seconds)
    assert rig.controller.state is State.TRACKING
    assert np.abs(rig.moved[1]).max() > 0.1
    return rig


def rests(rig, seconds=0.3):
    """The arm stands where it is, in limits all the way."""
    rig.run(seconds)
    begin = rig.physics.joints
    rig.run(0.5)
    np.testing.assert_allclose(rig.physics.joints[:7], begin[:7], atol=3e-3)
    check_setpoints(np.array(rig.sent))
    check_motion(*rig.moved)


def without(rig):
    """Nobody makes chunks any more."""
    rig.make = None
    return rig


def test_a_policy_is_followed():
    rig = tracking(2.0)
    joints = rig.moved[0]
    assert (np.ptp(joints[:, :7], axis=0) > 0.2).all()
    assert rig.codes == []
    check_motion(*rig.moved)


def test_a_tool_is_moved_and_the_gripper_closes():
    def rightwards(rig):
        return np.tile(np.array([0, -0.01, 0, 0.0], np.float32), (16, 1))

    rig = Rig(policy=TOOL_POLICY, make=rightwards)
    begin = rig.physics.suite.grip_position
    rig.arm()
    rig.run(1.0)
    moved = rig.physics.suite.grip_position - begin
    assert moved[1] < -0.12
    assert np.abs(moved[[0, 2]]).max() < 0.01
    assert rig.physics.joints[7] < 0.05
    check_motion(*rig.moved)


@pytest.mark.fault(1)
def test_a_lost_server_lets_the_rest_of_the_chunk_be_done_and_the_arm_rests_before_it_ends():
    rig = tracking()
    end_ns = max(map(rig.controller._end_ns, rig.controller._chunks))
    without(rig).link = Link(alive=False, trouble="disconnected")
    rig.run(0.2)
    assert rig.controller.state is State.TRACKING  # what is left is still valid
    rig.run(1e-9 * (end_ns - rig.now_ns))
    assert np.abs(rig.physics.velocity[:7]).max() < 0.02
    rests(rig)
    assert rig.controller.state is State.STOPPED
    assert "stop_link" in rig.codes


@pytest.mark.fault(2)
def test_what_comes_from_before_a_freeze_is_never_done():
    rig = tracking()
    old = ActionChunk(sine(rig, amplitude=0.3), rig.now_ns, 0.05)
    without(rig).link = Link(alive=False)
    rig.run(12.0)
    assert rig.controller.state is State.STOPPED
    rig.link = Link()
    rig.tick()
    assert not rig.controller.offer(old, rig.now_ns)
    rig.arm()
    assert not rig.controller.offer(old, rig.now_ns)
    rests(rig)


@pytest.mark.fault(3)
def test_another_server_stops_the_arm_until_the_operator_arms_it_again():
    rig = tracking()
    rig.link = Link(meeting=1)
    rig.run(0.05)
    assert "stop_meeting" in rig.codes
    rests(rig)
    assert rig.controller.order("arm", rig.now_ns) != ""
    del rig.centre
    rig.arm()
    rig.run(0.5)
    assert rig.controller.state is State.TRACKING


@pytest.mark.fault(4)
def test_an_arm_whose_control_has_died_brakes_by_itself_and_holds():
    rig = tracking()
    for _ in range(500):
        rig.tick(control=False)
    assert rig.physics.braking
    assert np.abs(rig.moved[1][-200:, :7]).max() < 0.02
    check_motion(*rig.moved)


@pytest.mark.fault(10)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e9])
@pytest.mark.parametrize("row", [0, 7, 15])
def test_one_number_that_means_nothing_refuses_the_whole_chunk_and_many_of_them_stop_the_arm(bad, row):
    def spoiled(rig):
        rows = sine(rig)
        rows[row, 3] = bad
        return rows

    rig = tracking()
    rig.make = spoiled
    rig.run(2.0)
    assert rig.controller.state is State.STOPPED
    assert {"finite", "absurd"} & set(rig.codes)
    rests(rig)


@pytest.mark.fault(10)
def test_the_smallest_numbers_that_there_are_are_numbers():
    def tiny(rig):
        return np.full((16, 4), 1e-42, np.float32)

    rig = Rig(policy=TOOL_POLICY, make=tiny)
    rig.arm()
    rig.run(0.5)
    assert rig.controller.state is State.TRACKING
    rests(rig)


@pytest.mark.fault(11)
@pytest.mark.parametrize("jump", [0.3, 1.0, -2.0])
def test_a_jump_is_refused_and_the_arm_holds(jump):
    def jumping(rig):
        rows = sine(rig, amplitude=0.05)
        rows[2:, 6] += jump  # turns the tool, and moves it nowhere
        return rows

    rig = tracking()
    rig.make = jumping
    before = rig.physics.joints[6]
    rig.run(2.0)
    assert "jump" in rig.codes
    assert np.abs(rig.moved[0][:, 6] - before).max() < 0.25
    rests(rig)


@pytest.mark.fault(11)
def test_a_small_jump_is_blended():
    def stepping(rig):
        rows = sine(rig, amplitude=0.0)
        rows[:, :7] += 0.08 * (len(rig.motion) // 400 % 2)
        return rows

    rig = Rig(make=stepping)
    rig.arm()
    rig.run(3.0)
    assert rig.codes == []
    check_motion(*rig.moved)


@pytest.mark.fault(11)
def test_a_gripper_that_is_told_to_open_and_close_at_once_keeps_its_limits():
    def snapping(rig):
        rows = sine(rig, amplitude=0.0)
        rows[:, 7] = len(rig.motion) // 100 % 2
        return rows

    rig = Rig(make=snapping)
    rig.arm()
    rig.run(2.0)
    assert rig.controller.state is State.TRACKING
    check_motion(*rig.moved)


@pytest.mark.fault(12)
def test_what_is_beyond_the_limits_is_saturated_and_said():
    def beyond(rig):
        rows = sine(rig, amplitude=0.0)
        seconds = 1e-9 * (rig.now_ns - rig.begun_ns) + np.arange(1, 17) / 20 - 0.3
        rows[:, 6] = rig.centre[6] + 2.5 * np.maximum(seconds, 0)  # at once as fast as it may, and beyond its end
        return np.minimum(rows, 4.0)

    rig = Rig(make=beyond)
    rig.arm()
    rig.run(2.5)
    joints, velocity, _ = rig.moved
    assert joints[:, 6].max() > 2.85
    assert "clamped" in rig.codes
    assert np.abs(velocity[:, 6]).max() > 2.0
    check_motion(*rig.moved)


@pytest.mark.fault(13)
def test_only_chunks_that_are_new_and_of_now_count():
    rig = tracking()
    controller, now = rig.controller, rig.now_ns
    chunk = ActionChunk(sine(rig), now - 2 * STEP_NS, 0.05)
    newest = max(one.stamp_ns for one in controller._chunks)
    assert not controller.offer(ActionChunk(chunk.actions, newest, 0.05), now)  # twice
    assert not controller.offer(ActionChunk(chunk.actions, newest - STEP_NS, 0.05), now)  # out of order
    assert not controller.offer(ActionChunk(chunk.actions, now + STEP_NS, 0.05), now)  # of the future
    assert not controller.offer(ActionChunk(chunk.actions, now - 20 * STEP_NS, 0.05), now)
    assert {"old_or_twice", "future"} <= set(controller.counts)
    without(rig).run(0.4)
    late = ActionChunk(chunk.actions, newest + STEP_NS, 0.05)
    rig.now_ns += 40 * STEP_NS
    assert not controller.offer(late, rig.now_ns)
    assert controller.counts["stale"] == 1


@pytest.mark.fault(20)
@pytest.mark.parametrize(("ticks", "state"), [(25, State.TRACKING), (100, State.STOPPED)])
def test_control_that_slept_leaves_ticks_out_and_stops_when_it_slept_too_long(ticks, state):
    rig = tracking()
    for _ in range(ticks):
        rig.tick(control=False)
    rig.run(0.4)
    assert rig.controller.state is state
    check_motion(*rig.moved)


@pytest.mark.fault(21)
def test_a_joint_that_does_not_follow_stops_the_arm():
    rig = tracking()
    rig.make = lambda rig: np.where(np.eye(8)[6] > 0, sine(rig, 0.8, 6.0), sine(rig, 0.0))
    del rig.centre
    rig.physics.faults = Faults(stuck=6)
    rig.run(2.0)
    assert "stop_lag" in rig.codes
    assert rig.controller.state is State.STOPPED


@pytest.mark.fault(22)
def test_frozen_feedback_stops_the_arm():
    rig = tracking()
    rig.physics.faults = Faults(frozen=True)
    rig.run(0.15)
    assert "stop_feedback" in rig.codes
    rests(rig)


@pytest.mark.fault(24)
@pytest.mark.parametrize("shape", [(4, 8), (17, 8), (16, 7), (0, 8)])
def test_a_chunk_of_another_shape_is_refused(shape):
    rig = tracking()
    rig.make = lambda rig: np.zeros(shape, np.float32)
    rig.run(2.0)
    assert rig.controller.state is State.STOPPED
    assert {"stop_shape", "stop_starved"} & set(rig.codes)
    rests(rig)


@pytest.mark.fault(24)
def test_a_policy_that_answers_nothing_starves_the_arm_gently():
    rig = tracking()
    without(rig).run(1.5)
    assert "stop_starved" in rig.codes
    states = np.array(rig.states)
    assert 0.05 <= TICK_NS * 1e-9 * (states == State.EXTRAPOLATE).sum() <= 0.07
    rests(rig)


@pytest.mark.fault(25)
def test_the_operators_stop_acts_in_the_same_tick():
    rig = tracking()
    rig.controller.order("stop", rig.now_ns)
    speed = np.abs(rig.controller.governor.velocity).max()
    rig.tick()
    assert rig.controller.state is State.RAMP_STOP
    rig.run(0.02)
    assert np.abs(rig.controller.governor.velocity).max() < speed
    rests(rig)


@pytest.mark.fault(6)
def test_too_many_late_answers_stop_the_arm():
    rig = tracking()
    rig.link = Link(rate=0.93)
    rig.run(0.5)
    assert rig.controller.state is State.TRACKING
    assert rig.codes == ["warn_rate"]
    rig.link = Link(rate=0.89)
    rests(rig)
    assert "stop_rate" in rig.codes


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_no_chunk_whatever_it_holds_leads_the_arm_out_of_its_limits(data):
    policy = data.draw(st.sampled_from([JOINT_POLICY, TOOL_POLICY]))
    seed = data.draw(st.integers(0, 2**32 - 1))
    wild = data.draw(st.floats(0.0, 1.4))
    delay = data.draw(st.floats(0.0, 0.3))
    way = data.draw(st.sampled_from(["spline", "steps"]))
    low, high = np.array(policy.action.low), np.array(policy.action.high)
    random = np.random.default_rng(seed)

    def made(rig):
        rough = random.uniform(-1, 1, (16, policy.action.dim)).cumsum(axis=0) * wild / 4
        rows = (low + high) / 2 + rough * (high - low) / 2
        if policy is JOINT_POLICY and random.random() < 0.8:
            rows = rig.physics.joints + rough * 0.2
        return rows.astype(np.float32)

    config = ControlConfig(interpolation=way, refusals=1000)
    rig = Rig(policy=policy, make=made, delay_s=delay, every=random.integers(1, 6), config=config)
    rig.arm()
    rig.run(2.0)
    check_setpoints(np.array(rig.sent))
    check_motion(*rig.moved, touching=True)


def test_joints_that_bring_the_tool_out_of_its_workspace_are_refused():
    def reaching(rig):
        rows = sine(rig, amplitude=0.0)
        seconds = 1e-9 * (rig.now_ns - rig.begun_ns) + np.arange(1, 17) / 20
        rows[:, 1] = rig.centre[1] + 0.5 * seconds  # the shoulder leans forward, down to the table
        return rows

    rig = Rig(make=reaching)
    rig.arm()
    rig.run(3.0)
    assert "stop_workspace" in rig.codes
    assert rig.physics.suite.grip_position[2] > 0
    check_motion(*rig.moved, touching=True)


def test_the_tool_brakes_before_it_leaves_its_workspace():
    def turning(rig):
        rows = sine(rig, amplitude=0.0)
        seconds = 1e-9 * (rig.now_ns - rig.begun_ns) + np.arange(1, 17) / 20 - 0.3
        rows[:, 0] = rig.centre[0] + 1.7 * np.maximum(seconds, 0)  # the base turns, as fast as it may
        return rows

    rig = Rig(make=turning)
    rig.arm()
    beyond = []
    for _ in range(1000):
        rig.tick()
        position = rig.physics.scene.suite.grip_position
        beyond.append(max(np.max(np.subtract(SPEC.workspace[0], position)), np.max(position - SPEC.workspace[1])))
    assert {"workspace"} & set(rig.codes)
    assert max(beyond) < 0.03
    check_setpoints(np.array(rig.sent))
    check_motion(*rig.moved, touching=True)
