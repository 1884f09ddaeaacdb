"""The L1 chunk head of OpenVLA-OFT (Kim et al. 2025, §IV): the baseline for every generative head.

OFT reads one hidden state for each action; here the one cognition token is decoded into the whole chunk, so that the
two heads see exactly the same features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policies.heads.head import mean_over_dims, only
from policies.heads.realtime import Known
from vla.backbones.backbone import TokenGroup


@dataclass
class RegressionConfig:
    """The head's sizes."""

    width: int = 256
    blocks: int = 2


class ResidualBlock(nn.Module):
    """``x + relu(linear(norm(x)))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] → [B, D]."""
        return x + self.branch(x)


class RegressionHead(nn.Module):
    """LayerNorm, linear, residual blocks, LayerNorm, linear: one chunk of normalised actions in one pass."""

    def __init__(self, config: RegressionConfig, *, action_dim: int, chunk: int, token_dim: int) -> None:
        super().__init__()
        self.noise_shape = (chunk, action_dim)
        self.network = nn.Sequential(
            nn.LayerNorm(token_dim),
            nn.Linear(token_dim, config.width),
            nn.ReLU(),
            *(ResidualBlock(config.width) for _ in range(config.blocks)),
            nn.LayerNorm(config.width),
            nn.Linear(config.width, chunk * action_dim),
        )

    def loss(self, context: TokenGroup, actions: Tensor, mask: Tensor, dims: Tensor | None = None) -> Tensor:
        """Mean absolute error over the rows that count."""
        error = mean_over_dims((self._predict(context) - actions).abs(), dims)
        weight = mask.to(error.dtype)
        return (error * weight).sum() / weight.sum()

    @torch.no_grad()
    def sample(
        self, context: TokenGroup, noise: Tensor, known: Known | None = None, dims: Tensor | None = None
    ) -> Tensor:
        """The prediction; ``noise`` only says how many samples there are. What is ``known`` stands in its place."""
        assert len(noise) == len(context.tokens)
        actions = only(dims, self._predict(context))
        return actions if known is None else known.put(actions)

    def _predict(self, context: TokenGroup) -> Tensor:
        return self.network(context.tokens[:, 0]).unflatten(1, self.noise_shape)
