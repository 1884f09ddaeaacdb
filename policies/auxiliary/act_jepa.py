"""ACT-JEPA: foretell the encodings of what comes, beside the actions (paper: L1 with weight 1, trained jointly).

    context   cognition token, s[t] ─► encoder ─────────────────────────► c ─┐ cross-attention
                                                     n learned queries ─► predictor ─► ŷ[t+1] … ŷ[t+n]
                                                                               │ L1, unpadded steps only
    target    s[t] s[t+1] … s[t+n]  ─► the encoder's moving average ─► y[t+1] … y[t+n]   (its own pass, no gradient)

The targets are encodings of the robot's states, as in the paper's code. Two things differ from it: there the head
reads c, here it reads the cognition token alone, so that any head will do and none of this runs at inference; and the
target is not told the task. With ``target: observations`` the whole backbone is the encoder, c the cognition token,
and y what the backbone's moving average makes of later pictures and states.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.auxiliary.momentum import Momentum
from policies.auxiliary.seen import Look, seen_later
from vla.backbones.backbone import TokenGroup
from vla.backbones.transformer import TransformerBlock, init_linear, sinusoid
from vla.data.windows import Later, Windows

logger = logging.getLogger(__name__)


@dataclass
class JepaConfig:
    """What is foretold, and by what."""

    weight: float = 0.0
    """of this loss beside the head's; the paper's is 1. 0: off"""
    target: Literal["states", "observations"] = "states"
    """``observations``: a pass of the backbone for each step that is foretold, so take few ``steps``"""
    steps: int = 16
    """how many are foretold"""
    stride: int = 1
    """control steps from one to the next"""
    width: int = 128
    """of the encoder of states"""
    narrow: int = 64
    """width of the predictor"""
    depth: int = 2
    """layers of either"""
    heads: int = 4
    momentum: tuple[float, float] = (0.996, 1.0)
    """of the target's weights, from the first optimizer step to the last"""
    collapse: float = 0.1
    """warn when the targets differ less from sample to sample than so many parts of how they did at first"""

    def __post_init__(self) -> None:
        if self.weight < 0 or self.steps < 1 or self.stride < 1:
            raise ValueError(
                f"weight {self.weight}, steps {self.steps}, stride {self.stride}: give a weight of 0 or more, steps "
                "and stride of at least 1"
            )
        if not 0 <= self.momentum[0] <= self.momentum[1] <= 1:
            raise ValueError(f"momentum runs from a number to one that is no smaller, 0 to 1, got {self.momentum}")
        if self.width % self.heads or self.narrow % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width} and narrow {self.narrow}")


class StateEncoder(nn.Module):
    """A transformer over states; each has its place in sinusoids, a context comes before them.

    Each sees itself and those before it (the paper's causal mask, there a choice). With all in view, an encoding would
    tell by its padding how soon the episode ends, and collapsed targets would still differ.
    """

    def __init__(self, config: JepaConfig, *, proprio_dim: int, token_dim: int) -> None:
        super().__init__()
        self.state, self.context = nn.Linear(proprio_dim, config.width), nn.Linear(token_dim, config.width)
        self.blocks = nn.ModuleList(TransformerBlock(config.width, config.heads) for _ in range(config.depth))
        self.blocks.apply(init_linear)

    def forward(self, states: Tensor, context: TokenGroup | None = None) -> TokenGroup:
        """States [B, N, P] → their encodings [B, N, D], after those of the context."""
        x = self.state(states)
        x = x + sinusoid(torch.arange(states.shape[1], device=x.device), x.shape[-1])
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if context is not None:
            x, mask = torch.cat([self.context(context.tokens), x], dim=1), torch.cat([context.mask, mask], dim=1)
        past = torch.ones(2 * x.shape[1:2], dtype=torch.bool, device=x.device).tril()
        for block in self.blocks:
            x = block(x, mask[:, None, None] & past)
        return TokenGroup(x, mask)


class Predictor(nn.Module):
    """A narrow transformer decoder: learned queries, one for each step, look at the context."""

    def __init__(self, config: JepaConfig, *, token_dim: int, target_dim: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(config.steps, config.narrow))
        self.narrow = nn.Linear(token_dim, config.narrow)
        layer = nn.TransformerDecoderLayer(
            config.narrow,
            config.heads,
            dim_feedforward=4 * config.narrow,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.decoder = nn.TransformerDecoder(layer, config.depth, nn.LayerNorm(config.narrow))
        self.widen = nn.Linear(config.narrow, target_dim)

    def forward(self, context: TokenGroup) -> Tensor:
        """Tokens [B, N, D] → what is foretold, [B, steps, target_dim]."""
        queries = self.queries.expand(len(context.tokens), -1, -1)
        return self.widen(self.decoder(queries, self.narrow(context.tokens), memory_key_padding_mask=~context.mask))


class ActJepa(nn.Module):
    """Encoder, its moving average, predictor, and a watch over what the targets still tell apart."""

    def __init__(self, config: JepaConfig, backbone: nn.Module, *, proprio_dim: int) -> None:
        super().__init__()
        self.config, states = config, config.target == "states"
        self.encoder = StateEncoder(config, proprio_dim=proprio_dim, token_dim=backbone.width) if states else None
        width = config.width if states else backbone.width
        self.predictor = Predictor(config, token_dim=width, target_dim=width)
        self.target = Momentum(self._source(backbone))
        self.register_buffer("spread_at_first", torch.tensor(torch.nan))
        self._told: dict[str, Tensor] = {}
        self._warned = False

    def later(self, windows: Windows, indices: np.ndarray, rng: np.random.Generator) -> Later:
        """``s[t] … s[t+n]``, or ``o[t+1] … o[t+n]``."""
        first, last = self.encoder is None, self.config.steps + 1
        return windows.ahead(indices, np.arange(first, last) * self.config.stride, pictures=self.encoder is None)

    def forward(
        self,
        context: TokenGroup,
        batch: Mapping[str, Tensor],
        later: Mapping[str, Tensor],
        backbone: nn.Module,
        look: Look,
    ) -> Tensor:
        """The mean absolute error of what is foretold of the steps that there are."""
        if self.encoder is not None:
            context = self.encoder(batch["proprio"][:, None], context)
        target = self.target(self._source(backbone), lambda: self._targets(batch, later, look))
        loss = masked_l1(self.predictor(context), target, later["mask"][:, -self.config.steps :])
        spread = spread_of(target)
        if self.training:
            self.spread_at_first.copy_(torch.where(self.spread_at_first.isnan(), spread, self.spread_at_first))
        self._told = {"loss": loss.detach(), "target_std": spread}
        return loss

    def _source(self, backbone: nn.Module) -> nn.Module:
        return backbone if self.encoder is None else self.encoder

    def _targets(self, batch: Mapping[str, Tensor], later: Mapping[str, Tensor], look: Look) -> Tensor:
        """What is to be foretold, [B, steps, D], each with mean 0 and variance 1 so that no scale can be shrunk."""
        if self.encoder is None:
            target = seen_later(look, batch, later)
        else:
            target = self.encoder(later["proprio"]).tokens[:, 1:]
        return functional.layer_norm(target.float(), target.shape[-1:])

    def follow(self, backbone: nn.Module, step: int, steps: int) -> None:
        """Let the target follow after optimizer step ``step`` of ``steps``; the momentum runs linearly to its end."""
        start, end = self.config.momentum
        self.target.follow(self._source(backbone), momentum=start + (end - start) * min(1.0, step / steps))

    def restart(self, backbone: nn.Module) -> None:
        """Make the target equal to what it is the average of."""
        self.target.restart(self._source(backbone))

    def metrics(self) -> dict[str, Tensor]:
        """The loss and how much the targets differ; says once when they hardly do any more."""
        if self._told and not self._warned:
            now, first = float(self._told["target_std"]), float(self.spread_at_first)
            self._warned = now < self.config.collapse * first
            if self._warned:
                logger.warning(
                    "the targets of policy.auxiliary.jepa collapse: they differ by %.2g from sample to sample, at "
                    "first by %.2g; raise its momentum or lower its weight",
                    now,
                    first,
                )
        return self._told


def masked_l1(foretold: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error of [B, N, D] over the steps of ``mask`` [B, N]."""
    weight = mask.float()
    error = (foretold.float() - target).abs().mean(-1)
    return (error * weight).sum() / weight.sum().clamp(min=1)


def spread_of(target: Tensor) -> Tensor:
    """How much targets [B, N, D] differ: their standard deviation over the batch, mean over steps and dimensions."""
    return target.std(0, correction=0).mean()
