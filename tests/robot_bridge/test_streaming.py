"""An arm driven at its own rate for somebody who is slower."""

from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from robot_bridge.arms.arm import ARMS, ArmError
from robot_bridge.streaming import Stream
from vla.errors import UnderstudyError


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setitem(ARMS, "toy", "streamed_toys:ToyArm")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    made = []

    def stream(**options):
        made.append(Stream("toy", **options))
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
    np.testing.assert_allclose(reach(stream, end), end, atol=1e-3)
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
