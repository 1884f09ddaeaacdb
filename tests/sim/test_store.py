"""Stores of episodes are sets: merging is a union, contradictions are named, and nothing finished is lost."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import merge, store
from sim.results import EpisodeResult
from sim.store import FILE, EpisodeStore, by_content, fingerprint, software
from vla.errors import UnderstudyError

SETTING = {"checkpoint": "abc", "suite": {"image_size": 64}}


@dataclass(frozen=True)
class Asked:
    task: str = "tabletop/press-button"
    told: str = "tabletop/press-button"
    condition: str = "policy"
    seed: int = 1
    prompt: str = ""
    goal: str = ""


@dataclass(frozen=True)
class Played:
    result: EpisodeResult
    actions: np.ndarray


def asked(seed, **changes):
    return Asked(seed=seed, **changes)


def result(seed, *, success=True, steps=30, latency_ms=(1.5, 2.25), **more):
    about = {"task": Asked.task, "instruction": "press the button", "condition": "policy", "seed": seed}
    return EpisodeResult(**about, initial_state=seed, success=success, steps=steps, latency_ms=latency_ms, **more)


def contents(opened):
    """All rows of a store, whatever their order."""
    return set(opened._db.execute("SELECT * FROM episodes")) | set(opened._db.execute("SELECT * FROM settings"))


def filled(path, seeds, **changes):
    with EpisodeStore(path) as opened:
        for seed in seeds:
            opened.add(opened.key(SETTING, asked(seed)), result(seed, **changes), np.full((3, 2), seed, np.float32))
    return path


def test_what_was_stored_is_found_by_what_decides_it(tmp_path):
    path = filled(tmp_path / FILE, [1, 2])
    with EpisodeStore(path) as opened:
        keys = [opened.key(SETTING, asked(seed)) for seed in (1, 2, 3)]
        found = opened.found(keys)
        assert [found.get(key.name) for key in keys] == [result(1), result(2), None]
        assert np.array_equal(opened.actions(keys[1]), np.full((3, 2), 2, np.float32))
        assert opened.actions(keys[2]) is None
        others = [
            *(asked(1, **{name: "other"}) for name in ("task", "told", "condition", "prompt", "goal")),
            asked(4),
        ]
        assert opened.found([opened.key(SETTING, other) for other in others]) == {}
        assert opened.found([opened.key({**SETTING, "checkpoint": "abd"}, asked(1))]) == {}
        backwards = dict(reversed(SETTING.items()))
        assert opened.key(backwards, asked(1)) == keys[0]


def test_a_store_of_fields_that_are_not_known_yet_says_so(tmp_path):
    path = filled(tmp_path / FILE, [1])
    with sqlite3.connect(path) as db:
        db.execute("UPDATE episodes SET result = json_set(result, '$.charm', 1)")
    with EpisodeStore(path) as opened, pytest.raises(UnderstudyError, match=r"newer version.*charm"):
        opened.rows()


def test_a_field_that_is_as_by_default_is_no_part_of_an_outcome(tmp_path):
    """So that a field may be added, and what was stored before does not contradict what is stored then."""
    path = filled(tmp_path / FILE, [1])
    with sqlite3.connect(path) as db:
        (text,) = db.execute("SELECT result FROM episodes").fetchone()
    assert not {"fault", "film", "latency_ms"} & set(json.loads(text))
    assert set(json.loads(text)) >= {"task", "seed", "success", "steps"}


def test_it_goes_on_where_it_stopped(tmp_path):
    seeds, played = range(6), []

    def play(numbers):
        for number in numbers:
            played.append(number)
            yield Played(result(number), np.zeros((2, 2), np.float32))

    def run(until):
        with EpisodeStore(tmp_path / FILE) as opened:
            keys = [opened.key(SETTING, asked(seed)) for seed in seeds]
            results = opened.resumed(keys, play)
            return [next(results) for _ in range(until)]

    assert run(2) == [result(0), result(1)]
    assert played == [0, 1]
    assert run(6) == [result(seed) for seed in seeds]
    assert played == [0, 1, 2, 3, 4, 5]
    assert run(6) == [result(seed) for seed in seeds]
    assert len(played) == 6


def test_what_ended_with_a_fault_is_passed_on_and_played_again(tmp_path):
    faults = ["EnvironmentCrashed: gone", ""]

    def play(numbers):
        return [Played(result(number, success=not faults[0], fault=faults[0]), np.zeros((1, 2))) for number in numbers]

    with EpisodeStore(tmp_path / FILE) as opened:
        keys = [opened.key(SETTING, asked(0))]
        assert next(iter(opened.resumed(keys, play))).fault == faults.pop(0)
        assert len(opened) == 0
        assert next(iter(opened.resumed(keys, play))) == result(0)


@settings(max_examples=10, deadline=None)
@given(parts=st.lists(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=5), min_size=1, max_size=3))
def test_merging_is_a_union(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("union")
    paths = []
    for number, rows in enumerate(parts):
        paths.append(folder / f"{number}.sqlite")
        with EpisodeStore(paths[-1]) as opened:
            for seed, success in rows:
                # Latencies differ from run to run, and are no part of the outcome.
                opened.add(opened.key(SETTING, asked(seed)), result(seed, success=success, latency_ms=(float(number),)))
    found = []
    for number, order in enumerate(permutations(paths)):
        with EpisodeStore(folder / f"into-{number}.sqlite") as into:
            for path in (*order, *order):
                with EpisodeStore(path, read=True) as source:
                    into.merge(source)
            found.append(contents(into))
    assert all(one == found[0] for one in found)
    outcomes = {(seed, success) for rows in parts for seed, success in rows}
    assert sum(len(row) > 2 for row in found[0]) == len(outcomes)


def test_a_contradiction_is_named_kept_and_not_believed(tmp_path):
    first, second = filled(tmp_path / "a.sqlite", [1, 2]), filled(tmp_path / "b.sqlite", [2, 3], success=False)
    with EpisodeStore(tmp_path / "c.sqlite") as into, EpisodeStore(first) as a, EpisodeStore(second) as b:
        assert into.merge(a).contradictions == ()
        done = into.merge(b)
        assert (done.added, done.known, len(into)) == (2, 0, 4)
        (told,) = done.contradictions
        assert str(told).startswith("tabletop/press-button, policy, seed 2: ")
        assert {one.success for one in told.results} == {True, False}
        keys = [into.key(SETTING, asked(seed)) for seed in (1, 2, 3)]
        assert set(into.found(keys)) == {keys[0].name, keys[2].name}


WRITER = """
import sys
from dataclasses import replace
from types import SimpleNamespace
import numpy as np
from sim.results import EpisodeResult
from sim.store import EpisodeStore

about = {"task": "tabletop/press-button", "condition": "policy"}
first = EpisodeResult(**about, instruction="press the button", seed=0, initial_state=0, success=True, steps=30)
with EpisodeStore(sys.argv[1]) as opened:
    for seed in range(100000):
        asked = SimpleNamespace(**about, told=about["task"], seed=seed, prompt="", goal="")
        played = replace(first, seed=seed, initial_state=seed, latency_ms=(1.5, 2.25))
        opened.add(opened.key({"checkpoint": "abc", "suite": {"image_size": 64}}, asked), played, np.zeros((50, 4)))
        print(seed, flush=True)
"""


def test_a_writer_that_is_killed_leaves_all_that_it_had_finished(tmp_path):
    path = tmp_path / FILE
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITER, str(path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    finished = [int(next(writer.stdout)) for _ in range(200)]
    writer.send_signal(signal.SIGKILL)
    finished += [int(line) for line in writer.communicate()[0].split()]
    assert writer.returncode == -signal.SIGKILL
    with EpisodeStore(path) as opened:
        assert opened._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        keys = [opened.key(SETTING, asked(seed)) for seed in range(len(finished) + 1)]
        found = opened.found(keys)
        assert [found.get(key.name) for key in keys[:-1]] == [result(seed) for seed in finished]
        opened.add(keys[0], result(0))


def test_two_processes_may_write_in_turn(tmp_path):
    with EpisodeStore(tmp_path / FILE) as one, EpisodeStore(tmp_path / FILE) as two:
        for seed in range(10):
            opened = (one, two)[seed % 2]
            opened.add(opened.key(SETTING, asked(seed)), result(seed))
        assert len(one) == len(two) == 10


def test_what_is_no_store_is_refused_and_left_as_it_was(tmp_path, monkeypatch):
    text, foreign = tmp_path / "text.sqlite", tmp_path / "foreign.sqlite"
    text.write_text("no database, but long enough to look like one. " * 50)
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE songs (name TEXT)")
    before = text.read_bytes(), foreign.read_bytes()
    with pytest.raises(UnderstudyError, match="not a database"):
        EpisodeStore(text)
    with pytest.raises(UnderstudyError, match="of another program"):
        EpisodeStore(foreign)
    with pytest.raises(UnderstudyError, match="vla eval writes it"):
        EpisodeStore(tmp_path / "none.sqlite", read=True)
    assert (text.read_bytes(), foreign.read_bytes()) == before
    path = filled(tmp_path / FILE, [1])
    monkeypatch.setattr(store, "SCHEMA", 0)
    with pytest.raises(UnderstudyError, match="has format 1, this version of Understudy reads 0"):
        EpisodeStore(path)


def test_a_store_that_is_read_is_not_changed(tmp_path):
    path = filled(tmp_path / FILE, [1])
    with EpisodeStore(path, read=True) as opened, pytest.raises(UnderstudyError, match="cannot be written"):
        opened.add(opened.key(SETTING, asked(2)), result(2))


def test_the_verb_merges_exports_and_tells_contradictions(tmp_path, capsys):
    from pyarrow import parquet

    filled(tmp_path / "a" / FILE, [1, 2])
    filled(tmp_path / "b" / FILE, [2, 3])
    a, b, c = (str(tmp_path / name) for name in "abc")
    file = tmp_path / "c.parquet"
    for _ in range(2):
        assert merge.main([a, b, "--out", c, "--parquet", str(file)]) == 0
    rows = parquet.read_table(file).to_pylist()
    assert [(row["seed"], row["success"], row["latency_ms"]) for row in rows] == [
        (n, True, [1.5, 2.25]) for n in (1, 2, 3)
    ]
    assert "0 episodes are new, 2 were there" in capsys.readouterr().out
    filled(tmp_path / "d" / FILE, [1], success=False)
    assert merge.main([str(tmp_path / "d"), "--out", c]) == 1
    told = capsys.readouterr().out
    assert "1 episodes contradict each other" in told
    assert "seed 1: " in told
    with pytest.raises(UnderstudyError, match=r"there is no .*none"):
        merge.main([str(tmp_path / "none"), "--out", c])


def test_a_checkpoint_is_known_by_what_it_says_and_weighs(tmp_path):
    files = {"model.safetensors": b"1", "policy_spec.json": b"{}", "config.yaml": b"a: 1"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    first = fingerprint(tmp_path)
    (tmp_path / "provenance.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("{}")
    assert fingerprint(tmp_path) == first
    for name, content in files.items():
        (tmp_path / name).write_bytes(content + b" ")
        assert fingerprint(tmp_path) != first
        (tmp_path / name).write_bytes(content)
    assert replace(result(1), film="x") != result(1)


def test_what_is_shown_is_known_by_what_is_in_it(tmp_path):
    first, second = tmp_path / "goal.png", tmp_path / "elsewhere/goal.png"
    second.parent.mkdir()
    for file in (first, second):
        file.write_bytes(b"a button that is pressed")
    known = by_content(str(first))
    assert known == by_content(str(second))
    first.write_bytes(b"a drawer that is open")
    assert by_content(str(first)) != known
    assert by_content("") == ""


def test_a_server_is_another_one_every_time(tmp_path):
    (tmp_path / "policy_spec.json").write_text("{}")
    assert fingerprint(tmp_path) == fingerprint(tmp_path)
    (tmp_path / "remote.json").write_text("{}")
    assert fingerprint(tmp_path) != fingerprint(tmp_path)


def test_our_code_and_the_packages_decide_too():
    known = software()
    assert set(known) >= {"code", "numpy", "torch", "mujoco"}
    assert known == software.__wrapped__()
