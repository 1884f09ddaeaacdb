"""The probe as a table of cells: one problem, one subject, one scale; each is kept as soon as it is known.

A cell's file is named after the subject's features and the scale of the questions, so that a checkpoint that was
trained further is asked anew, and one that was only copied is not.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

from sim.probe import control, moving, pictures
from sim.probe.material import FORMAT as MATERIAL
from sim.probe.record import Metric
from sim.probe.scale import Scale
from sim.probe.subjects import Learned, Subject

FORMAT = 3
"""Of the cells; to be raised when a problem asks something else."""

Ask = Callable[[Any, Scale, bool], dict[str, Metric]]


def _everybody(eyes: Subject) -> bool:
    return True


@dataclass(frozen=True)
class Problem:
    """One question. ``headline``: the metric that a table shows first; ``shaken``: also asked under the distractor.

    ``of``: the subjects that have an answer.
    """

    ask: Ask
    about: str
    headline: str
    shaken: bool = False
    end_to_end: bool = False
    of: Callable[[Subject], bool] = _everybody


def _scores_captions(eyes: Subject) -> bool:
    return isinstance(eyes, Learned) and eyes.scores_captions


def _reads(eyes: Subject) -> bool:
    return eyes.reads


PROBLEMS = {
    "grasp": Problem(pictures.grasp, "where a suction cup holds", "precision 1 %"),
    "refer": Problem(pictures.refer, "the box of what is named", "accuracy IoU 0.25"),
    "control": Problem(
        control.control, "frozen eyes, few demonstrations", "success 100 demos", shaken=True, end_to_end=True
    ),
    "language": Problem(control.language, "one policy, told what to do", "success", end_to_end=True),
    "intent": Problem(moving.intent, "what is somebody about to do", "robot at 100%", of=_scores_captions),
    "pose": Problem(pictures.pose, "where the objects and the hand are", "objects, linear R²", shaken=True),
    "alignment": Problem(moving.alignment, "the same moment, person and robot", "τ", shaken=True),
    "retrieval": Problem(moving.retrieval, "the same task, person and robot", "mAP", shaken=True),
    "value": Problem(moving.value, "how far has it come", "Spearman with progress"),
    "reading": Problem(
        moving.reading, "the right caption fills in what is masked", "gain of the right caption", of=_reads
    ),
    "collapse": Problem(moving.collapse, "do the vectors differ", "effective rank"),
}
END_TO_END = "end to end"


@dataclass(frozen=True)
class Cell:
    """One entry of the study."""

    problem: str
    subject: str
    key: str
    scale: str
    exogenous: bool
    metrics: dict[str, Metric]
    seconds: float

    @property
    def column(self) -> str:
        """The problem's name, with a mark for the distractor."""
        return column_of(self.problem, self.exogenous)


def column_of(problem: str, exogenous: bool) -> str:
    """What a column is called."""
    return problem + (" + distractor" if exogenous else "")


@dataclass(frozen=True)
class Asked:
    """A cell to be found out; without ``eyes`` a policy learns end to end."""

    problem: str
    eyes: Subject | None
    exogenous: bool

    @property
    def name(self) -> str:
        """Of the subject."""
        return self.eyes.name if self.eyes else END_TO_END

    @property
    def key(self) -> str:
        """Of the features."""
        return self.eyes.key if self.eyes else "end-to-end"


def plan(
    subjects: Sequence[Subject], problems: Sequence[str], *, exogenous: bool, end_to_end: bool = True
) -> list[Asked]:
    """Every cell, problem by problem, so that the first column is whole first.

    ``end_to_end``: also a policy that learns to see by itself, where there is one; not a second time under the
    distractor.
    """
    cells = []
    for name in problems:
        problem = PROBLEMS[name]
        for shaken in (False, True) if problem.shaken and exogenous else (False,):
            able = [*filter(problem.of, subjects)] if problem.of is not _everybody else _without_doubles(subjects)
            alone = end_to_end and problem.end_to_end and not shaken
            who: list[Subject | None] = [*able, *[None] * alone]
            cells += [Asked(name, eyes, shaken) for eyes in who]
    return cells


def _without_doubles(subjects: Sequence[Subject]) -> list[Subject]:
    """One random init for each kind of encoder: of pictures alone, one with words knows no more than one without."""
    found: dict[str, Subject] = {}
    for one in subjects:
        kind = one.key
        if isinstance(one, Learned) and one.key.startswith("random-"):
            kind = f"random-{one.representation.config.encoder.kind}"
        found.setdefault(kind, one)
    return list(found.values())


def answered(asked: Sequence[Asked], scale: Scale, folder: Path) -> Iterator[Cell]:
    """Every cell in order: read if it is there, else found out and written."""
    folder.mkdir(parents=True, exist_ok=True)
    version = sha256(repr((FORMAT, MATERIAL, scale)).encode()).hexdigest()[:6]
    for one in asked:
        path = folder / f"{one.key}-{one.problem}{'-distractor' * one.exogenous}-{scale.name}-{version}.json"
        cell = _read(path)
        if cell is None:
            began = perf_counter()
            metrics = PROBLEMS[one.problem].ask(one.eyes, scale, one.exogenous)
            took = perf_counter() - began
            cell = Cell(one.problem, one.name, one.key, scale.name, one.exogenous, metrics, took)
            _write(path, cell)
        yield Cell(**{**cell.__dict__, "subject": one.name})


def _write(path: Path, cell: Cell) -> None:
    metrics = {name: metric.to_dict() for name, metric in cell.metrics.items()}
    plain = {**asdict(cell), "metrics": metrics, "format": FORMAT, "seconds": round(cell.seconds, 1)}
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(plain, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def _read(path: Path) -> Cell | None:
    try:
        plain = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if plain.pop("format", None) != FORMAT:
        return None
    metrics = {name: metric_of(metric) for name, metric in plain.pop("metrics").items()}
    return Cell(**plain, metrics=metrics)


def metric_of(plain: Mapping[str, Any]) -> Metric:
    """The inverse of `Metric.to_dict`."""
    return Metric(**{**plain, "items": tuple(plain["items"])})
