"""What every importer makes of a recording: its spec, and its episodes one by one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from vla.data.lerobot_format import DatasetSpec
from vla.data.video import resized
from vla.errors import UnderstudyError
from vla.types import CameraSpec, Episode

Size = tuple[int, int]


@dataclass(frozen=True)
class Source:
    """A recording of another format, opened: nothing of its episodes is decoded yet.

    ``numbers``: the episodes that are there, as the recording itself counts them; ``promised``: how many its metadata
    speaks of; ``read(number)``: one episode whose ``source`` names it among all of this recording;
    ``warnings``: what a person should know, a sentence each.
    """

    format: str
    name: str
    spec: DatasetSpec
    numbers: tuple[int, ...]
    promised: int
    read: Callable[[int], Episode]
    label: Callable[[int], str]
    warnings: tuple[str, ...] = ()


def sized(cameras: tuple[CameraSpec, ...], image_size: int | None) -> tuple[CameraSpec, ...]:
    """The cameras as they will be stored: ``image_size`` x ``image_size`` pixels, or as they are."""
    if image_size is None:
        return cameras
    return tuple(replace(camera, height=image_size, width=image_size) for camera in cameras)


def resized_frames(frames: Callable[[], np.ndarray], size: Size) -> Callable[[], np.ndarray]:
    """A call that gives the frames [T, H, W, 3] of ``frames`` at ``size``."""
    return partial(_resized_frames, frames, size)


def _resized_frames(frames: Callable[[], np.ndarray], size: Size) -> np.ndarray:
    decoded = frames()
    return decoded if decoded.shape[1:3] == size else np.stack([resized(frame, size) for frame in decoded])


def finite(values: np.ndarray, what: str) -> np.ndarray:
    """``values`` [T, D] as float32; raises `UnderstudyError` naming the first frame with NaN or infinity."""
    with np.errstate(over="ignore"):
        narrowed = np.ascontiguousarray(values, np.float32)
    whole = np.isfinite(narrowed).reshape(len(narrowed), -1).all(1)
    if not whole.all():
        frame = int(np.argmin(whole))
        raise UnderstudyError(f"{what} of frame {frame} hold NaN or infinity: {narrowed[frame]}")
    return narrowed
