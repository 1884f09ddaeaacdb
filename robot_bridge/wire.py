"""What robot and server say to each other: a fixed header, then raw buffers; no pickle, no types from the network.

    part 0   header, 72 bytes, little-endian: `Header`
    part 1…  HELLO, WELCOME, ERROR: one msgpack map of plain types; READY, ALIVE, BYE: nothing
             RESET:   such a map, then the frames of the video that shows the task, then its goal, JPEGs, if any
             OBSERVE: what is under way, proprio, then each camera's picture in the order of the spec
             CHUNK:   actions, then the server's timing [µs]

But for a task's pictures, which are bounded, shapes and dtypes are never sent: both sides know them from the
`PolicySpec` of the handshake, whose hash stands in every header. A buffer is looked at only when it has exactly the
bytes that the spec says, so nothing on the wire can make anybody allocate. Stamps are of the robot's monotonic clock
and come back as they were sent; a deadline is a time left, so the clocks of the two machines never meet.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from math import prod
from typing import Any, Literal, NamedTuple, get_args

import msgpack
import numpy as np

from policies.policy import Realtime, Underway
from vla.errors import UnderstudyError
from vla.types import ActionChunk, Observation, PolicySpec, Task, VideoClip

Codec = Literal["raw", "jpeg"]
Buffer = bytes | bytearray | memoryview

MAGIC, VERSION = b"USTY", 1
MAX_MESSAGE = 16 << 20
"""Bytes of one message; sockets refuse more (``ZMQ_MAXMSGSIZE``)."""
MAX_MAP = 256 << 10
"""Bytes of a msgpack part."""
JPEG_QUALITY = 90
MAX_FRAMES, MAX_SIDE = 64, 1024
"""Of the video that shows a task, and pixels a side of its pictures."""
TIMING = ("queued", "inferred", "total")
"""What the server says of an answer, microseconds each as uint32."""

_HEADER = struct.Struct("<4sBBH16sQQQqq8s")
_TIMING = struct.Struct("<3I")
_UNDERWAY = struct.Struct("<HH")
_FLOAT = np.dtype("<f4")
_HOW = get_args(Realtime)


class WireError(UnderstudyError):
    """A message that is not what it should be; it is dropped and counted."""


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1
    WELCOME = 2
    RESET = 3
    READY = 4
    OBSERVE = 5
    CHUNK = 6
    ERROR = 7
    ALIVE = 8
    BYE = 9


_KINDS = {int(kind): kind for kind in Kind}


class Header(NamedTuple):
    """The first part of every message.

    ``epoch`` [16 bytes]: drawn anew whenever a server starts; ``episode``: counted by the robot; ``sequence``: counted
    by the sender; ``request``: the robot's number, which an answer repeats; ``stamp_ns``: when the observation was
    made, by the robot's clock; ``budget_ns``: how long the answer is of use; ``spec``: `spec_hash`.
    """

    kind: Kind
    epoch: bytes = bytes(16)
    episode: int = 0
    sequence: int = 0
    request: int = 0
    stamp_ns: int = 0
    budget_ns: int = 0
    spec: bytes = bytes(8)

    def pack(self) -> bytes:
        """72 bytes."""
        return _HEADER.pack(MAGIC, VERSION, self.kind, 0, *self[1:])

    @classmethod
    def unpack(cls, part: Buffer) -> "Header":
        """The inverse of `pack`; raises `WireError`."""
        if len(part) != _HEADER.size:
            raise WireError(f"a header has {_HEADER.size} bytes, got {len(part)}")
        magic, version, kind, reserved, *rest = _HEADER.unpack(part)
        if magic != MAGIC or reserved:
            raise WireError("the message does not begin as one of ours")
        if version != VERSION:
            raise WireError(f"the other side speaks version {version} of the protocol, this one {VERSION}: update one")
        if kind not in _KINDS:
            raise WireError(f"unknown kind of message: {kind}")
        return cls(_KINDS[kind], *rest)


def spec_hash(spec: PolicySpec) -> bytes:
    """8 bytes that change with anything in the spec but the folder of the checkpoint."""
    plain = {**spec.to_dict(), "checkpoint": ""}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).digest()[:8]


def pack_map(plain: Mapping[str, Any]) -> bytes:
    """Plain types as one part."""
    return msgpack.packb(dict(plain), use_bin_type=True)


def unpack_map(part: Buffer) -> dict[str, Any]:
    """The inverse of `pack_map`; raises `WireError`. Types of the sender's own are refused, keys are text."""
    if len(part) > MAX_MAP:
        raise WireError(f"a map has at most {MAX_MAP} bytes, got {len(part)}")
    try:
        plain = msgpack.unpackb(part, raw=False, strict_map_key=True, ext_hook=_no_types)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"this is no map of plain types: {type(error).__name__}") from error
    if not isinstance(plain, dict) or not all(isinstance(key, str) for key in plain):
        raise WireError("this is no map with text for keys")
    return plain


def _no_types(code: int, data: bytes) -> object:
    raise ValueError(f"type {code} of {len(data)} bytes")


def pack_task(task: Task, seed: int) -> list[Buffer]:
    """What is to be done: told, and shown or pictured if it is."""
    plain: dict[str, Any] = {"instruction": task.instruction, "seed": seed}
    pictures: list[np.ndarray] = []
    if task.video is not None:
        plain |= {"video": [*task.video.frames.shape[:3]], "fps": float(task.video.fps)}
        pictures += list(task.video.frames)
    if task.goal is not None:
        plain["goal"] = [*task.goal.shape[:2]]
        pictures.append(task.goal)
    if task.video is not None and len(task.video.frames) > MAX_FRAMES:
        raise WireError(f"a video has at most {MAX_FRAMES} frames on the wire, got {len(task.video.frames)}")
    return [pack_map(plain), *map(_jpeg, pictures)]


def unpack_task(parts: Sequence[Buffer]) -> tuple[Task, int]:
    """The inverse of `pack_task`: the task and its seed. Raises `WireError`."""
    if not parts:
        raise WireError("a task has at least one part")
    told = unpack_map(parts[0])
    instruction, seed = told.get("instruction"), told.get("seed", 0)
    if not isinstance(instruction, str) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise WireError("a task has an instruction, which is text, and a seed, which is a whole number")
    count, height, width = _sizes(told, "video", (MAX_FRAMES, MAX_SIDE, MAX_SIDE)) or (0, 0, 0)
    goal_size, pictures = _sizes(told, "goal", (MAX_SIDE, MAX_SIDE)), parts[1:]
    if len(pictures) != count + bool(goal_size):
        raise WireError(f"a task with {count + bool(goal_size)} pictures has as many parts, got {len(pictures)}")
    video = goal = None
    if count:
        fps = told.get("fps")
        if not isinstance(fps, float) or not 0 < fps < 1e4:
            raise WireError("a video has a rate in frames a second")
        video = VideoClip(np.stack([_picture(part, (height, width, 3)) for part in pictures[:count]]), fps)
    if goal_size:
        goal = _picture(pictures[-1], (goal_size[0], goal_size[1], 3))
    return Task(instruction, video, goal), seed


def _sizes(told: Mapping[str, Any], name: str, most: tuple[int, ...]) -> tuple[int, ...]:
    """Whole numbers from 1 to ``most``, or none where nobody names them."""
    found = told.get(name)
    if found is None:
        return ()
    if not isinstance(found, list) or len(found) != len(most):
        raise WireError(f"the sizes of a task's {name} are {len(most)} whole numbers")
    if any(not isinstance(one, int) or not 1 <= one <= limit for one, limit in zip(found, most, strict=True)):
        raise WireError(f"the sizes of a task's {name} are at most {most}, got {found}")
    return tuple(found)


def pack_observation(
    observation: Observation, spec: PolicySpec, codec: Codec, underway: Underway | None = None
) -> list[Buffer]:
    """What is under way, proprio, and pictures of the sizes that the spec says."""
    proprio = np.ascontiguousarray(observation.proprio, np.float32)
    parts: list[Buffer] = [_pack_underway(underway), proprio.data.cast("B")]
    for camera in spec.cameras:
        image = observation.images[camera.name]
        if image.shape != (camera.height, camera.width, 3):
            raise WireError(
                f"the picture of {camera.name} is {image.shape}, the policy's spec says {camera.height} x "
                f"{camera.width} x 3: resize it before it is sent"
            )
        parts.append(_jpeg(image) if codec == "jpeg" else np.ascontiguousarray(image).data.cast("B"))
    return parts


def unpack_observation(
    parts: Sequence[Buffer], spec: PolicySpec, codec: Codec, *, stamp_ns: int
) -> tuple[Observation, Underway | None]:
    """The inverse of `pack_observation`; raw pictures are views of the parts. Raises `WireError`."""
    if len(parts) != 2 + len(spec.cameras):
        raise WireError(f"an observation has {2 + len(spec.cameras)} parts, got {len(parts)}")
    underway = _unpack_underway(parts[0], spec)
    proprio = _finite(_array(parts[1], (spec.proprio_dim,), _FLOAT, "proprio"), "proprio")
    images = {}
    for camera, part in zip(spec.cameras, parts[2:], strict=True):
        shape = (camera.height, camera.width, 3)
        if codec == "jpeg":
            images[camera.name] = _picture(part, shape)
        else:
            images[camera.name] = _array(part, shape, np.dtype(np.uint8), camera.name)
    return Observation(images=images, proprio=proprio, stamp_ns=stamp_ns), underway


def _pack_underway(underway: Underway | None) -> bytes:
    if underway is None:
        return b""
    actions = np.ascontiguousarray(underway.actions, np.float32)
    return _UNDERWAY.pack(underway.delay, _HOW.index(underway.how)) + actions.tobytes()


def _unpack_underway(part: Buffer, spec: PolicySpec) -> Underway | None:
    if not len(part):
        return None
    view = memoryview(part).cast("B")
    row = 4 * spec.action.dim
    rows, rest = divmod(len(view) - _UNDERWAY.size, row)
    if rest or not 1 <= rows <= spec.pred_horizon:
        raise WireError(f"what is under way has 1 to {spec.pred_horizon} rows of {row} bytes, got {len(view)} bytes")
    delay, how = _UNDERWAY.unpack(view[: _UNDERWAY.size])
    if delay > rows or how >= len(_HOW):
        raise WireError(f"what is under way is known for {rows} rows, a delay of {delay} or a way {how} is not")
    actions = _array(view[_UNDERWAY.size :], (rows, spec.action.dim), _FLOAT, "what is under way")
    return Underway(_finite(actions, "what is under way"), delay, _HOW[how])


def pack_chunk(chunk: ActionChunk, timing_us: Mapping[str, int]) -> list[Buffer]:
    """Actions, and how long the server took for what."""
    actions = np.ascontiguousarray(chunk.actions, np.float32)
    return [actions.data.cast("B"), _TIMING.pack(*(min(timing_us[name], 2**32 - 1) for name in TIMING))]


def unpack_chunk(parts: Sequence[Buffer], spec: PolicySpec, *, stamp_ns: int) -> tuple[ActionChunk, dict[str, int]]:
    """The inverse of `pack_chunk`; raises `WireError`, also for NaN and infinity: such a chunk is never repaired."""
    if len(parts) != 2 or len(parts[1]) != _TIMING.size:
        raise WireError("a chunk has two parts, actions and 12 bytes of timing")
    actions = _finite(_array(parts[0], (spec.pred_horizon, spec.action.dim), _FLOAT, "actions"), "chunk")
    timing = dict(zip(TIMING, _TIMING.unpack(parts[1]), strict=True))
    return ActionChunk(actions, stamp_ns, 1 / spec.control_hz), timing


def _array(part: Buffer, shape: tuple[int, ...], dtype: np.dtype, what: str) -> np.ndarray:
    wanted = prod(shape) * dtype.itemsize
    if len(part) != wanted:
        raise WireError(f"{what} has {wanted} bytes ({' x '.join(map(str, shape))}), got {len(part)}")
    array: np.ndarray = np.ndarray(shape, dtype, part)
    return array if array.flags.aligned else array.copy()


def _finite(array: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(array).all():
        raise WireError(f"the {what} holds NaN or infinity")
    return array


def _jpeg(image: np.ndarray) -> bytes:
    import cv2

    _, coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return coded.tobytes()


def _picture(part: Buffer, shape: tuple[int, int, int]) -> np.ndarray:
    """A JPEG of exactly ``shape``: its own header is read before anything of that size is allocated."""
    size = jpeg_size(part)
    if size != shape[:2]:
        raise WireError(f"a JPEG of {shape[0]} x {shape[1]} was expected, got {size}")
    import cv2

    image = cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR)
    if image is None or image.shape != shape:
        raise WireError("the JPEG cannot be decoded")
    return np.ascontiguousarray(image[..., ::-1])


def jpeg_size(part: Buffer) -> tuple[int, int] | None:
    """Height and width that a JPEG claims, from its frame header; ``None`` when it has none."""
    data, at = memoryview(part).cast("B"), 2
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        if length < 2:
            return None
        at += 2 + length
    return None
