"""Small heads on frozen tokens, one for each question that a robot asks of a picture: each begins with a MAP.

Sizes are Voltron's (its evaluation suite), in numbers of `MAPExtractor`; tokens are [B, N, token_width].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla.representation.evaluation.affordance import IGNORE
from vla.representation.pooling import MAPExtractor


@dataclass(frozen=True)
class Pooling:
    """Sizes of the extractor that every head begins with."""

    token_width: int
    """of the frozen tokens"""
    width: int = 192
    """of the extractor: the same for every representation that is compared"""
    heads: int = 3
    """the extractor has twice as many"""

    def build(self, latents: int = 1) -> MAPExtractor:
        """A fresh extractor."""
        return MAPExtractor(self.width, self.heads, latents=latents, token_width=self.token_width)


class GraspHead(nn.Module):
    """Where to grasp: latents on a grid, then stages of convolution, batch norm, ReLU and bilinear doubling.

    5 x 5 latents and four stages give a map of 80 x 80.
    """

    def __init__(
        self, pooling: Pooling, *, grid: int = 5, channels: Sequence[int] = (128, 64, 32, 16), classes: int = 3
    ) -> None:
        super().__init__()
        self.grid = grid
        self.pool = pooling.build(latents=grid * grid)
        self.stages = nn.Sequential(*(_double(a, b) for a, b in pairwise([pooling.width, *channels])))
        self.classify = nn.Conv2d(channels[-1], classes, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, token_width] → logits [B, classes, S, S], S = grid · 2 to the number of stages."""
        latents = self.pool(tokens).reshape(len(tokens), self.grid, self.grid, -1)
        return self.classify(self.stages(latents.permute(0, 3, 1, 2)))


class ReferHead(nn.Module):
    """Where is what the words mean: one box (x, y, width, height) from tokens of a picture and a sentence.

    ``scale`` multiplies the widths of the MLP.
    """

    HIDDEN = (512, 256, 128, 64)

    def __init__(self, pooling: Pooling, *, scale: float = 1.0) -> None:
        super().__init__()
        self.pool = pooling.build()
        hidden = [max(4, round(scale * width)) for width in self.HIDDEN]
        self.box = _mlp([pooling.width, *hidden, 4], nn.GELU)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, N, token_width] → [B, 4]; ``mask`` [B, N]: which tokens are real, for words that are padded."""
        return self.box(self.pool(tokens, mask))


class PoseHead(nn.Module):
    """Where things are: a linear layer on one pooled vector."""

    def __init__(self, pooling: Pooling, *, outputs: int) -> None:
        super().__init__()
        self.pool, self.read = pooling.build(), nn.Linear(pooling.width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, token_width] → [B, outputs]."""
        return self.read(self.pool(tokens))


class PolicyHead(nn.Module):
    """What to do: one pooled vector and proprio, batch norm, an MLP of 256, 256 (R3M's behaviour cloning)."""

    def __init__(
        self, pooling: Pooling, *, proprio_dim: int, action_dim: int, hidden: Sequence[int] = (256, 256)
    ) -> None:
        super().__init__()
        self.pool = pooling.build()
        self.norm = nn.BatchNorm1d(pooling.width + proprio_dim)
        self.act = _mlp([pooling.width + proprio_dim, *hidden, action_dim], nn.ReLU)

    def forward(self, tokens: Tensor, proprio: Tensor) -> Tensor:
        """[B, N, token_width] and [B, P] → [B, A]."""
        return self.act(self.norm(torch.cat([self.pool(tokens), proprio], dim=1)))


def grasp_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [B, C, S, S] and labels [B, S, S]; pixels labelled `IGNORE` weigh nothing."""
    return functional.cross_entropy(logits, labels.long(), ignore_index=IGNORE)


def _double(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    )


def _mlp(widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers with the activation between them, none at the end."""
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])
