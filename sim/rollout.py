"""One episode in simulation, and many of them on several processes.

An episode is a pure function of its `Scene`: the suite's seed, the policy's noise and the random actor's draws all
follow from ``scene.seed``, and a worker runs one episode at a time on one thread with a batch of one. So the result of
an evaluation does not depend on how many workers there are, nor on which of them plays what. (`sim.together` lets one
policy answer many episodes at once; there it depends on how many, and still not on the workers.)

`Game` is the one account of what an episode is. It asks whoever drives it for chunks, so that the policy may live here
or elsewhere:

    game, chunk = Game(scene, suite), None
    while isinstance(turn := game.advance(chunk), Asked):  # turn.put: what to reset the policy with
        chunk = policy.infer(turn.observation, turn.underway).actions
    result = turn.result
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np

from policies.execution import Execution, ExecutionConfig
from policies.policy import Policy, Underway, checked_folder, load_policy, read_spec, read_specs
from robot_bridge.safety import governed
from sim.disturbance import Disturbance, Senses
from sim.films import write_film
from sim.pool import run_jobs
from sim.results import Condition, EpisodeResult
from sim.shown import GOALS, pictured, shown
from sim.suite import TEST_SEEDS, EnvironmentCrashed, EpisodeFault, Suite, shared_suite, suite_module, suite_of
from vla.data.frames import fit_image
from vla.errors import UnderstudyError
from vla.types import ActionSpec, Observation, PolicySpec, Task

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
    a policy its task, "" where it is told; ``goal``: the picture of its goal, or who leaves it (`sim.shown.GOALS`);
    ``disturbed``: how the world or the senses differ.
    """

    setting: Setting
    task: str
    told: str
    condition: Condition
    seed: int
    film: str = ""
    prompt: str = ""
    goal: str = ""
    disturbed: Disturbance = field(default_factory=Disturbance)

    @property
    def initial_state(self) -> int:
        """The number of the scene among the test scenes."""
        return self.seed - TEST_SEEDS.start

    @property
    def asks(self) -> bool:
        """Whether a policy acts."""
        return self.condition not in ("expert", "random")


@dataclass(frozen=True)
class Played:
    """An episode's result and the actions [T, A] that were carried out."""

    result: EpisodeResult
    actions: np.ndarray


@dataclass(frozen=True)
class Asked:
    """What a policy sees when it is asked for a chunk, and what it has to go on from.

    ``put``: with the first question of an episode, what the policy is told, shown and pictured.
    """

    observation: Observation
    underway: Underway | None
    put: Task | None = None


class NotFinite(EpisodeFault):
    """An action that is no number."""


class Actor(Protocol):
    """Whoever chooses the actions of an episode; see `policies.execution.Execution`."""

    @property
    def asks(self) -> bool:
        """Whether a chunk is due."""
        ...

    def underway(self) -> Underway | None:
        """What the chunk has to go on from."""
        ...

    def take(self, actions: np.ndarray) -> None:
        """The chunk."""
        ...

    def next(self) -> np.ndarray:
        """The next action [A]."""
        ...


class Alone:
    """An actor that asks nobody: the scripted expert (the ceiling), or uniform actions (the floor)."""

    asks = False

    def __init__(self, act: Callable[[], np.ndarray]) -> None:
        self._act = act

    def underway(self) -> None:
        """Nothing."""

    def take(self, actions: np.ndarray) -> None:
        """Nothing is ever asked for."""
        raise AssertionError("nothing was asked for")

    def next(self) -> np.ndarray:
        """The next action [A]."""
        return self._act().astype(np.float32)


def at_random(spec: ActionSpec, seed: int) -> Callable[[], np.ndarray]:
    """Uniform actions within the bounds."""
    rng = np.random.default_rng([0x0F100, seed])
    return lambda: rng.uniform(spec.low, spec.high)


class Game:
    """One episode under way, from the reset to the success or the last step; one that cannot be judged says why."""

    def __init__(self, scene: Scene, suite: Suite) -> None:
        self.scene, self._suite = scene, suite
        self._put: Task | None = None
        self._taken: list[np.ndarray] = []
        self._frames: list[np.ndarray] = []
        self._turns = self._play()

    def advance(self, chunk: np.ndarray | None = None) -> Asked | Played:
        """Carry out what was asked for, until something is asked for again or the episode is over."""
        try:
            return self._turns.send(chunk)
        except StopIteration as end:
            return end.value

    def _play(self) -> Generator[Asked, np.ndarray, Played]:
        scene, suite, fault = self.scene, self._suite, ""
        try:
            if scene.asks:
                self._put = _put(scene, suite)
            suite.reset(scene.task, scene.seed)
            senses = Senses(suite, scene.disturbed, _looks_through(scene, suite))
            with scene.disturbed.of_world(suite, scene.seed):
                yield from self._steps(_actor(scene, suite), senses)
                if scene.film:
                    self._write_film()
        except EpisodeFault as error:
            fault = f"{type(error).__name__}: {error}"
        actions = np.stack(self._taken) if self._taken else np.zeros((0, suite.spec.action.dim), np.float32)
        return Played(self._result(fault), actions)

    def _steps(self, actor: Actor, senses: Senses) -> Generator[Asked, np.ndarray, None]:
        suite = self._suite
        while not suite.success and suite.steps < suite.max_steps:
            senses.pass_by()
            if actor.asks:
                put = None if self._taken else self._put
                actor.take((yield Asked(senses.observe(), actor.underway(), put)))
            action = actor.next()
            if not np.isfinite(action).all():
                raise NotFinite(f"the action of step {suite.steps} is {action}")
            action = governed(action, suite.spec.action)
            if self.scene.film:
                self._frames.append(suite.film(FILM_SIZE))
            suite.step(action)
            self._taken.append(action)

    def _write_film(self) -> None:
        path, hz = Path(self.scene.film), self._suite.spec.control_hz
        path.parent.mkdir(parents=True, exist_ok=True)
        film = np.stack([*self._frames, self._suite.film(FILM_SIZE)])
        write_film(path, film if self._put is None else beside(self._put, film, hz), hz)

    def _result(self, fault: str) -> EpisodeResult:
        scene, told = self.scene, "" if self._put is None else self._put.instruction
        return EpisodeResult(  # a suite may be gone that failed, and then tells nothing
            task=scene.task,
            instruction=told if fault or self._put else self._suite.instruction,
            condition=scene.condition,
            seed=scene.seed,
            initial_state=scene.initial_state,
            success=not fault and self._suite.success,
            steps=len(self._taken),
            fault=fault,
            disturbed=str(scene.disturbed),
        )


def _actor(scene: Scene, suite: Suite) -> Actor:
    if scene.condition == "expert":
        return Alone(suite.expert())
    if scene.condition == "random":
        return Alone(at_random(suite.spec.action, scene.seed))
    spec = spec_for(scene.setting.checkpoint, suite.spec.embodiment)
    check_fits(spec, suite)
    return Execution(spec, scene.setting.execution)


def _looks_through(scene: Scene, suite: Suite) -> list[str]:
    """The names of the cameras whose pictures whoever acts is given."""
    spec = spec_for(scene.setting.checkpoint, suite.spec.embodiment) if scene.asks else suite.spec
    return [camera.name for camera in spec.cameras]


def _put(scene: Scene, suite: Suite) -> Task:
    """What the policy is told, shown and pictured; leaves ``suite`` in another state."""
    suite.reset(scene.told, scene.seed)
    told, goal = scene.disturbed.words(suite.instruction), None
    video = shown(scene.prompt, scene.condition, scene.seed) if scene.prompt else None
    if scene.goal:
        camera = spec_for(scene.setting.checkpoint, suite.spec.embodiment).cameras[0].name
        goal = pictured(scene.goal, suite, camera, scene.told, scene.seed, scene.condition)
    return Task(told, video, goal)


@cache
def shared_policy(checkpoint: str, *, embodiment: str = "", quick: bool = False) -> Policy:
    """The policy of this process, loaded once, and hastened if it is to be ``quick``."""
    policy = load_policy(checkpoint, embodiment=embodiment)
    if quick:
        policy.hasten()
    return policy


@cache
def spec_for(checkpoint: str, embodiment: str) -> PolicySpec:
    """What a checkpoint promises for an embodiment, without loading it."""
    folder = checked_folder(checkpoint)
    return read_specs(folder).get(embodiment) or read_spec(folder)


def play(scene: Scene) -> Played:
    """Play one episode with the suite and the policy of this process."""
    suite = shared_suite(suite_of(scene.task), scene.setting.suite_options)
    game, latencies = Game(scene, suite), []
    about = {"embodiment": suite.spec.embodiment, "quick": scene.setting.quick}
    turn = game.advance()
    while isinstance(turn, Asked):
        policy = shared_policy(scene.setting.checkpoint, **about)
        if turn.put is not None:
            policy.reset(turn.put, seed=scene.seed)
        began = perf_counter()
        chunk = policy.infer(turn.observation, turn.underway)
        latencies.append(1e3 * (perf_counter() - began))
        turn = game.advance(chunk.actions)
    return timed(turn, latencies)


def timed(played: Played, latencies_ms: Sequence[float]) -> Played:
    """With how long each answer took [ms]."""
    return replace(played, result=replace(played.result, latency_ms=tuple(latencies_ms)))


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


def check_fits(wants: PolicySpec, suite: Suite) -> None:
    """Refuse a policy whose actions, cameras, proprio or rate are not the suite's."""
    has = suite.spec
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


def play_all(scenes: Sequence[Scene], *, workers: int, batch: int = 1, cluster: str = "") -> Iterator[Played]:
    """Play scenes on ``workers`` processes (0: in this one), in order.

    ``batch``: how many episodes one policy answers at once (`sim.together`); with 1 each worker has its own.
    """
    asking = [scene for scene in scenes if scene.asks]
    if batch == 1 or not asking:
        yield from _apart(scenes, workers, cluster)
        return
    if cluster:
        raise UnderstudyError(f"batch={batch} is for this machine's workers; with cluster={cluster} give batch=1")
    from sim.together import play_together

    answered = play_together(asking, workers=workers, batch=batch)
    others = _apart([scene for scene in scenes if not scene.asks], workers, cluster)
    for scene in scenes:
        yield next(answered if scene.asks else others)


def _apart(scenes: Sequence[Scene], workers: int, cluster: str) -> Iterator[Played]:
    modules = {suite_module(suite_of(scene.task)) for scene in scenes}
    if any(scene.setting.checkpoint for scene in scenes):
        modules.add("policies.cogact")
    preload = ("sim.rollout", *sorted(modules))
    paths = {path for scene in scenes for path in (scene.setting.checkpoint, scene.prompt) if path}
    paths |= {scene.goal for scene in scenes if scene.goal and scene.goal not in GOALS}
    return run_jobs(play, scenes, workers=workers, preload=preload, cluster=cluster, paths=sorted(paths), lost=crashed)


def crashed(scene: Scene) -> Played:
    """What stands for an episode that takes the process along in which it is played."""
    fault = f"{EnvironmentCrashed.__name__}: the process that plays it dies, again and again"
    about = {"task": scene.task, "instruction": "", "condition": scene.condition, "seed": scene.seed}
    about |= {"initial_state": scene.initial_state, "disturbed": str(scene.disturbed)}
    result = EpisodeResult(**about, success=False, steps=0, fault=fault)
    return Played(result, np.zeros((0, 0), np.float32))
