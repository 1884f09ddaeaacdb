"""``vla compare A B``: which of two policies succeeds more often, judged on the scenes that both were given.

The same (task, seed) is the same scene, so the runs are compared pair by pair, which tells far smaller differences
apart than two separate success rates do. A scene that only one run has is left out, and that is said first.

    comparison = compare(read_report("outputs/a"), read_report("outputs/b"))
    comparison["pooled"]["difference"], comparison["pooled"]["p_value"], comparison["verdict"]
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sim.intervals import holm
from sim.remarks import p_text
from sim.report_charts import difference_bar
from sim.results import EpisodeResult, episodes_of, paired_test, read_report, write_json
from vla.errors import UnderstudyError
from vla.markup import Markup, document, el

LEVEL = 0.05
FEWEST_DECIDING = 6
"""With fewer scenes on which the two differ, the exact test cannot come below 5%: 2 / 2**5 = 6.25%."""

EXAMPLE = """\
A and B are report.json files of `vla eval`, or the folders that hold one.

example:
  vla compare outputs/eval-diffusion outputs/eval-l1 --html outputs/compare.html
"""
COLUMNS = ("scenes", "A", "B", "both/A/B/none", "B − A", "p", "better")


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Compare two reports on the (task, seed) pairs that both hold, task by task and pooled.

    Returns ``{"verdict": str, "warnings": [str], "pooled": test, "tasks": {task: test}}``: a test is a
    `sim.results.PairedTest` as a dict with its ``verdict``; tests of tasks also have ``p_holm``, their p value
    adjusted for the number of tasks, which is what their verdict goes by.

    Raises `UnderstudyError` when no scene is shared, or when a shared one was not the same scene after all.
    """
    runs = episodes_of(a), episodes_of(b)
    pooled = asdict(paired_test(*runs))
    shared = _scenes(runs[0]) & _scenes(runs[1])
    tests = {
        task: asdict(paired_test(*(_of(run, task) for run in runs))) for task in sorted({task for task, _ in shared})
    }
    for test, p_holm in zip(tests.values(), holm([test["p_value"] for test in tests.values()])):
        test["p_holm"] = p_holm
        test["verdict"] = _word(test, p_holm)
    pooled["verdict"] = _word(pooled, pooled["p_value"])
    return {"verdict": _sentence(pooled), "warnings": _warnings(a, b, runs), "pooled": pooled, "tasks": tests}


def _scenes(run: Sequence[EpisodeResult]) -> set[tuple[str, int]]:
    return {(episode.task, episode.seed) for episode in run}


def _of(run: Sequence[EpisodeResult], task: str) -> list[EpisodeResult]:
    return [episode for episode in run if episode.task == task]


def _warnings(a: Mapping[str, Any], b: Mapping[str, Any], runs: Sequence[Sequence[EpisodeResult]]) -> list[str]:
    said = []
    scenes = [_scenes(run) for run in runs]
    for name, mine, other in (("A", *scenes), ("B", *reversed(scenes))):
        extra = mine - other
        if extra:
            tasks = ", ".join(sorted({task for task, _ in extra}))
            said.append(f"{len(extra)} of the {len(mine)} scenes of {name} are in that run alone: LEFT OUT ({tasks}).")
    for name, run in zip("AB", runs):
        if faults := Counter(one.fault.partition(":")[0] for one in run if one.fault):
            counts = f"{faults.total()} of the {len(run)} episodes of {name}"
            said.append(f"{counts} could not be judged, and count as failures: {', '.join(faults)}.")
    about = [report.get("provenance", {}) for report in (a, b)]
    for name in ("suite", "fingerprint"):
        first, second = (one.get(name) for one in about)
        if first != second and None not in (first, second):
            said.append(f"The simulators differ ({name} {first} and {second}): a difference may be theirs.")
    late = [one.get("charged_latency_ms") for one in about]
    if late[0] != late[1]:
        first, second = ("stood still" if one is None else f"moved on for {one:.0f} ms" for one in late)
        said.append(
            f"While A was thinking the world {first}, while B was it {second}: a difference may be due to that."
        )
    return said


def _word(test: Mapping[str, Any], p_value: float) -> str:
    if p_value >= LEVEL:
        return "no difference shown"
    return "B better" if test["difference"] > 0 else "A better"


def _sentence(test: Mapping[str, Any]) -> str:
    """The verdict on all scenes in plain words."""
    low, high = (f"{100 * end:+.0f}" for end in test["interval"])
    rates = f"A succeeds in {test['rate_a']:.1%} and B in {test['rate_b']:.1%} of the same {test['pairs']} scenes"
    figures = (
        f"{rates}, a difference of {100 * test['difference']:+.1f} points "
        f"(95% interval {low} to {high}, p {p_text(test['p_value'])})"
    )
    if test["verdict"] != "no difference shown":
        return f"{test['verdict'][0]} is better: {figures}."
    deciding = test["only_a"] + test["only_b"]
    if deciding >= FEWEST_DECIDING:
        return f"No difference is shown: {figures}."
    return (
        f"No difference is shown: {figures}. The two differ on {deciding} scenes; on fewer than {FEWEST_DECIDING} "
        "no difference can be shown: evaluate both on more seeds."
    )


def main(argv: list[str]) -> int:
    """``vla compare A B [--json FILE] [--html FILE] [--fail-if-worse]``; 0, or 1 when B is shown to be worse."""
    parser = argparse.ArgumentParser(
        prog="vla compare",
        description="Compare two evaluations on the scenes that both were given (exact McNemar test).",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A", type=Path, help="the run to compare with")
    parser.add_argument("b", metavar="B", type=Path, help="the run that is judged")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a page")
    parser.add_argument("--fail-if-worse", action="store_true", help="exit with 1 when B is shown to be worse")
    options = parser.parse_args(argv)
    for file in (options.json, options.html):
        if file is not None and file.is_dir():
            raise UnderstudyError(f"{file} is a folder; name a file to write, such as {file / 'compare.json'}")
    reports = read_report(options.a), read_report(options.b)
    comparison = {"a": str(options.a), "b": str(options.b), **compare(*reports)}
    _show(comparison, Console(highlight=False))
    if options.json is not None:
        write_json(options.json, comparison)
    if options.html is not None:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        options.html.write_text(_page(comparison), encoding="utf-8")
    return int(options.fail_if_worse and comparison["pooled"]["verdict"] == "A better")


def _tests(comparison: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    pooled = {"all tasks": comparison["pooled"]}
    return {**comparison["tasks"], **pooled} if len(comparison["tasks"]) > 1 else dict(comparison["tasks"])


def _cells(test: Mapping[str, Any]) -> tuple[str, ...]:
    """What `COLUMNS` names."""
    low, high = (f"{100 * end:+.0f}" for end in test["interval"])
    return (
        str(test["pairs"]),
        f"{test['rate_a']:.0%}",
        f"{test['rate_b']:.0%}",
        "/".join(str(test[name]) for name in ("both", "only_a", "only_b", "neither")),
        f"{100 * test['difference']:+.0f} ({low} … {high})",
        p_text(test.get("p_holm", test["p_value"])).removeprefix("= "),
        {"A better": "A", "B better": "B"}.get(test["verdict"], "–"),
    )


def _note(comparison: Mapping[str, Any]) -> str:
    count = len(comparison["tasks"])
    adjusted = f" The p values of the tasks, not their intervals, are adjusted for there being {count} (Holm)."
    counts = "both/A/B/none: scenes on which both succeed, only A, only B, neither"
    points = "B − A: percentage points, with its 95% interval"
    return f"{counts}. {points}. {comparison['pooled']['method']}.{adjusted if count > 1 else ''}"


def _show(comparison: Mapping[str, Any], console: Console) -> None:
    for warning in comparison["warnings"]:
        console.print(f"WARNING: {warning}", style="bold yellow", markup=False)
    table = Table("task", *COLUMNS, box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for task, test in _tests(comparison).items():
        table.add_row(task, *_cells(test), style="bold" if test["verdict"] != "no difference shown" else None)
    console.print(f"A: {comparison['a']}\nB: {comparison['b']}\n", markup=False)
    console.print(table)
    console.print(f"\n{_note(comparison)}", style="dim", markup=False)
    console.print(f"\n{comparison['verdict']}", style="bold", markup=False)


def _page(comparison: Mapping[str, Any]) -> str:
    tests = _tests(comparison)
    span = max(abs(end) for test in tests.values() for end in test["interval"]) or 1.0
    head = [el("th", "Task"), el("th", f"B − A, ±{100 * span:.0f} points"), *[_cell("th", name) for name in COLUMNS]]
    rows = [
        el(
            "tr",
            el("td", el("h3", task)),
            el("td", difference_bar(test["difference"], test["interval"], span), class_="wide-cell"),
            *[_cell("td", text, label) for label, text in zip(COLUMNS, _cells(test))],
        )
        for task, test in tests.items()
    ]
    warnings = [el("li", warning) for warning in comparison["warnings"]]
    return document(
        "Understudy comparison",
        el("h1", "Understudy comparison"),
        el("p", el("b", "A "), comparison["a"], el("br"), el("b", "B "), comparison["b"]),
        el("h2", comparison["verdict"]),
        el("aside", el("ul", *warnings), aria_label="Warnings") if warnings else None,
        el("h2", "Task by task"),
        el("table", el("thead", el("tr", *head)), el("tbody", *rows), class_="tasks"),
        el("p", _note(comparison), class_="muted small"),
    )


def _cell(tag: str, text: str, label: str | None = None) -> Markup:
    return el(tag, text, class_="num", data_label=label)
