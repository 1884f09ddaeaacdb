"""One captioned clip of a person: where its pictures lie, and how they are decoded.

    clip = Clip("P01/P01_01_0", "open the door", VideoSpan(Path("P01_01.MP4"), start_s=0.1, stop_s=3.4))
    decode_clip(clip, size=64, fps=10.0, max_frames=64)  # [T, 64, 64, 3] uint8

A clip holds no pictures and no list of them, so that a corpus of millions of frames is cheap to list.
"""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data.frames import fit_image
from vla.data.video import frames_at, packet_stamps
from vla.errors import UnderstudyError

PRIVILEGED = "privileged"
"""Folders of this name hold what a simulator knows beside its pictures; see `refuse_privileged`."""
VIDEO_SUFFIXES = frozenset({".mp4", ".webm", ".mkv", ".avi", ".mov"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
MOST = 10**6
"""Frames of a clip, where there is no other limit."""
ALMOST = 0.75
"""The last frame may be nearest to an instant behind the end; it is taken when this share of a period has passed."""
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG", b"IEND"
NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<after>\.\w+)")


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """The frames of a video that are shown from ``start_s`` to before ``stop_s`` (``None``: to its end)."""

    path: Path
    start_s: float = 0.0
    stop_s: float | None = None


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """Images ``folder / (pattern % number)`` for ``number`` from ``first`` to ``last``, both included.

    ``names``: the files in order, only where no pattern fits. ``fps`` [Hz]: 0 where nobody knows; then no frame is
    left out for the rate's sake.
    """

    folder: Path
    pattern: str
    first: int
    last: int
    fps: float = 0.0
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return max(0, self.last - self.first + 1)

    def path(self, place: int) -> Path:
        """The ``place``-th file, from 0 on."""
        number = self.first + place
        return self.folder / (self.names[number] if self.names else self.pattern % number)


@dataclass(frozen=True, slots=True)
class EpisodeFrames:
    """The images of one episode in column ``key`` of a LeRobotDataset's parquet file (its storage ``image``)."""

    path: Path
    key: str
    episode: int
    fps: float


Source = VideoSpan | FrameFiles | EpisodeFrames


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip: a ``name`` unique within its corpus and the same in every listing; ``caption`` "": nobody said."""

    name: str
    caption: str
    source: Source


def place_of(source: Source) -> Path:
    """The one path that must be there for a clip: its video, its folder of images, or its parquet file."""
    return source.folder if isinstance(source, FrameFiles) else source.path


def is_there(source: Source) -> bool:
    """Whether a clip's video or folder is on disk; what is in it, decoding tells."""
    return source.folder.is_dir() if isinstance(source, FrameFiles) else source.path.is_file()


def is_privileged(path: Path) -> bool:
    """Whether a path, as it is written or with its links followed, leads through a folder `PRIVILEGED`."""
    parts = (*path.parts, *Path(os.path.realpath(path)).parts)
    return any(part.casefold() == PRIVILEGED for part in parts)


def refuse_privileged(path: Path, *, named_by: str = "") -> None:
    """Raise `UnderstudyError` for a path that leads into privileged data.

    Simulated video comes with object poses, contacts and progress. They are there to evaluate with; a method that
    claims to learn from video alone must not be able to see them, not even by mistake.
    """
    if is_privileged(path):
        by = f" (named by {named_by})" if named_by else ""
        raise UnderstudyError(
            f"{path}{by} lies in a folder named {PRIVILEGED!r}: what is in it is for evaluation only and is never "
            "read for training; give the clips themselves"
        )


def decode_clip(clip: Clip, *, size: int, fps: float, max_frames: int) -> np.ndarray:
    """A clip's frames [T, size, size, 3] uint8 RGB, 1 <= T <= ``max_frames``.

    The short side is scaled to ``size`` and the middle is kept. Frames are sampled at ``fps`` [Hz] by their own
    times and never invented: a slower source keeps its own rate. Of more than ``max_frames``, evenly many are left
    out. Raises `UnderstudyError` naming the clip when it is damaged or empty.
    """
    if size < 1 or not fps > 0 or max_frames < 1:
        raise UnderstudyError(f"size, fps and max_frames are above 0, got {size}, {fps} and {max_frames}")

    try:
        refuse_privileged(place_of(clip.source))
        frames = [fit_image(middle(image), size) for image in _images(clip.source, fps, max_frames)]
        if not frames:
            raise UnderstudyError(f"{place_of(clip.source)} holds no frame of it")
    except (UnderstudyError, OSError, cv2.error) as error:
        raise UnderstudyError(f"clip {clip.name!r} cannot be decoded: {error}") from error
    return np.stack(frames)


def film_at(clip: Clip, *, size: int, rate_hz: float) -> np.ndarray:
    """A clip's frames [T, size, size, 3] uint8 RGB, one each 1 / ``rate_hz`` [s]: the nearest, again if it is slower.

    Otherwise as `decode_clip`.
    """
    frames = decode_clip(clip, size=size, fps=rate_hz, max_frames=MOST)
    stamps = _stamps(clip.source, rate_hz)
    shown = (stamps - stamps[0])[sampled(stamps, fps=rate_hz, max_frames=MOST)][: len(frames)]
    wanted = np.arange(0, shown[-1] + 0.5 / rate_hz, 1 / rate_hz)
    return frames[np.abs(wanted[:, None] - shown).argmin(1)]


def _stamps(source: Source, fps: float) -> np.ndarray:
    """When each frame of a clip is shown [s]."""
    match source:
        case VideoSpan(path, start_s, stop_s):
            return packet_stamps(path, start_s=start_s, stop_s=stop_s)
        case FrameFiles():
            return np.arange(len(source)) / (source.fps or fps)
        case EpisodeFrames():
            return np.arange(len(_cells(source))) / source.fps


def sampled(stamps_s: np.ndarray, *, fps: float, max_frames: int) -> np.ndarray:
    """Which of the frames shown at ``stamps_s`` (ascending) to take: those nearest to every 1 / ``fps`` [s], each once.

    Of a slower source, and of the slow stretches of one with a variable rate, these are all frames.
    """
    if not len(stamps_s):
        return np.empty(0, np.int64)
    periods = (stamps_s - stamps_s[0]) * fps
    nearest = np.round(periods)
    # Rounded, so that of two frames equally near the earlier one is taken, and not the one that rounding favours.
    order = np.lexsort((np.round(np.abs(periods - nearest), 3), nearest))
    chosen = order[np.unique(nearest[order], return_index=True)[1]]
    if len(chosen) > 1 and periods[chosen[-1]] - periods[chosen[-2]] < ALMOST:
        chosen = chosen[:-1]
    if len(chosen) > max_frames:
        chosen = chosen[np.round(np.linspace(0, len(chosen) - 1, max_frames)).astype(np.int64)]
    return chosen


def middle(image: np.ndarray) -> np.ndarray:
    """The largest square in the middle of an image [H, W, 3], which may be taller than wide."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _images(source: Source, fps: float, max_frames: int) -> Iterator[np.ndarray]:
    """The chosen images [H, W, 3] of a clip, one after the other."""
    match source:
        case VideoSpan(path):
            stamps = _stamps(source, fps)
            if len(stamps):
                yield from frames_at(path, stamps[sampled(stamps, fps=fps, max_frames=max_frames)])
        case FrameFiles():
            for place in sampled(_stamps(source, fps), fps=fps, max_frames=max_frames).tolist():
                yield read_image(source.path(place))
        case EpisodeFrames(path, key, _, rate):
            cells = _cells(source)
            for place in sampled(np.arange(len(cells)) / rate, fps=fps, max_frames=max_frames).tolist():
                yield _image(cells[place]["bytes"] or b"", f"{key} of frame {place} in {path}")


def _cells(source: EpisodeFrames) -> list[dict[str, Any]]:
    """An episode's encoded images; no other column of its file is read, above all no action."""
    try:
        here = [("episode_index", "==", source.episode)]
        table = pq.read_table(source.path, columns=[source.key], filters=here, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise UnderstudyError(f"{source.path} cannot be read ({error})") from error
    return table[source.key].to_pylist()


def read_image(path: Path) -> np.ndarray:
    """A JPEG or PNG file as [H, W, 3] uint8 RGB; `UnderstudyError` when it is missing or damaged."""
    refuse_privileged(path)
    if not path.is_file():
        raise UnderstudyError(f"there is no image {path}")
    return _image(path.read_bytes(), str(path))


def _image(data: bytes, name: str) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if _is_whole(data) else None
    if pixels is None:
        raise UnderstudyError(f"{name} is no JPEG or PNG image that can be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _is_whole(data: bytes) -> bool:
    """Whether an image has its end: a decoder fills what was cut off with grey and says nothing."""
    if data.startswith(JPEG_START):
        return JPEG_END in data
    return PNG_END in data if data.startswith(PNG_START) else bool(data)


def frame_files(folder: Path, fps: float = 0.0) -> FrameFiles:
    """The images in ``folder`` by number, not by letter (2.png before 10.png); empty for a folder without any."""
    names = sorted((name for name in _names(folder) if Path(name).suffix.lower() in IMAGE_SUFFIXES), key=by_number)
    match = NUMBERED.fullmatch(names[0]) if names else None
    if match is None:
        return FrameFiles(folder, "", 0, len(names) - 1, fps, tuple(names))
    width = f"0{len(match['number'])}" if match["number"].startswith("0") else ""
    pattern = f"{_literal(match['before'])}%{width}d{_literal(match['after'])}"
    first = int(match["number"])
    if all(pattern % number == name for number, name in enumerate(names, start=first)):
        return FrameFiles(folder, pattern, first, first + len(names) - 1, fps)
    return FrameFiles(folder, "", 0, len(names) - 1, fps, tuple(names))


def _literal(text: str) -> str:
    return text.replace("%", "%%")


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.name.startswith(".")]


def by_number(name: str) -> list[tuple[int, int | str]]:
    """A sorting key under which 2 comes before 10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name)]


def subfolders(folder: Path) -> list[Path]:
    """The folders in ``folder`` by number and name, without hidden and privileged ones."""
    paths = [folder / name for name in sorted(_names(folder), key=by_number)]
    return [path for path in paths if path.is_dir() and not is_privileged(path)]


def read_json(path: Path) -> Any:
    """A JSON file's content; `UnderstudyError` naming the file when it cannot be read."""
    refuse_privileged(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UnderstudyError(f"{path} cannot be read ({error}); fetch it again") from error


def read_rows(path: Path, needed: Iterable[str] = ()) -> list[dict[str, str]]:
    """A CSV file's rows; `UnderstudyError` when it cannot be read or lacks one of the ``needed`` columns."""
    refuse_privileged(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = reader.fieldnames or ()
    except (OSError, ValueError, csv.Error) as error:
        raise UnderstudyError(f"{path} cannot be read ({error}); fetch it again") from error
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UnderstudyError(f"{path} has no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}")
    return rows


def words(text: object) -> str:
    """A caption without spaces too many."""
    return re.sub(r"\s+", " ", str(text or "")).strip()
