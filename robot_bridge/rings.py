"""Memory that several processes of one machine share, so that none of them ever waits for another.

A `Ring` has one writer and any number of readers. The writer overwrites the oldest record; a reader that was too slow
is told how many it missed. A record is a fixed numpy structure, so nothing is pickled and nothing allocated.

    written │ slot 0 │ slot 1 │ …
    slot:     number before │ record │ number after       the same number on both sides: the record is whole

Each number lies at a multiple of its size, so that it is stored and loaded at once.
"""

import errno
import mmap
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla.errors import UnderstudyError

TRIES = 100
Field = tuple[str, Any] | tuple[str, Any, tuple[int, ...]]


class Ring:
    """Records in a file of the folder that a run's processes share; made by whoever opens it first with ``make``."""

    def __init__(self, file: Path, fields: Sequence[Field], *, slots: int = 8, make: bool = False) -> None:
        """``fields``: name, dtype and, for an array, shape of each entry of a record.

        Raises `UnderstudyError` when it is made where there is no room for it.
        """
        dtype = np.dtype([("before", "<u8"), ("record", list(fields)), ("after", "<u8")], align=True)
        size = 8 + dtype.itemsize * slots
        if make:
            _make(file, size)
        with file.open("r+b") as opened:
            memory = mmap.mmap(opened.fileno(), size)
        self._count: NDArray[np.uint64] = np.frombuffer(memory, "<u8", count=1)
        kept: NDArray[Any] = np.frombuffer(memory, dtype, offset=8)
        self._slots = slots
        self._before, self._records, self._after = kept["before"], kept["record"], kept["after"]
        self._blank: NDArray[Any] = np.zeros((), dtype["record"])

    def write(self, **entries: object) -> None:
        """Write one record; what is not given is zero."""
        number = self.written + 1
        slot = number % self._slots
        self._before[slot] = number
        record = self._records[slot]
        for name in self._blank.dtype.names or ():
            record[name] = entries.get(name, self._blank[name])
        self._after[slot] = number
        self._count[0] = number

    def newest(self) -> Any | None:
        """The last whole record, a copy; ``None`` when nothing has been written, and only then.

        A reader that is held up while the writer goes round reads again, in the end one that was written before.
        """
        if not self.written:
            return None
        for _ in range(TRIES):
            found = self._read(self.written)
            if found is not None:
                return found
        for number in range(self.written, self.written - self._slots, -1):
            found = self._read(number)
            if found is not None:
                return found
        raise UnderstudyError("this ring is written faster than it can be read: give it more slots")

    @property
    def written(self) -> int:
        """How many records have been written in all."""
        return int(self._count[0])

    def since(self, seen: int) -> tuple[list[Any], int, int]:
        """The records after the first ``seen``, how many have been written now, and how many of them are lost."""
        written = self.written
        first = max(seen + 1, written - self._slots + 2)
        found = [record for number in range(first, written + 1) if (record := self._read(number)) is not None]
        return found, written, written - seen - len(found)

    def _read(self, number: int) -> Any | None:
        slot = number % self._slots
        if self._after[slot] != number:
            return None
        copy = self._records[slot].copy()
        return copy if self._before[slot] == number else None


def _make(file: Path, size: int) -> None:
    """A file of zeros whose memory is there: where it is only promised, a write to it can kill the process."""
    with file.open("wb") as made:
        made.truncate(size)
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(made.fileno(), 0, size)
        except OSError as error:
            file.unlink()
            if error.errno != errno.ENOSPC:
                raise
            left = shutil.disk_usage(file.parent).free / 2**20
            raise UnderstudyError(
                f"{file} needs {size / 2**20:.1f} MiB of memory, {left:.1f} MiB are free in {file.parent}: make room"
            ) from error


def text(value: str, size: int) -> bytes:
    """``value`` as at most ``size`` bytes, for a record's field ``S<size>``."""
    return value.encode()[:size]
