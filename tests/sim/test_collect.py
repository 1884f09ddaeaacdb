"""``vla collect``: which demonstrations are kept, what is in them, and going on after a stop."""

from fnmatch import fnmatchcase

import numpy as np
import pytest

from sim import collect
from sim.collect import Attempt, CollectConfig, expand, record
from sim.suite import TRAIN_SEEDS, make_suite, shared_suite, suite_class
from vla.data.lerobot import EpisodeWriter, open_dataset
from vla.errors import UnderstudyError
from vla.types import EXPERT_SOURCE

TASKS = ("tabletop/press-button", "tabletop/touch-red-cube")
SUITE = {"image_size": 16, "cameras": ["front"]}
OPTIONS = '{"cameras": ["front"], "image_size": 16}'


def config(out, **changes):
    return CollectConfig(**{"tasks": TASKS, "episodes": 3, "out": out, "suite": SUITE, "workers": 0, **changes})


def scenes(root):
    """(task, seed) → everything recorded in that episode."""
    dataset = open_dataset(root)
    episodes = [dataset.episode(index) for index in range(len(dataset.episodes))]
    found = {(episode.source.removeprefix(EXPERT_SOURCE), episode.seed): episode for episode in episodes}
    assert len(found) == len(episodes)
    return found


def assert_same(one, two):
    assert one.keys() == two.keys()
    for key, episode in one.items():
        np.testing.assert_array_equal(episode.actions, two[key].actions)
        np.testing.assert_array_equal(episode.proprio, two[key].proprio)
        np.testing.assert_array_equal(episode.images["front"](), two[key].images["front"]())


def test_as_many_as_asked_for_from_the_training_scenes(tmp_path):
    found = scenes(collect.run(config(tmp_path / "d", seed=5)))
    assert sorted(found) == [(task, TRAIN_SEEDS[5 + number]) for task in TASKS for number in range(3)]
    suite = make_suite("tabletop", **SUITE)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.spec.fingerprint == suite.spec.fingerprint
    assert dataset.spec.action == suite.spec.action
    for (task, seed), episode in found.items():
        suite.reset(task, seed)
        assert episode.task.instruction == suite.instruction
        assert (episode.success, episode.initial_state) == (True, seed - TRAIN_SEEDS.start)
        np.testing.assert_array_equal(episode.images["front"]()[0], suite.observe().images["front"])


@pytest.mark.parametrize("after", [0, 1, 4])
def test_stopped_and_run_again_is_as_if_never_stopped(tmp_path, monkeypatch, after):
    whole = scenes(collect.run(config(tmp_path / "whole")))
    save = EpisodeWriter.save

    def interrupted(self, episode):
        if self.num_episodes == after:
            raise KeyboardInterrupt
        return save(self, episode)

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeWriter, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect.run(config(tmp_path / "parts"))
    assert len(open_dataset(tmp_path / "parts").episodes) == after
    assert_same(whole, scenes(collect.run(config(tmp_path / "parts"))))


def test_run_again_when_done_records_nothing(tmp_path, monkeypatch):
    before = scenes(collect.run(config(tmp_path / "d")))
    with monkeypatch.context() as patch:
        patch.setattr(collect, "record", lambda attempt: pytest.fail("recorded again"))
        collect.run(config(tmp_path / "d"))
    more = scenes(collect.run(config(tmp_path / "d", episodes=4)))
    assert len(more) == 8
    assert_same(before, {key: episode for key, episode in more.items() if key in before})


def test_the_number_of_workers_does_not_matter(tmp_path):
    here, there = (collect.run(config(tmp_path / str(workers), episodes=2, workers=workers)) for workers in (0, 2))
    assert_same(scenes(here), scenes(there))


def failing(seeds):
    return lambda attempt: None if attempt.seed in seeds else record(attempt)


def test_failed_attempts_are_not_kept_and_others_take_their_place(tmp_path, monkeypatch):
    bad = {TRAIN_SEEDS[0], TRAIN_SEEDS[2], TRAIN_SEEDS[3]}
    monkeypatch.setattr(collect, "record", failing(bad))
    found = scenes(collect.run(config(tmp_path / "d")))
    assert sorted(found) == [(task, TRAIN_SEEDS[number]) for task in TASKS for number in (1, 4, 5)]


def test_a_stop_among_failures_changes_nothing_either(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "record", failing({TRAIN_SEEDS[0], TRAIN_SEEDS[2]}))
    whole = scenes(collect.run(config(tmp_path / "whole")))
    collect.run(config(tmp_path / "parts", episodes=1))
    assert_same(whole, scenes(collect.run(config(tmp_path / "parts"))))


def test_an_expert_that_keeps_failing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "record", lambda attempt: None)
    with pytest.raises(UnderstudyError, match=r"the expert of .* failed in \d+ of \d+ scenes .*lower the noise"):
        collect.run(config(tmp_path / "d"))


def test_an_attempt_that_fails_is_no_episode(monkeypatch):
    suite = shared_suite("tabletop", OPTIONS)
    monkeypatch.setattr(suite, "expert", lambda: lambda: np.array([0, 0, 0, 1.0]))
    assert record(Attempt(TASKS[0], 0, 0.0, 4, OPTIONS)) is None


def executed(monkeypatch, attempt):
    """The recorded episode, what was done, and what the expert said."""
    suite, done, said = shared_suite("tabletop", OPTIONS), [], []
    step, expert = suite.step, suite.expert

    def spy_step(action):
        done.append(np.array(action))
        step(action)

    def spy_expert():
        act = expert()

        def say():
            said.append(act())
            return said[-1]

        return say

    with monkeypatch.context() as patch:
        patch.setattr(suite, "step", spy_step)
        patch.setattr(suite, "expert", spy_expert)
        episode = record(attempt)
    return episode, np.array(done), np.array(said)


def test_what_is_done_is_noisy_and_what_is_recorded_is_clean(monkeypatch):
    spec, strayed = make_suite("tabletop", **SUITE).spec.action, []
    for seed in range(6):
        episode, done, said = executed(monkeypatch, Attempt("tabletop/lift-red-cube", seed, 0.15, 4, OPTIONS))
        np.testing.assert_array_equal(episode.actions, np.clip(said, spec.low, spec.high).astype(np.float32))
        strayed.append(done - episode.actions)
    strayed = np.concatenate(strayed) / ((np.array(spec.high) - spec.low) / 2)
    assert not strayed[:, spec.gripper.index].any()
    np.testing.assert_allclose(strayed[:, :3].std(0), 0.15, rtol=0.5)


def test_a_demonstration_is_a_pure_function_of_its_attempt():
    attempt = Attempt("tabletop/lift-red-cube", 3, 0.15, 4, OPTIONS)
    first = record(attempt)
    record(Attempt("tabletop/open-drawer", 9, 0.3, 1, OPTIONS))
    np.testing.assert_array_equal(record(attempt).actions, first.actions)


def test_without_noise_what_is_done_is_what_is_recorded(monkeypatch):
    episode, done, _ = executed(monkeypatch, Attempt(TASKS[0], 3, 0.0, 4, OPTIONS))
    np.testing.assert_array_equal(done, episode.actions)


def test_the_end_of_the_movement_is_recorded_too(monkeypatch):
    lengths = [executed(monkeypatch, Attempt(TASKS[1], 3, 0.0, tail, OPTIONS))[0].length for tail in (1, 4)]
    assert lengths[1] - lengths[0] == 3


def test_patterns():
    known = suite_class("tabletop").task_names()
    assert expand(["tabletop/*"]) == known
    lifts = [name for name in known if fnmatchcase(name, "tabletop/lift-*")]
    assert expand(["tabletop/press-button", "tabletop/lift-*"]) == ("tabletop/press-button", *lifts)
    assert expand(["tabletop/lift-*", lifts[1]]) == tuple(lifts)
    for pattern, message in (
        ("tabletop/lft-*", "did you mean 'tabletop/lift"),
        ("tabletop/lift-red-cub", "did you mean 'tabletop/lift-red-cube'"),
        ("tabletp/*", "did you mean 'tabletop'"),
        ("lift", "a task is written suite/task"),
    ):
        with pytest.raises(UnderstudyError, match=message):
            expand([pattern])
    with pytest.raises(UnderstudyError, match="no task given"):
        expand([])
    with pytest.raises(UnderstudyError, match="one suite, got metaworld, tabletop"):
        expand(["tabletop/press-button", "metaworld/reach"])


def test_sets_of_a_suite_are_patterns_too():
    mt10 = suite_class("metaworld").task_sets()["metaworld/mt10"]
    assert expand(["metaworld/mt10"]) == mt10
    assert len(mt10) == 10
    assert expand(["metaworld/sweep", "metaworld/ml10-test"])[:2] == ("metaworld/sweep", "metaworld/drawer-open")
    assert expand(["metaworld/mt10", "metaworld/reach"]) == mt10
    assert sorted(expand(["metaworld/mt50"])) == sorted(expand(["metaworld/*"]))
    for name, message in (("metaworld/mt11", "did you mean 'metaworld/mt10'"), ("tabletop/mt10", "unknown task")):
        with pytest.raises(UnderstudyError, match=message):
            expand([name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"noise": -0.1}, "noise must not be negative"),
        ({"tail": 0}, "tail must be at least 1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(UnderstudyError, match=message):
        collect.run(config(tmp_path / "d", **changes))
    assert not (tmp_path / "d").exists()


def test_other_pictures_do_not_go_into_the_same_dataset(tmp_path):
    collect.run(config(tmp_path / "d", episodes=1))
    with pytest.raises(UnderstudyError, match=r"holds other data.*record into a new folder"):
        collect.run(config(tmp_path / "d", episodes=2, suite={**SUITE, "image_size": 24}))
