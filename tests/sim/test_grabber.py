"""A person with a grabber: what the camera sees is what the arm's own would see, and the motion is the action."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sim.collect import Attempt, CollectConfig, record, run
from sim.grabber import CAMERA, LEAD, demonstrate, left_by_grabber
from sim.suite import TEST_SEEDS, make_suite
from vla.data.lerobot import open_dataset
from vla.errors import UnderstudyError

SUITE = {"image_size": 64, "cameras": [CAMERA]}
TASK = "tabletop/lift-red-cube"
TRY = Attempt(TASK, 3, noise=0.0, tail=4, options=json.dumps(SUITE), by="grabber")


@pytest.fixture(scope="module")
def shown():
    return demonstrate(TRY)


@pytest.fixture(scope="module")
def suite():
    return make_suite("tabletop", **SUITE)


def test_its_camera_sees_what_the_arms_does_in_the_same_place(shown, suite):
    """The arm goes to where the tool is at first; the pictures differ as little as two of the arm's own."""
    suite.reset(TASK, 3)
    for _ in range(40):
        way = shown.proprio[0, :3] - suite.grip_position
        suite.step(np.array([*way, shown.proprio[0, 3]]))
    arm, tool = suite.observe().images[CAMERA].astype(int), shown.images[CAMERA]()[0].astype(int)
    assert np.abs(suite.grip_position - shown.proprio[0, :3]).max() < 0.004
    assert np.median(np.abs(arm - tool)) <= 3
    assert np.abs(arm - tool).mean() < 8
    unlike = np.abs(shown.images[CAMERA]()[-1].astype(int) - tool).mean()
    assert unlike > 2 * np.abs(arm - tool).mean()


def test_actions_are_how_the_tool_moves_and_it_closes_ahead_of_time(shown):
    moved = np.diff(shown.proprio[:, :3], axis=0)
    np.testing.assert_allclose(shown.actions[:-1, :3], moved, atol=1e-6)
    assert np.abs(shown.actions[:, :3]).max() < 0.05
    assert set(shown.actions[:, 3]) == {0.0, 1.0}
    closes = int(np.argmax(shown.actions[:, 3] == 0))
    held = int(np.argmax(shown.proprio[:, 3] < 0.6))
    assert 0 < held - closes <= LEAD
    assert shown.embodiment == "grabber"
    assert shown.fps == 20


def test_a_demonstration_is_a_pure_function_of_its_attempt(shown):
    again = record(TRY)
    np.testing.assert_array_equal(again.actions, shown.actions)
    np.testing.assert_array_equal(again.images[CAMERA](), shown.images[CAMERA]())
    assert not np.array_equal(record(replace(TRY, seed=4)).actions[:20], shown.actions[:20])


def test_structure_from_motion_knows_no_scale_and_loses_frames(shown):
    told = demonstrate(replace(TRY, labels="sfm"))
    assert 0.7 * shown.length < told.length < shown.length
    gaps = np.diff(told.stamps_ns)
    assert gaps.max() >= 2 * gaps.min()
    true = np.diff(shown.proprio[np.round(told.stamps_ns * 20e-9).astype(int), :3], axis=0)
    long = np.linalg.norm(true, axis=1) > 0.012
    scale = np.linalg.norm(told.actions[:-1, :3][long], axis=1) / np.linalg.norm(true[long], axis=1)
    assert abs(np.median(scale) - 1) > 0.03
    along = (told.actions[:-1, :3][long] * true[long]).sum(1)
    assert (along > 0).mean() > 0.9


def test_a_dataset_of_it_goes_on_where_it_stopped(tmp_path):
    given = {"tasks": (TASK,), "out": tmp_path, "suite": {**SUITE, "image_size": 16}, "by": "grabber", "workers": 0}
    run(CollectConfig(**given, episodes=1))
    run(CollectConfig(**given, episodes=2))
    dataset = open_dataset(tmp_path)
    assert [info.seed for info in dataset.episodes] == [0, 1]
    assert dataset.spec.embodiment == "grabber"


def test_the_goal_that_it_leaves_is_of_the_very_scene(suite):
    seed = TEST_SEEDS[2]
    goal = left_by_grabber(suite, CAMERA, TASK, seed)
    assert goal.shape == (64, 64, 3)
    np.testing.assert_array_equal(left_by_grabber(suite, CAMERA, TASK, seed), goal)
    assert not np.array_equal(left_by_grabber(suite, CAMERA, TASK, seed + 1), goal)
    with pytest.raises(UnderstudyError, match="wrist"):
        left_by_grabber(suite, "front", TASK, seed)


def test_a_goal_has_the_colours_and_the_lights_of_its_scene():
    suite = make_suite("tabletop", **SUITE, randomize=["colors", "lights", "camera", "distractors"])
    unlike = []
    for seed in TEST_SEEDS[:4]:
        goal = left_by_grabber(suite, CAMERA, "tabletop/touch-red-cube", seed)
        table = [np.median(goal.reshape(-1, 3), axis=0)]
        for scene in (seed, seed + 7):
            suite.reset("tabletop/touch-red-cube", scene)
            table.append(np.median(suite.observe().images[CAMERA].reshape(-1, 3), axis=0))
        unlike.append([np.abs(table[0] - other).max() for other in table[1:]])
    same, other = np.array(unlike).T
    assert same.max() < 12
    assert other.mean() > 3 * same.mean()


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(UnderstudyError, match=r"suite\.cameras"):
        demonstrate(replace(TRY, options=json.dumps({"cameras": ["front"]})))
    with pytest.raises(UnderstudyError, match="tabletop"):
        run(CollectConfig(tasks=("metaworld/reach",), out=tmp_path, by="grabber"))
    with pytest.raises(UnderstudyError, match="labels=sfm"):
        run(CollectConfig(tasks=(TASK,), out=tmp_path, labels="sfm"))
