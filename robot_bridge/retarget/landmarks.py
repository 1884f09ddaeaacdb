"""Hands that other trackers found, read from their files: Aria's glasses, HaMeR, WiLoR, and joints of MANO.

    hand_tracking_results.csv   Aria MPS: metres in the glasses' frame; with closed_loop_trajectory.csv in its world's
    hamer.npz                   predictions of HaMeR or WiLoR, saved with ``np.savez``, a row for each hand:
                                pred_keypoints_3d [N, 21, 3], pred_cam_t_full [N, 3], right [N], frame [N],
                                scaled_focal_length (or focal_length), img_size [2] (width, height), fps;
                                mirrored: whether left hands are as the network has them (they are, unless it is 0)
    mano.npz                    joints [T, 21, 3] m in the camera's frame, side, stamps [T] s or fps, matrix [3, 3],
                                img_size [2], and their order: ``mano`` (smplx: wrist, index, middle, little, ring,
                                thumb, then the tips) or ``openpose``

Pickles are not read: they run code. HaMeR's and WiLoR's depth is guessed from the hand's size, so that it is looked at
and no more; their pixels are as good as any tracker's for the other lifts.
"""

import csv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from robot_bridge.retarget.hands import KEYPOINTS, SIDES, Floats, HandTrack, side_of
from vla.errors import UnderstudyError, unknown

ARIA_WRIST = 5
ARIA_FINGERS = ((6, 7, 0), (8, 9, 10, 1), (11, 12, 13, 2), (14, 15, 16, 3), (17, 18, 19, 4))
"""Each finger from its root to its tip in Aria's numbers; of the thumb it has no root."""
MANO_FINGERS = ((13, 14, 15, 16), (1, 2, 3, 17), (4, 5, 6, 18), (10, 11, 12, 19), (7, 8, 9, 20))
"""Each finger in smplx's numbers: thumb, index, middle, ring, little; its five tips come last."""
MICROSECOND = 1e-6


def read_landmarks(file: Path, trajectory: Path | None = None) -> HandTrack:
    """The track in a file of another tracker; ``trajectory``: of Aria's glasses, to have hands in its world's frame.

    Raises `UnderstudyError` for files that are none of these, saying what they lack.
    """
    if not file.is_file():
        raise UnderstudyError(f"there is no file {file}")
    if file.suffix == ".csv":
        return _aria(file, trajectory)
    if trajectory is not None:
        raise UnderstudyError(f"a trajectory is Aria's, and {file} is not: leave it out")
    if file.suffix in (".pkl", ".pickle", ".pt", ".pth"):
        raise UnderstudyError(f"{file} is a pickle, which runs code when it is read: save its arrays with numpy.savez")
    try:
        with np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UnderstudyError(f"{file} holds no arrays of numbers: {error}") from error
    if "pred_keypoints_3d" in arrays:
        return _hamer(file, arrays)
    if "joints" in arrays:
        return _mano(file, arrays)
    raise UnderstudyError(f"{file} has neither pred_keypoints_3d (HaMeR, WiLoR) nor joints (MANO): {sorted(arrays)}")


def _aria(file: Path, trajectory: Path | None) -> HandTrack:
    rows = _rows(file, "tracking_timestamp_us")
    stamps = MICROSECOND * np.array([float(row["tracking_timestamp_us"]) for row in rows])
    points = np.full((len(rows), 2, KEYPOINTS, 3), np.nan)
    score = np.zeros((len(rows), 2))
    try:
        for frame, row in enumerate(rows):
            for slot, side in enumerate(SIDES):
                sure = float(row[f"{side}_tracking_confidence"] or -1)
                if sure < 0:  # -1: no such hand, and the numbers beside it say nothing
                    continue
                score[frame, slot] = sure
                own = [[float(row[f"t{axis}_{side}_landmark_{n}_device"]) for axis in "xyz"] for n in range(20)]
                points[frame, slot] = _of_aria(np.array(own))
    except (KeyError, ValueError) as error:
        raise UnderstudyError(f"{file} is no hand_tracking_results.csv of Aria MPS: {error}") from error
    if trajectory is not None:
        turns, places = _poses(trajectory, stamps)
        points = np.einsum("tij,thkj->thki", turns, points) + places[:, None, None]
    empty = HandTrack.empty(str(file), (0, 0), stamps - stamps[0])
    return HandTrack(**{**vars(empty), "points": points, "score": score})


def _of_aria(own: Floats) -> Floats:
    """The 21 keypoints of Aria's [20, 3]; the thumb's root is put half way from the wrist to its next joint."""
    thumb, *fingers = ([own[number] for number in finger] for finger in ARIA_FINGERS)
    root = (own[ARIA_WRIST] + thumb[0]) / 2
    return np.array([own[ARIA_WRIST], root, *thumb, *(joint for finger in fingers for joint in finger)])


def _poses(file: Path, stamps: Floats) -> tuple[Floats, Floats]:
    """Turning [T, 3, 3] and place [T, 3] of the glasses in the world at ``stamps`` [T] s of the glasses' clock."""
    rows = _rows(file, "tracking_timestamp_us")
    try:
        at = MICROSECOND * np.array([float(row["tracking_timestamp_us"]) for row in rows])
        place = np.array([[float(row[f"t{axis}_world_device"]) for axis in "xyz"] for row in rows])
        quaternion = np.array([[float(row[f"q{axis}_world_device"]) for axis in "xyzw"] for row in rows])
    except (KeyError, ValueError) as error:
        raise UnderstudyError(f"{file} is no closed_loop_trajectory.csv of Aria MPS: {error}") from error
    if len(at) < 2 or stamps[0] < at[0] - 0.1 or stamps[-1] > at[-1] + 0.1:
        raise UnderstudyError(f"{file} does not cover the time of the hands: are both of one recording?")
    within = np.clip(stamps, at[0], at[-1])
    turned = Slerp(at, Rotation.from_quat(quaternion))(within).as_matrix()
    return turned, np.stack([np.interp(within, at, column) for column in place.T], axis=1)


def _rows(file: Path, wanted: str) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as source:
            rows = list(csv.DictReader(source))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnderstudyError(f"{file} is no table: {error}") from error
    if not rows or wanted not in rows[0]:
        raise UnderstudyError(f"{file} has no rows with a column {wanted}: is it a file of Aria MPS?")
    return rows


def _hamer(file: Path, arrays: Mapping[str, Any]) -> HandTrack:
    wanted = ("pred_keypoints_3d", "pred_cam_t_full", "right", "frame", "img_size", "fps")
    focal = arrays.get("scaled_focal_length", arrays.get("focal_length"))
    missing = [name for name in wanted if name not in arrays] + ["scaled_focal_length"] * (focal is None)
    if missing:
        raise UnderstudyError(f"{file} lacks {', '.join(missing)}")
    frames, right = np.asarray(arrays["frame"], int), np.asarray(arrays["right"], bool)
    hands = np.array(arrays["pred_keypoints_3d"], np.float64)
    if hands.shape != (len(frames), KEYPOINTS, 3) or (frames < 0).any():
        raise UnderstudyError(f"{file}: {len(frames)} hands have keypoints [N, 21, 3], got {hands.shape}")
    if bool(arrays.get("mirrored", True)):
        hands[~right, :, 0] *= -1
    width, height = (int(side) for side in arrays["img_size"])
    shape = np.full((frames.max(initial=-1) + 1, 2, KEYPOINTS, 3), np.nan)
    points, score = shape.copy(), np.zeros(shape.shape[:2])
    slots = np.where(right, SIDES.index("right"), SIDES.index("left"))
    shape[frames, slots] = hands - hands.mean(1, keepdims=True)
    points[frames, slots] = hands + np.asarray(arrays["pred_cam_t_full"], np.float64)[:, None]
    score[frames, slots] = 1.0
    matrix = np.array([[float(focal), 0, width / 2], [0, float(focal), height / 2], [0, 0, 1]])
    return _track(file, np.arange(len(shape)) / float(arrays["fps"]), (width, height), points, matrix, shape, score)


def _mano(file: Path, arrays: Mapping[str, Any]) -> HandTrack:
    missing = [name for name in ("side", "matrix", "img_size", "order") if name not in arrays]
    if missing or not {"stamps", "fps"} & set(arrays):
        raise UnderstudyError(f"{file} lacks {', '.join([*missing, *(['stamps or fps'] if not missing else [])])}")
    joints, order = np.asarray(arrays["joints"], np.float64), str(arrays["order"])
    if joints.shape[1:] != (KEYPOINTS, 3):
        raise UnderstudyError(f"{file}: joints are [T, 21, 3], got {joints.shape}")
    orders = {"openpose": list(range(KEYPOINTS)), "mano": [0, *(n for finger in MANO_FINGERS for n in finger)]}
    if order not in orders:
        raise unknown("order", order, orders)
    stamps = arrays["stamps"] if "stamps" in arrays else np.arange(len(joints)) / float(arrays["fps"])
    slot = SIDES.index(side_of(str(arrays["side"])))
    points = np.full((len(joints), 2, KEYPOINTS, 3), np.nan)
    points[:, slot] = joints[:, orders[order]]
    shape = points - points.mean(2, keepdims=True)
    known = np.isfinite(points).all((2, 3)).astype(float)
    width, height = (int(side) for side in arrays["img_size"])
    matrix = np.asarray(arrays["matrix"], np.float64)
    return _track(file, np.asarray(stamps, np.float64), (width, height), points, matrix, shape, known)


def _track(
    file: Path, stamps: Floats, size: tuple[int, int], points: Floats, matrix: Floats, shape: Floats, score: Floats
) -> HandTrack:
    """With the pixels where ``points`` [T, 2, 21, 3] would be seen by a lens of ``matrix``."""
    seen = points @ matrix.T
    depth = seen[..., 2]
    relative = (depth - depth[..., :1]) / depth[..., :1] * matrix[0, 0]
    return HandTrack(str(file), size, stamps, seen[..., :2] / seen[..., 2:], relative, shape, points, score)
