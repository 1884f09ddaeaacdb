"""What makers' arms have in common, their kinematics, and the drivers whose SDK a stand-in replaces."""

import inspect
import re
import sys
from importlib import import_module
from itertools import pairwise
from time import sleep
from unittest.mock import patch

import numpy as np
import pytest
from robot_bridge_fake_arms import KITS, C_PiperInterface_V2, Joints, Robot, XArmAPI

from robot_bridge.arms import franka, piper, ur, xarm
from robot_bridge.arms.arm import ArmError, Pose, make_arm
from robot_bridge.arms.chain import quaternion
from robot_bridge.arms.driver import NewsClock, TheirClock

CHAINS = {
    **{model: ur.URArm("", model).kinematics for model in ur.MODELS},
    "franka": franka.FrankaArm("").kinematics,
    **{model: xarm.XArm("", model).kinematics for model in xarm.RANGES},
    "piper": piper.PiperArm().kinematics,
}
READY = np.array([0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4])


@pytest.fixture
def kits():
    C_PiperInterface_V2.made.clear()
    with patch.dict(sys.modules, KITS):
        yield


@pytest.mark.parametrize(
    ("name", "joints", "position", "turn"),
    [
        ("ur5e", np.zeros(6), (-0.8172, -0.2329, 0.0628), (0.70711, 0.70711, 0, 0)),
        ("xarm6", np.zeros(6), (0.207, 0, 0.112), (0, 1, 0, 0)),
        ("xarm7", np.zeros(7), (0.206, 0, 0.1205), (0, 1, 0, 0)),
        ("franka", READY, (0.30689, 0, 0.59028), (0, 0.92388, -0.38268, 0)),
        ("piper", np.zeros(7), (0.056128, 0, 0.213266), (np.cos(np.pi * 85 / 360), 0, np.sin(np.pi * 85 / 360), 0)),
    ],
)
def test_the_flange_is_where_its_maker_says(name, joints, position, turn):
    """Zero poses out of the makers' own pages and SDKs."""
    pose = CHAINS[name].forward(joints)
    np.testing.assert_allclose(pose.position, position, atol=2e-5)
    assert abs(pose.quaternion @ turn) > 1 - 1e-5


@pytest.mark.parametrize("name", CHAINS)
def test_inverse_undoes_forward_and_stays_near(name):
    chain, random = CHAINS[name], np.random.default_rng(7)
    middle, reach = (chain.low + chain.high) / 2, np.minimum(chain.high - chain.low, 3.0) / 2
    for _ in range(40):
        near = middle + random.uniform(-0.7, 0.7, len(middle)) * reach
        wanted = chain.forward(near + random.normal(0, 0.05, len(near)))
        found = chain.inverse(wanted, near)
        reached = chain.forward(found)
        np.testing.assert_allclose(reached.position, wanted.position, atol=1e-4)
        assert abs(reached.quaternion @ wanted.quaternion) > 1 - 1e-6
        assert np.abs(found - near).max() < 1.5


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_out_of_reach_is_reached_for_within_the_limits(name):
    chain = CHAINS[name]
    near = np.append((chain.low + chain.high) / 2 + 0.2, 0.03)  # the last is a gripper
    there = Pose(np.array([3.0, 1.0, 0.5]), np.array([1.0, 0, 0, 0]))
    found = chain.inverse(there, near)
    assert np.isfinite(found).all()
    assert found[-1] == 0.03
    assert (found[:-1] >= chain.low).all()
    assert (found[:-1] <= chain.high).all()
    before, after = (np.linalg.norm(chain.forward(joints).position - there.position) for joints in (near, found))
    assert after < before


def test_quaternions_of_half_turns():
    for axis in np.eye(3):
        turn = 2 * np.outer(axis, axis) - np.eye(3)
        np.testing.assert_allclose(np.abs(quaternion(turn)), [0, *axis], atol=1e-12)


def test_stamps_of_another_clock_become_ours_and_grow_old():
    clock = TheirClock()
    read = [(10.0, 50.003), (10.1, 50.101), (10.2, 50.204), (10.2, 50.301), (10.2, 57.0)]
    ours = [clock.stamp_ns(theirs, round(1e9 * now)) for theirs, now in read]
    np.testing.assert_allclose(np.array(ours) * 1e-9, [50.003, 50.101, 50.201, 50.201, 50.201], atol=1e-4)
    assert ours[2] == ours[-1]
    # A second more of delay at every reading is delay; a ten thousandth is a clock that runs otherwise.
    late = clock.stamp_ns(10.3, round(1e9 * 58.0))
    assert abs(1e-9 * late - 50.301) < 1e-2
    drifting = TheirClock()
    for second in range(1000):
        stamp = drifting.stamp_ns(float(second), round(1e9 * (second * (1 + 5e-5) + 7)))
        assert abs(stamp - 1e9 * (second * (1 + 5e-5) + 7)) < 1e6
    assert all(a <= b for a, b in pairwise([drifting.stamp_ns(t, 10**13) for t in (999.0, 998.0, 5.0, 1000.0)]))


def test_news_is_of_when_it_was_first_read():
    clock = NewsClock()
    assert [clock.stamp_ns(seen, now) for seen, now in [(3.0, 5), (3.0, 6), (1.0, 7), (1.0, 9)]] == [5, 5, 7, 7]


@pytest.mark.parametrize(
    ("name", "options"), [("franka", {"host": "nowhere"}), ("xarm", {"host": "nowhere"}), ("piper", {"can": "nowhere"})]
)
def test_an_arm_that_is_not_there_says_so_and_one_without_its_kit_how_to_get_it(kits, name, options):
    arm = make_arm(name, **options)
    with pytest.raises(ArmError, match="nowhere"):
        arm.connect()
    with pytest.raises(ArmError, match="connect"):
        arm.state()
    missing = dict.fromkeys(KITS)
    with patch.dict(sys.modules, missing), pytest.raises(ArmError, match=rf"understudy\[{name}\]"):
        arm.connect()


def test_franka_says_what_ended_its_loop_and_grows_old_when_it_stands_still(kits):
    arm = make_arm("franka", host="172.16.0.2", realtime=False)
    arm.connect()
    robot, began = Robot.last, Robot.last.clock()
    arm.state()
    robot.clock = lambda: began
    first = arm.state()
    sleep(0.05)
    assert arm.state().stamp_ns == first.stamp_ns
    robot.trouble = "libfranka: Move command aborted: User Stop pressed!"
    with pytest.raises(ArmError, match="User Stop pressed"):
        arm.command(np.zeros(7))
    robot.trouble, robot.motion = None, None
    with pytest.raises(ArmError, match="no longer follows"):
        arm.state()
    arm.disconnect()


def test_franka_follows_again_after_a_stop_from_where_it_is(kits):
    arm = make_arm("franka", host="172.16.0.2")
    arm.connect()
    begin = arm.state().joints
    arm.command(begin + 0.3)
    sleep(0.02)
    arm.stop()
    rest = arm.state().joints
    arm.command(rest)
    sleep(0.1)
    np.testing.assert_allclose(arm.state().joints, rest, atol=1e-3)
    arm.disconnect()


def test_xarm_says_which_error_it_shows_and_clears_none(kits):
    arm = make_arm("xarm", host="192.168.1.200")
    arm.connect()
    XArmAPI.last.error_code = 22
    with pytest.raises(ArmError, match="error 22"):
        arm.state()
    XArmAPI.last.error_code, XArmAPI.last.mode = 0, 0
    with pytest.raises(ArmError, match="code 9"):
        arm.command(np.zeros(6))
    XArmAPI.last.connected = False
    with pytest.raises(ArmError, match="lost"):
        arm.state()


def test_xarm_follows_again_after_a_stop(kits):
    arm = make_arm("xarm", host="192.168.1.200")
    arm.connect()
    arm.stop()
    arm.command(arm.state().joints + 0.05)
    np.testing.assert_allclose(XArmAPI.last.joints.target, XArmAPI.last.joints.now() + 0.05, atol=0.05)
    assert (XArmAPI.last.mode, XArmAPI.last.moving) == (1, 0)


def test_piper_counts_in_thousandths_of_degrees_and_of_millimetres(kits):
    arm = make_arm("piper", can="can0")
    arm.connect()
    arm.command(np.array([np.pi / 2, np.pi, -np.pi / 4, 0, 0.1, -0.1, 0.05]))
    sent = C_PiperInterface_V2.made["can0"].joints.target
    np.testing.assert_array_equal(sent, [90000, 180000, -45000, 0, 5730, -5730, 50000])
    assert arm.spec.gripper.open == 0.07


def test_piper_tells_its_trouble_and_grows_old_when_nothing_comes(kits):
    arm = make_arm("piper", can="can0")
    arm.connect()
    sdk = C_PiperInterface_V2.made["can0"]
    sdk.joints.frozen = True
    first = arm.state()
    sleep(0.05)
    assert arm.state().stamp_ns == first.stamp_ns
    sdk.status = 7
    with pytest.raises(ArmError, match="collision"):
        arm.command(first.joints)
    sdk.status = 0
    arm.disconnect()
    with patch.object(piper, "ENABLE_S", 0.05), pytest.raises(ArmError, match="nothing comes from the arm"):
        arm.connect()


def test_stand_ins_move_no_faster_than_they_can():
    joints = Joints([0.0], speed=1.0)
    joints.send([5.0])
    begun = joints.seen_s
    sleep(0.1)
    assert 0 < joints.now()[0] <= joints.seen_s - begun + 1e-9


def parameters(call):
    """Their names, of Python's own and of pybind11's functions, which only write them down."""
    try:
        return list(inspect.signature(call).parameters)
    except ValueError:
        return ["self", *re.findall(r"(?<=[(,] )?(\w+): ", call.__doc__)]


@pytest.mark.parametrize("name", KITS)
def test_a_stand_in_has_the_names_and_parameters_of_its_kit(name):
    real = pytest.importorskip(name, reason="the maker's kit is not installed", exc_type=ImportError)
    real = import_module(name) if real is KITS[name] else real
    for thing, ours in vars(KITS[name]).items():
        if thing.startswith("__") or not inspect.isclass(ours) or thing == "Exception":
            assert hasattr(real, thing)
            continue
        theirs = getattr(real, thing)
        methods = {name: value for name, value in vars(ours).items() if inspect.isfunction(value)}
        for method, call in methods.items():
            if method != "__new__":
                missing = set(inspect.signature(call).parameters) - set(parameters(getattr(theirs, method)))
                assert not missing, f"{thing}.{method} has no {missing}"
        for attribute in [name for name, value in vars(ours).items() if isinstance(value, property)]:
            assert hasattr(theirs, attribute)
