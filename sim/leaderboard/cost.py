"""What each row of a leaderboard cost, and the commands that made it: only what is recorded, nothing guessed."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors import SafetensorError

from policies.policy import parameters_of
from policies.provenance import read_provenance
from sim.leaderboard.runs import Entrant, Run
from sim.results import latency_table
from vla.errors import UnderstudyError


def cost_of(entrant: Entrant) -> dict[str, Any]:
    """Time, size and latency of a policy; None where it is not recorded.

    ``train_s`` [s] and ``evaluate_s`` [s]: the mean over its trainings; ``train_s_each``: every one of them;
    ``parameters``: None also where the trainings differ in it; ``latency_ms`` [ms]: over all inferences of all of its
    runs, as `sim.results.latency_table`; ``demonstrations``: recorded episodes that it was trained on.
    """
    trained = [train_s(run) for run in entrant.runs]
    samples = [value for run in entrant.runs for one in run.episodes["policy"].values() for value in one.latency_ms]
    return {
        "train_s": _mean(trained),
        "train_s_each": trained,
        "parameters": _same([parameters(run) for run in entrant.runs]),
        "latency_ms": latency_table(samples),
        "evaluate_s": _mean([_number((run.report.get("wall_s") or {}).get("evaluate")) for run in entrant.runs]),
        "demonstrations": _same([_count(run.training.get("episodes")) for run in entrant.runs]),
    }


def commands_of(run: Run) -> dict[str, Any]:
    """``training``: a command for each stage, the first one first; ``evaluation``; None where it is not recorded."""
    return {
        "run": str(run.folder),
        "training": [_words(stage.get("command")) for stage in stages(run)],
        "evaluation": _words(run.provenance.get("command")),
    }


def stages(run: Run) -> list[Mapping[str, Any]]:
    """How the checkpoint came about, before it how those did whose weights it began with; the first one first."""
    found, seen = [run.training], {run.checkpoint}
    while (before := found[0].get("start_from")) and before not in seen:
        seen.add(before)
        found.insert(0, read_provenance(Path(before)))
    return found


def train_s(run: Run) -> float | None:
    """Seconds of training, all stages together [s]; None when one of them is not recorded."""
    spent = [_number(stage.get("train_s")) for stage in stages(run)]
    known = [seconds for seconds in spent if seconds is not None]
    return sum(known) if len(known) == len(spent) else None


def parameters(run: Run) -> int | None:
    """Numbers in the policy: as the report says, else counted in the header of the checkpoint's weights."""
    told = _count(run.provenance.get("parameters"))
    if told is not None or not run.checkpoint:
        return told
    try:
        return parameters_of(Path(run.checkpoint))
    except SafetensorError as error:
        raise UnderstudyError(f"the weights in {run.checkpoint} cannot be read: {error}") from error


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(value: object) -> int | None:
    return None if (number := _number(value)) is None else int(number)


def _words(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _same[T](values: list[T | None]) -> T | None:
    return values[0] if len(set(values)) == 1 else None
