"""The suite's contract over Meta-World's tasks: scenes, steps, success and experts (pictures: the file beside)."""

import hashlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from sim.suite import TEST_SEEDS, TRAIN_SEEDS, make_suite, suite_class
from sim.tasks import metaworld
from sim.tasks.metaworld import HALFWAY, MetaWorldSuite
from sim.tasks.metaworld_sets import DIFFICULTIES
from vla.errors import UnderstudyError

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("metaworld")

REACH, PUSH, BUTTON, DRAWER = (f"metaworld/{task}" for task in ("reach", "push", "button-press-topdown", "drawer-open"))
DO_NOTHING = np.zeros(4, np.float32)


@pytest.fixture(scope="module")
def blind():
    """One suite without cameras, with a history from all the tests before."""
    suite = make_suite("metaworld", cameras=())
    yield suite
    suite.close()


def physics(suite):
    """Everything that decides what happens next, and everything that a picture shows."""
    model, data = suite._env.model, suite._env.data
    arrays = (data.qpos, data.qvel, data.mocap_pos, model.body_pos, model.site_pos, data.geom_xpos, data.site_xpos)
    return np.concatenate([*(array.reshape(-1) for array in arrays), suite._state])


def play(suite, steps):
    """The states that the expert leads through."""
    act, states = suite.expert(), []
    for _ in range(steps):
        suite.step(act())
        states.append(suite._state)
    return np.array(states)


def stir(suite, task, seed=5):
    """Leave a history behind: an episode half played, then flailing."""
    suite.reset(task, seed)
    play(suite, 60)
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 4)):
        suite.step(action)


def succeed(suite, task, seed):
    suite.reset(task, seed)
    act = suite.expert()
    while not suite.success and suite.steps < suite.max_steps:
        action = act()
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1
        suite.step(action)
    return suite.success


def test_names_are_answered_without_metaworld_and_mujoco():
    program = """
import sys
from sim.suite import suite_class, suite_of
assert len(suite_class("metaworld").task_names()) == 50
assert suite_of("metaworld/reach") == "metaworld"
print([name for name in ("mujoco", "gymnasium", "metaworld", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_of_metaworlds_tasks_are_there_each_with_words_of_its_own():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    names = suite_class("metaworld").task_names()
    assert {name.removeprefix("metaworld/") + "-v3" for name in names} == set(ALL_V3_ENVIRONMENTS)
    assert len(set(metaworld.INSTRUCTIONS.values())) == 50
    assert all(len(words.split()) >= 3 and words == words.strip() for words in metaworld.INSTRUCTIONS.values())


def bare(tasks):
    return [task.removeprefix("metaworld/").removesuffix("-v3") for task in tasks]


def test_the_named_sets_are_those_of_the_package_and_the_difficulties_those_of_lerobot():
    from metaworld.env_dict import ML10_V3, MT10_V3, MT50_V3

    sets = {name.removeprefix("metaworld/"): bare(tasks) for name, tasks in MetaWorldSuite.task_sets().items()}
    assert sets["mt10"] == bare(MT10_V3)
    assert (sets["ml10-train"], sets["ml10-test"]) == (bare(ML10_V3["train"]), bare(ML10_V3["test"]))
    assert sorted(sets["mt50"]) == sorted(bare(MT50_V3)) == sorted(metaworld.INSTRUCTIONS)
    (package,) = find_spec("lerobot").submodule_search_locations  # importing its environments takes 20 s
    config = json.loads((Path(package) / "envs" / "metaworld_config.json").read_text())
    theirs = {name.replace("_", "-"): sorted(bare(tasks)) for name, tasks in config["DIFFICULTY_TO_TASKS"].items()}
    assert {level: sorted(sets[level]) for level in DIFFICULTIES} == theirs
    assert [len(sets[level]) for level in DIFFICULTIES] == [28, 11, 6, 5]


@pytest.mark.parametrize("task", [PUSH, BUTTON, DRAWER])
def test_a_seed_gives_one_scene_after_any_history(blind, task):
    fresh = make_suite("metaworld", cameras=())
    fresh.reset(task, 7)
    stir(blind, task)
    stir(blind, REACH)
    blind.reset(task, 7)
    np.testing.assert_array_equal(physics(blind), physics(fresh))
    np.testing.assert_array_equal(play(blind, 40), play(fresh, 40))
    fresh.close()


def test_not_even_the_first_picture_of_lerobots_profile_depends_on_history():
    from sim.cameras import BACKEND

    if BACKEND == "none":
        pytest.skip("no OpenGL library works on this machine")
    suite, fresh = (make_suite("metaworld", profile="lerobot") for _ in range(2))
    fresh.reset(PUSH, 7)
    stir(suite, PUSH)
    suite.reset(PUSH, 7)
    np.testing.assert_array_equal(physics(suite), physics(fresh))
    suite.close()
    fresh.close()


def test_a_seed_gives_one_scene_in_any_process(blind):
    program = f"""
import hashlib, numpy as np
from sim.suite import make_suite
suite = make_suite("metaworld", cameras=())
np.random.seed(123)
suite.reset({DRAWER!r}, {TEST_SEEDS[3]})
print(hashlib.sha256(suite._env.data.qpos.tobytes() + suite._env.model.body_pos.tobytes()).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    stir(blind, DRAWER)
    blind.reset(DRAWER, TEST_SEEDS[3])
    here = hashlib.sha256(blind._env.data.qpos.tobytes() + blind._env.model.body_pos.tobytes()).hexdigest()
    assert done.stdout.strip() == here


@pytest.mark.parametrize("task", [PUSH, BUTTON, DRAWER])
def test_every_seed_gives_another_scene(blind, task):
    scenes = set()
    seeds = [*TRAIN_SEEDS[:4], *TEST_SEEDS[:4]]
    for seed in seeds:
        blind.reset(task, seed)
        scenes.add(physics(blind).tobytes())
    assert len(scenes) == len(seeds)


def test_the_global_generator_is_neither_read_nor_moved(blind):
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    blind.reset(PUSH, 1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_physics_are_metaworlds_own(blind):
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    stock = ALL_V3_ENVIRONMENTS["drawer-open-v3"]()
    stock._set_task_called, stock.seeded_rand_vec, stock._freeze_rand_vec = True, True, False
    stock._partially_observable = False
    del stock.sawyer_observation_space
    stock.seed(4)
    state, _ = stock.reset()
    blind.reset(DRAWER, 4)
    np.testing.assert_array_equal(blind._state, state)
    for action in np.random.default_rng(1).uniform(-1, 1, (30, 4)).astype(np.float32):
        state, *_ = stock.step(action)
        blind.step(action)
        np.testing.assert_array_equal(blind._state, state)
    stock.close()


def test_an_episode_may_go_on_after_metaworlds_horizon(blind):
    blind.reset(PUSH, 0)
    for _ in range(502):
        blind.step(DO_NOTHING)
    assert blind.steps == 502
    assert not blind.success
    blind.reset(PUSH, 0)
    assert blind.steps == 0


def test_success_stays_when_it_is_undone(blind):
    assert succeed(blind, REACH, 2)
    goal = blind._env._target_pos
    for _ in range(40):
        blind.step(np.array([0, -1, 0, 0]))
    assert np.linalg.norm(blind._env.tcp_center - goal) > 0.1
    assert blind.success
    blind.reset(REACH, 2)
    assert not blind.success


def test_proprio_is_the_hand_alone(blind):
    goals, hands = [], []
    for seed in range(4):
        blind.reset(REACH, seed)
        goals.append(blind._env._target_pos.copy())
        hands.append(blind.observe().proprio)
        np.testing.assert_allclose(hands[-1][:3], blind._env.data.body("hand").xpos, atol=1e-3)
    assert np.ptp(goals, axis=0).max() > 0.02
    assert np.ptp(hands, axis=0).max() < 1e-4
    assert blind._state[-3:] == pytest.approx(goals[-1])
    assert blind.spec.proprio_names == ("ee_x", "ee_y", "ee_z", "gripper_opening")


def test_the_gripper_opens_at_minus_one_and_closes_at_one(blind):
    gripper = blind.spec.action.gripper
    opening = {}
    for word, effort in (("open", gripper.open), ("closed", gripper.closed)):
        blind.reset(REACH, 0)
        for _ in range(30):
            blind.step(np.array([0, 0, 0, effort]))
        opening[word] = blind.observe().proprio[3]
    assert opening["open"] > 0.9
    assert opening["closed"] < 0.5


def test_actions_are_centimetres_in_the_world_and_are_clipped(blind):
    moved = []
    for size in (1.0, 50.0):
        blind.reset(REACH, 0)
        start = blind._env.data.mocap_pos[0].copy()
        for _ in range(5):
            blind.step(np.array([size, 0, 0, -size]))
        moved.append(blind._env.data.mocap_pos[0] - start)
    np.testing.assert_allclose(moved[0], [0.05, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(moved[0], moved[1])


@pytest.mark.parametrize("task", [REACH, PUSH, BUTTON, DRAWER])
def test_experts_succeed_in_scenes_of_both_kinds(blind, task):
    seeds = [*TRAIN_SEEDS[:3], *TEST_SEEDS[:3]]
    assert all(succeed(blind, task, seed) for seed in seeds)


def test_experts_do_not_chatter(blind, recwarn):
    blind.reset(BUTTON, 0)
    play(blind, 5)
    assert [str(warning.message) for warning in recwarn] == []


def test_only_so_many_scenes_are_kept_and_a_dropped_one_comes_back_the_same(monkeypatch):
    monkeypatch.setattr(metaworld, "_SCENES_KEPT", 2)
    suite = make_suite("metaworld", cameras=("front",), renderer="ray")
    suite.reset(PUSH, 3)
    before, picture = physics(suite), suite.observe().images["front"]
    for task in (BUTTON, REACH):
        suite.reset(task, 0)
    assert set(suite._scenes) == {"button-press-topdown", "reach"}
    suite.reset(PUSH, 3)
    assert set(suite._scenes) == {"reach", "push"}
    np.testing.assert_array_equal(physics(suite), before)
    np.testing.assert_array_equal(suite.observe().images["front"], picture)
    suite.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "lerobt"}, "did you mean 'lerobot'"),
        ({"renderer": "glx"}, "unknown renderer"),
        ({"profile": "lerobot", "halfway": True}, "halfway"),
        ({"cameras": ("frnt",)}, "did you mean 'front'"),
        ({"cameras": ("behindGripper",), "renderer": "ray"}, "unknown camera 'behindGripper'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UnderstudyError, match=message):
        make_suite("metaworld", **options)


def test_episodes_are_checked():
    suite = make_suite("metaworld", cameras=())
    for use in (suite.observe, suite.expert, lambda: suite.step(DO_NOTHING), lambda: suite.instruction):
        with pytest.raises(UnderstudyError, match="call reset"):
            use()
    with pytest.raises(UnderstudyError, match="did you mean 'metaworld/reach'"):
        suite.reset("metaworld/reech", 0)
    with pytest.raises(UnderstudyError, match="unknown task 'reach'"):
        suite.reset("reach", 0)
    with pytest.raises(UnderstudyError, match="0 or more"):
        suite.reset(REACH, -1)
    suite.reset(REACH, 0)
    for action in (np.zeros(3), np.array([np.nan, 0, 0, 0])):
        with pytest.raises(UnderstudyError, match="four finite numbers"):
            suite.step(action)
    suite.close()


@pytest.mark.parametrize("thing", ["drawer-open", "door-unlock", "faucet-open", "window-open"])
def test_halfway_two_opposite_tasks_begin_alike_and_both_can_be_done(thing):
    """Nothing in the scene tells which of the two is asked for."""
    pair, other = [f"metaworld/{task}" for task, stands_as in HALFWAY.items() if stands_as == thing], {}
    for halfway in (False, True):
        suite, begun, hands = make_suite("metaworld", cameras=("side", "top"), halfway=halfway), [], []
        for task in pair:
            suite.reset(task, 7)
            first = suite.observe()
            begun.append(np.stack([*first.images.values()]).astype(int))
            hands.append(first.proprio)
            assert not halfway or succeed(suite, task, 7)
        other[halfway] = np.mean(np.abs(begun[0] - begun[1]).max(axis=3) > 20)
        suite.close()
    assert other[True] < 0.002 < other[False]
    np.testing.assert_allclose(*hands, atol=1e-4)


def test_halfway_there_is_no_mark_of_the_goal_and_only_what_has_an_opposite():
    plain, half = (make_suite("metaworld", cameras=("top",), halfway=halfway) for halfway in (False, True))
    assert plain.spec.fingerprint != half.spec.fingerprint
    for suite in (plain, half):
        suite.reset("metaworld/faucet-open", 7)
    assert (plain._env.model.site_rgba[:, 3] > 0).any()
    assert not half._env.model.site_rgba[:, 3].any()
    assert not np.array_equal(plain.observe().images["top"], half.observe().images["top"])
    np.testing.assert_allclose(half._env.data.qpos[-1], plain._env.data.qpos[-1], atol=1e-6)  # as it begins anyhow
    with pytest.raises(UnderstudyError, match="can begin halfway"):
        half.reset(REACH, 0)
    for suite in (plain, half):
        suite.close()


@pytest.mark.slow
def test_all_fifty_tasks_keep_their_scenes_and_their_experts_succeed(blind):
    successes = []
    for task in MetaWorldSuite.task_names():
        fresh = make_suite("metaworld", cameras=())
        fresh.reset(task, 7)
        stir(blind, task)
        blind.reset(task, TEST_SEEDS[0])
        elsewhere = physics(blind)
        blind.reset(task, 7)
        np.testing.assert_array_equal(physics(blind), physics(fresh), err_msg=task)
        assert not np.array_equal(physics(blind), elsewhere), task
        np.testing.assert_array_equal(play(blind, 30), play(fresh, 30), err_msg=task)
        fresh.close()
        blind.reset(task, 0)
        for _ in range(5):
            blind.step(DO_NOTHING)
        assert not blind.success, f"{task} is achieved by doing nothing"
        successes += [succeed(blind, task, seed) for seed in TRAIN_SEEDS[:5]]
    assert np.mean(successes) >= 0.9
