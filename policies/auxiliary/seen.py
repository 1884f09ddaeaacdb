"""What the backbone makes of observations that come later, [B, K] of them."""

from collections.abc import Callable, Mapping

from torch import Tensor

from vla.backbones.backbone import TokenGroup

Look = Callable[[Mapping[str, Tensor]], TokenGroup]
"""Observations side by side → what the backbone makes of them."""


def seen_later(look: Look, batch: Mapping[str, Tensor], later: Mapping[str, Tensor]) -> Tensor:
    """Cognition features [B, K, D] of what comes ``later``, under the words of ``batch``."""
    count = later["mask"].shape[1]
    flat = {key: value.flatten(0, 1) for key, value in later.items() if key != "mask"}
    if "text" in batch:
        flat["text"] = batch["text"].repeat_interleave(count, 0)
    return pooled(look(flat)).unflatten(0, (-1, count))


def pooled(context: TokenGroup) -> Tensor:
    """The mean [B, D] of the tokens that are real."""
    weight = context.mask[..., None].to(context.tokens.dtype)
    return (context.tokens * weight).sum(1) / weight.sum(1)
