"""`policies.cogact.CogACTModel.sample` for many answers: the same actions, sooner.

    sample = Hastened(model)               # on a GPU: what it does anyway, launched as two CUDA graphs
    sample = Hastened.settled(model)       # for good: weights rounded to what is computed in, and compiled
    actions = sample(batch, noise, known)  # as model.sample

    pictures, words, proprio ─► backbone ─► cognition token ─► head's loop ─► actions
                                (a graph)                       (a graph)

Each is made when a shape is first met: another number of samples, another length of the instruction. A backbone that
no graph can hold (``static``) stays as it is, and so does every backbone on a CPU. The loop stays as it is when it
goes on from what is known, and on a CPU for all numbers of samples but the first: each would be compiled for a minute.
"""

import logging
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from policies.heads.fast import Sampler, quick
from policies.heads.generative import GenerativeHead
from policies.heads.realtime import Known
from vla.backbones.backbone import TokenGroup
from vla.backbones.graph import Graph
from vla.errors import first_line
from vla.training.precision import bf16_if_fast, bf16_is_fast

if TYPE_CHECKING:
    from policies.cogact_model import CogACTModel

logger = logging.getLogger(__name__)


class Hastened:
    """One model, hastened; its weights may change in place, but not move."""

    def __init__(self, model: "CogACTModel", *, compiled: bool = False) -> None:
        self._model, self._compiled = model, compiled
        self._on_gpu = next(model.parameters()).is_cuda
        self._see = torch.compile(model.context, dynamic=False) if compiled and self._on_gpu else model.context
        self._graphs: dict[Hashable, Graph | None] = {}
        self._samplers: dict[Hashable, Sampler | None] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._on_gpu else None
        self.refused: list[str] = []
        """why a graph could not be made, where the usual way is taken instead"""

    @classmethod
    def settled(cls, model: "CogACTModel") -> Self:
        """Compiled, with weights in the precision that they are used in; the model must not learn on."""
        model.backbone.settle()
        device = next(model.parameters()).device
        if device.type == "cuda" and bf16_is_fast(device):
            for parameter in model.head.requires_grad_(False).parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
        return cls(model, compiled=True)

    def __call__(self, batch: Mapping[str, Tensor], noise: Tensor, known: Known | None = None) -> Tensor:
        """Normalised actions [B, N, A]; of an arm that lacks some of their entries, by the head's usual way."""
        context = self.context(batch)
        if "dims" in batch:
            return self._model.head.sample(context, noise, known, batch["dims"])
        return self.actions(context, noise, known)

    @torch.no_grad()
    def context(self, batch: Mapping[str, Tensor]) -> TokenGroup:
        """What the head sees of a batch."""
        if not self._on_gpu or not self._model.backbone.static:
            return self._model.context(batch)
        names, inputs = tuple(batch), tuple(batch.values())
        key = tuple((name, value.shape) for name, value in batch.items())
        if key not in self._graphs:

            def see(*tensors: Tensor) -> Tensor:
                return self._see(dict(zip(names, tensors, strict=True))).tokens

            self._graphs[key] = self._tried(lambda: Graph(see, *inputs, pool=self._pool))
        graph = self._graphs[key]
        if graph is None:
            return self._model.context(batch)
        tokens = graph(*inputs)
        return TokenGroup(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    @torch.no_grad()
    def actions(self, context: TokenGroup, noise: Tensor, known: Known | None = None) -> Tensor:
        """What the head makes of it."""
        head = self._model.head
        sampler = self._sampler(context) if known is None and isinstance(head, GenerativeHead) else None
        if sampler is not None:
            return sampler(context, noise)
        settled = self._on_gpu and self._compiled
        with bf16_if_fast(noise.device) if settled else nullcontext():
            return head.sample(context, noise, known)

    def _sampler(self, context: TokenGroup) -> Sampler | None:
        key = context.tokens.shape
        if key not in self._samplers:
            worth_it = self._on_gpu or (self._compiled and not self._samplers)
            make = partial(quick, self._model.head, context, compiled=self._compiled)
            self._samplers[key] = self._tried(make) if worth_it else None
        return self._samplers[key]

    def _tried[Made](self, make: Callable[[], Made]) -> Made | None:
        try:
            return make()
        except RuntimeError as error:  # of CUDA, or of the compiler: slower is better than not at all
            self.refused.append(first_line(error))
            logger.warning("goes on without a CUDA graph or a compiled loop: %s", self.refused[-1])
            return None
