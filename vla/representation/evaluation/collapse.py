"""Have features collapsed: how far they spread, over how many directions, how evenly on the sphere."""

from dataclasses import dataclass

import numpy as np

from vla.errors import UnderstudyError

DEAD = 1e-3
"""A dimension is dead if its standard deviation is at most this share of the features' root mean square."""
UNIFORMITY_ROWS = 2_000


@dataclass(frozen=True)
class Collapse:
    """The monitors of `measure_collapse`."""

    std_mean: float
    std_min: float
    dead_share: float
    """share of the dimensions that are dead, 0…1; 1 is a collapse"""
    effective_rank: float
    """directions in use, 0…D"""
    uniformity: float
    """0 if all directions are one, about -4 if they are spread evenly over a sphere of many dimensions"""
    norm_mean: float


def measure_collapse(features: np.ndarray) -> Collapse:
    """All monitors of ``features`` [N, D]."""
    features = _features(features)
    wide = features.astype(np.float64)
    std = wide.std(axis=0)
    return Collapse(
        std_mean=float(std.mean()),
        std_min=float(std.min()),
        dead_share=float((std <= DEAD * np.sqrt((wide**2).mean())).mean()),
        effective_rank=effective_rank(features),
        uniformity=uniformity(features),
        norm_mean=float(np.linalg.norm(wide, axis=1).mean()),
    )


def effective_rank(features: np.ndarray) -> float:
    """Exponential of the entropy of the centred features' singular values (Roy & Vetterli 2007); 0 for a constant."""
    features = _features(features)
    wide = features.astype(np.float64)
    values = np.linalg.svd(wide - wide.mean(axis=0), compute_uv=False)
    # What is left of a constant after centring is rounding, and rounding is isotropic: it would look like full rank.
    precision = np.finfo(features.dtype).eps if np.issubdtype(features.dtype, np.floating) else 0.0
    values = values[values > 4 * max(precision, 1e-6) * np.linalg.norm(wide)]
    if not len(values):
        return 0.0
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def uniformity(features: np.ndarray) -> float:
    """Log of the mean of exp(-2 |x - y|²) over pairs of features of length 1 (Wang & Isola 2020).

    Of more than 2,000 rows, so many are taken at even distances: frames that follow one another are nearly equal.
    """
    features = _features(features).astype(np.float64)
    rows = features[np.linspace(0, len(features) - 1, min(len(features), UNIFORMITY_ROWS)).astype(np.int64)]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = (rows @ rows.T)[np.triu_indices(len(rows), k=1)]
    return float(np.log(np.exp(-4 * (1 - cosine)).mean()))


def _features(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features)
    if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
        raise UnderstudyError(f"features must be finite and [N >= 2, D], got shape {features.shape}")
    return features
