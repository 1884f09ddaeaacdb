"""The suites over gymnasium-robotics: that they are the package's own tasks, in physical units, and obey their seed."""

import numpy as np
import pytest

from sim.suite import TEST_SEEDS, TRAIN_SEEDS, Diverged, make_suite
from vla.errors import UnderstudyError

pytest.importorskip("gymnasium_robotics")

NAMES = ("fetch", "kitchen", "adroit")


@pytest.fixture(scope="module")
def suites():
    made = {name: make_suite(name, cameras=[], renderer="ray") for name in NAMES}
    yield made
    for suite in made.values():
        suite.close()


def test_names_of_tasks_need_neither_mujoco_nor_the_package(run_python):
    done = run_python(
        "import sys\n"
        "from sim.suite import make_suite, suite_class\n"
        "for name in ('fetch', 'kitchen', 'adroit', 'aloha'):\n"
        "    assert len(suite_class(name).task_names()) >= 2\n"
        "assert 'mujoco' not in sys.modules\n"
        "make_suite('fetch')\n"
        "assert 'gymnasium_robotics' not in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "extra"), [*((name, "robotics") for name in NAMES), ("aloha", "aloha")])
def test_without_its_package_a_suite_says_which_extra_to_install(name, extra, monkeypatch):
    monkeypatch.setattr("sim.tasks.mujoco_suite.find_spec", lambda package: None)
    with pytest.raises(UnderstudyError, match=rf"pip install understudy\[{extra}\].*uv pip install -e \.\[{extra}\]"):
        make_suite(name)


def test_what_cannot_be_drawn_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr("sim.cameras.BACKEND", "none")
    with pytest.raises(UnderstudyError, match="renderer='ray'"):
        make_suite("fetch", renderer="gl")
    assert " ray " in make_suite("fetch").spec.fingerprint
    with pytest.raises(UnderstudyError, match="unknown renderer 'rai'; did you mean 'ray'"):
        make_suite("fetch", renderer="rai")


def test_before_a_reset_and_after_nonsense_it_says_what_to_do():
    suite = make_suite("fetch", cameras=[], renderer="ray")
    with pytest.raises(UnderstudyError, match="call reset"):
        suite.observe()
    with pytest.raises(UnderstudyError, match="a seed is 0 or more"):
        suite.reset("fetch/reach", -1)
    suite.reset("fetch/reach", 0)
    for action in (np.zeros(3), np.array([0, 0, np.nan, 0])):
        with pytest.raises(UnderstudyError, match="4 finite numbers"):
            suite.step(action)


@pytest.mark.parametrize("renderer", ["ray", "gl"])
@pytest.mark.parametrize("task", ["fetch/push", "kitchen/kettle", "adroit/door", "adroit/pen"])
def test_every_camera_sees_something(task, renderer):
    from sim.cameras import BACKEND
    from sim.suite import suite_class

    if renderer == "gl" and BACKEND == "none":
        pytest.skip("no OpenGL library works on this machine")
    name = task.partition("/")[0]
    suite = make_suite(name, image_size=24, cameras=suite_class(name).robot.cameras, renderer=renderer)
    suite.reset(task, TEST_SEEDS[0])
    images = suite.observe().images
    assert all(image.std() > 5 for image in images.values()), {one: image.std() for one, image in images.items()}
    suite.close()


@pytest.mark.parametrize("task", ["reach", "push", "slide", "pick-and-place"])
def test_fetch_is_the_packages_own_with_metres_for_units(suites, task):
    from importlib import import_module

    module = import_module(f"gymnasium_robotics.envs.fetch.{task.replace('-', '_')}")
    theirs = getattr(module, f"MujocoFetch{task.title().replace('-', '')}Env")()
    suite, rng, seed = suites["fetch"], np.random.default_rng(0), TEST_SEEDS[3]
    suite.reset(f"fetch/{task}", seed)
    theirs.reset(seed=seed)
    np.testing.assert_array_equal(suite.world.goal, theirs.goal)
    for _ in range(10):
        action = rng.uniform(-1, 1, 4)
        *_, info = theirs.step(action)
        suite.step(action * [0.05, 0.05, 0.05, 1.0])
        np.testing.assert_allclose(suite.world.data.qpos, theirs.data.qpos, atol=1e-7)
    assert suite.success >= bool(info["is_success"])


def test_the_goal_of_fetch_is_marked_where_it_is(suites):
    suite = suites["fetch"]
    for task in ("fetch/push", "fetch/pick-and-place", "fetch/slide"):
        for seed in TRAIN_SEEDS[:3]:
            suite.reset(task, seed)
            np.testing.assert_allclose(suite.world.data.site("target0").xpos, suite.world.goal, atol=1e-9)


def test_the_kitchen_holds_positions_and_comes_to_far_ones_at_the_packages_speed(suites):
    suite = suites["kitchen"]
    suite.reset("kitchen/kettle", 0)
    world, before = suite.world, suite.world.data.qpos[:7].copy()
    suite.step(np.array([*(before + 0.1), 1.0]))
    np.testing.assert_allclose(world.data.ctrl[:7], before + 0.1)
    np.testing.assert_allclose(world.data.ctrl[7:], 0.04)
    before = world.data.qpos[:7].copy()
    suite.step(np.array(suite.spec.action.low))
    free = [0, 2, 3, 4]  # the others are near their ends
    np.testing.assert_allclose(world.data.ctrl[free], before[free] - 2.0 * 0.08)


def test_the_kitchens_goals_are_the_packages(suites):
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES

    suite = suites["kitchen"]
    things = [name.partition("/")[2].replace("-", " ") for name in suite.task_names()]
    assert set(things) == set(OBS_ELEMENT_GOALS)
    for name, thing in zip(suite.task_names(), things):
        suite.reset(name, TEST_SEEDS[1])
        assert not suite.world.achieved()
        suite.world.data.qpos[OBS_ELEMENT_INDICES[thing]] = OBS_ELEMENT_GOALS[thing]
        assert suite.world.achieved()


@pytest.mark.parametrize("task", ["door", "hammer", "pen", "relocate"])
def test_adroit_is_the_packages_own_with_positions_for_units(suites, task):
    from importlib import import_module

    theirs = getattr(
        import_module(f"gymnasium_robotics.envs.adroit_hand.adroit_{task}"), f"AdroitHand{task.title()}Env"
    )()
    suite, rng, seed = suites["adroit"], np.random.default_rng(0), TEST_SEEDS[3]
    suite.reset(f"adroit/{task}", seed)
    theirs.reset(seed=seed)
    names = [theirs.model.joint(joint).name for joint in theirs.model.actuator_trnid[:, 0]]
    entries = [suite.spec.action.names.index(name) for name in names]
    stretch = np.where([name.startswith("AR") for name in names], 2.5, 1.0)
    for _ in range(10):
        action = rng.uniform(-1, 1, len(names))
        theirs.step(action)
        asked = np.zeros(suite.spec.action.dim)
        asked[entries] = stretch * (theirs.act_mean + action * theirs.act_rng)
        assert (np.array(suite.spec.action.low)[entries] <= asked[entries] + 1e-9).all()
        assert (asked[entries] <= np.array(suite.spec.action.high)[entries] + 1e-9).all()
        suite.step(asked)
        np.testing.assert_allclose(suite.world.data.qpos, theirs.data.qpos, atol=1e-7)
        felt = suite.world.proprio()
        np.testing.assert_allclose(felt[entries], [theirs.data.joint(name).qpos[0] for name in names], atol=1e-7)
        assert not np.delete(felt, entries).any()


def test_an_unstable_world_is_not_hidden(suites, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    suite = suites["fetch"]
    suite.reset("fetch/push", 0)
    suite.world.data.qvel[-6:] = 1e12
    with pytest.raises(Diverged, match="at step 1"):
        suite.step(np.zeros(4))
    suite.reset("fetch/push", 0)
    suite.step(np.zeros(4))


def test_the_pen_is_turned_in_the_scenes_that_were_recorded_and_no_other(suites):
    suite = suites["adroit"]
    for seed in (1, 5, 7, 8, 12, 13):
        suite.reset("adroit/pen", seed)
        act = suite.expert()
        while not suite.success and suite.steps < 40:
            suite.step(act())
        assert suite.success
    suite.reset("adroit/pen", 0)
    with pytest.raises(UnderstudyError, match=r"scene 0 has no recorded demonstration.*1, 5, 7, 8, 12, 13"):
        suite.expert()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_reliable_in_scenes_that_they_were_not_made_in(suites, name):
    suite = suites[name]
    for task in set(suite.task_names()) - {"adroit/pen"}:
        done = 0
        for seed in TEST_SEEDS[:10]:
            suite.reset(task, seed)
            act = suite.expert()
            while not suite.success and suite.steps < suite.max_steps:
                suite.step(act())
            done += suite.success
        assert done >= 8, task
