"""Linear probes in closed form: ridge regression, and the PCA that makes features equally wide before it.

Both are fitted on training data alone. Features are compared at equal width: a probe of 12,288 raw pixels against one
of 192 pooled channels measures the width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.errors import UnderstudyError
from vla.representation.evaluation.intervals import RESAMPLES, Interval, bootstrap_statistic

STRENGTHS = tuple(float(strength) for strength in np.logspace(-6, 4, 21))
"""Regularisation to choose from, per training sample."""


@dataclass(frozen=True)
class RidgeProbe:
    """Targets as a linear function of standardised features."""

    mean: np.ndarray
    """[D] of the training features"""
    scale: np.ndarray
    """[D] one over their standard deviation; 0 for a feature that is constant"""
    weights: np.ndarray
    """[D, M]"""
    intercept: np.ndarray
    """[M]"""
    strength: float
    """what was chosen of the strengths"""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """[N, D] → [N, M]."""
        return (features - self.mean) * self.scale @ self.weights + self.intercept


@dataclass(frozen=True)
class Projection:
    """Principal components, the largest first."""

    mean: np.ndarray
    """[D]"""
    components: np.ndarray
    """[width, D], orthonormal"""

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """[N, D] → [N, width]."""
        return (features - self.mean) @ self.components.T


@dataclass(frozen=True)
class RegressionScore:
    """How good predictions are on test samples, with bootstrap intervals over these."""

    r2: Interval
    """coefficient of determination, the mean over the targets; 0 is the test mean's, below is worse"""
    mae: Interval
    """mean absolute error in the targets' units, the mean over the targets"""
    errors: np.ndarray
    """[N] absolute error of each sample, for a paired difference"""


def fit_ridge(features: np.ndarray, targets: np.ndarray, *, strengths: Sequence[float] = STRENGTHS) -> RidgeProbe:
    """Ridge regression of targets [N] or [N, M]; the strength has the least leave-one-out error on these samples.

    Targets are standardised for that error, so that one in radians weighs as much as one in metres.
    """
    features, targets = _samples(features, targets)
    mean, scale = _standardisation(features)
    u, s, v = _thin_svd((features - mean) * scale)
    intercept, target_scale = targets.mean(axis=0), np.maximum(targets.std(axis=0), 1e-12)
    centred = (targets - intercept) / target_scale
    along = u.T @ centred  # (rank, M)
    penalties = len(features) * np.asarray(strengths)
    best = int(np.argmin([_left_out_error(u, s, centred, penalty=penalty) for penalty in penalties]))
    weights = v @ ((s / (s**2 + penalties[best]))[:, None] * along) * target_scale
    return RidgeProbe(mean, scale, weights, intercept, strength=float(strengths[best]))


def fit_pca(features: np.ndarray, width: int) -> Projection:
    """The ``width`` directions in which training features [N, D] vary most.

    Features that vary in fewer, as those of a collapsed representation, get zeros for the rest.
    """
    features = np.asarray(features, dtype=np.float64)
    mean = features.mean(axis=0)
    _, _, v = _thin_svd(features - mean)
    components = np.zeros((width, features.shape[1]))
    components[: v.shape[1]] = v[:, :width].T
    return Projection(mean, components)


def regression_score(
    predicted: np.ndarray,
    targets: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RegressionScore:
    """R² and mean absolute error of predictions [N, M] on test targets [N, M].

    ``groups`` [N]: which clip each sample comes from, where several samples come from one; clips are then resampled.
    """
    predicted, targets = _samples(predicted, targets)
    if predicted.shape != targets.shape:
        raise UnderstudyError(f"one prediction for each target is needed: {predicted.shape} and {targets.shape}")
    if (targets.std(axis=0) == 0).any():
        raise UnderstudyError("a target is the same in all test samples, so R² is not defined; leave it out")
    errors = np.abs(predicted - targets).mean(axis=1)
    r2, mae = (
        bootstrap_statistic(
            statistic, len(targets), groups=groups, confidence=confidence, resamples=resamples, seed=seed
        )
        for statistic in (lambda w: _r2(w, predicted, targets), lambda w: w @ errors / w.sum(1))
    )
    return RegressionScore(r2, mae, errors)


def _r2(weights: np.ndarray, predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """R² [B], the mean over the targets, of samples weighted by each row of ``weights`` [B, N]."""
    total = weights.sum(1, keepdims=True)
    # Centred first: the difference of squares below would otherwise cancel for targets far from 0.
    centred = targets - targets.mean(axis=0)
    spread = weights @ centred**2 - (weights @ centred) ** 2 / total
    with np.errstate(divide="ignore", invalid="ignore"):
        return (1 - weights @ (predicted - targets) ** 2 / spread).mean(1)


def _left_out_error(u: np.ndarray, s: np.ndarray, targets: np.ndarray, *, penalty: float) -> float:
    """Mean squared error of each centred target [N, M] predicted from the others, without N fits."""
    shrink = s**2 / (s**2 + penalty)
    residual = targets - u @ (shrink[:, None] * (u.T @ targets))
    leverage = 1 / len(u) + u**2 @ shrink
    return float(((residual / np.maximum(1 - leverage, 1e-9)[:, None]) ** 2).mean())


def _standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    std = features.std(axis=0)
    constant = std <= 1e-6 * np.sqrt((features**2).mean())
    return features.mean(axis=0), np.where(constant, 0.0, 1 / np.where(constant, 1.0, std))


def _thin_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U [N, r], singular values [r], V [D, r] by the smaller of both Gram matrices: pixels have D ten times N.

    Squaring loses what is below a hundred-thousandth of the largest singular value, so it is left out.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    squares, right = np.linalg.eigh(tall.T @ tall)
    squares, right = squares[::-1], right[:, ::-1]
    kept = squares > 1e-10 * max(squares[0], np.finfo(np.float64).tiny)
    s, right = np.sqrt(squares[kept]), right[:, kept]
    left = tall @ right / s
    return (left, s, right) if tall is matrix else (right, s, left)


def _samples(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, targets = np.asarray(features, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    features, targets = (array.reshape(len(array), -1) for array in (features, targets))
    if len(features) != len(targets) or len(features) < 2:
        raise UnderstudyError(f"2 or more samples with a target each are needed: {len(features)}, {len(targets)}")
    if not np.isfinite(features).all() or not np.isfinite(targets).all():
        raise UnderstudyError("features and targets must be finite; some are nan or infinite")
    return features, targets
