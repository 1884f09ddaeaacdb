"""Is it known early what somebody is about to do: the right caption's score against the others', over time."""

from collections.abc import Sequence

import numpy as np

from vla.errors import UnderstudyError

TIMES = (0.25, 0.5, 0.75, 1.0)
"""The shares of a video after which captions are scored."""


def intent_hits(
    scores: np.ndarray, truth: Sequence[int] | np.ndarray, *, blank: np.ndarray, tie: float = 1e-6
) -> np.ndarray:
    """Whether the true caption scores highest, for each clip and time: [clips, times], 0…1.

    Captions that tie share the hit: a model that does not look at the video, whose scores are the blank video's, gets
    exactly 1 / K.

    Args:
        scores: Log-likelihood of each caption, [clips, times, K].
        truth: Index of the true caption, [clips].
        blank: Scores of the same captions for a blank video, [K] or [clips, K]. They are subtracted: a caption that
            is likely whatever is seen must not win by that.
        tie: Scores that differ by at most this are equal.
    """
    scores, truth, blank = np.asarray(scores, dtype=np.float64), np.asarray(truth), np.asarray(blank, dtype=np.float64)
    _check(scores, truth, blank)
    gain = scores - (blank if blank.ndim == 1 else blank[:, None])
    best = gain >= gain.max(-1, keepdims=True) - tie  # (clips, times, K)
    return best[np.arange(len(truth)), :, truth] / best.sum(-1)


def intent_accuracy(hits: np.ndarray) -> np.ndarray:
    """Accuracy at each time, [times], from the hits [clips, times]."""
    return hits.mean(axis=0)


def intent_chance(captions: int) -> float:
    """Accuracy of a guess among so many captions."""
    return 1 / captions


def _check(scores: np.ndarray, truth: np.ndarray, blank: np.ndarray) -> None:
    if scores.ndim != 3 or not np.isfinite(scores).all() or not np.isfinite(blank).all():
        raise UnderstudyError(f"scores must be finite and [clips, times, captions], got shape {scores.shape}")
    clips, _, captions = scores.shape
    if blank.shape not in {(captions,), (clips, captions)}:
        raise UnderstudyError(f"blank scores must be [{captions}] or [{clips}, {captions}], got {blank.shape}")
    if truth.shape != (clips,) or (truth < 0).any() or (truth >= captions).any():
        raise UnderstudyError(f"truth must name one of {captions} captions for each of {clips} clips")
