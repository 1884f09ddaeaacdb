"""What the benchmarks share, and ``vla bench NAME``, which runs ``tests/benchmarks/NAME.py``.

A benchmark compares ours with a peer in one run, turn by turn, so that a busy machine hurts both alike:

    times = interleaved({"plain": plain_step, "ours": our_step}, rounds=20)
    rows = [Row.of_times(name, samples) for name, samples in times.samples.items()]
    write_bench("train", rows, {"train_vs_plain": times.ratio("ours", "plain")}, options.json, noisy=times.noisy)
"""

import argparse
import ast
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from types import ModuleType
from typing import Any, Self

from vla.errors import UnderstudyError, unknown

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "benchmarks"
PACKAGE = "benchmarks"
TOO_NOISY = 0.2
"""Interquartile range over median of the baseline above which two runs of one benchmark disagree visibly."""


@dataclass(frozen=True)
class Row:
    """One line of a table; ``p50`` and ``p99`` are in ``unit`` too."""

    name: str
    value: float
    unit: str
    p50: float | None = None
    p99: float | None = None

    @classmethod
    def of_times(cls, name: str, seconds: Sequence[float]) -> Self:
        """The mean of ``seconds`` with its percentiles, in milliseconds."""
        ms = sorted(1e3 * value for value in seconds)
        return cls(name, sum(ms) / len(ms), "ms", p50=median(ms), p99=_quantile(ms, 99))


@dataclass(frozen=True)
class Times:
    """``samples``: candidate → seconds, one for each round; ``baseline``: the candidate that noise is judged by."""

    samples: Mapping[str, list[float]]
    baseline: str

    @property
    def medians(self) -> dict[str, float]:
        """Candidate → median seconds."""
        return {name: median(seconds) for name, seconds in self.samples.items()}

    @property
    def noise(self) -> float:
        """Interquartile range of the baseline over its median: 0 on a quiet machine."""
        seconds = self.samples[self.baseline]
        return (_quantile(seconds, 75) - _quantile(seconds, 25)) / median(seconds)

    @property
    def noisy(self) -> bool:
        """Whether the machine was too busy for the ratios to be believed."""
        return self.noise > TOO_NOISY

    def ratio(self, ours: str, peer: str) -> float:
        """How many times faster ``ours`` is than ``peer``: the median over the rounds, in each of which both ran."""
        return median(theirs / own for own, theirs in zip(self.samples[ours], self.samples[peer], strict=True))


def interleaved(
    candidates: Mapping[str, Callable[[], object]], rounds: int, *, warmup: int = 1, baseline: str | None = None
) -> Times:
    """Time the candidates in alternation.

    Args:
        candidates: name → a call that does one unit of work, and waits for the device when there is one.
        rounds: how often each candidate is timed; each round begins with another candidate.
        warmup: untimed calls of each candidate before the first round.
        baseline: the candidate whose spread tells the noise; the first by default.
    """
    names = list(candidates)
    if rounds < 1 or not names or (baseline or names[0]) not in names:
        raise ValueError(f"needs a round, candidates, and a baseline among them: {rounds}, {names}, {baseline}")
    for call in candidates.values():
        for _ in range(warmup):
            call()
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = perf_counter()
            candidates[name]()
            samples[name].append(perf_counter() - start)
    return Times(samples, baseline or names[0])


def write_bench(
    bench: str,
    rows: Sequence[Row],
    ratios: Mapping[str, float],
    json_path: Path | None,
    *,
    noisy: bool = False,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Print the table, write it to ``json_path`` unless that is ``None``, and return what was written.

    Args:
        bench: the benchmark's name.
        rows: what was measured.
        ratios: ours against a peer in this run; larger is better.
        json_path: the file to write.
        noisy: add a note that the machine was too busy for the ratios to be believed.
        notes: sentences for the reader.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    busy = ("this machine was too noisy to tell: run it again when it is idle",) if noisy else ()
    result = {
        "bench": bench,
        "machine": machine(),
        "rows": [asdict(row) for row in rows],
        "ratios": dict(ratios),
        "notes": [*notes, *busy],
    }
    table = Table("", "value", "unit", "p50", "p99", title=bench, title_justify="left")
    for row in rows:
        table.add_row(escape(row.name), _number(row.value), escape(row.unit), _number(row.p50), _number(row.p99))
    console = Console()
    console.print(table)
    for name, ratio in ratios.items():
        console.print(f"{name}: {ratio:.2f}×", markup=False)
    for note in result["notes"]:
        console.print(f"note: {note}", markup=False)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


def machine() -> dict[str, Any]:
    """What the numbers were measured on; torch and its GPU only when the benchmark has imported torch."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    torch = sys.modules.get("torch")
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__) if torch else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes; ``doc`` is the script's ``__doc__``."""
    made = argparse.ArgumentParser(
        prog=f"vla bench {name}",
        description=doc,
        epilog=f"example: vla bench {name} --json outputs/bench/{name}.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    made.add_argument("--long", action="store_true", help="more rounds and larger sizes")
    return made


def benchmarks() -> dict[str, str]:
    """Name → first line of the docstring, for every script with a ``main``; none of them is run."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def script(name: str) -> ModuleType:
    """The module ``tests/benchmarks/name.py``; it may import its neighbours as ``from benchmarks import …``."""
    if not FOLDER.is_dir():
        raise UnderstudyError(f"there is no folder {FOLDER}: benchmarks live in the checkout, use one")
    if name not in benchmarks():
        raise unknown("benchmark", name, benchmarks())
    if PACKAGE not in sys.modules:
        package = ModuleType(PACKAGE)
        package.__path__ = [str(FOLDER)]
        sys.modules[PACKAGE] = package
    return import_module(f"{PACKAGE}.{name}")


def main(argv: list[str]) -> int | None:
    """Run the benchmark ``argv[0]`` with the other arguments; without a name, list the benchmarks."""
    if argv and argv[0] not in ("-h", "--help"):
        code: int | None = script(argv[0]).main(argv[1:])
        return code
    lines = [f"  {name:<20} {about}" for name, about in benchmarks().items()]
    sys.stdout.write("\n".join(["usage: vla bench NAME [--json FILE] [--long]", "", *lines]) + "\n")
    return 0


def _quantile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
