"""What was seen and commanded becomes episodes that training reads, whatever the disk does and whoever is killed."""

import errno
import multiprocessing as mp
import os
import signal
from dataclasses import replace
from functools import partial
from time import monotonic, sleep

import numpy as np
import pytest
from robot_bridge_recorded import PERIOD_NS, Filled, make_plan

from robot_bridge import recorder as recording
from robot_bridge.control import ControlConfig, State
from robot_bridge.recorder import Recorder, record, save_finished, spools_folder
from vla.data.importers import import_dataset
from vla.data.lerobot import open_dataset
from vla.errors import UnderstudyError
from vla.spool import Spool, Spooled, episode_of, find_spools, pair


@pytest.fixture
def filled(tmp_path):
    return Filled(make_plan(tmp_path / "run"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data"


def turned(filled, out, steps=6):
    """A recorder that has seen an episode of so many steps end."""
    recorder = Recorder(filled.plan, out)
    filled.begin()
    filled.run(steps, recorder.turn)
    filled.stop()
    recorder.turn()
    return recorder


def spools(out):
    return [file.name for file in find_spools(spools_folder(out))]


def wait_for(condition, timeout_s=30.0):
    until = monotonic() + timeout_s
    while not condition():
        assert monotonic() < until, "it did not happen"
        sleep(0.01)


def test_an_episode_is_what_was_commanded_at_what_was_seen(filled, out):
    recorder = Recorder(filled.plan, out)
    filled.begin("lift the cube")
    filled.see()  # nothing is commanded at it
    filled.k += 1
    first = filled.k
    filled.run(6, recorder.turn)
    filled.stop()
    recorder.turn()
    assert recorder.episode == 0
    recorder.close()
    dataset = open_dataset(out)
    assert (len(dataset.episodes), dataset.num_frames, recorder.saver.saved) == (1, 6, 1)
    episode, numbers = dataset.episode(0), first + np.arange(6)
    np.testing.assert_array_equal(episode.actions, np.repeat(numbers[:, None] % 1000, 3, axis=1))
    np.testing.assert_array_equal(episode.proprio[:, 0], numbers % 1000)
    np.testing.assert_array_equal(episode.images["front"]()[:, 0, 0, 0], numbers % 251)
    np.testing.assert_array_equal(episode.stamps_ns, numbers * PERIOD_NS - 1_000_000)
    assert (episode.task.instruction, episode.fps, episode.embodiment) == ("lift the cube", 20.0, "toy-arm")
    assert episode.success is None
    assert episode.source.startswith("bridge tcp://")
    assert spools(out) == []


def test_episodes_end_when_the_arm_stops_is_armed_anew_or_the_next_begins(filled, out):
    recorder = turned(filled, out, steps=3)
    filled.begin("second")
    filled.run(4, recorder.turn)
    filled.say("order_arm")  # the recorder slept through the stop
    filled.k += 1
    filled.run(5, recorder.turn)
    filled.begin("third")
    recorder.turn()
    filled.run(6, recorder.turn)
    recorder.close()  # which ends the one in progress
    told = [(one.length, one.instruction) for one in open_dataset(out).episodes]
    assert told == [(3, "lift"), (4, "second"), (5, "second"), (6, "third")]


def test_what_the_policy_does_not_answer_to_is_left_out(filled, out):
    recorder = Recorder(filled.plan, out)
    filled.begin()
    filled.run(3, recorder.turn)
    filled.run(2, recorder.turn, trouble=b"the camera front shows the same picture")
    filled.see()
    filled.k += 1  # starved: no step
    filled.run(3, recorder.turn)
    filled.stop()
    recorder.close()
    assert open_dataset(out).episodes[0].length == 6


@pytest.mark.parametrize("offset_ns", [-30_000_000, -2_000_000, 0, 2_000_000])
def test_each_observation_gets_a_step_of_its_own_however_it_jitters(offset_ns):
    rng, numbers = np.random.default_rng(0), 10**10 + np.arange(200)
    seen = numbers * PERIOD_NS + offset_ns + rng.integers(-2_500_000, 2_500_000, 200)
    rows, acts = pair(seen, numbers * PERIOD_NS + rng.integers(0, 2_000_000, 200), PERIOD_NS)
    np.testing.assert_array_equal(rows, np.arange(200))
    np.testing.assert_array_equal(acts, np.arange(200))
    assert [len(part) for part in pair(seen[:0], seen, PERIOD_NS)] == [0, 0]


@pytest.mark.fault(23)
def test_a_slow_disk_costs_observations_and_the_recorder_says_how_many(filled, out, monkeypatch, caplog):
    write = Spool.write

    def slowly(self, table, one):
        sleep(0.001)
        if table == "steps" and filled.k < filled.first + 60:
            filled.run(20)  # goes on as if nobody recorded: more than the ring holds
        write(self, table, one)

    monkeypatch.setattr(Spool, "write", slowly)
    recorder = Recorder(filled.plan, out)
    filled.begin()
    filled.run(1)
    recorder.turn()
    recorder.turn()
    filled.stop()
    recorder.turn()
    recorder.close()
    kept = open_dataset(out).episodes[0].length
    assert recorder.dropped > 0
    assert kept + recorder.dropped == filled.rings["seen"].written
    assert f"{recorder.dropped} observations or steps were dropped" in caplog.text
    assert caplog.text.count("too slow") == 1
    status = filled.rings["recorder"].newest()
    assert (int(status["dropped"]), int(status["saved"])) == (recorder.dropped, 1)
    assert b"too slow" in status["trouble"]


@pytest.mark.fault(23)
def test_a_full_disk_ends_the_recording_and_nothing_else(filled, out, monkeypatch, caplog):
    recorder = turned(filled, out)
    append = Spool._append

    def full(self, piece):
        if self._whole > 2000:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, piece)

    monkeypatch.setattr(Spool, "_append", full)
    filled.begin()
    filled.run(20, recorder.turn)
    filled.stop()
    filled.begin()
    filled.run(20, recorder.turn)
    recorder.close()
    assert caplog.text.count("the disk is full: recording has ended") == 1
    assert b"the disk is full" in filled.rings["recorder"].newest()["trouble"]
    assert [one.length for one in open_dataset(out).episodes] == [6]
    (cut,) = find_spools(spools_folder(out))
    assert Spooled(cut).counts["seen"] > 0


def test_a_disk_that_is_full_when_an_episode_is_saved_keeps_its_spool(filled, out, monkeypatch):
    from vla.data import lerobot_format

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lerobot_format, "write_atomic", full)
    recorder = turned(filled, out)
    recorder.close()
    assert "the disk is full" in recorder.saver.trouble
    monkeypatch.undo()
    assert save_finished(out) == 1
    assert (len(open_dataset(out).episodes), spools(out)) == (1, [])


def test_without_the_libraries_of_a_dataset_spools_stay_and_are_imported_elsewhere(filled, out, tmp_path, caplog):
    recorder = Recorder(filled.plan, out, save="no_such_package.at_all:save")
    for steps in (4, 5):
        filled.begin()
        filled.run(steps, recorder.turn)
        filled.stop()
        recorder.turn()
    filled.begin()
    filled.run(6, recorder.turn)
    recorder.saver.close()  # killed here
    assert "vla data import" in caplog.text
    assert [name.endswith(".part") for name in spools(out)] == [False, False, True]
    (spools_folder(out) / "zz.spool").write_bytes(b"something else")
    report = import_dataset(spools_folder(out), tmp_path / "imported", image_size=4)
    assert [one.length for one in open_dataset(tmp_path / "imported").episodes] == [4, 5, 6]
    assert ("zz.spool" in report.warnings[0], report.frames) == (True, 15)
    assert import_dataset(spools_folder(out), tmp_path / "imported", image_size=4).kept == 3


def test_an_episode_is_saved_once_even_if_a_kill_leaves_its_spool_behind(filled, out, monkeypatch):
    monkeypatch.setattr(recording.Path, "unlink", lambda *_, **__: None)
    turned(filled, out).close()
    monkeypatch.undo()
    assert len(spools(out)) == 1
    Recorder(filled.plan, out).close()
    assert (len(open_dataset(out).episodes), spools(out)) == (1, [])


def test_a_torn_spool_is_read_as_far_as_it_is_whole(filled, out):
    recorder = Recorder(filled.plan, out, save="no_such_package:save")
    filled.begin()
    filled.run(6, recorder.turn)
    recorder.saver.close()
    (file,) = find_spools(spools_folder(out))
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for size in rng.integers(0, len(whole), 60):
        torn = file.with_name("torn.spool")
        damaged = bytearray(whole)
        damaged[size] ^= 0x40
        for content in (whole[:size], bytes(damaged)):
            torn.write_bytes(content)
            try:
                spooled = Spooled(torn)
                assert spooled.torn > 0 or size == 0
                episode = episode_of(spooled)
            except UnderstudyError:
                continue
            np.testing.assert_array_equal(episode.actions[:, 0], filled.first % 1000 + np.arange(episode.length))
            assert episode.images["front"]().shape == (episode.length, 8, 8, 3)


def test_a_write_that_was_broken_off_is_written_over(filled, out, monkeypatch):
    recorder = Recorder(filled.plan, out)
    filled.begin()
    filled.run(3, recorder.turn)
    recorder._spool._opened.write(b"half a frame")  # a signal came in the middle of it
    filled.run(3, recorder.turn)
    recorder.close()
    assert open_dataset(out).episodes[0].length == 6


def test_nothing_is_recorded_of_a_shadow(filled, out):
    plan = replace(filled.plan, config=ControlConfig(shadow=True))
    recorder = Recorder(plan, out)
    filled.begin()
    filled.run(5, recorder.turn)
    recorder.close()
    assert (recorder.frames, spools(out), out.exists()) == (0, [], False)
    assert "shadow" in recorder.trouble


def test_two_recorders_do_not_share_a_dataset(filled, out):
    with recording._alone(spools_folder(out)), pytest.raises(UnderstudyError, match="another process records"):
        record(filled.plan, os.getppid(), out=out)


def test_a_killed_recorder_leaves_what_was_finished_and_the_next_goes_on(filled, out):
    started = partial(mp.get_context("spawn").Process, target=partial(record, out=out), args=(filled.plan, os.getpid()))
    process = started()
    process.start()
    status = filled.rings["recorder"]
    wait_for(lambda: status.newest() is not None)
    filled.begin()
    filled.run(5)
    filled.stop()
    wait_for(lambda: int(status.newest()["saved"]) == 1)
    filled.begin("cut off")
    filled.run(4)
    wait_for(lambda: int(status.newest()["frames"]) == 4 and int(status.newest()["episode"]) == 2)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [one.length for one in open_dataset(out).episodes] == [5]
    (part,) = find_spools(spools_folder(out))
    assert episode_of(Spooled(part)).length == 4
    filled.stop()
    process, told = started(), status.written
    process.start()
    wait_for(lambda: status.written > told)
    filled.begin()
    filled.run(6)
    filled.status(State.STOPPED)
    wait_for(lambda: int(status.newest()["saved"]) == 1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [one.length for one in open_dataset(out).episodes] == [5, 6]
