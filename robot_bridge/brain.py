"""What a server serves: one policy, as many episodes of it side by side as there are robots."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from policies.policy import Policy, Underway
from vla.errors import UnderstudyError
from vla.types import ActionChunk, Observation, PolicySpec


class Brain(Protocol):
    """Episodes of one policy side by side."""

    spec: PolicySpec

    def session(self) -> Policy:
        """A policy that shares the weights and nothing else."""
        ...

    def infer_together(
        self, sessions: Sequence[Policy], seen: Sequence[tuple[Observation, Underway | None]]
    ) -> list[ActionChunk]:
        """What each session would answer, in one batch."""
        ...


class OneByOne:
    """A policy that knows no batches as a `Brain`; it serves one robot at a time."""

    def __init__(self, policy: Policy) -> None:
        self.spec, self._policy = policy.spec, policy

    def session(self) -> Policy:
        """The policy itself."""
        return self._policy

    def infer_together(
        self, sessions: Sequence[Policy], seen: Sequence[tuple[Observation, Underway | None]]
    ) -> list[ActionChunk]:
        """One after the other."""
        return [session.infer(*one) for session, one in zip(sessions, seen, strict=True)]


def check_chunk(chunk: ActionChunk, shape: tuple[int, int]) -> None:
    """Refuse an answer [H, A] of another ``shape``, or with what is no number; raises `UnderstudyError`."""
    if chunk.actions.shape != shape or not np.isfinite(chunk.actions).all():
        raise UnderstudyError(
            f"the policy answered {chunk.actions.shape}, its spec says {shape}"
            if chunk.actions.shape != shape
            else "the policy answered NaN or infinity"
        )
