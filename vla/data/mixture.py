"""Several datasets in one batch, each as often as its weight says."""

from collections.abc import Sequence

import numpy as np

from vla.data.windows import Windows
from vla.errors import UnderstudyError


class MixtureSampler:
    """Which samples make up batch ``step``: a pure function of (seed, step), so that a resumed run sees the same.

    Every sample is drawn by itself: first its dataset, by weight, then one of its frames, each as likely.
    """

    def __init__(self, parts: Sequence[Windows], weights: Sequence[float], *, batch_size: int, seed: int) -> None:
        """``weights``: one for each part, of any sum; empty: as many as each has samples."""
        given = np.array(weights or [len(part) for part in parts], np.float64)
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
            part.samples[rng.integers(len(part), size=count)] for part, count in zip(self.parts, counts, strict=True)
        ]
