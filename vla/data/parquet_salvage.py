"""Reading a parquet file whose writer was killed before it wrote the footer.

Without its footer no reader opens a parquet file, but the row groups before it are whole. They lie like this, a page
being a thrift header that says its sizes and how many values it holds, and then its content:

    "PAR1" | group 0: [column 0: dictionary page, data pages…] [column 1: …] … | group 1: … | a torn group

The pages are walked, a footer that describes them is written behind the last whole group, and pyarrow reads the rest.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vla.data import lerobot_format as layout

MAGIC = b"PAR1"
DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
PHYSICAL_TYPES = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
PLAIN, RLE, RLE_DICTIONARY = 0, 3, 8
SNAPPY = 1
I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
"""Types of thrift's compact protocol."""


class _TornError(Exception):
    """The bytes end, or are not what they should be."""


@dataclass(frozen=True)
class _Leaf:
    """A column as parquet stores it: ``width`` values per row."""

    path: tuple[str, ...]
    kind: int
    width: int


@dataclass(frozen=True)
class _Chunk:
    """One column of one row group: offsets and sizes in bytes."""

    start: int
    end: int
    data_start: int
    values: int
    unpacked: int


def salvage(path: Path, features: Mapping[str, Mapping[str, Any]]) -> pa.Table | None:
    """The rows of all whole row groups of ``path``, or ``None`` when there are none.

    ``features``: LeRobot's features of the dataset, in the order in which its writer stores them.
    """
    stored = {key: feature for key, feature in features.items() if feature["dtype"] != "video"}
    data = path.read_bytes()
    if not stored or data[: len(MAGIC)] != MAGIC or any(len(feature["shape"]) > 1 for feature in _plain(stored)):
        return None
    schema = pa.schema([(key, layout.arrow_type(feature)) for key, feature in stored.items()])
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    template = sink.getvalue().to_pybytes()
    leaves = _leaves(template, stored)
    groups = _row_groups(data, leaves)
    if not groups:
        return None
    whole = data[: groups[-1][-1].end] + _footer(template, groups, leaves)
    try:
        table = pq.read_table(pa.BufferReader(whole))
    except (OSError, pa.ArrowException):
        return None
    return table.replace_schema_metadata(layout.huggingface_metadata(features))


def _plain(features: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [feature for feature in features.values() if feature["dtype"] != "image"]


def _leaves(template: bytes, features: Mapping[str, Mapping[str, Any]]) -> list[_Leaf]:
    schema = pq.ParquetFile(pa.BufferReader(template)).schema
    leaves = []
    for number in range(len(schema)):
        column = schema.column(number)
        # A feature's own name has dots, too: its column is named by the longest feature that the path begins with.
        key = max((key for key in features if column.path.startswith(key)), key=len)
        inside = column.path.removeprefix(key).strip(".")
        path = (key, *inside.split(".")) if inside else (key,)
        width = 1 if features[key]["dtype"] == "image" else int(features[key]["shape"][0])
        leaves.append(_Leaf(path, PHYSICAL_TYPES.index(column.physical_type), width))
    return leaves


def _row_groups(data: bytes, leaves: list[_Leaf]) -> list[list[_Chunk]]:
    groups: list[list[_Chunk]] = []
    at = len(MAGIC)
    while at < len(data):
        group = _row_group(data, at, leaves)
        if group is None:
            break
        groups.append(group)
        at = group[-1].end
    return groups


def _row_group(data: bytes, at: int, leaves: list[_Leaf]) -> list[_Chunk] | None:
    """The columns of one row group, or ``None`` when it is torn.

    Nothing says how many rows a group has. So the first column is taken to end after its first page, then after its
    second…, until all other columns fit the number of rows in it.
    """
    first = leaves[0]
    pages = 1
    while True:
        try:
            group = [_chunk(data, at, pages=pages)]
        except _TornError:
            return None
        rows, rest = divmod(group[0].values, first.width)
        try:
            for leaf in leaves[1:]:
                group.append(_chunk(data, group[-1].end, values=rows * leaf.width))
        except _TornError:
            rest = 1
        if not rest:
            return group
        pages += 1


def _chunk(data: bytes, start: int, *, pages: int = 0, values: int = 0) -> _Chunk:
    """The column that begins at ``start`` and has so many data pages, or so many values."""
    header, at = _page(data, start)
    unpacked, data_start = header[2], at
    if header[1] != DICTIONARY_PAGE:
        unpacked, data_start, at = 0, start, start
    seen = 0
    while pages > 0 or seen < values:
        header, at = _page(data, at)
        if header[1] == DICTIONARY_PAGE:
            raise _TornError
        unpacked += header[2]
        seen += header[5 if header[1] == DATA_PAGE else 8][1]
        pages -= 1
    if values and seen != values:
        raise _TornError
    # The sizes in a footer count the page headers, too.
    return _Chunk(start, at, data_start, seen, max(unpacked, at - start))


def _page(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """A page's header, and where the page ends."""
    try:
        header, content = _read(data, at, STRUCT)
        end = content + header[3]
        if header[1] not in (DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2) or end > len(data) or header[2] < 0:
            raise _TornError
    except (IndexError, KeyError, TypeError, struct.error) as error:
        raise _TornError from error
    return header, end


def _read(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    """One value in thrift's compact protocol, and where it ends; a struct is a dict by field number."""
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, I32, I64):
        number, at = _varint(data, at)
        return (number >> 1) ^ -(number & 1), at
    if kind == 7:
        return struct.unpack_from("<d", data, at)[0], at + 8
    if kind == BINARY:
        size, at = _varint(data, at)
        return data[at : at + size], at + size
    if kind in (LIST, 10):
        return _read_list(data, at)
    if kind == STRUCT:
        return _read_struct(data, at)
    raise _TornError


def _read_list(data: bytes, at: int) -> tuple[list[Any], int]:
    size, kind = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _varint(data, at)
    items = []
    for _ in range(size):
        item, at = _read(data, at + (kind in (1, 2)), kind)
        items.append(item)
    return items, at


def _read_struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    number = 0
    while (head := data[at]) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            zigzag, at = _varint(data, at)
            number = (zigzag >> 1) ^ -(zigzag & 1)
        fields[number], at = _read(data, at, head & 15)
    return fields, at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7


def _footer(template: bytes, groups: list[list[_Chunk]], leaves: list[_Leaf]) -> bytes:
    """A footer for these row groups, with the schema of ``template``, a whole file without rows."""
    size = struct.unpack("<I", template[-8:-4])[0]
    old = template[-8 - size : -8]
    rows = [group[0].values // leaves[0].width for group in groups]
    described = [
        _struct(
            (1, LIST, _list(STRUCT, [_column(chunk, leaf) for chunk, leaf in zip(group, leaves, strict=True)])),
            (2, I64, _integer(sum(chunk.unpacked for chunk in group))),
            (3, I64, _integer(count)),
        )
        for group, count in zip(groups, rows, strict=True)
    ]
    spans = _spans(old)
    new = _struct(
        (1, I32, spans[1]),
        (2, LIST, spans[2]),
        (3, I64, _integer(sum(rows))),
        (4, LIST, _list(STRUCT, described)),
        (5, LIST, spans[5]),
    )
    return new + struct.pack("<I", len(new)) + MAGIC


def _column(chunk: _Chunk, leaf: _Leaf) -> bytes:
    fields = [
        (1, I32, _integer(leaf.kind)),
        (2, LIST, _list(I32, [_integer(encoding) for encoding in (PLAIN, RLE, RLE_DICTIONARY)])),
        (3, LIST, _list(BINARY, [_binary(part.encode()) for part in leaf.path])),
        (4, I32, _integer(SNAPPY)),
        (5, I64, _integer(chunk.values)),
        (6, I64, _integer(chunk.unpacked)),
        (7, I64, _integer(chunk.end - chunk.start)),
        (9, I64, _integer(chunk.data_start)),
    ]
    if chunk.data_start > chunk.start:
        fields.append((11, I64, _integer(chunk.start)))
    return _struct((2, I64, _integer(chunk.start)), (3, STRUCT, _struct(*fields)))


def _spans(message: bytes) -> dict[int, bytes]:
    """The fields of a struct as they are encoded, by number."""
    spans: dict[int, bytes] = {}
    at = number = 0
    while (head := message[at]) != 0:
        number += head >> 4
        begin = at + 1
        _, at = _read(message, begin, head & 15)
        spans[number] = message[begin:at]
    return spans


def _struct(*fields: tuple[int, int, bytes]) -> bytes:
    encoded, last = b"", 0
    for number, kind, content in fields:
        encoded += bytes([(number - last) << 4 | kind]) + content
        last = number
    return encoded + b"\0"


def _list(kind: int, items: list[bytes]) -> bytes:
    head = bytes([len(items) << 4 | kind]) if len(items) < 15 else bytes([0xF0 | kind]) + _unsigned(len(items))
    return head + b"".join(items)


def _binary(content: bytes) -> bytes:
    return _unsigned(len(content)) + content


def _integer(value: int) -> bytes:
    return _unsigned(value << 1)


def _unsigned(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
