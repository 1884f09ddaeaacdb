"""``vla predict inverse``: actions for videos that have none, as a dataset that policies train on.

A video action model that was trained on robots tells what an arm would have done between the frames of a video. Each
step has a ``quality``: how far all windows that cover it agree (`policies.uva.inverse`). It says that the model is
sure, not that it is right: a video unlike all that it was trained on can be labelled wrongly and surely.
"""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import track

from sim.predict import video_model
from vla.config import help_text, load, wants_help
from vla.data.human_clips import Clip, film_at
from vla.data.human_video import read_clips
from vla.data.lerobot import DatasetSpec, EpisodeWriter, open_dataset
from vla.data.lerobot_format import INFO, QUALITY
from vla.types import CameraSpec, Episode, Task

if TYPE_CHECKING:
    from policies.uva.inverse import Labels
    from policies.uva.policy import UVA

logger = logging.getLogger(__name__)

EXAMPLE = "vla predict inverse policy=outputs/train videos=recordings/films out=outputs/labelled"
SHORTEST = 2
"""Steps that a film must have beyond a stride."""


@dataclass
class LabelConfig:
    """What to label, by whom."""

    policy: Path
    """checkpoint of a video action model (``vla train policy=uva``)"""
    videos: Path
    """folder of videos; of a LeRobot dataset only pictures and instructions are read"""
    out: Path
    """where the labelled dataset goes; an interrupted run goes on there"""
    draws: int = 2
    """samples of each window"""
    least_quality: float = 0.0
    """leave a film out whose mean quality is lower"""
    seed: int = 0


def main(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = (
            "Tell the actions of videos that have none, and write them as a dataset with a column for their quality."
        )
        sys.stdout.write(help_text(LabelConfig, verb="predict inverse", about=about, example=EXAMPLE, name="label"))
        return 0
    config = load(LabelConfig, "label", argv)
    qualities = label_videos(config)
    sys.stdout.write(
        f"{len(qualities)} films labelled, mean quality {np.mean(qualities):.2f}: {config.out}\n"
        if qualities
        else "no film reached least_quality\n"
    )
    return 0


def label_videos(config: LabelConfig) -> list[float]:
    """The mean quality of each film that was labelled now and kept; the dataset lies in ``config.out``."""
    policy, clips = video_model(config.policy), read_clips(config.videos).clips
    spec, qualities = spec_of(policy), []
    there = (config.out / INFO).is_file()
    done = {info.source for info in open_dataset(config.out).episodes} if there else set()
    left = [clip for clip in clips if source_of(clip) not in done]
    with EpisodeWriter(config.out, spec, resume=there) as writer:
        for clip in track(left, "labelling", console=Console(stderr=True)):
            film = film_at(clip, size=policy.config.image_size, rate_hz=policy.spec.control_hz)
            if len(film) < policy.config.stride + SHORTEST:
                logger.warning("%s is left out: %d frames are too few", clip.name, len(film))
                continue
            labels = labels_of(policy, film, clip.caption, config)
            if labels.quality.mean() >= config.least_quality:
                writer.save(episode_of(policy, clip, film, labels, spec))
                qualities.append(float(labels.quality.mean()))
    return qualities


def source_of(clip: Clip) -> str:
    """What an episode says that it was made from."""
    return f"labelled {clip.name}"


def labels_of(policy: "UVA", film: np.ndarray, caption: str, config: LabelConfig) -> "Labels":
    """Actions for the frames of a film [T, H, W, 3]."""
    from policies.uva.inverse import label

    rows = np.concatenate([part.cpu().numpy() for part in _rows(policy, film)])
    return label(policy, rows, caption, draws=config.draws, seed=config.seed)


def _rows(policy: "UVA", film: np.ndarray, at_once: int = 64) -> Iterator:
    for start in range(0, len(film), at_once):
        yield policy.autoencoder.rows(film[start : start + at_once])


def spec_of(policy: "UVA") -> DatasetSpec:
    """Of the labelled dataset: the model's first camera and actions, no proprio, since nobody measured any."""
    camera, size = policy.spec.cameras[0].name, policy.config.image_size
    return DatasetSpec(
        fps=policy.spec.control_hz,
        cameras=(CameraSpec(camera, size, size),),
        proprio_names=(),
        action=policy.spec.action,
        embodiment=policy.embodiment,
        fingerprint=f"inverse/{policy.autoencoder.weights}",
        extras=(QUALITY,),
    )


def episode_of(policy: "UVA", clip: Clip, film: np.ndarray, labels: "Labels", spec: DatasetSpec) -> Episode:
    """A film and its labels as an episode."""
    stamps = np.round(np.arange(len(film)) * 1e9 / spec.fps).astype(np.int64)
    return Episode(
        images={spec.cameras[0].name: lambda: film},
        proprio=np.zeros((len(film), 0), np.float32),
        actions=labels.actions,
        task=Task(clip.caption),
        fps=spec.fps,
        embodiment=spec.embodiment,
        success=None,
        source=source_of(clip),
        stamps_ns=stamps,
        extras={QUALITY: labels.quality},
    )
