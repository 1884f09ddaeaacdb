"""TACO (Zheng et al. 2023) and Premier-TACO (2024): which observation do these actions lead to?

    z  = φ(o[t])                        φ: the cognition feature, Linear, LayerNorm, Tanh
    u  = ψ(a[t]) … ψ(a[t+K-1])          ψ: an MLP for each action; all of them: Linear, LayerNorm, Tanh
    g  = G([z, u])                      h = φ(o[t+K]) without a gradient

TACO tells h from those of the rest of the batch (InfoNCE over g·W·h), which wants a batch of 128 or more. Premier-TACO
tells it from one other observation near it in the same episode, by two logistic losses over g·h; that serves any batch,
also one of many tasks. What TACO adds for reinforcement learning (a reward to foretell) and for its random crops (the
CURL term, two views of one picture) is left out: demonstrations have no reward, and a batch holds one view of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.auxiliary.seen import Look, pooled, seen_later
from vla.backbones.backbone import TokenGroup
from vla.data.windows import Later, Windows
from vla.errors import UnderstudyError

FAR = -1e4
"""The logit of what is not there."""


@dataclass
class TacoConfig:
    """Which observations are told apart, and by what."""

    weight: float = 0.0
    """of this loss beside the head's. 0: off"""
    negatives: Literal["episode", "batch"] = "episode"
    """``episode``: Premier-TACO; ``batch``: TACO"""
    steps: int = 3
    """actions between the two observations; at most a chunk"""
    window: int = 5
    """control steps that the negative of an episode is away from the positive, at most"""
    width: int = 64
    """of the features that are compared"""
    hidden: int = 1024
    """units of G's hidden layer"""

    def __post_init__(self) -> None:
        if self.weight < 0 or self.steps < 1 or self.window < 1:
            raise ValueError(
                f"weight {self.weight}, steps {self.steps}, window {self.window}: give a weight of 0 or more, steps "
                "and window of at least 1"
            )


class Taco(nn.Module):
    """φ's projection, ψ, G and, for TACO, W."""

    def __init__(self, config: TacoConfig, *, token_dim: int, action_dim: int, chunk: int) -> None:
        super().__init__()
        if config.steps > chunk:
            raise UnderstudyError(
                f"policy.auxiliary.taco.steps is {config.steps}, a chunk has {chunk} actions: give at most that, or "
                "raise policy.pred_horizon"
            )
        self.config, latent = config, int(1.25 * action_dim) + 1
        self.project = bounded(token_dim, config.width)
        self.action = nn.Sequential(nn.Linear(action_dim, 64), nn.ReLU(), nn.Linear(64, latent))
        self.sequence = bounded(config.steps * latent, config.steps * latent)
        self.join = nn.Sequential(
            nn.Linear(config.width + config.steps * latent, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.width),
        )
        self.likeness = nn.Linear(config.width, config.width, bias=False) if config.negatives == "batch" else None
        self._told: dict[str, Tensor] = {}

    def later(self, windows: Windows, indices: np.ndarray, rng: np.random.Generator) -> Later:
        """``o[t+K]`` and, if it is told from one of its episode, that one."""
        positive = windows.ahead(indices, np.array([self.config.steps]))
        if self.likeness is not None:
            return positive
        negative = windows.beside(positive.frames[:, 0], self.config.window, rng)
        return Later(np.hstack([positive.frames, negative.frames]), np.hstack([positive.mask, negative.mask]))

    def forward(
        self,
        context: TokenGroup,
        batch: Mapping[str, Tensor],
        later: Mapping[str, Tensor],
        backbone: nn.Module,
        look: Look,
    ) -> Tensor:
        """The loss over the samples whose episode goes on for long enough."""
        actions = self.sequence(self.action(batch["actions"][:, : self.config.steps]).flatten(1))
        led_to = self.join(torch.cat([self.project(pooled(context)), actions], dim=1)).float()
        with torch.no_grad():
            seen = self.project(seen_later(look, batch, later)).float()
        if self.likeness is not None:
            with torch.autocast(seen.device.type, enabled=False):  # bf16 would round the losses to a 64th
                loss = info_nce(led_to @ self.likeness(seen[:, 0]).T, later["mask"][:, 0])
        else:
            loss = logistic((led_to[:, None] * seen).sum(-1), later["mask"].all(1))
        self._told = {"loss": loss.detach()}
        return loss

    def metrics(self) -> dict[str, Tensor]:
        """The loss."""
        return self._told


def bounded(width_in: int, width_out: int) -> nn.Sequential:
    """Linear, LayerNorm, Tanh."""
    return nn.Sequential(nn.Linear(width_in, width_out), nn.LayerNorm(width_out), nn.Tanh())


def info_nce(logits: Tensor, mask: Tensor) -> Tensor:
    """InfoNCE of ``logits`` [B, B], whose true pairs are on the diagonal, among the samples of ``mask`` [B]."""
    logits = logits.masked_fill(~mask, FAR)
    logits = logits - logits.amax(1, keepdim=True).detach()
    error = logits.exp().sum(1).log() - logits.diagonal()
    weight = mask.to(error.dtype)
    return (error * weight).sum() / weight.sum().clamp(min=1)


def logistic(likeness: Tensor, mask: Tensor) -> Tensor:
    """``-log σ(positive) - log(1 - σ(negative))`` of ``likeness`` [B, 2], mean over the samples of ``mask`` [B]."""
    error = functional.softplus(-likeness[:, 0]) + functional.softplus(likeness[:, 1])
    weight = mask.to(error.dtype)
    return (error * weight).sum() / weight.sum().clamp(min=1)
