"""Choosing among what UVA could do by what it expects to come of it (Li et al. 2025, §IV-D, forward dynamics).

    observation ─► K chunks of actions ─► K predicted futures ─► the one that ends nearest to the goal's picture

It is `policies.policy.Policy` for a task that is pictured: `Task.goal`, seen by the model's first camera.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from policies.policy import Underway
from vla.errors import UnderstudyError
from vla.types import ActionChunk, Observation, Task

if TYPE_CHECKING:
    from policies.uva.policy import UVA


class ForwardPlanner:
    """``samples``: chunks that it chooses from."""

    def __init__(self, policy: "UVA", *, samples: int = 16) -> None:
        self.policy, self.samples = policy, samples
        self.spec = replace(policy.spec, accepts=("goal",))
        self._goal = torch.empty(0)

    def reset(self, task: Task, *, seed: int = 0) -> None:
        """Begin an episode; the task must have a picture of its goal."""
        if task.goal is None:
            raise UnderstudyError("planning wants a picture of the goal: Task(instruction, goal=picture)")
        self.policy.reset(task, seed=seed)
        self._goal = self.policy.latents(task.goal[None])[0]

    def infer(self, observation: Observation, underway: Underway | None = None) -> ActionChunk:
        """The chunk whose predicted last picture is nearest to the goal's."""
        if underway is not None:
            raise UnderstudyError("a planner chooses whole chunks: give execution.realtime=none")
        chunks, futures = self.policy.imagined(observation, self.samples)
        best = int(self.distances(futures[:, -1]).argmin())
        return ActionChunk(chunks[best], observation.stamp_ns, 1 / self.spec.control_hz)

    def distances(self, latents: Tensor) -> np.ndarray:
        """How far pictures' latents [K, S, C] are from the goal's: mean squares [K]."""
        return (latents.float() - self._goal).square().mean((1, 2)).cpu().numpy()

    def hasten(self) -> None:
        """See `policies.policy.Policy`."""
        self.policy.hasten()
