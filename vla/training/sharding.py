"""A model in shards: each process holds its part of every weight, of its average and of its moments.

    model    whole, the caller's: on the main process's CPU, what is loaded, saved and handed on
      │ ▲
      │ └──── gather: part by part, from all processes to the main one
      └─────► shards: its twin, what is trained; a block's weights are whole only while the block computes

PyTorch's ``fully_shard`` itself, not accelerate's plugin for it: without a GPU that one (1.15) trains under DDP and
does not say so, and what no CPU can run no test here can see.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vla.errors import UnderstudyError


def shards_of(model: nn.Module, device: torch.device) -> nn.Module:
    """A twin of ``model`` with this process's part of the weights, on ``device``; ``model`` stays as it is.

    All processes must have the same weights: nothing is sent.
    """
    scalars = [name for name, weight in model.named_parameters() if weight.ndim == 0]
    if scalars:
        raise UnderstudyError(
            f"the parameter {scalars[0]} is a single number and cannot be split; give it one dimension, "
            "or train with launch=ddp"
        )
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    apart = {id(weight): nn.Parameter(weight.data, weight.requires_grad) for weight in model.parameters()}
    twin = copy.deepcopy(model, apart)
    for block in _blocks(twin):
        fully_shard(block, mesh=mesh)
    fully_shard(twin, mesh=mesh)
    return twin


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The layers of its stacks, inner ones first; each is whole for itself, so that two never need be at once."""
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.ModuleList):
            layers = [one for one in module if not isinstance(one, nn.ModuleList | nn.ModuleDict)]
            yield from (layer for layer in layers if any(True for _ in layer.parameters()))


def average_in_shards(average: nn.Module, model: nn.Module, shards: nn.Module) -> None:
    """Split ``average``, a copy of ``model``, as ``shards`` are; what it shares with the one it shares with both."""
    for ours, origin, theirs in zip(average.modules(), model.modules(), shards.modules(), strict=True):
        for name, weight in theirs.named_parameters(recurse=False):
            shared = getattr(ours, name) is getattr(origin, name)
            ours.register_parameter(name, weight if shared else nn.Parameter(weight.detach().clone()))


def gather(shards: nn.Module, model: nn.Module) -> None:
    """``model`` gets the weights of ``shards`` on the main process; every process must call this."""
    main = distributed.get_rank() == 0
    for ours, theirs in zip(model.parameters(), shards.parameters(), strict=True):
        weight = whole_of(theirs.detach())
        if main:
            ours.data.copy_(weight)
    for ours, theirs in zip(model.buffers(), shards.buffers(), strict=True):
        if main:
            ours.data.copy_(theirs)


def scatter(model: nn.Module, shards: nn.Module) -> None:
    """``shards`` gets its part of the weights of ``model``, which every process has whole."""
    for ours, theirs in zip(model.parameters(), shards.parameters(), strict=True):
        theirs.detach().copy_(part_of(ours.detach(), theirs))
    for ours, theirs in zip(model.buffers(), shards.buffers(), strict=True):
        theirs.copy_(ours)


def whole_of(tensor: Tensor) -> Tensor:
    """A tensor in shards, whole on the main process's CPU and without values elsewhere; others stay as they are.

    Every process must call this.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.full_tensor().to("cpu" if distributed.get_rank() == 0 else "meta")


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole ``tensor``, if the parameter ``like`` is in shards and of its shape."""
    if not isinstance(like, DTensor) or like.shape != tensor.shape:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None).clone()
