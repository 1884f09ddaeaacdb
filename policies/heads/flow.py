"""Flow matching as in openpi (Black et al. 2024, π0, §IV and appendix B): straight lines from noise to actions.

Its own time t runs from 0 (actions) to 1 (noise); the denoiser is told 100 t, on the scale of the diffusion process,
and predicts the velocity ``noise - actions``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.heads.generative import GenerativeConfig, GenerativeHead, Step

SCALE = 100
NEAREST = 0.001
"""The smallest time that is trained at."""


@dataclass
class FlowConfig(GenerativeConfig):
    """The process; its denoiser is that of ``diffusion``. π0 has no guidance, and draws once."""

    drop: float = 0.0
    guidance: float = 1.0
    steps: int = 10
    """Euler steps"""


class FlowHead(GenerativeHead):
    """A denoiser that learns the velocity; Euler's method from t = 1 to 0."""

    config: FlowConfig

    def draw_times(self, count: int, device: torch.device) -> Tensor:
        """Beta(1.5, 1), which is the power 2/3 of a uniform number: more often near the noise."""
        return SCALE * (torch.rand(count, device=device) ** (1 / 1.5) * (1 - NEAREST) + NEAREST)

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Points on the lines, and their velocities."""
        share = (time / SCALE)[:, None, None]
        return share * noise + (1 - share) * clean, noise - clean

    def steps(self) -> Iterator[Step]:
        """Equal steps from noise to actions."""
        for left in range(self.config.steps, 0, -1):
            now, later = left / self.config.steps, (left - 1) / self.config.steps
            yield Step(SCALE * now, 1 - now, now, 1 - later, later)

    def clean(self, noisy: Tensor, said: Tensor, step: Step) -> Tensor:
        """Where the line that it said ends."""
        return noisy - step.sigma * said
