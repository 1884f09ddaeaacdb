"""The diffusion transformer that denoises a chunk of actions (CogACT, Li et al. 2024, §3.3 and appendix).

In-context conditioning, no cross-attention and no adaLN. The order of its tokens:

    [ time + cognition | action 1 | action 2 | … | action N ]
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla.backbones.transformer import TransformerBlock, init_linear, sinusoid

TIME_FEATURES = 256


@dataclass(frozen=True)
class DiTSize:
    """Depth, width and heads of a diffusion transformer."""

    depth: int
    width: int
    heads: int


SIZES = {"S": DiTSize(6, 384, 4), "B": DiTSize(12, 768, 12), "L": DiTSize(24, 1024, 16)}
"""The paper's three: 12.48, 88.99 and 307.76 M parameters with a 4096-d token, 7-d actions and chunks of 16. Of these,
8 h (3 to 8 thousand) are an embedding of past actions that the published code never calls; here it does not exist."""


class DiT(nn.Module):
    """Noisy actions [B, N, A], times [B], cognition [B, 1, D] → predicted noise [B, N, A].

    The output layer starts at zero. ``drop`` [B] bool replaces the cognition of those samples by a learned null,
    for classifier-free guidance.
    """

    def __init__(self, size: DiTSize, *, action_dim: int, chunk: int, token_dim: int) -> None:
        super().__init__()
        width = size.width
        self.action_in = nn.Linear(action_dim, width)
        self.time_in = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.cognition_in = nn.Linear(token_dim, width)
        self.null = nn.Parameter(torch.zeros(1, token_dim))
        self.position = nn.Parameter(width**-0.5 * torch.randn(chunk + 1, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, size.heads) for _ in range(size.depth))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.action_out = nn.Linear(width, action_dim)
        self.apply(init_linear)
        for layer in (self.time_in[0], self.time_in[2]):
            nn.init.normal_(layer.weight, std=0.02)
        # The published 0.02 is for tokens of 4096; in narrower ones the same output needs larger weights.
        nn.init.normal_(self.cognition_in.weight, std=0.02 * (4096 / token_dim) ** 0.5)
        nn.init.zeros_(self.action_out.weight)

    def forward(self, noisy: Tensor, time: Tensor, cognition: Tensor, drop: Tensor | None = None) -> Tensor:
        """Predict for ``noisy`` at ``time`` (0 clean … 100 noise): [B], or [B, N] where each row is told its own.

        With a time for each row the first token has the latest, that of the rows which are not known yet.
        """
        if drop is not None:
            cognition = torch.where(drop[:, None, None], self.null.to(cognition.dtype), cognition)
        actions = self.action_in(noisy)
        if time.ndim == 2:
            actions, time = actions + self._time(time), time.amax(1)
        x = torch.cat([self._time(time)[:, None] + self.cognition_in(cognition), actions], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.action_out(self.norm_out(x)[:, 1:])

    def _time(self, time: Tensor) -> Tensor:
        return self.time_in(sinusoid(time, TIME_FEATURES).to(self.action_in.weight.dtype))
