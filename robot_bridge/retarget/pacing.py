"""The arm's own pace: the hand's times, stretched where a joint could not follow, and a wait where the gripper moves.

    hand      0 ── 0.5 ── 1.0 ─[closes]─ 1.5 …          one row a frame of the video
    arm       0 ── 0.5 ──── 1.4 [waits] ── 2.3 …      ``rate_hz`` rows a second

Only times change, never places: a slow arm draws the same line.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import maximum_filter1d

from robot_bridge.arms.arm import ArmSpec, Limits
from robot_bridge.retarget.hands import Floats
from robot_bridge.retarget.inverse import InverseConfig, Solved
from robot_bridge.retarget.tool_path import ToolPath
from vla.errors import UnderstudyError

WAIT_S = 0.5
"""The arm stands still while the gripper closes or opens."""
SETTLE_S = 0.2
"""…and before it does, so that it is where it was sent."""
LEAST_S = 1e-3
ROUNDS = 60
AROUND = 2
"""Neighbours of a slow frame that are slowed with it, to each side."""


@dataclass(frozen=True)
class JointPath:
    """Setpoints ``joints`` [M, D] at ``stamps`` [M] s, gripper included; ``source_s`` [M]: the video's time of each.

    ``slowed``: the arm's time beside the hand's.
    """

    stamps: Floats
    joints: Floats
    source_s: Floats
    slowed: float


def paced(
    path: ToolPath, solved: Solved, spec: ArmSpec, *, rate_hz: float, config: InverseConfig | None = None
) -> JointPath:
    """Setpoints for an arm, ``rate_hz`` of them a second, within its limits, from rest to rest.

    Raises `UnderstudyError` where the path has gaps in which nobody knows where the hand was.
    """
    config = config or InverseConfig()
    known = np.flatnonzero(path.known)
    if len(known) < 2 or known[-1] - known[0] + 1 != len(known):
        raise UnderstudyError(
            f"the hand is unknown in {int(known[-1] - known[0] + 1 - len(known)) if len(known) else 'all'} frames "
            "between its first and last: the arm cannot be sent through a gap"
        )
    knots = _with_waits(solved.joints[known], path.closed[known], path.stamps[known])
    times = stretched(knots.rows, knots.times, arm_only(spec), config.share)
    stamps = np.arange(0.0, times[-1] + 1 / rate_hz, 1 / rate_hz)
    at = np.minimum(stamps, times[-1])
    joints = _with_gripper(_line(times, knots.rows)(at), knots.closed[_before(times, at)], spec)
    hand = float(knots.source[-1] - knots.source[0])
    return JointPath(stamps, joints, np.interp(at, times, knots.source), float(times[-1]) / max(hand, LEAST_S))


def stretched(rows: Floats, times: Floats, limits: Limits, share: float) -> Floats:
    """``times`` [K] of ``rows`` [K, N], farther apart where speed or acceleration would exceed ``share`` of limits.

    Raises `UnderstudyError` where no pace does, which a jump in the rows makes.
    """
    fastest, hardest = share * np.array(limits.velocity), share * np.array(limits.acceleration)
    gaps = np.maximum(np.diff(times), LEAST_S)
    for _ in range(ROUNDS):
        at = np.concatenate([[0.0], np.cumsum(gaps)])
        fine = np.linspace(0.0, at[-1], 8 * len(at))
        line = _line(at, rows)
        faster = (np.abs(line(fine, 1)) / fastest).max(1)
        harder = np.sqrt((np.abs(np.diff(line(fine, 1), axis=0)) / np.diff(fine)[:, None] / hardest).max(1))
        excess = np.maximum(faster, np.append(harder, 0.0))
        if excess.max() <= 1.0 + 1e-3:
            return times[0] + at
        worst = np.ones(len(gaps))
        np.maximum.at(worst, np.minimum(_before(at, fine), len(gaps) - 1), excess)
        gaps = gaps * np.minimum(maximum_filter1d(worst, 2 * AROUND + 1, mode="nearest"), 2.0)
    raise UnderstudyError(
        f"no pace keeps the arm's limits: its joints jump by up to {np.abs(np.diff(rows, axis=0)).max():.2f} rad from "
        "one frame to the next"
    )


@dataclass(frozen=True)
class _Knots:
    """Joints [K, N], whether the gripper is to be closed [K], the video's times and those with waits [K]."""

    rows: Floats
    closed: NDArray[np.bool_]
    source: Floats
    times: Floats


def _with_waits(rows: Floats, closed: NDArray[np.bool_], stamps: Floats) -> _Knots:
    """Where the gripper changes, the arm comes to rest, and goes on when the gripper has moved."""
    order, grips, waits = [], [], []
    for frame in range(len(rows)):
        changes = frame > 0 and closed[frame] != closed[frame - 1]
        for grip, wait in ((closed[frame - 1], 0.0), (closed[frame], SETTLE_S)) if changes else ((closed[frame], 0.0),):
            order.append(frame)
            grips.append(grip)
            waits.append(wait)
        if changes:
            order.append(frame)
            grips.append(closed[frame])
            waits.append(WAIT_S)
    source = stamps[order]
    return _Knots(rows[order], np.array(grips), source, source - source[0] + np.cumsum(waits))


def _line(times: Floats, rows: Floats) -> PchipInterpolator:
    """Through all rows, without swinging beyond them: where two rows are the same, it stands still."""
    return PchipInterpolator(times, rows, axis=0)


def _before(times: Floats, at: Floats) -> NDArray[np.intp]:
    """Which of ``times`` is the last one not after each of ``at``."""
    return np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 1)


def arm_only(spec: ArmSpec) -> Limits:
    """The limits of the joints without the gripper."""
    kept = [index for index in range(len(spec.joints)) if spec.gripper is None or index != spec.gripper.index]
    return Limits(**{name: tuple(values[index] for index in kept) for name, values in vars(spec.limits).items()})


def _with_gripper(rows: Floats, closed: NDArray[np.bool_], spec: ArmSpec) -> Floats:
    """Setpoints [M, D] of rows [M, N] of an arm that may have a gripper."""
    if spec.gripper is None:
        return rows
    grip = np.where(closed, spec.gripper.closed, spec.gripper.open)
    return np.insert(rows, spec.gripper.index, grip, axis=1)
