"""When the hand holds something: openings of thumb and index finger → closed or open, relative to the clip.

A tracker reads fingertips that touch as 3 to 6 cm apart, so that no fixed width tells; the widest and the narrowest
that the clip itself has do. Between two thresholds the state before goes on (hysteresis), and what lasts too short to
be a grasp is none.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_bridge.retarget.hands import Floats, segments


@dataclass(frozen=True)
class GraspConfig:
    """Shares of the way from the clip's narrowest opening to its widest."""

    close_below: float = 0.45
    open_above: float = 0.65
    least_travel_m: float = 0.015
    """a clip whose openings differ by less has no grasp"""
    least_s: float = 0.2
    """neither a grasp nor the time between two is shorter"""
    tails: float = 0.05
    """share of the frames, at both ends, that are not taken for the narrowest and the widest"""


def grasped(opening: Floats, stamps: Floats, config: GraspConfig | None = None) -> NDArray[np.bool_]:
    """In which frames [T] something is held, by the ``opening`` [T] m between the tips, NaN where it is not known."""
    config = config or GraspConfig()
    known = np.isfinite(opening)
    closed = np.zeros(len(opening), bool)
    if not known.any():
        return closed
    low, high = np.quantile(opening[known], [config.tails, 1 - config.tails])
    if high - low < config.least_travel_m:
        return closed
    share = (opening - low) / (high - low)
    state = bool(share[known][0] < config.close_below)
    for frame, one in enumerate(share):
        if np.isfinite(one):
            state = one < (config.open_above if state else config.close_below)
        closed[frame] = state
    return _without_short(closed, stamps, config.least_s)


def _without_short(closed: NDArray[np.bool_], stamps: Floats, least_s: float) -> NDArray[np.bool_]:
    """First the holes in a grasp are closed, then grasps that are too short are let go."""
    steady = closed.copy()
    for value in (False, True):
        for first, after in segments(steady == value):
            inside = value or (first > 0 and after < len(steady))
            if inside and stamps[min(after, len(stamps) - 1)] - stamps[first] < least_s:
                steady[first:after] = not value
    return steady


def events(closed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First frame of each grasp and the first one after it; one that the clip cuts off ends with the clip."""
    return list(segments(closed))
