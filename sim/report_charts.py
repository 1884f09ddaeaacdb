"""The charts of the evaluation's pages beside the plain ones of `vla.charts`."""

from collections.abc import Mapping, Sequence

from vla.charts import line_chart
from vla.markup import Markup, el, join

UNITS = {"samples_per_s": "1/s", "wall_s": "s"}


def interval_bar(entry: Mapping[str, float], kind: str, marks: Mapping[str, float] | None = None) -> Markup:
    """A success rate as a bar from 0 to 1 with its Wilson interval as whiskers, stretching to any width.

    ``entry``: success_rate and wilson; ``kind``: the CSS class that colours it; ``marks``: class → rate, drawn as
    ticks across the bar (the floor and the ceiling).
    """
    low, high = entry["wilson"]
    whisker = [
        el("line", x1=_percent(low), x2=_percent(high), y1=11, y2=11, class_="whisker"),
        el("line", x1=_percent(low), x2=_percent(low), y1=6, y2=16, class_="whisker"),
        el("line", x1=_percent(high), x2=_percent(high), y1=6, y2=16, class_="whisker"),
    ]
    ticks = [
        el("line", x1=_percent(rate), x2=_percent(rate), y1=0, y2=22, class_=f"tick {name}")
        for name, rate in (marks or {}).items()
    ]
    label = f"{entry['success_rate']:.1%}, 95% interval {low:.1%} to {high:.1%}"
    return el(
        "svg",
        el("rect", x=0, y=3, width="100%", height=16, class_="track"),
        el("rect", x=0, y=3, width=_percent(entry["success_rate"]), height=16, class_=f"fill {kind}"),
        *ticks,
        *whisker,
        class_="bar",
        height=22,
        width="100%",
        role="img",
        aria_label=label,
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}%"


def difference_bar(difference: float, interval: Sequence[float], span: float) -> Markup:
    """A difference of two rates as a dot with its interval as whiskers, on an axis from ``-span`` to ``span``."""
    low, here, high = (f"{50 + 50 * value / span:.2f}%" for value in (interval[0], difference, interval[1]))
    return el(
        "svg",
        el("rect", x=0, y=3, width="100%", height=16, class_="track"),
        el("line", x1="50%", x2="50%", y1=0, y2=22, class_="zero"),
        el("line", x1=low, x2=high, y1=11, y2=11, class_="whisker"),
        *[el("line", x1=end, x2=end, y1=6, y2=16, class_="whisker") for end in (low, high)],
        el("circle", cx=here, cy=11, r=4.5, class_="dot"),
        class_="bar",
        height=22,
        width="100%",
        role="img",
        aria_label=f"difference {difference:+.1%}, 95% interval {interval[0]:+.1%} to {interval[1]:+.1%}",
    )


def episode_strip(details: Sequence[Mapping[str, object]]) -> Markup:
    """One square per episode, filled for a success and crossed for a failure; its title says seed and steps."""
    squares = []
    for row in details:
        word, kind = ("success", "ok") if row["success"] else ("failure", "ko")
        squares.append(el("i", class_=kind, title=f"seed {row['seed']}: {word} after {row['steps']} steps"))
    wins = sum(bool(row["success"]) for row in details)
    return el("span", *squares, class_="strip", role="img", aria_label=f"{wins} of {len(details)} episodes succeeded")


def scalar_panels(rows: Mapping[str, Sequence[float | None]], steps: Sequence[float]) -> Markup:
    """One small chart per training curve, losses first; a curve logged now and then is joined over its gaps."""
    names = sorted(rows, key=lambda name: ("loss" not in name, not name.startswith("eval"), name))
    panels = []
    for name in names:
        logged = [(step, value) for step, value in zip(steps, rows[name], strict=True) if value is not None]
        if logged:
            x, line = zip(*logged, strict=True)
            log = None if "loss" in name else False
            panels.append(line_chart(name, x, {name: line}, unit=UNITS.get(name, ""), log=log))
    return join(*panels)
