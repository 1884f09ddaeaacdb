"""Line charts for pages: inline SVG that takes its colours from the page, light or dark, and needs no script."""

from collections.abc import Mapping, Sequence
from math import floor, isfinite, log10

import numpy as np

from vla.markup import Markup, el

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
LOG_SPREAD = 30
"""A positive series whose ends differ by more than this factor is drawn on a logarithmic axis."""

Series = Mapping[str, Sequence[float | None]]
Band = tuple[float, float, str]
"""From where to where along ``x``, and the CSS class of what is drawn behind the lines."""


def line_chart(
    title: str,
    x: Sequence[float],
    series: Series,
    *,
    unit: str = "",
    log: bool | None = None,
    note: str = "",
    bands: Sequence[Band] = (),
) -> Markup:
    """Lines over ``x``; a None is a gap. ``log=None`` decides by the spread of the values. Up to four series.

    ``bands``: stretches of ``x`` that are shaded behind the lines.
    """
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

    grid = [_band(across(max(a, start)), across(min(b, end)), kind) for a, b, kind in bands if a < end and b > start]
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


def _band(left: float, right: float, kind: str) -> Markup:
    place = {"x": f"{left:.1f}", "width": f"{right - left:.1f}", "y": TOP, "height": HEIGHT - TOP - BOTTOM}
    return el("rect", **place, class_=f"band {kind}")


def legend(names: Sequence[str]) -> Markup:
    """The key to the lines of `line_chart`, in its order."""
    keys = [
        el("span", el("svg", el("line", x1=0, x2=26, y1=6, y2=6, class_=f"line s{i}"), width=26, height=12), " ", name)
        for i, name in enumerate(names)
    ]
    return el("p", *keys, class_="legend")


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
