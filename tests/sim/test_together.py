"""One policy for many episodes at once: what comes of it depends on the batch, and not on who simulates."""

import os
import signal
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from policies.execution import ExecutionConfig
from sim import together
from sim.rollout import Scene, Setting, play, play_all
from sim.suite import TEST_SEEDS, make_suite
from sim.together import Pictures, play_together
from vla.errors import UnderstudyError

TASKS = ("tabletop/press-button", "tabletop/lift-red-cube")
OPTIONS = '{"cameras": ["front", "wrist"], "image_size": 32}'


def scenes(checkpoint, seeds=3, condition="policy", **about):
    setting = Setting(OPTIONS, str(checkpoint), ExecutionConfig("newest"))
    both = [task for task in TASKS for _ in range(seeds)]
    return [Scene(setting, task, task, condition, seed, **about) for task, seed in zip(both, TEST_SEEDS)]


def plain(played):
    return [(replace(one.result, latency_ms=()), one.actions.tobytes()) for one in played]


@pytest.fixture
def dying_worker(monkeypatch):
    """A module that workers can import too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return import_module("dying_worker")


@pytest.fixture
def checkpoint(video_checkpoint):
    """A policy that looks back, so that sessions that were mixed up would be seen."""
    return video_checkpoint / "policy"


def test_the_number_of_workers_changes_nothing(checkpoint):
    todo = scenes(checkpoint)
    runs = [plain(play_together(todo, workers=workers, batch=2)) for workers in (1, 2, 3)]
    assert runs[0] == runs[1] == runs[2]
    assert [(one.task, one.seed) for one, _ in runs[0]] == [(scene.task, scene.seed) for scene in todo]
    assert len({actions for _, actions in runs[0]}) == len(todo)  # else the rest would prove little


def test_answers_are_those_of_one_at_a_time_but_for_rounding(checkpoint):
    todo = scenes(checkpoint, seeds=2)
    for alone, one in zip(map(play, todo), play_together(todo, workers=2, batch=3), strict=True):
        assert len(alone.result.latency_ms) == len(one.result.latency_ms) > 0
        np.testing.assert_allclose(one.actions[:8], alone.actions[:8], atol=2e-3)


def test_a_place_without_an_episode_is_told_what_another_is(checkpoint, monkeypatch):
    policy = together.shared_policy(str(checkpoint), embodiment="panda-primitive")
    told, reset = [], type(policy).reset

    def telling(self, task, *, seed=0):
        told.append(task)
        reset(self, task, seed=seed)

    monkeypatch.setattr(type(policy), "reset", telling)
    todo = scenes(checkpoint)[:3]
    assert len(plain(play_together(todo, workers=1, batch=2))) == 3
    assert len(told) == 4  # the fourth place is empty
    assert all(task.instruction for task in told)  # who is shown a video could do nothing with an empty task


def test_a_few_that_were_missing_are_played_as_in_the_whole(checkpoint):
    todo = scenes(checkpoint)
    whole = plain(play_together(todo, workers=1, batch=4))
    assert plain(play_together(todo[4:5], workers=1, batch=4)) == whole[4:5]


def test_who_asks_nobody_plays_beside(checkpoint):
    todo = scenes(checkpoint, seeds=1)
    mixed = [todo[0], replace(todo[0], condition="random"), todo[1], replace(todo[1], condition="expert")]
    played = list(play_all(mixed, workers=1, batch=2))
    assert [one.result.condition for one in played] == ["policy", "random", "policy", "expert"]
    assert played[1].result == play(mixed[1]).result


def test_a_worker_that_is_killed_changes_no_number(checkpoint, monkeypatch):
    todo = scenes(checkpoint)
    sound = plain(play_together(todo, workers=2, batch=2))
    made, worker = [], together.Worker
    monkeypatch.setattr(together, "Worker", lambda *about: made.append(worker(*about)) or made[-1])
    played = []
    for number, one in enumerate(play_together(todo, workers=2, batch=2)):
        played.append(one)
        if number == 0:
            os.kill(made[0]._process.pid, signal.SIGKILL)
    assert len(made) == 3
    assert plain(played) == sound


def test_a_scene_that_kills_its_worker_is_named_and_the_others_are_played(checkpoint, monkeypatch, dying_worker):
    todo = scenes(checkpoint)
    sound = plain(play_together(todo, workers=2, batch=2))
    deadly = replace(todo[2], told=dying_worker.DEADLY)
    monkeypatch.setattr(together, "simulate", dying_worker.simulate)
    played = plain(play_together([*todo[:2], deadly, *todo[3:]], workers=2, batch=2))
    assert played[2][0].fault.startswith("EnvironmentCrashed: the process that plays it dies")
    assert (played[2][0].success, played[2][0].task, played[2][0].seed) == (False, todo[2].task, todo[2].seed)
    assert [row for number, row in enumerate(played) if number < 2] == sound[:2]
    assert not any(row[0].fault for number, row in enumerate(played) if number != 2)


def test_workers_that_cannot_even_start_are_no_loop(checkpoint, monkeypatch, dying_worker):
    monkeypatch.setattr(together, "simulate", dying_worker.never)
    with pytest.raises(UnderstudyError, match=r"died before it served anything \(exit code 9"):
        list(play_together(scenes(checkpoint, seeds=1), workers=1, batch=1))


def test_no_process_and_no_memory_is_left(checkpoint):
    played = play_together(scenes(checkpoint), workers=2, batch=2)
    next(played)
    table = played.gi_frame.f_locals["table"]
    processes = [worker._process for worker in table._workers]
    names = [slot.pictures.name for slot in table._slots]
    assert all(process.is_alive() for process in processes)
    played.close()
    assert not any(process.is_alive() for process in processes)
    assert not any(os.path.exists(f"/dev/shm/{name}") for name in names)  # noqa: PTH110


def test_pictures_are_copied_out():
    suite = make_suite("tabletop", image_size=16, cameras=["front", "wrist"])
    mine = Pictures(suite.spec)
    theirs = Pictures(suite.spec, mine.name)
    images = {name: np.full((16, 16, 3), number, np.uint8) for number, name in enumerate(("front", "wrist"), 1)}
    theirs.write(images)
    read = mine.read()
    theirs.write({name: image + 10 for name, image in images.items()})
    for name, image in images.items():
        np.testing.assert_array_equal(read[name], image)
    theirs.close()
    mine.close()


def test_what_cannot_be_played_together_is_refused(checkpoint, monkeypatch):
    todo = scenes(checkpoint, seeds=1)
    with pytest.raises(UnderstudyError, match="one policy and one suite"):
        list(play_together([todo[0], replace(todo[1], setting=Setting("{}"))], workers=1, batch=2))
    with pytest.raises(UnderstudyError, match="give batch=1"):
        list(play_all(todo, workers=1, batch=2, cluster="ray"))
    for wrong in (0, -2):
        with pytest.raises(UnderstudyError, match="batch must be at least 1"):
            list(play_all(todo, workers=1, batch=wrong))
    monkeypatch.setattr(together, "shared_policy", lambda *_, **__: object())
    with pytest.raises(UnderstudyError, match="one episode at a time"):
        list(play_together(todo, workers=1, batch=2))
