"""Whose eyes are measured: a checkpoint, its architecture before any training, or the pixels themselves.

All give tokens [B, N, D] for heads that pool by attention, and vectors [B, E] for what is read off without training.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vla.backbones.small import grid_positions
from vla.data.frames import fit_image
from vla.errors import UnderstudyError
from vla.representation import load
from vla.representation.encoder import patchify
from vla.representation.load import Representation
from vla.training.precision import bf16_if_fast

CHUNK = 32
"""Pictures at a time: what the layers hand on stays in a core's cache."""


class Subject(Protocol):
    """What a probe asks of eyes. ``key`` names them in the results: equal keys, equal features."""

    name: str
    key: str

    def tokens(self, images: np.ndarray, text: Sequence[str] | None = None) -> Tensor:
        """[B, H, W, 3] uint8 → [B, N, D] float16; ``text``: a caption each, for eyes that read."""
        ...

    def vectors(self, images: np.ndarray) -> np.ndarray:
        """[B, H, W, 3] uint8 → [B, E] float32, one vector for each picture."""
        ...

    @property
    def reads(self) -> bool:
        """Whether words change what is seen."""
        ...


def places(tokens: int) -> Tensor:
    """A sine of each patch's place, [N, 32] float16."""
    return grid_positions(round(tokens**0.5), 32).half()


class Pixels:
    """The picture itself: patches of raw colours with their places, and all pixels as one vector."""

    reads = False

    def __init__(self, image_size: int = 64, patch_size: int = 8) -> None:
        self.name, self.key, self.image_size = "raw pixels", f"pixels-{image_size}-{patch_size}", image_size
        self._patch = patch_size

    def tokens(self, images: np.ndarray, text: Sequence[str] | None = None) -> Tensor:
        """Each patch's colours in 0…1 and a sine of its place."""
        patches = patchify(torch.from_numpy(fitted(images, self.image_size)), self._patch).float() / 255
        return torch.cat([patches, places(patches.shape[1]).expand(len(patches), -1, -1)], -1).half()

    def vectors(self, images: np.ndarray) -> np.ndarray:
        """All colours, shrunk to 32 pixels a side."""
        return fitted(images, 32).reshape(len(images), -1).astype(np.float32) / 255


class Learned:
    """A `Representation`, trained or not."""

    def __init__(self, representation: Representation, *, name: str, key: str) -> None:
        self.representation, self.name, self.key = representation, name, key
        self.image_size = representation.image_size

    @property
    def reads(self) -> bool:
        """Whether the encoder is conditioned on words; R3M's and SigLIP's are beside it."""
        return self.representation.reads

    @property
    def scores_captions(self) -> bool:
        """Whether it can say how well a caption tells what happens."""
        return hasattr(self.representation.model, "score")

    def tokens(self, images: np.ndarray, text: Sequence[str] | None = None) -> Tensor:
        """Patches' tokens; with ``text``, those of the words behind them."""
        given = text if self.reads else None
        mode = "multimodal" if given is not None else "visual"
        with bf16_if_fast(self.representation.device):
            parts = [
                self.representation.encode(
                    images[start : start + CHUNK], None if given is None else given[start : start + CHUNK], mode=mode
                )
                for start in range(0, len(images), CHUNK)
            ]
        longest = max(part.shape[1] for part in parts)  # batches may differ in their longest caption
        found = torch.cat([torch.nn.functional.pad(p, (0, 0, 0, longest - p.shape[1])) for p in parts]).half().cpu()
        if self.representation.config.encoder.kind == "vit":
            return found
        # a convolution does not know where it is, and a head that pools by attention would never learn it
        return torch.cat([found, places(found.shape[1]).expand(len(found), -1, -1)], -1)

    def vectors(self, images: np.ndarray) -> np.ndarray:
        """What the family's own loss compares."""
        with bf16_if_fast(self.representation.device):
            parts = [self.representation.embed(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
        return torch.cat(parts).cpu().numpy()


def fitted(images: np.ndarray, size: int) -> np.ndarray:
    """[B, H, W, 3] at ``size`` pixels a side."""
    return images if images.shape[1:3] == (size, size) else np.stack([fit_image(image, size) for image in images])


def subject(path: str) -> Subject:
    """From a checkpoint's folder, ``random:FOLDER`` (its architecture with fresh weights) or ``pixels``."""
    if path == "pixels":
        return Pixels()
    fresh, _, folder = path.rpartition(":")
    if fresh not in ("", "random"):
        raise UnderstudyError(f"a subject is a checkpoint's folder, random:FOLDER or pixels, got {path!r}")
    representation = load.load(folder)
    if not fresh:
        key = f"{representation.name}-{_digest(representation)}"
        return Learned(representation, name=Path(folder).name, key=key)
    return untrained(representation)


def _digest(representation: Representation) -> str:
    """Of all that decides the features: settings, vocabulary and weights."""
    told = hashlib.sha256(repr((representation.name, representation.config)).encode())
    if representation.captions is not None:
        told.update(representation.captions.tokenizer.to_str().encode())
    for name, tensor in representation.model.state_dict().items():
        told.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return told.hexdigest()[:12]


def untrained(representation: Representation, *, seed: int = 0) -> Learned:
    """The same architecture, drawn anew."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = representation.untrained()
    fresh.model.eval()
    kind = representation.config.encoder.kind
    return Learned(fresh, name=f"random init ({representation.name}, {kind})", key=f"random-{_digest(fresh)}")


def caption_scores(eyes: Subject, first: np.ndarray, later: np.ndarray, captions: Sequence[str]) -> np.ndarray | None:
    """How well each of K captions tells what happens from ``first`` to ``later`` [B, H, W, 3]: [B, K], or ``None``.

    V-Gen's likelihood, R3M's progress score, SigLIP's logit; the other families have no such score.
    """
    if not isinstance(eyes, Learned) or not eyes.scores_captions:
        return None
    made = eyes.representation
    text = made.captions.tokenize(captions).to(made.device)
    pairs = np.stack([first, later], axis=1)
    with torch.inference_mode(), bf16_if_fast(made.device):
        parts = [
            made.model.score(made.prepare(pairs[start : start + CHUNK]), text) for start in range(0, len(pairs), CHUNK)
        ]
    return torch.cat(parts).float().cpu().numpy()


def clip_vectors(eyes: Subject, first: np.ndarray, later: np.ndarray) -> np.ndarray | None:
    """What a family that compares clips compares, of first and later frames [B, H, W, 3]: [B, E]; SigLIP has it."""
    if not isinstance(eyes, Learned) or not hasattr(eyes.representation.model, "embed_video"):
        return None
    made = eyes.representation
    pairs = np.stack([first, later], axis=1)
    with torch.inference_mode(), bf16_if_fast(made.device):
        parts = [
            made.model.embed_video(made.prepare(pairs[start : start + CHUNK])) for start in range(0, len(pairs), CHUNK)
        ]
    return torch.cat(parts).float().cpu().numpy()
