"""The hands in a video, frame by frame, as a tracker sees them: what all that follows starts from.

    stamps  0.000   0.033   0.067   …      one for each frame of the video [s]
    left      –       –       –            NaN where there is no such hand: a gap
    right   21 kp   21 kp     –

``left`` and ``right`` are the person's own. Keypoints are in the order of MediaPipe and of MANO's usual 21: the wrist,
then thumb, index, middle, ring and little finger from the root to the tip. Pixels are OpenCV's: (0, 0) is the *middle*
of the first one, x to the right, y down, in the upright picture.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vla.errors import UnderstudyError, unknown

Floats = NDArray[np.float64]
Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = get_args(Side)
KEYPOINTS = 21
WRIST, THUMB_ROOT, THUMB_TIP, INDEX_ROOT, INDEX_TIP, MIDDLE_ROOT, LITTLE_ROOT = 0, 1, 4, 5, 8, 9, 17
BONES = tuple(
    (WRIST if joint == root else joint - 1, joint) for root in (1, 5, 9, 13, 17) for joint in range(root, root + 4)
)
"""Pairs of keypoints with a bone between them."""
FORMAT = 1


@dataclass(frozen=True)
class HandTrack:
    """What was seen; T frames, and the left hand before the right.

    ``stamps`` [T] s from the video's begin; ``pixels`` [T, 2, 21, 2]; ``relative`` [T, 2, 21]: how much farther than
    the wrist a keypoint is, in pixels, as one picture tells it; ``world`` [T, 2, 21, 3] m about the hand's middle, in
    the camera's axes (x right, y down, z away), of a hand of usual size; ``points`` [T, 2, 21, 3] m in the camera's
    frame, from trackers that give them (NaN from the others); ``score`` [T, 2]: 0…1, 0 where there is none; ``size``:
    width and height of the picture.
    """

    source: str
    size: tuple[int, int]
    stamps: Floats
    pixels: Floats
    relative: Floats
    world: Floats
    points: Floats
    score: Floats

    def __post_init__(self) -> None:
        frames = len(self.stamps)
        shapes = {
            "pixels": (frames, 2, KEYPOINTS, 2),
            "relative": (frames, 2, KEYPOINTS),
            "world": (frames, 2, KEYPOINTS, 3),
            "points": (frames, 2, KEYPOINTS, 3),
            "score": (frames, 2),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise UnderstudyError(f"{name} of {frames} frames are {shape}, got {getattr(self, name).shape}")
        if frames and not (np.diff(self.stamps) > 0).all():
            raise UnderstudyError(f"the stamps of {self.source} do not ascend")

    @classmethod
    def empty(cls, source: str, size: tuple[int, int], stamps: Floats) -> "HandTrack":
        """One in which no hand is seen."""
        shape = (len(stamps), 2, KEYPOINTS)
        pixels, relative, world, points = (np.full((*shape, *more), np.nan) for more in ((2,), (), (3,), (3,)))
        return cls(source, size, np.asarray(stamps, np.float64), pixels, relative, world, points, np.zeros(shape[:2]))

    def seen(self, side: Side) -> NDArray[np.bool_]:
        """In which frames [T] that hand is."""
        return np.asarray(np.isfinite(self.pixels[:, SIDES.index(side)]).all((1, 2)))

    def busier(self) -> Side:
        """The hand that is seen more often; raises `UnderstudyError` where there is none at all."""
        counts = [int(self.seen(side).sum()) for side in SIDES]
        if not any(counts):
            raise UnderstudyError(f"there is no hand in {self.source}: none of its {len(self.stamps)} frames shows one")
        return SIDES[int(np.argmax(counts))]

    def gaps(self, side: Side) -> list[tuple[int, int]]:
        """First frame of each gap, and the first one after it: between two frames in which the hand is seen."""
        found = np.flatnonzero(self.seen(side))
        return [(int(a) + 1, int(b)) for a, b in pairwise(found) if b > a + 1]

    def save(self, file: Path) -> None:
        """Write it; `load` reads it again."""
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}")
        with partial.open("wb") as sink:
            np.savez_compressed(
                sink,
                format=np.array(FORMAT),
                source=np.array(self.source),
                size=np.array(self.size),
                stamps=self.stamps,
                **{name: getattr(self, name).astype(np.float32) for name in ("pixels", "relative", "world", "points")},
                score=self.score.astype(np.float32),
            )
        partial.replace(file)

    @classmethod
    def load(cls, file: Path) -> "HandTrack":
        """Read what `save` wrote; raises `UnderstudyError` for anything else."""
        if not file.is_file():
            raise UnderstudyError(f"there is no track {file}; make one: vla track VIDEO")
        try:
            with np.load(file, allow_pickle=False) as held:
                found = {name: held[name] for name in held.files}
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise UnderstudyError(f"{file} is no track of hands: {error}; make one: vla track VIDEO") from error
        wanted = {"format", "source", "size", "stamps", "pixels", "relative", "world", "points", "score"}
        if set(found) != wanted or int(found["format"]) != FORMAT:
            raise UnderstudyError(f"{file} is no track of hands of this version; make it again: vla track VIDEO")
        width, height = (int(side) for side in found["size"])
        arrays = {name: found[name].astype(np.float64) for name in wanted - {"format", "source", "size"}}
        return cls(str(found["source"]), (width, height), **arrays)


def side_of(name: str) -> Side:
    """``left`` or ``right``; raises `UnderstudyError` for another word."""
    for side in SIDES:
        if side == name:
            return side
    raise unknown("hand", name, SIDES)


def segments(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Where ``mask`` [T] is true without interruption: first frame, first one after."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    for first, after in edges.reshape(-1, 2):
        yield int(first), int(after)
