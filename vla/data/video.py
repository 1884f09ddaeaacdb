"""Frames in and out of mp4, by timestamp, through PyAV (no ffmpeg program needed)."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from vla.errors import UnderstudyError

CRF = 18
GOP = 2
"""Every second frame is a key frame: any frame is at most two decodes away, as in LeRobot's own videos."""
MILLISECOND = Fraction(1, 1000)
SAME_S = 1e-4
"""Presentation times [s] no farther apart than this are the same: containers count in ticks of down to 1/90000 s."""
CUT_SHARE, CUT_S = 0.1, 0.5
"""A video that ends earlier than its header says by more than this share and this time [s] was cut off."""


def encode_mp4(frames: np.ndarray, fps: float) -> bytes:
    """H.264 mp4 of [T, H, W, 3] uint8, frame *t* at ``t / fps`` seconds; odd sizes are kept (in yuv444p)."""
    _, height, width, _ = frames.shape
    rate = Fraction(fps).limit_denominator(1001)
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(CRF), "preset": "veryfast"})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"
        stream.gop_size = GOP
        stream.codec_context.max_b_frames = 0
        stream.time_base = 1 / rate
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


def decode_span(
    path: Path, *, start_s: float, count: int, fps: float, size: tuple[int, int] | None = None
) -> np.ndarray:
    """``count`` frames [T, H, W, 3] uint8 at ``start_s``, ``start_s + 1/fps``, …, shrunk to ``size`` (H, W) if given.

    Raises `UnderstudyError` naming the file when it is missing, damaged, or ends before the last frame.
    """
    return decode_at(path, start_s + np.arange(count) / fps, tolerance_s=0.5 / fps, size=size)


def decode_at(
    path: Path, stamps_s: np.ndarray, *, tolerance_s: float, size: tuple[int, int] | None = None
) -> np.ndarray:
    """The frames [T, H, W, 3] uint8 nearest to ``stamps_s`` [T] (ascending), none farther than ``tolerance_s``.

    With ``size`` (H, W) each frame is resized by area as it is decoded, so that a long video never lies in memory at
    its full size.
    """
    frames: list[np.ndarray] = []
    best: tuple[float, np.ndarray] | None = None
    wanted = iter(np.asarray(stamps_s, np.float64))
    target = next(wanted, None)
    for stamp, frame in _decoded(path, float(stamps_s[0]) if len(stamps_s) else 0.0):
        while target is not None and best is not None and abs(best[0] - target) <= abs(stamp - target):
            frames.append(_within(path, best, target, tolerance_s))
            target = next(wanted, None)
        if target is None:
            break
        best = (stamp, frame if size is None else resized(frame, size))
    while target is not None:
        if best is None or target - best[0] > tolerance_s:
            raise UnderstudyError(
                f"{path} ends after {len(frames)} of the {len(stamps_s)} frames that its dataset promises; "
                "the video is truncated: fetch it again, or leave this episode out"
            )
        frames.append(_within(path, best, target, tolerance_s))
        target = next(wanted, None)
    return np.stack(frames)


def _within(path: Path, best: tuple[float, np.ndarray], target: float, tolerance_s: float) -> np.ndarray:
    stamp, frame = best
    if abs(stamp - target) > tolerance_s:
        raise UnderstudyError(
            f"{path} has no frame at {target:.4f} s: the nearest is at {stamp:.4f} s, "
            f"more than {tolerance_s:.4f} s away"
        )
    return frame


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image [H, W, 3] uint8 at ``size`` (H, W): every new pixel is the mean of the area that it covers."""
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def decode_all(path: Path) -> np.ndarray:
    """Every frame of a video [T, H, W, 3] uint8; raises `UnderstudyError` naming a damaged file."""
    frames = [frame for _, frame in _decoded(path, 0.0)]
    if not frames:
        raise UnderstudyError(f"{path} holds no frame that can be decoded; fetch it again")
    return np.stack(frames)


def _decoded(path: Path, start_s: float) -> Iterator[tuple[float, np.ndarray]]:
    """(presentation time in seconds, RGB frame), from the last key frame at or before ``start_s``."""
    for number, (stamp, frame) in enumerate(_pictures(path, start_s)):
        # A decoder hides damage by repeating what it has; it only tells by this mark.
        if frame.is_corrupt:
            raise UnderstudyError(f"{path} is damaged at decoded frame {number}; fetch it again")
        yield stamp, frame.to_ndarray(format="rgb24")


def _pictures(path: Path, start_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """(presentation time in seconds, frame as the codec gives it), from the last key frame at or before ``start_s``."""
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        _seek(container, stream, start_s)
        for frame in container.decode(stream):
            if frame.pts is not None:
                yield float(frame.pts * stream.time_base), frame


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    if not path.is_file():
        raise UnderstudyError(f"there is no video {path}")
    try:
        # A title that is no UTF-8 is no reason to refuse the pictures.
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            # PyAV goes on without a decoder, and the process dies at the first frame.
            if stream.codec_context is None or not stream.time_base:
                raise UnderstudyError(f"{path} is in a codec that cannot be decoded, or damaged; fetch it again")
            yield container, stream
    except (FFmpegError, IndexError) as error:
        raise UnderstudyError(f"{path} is damaged and cannot be decoded ({error}); fetch it again") from error


def _seek(container: InputContainer, stream: VideoStream, start_s: float) -> None:
    if start_s > 0:
        container.seek(max(0, round(start_s / stream.time_base) - 1), stream=stream, backward=True)


def packet_stamps(path: Path, *, start_s: float = 0.0, stop_s: float | None = None) -> np.ndarray:
    """When the frames from ``start_s`` to before ``stop_s`` are shown [s], float64 [T] ascending, without decoding.

    They are the file's own times, so a variable frame rate is told as it is. Raises `UnderstudyError` naming the file
    when it is missing, damaged, or ends long before its header says.
    """
    shown: list[float] = []
    end = 0.0
    with _opened(path) as (container, stream):
        _seek(container, stream, start_s)
        for packet in container.demux(stream):
            if stop_s is not None and packet.dts is not None and packet.dts * stream.time_base >= stop_s:
                break  # nothing is shown before it is decoded
            if packet.pts is None or not packet.size or packet.is_discard:
                continue
            shown.append(float(packet.pts * stream.time_base))
            end = max(end, float((packet.pts + (packet.duration or 0)) * stream.time_base))
        else:
            _refuse_cut(path, end, _promised_end(container, stream))
    stamps = np.unique(np.array(shown, np.float64))
    last = np.inf if stop_s is None else stop_s - SAME_S
    return stamps[(stamps >= start_s - SAME_S) & (stamps < last)]


def _promised_end(container: InputContainer, stream: VideoStream) -> float:
    """Where the header says that the pictures end [s], 0 where it does not say."""
    if stream.duration:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    # With sound beside the pictures, the container's duration is that of the longer of the two.
    return container.duration / av.time_base if container.duration and len(container.streams) == 1 else 0.0


def _refuse_cut(path: Path, end_s: float, promised_s: float) -> None:
    if end_s < promised_s * (1 - CUT_SHARE) - CUT_S:
        raise UnderstudyError(f"{path} is cut off at {end_s:.2f} s of {promised_s:.2f} s; fetch it again")


def every_frame(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """When each frame is shown [s], ascending, and the frame [H, W, 3] uint8, upright; those that are damaged left out.

    Raises `UnderstudyError` naming the file when it is missing or is no video.
    """
    last = -np.inf
    for stamp, frame in _pictures(path, 0.0):
        if stamp > last and not frame.is_corrupt:
            last = stamp
            yield stamp, _upright(frame)


def write_mp4(path: Path, frames: Iterable[tuple[float, np.ndarray]], *, fps: float) -> None:
    """H.264 mp4 of frames [H, W, 3] uint8 and when each is shown [s], one by one as they come; ``fps``: about how many.

    An odd side loses its last pixel. Written beside its place and moved there when it is whole.
    """
    partial = path.with_name(f".{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    first = stream = None
    with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        for stamp, pixels in frames:
            even = np.ascontiguousarray(pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2])
            if stream is None:
                first, options = stamp, {"crf": "23", "preset": "veryfast"}
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt, stream.time_base = "yuv420p", MILLISECOND
                stream.codec_context.time_base = MILLISECOND
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            frame.pts, frame.time_base = round(1000 * (stamp - first)), MILLISECOND
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
    if stream is None:
        partial.unlink(missing_ok=True)
        raise UnderstudyError(f"there is no frame for {path}")
    partial.replace(path)


def frames_at(path: Path, stamps_s: np.ndarray) -> Iterator[np.ndarray]:
    """The frames [H, W, 3] uint8 shown at ``stamps_s`` (ascending, from `packet_stamps`), upright, each given once.

    Only these are converted to RGB. Raises `UnderstudyError` naming the file when it is missing or damaged, or when
    one in ten of the frames does not come out.
    """
    given = place = 0
    for stamp, frame in _pictures(path, float(stamps_s[0])):
        if stamp < stamps_s[0] - SAME_S:
            continue  # after a jump, the frames on the way to the first one may lack what they are built from
        if frame.is_corrupt:
            raise UnderstudyError(f"{path} is damaged at {stamp:.2f} s; fetch it again")
        if stamp < stamps_s[place] - SAME_S:
            continue
        yield _upright(frame)
        given += 1
        place = int(np.searchsorted(stamps_s, stamp + SAME_S, side="right"))
        if place == len(stamps_s):
            break
    if given < 0.9 * len(stamps_s):
        raise UnderstudyError(f"{path} gives only {given} of {len(stamps_s)} frames; it is damaged: fetch it again")


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """RGB, turned as a phone's recording asks for."""
    image = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def frame_size(path: Path) -> tuple[int, int]:
    """Height and width of a video in pixels; `UnderstudyError` when it is missing or damaged."""
    if not path.is_file():
        raise UnderstudyError(f"there is no video {path}")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return stream.height, stream.width
    except (FFmpegError, IndexError) as error:
        raise UnderstudyError(f"{path} is damaged and cannot be read ({error}); fetch it again") from error


def probe(path: Path) -> tuple[int, float]:
    """Number of frames and duration [s] of a video's packets, without decoding; `UnderstudyError` when damaged."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.pts is not None and packet.size]
            end = max((packet.pts + (packet.duration or 0) for packet in packets), default=0)
            return len(packets), float(end * stream.time_base)
    except (FFmpegError, IndexError) as error:
        raise UnderstudyError(f"{path} is damaged and cannot be read ({error}); fetch it again") from error
