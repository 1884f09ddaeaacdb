"""Joints of a hand with fingers: a made one of two, whose tips are to go where thumb and index finger go."""

import os

import numpy as np
import pytest
from retarget_made_hands import camera_at, hand_points, picking, seen_by

from robot_bridge.retarget.cameras import save_cameras
from robot_bridge.retarget.command import main
from robot_bridge.retarget.dexterous import fingers, hand_frames, in_hand
from robot_bridge.retarget.lifting import HandPath
from vla.errors import UnderstudyError

STAMPS = np.arange(0, 3, 1 / 15)
OPENING = 0.06 + 0.03 * np.cos(2 * STAMPS)
POINTS = np.stack([hand_points(np.array([0.5, 0.1, 0.2]), opening, 0.3) for opening in OPENING])
HAND = HandPath(STAMPS, POINTS, np.zeros(len(STAMPS)), "right", "stereo")
SETTINGS = """\
retargeting:
  type: {kind}
  urdf_path: two.urdf
  target_joint_names: [thumb_x, thumb_y, thumb_z, index_x, index_y, index_z]
  scaling_factor: 1.0
  low_pass_alpha: 0.1
  {targets}
"""
VECTORS = "target_origin_link_names: [palm, palm]\n  target_task_link_names: [thumb, index]\n"
VECTORS += "  target_link_human_indices: [[0, 0], [4, 8]]"
PLACES = "target_link_names: [thumb, index]\n  target_link_human_indices: [4, 8]"


@pytest.fixture(autouse=True)
def package():
    """In CI it must be there."""
    try:
        import dex_retargeting  # noqa: F401
    except ImportError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run dex-retargeting: {error}")
        pytest.skip("dex-retargeting is not installed: the extra dexterous")


@pytest.fixture
def settings(tmp_path):
    """Of a palm with two tips that slide along three axes each, so that they can be anywhere."""
    parts = ['<link name="palm"/>']
    for finger in ("thumb", "index"):
        parent = "palm"
        for axis, along in zip("xyz", ("1 0 0", "0 1 0", "0 0 1")):
            child = finger if axis == "z" else f"{finger}_{axis}_link"
            mass = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
            parts.append(f'<link name="{child}">{mass}</link>')
            parts.append(
                f'<joint name="{finger}_{axis}" type="prismatic"><parent link="{parent}"/><child link="{child}"/>'
                f'<axis xyz="{along}"/><limit lower="-0.3" upper="0.3" effort="1" velocity="1"/></joint>'
            )
            parent = child
    (tmp_path / "two.urdf").write_text(f'<robot name="two">{"".join(parts)}</robot>')

    def made(kind, targets):
        (tmp_path / "two.yml").write_text(SETTINGS.format(kind=kind, targets=targets))
        return tmp_path / "two.yml"

    return made


@pytest.mark.parametrize(("kind", "targets"), [("vector", VECTORS), ("position", PLACES)])
def test_the_tips_go_where_the_fingers_go(settings, tmp_path, kind, targets):
    found = fingers(HAND, settings(kind, targets), tmp_path)
    wanted = in_hand(POINTS, "right")
    for finger, keypoint in (("thumb", 4), ("index", 8)):
        columns = [found.names.index(f"{finger}_{axis}") for axis in "xyz"]
        assert np.abs(found.joints[:, columns] - wanted[:, keypoint]).max() < 5e-3
    found.save(tmp_path / "fingers.npz")
    with np.load(tmp_path / "fingers.npz", allow_pickle=False) as held:
        assert held["names"].tolist() == list(found.names)


def test_where_a_hand_is_and_how_it_is_turned_does_not_matter():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    np.testing.assert_allclose(in_hand(POINTS @ turn.T + 0.3, "right"), in_hand(POINTS, "right"), atol=1e-12)
    frames = hand_frames(POINTS)
    np.testing.assert_allclose(np.linalg.det(frames), 1.0)
    mirrored = POINTS * np.array([1.0, -1.0, 1.0])
    same = in_hand(mirrored, "left") * np.array([1.0, -1.0, 1.0])
    np.testing.assert_allclose(np.abs(same), np.abs(in_hand(POINTS, "right")), atol=1e-12)


def test_gaps_stay_gaps_and_what_is_wrong_is_said(settings, tmp_path):
    lost = POINTS.copy()
    lost[20:35] = np.nan
    good = settings("vector", VECTORS)
    found = fingers(HandPath(STAMPS, lost, np.zeros(len(STAMPS)), "right", "stereo"), good, tmp_path)
    assert np.isnan(found.joints[20:35]).all()
    assert np.isfinite(found.joints[:20]).all()
    lost[2:] = np.nan
    with pytest.raises(UnderstudyError, match="known in 2 frames"):
        fingers(HandPath(STAMPS, lost, np.zeros(len(STAMPS)), "right", "stereo"), good, tmp_path)
    with pytest.raises(UnderstudyError, match="there is no file"):
        fingers(HAND, tmp_path / "none.yml", tmp_path)
    with pytest.raises(UnderstudyError, match="no settings of dex-retargeting"):
        fingers(HAND, settings("vector", "other: 1"), tmp_path)


def test_the_command_leaves_them_beside_the_arm_s(settings, tmp_path):
    cameras = {"front": camera_at((1.3, 0.2, 0.6)), "side": camera_at((0.6, -0.9, 0.5))}
    save_cameras(tmp_path / "cameras.json", cameras)
    stamps, points, _, _ = picking()
    for name, camera in cameras.items():
        seen_by(camera, stamps, points).save(tmp_path / f"{name}.npz")
    videos = [str(tmp_path / f"{name}.npz") for name in cameras]
    given = ["--cameras", str(tmp_path / "cameras.json"), "--fingers", str(settings("vector", VECTORS))]
    main([*videos, *given, "--urdfs", str(tmp_path), "--out", str(tmp_path / "out")])
    with np.load(tmp_path / "out/fingers.npz", allow_pickle=False) as held:
        assert held["joints"].shape == (len(stamps), 6)
        assert np.isfinite(held["joints"]).all()
    with pytest.raises(UnderstudyError, match="knows places and no fingers"):
        main([videos[0], *given, "--urdfs", str(tmp_path), "--lift", "plane", "--out", str(tmp_path / "plane")])
