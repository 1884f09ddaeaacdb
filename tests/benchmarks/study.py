"""What studies of policies share: cells that are played once and kept, and their table."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from policies import train as training
from policies.train import code_version
from sim.intervals import wilson
from sim.pool import default_workers, with_progress
from sim.results import Condition
from sim.rollout import Scene, Setting, play_all
from sim.suite import TEST_SEEDS
from vla.config import load

RESULTS = Path(__file__).with_name("results")
TRIAL = 40
"""Steps that tell how many fit into a time."""
Cell = dict[str, Any]


def play_tasks(
    tasks: Sequence[str], setting: Setting, condition: Condition, *, episodes: int, first_scene: int
) -> Cell:
    """Successes of each task on the test scenes, and the mean with its interval."""
    seeds = TEST_SEEDS[first_scene : first_scene + episodes]
    scenes = [Scene(setting, task, task, condition, seed) for task in tasks for seed in seeds]
    played = play_all(scenes, workers=default_workers())
    results = [one.result for one in with_progress(played, what=condition, total=len(scenes))]
    successes = {task: sum(one.success for one in results if one.task == task) for task in tasks}
    return cell_of(successes, episodes) | {"steps": sum(one.steps for one in results) / len(results)}


def cell_of(successes: Mapping[str, int], episodes: int) -> Cell:
    """Successes of each task among ``episodes``, and the mean with its interval."""
    total, tried = sum(successes.values()), episodes * len(successes)
    return {
        "tasks": dict(successes),
        "episodes": episodes,
        "success_rate": total / tried,
        "wilson": wilson(total, tried),
    }


def kept(name: str, play: Callable[[], Cell], *, episodes: int, **about: object) -> Cell:
    """What ``play()`` gives, from the file of that name when as many episodes were played before."""
    file = RESULTS / f"{name}.json"
    if not file.is_file() or json.loads(file.read_text())["episodes"] != episodes:
        file.write_text(json.dumps({**play(), **about, "code": code_version()}, indent=2) + "\n")
    return json.loads(file.read_text())


def train_for(seconds: float, out: Path, given: Sequence[str], *, batch_size: int) -> tuple[Path, float]:
    """Train for about so long: as many steps as `TRIAL` of them say; the checkpoint, and how long it took."""
    plan = out.with_suffix(".json")
    if not plan.is_file():
        trial = out.with_name(f"{out.name}-trial")
        shutil.rmtree(trial, ignore_errors=True)
        _train(trial, given, TRIAL)
        plan.parent.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps({"steps": max(TRIAL, round(TRIAL * seconds / _spent(trial, batch_size, skip=2)))}))
    steps = json.loads(plan.read_text())["steps"]
    if not (out / f"training_state/step-{steps:08d}").is_dir():
        _train(out, given, steps)
    return out, _spent(out, batch_size)


def _train(out: Path, given: Sequence[str], steps: int) -> None:
    every = ["trainer.log_every=5"] if steps == TRIAL else []
    settings = load(training.TrainConfig, "train", [*given, *every, f"out={out}", f"trainer.steps={steps}"])
    settings.resume = (out / "training_state").is_dir()
    training.run(settings)


def _spent(out: Path, batch_size: int, *, skip: int = 0) -> float:
    """Seconds of all steps, by the median step."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return lines[-1]["step"] * batch_size / median(line["samples_per_s"] for line in lines[skip:])


def mean_of(cell: Mapping[str, Any]) -> str:
    """The mean with its interval, as a table has it."""
    low, high = cell["wilson"]
    return f"{cell['success_rate']:.2f} ({low:.2f} – {high:.2f})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the page of studies."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))
