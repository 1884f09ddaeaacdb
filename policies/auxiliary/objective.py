"""What every auxiliary objective promises, and their sum.

    one sample       o[t]  a[t] a[t+1] … a[t+H-1]            what the head learns from
    `Later`          o[t+k] for some k, in the same episode  what an objective wants to see besides

The objectives read the tokens that the head reads, whichever head it is. What comes later is encoded in a pass of its
own, without a gradient, so that nothing of it gets into the tokens or into the loss of the head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from policies.auxiliary.act_jepa import ActJepa, JepaConfig
from policies.auxiliary.seen import Look
from policies.auxiliary.taco import Taco, TacoConfig
from vla.backbones.backbone import TokenGroup
from vla.data.windows import Later, Windows


class Objective(Protocol):
    """An ``nn.Module`` with these members, beside its ``__call__``."""

    def later(self, windows: Windows, indices: np.ndarray, rng: np.random.Generator) -> Later:
        """What it wants to see besides the samples at ``indices`` [B]; all chance comes from ``rng``."""
        ...

    def metrics(self) -> dict[str, Tensor]:
        """Scalars of its last call that are worth a line in the log."""
        ...


@dataclass
class AuxiliaryConfig:
    """Which objectives; each is off while its weight is 0."""

    jepa: JepaConfig = field(default_factory=JepaConfig)
    taco: TacoConfig = field(default_factory=TacoConfig)


class Auxiliary(nn.ModuleDict):
    """The objectives that are on, by name."""

    def __init__(
        self, config: AuxiliaryConfig, backbone: nn.Module, *, action_dim: int, proprio_dim: int, chunk: int
    ) -> None:
        super().__init__()
        self.weights = {"jepa": config.jepa.weight, "taco": config.taco.weight}
        if config.jepa.weight:
            self["jepa"] = ActJepa(config.jepa, backbone, proprio_dim=proprio_dim)
        if config.taco.weight:
            self["taco"] = Taco(config.taco, token_dim=backbone.width, action_dim=action_dim, chunk=chunk)

    def forward(self, context: TokenGroup, batch: Mapping[str, Tensor], backbone: nn.Module, look: Look) -> Tensor:
        """The weighted sum of all losses; ``batch`` holds what each wanted to see later, under its name."""
        losses = [
            self.weights[name] * objective(context, batch, named(batch, name), backbone, look)
            for name, objective in self.items()
        ]
        return sum(losses[1:], losses[0])

    def later(self, windows: Windows, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Later]:
        """What each wants to see besides the samples at ``indices`` [B]."""
        return {name: objective.later(windows, indices, rng) for name, objective in self.items()}

    def after_step(self, backbone: nn.Module, step: int, steps: int) -> None:
        """Let the targets follow what optimizer step ``step`` of ``steps`` has changed."""
        if "jepa" in self:
            self["jepa"].follow(backbone, step, steps)

    def restart(self, backbone: nn.Module) -> None:
        """Begin anew from other weights of the backbone."""
        if "jepa" in self:
            self["jepa"].restart(backbone)

    def metrics(self) -> dict[str, Tensor]:
        """What each has to say, by name."""
        return {
            f"{name}_{what}": value for name, objective in self.items() for what, value in objective.metrics().items()
        }


def named(batch: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """What stands in ``batch`` under ``name.``."""
    return {key.removeprefix(f"{name}."): value for key, value in batch.items() if key.startswith(f"{name}.")}
