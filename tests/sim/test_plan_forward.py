"""Looking ahead: the chunk is chosen whose end is nearest to the goal, expected or real."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from policies.policy import load_policy
from policies.uva.planner import ForwardPlanner
from sim.plan_forward import ForwardConfig, _tried, main, plan_forward
from sim.shown import left_by_expert
from sim.suite import TEST_SEEDS, make_suite
from vla.errors import UnderstudyError
from vla.types import Observation, Task

SUITE = {"image_size": 32, "cameras": ["front", "wrist"]}
TASK = "tabletop/press-button"


@pytest.fixture(scope="module")
def checkpoint(video_checkpoint):
    return video_checkpoint / "policy"


def test_the_chunk_that_is_expected_to_end_nearest_is_chosen(checkpoint, monkeypatch):
    policy = load_policy(checkpoint)
    goal = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    planner = ForwardPlanner(policy, samples=3)
    planner.reset(Task("press the button", goal=goal), seed=1)
    near = policy.latents(goal[None])
    futures = torch.stack([near[0] + 1, near[0] + 0.1, near[0] - 0.5])[:, None].expand(-1, 4, -1, -1).clone()
    futures[0, :-1] = near  # only the end counts
    chunks = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((3, 16, 4), np.float32)
    monkeypatch.setattr(policy, "imagined", lambda seen, count: (chunks, futures))
    assert (planner.infer(SimpleNamespace(stamp_ns=7)).actions == 1).all()
    np.testing.assert_allclose(planner.distances(futures[:, -1]), [1, 0.01, 0.25], rtol=1e-3)


def test_what_it_expects_follows_from_the_actions(checkpoint):
    policy = load_policy(checkpoint)
    policy.reset(Task("press the button"), seed=1)
    seen = Observation(
        {name: np.zeros((32, 32, 3), np.uint8) for name in ("front", "wrist")}, np.zeros(4, np.float32), 0
    )
    chunks, futures = policy.imagined(seen, 3)
    assert chunks.shape == (3, 16, 4)
    assert futures.shape == (3, 4, 16, 4)
    assert not np.allclose(chunks[0], chunks[1])


def test_planning_wants_a_picture(checkpoint):
    with pytest.raises(UnderstudyError, match="goal"):
        ForwardPlanner(load_policy(checkpoint)).reset(Task("press the button"))


def test_the_oracle_tries_the_very_chunks_from_where_the_episode_is(checkpoint, monkeypatch):
    """The goal is where one of four chunks leads, after what has been done before: that one is found."""
    policy, suite = load_policy(checkpoint), make_suite("tabletop", **SUITE)
    scene, random = (TASK, TEST_SEEDS[0]), np.random.default_rng(1)
    chunks = random.uniform(-0.03, 0.03, (4, 16, 4)).astype(np.float32)
    chunks += 0.02 * np.eye(4, dtype=np.float32)[:, None]
    done = list(random.uniform(-0.03, 0.03, (5, 4)).astype(np.float32))
    suite.reset(*scene)
    for action in done:
        suite.step(action)
    back, here = suite.keep(), suite.observe()
    for action in chunks[2]:
        suite.step(action)
    planner = ForwardPlanner(policy, samples=4)
    planner.reset(Task("press the button", goal=suite.observe().images["front"]), seed=0)
    monkeypatch.setattr(policy, "imagined", lambda seen, count: (chunks, None))
    back()
    np.testing.assert_array_equal(_tried(planner, suite, here), chunks[2])
    assert suite.steps == len(done)
    np.testing.assert_array_equal(suite.observe().images["front"], here.images["front"])


def test_the_goal_is_what_the_expert_leaves():
    suite = make_suite("tabletop", **SUITE)
    goal = left_by_expert(suite, "front", TASK, TEST_SEEDS[0])
    assert suite.success
    np.testing.assert_array_equal(goal, suite.observe().images["front"])


def test_all_ways_play_the_same_scenes(checkpoint, tmp_path, capsys):
    given = [f"policy={checkpoint}", f"tasks=[{TASK}]", "episodes=1", "samples=2", "exec_horizon=16"]
    assert main([*given, "suite.image_size=32", f"out={tmp_path}"]) == 0
    assert "of 1" in capsys.readouterr().out
    config = ForwardConfig(checkpoint, (TASK,), episodes=1, samples=1, exec_horizon=16, suite=SUITE)
    found = plan_forward(config)
    assert set(found) == {"plain", "guided", "oracle"}


def test_an_unknown_way_is_named(checkpoint):
    with pytest.raises(UnderstudyError, match="guided"):
        plan_forward(ForwardConfig(checkpoint, (TASK,), ways=("guide",)))
