"""``vla probe``: ask checkpoints, networks that learned nothing and the raw pixels the same questions.

A checkpoint is a folder that `vla pretrain` wrote. A network of each kind of encoder among them with fresh weights and
the raw pixels are asked along, and for control a policy that learns end to end. Every cell is kept in the folder
``--out``: run again to go on, or with more checkpoints to have them in one table.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from vla.errors import unknown

EXAMPLE = """\
examples:
  vla probe outputs/pretrain --quick
  vla probe outputs/r3m outputs/voltron_gen --problems control retrieval alignment --out outputs/probe
"""

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """The command."""
    given = _parser().parse_args(argv)
    from rich.console import Console

    from sim.probe import report
    from sim.probe.material import CLUSTER
    from sim.probe.scale import FULL, QUICK, STUDY
    from sim.probe.study import PROBLEMS, answered, plan

    for name in given.problems or ():
        if name not in PROBLEMS:
            raise unknown("problem", name, PROBLEMS)
    CLUSTER.set(given.cluster)
    scale = QUICK if given.quick else STUDY if given.study else FULL
    subjects = _subjects(given.checkpoints, baselines=not given.no_baselines)
    more = {"exogenous": not given.no_distractor, "end_to_end": not given.no_baselines}
    asked = plan(subjects, given.problems or list(PROBLEMS), **more)
    began, cells = perf_counter(), []
    for number, cell in enumerate(answered(asked, scale, given.out / "cells"), start=1):
        left = (perf_counter() - began) / number * (len(asked) - number)
        logger.info("%d of %d, about %d s left: %s, %s", number, len(asked), left, cell.column, cell.subject)
        cells.append(cell)
    about = {"scale": scale.name, "subjects": len(subjects), "wall seconds": round(perf_counter() - began)}
    page = given.out / "probe.html"
    report.write(cells, about, json_path=given.json or given.out / "probe.json", page_path=page)
    report.tell(cells, Console(width=None if sys.stdout.isatty() else 200))
    logger.info("%s", page)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vla probe", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="a folder, random:FOLDER or pixels")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_true", help="fewer labels and rollouts, wider intervals")
    scale.add_argument("--study", action="store_true", help="all rollouts with 100 demonstrations, fewer labels")
    parser.add_argument("--problems", nargs="+", metavar="NAME", help="only these; an unknown name lists them")
    parser.add_argument("--no-distractor", action="store_true", help="leave out what is asked under a distractor")
    parser.add_argument("--no-baselines", action="store_true", help="only what is named")
    parser.add_argument(
        "--cluster",
        default="",
        metavar="WHERE",
        help="who makes stills, films and demonstrations: ray, or the address of a Ray cluster; heads learn here",
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/probe"), help="where cells, json and page go")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there instead of OUT/probe.json")
    return parser


def _subjects(paths: Sequence[str], *, baselines: bool) -> list:
    """The subjects that are named, and those that learned nothing; each once."""
    from sim.probe.subjects import Learned, Pixels, subject, untrained

    named = [subject(path) for path in paths]
    learned = [one for one in named if isinstance(one, Learned)]
    first = {}
    for one in learned:  # one for each kind of encoder, with and without words: more would be asked the same
        first.setdefault((one.representation.config.encoder.kind, one.reads, one.scores_captions), one)
    idle = [Pixels(), *(untrained(one.representation) for one in first.values())] if baselines else []
    return list({one.key: one for one in [*idle, *named]}.values())
