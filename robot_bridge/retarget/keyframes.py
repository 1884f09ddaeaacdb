"""One camera and a table of known height: a place is known where the hand touches something, and nowhere else.

At the instant of a grasp, and of letting go, both fingertips are as high above the table as the thing is held; there
the camera's rays tell their places to a centimetre, and with them how the gripper is turned, which points down. Between
these instants the tool is sent over the table at a height of its own: the hand's own way is not known.

    above ──► down, closes ──► up ──► over ──► down, opens ──► up
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robot_bridge.retarget.cameras import Camera
from robot_bridge.retarget.grasps import events, grasped
from robot_bridge.retarget.hands import (
    INDEX_ROOT,
    INDEX_TIP,
    LITTLE_ROOT,
    SIDES,
    THUMB_TIP,
    WRIST,
    Floats,
    HandTrack,
    Side,
)
from robot_bridge.retarget.lifting import mono
from robot_bridge.retarget.tool_path import ToolPath, ToolPathConfig, downward, smoothed
from vla.errors import UnderstudyError

PALM_M = 0.08
"""From the wrist to the knuckles of index and little finger."""


@dataclass(frozen=True)
class KeyframesConfig:
    """The table, and how it is crossed."""

    held_m: float = 0.025
    """height above the base's z = 0 at which things are held: half their height, on a table level with the base"""
    over_m: float = 0.12
    """how high things are lifted"""
    travel_s: float = 0.8
    """from above to the thing and up again; the rest of the time is the way over the table"""
    while_s: float = 0.2
    """the place of a touch is the middle of what was seen so long after the hand took, or before it let go"""
    least_fall: float = 0.15
    """sine of the least angle between ray and table: a flatter ray meets it too far from where it should"""
    path: ToolPathConfig = field(default_factory=ToolPathConfig)


def keyframes(
    track: HandTrack, camera: Camera, side: Side | None = None, config: KeyframesConfig | None = None
) -> ToolPath:
    """The tool's path by the touches alone; raises `UnderstudyError` for a clip without a grasp."""
    config, side = config or KeyframesConfig(), side or track.busier()
    camera, slot = camera.scaled(track.size), SIDES.index(side)
    known, stamps = track.seen(side), track.stamps
    if known.sum() < 5:
        raise UnderstudyError(f"the {side} hand is seen in {known.sum()} frames of {len(known)}: not enough")
    pixels = track.pixels[:, slot]
    # Seen by one camera, the depth of the hand is wrong by decimetres, but up and down it goes as the hand does.
    height = mono(track, camera, side).points[:, [THUMB_TIP, INDEX_TIP], 2].mean(1)
    known &= np.isfinite(height)
    tips = [pixels[:, THUMB_TIP], pixels[:, INDEX_TIP]]
    smooth = smoothed(np.column_stack([*tips, apart(pixels), height]), stamps, known, config.path)
    thumb, index, opening, height = smooth[:, :2], smooth[:, 2:4], smooth[:, 4], smooth[:, 5]
    closed = grasped(opening, (thumb + index) / 2, height, stamps, config.path.grasps)
    grips = np.concatenate([touchdown(camera, one, config) for one in (thumb, index)], axis=1)
    touches = _touches(grips, closed, stamps, config)
    if not touches:
        raise UnderstudyError(
            f"no grasp is seen in {track.source}: with one camera the table tells a place only where the hand takes or "
            "leaves something; film it with two cameras, or from where thumb and index finger are seen apart"
        )
    if not np.isfinite([touch.place for touch in touches]).all():
        raise UnderstudyError(f"{track.source}: the camera looks too flat over the table to tell where the hand is")
    path = _over_the_table(stamps, touches, config)
    unknown = np.full(len(stamps), np.nan)
    return ToolPath(stamps, path[:, :3], downward(path[:, 3]), opening, closed, known, unknown, "plane")


class _Touch(NamedTuple):
    """When, where [3] m, and the direction from thumb to finger over the table, as an angle from the base's x."""

    at: float
    place: Floats
    yaw: float


def _touches(grips: Floats, closed: NDArray[np.bool_], stamps: Floats, config: KeyframesConfig) -> list[_Touch]:
    """Of each grasp the begin and the end, by where both fingers [T, 6] are then."""
    touches: list[_Touch] = []
    for first, after in events(closed):
        last = after - 1
        for frame, near in (
            (first, (stamps >= stamps[first]) & (stamps <= stamps[first] + config.while_s)),
            (last, (stamps >= stamps[last] - config.while_s) & (stamps <= stamps[last])),
        ):
            seen = grips[near & np.isfinite(grips).all(1)]
            thumb, index = np.split(np.median(seen, axis=0) if len(seen) else np.full(6, np.nan), 2)
            yaw = np.arctan2(*(index - thumb)[1::-1])
            # A gripper turned by half a turn is the same gripper: as little turned from before as can be.
            yaw -= np.pi * np.round((yaw - (touches[-1].yaw if touches else np.pi / 2)) / np.pi)
            touches.append(_Touch(float(stamps[frame]), (thumb + index) / 2, float(yaw)))
    return touches


def apart(pixels: Floats) -> Floats:
    """How far the tips are apart in the picture [T] m, if the palm [T, 21, 2] is as large as palms are."""
    palm = np.linalg.norm(pixels[:, [INDEX_ROOT, LITTLE_ROOT]] - pixels[:, [WRIST]], axis=-1).mean(1)
    return PALM_M * np.linalg.norm(pixels[:, INDEX_TIP] - pixels[:, THUMB_TIP], axis=1) / np.nanmedian(palm)


def touchdown(camera: Camera, pixels: Floats, config: KeyframesConfig) -> Floats:
    """Where the rays of ``pixels`` [T, 2] come down to the height at which things are held [T, 3] m."""
    rays = camera.rays(pixels) @ camera.base_from_camera[:3, :3].T
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    above = camera.base_from_camera[:3, 3]
    with np.errstate(invalid="ignore", divide="ignore"):
        far = (config.held_m - above[2]) / rays[:, 2]
        good = (far > 0) & (np.abs(rays[:, 2]) > config.least_fall)
    return np.where(good[:, None], above + far[:, None] * rays, np.nan)


def _over_the_table(stamps: Floats, touches: list[_Touch], config: KeyframesConfig) -> Floats:
    """Places and yaws [T, 4]: down to each touch and up again, and over the table between them, from rest to rest."""
    up = np.array([0.0, 0.0, config.over_m, 0.0])
    times, via = [], []
    for number, (at, place, yaw) in enumerate(touches):
        before = at - touches[number - 1].at if number else np.inf
        after = touches[number + 1].at - at if number + 1 < len(touches) else np.inf
        times += [at - min(config.travel_s, before / 3), at, at + min(config.travel_s, after / 3)]
        there = np.append(place, yaw)
        via += [there + up, there, there + up]
    times_, via_ = np.array(times), np.array(via)
    index = np.clip(np.searchsorted(times_, stamps, side="right") - 1, 0, len(times_) - 2)
    share = np.clip((stamps - times_[index]) / np.maximum(times_[index + 1] - times_[index], 1e-6), 0.0, 1.0)
    eased = share**3 * (10 - 15 * share + 6 * share**2)
    return via_[index] + (via_[index + 1] - via_[index]) * eased[:, None]
