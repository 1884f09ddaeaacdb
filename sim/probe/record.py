"""What a probe found: numbers with intervals, and the items behind them so that two subjects can be paired."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sim.intervals import wilson
from vla.representation.evaluation.intervals import Interval, bootstrap_interval


@dataclass(frozen=True)
class Metric:
    """One number, of which more is better. ``items``: what it is the mean of, for each thing asked, in a fixed order.

    ``chance``: what a guess has; ``None`` where that has no meaning.
    """

    value: float
    low: float
    high: float
    chance: float | None = None
    items: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        plain = asdict(self)
        plain["items"] = [round(item, 5) for item in self.items]
        return plain


def rate(hits: Sequence[bool] | np.ndarray, *, chance: float | None = None) -> Metric:
    """A success rate with Wilson's interval."""
    hits = np.asarray(hits, bool)
    return Metric(float(hits.mean()), *wilson(int(hits.sum()), len(hits)), chance=chance, items=_items(hits))


def mean(values: Sequence[float] | np.ndarray, *, chance: float | None = None) -> Metric:
    """A mean with a bootstrap interval over its items."""
    found = bootstrap_interval(values)
    return Metric(found.estimate, found.low, found.high, chance=chance, items=_items(values))


def told(interval: Interval, items: Sequence[float] | np.ndarray = ()) -> Metric:
    """An interval that something else worked out; ``items`` for the pairing."""
    return Metric(interval.estimate, interval.low, interval.high, items=_items(items))


def plain(value: float) -> Metric:
    """A number without a spread."""
    return Metric(float(value), float("nan"), float("nan"))


def _items(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(np.asarray(values, float).tolist())
