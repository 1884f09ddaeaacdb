"""Our suites as LeRobot's environments. Importing LeRobot takes 10 s: slow."""

import numpy as np
import pytest

from sim.suite import TEST_SEEDS, make_suite

pytestmark = pytest.mark.slow
TASK, OPTIONS = "tabletop/touch-red-cube", {"image_size": 32, "cameras": ["front"]}


@pytest.fixture(scope="module")
def config():
    from sim.lerobot_plugin import UnderstudyEnvConfig

    return UnderstudyEnvConfig(task=f"{TASK},tabletop/open-drawer", suite=OPTIONS)


@pytest.fixture
def env(config):
    (made,) = config.create_envs(1).values()
    yield made[0]
    for one in made.values():
        one.close()


def test_the_features_are_those_of_the_suite(config):
    assert config.features["pixels/front"].shape == (32, 32, 3)
    assert config.features_map["pixels/front"] == "observation.images.front"
    assert config.features["action"].shape == (make_suite("tabletop", **OPTIONS).spec.action.dim,)


def test_a_seed_is_the_test_scene_of_vla_eval(env):
    seen, info = env.reset(seed=[7])
    suite = make_suite("tabletop", **OPTIONS)
    suite.reset(TASK, TEST_SEEDS[7])
    expected = suite.observe()
    np.testing.assert_array_equal(seen["pixels"]["front"][0], expected.images["front"])
    np.testing.assert_array_equal(seen["agent_pos"][0], expected.proprio)
    assert not info["is_success"].any()
    assert env.call("task_description") == (suite.instruction,)


def test_the_expert_succeeds_and_the_episode_ends(env):
    env.reset(seed=[3])
    expert = env.envs[0]._suite.expert()
    for _ in range(env.call("_max_episode_steps")[0]):
        _, reward, terminated, truncated, info = env.step(expert()[None])
        if terminated[0] or truncated[0]:
            break
    assert terminated[0]
    assert reward[0] == 1
    assert info["final_info"]["is_success"][0]


def test_without_a_seed_the_scene_is_another_one_each_time(env):
    first, _ = env.reset(seed=[3])
    second, _ = env.reset()
    third, _ = env.reset()
    assert (first["agent_pos"] != second["agent_pos"]).any() or (
        first["pixels"]["front"] != second["pixels"]["front"]
    ).any()
    assert (second["pixels"]["front"] != third["pixels"]["front"]).any()
