"""What every representation is asked about: stills with labels, and films of people and robots. Made once, kept.

Scenes to fit heads on are of the training seeds, scenes to be judged on of the test seeds; no film or still of one is
in the other. All are 64 pixels a side, and larger eyes get them enlarged.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sim.human_film import FilmJob, film
from sim.pool import default_workers, run_jobs, with_progress
from sim.probe.staged import Still, View, still
from sim.suite import TEST_SEEDS, TRAIN_SEEDS
from sim.tasks.tabletop import TASKS
from vla.data.frames import cache_folder

FORMAT = 4
"""Of what is kept; also to be raised when the scenes change."""
FIRST_SEED = 600_000
"""Of the scenes to fit heads on."""
FILM_TASKS = tuple(TASKS)
EVERY = 2
"""Of a film's frames one in two is kept, and so 5 a second."""
CLUSTER: ContextVar[str] = ContextVar("CLUSTER", default="")
"""Whose processes make stills, films and demonstrations (`sim.pool.run_jobs`), which changes nothing in them."""


@dataclass(frozen=True)
class Stills:
    """Pictures [N, S, S, 3] and what is in them; see `sim.probe.staged.Still`."""

    images: np.ndarray
    pose: np.ndarray
    graspable: np.ndarray
    box: np.ndarray
    words: np.ndarray
    split: np.ndarray


@dataclass(frozen=True)
class Films:
    """Films side by side: ``frames`` [sum of T, S, S, 3], of film *n* those from ``starts[n]`` to ``starts[n + 1]``.

    ``task`` and ``caption`` [N]; ``progress`` [sum of T] 0…1; ``success`` [N].
    """

    frames: np.ndarray
    starts: np.ndarray
    task: np.ndarray
    caption: np.ndarray
    progress: np.ndarray
    success: np.ndarray

    def __len__(self) -> int:
        return len(self.task)

    def split(self, rows: np.ndarray) -> list[np.ndarray]:
        """One value a frame [sum of T, …] → a list with those of each film."""
        return np.split(rows, self.starts[1:-1])


def stills(count: int, view: View, *, test: bool) -> Stills:
    """``count`` stills of training or test scenes."""
    return Stills(**kept("stills", {"count": count, "test": test, **asdict(view)}, partial(_stills, count, view, test)))


def _stills(count: int, view: View, test: bool) -> dict[str, np.ndarray]:
    seeds = TEST_SEEDS if test else TRAIN_SEEDS[FIRST_SEED:]
    found: list[Still] = []
    start = 0
    while len(found) < count:
        jobs = [(seed, view) for seed in seeds[start : start + (count - len(found)) * 5 // 4 + 8]]
        start += len(jobs)
        found += [made for made in _worked(_still, jobs, what="stills") if made is not None]
    columns = {name: np.array([getattr(made, name) for made in found[:count]]) for name in Still.__dataclass_fields__}
    return {"images": columns.pop("image"), **columns}


def _still(job: tuple[int, View]) -> Still | None:
    return still(*job)


def films(
    embodiment: str,
    per_task: int,
    *,
    tier: str,
    test: bool,
    exogenous: bool = False,
    failures: float = 0.0,
    tasks: tuple[str, ...] = FILM_TASKS,
) -> Films:
    """``per_task`` films of each of the ``tasks``; equal arguments but for the embodiment give the same scenes.

    In tier T1 a person's film has the robot's scene, look and camera; in T2 all of its own.
    """
    settings = {
        "embodiment": embodiment,
        "per_task": per_task,
        "tier": tier,
        "test": test,
        "exogenous": exogenous,
        "failures": failures,
        "tasks": tasks,
    }
    return Films(**kept("films", settings, partial(_films, **settings)))


def _films(
    embodiment: Any, per_task: int, tier: Any, test: bool, exogenous: bool, failures: float, tasks: tuple[str, ...]
) -> dict[str, np.ndarray]:
    seeds = TEST_SEEDS[500_000:] if test else TRAIN_SEEDS[FIRST_SEED:]
    shared = {"tier": tier, "embodiment": embodiment, "image_size": 64, "exogenous": exogenous, "failures": failures}
    jobs = [
        FilmJob(task, seed=seeds[number * len(FILM_TASKS) + FILM_TASKS.index(task)], **shared)
        for task in tasks
        for number in range(per_task)
    ]
    made = list(_worked(film, jobs, what=f"films ({embodiment})"))
    return {
        "frames": np.concatenate([one.frames[::EVERY] for one in made]),
        "starts": np.cumsum([0, *(len(one.frames[::EVERY]) for one in made)]),
        "task": np.array([job.task for job in jobs]),
        "caption": np.array([one.caption for one in made]),
        "progress": np.concatenate([one.labels["progress"][::EVERY] for one in made]),
        "success": np.array([bool(one.labels["success"]) for one in made]),
    }


def _worked(function: Callable[[Any], Any], jobs: Sequence[Any], *, what: str) -> Any:
    preload = ("sim.probe.staged", "sim.human_tabletop")
    results = run_jobs(function, jobs, workers=default_workers(), preload=preload, cluster=CLUSTER.get())
    return with_progress(results, what=what, total=len(jobs))


def kept(kind: str, settings: dict[str, Any], make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of the cache, or made and put there."""
    digest = hashlib.sha256(json.dumps([FORMAT, settings], sort_keys=True).encode()).hexdigest()[:12]
    path = cache_folder() / "probe" / f"{kind}-{digest}.npz"
    if not path.is_file():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(f"{path}.{os.getpid()}.part.npz")
        np.savez(part, **made)
        part.replace(path)
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
