"""The laws of every arm, simulated, emulated or faked: what `robot_bridge.arms.arm.Arm` promises.

A driver is added to `ARMS`: a name, and a context that gives an arm that is not yet connected.
"""

import sys
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from time import monotonic, monotonic_ns, sleep

import numpy as np
import pytest

from robot_bridge.arms.arm import ArmError
from sim.arm import SimArm
from vla.errors import UnderstudyError


@contextmanager
def simulated():
    yield SimArm()


def loaded(name):
    """A module of tests/robot_bridge, by its file."""
    spec = spec_from_file_location(f"robot_bridge_{name}", FOLDER / f"{name}.py")
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
    return sys.modules[spec.name]


FOLDER = Path(__file__).parents[1] / "robot_bridge"
ARMS = {
    "sim": simulated,
    "sim ur5e": loaded("toy_menagerie").simulated_ur5e,
    "so101": loaded("servos").emulated_so101,
    **loaded("fake_arms").ARMS,
}


@pytest.fixture(params=list(ARMS), scope="module")
def arm(request):
    with ARMS[request.param]() as made:
        yield made
        made.disconnect()


@pytest.fixture
def connected(arm):
    arm.connect()
    yield arm
    arm.disconnect()


def settled(arm, seconds=2.0):
    """The joints once they no longer move."""
    until, last = monotonic() + seconds, arm.state().joints
    while monotonic() < until:
        sleep(0.1)
        now = arm.state().joints
        if np.abs(now - last).max() < 1e-4:
            return now
        last = now
    return last


def hold(arm, joints, seconds):
    """Command the same joints at the arm's rate."""
    until = monotonic() + seconds
    while monotonic() < until:
        arm.command(joints)
        sleep(1 / arm.spec.rate_hz)


def test_the_spec_says_everything_about_each_joint(connected):
    spec, state = connected.spec, connected.state()
    assert state.joints.shape == (len(spec.joints),)
    assert state.joints.dtype == np.float64
    assert state.proprio.shape == (len(spec.proprio_names),)
    assert state.proprio.dtype == np.float32
    assert spec.rate_hz > 0
    if spec.gripper is not None:
        ends = sorted((spec.gripper.open, spec.gripper.closed))
        assert spec.limits.low[spec.gripper.index] <= ends[0] < ends[1] <= spec.limits.high[spec.gripper.index]


def test_a_state_is_of_now(connected):
    sleep(0.05)
    first = connected.state()
    assert 0 <= monotonic_ns() - first.stamp_ns < 200_000_000
    sleep(0.1)
    assert connected.state().stamp_ns > first.stamp_ns


def test_it_holds_where_it_is(connected):
    begin = settled(connected)
    hold(connected, begin, 0.3)
    np.testing.assert_allclose(connected.state().joints, begin, atol=0.02)


def test_it_goes_where_it_is_sent(connected):
    begin, limits = settled(connected), connected.spec.limits
    middle = (np.array(limits.low) + limits.high) / 2
    step = np.sign(middle - begin) * np.minimum(0.05, np.array(limits.velocity) * 0.2)
    ticks = int(0.4 * connected.spec.rate_hz)
    for tick in range(ticks):
        connected.command(begin + step * (tick + 1) / ticks)
        sleep(1 / connected.spec.rate_hz)
    hold(connected, begin + step, 0.5)
    moved = connected.state().joints - begin
    np.testing.assert_allclose(moved, step, atol=0.25 * np.abs(step).max() + 0.005)


@pytest.mark.parametrize("bad", ["nan", "infinity", "short", "long"])
def test_what_is_no_setpoint_is_refused_and_not_sent(connected, bad):
    begin = settled(connected)
    joints = {"nan": begin * np.nan, "infinity": begin + np.inf, "short": begin[:-1], "long": np.append(begin, 0.0)}[
        bad
    ]
    with pytest.raises(UnderstudyError):
        connected.command(joints)
    sleep(0.1)
    np.testing.assert_allclose(connected.state().joints, begin, atol=0.02)


def test_stop_stops(connected):
    begin, limits = settled(connected), connected.spec.limits
    middle = (np.array(limits.low) + limits.high) / 2
    towards = np.sign(middle - begin) * np.minimum(0.1, np.array(limits.velocity) * 0.2)
    ticks = int(0.2 * connected.spec.rate_hz)
    for tick in range(ticks):
        connected.command(begin + towards * (tick + 1) / ticks)
        sleep(1 / connected.spec.rate_hz)
    connected.stop()
    sleep(0.6)
    rest = connected.state().joints
    sleep(0.2)
    np.testing.assert_allclose(connected.state().joints, rest, atol=0.005)


def test_an_arm_that_is_not_connected_says_so(arm):
    with pytest.raises(ArmError, match="connect"):
        arm.state()
    with pytest.raises(ArmError, match="connect"):
        arm.command(np.zeros(len(arm.spec.joints)))
    arm.connect()
    arm.disconnect()
    arm.disconnect()
    with pytest.raises(ArmError, match="connect"):
        arm.state()


def test_it_can_be_connected_again(arm):
    for _ in range(2):
        arm.connect()
        assert np.isfinite(arm.state().joints).all()
        arm.disconnect()


def test_kinematics_agree_with_themselves(connected):
    kinematics = connected.kinematics
    if kinematics is None:
        pytest.skip("driven by its joints alone")
    begin = settled(connected)
    here = kinematics.forward(begin)
    there = here._replace(position=here.position + np.array([0.02, -0.02, 0.01]))
    reached = kinematics.forward(kinematics.inverse(there, begin))
    np.testing.assert_allclose(reached.position, there.position, atol=2e-3)
    assert abs(np.dot(reached.quaternion, there.quaternion)) > 0.999
