"""Are the pixels that a head calls graspable graspable: precision of its most confident ones."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vla.errors import UnderstudyError

NEGATIVE, POSITIVE, IGNORE = 0, 1, 2
SHARES = {"top 1": 0.0, "1 %": 0.01, "5 %": 0.05, "10 %": 0.1}
"""Share of an image's pixels that counts as most confident; at least one does."""


def graspable(logits: Tensor) -> Tensor:
    """Logits [N, C, H, W] → probability of `POSITIVE` [N, H, W].

    The softmax is over the classes, axis 1. Over axis 2, the image's rows, as in Voltron's evaluation, what comes out
    is no probability: it compares each pixel with its column only.
    """
    return logits.float().softmax(dim=1)[:, POSITIVE]


def blurred(maps: Tensor) -> Tensor:
    """Gaussian blur of maps [N, S, S], of 29 x 29 pixels and σ = 7 pixels at S = 80, and in proportion elsewhere.

    Edges are repeated, so that a constant map stays constant and the border is not called less graspable.
    """
    scale = maps.shape[-1] / 80
    radius = max(1, round(14 * scale))
    offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    line = torch.exp(-((offsets / (7 * scale)) ** 2) / 2)
    line = line / line.sum()
    padded = functional.pad(maps[:, None], (radius,) * 4, mode="replicate")
    rows = functional.conv2d(padded, line[None, None, None])
    return functional.conv2d(rows, line[None, None, :, None])[:, 0]


def precision_at(maps: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> dict[str, np.ndarray]:
    """Share of graspable pixels among each image's most confident ones, for each of `SHARES`: name → [N].

    Pixels labelled `IGNORE` are left out before the ranking; pixels that tie count against the map. A map of logits
    is to be turned into ``blurred(graspable(logits))`` first.

    Args:
        maps: Confidence [N, H, W].
        labels: `NEGATIVE`, `POSITIVE` or `IGNORE`, [N, H, W].
    """
    maps, labels = np.asarray(maps), np.asarray(labels)
    if maps.shape != labels.shape or maps.ndim != 3:
        raise UnderstudyError(f"maps and labels must be [N, H, W], got {maps.shape} and {labels.shape}")
    found: dict[str, list[float]] = {name: [] for name in SHARES}
    for confidence, label in zip(maps, labels):
        ranked = _ranked(confidence, label)
        for name, share in SHARES.items():
            found[name].append(ranked[: max(1, round(share * len(ranked)))].mean())
    return {name: np.array(values) for name, values in found.items()}


def precision_chance(labels: Tensor | np.ndarray) -> np.ndarray:
    """Precision of pixels picked at random, [N]: the share of graspable ones among those that are labelled."""
    labels = np.asarray(labels)
    return np.array([(label[_labelled(label)] == POSITIVE).mean() for label in labels])


def _ranked(confidence: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Whether each labelled pixel is graspable, the most confident first."""
    labelled = _labelled(label)
    positive = label[labelled] == POSITIVE
    # Rounded so that pixels which are equal but for the blur's floating point tie.
    return positive[np.lexsort((positive, -confidence[labelled].round(6)))]


def _labelled(label: np.ndarray) -> np.ndarray:
    labelled = label != IGNORE
    if not labelled.any():
        raise UnderstudyError("an image has no labelled pixel; leave it out")
    return labelled
