"""``vla human``: film a simulated hand (or a tool, or the robot) at tasks, with captions, in parallel.

What is written:

    out/captions.jsonl            a line for each film: its clip and the words for it
    out/clips/000012.mp4          10 frames a second
    out/privileged/clips.jsonl    what each film is: task, tier, seed, success, pair, …
    out/privileged/000012.npz     what happens in it, frame by frame (`vla.data.privileged` reads it)
    out/settings.json             what the films were made with

The words and the pictures are all that a learner from video may see. Every film is a pure function of its job
(`sim.human_film.film`), so that neither the number of workers nor an interruption changes anything.
"""

import io
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import batched
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sim.collect import expand
from sim.human_film import EMBODIMENTS, TIERS, Film, FilmJob, film
from sim.pool import default_workers, run_jobs, with_progress
from sim.suite import TEST_SEEDS, TRAIN_SEEDS, suite_of
from sim.tasks.tabletop_scene import RANDOMIZABLE
from vla.config import help_text, load, wants_help
from vla.data.privileged import LABELS, TABLE
from vla.data.video import encode_mp4
from vla.errors import UnderstudyError, unknown

__all__ = ["Film", "FilmJob", "HumanConfig", "film", "jobs_of", "main", "run"]
logger = logging.getLogger(__name__)

EXAMPLE = "vla human tasks=[tabletop/*] clips=200 out=outputs/sim-human"
CAPTIONS, SETTINGS = "captions.jsonl", "settings.json"
IN_A_ROW = {"metaworld": 4}
"""Films of a task that follow each other, in suites where a new task costs as much as a film; one in the others."""
_MIXED = ("hand",) * 6 + ("grabber", "sphere")
_BATCH = 500
"""Films that are under way at once: their bytes lie in memory until they are written in order."""


@dataclass
class HumanConfig:
    """What to film."""

    tasks: tuple[str, ...] = ("tabletop/*",)
    """task names of one suite; ``*`` is allowed; taken in turn"""
    clips: int = 200
    """films in all"""
    out: Path = Path("outputs/sim-human")
    embodiment: Literal["hand", "grabber", "sphere", "robot", "mixed"] = "hand"
    """mixed: in turn a demonstrator (mostly the hand) and the robot of the same pair"""
    tiers: tuple[str, ...] = ("T1", "T2", "T3")
    """T0 the robot frame by frame, T1 its scene, T2 another, T3 other objects; one that is named twice is drawn twice
    as often"""
    image_size: int = 96
    camera: Literal["front", "side", "ego"] = "front"
    randomize: tuple[str, ...] = RANDOMIZABLE
    """any of colors, lights, camera, distractors"""
    exogenous: bool = False
    """add a ball that moves by itself and a light that swings"""
    failures: float = 0.1
    """share of a demonstrator's attempts that fail; the words stay the same"""
    split: Literal["train", "test"] = "train"
    """scenes to learn from, or those to be judged on"""
    seed: int = 0
    """first scene of the split; scenes are numbered on from here"""
    workers: int = field(default_factory=default_workers)


def main(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = "Film a simulated hand doing tasks, with captions. Run it again to go on where it stopped."
        sys.stdout.write(help_text(HumanConfig, verb="human", about=about, example=EXAMPLE, name="human"))
        return 0
    run(load(HumanConfig, "human", argv))
    return 0


def run(config: HumanConfig) -> Path:
    """Film until ``out`` has its clips; what is already there counts."""
    jobs = jobs_of(config)
    _prepare(config)
    done = _recover(config.out)
    left = list(enumerate(jobs))[done:]
    results = (pair for batch in batched(left, _BATCH) for pair in _filmed(batch, config.workers))
    with (
        (config.out / TABLE).open("a", encoding="utf-8") as table,
        (config.out / CAPTIONS).open("a", encoding="utf-8") as captions,
    ):
        for number, made in with_progress(results, what="film", total=max(done, len(jobs)), done=done):
            name = _name(number)
            _write(config.out / "clips" / f"{name}.mp4", made.video)
            _write(config.out / LABELS.format(name=name), made.labels)
            # the caption is last: what has none is filmed again
            _append(table, {"name": name, **made.about})
            _append(captions, {"file": f"clips/{name}.mp4", "caption": made.caption})
    logger.info("%d films in %s", max(done, len(jobs)), config.out)
    return config.out


def jobs_of(config: HumanConfig) -> list[FilmJob]:
    """Every film to be made, the tasks in turn, each with a scene of its own (films of a pair share theirs)."""
    _refuse(config)
    tasks = expand(config.tasks)
    seeds = TRAIN_SEEDS if config.split == "train" else TEST_SEEDS
    in_a_row = IN_A_ROW.get(suite_of(tasks[0]), 1)
    jobs = []
    for number in range(config.clips):
        turn, second = divmod(number, 2) if config.embodiment == "mixed" else (number, 0)
        seed = seeds[config.seed + turn]
        rng = np.random.default_rng([0x71E4, seed])
        tier, embodiment = config.tiers[rng.integers(len(config.tiers))], config.embodiment
        if embodiment == "mixed":
            embodiment = "robot" if second else _MIXED[rng.integers(len(_MIXED))]
        jobs.append(
            FilmJob(
                task=tasks[turn // in_a_row % len(tasks)],
                tier=tier,
                seed=seed,
                embodiment=embodiment,
                image_size=config.image_size,
                camera=config.camera,
                exogenous=config.exogenous,
                failures=config.failures,
                randomize=tuple(config.randomize),
            )
        )
    return jobs


@dataclass(frozen=True)
class _Made:
    """A film as the bytes of its files."""

    video: bytes
    labels: bytes
    caption: str
    about: dict[str, Any]


def _make(job: FilmJob) -> _Made:
    made = film(job)
    sink = io.BytesIO()
    np.savez_compressed(sink, allow_pickle=False, **made.labels)
    return _Made(encode_mp4(made.frames, made.about["fps"]), sink.getvalue(), made.caption, made.about)


def _filmed(batch: Sequence[tuple[int, FilmJob]], workers: int) -> Iterator[tuple[int, _Made]]:
    numbers, jobs = zip(*batch, strict=True)
    module = "sim.human_metaworld" if jobs[0].task.startswith("metaworld/") else "sim.human_tabletop"
    return zip(numbers, run_jobs(_make, jobs, workers=workers, preload=("sim.human", module)), strict=True)


def _refuse(config: HumanConfig) -> None:
    """Say what is wrong before anything is started."""
    if config.clips < 1:
        raise UnderstudyError(f"clips must be at least 1, got {config.clips}")
    if not 0 <= config.failures <= 1:
        raise UnderstudyError(f"failures is a share, 0 to 1, got {config.failures}")
    if config.image_size < 16 or config.image_size % 2:
        raise UnderstudyError(f"image_size must be even and at least 16, got {config.image_size}")
    last = config.seed + config.clips
    if config.seed < 0 or last > len(TRAIN_SEEDS):
        raise UnderstudyError(f"seed and clips must lie within {len(TRAIN_SEEDS)} scenes, got up to {last}")
    for tier in config.tiers or ("",):
        if tier not in TIERS:
            raise unknown("tier", tier, TIERS)
    for kind in config.randomize:
        if kind not in RANDOMIZABLE:
            raise unknown("kind of randomisation", kind, RANDOMIZABLE)
    assert {*EMBODIMENTS, "mixed"} >= {config.embodiment}


def _prepare(config: HumanConfig) -> None:
    """Make the folders, and refuse to go on with other settings than those that ``out`` was begun with."""
    settings = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(config).items()
        if key not in ("clips", "out", "workers")
    }
    path = config.out / SETTINGS
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        for key, value in settings.items():
            if before.get(key) != value:
                raise UnderstudyError(
                    f"{config.out} was begun with {key}={before.get(key)}, not {value}: use another out"
                )
    for folder in (config.out / "clips", (config.out / TABLE).parent):
        folder.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(settings, indent=1, sort_keys=True).encode())


def _recover(out: Path) -> int:
    """How many films are complete; lines of those that are not are cut off."""
    tables = [out / CAPTIONS, out / TABLE]
    lines = [_whole_lines(path) for path in tables]
    done = min(map(len, lines))
    for path, rows in zip(tables, lines, strict=True):
        _write(path, b"".join(rows[:done]))
    return done


def _whole_lines(path: Path) -> list[bytes]:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines


def _append(file: io.TextIOBase, row: dict[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, whatever happens."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def _name(number: int) -> str:
    return f"{number:06d}"
