"""Scripted experts for the table-top suite.

Each looks only at the present state (where the hand, the objects and the drawer are), never at what it did before,
so that it recovers from disturbances: noise-injected demonstrations (DART, Laskey et al. 2017) rely on it.
A behaviour answers with a goal for the grip point and for the gripper; the action is a bounded step towards it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sim.tasks.tabletop import TabletopSuite

OPEN, CLOSED = 1.0, 0.0
HOVER = 0.1  # [m] how far above a thing the hand comes in
FUNNEL_NECK, FUNNEL_SLOPE = 0.01, 6.0  # [m], and metres up per metre aside
CARRY = 0.16  # [m] height to carry an object at, above everything
STEP = 0.028  # [m] longest step of the grip point
HELD_OPENING = 0.62  # opening with a 5 cm object between the fingers is 0.53 to 0.56

Goal = tuple[np.ndarray, float]


def tabletop_expert(suite: "TabletopSuite") -> Callable[[], np.ndarray]:
    """The expert for the suite's current task: each call gives the next action [4]."""
    behaviour = BEHAVIOURS[suite.task.verb]

    def act() -> np.ndarray:
        position, opening = behaviour(suite)
        delta = position - suite.grip_position
        # 0.9: the arm follows a step almost within one period; the longest axis decides, so that paths are straight
        delta = 0.9 * delta
        delta /= max(1.0, float(np.abs(delta).max()) / STEP)
        return np.array([*delta, opening], np.float32)

    return act


def _above(position: np.ndarray, height: float) -> np.ndarray:
    return np.array([position[0], position[1], height])


def _aside(suite: "TabletopSuite", position: np.ndarray) -> float:
    """Horizontal distance [m] of the grip point from a position."""
    return float(np.linalg.norm(suite.grip_position[:2] - position[:2]))


def _come_down(suite: "TabletopSuite", position: np.ndarray, *, opening: float) -> Goal:
    """Down a funnel onto ``position``: the height to be at grows with the horizontal distance."""
    aside = _aside(suite, position)
    height = position[2] + min(HOVER, FUNNEL_SLOPE * max(0.0, aside - FUNNEL_NECK))
    if suite.grip_position[2] < height - 0.035:
        return _above(suite.grip_position, height), opening
    return _above(position, height), opening


def _is_held(suite: "TabletopSuite", body: str) -> bool:
    """Whether the fingers have closed on the object."""
    offset = suite.position(body) - suite.grip_position
    near = np.hypot(offset[0], offset[1]) < 0.02 and abs(offset[2]) < 0.025
    return bool(near and suite.gripper_opening < HELD_OPENING)


def _grasp(suite: "TabletopSuite", body: str) -> Goal | None:
    """The goal that leads to holding ``body``, or ``None`` once it is held."""
    if _is_held(suite, body):
        return None
    position = suite.position(body)
    at_it = _aside(suite, position) < 0.016 and suite.grip_position[2] < position[2] + 0.012
    if at_it:
        return _above(position, position[2] - 0.002), CLOSED
    return _come_down(suite, _above(position, position[2] - 0.002), opening=OPEN)


def lift(suite: "TabletopSuite") -> Goal:
    """Grasp it and go up."""
    return _grasp(suite, suite.task.target) or (_above(suite.grip_position, CARRY), CLOSED)


def touch(suite: "TabletopSuite") -> Goal:
    """Come down on it with closed fingers."""
    position = suite.position(suite.task.target)
    return _come_down(suite, _above(position, position[2] + 0.015), opening=CLOSED)


def _carry_to(suite: "TabletopSuite", place: np.ndarray, *, height: float, tolerance: float) -> Goal:
    """Grasp the target, carry it over ``place``, lower it so that its centre is at ``height``, let go, go up."""
    body = suite.task.target
    position = suite.position(body)
    placed = np.linalg.norm(position[:2] - place[:2]) < tolerance and position[2] < height + 0.008
    if placed:
        if suite.gripper_opening < 0.75 and _aside(suite, position) < 0.04:
            return suite.grip_position, OPEN
        return _above(suite.grip_position, CARRY), OPEN
    grasp = _grasp(suite, body)
    if grasp is not None:
        return grasp
    held_offset = suite.grip_position - position  # steer the object, not the hand
    over = np.linalg.norm(position[:2] - place[:2]) < tolerance * 0.6
    if over:
        return _above(place + held_offset, height + held_offset[2]), CLOSED
    if position[2] < CARRY - 0.06:
        return _above(suite.grip_position, CARRY), CLOSED
    return _above(place + held_offset, CARRY), CLOSED


def put(suite: "TabletopSuite") -> Goal:
    """Carry it into the tray."""
    return _carry_to(suite, suite.position("tray"), height=0.04, tolerance=0.03)


def stack(suite: "TabletopSuite") -> Goal:
    """Carry it onto the other cube."""
    base = suite.position(suite.task.goal)
    return _carry_to(suite, base, height=base[2] + 0.05, tolerance=0.016)


def push(suite: "TabletopSuite") -> Goal:
    """Take hold of it and slide it over the table to the pad, around whatever stands in the way."""
    grasp = _grasp(suite, suite.task.target)
    if grasp is not None:
        return grasp
    here = suite.position(suite.task.target)[:2]
    way = suite.position(suite.task.goal)[:2] - here
    ahead = way / max(1e-6, float(np.linalg.norm(way)))
    aside = np.array([-ahead[1], ahead[0]])
    swerve = np.zeros(2)
    for name in suite.free_bodies:
        offset = suite.position(name)[:2] - here
        forward, sideways = offset @ ahead, offset @ aside
        if name != suite.task.target and -0.02 < forward < 0.13 and abs(sideways) < 0.075:
            swerve -= aside * np.copysign(0.075 - abs(sideways), sideways)
            ahead = ahead * 0.6  # slower past it; what is still in the way is light enough to be pushed along
    step = ahead * min(STEP * 1.1, float(np.linalg.norm(way))) + np.clip(swerve, -STEP, STEP)
    grip = suite.grip_position
    return np.array([*(grip[:2] + step), 0.024]), CLOSED


def press(suite: "TabletopSuite") -> Goal:
    """Come down on the button with closed fingers."""
    cap = suite.position("button cap")
    return _come_down(suite, _above(cap, cap[2] - 0.02), opening=CLOSED)


def _handle(suite: "TabletopSuite") -> np.ndarray:
    return suite.data.geom("handle").xpos.copy()


def open_drawer(suite: "TabletopSuite") -> Goal:
    """One finger on either side of the handle, then towards the middle of the table."""
    handle = _handle(suite)
    if _aside(suite, handle) < 0.035 and suite.grip_position[2] < 0.075:
        return np.array([handle[0], suite.grip_position[1] - 0.05, 0.055]), OPEN
    return _come_down(suite, _above(handle, 0.055), opening=OPEN)


def close_drawer(suite: "TabletopSuite") -> Goal:
    """Down in front of the handle with closed fingers, then push it away."""
    handle = _handle(suite)
    before = handle - [0.0, 0.06, 0.0]
    offset = suite.grip_position - handle
    if abs(offset[0]) < 0.03 and -0.09 < offset[1] < 0.0 and suite.grip_position[2] < 0.07:
        return np.array([handle[0], suite.grip_position[1] + 0.04, 0.05]), CLOSED
    return _come_down(suite, _above(before, 0.05), opening=CLOSED)


BEHAVIOURS: dict[str, Callable[["TabletopSuite"], Goal]] = {
    "touch": touch,
    "lift": lift,
    "push": push,
    "stack": stack,
    "put": put,
    "open": open_drawer,
    "close": close_drawer,
    "press": press,
}
