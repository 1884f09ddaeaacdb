"""The table of ways to learn a representation: settings, model, and which frames of a video each one asks for.

Frames come from the data-locked `FrameIndex`, so that all families see the same ones of the same videos.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from vla.data.frame_index import FrameIndex
from vla.errors import unknown
from vla.representation import baselines, vae, voltron
from vla.representation.language import Captions


@dataclass(frozen=True)
class Draw:
    """Frames of some videos: ``frames`` [B, F] within each one, and ``extra`` tensors for the model, if any."""

    frames: np.ndarray
    extra: dict[str, np.ndarray]


@dataclass(frozen=True)
class Family:
    """One way to learn.

    ``make(config, captions)``: the model; ``draw(index, clips, epochs, config)``: the frames of a batch; ``reads``:
    whether captions go in; ``crops``: whether the paper augments by crops that all frames of a video share;
    ``labels``: whether simulated or tracked keypoints are needed to train; ``alike``: whether a batch is of videos with
    one caption; ``begins``: whether the model looks at some batches before it is trained.
    """

    about: str
    config: type
    make: Callable[[Any, Captions | None], nn.Module]
    draw: Callable[[FrameIndex, np.ndarray, np.ndarray, Any], Draw]
    reads: bool = False
    crops: bool = False
    labels: bool = False
    alike: bool = False
    begins: bool = False


def one_of_five(index: FrameIndex, clips: np.ndarray, epochs: np.ndarray, config: Any) -> Draw:
    """Each of Voltron's five frames is an example of its own: [B, 1]."""
    five = index.quintets(clips, epochs // 5)
    return Draw(np.take_along_axis(five, epochs[:, None] % 5, 1), {})


def first_and_other(index: FrameIndex, clips: np.ndarray, epochs: np.ndarray, config: Any) -> Draw:
    """The first of the five with each of the four others: [B, 2]."""
    five = index.quintets(clips, epochs // 4)
    return Draw(np.concatenate([five[:, :1], np.take_along_axis(five, 1 + epochs[:, None] % 4, 1)], 1), {})


def first_and_late(index: FrameIndex, clips: np.ndarray, epochs: np.ndarray, config: Any) -> Draw:
    """The first of the five with one of the last two, when something has happened: [B, 2]."""
    five = index.quintets(clips, epochs // 2)
    return Draw(np.concatenate([five[:, :1], np.take_along_axis(five, 3 + epochs[:, None] % 2, 1)], 1), {})


def all_five(index: FrameIndex, clips: np.ndarray, epochs: np.ndarray, config: Any) -> Draw:
    """[B, 5]."""
    return Draw(index.quintets(clips, epochs), {})


def span(index: FrameIndex, clips: np.ndarray, epochs: np.ndarray, config: Any) -> Draw:
    """VIP's start, goal, frame and next frame: [B, 4]."""
    return Draw(index.spans(clips, epochs), {})


def on_a_clock(index: FrameIndex, clips: np.ndarray, epochs: np.ndarray, config: Any) -> Draw:
    """`TCCConfig.frames` frames in order, and when they are, 0…1."""
    frames = index.uniform(clips, epochs, config.frames)
    last = np.maximum(index.lengths[clips] - 1, 1)
    return Draw(frames, {"times": (frames / last[:, None]).astype(np.float32)})


def now_and_later(index: FrameIndex, clips: np.ndarray, epochs: np.ndarray, config: Any) -> Draw:
    """A frame and one 1 to ``reach`` later, [B, 2], with the ``gap`` between them."""
    last = index.lengths[clips] - 1
    now = np.floor(index.draw(clips, epochs, 1) * np.maximum(last, 1)).astype(np.int64)
    reach = np.minimum(config.reach, np.maximum(last - now, 0))
    gap = np.minimum(1 + np.floor(index.draw(clips, epochs, 2) * reach).astype(np.int64), reach)
    return Draw(np.stack([now, now + gap], 1), {"gap": gap})


def _masked(frames: int, *, words: bool = True) -> Callable[[Any, Captions | None], nn.Module]:
    return lambda config, captions: voltron.MaskedAutoencoder(
        config, frames=frames, captions=captions if words else None
    )


FAMILIES = {
    "voltron_cond": Family(
        "masked patches of one frame, with the caption", voltron.MaskedConfig, _masked(1), one_of_five, reads=True
    ),
    "voltron_dual": Family(
        "masked patches of two frames, with the caption", voltron.MaskedConfig, _masked(2), first_and_other, reads=True
    ),
    "voltron_gen": Family(
        "V-Dual that also writes captions",
        voltron.GenerationConfig,
        lambda config, captions: voltron.CaptioningAutoencoder(config, frames=2, captions=captions),
        first_and_other,
        reads=True,
    ),
    "mvp": Family("masked patches of one frame, no words", voltron.MaskedConfig, _masked(1, words=False), one_of_five),
    "paat": Family(
        "V-Cond that also tells which joints lie in a patch",
        voltron.PoseAwareConfig,
        lambda config, captions: voltron.PoseAwareAutoencoder(config, frames=1, captions=captions),
        one_of_five,
        reads=True,
        labels=True,
    ),
    "r3m": Family(
        "time contrast and caption progress",
        baselines.R3MConfig,
        lambda config, captions: baselines.R3M(config, captions=captions),
        all_five,
        reads=True,
        crops=True,
    ),
    "tcn": Family(
        "time contrast", baselines.ContrastConfig, lambda config, _: baselines.TCN(config), all_five, crops=True
    ),
    "vip": Family("implicit value", baselines.VIPConfig, lambda config, _: baselines.VIP(config), span, crops=True),
    "tcc": Family(
        "temporal cycle consistency",
        baselines.TCCConfig,
        lambda config, _: baselines.TCC(config),
        on_a_clock,
        crops=True,
        alike=True,
    ),
    "siglip": Family(
        "video and caption in one space",
        baselines.SigLIPConfig,
        lambda config, captions: baselines.SigLIP(config, captions=captions),
        first_and_late,
        reads=True,
        crops=True,
    ),
    "autoencoder": Family(
        "the same picture through a code",
        baselines.LatentConfig,
        lambda config, _: baselines.Autoencoder(config),
        now_and_later,
    ),
    "vae": Family(
        "the same picture through a grid of latents, for a video model to work on",
        vae.VAEConfig,
        lambda config, _: vae.VAE(config),
        all_five,
        begins=True,
    ),
    "forward_model": Family(
        "a later picture through a code",
        baselines.LatentConfig,
        lambda config, _: baselines.ForwardModel(config),
        now_and_later,
    ),
    "temporal_contrastive": Family(
        "near frames of one video find each other",
        baselines.LatentConfig,
        lambda config, _: baselines.TemporalContrast(config),
        now_and_later,
        crops=True,
    ),
}


def family(name: str) -> Family:
    """The family of that name; raises `UnderstudyError` naming the nearest one."""
    if name not in FAMILIES:
        raise unknown("representation", name, FAMILIES)
    return FAMILIES[name]


def parameters(model: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
