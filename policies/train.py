"""``vla train``: from a dataset to a checkpoint. Read `run` like a table of contents."""

import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from policies.policy import policy_class
from policies.provenance import read_provenance, write_provenance
from vla.config import build, help_text, load, wants_help
from vla.data.corpus import Corpus
from vla.data.lerobot import Dataset, DatasetSpec, open_dataset
from vla.data.mixture import MixtureSampler
from vla.data.windows import EpochSampler, Later, Windows, load_windows
from vla.errors import UnderstudyError

if TYPE_CHECKING:
    from vla.training.trainer import Batch, TrainerConfig

logger = logging.getLogger(__name__)

PRETRAINED = (
    *("backbone.tower.representation.", "backbone.vlm."),
    *("phi.eyes.representation.", "gripper.eyes.representation."),
)
"""Of the parameters, those that were trained before."""
EXAMPLE = "vla train policy=cogact preset=cpu data=outputs/collect out=outputs/train"


@dataclass
class TrainConfig:
    """What to train, on what, how."""

    data: Path
    """folder of a dataset in LeRobot's v3 format"""
    mix: tuple[Path, ...] = ()
    """further datasets that share every batch: of other embodiments, with other cameras and actions, or of the same"""
    mix_weights: tuple[float, ...] = ()
    """how often each is drawn, ``data`` first, e.g. [3,1]; empty: as often as it has frames"""
    videos: tuple[Path, ...] = ()
    """folders of action-free videos of people or robots that it learns from besides (policy=uva), or that show it its
    tasks (policy=vid2robot); captions are read as ``vla pretrain`` reads them"""
    video_share: float = 0.5
    """of the batches, how many are of ``videos`` (policy=uva)"""
    policy: dict[str, Any] = field(default_factory=dict)
    """``name`` and the settings of that family's dataclass"""
    trainer: dict[str, Any] = field(default_factory=dict)
    """settings of `vla.training.trainer.TrainerConfig`"""
    out: Path = Path("outputs/train")
    """where the checkpoint goes"""
    start_from: Path | None = None
    """a checkpoint whose backbone to begin with; none: random weights"""
    backbone_lr: float = 0.1
    """learning rate, in parts of that of the rest, of the backbone taken over by ``start_from``; without it, of a
    representation or a vision-language model that is not frozen"""
    resume: bool = False
    """go on where a stopped run in ``out`` was, with as many processes as before or with others"""
    launch: Literal["here", "ddp", "fsdp"] = "here"
    """``ddp``: start ``processes`` copies of this command, which train one model together (the launcher's own command
    is printed); a step then takes ``processes * nodes`` batches. ``fsdp``: the same, for a model that is too large for
    one GPU: each holds its part of weights, average and moments"""
    processes: int = 0
    """on this machine; 0: one for each GPU, or two without any"""
    nodes: int = 1
    """machines; give each the same command but for ``node``"""
    node: int = 0
    """which of them this is"""
    meet: str = "127.0.0.1:29500"
    """address and port of machine 0, where all meet"""
    holdout: int = 0
    """last episodes of the dataset that are not trained on"""
    features: Path | None = None
    """folder for the features of a frozen `policy.vlm`: made when it is not there, used instead of the model when it
    is, refused when it was made from something else"""
    shift: int = 0
    """augmentation: images move by up to so many pixels (at 64 px; in proportion at other sizes); of little use to
    cameras that stand still, where a pixel is a place"""


def main(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = "Train a policy on a dataset; stop it with Ctrl-C and go on with resume=true."
        sys.stdout.write(help_text(TrainConfig, verb="train", about=about, example=EXAMPLE, name="train"))
        return 0
    config = load(TrainConfig, "train", argv)
    if config.launch != "here" and not is_launched():
        command = launcher(config, argv)
        logger.info("%s", shlex.join(command))
        return subprocess.call(command, env=os.environ | on_this_device())
    run(config, command=shlex.join(["vla", "train", *argv]))
    return 0


def is_launched() -> bool:
    """Whether this process is one of several that train together."""
    return "LOCAL_RANK" in os.environ


def on_this_device() -> dict[str, str]:
    """What accelerate has to be told where there is no GPU: that processes without one belong together all the same."""
    import torch

    return {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}


def launcher(config: TrainConfig, argv: list[str]) -> list[str]:
    """The command that starts all processes of this machine; torchrun, which restarts none of them."""
    import torch

    processes = config.processes or torch.cuda.device_count() or 2
    address = ["--standalone"]
    if config.nodes > 1:
        host, _, port = config.meet.rpartition(":")
        address = [f"--nnodes={config.nodes}", f"--node-rank={config.node}"]
        address += [f"--master-addr={host}", f"--master-port={port}"]
    run_all = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *address]
    return [*run_all, "-m", "vla", "train", *argv]


def run(config: TrainConfig, *, command: str = "") -> Path:
    """Train, and return the folder of the checkpoint; ``command``: what is written there as its origin."""
    from vla.training.trainer import train

    family, policy_config, trainer = checked(config.policy, config.trainer)
    trainer = replace(trainer, sharded=trainer.sharded or config.launch == "fsdp")
    dataset = open_dataset(config.data)
    windows = training_windows(dataset, policy_config, holdout=config.holdout)
    features = kept_features(config, policy_config, dataset, windows)
    others = [mixed_in(open_dataset(path), policy_config) for path in config.mix]
    films = opened_films(config, family, policy_config, dataset.spec)
    seed_everything(trainer.seed)
    policy = family.create(policy_config, dataset.spec, windows, features=features, others=others, films=films)
    if config.start_from is not None:
        policy.start_from(config.start_from)
    logger.info(
        "%d episodes, %d frames, %.2f M parameters",
        sum(len(np.unique(part.ends[part.samples])) for part in (windows, *(other for _, other in others))),
        sum(map(len, (windows, *(other for _, other in others)))),
        sum(parameter.numel() for parameter in policy.model.parameters()) / 1e6,
    )
    windows = policy.prepared(windows, dataset.hash())
    film_samples = None if films is None else policy.film_samples(films)
    parts = [(dataset.spec.embodiment, windows), *((spec.embodiment, other) for spec, other in others)]
    batches: Any = (
        MixedBatches(policy, parts, config.mix_weights, trainer, shift=config.shift)
        if others
        else TrainingBatches(policy, windows, trainer, shift=config.shift, features=features)
    )
    if film_samples is not None:
        filmed = TrainingBatches(policy, film_samples, trainer, shift=0)
        batches = WithFilms(batches, filmed, config.video_share, trainer.seed)

    began = perf_counter() - (read_provenance(config.out).get("train_s", 0.0) if config.resume else 0.0)

    def save() -> None:
        policy.save(config.out)
        spent = {"train_s": perf_counter() - began, "command": command}
        write_provenance(config, dataset, representation=policy.representation, **spent)

    def lr_scale(name: str) -> float:
        taken_over = name.startswith(PRETRAINED) and not ("lora_" in name or name.endswith(".cognition"))
        if config.start_from is not None:
            taken_over = name.startswith("backbone.")
        return config.backbone_lr if taken_over else 1.0

    train(policy.model, batches, trainer, config.out, resume=config.resume, lr_scale=lr_scale, on_save=save)
    logger.info("checkpoint in %s", config.out)
    return config.out


def checked(policy: dict[str, Any], trainer: dict[str, Any]) -> tuple[Any, Any, "TrainerConfig"]:
    """The policy's class, its settings and the trainer's; raises `UnderstudyError` for a key that does not exist."""
    from vla.training.trainer import TrainerConfig

    family = policy_class(policy.get("name", "cogact"))
    settings = {key: value for key, value in policy.items() if key != "name"}
    return family, build(family.config_class, settings, where="policy"), build(TrainerConfig, trainer, where="trainer")


def training_windows(dataset: Dataset, policy_config: Any, *, holdout: int) -> Windows:
    """The dataset's samples for a policy, without its last ``holdout`` episodes."""
    kept = len(dataset.episodes) - holdout
    if kept < 1:
        raise UnderstudyError(f"holdout={holdout} leaves no episode of the {len(dataset.episodes)} in {dataset.root}")
    return load_windows(
        dataset,
        pred_horizon=policy_config.pred_horizon,
        image_size=policy_config.image_size,
        cameras=policy_config.cameras,
        episodes=range(kept),
    )


def mixed_in(dataset: Dataset, policy_config: Any) -> tuple[DatasetSpec, Windows]:
    """A dataset that others are trained on with, through those of the policy's cameras that it has; none held out."""
    named = [camera.name for camera in dataset.spec.cameras]
    cameras = tuple(name for name in policy_config.cameras if name in named)
    if policy_config.cameras and not cameras:
        raise UnderstudyError(
            f"{dataset.root} has none of the cameras that policy.cameras names ({', '.join(policy_config.cameras)}); "
            f"it has {', '.join(named)}"
        )
    return dataset.spec, training_windows(dataset, replace(policy_config, cameras=cameras), holdout=0)


def opened_films(config: TrainConfig, family: Any, policy_config: Any, spec: DatasetSpec) -> Corpus | None:
    """The action-free films, for a family that learns from them."""
    if not config.videos:
        return None
    if not hasattr(family, "films"):
        raise UnderstudyError(f"{family.family} learns nothing from videos; policy=uva and policy=vid2robot do")
    if not 0 < config.video_share < 1:
        raise UnderstudyError(f"video_share must be between 0 and 1, got {config.video_share}")
    return family.films(policy_config, config.videos, spec)


def kept_features(config: TrainConfig, policy_config: Any, dataset: Dataset, windows: Windows) -> np.ndarray | None:
    """The features [frames, D] that ``config.features`` holds, after they were made if need be."""
    if config.features is None:
        return None
    from vla.backbones.feature_cache import features_of, key_of
    from vla.backbones.hub import HubVLM, Source

    vlm = policy_config.vlm
    if vlm is None or config.shift or config.mix:
        raise UnderstudyError(
            "features=… wants a policy.vlm, shift=0 and one dataset: what is kept is of pictures that do not move"
        )
    about = Source.read(vlm, with_model=False).about
    key = key_of(vlm, about, windows, data=dataset.hash())
    cameras = tuple(windows.frames)
    return features_of(
        config.features, key, windows, lambda: HubVLM(vlm, Source.read(vlm), cameras=cameras, proprio_dim=1)
    )


def seed_everything(seed: int) -> None:
    """The seed of the first weights."""
    import torch

    torch.manual_seed(seed)


class TrainingBatches:
    """Batch *n* of a run: a pure function of the seed and *n*, augmentation included."""

    def __init__(
        self,
        policy: Any,
        windows: Windows,
        trainer: "TrainerConfig",
        *,
        shift: int,
        features: np.ndarray | None = None,
    ) -> None:
        """``features`` [frames, D]: what stands for the pictures and the words."""
        self._policy, self._seed, self._features = policy, trainer.seed, features
        self._windows = windows if features is None else replace(windows, frames={})
        self._sampler = EpochSampler(len(windows), batch_size=trainer.batch_size, seed=trainer.seed)
        frames = next(iter(windows.frames.values()))
        if shift and frames.dtype != np.uint8:
            raise UnderstudyError("shift=… moves pictures, and this policy learns from latents: give shift=0")
        self._shift = round(shift * frames.shape[1] / 64)

    def __call__(self, number: int) -> "Batch":
        """Tensors for the model."""
        return self.of(self._windows.samples[self._sampler.indices(number)], number)

    def of(self, frames: np.ndarray, number: int) -> "Batch":
        """The samples from ``frames`` [B] on, as they are in batch ``number``."""
        rng = np.random.default_rng([0xA06, self._seed, number])
        shift = rng.integers(-self._shift, self._shift + 1, (len(frames), 2)) if self._shift else None
        batch = self._policy.training_batch(self._windows.gather(frames, shift))
        if self._features is not None:
            import torch

            del batch["text"]
            batch["features"] = torch.from_numpy(self._features[frames])
        for name, more in self._policy.later(self._windows, frames, rng).items():
            if isinstance(more, Later):
                batch |= {f"{name}.{key}": value for key, value in self._seen(more, shift).items()}
            else:
                batch[name] = more
        return batch

    def _seen(self, later: Later, shift: np.ndarray | None) -> "Batch":
        """What is seen ``later``, [B, K, …] each; pictures are shifted like those of their sample."""
        import torch

        frames = later.frames.ravel()
        windows = self._windows if later.pictures else replace(self._windows, frames={})
        if shift is not None:
            shift = shift.repeat(later.frames.shape[1], axis=0)
        batch = windows.gather(frames, shift)
        seen = self._policy.inputs(batch.images, batch.proprio)
        if self._features is not None and later.pictures:
            seen["features"] = torch.from_numpy(self._features[frames])
        seen = {key: value.unflatten(0, later.frames.shape) for key, value in seen.items()}
        return {**seen, "mask": torch.from_numpy(later.mask)}


class MixedBatches:
    """Batch *n* of a run on several datasets: a pure function of the seed and *n*."""

    def __init__(
        self,
        policy: Any,
        parts: Sequence[tuple[str, Windows]],
        weights: Sequence[float],
        trainer: "TrainerConfig",
        *,
        shift: int,
    ) -> None:
        """``parts``: the embodiment and the samples of each dataset."""
        self._tokenize = policy.tokenize
        self._parts = [TrainingBatches(policy.driving(name), windows, trainer, shift=shift) for name, windows in parts]
        self._windows = [windows for _, windows in parts]
        self._sampler = MixtureSampler(self._windows, weights, batch_size=trainer.batch_size, seed=trainer.seed)

    def __call__(self, number: int) -> "Batch":
        """Tensors for the model, the samples of each dataset after those of the one before."""
        import torch

        drawn = [
            (part, windows, frames)
            for part, windows, frames in zip(self._parts, self._windows, self._sampler.indices(number), strict=True)
            if len(frames)
        ]
        made = [part.of(frames, number) for part, _, frames in drawn]
        joined = {key: torch.cat([batch[key] for batch in made]) for key in made[0] if key != "text"}
        told = [windows.instructions[n] for _, windows, frames in drawn for n in windows.instruction_of[frames]]
        return {**joined, "text": self._tokenize(told)}


class WithFilms:
    """Batch *n* of robots, or as often as ``share`` says of films: a pure function of the seed and *n*."""

    def __init__(
        self, robots: "Callable[[int], Batch]", films: "Callable[[int], Batch]", share: float, seed: int
    ) -> None:
        self._robots, self._films, self._share, self._seed = robots, films, share, seed

    def __call__(self, number: int) -> "Batch":
        """Tensors for the model."""
        chance = np.random.default_rng([0xF11, self._seed, number]).random()
        return (self._films if chance < self._share else self._robots)(number)
