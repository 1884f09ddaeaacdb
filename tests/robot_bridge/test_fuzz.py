"""What reads from the wire is fed with nonsense; `vla bench fuzz` does it a million times."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_bridge.wire import WireError
from vla import bench
from vla.bench import script
from vla.errors import UnderstudyError

fuzz = script("fuzz")


def read(name, parts):
    found = fuzz.Found()
    found.read(name, parts)
    assert not found.crashes


@pytest.mark.parametrize("name", fuzz.READERS)
def test_every_reader_takes_its_valid_message(name):
    parts = fuzz.valid()[name]
    fuzz.READERS[name](parts)
    assert fuzz.unpacked(fuzz.packed(name, parts)) == (name, parts)


@pytest.mark.fault(7)
@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(fuzz.READERS)), st.randoms(use_true_random=False))
def test_a_message_that_was_spoiled_is_refused_or_read(name, random):
    read(name, fuzz.spoiled(fuzz.valid()[name], random))


@pytest.mark.fault(9)
@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(fuzz.READERS)), st.lists(st.binary(max_size=2000), min_size=1, max_size=6))
def test_bytes_of_no_meaning_are_refused_or_read(name, parts):
    read(name, parts)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_input(data):
    name, parts = fuzz.unpacked(data)
    assert name in fuzz.READERS
    assert parts


def test_a_few_thousand_inputs_are_counted(tmp_path, monkeypatch):
    file = tmp_path / "fuzz.json"
    bench.main(["fuzz", "--inputs", "3000", "--json", str(file)])
    found = {row["name"]: row["value"] for row in json.loads(file.read_text("utf-8"))["rows"]}
    assert found["refused"] + found["read"] == found["inputs"] == 3000
    assert found["refused"] > 1000
    assert found["read"] > 100
    assert found["peak of a batch"] < fuzz.MOST_BYTES / 2**20


def test_a_crash_is_told_with_its_input(monkeypatch):
    def careless(parts):
        if len(parts[0]) % 2:
            raise IndexError("out of it")
        raise WireError("no")

    monkeypatch.setitem(fuzz.READERS, "header", careless)
    with pytest.raises(UnderstudyError, match=r"crashes.*header: IndexError: out of it"):
        bench.main(["fuzz", "--inputs", "300"])


def test_the_same_seed_gives_the_same_inputs():
    one, two = fuzz.inputs(3), fuzz.inputs(3)
    assert [next(one) for _ in range(50)] == [next(two) for _ in range(50)]
