"""Scripted experts for the Fetch tasks.

Reach, push and pick-and-place look only at the present state, never at what was done before, so that they recover from
disturbances: a behaviour answers with a goal for the grip point and a drive for the fingers, and the action is a
bounded step towards it. Slide is one stroke, which is tried out first: the fingers are a box that does not turn, so a
puck that is hit obliquely goes where friction says, and no formula of ours.
"""

from collections.abc import Iterator
from copy import copy
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from sim.tasks.mujoco_suite import Expert

if TYPE_CHECKING:
    from sim.tasks.robotics_fetch import FetchWorld

OPEN, CLOSED = 1.0, -1.0
STEP = 0.05  # [m] longest step
GAIN = 1.4  # the weld yields about two thirds of a step
HOVER = 0.07  # [m] above the block, on the way over it
BEHIND = 0.065  # [m] from the middle of the block to where a push begins
TURNS = np.deg2rad(
    (0, 10, -10, 20, -20, 30, -30, 45, -45, 60, -60)
)  # of a stroke against the line from the puck to its goal
ASIDE = (0.0, 0.008, -0.008, 0.016, -0.016, 0.024, -0.024)  # [m] how far a stroke passes from the middle of the puck
STROKE = 50  # steps after which a try is given up

Goal = tuple[np.ndarray, float]


def fetch_expert(world: "FetchWorld") -> Expert:
    """The expert for the world's task: each call gives the next action [4]."""
    if world.task == "slide":
        return slide(world)
    behaviour = {"reach": reach, "push": push, "pick-and-place": pick_and_place}[world.task]

    def act() -> np.ndarray:
        return _step_to(world, *behaviour(world))

    return act


def reach(world: "FetchWorld") -> Goal:
    """Go there."""
    return world.goal, CLOSED


def push(world: "FetchWorld") -> Goal:
    """Go round behind the block, as seen from its goal, and push it there."""
    block, grip = world.block, world.grip
    way = (world.goal - block)[:2]
    away, far = way / max(1e-9, float(np.linalg.norm(way))), float(np.linalg.norm(way))
    offset = (grip - block)[:2]
    aside = float(away[0] * offset[1] - away[1] * offset[0])
    if offset @ away < -0.03 and abs(aside) < 0.02 and grip[2] < block[2] + 0.03:
        left = np.array([-away[1], away[0]])
        return np.array([*(block[:2] + (min(far, STEP) - 0.04) * away - 2.0 * aside * left), block[2]]), CLOSED
    return _come_behind(world, block[:2] - BEHIND * away), CLOSED


def pick_and_place(world: "FetchWorld") -> Goal:
    """Open, come down over the block, close, and bring it there."""
    block, grip = world.block, world.grip
    offset = block - grip
    if np.abs(offset).max() < 0.02 and world.opening < 0.55:
        return grip + (world.goal - block), CLOSED
    aside = float(np.linalg.norm(offset[:2]))
    if aside < 0.015 and abs(offset[2]) < 0.012:
        return block, CLOSED
    return np.array([*block[:2], block[2] + min(HOVER, 6.0 * max(0.0, aside - 0.01))]), OPEN


def slide(world: "FetchWorld") -> Expert:
    """The first stroke that brings the puck to its goal in a trial; where none does, the one that comes nearest."""
    way = (world.goal - world.block)[:2]
    toward = float(np.arctan2(way[1], way[0]))
    now, missed = copy(world.data), {}
    for aside, turn in product(ASIDE, TURNS):
        missed[aside, turn] = _tried(world, _stroke(world, toward + turn, aside))
        world.data = copy(now)
        if missed[aside, turn] == 0:
            break
    aside, turn = min(missed, key=lambda tried: missed[tried])
    return _stroke(world, toward + turn, aside).__next__


def _tried(world: "FetchWorld", stroke: Iterator[np.ndarray]) -> float:
    """How far from its goal [m] a stroke leaves the puck at best; 0 for a success.

    Actions are rounded as the suite rounds them: the last bit decides where some pucks go.
    """
    bound, nearest = np.array([STEP, STEP, STEP, 1.0]), np.inf
    for _ in range(STROKE):
        if world.step(np.clip(np.float64(np.float32(next(stroke))), -bound, bound)):
            return 0.0
        nearest = min(nearest, float(np.linalg.norm(world.goal - world.block)))
    return nearest


def _stroke(world: "FetchWorld", direction: float, aside: float) -> Iterator[np.ndarray]:
    """Actions [4]: come behind the puck, then go straight through it, without an end."""
    along = np.array([np.cos(direction), np.sin(direction)])
    start = world.block[:2] - BEHIND * along + aside * np.array([-along[1], along[0]])
    low = world.block[2]
    while np.linalg.norm(start - world.grip[:2]) > 0.012 or world.grip[2] > low + 0.02:
        yield _step_to(world, _come_behind(world, start), CLOSED)
    while True:
        ahead = max(0.0, float((world.grip[:2] - start) @ along)) + STEP
        yield _step_to(world, np.array([*(start + ahead * along), low]), CLOSED)


def _come_behind(world: "FetchWorld", point: np.ndarray) -> np.ndarray:
    """Where to go next [3] on the way to a point [2] beside the block: over the block, never through it."""
    block, grip = world.block, world.grip
    near = float(np.linalg.norm((grip - block)[:2]))
    if np.linalg.norm(point - grip[:2]) < 0.03:
        return np.array([*point, block[2]])
    if near < 0.075 and grip[2] < block[2] + 0.7 * HOVER:
        return np.array([*grip[:2], block[2] + HOVER])
    return np.array([*point, block[2] + HOVER])


def _step_to(world: "FetchWorld", position: np.ndarray, drive: float) -> np.ndarray:
    delta = GAIN * (position - world.grip)
    delta /= max(1.0, float(np.abs(delta).max()) / STEP)  # the longest axis decides, so that paths are straight
    return np.array([*delta, drive])
