"""One camera and a table of known height: a place is known where the hand touches something, and nowhere else.

At the instant of a grasp, and of letting go, the fingertips are as high above the table as the thing is held; there the
camera's ray tells the place to a centimetre. Between these instants the tool is sent over the table at a height of its
own: the hand's own way is not known.

    above ──► down, closes ──► up ──► over ──► down, opens ──► up
"""

from dataclasses import dataclass, field

import numpy as np

from robot_bridge.retarget.cameras import Camera
from robot_bridge.retarget.grasps import events, grasped
from robot_bridge.retarget.hands import INDEX_TIP, SIDES, THUMB_TIP, Floats, HandTrack, Side
from robot_bridge.retarget.tool_path import ToolPath, ToolPathConfig, smoothed, turned
from vla.errors import UnderstudyError


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
    tips = track.pixels[:, slot][:, [THUMB_TIP, INDEX_TIP]].mean(1)
    apart = np.linalg.norm(track.world[:, slot, INDEX_TIP] - track.world[:, slot, THUMB_TIP], axis=1, keepdims=True)
    smooth = smoothed(np.hstack([tips, apart]), stamps, known, config.path)
    closed = grasped(smooth[:, 2], stamps, config.path.grasps)
    places = touchdown(camera, smooth[:, :2], config)
    touches = []
    for first, after in events(closed):
        last = after - 1
        for frame, near in (
            (first, (stamps >= stamps[first]) & (stamps <= stamps[first] + config.while_s)),
            (last, (stamps >= stamps[last] - config.while_s) & (stamps <= stamps[last])),
        ):
            good = near & np.isfinite(places).all(1)
            place = np.median(places[good], axis=0) if good.any() else np.full(3, np.nan)
            touches.append((float(stamps[frame]), place))
    if not touches:
        raise UnderstudyError(
            f"no grasp is seen in {track.source}: with one camera the table tells a place only where the hand takes or "
            "leaves something; film it with two cameras, or from where thumb and index finger are seen apart"
        )
    if not np.isfinite([place for _, place in touches]).all():
        raise UnderstudyError(f"{track.source}: the camera looks too flat over the table to tell where the hand is")
    facing = track.world[:, slot] @ camera.base_from_camera[:3, :3].T
    return ToolPath(
        stamps,
        _over_the_table(stamps, touches, config),
        turned(facing, stamps, known, config.path),
        smooth[:, 2],
        closed,
        known,
        np.full(len(stamps), np.nan),
        "plane",
    )


def touchdown(camera: Camera, pixels: Floats, config: KeyframesConfig) -> Floats:
    """Where the rays of ``pixels`` [T, 2] come down to the height at which things are held [T, 3] m."""
    rays = camera.rays(pixels) @ camera.base_from_camera[:3, :3].T
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    above = camera.base_from_camera[:3, 3]
    with np.errstate(invalid="ignore", divide="ignore"):
        far = (config.held_m - above[2]) / rays[:, 2]
        good = (far > 0) & (np.abs(rays[:, 2]) > config.least_fall)
    return np.where(good[:, None], above + far[:, None] * rays, np.nan)


def _over_the_table(stamps: Floats, touches: list[tuple[float, Floats]], config: KeyframesConfig) -> Floats:
    """Places [T, 3]: down to each touch and up again, and over the table between them, each from rest to rest."""
    up = np.array([0.0, 0.0, config.over_m])
    times, via = [], []
    for number, (at, place) in enumerate(touches):
        before = at - touches[number - 1][0] if number else np.inf
        after = touches[number + 1][0] - at if number + 1 < len(touches) else np.inf
        times += [at - min(config.travel_s, before / 3), at, at + min(config.travel_s, after / 3)]
        via += [place + up, place, place + up]
    times_, via_ = np.array(times), np.array(via)
    index = np.clip(np.searchsorted(times_, stamps, side="right") - 1, 0, len(times_) - 2)
    share = np.clip((stamps - times_[index]) / np.maximum(times_[index + 1] - times_[index], 1e-6), 0.0, 1.0)
    eased = share**3 * (10 - 15 * share + 6 * share**2)
    return via_[index] + (via_[index + 1] - via_[index]) * eased[:, None]
