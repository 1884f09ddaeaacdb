"""The study as a table on the terminal, as json, and as a page with plots; all three say the same."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sim.probe.record import Metric
from sim.probe.study import PROBLEMS, Cell
from sim.probe.verdicts import Verdict, compared
from sim.report_charts import interval_bar
from vla.markup import Markup, document, el

LEGEND = (
    "▲ better than every random init and than raw pixels, paired on the same items, at the 95 % level; "
    "△ better than random init, not than raw pixels (or these were not asked); = not better than random init; "
    "▼ worse than random init. Intervals are over test items, of one training; nothing is corrected for how many "
    "cells there are."
)
MARKS = {"both": "▲", "random": "△", "not better": "=", "worse": "▼", "": ""}


def baselines(cells: Sequence[Cell]) -> tuple[list[str], list[str]]:
    """Keys of the subjects that learned nothing: random inits, and pixels."""
    keys = dict.fromkeys(cell.key for cell in cells)
    return [key for key in keys if key.startswith("random-")], [key for key in keys if key.startswith("pixels-")]


def marked(cell: Cell, cells: Sequence[Cell]) -> tuple[str, list[Verdict]]:
    """How the cell's headline stands beside those of the baselines in its column: it has to beat all of them."""
    randoms, pixels = baselines(cells)
    if cell.key in (*randoms, *pixels, "end-to-end") or cell.problem == "collapse":
        return "", []
    same = {other.key: other for other in cells if other.column == cell.column}
    name = headline(cell)
    beside = [
        [
            compared(cell.metrics[name], same[key].metrics[name])
            for key in keys
            if key in same and name in same[key].metrics
        ]
        for keys in (randoms, pixels)
    ]
    found = [[verdict for verdict in verdicts if verdict is not None] for verdicts in beside]
    if not found[0]:
        return "", []
    beats_random = min((verdict.word for verdict in found[0]), key=_order)
    beats_pixels = bool(found[1]) and all(verdict.word == "better" for verdict in found[1])
    mark = beats_random if beats_random != "better" else "both" if beats_pixels else "random"
    return MARKS[mark], [verdict for verdicts in found for verdict in verdicts]


def _order(word: str) -> int:
    return ("worse", "not better", "better").index(word)


def headline(cell: Cell) -> str:
    """The metric of a cell that the table shows; the first one where the scale lacks it."""
    wanted = PROBLEMS[cell.problem].headline
    return wanted if wanted in cell.metrics else next(iter(cell.metrics))


def tell(cells: Sequence[Cell], console: Console) -> None:
    """The headlines, a row for each subject and a column for each problem."""
    columns = list(dict.fromkeys(cell.column for cell in cells))
    table = Table("", *columns, title="probe", title_justify="left")
    by_place = {(cell.key, cell.column): cell for cell in cells}
    for key, subject in {cell.key: cell.subject for cell in cells}.items():
        row = [by_place.get((key, column)) for column in columns]
        table.add_row(subject, *(_told(cell, cells) for cell in row))
    console.print(table)
    for cell in {cell.column: cell for cell in cells}.values():
        console.print(f"{cell.column}: {PROBLEMS[cell.problem].about}; {headline(cell)}", style="dim")
    console.print(LEGEND, style="dim")


def _told(cell: Cell | None, cells: Sequence[Cell]) -> str:
    if cell is None:
        return "–"
    metric = cell.metrics[headline(cell)]
    mark, _ = marked(cell, cells)
    return f"{number(metric)}{' ' + mark if mark else ''}"


def number(metric: Metric) -> str:
    """Value and interval."""
    if metric.low != metric.low:  # no spread
        return f"{metric.value:.3g}"
    return f"{metric.value:.2f} ({metric.low:.2f} – {metric.high:.2f})"


def write(cells: Sequence[Cell], about: Mapping[str, Any], *, json_path: Path, page_path: Path) -> None:
    """Both files."""
    plain = {
        **about,
        "legend": LEGEND,
        "cells": [
            {
                "problem": cell.problem,
                "column": cell.column,
                "subject": cell.subject,
                "key": cell.key,
                "exogenous": cell.exogenous,
                "seconds": cell.seconds,
                "mark": marked(cell, cells)[0],
                "beside": [verdict.__dict__ for verdict in marked(cell, cells)[1]],
                "metrics": {
                    name: {key: value for key, value in metric.to_dict().items() if key != "items"}
                    for name, metric in cell.metrics.items()
                },
            }
            for cell in cells
        ],
    }
    json_path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(plain), indent=1, ensure_ascii=False, allow_nan=False)
    json_path.write_text(text + "\n", encoding="utf-8")
    page_path.write_text(page(cells, about), encoding="utf-8")


def _finite(value: Any) -> Any:
    """NaN and infinity, which JSON has not, as null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def page(cells: Sequence[Cell], about: Mapping[str, Any]) -> str:
    """One section a problem: bars of the headline, and a table of everything that was measured."""
    sections = []
    for column in dict.fromkeys(cell.column for cell in cells):
        mine = [cell for cell in cells if cell.column == column]
        sections.append(_section(column, mine, cells))
    facts = el("p", ", ".join(f"{name}: {value}" for name, value in about.items()), class_="soft")
    return document(
        "Probe · Understudy", el("h1", "What the representations are worth"), el("p", LEGEND), facts, *sections
    )


def _section(column: str, mine: Sequence[Cell], cells: Sequence[Cell]) -> Markup:
    problem = PROBLEMS[mine[0].problem]
    bars = [
        el("tr", el("td", cell.subject), el("td", _bar(cell)), el("td", _told(cell, cells), class_="num"))
        for cell in sorted(mine, key=lambda cell: -cell.metrics[headline(cell)].value)
    ]
    names = list(dict.fromkeys(name for cell in mine for name in cell.metrics))
    head = el("tr", el("th", "metric"), *[el("th", cell.subject) for cell in mine], el("th", "chance"))
    rows = [
        el(
            "tr",
            el("td", name),
            *[el("td", number(cell.metrics[name]) if name in cell.metrics else "–", class_="num") for cell in mine],
            el("td", _chance(mine, name), class_="num"),
        )
        for name in names
    ]
    return el(
        "section",
        el("h2", column),
        el("p", f"{problem.about}; the bars show: {headline(mine[0])}"),
        el("table", *bars, class_="plain"),
        el("details", el("summary", "everything measured"), el("div", el("table", head, *rows), class_="scroll")),
    )


def _bar(cell: Cell) -> Markup:
    metric = cell.metrics[headline(cell)]
    if cell.problem == "collapse":
        return Markup("")
    ends = [min(max(end, 0.0), 1.0) for end in (metric.value, metric.low, metric.high)]
    kind = "policy" if not cell.key.startswith(("random-", "pixels-", "end-to-end")) else "random"
    marks = {} if metric.chance is None else {"random": min(max(metric.chance, 0.0), 1.0)}
    return interval_bar({"success_rate": ends[0], "wilson": ends[1:]}, kind, marks)


def _chance(cells: Sequence[Cell], name: str) -> str:
    found = [cell.metrics[name].chance for cell in cells if name in cell.metrics]
    return "" if not found or found[0] is None else f"{found[0]:.2f}"
