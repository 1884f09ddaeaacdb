"""One optimizer step: CogACT beside LeRobot's ACT and diffusion policies, at equal numbers of parameters.

All three see one observation, two cameras of 64 px through one shared encoder, and learn chunks of 16 actions.
LeRobot's are its own classes with its own optimizers, trained from random weights; its smallest encoder, ResNet-18,
has 11 M parameters, so ours is the ``cpu`` preset, made wider in two ways: "ours" with the head left as it is, which
makes it as small a part of the model as in the paper (CogACT-B 1.2 %, -L 4 %), "ours, wide head" with every width
multiplied by one factor.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from policies.cogact import CogACT
from policies.cogact_model import CogACTConfig
from policies.train import TrainConfig
from vla.bench import Row, interleaved, parser, write_bench
from vla.config import build, load
from vla.data.lerobot import DatasetSpec
from vla.data.windows import Batch, Windows
from vla.training.precision import bf16_is_fast
from vla.training.trainer import TrainerConfig, _Loop, average_of, make_optimizer
from vla.types import ActionSpec, CameraSpec

CAMERAS = ("front", "wrist")
SIDE, HORIZON, BATCH = 64, 16, 32
ACT = {"dim_model": 256, "dim_feedforward": 1024}
DIFFUSION = {"down_dims": (80, 160, 320), "use_separate_rgb_encoder_per_camera": False}
"""Sizes near those of ACT; of LeRobot's defaults (52 M and 250 M parameters) a laptop makes no use."""


def preset() -> tuple[CogACTConfig, TrainerConfig]:
    """The settings of ``vla train policy=cogact preset=cpu`` at the sizes of this benchmark."""
    config = load(TrainConfig, "train", ["policy=cogact", "preset=cpu", "data=unused"])
    settings = {key: value for key, value in config.policy.items() if key != "name"}
    policy = build(CogACTConfig, settings, where="policy")
    policy = replace(policy, backbone=replace(policy.backbone, image_size=SIDE), pred_horizon=HORIZON)
    return policy, build(TrainerConfig, {**config.trainer, "batch_size": BATCH}, where="trainer")


def recording(axes: str = "abcd", *, side: int = SIDE) -> tuple[DatasetSpec, Windows]:
    """One episode of noise, long enough for one batch of whole chunks; both are trained on its first frames."""
    random, length = np.random.default_rng(0), BATCH + HORIZON
    dims = tuple(axes)
    action = ActionSpec(kind="ee_delta", names=dims, low=(-1.0,) * len(dims), high=(1.0,) * len(dims))
    cameras = tuple(CameraSpec(name, side, side) for name in CAMERAS)
    spec = DatasetSpec(fps=20.0, cameras=cameras, proprio_names=dims, action=action, embodiment="noise")
    windows = Windows(
        frames={name: random.integers(256, size=(length, side, side, 3), dtype=np.uint8) for name in CAMERAS},
        proprio=random.uniform(-1, 1, (length, len(dims))).astype(np.float32),
        actions=random.uniform(-1, 1, (length, len(dims))).astype(np.float32),
        ends=np.full(length, length),
        samples=np.arange(length),
        instruction_of=np.zeros(length, np.int64),
        instructions=("push the red cube to the white pad",),
        spec=action,
        pred_horizon=HORIZON,
    )
    return spec, windows


def cogact(config: CogACTConfig) -> CogACT:
    """Our policy, untrained."""
    return CogACT.create(config, *recording())


def parameters(model: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def widened(config: CogACTConfig, factor: float, *, head: bool) -> CogACTConfig:
    """``config`` with every width of the backbone, or also of the ``head``, times ``factor``, to a multiple of 32."""

    def wide(width: int) -> int:
        return 32 * max(1, round(width * factor / 32))

    backbone, diffusion = config.backbone, config.diffusion
    vision, language = wide(backbone.vision_width), wide(backbone.language_width)
    return replace(
        config,
        backbone=replace(backbone, vision_width=vision, language_width=language),
        diffusion=replace(diffusion, width=wide(diffusion.width) if head else diffusion.width),
    )


def matched(config: CogACTConfig, target: int, *, head: bool) -> CogACTConfig:
    """``config`` widened until it has nearest to ``target`` parameters."""

    def distance(candidate: CogACTConfig) -> int:
        with torch.device("meta"):
            return abs(parameters(cogact(candidate).model) - target)

    return min((widened(config, 1 + step / 10, head=head) for step in range(70)), key=distance)


def our_step(config: CogACTConfig, trainer: TrainerConfig, accelerator: Accelerator) -> Callable[[], None]:
    """What the trainer does in one step, the average of the weights included."""
    policy = cogact(config)
    model = policy.model.to(accelerator.device).train()
    optimizer = make_optimizer(model, trainer)
    average = average_of(model, trainer)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    loop = _Loop(accelerator, wrapped, prepared, lambda number: {}, trainer)
    batch = policy.training_batch(first_samples())

    def step() -> None:
        loop.step(0, [batch])
        if average is not None:
            average.update_parameters(model)
        wait()

    return step


def first_samples() -> Batch:
    """The batch that everybody is trained on."""
    _, windows = recording()
    return windows.gather(np.arange(BATCH))


def lerobot_policy(name: str, device: torch.device) -> nn.Module:
    """LeRobot's own policy, untrained, nothing downloaded."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.modeling_act import ACTConfig, ACTPolicy
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionConfig, DiffusionPolicy

    spec, _ = recording()
    image = PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE))
    common: dict[str, Any] = {
        "input_features": {
            "observation.state": PolicyFeature(FeatureType.STATE, (len(spec.proprio_names),)),
            **{f"observation.images.{camera}": image for camera in CAMERAS},
        },
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (spec.action.dim,))},
        "device": device.type,
        "pretrained_backbone_weights": None,
        "n_obs_steps": 1,
    }
    if name == "act":
        return ACTPolicy(ACTConfig(chunk_size=HORIZON, n_action_steps=HORIZON, **ACT, **common)).to(device)
    return DiffusionPolicy(DiffusionConfig(horizon=HORIZON, **DIFFUSION, **common)).to(device)


def lerobot_batch(name: str, device: torch.device) -> dict[str, Tensor]:
    """The same batch after LeRobot's loader and preprocessor: images [B, 3, H, W] float, already normalised."""
    given = first_samples()
    images = {camera: torch.from_numpy(image).permute(0, 3, 1, 2) for camera, image in given.images.items()}
    state = torch.from_numpy(given.proprio)
    batch = {
        **{f"observation.images.{camera}": image.contiguous().float() / 127.5 - 1 for camera, image in images.items()},
        "observation.state": state if name == "act" else state[:, None],
        "action": torch.from_numpy(given.actions),
        "action_is_pad": ~torch.from_numpy(given.mask),
    }
    return {key: value.to(device) for key, value in batch.items()}


def lerobot_steps(name: str, policy: nn.Module, device: torch.device) -> dict[str, Callable[[], None]]:
    """One step in fp32, its default, and one under bf16 autocast, on the same weights.

    Follows ``lerobot.scripts.lerobot_train.update_policy`` with the policy's own presets.
    """
    preset = policy.config.get_optimizer_preset()
    optimizer = preset.build(policy.get_optim_params())
    schedule = policy.config.get_scheduler_preset()
    scheduler = None if schedule is None else schedule.build(optimizer, 100_000)
    batch = lerobot_batch(name, device)

    def step(autocast: AbstractContextManager[None]) -> None:
        policy.train()
        with autocast:
            loss, _ = policy.forward(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(policy.parameters(), preset.grad_clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
        loss.item(), norm.item()
        wait()

    def at(precision: str) -> Callable[[], None]:
        return lambda: step(torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"))

    return {f"lerobot {name} {precision}": at(precision) for precision in ("fp32", "bf16")}


def wait() -> None:
    """Until the GPU has finished, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    options = parser("train", __doc__).parse_args(argv)
    config, trainer = preset()
    accelerator = Accelerator(mixed_precision="bf16" if bf16_is_fast(PartialState().device) else "no")
    peers = {name: lerobot_policy(name, accelerator.device) for name in ("diffusion", "act")}
    counts = {name: parameters(policy) for name, policy in peers.items()}
    target = sum(counts.values()) // len(counts)
    ours = {"ours": matched(config, target, head=False), "ours, wide head": matched(config, target, head=True)}
    counts |= {name: parameters(cogact(settings).model) for name, settings in ours.items()}
    assert max(counts.values()) < 1.1 * min(counts.values()), f"no equal numbers of parameters: {counts}"
    ours |= {f"{name}, 1 draw": one_draw(settings) for name, settings in ours.items()}
    times = interleaved(
        {
            **{name: our_step(settings, trainer, accelerator) for name, settings in ours.items()},
            **lerobot_steps("diffusion", peers["diffusion"], accelerator.device),
            **lerobot_steps("act", peers["act"], accelerator.device),
        },
        rounds=30 if options.long else 8,
        baseline="lerobot act fp32",
    )
    ratios = {}
    for name in ours:
        for peer in peers:
            default, half = (times.ratio(name, f"lerobot {peer} {precision}") for precision in ("fp32", "bf16"))
            ratios |= {key(name, peer, "as it comes"): default, key(name, peer, "bf16"): half}
    rows = [Row.of_times(f"{name}, a sample", [s / BATCH for s in samples]) for name, samples in times.samples.items()]
    rows += [Row(f"{name}, parameters", count / 1e6, "M") for name, count in counts.items()]
    write_bench("train", rows, ratios, options.json, noisy=times.noisy, notes=notes(ours, accelerator))
    return 0


def one_draw(config: CogACTConfig) -> CogACTConfig:
    """One draw of noise for each sample, as in LeRobot's diffusion policy."""
    return replace(config, diffusion=replace(config.diffusion, repeats=1))


def key(ours: str, peer: str, precision: str) -> str:
    """The name of a ratio."""
    return "_".join(f"train {ours} vs lerobot {peer} {precision}".replace(",", "").split())


def notes(ours: dict[str, CogACTConfig], accelerator: Accelerator) -> list[str]:
    """What a reader has to know about the numbers."""
    precision = "bf16 autocast" if accelerator.mixed_precision == "bf16" else "fp32"
    setting = (
        f"batch {BATCH}, {len(CAMERAS)} cameras of {SIDE} px, {HORIZON} actions, {torch.get_num_threads()} threads"
    )
    sizes = [
        f"{name}: vision {config.backbone.vision_width}, language {config.backbone.language_width}, "
        f"DiT {config.diffusion.width} wide, {config.diffusion.repeats} draws of noise for each sample"
        for name, config in ours.items()
    ]
    return [
        f"{setting}; without loading; ours with the average of the weights (EMA), which LeRobot does not keep",
        f"ours in {precision}; LeRobot as it comes (fp32, one draw) and under bf16 autocast",
        *sizes,
    ]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
