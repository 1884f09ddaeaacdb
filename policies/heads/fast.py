"""A head's sampling loop for one batch size, made quick: nothing is built, launched or copied again that repeats.

    sampler = quick(head, context)           # once: a minute, in which the denoiser is compiled
    actions = sampler(context, noise)        # the same as head.sample(context, noise), up to rounding

The denoiser is compiled by TorchInductor and computes in bf16 where that is fast; that needs a C++ compiler. On a CPU
its weights are packed beforehand. On a GPU the whole loop, guidance included, becomes one CUDA graph
(`vla.backbones.graph`): a call copies two tensors in and launches once.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from policies.heads.generative import GenerativeHead
from vla.backbones.backbone import TokenGroup
from vla.backbones.graph import Graph
from vla.errors import UnderstudyError
from vla.training.precision import bf16_if_fast

FEW = 256
"""Rows of a product for which a second CPU core costs more than it brings: waking it takes longer than its share."""
Sampler = Callable[[TokenGroup, Tensor], Tensor]


def quick(head: GenerativeHead, context: TokenGroup, *, compiled: bool = True) -> Sampler:
    """A sampler for contexts of the shape of ``context``; ``head`` must not learn on afterwards.

    Without ``compiled``, which only a GPU offers, it is ready within a second: the same operations, launched at once.
    """
    if not compiled:
        return Captured(head.sample, head.noise_shape, context)
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise UnderstudyError("a quick sampler is compiled: install a C++ compiler (g++), or go without")
    made = Compiled(head, context)
    return Captured(made, head.noise_shape, context) if context.tokens.is_cuda else made


class Captured:
    """A sampler as one CUDA graph; every token of its contexts is real."""

    def __init__(self, sampler: Sampler, noise_shape: tuple[int, int], context: TokenGroup) -> None:
        mask = context.mask.clone()
        noise = torch.randn(len(mask), *noise_shape, device=mask.device)
        self._graph = Graph(lambda tokens, noise: sampler(TokenGroup(tokens, mask), noise), context.tokens, noise)

    def __call__(self, context: TokenGroup, noise: Tensor) -> Tensor:
        """Actions [B, N, A]."""
        return self._graph(context.tokens, noise)


class Compiled:
    """The loop around a compiled denoiser."""

    def __init__(self, head: GenerativeHead, context: TokenGroup) -> None:
        from torch._inductor import config as inductor  # two seconds, for those who compile

        self._head, self._rows = head, 2 * len(context.tokens) * (head.noise_shape[0] + 1)
        self._plain = head.denoiser.forward
        self._compiled = torch.compile(self._plain, dynamic=False)
        device = context.tokens.device
        with inductor.patch(freezing=device.type == "cpu"):  # packs weights; among torch.compile's options it does not
            self(context, torch.randn(len(context.tokens), *head.noise_shape, device=device))

    def __call__(self, context: TokenGroup, noise: Tensor) -> Tensor:
        """Actions [B, N, A]."""
        self._head.denoiser.forward = self._compiled
        try:
            with bf16_if_fast(noise.device), _threads(1 if self._rows < FEW else torch.get_num_threads()):
                return self._head.sample(context, noise).float()
        finally:
            self._head.denoiser.forward = self._plain


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
