"""Scripted experts for the kitchen: paths for the hand, by inverse kinematics.

Most things need no grasp: shut fingers are a stick to push with. Doors that swing are held by their upright bar and led
round their hinge.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from sim.tasks.led_hand import LedHand, turned, until_there
from sim.tasks.mujoco_suite import Expert

if TYPE_CHECKING:
    from sim.tasks.robotics_kitchen import KitchenWorld

OPEN, SHUT = 1.0, 0.0
STRIDE, TURN = 0.025, 0.12  # [m], [rad] a step
UP = np.array([0.0, 0.0, 1.0])
TIP = 0.05  # [m] how far the fingers reach beyond the point that is led
AHEAD = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
"""The hand's axes (columns) when it points away from the robot, one finger beside the other."""

Script = Callable[["Kitchen"], Iterator[np.ndarray]]


def kitchen_expert(world: "KitchenWorld") -> Expert:
    """The expert for the world's task: each call gives the next action [8]."""
    return SCRIPTS[world.task](Kitchen(world)).__next__


class Kitchen:
    """The hand, and where things are."""

    def __init__(self, world: "KitchenWorld") -> None:
        self.world = world
        self.hand = LedHand(world, site="end_effector", joints=slice(0, 7), stride=STRIDE, turn=TURN)

    def at(self, site: str) -> np.ndarray:
        """Where a site is [3], metres."""
        return self.world.data.site(site).xpos.copy()

    def go(self, position: np.ndarray, grip: float, rotation: np.ndarray = AHEAD) -> Iterator[np.ndarray]:
        """Actions until the hand is there."""
        return until_there((self.hand,), lambda: np.array([*self.hand.toward((position, rotation)), grip]))

    def through(self, *positions: np.ndarray, rotation: np.ndarray = AHEAD) -> Iterator[np.ndarray]:
        """With shut fingers from one place to the next, and stay at the last."""
        for position in positions:
            yield from self.go(position, SHUT, rotation)
        while True:
            yield np.array([*self.hand.toward((positions[-1], rotation)), SHUT])


def _bar(site: str, hinge: str, *, sense: float, height: float = 0.0, facing: float = 0.0) -> Script:
    """Take hold of an upright bar and lead it round the hinge.

    ``sense``: 1 opens to the left as seen from above, -1 to the right; ``height`` [m]: where above its middle the bar
    is held; ``facing`` [rad]: how far to the left the hand points.
    """

    def script(kitchen: Kitchen) -> Iterator[np.ndarray]:
        bar, ahead = kitchen.at(site) + height * UP, turned(AHEAD, facing * UP)
        yield from kitchen.go(bar - 0.12 * ahead[:, 2], OPEN, ahead)
        yield from kitchen.go(bar, OPEN, ahead)
        for _ in range(6):
            yield np.array([*kitchen.hand.toward((bar, ahead)), SHUT])
        pivot = kitchen.world.data.joint(hinge).xanchor.copy()
        swung = 0.0
        while True:
            swung = min(swung + 0.03, 1.5)
            about = sense * swung * UP
            held = pivot + turned(np.eye(3), about) @ (bar - pivot)
            yield np.array([*kitchen.hand.toward((held, turned(ahead, 0.6 * about))), SHUT])

    return script


def _pushed(site: str, beside: tuple[float, float, float], over: tuple[float, float, float]) -> Script:
    """Come in front of a thing, beside it, and push it ``over``; offsets [m] from its site."""

    def script(kitchen: Kitchen) -> Iterator[np.ndarray]:
        start = kitchen.at(site) + beside
        return kitchen.through(start - [0, 0.12, 0], start, kitchen.at(site) + over)

    return script


def _knob(site: str) -> Script:
    """Take hold of a knob and turn it to the right."""

    def script(kitchen: Kitchen) -> Iterator[np.ndarray]:
        knob = kitchen.at(site) - [0, 0.035, 0]
        yield from kitchen.go(knob - [0, 0.1, 0], OPEN)
        yield from kitchen.go(knob, OPEN)
        for _ in range(6):
            yield np.array([*kitchen.hand.toward((knob, AHEAD)), SHUT])
        while True:
            yield np.array([*kitchen.hand.toward((knob, turned(AHEAD, np.array([0, 1.2, 0])))), SHUT])

    return script


def kettle(kitchen: Kitchen) -> Iterator[np.ndarray]:
    """Come down behind it and push it low, so that it slides and does not tip."""
    down = turned(AHEAD, np.array([-1.2, 0, 0]))
    behind = kitchen.at("kettle_site") - [0, 0.2, 0.16] - TIP * down[:, 2]
    return kitchen.through(behind + 0.12 * UP, behind, behind - [0, -0.45, 0], rotation=down)


SCRIPTS: dict[str, Script] = {
    "microwave": _bar("microhandle_site", "microwave", sense=-1.0, height=0.05, facing=0.1),
    "kettle": kettle,
    "light-switch": _pushed("light_site", beside=(0.06, 0, 0), over=(-0.12, 0, 0)),
    "slide-cabinet": _pushed("slide_site", beside=(-0.06, 0.02, 0), over=(0.3, 0.02, 0)),
    "hinge-cabinet": _bar("hinge_site2", "right_hinge_cabinet", sense=1.0, facing=-0.3),
    "bottom-burner": _knob("knob2_site"),
    "top-burner": _knob("knob4_site"),
}
