"""Memory that processes share: no reader ever sees half a record, and each knows what it has missed."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from robot_bridge.rings import Ring, text
from vla.errors import UnderstudyError

FIELDS = [("odd", "?"), ("number", "<i8"), ("word", "S5"), ("block", "<f8", (500,))]


def hammer(file, seconds, slots):
    """A writer that never rests: every entry of a record tells its number."""
    ring, until, number = Ring(file, FIELDS, slots=slots), monotonic() + seconds, 0
    while monotonic() < until:
        number += 1
        ring.write(odd=number % 2, number=number, word=text(str(number % 1000), 5), block=np.full(500, number))


def is_whole(record):
    number = int(record["number"])
    parts = (bool(record["odd"]), int(record["word"]), float(record["block"].min()), float(record["block"].max()))
    return parts == (bool(number % 2), number % 1000, number, number)


@pytest.fixture
def hammered(tmp_path):
    """A ring of so many slots, which another process writes for a second."""
    started = []

    def make(slots):
        ring = Ring(tmp_path / "ring", FIELDS, slots=slots, make=True)
        command = [sys.executable, __file__, str(tmp_path / "ring"), str(slots)]
        writer = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        started.append(writer)
        return ring, writer

    yield make
    for writer in started:
        writer.kill()
        writer.wait()


def test_the_newest_record_is_whole_and_never_older_than_the_one_before(hammered):
    ring, writer = hammered(4)
    last = reads = 0
    while writer.poll() is None:
        before = ring.written
        record = ring.newest()
        assert (record is None) <= (before == 0)
        if record is not None:
            assert is_whole(record)
            assert int(record["number"]) >= max(last, before - 3)
            last, reads = int(record["number"]), reads + 1
    assert reads > 100
    assert int(ring.newest()["number"]) == ring.written


def test_who_follows_gets_whole_records_in_order_and_counts_what_it_lost(hammered):
    ring, writer = hammered(8)
    seen = got = lost = last = 0
    alive = True
    while alive:
        alive = writer.poll() is None
        found, seen, missed = ring.since(seen)
        numbers = [int(record["number"]) for record in found]
        assert all(map(is_whole, found))
        assert numbers == sorted(numbers)
        assert not numbers or last < numbers[0]
        assert missed >= 0
        last, got, lost = max([last, *numbers]), got + len(found), lost + missed
    assert got > 100
    assert got + lost == seen == ring.written


def test_a_slow_reader_is_told_how_many_it_missed(tmp_path):
    ring = Ring(tmp_path / "ring", FIELDS, slots=8, make=True)
    assert ring.newest() is None
    assert ring.since(0) == ([], 0, 0)
    for number in range(1, 6):
        ring.write(number=number)
    found, seen, lost = ring.since(2)
    assert ([int(one["number"]) for one in found], seen, lost) == ([3, 4, 5], 5, 0)
    for number in range(6, 31):
        ring.write(number=number)
    found, seen, lost = ring.since(seen)
    assert ([int(one["number"]) for one in found], seen, lost) == ([24, 25, 26, 27, 28, 29, 30], 30, 18)
    assert ring.since(seen) == ([], 30, 0)


def test_a_record_that_is_being_overwritten_is_not_read(tmp_path, monkeypatch):
    ring = Ring(tmp_path / "ring", FIELDS, slots=4, make=True)
    for number in range(1, 7):
        ring.write(number=number)
    ring._before[6 % 4] = 10  # as if the writer were round, and in it
    assert int(ring.newest()["number"]) == 5
    assert [int(one["number"]) for one in ring.since(3)[0]] == [4, 5]
    ring._before[:] = 10
    with pytest.raises(UnderstudyError, match="more slots"):
        ring.newest()


def test_numbers_lie_where_they_are_stored_at_once(tmp_path):
    ring = Ring(tmp_path / "ring", FIELDS, make=True)
    for numbers in (ring._count, ring._before, ring._after):
        assert numbers.flags.aligned
        assert numbers.ctypes.data % 8 == 0
        assert all(stride % 8 == 0 for stride in numbers.strides)


def test_its_memory_is_there_when_it_has_been_made(tmp_path):
    Ring(tmp_path / "ring", [("block", "u1", (1 << 20,))], slots=4, make=True)
    assert (tmp_path / "ring").stat().st_blocks * 512 >= 4 << 20


def test_where_there_is_no_room_it_says_how_much_it_needs(tmp_path, monkeypatch):
    def full(*about):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UnderstudyError, match=rf"{tmp_path}/ring needs 4\.0 MiB .* free in {tmp_path}"):
        Ring(tmp_path / "ring", [("block", "u1", (1 << 20,))], slots=4, make=True)
    assert not (tmp_path / "ring").exists()


if __name__ == "__main__":
    hammer(Path(sys.argv[1]), 1.0, int(sys.argv[2]))
