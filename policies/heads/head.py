"""What every action head promises."""

from typing import Protocol

from torch import Tensor

from policies.heads.realtime import Known
from vla.backbones.backbone import TokenGroup


class ActionHead(Protocol):
    """From features to a chunk of normalised actions. An ``nn.Module`` with these members."""

    noise_shape: tuple[int, int]
    """[pred_horizon, A]: the shape of the standard normal noise that `sample` wants for each sample."""

    def loss(self, context: TokenGroup, actions: Tensor, mask: Tensor) -> Tensor:
        """The training loss of the true ``actions`` [B, N, A]; ``mask`` [B, N] is true where a row counts."""
        ...

    def sample(self, context: TokenGroup, noise: Tensor, known: Known | None = None) -> Tensor:
        """Normalised actions [B, N, A]: a function of the features, of ``noise`` [B, N, A] and of what is ``known``."""
        ...
