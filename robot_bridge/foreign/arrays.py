"""Arrays out of foreign messages: each is looked at only when its bytes are exactly what its own words say.

Four ways to write an array in msgpack, of which none needs pickle, and an ``object`` array is none of them:

    vla-eval        {"__ndarray__": true, "data": bytes, "dtype": "<f4", "shape": [7]}
    vla-eval        {"__image__": true, "format": "png" | "jpeg" | "raw", "data": bytes, …}
    GR00T to N1.6   {"__ndarray_class__": true, "as_npy": bytes of numpy's file format}
    GR00T N1.7      {b"nd": true, b"type": "<f4", b"kind": b"", b"shape": [7], b"data": bytes}
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from robot_bridge.wire import WireError, jpeg_size

MAX_MESSAGE = 64 << 20
"""Bytes of one message: eight environments with three cameras of 256 px take 5 MiB."""
MAX_SIDE = 4096
"""Pixels a side of a coded picture."""
MAX_AXES = 6
DTYPES = {f"{order}{kind}" for order in "<|" for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4")}
DTYPES |= {"<u8", "|b1"}
_NPY = re.compile(
    rb"\x93NUMPY(\x01\x00..|\x02\x00....)\{'descr': '(?P<dtype>[^']{1,9})', "
    rb"'fortran_order': (?P<by_column>True|False), 'shape': \((?P<shape>[0-9, ]{0,99})\), \} *\n",
    re.DOTALL,
)
"""The header as numpy writes it."""
_PNG = b"\x89PNG\r\n\x1a\n"
_RGB_8 = b"\x08\x02"
"""Bits of a sample and the kind of pixels, in a PNG's header."""


def unpack(data: bytes) -> Any:
    """A message of plain types and arrays still packed; raises `WireError`."""
    if len(data) > MAX_MESSAGE:
        raise WireError(f"a message has at most {MAX_MESSAGE} bytes, got {len(data)}")
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, ext_hook=_no_types)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"this is no msgpack of plain types: {type(error).__name__}") from error


def unpack_map(data: bytes) -> dict[str, Any]:
    """A message that is a map; raises `WireError`."""
    plain = unpack(data)
    if not isinstance(plain, dict):
        raise WireError(f"a message is a map, got {type(plain).__name__}")
    return plain


def _no_types(code: int, data: bytes) -> object:
    raise ValueError(f"type {code} of {len(data)} bytes")


def array(packed: object, what: str) -> NDArray[Any]:
    """The array in a map of one of the four kinds; raises `WireError` naming ``what`` it is."""
    marker = next((key for key in _READERS if isinstance(packed, dict) and packed.get(key)), None)
    if not isinstance(packed, dict) or marker is None:
        raise WireError(f"{what} is a {type(packed).__name__}, no array that this protocol knows")
    return _READERS[marker](packed, what)


def vector(packed: object, what: str) -> NDArray[Any]:
    """An array of numbers [… , D]; a plain list of numbers will do."""
    if isinstance(packed, list) and packed and all(type(one) in (int, float) for one in packed):
        return np.asarray(packed, np.float64)
    found = array(packed, what)
    if found.dtype.kind not in "fiu" or not found.ndim:
        raise WireError(f"{what} is no vector of numbers: {found.dtype}, {found.shape}")
    return found


def picture(packed: object, what: str) -> NDArray[np.uint8]:
    """A picture [… , H, W, 3] of bytes, RGB."""
    found = array(packed, what)
    if found.dtype != np.uint8 or found.ndim < 3 or found.shape[-1] != 3 or not found.size:
        raise WireError(f"{what} is no picture [H, W, 3] of uint8: {found.dtype}, {found.shape}")
    return found


class Unpacked(Mapping[str, NDArray[Any]]):
    """A map of packed arrays, each unpacked when it is asked for, by ``read`` (`picture` or `vector`)."""

    def __init__(self, packed: Mapping[str, Any], read: Callable[[object, str], NDArray[Any]]) -> None:
        self._packed, self._read = packed, read

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._read(self._packed[name], name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def _view(data: object, dtype: object, shape: object, what: str) -> NDArray[Any]:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"{what} has the type {str(dtype)[:40]!r}; allowed are numbers of 1 to 8 bytes")
    if not isinstance(shape, list) or len(shape) > MAX_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise WireError(f"{what} has no shape that can be read: {str(shape)[:80]}")
    wanted = prod(shape) * np.dtype(dtype).itemsize
    if not isinstance(data, bytes) or len(data) != wanted:
        has = len(data) if isinstance(data, bytes) else type(data).__name__
        raise WireError(f"{what} of {shape} {dtype} has {wanted} bytes, got {has}")
    return np.ndarray(shape, dtype, data)


def _ndarray(packed: Mapping[Any, Any], what: str) -> NDArray[Any]:
    return _view(packed.get("data"), packed.get("dtype"), packed.get("shape"), what)


def _image(packed: Mapping[Any, Any], what: str) -> NDArray[Any]:
    if packed.get("format") == "raw":
        return _ndarray(packed, what)
    data = packed.get("data")
    if packed.get("format") not in ("png", "jpeg") or not isinstance(data, bytes):
        raise WireError(f"{what} is in no format that can be read: png, jpeg or raw")
    size = _png_size(data) if packed["format"] == "png" else jpeg_size(data)
    if size is None or not all(1 <= side <= MAX_SIDE for side in size):
        raise WireError(f"{what} is no {packed['format']} of 8-bit RGB of at most {MAX_SIDE} pixels a side, but {size}")
    import cv2

    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise WireError(f"{what} cannot be decoded") from error
    if decoded is None or decoded.shape != (*size, 3):
        raise WireError(f"{what} cannot be decoded")
    return np.ascontiguousarray(decoded[..., ::-1])


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a PNG of 8-bit RGB, from its header; ``None`` for any other."""
    if data[:8] != _PNG or data[12:16] != b"IHDR" or data[24:26] != _RGB_8:
        return None
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _npy(packed: Mapping[Any, Any], what: str) -> NDArray[Any]:
    """Numpy's own reader would run Python's tokenizer over the header, and allocate what it claims."""
    data = packed.get("as_npy")
    found = _NPY.match(data) if isinstance(data, bytes) else None
    if found is None or not isinstance(data, bytes):
        raise WireError(f"{what} is no array of numbers in numpy's file format")
    dtype, by_column, shape = (found[name].decode() for name in ("dtype", "by_column", "shape"))
    axes = [int(axis) for axis in shape.replace(",", " ").split()]
    if by_column == "True":
        return _view(data[found.end() :], dtype, axes[::-1], what).T
    return _view(data[found.end() :], dtype, axes, what)


def _msgpack_numpy(packed: Mapping[Any, Any], what: str) -> NDArray[Any]:
    told = {key.decode(errors="replace") if isinstance(key, bytes) else key: value for key, value in packed.items()}
    if told.get("kind") not in (None, b"", ""):
        raise WireError(f"{what} is an array of objects or of records: these are refused")
    dtype = told.get("type")
    dtype = dtype.decode(errors="replace") if isinstance(dtype, bytes) else dtype
    return _view(told.get("data"), dtype, told.get("shape"), what)


_READERS: dict[Any, Callable[[Mapping[Any, Any], str], NDArray[Any]]] = {
    "__ndarray__": _ndarray,
    "__image__": _image,
    "__ndarray_class__": _npy,
    b"nd": _msgpack_numpy,
    "nd": _msgpack_numpy,
}


def pack_ndarray(rows: NDArray[Any]) -> dict[str, Any]:
    """As vla-eval writes it."""
    return {"__ndarray__": True, "data": rows.tobytes(), "dtype": rows.dtype.str, "shape": list(rows.shape)}


def pack_npy(rows: NDArray[Any]) -> dict[str, Any]:
    """As GR00T up to N1.6 writes it."""
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def pack_msgpack_numpy(rows: NDArray[Any]) -> dict[bytes, Any]:
    """As GR00T N1.7 writes it."""
    plain = {"nd": True, "type": rows.dtype.str, "kind": b"", "shape": list(rows.shape), "data": rows.tobytes()}
    return {key.encode(): value for key, value in plain.items()}
