"""Does a clip find the clips of its own task: R@k and mean average precision of cosine neighbours.

A tie counts against the query: the clip of the wrong task goes first. Otherwise the order of the gallery decides, and
a collapsed representation can look perfect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np

from vla.errors import UnderstudyError, unknown

ClipEmbedding = Literal["mean", "mean_and_change"]
CLIP_EMBEDDINGS: tuple[ClipEmbedding, ...] = ("mean", "mean_and_change")


@dataclass(frozen=True)
class Retrieval:
    """What each of Q queries found in a gallery of ``gallery`` clips."""

    first_rank: np.ndarray
    """[Q] rank of the nearest clip with the query's label; 1 is the best"""
    average_precision: np.ndarray
    """[Q]"""
    relevant: np.ndarray
    """[Q] how many clips of the gallery have the query's label"""
    gallery: int

    def hits(self, k: int) -> np.ndarray:
        """[Q] whether a clip with the query's label is among the ``k`` nearest."""
        return self.first_rank <= k

    def recall(self, k: int) -> float:
        """R@k: the share of queries that hit."""
        return float(self.hits(k).mean())

    def mean_average_precision(self) -> float:
        """MAP: the mean of the queries' average precisions."""
        return float(self.average_precision.mean())

    def chance_recall(self, k: int) -> float:
        """R@k to be expected of a gallery in random order."""
        k = min(k, self.gallery)
        misses = [comb(self.gallery - int(n), k) / comb(self.gallery, k) for n in self.relevant]
        return float(1 - np.mean(misses))

    def chance_average_precision(self) -> float:
        """Mean average precision to be expected of a gallery in random order."""
        if self.gallery == 1:
            return 1.0
        harmonic = (1 / np.arange(1, self.gallery + 1)).sum()
        also_relevant = (self.relevant - 1) / (self.gallery - 1)
        return float(((harmonic + also_relevant * (self.gallery - harmonic)) / self.gallery).mean())


def clip_embedding(features: np.ndarray, *, kind: ClipEmbedding = "mean") -> np.ndarray:
    """One vector for a clip [T, D].

    ``mean`` [D] averages over time, and so says what is seen but not in which direction it changes: opening and
    closing a drawer look alike. ``mean_and_change`` [2 D] puts last - first frame behind it; each half is scaled to
    length 1, or the mean, which holds what all clips share, would drown the change.
    """
    if kind not in CLIP_EMBEDDINGS:
        raise unknown("clip embedding", kind, CLIP_EMBEDDINGS)
    features = np.asarray(features, dtype=np.float64)
    mean = features.mean(axis=0)
    return mean if kind == "mean" else np.concatenate([_unit(mean), _unit(features[-1] - features[0])])


def retrieve(
    queries: np.ndarray, labels: Sequence[str] | np.ndarray, *, gallery: np.ndarray, gallery_labels: Sequence[str]
) -> Retrieval:
    """Rank a gallery [G, D] by its cosine with each query [Q, D]; ``labels`` [Q] and ``gallery_labels`` [G]."""
    labels, gallery_labels = np.asarray(labels), np.asarray(gallery_labels)
    if not len(queries) or len(queries) != len(labels) or len(gallery) != len(gallery_labels):
        raise UnderstudyError(
            f"at least one query and one label for each clip are needed, got {len(labels)} for {len(queries)} queries "
            f"and {len(gallery_labels)} for {len(gallery)} clips of the gallery"
        )
    if missing := sorted(set(labels.tolist()) - set(gallery_labels.tolist())):
        raise UnderstudyError(f"the gallery has no clip labelled {missing[0]!r}; leave such queries out")
    # Rounded so that clips which are equal but for floating point tie.
    cosine = (_unit(queries) @ _unit(gallery).T).round(9)
    same = labels[:, None] == gallery_labels  # (Q, G)
    found = np.take_along_axis(same, np.lexsort((same, -cosine), axis=-1), axis=-1)
    ranks = np.arange(1, len(gallery) + 1)
    relevant = found.sum(1)
    precision = found.cumsum(1) / ranks
    return Retrieval(found.argmax(1) + 1, (precision * found).sum(1) / relevant, relevant, len(gallery))


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
