"""From a hand to a parallel gripper: where its tool goes, how it is turned, how far it is open.

The tool's frame: origin between the fingertips, z out of the gripper, y from one finger to the other. Its place is the
middle between the tips of thumb and index finger. Two ways to turn it:

    palm   as the palm turns, which is seen twice as well as the line between two fingertips: how the gripper stands in
           the palm is taken once from the whole clip, where the fingers are open
    down   z straight down, and only y as the palm turns
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from scipy.signal import savgol_filter
from scipy.spatial.transform import Rotation

from robot_bridge.retarget.grasps import GraspConfig, grasped
from robot_bridge.retarget.hands import (
    INDEX_ROOT,
    INDEX_TIP,
    LITTLE_ROOT,
    MIDDLE_ROOT,
    THUMB_ROOT,
    THUMB_TIP,
    WRIST,
    Floats,
    segments,
)
from robot_bridge.retarget.lifting import HandPath, Method
from vla.errors import UnderstudyError

Turning = Literal["down", "palm"]


@dataclass(frozen=True)
class ToolPathConfig:
    """How a hand becomes a gripper."""

    turning: Turning = "down"
    median_s: float = 0.34
    """outliers in the place that last no longer than half of this are taken out"""
    smooth_s: float = 0.6
    """window of the polynomial that smooths the place (Savitzky and Golay, second degree)"""
    turn_s: float = 0.2
    """standard deviation of the Gaussian that smooths the turning"""
    gap_s: float = 0.5
    """gaps up to this are filled from both sides; longer ones stay: nobody knows what the hand did"""
    grasps: GraspConfig = field(default_factory=GraspConfig)


@dataclass(frozen=True)
class ToolPath:
    """The tool at ``stamps`` [T] s: ``position`` [T, 3] m and ``quaternion`` [T, 4] (w, x, y, z) in the base's frame.

    ``opening`` [T] m between the fingertips; ``closed`` [T]; ``measured`` [T]: seen, not filled in; ``error_px`` [T]:
    see `HandPath`. NaN in frames of a gap that is too long to fill.
    """

    stamps: Floats
    position: Floats
    quaternion: Floats
    opening: Floats
    closed: NDArray[np.bool_]
    measured: NDArray[np.bool_]
    error_px: Floats
    method: Method

    @property
    def known(self) -> NDArray[np.bool_]:
        """In which frames [T] the tool has a place."""
        return np.asarray(np.isfinite(self.position).all(1))


def tool_path(hand: HandPath, config: ToolPathConfig | None = None) -> ToolPath:
    """The tool's path of a hand's; raises `UnderstudyError` for a hand that is known in fewer than five frames."""
    config = config or ToolPathConfig()
    known = hand.known
    if known.sum() < 5:
        raise UnderstudyError(f"the {hand.side} hand is known in {known.sum()} frames of {len(known)}: not enough")
    thumb, index = hand.points[:, THUMB_TIP], hand.points[:, INDEX_TIP]
    place, opening = (thumb + index) / 2, np.linalg.norm(index - thumb, axis=1, keepdims=True)
    smooth = smoothed(np.hstack([place, opening]), hand.stamps, known, config)
    quaternion = turned(hand.points, hand.stamps, known, config)
    closed = grasped(smooth[:, 3], smooth[:, :3], smooth[:, 2], hand.stamps, config.grasps)
    return ToolPath(hand.stamps, smooth[:, :3], quaternion, smooth[:, 3], closed, known, hand.error_px, hand.method)


def smoothed(values: Floats, stamps: Floats, known: NDArray[np.bool_], config: ToolPathConfig) -> Floats:
    """``values`` [T, N] with short gaps filled, without outliers and smooth; NaN in gaps that are too long."""
    filled = _bridged(known, stamps, config.gap_s)
    rate = 1 / float(np.median(np.diff(stamps)))
    return _smoothed(_between(values, stamps, known, filled), filled, rate, config)


def turned(points: Floats, stamps: Floats, known: NDArray[np.bool_], config: ToolPathConfig) -> Floats:
    """The tool's quaternions [T, 4] for hands at ``points`` [T, 21, 3], of which only the turning counts."""
    frames = {"down": _down, "palm": _palm}[config.turning](points, known)
    return _turned(frames, stamps, known, _bridged(known, stamps, config.gap_s), config)


def palm_frames(points: Floats) -> Floats:
    """The palm's axes as columns [T, 3, 3]: x from the wrist to the knuckles, z out of the back of a right hand."""
    ahead = points[:, [INDEX_ROOT, MIDDLE_ROOT, LITTLE_ROOT]].mean(1) - points[:, WRIST]
    across = points[:, INDEX_ROOT] - points[:, LITTLE_ROOT]
    x = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    z = np.cross(x, across)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return np.stack([x, np.cross(z, x), z], axis=2)


def _down(points: Floats, known: NDArray[np.bool_]) -> Floats:
    """Frames [K, 3, 3] of the known hands: z down, y where the palm's gripper has it as seen from above."""
    across = _palm(points, known)[:, :, 1]
    # A gripper turned by half a turn is the same gripper: twice the angle makes both one.
    angle = np.unwrap(2 * np.arctan2(across[:, 1], across[:, 0])) / 2
    angle -= np.pi * np.round((np.median(angle) - np.pi / 2) / np.pi)  # y as near to the base's y as can be
    return Rotation.from_quat(downward(angle), scalar_first=True).as_matrix()


def downward(yaw: Floats) -> Floats:
    """Quaternions [T, 4] (w, x, y, z) of a gripper that points down and opens along ``yaw`` [T] from the base's x."""
    y = np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], axis=1)
    z = np.broadcast_to([0.0, 0.0, -1.0], y.shape)
    frames = np.stack([np.cross(y, z), y, z], axis=2)
    return np.asarray(Rotation.from_matrix(frames).as_quat(scalar_first=True))


def _palm(points: Floats, known: NDArray[np.bool_]) -> Floats:
    """Frames [K, 3, 3] of the known hands: the palm's, and the gripper as it stands in it on the whole."""
    palms, seen = palm_frames(points[known]), points[known]
    across = seen[:, INDEX_TIP] - seen[:, THUMB_TIP]
    wide = np.linalg.norm(across, axis=1)
    open_ones = wide >= np.median(wide)
    y = np.einsum("tji,tj->ti", palms, across)[open_ones].mean(0)
    away = (seen[:, [THUMB_TIP, INDEX_TIP]].mean(1) - seen[:, [THUMB_ROOT, INDEX_ROOT]].mean(1))[open_ones]
    z = np.einsum("tji,tj->ti", palms[open_ones], away).mean(0)
    y /= np.linalg.norm(y)
    z -= y * (z @ y)
    z /= np.linalg.norm(z)
    return palms @ np.stack([np.cross(y, z), y, z], axis=1)


def _bridged(known: NDArray[np.bool_], stamps: Floats, gap_s: float) -> NDArray[np.bool_]:
    """The known frames and those of gaps that are short enough."""
    filled, found = known.copy(), np.flatnonzero(known)
    for a, b in pairwise(found):
        if stamps[b] - stamps[a] <= gap_s:
            filled[a:b] = True
    return filled


def _between(values: Floats, stamps: Floats, known: NDArray[np.bool_], filled: NDArray[np.bool_]) -> Floats:
    """``values`` [T, N] with the gaps of ``filled`` on the line between both sides, the others NaN."""
    lines = [np.interp(stamps, stamps[known], column[known]) for column in values.T]
    return np.where(filled[:, None], np.stack(lines, axis=1), np.nan)


def _smoothed(values: Floats, filled: NDArray[np.bool_], rate: float, config: ToolPathConfig) -> Floats:
    """Each stretch [T, N] without its outliers, and smooth."""
    median, window = _odd(config.median_s * rate), _odd(config.smooth_s * rate)

    def smooth(stretch: Floats) -> Floats:
        plain = median_filter(stretch, (min(median, _odd(len(stretch) - 1)), 1), mode="nearest")
        width = min(window, _odd(len(stretch) - 1))
        return plain if width < 5 else savgol_filter(plain, width, 2, axis=0, mode="interp")

    return _each_stretch(values, filled, smooth)


def _each_stretch(values: Floats, filled: NDArray[np.bool_], change: Callable[[Floats], Floats]) -> Floats:
    changed = values.copy()
    for first, after in segments(filled):
        changed[first:after] = change(values[first:after])
    return changed


def _turned(
    frames: Floats, stamps: Floats, known: NDArray[np.bool_], filled: NDArray[np.bool_], config: ToolPathConfig
) -> Floats:
    """Quaternions [T, 4] (w, x, y, z) of ``frames`` [K, 3, 3]: the mean of those around, weighed by a Gaussian."""
    seen = Rotation.from_matrix(frames).as_quat(scalar_first=True)
    out = np.full((len(stamps), 4), np.nan)
    for frame in np.flatnonzero(filled):
        weights = np.exp(-0.5 * ((stamps[known] - stamps[frame]) / config.turn_s) ** 2)
        # The mean of rotations: the eigenvector of the weighed sum of q qᵀ (Markley et al. 2007), whatever their signs.
        out[frame] = np.linalg.eigh((seen * weights[:, None]).T @ seen)[1][:, -1]
    for frame in range(1, len(out)):
        if out[frame] @ out[frame - 1] < 0:
            out[frame] *= -1
    return out


def _odd(frames: float) -> int:
    """The odd number next to ``frames``, at least 1."""
    return max(1, 2 * int(frames / 2) + 1) if frames >= 1 else 1
