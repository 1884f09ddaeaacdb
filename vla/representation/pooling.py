"""Voltron's extractor: a few learned latents read what a task needs out of frozen tokens (Karamcheti et al. 2023)."""

import torch
from torch import Tensor, nn

from vla.backbones.transformer import attention
from vla.representation.encoder import RMSNorm, SwishGLU


class MAPExtractor(nn.Module):
    """Multi-head attention pooling: ``norm(latents + attention)``, then ``norm(x + mlp(x))``; 2 · ``heads`` heads.

    ``token_width`` is the tokens' own width, for those that are not ``width`` wide: queries, keys and values have no
    bias, so keys and values do the work of the projection.
    """

    def __init__(self, width: int, heads: int, *, latents: int = 1, token_width: int | None = None) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width {width} is not divisible by 2 x {heads} heads")
        self.width, self.heads = width, 2 * heads
        self.latents = nn.Parameter(0.02 * torch.randn(latents, width))
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(token_width or width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.norm_attention, self.norm_mlp = RMSNorm(width), RMSNorm(width)
        self.mlp = SwishGLU(width, 4 * width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, N, token_width] → [B, latents, D], or [B, D] if there is one; ``mask`` [B, N]: which tokens are real."""
        batch, count, _ = tokens.shape
        query = self.query(self.latents).view(-1, self.heads, self.width // self.heads).transpose(0, 1)
        key, value = self.key_value(tokens).view(batch, count, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        visible = None if mask is None else mask[:, None, None]
        attended = attention(query.expand(batch, -1, -1, -1), key, value, visible)
        x = self.norm_attention(self.latents + self.project(attended.transpose(1, 2).flatten(2)))
        x = self.norm_mlp(x + self.mlp(x))
        return x[:, 0] if len(self.latents) == 1 else x
