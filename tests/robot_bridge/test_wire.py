"""What may be on the wire, and what is refused before it is looked at."""

import os
import struct
import tracemalloc
from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.policy import Underway
from robot_bridge.wire import (
    MAX_MAP,
    Header,
    Kind,
    WireError,
    jpeg_size,
    pack_chunk,
    pack_map,
    pack_observation,
    pack_task,
    spec_hash,
    unpack_chunk,
    unpack_map,
    unpack_observation,
    unpack_task,
)
from vla.types import ActionChunk, ActionSpec, CameraSpec, Observation, PolicySpec, Task, VideoClip

ACTION = ActionSpec("ee_delta", ("dx", "dy", "dz"), (-1.0,) * 3, (1.0,) * 3)
SPEC = PolicySpec(
    cameras=(CameraSpec("front", 24, 32), CameraSpec("wrist", 16, 16)),
    proprio_names=("x", "y"),
    action=ACTION,
    accepts=("instruction",),
    obs_horizon=1,
    pred_horizon=5,
    exec_horizon=2,
    control_hz=20.0,
    checkpoint="outputs/train",
)
TIMING = {"queued": 12, "inferred": 3000, "total": 3050}


def observation(seed=0):
    rng = np.random.default_rng(seed)
    images = {c.name: rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in SPEC.cameras}
    return Observation(images=images, proprio=rng.normal(size=2).astype(np.float32), stamp_ns=123)


def chunk():
    actions = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    return ActionChunk(actions, 123, 0.05)


def test_a_header_comes_back():
    header = Header(Kind.OBSERVE, os.urandom(16), 3, 4, 5, -6, 7, spec_hash(SPEC))
    assert len(header.pack()) == 72
    assert Header.unpack(header.pack()) == header


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda part: part[:-1], "72 bytes"),
        (lambda part: b"HTTP" + part[4:], "begin"),
        (lambda part: part[:4] + b"\x09" + part[5:], "version 9"),
        (lambda part: part[:5] + b"\x63" + part[6:], "kind of message: 99"),
        (lambda part: part[:6] + b"\x01\x00" + part[8:], "begin"),
    ],
)
def test_a_header_that_is_wrong_is_refused(spoil, said):
    with pytest.raises(WireError, match=said):
        Header.unpack(spoil(Header(Kind.BYE).pack()))


def test_the_hash_is_of_what_the_numbers_mean_and_not_of_the_folder():
    from dataclasses import replace

    assert spec_hash(replace(SPEC, checkpoint="elsewhere")) == spec_hash(SPEC)
    others = [
        replace(SPEC, pred_horizon=6),
        replace(SPEC, control_hz=10.0),
        replace(SPEC, action=replace(ACTION, high=(1.0, 1.0, 2.0))),
        replace(SPEC, cameras=SPEC.cameras[::-1]),
    ]
    assert len({spec_hash(spec) for spec in [SPEC, *others]}) == 5


def test_an_observation_comes_back_without_a_copy():
    seen = observation()
    parts = [bytes(part) for part in pack_observation(seen, SPEC, "raw")]
    back, _ = unpack_observation(parts, SPEC, "raw", stamp_ns=123)
    np.testing.assert_array_equal(back.proprio, seen.proprio)
    for name, image in seen.images.items():
        np.testing.assert_array_equal(back.images[name], image)
        assert not back.images[name].flags.owndata
    assert back.stamp_ns == 123


def test_floats_that_lie_askew_in_a_message_are_aligned():
    parts = [memoryview(b"!" + bytes(part))[1:] for part in pack_observation(observation(), SPEC, "raw")]
    back, _ = unpack_observation(parts, SPEC, "raw", stamp_ns=0)
    np.testing.assert_array_equal(back.proprio, observation().proprio)
    assert back.proprio.flags.aligned


@pytest.mark.parametrize("how", ["guided", "identity", "trained"])
def test_what_is_under_way_comes_back(how):
    rows = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    parts = [bytes(p) for p in pack_observation(observation(), SPEC, "raw", Underway(rows, 2, how))]
    _, back = unpack_observation(parts, SPEC, "raw", stamp_ns=0)
    np.testing.assert_array_equal(back.actions, rows)
    assert (back.delay, back.how) == (2, how)
    for wrong in (
        parts[0][:-1],
        parts[0] + bytes(24),
        b"\x05\x00" + parts[0][2:],
        parts[0][:2] + b"\x09" + parts[0][3:],
        b"\x00",
    ):
        with pytest.raises(WireError, match="under way"):
            unpack_observation([wrong, *parts[1:]], SPEC, "raw", stamp_ns=0)


def test_a_jpeg_comes_back_nearly():
    smooth = np.linspace(0, 255, 24 * 32 * 3).reshape(24, 32, 3).astype(np.uint8)
    seen = Observation({"front": smooth, "wrist": smooth[:16, :16].copy()}, np.zeros(2, np.float32), 0)
    back, _ = unpack_observation(pack_observation(seen, SPEC, "jpeg"), SPEC, "jpeg", stamp_ns=0)
    for name, image in seen.images.items():
        assert np.abs(back.images[name].astype(int) - image).mean() < 6


def test_a_chunk_comes_back_with_its_timing():
    back, timing = unpack_chunk([bytes(part) for part in pack_chunk(chunk(), TIMING)], SPEC, stamp_ns=123)
    np.testing.assert_array_equal(back.actions, chunk().actions)
    assert (back.stamp_ns, back.dt, timing) == (123, 0.05, TIMING)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_never_repaired(bad):
    actions = chunk().actions.copy()
    actions[3, 1] = bad
    with pytest.raises(WireError, match="NaN or infinity"):
        unpack_chunk(pack_chunk(ActionChunk(actions, 0, 0.05), TIMING), SPEC, stamp_ns=0)
    seen = observation()
    seen.proprio[1] = bad
    with pytest.raises(WireError, match="NaN or infinity"):
        unpack_observation(pack_observation(seen, SPEC, "raw"), SPEC, "raw", stamp_ns=0)


@pytest.mark.parametrize("change", [-1, 1, -4, 4, 1000])
def test_a_buffer_of_another_length_is_refused(change):
    parts = [bytes(part) for part in pack_observation(observation(), SPEC, "raw")]
    for place in range(1, 4):
        spoiled = list(parts)
        spoiled[place] = parts[place][:change] if change < 0 else parts[place] + bytes(change)
        with pytest.raises(WireError, match="bytes"):
            unpack_observation(spoiled, SPEC, "raw", stamp_ns=0)
    for wrong in (parts[:2], [*parts, b""], []):
        with pytest.raises(WireError, match="parts"):
            unpack_observation(wrong, SPEC, "raw", stamp_ns=0)


def test_a_picture_of_another_size_is_not_sent():
    seen = observation()
    with pytest.raises(WireError, match="resize"):
        pack_observation(Observation({**seen.images, "wrist": seen.images["front"]}, seen.proprio, 0), SPEC, "raw")


def test_a_jpeg_that_claims_to_be_huge_allocates_nothing():
    parts = pack_observation(observation(), SPEC, "jpeg")
    at = bytes(parts[2]).index(b"\xff\xc0")
    huge = bytearray(parts[2])
    huge[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    assert jpeg_size(huge) == (65500, 65500)
    tracemalloc.start()
    with pytest.raises(WireError, match="was expected"):
        unpack_observation([b"", parts[1], bytes(huge), parts[3]], SPEC, "jpeg", stamp_ns=0)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_map_has_plain_types_and_text_for_keys():
    plain = {"instruction": "lift", "numbers": [1, 2.5, None, True], "raw": b"\x00", "deep": {"a": {"b": "c"}}}
    assert unpack_map(pack_map(plain)) == plain
    wrong = [
        msgpack.packb([1, 2]),
        msgpack.packb({1: 2}),
        msgpack.packb({"a": msgpack.ExtType(5, b"code")}),
        b"\xdf\xff\xff\xff\xff",  # a map of four billion entries
        b"\xc6\xff\xff\xff\xff",  # four gigabytes of bytes
        b"\x91" * 100_000,  # a list in a list in a list …
        bytes(MAX_MAP + 1),
        b"",
    ]
    for part in wrong:
        with pytest.raises(WireError):
            unpack_map(part)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=5))
def test_nothing_that_arrives_breaks_the_reader(parts):
    for read in (
        lambda: Header.unpack(parts[0] if parts else b""),
        lambda: unpack_map(parts[0] if parts else b""),
        lambda: unpack_observation(parts, SPEC, "raw", stamp_ns=0),
        lambda: unpack_observation(parts, SPEC, "jpeg", stamp_ns=0),
        lambda: unpack_chunk(parts, SPEC, stamp_ns=0),
    ):
        with suppress(WireError):
            read()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_jpeg_that_was_spoiled_is_a_picture_or_refused(data):
    parts = [bytearray(part) for part in pack_observation(observation(), SPEC, "jpeg")]
    for _ in range(data.draw(st.integers(1, 8))):
        parts[2][data.draw(st.integers(0, len(parts[2]) - 1))] = data.draw(st.integers(0, 255))
    try:
        back, _ = unpack_observation(parts, SPEC, "jpeg", stamp_ns=0)
    except WireError:
        return
    assert back.images["front"].shape == (24, 32, 3)


FRAMES = np.full((4, 24, 32, 3), 90, np.uint8)


def test_a_task_comes_back_told_shown_and_pictured():
    told, seed = unpack_task(pack_task(Task("lift the cube"), 7))
    assert (told, seed) == (Task("lift the cube"), 7)
    shown, _ = unpack_task(pack_task(Task("", VideoClip(FRAMES, 12.5), FRAMES[0, :16]), 0))
    assert shown.video.fps == 12.5
    assert shown.video.frames.shape == FRAMES.shape
    assert np.abs(shown.video.frames.astype(int) - 90).max() <= 2
    assert shown.goal.shape == (16, 32, 3)


@pytest.mark.parametrize(
    ("plain", "pictures", "told"),
    [
        ({"instruction": 3}, 0, "an instruction, which is text"),
        ({"instruction": "", "seed": -1}, 0, "a whole number"),
        ({"instruction": "", "video": [4, 24, 32], "fps": 10.0}, 3, "4 pictures"),
        ({"instruction": "", "video": [65, 24, 32], "fps": 10.0}, 65, "at most"),
        ({"instruction": "", "video": [4, 24, 99999], "fps": 10.0}, 4, "at most"),
        ({"instruction": "", "video": [4, 24, "32"], "fps": 10.0}, 4, "at most"),
        ({"instruction": "", "video": [4, 24], "fps": 10.0}, 4, "3 whole numbers"),
        ({"instruction": "", "video": [4, 24, 33], "fps": 10.0}, 4, "a JPEG of 24 x 33"),
        ({"instruction": "", "video": [4, 24, 32], "fps": 0.0}, 4, "frames a second"),
        ({"instruction": "", "goal": [24, 32]}, 0, "1 pictures"),
        ({"instruction": ""}, 2, "0 pictures"),
    ],
)
def test_a_task_that_is_none_is_refused(plain, pictures, told):
    part = bytes(pack_task(Task("", VideoClip(FRAMES, 10.0)), 0)[1])
    with pytest.raises(WireError, match=told):
        unpack_task([pack_map(plain), *[part] * pictures])


def test_a_video_that_is_too_long_is_not_sent():
    with pytest.raises(WireError, match="at most 64 frames"):
        pack_task(Task("", VideoClip(np.repeat(FRAMES, 20, axis=0), 10.0)), 0)
