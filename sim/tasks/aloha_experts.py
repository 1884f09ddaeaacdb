"""Scripted experts for the two ALOHA tasks: waypoints for both grippers, by inverse kinematics.

A script goes from phase to phase; within a phase it looks at where the objects are, so that an object that has slipped
in the fingers is still brought to its place. Grippers are led along straight lines. The arms' joints have a dry
friction of 30 to 60 N m against a stiffness of 10 to 1600 N m/rad: what lags behind is asked for a little further.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from sim.tasks.led_hand import LedHand, until_there
from sim.tasks.mujoco_suite import Expert

if TYPE_CHECKING:
    from sim.tasks.aloha import AlohaWorld

OPEN, CLOSED = 1.0, 0.0
STRIDE, TURN = 0.008, 0.06  # [m], [rad] a step
PITCH = np.deg2rad(60)  # how steeply the fingers come down
OFF_TABLE = np.array([0, 0, 0.01])  # [m] the peg lies so low that fingers around its middle would press on the table
OVER = np.array([0, 0, 0.1])
MEETING = np.array([0.0, 0.5, 0.25])


def aloha_expert(world: "AlohaWorld") -> Expert:
    """The expert for the world's task: each call gives the next action [14]."""
    script = {"transfer-cube": transfer_cube, "insertion": insertion}[world.task]
    return script(world).__next__


def transfer_cube(world: "AlohaWorld") -> Iterator[np.ndarray]:
    """The right arm lifts the cube, the left one takes hold of it from its own side."""
    left, right = _hand(world, "left"), _hand(world, "right")
    down, flat = _pitched("right", PITCH), _rolled_left()
    aside = MEETING - [0.13, 0, 0]

    def cube() -> np.ndarray:
        return world.data.body("box").xpos.copy()

    def both(*, hand: np.ndarray, grip: float, other: np.ndarray, other_grip: float) -> np.ndarray:
        return np.array([*left.toward((other, flat)), other_grip, *right.toward((hand, down)), grip])

    yield from until_there((right,), lambda: both(hand=cube() + OVER, grip=OPEN, other=aside, other_grip=OPEN))
    yield from until_there((right,), lambda: both(hand=cube(), grip=OPEN, other=aside, other_grip=OPEN))
    there = cube()
    for _ in range(25):
        yield both(hand=there, grip=CLOSED, other=aside, other_grip=OPEN)
    yield from until_there((right,), lambda: both(hand=MEETING, grip=CLOSED, other=aside, other_grip=OPEN))
    yield from until_there((left,), lambda: both(hand=MEETING, grip=CLOSED, other=cube(), other_grip=OPEN))
    there = cube()
    while True:
        yield both(hand=MEETING, grip=CLOSED, other=there, other_grip=CLOSED)


def insertion(world: "AlohaWorld") -> Iterator[np.ndarray]:
    """Each arm lifts what is on its side; the peg is brought before the socket, then into it."""
    left, right = _hand(world, "left"), _hand(world, "right")
    hold_left, hold_right = _pitched("left", PITCH), _pitched("right", PITCH)

    def place(body: str) -> np.ndarray:
        return world.data.body(body).xpos.copy()

    def both(socket: np.ndarray, peg: np.ndarray, grip: float) -> np.ndarray:
        return np.array([*left.toward((socket, hold_left)), grip, *right.toward((peg, hold_right)), grip])

    yield from until_there((left, right), lambda: both(place("socket") + OVER, place("peg") + OVER, OPEN))
    yield from until_there((left, right), lambda: both(place("socket"), place("peg") + OFF_TABLE, OPEN))
    socket, peg = place("socket"), place("peg") + OFF_TABLE
    for _ in range(25):
        yield both(socket, peg, CLOSED)
    before, behind = MEETING - [0.06, 0, 0], MEETING - [-0.11, 0, 0]
    yield from until_there((left, right), lambda: both(before, behind, CLOSED))
    ahead, hand = 0.16, right.pose[0]
    while True:  # where the peg should be, seen from the socket, moves into it
        missed = place("socket") - place("peg") + np.array([ahead, 0, 0])
        hand = hand + 0.1 * missed
        ahead = max(0.08, ahead - 0.002) if np.linalg.norm(missed[1:]) < 0.004 else ahead
        yield both(before, hand, CLOSED)


def _hand(world: "AlohaWorld", side: str) -> LedHand:
    joints = slice(0, 6) if side == "left" else slice(8, 14)
    return LedHand(world, site=f"cali_{side}_site1", joints=joints, stride=STRIDE, turn=TURN)


def _pitched(side: str, pitch: float) -> np.ndarray:
    """The gripper's axes (columns) when its fingers point inwards and down, one before the other."""
    inwards = 1.0 if side == "left" else -1.0
    approach = np.array([inwards * np.cos(pitch), 0.0, -np.sin(pitch)])
    across = np.array([0.0, inwards, 0.0])
    return np.stack([approach, across, np.cross(approach, across)], axis=1)


def _rolled_left() -> np.ndarray:
    """The left gripper's axes when it points inwards with one finger above the other."""
    return np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
