"""The ALOHA suite: that it is gym-aloha's physics, scenes, rewards and pictures, without running gym-aloha."""

import numpy as np
import pytest

from sim.suite import TEST_SEEDS, TRAIN_SEEDS, make_suite
from vla.errors import UnderstudyError

pytest.importorskip("gym_aloha")

TASKS = {"transfer-cube": "transfer_cube", "insertion": "insertion"}


@pytest.fixture(scope="module")
def suite():
    made = make_suite("aloha", cameras=[], renderer="ray")
    yield made
    made.close()


@pytest.fixture
def theirs(request):
    """gym-aloha's own environment, without the three pictures that it draws at every step."""
    from gym_aloha.env import AlohaEnv

    env = AlohaEnv(TASKS[request.param], obs_type="pixels_agent_pos")
    env.drawn = env._env.physics.render
    env._env.physics.render = lambda **_: np.zeros((1, 1, 3), np.uint8)
    return env


@pytest.mark.parametrize(("task", "theirs"), [(task, task) for task in TASKS], indirect=["theirs"])
def test_an_episode_is_gym_alohas_bit_by_bit(suite, task, theirs):
    seed = TRAIN_SEEDS[4]
    suite.reset(f"aloha/{task}", seed)
    observation, _ = theirs.reset(seed=seed)
    act, rewards = suite.expert(), []
    while not suite.success:
        np.testing.assert_array_equal(suite.world.proprio(), observation["agent_pos"])
        action = act()
        suite.step(action)
        observation, reward, terminated, *_ = theirs.step(np.float64(action))
        assert (reward, terminated) == (suite.world.reward(), suite.success)
        np.testing.assert_array_equal(suite.world.data.qpos, theirs._env.physics.data.qpos)
        rewards.append(reward)
    assert len(set(rewards)) >= 3  # reach, grasp and so on have been seen too


@pytest.mark.parametrize(("task", "theirs"), [("insertion", "insertion")], indirect=["theirs"])
def test_the_lerobot_profile_sees_what_gym_aloha_shows(task, theirs):
    from sim.cameras import BACKEND

    if BACKEND == "none":
        pytest.skip("no OpenGL library works on this machine")
    theirs.reset(seed=TEST_SEEDS[2])
    shown = theirs.drawn(height=480, width=640, camera_id="top")
    suite = make_suite("aloha", profile="lerobot")
    suite.reset(f"aloha/{task}", TEST_SEEDS[2])
    seen = suite.observe().images["top"]
    suite.close()
    assert seen.shape == shown.shape == (480, 640, 3)
    assert np.abs(np.int32(seen) - shown).mean() < 0.5
    assert (suite.max_steps, suite.spec.control_hz) == (400, 50)


def test_the_lerobot_profile_is_not_to_be_had_in_another_size():
    with pytest.raises(UnderstudyError, match="480 x 640"):
        make_suite("aloha", profile="lerobot", image_size=96)
    with pytest.raises(UnderstudyError, match="480 x 640"):
        make_suite("aloha", profile="lerobot", cameras=["front"])
    with pytest.raises(UnderstudyError, match="needs OpenGL"):
        make_suite("aloha", profile="lerobot", image_size=480, cameras=["top"], renderer="ray")
    with pytest.raises(UnderstudyError, match="did you mean 'lerobot'"):
        make_suite("aloha", profile="lerobt")


def test_the_profiles_do_not_mix():
    from sim.cameras import BACKEND

    fast = make_suite("aloha").spec
    assert [(camera.name, camera.width) for camera in fast.cameras] == [("front", 64)]
    if BACKEND != "none":
        assert make_suite("aloha", profile="lerobot").spec.fingerprint != fast.fingerprint


def test_the_arms_hold_the_positions_that_are_asked_for(suite):
    suite.reset("aloha/transfer-cube", 0)
    start = suite.world.proprio()
    asked = start + np.tile([0.2, 0.1, -0.1, 0.2, 0.1, 0.3, 0.0], 2)
    asked[[6, 13]] = 1.0
    for _ in range(150):
        suite.step(asked)
    reached = suite.world.proprio()
    assert np.abs(reached - asked).max() < 0.06
    assert np.abs(start - asked).max() > 0.2


def test_the_bounds_are_the_models(suite):
    suite.reset("aloha/insertion", 0)
    low, high = suite.world.model.actuator_ctrlrange.T.reshape(2, 2, 8)
    np.testing.assert_allclose(np.reshape(suite.spec.action.low, (2, 7))[:, :6], low[:, :6])
    np.testing.assert_allclose(np.reshape(suite.spec.action.high, (2, 7))[:, :6], high[:, :6])


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_expert_is_reliable(suite, task):
    done = 0
    for seed in TEST_SEEDS[:10]:
        suite.reset(f"aloha/{task}", seed)
        act = suite.expert()
        while not suite.success and suite.steps < suite.max_steps:
            suite.step(act())
        done += suite.success
    assert done >= 9
