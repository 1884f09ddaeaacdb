"""What reads from foreign wires is fed with nonsense: it is refused with a reason, or read."""

import io

import cv2
import msgpack
import numpy as np
import pytest
from foreign_clients import WIDE, pack_nd, pack_npy
from hypothesis import given, settings
from hypothesis import strategies as st
from robot_bridge_toys import ToyBrain
from vla_eval.protocol.image_codec import encode_image
from vla_eval.protocol.messages import Message, MessageType, pack_message
from vla_eval.protocol.numpy_codec import encode_ndarray

from policies.execution import ExecutionConfig
from robot_bridge.foreign import arrays
from robot_bridge.foreign.episode import Stepwise
from robot_bridge.foreign.gr00t import Gr00tServer
from robot_bridge.foreign.table import Table
from robot_bridge.foreign.vla_eval import HarnessServer
from robot_bridge.wire import WireError

IMAGE = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
STATE = np.array([0.25, 0.5], np.float32)
WORDS = "annotation.human.action.task_description"
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.binary(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def harness():
    return HarnessServer(ToyBrain(spec=WIDE), Table.server(WIDE, {}, "vla-eval"))


def gr00t():
    return Gr00tServer(ToyBrain(spec=WIDE), Table.server(WIDE, {}, "gr00t"))


def harness_question():
    seen = {"images": {"front": IMAGE}, "states": STATE, "task_description": "lift"}
    return pack_message(Message(MessageType.OBSERVATION, seen, seq=3))


def gr00t_question(pack):
    seen = {
        "video": {"front": IMAGE[None, None]},
        "state": {"state": STATE[None, None]},
        "language": {WORDS: [["lift"]]},
    }
    return msgpack.packb({"endpoint": "get_action", "data": {"observation": seen, "options": None}}, default=pack)


def spoiled(data, places):
    data = bytearray(data)
    for at, value in places:
        data[at % len(data)] = value
    return bytes(data)


places = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(places)
def test_a_question_of_the_harness_that_was_spoiled_is_answered_or_refused(where):
    server = harness()
    session = Stepwise(server.brain.session(), server.table, ExecutionConfig())
    answer = server._answer(session, spoiled(harness_question(), where))
    if answer is not None:
        assert msgpack.unpackb(answer)["type"] in ("action", "error", "hello")
    assert not server.counts["failed"]


@settings(max_examples=150, deadline=None)
@given(places, st.sampled_from([pack_npy, pack_nd]))
def test_a_question_of_gr00t_that_was_spoiled_is_answered_or_refused(where, pack):
    server = gr00t()
    answer = server.answer(b"one", spoiled(gr00t_question(pack), where))
    assert answer == b"ERROR" or msgpack.unpackb(answer) is not None
    assert not server.counts["failed"]


@settings(max_examples=150, deadline=None)
@given(plain)
def test_any_plain_message_is_answered_or_refused(message):
    data, server, other = msgpack.packb(message) if fits(message) else b"", harness(), gr00t()
    session = Stepwise(server.brain.session(), server.table, ExecutionConfig())
    server._answer(session, data)
    other.answer(b"one", data)
    other.answer(b"one", msgpack.packb({"endpoint": "get_action", "data": {"observation": {}}}))
    assert not server.counts["failed"] + other.counts["failed"]


def fits(message):
    try:
        return bool(msgpack.packb(message))
    except (OverflowError, ValueError):
        return False


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["__ndarray__", "__image__", "__ndarray_class__", "nd"]),
    st.dictionaries(st.text(max_size=5), plain),
)
def test_a_map_that_claims_to_be_an_array_is_read_or_refused(marker, rest):
    rest = {**rest, marker: True}
    for key in ("data", "dtype", "shape", "as_npy", "format"):
        rest.setdefault(key, next(iter(rest.values())))
    with pytest.raises(WireError):
        arrays.array(rest, "it")


@pytest.mark.parametrize("dtype", sorted(arrays.DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 4, 3)])
def test_every_array_of_numbers_comes_back_as_it_was(dtype, shape):
    made = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    for packed in (
        encode_ndarray(made),
        pack_npy(made),
        pack_nd(made),
        arrays.pack_ndarray(made),
        arrays.pack_npy(made),
    ):
        through = arrays.unpack(msgpack.packb(packed))
        found = arrays.array(through, "it")
        np.testing.assert_array_equal(found, made)
        assert found.dtype == made.dtype
    through = arrays.unpack(msgpack.packb(arrays.pack_msgpack_numpy(made)))
    np.testing.assert_array_equal(arrays.array(through, "it"), made)


@pytest.mark.parametrize("form", ["png", "raw", "jpeg"])
def test_every_picture_of_the_harness_is_read_as_it_meant(form):
    from vla_eval.protocol.image_codec import decode_image

    packed = arrays.unpack(msgpack.packb(encode_image(IMAGE, form)))
    found = arrays.picture(packed, "it")
    if form == "jpeg":  # two decoders round as they like
        assert np.abs(found.astype(int) - decode_image(packed)).max() <= 3
    else:
        np.testing.assert_array_equal(found, IMAGE)


def test_columns_first_is_no_difference():
    made = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(arrays.array(pack_npy(made), "it"), made)


def npy(header):
    text = (header + " " * (118 - len(header) - 1) + "\n").encode()
    return {
        "__ndarray_class__": True,
        "as_npy": b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"1234",
    }


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        ({"__ndarray__": True, "data": b"1234", "dtype": "<f4", "shape": [2**40]}, "has 4398046511104 bytes, got 4"),
        ({"__ndarray__": True, "data": b"1234", "dtype": "<f4", "shape": [-1]}, "no shape"),
        ({"__ndarray__": True, "data": b"1234", "dtype": "<f4", "shape": [True]}, "no shape"),
        ({"__ndarray__": True, "data": b"1234", "dtype": "O", "shape": [1]}, "type 'O'"),
        ({"__ndarray__": True, "data": b"1234", "dtype": "(9999,9999)f4", "shape": [1]}, "type"),
        ({"__ndarray__": True, "data": "1234", "dtype": "<f4", "shape": [1]}, "got str"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"), "bytes, got 4"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"), "type '|O'"),
        (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }"), "no array of numbers in numpy's"),
        (npy("{'descr': __import__('os')}"), "no array of numbers in numpy's"),
        ({"nd": True, "kind": "V", "type": [["a", "<f4"]], "shape": [1], "data": b"1234"}, "objects or of records"),
        ({"__image__": True, "format": "png", "data": b"\x89PNG\r\n\x1a\n"}, "no png of 8-bit RGB"),
        ({"__image__": True, "format": "gif", "data": b""}, "no format that can be read"),
        ({}, "no array that this protocol knows"),
        (3, "is a int"),
    ],
)
def test_what_is_no_array_is_refused_before_anything_is_allocated(packed, why):
    with pytest.raises(WireError, match=why):
        arrays.array(packed, "it")


def test_a_picture_that_claims_to_be_huge_or_is_not_rgb_is_refused_unread():
    huge = bytearray(cv2.imencode(".png", IMAGE)[1].tobytes())
    huge[16:24] = (60_000).to_bytes(4, "big") * 2
    for data in (bytes(huge), cv2.imencode(".png", IMAGE[..., 0])[1].tobytes()):
        with pytest.raises(WireError, match="no png of 8-bit RGB of at most 4096"):
            arrays.array({"__image__": True, "format": "png", "data": data}, "it")
    file = io.BytesIO(cv2.imencode(".png", IMAGE)[1].tobytes()[:-30])
    with pytest.raises(WireError, match="cannot be decoded"):
        arrays.array({"__image__": True, "format": "png", "data": file.getvalue()[:60]}, "it")


def test_a_message_that_is_too_long_is_refused():
    with pytest.raises(WireError, match="at most"):
        arrays.unpack(bytes(arrays.MAX_MESSAGE + 1))
