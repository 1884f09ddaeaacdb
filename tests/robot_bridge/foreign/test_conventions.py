"""Laws of the conversions, held to the harness' own functions where it has them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from vla_eval import rotation as theirs

from robot_bridge.foreign.conventions import ROTATIONS, Conversion, Layout, Pose, rebased
from vla.errors import UnderstudyError
from vla.types import ActionSpec, Gripper

FORMS = sorted(ROTATIONS)


def turns(count=50, seed=0):
    return Rotation.random(count, rng=np.random.default_rng(seed))


def written(form, rotations):
    return ROTATIONS[form].write(rotations).astype(np.float32)


def converted(rows, source, target):
    return Conversion(Layout.of(source), Layout.of(target), what="it")(np.asarray(rows, np.float32))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", FORMS)
def test_there_and_back_is_the_same_rotation(form, other):
    rows = written(form, turns())
    back = converted(converted(rows, form, other), other, form)
    angle = (ROTATIONS[form].read(back.astype(float)) * turns().inv()).magnitude()
    assert angle.max() < 1e-4


@pytest.mark.parametrize(
    ("form", "function"),
    [
        ("axis_angle", lambda q: theirs.matrix_to_quat(theirs.axisangle_to_matrix(q))),
        ("euler_xyz", lambda q: theirs.matrix_to_quat(theirs.euler_xyz_to_matrix(q))),
        ("quat_wxyz", theirs.quat_wxyz_to_xyzw),
        ("rot6d_interleaved", theirs.rot6d_interleaved_to_quat),
        ("rot6d_contiguous", lambda v: theirs.matrix_to_quat(theirs.rot6d_contiguous_to_matrix(v))),
    ],
)
def test_the_harness_means_the_same_by_the_same_name(form, function):
    rows = written(form, turns())
    ours = converted(rows, form, "quat_xyzw")
    expected = np.stack([function(row.astype(float)) for row in rows])
    np.testing.assert_allclose(ours, expected * np.where(expected[:, 3:] < 0, -1, 1), atol=1e-5)


def test_what_is_the_same_on_both_sides_is_not_touched():
    rows = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    np.testing.assert_array_equal(converted(rows, "xyz axis_angle gripper:1:0 1", "xyz axis_angle gripper:1:0 1"), rows)


@given(st.floats(0, 1), st.sampled_from([(1, 0), (0, 1), (-1, 1), (1, -1), (0.04, 0.0)]))
@settings(deadline=None, max_examples=50)
def test_a_gripper_opens_as_far_on_both_sides(opening, ends):
    text = f"gripper:{ends[0]}:{ends[1]}"
    there = converted([[opening]], "gripper:1:0", text)
    assert there[0, 0] == pytest.approx(ends[1] + opening * (ends[0] - ends[1]), abs=1e-6)
    assert converted(there, text, "gripper:1:0")[0, 0] == pytest.approx(opening, abs=1e-5)


@pytest.mark.parametrize("form", ["axis_angle", "euler_xyz", "quat_wxyz"])
def test_displacements_add_up_to_poses_and_poses_fall_apart_into_displacements(form):
    rng, layout = np.random.default_rng(1), Layout.of(f"xyz {form} gripper:1:0")
    rows = np.hstack([rng.normal(size=(6, 3)), written(form, turns(6, 3)), rng.random((6, 1))]).astype(np.float32)
    pose = Pose(np.array([0.3, 0.1, 0.2]), turns(1, 9)[0])
    poses = rebased(rows, layout, pose, to="ee_pose")
    np.testing.assert_allclose(poses[:, :3], pose.position + np.cumsum(rows[:, :3], axis=0), rtol=1e-5)
    last = ROTATIONS[form].read(poses[-1:, 3:-1].astype(float))[0]
    expected = pose.rotation
    for one in turns(6, 3):
        expected = one * expected
    assert (last * expected.inv()).magnitude() < 1e-4
    back = rebased(poses, layout, pose, to="ee_delta")
    np.testing.assert_allclose(back[:, :3], rows[:, :3], atol=1e-5)
    np.testing.assert_array_equal(back[:, -1], rows[:, -1])
    angle = (ROTATIONS[form].read(back[:, 3:-1].astype(float)) * turns(6, 3).inv()).magnitude()
    assert angle.max() < 1e-4


def test_the_plainest_layout_of_an_action_knows_its_gripper():
    spec = ActionSpec("ee_delta", tuple("abcd"), (-1.0,) * 4, (1.0,) * 4, gripper=Gripper(1, -1.0, 1.0))
    assert Layout.of_action(spec).text == "1 gripper 2"
    plain = ActionSpec("ee_delta", tuple("ab"), (-1.0,) * 2, (1.0,) * 2)
    assert Layout.of_action(plain).text == "2"


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("quat_xyzw", "4", "must name the same things"),
        ("3", "xyz gripper:1:0", "same order"),
        ("gripper:1:0", "1", r"'gripper:1:0' \(1 entries\) cannot become '1'"),
        ("3", "4", "3 entries"),
        ("quat_xyz", "4", "did you mean 'quat_"),
        ("gripper", "1", "gripper:OPEN:CLOSED"),
        ("gripper:a:b", "1", "numbers"),
        ("0", "1", "unknown part"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(source, target, why):
    with pytest.raises(UnderstudyError, match=why):
        converted(np.zeros((1, 3)), source, target)


def test_a_rotation_that_is_none_is_refused():
    with pytest.raises(UnderstudyError, match="that is none"):
        converted(np.zeros((1, 4)), "quat_xyzw", "axis_angle")
    with pytest.raises(UnderstudyError, match="that is none"):
        converted(np.zeros((1, 6)), "rot6d_contiguous", "axis_angle")
    with pytest.raises(UnderstudyError, match="it has 5 entries, 4 are expected"):
        converted(np.zeros((1, 5)), "quat_xyzw", "axis_angle")
