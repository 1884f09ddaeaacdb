"""Files of other trackers: Aria's glasses, HaMeR and WiLoR, joints of MANO."""

import csv
import pickle

import numpy as np
import pytest
from retarget_made_hands import camera_at, picking, seen_by

from robot_bridge.arms.arm import make_arm
from robot_bridge.retarget.cameras import Camera
from robot_bridge.retarget.hands import HandTrack
from robot_bridge.retarget.landmarks import MANO_FINGERS, read_landmarks
from robot_bridge.retarget.lifting import given, stereo
from robot_bridge.retarget.linkage import linkage_of
from robot_bridge.retarget.retarget import retarget
from robot_bridge.retarget.track import main
from vla.errors import UnderstudyError

STAMPS, POINTS, PINCH, _ = picking()
CAMERA = camera_at((1.3, 0.2, 0.6))
IN_CAMERA = POINTS @ CAMERA.camera_from_base[:3, :3].T + CAMERA.camera_from_base[:3, 3]
ARIA = [4, 8, 12, 16, 20, 0, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19]
"""Which of our keypoints Aria's first twenty are; the last is the middle of the palm."""


def write_table(file, rows):
    with file.open("w", newline="") as sink:
        table = csv.DictWriter(sink, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return file


def aria(file, points, *, side="right", lost=()):
    other = "left" if side == "right" else "right"
    rows = []
    for number, (at, hand) in enumerate(zip(STAMPS, points)):
        row = {"tracking_timestamp_us": round(1e6 * (100 + at)), f"{other}_tracking_confidence": -1}
        row[f"{side}_tracking_confidence"] = -1 if number in lost else 0.9
        hand = np.concatenate([hand[ARIA], hand.mean(0, keepdims=True)])
        for index, point in enumerate(hand):
            for axis, value in zip("xyz", point):
                row[f"t{axis}_{side}_landmark_{index}_device"] = value
                row[f"t{axis}_{other}_landmark_{index}_device"] = 0
        rows.append(row)
    return write_table(file, rows)


def hamer(file, points, *, right=True, **changes):
    middle = points.mean(1)
    shape = points - middle[:, None]
    if not right:
        shape[:, :, 0] *= -1
    told = {
        "pred_keypoints_3d": shape,
        "pred_cam_t_full": middle,
        "right": np.full(len(points), right),
        "frame": np.arange(len(points)),
        "scaled_focal_length": 600.0,
        "img_size": [640, 480],
        "fps": 15.0,
    }
    np.savez(file, **{name: value for name, value in (told | changes).items() if value is not None})
    return file


def test_arias_keypoints_are_ours_and_a_hand_it_lost_is_a_gap(tmp_path):
    track = read_landmarks(aria(tmp_path / "hands.csv", POINTS, lost=(7, 8)))
    kept = [number for number in range(21) if number != 1]
    np.testing.assert_allclose(np.delete(track.points[:, 1], [7, 8], 0)[:, kept], np.delete(POINTS, [7, 8], 0)[:, kept])
    assert np.isnan(track.points[[7, 8], 1]).all()
    assert np.isnan(track.points[:, 0]).all()
    np.testing.assert_allclose(track.points[0, 1, 1], (POINTS[0, 0] + POINTS[0, 2]) / 2)
    np.testing.assert_allclose(track.stamps, STAMPS, atol=1e-6)
    path = given(track)
    assert (path.side, path.method) == ("right", "given")
    left = given(read_landmarks(aria(tmp_path / "left.csv", POINTS, side="left")))
    assert left.side == "left"


def test_the_glasses_trajectory_brings_hands_into_its_world(tmp_path):
    """Glasses that turn by a right angle about z and walk along x: the hands do not."""
    angle = np.interp(STAMPS, [0, 6], [0, np.pi / 2])
    place = np.stack([STAMPS, 0 * STAMPS, 0 * STAMPS], axis=1)
    turn = np.array([[[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]] for a in angle])
    seen = np.einsum("tji,tkj->tki", turn, POINTS - place[:, None])
    rows = [
        {"tracking_timestamp_us": round(1e6 * (100 + at)), "qx_world_device": 0, "qy_world_device": 0}
        | {"qz_world_device": np.sin(a / 2), "qw_world_device": np.cos(a / 2)}
        | {f"t{axis}_world_device": value for axis, value in zip("xyz", where)}
        for at, a, where in zip(STAMPS, angle, place)
    ]
    way, hands = write_table(tmp_path / "way.csv", rows), aria(tmp_path / "hands.csv", seen)
    track = read_landmarks(hands, way)
    np.testing.assert_allclose(track.points[:, 1, 8], POINTS[:, 8], atol=1e-6)
    early = write_table(tmp_path / "early.csv", [row | {"tracking_timestamp_us": n} for n, row in enumerate(rows)])
    with pytest.raises(UnderstudyError, match="one recording"):
        read_landmarks(hands, early)


def test_an_arm_may_follow_aria_and_not_a_single_camera_s_guess(tmp_path):
    arm = make_arm("sim")
    track = read_landmarks(aria(tmp_path / "hands.csv", POINTS))
    with pytest.raises(UnderstudyError, match="where it stands in the arm's base"):
        retarget({"aria": track}, {}, linkage_of(arm), arm.spec)
    world = Camera((640, 480), np.eye(3), base_from_camera=np.eye(4))
    made = retarget({"aria": track}, {"aria": world}, linkage_of(arm), arm.spec)
    assert made.quality.verdict == "execute"
    assert np.median(np.linalg.norm(made.path.position - PINCH, axis=1)) < 3e-3
    guess = read_landmarks(hamer(tmp_path / "hamer.npz", IN_CAMERA))
    assert given(guess, CAMERA).method == "mono"


@pytest.mark.parametrize("right", [True, False])
def test_hamers_hands_are_where_it_has_them_left_ones_turned_back(tmp_path, right):
    track = read_landmarks(hamer(tmp_path / "hamer.npz", IN_CAMERA, right=right))
    slot = int(right)
    np.testing.assert_allclose(track.points[:, slot], IN_CAMERA, atol=1e-9)
    np.testing.assert_allclose(track.pixels[:, slot], CAMERA.project(POINTS) + 0.5, atol=1e-6)
    path = given(track, CAMERA)
    np.testing.assert_allclose(path.points, POINTS, atol=1e-9)


def test_pixels_of_two_such_trackers_make_stereo(tmp_path):
    other = camera_at((0.6, -0.9, 0.5))
    there = POINTS @ other.camera_from_base[:3, :3].T + other.camera_from_base[:3, 3]
    wrong = there * np.array([1.0, 1.0, 1.0]) * 1.3  # it takes the hand to be larger: the same pixels
    tracks = {
        "front": read_landmarks(hamer(tmp_path / "a.npz", IN_CAMERA)),
        "side": read_landmarks(hamer(tmp_path / "b.npz", wrong)),
    }
    path = stereo(tracks, {"front": CAMERA, "side": other}, "right")
    assert np.nanmedian(np.linalg.norm(path.points - POINTS, axis=2)) < 2e-3


def test_manos_joints_in_its_own_order_and_in_the_usual_one(tmp_path):
    order = [0, *(n for finger in MANO_FINGERS for n in finger)]
    own = np.empty_like(IN_CAMERA)
    own[:, order] = IN_CAMERA
    told = {"side": "right", "fps": 15.0, "matrix": CAMERA.matrix, "img_size": [640, 480]}
    np.savez(tmp_path / "mano.npz", joints=own, order="mano", **told)
    np.savez(tmp_path / "usual.npz", joints=IN_CAMERA, order="openpose", **told)
    for name in ("mano", "usual"):
        track = read_landmarks(tmp_path / f"{name}.npz")
        np.testing.assert_allclose(track.points[:, 1], IN_CAMERA)
        np.testing.assert_allclose(track.pixels[:, 1], seen_by(CAMERA, STAMPS, POINTS).pixels[:, 1], atol=1e-6)
    np.savez(tmp_path / "odd.npz", joints=own, order="coco", **told)
    with pytest.raises(UnderstudyError, match="coco"):
        read_landmarks(tmp_path / "odd.npz")


def test_what_is_no_file_of_theirs_is_refused_with_what_it_lacks(tmp_path):
    (tmp_path / "hands.pkl").write_bytes(pickle.dumps({"joints": 1}))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "objects.npz", joints=np.array([{}], object))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "half.csv").write_text("tracking_timestamp_us,left_tracking_confidence\n1,0.5\n")
    for name, why in {
        "hands.pkl": "runs code",
        "other.npz": "neither pred_keypoints_3d",
        "objects.npz": "no arrays of numbers",
        "other.csv": "tracking_timestamp_us",
        "half.csv": "no hand_tracking_results.csv",
        "missing.npz": "there is no file",
    }.items():
        with pytest.raises(UnderstudyError, match=why):
            read_landmarks(tmp_path / name)
    with pytest.raises(UnderstudyError, match="lacks fps"):
        read_landmarks(hamer(tmp_path / "hamer.npz", IN_CAMERA, fps=None))
    with pytest.raises(UnderstudyError, match="a trajectory is Aria's"):
        read_landmarks(hamer(tmp_path / "hamer.npz", IN_CAMERA), tmp_path / "other.csv")


def test_the_command_makes_a_track_of_it(tmp_path, capsys):
    main([str(aria(tmp_path / "hands.csv", POINTS)), "--out", str(tmp_path / "track")])
    assert "right hand in 90 of 90 frames" in capsys.readouterr().out
    assert np.isfinite(HandTrack.load(tmp_path / "track/track.npz").points[:, 1]).all()
