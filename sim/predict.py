"""``vla predict video``: what a video action model expects to see, beside what was seen.

At every ``frames * stride`` control steps of an episode the model is shown what has happened so far, and its pictures
of the next frames are compared with the true ones. So are two others: the last picture, which stays (what a model that
knows nothing can do), and the true ones after the autoencoder (the best that any model of these latents can do).
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from policies.policy import load_policy
from sim.films import write_film
from vla.config import help_text, load, wants_help
from vla.data.lerobot import open_dataset
from vla.data.windows import Windows, load_windows
from vla.errors import UnderstudyError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from policies.uva.latents import Autoencoder
    from policies.uva.policy import UVA

EXAMPLE = "vla predict video policy=outputs/train data=outputs/collect episodes=20 out=outputs/predict"
AT_ONCE = 16
"""Samples."""
WHO = ("predicted", "last picture", "autoencoder")


@dataclass
class VideoConfig:
    """What to predict, and from what."""

    policy: Path
    """checkpoint of a video action model (``vla train policy=uva``)"""
    data: Path
    """recordings with the model's cameras"""
    episodes: int = 20
    """the last so many, which training may have held out"""
    given: Literal["video", "dynamics", "policy_video"] = "video"
    """what the model is told besides the pictures: nothing; the true actions; proprio, as when it acts"""
    rounds: int = 1
    """passes of the transformer for each prediction; the paper has 1, and 8 for better pictures"""
    films: int = 4
    """episodes that are filmed"""
    out: Path = Path("outputs/predict")
    seed: int = 0


def video(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = "Film what a video action model expects to see, beside what was seen, and measure how near it is."
        sys.stdout.write(help_text(VideoConfig, verb="predict video", about=about, example=EXAMPLE, name="predict"))
        return 0
    config = load(VideoConfig, "predict", argv)
    found = predict_videos(config)
    _show(found)
    (config.out / "video.json").write_text(json.dumps(found, indent=2) + "\n")
    return 0


def video_model(checkpoint: Path) -> "UVA":
    """The checkpoint's policy, which must be one that predicts pictures."""
    policy = load_policy(checkpoint)
    if not hasattr(policy, "foresee"):
        raise UnderstudyError(f"{checkpoint} predicts no pictures: give a checkpoint of vla train policy=uva")
    return cast("UVA", policy)


def predict_videos(config: VideoConfig) -> dict[str, dict[str, float]]:
    """Who → PSNR [dB], SSIM, Fréchet distance; films lie in ``config.out``."""
    import torch

    policy = video_model(config.policy)
    pictures, latents = samples_of(policy, config.data)
    judge = Judge(policy.autoencoder, frames=policy.config.frames)
    generator = torch.Generator().manual_seed(config.seed)
    ends = np.unique(latents.ends[latents.samples])[-config.episodes :]
    for number, end in enumerate(track(ends, "predicting", console=Console(stderr=True))):
        shown = Shown.stacked(_shown(policy, pictures, latents, int(end), config.given, config.rounds, generator))
        judge.see(shown)
        if number < config.films:
            told = latents.instructions[latents.instruction_of[int(end) - 1]]
            film = np.concatenate([shown.truth, shown.predicted], axis=3)
            captions = f"{told}: what happened, what was expected"
            fps = policy.spec.control_hz / policy.config.stride
            write_film(config.out / f"episode-{number}.mp4", film.reshape(-1, *film.shape[2:]), fps, captions)
    return judge.found()


def samples_of(policy: "UVA", data: Path) -> tuple[Windows, Windows]:
    """All samples of a dataset: with pictures, and with latents in their place."""
    dataset, config = open_dataset(data), policy.config
    cameras = tuple(camera.name for camera in policy.spec.cameras)
    windows = load_windows(dataset, pred_horizon=config.pred_horizon, image_size=config.image_size, cameras=cameras)
    return windows, policy.prepared(windows, dataset.hash())


@dataclass(frozen=True)
class Shown:
    """Clips [B, F, H, W, 3] uint8, all of the same times."""

    truth: np.ndarray
    predicted: np.ndarray
    last: np.ndarray
    coded: np.ndarray

    @classmethod
    def stacked(cls, parts: Iterable["Shown"]) -> "Shown":
        """All of them behind each other."""
        return cls(*(np.concatenate(each) for each in zip(*(astuple(part) for part in parts), strict=True)))


def _shown(
    policy: "UVA",
    pictures: Windows,
    latents: Windows,
    end: int,
    given: str,
    rounds: int,
    generator: "Generator",
) -> Iterator[Shown]:
    """The clips of one episode, one after the other, as far as it has frames for whole ones."""
    camera, config = policy.spec.cameras[0].name, policy.config
    frames = pictures.frames[camera]
    begin = int(np.searchsorted(latents.ends, end))
    anchors = np.arange(begin, max(end - config.pred_horizon, begin + 1), config.pred_horizon)
    for start in range(0, len(anchors), AT_ONCE):
        batch, later = policy.shown(latents, anchors[start : start + AT_ONCE])
        made = policy.model.video_of(batch, generator, given, rounds=rounds)
        truth = np.asarray(frames[later.ravel()]).reshape(*later.shape, *frames.shape[1:])
        last = np.asarray(frames[anchors[start : start + AT_ONCE]])
        coded = policy.model.latents(batch[f"future.image.{camera}"])
        yield Shown(
            truth,
            policy.autoencoder.pictures(made),
            np.repeat(last[:, None], config.frames, axis=1),
            policy.autoencoder.pictures(coded),
        )


class Judge:
    """PSNR and SSIM of each frame, and the Fréchet distance of clips, by torchmetrics.

    The distance is between normal distributions fitted to features of true and of made clips, as in FVD (Unterthiner et
    al. 2018); the features are not I3D's but the latents of the policy's own autoencoder, pooled to 2 x 2
    places, of all frames of a clip side by side. So it compares models of one autoencoder, not with published figures.
    """

    def __init__(self, autoencoder: "Autoencoder", *, frames: int) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        from policies.uva.latents import ClipFeatures

        features = ClipFeatures(autoencoder, frames=frames)
        self._distance = {who: FrechetInceptionDistance(features) for who in WHO}
        self._frames: dict[str, list[tuple[float, float]]] = {who: [] for who in WHO}
        self.clips = 0

    def see(self, shown: Shown) -> None:
        """Take these clips into account."""
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        truth = _frames(shown.truth)
        self.clips += len(shown.truth)
        for who, clips in zip(WHO, (shown.predicted, shown.last, shown.coded), strict=True):
            made, sizes = _frames(clips), {"data_range": 1.0, "reduction": "none"}
            near = peak_signal_noise_ratio(made, truth, dim=(1, 2, 3), **sizes)
            like = structural_similarity_index_measure(made, truth, **sizes)
            self._frames[who] += zip(near.tolist(), like.tolist(), strict=True)
            self._distance[who].update(_tall(shown.truth), real=True)
            self._distance[who].update(_tall(clips), real=False)

    def found(self) -> dict[str, dict[str, float]]:
        """Who → its figures."""
        return {
            who: {
                "psnr_db": float(np.mean([min(near, 100.0) for near, _ in frames])),
                "ssim": float(np.mean([like for _, like in frames])),
                "frechet": float(self._distance[who].compute()) if self.clips > 1 else float("nan"),
                "clips": self.clips,
            }
            for who, frames in self._frames.items()
        }


def _frames(clips: np.ndarray) -> "Tensor":
    """[B, F, H, W, 3] uint8 → [B F, 3, H, W] in 0…1."""
    import torch

    return torch.from_numpy(clips).flatten(0, 1).permute(0, 3, 1, 2).float() / 255


def _tall(clips: np.ndarray) -> "Tensor":
    """[B, F, H, W, 3] → [B, 3, F H, W]: what torchmetrics takes for pictures."""
    import torch

    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).flatten(2, 3)


def _show(found: Mapping[str, Mapping[str, float]]) -> None:
    table = Table(title=f"{next(iter(found.values()))['clips']} clips")
    for column in ("", "PSNR [dB]", "SSIM", "Fréchet distance"):
        table.add_column(column)
    for who, one in found.items():
        table.add_row(who, f"{one['psnr_db']:.2f}", f"{one['ssim']:.3f}", f"{one['frechet']:.2f}")
    Console().print(table)
