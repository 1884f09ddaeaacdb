"""What every backbone promises, so that heads and policies need not know which one they sit on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class TokenGroup:
    """Features for an action head: ``tokens`` [B, N, D] and ``mask`` [B, N] (true where a token is real)."""

    tokens: Tensor
    mask: Tensor


class Backbone(Protocol):
    """Images, words and proprio in; tokens out. An ``nn.Module`` with these members."""

    width: int

    @property
    def static(self) -> bool:
        """Whether its forward never looks at values on the device, so that `vla.backbones.graph.Graph` can hold it."""
        ...

    def settle(self) -> None:
        """For inference alone, and for good: every weight in the precision that it computes in."""
        ...

    def tokenize(self, instructions: Sequence[str]) -> Tensor:
        """Token ids [B, L] int64 for a batch of instructions, padded with the backbone's own padding id."""
        ...

    def __call__(
        self, images: Mapping[str, Tensor], proprio: Tensor, text: Tensor, present: Tensor | None = None
    ) -> TokenGroup:
        """Encode a batch.

        ``images``: camera → [B, H, W, 3] uint8; ``proprio`` [B, P] normalised; ``text`` [B, L] ids from `tokenize`;
        ``present`` [B, cameras] bool: which of the cameras each sample has, ``None``: all.
        """
        ...
