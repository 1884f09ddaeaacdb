"""Does the box lie where the words point: intersection over union, and accuracy by split.

Boxes are (x, y, width, height) from their upper left corner, in pixels or as shares of the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.errors import UnderstudyError

TOTAL = "total"
THRESHOLDS = (0.25, 0.5)


@dataclass(frozen=True)
class Grounding:
    """Boxes of one split."""

    items: int
    hits: dict[float, int]
    """threshold → how many boxes reach it: with ``items``, what an interval of the rate needs"""

    def accuracy(self, threshold: float) -> float:
        """Acc@IoU."""
        return self.hits[threshold] / self.items


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of the boxes [N, 4] of ``a`` and ``b``, row by row: [N].

    A box of negative width or height, which a regression may predict, is empty; an empty box overlaps nothing.
    """
    a, b = (np.asarray(boxes, dtype=np.float64) for boxes in (a, b))
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 4:
        raise UnderstudyError(f"boxes must be [N, 4], as many of each kind, got {a.shape} and {b.shape}")
    size_a, size_b = np.maximum(a[:, 2:], 0), np.maximum(b[:, 2:], 0)
    shared = np.minimum(a[:, :2] + size_a, b[:, :2] + size_b) - np.maximum(a[:, :2], b[:, :2])
    intersection = np.maximum(shared, 0).prod(1)
    union = size_a.prod(1) + size_b.prod(1) - intersection
    return intersection / np.where(union > 0, union, 1)


def grounding(
    predicted: np.ndarray, truth: np.ndarray, *, splits: Sequence[str], thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, Grounding]:
    """Hits of all boxes [N, 4], under "total", and of each split; ``splits`` [N] names each item's."""
    iou, splits = box_iou(predicted, truth), np.asarray(splits)
    if len(splits) != len(iou) or not len(iou) or TOTAL in splits:
        raise UnderstudyError(f"{len(iou)} boxes need as many splits, none called {TOTAL!r}; got {len(splits)}")
    chosen = {TOTAL: np.ones(len(iou), dtype=bool)} | {str(name): splits == name for name in np.unique(splits)}
    return {
        name: Grounding(int(rows.sum()), {limit: int((iou[rows] >= limit).sum()) for limit in thresholds})
        for name, rows in chosen.items()
    }
