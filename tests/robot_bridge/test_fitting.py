"""Every way in which a policy, a dataset and an arm can misunderstand each other, one at a time."""

from dataclasses import replace

import numpy as np
import pytest

from robot_bridge.arms.arm import ArmSpec, Limits
from robot_bridge.fitting import Side, alike, drives, gripper_seen, in_step, looks, misfits, normalised, of_policy
from vla.types import ActionSpec, CameraSpec, Gripper, PolicySpec

JOINTS = ("shoulder", "elbow", "wrist", "gripper")
LOW, HIGH = (-2.0, -2.0, -3.0, 0.0), (2.0, 2.0, 3.0, 1.0)
ARM = ArmSpec(
    embodiment="toy",
    joints=JOINTS,
    limits=Limits(LOW, HIGH, (2.0,) * 4, (10.0,) * 4, (100.0,) * 4, (0.3,) * 4),
    rate_hz=100.0,
    proprio_names=JOINTS,
    gripper=Gripper(3, open=1.0, closed=0.0),
    workspace=((0.1, -0.5, 0.0), (0.8, 0.5, 0.6)),
)
BY_JOINTS = ActionSpec("joint_position", JOINTS, (-1.5, -1.5, -2.5, 0.0), (1.5, 1.5, 2.5, 1.0), gripper=ARM.gripper)
BY_TOOL = ActionSpec(
    "ee_delta",
    ("delta_x", "delta_y", "delta_z", "gripper"),
    (-0.03, -0.03, -0.03, 0.0),
    (0.03, 0.03, 0.03, 1.0),
    gripper=Gripper(3, open=1.0, closed=0.0),
)
POSE = replace(BY_TOOL, kind="ee_pose", names=("x", "y", "z", "gripper"))
FRONT = CameraSpec("front", 64, 64)
SPEC = PolicySpec(
    cameras=(FRONT,),
    proprio_names=JOINTS,
    action=BY_JOINTS,
    accepts=("instruction",),
    obs_horizon=1,
    pred_horizon=16,
    exec_horizon=4,
    control_hz=20.0,
)
SIDE = of_policy(SPEC)


def with_action(spec, **changed):
    return replace(spec, action=replace(spec.action, **changed))


def only(rows, status):
    """The part of each row's name behind the pair, for those that are ``status``."""
    return [row.about.rpartition(": ")[2] for row in rows if row.status == status]


def test_what_fits_has_no_misfits_and_every_row_is_ok():
    assert misfits(SPEC, ARM, [FRONT], kinematics=False) == []
    rows = [*drives(SIDE, ARM, kinematics=False), *looks(SIDE, [FRONT]), *alike(SIDE, replace(SIDE, name="dataset"))]
    assert {row.status for row in rows} == {"ok"}
    assert not [row.advice for row in rows if row.advice]
    assert misfits(replace(SPEC, action=BY_TOOL), ARM, [FRONT], kinematics=True) == []


@pytest.mark.parametrize(
    ("policy", "about", "advice"),
    [
        (with_action(SPEC, names=("elbow", "shoulder", "wrist", "gripper")), "joints", "another order"),
        (with_action(SPEC, names=("a", "elbow", "wrist", "gripper")), "joints", "lacks a; has besides shoulder"),
        (replace(SPEC, action=BY_TOOL), "kind of action", "use joints"),
        (with_action(SPEC, low=(-90, -90, -140, 0), high=(90, 90, 140, 1)), "unit", "degrees"),
        (with_action(SPEC, low=(4.0, -1.5, -2.5, 0.0), high=(7.0, 1.5, 2.5, 1.0)), "bounds", "zero of the joints"),
        (with_action(SPEC, gripper=Gripper(2, 1.0, 0.0)), "gripper", "another joint"),
        (with_action(SPEC, gripper=Gripper(3, 100.0, 0.0)), "gripper", "do not let it open"),
        (with_action(SPEC, gripper=Gripper(3, 1.0, 1.0)), "gripper", "same value"),
        (replace(SPEC, control_hz=200.0), "rate", "slower than the policy"),
        (replace(SPEC, proprio_names=JOINTS[::-1]), "proprio", "another order"),
        (replace(SPEC, proprio_names=("x",)), "proprio", "lacks x"),
        (replace(SPEC, cameras=(CameraSpec("wrist", 64, 64),)), "camera wrist", "name that camera so"),
        (replace(SPEC, cameras=(CameraSpec("front", 224, 224),)), "camera front", "224 x 224"),
    ],
)
def test_what_would_move_the_arm_otherwise_fails(policy, about, advice):
    found = misfits(policy, ARM, [FRONT], kinematics=False)
    assert only(found, "fail") == [about]
    (row,) = (row for row in found if row.status == "fail")
    assert advice in row.advice
    assert row.given
    assert row.wanted
    assert row.advice in str(row)


@pytest.mark.parametrize(
    ("policy", "about"),
    [
        (with_action(SPEC, low=(-1.5, -2.2, -2.5, 0.0)), "bounds"),
        (with_action(SPEC, low=(-1e6,) * 4, high=(1e6,) * 4), "unit"),
        (with_action(SPEC, gripper=None), "gripper"),
        (replace(SPEC, control_hz=30.0), "rate"),
    ],
)
def test_what_may_be_meant_so_warns(policy, about):
    found = misfits(policy, ARM, [FRONT], kinematics=False)
    assert (only(found, "warn"), only(found, "fail")) == ([about], [])


@pytest.mark.parametrize(
    ("action", "status", "about"),
    [
        (replace(BY_TOOL, frame="tool"), "fail", "frame"),
        (replace(BY_TOOL, low=(-1.0,) * 3 + (0.0,), high=(1.0,) * 4), "fail", "bounds"),
        (replace(BY_TOOL, low=(-0.1,) * 3 + (0.0,), high=(0.1,) * 3 + (1.0,)), "warn", "bounds"),
        (replace(BY_TOOL, low=(-1e6,) * 4, high=(1e6,) * 4), "warn", "bounds"),
        (replace(BY_TOOL, gripper=None), "fail", "kind of action"),
        (replace(POSE, low=(2.0, -0.4, 0.1, 0.0), high=(3.0, 0.4, 0.5, 1.0)), "fail", "bounds"),
        (replace(POSE, low=(0.0, -0.4, 0.1, 0.0), high=(0.7, 0.4, 0.5, 1.0)), "warn", "bounds"),
    ],
)
def test_actions_of_the_tool_are_in_metres_and_in_the_bases_frame(action, status, about):
    assert about in only(misfits(replace(SPEC, action=action), ARM, [FRONT], kinematics=True), status)


def test_an_arm_without_a_gripper_cannot_grip():
    limits = Limits(*(values[:3] for values in vars(ARM.limits).values()))
    bare = replace(ARM, joints=JOINTS[:3], limits=limits, gripper=None)
    found = misfits(replace(SPEC, action=BY_TOOL), bare, [FRONT], kinematics=True)
    assert only(found, "fail") == ["gripper"]
    no_gripper = replace(BY_TOOL, names=BY_TOOL.names[:3], low=BY_TOOL.low[:3], high=BY_TOOL.high[:3], gripper=None)
    assert misfits(replace(SPEC, action=no_gripper), bare, [FRONT], kinematics=True) == []


def test_cameras_of_which_nothing_or_no_size_is_known_warn():
    (unknown,) = misfits(SPEC, ARM, None, kinematics=False)
    assert (unknown.status, unknown.wanted) == ("warn", "front")
    assert only(misfits(SPEC, ARM, [CameraSpec("front", 0, 0)], kinematics=False), "warn") == ["camera front"]
    assert misfits(SPEC, ARM, [FRONT, CameraSpec("more", 8, 8)], kinematics=False) == []


def dataset(**changed):
    action = {
        name: changed.pop(name) for name in ("kind", "names", "low", "high", "frame", "gripper") if name in changed
    }
    return replace(SIDE, name="dataset", action=replace(SIDE.action, **action), **changed)


@pytest.mark.parametrize(
    ("other", "status", "about"),
    [
        (dataset(names=("elbow", "shoulder", "wrist", "gripper")), "fail", "actions"),
        (dataset(kind="ee_pose"), "fail", "kind of action"),
        (dataset(gripper=Gripper(3, 0.0, 1.0)), "fail", "gripper"),
        (dataset(gripper=Gripper(3, 100.0, 0.0)), "fail", "gripper"),
        (dataset(gripper=None), "warn", "gripper"),
        (dataset(low=(-90,) * 4, high=(90,) * 4), "fail", "bounds"),
        (dataset(low=(-1.0,) * 4), "warn", "bounds"),
        (dataset(low=(-1e6,) * 4, high=(1e6,) * 4), "warn", "bounds"),
        (dataset(rate_hz=30.0), "fail", "rate"),
        (dataset(cameras=(CameraSpec("wrist", 64, 64),)), "fail", "camera front"),
        (dataset(cameras=(CameraSpec("front", 480, 640),)), "warn", "camera front"),
        (dataset(proprio_names=("x", "y")), "fail", "proprio"),
    ],
)
def test_two_that_mean_different_things_are_told_apart(other, status, about):
    assert only(alike(SIDE, other), status) == [about]


def test_a_server_of_another_checkpoint_answers_in_other_steps():
    assert in_step(SPEC, replace(SPEC, checkpoint="elsewhere")).status == "ok"
    for other in (replace(SPEC, exec_horizon=2), replace(SPEC, obs_horizon=2), replace(SPEC, accepts=("video",))):
        assert in_step(SPEC, other).status == "fail"


def test_the_frame_counts_for_the_tool_alone():
    tool = replace(SIDE, action=BY_TOOL)
    assert only(alike(tool, replace(tool, action=replace(BY_TOOL, frame="world"))), "fail") == ["frame"]
    assert only(alike(SIDE, dataset(frame="world")), "fail") == []


def test_an_exchanged_gripper_is_called_so():
    (row,) = (row for row in alike(SIDE, dataset(gripper=Gripper(3, 0.0, 1.0))) if row.status == "fail")
    assert row.advice == "open and closed are exchanged"


@pytest.mark.parametrize(
    ("low", "high", "begins", "status", "word"),
    [
        (0.0, 1.0, [1.0, 0.95, 0.0], "ok", ""),
        (0.0, 100.0, [], "fail", "another unit"),
        (-1.0, 1.0, [], "fail", "another unit"),
        (float("nan"), 1.0, [], "fail", "another unit"),
        (0.0, 0.01, [], "warn", "hardly moves"),
        (0.0, 1.0, [0.0, 0.1, 1.0], "warn", "exchanged"),
    ],
)
def test_what_was_recorded_tells_whether_the_gripper_is_plausible(low, high, begins, status, word):
    (row,) = gripper_seen(SIDE, low, high, begins)
    assert row.status == status
    assert word in row.advice


def test_a_gripper_with_one_value_fails_and_none_says_nothing():
    assert gripper_seen(dataset(gripper=Gripper(3, 1.0, 1.0)), 0.0, 1.0)[0].status == "fail"
    assert gripper_seen(dataset(gripper=None), 0.0, 1.0) == []


GOOD = {"center": [0.0] * 4, "scale": [1.0] * 4, "mask": [True] * 4}


@pytest.mark.parametrize(
    ("action", "status", "given"),
    [
        (GOOD, "ok", "4 numbers"),
        (None, "fail", "missing"),
        ({"center": [0.0] * 4}, "fail", "missing"),
        ({**GOOD, "scale": [1.0] * 3}, "fail", "4 and 3 numbers"),
        ({**GOOD, "center": [0.0, np.nan, 0.0, 0.0]}, "fail", "no numbers for elbow"),
        ({**GOOD, "scale": [1.0, 1.0, 1.0, np.inf]}, "fail", "no numbers for gripper"),
        ({**GOOD, "scale": [-1.0, 1.0, 1.0, 1.0]}, "fail", "no numbers for shoulder"),
        ({**GOOD, "scale": [1.0, 0.0, 1.0, 1.0]}, "warn", "elbow never moved"),
        ({**GOOD, "scale": [1.0, 1.0, 1.0, 0.0], "mask": [True, True, True, False]}, "ok", "4 numbers"),
    ],
)
def test_statistics_must_be_there_and_finite(action, status, given):
    numbers = {"proprio": GOOD} | ({} if action is None else {"action": action})
    first, second = normalised(SIDE, numbers, where="normalizer.json")
    assert (first.status, first.given) == (status, given)
    assert second.status == "ok"


def test_a_checkpoint_without_statistics_fails_in_all():
    assert [row.status for row in normalised(SIDE, None, where="normalizer.json")] == ["fail", "fail"]
    bare = Side("checkpoint", BY_JOINTS, (), (), 20.0)
    assert len(normalised(bare, None, where="normalizer.json")) == 1
