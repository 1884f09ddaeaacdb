"""What every action head promises."""

from typing import Protocol

from torch import Tensor

from policies.heads.realtime import Known
from vla.backbones.backbone import TokenGroup


class ActionHead(Protocol):
    """From features to a chunk of normalised actions. An ``nn.Module`` with these members."""

    noise_shape: tuple[int, int]
    """[pred_horizon, A]: the shape of the standard normal noise that `sample` wants for each sample."""

    def loss(self, context: TokenGroup, actions: Tensor, mask: Tensor, dims: Tensor | None = None) -> Tensor:
        """The training loss of the true ``actions`` [B, N, A].

        ``mask`` [B, N] is true where a row counts, ``dims`` [B, A] where an embodiment has that entry; ``None``: all.
        """
        ...

    def sample(
        self, context: TokenGroup, noise: Tensor, known: Known | None = None, dims: Tensor | None = None
    ) -> Tensor:
        """Normalised actions [B, N, A]: a function of the features, of ``noise`` [B, N, A] and of what is ``known``."""
        ...


def mean_over_dims(error: Tensor, dims: Tensor | None) -> Tensor:
    """[B, N, A] → [B, N]: the mean over the entries that there are."""
    if dims is None:
        return error.mean(-1)
    there = dims[:, None].to(error.dtype)
    return (error * there).sum(-1) / there.sum(-1)


def only(dims: Tensor | None, actions: Tensor) -> Tensor:
    """``actions`` [B, N, A] with zeros for the entries that there are not."""
    return actions if dims is None else actions * dims[:, None].to(actions.dtype)
