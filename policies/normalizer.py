"""Normalisation of actions and proprio: forward in training, inverted at inference, refused when a key is missing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vla.errors import UnderstudyError, unknown

Mode = Literal["quantile", "minmax", "zscore"]


@dataclass(frozen=True)
class Normalizer:
    """An affine map per dimension, ``(x - center) / scale``, fitted on training data.

    ``quantile`` maps q01…q99 to -1…1 and clips (CogACT and OpenVLA's BOUNDS_Q99); ``minmax`` maps the extremes to
    -1…1 and clips; ``zscore`` subtracts the mean. Where ``mask`` is false (a gripper's 0/1) a value passes as it is.
    A dimension that never changes maps to 0 and comes back as its constant.
    """

    mode: Mode
    center: tuple[float, ...]
    scale: tuple[float, ...]
    mask: tuple[bool, ...]
    binary: tuple[float, float] | None = None
    """for the masked entries: the two values that they snap to when un-normalised; ``None`` leaves them"""

    @classmethod
    def fit(
        cls,
        values: np.ndarray,
        *,
        mode: Mode = "quantile",
        mask: Sequence[bool] | None = None,
        binary: tuple[float, float] | None = None,
    ) -> "Normalizer":
        """Fit on ``values`` [N, D]."""
        values = np.asarray(values, np.float64)
        if mode == "zscore":
            center, scale = values.mean(0), values.std(0)
        elif mode in ("quantile", "minmax"):
            low, high = np.quantile(values, [0.01, 0.99] if mode == "quantile" else [0.0, 1.0], axis=0)
            center, scale = (low + high) / 2, (high - low) / 2
        else:
            raise unknown("normalisation mode", mode, ("quantile", "minmax", "zscore"))
        keep = tuple(bool(kept) for kept in mask) if mask is not None else (True,) * values.shape[1]
        return cls(mode, tuple(center.tolist()), tuple(scale.tolist()), keep, binary)

    @property
    def dim(self) -> int:
        """Entries in one value."""
        return len(self.center)

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """[..., D] physical → [..., D] float32 normalised."""
        center, scale, mask, live = self._arrays()
        normalized = np.where(live, (values - center) / np.where(live, scale, 1), 0.0)
        if self.mode != "zscore":
            normalized = np.clip(normalized, -1, 1)
        return np.where(mask, normalized, values).astype(np.float32)

    def unnormalize(self, values: np.ndarray) -> np.ndarray:
        """[..., D] normalised → [..., D] float32 physical; the inverse of `normalize` inside the fitted range."""
        center, scale, mask, _ = self._arrays()
        bounded = np.clip(values, -1, 1) if self.mode != "zscore" else values
        passed = values
        if self.binary is not None:
            low, high = self.binary
            passed = np.where(values < (low + high) / 2, low, high)
        return np.where(mask, bounded * scale + center, passed).astype(np.float32)

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        scale = np.asarray(self.scale)
        return np.asarray(self.center), scale, np.asarray(self.mask), scale > 1e-8


@dataclass(frozen=True)
class NormalizerSet:
    """Normalisers by embodiment and by key (``action``, ``proprio``), saved as ``normalizer.json``."""

    by_embodiment: Mapping[str, Mapping[str, Normalizer]]

    def get(self, embodiment: str, key: str) -> Normalizer:
        """The normaliser, or an `UnderstudyError` that names what there is: nothing ever passes un-normalised."""
        if embodiment not in self.by_embodiment:
            raise unknown("embodiment in normalizer.json", embodiment, self.by_embodiment)
        if key not in self.by_embodiment[embodiment]:
            raise unknown(f"normaliser key of {embodiment}", key, self.by_embodiment[embodiment])
        return self.by_embodiment[embodiment][key]

    def save(self, path: Path) -> None:
        """Write plain JSON."""
        plain = {e: {k: asdict(n) for k, n in group.items()} for e, group in self.by_embodiment.items()}
        path.write_text(json.dumps(plain, indent=2))

    @classmethod
    def load(cls, path: Path) -> "NormalizerSet":
        """Read what `save` wrote."""
        if not path.is_file():
            raise UnderstudyError(
                f"no normaliser at {path}: the checkpoint is incomplete; train again or copy it whole"
            )
        return cls(
            {e: {k: _from_json(n) for k, n in group.items()} for e, group in json.loads(path.read_text()).items()}
        )


def _from_json(data: dict) -> Normalizer:
    return Normalizer(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})
