"""Which evaluations a leaderboard is of: its arguments, read, named and put together into rows.

CogACT=outputs/cogact-*/eval   ─►  Entrant("CogACT", (Run, Run, Run))   the trainings of one policy
outputs/other/eval             ─►  Entrant("train", (Run,))             named by its checkpoint's folder
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.results import CONDITIONS, Condition, EpisodeResult, episodes_of, read_report
from vla.errors import UnderstudyError

type Scene = tuple[str, int]
"""(task, seed)"""


@dataclass(frozen=True)
class Run:
    """One evaluation: ``folder`` is what its films are relative to; ``episodes``: condition → scene → episode."""

    folder: Path
    report: Mapping[str, Any]
    episodes: Mapping[Condition, Mapping[Scene, EpisodeResult]]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How the report came about; empty when it does not say."""
        return self.report.get("provenance") or {}

    @property
    def training(self) -> Mapping[str, Any]:
        """How the checkpoint came about; empty when the report does not say."""
        policy = self.provenance.get("policy")
        return policy if isinstance(policy, Mapping) else {}

    @property
    def checkpoint(self) -> str:
        """The folder of what was evaluated, "" when the report does not say."""
        return str(self.provenance.get("checkpoint") or "")


@dataclass(frozen=True)
class Entrant:
    """A policy, and the evaluations of its trainings."""

    name: str
    runs: tuple[Run, ...]


def read_entrants(arguments: Sequence[str]) -> list[Entrant]:
    """Read ``NAME=RUN[,RUN…]`` and ``RUN``; a RUN is a report.json, its folder, or a pattern of them with ``*``.

    Raises `UnderstudyError` for what is no report, for a report that is given twice, and for a NAME that holds two
    evaluations of one checkpoint: that would pass for two trainings.
    """
    named: dict[str, list[Path]] = {}
    alone: list[Path] = []
    for argument in arguments:
        name, given, runs = argument.partition("=")
        if given and name and "/" not in name:
            named.setdefault(name, []).extend(file for run in runs.split(",") for file in _files(run))
        else:
            alone += _files(argument)
    _refuse_twice([file.resolve() for files in (*named.values(), alone) for file in files], "the report {} is given")
    entrants = [Entrant(name, tuple(read_run(file) for file in files)) for name, files in named.items()]
    for entrant in entrants:
        checkpoints = [run.checkpoint for run in entrant.runs if run.checkpoint]
        _refuse_twice(checkpoints, f"{entrant.name} is to be several trainings, and the checkpoint {{}} is there")
    others = [read_run(file) for file in alone]
    names = _names([Path(run.checkpoint or run.folder) for run in others], set(named))
    return entrants + [Entrant(name, (run,)) for name, run in zip(names, others)]


def read_run(file: Path) -> Run:
    """Read one evaluation from its report.json."""
    report = read_report(file)
    episodes = {}
    for condition in CONDITIONS:
        played = episodes_of(report, condition)
        scenes = [f"{one.task}, seed {one.seed}" for one in played]
        _refuse_twice(scenes, f"in {file} the {condition} episode of {{}} is")
        episodes[condition] = {(one.task, one.seed): one for one in played}
    return Run(file.parent, report, episodes)


def _files(run: str) -> list[Path]:
    path = Path(run)
    if "*" in run:
        root = Path(path.anchor)
        found = sorted(root.glob(str(path.relative_to(root))))
        if not found:
            raise UnderstudyError(f"nothing is at {run}; give a report.json or the folder that holds one")
    else:
        found = [path]
    return [one / "report.json" if one.is_dir() else one for one in found]


def _refuse_twice(things: Iterable[object], said: str) -> None:
    seen: set[object] = set()
    for thing in things:
        if thing in seen:
            raise UnderstudyError(f"{said.format(thing)} twice; it counts once")
        seen.add(thing)


def _names(checkpoints: Sequence[Path], taken: set[str]) -> list[str]:
    """Each checkpoint's folder, with as many of the folders around it as tell all of them apart."""
    for length in range(1, max((len(path.parts) for path in checkpoints), default=0) + 1):
        names = ["/".join(path.parts[-length:]) for path in checkpoints]
        if len({*names, *taken}) == len(names) + len(taken):
            return names
    if not checkpoints:
        return []
    raise UnderstudyError("some runs are evaluations of the same checkpoint: name them apart, with NAME=RUN")
