"""What heads that turn noise into actions share: draws, the null, guidance, what is known already, the sampling loop.

Along the way a chunk is ``alpha * actions + sigma * noise``; a process (`policies.heads.diffusion`,
`policies.heads.flow`) says how alpha and sigma run and what the denoiser predicts. Times of rows that are known are 0.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from policies.heads.head import mean_over_dims, only
from policies.heads.realtime import Known, blended
from vla.backbones.backbone import TokenGroup


@dataclass
class GenerativeConfig:
    """How any process is trained and guided; the defaults are CogACT's."""

    repeats: int = 8
    """independent draws of noise and time for each sample and backbone pass"""
    drop: float = 0.1
    """share of the draws whose cognition token is replaced by the learned null"""
    guidance: float = 1.5
    """classifier-free guidance: 1 is none"""
    max_delay: int = 0
    """train to go on from up to so many rows that are known (training-time real-time chunking); each row then is told
    its own time. 0: none"""


class Denoiser(Protocol):
    """Noisy chunks in, the process's target out. An ``nn.Module``."""

    def __call__(self, noisy: Tensor, time: Tensor, cognition: Tensor, drop: Tensor | None = None) -> Tensor:
        """``noisy`` [B, N, A], ``time`` [B] or [B, N] in 0…100, ``cognition`` [B, 1, D], ``drop`` [B] → [B, N, A]."""
        ...


class Step(NamedTuple):
    """One step of a sampler: from ``(time, alpha, sigma)`` to ``(next_alpha, next_sigma)``."""

    time: float
    alpha: float
    sigma: float
    next_alpha: float
    next_sigma: float


class GenerativeHead(nn.Module):
    """A denoiser and the sampler around it."""

    def __init__(self, config: GenerativeConfig, denoiser: nn.Module, *, action_dim: int, chunk: int) -> None:
        super().__init__()
        self.config, self.denoiser = config, denoiser
        self.noise_shape = (chunk, action_dim)

    def draw_times(self, count: int, device: torch.device) -> Tensor:
        """Times [count] to train at."""
        raise NotImplementedError

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy chunks [B, N, A] at ``time`` [B], and what the denoiser is to say of them."""
        raise NotImplementedError

    def steps(self) -> Iterator[Step]:
        """The sampler's way from noise to actions."""
        raise NotImplementedError

    def clean(self, noisy: Tensor, said: Tensor, step: Step) -> Tensor:
        """The actions that what the denoiser ``said`` amounts to."""
        raise NotImplementedError

    def loss(self, context: TokenGroup, actions: Tensor, mask: Tensor, dims: Tensor | None = None) -> Tensor:
        """Mean squared error of what is predicted over ``repeats`` independent draws for each sample."""
        repeats, count = self.config.repeats, self.config.repeats * len(actions)
        cognition, clean = context.tokens.repeat(repeats, 1, 1), actions.repeat(repeats, 1, 1)
        noise, time = torch.randn_like(clean), self.draw_times(count, clean.device)
        drop = torch.rand(count, device=clean.device) < self.config.drop
        noisy, target = self.corrupt(clean, noise, time)
        weight = mask.repeat(repeats, 1).to(target.dtype)
        there = None if dims is None else dims.repeat(repeats, 1)
        if self.config.max_delay:
            delay = torch.randint(self.config.max_delay + 1, (count, 1), device=clean.device)
            known = torch.arange(clean.shape[1], device=clean.device) < delay
            noisy, weight = torch.where(known[..., None], clean, noisy), weight * ~known
            time = time[:, None].masked_fill(known, 0)
        said = self.denoiser(only(there, noisy), time, cognition, drop)
        error = mean_over_dims((said - target).square(), there)
        return (error * weight).sum() / weight.sum().clamp(min=1)

    @torch.no_grad()
    def sample(
        self, context: TokenGroup, noise: Tensor, known: Known | None = None, dims: Tensor | None = None
    ) -> Tensor:
        """Actions [B, N, A] from ``noise`` of that shape; ``known``: what was decided before."""
        actions, rows = only(dims, noise), self._told_times(noise, known)

        def clean(x: Tensor, time: Tensor, step: Step) -> Tensor:
            return only(dims, self.clean(x, self._guided(x, time, context.tokens), step))

        for step in self.steps():
            time = torch.full((len(noise),), step.time, device=noise.device) if rows is None else rows * step.time
            if known is not None:
                actions = known.put(actions) if known.how == "trained" else actions
            actions = _advance(actions, partial(clean, time=time, step=step), step, known)
        return actions if known is None else known.put(actions)

    def _told_times(self, noise: Tensor, known: Known | None) -> Tensor | None:
        """Which rows [B, N] have the sampler's time; ``None`` for a denoiser that knows one time for all."""
        if not self.config.max_delay:
            return None
        free = torch.ones(noise.shape[:2], device=noise.device)
        if known is not None and known.how == "trained":
            free[:, : known.delay] = 0
        return free

    def _guided(self, noisy: Tensor, time: Tensor, cognition: Tensor) -> Tensor:
        """What the denoiser says, guided away from the null; both branches in one batch."""
        if self.config.guidance == 1.0:
            return self.denoiser(noisy, time, cognition)
        batch = len(noisy)
        drop = torch.arange(2 * batch, device=noisy.device) >= batch
        twice = (noisy.repeat(2, 1, 1), torch.cat([time, time]), cognition.repeat(2, 1, 1))
        conditional, unconditional = self.denoiser(*twice, drop).chunk(2)
        return unconditional + self.config.guidance * (conditional - unconditional)


def _advance(noisy: Tensor, clean: Callable[[Tensor], Tensor], step: Step, known: Known | None) -> Tensor:
    if known is None or known.how == "trained":
        actions = clean(noisy)
    else:
        actions = blended(clean, noisy, known, alpha=step.alpha, sigma=step.sigma)
    noise = (noisy - step.alpha * actions) / step.sigma
    return step.next_alpha * actions + step.next_sigma * noise
