"""The one contract that every simulated suite keeps, and the way to make one by name.

A *suite* is a simulated robot with its tasks. It is driven like this, and nothing else of it is used outside:

    suite = make_suite("tabletop", profile="fast", image_size=64)
    suite.reset("tabletop/lift-red-cube", seed=7)
    while not suite.success and suite.steps < suite.max_steps:
        suite.step(policy(suite.observe()))

`reset` alone decides the scene: the same task and seed give the same scene in any process, after any history.
`step` does not render; `observe` does, so that whoever needs no picture pays for none.
"""

import inspect
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Protocol

import numpy as np

from vla.errors import UnderstudyError, unknown
from vla.types import ActionSpec, CameraSpec, Observation

SUITES = {
    "tabletop": "sim.tasks.tabletop:TabletopSuite",
    "metaworld": "sim.tasks.metaworld:MetaWorldSuite",
    "fetch": "sim.tasks.robotics_fetch:FetchSuite",
    "kitchen": "sim.tasks.robotics_kitchen:KitchenSuite",
    "adroit": "sim.tasks.robotics_adroit:AdroitSuite",
    "aloha": "sim.tasks.aloha:AlohaSuite",
    "robosuite": "sim.tasks.robosuite:RobosuiteSuite",
    "libero": "sim.tasks.libero:LiberoSuite",
}
"""Suite name → ``module:class``; the module is imported when the suite is made, not before."""

TRAIN_SEEDS = range(0, 1_000_000)
TEST_SEEDS = range(1_000_000_000, 1_001_000_000)
"""Scenes to learn from and scenes to be judged on: disjoint by construction."""


class EpisodeFault(UnderstudyError):  # noqa: N818  a fact about an episode
    """Why an episode cannot be judged. It is counted by its name, and the others go on."""


class NoExpert(UnderstudyError):  # noqa: N818  a fact about a task
    """Nobody is known who can do the task in this scene."""


class Diverged(EpisodeFault):
    """The simulation has left the physical world."""


class EnvironmentCrashed(EpisodeFault):
    """The process that simulates has died, or does not answer."""


@dataclass(frozen=True)
class SuiteSpec:
    """What a suite offers: constant for its life.

    ``fingerprint`` names everything that changes what the pictures and the numbers mean (profile, renderer,
    cameras, image size); data recorded under one fingerprint is not mixed with another's.
    """

    name: str
    embodiment: str
    action: ActionSpec
    cameras: tuple[CameraSpec, ...]
    proprio_names: tuple[str, ...]
    control_hz: float
    fingerprint: str


class Suite(Protocol):
    """A simulated robot with its tasks. Built from keywords (``image_size``, ``cameras``, …), see each suite's own."""

    spec: SuiteSpec
    max_steps: int

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        """All task names, ``suite/task``; answered without building a scene."""
        ...

    @property
    def instruction(self) -> str:
        """The words for the task of the current episode."""
        ...

    @property
    def steps(self) -> int:
        """Steps taken since `reset`."""
        ...

    @property
    def success(self) -> bool:
        """Whether the current task has been achieved at any step since `reset`."""
        ...

    def reset(self, task: str, seed: int) -> None:
        """Start ``task`` in the scene that ``seed`` decides; raises `UnderstudyError` for an unknown task."""
        ...

    def observe(self) -> Observation:
        """Render the cameras and read the proprio of this instant; its stamp is the simulated time since the reset.

        A world that stands still while somebody thinks has no other clock: by that of the wall, a policy that looks
        back would see another past on a slower machine.
        """
        ...

    def step(self, action: np.ndarray) -> None:
        """Carry out one action [A] (physical units of ``spec.action``; clipped to its bounds).

        Raises `EpisodeFault` when what comes of it cannot be judged: a simulation that diverged, a process that died.
        """
        ...

    def disturbed(self, axis: str, level: int, seed: int) -> AbstractContextManager[None]:
        """After `reset`: within it, this episode's world looks otherwise. See `sim.disturbance`.

        Raises `UnderstudyError` for an axis that the suite has not.
        """
        ...

    def expert(self) -> Callable[[], np.ndarray]:
        """A scripted expert for the current episode: each call gives the next action [A]; may raise `NoExpert`."""
        ...

    def keep(self) -> Callable[[], None]:
        """Remember this instant of the episode; each call of what is returned, until the next `reset`, goes back."""
        ...

    def film(self, size: int) -> np.ndarray:
        """One frame [size, size, 3] uint8 for people to watch."""
        ...

    def close(self) -> None:
        """Free the renderer."""
        ...


def suite_class(name: str) -> type:
    """The class behind a suite's name; raises `UnderstudyError` naming the nearest one."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    module, _, attribute = SUITES[name].partition(":")
    return getattr(import_module(module), attribute)


def suite_module(name: str) -> str:
    """The module of a suite, for workers to import ahead."""
    suite_class(name)
    return SUITES[name].partition(":")[0]


def make_suite(name: str, **options: object) -> Suite:
    """Build a suite by name with its own options; raises `UnderstudyError` for one that it does not have."""
    made = suite_class(name)
    allowed = list(inspect.signature(made).parameters)
    for option in options:
        if option not in allowed:
            raise unknown(f"option of the suite {name}", option, allowed)
    return made(**options)


@cache
def shared_suite(name: str, options: str) -> Suite:
    """The suite of this process, ``options`` as JSON: building one costs more than an episode, and OpenGL wants one."""
    return make_suite(name, **json.loads(options))


def suite_of(task: str) -> str:
    """The suite that ``suite/task`` belongs to, after checking that it exists."""
    suite, slash, _ = task.partition("/")
    if not slash:
        raise UnderstudyError(f"a task is written suite/task, got {task!r}; suites: {', '.join(SUITES)}")
    names = suite_class(suite).task_names()
    if task not in names:
        raise unknown("task", task, names)
    return suite
