"""The diffusion process of CogACT (Li et al. 2024, §3.3 and appendix): noise prediction, cosine schedule, DDIM.

Time runs from 0 (clean) to T - 1 (noise), as in diffusers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from policies.heads.generative import GenerativeConfig, GenerativeHead, Step

TRAIN_TIMES = 100


@dataclass
class DiffusionConfig(GenerativeConfig):
    """The process and the sizes of its diffusion transformer."""

    depth: int = 4
    width: int = 128
    heads: int = 4
    ddim_steps: int = 10


def ddim_scheduler(steps: int) -> DDIMScheduler:
    """DDIM (Song et al. 2021) on CogACT's schedule: cosine, T = 100, no clipping; 10 steps visit 90, 80, … 0."""
    if not 1 <= steps <= TRAIN_TIMES or TRAIN_TIMES % steps:
        raise ValueError(f"ddim_steps must divide {TRAIN_TIMES}, got {steps}")
    scheduler = DDIMScheduler(
        num_train_timesteps=TRAIN_TIMES,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(steps)
    return scheduler


class DiffusionHead(GenerativeHead):
    """A denoiser that learns to predict noise; DDIM with eta 0."""

    config: DiffusionConfig

    def __init__(self, config: DiffusionConfig, denoiser: nn.Module, *, action_dim: int, chunk: int) -> None:
        super().__init__(config, denoiser, action_dim=action_dim, chunk=chunk)
        with torch.device("cpu"):  # its numbers are the host's, wherever the weights are made
            self.scheduler = ddim_scheduler(config.ddim_steps)
            self._steps = tuple(_steps(self.scheduler))

    def draw_times(self, count: int, device: torch.device) -> Tensor:
        """Whole times, each as likely."""
        return torch.randint(TRAIN_TIMES, (count,), device=device)

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy chunks, and the noise in them."""
        return self.scheduler.add_noise(clean, noise, time), noise

    def steps(self) -> Iterator[Step]:
        """DDIM's times, from noise to actions."""
        return iter(self._steps)

    def clean(self, noisy: Tensor, said: Tensor, step: Step) -> Tensor:
        """What is left without the noise that it said."""
        return (noisy - step.sigma * said) / step.alpha


def _steps(scheduler: DDIMScheduler) -> Iterator[Step]:
    kept = [*scheduler.alphas_cumprod[scheduler.timesteps].tolist(), 1.0]
    for time, now, later in zip(scheduler.timesteps.tolist(), kept, kept[1:]):
        yield Step(time, now**0.5, (1 - now) ** 0.5, later**0.5, (1 - later) ** 0.5)
