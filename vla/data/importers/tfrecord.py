"""TFRecord files and the ``tf.train.Example`` messages in them, read without TensorFlow.

A file is a row of records, each:

    length  uint64 | crc of the length  uint32 | data  bytes [length] | crc of the data  uint32

all little-endian; the crc is CRC-32C, rotated and shifted. An Example is a protobuf message, a map from name to a list
of bytes, of float32 or of int64:

    Example{1: Features{1: entry{1: name, 2: Feature{1: BytesList{1…} | 2: FloatList{1…} | 3: Int64List{1…}}}}}
"""

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.errors import UnderstudyError

POLYNOMIAL = 0x82F63B78
"""CRC-32C (Castagnoli), bits reversed."""
MASK_DELTA = 0xA282EAD8
HEADER = struct.Struct("<QI")
CRC = struct.Struct("<I")
LANES = 512
SHORTEST_LANE = 32
"""Below this many bytes a lane, a plain loop is as quick."""
ALL_BITS = 0xFFFFFFFF

Buffer = bytes | memoryview
Value = list[bytes] | np.ndarray
"""One entry of an Example: a list of byte strings, or a vector of float32 or int64."""


@dataclass(frozen=True)
class Record:
    """Where one record's data lies: ``offset`` and ``length`` in bytes within ``path``."""

    path: Path
    number: int
    offset: int
    length: int

    def read(self) -> bytes:
        """The record's data; raises `UnderstudyError` when the file ends too early or the checksum is wrong."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data, crc = file.read(self.length), file.read(CRC.size)
        if len(data) < self.length or len(crc) < CRC.size:
            raise self.truncated()
        if CRC.unpack(crc)[0] != masked_crc(data):
            raise self.damaged()
        return data

    def glance(self, wanted: Collection[str]) -> dict[str, Value]:
        """Some entries of the record's Example, without reading the pages between them and without the checksum."""
        if self.offset + self.length > self.path.stat().st_size:
            raise self.truncated()
        data = np.memmap(self.path, np.uint8, "r", self.offset, (self.length,))
        return parse_example(data.data, wanted, where=self)

    def truncated(self) -> UnderstudyError:
        """The error for a record that the file does not hold to its end."""
        return UnderstudyError(f"{self.path} ends within record {self.number}: it is truncated; fetch it again")

    def damaged(self) -> UnderstudyError:
        """The error for a record whose content is not what was written."""
        return UnderstudyError(f"record {self.number} of {self.path} is damaged (checksum); fetch the file again")


def records(path: Path) -> list[Record]:
    """All records of a file, a cut-off last one included; raises `UnderstudyError` where a length is damaged."""
    found: list[Record] = []
    end = path.stat().st_size
    with path.open("rb") as file:
        while (start := file.tell()) < end:
            header = file.read(HEADER.size)
            if len(header) == HEADER.size:
                length, crc = HEADER.unpack(header)
                if crc != masked_crc(header[:8]):
                    raise UnderstudyError(
                        f"the length of record {len(found)} of {path} is damaged (checksum); fetch the file again"
                    )
            else:
                length = end
            found.append(Record(path, len(found), start + HEADER.size, length))
            file.seek(start + HEADER.size + length + CRC.size)
    return found


def masked_crc(data: Buffer) -> int:
    """The checksum as it is stored in a file."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & ALL_BITS


def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1)
    return table


TABLE = _table()
TABLE_INTS = TABLE.tolist()


def crc32c(data: Buffer) -> int:
    """CRC-32C of ``data``.

    A crc is linear, so long data is cut into `LANES` pieces that numpy works on side by side (47 MB/s at 140 kB, a
    plain loop does 8); 32 more lanes learn what a piece's length of zeros does to each bit, which joins the pieces.
    """
    width = len(data) // LANES
    register = ALL_BITS
    if width >= SHORTEST_LANE:
        register = _crc_of_lanes(np.frombuffer(data, np.uint8, LANES * width).reshape(LANES, width))
        data = data[LANES * width :]
    for byte in data:
        register = TABLE_INTS[(register ^ byte) & 255] ^ (register >> 8)
    return register ^ ALL_BITS


def _crc_of_lanes(lanes: np.ndarray) -> int:
    """The register after the bytes of all lanes [L, N], one lane after the other."""
    state = np.zeros(LANES + 32, np.uint32)
    state[0] = ALL_BITS
    state[LANES:] = np.uint32(1) << np.arange(32, dtype=np.uint32)
    columns = np.zeros((lanes.shape[1], LANES + 32), np.uint32)
    columns[:, :LANES] = lanes.T
    for column in columns:
        state = TABLE[(state ^ column) & 255] ^ (state >> 8)
    shifted, register = state[LANES:].tolist(), 0
    for lane in state[:LANES].tolist():
        moved = 0
        for bit in range(32):
            if register >> bit & 1:
                moved ^= shifted[bit]
        register = moved ^ lane
    return register


def parse_example(data: Buffer, wanted: Collection[str] | None = None, *, where: Record) -> dict[str, Value]:
    """The entries of an Example, all or the ``wanted`` ones; raises `UnderstudyError` when it is none."""
    try:
        entries = {}
        for _, features in _fields(memoryview(data)):
            for _, entry in _fields(features):
                parts = dict(_fields(entry))
                name = bytes(parts[1]).decode()
                if wanted is None or name in wanted:
                    entries[name] = _value(parts.get(2, memoryview(b"")))
    except (IndexError, KeyError, ValueError, TypeError, struct.error) as error:
        raise UnderstudyError(f"record {where.number} of {where.path} holds no tf.train.Example ({error})") from error
    return entries


def _value(feature: memoryview) -> Value:
    for kind, content in _fields(feature):
        if kind == 1:
            return [bytes(item) for _, item in _fields(content)]
        if kind == 2:
            return np.frombuffer(b"".join(item for _, item in _fields(content)), "<f4")
        if kind == 3:
            return _integers(content)
    return []


def _integers(content: memoryview) -> np.ndarray:
    numbers: list[int] = []
    for _, item in _fields(content):
        if isinstance(item, int):
            numbers.append(item)
            continue
        at = 0
        while at < len(item):
            number, at = _varint(item, at)
            numbers.append(number)
    return np.array(numbers, np.uint64).astype(np.int64)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, content) of a protobuf message; content is an int for a varint, else the bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = _varint(message, at)
        if size is None or at + size > len(message):
            raise ValueError(f"field {key >> 3} of wire type {kind} ends outside its message")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
