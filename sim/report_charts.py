"""The charts of the pages: inline SVG that takes its colours from the page, light or dark, and needs no script."""

from collections.abc import Mapping, Sequence
from math import floor, isfinite, log10

import numpy as np

from sim.report_markup import Markup, el, join

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
LOG_SPREAD = 30
"""A positive series whose ends differ by more than this factor is drawn on a logarithmic axis."""

UNITS = {"samples_per_s": "1/s", "wall_s": "s"}

Series = Mapping[str, Sequence[float | None]]


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


def line_chart(
    title: str, x: Sequence[float], series: Series, *, unit: str = "", log: bool | None = None, note: str = ""
) -> Markup:
    """Lines over ``x``; a None is a gap. ``log=None`` decides by the spread of the values. Up to four series."""
    values = [value for line in series.values() for value in line if value is not None]
    if not values or not len(x):
        return Markup("")
    spread_out = min(values) > 0 and max(values) / min(values) > LOG_SPREAD
    log = spread_out if log is None else log and min(values) > 0
    low, high, ticks = _axis(min(values), max(values), log)
    start, end = min(x), max(x)

    def across(value: float) -> float:
        return LEFT + (value - start) / ((end - start) or 1) * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        share = (log10(value) if log else value) - low
        return HEIGHT - BOTTOM - share / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    grid = []
    for tick in ticks:
        y = f"{down(tick):.1f}"
        grid.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        grid.append(el("text", short(tick), x=LEFT - 6, y=f"{down(tick) + 3.5:.1f}", text_anchor="end"))
    grid += [
        el("text", short(tick), x=f"{across(tick):.1f}", y=HEIGHT - 8, text_anchor="middle")
        for tick in _ticks(start, end, 4)
    ]
    lines = [
        el(
            "path",
            d=_path([(across(a), None if b is None else down(b)) for a, b in zip(x, line, strict=True)]),
            class_=f"line s{index}",
        )
        for index, line in enumerate(series.values())
    ]
    drawing = el(
        "svg", *grid, *lines, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="chart", role="img",
        aria_label=f"{title}: from {short(min(values))} to {short(max(values))} {unit}".strip(),
    )  # fmt: skip
    remark = " · ".join(part for part in (note, "log scale" if log else "") if part)
    caption = el("figcaption", title, f" [{unit}]" if unit else None, el("span", f" {remark}", class_="muted"))
    return el("figure", caption, drawing, class_="panel")


def legend(names: Sequence[str]) -> Markup:
    """The key to the lines of `line_chart`, in its order."""
    keys = [
        el("span", el("svg", el("line", x1=0, x2=26, y1=6, y2=6, class_=f"line s{i}"), width=26, height=12), " ", name)
        for i, name in enumerate(names)
    ]
    return el("p", *keys, class_="legend")


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


def _path(points: Sequence[tuple[float, float | None]]) -> str:
    """SVG path data; a None lifts the pen. A point alone between two gaps is drawn as a dot."""
    pieces, pen_down = [], False
    for x, y in points:
        if y is None:
            pen_down = False
            continue
        pieces.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}" + ("" if pen_down else "h0"))
        pen_down = True
    return "".join(pieces)


def _axis(low: float, high: float, log: bool) -> tuple[float, float, list[float]]:
    """Both ends of the axis (in decades when ``log``) and its ticks (in values)."""
    if log:
        first, last = log10(low), log10(high)
        decades = range(floor(first), floor(last) + 2)
        ticks = [10.0**decade for decade in decades if first - 0.05 <= decade <= last + 0.05]
        return first - 0.05, last + 0.05, ticks if len(ticks) > 1 else [low, high]
    margin = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return low - margin, high + margin, _ticks(low - margin, high + margin, 4)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers between ``low`` and ``high``, about ``count`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** floor(log10(raw))
    step = power * min((1, 2, 2.5, 5, 10), key=lambda factor: abs(factor * power - raw))
    return [float(tick) for tick in np.arange(np.ceil(low / step), np.floor(high / step + 1e-9) + 1) * step]


def short(value: float) -> str:
    """A number for an axis or a table: four significant digits, no tail of zeros, k for thousands."""
    if not isfinite(value):
        return "–"
    if abs(value) >= 10_000:
        return f"{value / 1000:.4g} k" if abs(value) < 1e7 else f"{value:.3g}"
    return f"{value + 0.0:.4g}"


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
