"""What Vid2Robot learns by besides actions (Jain et al. 2024, §III-C): the parts of its losses that compare films."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla.backbones.transformer import init_linear
from vla.representation.objectives import pairwise_sigmoid

PARTNERS = 8
"""Prompts with which each is aligned; with one alone the loss is too noisy for a beginning."""


class Alignment(nn.Module):
    """What is compared of frames: each beside the one before and after it, by a perceptron, of unit length.

    The neighbours tell a hand that comes from one that goes (Dwibedi et al. 2019, §3.3: context frames); the first and
    the last frame are their own, so that nothing but the picture tells where a film begins.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.beside = nn.Conv1d(width, width, 3, padding=1, padding_mode="replicate", groups=width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.mlp.apply(init_linear)

    def forward(self, frames: Tensor) -> Tensor:
        """[B, F, D] → [B, F, D]."""
        beside = self.beside(frames.transpose(1, 2)).transpose(1, 2)
        return functional.normalize(self.mlp(frames + beside).float(), dim=-1)


class SigmoidContrast(nn.Module):
    """`pairwise_sigmoid` with its scale, from 10 on, and bias (Zhai et al. 2023, §3.2)."""

    def __init__(self, bias: float = -10.0) -> None:
        super().__init__()
        self.log_scale, self.bias = nn.Parameter(torch.tensor(math.log(10.0))), nn.Parameter(torch.tensor(bias))

    def forward(self, a: Tensor, b: Tensor, same: Tensor) -> Tensor:
        """Both [B, D]; ``same`` [B, B]: which mean the same, whether they were paired or not."""
        unit = (functional.normalize(a.float(), dim=-1), functional.normalize(b.float(), dim=-1))
        return pairwise_sigmoid(*unit, same=same, scale=self.log_scale.exp(), bias=self.bias)


def partners(task: Tensor) -> tuple[Tensor, Tensor]:
    """Whom to align with whom, of samples [B]: each with the next `PARTNERS` of the batch that were told the same.

    A sample without any is its own. The state's frames are a moment of an episode, from which no whole prompt can come
    back; the prompts of two samples are both whole, now and then one a person's and one a robot's, so that these are
    aligned.
    """
    place = torch.arange(len(task), device=task.device)
    ahead = (place - place[:, None] - 1) % len(task)
    ahead = torch.where(task[:, None] == task, ahead, len(task))  # itself: the last of all, len(task) - 1
    distance, nearest = ahead.sort(1)
    most = min(PARTNERS, len(task))
    chosen = distance[:, :most] < len(task) - 1
    chosen[:, 0] |= ~chosen.any(1)
    one, rank = chosen.nonzero(as_tuple=True)
    return one, nearest[one, rank]
