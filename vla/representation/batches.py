"""Batches to learn a representation from: which videos, which of their frames, which words.

Batch *n* is a pure function of the corpus, the seed and *n*. Families see frames of the same data-locked index, in the
same order of videos under all seeds (but for TCC, whose batches are of one caption); those that augment do it after
that, by the seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vla.data.corpus import Corpus
from vla.data.frame_index import FrameIndex
from vla.representation.families import family
from vla.representation.load import Representation

SMALLEST_CROP = 0.8
"""Side of the smallest crop, in parts of the picture: R3M crops to a fifth of the area, which on a table-top leaves no
hand in view."""
JITTER = 0.2
"""Largest change of the colours' gains."""


class PretrainBatches:
    """What one family sees of ``clips``, the numbers of the training videos in ``corpus``.

    ``joints``: for families that need labels, keypoints [rows of the corpus, J, 2] in its pixels.
    """

    def __init__(
        self,
        representation: Representation,
        corpus: Corpus,
        *,
        index: FrameIndex,
        clips: np.ndarray,
        batch_size: int,
        seed: int,
        joints: np.ndarray | None = None,
    ) -> None:
        self._family, self._config = family(representation.name), representation.config
        self._corpus, self._index, self._clips, self._joints = corpus, index, clips, joints
        names = [corpus.names[clip] for clip in clips]
        self._order = FrameIndex(names, corpus.lengths[clips], seed=index.seed)  # of these clips alone; draws are alike
        self._kinds = kinds_of([corpus.captions[clip] for clip in clips])
        self._batch_size, self._seed = batch_size, seed
        self._text = _token_table(representation, corpus.captions) if self._family.reads else None

    def __call__(self, number: int) -> dict[str, Tensor]:
        """Batch ``number``: ``images`` [B, F, H, W, 3] and what else the family asks for."""
        if self._family.alike:
            clips = self._one_kind(number)
            epochs = np.full(len(clips), number)  # other frames of a video each time it comes
        else:
            clips, epochs = self._order.order(number, self._batch_size)
        return self.of(self._clips[clips], epochs, crops=number if self._family.crops else None)

    def _one_kind(self, number: int) -> np.ndarray:
        """Videos of one caption, which is that of the next video in the order that is not alone with its own."""
        rng = np.random.default_rng([0xA11E, number])
        return rng.permutation(self._kinds[int(self._order.order(number, 1)[0][0]) % len(self._kinds)])[
            : self._batch_size
        ]

    def of(self, clips: np.ndarray, epochs: np.ndarray, *, crops: int | None = None) -> dict[str, Tensor]:
        """The frames of ``clips`` [B] in ``epochs`` [B]; ``crops``: the number that decides the augmentation."""
        drawn = self._family.draw(self._index, clips, epochs, self._config)
        rows = self._corpus.starts[clips][:, None] + drawn.frames
        images = self._corpus.frames(rows)
        if crops is not None:
            images = augmented(images, np.random.default_rng([0xC209, self._seed, crops]))
        batch = {"images": torch.from_numpy(images)}
        batch |= {name: torch.from_numpy(value) for name, value in drawn.extra.items()}
        if self._text is not None:
            text = self._text[torch.from_numpy(clips)]
            batch["text"] = text[:, : int((text != self._text[0, -1]).sum(1).max())]
        if self._joints is not None:
            batch["joints"] = torch.from_numpy(self._joints[rows[:, 0]])
        return batch


def kinds_of(captions: Sequence[str]) -> list[np.ndarray]:
    """The places of those that share a caption, for every caption that two share; all in one when none does."""
    found: dict[str, list[int]] = {}
    for place, caption in enumerate(captions):
        found.setdefault(caption, []).append(place)
    return [np.array(places) for places in found.values() if len(places) > 1] or [np.arange(len(captions))]


def _token_table(representation: Representation, captions: Sequence[str]) -> Tensor:
    """Ids [K, L] of all captions, the last column padding throughout; only ever read."""
    table = representation.captions.tokenize(captions)
    return torch.nn.functional.pad(table, (0, 1), value=representation.captions.pad)


def augmented(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Videos [B, F, H, W, 3], each cropped and coloured anew, all frames of one alike (R3M's ``rctraj``)."""
    videos, frames, size, _, _ = images.shape
    out = np.empty_like(images)
    side = np.round(size * rng.uniform(SMALLEST_CROP, 1, videos)).astype(int)
    top, left = (np.floor(rng.random(videos) * (size - side + 1)).astype(int) for _ in range(2))
    gain = rng.uniform(1 - JITTER, 1 + JITTER, (videos, 1, 1, 1, 3)).astype(np.float32)
    for video in range(videos):
        rows, columns = slice(top[video], top[video] + side[video]), slice(left[video], left[video] + side[video])
        for frame in range(frames):
            crop = images[video, frame, rows, columns]
            cv2.resize(crop, (size, size), dst=out[video, frame], interpolation=cv2.INTER_LINEAR)
    return np.minimum(out * gain, 255).astype(np.uint8)


def on_device(batch: Mapping[str, Tensor], device: Any) -> dict[str, Tensor]:
    """The batch where the model is."""
    return {name: value.to(device) for name, value in batch.items()}
