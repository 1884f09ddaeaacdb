"""An episode while it is recorded: one file that is only ever appended to, so that a kill costs at most its last piece.

    magic │ frame: head │ frame: record of a table │ frame │ …                     name.spool.part until it is finished
    frame:  kind u8 │ length u32 │ CRC-32 u32 │ payload

The head is JSON: the policy's spec, the task, and the tables with the fields of their records. A record is a numpy
structure as it lies in memory. Numpy is all that is needed to write one, and nothing in it is ever executed.

A robot without the libraries of a dataset can write spools; ``vla data import FOLDER DATASET`` makes a dataset of them.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla.errors import UnderstudyError
from vla.types import Episode, PolicySpec, Task

SUFFIX, PART = ".spool", ".part"
MAGIC = b"USPOOL1\n"
FORMAT = 1
EARLY = 0.1
"""A step may be this share of its period older than the observation that it is counted to: both are due at once."""
_FRAME = struct.Struct("<BII")
_HEAD = 255
_LARGEST_HEAD = 1 << 20
_KINDS = "iufbS"

Table = Sequence[tuple[Any, ...]]
"""Name, dtype and, for an array, shape of each field of a record."""


class Spool:
    """The writing end. Every call may raise `OSError`; what was written before it is still whole."""

    def __init__(self, file: Path, head: Mapping[str, object], tables: Mapping[str, Table]) -> None:
        """Begin the file that will be ``file``, ``*.spool``, once it is finished.

        ``head``: plain JSON types: policy (`PolicySpec.to_dict`), embodiment, instruction, source; ``tables``: the
        fields of each table's records, by the table's name.
        """
        self.file, self._kinds = file, {name: number for number, name in enumerate(tables)}
        self._part = file.with_name(file.name + PART)
        self._whole = 0
        self._opened = self._part.open("xb", buffering=0)
        fields = {name: [_plain(field) for field in table] for name, table in tables.items()}
        self._append(MAGIC)
        self._frame(_HEAD, json.dumps({"format": FORMAT, **head, "tables": fields}, allow_nan=False).encode())

    def write(self, table: str, record: Any) -> None:
        """Append one record of the table's fields."""
        self._frame(self._kinds[table], record.tobytes())

    def sync(self) -> None:
        """Bring what was written to the disk itself, against a loss of power; may take long."""
        os.fsync(self._opened.fileno())

    def finish(self) -> Path:
        """The episode has ended: the file's name is ``file`` from now on."""
        self._opened.truncate(self._whole)
        self.sync()
        self.close()
        return self._part.rename(self.file)

    def close(self) -> None:
        """Leave it as it is, unfinished."""
        self._opened.close()

    def _frame(self, kind: int, payload: bytes) -> None:
        check = zlib.crc32(payload, kind)
        self._append(_FRAME.pack(kind, len(payload), check) + payload)

    def _append(self, piece: bytes) -> None:
        """A write that was broken off, by a signal or a full disk, is written over by the next."""
        self._opened.seek(self._whole)
        left = memoryview(piece)
        while left:
            left = left[self._opened.write(left) or 0 :]
        self._whole += len(piece)


class Spooled:
    """The reading end: what is whole of a file that may be torn.

    ``head``: see `Spool`; ``policy``; ``counts``: records by table; ``torn``: bytes at the end that are not whole.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._offsets: dict[str, list[int]] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        try:
            with file.open("rb") as opened:
                self._scan(opened)
        except (KeyError, TypeError, ValueError) as error:
            raise UnderstudyError(f"{file} is not a spool of this version: {error}") from error

    @property
    def counts(self) -> dict[str, int]:
        """Whole records by table."""
        return {name: len(offsets) for name, offsets in self._offsets.items()}

    def column(self, table: str, field: str, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """A field of the records ``rows`` (all, if not given), [T, …]; nothing else is read."""
        fields = self._dtypes[table].fields
        assert fields is not None
        dtype, inside = fields[field][:2]
        offsets = self._offsets[table]
        chosen = range(len(offsets)) if rows is None else rows.tolist()
        found = np.empty((len(chosen), *dtype.shape), dtype.base)
        with self.file.open("rb") as opened:
            for row, number in enumerate(chosen):
                opened.seek(offsets[number] + inside)
                found[row] = np.frombuffer(opened.read(dtype.itemsize), dtype.base).reshape(dtype.shape)
        return found

    def _scan(self, opened: Any) -> None:
        size, end = self.file.stat().st_size, len(MAGIC)
        if opened.read(len(MAGIC)) != MAGIC:
            raise ValueError("it does not begin like one")
        names: list[str] = []
        while (frame := self._next(opened, names)) is not None:
            kind, payload = frame
            if kind == _HEAD:
                self.head = json.loads(payload)
                if self.head["format"] != FORMAT:
                    raise ValueError(f"its format is {self.head['format']}, known is {FORMAT}")
                names = self._read_tables()
            else:
                self._offsets[names[kind]].append(end + _FRAME.size)
            end += _FRAME.size + len(payload)
        if not names:
            raise ValueError("it has no head")
        self.policy, self.torn = PolicySpec.from_dict(self.head["policy"]), size - end

    def _next(self, opened: Any, names: list[str]) -> tuple[int, bytes] | None:
        """The next frame; ``None`` at the first that is not whole."""
        start = opened.read(_FRAME.size)
        if len(start) < _FRAME.size:
            return None
        kind, length, check = _FRAME.unpack(start)
        if kind < len(names):
            fits = length == self._dtypes[names[kind]].itemsize
        else:
            fits = kind == _HEAD and not names and length <= _LARGEST_HEAD
        payload = opened.read(length) if fits else b""
        whole = fits and len(payload) == length and zlib.crc32(payload, kind) == check
        return (kind, payload) if whole else None

    def _read_tables(self) -> list[str]:
        for name, table in self.head["tables"].items():
            dtype = np.dtype([(field, kind, tuple(shape)) for field, kind, shape in table])
            if any(np.dtype(kind).kind not in _KINDS for _, kind, _ in table):
                raise ValueError(f"the table {name} holds something else than numbers and text")
            self._dtypes[name], self._offsets[name] = dtype, []
        return list(self._dtypes)


def _plain(field: tuple[Any, ...]) -> list[Any]:
    name, kind, shape = (*field, ()) if len(field) == 2 else field
    return [name, np.dtype(kind).str, list(shape)]


def find_spools(folder: Path, *, unfinished: bool = True) -> list[Path]:
    """The spools in ``folder``, oldest name first; with ``unfinished`` also those that nobody finished."""
    found = list(folder.glob(f"*{SUFFIX}"))
    if unfinished:
        found += folder.glob(f"*{SUFFIX}{PART}")
    return sorted(found)


def episode_of(spooled: Spooled) -> Episode:
    """The episode in a spool with the tables ``seen`` (stamp_ns, trouble, proprio, image_*) and ``steps``.

    Row t of its actions is what was commanded at observation t: see `pair`. What was seen badly, or while nothing was
    commanded, is left out. Raises `UnderstudyError` when nothing remains.
    """
    stamps, steps = spooled.column("seen", "stamp_ns"), spooled.column("steps", "stamp_ns")
    good = np.flatnonzero(spooled.column("seen", "trouble") == b"")
    rows, acts = pair(stamps[good], steps, round(1e9 / spooled.policy.control_hz))
    if not len(rows):
        raise UnderstudyError(f"{spooled.file} holds no observation at which an action was commanded")
    rows, head = good[rows], spooled.head
    return Episode(
        images={
            camera.name: partial(spooled.column, "seen", f"image_{camera.name}", rows)
            for camera in spooled.policy.cameras
        },
        proprio=spooled.column("seen", "proprio", rows),
        actions=spooled.column("steps", "sent", acts),
        task=Task(head["instruction"]),
        fps=spooled.policy.control_hz,
        embodiment=head["embodiment"],
        success=None,
        source=head["source"],
        stamps_ns=stamps[rows],
    )


def pair(
    seen_ns: NDArray[np.int64], steps_ns: NDArray[np.int64], period_ns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each observation the step of the policy at or after it: rows of ``seen_ns`` [T] and of ``steps_ns`` [S].

    Steps begin at whole multiples of the period. Observations come once a period, but not quite: taken one by one, two
    of them would now and then get the same step, and the next none, which spoils actions that are displacements. So
    each is first moved to where it was due, by the mean offset of all.
    """
    if not len(seen_ns) or not len(steps_ns):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    base = int(seen_ns[0]) // period_ns
    since = (seen_ns - base * period_ns).astype(np.float64)
    turns = np.angle(np.exp(2j * np.pi * since / period_ns).mean()) / (2 * np.pi) % 1.0
    slots = base + np.round(since / period_ns - turns).astype(np.int64) + (turns > EARLY)
    _, rows, acts = np.intersect1d(slots, steps_ns // period_ns, return_indices=True)
    return rows.astype(np.int64), acts.astype(np.int64)
