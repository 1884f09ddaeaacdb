"""The page of a report, section by section. It shows what ``report.json`` holds and computes nothing new."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sim.report_charts import episode_strip, interval_bar, legend, line_chart, scalar_panels, short
from sim.report_markup import Markup, el, join
from sim.report_style import STYLE
from sim.results import CONDITIONS, p_text

FILMS_PER_OUTCOME = 4
OPEN_TASKS = 8
"""With more tasks than this, the films start folded away."""

WHO = {
    "policy": "The policy",
    "expert": "Scripted expert (ceiling)",
    "random": "Random actions (floor)",
    "wrong-instruction": "The policy, told a wrong instruction",
}
VERDICTS = {
    True: ("ok", "✓ better than random"),
    False: ("ko", "✗ no better than random"),
    None: ("unknown", "no random floor measured"),
}
ACTION_LINES = ("recorded", "predicted", "executed")
# No script, and nothing from any other place: the browser itself enforces that the page is self-contained.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data: file: 'self'; media-src data: file: 'self'"

type Source = Callable[[str], str | None]
Entry = Mapping[str, Any]


def page(report: Entry, source: Source) -> str:
    """The whole HTML document. ``source`` turns the path of a film or picture into what ``src`` should say."""
    body = join(
        _headline(report),
        _remarks(report["remarks"]),
        _tasks(report),
        _films(report, source),
        _pictures(report.get("pictures", {}), source),
        _curves(report.get("curves")),
        _actions(report.get("action_plots", {})),
        _times(report),
        _method(report),
    )
    head = join(
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", f"{report['mean']['success_rate']:.1%} · Understudy evaluation"),
        el("style", Markup(STYLE)),
    )
    foot = el(
        "footer", "Every figure on this page is in report.json, beside it. `vla compare A B` compares two such reports."
    )
    return f"<!doctype html>\n{el('html', el('head', head), el('body', el('main', body, foot)), lang='en')}\n"


def films_shown(entry: Entry) -> tuple[list[Entry], list[Entry]]:
    """The episodes of a task whose films the page shows: (successes, failures), a few of each, by seed."""
    filmed = [row for row in entry["episodes_detail"] if row.get("film")]
    wins, losses = ([row for row in filmed if bool(row["success"]) is won] for won in (True, False))
    return wins[:FILMS_PER_OUTCOME], losses[:FILMS_PER_OUTCOME]


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
    rows = {"policy": mean, **{name: conditions[name]["mean"] for name in CONDITIONS if name in conditions}}
    order = sorted(rows, key=["expert", "policy", "wrong-instruction", "random"].index)
    bars = [
        el(
            "div",
            el(
                "div",
                el("span", WHO[name]),
                el("span", _rate(rows[name]), el("span", f"  {_interval(rows[name])}", class_="muted"), class_="num"),
                class_="label",
            ),
            interval_bar(rows[name], name),
            class_="rate lead" if name == "policy" else "rate",
        )
        for name in order
    ]
    left = el(
        "div",
        el("div", _rate(mean), class_="big"),
        el(
            "p",
            f"{_counts(mean)} episodes succeeded, over {len(report['tasks'])} tasks",
            el("br"),
            f"95 % interval {_interval(mean)}",
            class_="of",
        ),
        el("span", verdict, class_=f"pill {kind}"),
    )
    subject = report["provenance"].get("checkpoint") or report["provenance"].get("policy")
    title = el("h1", "Understudy evaluation", f" · {subject}" if isinstance(subject, str) else None)
    return el("header", title, el("div", left, el("div", *bars, class_="rates"), class_="hero"))


def _remarks(remarks: Sequence[str]) -> Markup:
    if not remarks:
        return Markup("")
    return el("aside", el("ul", *[el("li", remark) for remark in remarks]), class_="remarks", aria_label="Remarks")


def _tasks(report: Entry) -> Markup:
    conditions = {name: part["tasks"] for name, part in report["conditions"].items()}
    columns = [name for name in ("random", "expert", "wrong-instruction") if name in conditions]
    short_names = {"random": "Random", "expert": "Expert", "wrong-instruction": "Wrong instruction"}
    head = [
        el("th", "Task"),
        el("th", "Success rate, 95 % interval"),
        el("th", "Policy", class_="num"),
        el("th", "Interval", class_="num"),
    ]
    head += [el("th", short_names[name], class_="num") for name in columns]
    head.append(el("th", "Steps to success", class_="num"))
    rows = []
    for task, entry in report["tasks"].items():
        others = {name: conditions[name][task] for name in columns if task in conditions[name]}
        marks = {name: other["success_rate"] for name, other in others.items() if name in ("random", "expert")}
        cells = [
            el(
                "td",
                el("h3", task),
                el("span", f"“{entry['instruction']}”", class_="muted small"),
                episode_strip(entry["episodes_detail"]),
            ),
            el("td", interval_bar(entry, "policy", marks), class_="chart-cell"),
            _number("Policy", f"{entry['successes']}/{entry['episodes']} · {entry['success_rate']:.0%}"),
            _number("Interval", _interval(entry)),
        ]
        cells += [
            _number(short_names[name], f"{others[name]['success_rate']:.0%}" if name in others else "–")
            for name in columns
        ]
        cells.append(
            _number("Steps to success (median)", "–" if entry["median_steps"] is None else f"{entry['median_steps']:g}")
        )
        rows.append(el("tr", *cells))
    table = el("table", el("thead", el("tr", *head)), el("tbody", *rows), class_="tasks")
    keys = [
        text
        for name, text in (("random", "dashed tick: random actions"), ("expert", "solid tick: the scripted expert"))
        if name in columns
    ]
    key = "; ".join(
        ["Whiskers: Wilson 95 % interval", *keys, "squares: one per episode, by seed, filled when it succeeded"]
    )
    return el("section", el("h2", "Task by task"), el("p", f"{key}.", class_="muted small"), table)


def _number(label: str, text: str) -> Markup:
    return el("td", text, class_="num", data_label=label)


def _films(report: Entry, source: Source) -> Markup:
    overview = [_film(path, caption, source) for caption, path in report.get("films", {}).items()]
    parts = []
    for task, entry in report["tasks"].items():
        wins, losses = films_shown(entry)
        if wins or losses:
            parts.append(_task_films(task, entry, (wins, losses), source, len(report["tasks"]) <= OPEN_TASKS))
    if not overview and not parts:
        return Markup("")
    return el("section", el("h2", "Films"), *[el("div", film, class_="wide") for film in overview], *parts)


def _task_films(
    task: str, entry: Entry, shown: tuple[list[Entry], list[Entry]], source: Source, is_open: bool
) -> Markup:
    sides = []
    for rows, kind, word, total in (
        (shown[0], "ok", "Successes", entry["successes"]),
        (shown[1], "ko", "Failures", entry["episodes"] - entry["successes"]),
    ):
        films = [_film(row["film"], _episode_caption(row, entry), source) for row in rows]
        count = f"{len(rows)} of {total} shown" if total else "none"
        sides.append(
            el(
                "div",
                el("h4", word, el("span", f" · {count}", class_="muted")),
                el("div", *films, class_="films"),
                class_=f"side {kind}",
            )
        )
    head = el("summary", el("h3", task), el("span", f"{_counts(entry)} · {_rate(entry)}", class_="muted"))
    return el(
        "details", head, el("div", el("div", *sides, class_="sides"), class_="inside"), class_="task", open=is_open
    )


def _episode_caption(row: Entry, entry: Entry) -> str:
    outcome = f"success in {row['steps']}" if row["success"] else f"failure after {row['steps']}"
    told = row.get("instruction", entry["instruction"])
    return f"seed {row['seed']} · {outcome} steps" + (f" · “{told}”" if told != entry["instruction"] else "")


def _film(path: str, caption: str, source: Source) -> Markup:
    src = source(path)
    if src is None:
        return el("figure", el("figcaption", caption, el("span", f" (there is no film at {path})", class_="muted")))
    is_video = path.endswith(".mp4")
    screen = (
        el(
            "video",
            src=src,
            controls=True,
            muted=True,
            loop=True,
            playsinline=True,
            preload="metadata",
            aria_label=caption,
        )
        if is_video
        else el("img", src=src, alt=caption, loading="lazy")
    )
    return el("figure", screen, el("figcaption", caption))


def _pictures(pictures: Mapping[str, str], source: Source) -> Markup:
    if not pictures:
        return Markup("")
    shown = [_film(path, caption, source) for caption, path in pictures.items()]
    return el("section", el("h2", "Pictures"), el("div", *shown, class_="pictures"))


def _curves(curves: Entry | None) -> Markup:
    if not curves or not curves["series"]:
        return Markup("")
    each = curves["rows_per_point"]
    note = "One point per logged row." if each == 1 else f"Each point is the mean of {each} logged rows."
    panels = el("div", scalar_panels(curves["series"], curves["step"]), class_="panels")
    return el("section", el("h2", "Training"), el("p", f"Over training steps. {note}", class_="muted small"), panels)


def _actions(plots: Mapping[str, Entry]) -> Markup:
    parts = []
    for title, plot in plots.items():
        kinds = [kind for kind in ACTION_LINES if kind in plot]
        steps = range(max(len(plot[kind]) for kind in kinds))
        panels = []
        for index, name in enumerate(plot["names"]):
            lines = {kind: [row[index] for row in plot[kind]] for kind in kinds}
            padded = {kind: line + [None] * (len(steps) - len(line)) for kind, line in lines.items()}
            panels.append(line_chart(name, steps, padded, log=False))
        parts.append(join(el("h3", title), legend(kinds), el("div", *panels, class_="panels")))
    if not parts:
        return Markup("")
    note = "Physical units, over control steps. Open loop: the policy predicts on recorded observations, and nothing moves."
    return el("section", el("h2", "Actions"), el("p", note, class_="muted small"), *parts)


def _times(report: Entry) -> Markup:
    columns = ("p50", "p95", "p99", "mean", "max", "count")
    tables = {
        "policy": report["latency_ms"],
        **{name: part["latency_ms"] for name, part in report["conditions"].items()},
    }
    rows = [
        el(
            "tr",
            el("td", WHO[name]),
            *[el("td", "–" if table[c] is None else short(table[c]), class_="num") for c in columns],
        )
        for name, table in tables.items()
        if table["count"]
    ]
    head = el("tr", el("th", "One inference [ms]"), *[el("th", c, class_="num") for c in columns])
    latency = (
        el("div", el("table", el("thead", head), el("tbody", *rows), class_="plain"), class_="scroll") if rows else None
    )
    walls = [
        el("tr", el("td", name), el("td", _duration(seconds), class_="num"))
        for name, seconds in report["wall_s"].items()
    ]
    head = el("tr", el("th", "Wall time"), el("th", "", class_="num"))
    wall = el("table", el("thead", head), el("tbody", *walls), class_="plain") if walls else None
    if latency is None and wall is None:
        return Markup("")
    return el("section", el("h2", "Time"), latency, el("p") if latency and wall else None, wall)


def _duration(seconds: float | None) -> str:
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
        "Seeds": f"{seeds[0]} to {seeds[-1]} ({len(seeds)} scenes a task, the same for every condition run on them)",
        "Success rate": "successes / episodes, pooled over all episodes; no episode is left out",
        "Interval": "Wilson score interval, 95 %, of the episodes as independent trials",
        "Better than random": "the lower end of the policy's pooled interval lies above the upper end of random's",
    }
    if report["uses_instruction"] is not None:
        test = report["uses_instruction"]
        low, high = test["interval"]
        facts["Uses its instruction"] = (
            f"right minus wrong instruction on {test['pairs']} paired episodes: {test['difference']:+.1%} "
            f"({low:+.1%} to {high:+.1%}), p {p_text(test['p_value'])}; {test['method']}"
        )
    terms = [join(el("dt", name), el("dd", text)) for name, text in facts.items()]
    terms += [join(el("dt", name), el("dd", _fact(value))) for name, value in provenance.items()]
    shown = join(el("p", "To see the same again:"), el("pre", command)) if isinstance(command, str) else None
    return el("section", el("h2", "How it was measured"), el("dl", *terms, class_="facts"), shown)


def _fact(value: Any) -> Markup:
    if isinstance(value, str | int | float):
        return join(str(value))
    return el("code", json.dumps(value, ensure_ascii=False))
