"""Joints for a tool's path: exact where the arm reaches, told where it does not, and within the limits in time."""

from dataclasses import replace
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from retarget_made_hands import picking

from robot_bridge.arms.arm import ArmSpec, Limits, make_arm
from robot_bridge.retarget.inverse import solve
from robot_bridge.retarget.lifting import HandPath
from robot_bridge.retarget.linkage import TOOL, linkage_of, of_file
from robot_bridge.retarget.pacing import arm_only, paced, stretched
from robot_bridge.retarget.tool_path import tool_path
from sim.arm import make_kinematics
from sim.scenes import Setting
from vla.errors import UnderstudyError
from vla.types import Gripper

STAMPS, POINTS, _, CLOSED = picking()
PATH = tool_path(HandPath(STAMPS, POINTS, np.zeros(len(STAMPS)), "right", "stereo"))
ARM = make_arm("sim")


@pytest.fixture(scope="module")
def linkage():
    return linkage_of(ARM)


@pytest.fixture(scope="module")
def solved(linkage):
    return solve(linkage, PATH, arm_only(ARM.spec))


def test_the_tool_is_where_it_should_be(solved):
    """Judged by the arm's own kinematics, not by those that solved it."""
    kinematics = make_kinematics(Setting.of("tabletop"))
    for joints, position, quaternion in zip(solved.joints[::10], PATH.position[::10], PATH.quaternion[::10]):
        there = kinematics.forward(np.append(joints, 1.0))
        assert np.linalg.norm(there.position - position) < 1e-3
        w, x, y, z = quaternion
        same = max(abs(there.quaternion @ quaternion), abs(there.quaternion @ np.array([-z, y, -x, w])))
        assert same > np.cos(np.radians(0.5) / 2)  # half a turn about its own axis is the same gripper
    assert solved.position_m.max() < 1e-3
    assert solved.clearance_m.min() > 0


def test_only_the_arm_and_the_table_are_left_of_the_scene(linkage):
    assert linkage.joints == ARM.spec.joints[:-1]
    assert linkage.model.nq == 9  # the arm and its two fingers: no cube, no drawer
    assert linkage.model.geom("table").id >= 0


def test_what_is_out_of_reach_is_told(linkage):
    far = solve(linkage, replace(PATH, position=PATH.position + np.array([0.6, 0, 0])), arm_only(ARM.spec))
    assert np.median(far.position_m) > 0.1
    assert np.isfinite(far.joints).all()
    below = solve(linkage, replace(PATH, position=PATH.position - np.array([0, 0, 0.1])), arm_only(ARM.spec))
    assert below.position_m.max() > 0.04  # the fingers do not follow through the table
    assert below.clearance_m.min() > 0.002


def test_setpoints_keep_the_limits_and_wait_for_the_gripper(solved):
    made = paced(PATH, solved, ARM.spec, rate_hz=100.0)
    limits, step = arm_only(ARM.spec), 0.01
    speed = np.diff(made.joints[:, :7], axis=0) / step
    assert (np.abs(speed) <= np.array(limits.velocity)).all()
    assert (np.abs(np.diff(speed, axis=0) / step) <= 1.05 * np.array(limits.acceleration)).all()
    assert (np.diff(made.source_s) >= 0).all()
    grip = made.joints[:, 7]
    assert set(np.unique(grip)) == {0.0, 1.0}
    for change in np.flatnonzero(np.diff(grip)):
        near = made.joints[change + 1 : change + 40, :7]  # the gripper's time
        assert np.ptp(near, axis=0).max() < 1e-6
    np.testing.assert_allclose(made.joints[0, :7], solved.joints[0], atol=1e-6)
    np.testing.assert_allclose(made.joints[-1, :7], solved.joints[-1], atol=1e-6)


def test_a_slow_arm_takes_longer_on_the_same_line(solved):
    limits = ARM.spec.limits
    slow = replace(ARM.spec, limits=replace(limits, velocity=tuple(0.1 * v for v in limits.velocity)))
    usual, slowed = (paced(PATH, solved, spec, rate_hz=50.0) for spec in (ARM.spec, slow))
    assert slowed.slowed > 1.5 * usual.slowed
    for joints in usual.joints[::20, :7]:
        assert np.abs(slowed.joints[:, :7] - joints).max(1).min() < 0.02


def test_a_jump_has_no_pace():
    rows, limits = np.zeros((4, 1)), arm_only(ARM.spec)
    limits = replace(limits, **{name: values[:1] for name, values in vars(limits).items()})
    np.testing.assert_allclose(stretched(rows, np.arange(4.0), limits, 0.8), np.arange(4.0))
    rows[2:] = 3.0
    assert stretched(rows, 0.01 * np.arange(4.0), limits, 0.8)[2] > 3.0 / limits.velocity[0]


def test_a_path_with_a_gap_is_not_for_an_arm(solved):
    position = PATH.position.copy()
    position[30:50] = np.nan
    with pytest.raises(UnderstudyError, match="unknown in 20 frames"):
        paced(replace(PATH, position=position), solved, ARM.spec, rate_hz=50.0)


@pytest.mark.parametrize("name", ["ur", "franka", "xarm", "piper"])
def test_a_makers_table_of_lengths_becomes_a_model(name):
    arm = make_arm(name, **({} if name == "piper" else {"host": "127.0.0.1"}))
    linkage = linkage_of(arm)
    data, random = mujoco.MjData(linkage.model), np.random.default_rng(0)
    for _ in range(5):
        joints = random.uniform(-1, 1, len(linkage.joints))
        data.qpos[linkage.places] = joints
        mujoco.mj_kinematics(linkage.model, data)
        wanted = arm.kinematics.forward(joints)
        np.testing.assert_allclose(data.site(TOOL).xpos, wanted.position, atol=1e-6)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, data.site(TOOL).xmat)
        assert abs(quaternion @ wanted.quaternion) > 1 - 1e-9


def so_spec():
    joints = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
    limits = Limits((-2.0,) * 6, (2.0,) * 6, *((1.0,) * 6,) * 4)
    return ArmSpec("so101", joints, limits, 50.0, joints, gripper=Gripper(5, open=1.0, closed=0.0))


def test_an_arm_of_which_only_the_motors_are_known_needs_a_file(tmp_path):
    arm = SimpleNamespace(spec=so_spec(), kinematics=None)
    with pytest.raises(UnderstudyError, match="give its MJCF or URDF with --model"):
        linkage_of(arm)
    file = tmp_path / "arm.xml"
    links = "".join(
        f'<body pos="0 0 0.1"><joint name="{name}" axis="0 1 0" range="-2 2"/><geom size="0.01"/>'
        for name in arm.spec.joints[:5]
    )
    depth = "</body>" * 5
    file.write_text(
        f'<mujoco><compiler angle="radian"/><worldbody>{links}<site name="tip"/>{depth}</worldbody></mujoco>'
    )
    assert linkage_of(arm, model=file, tool="tip").joints == arm.spec.joints[:5]
    with pytest.raises(UnderstudyError, match="neither a site nor a body 'hand'"):
        of_file(file, arm.spec.joints[:5], "hand")
    with pytest.raises(UnderstudyError, match="has no joint elbow"):
        of_file(file, ["elbow"], "tip")
    file.write_text("<mujoco")
    with pytest.raises(UnderstudyError, match="does not read"):
        of_file(file, arm.spec.joints[:5], "tip")


def test_a_gripper_on_the_flange_is_where_it_is_mounted():
    bare, mounted = linkage_of(ARM), linkage_of(ARM, beyond_m=0.1, turned_deg=90)
    poses = []
    for linkage in (bare, mounted):
        data = mujoco.MjData(linkage.model)
        data.qpos[linkage.places] = linkage.home
        mujoco.mj_kinematics(linkage.model, data)
        site = data.site(linkage.tool)
        poses.append((site.xpos.copy(), site.xmat.reshape(3, 3).copy()))
    (place, turn), (there, turned) = poses
    np.testing.assert_allclose(there, place + 0.1 * turn[:, 2], atol=1e-9)
    np.testing.assert_allclose(turned[:, 0], turn[:, 1], atol=1e-9)
    np.testing.assert_allclose(turned[:, 2], turn[:, 2], atol=1e-9)
