"""``vla collect``: scripted experts record demonstrations, in parallel, into a LeRobot v3 dataset.

Noise is added to what is *done*, not to what is recorded: the arm strays, and the expert's clean action from there is
the label (as in DART, Laskey et al. 2017), so that the data shows how to come back. The noise lasts over several steps
(first order, `PERSISTENCE`): what averages out from one step to the next leads nowhere. Failed attempts are not kept.
"""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sim.pool import default_workers, run_jobs, with_progress
from sim.suite import TRAIN_SEEDS, EpisodeFault, make_suite, shared_suite, suite_class, suite_module, suite_of
from vla.config import help_text, load, wants_help
from vla.data.lerobot import DatasetSpec, EpisodeWriter, open_dataset
from vla.errors import UnderstudyError, unknown
from vla.types import EXPERT_SOURCE, ActionSpec, Episode, Task

logger = logging.getLogger(__name__)

EXAMPLE = "vla collect tasks=[tabletop/lift-red-cube,tabletop/open-drawer] episodes=50 out=outputs/collect"
PERSISTENCE = 0.8
PATIENCE = 4
"""A demonstration may take so many times a policy's steps: the noise costs time (stacking under it takes 150 steps)."""
MAX_FAILURES = 0.5
"""Failed attempts, for each episode asked for, at which collecting gives up on a task."""


@dataclass
class CollectConfig:
    """What to record."""

    tasks: tuple[str, ...] = ("tabletop/lift-red-cube",)
    """task names; ``*`` is allowed, e.g. tabletop/lift-*"""
    episodes: int = 50
    """successful episodes for each task"""
    out: Path = Path("outputs/collect")
    suite: dict[str, Any] = field(default_factory=dict)
    """options of the suite: image_size, cameras, randomize, renderer, profile"""
    noise: float = 0.3
    """standard deviation of the noise on what is done, in half ranges of each entry; the gripper gets none"""
    tail: int = 4
    """steps recorded from success on, so that the data shows the end of the movement and not only its threshold"""
    seed: int = 0
    """first training scene; scenes are numbered on from here"""
    workers: int = field(default_factory=default_workers)
    cluster: str = ""
    """whose processes record: "" this machine's; ray: those of a Ray of this command's own; or the address of a Ray
    cluster (auto, HOST:PORT, ray://HOST:PORT), which has as many workers as CPUs"""
    by: Literal["robot", "grabber"] = "robot"
    """who demonstrates: the arm's scripted expert, or a person with the arm's gripper and wrist camera in the hand
    (table-top tasks, suite.cameras=[wrist])"""
    labels: Literal["exact", "sfm"] = "exact"
    """how a grabber's motion is known: ``sfm`` as structure from motion tells it, with noise, of unknown scale, some
    frames lost"""
    storage: Literal["image", "video"] = "image"
    """image: exact PNG; video: mp4, smaller"""


@dataclass(frozen=True)
class Attempt:
    """One try at a demonstration; ``options``: the suite's, as JSON."""

    task: str
    seed: int
    noise: float
    tail: int
    options: str
    by: str = "robot"
    labels: str = "exact"


def main(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = "Record scripted experts in simulation. Run it again to go on where it stopped."
        sys.stdout.write(help_text(CollectConfig, verb="collect", about=about, example=EXAMPLE, name="collect"))
        return 0
    run(load(CollectConfig, "collect", argv))
    return 0


def run(config: CollectConfig) -> Path:
    """Record until every task has its episodes; what is already in ``out`` counts."""
    tasks = expand(config.tasks)
    options = json.dumps(config.suite, sort_keys=True)
    resume = (config.out / "meta").is_dir()
    kept = _recorded(config.out, tasks) if resume else {task: set() for task in tasks}
    _refuse_bad_numbers(config)
    with EpisodeWriter(config.out, _dataset_spec(tasks[0], config), resume=resume) as writer:
        failed: dict[str, set[int]] = {task: set() for task in tasks}
        while attempts := _next_attempts(config, kept, failed, options):
            done = sum(len(seeds) for seeds in kept.values())
            preload = ("sim.collect", suite_module(suite_of(tasks[0])))
            results = run_jobs(record, attempts, workers=config.workers, preload=preload, cluster=config.cluster)
            total = max(done, config.episodes * len(tasks))
            for attempt, episode in zip(attempts, with_progress(results, what="collect", total=total, done=done)):
                if episode is None:
                    failed[attempt.task].add(attempt.seed)
                else:
                    writer.save(episode)
                    kept[attempt.task].add(attempt.seed)
    logger.info("%d episodes in %s; %s", writer.num_episodes, config.out, _told_failures(failed))
    return config.out


def record(attempt: Attempt) -> Episode | None:
    """One demonstration, or ``None`` when it failed: a pure function of the attempt."""
    if attempt.by == "grabber":
        from sim.grabber import demonstrate

        return demonstrate(attempt)
    try:
        return _recorded_by_expert(attempt)
    except EpisodeFault as error:
        logger.warning("%s, seed %d: %s", attempt.task, attempt.seed, error)
        return None


def _recorded_by_expert(attempt: Attempt) -> Episode | None:
    suite = shared_suite(suite_of(attempt.task), attempt.options)
    suite.reset(attempt.task, attempt.seed)
    expert, rng = suite.expert(), np.random.default_rng([0xDA27, attempt.seed])
    scale = _noise_scale(suite.spec.action, attempt.noise)
    observations, actions = [], []
    drift, left = np.zeros(suite.spec.action.dim), attempt.tail
    while left and suite.steps < PATIENCE * suite.max_steps:
        observations.append(suite.observe())
        action = np.clip(expert(), suite.spec.action.low, suite.spec.action.high).astype(np.float32)
        actions.append(action)
        drift = PERSISTENCE * drift + (1 - PERSISTENCE**2) ** 0.5 * rng.standard_normal(len(action))
        suite.step(action + scale * drift)
        left -= suite.success
    if not suite.success:
        return None
    frames = {c.name: np.stack([o.images[c.name] for o in observations]) for c in suite.spec.cameras}
    return Episode(
        images={name: partial(np.asarray, stack) for name, stack in frames.items()},
        proprio=np.stack([observation.proprio for observation in observations]),
        actions=np.stack(actions),
        task=Task(suite.instruction),
        fps=suite.spec.control_hz,
        embodiment=suite.spec.embodiment,
        success=True,
        source=EXPERT_SOURCE + attempt.task,
        stamps_ns=np.array([observation.stamp_ns for observation in observations]),
        seed=attempt.seed,
        initial_state=attempt.seed - TRAIN_SEEDS.start,
    )


def expand(patterns: Sequence[str]) -> tuple[str, ...]:
    """Task names from names, sets such as ``metaworld/mt10`` and patterns such as ``tabletop/lift-*``; one suite's."""
    names = [name for pattern in patterns for name in _expanded(pattern)]
    if not names:
        raise UnderstudyError("no task given; for example tasks=[tabletop/lift-red-cube]")
    suites = {suite_of(name) for name in names}
    if len(suites) > 1:
        raise UnderstudyError(f"all tasks must be of one suite, got {', '.join(sorted(suites))}: run it once for each")
    return tuple(dict.fromkeys(names))


def _expanded(pattern: str) -> tuple[str, ...]:
    suite, slash, _ = pattern.partition("/")
    if not slash:
        suite_of(pattern)  # an error that says how a task is written
    made = suite_class(suite)
    known, sets = made.task_names(), getattr(made, "task_sets", dict)()  # not every suite names sets
    found = tuple(name for name in known if fnmatchcase(name, pattern)) if "*" in pattern else sets.get(pattern)
    if not found and pattern not in known:
        raise unknown("task", pattern, (*known, *sets))
    return found or (pattern,)


def _refuse_bad_numbers(config: CollectConfig) -> None:
    if config.episodes < 1:
        raise UnderstudyError(f"episodes must be at least 1, got {config.episodes}")
    if config.noise < 0:
        raise UnderstudyError(f"noise must not be negative, got {config.noise}")
    if config.by == "grabber" and suite_of(expand(config.tasks)[0]) != "tabletop":
        raise UnderstudyError("by=grabber demonstrates tabletop tasks only")
    if config.labels != "exact" and config.by == "robot":
        raise UnderstudyError(f"labels={config.labels} is for by=grabber: a robot knows how it moved")
    if config.tail < 1:
        raise UnderstudyError(f"tail must be at least 1 (the step of success itself), got {config.tail}")


def _recorded(out: Path, tasks: Sequence[str]) -> dict[str, set[int]]:
    """Which scenes of each task ``out`` already has."""
    kept: dict[str, set[int]] = {task: set() for task in tasks}
    for info in open_dataset(out).episodes:
        task = info.source.removeprefix(EXPERT_SOURCE)
        if task in kept and info.seed is not None:
            kept[task].add(info.seed)
    return kept


def _next_attempts(
    config: CollectConfig, kept: dict[str, set[int]], failed: dict[str, set[int]], options: str
) -> list[Attempt]:
    """As many more scenes of each task as it lacks episodes, the tasks in turn; none when all have theirs."""
    columns = []
    for task, seeds in kept.items():
        missing = max(0, config.episodes - len(seeds))
        if missing and len(failed[task]) > MAX_FAILURES * config.episodes + 5:
            raise UnderstudyError(
                f"{'the expert of ' if config.by == 'robot' else 'a person at '}{task} failed in "
                f"{len(failed[task])} of {len(failed[task]) + len(seeds)} scenes"
                + (f" with noise={config.noise}; lower the noise" if config.by == "robot" else "")
            )
        fresh = (seed for seed in TRAIN_SEEDS[config.seed :] if seed not in seeds and seed not in failed[task])
        how = (config.noise, config.tail, options, config.by, config.labels)
        columns.append([Attempt(task, seed, *how) for seed in islice(fresh, missing)])
    return [attempt for row in zip_longest(*columns) for attempt in row if attempt is not None]


def named(labels: str) -> str:
    """The embodiment of a grabber's recordings, which differ in how its motion is known."""
    return "grabber" if labels == "exact" else f"grabber {labels}"


def _dataset_spec(task: str, config: CollectConfig) -> DatasetSpec:
    spec = make_suite(suite_of(task), **config.suite).spec
    return DatasetSpec(
        fps=spec.control_hz,
        cameras=spec.cameras,
        proprio_names=spec.proprio_names,
        action=spec.action,
        embodiment=spec.embodiment if config.by == "robot" else named(config.labels),
        fingerprint=spec.fingerprint,
        storage=config.storage,
    )


def _noise_scale(spec: ActionSpec, noise: float) -> np.ndarray:
    """Standard deviation of each entry [A], physical units; none for the gripper."""
    scale = noise * (np.asarray(spec.high) - np.asarray(spec.low)) / 2
    if spec.gripper is not None:
        scale[spec.gripper.index] = 0.0
    return scale


def _told_failures(failed: dict[str, set[int]]) -> str:
    counts = [f"{task} {len(seeds)}" for task, seeds in failed.items() if seeds]
    return f"failed attempts, not kept: {', '.join(counts)}" if counts else "no attempt failed"
