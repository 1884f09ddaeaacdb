"""What a dataset of another maker says about itself, put into our terms."""

from collections.abc import Mapping
from typing import Any

from vla.data.lerobot_format import ACTION, IMAGES, STATE, DatasetSpec
from vla.errors import UnderstudyError
from vla.types import ActionKind, ActionSpec, CameraSpec

POSE_WORDS = ({"x", "y", "z"}, {"ee_x", "ee_y", "ee_z"}, {"pos_x", "pos_y", "pos_z"})
DELTA_WORDS = ({"dx", "dy", "dz"}, {"delta_x", "delta_y", "delta_z"})
SMALLEST_RANGE = 1e-3


def guess_spec(info: Mapping[str, Any], stats: Mapping[str, Any], *, source: str) -> tuple[DatasetSpec, dict[str, str]]:
    """A `DatasetSpec` from LeRobot's info.json and stats.json, and camera name → feature key.

    The action's kind is read from its names (joints, unless they are called x, y, z or dx, dy, dz), its bounds are the
    smallest and largest values seen; which entry is the gripper, and which way it opens, nobody can know from there.
    """
    features = info["features"]
    if ACTION not in features:
        raise UnderstudyError(f"{source} has no feature {ACTION!r}; it has {', '.join(sorted(features))}")
    keys = camera_keys(features)
    names = names_of(features[ACTION], "action")
    cameras = tuple(CameraSpec(name, *image_size(features[key])) for name, key in keys.items())
    low, high = bounds(stats.get(ACTION), len(names))
    spec = DatasetSpec(
        fps=float(info["fps"]),
        cameras=cameras,
        proprio_names=names_of(features[STATE], "state") if STATE in features else (),
        action=ActionSpec(kind=guess_kind(names), names=names, low=low, high=high),
        embodiment=info.get("robot_type") or "unknown",
        fingerprint=f"lerobot:{source}",
        storage="video" if any(features[key]["dtype"] == "video" for key in keys.values()) else "image",
    )
    return spec, keys


def camera_keys(features: Mapping[str, Any]) -> dict[str, str]:
    """Camera name → feature key, for every colour camera."""
    keys = [
        key
        for key, feature in features.items()
        if feature["dtype"] in ("image", "video") and not _is_depth(feature) and image_size(feature) != (0, 0)
    ]
    return {key.removeprefix(IMAGES).removeprefix("observation."): key for key in keys}


def image_size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a feature, whichever way round its shape is written; (0, 0) unless it has 3 channels."""
    shape = tuple(feature["shape"])
    if len(shape) == 3 and shape[2] == 3:
        return shape[0], shape[1]
    if len(shape) == 3 and shape[0] == 3:
        return shape[1], shape[2]
    return 0, 0


def _is_depth(feature: Mapping[str, Any]) -> bool:
    info = feature.get("info") or feature.get("video_info") or {}
    return bool(info.get("video.is_depth_map") or info.get("is_depth_map"))


def names_of(feature: Mapping[str, Any], prefix: str) -> tuple[str, ...]:
    """One name per entry; LeRobot's ``names`` may be a list, nested lists, a dict of lists, or nothing."""
    names = feature.get("names")
    size = feature["shape"][0]
    while isinstance(names, Mapping):
        names = next(iter(names.values()), None)
    while isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
        names = names[0]
    if not isinstance(names, list) or len(names) != size:
        return tuple(f"{prefix}_{number}" for number in range(size))
    return tuple(str(name) for name in names)


def guess_kind(names: tuple[str, ...]) -> ActionKind:
    """``joint_position`` unless the names spell an end-effector."""
    words = {name.lower().removesuffix(".pos") for name in names}
    if any(delta <= words for delta in DELTA_WORDS):
        return "ee_delta"
    return "ee_pose" if any(pose <= words for pose in POSE_WORDS) else "joint_position"


def bounds(stats: Mapping[str, Any] | None, size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Low and high per entry from the values seen, a little apart where an entry never moved; ±1e6 when unknown."""
    if not stats or len(stats.get("min", ())) != size or len(stats.get("max", ())) != size:
        return (-1e6,) * size, (1e6,) * size
    low = tuple(float(value) for value in stats["min"])
    high = tuple(float(value) for value in stats["max"])
    return low, tuple(
        hi if hi - lo >= SMALLEST_RANGE else lo + SMALLEST_RANGE for lo, hi in zip(low, high, strict=True)
    )
