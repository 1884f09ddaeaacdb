"""The settings of `vla.backbones.hub`, apart from it: importing transformers takes seconds."""

from dataclasses import dataclass
from typing import Literal

from vla.training.precision import Precision

PROMPT = "What action should the robot take to {instruction}?"


@dataclass
class LoraSettings:
    """Low-rank adapters (Hu et al. 2021) on every linear layer of the language model, through peft."""

    rank: int = 32
    alpha: int = 16
    dropout: float = 0.0


@dataclass
class HubVLMConfig:
    """Which model, and what of it is trained."""

    path: str
    """folder, or the name of a model on the hub. What is trained of it is kept in the policy's checkpoint; a model of
    which nothing is, or only adapters, is read from here again"""
    download: bool = False
    """fetch a model of the hub that is not in the local cache; otherwise nothing goes over the network"""
    random_init: bool = False
    """fresh weights in the architecture of ``path``: for timing and for tests"""
    image_size: int = 224
    """pixels a side that pictures are kept at; a model that sees another size gets them resized"""
    prompt: str = PROMPT
    """what is asked; ``{instruction}`` is put into it in lower case"""
    cognition: Literal["end", "learned"] = "end"
    """``end``: the model's end token behind the prompt, as in CogACT's code; ``learned``: an embedding of its own, as
    in its paper"""
    freeze: Literal["none", "vision", "vlm"] = "none"
    """what keeps its weights; with ``lora`` all but the adapters does"""
    lora: LoraSettings | None = None
    gradient_checkpointing: bool = False
    """compute activations again in the backward pass instead of keeping them"""
    precision: Precision = "auto"
    """what the model computes in, and what is frozen of it is kept in; ``auto``: bf16 where that is fast"""
    proprio: bool = True
    """add an embedding of proprio to the cognition token; CogACT has none"""


def is_frozen(config: HubVLMConfig) -> bool:
    """Whether the model's own weights stay as they are."""
    return config.freeze == "vlm" or config.lora is not None


def is_elsewhere(config: HubVLMConfig) -> bool:
    """Whether a checkpoint leaves out the model's own weights, which nothing changes: they stay in ``config.path``."""
    return is_frozen(config) and not config.random_init
