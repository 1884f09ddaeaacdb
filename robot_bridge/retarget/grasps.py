"""When the hand holds something, by how far thumb and index finger are apart and by where the hand comes to rest.

A tracker reads fingertips that touch as 3 to 6 cm apart, so that no fixed width tells; the widest and the narrowest
that the clip itself has do. That is not enough either: a hand at rest may be as closed as one that holds a cube. But
things are taken, and left, by a hand that stands still low down, while a relaxed hand opens on its way. So of all ways
to divide the clip into open and closed the one of least cost is taken (Viterbi 1967): every second costs as much as
the opening speaks against it, every change as much as the hand is quick and high and the opening stays as it is.

    opening   ▔▔▔▔▔╲______________╱▔▔▔▔▔        closed where it is low …
    height    ▔▔╲___╱▔▔▔▔▔▔▔▔╲_____╱▔▔▔
    speed     ╱▔▔╲_╱▔╲_╱▔╲__╱▔▔╲_╱▔▔╲_╱         … and changes where these are low
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_bridge.retarget.hands import Floats, segments


@dataclass(frozen=True)
class GraspConfig:
    """Costs; openings, heights and speeds are shares of what the clip has.

    They were chosen on the films 100 to 109 of `sim.human_pick`, on which no figure is measured.
    """

    middle: float = 0.55
    """an opening that speaks for neither"""
    weight: float = 2.0
    """of a second whose opening is at the far end of the wrong side"""
    change: float = 0.5
    """of closing or opening where the hand stands still, at its lowest"""
    quick: float = 5.0
    """more, at the clip's usual speed"""
    high: float = 6.0
    """more, where the hand is highest; half of it where no height is known"""
    sudden: float = 6.0
    """less, for each share by which the opening changes the right way from ``around_s`` before to as long after"""
    around_s: float = 0.5
    most: float = 0.3
    """share of such a change that counts"""
    begun: float = 6.0
    """of a clip that begins with something in the hand, of which nobody saw how it was taken"""
    ended: float = 3.0
    """of one that ends so"""
    least_travel_m: float = 0.015
    """a clip whose openings differ by less has no grasp"""
    least_s: float = 0.2
    """neither a grasp nor the time between two is shorter"""
    tails: float = 0.05
    """share of the frames, at both ends, that are not taken for the narrowest and the widest, lowest and highest"""


def grasped(
    opening: Floats, position: Floats, height: Floats, stamps: Floats, config: GraspConfig | None = None
) -> NDArray[np.bool_]:
    """In which frames [T] something is held.

    ``opening`` [T] m between the tips, ``position`` [T, 2 or 3] and ``height`` [T] of them, in any units, all of them
    smooth and NaN where they are not known.
    """
    config = config or GraspConfig()
    known = np.isfinite(opening)
    if not known.any():
        return np.zeros(len(opening), bool)
    low, high = np.quantile(opening[known], [config.tails, 1 - config.tails])
    if high - low < config.least_travel_m:
        return np.zeros(len(opening), bool)
    share = np.where(known, (opening - low) / (high - low), config.middle)
    against = config.weight * np.gradient(stamps) * np.clip(share - config.middle, -0.5, 0.5)
    change = config.change + config.quick * _speed(position, stamps) + config.high * _height(height, config.tails)
    later, earlier = (np.interp(stamps + sign * config.around_s, stamps, share) for sign in (1, -1))
    rise = config.sudden * np.clip(later - earlier, -config.most, config.most)
    closed = _cheapest(against, change + rise, change - rise, begun=config.begun, ended=config.ended)
    return _without_short(closed, stamps, config.least_s)


def _speed(position: Floats, stamps: Floats) -> Floats:
    """The speed [T] beside what is usual while the hand moves, at most 1; 1 where it is not known."""
    speed = np.linalg.norm(np.gradient(position, stamps, axis=0), axis=1)
    known = np.isfinite(speed)
    if not known.any():
        return np.ones(len(speed))
    usual = max(float(np.quantile(speed[known], 0.75)), 1e-9)
    return np.where(known, np.minimum(speed / usual, 1.0), 1.0)


def _height(height: Floats, tails: float) -> Floats:
    """The height [T] between the clip's lowest, 0, and highest, 1."""
    known = np.isfinite(height)
    if not known.any():
        return np.full(len(height), 0.5)
    low, high = np.quantile(height[known], [tails, 1 - tails])
    return np.where(known, np.clip((height - low) / max(high - low, 1e-9), 0.0, 1.0), 1.0)


def _cheapest(against: Floats, closing: Floats, opening: Floats, *, begun: float, ended: float) -> NDArray[np.bool_]:
    """The states [T] of least cost: ``against`` [T] being closed, as much for being open; changes [T] before each."""
    cost, before = np.array([0.0, begun]), np.zeros((len(against), 2), int)
    for frame, one in enumerate(against):
        if frame:
            changed = cost[::-1] + np.array([opening[frame], closing[frame]])
            before[frame] = np.where(changed < cost, [1, 0], [0, 1])
            cost = np.minimum(cost, changed)
        cost = cost + np.array([-one, one])
    states = np.empty(len(against), int)
    states[-1] = int(cost[1] + ended < cost[0])
    for frame in range(len(against) - 1, 0, -1):
        states[frame - 1] = before[frame, states[frame]]
    return states.astype(bool)


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
