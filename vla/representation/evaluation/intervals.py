"""How sure means make us: bootstrap and t intervals, paired differences, and the word that a table prints for one.

Bootstrap intervals end at order statistics of the resampled means and p counts the same means, so that an interval
at 95 % leaves out 0 exactly when that p is at most 0.05.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import floor, inf, sqrt
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from vla.errors import UnderstudyError

Verdict = Literal["better", "worse", "not better than"]
RESAMPLES = 1_999
"""One less than a round number: the ends of the usual intervals are then order statistics, with nothing rounded."""
CHUNK = 4_000_000
"""Counts that are in memory at once; a bootstrap over thousands of frames would take gigabytes."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval; the ends are infinite where a single value says nothing of spread."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A method's mean minus its baseline's, with the interval at ``confidence`` and a two-sided p value."""

    estimate: float
    low: float
    high: float
    p: float
    confidence: float


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean of ``values`` [N].

    Not for a rate near 0 or 1: of 20 hits in 20 items it says [1, 1], where Wilson's interval is [0.84, 1].

    Args:
        values: One number per item.
        groups: Which clip each item comes from [N]; whole clips are then drawn. The frames of a clip resemble each
            other, and an interval that draws them one by one is too narrow.
        confidence: Of the interval.
        resamples: How many means are drawn.
        seed: Of the draws.
    """
    values = _finite(values, "values")
    return bootstrap_statistic(
        lambda counts: _means(counts, values),
        len(values),
        groups=groups,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], np.ndarray],
    count: int,
    *,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile interval of any statistic of ``count`` weighted items; other arguments as for a mean.

    ``statistic`` turns weights [B, count], how often each item counts, into B values.
    """
    estimate = float(statistic(np.ones((1, count)))[0])
    if _units(groups, count) < 2:
        return Interval(estimate, -inf, inf)
    chunks = resample_counts(count, groups=groups, resamples=resamples, seed=seed)
    return Interval(estimate, *_ends(np.concatenate([statistic(counts) for counts in chunks]), confidence))


def t_interval(values: Sequence[float] | np.ndarray, *, confidence: float = 0.95) -> Interval:
    """Student's interval of the mean of a few independent runs (seeds), where a bootstrap would be too narrow."""
    values, confidence = _finite(values, "values"), _confidence(confidence)
    estimate, runs = float(values.mean()), len(values)
    if runs < 2:
        return Interval(estimate, -inf, inf)
    half = float(stdtrit(runs - 1, 0.5 + confidence / 2) * values.std(ddof=1) / sqrt(runs))
    return Interval(estimate, estimate - half, estimate + half)


def paired_difference(
    method: Sequence[float] | np.ndarray,
    baseline: Sequence[float] | np.ndarray,
    *,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The mean of ``method - baseline`` over the same items [N], by a paired bootstrap; arguments as for an interval.

    The p value is never below what an exact sign test could reach with as many items (or groups) as differ: a
    bootstrap of three items that all point one way knows of nothing else, and would report p < 0.001.
    """
    gap = _gap(method, baseline)
    estimate = float(gap.mean())
    units = _units(groups, len(gap))
    if units < 2:
        return Difference(estimate, -inf, inf, p=1.0, confidence=confidence)
    chunks = resample_counts(len(gap), groups=groups, resamples=resamples, seed=seed)
    means = np.concatenate([_means(counts, gap) for counts in chunks])
    rounding = 1e-12 * np.abs(gap).max()
    means[np.abs(means) <= rounding] = 0.0
    low, high = _ends(means, confidence)
    tail = 1 + min((means <= 0).sum(), (means >= 0).sum())
    per_unit = np.bincount(_codes(groups, len(gap)), weights=gap, minlength=units)
    least = 2.0 ** (1 - np.count_nonzero(np.abs(per_unit) > rounding))
    p = min(1.0, max(2 * tail / (resamples + 1), least))
    return Difference(estimate, low, high, p=float(p), confidence=confidence)


def verdict(difference: Difference, *, higher_is_better: bool = True) -> Verdict:
    """What the difference allows to be said of the method; "not better than" is an answer like the others."""
    if difference.p > 1 - difference.confidence + 1e-12 or difference.low <= 0 <= difference.high:
        return "not better than"
    return "better" if (difference.estimate > 0) == higher_is_better else "worse"


def resample_counts(count: int, *, resamples: int, seed: int, groups: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """How often each of ``count`` items is in each bootstrap sample: [resamples, count], some rows at a time."""
    rng = np.random.default_rng(seed)
    codes, units = _codes(groups, count), _units(groups, count)
    step = max(1, CHUNK // count)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        yield counts[:, codes].astype(np.float64)


def _ends(resampled: np.ndarray, confidence: float) -> tuple[float, float]:
    """Ends of the percentile interval of a resampled statistic [B]; resamples in which it is not defined are nan."""
    ordered = np.sort(resampled[np.isfinite(resampled)])
    rank = floor((1 - _confidence(confidence)) / 2 * (len(ordered) + 1) + 1e-9)
    if rank < 1:
        raise UnderstudyError(f"{len(ordered)} resamples are too few for confidence {confidence}; raise resamples")
    return float(ordered[rank - 1]), float(ordered[-rank])


def _means(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    return counts @ values / counts.sum(1)


def _codes(groups: np.ndarray | None, count: int) -> np.ndarray:
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise UnderstudyError(f"{len(groups)} groups for {count} items; give one for each item")
    return np.unique(groups, return_inverse=True)[1]


def _units(groups: np.ndarray | None, count: int) -> int:
    return int(_codes(groups, count).max()) + 1


def _gap(method: Sequence[float] | np.ndarray, baseline: Sequence[float] | np.ndarray) -> np.ndarray:
    method, baseline = _finite(method, "method"), _finite(baseline, "baseline")
    if method.shape != baseline.shape:
        raise UnderstudyError(f"paired values must be of the same items, got {len(method)} and {len(baseline)}")
    return method - baseline


def _finite(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise UnderstudyError(f"{name} must be one or more finite numbers in a row, got shape {values.shape}")
    return values


def _confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise UnderstudyError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    return confidence
