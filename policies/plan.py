"""``vla plan``: what a training run takes in memory and arithmetic, before it is begun. No weight is made or read.

Parameters are counted on the model itself, built without storage. Activations follow Korthikanti et al. 2022
("Reducing activation recomputation in large transformer models", eq. 2 without its attention term, since attention is
fused): 34 bytes a token, channel and layer in bf16, and 2 where they are computed again. A product with a weight takes
2 FLOPs a weight and token forward, and as many again for each of the two gradients that is needed.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from policies.train import checked
from vla.config import help_text, load, wants_help
from vla.errors import UnderstudyError
from vla.types import ActionSpec, CameraSpec, PolicySpec

if TYPE_CHECKING:
    from policies.cogact_model import CogACTConfig, CogACTModel
    from vla.training.trainer import TrainerConfig

EXAMPLE = "vla plan policy=cogact policy.vlm.path=models/paligemma2-3b gpus=8"
KEPT, AGAIN = 34, 2
"""Bytes of activations a token, channel and layer: all of them, or only what a layer began with."""
ADAM, AVERAGE, GRADIENT = 8, 4, 4
"""Bytes for each parameter that learns."""
COPY = 2
"""Bytes of the copy in bf16 of each parameter that learns, whole on every GPU until its gradient is known."""
WORDS = 32
"""Tokens of a prompt around the pictures."""


@dataclass
class PlanConfig:
    """What is to be trained, and on how many GPUs."""

    policy: dict[str, Any] = field(default_factory=dict)
    """``name`` and the settings of that family's dataclass"""
    trainer: dict[str, Any] = field(default_factory=dict)
    """settings of `vla.training.trainer.TrainerConfig`; ``batch_size`` is that of one GPU"""
    gpus: int = 1
    """that parameters, gradients, moments and averages are spread over (``vla train launch=fsdp``)"""
    memory_gb: float = 80.0
    """of one GPU"""
    tflops: float = 400.0
    """what one GPU reaches in large bf16 products, for the time of a step"""
    cameras: int = 2
    proprio_dim: int = 8
    action_dim: int = 7


@dataclass(frozen=True)
class Stack:
    """Transformer layers that ``tokens`` of a sample go through.

    ``again``: their activations are computed twice; ``passed``: gradients flow through them to something that learns.
    """

    name: str
    modules: tuple[nn.Module, ...]
    layers: int
    width: int
    tokens: int
    again: bool = False
    passed: bool = True


@dataclass(frozen=True)
class Part:
    """One line of the plan.

    Bytes are of all GPUs together, those of activations, copies in bf16 among them, of one; ``flops`` of one step of
    one GPU.
    """

    name: str
    parameters: int
    learned: int
    weights: float
    gradients: float
    optimizer: float
    average: float
    activations: float
    flops: float


def main(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = "Say what a training run takes in memory and arithmetic before it is begun."
        sys.stdout.write(help_text(PlanConfig, verb="plan", about=about, example=EXAMPLE, name="plan"))
        return 0
    config = load(PlanConfig, "plan", argv)
    tell(config, parts(config))
    return 0


def parts(config: PlanConfig) -> list[Part]:
    """The plan, line by line."""
    family, policy, trainer = checked(config.policy, config.trainer)
    if family.family != "cogact":
        raise UnderstudyError(f"vla plan knows the parts of cogact alone, not yet those of {family.family}")
    model = _without_storage(policy, config)
    seen: set[int] = set()
    found = [_part(stack, trainer, seen) for stack in _stacks(model, policy, config)]
    rest = [parameter for parameter in model.parameters() if id(parameter) not in seen]
    found.append(_counted("what is between", rest, trainer, tokens=trainer.batch_size, activations=0.0, factor=6))
    return found


def _without_storage(policy: "CogACTConfig", config: PlanConfig) -> "CogACTModel":
    from policies.cogact_model import CogACTModel, make_backbone
    from policies.embodiments import Embodiments
    from vla.backbones.small import build_tokenizer

    names = [f"axis {number}" for number in range(max(config.action_dim, config.proprio_dim))]
    bounds = (1.0,) * config.action_dim
    action = ActionSpec("ee_delta", tuple(names[: config.action_dim]), tuple(-bound for bound in bounds), bounds)
    size = policy.image_size
    spec = PolicySpec(
        cameras=tuple(CameraSpec(f"camera {number}", size, size) for number in range(config.cameras)),
        proprio_names=tuple(names[: config.proprio_dim]),
        action=action,
        accepts=("instruction",),
        obs_horizon=1,
        pred_horizon=policy.pred_horizon,
        exec_horizon=policy.exec_horizon,
        control_hz=10.0,
    )
    if policy.vlm is not None:
        policy = replace(policy, vlm=replace(policy.vlm, random_init=True))
    with torch.device("meta"):
        backbone = make_backbone(policy, Embodiments({"arm": spec}), build_tokenizer([" ".join(map(str, range(1000)))]))
        return CogACTModel(policy, backbone, action_dim=config.action_dim, proprio_dim=config.proprio_dim)


def _stacks(model: "CogACTModel", policy: "CogACTConfig", config: PlanConfig) -> Iterator[Stack]:
    if policy.vlm is None:
        yield from _small_stacks(model, policy, config)
    else:
        yield from _hub_stacks(model, policy, config)
    head = policy.flow if policy.head == "flow" else policy.diffusion
    if policy.head == "regression":
        yield Stack("head", (model.head,), policy.regression.blocks, policy.regression.width, 1)
    else:
        tokens = head.repeats * (policy.pred_horizon + 1)
        yield Stack("head", (model.head,), policy.diffusion.depth, policy.diffusion.width, tokens)


def _small_stacks(model: "CogACTModel", policy: "CogACTConfig", config: PlanConfig) -> Iterator[Stack]:
    backbone, small = policy.backbone, model.backbone
    patches = (backbone.image_size // backbone.patch_size) ** 2
    seeing = tuple(one for one in (getattr(small, "stem", None), small.tower, small.vision) if one is not None)
    yield Stack("vision", seeing, max(1, backbone.vision_depth), backbone.vision_width, config.cameras * patches)
    tokens = config.cameras * (patches // backbone.merge**2 + 1) + backbone.max_words
    yield Stack("language", (small.language,), backbone.language_depth, backbone.language_width, tokens)


def _hub_stacks(model: "CogACTModel", policy: "CogACTConfig", config: PlanConfig) -> Iterator[Stack]:
    vlm, hub = policy.vlm, model.backbone
    again = vlm.gradient_checkpointing
    for name in hub.family.vision:
        module = hub.vlm.get_submodule(name)
        settings = module.config
        layers = getattr(settings, "num_hidden_layers", None) or settings.depth
        patches = (hub.family.side // settings.patch_size) ** 2 * config.cameras
        yield Stack(f"vision ({name})", (module,), layers, settings.hidden_size, patches, again, passed=False)
    text = hub.family.config.get_text_config()
    seen = [hub.vlm.get_submodule(name) for name in hub.family.vision]
    rest = tuple(child for child in hub.vlm.children() if all(child is not one for one in seen))
    tokens = hub.family.tokens * config.cameras + WORDS
    yield Stack("language", rest, text.num_hidden_layers, text.hidden_size, tokens, again, not hub.frozen)


def _part(stack: Stack, trainer: "TrainerConfig", seen: set[int]) -> Part:
    own = [p for module in stack.modules for p in module.parameters() if id(p) not in seen]
    seen.update(map(id, own))
    learns = any(parameter.requires_grad for parameter in own)
    samples = trainer.batch_size
    held = (stack.layers * AGAIN + KEPT) if stack.again else stack.layers * KEPT
    through = stack.passed or learns
    activations = samples * stack.tokens * stack.width * held if through else 0.0
    factor = 2 * (1 + learns + through) + 2 * (stack.again and through)
    flops = 4 * samples * stack.tokens**2 * stack.width * stack.layers * factor / 2
    made = _counted(stack.name, own, trainer, tokens=samples * stack.tokens, activations=activations, factor=factor)
    return replace(made, flops=made.flops + flops)


def _counted(
    name: str, own: list[nn.Parameter], trainer: "TrainerConfig", *, tokens: int, activations: float, factor: int
) -> Part:
    count = sum(parameter.numel() for parameter in own)
    learned = sum(parameter.numel() for parameter in own if parameter.requires_grad)
    return Part(
        name,
        count,
        learned,
        weights=sum(parameter.numel() * parameter.element_size() for parameter in own),
        gradients=GRADIENT * learned,
        optimizer=ADAM * learned,
        average=AVERAGE * learned * (trainer.ema > 0),
        activations=activations + COPY * learned,
        flops=factor * count * tokens * trainer.grad_accumulation,
    )


def per_gpu(found: list[Part], gpus: int) -> float:
    """Bytes on each GPU when everything but activations is spread over all; with 1, those of ``launch=ddp``.

    The one layer that is whole while it computes is not counted.
    """
    spread = sum(part.weights + part.gradients + part.optimizer + part.average for part in found)
    return spread / gpus + sum(part.activations for part in found)


def tell(config: PlanConfig, found: list[Part]) -> None:
    """Print the plan, and what to do when it does not fit."""
    from rich.console import Console
    from rich.table import Table

    columns = ("parameters", "learned", "weights", "gradients", "optimizer", "average", "activations", "FLOPs a step")
    table = Table("", *columns, title="plan", title_justify="left")
    lines = [*found, _total(found)]
    for part in lines:
        memory = (part.weights, part.gradients, part.optimizer, part.average, part.activations)
        counts = (f"{part.parameters / 1e6:,.1f} M", f"{part.learned / 1e6:,.1f} M")
        table.add_row(part.name, *counts, *(f"{value / 1e9:.2f} GB" for value in memory), f"{part.flops:.2e}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    needed, flops = per_gpu(found, config.gpus) / 1e9, lines[-1].flops
    seconds = flops / (config.tflops * 1e12)
    copied = f" in shards (launch=fsdp), {per_gpu(found, 1) / 1e9:.1f} GB with a copy on each (launch=ddp)"
    console.print(
        f"each of {config.gpus} GPU: {needed:.1f} GB of {config.memory_gb:g}{copied if config.gpus > 1 else ''}, "
        f"activations for the batch of one GPU; a step takes {seconds:.2f} s at {config.tflops:g} TFLOP/s",
        markup=False,
    )
    if needed > config.memory_gb:
        least = math.ceil(config.gpus * needed / config.memory_gb)
        console.print(
            f"it does not fit: try a smaller trainer.batch_size, policy.vlm.gradient_checkpointing=true, "
            f"policy.vlm.lora.rank=32, or about {least} GPUs",
            markup=False,
        )


def _total(found: list[Part]) -> Part:
    names = [name for name in Part.__dataclass_fields__ if name != "name"]
    return Part("all", **{name: sum(getattr(part, name) for part in found) for name in names})
