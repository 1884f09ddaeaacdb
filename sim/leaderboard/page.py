"""The page of a leaderboard, section by section. It shows what ``leaderboard.json`` holds and computes nothing new."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sim.leaderboard.charts import Point, success_over
from sim.leaderboard.films import film_cards
from sim.remarks import p_text
from sim.report_charts import interval_bar
from sim.report_page import duration
from vla.markup import Markup, document, el, join

type Source = Callable[[Mapping[str, Any]], str | None]
Entry = Mapping[str, Any]

LOOK = """
svg.chart text.name { fill: var(--ink); }
.plain td span.muted { display: block; } .sets td { font-weight: 600; } .shown { font-weight: 700; }
.scroll td:first-child { position: sticky; left: 0; background: var(--paper); min-width: 8.5em; }
.scroll .sets td, .scroll .sets td:first-child { background: var(--sheet); }
.card .card { background: var(--paper); }
.card > .cards { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
details.card + details.card { margin-top: 10px; }
"""
REFERENCES = {"expert": "Scripted expert (ceiling)", "random": "Random actions (floor)"}
UNKNOWN = "–"
SPREAD = 1.25
"""Policies whose costs differ by less than this factor are not drawn over them: they had the same budget."""


def page(board: Entry, source: Source) -> str:
    """The whole HTML document. ``source`` turns an episode's film into what ``src`` should say, None without one."""
    rows, scenes = board["rows"], sum(board["scenes"].values())
    subject = f"Understudy leaderboard · {_plural(len(rows), 'policy', 'policies')}, {_plural(scenes, 'scene')}"
    return document(
        f"{rows[0]['name']} · Understudy leaderboard",
        el("style", Markup(LOOK)),
        el("h1", subject),
        el("h2", board["verdict"]),
        _aside(board["warnings"], "Warnings"),
        _aside(board["remarks"], "Remarks"),
        _standings(board),
        _charts(rows),
        _cost(rows),
        _differences(board),
        _tasks(board),
        _films(rows, source),
        _commands(rows),
        _method(board),
        el("footer", "All figures of this page are in leaderboard.json beside it."),
    )


def rank_text(row: Entry) -> str:
    """``2``, or ``1–3`` where it is not shown which of these."""
    best, worst = row["rank"]
    return str(best) if best == worst else f"{best}–{worst}"


def size_text(count: int | None) -> str:
    """A number of parameters for people: ``4.1 M``."""
    if count is None:
        return UNKNOWN
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def latency_text(latency: Entry) -> str:
    """p50 and p95 [ms]."""
    return f"{latency['p50']:.3g} / {latency['p95']:.3g}" if latency["count"] else UNKNOWN


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _aside(said: Sequence[str], label: str) -> Markup:
    return el("aside", el("ul", *[el("li", one) for one in said]), aria_label=label) if said else Markup("")


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f} – {100 * high:.1f}%"


def _standings(board: Entry) -> Markup:
    grouped, references = bool(board["groups"]), board["references"]
    marks = {name: entry["success_rate"] for name, entry in references.items()}
    labels = ["Success", "Rank", *(["Mean of groups"] if grouped else [])]
    head = [el("th", "Policy"), el("th", "Success rate, 95% interval"), *[_number("th", label) for label in labels]]
    rows = [_standing(row, marks, grouped) for row in board["rows"]]
    if "expert" in references:
        rows.insert(0, _reference("expert", references["expert"], len(labels)))
    if "random" in references:
        rows.append(_reference("random", references["random"], len(labels)))
    note = (
        "Rank: 1–3 says that it is not shown which of these places it has. Solid tick: the scripted expert; dashed "
        "tick: random actions."
    )
    table = el("table", el("thead", el("tr", *head)), el("tbody", *rows), class_="tasks")
    return el("section", el("h2", "Standings"), el("p", note, class_="muted small"), table)


def _standing(row: Entry, marks: Mapping[str, float], grouped: bool) -> Markup:
    each = ", ".join(f"{rate:.1%}" for rate in row["each_training"])
    told = f"{row['trainings']} trainings: {each}" if row["trainings"] > 1 else "1 training"
    faults = sum(row["faults"].values())
    about = [told, *([f"{_plural(faults, 'episode')} could not be judged"] if faults else [])]
    interval = el("span", f"  {_range(*row['interval'])}", class_="muted small")
    cells = [
        _number("td", f"{row['success_rate']:.1%}", interval, label="Success"),
        _number("td", rank_text(row), label="Rank"),
    ]
    if grouped:
        inside = el("span", f"  {_range(*row['mean_over_groups_interval'])}", class_="muted small")
        cells.append(_number("td", f"{row['mean_over_groups']:.1%}", inside, label="Mean of groups"))
    bar = interval_bar({"success_rate": row["success_rate"], "wilson": row["interval"]}, "policy", marks)
    name = el("td", el("h3", row["name"]), *[el("p", one, class_="muted small") for one in about])
    return el("tr", name, el("td", bar, class_="wide-cell"), *cells)


def _reference(kind: str, entry: Entry, columns: int) -> Markup:
    interval = el("span", f"  {_range(*entry['wilson'])}", class_="muted small")
    counts = el("p", f"{entry['successes']} of {entry['episodes']} scenes", class_="muted small")
    return el(
        "tr",
        el("td", el("h3", REFERENCES[kind]), counts),
        el("td", interval_bar(entry, kind), class_="wide-cell"),
        _number("td", f"{entry['success_rate']:.1%}", interval, label="Success"),
        *[el("td") for _ in range(columns - 1)],
    )


def _number(tag: str, text: str, *more: Markup, label: str | None = None) -> Markup:
    return el(tag, text, *more, class_="num", data_label=label)


def _charts(rows: Sequence[Entry]) -> Markup:
    panels = []
    for title, unit, cost in (
        ("Success over training time", "min", [(row["cost"]["train_s"] or 0) / 60 for row in rows]),
        ("Success over latency, p50", "ms", [row["cost"]["latency_ms"]["p50"] or 0 for row in rows]),
    ):
        known = [Point(row["name"], x, row["success_rate"], *row["interval"]) for row, x in zip(rows, cost) if x > 0]
        if known and max(point.x for point in known) > SPREAD * min(point.x for point in known):
            panels.append(success_over(title, unit, known))
    return el("section", el("h2", "Success and cost"), el("div", *panels, class_="panels")) if panels else Markup("")


def _cost(rows: Sequence[Entry]) -> Markup:
    head = ["Policy", "Training", "Demonstrations", "Parameters", "Latency p50 / p95 [ms]", "Evaluation"]
    lines = []
    for row in rows:
        cost = row["cost"]
        shown = UNKNOWN if cost["demonstrations"] is None else f"{cost['demonstrations']}"
        times = duration(cost["train_s"]), duration(cost["evaluate_s"])
        size, latency = size_text(cost["parameters"]), latency_text(cost["latency_ms"])
        lines.append(_line("td", [row["name"], times[0], shown, size, latency, times[1]]))
    note = (
        "Times of one training and one evaluation (with its floor and ceiling), the mean where there are several; "
        f"latencies as they were on the machine of each evaluation. {UNKNOWN}: not recorded."
    )
    return el("section", el("h2", "Cost"), el("p", note, class_="muted small"), _table(head, lines))


def _table(head: Sequence[Markup | str], lines: Sequence[Markup]) -> Markup:
    table = el("table", el("thead", _line("th", head)), el("tbody", *lines), class_="plain")
    return el("div", table, class_="scroll", tabindex=0)


def _line(tag: str, cells: Sequence[Markup | str], class_: str | None = None) -> Markup:
    return el("tr", *[el(tag, cell, class_="num" if at else None) for at, cell in enumerate(cells)], class_=class_)


def _differences(board: Entry) -> Markup:
    if not board["pairs"]:
        return Markup("")
    names = [row["name"] for row in board["rows"]]
    found = {(pair["better"], pair["worse"]): pair for pair in board["pairs"]}
    lines = [_line("td", [name, *[_difference(found, name, other) for other in names]]) for name in names]
    details = [_line("td", _pair(pair)) for pair in board["pairs"]]
    return el(
        "section",
        el("h2", "Which differences are shown"),
        el("p", "Row minus column, percentage points; bold: the difference is shown.", class_="muted small"),
        _table(["", *names], lines),
        el(
            "details",
            el("summary", "Every pair with its interval and p value"),
            _table(["Pair", "Difference", "95% interval", "p (Holm)", ""], details),
        ),
    )


def _pair(pair: Entry) -> list[str]:
    low, high = (f"{100 * end:+.1f}" for end in pair["interval"])
    names, word = f"{pair['better']} − {pair['worse']}", "shown" if pair["shown"] else "not shown"
    return [
        names,
        f"{100 * pair['difference']:+.1f}",
        f"{low} – {high}",
        p_text(pair["p_holm"]).removeprefix("= "),
        word,
    ]


def _difference(found: Mapping[tuple[str, str], Entry], name: str, other: str) -> Markup | str:
    if name == other:
        return ""
    pair, sign = (found[name, other], 1) if (name, other) in found else (found[other, name], -1)
    kind = f"shown {'ok' if sign > 0 else 'ko'}" if pair["shown"] else "muted"
    return el("b" if pair["shown"] else "i", f"{sign * 100 * pair['difference'] + 0.0:+.1f}", class_=kind)


def _tasks(board: Entry) -> Markup:
    rows, groups, references = board["rows"], board["groups"], board["references"]
    head = ["Task", *[row["name"] for row in rows], *[REFERENCES[name].partition(" (")[0] for name in references]]
    empty = ["" for _ in references]
    lines: list[Markup] = []
    for group, tasks in (groups or {"": list(board["scenes"])}).items():
        if group:
            lines.append(_line("td", [group, *[_rate(row["groups"][group]) for row in rows], *empty], class_="sets"))
        everyone = (*rows, *references.values())
        lines += [
            _line("td", [task.partition("/")[2] or task, *[_rate(one["tasks"].get(task)) for one in everyone]])
            for task in tasks
        ]
    means = {"Mean over tasks": "mean_over_tasks", **({"Mean over groups": "mean_over_groups"} if groups else {})}
    for label, key in means.items():
        lines.append(_line("td", [label, *[f"{row[key]:.1%}" for row in rows], *empty], class_="sets"))
    note = "Successes of all trainings together, with Wilson's 95% interval of the episodes."
    return el("section", el("h2", "Task by task"), el("p", note, class_="muted small"), _table(head, lines))


def _rate(entry: Entry | None) -> Markup | str:
    if entry is None:
        return UNKNOWN
    return join(f"{entry['success_rate']:.0%}", el("span", _range(*entry["wilson"]), class_="muted small"))


def _films(rows: Sequence[Entry], source: Source) -> Markup:
    folded = [film_cards(row, source) for row in rows if row["films"]]
    return el("section", el("h2", "Films"), *folded) if folded else Markup("")


def _commands(rows: Sequence[Entry]) -> Markup:
    note = f"What made each row, word for word. {UNKNOWN}: the report does not say."
    folded = []
    for row in rows:
        parts = []
        for run in row["commands"]:
            stages = [el("pre", command or UNKNOWN) for command in run["training"]]
            evaluation = el("pre", run["evaluation"] or UNKNOWN)
            parts += [el("p", el("b", run["run"])), "Training", *stages, "Evaluation", evaluation]
        folded.append(el("details", el("summary", el("b", row["name"])), *parts))
    return el("section", el("h2", "Commands"), el("p", note, class_="muted small"), *folded)


def _method(board: Entry) -> Markup:
    facts = {
        "Scenes": f"{json.dumps(board['scenes'])}: the (task, seed) pairs that every run of every row was given",
        **board["method"],
    }
    terms = [join(el("dt", name), el("dd", text)) for name, text in facts.items()]
    return el("section", el("h2", "How it was judged"), el("dl", *terms))
