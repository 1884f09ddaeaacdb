"""Memory that several processes of one machine share, so that none of them ever waits for another.

A `Ring` has one writer and any number of readers. The writer overwrites the oldest record; a reader that was too slow
is told how many it missed. A record is a fixed numpy structure, so nothing is pickled and nothing allocated.

    written │ slot 0 │ slot 1 │ …
    slot:     number before │ record │ number after       the same number on both sides: the record is whole
"""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = tuple[str, Any] | tuple[str, Any, tuple[int, ...]]


class Ring:
    """Records in a file of the folder that a run's processes share; made by whoever opens it first with ``make``."""

    def __init__(self, file: Path, fields: Sequence[Field], *, slots: int = 8, make: bool = False) -> None:
        """``fields``: name, dtype and, for an array, shape of each entry of a record."""
        dtype = np.dtype([("before", "<u8"), ("record", list(fields)), ("after", "<u8")])
        size = 8 + dtype.itemsize * slots
        if make:
            with file.open("wb") as made:
                made.truncate(size)
        with file.open("r+b") as opened:
            memory = mmap.mmap(opened.fileno(), size)
        self._count: NDArray[np.uint64] = np.frombuffer(memory, "<u8", count=1)
        self._slots: NDArray[Any] = np.frombuffer(memory, dtype, offset=8)
        self._blank: NDArray[Any] = np.zeros((), dtype["record"])

    def write(self, **entries: object) -> None:
        """Write one record; what is not given is zero."""
        number = self.written + 1
        slot = self._slots[number % len(self._slots)]
        slot["before"] = number
        record = slot["record"]
        for name in self._blank.dtype.names or ():
            record[name] = entries.get(name, self._blank[name])
        slot["after"] = number
        self._count[0] = number

    def newest(self) -> Any | None:
        """The last whole record, a copy; ``None`` when nothing has been written."""
        for _ in range(100):
            number = self.written
            if not number:
                return None
            found = self._read(number)
            if found is not None:
                return found
        return None

    @property
    def written(self) -> int:
        """How many records have been written in all."""
        return int(self._count[0])

    def since(self, seen: int) -> tuple[list[Any], int, int]:
        """The records after the first ``seen``, how many have been written now, and how many of them are lost."""
        written = self.written
        first = max(seen + 1, written - len(self._slots) + 2)
        found = [record for number in range(first, written + 1) if (record := self._read(number)) is not None]
        return found, written, written - seen - len(found)

    def _read(self, number: int) -> Any | None:
        slot = self._slots[number % len(self._slots)]
        if slot["after"] != number:
            return None
        copy = slot["record"].copy()
        return copy if slot["before"] == number else None


def text(value: str, size: int) -> bytes:
    """``value`` as at most ``size`` bytes, for a record's field ``S<size>``."""
    return value.encode()[:size]
