"""What policies that drive one arm with one network have in common: their sessions, and how they answer."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from policies.memory import Memory
from policies.normalizer import NormalizerSet
from policies.policy import Underway, check_seen, going_on
from vla.data.corpus import Corpus
from vla.data.windows import Windows
from vla.training.precision import bf16_is_fast
from vla.types import ActionChunk, Observation, PolicySpec


class OneArm:
    """A network's answers as those of a `policies.policy.Policy`; who inherits says what they are, by `answer`."""

    family: str
    representation: Mapping[str, str] | None = None

    def __init__(self, spec: PolicySpec, embodiment: str, *, normalizers: NormalizerSet, model: Any) -> None:
        self.spec, self.embodiment, self.normalizers, self.model = spec, embodiment, normalizers, model
        self._quick = False
        self.begin(0)

    def begin(self, seed: int) -> None:
        """Forget the episode before; all noise follows from ``seed``."""
        self._memory: Memory[Any] = Memory()
        self._rng = np.random.default_rng([0x07A, seed])

    def answer(self, sessions: Sequence[Self], observations: Sequence[Observation]) -> np.ndarray:
        """The chunks [B, N, A], in physical units, of each of the `session` s for its observation."""
        raise NotImplementedError

    def driving(self, embodiment: str) -> Self:
        """The same policy: it drives one arm."""
        return self

    def session(self) -> Self:
        """The same policy for another episode at the same time; the weights are shared."""
        made = copy(self)
        made.begin(0)
        return made

    def hasten(self) -> None:
        """Compute in bf16 from now on, where the processor is fast at that."""
        self._quick = bf16_is_fast(self.device)

    def infer(self, observation: Observation, underway: Underway | None = None) -> ActionChunk:
        """The next chunk, in physical units. Rows that are ``underway`` stand in it as they are."""
        return self.infer_together([self], [(observation, underway)])[0]

    def infer_together(
        self, sessions: Sequence[Self], seen: Sequence[tuple[Observation, Underway | None]]
    ) -> list[ActionChunk]:
        """What each of the `session` s would answer, in one batch."""
        for observation, _ in seen:
            check_seen(self.spec, observation)
        rows = self.answer(sessions, [observation for observation, _ in seen])
        return [
            ActionChunk(going_on(actions, underway), one.stamp_ns, 1 / self.spec.control_hz)
            for actions, (one, underway) in zip(rows, seen, strict=True)
        ]

    def inputs(self, images: Mapping[str, np.ndarray], proprio: np.ndarray) -> dict[str, Tensor]:
        """What the model sees: camera → [B, …], proprio [B, P] physical, if there is any."""
        seen = {f"image.{name}": torch.from_numpy(np.ascontiguousarray(rows)) for name, rows in images.items()}
        if proprio.shape[1]:
            seen["proprio"] = torch.from_numpy(self.normalizers.get(self.embodiment, "proprio").normalize(proprio))
        return seen

    def prepared(self, windows: Windows, content: str) -> Windows:
        """Samples as the policy wants them: as they are."""
        return windows

    def film_samples(self, films: Corpus) -> Windows | None:
        """Films as samples of their own: none."""
        return None

    def physical(self, normalized: Tensor) -> np.ndarray:
        """Actions [..., A] as the arm takes them."""
        return self.normalizers.get(self.embodiment, "action").unnormalize(normalized.float().cpu().numpy())

    def computing(self) -> torch.autocast:
        """In bf16 if the policy was hastened."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._quick)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device
