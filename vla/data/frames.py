"""The decoded-frame store: every frame decoded once, at training size, then read from memory-mapped files.

    frames = decoded_frames(dataset, camera="front", size=64)   # memory map [N, 64, 64, 3] uint8

Row *n* is the dataset's frame *n*. The files lie in the cache folder (``UNDERSTUDY_CACHE``, else the user's cache),
named after the dataset's content, camera and size, so that a second run, or another policy, decodes nothing.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vla.data.lerobot import Dataset

Progress = Callable[[int, int], None]
"""Called with (episodes done, episodes in all)."""


def cache_folder() -> Path:
    """Where things that can be made again are kept."""
    explicit = os.environ.get("UNDERSTUDY_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "understudy"


def fit_image(image: np.ndarray, size: int) -> np.ndarray:
    """[H, W, 3] uint8 → [size, size, 3]: the whole picture, squeezed to a square, averaged over the pixel areas.

    Training and inference both come through here. Nothing is cropped, so nothing in view is lost.
    """
    if image.shape[:2] == (size, size):
        return image
    shrinks = min(image.shape[:2]) >= size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def decoded_frames(
    dataset: Dataset, *, camera: str, size: int, progress: Progress = lambda done, total: None
) -> np.memmap[Any, np.dtype[np.uint8]]:
    """All frames of one camera at ``size`` pixels, [N, size, size, 3] uint8, decoding them only the first time."""
    shape = (dataset.num_frames, size, size, 3)
    path = cache_folder() / "frames" / f"{dataset.hash()}-{camera.replace('/', '_')}-{size}.u8"
    if not (path.is_file() and path.stat().st_size == int(np.prod(shape))):
        _decode_into(path, shape, dataset, camera, progress)
    return np.memmap(path, np.uint8, mode="r", shape=shape)


def _decode_into(path: Path, shape: tuple[int, ...], dataset: Dataset, camera: str, progress: Progress) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    starts = np.cumsum([0, *(info.length for info in dataset.episodes)])
    frames = np.memmap(part, np.uint8, mode="w+", shape=shape)

    def decode(index: int) -> None:
        for row, image in enumerate(dataset.frames(index, camera), start=starts[index]):
            frames[row] = fit_image(image, shape[1])

    try:
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for done, _ in enumerate(pool.map(decode, range(len(dataset.episodes))), start=1):
                progress(done, len(dataset.episodes))
        frames.flush()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
