"""One episode in simulation, and many of them on several processes.

An episode is a pure function of its `Scene`: the suite's seed, the policy's noise and the random actor's draws all
follow from ``scene.seed``, and a worker runs one episode at a time on one thread with a batch of one. So the result of
an evaluation does not depend on how many workers there are, nor on which of them plays what.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from policies.execution import ChunkExecutor, ExecutionConfig
from policies.policy import Policy, load_policy
from robot_bridge.safety import governed
from sim.films import write_film
from sim.pool import run_jobs
from sim.results import Condition, EpisodeResult
from sim.shown import pictured, shown
from sim.suite import TEST_SEEDS, Suite, shared_suite, suite_module, suite_of
from vla.data.frames import fit_image
from vla.errors import UnderstudyError
from vla.types import Observation, Task

FILM_SIZE = 160


@dataclass(frozen=True)
class Setting:
    """What all episodes of an evaluation share; ``suite_options``: JSON; ``checkpoint``: "" when nobody needs one."""

    suite_options: str
    checkpoint: str = ""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    quick: bool = False
    """hasten the policy first"""


@dataclass(frozen=True)
class Scene:
    """One episode to be played.

    ``told`` is the task whose instruction the policy hears; ``film``: where one goes; ``prompt``: the video that shows
    a policy its task, "" where it is told; ``goal``: the picture of its goal, or who leaves it (`sim.shown.GOALS`).
    """

    setting: Setting
    task: str
    told: str
    condition: Condition
    seed: int
    film: str = ""
    prompt: str = ""
    goal: str = ""

    @property
    def initial_state(self) -> int:
        """The number of the scene among the test scenes."""
        return self.seed - TEST_SEEDS.start


@dataclass(frozen=True)
class Played:
    """An episode's result and the actions [T, A] that were carried out."""

    result: EpisodeResult
    actions: np.ndarray


class Actor(Protocol):
    """Whoever chooses the actions of an episode."""

    latencies_ms: list[float]

    def act(self, observe: Callable[[], Observation]) -> np.ndarray:
        """The next action [A]."""
        ...


class ExpertActor:
    """The suite's scripted expert: the ceiling."""

    def __init__(self, suite: Suite) -> None:
        self._next = suite.expert()
        self.latencies_ms: list[float] = []

    def act(self, observe: Callable[[], Observation]) -> np.ndarray:
        """The expert reads the simulator's state, no picture."""
        return self._next().astype(np.float32)


class RandomActor:
    """Uniform actions within the bounds: the floor."""

    def __init__(self, suite: Suite, seed: int) -> None:
        self._rng = np.random.default_rng([0x0F100, seed])
        self._low, self._high = suite.spec.action.low, suite.spec.action.high
        self.latencies_ms: list[float] = []

    def act(self, observe: Callable[[], Observation]) -> np.ndarray:
        """A draw."""
        return self._rng.uniform(self._low, self._high).astype(np.float32)


@cache
def shared_policy(checkpoint: str, *, embodiment: str = "", quick: bool = False) -> Policy:
    """The policy of this process, loaded once, and hastened if it is to be ``quick``."""
    policy = load_policy(checkpoint, embodiment=embodiment)
    if quick:
        policy.hasten()
    return policy


def play(scene: Scene) -> Played:
    """Play one episode from its reset to its success or its last step."""
    suite = shared_suite(suite_of(scene.task), scene.setting.suite_options)
    put = _put(scene, suite)
    suite.reset(scene.task, scene.seed)
    actor = _actor(scene, suite, put)
    actions, frames = [], []
    while not suite.success and suite.steps < suite.max_steps:
        action = governed(actor.act(suite.observe), suite.spec.action)
        if scene.film:
            frames.append(suite.film(FILM_SIZE))
        suite.step(action)
        actions.append(action)
    if scene.film:
        Path(scene.film).parent.mkdir(parents=True, exist_ok=True)
        film = beside(put, np.stack([*frames, suite.film(FILM_SIZE)]), suite.spec.control_hz)
        write_film(scene.film, film, suite.spec.control_hz)
    result = EpisodeResult(
        task=scene.task,
        instruction=put.instruction,
        condition=scene.condition,
        seed=scene.seed,
        initial_state=scene.initial_state,
        success=suite.success,
        steps=suite.steps,
        latency_ms=tuple(actor.latencies_ms),
    )
    return Played(result, np.stack(actions))


def _put(scene: Scene, suite: Suite) -> Task:
    """What the policy is told, shown and pictured; leaves ``suite`` in another state."""
    suite.reset(scene.told, scene.seed)
    told, goal = suite.instruction, None
    video = shown(scene.prompt, scene.condition, scene.seed) if scene.prompt else None
    if scene.goal:
        camera = _policy_of(scene, suite).spec.cameras[0].name
        goal = pictured(scene.goal, suite, camera, scene.told, scene.seed, scene.condition)
    return Task(told, video, goal)


def beside(put: Task, film: np.ndarray, hz: float) -> np.ndarray:
    """A film [T, S, S, 3] at ``hz`` with what showed the task at its left: the video at its own pace, or the goal."""
    size = film.shape[1]
    if put.video is not None:
        now = np.minimum(np.arange(len(film)) * put.video.fps / hz, len(put.video.frames) - 1).astype(int)
        shown = np.stack([fit_image(frame, size) for frame in put.video.frames])[now]
    elif put.goal is not None:
        shown = np.broadcast_to(fit_image(put.goal, size), film.shape)
    else:
        return film
    return np.concatenate([shown, film], axis=2)


def _policy_of(scene: Scene, suite: Suite) -> Policy:
    policy = shared_policy(scene.setting.checkpoint, embodiment=suite.spec.embodiment, quick=scene.setting.quick)
    check_fits(policy, suite)
    return policy


def _actor(scene: Scene, suite: Suite, put: Task) -> Actor:
    if scene.condition == "expert":
        return ExpertActor(suite)
    if scene.condition == "random":
        return RandomActor(suite, scene.seed)
    executor = ChunkExecutor(_policy_of(scene, suite), scene.setting.execution)
    executor.reset(put, seed=scene.seed)
    return executor


def check_fits(policy: Policy, suite: Suite) -> None:
    """Refuse a policy whose actions, cameras, proprio or rate are not the suite's."""
    wants, has = policy.spec, suite.spec
    pairs = [
        ("action", (wants.action.kind, wants.action.names), (has.action.kind, has.action.names)),
        ("proprio", wants.proprio_names, has.proprio_names),
        ("control rate [Hz]", wants.control_hz, has.control_hz),
    ]
    for what, wanted, offered in pairs:
        if wanted != offered:
            raise UnderstudyError(f"the policy's {what} is {wanted}, the suite {has.name} has {offered}")
    offered_cameras = [camera.name for camera in has.cameras]
    missing = [camera.name for camera in wants.cameras if camera.name not in offered_cameras]
    if missing:
        raise UnderstudyError(
            f"the policy looks through {', '.join(missing)}, the suite was made with {', '.join(offered_cameras)}; "
            f"give suite.cameras=[{','.join(camera.name for camera in wants.cameras)}]"
        )


def play_all(scenes: Sequence[Scene], *, workers: int) -> Iterator[Played]:
    """Play scenes on ``workers`` processes (0: in this one), in order."""
    modules = {suite_module(suite_of(scene.task)) for scene in scenes}
    if any(scene.setting.checkpoint for scene in scenes):
        modules.add("policies.cogact")
    return run_jobs(play, scenes, workers=workers, preload=("sim.rollout", *sorted(modules)))
