"""What studies of policies share: cells that are played once and kept, and their table."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

from policies import train as training
from policies.checkpoint import CONFIG, WEIGHTS
from policies.provenance import code_version
from sim.intervals import newcombe, wilson
from sim.pool import default_workers, with_progress
from sim.results import Condition
from sim.rollout import Scene, Setting, play_all
from sim.suite import TEST_SEEDS
from vla.config import load
from vla.errors import UnderstudyError

RESULTS = Path(__file__).with_name("results")
TRIAL = 40
"""Steps that tell how many fit into a time."""
Cell = dict[str, Any]


def play_tasks(
    tasks: Sequence[str], setting: Setting, condition: Condition, *, episodes: int, first_scene: int
) -> Cell:
    """Successes of each task on the test scenes, and the mean with its interval."""
    seeds = TEST_SEEDS[first_scene : first_scene + episodes]
    return play_scenes([Scene(setting, task, task, condition, seed) for task in tasks for seed in seeds])


def play_scenes(scenes: Sequence[Scene]) -> Cell:
    """Successes of each task on as many scenes of each, the mean with its interval, and which scenes were won."""
    played = with_progress(play_all(scenes, workers=default_workers()), what=scenes[0].condition, total=len(scenes))
    results = [one.result for one in played]
    won: dict[str, list[bool]] = {}
    for one in results:
        won.setdefault(one.task, []).append(one.success)
    episodes = len(scenes) // len(won)
    return cell_of({task: sum(each) for task, each in won.items()}, episodes) | {
        "steps": sum(one.steps for one in results) / len(results),
        "won": [int(one.success) for one in results],
    }


def more(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """How many points ``b`` is above ``a`` in the same scenes, with the interval of the paired difference."""
    pairs = Counter(zip(a["won"], b["won"], strict=True))
    low, high = newcombe(pairs[1, 1], pairs[1, 0], pairs[0, 1], pairs[0, 0])
    return f"{100 * (b['success_rate'] - a['success_rate']):+.0f} ({100 * low:.0f} – {100 * high:.0f})"


def cell_of(successes: Mapping[str, int], episodes: int) -> Cell:
    """Successes of each task among ``episodes``, and the mean with its interval."""
    total, tried = sum(successes.values()), episodes * len(successes)
    return {
        "tasks": dict(successes),
        "episodes": episodes,
        "success_rate": total / tried,
        "wilson": wilson(total, tried),
    }


def kept(
    name: str, play: Callable[[], Cell], *, episodes: int, checkpoint: Path | None = None, **about: object
) -> Cell:
    """What ``play()`` gives, from the file of that name when as many episodes were played before, of that checkpoint.

    ``about``: what else is to be written down.
    """
    file, key = RESULTS / f"{name}.json", {"episodes": episodes}
    if checkpoint is not None:
        key["checkpoint"] = fingerprint(checkpoint)
    found = json.loads(file.read_text()) if file.is_file() else {}
    if any(found.get(name) != value for name, value in key.items()):
        found = {**key, **play(), **about, "code": code_version()}
        file.write_text(json.dumps(found, indent=2) + "\n")
    return found


def fingerprint(checkpoint: Path) -> str:
    """Of a checkpoint's settings and weights."""
    parts = ((checkpoint / name).read_bytes() for name in (CONFIG, WEIGHTS))
    return sha256(b"".join(parts)).hexdigest()[:16]


def train_for(seconds: float, out: Path, given: Sequence[str], *, batch_size: int) -> tuple[Path, float]:
    """Train for about so long: as many steps as `TRIAL` of them say; the checkpoint, and how long it took.

    Raises `UnderstudyError` where ``out`` holds what was trained for another time or with other settings.
    """
    file, plan = out.with_suffix(".json"), {"seconds": seconds, "settings": list(given)}
    if not file.is_file():
        trial = out.with_name(f"{out.name}-trial")
        shutil.rmtree(trial, ignore_errors=True)
        _train(trial, given, TRIAL)
        steps = max(TRIAL, round(TRIAL * seconds / _spent(trial, batch_size, skip=2)))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"steps": steps, **plan}))
    found = json.loads(file.read_text())
    if {name: found.get(name) for name in plan} != plan:
        raise UnderstudyError(f"{out} was trained with {found}, and {plan} is asked for: remove it and {file.name}")
    steps = found["steps"]
    if not (out / f"training_state/step-{steps:08d}").is_dir():
        _train(out, given, steps)
    return out, _spent(out, batch_size)


def _train(out: Path, given: Sequence[str], steps: int) -> None:
    every = ["trainer.log_every=5"] if steps == TRIAL else []
    settings = load(training.TrainConfig, "train", [*given, *every, f"out={out}", f"trainer.steps={steps}"])
    settings.resume = (out / "training_state").is_dir()
    training.run(settings)


def steps_of(checkpoint: Path) -> int:
    """How many steps it has been trained."""
    return _lines(checkpoint)[-1]["step"]


def _spent(out: Path, batch_size: int, *, skip: int = 0) -> float:
    """Seconds of all steps, by the median step."""
    return steps_of(out) * batch_size / median(line["samples_per_s"] for line in _lines(out)[skip:])


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def mean_of(cell: Mapping[str, Any]) -> str:
    """The mean with its interval, as a table has it."""
    low, high = cell["wilson"]
    return f"{cell['success_rate']:.2f} ({low:.2f} – {high:.2f})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the page of studies."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))
