"""The decoded-clip store: every clip of human video decoded once, at training size, then read by row.

    corpus = open_corpus("data/something", image_size=64)
    rows = corpus.starts[clips][:, None] + index.quintets(clips, epochs)  # [B, 5]
    images = corpus.frames(rows)  # [B, 5, 64, 64, 3] uint8

A store lies in the cache folder (see `vla.data.frames`), in a folder named after the list of clips and the settings:

    frames.jpgs   all frames of all clips, JPEG after JPEG
    index.npz     offsets [N + 1] of the frames in that file, starts [K + 1] of the clips among the frames
    clips.json    names, captions, clips that could not be decoded

It has this name only when it is whole. Until then a journal tells which clips are done: after a kill, the next call
goes on behind the last of them.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TextIO

import cv2
import numpy as np

from vla.data.frames import cache_folder
from vla.data.human_clips import Clip, place_of
from vla.data.human_video import Skipped, decode_clip, read_clips, warn_skipped
from vla.errors import UnderstudyError

FRAMES, INDEX, CLIPS, JOURNAL = "frames.jpgs", "index.npz", "clips.json", "journal.jsonl"
FORMAT = 1
"""Of the store; another one is another folder."""
JPEG_QUALITY = 95
FEW = 32
"""So many frames are decoded sooner than threads are given them."""
AHEAD = 4
"""Clips that may wait to be written, per thread: one long clip must not let the memory fill with those behind it."""


@dataclass(frozen=True)
class Settings:
    """What decides how a clip's frames look: pixels a side, sampling rate [Hz], frames at most."""

    image_size: int
    fps: float
    max_frames: int


class Corpus:
    """Decoded clips, read from disk frame by frame. Made by `open_corpus`.

    ``names`` and ``captions`` of the K clips ("" = nobody said); ``lengths`` and ``starts`` int64 [K]: clip *k* has
    rows ``starts[k]`` to ``starts[k] + lengths[k] - 1``; ``skipped``: clips that are missing or damaged; ``hash``
    names the content: equal for the same clips with the same settings, wherever they lie.
    """

    def __init__(self, folder: Path, settings: Settings, missing: Sequence[Skipped] = ()) -> None:
        told = json.loads((folder / CLIPS).read_text("utf-8"))
        with np.load(folder / INDEX) as index:
            self._offsets, starts = index["offsets"], index["starts"]
        # A plain view: slicing a memmap itself costs as much as decoding a small frame.
        self._jpegs = np.asarray(np.memmap(folder / FRAMES, np.uint8, mode="r"))
        self._missing = tuple(missing)
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self.folder, self.settings, self.image_size = folder, settings, settings.image_size
        self.names: tuple[str, ...] = tuple(told["names"])
        self.captions: tuple[str, ...] = tuple(told["captions"])
        self.starts, self.lengths = starts[:-1], np.diff(starts)
        self.skipped = (*self._missing, *(Skipped(**entry) for entry in told["skipped"]))
        content = [FORMAT, astuple(settings), self.names, self.captions, self.lengths.tolist()]
        self.hash = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def __reduce__(self) -> tuple[type["Corpus"], tuple[Path, Settings, tuple[Skipped, ...]]]:
        return Corpus, (self.folder, self.settings, self._missing)  # other processes map the file themselves

    @property
    def num_frames(self) -> int:
        """Of all clips together."""
        return len(self._offsets) - 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, S, S, 3], of all frames."""
        return (self.num_frames, self.image_size, self.image_size, 3)

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The same as `frames`."""
        return self.frames(rows)

    def clip(self, number: int) -> np.ndarray:
        """All frames of one clip, [T, S, S, 3] uint8."""
        return self.frames(np.arange(self.lengths[number]) + self.starts[number])

    def frames(self, rows: np.ndarray) -> np.ndarray:
        """The frames at ``rows``, an int array of any shape: uint8 [..., S, S, 3] RGB."""
        rows = np.asarray(rows)
        flat = rows.reshape(-1)
        if len(flat) and (flat.min() < 0 or flat.max() >= self.num_frames):
            raise IndexError(f"rows are from 0 to {self.num_frames - 1}, got {flat.min()} to {flat.max()}")
        images = np.empty((len(flat), self.image_size, self.image_size, 3), np.uint8)
        if len(flat) <= FEW:
            self._decode(flat, images)
        else:
            parts = _cores()
            places = zip(np.array_split(flat, parts), np.array_split(images, parts))
            list(self._threads().map(lambda place: self._decode(*place), places))
        return images.reshape(*rows.shape, *images.shape[1:])

    def _decode(self, rows: np.ndarray, images: np.ndarray) -> None:
        begins, ends = self._offsets[rows].tolist(), self._offsets[rows + 1].tolist()
        for begin, end, image in zip(begins, ends, images):
            pixels = cv2.imdecode(self._jpegs[begin:end], cv2.IMREAD_COLOR)
            if pixels is None or pixels.shape != image.shape:
                raise UnderstudyError(f"the store {self.folder} is damaged; delete it, and it is made again")
            cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=image)

    def _threads(self) -> ThreadPoolExecutor:
        """This process's threads; those of a parent do not live on in a fork."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(_cores(), thread_name_prefix="corpus")
        return self._pool[1]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_corpus(
    root: str | Path | Sequence[str | Path],
    *,
    image_size: int,
    layout: str = "auto",
    split: str = "train",
    fps: float = 10.0,
    max_frames: int = 64,
    allow_missing: bool = False,
) -> Corpus:
    """The clips in the folder ``root`` (or in several), decoded the first time and read from the store afterwards.

    The clips of several folders are named ``<folder>/<name>``. Clips that cannot be decoded are left out and named in
    a warning.

    Args:
        root: a folder in one of `vla.data.human_video.LAYOUTS`, or several.
        image_size: pixels a side.
        layout: which layout; ``auto`` looks.
        split: ``train``, ``validation`` or ``test``.
        fps: sampling rate [Hz]; a slower source keeps its own.
        max_frames: of a longer clip, evenly many are left out.
        allow_missing: leave out clips that are not on disk, too; otherwise they are an error.

    Raises:
        UnderstudyError: as `read_clips` does, and when not one clip can be decoded.
    """
    settings = Settings(int(image_size), float(fps), int(max_frames))
    if settings.image_size < 1 or not settings.fps > 0 or settings.max_frames < 1:
        raise UnderstudyError(f"image_size, fps and max_frames are above 0, got {astuple(settings)}")
    roots = [Path(root)] if isinstance(root, str | Path) else [Path(place) for place in root]
    clips: list[Clip] = []
    missing: list[Skipped] = []
    for prefix, place in zip(_prefixes(roots), roots):
        found = read_clips(place, layout=layout, split=split, allow_missing=allow_missing)
        clips += [Clip(prefix + clip.name, clip.caption, clip.source) for clip in found.clips]
        missing += [Skipped(prefix + entry.name, entry.reason) for entry in found.missing]
    folder = cache_folder() / "corpus" / _key(clips, settings)
    if not folder.is_dir():
        with _only_one(folder.with_suffix(".lock")):
            if not folder.is_dir():
                try:
                    _make(folder, clips, settings)
                except OSError as error:
                    raise UnderstudyError(
                        f"the store {folder} cannot be written ({error}); make room and call again, it goes on"
                    ) from error
    corpus = Corpus(folder, settings, missing)
    warn_skipped(corpus.skipped, len(clips) + len(missing))
    return corpus


def _prefixes(roots: Sequence[Path]) -> list[str]:
    """What goes before the names of each folder's clips: nothing for one, else as much of its path as tells it."""
    if not roots:
        raise UnderstudyError("give at least one folder of clips")
    if len(roots) == 1:
        return [""]
    parts = [root.resolve().parts for root in roots]
    for depth in range(1, max(map(len, parts)) + 1):
        prefixes = ["/".join((*part[-depth:], "")) for part in parts]
        if len(set(prefixes)) == len(roots):
            return prefixes
    raise UnderstudyError(f"the same folder is given twice: {', '.join(map(str, roots))}")


def _key(clips: Sequence[Clip], settings: Settings) -> str:
    """A name for this list of clips, in this state of its files, with these settings; the files' place is left out."""
    states: dict[Path, tuple[int, int]] = {}
    digest = hashlib.sha256(json.dumps([FORMAT, JPEG_QUALITY, astuple(settings)]).encode())
    for clip in clips:
        place = place_of(clip.source)
        if place not in states:
            state = place.stat()
            states[place] = state.st_size, state.st_mtime_ns
        # Of a folder of images only the ends and its own time are looked at: there may be millions in it.
        window = [str(value) for value in astuple(clip.source)[1:]]
        digest.update(json.dumps([clip.name, clip.caption, states[place], window]).encode())
    return digest.hexdigest()[:24]


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold a lock that a kill releases: of several processes one decodes, the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(folder: Path, clips: Sequence[Clip], settings: Settings) -> None:
    part = folder.with_suffix(".part")
    part.mkdir(exist_ok=True)
    done = _resume(part, clips)
    with (part / FRAMES).open("ab") as frames, (part / JOURNAL).open("a") as journal:
        _decode_all(clips[done:], settings, frames, journal, done)
    entries = [json.loads(line) for line in (part / JOURNAL).read_text().splitlines()]
    kept = [(clip, entry["sizes"]) for clip, entry in zip(clips, entries, strict=True) if entry["sizes"]]
    if not kept:
        shutil.rmtree(part)
        raise UnderstudyError(f"not one of {len(clips)} clips can be decoded; the first: {entries[0]['reason']}")
    sizes = np.array([size for _, sizes in kept for size in sizes], np.int64)
    lengths = np.array([len(sizes) for _, sizes in kept], np.int64)
    offsets, starts = (np.concatenate([[0], np.cumsum(counts)]) for counts in (sizes, lengths))
    np.savez(part / INDEX, offsets=offsets, starts=starts)
    skipped = [asdict(Skipped(clip.name, entry["reason"])) for clip, entry in zip(clips, entries) if not entry["sizes"]]
    told = {"names": [clip.name for clip, _ in kept], "captions": [clip.caption for clip, _ in kept]}
    (part / CLIPS).write_text(json.dumps({**told, "skipped": skipped}), "utf-8")
    (part / JOURNAL).unlink()
    part.replace(folder)


def _resume(part: Path, clips: Sequence[Clip]) -> int:
    """How many clips an interrupted call finished; what it wrote behind them is cut away."""
    journal, frames = part / JOURNAL, part / FRAMES
    if not journal.is_file() or not frames.is_file():
        journal.write_text("")
        frames.write_bytes(b"")
        return 0
    whole, end, available = [], 0, frames.stat().st_size
    for line in journal.read_text().splitlines(keepends=True)[: len(clips)]:
        try:
            size = sum(json.loads(line)["sizes"])
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith("\n") or end + size > available:
            break
        whole.append(line)
        end += size
    os.truncate(frames, end)
    journal.write_text("".join(whole))
    return len(whole)


def _decode_all(clips: Sequence[Clip], settings: Settings, frames: BinaryIO, journal: TextIO, done: int) -> None:
    """Append the clips' frames and, once they are in the file, one line each to the journal."""
    todo = iter(clips)
    waiting: deque[Future[list[bytes] | str]] = deque()
    pool = ThreadPoolExecutor(_cores(), thread_name_prefix="decode")
    try:
        with _bar(done, done + len(clips)) as advance:
            for _ in clips:
                for clip in islice(todo, AHEAD * _cores() - len(waiting)):
                    waiting.append(pool.submit(_encoded, clip, settings))
                _write(waiting.popleft().result(), frames, journal)
                advance()
    finally:
        pool.shutdown(cancel_futures=True)


def _encoded(clip: Clip, settings: Settings) -> list[bytes] | str:
    """A clip's frames as JPEGs, or why there are none."""
    try:
        images = decode_clip(clip, size=settings.image_size, fps=settings.fps, max_frames=settings.max_frames)
    except UnderstudyError as error:
        return str(error)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return [cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1].tobytes() for image in images]


def _write(result: list[bytes] | str, frames: BinaryIO, journal: TextIO) -> None:
    jpegs, reason = ([], result) if isinstance(result, str) else (result, "")
    frames.writelines(jpegs)
    frames.flush()
    journal.write(json.dumps({"sizes": [len(jpeg) for jpeg in jpegs], "reason": reason}) + "\n")
    journal.flush()


@contextmanager
def _bar(done: int, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, where somebody looks at it; what it gives is called after every clip."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("clips,"))
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("left"), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("decoding", total=total, completed=done)
        yield lambda: bar.advance(task)
