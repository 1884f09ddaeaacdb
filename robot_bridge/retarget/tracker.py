"""Find the hands in a video: frames go to a process that has MediaPipe, keypoints come back.

    track = track_video(Path("me.mp4"))      # HandTrack
    track.save(Path("outputs/track/track.npz"))

The video is decoded frame by frame, at its own times and turned upright, and nothing of it stays in memory but the
keypoints. MediaPipe lives in an environment of its own (`make hands`, or the extra ``hands``).
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import Queue

import cv2
import numpy as np

from robot_bridge.retarget.hands import KEYPOINTS, WRIST, Floats, HandTrack
from robot_bridge.retarget.mediapipe_process import HAND, SIZE
from vla.data.video import every_frame, packet_stamps
from vla.errors import UnderstudyError

PYTHON = "UNDERSTUDY_HANDS_PYTHON"
"""Environment variable: the Python that has MediaPipe."""
INSTALL = "run `make hands`, or pip install 'understudy[hands]'"
WIDEST = 1280
"""Pixels of the longer side beyond which a frame is shrunk for the tracker, which looks at 224 of them."""
AWAY = 0.35
"""A hand that is farther than this share of the picture from where one was is another one."""
_HAND_BYTES = HAND.size + 2 * KEYPOINTS * 3 * 4
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrackerConfig:
    """How to look for hands."""

    full: bool = False
    """the larger model: half as fast, a little more exact"""
    confidence: float = 0.5
    """below which a hand is none"""
    each_by_itself: bool = False
    """look for hands anew in each frame, three times as slow; for pictures that do not follow each other"""


@dataclass(frozen=True)
class Sighting:
    """One hand in one frame: ``side`` (0 left, 1 right) as the tracker thinks, ``image`` and ``world`` [21, 3]."""

    side: int
    score: float
    image: Floats
    world: Floats


def track_video(
    video: Path, config: TrackerConfig | None = None, *, progress: Progress = lambda done, total: None
) -> HandTrack:
    """The hands in ``video``; raises `UnderstudyError` for one that cannot be read, or where MediaPipe is missing."""
    total = len(packet_stamps(video))
    return track_frames(
        every_frame(video), config, source=str(video), progress=lambda done: progress(min(done, total), total)
    )


def track_frames(
    frames: Iterable[tuple[float, np.ndarray]],
    config: TrackerConfig | None = None,
    *,
    source: str = "frames",
    progress: Callable[[int], None] = lambda done: None,
) -> HandTrack:
    """The hands in ``frames``: when each is shown [s], and its pixels [H, W, 3] uint8 RGB."""
    found: list[list[Sighting]] = []
    noted = _Noted(frames)
    with Tracker(config or TrackerConfig()) as tracker:
        for sightings in tracker.follow(noted.frames()):
            found.append(sightings)
            progress(len(found))
    if noted.size is None:
        raise UnderstudyError(f"{source} has no frame that can be decoded")
    return _assembled(HandTrack.empty(source, noted.size, np.array(noted.stamps)), found)


class Tracker:
    """The process, for as long as the ``with`` block lasts."""

    def __init__(self, config: TrackerConfig) -> None:
        script = Path(__file__).with_name("mediapipe_process.py")
        self._command = [str(hands_python()), str(script), "--complexity", str(int(config.full))]
        self._command += ["--confidence", str(config.confidence), *["--each-by-itself"] * config.each_by_itself]

    def __enter__(self) -> "Tracker":
        self._said = tempfile.TemporaryFile()
        pipe = subprocess.PIPE
        alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=self._said, env=alone)
        try:
            self._read(1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was still to be sent need not be
                end.close() if end is not None else None
        self._said.close()

    def follow(self, frames: Iterable[np.ndarray]) -> Iterator[list[Sighting]]:
        """The hands in each frame; the next ones are decoded and sent meanwhile."""
        sent: Queue[BaseException | None] = Queue()
        sender = threading.Thread(target=self._send, args=(frames, sent), daemon=True)
        sender.start()
        while (ended := sent.get()) is None:
            yield self._answer()
        if not isinstance(ended, StopIteration):
            raise ended

    def _send(self, frames: Iterable[np.ndarray], sent: "Queue[BaseException | None]") -> None:
        """Send frame after frame; a word in ``sent`` for each, and how it ended after the last."""
        sink = self._process.stdin
        assert sink is not None
        try:
            for frame in frames:
                small = shrunk(frame)
                sink.write(SIZE.pack(small.shape[1], small.shape[0]))
                sink.write(small.tobytes())
                sink.flush()
                sent.put(None)
            sent.put(StopIteration())
        except BrokenPipeError:
            sent.put(None)  # the reader knows what became of the process
        except BaseException as error:  # noqa: BLE001  raised again where the hands are read
            sent.put(error)

    def _answer(self) -> list[Sighting]:
        found = []
        for _ in range(self._read(1)[0]):
            body = self._read(_HAND_BYTES)
            side, score = HAND.unpack_from(body)
            image, world = np.frombuffer(body, "<f4", offset=HAND.size).reshape(2, KEYPOINTS, 3).astype(np.float64)
            found.append(Sighting(int(side == b"R"), float(score), image, world))
        return found

    def _read(self, count: int) -> bytes:
        source = self._process.stdout
        assert source is not None
        body = source.read(count)
        if len(body) == count:
            return body
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace").strip().splitlines()
        if any("No module named" in line for line in said):
            raise UnderstudyError(f"{self._command[0]} has no MediaPipe; {INSTALL}")
        raise UnderstudyError(f"the tracker's process ended with {code}: {' '.join(said[-3:])[-400:]}")


def hands_python() -> Path:
    """The Python that has MediaPipe; raises `UnderstudyError` where there is none."""
    if named := os.environ.get(PYTHON):
        if not Path(named).is_file():
            raise UnderstudyError(f"{PYTHON}={named}: there is no such file; {INSTALL}")
        return Path(named)
    own = Path(__file__).parents[2] / ".venv-hands/bin/python"
    if own.is_file():
        return own
    if find_spec("mediapipe") is not None:
        return Path(sys.executable)
    raise UnderstudyError(f"to find hands MediaPipe is needed, in an environment of its own; {INSTALL}")


def shrunk(frame: np.ndarray) -> np.ndarray:
    """The frame, no side longer than `WIDEST`."""
    height, width = frame.shape[:2]
    if max(height, width) <= WIDEST:
        return np.ascontiguousarray(frame)
    factor = WIDEST / max(height, width)
    return cv2.resize(frame, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)


class _Noted:
    """Frames of which the times and the size are written down on the way."""

    def __init__(self, frames: Iterable[tuple[float, np.ndarray]]) -> None:
        self._frames = frames
        self.stamps: list[float] = []
        self.size: tuple[int, int] | None = None

    def frames(self) -> Iterator[np.ndarray]:
        """The pixels; raises `UnderstudyError` where their size changes."""
        for stamp, frame in self._frames:
            size = (frame.shape[1], frame.shape[0])
            if size != (self.size or size):
                raise UnderstudyError(f"the frames change from {self.size} to {size} midway: cut the video there")
            self.size = size
            self.stamps.append(stamp)
            yield frame


Life = list[tuple[int, Sighting]]
"""One hand from when it is first seen: frame and what was seen of it."""


def _assembled(track: HandTrack, found: Sequence[Sequence[Sighting]]) -> HandTrack:
    """Sightings as two hands: which is left and which is right is said by all frames of a hand, not by each."""
    lives = _lives(found, track)
    votes = [sum(one.score if one.side else -one.score for _, one in life) for life in lives]
    for number in np.argsort(-np.abs(votes)):
        life, side = lives[number], int(votes[number] > 0)
        taken = sum(track.score[frame, side] > 0 for frame, _ in life)
        free = sum(track.score[frame, 1 - side] > 0 for frame, _ in life)
        side = 1 - side if taken > max(free, len(life) / 2) else side
        for frame, one in life:
            if one.score > track.score[frame, side]:
                _put(track, frame, side, one)
    return track


def _lives(found: Sequence[Sequence[Sighting]], track: HandTrack) -> list[Life]:
    """Sightings that follow each other near enough to be of one hand."""
    lives: list[Life] = []
    near = AWAY * max(track.size)
    for frame, sightings in enumerate(found):
        going = [life for life in lives if track.stamps[frame] - track.stamps[life[-1][0]] < 1.0]
        sightings = _each_once(sightings, track.size)
        apart = [[_apart(life[-1][1], one, track.size) for one in sightings] for life in going]
        left = set(range(len(sightings)))
        order = sorted((gap, a, b) for a, row in enumerate(apart) for b, gap in enumerate(row) if gap < near)
        continued: set[int] = set()
        for _, a, b in order:
            if a not in continued and b in left:
                going[a].append((frame, sightings[b]))
                continued.add(a)
                left.discard(b)
        lives += [[(frame, sightings[b])] for b in sorted(left)]
    return lives


def _each_once(sightings: Sequence[Sighting], size: tuple[int, int]) -> list[Sighting]:
    """Without the second of two that are the same hand, which MediaPipe finds twice now and then."""
    kept: list[Sighting] = []
    for one in sorted(sightings, key=lambda one: -one.score):
        extent = np.ptp(one.image[:, :2] * size, axis=0).max()
        gaps = [np.linalg.norm((one.image - other.image)[:, :2] * size, axis=1).mean() for other in kept]
        if all(gap > extent / 2 for gap in gaps):
            kept.append(one)
    return kept


def _apart(a: Sighting, b: Sighting, size: tuple[int, int]) -> float:
    """Pixels between two wrists."""
    return float(np.hypot(*((a.image - b.image)[WRIST, :2] * size)))


def _put(track: HandTrack, frame: int, side: int, one: Sighting) -> None:
    track.pixels[frame, side] = one.image[:, :2] * track.size - 0.5
    track.relative[frame, side] = one.image[:, 2] * track.size[0]
    track.world[frame, side], track.score[frame, side] = one.world, one.score
