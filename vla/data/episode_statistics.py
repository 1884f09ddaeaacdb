"""Statistics that LeRobot keeps beside every episode and, aggregated, beside every dataset.

One feature's statistics are ``{"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}``: lists of D
numbers for a vector, [3][1][1] in 0…1 for images. Aggregated quantiles are means of the episodes' quantiles weighted by
count, as LeRobot computes them: an estimate. `vla.data.statistics` computes exact ones for training.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Stats = dict[str, np.ndarray]
"""Statistic → [D] (a vector) or [3, 1, 1] (images) float64; ``count`` → [1] int64."""

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
STATISTICS = ("min", "max", "mean", "std", "count", *QUANTILES)
IMAGE_SAMPLES = 16
IMAGE_SIDE = 64


def vector_stats(values: np.ndarray) -> Stats:
    """Statistics of [T, D] (or [T]) numbers over time."""
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "count": np.array([len(values)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def image_stats(frames: np.ndarray) -> Stats:
    """Per-channel statistics in 0…1 of [T, H, W, 3] uint8, from at most 16 frames thinned to about 64 pixels a side."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(IMAGE_SAMPLES, len(frames))).round().astype(int))
    step = max(1, min(frames.shape[1:3]) // IMAGE_SIDE)
    pixels = frames[chosen, ::step, ::step].reshape(-1, 3)
    # 256 bins hold everything there is to know about uint8: no sort, no float copy of the pixels.
    counts = np.stack([np.bincount(pixels[:, channel], minlength=256) for channel in range(3)])
    levels = np.arange(256) / 255.0
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    filled = counts > 0
    below = np.cumsum(share, axis=1)
    stats = {
        "min": levels[filled.argmax(1)],
        "max": levels[255 - filled[:, ::-1].argmax(1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(share @ levels**2 - mean**2, 0.0)),
        **{name: levels[(below >= q - 1e-12).argmax(1)] for name, q in QUANTILES.items()},
    }
    return {name: value.reshape(3, 1, 1) for name, value in stats.items()} | {"count": np.array([len(chosen)])}


def aggregate(parts: Iterable[Mapping[str, Stats]]) -> dict[str, Stats]:
    """Statistics over several episodes (or over a dataset so far and one more episode)."""
    total: dict[str, Stats] = {}
    for part in parts:
        for key, stats in part.items():
            total[key] = _merge(total[key], stats) if key in total else dict(stats)
    return total


def _merge(one: Stats, two: Stats) -> Stats:
    count = one["count"] + two["count"]
    weight = float(two["count"][0]) / float(count[0])
    shift = two["mean"] - one["mean"]
    variance = (1 - weight) * one["std"] ** 2 + weight * two["std"] ** 2 + weight * (1 - weight) * shift**2
    return {
        "min": np.minimum(one["min"], two["min"]),
        "max": np.maximum(one["max"], two["max"]),
        "mean": one["mean"] + weight * shift,
        "std": np.sqrt(variance),
        "count": count,
        **{name: (1 - weight) * one[name] + weight * two[name] for name in QUANTILES},
    }


def to_json(stats: Mapping[str, Stats]) -> dict[str, dict[str, Any]]:
    """The content of ``meta/stats.json``."""
    return {key: {name: value.tolist() for name, value in entry.items()} for key, entry in stats.items()}


def from_json(content: Mapping[str, Mapping[str, Any]]) -> dict[str, Stats]:
    """The inverse of `to_json`; features without all statistics (older writers) are left out."""
    return {
        key: {name: np.asarray(entry[name], np.int64 if name == "count" else np.float64) for name in STATISTICS}
        for key, entry in content.items()
        if all(name in entry for name in STATISTICS)
    }
