"""Several datasets in one batch, each as often as its weight says."""

from collections.abc import Sequence

import numpy as np

from vla.data.windows import Windows
from vla.errors import UnderstudyError


class MixtureSampler:
    """Which samples make up batch ``step``: a pure function of (seed, step), so that a resumed run sees the same.

    Every sample is drawn by itself: first its dataset, by weight, then one of its frames, each as likely, or as likely
    as its quality where the dataset has that column.
    """

    def __init__(self, parts: Sequence[Windows], weights: Sequence[float], *, batch_size: int, seed: int) -> None:
        """``weights``: one for each part, of any sum; empty: as many as each has samples, each as much as its quality.

        Raises `UnderstudyError` for weights that are not above 0, and for a part in which nothing is to be trusted.
        """
        self._trusted = [np.cumsum(trust_in(part)) for part in parts]
        given = np.array(weights or [sums[-1] for sums in self._trusted], np.float64)
        if len(given) != len(parts) or (given <= 0).any() or not np.isfinite(given).all():
            raise UnderstudyError(
                f"a mixture of {len(parts)} datasets wants {len(parts)} weights above 0, got {list(weights)}"
            )
        self.parts, self.shares = tuple(parts), given / given.sum()
        self.batch_size, self.seed = batch_size, seed

    def indices(self, step: int) -> list[np.ndarray]:
        """For each part its frames in batch ``step``; together ``batch_size``, and any of them may be empty."""
        rng = np.random.default_rng([0x313, self.seed, step])
        counts = np.bincount(rng.choice(len(self.parts), self.batch_size, p=self.shares), minlength=len(self.parts))
        return [
            part.samples[rng.integers(len(part), size=count)]
            if part.quality is None
            else part.samples[np.searchsorted(sums, rng.random(count) * sums[-1], side="right")]
            for part, sums, count in zip(self.parts, self._trusted, counts, strict=True)
        ]


def trust_in(part: Windows) -> np.ndarray:
    """How likely each sample is to be drawn beside the others [S]."""
    if part.quality is None:
        return np.ones(len(part))
    quality = np.clip(part.quality[part.samples], 0.0, 1.0).astype(np.float64)
    if not quality.sum():
        raise UnderstudyError("a dataset of the mixture says of all its frames that they are not to be trusted")
    return quality
