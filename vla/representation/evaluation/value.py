"""Is a learned value a measure of progress: its order along a clip, and whether it tells success from failure."""

from collections.abc import Sequence

import numpy as np

from vla.errors import UnderstudyError


def spearman(value: Sequence[float] | np.ndarray, remaining: Sequence[float] | np.ndarray) -> float:
    """Spearman's correlation of a value [T] with the true distance that remains [T].

    -1 is the best: the value rises as the distance falls. Ties take their mean rank; 0 where either is constant.
    """
    value, remaining = _series(value, "value"), _series(remaining, "remaining")
    if len(value) != len(remaining):
        raise UnderstudyError(f"{len(value)} values for {len(remaining)} distances; give one for each frame")
    a, b = (ranks - ranks.mean() for ranks in (mean_ranks(value), mean_ranks(remaining)))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def monotone_fraction(value: Sequence[float] | np.ndarray) -> float:
    """Share of the steps of a clip on which the value rises: about 0.5 for noise, 0 for a constant."""
    value = _series(value, "value")
    if len(value) < 2:
        raise UnderstudyError("a clip of one frame has no step; give at least two values")
    return float((np.diff(value) > 0).mean())


def auroc(success: Sequence[float] | np.ndarray, failure: Sequence[float] | np.ndarray) -> float:
    """Probability that a success scores above a failure, where a tie counts half: the exact area, in O(n log n)."""
    success, failure = _series(success, "success"), _series(failure, "failure")
    ranks = mean_ranks(np.concatenate([success, failure]))[: len(success)]
    wins = ranks.sum() - len(success) * (len(success) + 1) / 2
    return float(wins / (len(success) * len(failure)))


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 1 … N of ``values`` [N]; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[place]


def _series(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise UnderstudyError(f"{name} must be one or more finite numbers in a row, got shape {values.shape}")
    return values
