"""``vla pretrain``: from a folder of people's videos to a representation. Read `run` like a table of contents."""

import json
import logging
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla.config import CONFIGS, build, help_text, load, wants_help
from vla.errors import UnderstudyError

if TYPE_CHECKING:
    from vla.data.corpus import Corpus
    from vla.data.frame_index import FrameIndex
    from vla.representation.batches import PretrainBatches
    from vla.representation.load import Representation

logger = logging.getLogger(__name__)

EXAMPLE = "vla pretrain representation=voltron_cond preset=cpu data=outputs/sim-human out=outputs/pretrain"
VALIDATION = "validation.json"
INDEX_SEED = 21
"""The frames that every representation sees of every corpus; not a setting, so that checkpoints can be compared."""


@dataclass
class PretrainConfig:
    """What to learn from, and how."""

    data: tuple[Path, ...]
    """folders of videos; several are joined"""
    representation: dict[str, Any] = field(default_factory=dict)
    """``name`` and the settings of that family's dataclass"""
    trainer: dict[str, Any] = field(default_factory=dict)
    """settings of `vla.training.trainer.TrainerConfig`; batch_size counts videos, of which some families see several
    frames at once"""
    out: Path = Path("outputs/pretrain")
    """where the checkpoint goes"""
    layout: str = "auto"
    """how the folders are laid out: folder, something_something_v2, ego4d, epic_kitchens_100, h2o, frame_folders,
    lerobot_v3"""
    fps: float = 10.0
    """frames a second that are kept of a video; a slower one keeps its own"""
    max_frames: int = 64
    """most frames kept of one video"""
    allow_missing: bool = False
    """go on without the videos that the annotations name and the disk lacks"""
    holdout: int = 100
    """videos kept for validation, at most a tenth"""
    resume: bool = False
    """go on where a stopped run in ``out`` was"""


def main(argv: list[str]) -> int:
    """The command."""
    folder = CONFIGS / "pretrain"
    if wants_help(argv):
        about = "Learn to see from captioned video; stop it with Ctrl-C and go on with resume=true."
        text = help_text(
            PretrainConfig, verb="pretrain", about=about, example=EXAMPLE, name="pretrain", config_dir=folder
        )
        sys.stdout.write(text)
        return 0
    run(load(PretrainConfig, "pretrain", argv, config_dir=folder))
    return 0


def run(config: PretrainConfig) -> Path:
    """Learn, and return the folder of the checkpoint."""
    import torch

    from vla.representation.families import parameters
    from vla.training.trainer import TrainerConfig, train

    name, settings = _chosen(config)
    trainer = build(TrainerConfig, config.trainer, where="trainer")
    corpus = _corpus(config, settings)
    index = index_of(corpus)
    kept, held = split(index, holdout=config.holdout)
    torch.manual_seed(trainer.seed)
    representation = _create(name, settings, corpus)
    logger.info(
        "%s (%s): %.2f M parameters, %d videos, %d frames, index %s",
        name,
        _family(name).about,
        parameters(representation.model) / 1e6,
        len(kept),
        int(corpus.lengths[kept].sum()),
        index.stamp,
    )
    joints = _joints(config, corpus) if _family(name).labels else None
    batches = _batches(representation, corpus, index, kept, trainer, joints)
    if _family(name).begins:
        representation.model.begin(batches)

    def save() -> None:
        representation.save(config.out)
        _write_provenance(config, corpus, index)
        _validate(representation, batches, held, config.out)

    train(representation.model, batches, trainer, config.out, resume=config.resume, on_save=save)
    logger.info("representation in %s", config.out)
    return config.out


def index_of(corpus: "Corpus") -> "FrameIndex":
    """The data-locked index of a corpus."""
    from vla.data.frame_index import FrameIndex

    return FrameIndex(corpus.names, corpus.lengths, seed=INDEX_SEED)


def split(index: "FrameIndex", *, holdout: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the videos to learn from and of those to validate on, decided by their names."""
    clips = np.arange(len(index.lengths))
    order = np.argsort(index.draw(clips, np.zeros_like(clips), 0), kind="stable")
    held = min(holdout, len(clips) // 10)
    held = held if held > 1 else 0  # one alone has no other video to be told from
    return np.sort(order[held:]), np.sort(order[:held])


def _family(name: str):  # noqa: ANN202 a Family
    from vla.representation.families import family

    return family(name)


def _chosen(config: PretrainConfig) -> tuple[str, dict[str, Any]]:
    """The family's name and its settings, which are checked before anything is decoded."""
    settings = {key: value for key, value in config.representation.items() if key != "name"}
    name = config.representation.get("name", "voltron_cond")
    build(_family(name).config, settings, where="representation")
    return name, settings


def _corpus(config: PretrainConfig, settings: dict[str, Any]) -> "Corpus":
    from vla.data.corpus import open_corpus
    from vla.representation.encoder import EncoderConfig

    encoder = build(EncoderConfig, settings.get("encoder", {}), where="representation.encoder")
    return open_corpus(
        config.data,
        image_size=encoder.image_size,
        layout=config.layout,
        fps=config.fps,
        max_frames=config.max_frames,
        allow_missing=config.allow_missing,
    )


def _create(name: str, settings: dict[str, Any], corpus: "Corpus") -> "Representation":
    from vla.representation.load import Representation

    if _family(name).reads and not any(corpus.captions):
        raise UnderstudyError(f"{name} learns from captions and no video has one; use representation=mvp, vip, tcc, …")
    return Representation.create(name, settings, corpus.captions)


def _batches(
    representation: "Representation",
    corpus: "Corpus",
    index: "FrameIndex",
    clips: np.ndarray,
    trainer: Any,
    joints: np.ndarray | None,
) -> "PretrainBatches":
    from vla.representation.batches import PretrainBatches

    return PretrainBatches(
        representation,
        corpus,
        index=index,
        clips=clips,
        batch_size=trainer.batch_size,
        seed=trainer.seed,
        joints=joints,
    )


def _validate(representation: "Representation", batches: "PretrainBatches", held: np.ndarray, out: Path) -> None:
    """``validation.json``: every part of the loss on the held-out videos, and what the best blind guess would have."""
    import torch

    from vla.representation.batches import on_device
    from vla.representation.objectives import unigram_nll

    if len(held) < 2:
        return
    training = representation.model.training
    representation.model.eval()
    batch = on_device(batches.of(held, np.zeros_like(held)), representation.device)
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        found = {name: float(value) for name, value in representation.model.losses(batch).items()}
    representation.model.train(training)
    if representation.captions is not None:
        captions = representation.captions
        blind = unigram_nll(batch["text"], captions.mask(batch["text"]), pad=captions.pad)
        found["caption by frequencies of words"] = float(blind.mean())
    (out / VALIDATION).write_text(json.dumps({"videos": len(held), **found}, indent=2) + "\n")


def _write_provenance(config: PretrainConfig, corpus: "Corpus", index: "FrameIndex") -> None:
    plain = {
        "data": {"path": [str(path) for path in config.data], "hash": corpus.hash, "videos": len(corpus.names)},
        "skipped": len(corpus.skipped),
        "index": index.stamp,
        "holdout": config.holdout,
        "settings": {"representation": config.representation, "trainer": config.trainer},
        "packages": {name: version(name) for name in ("torch", "transformers", "numpy")},
    }
    (config.out / "provenance.json").write_text(json.dumps(plain, indent=2, default=str))


def _joints(config: PretrainConfig, corpus: "Corpus") -> np.ndarray:
    """Keypoints [frames of the corpus, J, 2] in its pixels, from the labels beside simulated films."""
    from vla.data.privileged import labels_of

    if len(config.data) != 1:
        raise UnderstudyError("a family that learns from keypoints takes one folder of films, made by vla human")
    rows = []
    for name, length in zip(corpus.names, corpus.lengths, strict=True):
        labels = labels_of(config.data[0], Path(name).stem)
        points, size = labels["keypoints_2d"], 2 * float(labels["camera_matrix"][0, 2])
        if len(points) != length:
            raise UnderstudyError(f"{name}: {len(points)} labels for {length} frames; give fps=10 and max_frames=200")
        rows.append(points * (corpus.image_size / size))
    return np.concatenate(rows).astype(np.float32)
