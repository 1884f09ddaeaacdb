"""A moving average of a module's weights, to make targets with (Grill et al. 2020, "Bootstrap your own latent")."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call

from vla.errors import UnderstudyError


class Momentum(nn.Module):
    """The averaged weights of all that learns in a module; the module itself is given at every call.

    They are buffers: no optimizer, no clipping and no second average touches them, a checkpoint holds them, and what
    does not learn is not kept twice.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        for name, parameter in _learned(source).items():
            self.register_buffer(_key(name), parameter.detach().clone())

    def restart(self, source: nn.Module) -> None:
        """Be equal to ``source``."""
        self.follow(source, momentum=0.0)

    @torch.no_grad()
    def follow(self, source: nn.Module, *, momentum: float) -> None:
        """``average ← momentum · average + (1 - momentum) · weight``."""
        weights = _learned(source)
        averages = [getattr(self, _key(name)) for name in weights]
        torch._foreach_lerp_(averages, [weight.detach() for weight in weights.values()], 1 - momentum)

    @torch.no_grad()
    def forward[T](self, source: nn.Module, ask: Callable[[], T]) -> T:
        """What ``ask`` gives while ``source`` has the averaged weights and is in evaluation mode; no gradient."""
        if any(isinstance(weight, DTensor) for weight in source.parameters()):
            raise UnderstudyError(
                "policy.auxiliary.jepa makes its targets with whole weights, and launch=fsdp splits them; "
                "give launch=ddp, or leave it out"
            )
        training, averages = source.training, {name: getattr(self, _key(name)) for name in _learned(source)}
        source.eval()
        try:
            answer: T = functional_call(_Asked(source, ask), {f"source.{name}": a for name, a in averages.items()}, ())
        finally:
            source.train(training)
        return answer


class _Asked[T](nn.Module):
    """A call for `functional_call`, which puts other weights into the modules that it finds inside."""

    def __init__(self, source: nn.Module, ask: Callable[[], T]) -> None:
        super().__init__()
        self.source, self.ask = source, ask

    def forward(self) -> T:
        return self.ask()


def _learned(source: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in source.named_parameters() if parameter.requires_grad}


def _key(name: str) -> str:
    """A buffer's name may hold no dot."""
    return name.replace(".", "/")
