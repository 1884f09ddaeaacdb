"""A million messages that are none, into all that reads from the wire: only `WireError` may come out.

Most are valid messages that were spoiled; the rest are random bytes. What is read counts too: a picture, a chunk or an
observation has the shape and the numbers that the spec says, whoever sent it. No batch may take more memory than a few
valid messages would. With --guided SECONDS, and atheris installed, inputs are also searched by the code they reach.
"""

import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from policies.policy import Underway
from robot_bridge import wire
from robot_bridge.wire import Header, Kind, WireError
from vla.bench import Row, parser, write_bench
from vla.errors import UnderstudyError
from vla.types import ActionChunk, ActionSpec, CameraSpec, Observation, PolicySpec, Task, VideoClip

Parts = list[bytes]

SPEC = PolicySpec(
    cameras=(CameraSpec("front", 24, 32), CameraSpec("wrist", 16, 16)),
    proprio_names=("x", "y"),
    action=ActionSpec("ee_delta", ("dx", "dy", "dz"), (-1.0,) * 3, (1.0,) * 3),
    accepts=("instruction",),
    obs_horizon=1,
    pred_horizon=5,
    exec_horizon=2,
    control_hz=20.0,
)
BATCH = 1000
TRACED = 20
"""One batch of so many is traced: that is slow."""
MOST_BYTES = 8 << 20
"""That one batch may have allocated at once."""
EXTREME = (b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff" * 8, b"\xdf\xff\xff\xff\xff")


def _observation() -> Observation:
    rng = np.random.default_rng(0)
    images = {one.name: rng.integers(0, 256, (one.height, one.width, 3), np.uint8) for one in SPEC.cameras}
    return Observation(images, np.array([0.5, -1.0], np.float32), 7)


def _bytes(parts: Sequence[wire.Buffer]) -> Parts:
    return [bytes(part) for part in parts]


def valid() -> dict[str, Parts]:
    """Reader → a message that it takes."""
    underway = Underway(np.ones((3, 3), np.float32), 2, "guided")
    chunk = ActionChunk(np.ones((5, 3), np.float32), 7, 0.05)
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    jpeg = _bytes(wire.pack_observation(_observation(), SPEC, "jpeg"))
    plain = {"robot": "r", "arm": "a", "codecs": ["raw", "jpeg"], "deep": {"a": [1, 2.5, None, True, b"\x00"]}}
    return {
        "header": [Header(Kind.OBSERVE, bytes(range(16)), 3, 4, 5, -6, 7, bytes(8)).pack()],
        "map": [wire.pack_map(plain)],
        "raw": _bytes(wire.pack_observation(_observation(), SPEC, "raw", underway)),
        "jpeg": jpeg,
        "chunk": _bytes(wire.pack_chunk(chunk, {"queued": 1, "inferred": 2, "total": 3})),
        "jpeg size": [jpeg[2]],
        "task": _bytes(wire.pack_task(Task("lift", VideoClip(frames, 10.0), frames[0]), 3)),
    }


def _read_observation(parts: Parts, codec: wire.Codec) -> None:
    seen, underway = wire.unpack_observation(parts, SPEC, codec, stamp_ns=7)
    for camera in SPEC.cameras:
        image = seen.images[camera.name]
        assert (image.shape, image.dtype) == ((camera.height, camera.width, 3), np.uint8)
    assert np.isfinite(seen.proprio).all()
    assert underway is None or np.isfinite(underway.actions).all()


def _read_chunk(parts: Parts) -> None:
    chunk, _ = wire.unpack_chunk(parts, SPEC, stamp_ns=7)
    assert chunk.actions.shape == (5, 3)
    assert np.isfinite(chunk.actions).all()


READERS: dict[str, Callable[[Parts], object]] = {
    "header": lambda parts: Header.unpack(parts[0]),
    "map": lambda parts: wire.unpack_map(parts[0]),
    "raw": lambda parts: _read_observation(parts, "raw"),
    "jpeg": lambda parts: _read_observation(parts, "jpeg"),
    "chunk": _read_chunk,
    "jpeg size": lambda parts: wire.jpeg_size(parts[0]),
    "task": wire.unpack_task,
}


def spoiled(parts: Parts, random: Random) -> Parts:
    """``parts`` after one to four mishaps; never none at all."""
    made = [bytearray(part) for part in parts]
    for _ in range(random.randint(1, 4)):
        MISHAPS[random.randrange(len(MISHAPS))](made, random)
    return [bytes(part) for part in made] or [b""]


def _flip(made: list[bytearray], random: Random) -> None:
    part = random.choice(made)
    for _ in range(random.randint(1, 4) if part else 0):
        part[random.randrange(len(part))] = random.randrange(256)


def _put(made: list[bytearray], random: Random) -> None:
    part, piece = random.choice(made), random.choice(EXTREME)
    at = random.randint(0, len(part))
    part[at : at + len(piece) * random.randint(0, 1)] = piece


def _cut(made: list[bytearray], random: Random) -> None:
    part = random.choice(made)
    del part[random.randint(0, len(part)) :]


def _add(made: list[bytearray], random: Random) -> None:
    random.choice(made).extend(random.randbytes(random.choice((1, 2, 4, 8, 100, 5000))))


def _noise(made: list[bytearray], random: Random) -> None:
    part = random.choice(made)
    part[:] = random.randbytes(len(part))


def _repeat(made: list[bytearray], random: Random) -> None:
    if len(made) < 8:
        made.insert(random.randint(0, len(made)), bytearray(random.choice(made)))


def _drop(made: list[bytearray], random: Random) -> None:
    if len(made) > 1:
        del made[random.randrange(len(made))]


def _nest(made: list[bytearray], random: Random) -> None:
    part = random.choice(made)
    part[:0] = random.choice((b"\x91", b"\x81\xa1a", b"\xff\xd8\xff")) * random.choice((1, 10, 2000))


MISHAPS = (_flip, _flip, _flip, _put, _put, _cut, _add, _noise, _repeat, _drop, _nest)


def inputs(seed: int) -> Iterator[tuple[str, Parts]]:
    """Reader and message, without end; the same for the same ``seed``."""
    random, whole = Random(seed), valid()
    names = list(whole)
    while True:
        for name in names:
            if random.random() < 0.1:
                yield name, [random.randbytes(random.randint(0, 300)) for _ in range(random.randint(1, 5))]
            else:
                yield name, spoiled(whole[name], random)


@dataclass
class Found:
    """``crashes``: what came out that should not; ``peak``: bytes that a batch had allocated at once."""

    counts: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    peak: int = 0

    def read(self, name: str, parts: Parts) -> None:
        """One input."""
        try:
            READERS[name](parts)
        except WireError:
            self.counts["refused"] += 1
        except Exception as error:  # noqa: BLE001 that is what is looked for
            self.crashes.append(f"{name}: {type(error).__name__}: {error}: {[part.hex() for part in parts]}"[:2000])
        else:
            self.counts["read"] += 1


@contextmanager
def hushed() -> Iterator[None]:
    """Without what libjpeg says of each spoiled picture."""
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@hushed()
def run(count: int, seed: int = 0) -> Found:
    """Read ``count`` inputs."""
    found, source = Found(), inputs(seed)
    for batch in range(-(-count // BATCH)):
        traced = batch % TRACED == 0
        if traced:
            tracemalloc.start()
        for _ in range(min(BATCH, count - batch * BATCH)):
            found.read(*next(source))
        if traced:
            found.peak = max(found.peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    return found


def packed(name: str, parts: Parts) -> bytes:
    """A message as one piece, for `unpacked`."""
    return bytes([list(READERS).index(name)]) + b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def unpacked(data: bytes) -> tuple[str, Parts]:
    """Whatever ``data`` is, a reader and parts for it."""
    name, at, parts = list(READERS)[data[0] % len(READERS) if data else 0], 1, []
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        parts.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return name, parts or [b""]


def guided(seconds: int, folder: str) -> None:
    """Let atheris search; ends the process."""
    import atheris  # a tool that is brought along, not a dependency

    for name in ("unpack_map", "unpack_observation", "unpack_chunk", "jpeg_size", "_unpack_underway", "_picture"):
        setattr(wire, name, atheris.instrument_func(getattr(wire, name)))

    def one(data: bytes) -> None:
        found = Found()
        found.read(*unpacked(data))
        assert not found.crashes, found.crashes

    for name, parts in valid().items():
        (Path(folder) / name.replace(" ", "-")).write_bytes(packed(name, parts))
    limits = [f"-max_total_time={seconds}", "-max_len=8192", "-rss_limit_mb=2048", "-print_final_stats=1"]
    atheris.Setup(["fuzz", folder, *limits], one)
    atheris.Fuzz()


def search(seconds: int) -> tuple[int, str]:
    """Inputs that atheris tried in a process of its own, and a note; raises `UnderstudyError` when one crashed."""
    with TemporaryDirectory() as folder:
        code = f"from vla.bench import script; script('fuzz').guided({seconds}, {folder!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder, timeout=seconds + 120
        )
    if "No module named 'atheris'" in done.stderr:
        return 0, "not guided by coverage: atheris is not installed"
    if done.returncode:
        raise UnderstudyError(f"guided by coverage, an input crashed: {done.stderr[-2000:]}")
    tried = int((re.findall(r"number_of_executed_units: (\d+)", done.stderr) or ["0"])[-1])
    reached = (re.findall(r"cov: (\d+)", done.stderr) or ["?"])[-1]
    return tried, f"guided by coverage for {seconds} s: {reached} edges reached"


def main(argv: list[str]) -> int:
    """``vla bench fuzz``."""
    arguments = parser("fuzz", __doc__)
    arguments.add_argument("--inputs", type=int, help="how many (100,000; 1,000,000 with --long)")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--guided", type=int, default=0, metavar="SECONDS", help="with atheris, for so long")
    given = arguments.parse_args(argv)
    count = given.inputs or (1_000_000 if given.long else 100_000)
    run(BATCH, given.seed)  # everything is imported, and has grown to its size
    before, begun = getrusage(RUSAGE_SELF).ru_maxrss, perf_counter()
    found = run(count, given.seed)
    seconds, grown = perf_counter() - begun, getrusage(RUSAGE_SELF).ru_maxrss - before
    rows = [
        Row("inputs", count, "messages"),
        Row("inputs per second", count / seconds, "1/s"),
        Row("refused", found.counts["refused"], "messages"),
        Row("read", found.counts["read"], "messages"),
        Row("crashes", len(found.crashes), "messages"),
        Row("peak of a batch", found.peak / 2**20, "MiB"),
        Row("growth of the process", grown / 2**10, "MiB"),
    ]
    notes = []
    if given.guided:
        tried, note = search(given.guided)
        rows.append(Row("guided inputs", tried, "messages"))
        notes.append(note)
    write_bench("fuzz", rows, {}, given.json, notes=notes)
    if found.crashes or found.peak > MOST_BYTES:
        raise UnderstudyError(
            f"{len(found.crashes)} crashes, a peak of {found.peak} bytes: {json.dumps(found.crashes[:3])}"
        )
    return 0
