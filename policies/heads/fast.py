"""A head's sampling loop for one batch size, made quick: nothing is built, launched or copied again that repeats.

    sampler = quick(head, context)           # once: some seconds on a GPU, a minute on a CPU
    actions = sampler(context, noise)        # the same as head.sample(context, noise), up to rounding

On a GPU the whole loop, guidance included, is one CUDA graph with buffers of its own: a call copies two tensors in and
launches once, and the host waits for nothing. On a CPU the denoiser is compiled by TorchInductor with its weights
packed beforehand, in bf16 where that is fast; that needs a C++ compiler.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._inductor import config as inductor

from policies.heads.generative import GenerativeHead
from vla.backbones.backbone import TokenGroup
from vla.errors import UnderstudyError
from vla.training.precision import bf16_if_fast

WARM_UP = 3
"""Calls before a loop is captured, in which libraries choose their kernels and take their workspaces."""
FEW = 256
"""Rows of a product for which a second CPU core costs more than it brings: waking it takes longer than its share."""
Sampler = Callable[[TokenGroup, Tensor], Tensor]


def quick(head: GenerativeHead, context: TokenGroup) -> Sampler:
    """A sampler for contexts of the shape of ``context``; ``head`` must not learn on afterwards."""
    if context.tokens.is_cuda:
        return Captured(head, context)
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise UnderstudyError("a quick sampler on a CPU is compiled: install a C++ compiler (g++), or go without")
    return Compiled(head, context)


class Captured:
    """The loop as one CUDA graph."""

    def __init__(self, head: GenerativeHead, context: TokenGroup) -> None:
        self._context = TokenGroup(context.tokens.clone(), context.mask.clone())
        self._noise = torch.randn(len(context.tokens), *head.noise_shape, device=context.tokens.device)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                head.sample(self._context, self._noise)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._actions = head.sample(self._context, self._noise)

    def __call__(self, context: TokenGroup, noise: Tensor) -> Tensor:
        """Actions [B, N, A]; what was returned before is left alone."""
        self._context.tokens.copy_(context.tokens)
        self._noise.copy_(noise)
        self._graph.replay()
        return self._actions.clone()


class Compiled:
    """The loop around a compiled denoiser."""

    def __init__(self, head: GenerativeHead, context: TokenGroup) -> None:
        self._head, self._rows = head, 2 * len(context.tokens) * (head.noise_shape[0] + 1)
        self._plain = head.denoiser.forward
        self._compiled = torch.compile(self._plain, dynamic=False)
        with inductor.patch(freezing=True):  # packs the weights; among torch.compile's own options it does not
            self(context, torch.randn(len(context.tokens), *head.noise_shape))

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
