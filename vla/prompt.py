"""A video or a picture as a prompt: how it is read, which frames are looked at, whether anything is to be seen."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from vla.errors import UnderstudyError
from vla.types import VideoClip

FPS, MOST, SIZE = 10.0, 64, 128
"""Of a prompt that is read: frames a second, frames in all, pixels a side."""
EDGE, WARP = 0.1, 1.5
"""Augmented prompts begin and end within so much of the film's ends, and run so much quicker at first, or later."""
DARK, STILL = 16.0, 0.3
"""Mean value of a picture, and most that a frame differs from the first, 0…255: below, there is nothing to be seen."""
LEAST_FRAMES, MOST_SECONDS = 8, 60.0


def read_prompt(path: Path) -> VideoClip:
    """The video at ``path``: its middle square, `FPS` frames a second or its own, evenly fewer where it is long.

    Raises `UnderstudyError` for one that is missing, damaged or has no frame.
    """
    frames, seconds = read_video(path, FPS, _square)
    kept = frames[spread(len(frames), min(len(frames), MOST))]
    return VideoClip(kept, len(kept) / seconds)


def read_video(path: Path, hz: float, fit: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, float]:
    """The pictures of the video at ``path`` after ``fit``, [T, …], ``hz`` a second or its own rate, and its seconds.

    Raises `UnderstudyError` for one that is missing, damaged or has no frame.
    """
    if not path.is_file():
        raise UnderstudyError(f"there is no video {path}")
    video = cv2.VideoCapture(str(path))
    own = video.get(cv2.CAP_PROP_FPS) or hz
    frames, due, number = [], 0.0, 0
    while video.grab():
        if number >= due - 1e-6:
            _, picture = video.retrieve()
            frames.append(fit(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)))
            due += max(own / hz, 1.0)
        number += 1
    video.release()
    if not frames:
        raise UnderstudyError(f"{path} cannot be read as a video; give an mp4, webm, mkv, avi or mov")
    return np.stack(frames), number / own


def read_goal(path: Path) -> np.ndarray:
    """The picture at ``path``, or the last frame of the video there, [H, W, 3] uint8, whole.

    Raises `UnderstudyError` for one that is missing, damaged, or too dark for anything to be seen.
    """
    if not path.is_file():
        raise UnderstudyError(f"there is no picture or video {path}")
    picture, video = cv2.imread(str(path), cv2.IMREAD_COLOR), None
    if picture is None:
        video = cv2.VideoCapture(str(path))
        while video.grab():
            _, picture = video.retrieve()
        video.release()
    if picture is None:
        raise UnderstudyError(f"{path} cannot be read as a picture or a video; give a png, jpg, mp4, webm or mov")
    if picture.mean() < DARK:
        raise UnderstudyError(
            f"the goal is too dark: its pixels are {picture.mean():.0f} of 255 on the average, and below {DARK:.0f} "
            "nothing can be told; take it with more light"
        )
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    how = cv2.INTER_AREA if side > SIZE else cv2.INTER_LINEAR
    return cv2.resize(image[top : top + side, left : left + side], (SIZE, SIZE), interpolation=how)


def spread(length: int, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """``count`` frames [count] of a film of ``length``, from its first to its last, evenly or as ``rng`` has it."""
    along = np.linspace(0, 1, count)
    if rng is not None:
        low, high = rng.uniform(0, EDGE), rng.uniform(1 - EDGE, 1)
        along = low + (high - low) * along ** np.exp(rng.uniform(-np.log(WARP), np.log(WARP)))
    return np.round(along * (length - 1)).astype(np.int64)


def check_prompt(video: VideoClip) -> None:
    """Raise `UnderstudyError` for a video that is too short, too long, too dark, or in which nothing moves."""
    length, seconds = len(video.frames), len(video.frames) / video.fps
    if length < LEAST_FRAMES:
        raise UnderstudyError(
            f"the prompt has {length} frames, at {FPS:g} a second; give a video of {LEAST_FRAMES} or more"
        )
    if seconds > MOST_SECONDS:
        raise UnderstudyError(
            f"the prompt lasts {seconds:.0f} s; give at most {MOST_SECONDS:.0f} s, cut to the one task"
        )
    gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video.frames]).astype(np.float32)
    if gray.mean() < DARK:
        raise UnderstudyError(
            f"the prompt is too dark: its pixels are {gray.mean():.0f} of 255 on the average, and below {DARK:.0f} "
            "nothing can be told; film it with more light"
        )
    moved = float(np.abs(gray - gray[0]).mean((1, 2)).max())
    if moved < STILL:
        raise UnderstudyError(
            f"nothing moves in the prompt: no frame differs from the first by more than {moved:.2f} of 255, at least "
            f"{STILL} is wanted; show the task being done"
        )
