"""How often Meta-World's scripted experts succeed in our scenes: 50 tasks, no pictures, about three minutes.

    python tests/benchmarks/metaworld_experts.py

Finished tasks are kept in the file and not run again; delete it to start over.
"""

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sim.intervals import wilson
from sim.suite import TRAIN_SEEDS, make_suite, suite_class

DEFAULT_FILE = Path(__file__).parent / "results" / "metaworld_experts.json"
LONGEST = 500  # steps, Meta-World's own limit: the table shows how many a shorter one would cost


def measure(suite, task: str, episodes: int) -> dict:
    """One row: the expert's success on the first ``episodes`` training seeds, and how many steps it took."""
    lengths = []
    for seed in TRAIN_SEEDS[:episodes]:
        suite.reset(task, seed)
        act = suite.expert()
        while not suite.success and suite.steps < LONGEST:
            suite.step(act())
        if suite.success:
            lengths.append(suite.steps)
    return {
        "name": task,
        "value": len(lengths) / episodes,
        "unit": "success rate",
        "successes": len(lengths),
        "episodes": episodes,
        "wilson": [round(bound, 4) for bound in wilson(len(lengths), episodes)],
        "p50": float(np.median(lengths)) if lengths else None,
        "steps_mean": round(float(np.mean(lengths)), 1) if lengths else None,
        "steps_max": max(lengths, default=None),
        "within_default_max_steps": sum(length <= suite.max_steps for length in lengths),
    }


def report(rows: list[dict], max_steps: int) -> dict:
    """The whole file: rows in the order of their names, and the means over them."""
    rows = sorted(rows, key=lambda row: row["name"])
    return {
        "bench": "metaworld_experts",
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            **{name: version(name) for name in ("metaworld", "mujoco", "numpy")},
        },
        "seeds": "TRAIN_SEEDS, from 0",
        "mean_success": round(float(np.mean([row["value"] for row in rows])), 4),
        "mean_success_within_default_max_steps": round(
            float(np.mean([row["within_default_max_steps"] / row["episodes"] for row in rows])), 4
        ),
        "default_max_steps": max_steps,
        "rows": rows,
        "ratios": {},
    }


def main(argv: list[str]) -> int:
    """Measure what is missing in the file, write it after each task, and print the table."""
    parser = argparse.ArgumentParser(
        prog="vla bench metaworld_experts",
        description=__doc__.splitlines()[0],
        epilog="example: vla bench metaworld_experts --episodes 20 --json experts.json",
    )
    parser.add_argument("--json", type=Path, default=DEFAULT_FILE, help="the file to write, and to go on from")
    parser.add_argument("--episodes", type=int, default=20, help="seeds a task (default 20)")
    parser.add_argument("--tasks", nargs="+", default=suite_class("metaworld").task_names(), metavar="TASK")
    options = parser.parse_args(argv)
    known = json.loads(options.json.read_text("utf-8"))["rows"] if options.json.exists() else []
    rows = {row["name"]: row for row in known if row["episodes"] == options.episodes}
    suite = make_suite("metaworld", cameras=())
    for task in options.tasks:
        if task not in rows:
            rows[task] = measure(suite, task, options.episodes)
            options.json.write_text(json.dumps(report(list(rows.values()), suite.max_steps), indent=1) + "\n", "utf-8")
    suite.close()
    done = report(list(rows.values()), suite.max_steps)
    table = Table("task", "successes", "steps (mean)", "steps (longest)")
    for row in done["rows"]:
        count = f"{row['successes']}/{row['episodes']}"
        table.add_row(row["name"], count, str(row["steps_mean"]), str(row["steps_max"]))
    console = Console()
    console.print(table)
    console.print(
        f"mean {done['mean_success']:.1%}; within {suite.max_steps} steps "
        f"{done['mean_success_within_default_max_steps']:.1%}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
