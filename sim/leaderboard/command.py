"""``vla leaderboard RUNS…``: the evaluations of several policies, each trained once or more, on one page.

board = standings(read_entrants(["CogACT=outputs/cogact-*/eval", "ACT=outputs/act-*/eval"]))
board["verdict"], board["rows"][0]["success_rate"], board["rows"][0]["interval"], board["rows"][0]["rank"]
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sim.leaderboard.films import sources
from sim.leaderboard.page import UNKNOWN, latency_text, page, rank_text, size_text
from sim.leaderboard.runs import read_entrants
from sim.leaderboard.standings import standings
from sim.results import write_json
from vla.errors import UnderstudyError

COST = ("min", "params", "p50/p95 ms")
"""Training time of one training, numbers in the policy, latency: the columns of cost on the terminal."""
NAME_WIDTH = 16
EXAMPLE = """\
A RUN is a report.json of `vla eval`, the folder that holds one, or a pattern of them with *. Runs of one NAME are
trainings of one policy with different seeds, and become one row.

example:
  vla leaderboard CogACT=outputs/mt10-seeds/cogact-*/eval ACT=outputs/mt10-seeds/act-*/eval outputs/other/eval
"""


def main(argv: list[str]) -> int:
    """``vla leaderboard RUNS… [--out FOLDER] [--json FILE] [--csv FILE]``."""
    parser = argparse.ArgumentParser(
        prog="vla leaderboard",
        description="Rank policies by their success on the scenes that all of them were given.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="RUN, or NAME=RUN[,RUN…]")
    parser.add_argument("--out", type=Path, default=Path("outputs/leaderboard"), metavar="FOLDER", help="for the page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the leaderboard as JSON here too")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a table, a line for each policy")
    options = parser.parse_args(argv)
    for file in (options.json, options.csv):
        if file is not None and file.is_dir():
            raise UnderstudyError(f"{file} is a folder; name a file to write, such as {file / 'leaderboard.json'}")
    board = standings(read_entrants(options.runs))
    path = write_leaderboard(options.out, board)
    if options.json is not None:
        write_json(options.json, board)
    if options.csv is not None:
        write_csv(options.csv, board)
    _show(board, path, Console(highlight=False))
    return 0


def write_leaderboard(folder: Path, board: Mapping[str, Any]) -> Path:
    """Write ``leaderboard.json`` and ``leaderboard.html`` into ``folder`` and return the path of the page."""
    # The page is made from what was written, so that it cannot say more than the file.
    written = json.loads(write_json(folder / "leaderboard.json", board).read_text(encoding="utf-8"))
    path = folder / "leaderboard.html"
    films = sources(written, path)
    path.write_text(page(written, lambda shown: films.get((shown["folder"], shown["film"]))), encoding="utf-8")
    return path


def write_csv(path: Path, board: Mapping[str, Any]) -> None:
    """A line for each policy; rates 0…1, times in seconds, latencies in milliseconds, empty where unknown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [_cells(row) for row in board["rows"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    cost, commands = row["cost"], row["commands"]
    same = ("trainings", "episodes", "successes", "success_rate", "mean_over_tasks", "mean_over_groups")
    return {
        "policy": row["name"],
        "rank": rank_text(row),
        **{name: row[name] for name in same},
        "low": row["interval"][0],
        "high": row["interval"][1],
        "faults": sum(row["faults"].values()),
        **{name: cost[name] for name in ("train_s", "evaluate_s", "parameters", "demonstrations")},
        **{f"latency_{name}_ms": cost["latency_ms"][name] for name in ("p50", "p95")},
        **{task: entry["success_rate"] for task, entry in row["tasks"].items()},
        "training": "\n".join(command for run in commands for command in run["training"] if command),
        "evaluation": "\n".join(run["evaluation"] for run in commands if run["evaluation"]),
    }


def _show(board: Mapping[str, Any], path: Path, console: Console) -> None:
    for warning in board["warnings"]:
        console.print(f"WARNING: {warning}", style="bold yellow", markup=False)
    console.print(_table(board))
    for remark in board["remarks"]:
        console.print(f"· {remark}", style="dim", markup=False)
    console.print(f"\n{board['verdict']}", style="bold", markup=False)
    console.print(f"page: {path}", soft_wrap=True, markup=False)


def _table(board: Mapping[str, Any]) -> Table:
    grouped = ["of groups"] if board["groups"] else []
    table = Table("rank", "policy", "success", "95 %", *grouped, *COST, box=None, pad_edge=False)
    table.columns[1].overflow, table.columns[1].min_width = "fold", NAME_WIDTH
    for column in (table.columns[0], *table.columns[2:]):
        column.justify, column.no_wrap = "right", True
    references = {
        kind: ["", kind, f"{entry['success_rate']:.1%}", _interval(entry["wilson"])]
        for kind, entry in board["references"].items()
    }
    if "expert" in references:
        table.add_row(*references["expert"], style="dim")
    for row in board["rows"]:
        cost = row["cost"]
        cells = [rank_text(row), escape(row["name"]), f"{row['success_rate']:.1%}", _interval(row["interval"])]
        cells += [f"{row['mean_over_groups']:.1%}"] if grouped else []
        trained = UNKNOWN if cost["train_s"] is None else f"{cost['train_s'] / 60:.3g}"
        table.add_row(*cells, trained, size_text(cost["parameters"]), latency_text(cost["latency_ms"]))
    if "random" in references:
        table.add_row(*references["random"], style="dim")
    return table


def _interval(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.0f} – {100 * ends[1]:.0f}"
