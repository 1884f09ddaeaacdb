"""The page of a report, section by section. It shows what ``report.json`` holds and computes nothing new."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sim.remarks import p_text
from sim.report_charts import episode_strip, interval_bar, scalar_panels
from sim.robustness import section
from vla.charts import legend, line_chart, short
from vla.markup import Markup, document, el, join

OPEN_TASKS = 12
"""With more tasks than this, the films start folded away."""

WHO = {
    "expert": "Scripted expert (ceiling)",
    "policy": "The policy",
    "wrong-instruction": "The policy, told a wrong instruction",
    "shuffled-prompt": "The policy, its prompt out of order",
    "blank-prompt": "The policy, shown a blank prompt",
    "random": "Random actions (floor)",
}
COLUMNS = {
    "random": "Random",
    "expert": "Expert",
    "wrong-instruction": "Wrong instruction",
    "shuffled-prompt": "Shuffled prompt",
    "blank-prompt": "Blank prompt",
}
VERDICTS = {
    True: ("ok", "✓ better than random"),
    False: ("ko", "✗ not shown to be better than random"),
    None: ("", "no random floor measured"),
}
ACTION_LINES = ("recorded", "expert", "predicted", "executed")

type Source = Callable[[str], str | None]
Entry = Mapping[str, Any]


def page(report: Entry, source: Source) -> str:
    """The whole HTML document. ``source`` turns the path of a film or picture into what ``src`` should say."""
    return document(
        f"{_rate(report['mean'])} · Understudy evaluation",
        _headline(report),
        _remarks(report["remarks"]),
        _tasks(report),
        section(report.get("robustness", {})),
        _films(report, source),
        _pictures(report.get("pictures", {}), source),
        _curves(report.get("curves", {})),
        _actions(report.get("action_plots", {})),
        _times(report),
        _method(report),
        el("footer", "All figures of this page are in report.json beside it. `vla compare A B` compares two reports."),
    )


def films_shown(report: Entry, task: str) -> list[tuple[str, Entry]]:
    """The episodes of a task whose films the page shows, each with its CSS class.

    The first filmed success ("ok"), failure ("ko") and attempt under a wrong instruction ("wrong"), where there are.
    """
    wrong = report["conditions"].get("wrong-instruction", {}).get("tasks", {}).get(task, {}).get("episodes_detail", [])
    shown: dict[str, Entry] = {}
    for row in report["tasks"][task]["episodes_detail"]:
        if row.get("film"):
            shown.setdefault("ok" if row["success"] else "ko", row)
    for row in wrong:
        if row.get("film"):
            shown.setdefault("wrong", row)
    return [(kind, shown[kind]) for kind in ("ok", "ko", "wrong") if kind in shown]


def _rate(entry: Entry) -> str:
    return f"{entry['success_rate']:.1%}"


def _counts(entry: Entry) -> str:
    return f"{entry['successes']} of {entry['episodes']}"


def _interval(entry: Entry) -> str:
    low, high = entry["wilson"]
    return f"{low:.1%} – {high:.1%}"


def _headline(report: Entry) -> Markup:
    mean, conditions = report["mean"], report["conditions"]
    kind, verdict = VERDICTS[report["better_than_random"]]
    rows = {name: mean if name == "policy" else conditions.get(name, {}).get("mean") for name in WHO}
    bars = []
    for name, entry in rows.items():
        if entry is not None:
            figures = el("span", _rate(entry), el("span", f"  {_interval(entry)}", class_="muted"), class_="num")
            label = el("div", el("span", WHO[name]), figures, class_="label")
            bars.append(el("div", label, interval_bar(entry, name), class_="lead" if name == "policy" else None))
    count = len(report["tasks"])
    left = el(
        "div",
        el("div", _rate(mean), class_="big num"),
        el(
            "p",
            f"{_counts(mean)} episodes succeeded, over {count} task{'s' if count > 1 else ''}",
            el("br"),
            f"95% interval {_interval(mean)}",
        ),
        el("span", verdict, class_=f"pill {kind}"),
    )
    subject = report["provenance"].get("checkpoint") or report["provenance"].get("policy")
    title = el("h1", "Understudy evaluation", f" · {subject}" if isinstance(subject, str) else None)
    return el("header", title, el("div", left, el("div", *bars, class_="rates"), class_="hero"))


def _remarks(remarks: Sequence[str]) -> Markup:
    if not remarks:
        return Markup("")
    return el("aside", el("ul", *[el("li", remark) for remark in remarks]), aria_label="Remarks")


def _tasks(report: Entry) -> Markup:
    conditions = {name: report["conditions"][name]["tasks"] for name in COLUMNS if name in report["conditions"]}
    head = [
        el("th", "Task"),
        el("th", "Success rate, 95% interval"),
        el("th", "Policy", class_="num"),
        *[el("th", COLUMNS[name], class_="num") for name in conditions],
        el("th", "Steps to success", class_="num"),
    ]
    rows = []
    for task, entry in report["tasks"].items():
        others = {name: tasks[task] for name, tasks in conditions.items() if task in tasks}
        rows.append(_task_row(task, entry, others, list(conditions)))
    table = el("table", el("thead", el("tr", *head)), el("tbody", *rows), class_="tasks")
    ticks = {"random": "dashed tick: random actions", "expert": "solid tick: the scripted expert"}
    key = [
        "Whiskers: Wilson 95% interval",
        *[text for name, text in ticks.items() if name in conditions],
        "squares: one per episode, by seed, filled when it succeeded",
        "steps: the median over successes",
    ]
    return el("section", el("h2", "Task by task"), el("p", "; ".join(key), ".", class_="muted small"), table)


def _task_row(task: str, entry: Entry, others: Mapping[str, Entry], columns: Sequence[str]) -> Markup:
    marks = {name: others[name]["success_rate"] for name in ("random", "expert") if name in others}
    steps = entry["median_steps"]
    told = el("span", f"“{entry['instruction']}”", class_="muted small")
    interval = el("span", f"  {_interval(entry)}", class_="muted small")
    cells = [(COLUMNS[name], f"{others[name]['success_rate']:.0%}" if name in others else "–") for name in columns]
    return el(
        "tr",
        el("td", el("h3", task), told, episode_strip(entry["episodes_detail"])),
        el("td", interval_bar(entry, "policy", marks), class_="wide-cell"),
        _number("Policy", f"{entry['successes']}/{entry['episodes']} · {entry['success_rate']:.0%}", interval),
        *[_number(label, text) for label, text in cells],
        _number("Steps to success", "–" if steps is None else f"{steps:g}"),
    )


def _number(label: str, text: str, *more: Markup) -> Markup:
    return el("td", text, *more, class_="num", data_label=label)


def _films(report: Entry, source: Source) -> Markup:
    overview = [
        el("div", _film(path, source, caption), class_="wide") for caption, path in report.get("films", {}).items()
    ]
    cards = [_film_card(report, task, source) for task in report["tasks"] if films_shown(report, task)]
    if not overview and not cards:
        return Markup("")
    return el("section", el("h2", "Films"), *overview, el("div", *cards, class_="cards") if cards else None)


def _film_card(report: Entry, task: str, source: Source) -> Markup:
    entry = report["tasks"][task]
    shown = films_shown(report, task)
    kinds = [kind for kind, _ in shown]
    failures = entry["episodes"] - entry["successes"]
    figures = [_film(row["film"], source, *_episode_caption(kind, row, entry)) for kind, row in shown]
    if failures and "ko" not in kinds:
        figures.append(el("p", f"No film of its {failures} failures.", class_="muted small"))
    head = el("summary", el("b", task), el("span", f" · {_counts(entry)} · {_rate(entry)}", class_="muted"))
    return el("details", head, el("div", *figures), class_="card", open=len(report["tasks"]) <= OPEN_TASKS)


def _episode_caption(kind: str, row: Entry, entry: Entry) -> tuple[Markup, ...]:
    words = {
        "ok": f"✓ success in {row['steps']} steps",
        "ko": f"✗ failure after {row['steps']} steps",
        "wrong": "wrong instruction: " + ("did the task all the same" if row["success"] else "did not do the task"),
    }
    told = row.get("instruction", entry["instruction"])
    return (
        el("b", words[kind], class_=kind),
        el("span", f"told: “{told}”"),
        el("span", f"seed {row['seed']}", class_="muted"),
    )


def _film(path: str, source: Source, *caption: str | Markup) -> Markup:
    src = source(path)
    if src is None:
        return el("figure", el("figcaption", *caption, el("span", f"(there is no film at {path})", class_="muted")))
    if path.endswith(".mp4"):
        screen = el("video", src=src, controls=True, muted=True, loop=True, playsinline=True, preload="metadata")
    else:
        screen = el("img", src=src, alt="", loading="lazy")
    return el("figure", screen, el("figcaption", *caption))


def _pictures(pictures: Mapping[str, str], source: Source) -> Markup:
    if not pictures:
        return Markup("")
    shown = [_film(path, source, caption) for caption, path in pictures.items()]
    return el("section", el("h2", "Pictures"), el("div", *shown, class_="panels"))


def _curves(runs: Mapping[str, Entry]) -> Markup:
    parts = []
    for title, run in runs.items():
        each = run["rows_per_point"]
        note = "one point per logged row" if each == 1 else f"each point is the mean of {each} logged rows"
        parts += [
            el("p", el("b", title), f" Over training steps; {note}.", class_="muted small"),
            el("div", scalar_panels(run["series"], run["step"]), class_="panels"),
        ]
    return el("section", el("h2", "Training"), *parts) if parts else Markup("")


def _actions(plots: Mapping[str, Entry]) -> Markup:
    parts = []
    for title, plot in plots.items():
        kinds = [kind for kind in ACTION_LINES if kind in plot]
        steps = range(max(len(plot[kind]) for kind in kinds))
        panels = []
        for index, name in enumerate(plot["names"]):
            lines = {kind: [row[index] for row in plot[kind]] for kind in kinds}
            padded = {kind: line + [None] * (len(steps) - len(line)) for kind, line in lines.items()}
            errors = plot.get("mean_abs_error")
            note = "" if errors is None or errors[index] is None else f"mean |error| {short(errors[index])}"
            panels.append(line_chart(name, steps, padded, log=False, note=note))
        parts.append(join(el("h3", title), legend(kinds), el("div", *panels, class_="panels")))
    if not parts:
        return Markup("")
    note = "Physical units, over control steps. A prediction is made on recorded observations, and nothing moves."
    return el("section", el("h2", "Actions"), el("p", note, class_="muted small"), *parts)


def _times(report: Entry) -> Markup:
    columns = ("p50", "p95", "p99", "mean", "max", "count")
    latencies = {
        "policy": report["latency_ms"],
        **{name: part["latency_ms"] for name, part in report["conditions"].items()},
    }
    rows = [
        [WHO[name], *["–" if table[column] is None else short(table[column]) for column in columns]]
        for name, table in latencies.items()
        if table["count"]
    ]
    walls = [[name, duration(seconds)] for name, seconds in report["wall_s"].items()]
    tables = [_table(["One inference [ms]", *columns], rows), _table(["Wall time", ""], walls)]
    return el("section", el("h2", "Time"), *tables) if rows or walls else Markup("")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    if not rows:
        return Markup("")
    lines = [
        el("tr", *[el(tag, text, class_="num" if index else None) for index, text in enumerate(row)])
        for tag, row in [("th", head), *[("td", row) for row in rows]]
    ]
    table = el("table", el("thead", lines[0]), el("tbody", *lines[1:]), class_="plain")
    return el("div", table, class_="scroll")


def duration(seconds: float | None) -> str:
    """Seconds for people: ``12.3 s``, ``2 min 05 s``."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _method(report: Entry) -> Markup:
    seeds = sorted({row["seed"] for entry in report["tasks"].values() for row in entry["episodes_detail"]})
    provenance = dict(report["provenance"])
    command = provenance.pop("command", None)
    facts = {
        "Seeds": f"{seeds[0]} to {seeds[-1]} ({len(seeds)} in all)" if seeds else "none",
        "Success rate": "successes / episodes, pooled over all episodes; no episode is left out",
        "Interval": "Wilson score interval, 95%, of the episodes as independent trials",
        "Better than random": "the lower end of the policy's pooled interval lies above the upper end of random's",
    }
    if report["uses_instruction"] is not None:
        test = report["uses_instruction"]
        low, high = test["interval"]
        facts["Uses its instruction"] = (
            f"right minus wrong instruction on {test['pairs']} paired episodes: {test['difference']:+.1%} "
            f"({low:+.1%} to {high:+.1%}), p {p_text(test['p_value'])}. {test['method']}"
        )
    return el(
        "section",
        el("h2", "How it was measured"),
        join(el("p", "To see the same again:"), el("pre", command)) if isinstance(command, str) else None,
        _facts("Definitions", facts),
        _facts("Provenance", provenance),
    )


def _facts(title: str, facts: Entry) -> Markup:
    if not facts:
        return Markup("")
    terms = [join(el("dt", name), el("dd", _fact(value))) for name, value in facts.items()]
    return el("details", el("summary", el("b", title)), el("dl", *terms))


def _fact(value: Any) -> Markup:
    if isinstance(value, str | int | float):
        return join(str(value))
    return el("code", json.dumps(value, ensure_ascii=False))
