"""The task of a film of `sim.human_pick`, for an arm that has seen it: take the cube from there, and put it there.

film/3           the film of that number: the red cube lies where it begins, all else is out of the way
film/3/left      where its hand is a left one
"""

import numpy as np

from robot_bridge.retarget.hands import Side, side_of
from sim.human_pick import pick_places
from sim.tasks.tabletop import CUBES, OBJECTS, TabletopSuite
from vla.errors import UnderstudyError

PREFIX = "film/"
CUBE = CUBES[0]
NEAR_M = 0.04
"""From the cube's middle to where the film has it in the end."""
LIFTED_M = 0.02
RESTS_M = 0.005
"""Above the height at which it began."""


def film_of(task: str) -> tuple[int, Side] | None:
    """Number and hand in a task's name, ``None`` for a task that is no film's."""
    if not task.startswith(PREFIX):
        return None
    number, _, side = task.removeprefix(PREFIX).partition("/")
    if not number.isdecimal():
        raise UnderstudyError(f"{task!r} is no film: write {PREFIX}NUMBER, the number that vla human pick was given")
    return int(number), side_of(side or "right")


def task_of(number: int, side: Side) -> str:
    """The name that `film_of` reads."""
    return f"{PREFIX}{number}" if side == "right" else f"{PREFIX}{number}/{side}"


class RepeatedFilm:
    """The scene of a film on the table of ``suite``, which has just been reset, and whether its end is reached."""

    def __init__(self, suite: TabletopSuite, number: int, side: Side) -> None:
        start, goal = pick_places(number, side)
        self._suite, self._goal, self._height = suite, goal[:3], start[2]
        self._lifted = self.success = False
        for place, name in enumerate(OBJECTS):
            suite.place(name, start if name == CUBE else np.array([-0.3, 0.2 * place, 0.03, 1, 0, 0, 0]))

    def judge(self) -> bool:
        """Whether the cube has been lifted, and now rests near the film's goal with nobody touching it, or did."""
        place = self._suite.position(CUBE)
        self._lifted = self._lifted or bool(place[2] > self._height + LIFTED_M)
        there = self.off_m < NEAR_M and abs(place[2] - self._height) < RESTS_M and not self._suite.touched(CUBE)
        self.success = self.success or (self._lifted and there)
        return self.success

    @property
    def off_m(self) -> float:
        """How far the cube is from its goal, over the table."""
        return float(np.linalg.norm(self._suite.position(CUBE)[:2] - self._goal[:2]))
