"""An arm driven at its own rate for somebody who is slower."""

from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from robot_bridge.arms.arm import ARMS, ArmError
from robot_bridge.safety import Governor
from robot_bridge.streaming import Stream, longest_stop_s
from vla.errors import UnderstudyError

pytestmark = pytest.mark.realtime


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setitem(ARMS, "toy", "streamed_toys:ToyArm")
    for name in ("SlowArm", "FrozenArm", "BlockedArm", "HesitantArm"):
        monkeypatch.setitem(ARMS, name, f"stuck_toys:{name}")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    made = []

    def stream(name="toy", **options):
        made.append(Stream(name, **options))
        return made[-1]

    yield stream
    for one in made:
        one.disconnect()


def reach(stream, goal, seconds=30.0):
    until = monotonic() + seconds
    while monotonic() < until and np.abs(stream.state().joints - goal).max() > 1e-3:
        sleep(0.02)
    return stream.state().joints


def test_every_setpoint_keeps_every_limit(make, tmp_path):
    stream = make(log=str(tmp_path / "sent.npy"))
    stream.connect()
    for goal in ([1.0, 0.0], [-1.0, 1.0], [5.0, 0.5]):
        stream.go(np.array(goal))
        sleep(0.25)
    np.testing.assert_allclose(reach(stream, [1.0, 0.5]), [1.0, 0.5], atol=1e-3)
    limits, dt = stream.spec.limits, 1 / stream.spec.rate_hz
    stream.disconnect()
    sent = np.load(tmp_path / "sent.npy")
    velocity = np.diff(sent, axis=0) / dt
    acceleration = np.diff(velocity, axis=0) / dt
    assert ((sent >= np.array(limits.low) - 1e-6) & (sent <= np.array(limits.high) + 1e-6)).all()
    assert (np.abs(velocity).max(0) <= np.array(limits.velocity) * 1.001).all()
    assert (np.abs(acceleration).max(0) <= np.array(limits.acceleration) * 1.01).all()
    assert np.abs(velocity[0]).max() < 0.1


def test_steps_of_a_slow_asker_arrive(make, tmp_path):
    """Each is the end of a line from the one before it; when they end, the arm has its braking way to come back."""
    stream = make(log=str(tmp_path / "sent.npy"))
    stream.connect()
    begin = stream.state().joints
    for part in np.linspace(0, 1, 16):
        stream.go(begin + part * np.array([0.6, 0.0]))
        sleep(0.1)
    end = begin + np.array([0.6, 0.0])
    np.testing.assert_allclose(reach(stream, end), end, atol=1e-2)
    stream.disconnect()
    moved = np.load(tmp_path / "sent.npy") - begin
    assert moved[:, 0].min() > -0.02
    assert moved[:, 0].max() < 0.7
    np.testing.assert_allclose(moved[:, 1], 0.0, atol=1e-6)


def test_nothing_that_is_no_number_is_asked(make):
    stream = make()
    stream.connect()
    with pytest.raises(UnderstudyError, match="hinge"):
        stream.go(np.array([np.nan, 0.0]))
    with pytest.raises(UnderstudyError, match="2 joints"):
        stream.go(np.zeros(3))


def test_an_arm_that_breaks_says_so_to_who_asks(make):
    stream = make(breaks_after=20)
    stream.connect()
    with pytest.raises(ArmError, match="mend it"):
        reach(stream, np.array([9.0, 9.0]))


def test_an_arm_that_does_not_connect_says_why_and_can_be_tried_again(make):
    stream = make(breaks_after=0)
    for _ in range(2):
        with pytest.raises(ArmError, match="mend it"):
            stream.connect()


def test_unconnected_it_says_so_and_a_process_that_died_too(make):
    stream = make()
    with pytest.raises(ArmError, match="connect"):
        stream.state()
    stream.connect()
    stream._process.kill()
    stream._process.join()
    with pytest.raises(ArmError, match="silent"):
        reach(stream, np.array([9.0, 9.0]))
    stream.disconnect()
    stream.disconnect()


def test_a_slow_arm_has_the_time_that_it_needs_to_brake(make, tmp_path):
    stream = make("SlowArm", log=str(tmp_path / "sent.npy"))
    stream.connect()
    limits, dt = stream.spec.limits, 1 / stream.spec.rate_hz
    for _ in range(25):
        stream.go(stream.state().joints + np.array([0.9 * limits.velocity[0], 0.0]))
        sleep(0.1)
    stream.disconnect()
    velocity = np.diff(np.load(tmp_path / "sent.npy"), axis=0)[:, 0] / dt
    assert velocity.max() / limits.acceleration[0] > 1.2  # more than a second away from rest
    assert abs(velocity[-1]) < 0.01
    assert np.abs(np.diff(velocity)).max() / dt <= limits.acceleration[0] * 1.01


def test_the_longest_stop_is_longer_than_any(make):
    limits = make().spec.limits
    governor = Governor(limits, 100.0)
    governor.reset(np.zeros(2), np.array(limits.velocity))
    assert governor.stop_s < longest_stop_s(limits) < 1.0


def test_what_is_too_far_away_is_refused_and_the_gripper_may_open_at_once(make):
    stream = make("SlowArm")
    stream.connect()
    with pytest.raises(UnderstudyError, match=r"too far to go at once: joint 0"):
        stream.go(np.array([0.2 + 2.1 * stream.spec.limits.velocity[0], 0.5]))
    assert stream.go(np.array([0.2, 1.0])).tolist() == [0.2, 1.0]
    np.testing.assert_allclose(reach(stream, [0.2, 1.0]), [0.2, 1.0], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "said"), [("FrozenArm", "measurement is .* ms old"), ("BlockedArm", "hinge does not follow")]
)
def test_an_arm_that_does_not_answer_or_follow_brakes_and_says_so(make, tmp_path, name, said):
    stream = make(name, log=str(tmp_path / "sent.npy"))
    stream.connect()
    stream.go(np.array([1.0, 0.5]))
    with pytest.raises(ArmError, match=said):
        reach(stream, [9.0, 9.0])
    with pytest.raises(ArmError, match=said):
        stream.go(np.array([1.0, 0.5]))
    with pytest.raises(ArmError, match=said):
        stream.state()
    stream._process.join(5.0)
    assert stream._process.exitcode == 0
    sent = np.load(tmp_path / "sent.npy")
    assert 0.4 < sent[-1, 0] < 1.0
    assert np.abs(sent[-1] - sent[-2]).max() < 1e-3


def test_an_arm_that_hesitates_for_a_moment_goes_on(make):
    stream = make("HesitantArm")
    stream.connect()
    stream.go(np.array([1.0, 0.5]))
    np.testing.assert_allclose(reach(stream, [1.0, 0.5]), [1.0, 0.5], atol=1e-3)
