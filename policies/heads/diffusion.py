"""The diffusion action head of CogACT (Li et al. 2024, §3.3 and appendix): noise prediction, DDIM, guidance.

Time runs from 0 (clean) to T - 1 (noise), as in diffusers; noise is added in `DiffusionHead.loss` and nowhere else.
"""

from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from policies.heads.dit import DiT, DiTSize
from vla.backbones.backbone import TokenGroup

TRAIN_TIMES = 100


@dataclass
class DiffusionConfig:
    """The head's sizes and its sampler."""

    depth: int = 4
    width: int = 128
    heads: int = 4
    repeats: int = 8
    """independent draws of noise and time for each sample and backbone pass"""
    drop: float = 0.1
    """share of the draws whose cognition token is replaced by the learned null"""
    guidance: float = 1.5
    """classifier-free guidance: 1 is none"""
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


class DiffusionHead(nn.Module):
    """A `DiT` that learns to predict noise, and the sampler that turns noise into actions."""

    def __init__(self, config: DiffusionConfig, *, action_dim: int, chunk: int, token_dim: int) -> None:
        super().__init__()
        self.config = config
        self.noise_shape = (chunk, action_dim)
        size = DiTSize(config.depth, config.width, config.heads)
        self.denoiser = DiT(size, action_dim=action_dim, chunk=chunk, token_dim=token_dim)
        self.scheduler = ddim_scheduler(config.ddim_steps)

    def loss(self, context: TokenGroup, actions: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error of the predicted noise over ``repeats`` independent draws for each sample."""
        repeats, batch = self.config.repeats, len(actions)
        cognition = context.tokens.repeat(repeats, 1, 1)
        clean = actions.repeat(repeats, 1, 1)
        noise = torch.randn_like(clean)
        time = torch.randint(TRAIN_TIMES, (repeats * batch,), device=clean.device)
        drop = torch.rand(repeats * batch, device=clean.device) < self.config.drop
        noisy = self.scheduler.add_noise(clean, noise, time)
        error = (self.denoiser(noisy, time, cognition, drop) - noise).square().mean(-1)
        weight = mask.repeat(repeats, 1).to(error.dtype)
        return (error * weight).sum() / weight.sum()

    @torch.no_grad()
    def sample(self, context: TokenGroup, noise: Tensor) -> Tensor:
        """DDIM with eta 0 from ``noise`` [B, N, A]; guidance evaluates both branches in one batch."""
        actions = noise
        for time in self.scheduler.timesteps:
            predicted = self._guided_noise(actions, time.to(noise.device), context.tokens)
            actions = self.scheduler.step(predicted, time, actions, eta=0.0).prev_sample
        return actions

    def _guided_noise(self, actions: Tensor, time: Tensor, cognition: Tensor) -> Tensor:
        batch = len(actions)
        if self.config.guidance == 1.0:
            return self.denoiser(actions, time.expand(batch), cognition)
        drop = torch.arange(2 * batch, device=actions.device) >= batch
        both = self.denoiser(actions.repeat(2, 1, 1), time.expand(2 * batch), cognition.repeat(2, 1, 1), drop)
        conditional, unconditional = both.chunk(2)
        return unconditional + self.config.guidance * (conditional - unconditional)
