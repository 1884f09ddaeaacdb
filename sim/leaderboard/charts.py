"""Success over what it costs, one numbered dot a policy with its interval: inline SVG in the page's colours."""

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import NamedTuple

from vla.charts import short
from vla.markup import Markup, el

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 40, 226, 10, 204
NAMES, LINE, LONGEST = 240, 14, 17
"""Where the names begin, how far apart their lines are, and how many letters fit."""
STEPS = (1, 2, 5)
FILLED = 4
"""Ticks on the axis below, at most."""


class Point(NamedTuple):
    """A policy: ``x`` > 0 what it costs, success ``rate`` and its interval, all of them 0…1."""

    name: str
    x: float
    rate: float
    low: float
    high: float


def success_over(title: str, unit: str, points: Sequence[Point]) -> Markup:
    """A panel: success rate upwards, ``x`` [unit] on a logarithmic axis, the dots' numbers explained at the right."""
    start, end, ticks = _axis([point.x for point in points])

    def across(value: float) -> float:
        return LEFT + (log10(value) - start) / (end - start) * (RIGHT - LEFT)

    def down(rate: float) -> float:
        return BOTTOM - rate * (BOTTOM - TOP)

    grid = [_level(down(rate), f"{rate:.0%}") for rate in (0, 0.25, 0.5, 0.75, 1)]
    below = [el("text", short(tick), x=_at(across(tick)), y=BOTTOM + 16, text_anchor="middle") for tick in ticks]
    marks, names = [], []
    for number, point in enumerate(points, 1):
        x, ends = across(point.x), (down(point.low), down(point.high))
        name = point.name if len(point.name) <= LONGEST else f"{point.name[: LONGEST - 1]}…"
        marks += [
            el("line", x1=_at(x), x2=_at(x), y1=_at(ends[0]), y2=_at(ends[1]), class_="whisker"),
            el("circle", cx=_at(x), cy=_at(down(point.rate)), r=4.5, class_="dot"),
            el("text", number, x=_at(x + 6), y=_at(down(point.rate) - 5), class_="name"),
        ]
        names.append(el("text", f"{number} {name}", x=NAMES, y=TOP + LINE * number - 5, class_="name"))
    height = max(HEIGHT, TOP + LINE * (len(points) + 1))
    told = "; ".join(f"{point.name}: {point.rate:.0%} at {short(point.x)} {unit}" for point in points)
    drawing = [*grid, *below, *marks, *names]
    picture = el("svg", *drawing, viewBox=f"0 0 {WIDTH} {height}", class_="chart", role="img", aria_label=told)
    return el("figure", el("figcaption", title, f" [{unit}]"), picture, class_="panel")


def _level(y: float, text: str) -> Markup:
    line = el("line", x1=LEFT, x2=RIGHT, y1=_at(y), y2=_at(y), class_="grid")
    return Markup(line + el("text", text, x=LEFT - 5, y=_at(y + 3.5), text_anchor="end"))


def _at(value: float) -> str:
    return f"{value:.1f}"


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Both ends of a logarithmic axis, in decades and a little beyond the values, and its round ticks."""
    start, end = log10(min(values)), log10(max(values))
    margin = max(0.08 * (end - start), 0.1)
    start, end = start - margin, end + margin
    ticks = [step * 10.0**power for power in range(floor(start), ceil(end) + 1) for step in STEPS]
    ticks = [tick for tick in ticks if start <= log10(tick) <= end] or [10 ** ((start + end) / 2)]
    return start, end, ticks[:: ceil(len(ticks) / FILLED)]
