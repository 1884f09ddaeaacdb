"""The table-top suite: its instructions, what is in view, what a seed decides, domain randomisation."""

import mujoco
import numpy as np
import pytest

from sim.cameras import RayCamera
from sim.suite import TEST_SEEDS, TRAIN_SEEDS, make_suite
from sim.tasks.tabletop import TASKS, WORKSPACE_HIGH, WORKSPACE_LOW
from sim.tasks.tabletop_scene import CLEARANCE, DISTRACTORS, RANDOMIZABLE
from vla.errors import UnderstudyError

NAMED = ("red cube", "green cube", "blue cube", "yellow cylinder", "pad", "tray", "button cap", "drawer front")
"""Geoms of all that an instruction can name."""
CUBES = NAMED[:4]
LIFT = "tabletop/lift-red-cube"
SEEDS = [*TRAIN_SEEDS[:15], *TEST_SEEDS[:15]]


@pytest.fixture(scope="module")
def suite():
    return make_suite("tabletop", image_size=32)


def scene(suite):
    """Everything that moves."""
    return np.concatenate([suite.data.qpos, suite.data.qvel])


def test_there_are_a_dozen_instructions_and_more_all_different():
    instructions = {task.instruction for task in TASKS.values()}
    assert len(instructions) == len(TASKS) >= 12
    assert len({task.verb for task in TASKS.values()}) >= 6
    assert all(name == task.name for name, task in TASKS.items())
    for task in TASKS.values():
        assert task.instruction.startswith(task.verb)
        assert task.target in task.instruction
        assert task.goal in task.instruction


@pytest.mark.parametrize("size", [32, 64])
def test_all_that_can_be_named_is_in_view_whatever_the_task(suite, size):
    camera = RayCamera(suite.model, "front", height=size, width=size)
    hidden = {}
    for seed in SEEDS:
        suite.reset(LIFT, seed)
        seen = set(np.unique(camera.picture(suite.data).segmentation))
        missing = [name for name in NAMED if suite.model.geom(name).id not in seen]
        if missing:
            hidden[seed] = missing
    assert not hidden


def test_a_seed_gives_the_same_scene_whatever_the_task(suite):
    for seed in SEEDS[:3]:
        scenes, pictures = [], []
        for task in TASKS:
            suite.reset(task, seed)
            scenes.append(scene(suite))
            pictures.append(suite.observe().images["front"])
        assert all(np.array_equal(other, scenes[0]) for other in scenes)
        assert all(np.array_equal(other, pictures[0]) for other in pictures)


def test_nothing_is_achieved_at_the_start(suite):
    for seed in SEEDS[:10]:
        for task in TASKS:
            suite.reset(task, seed)
            assert not suite.success
            suite.step(np.array([0, 0, 0, 1.0]))
            assert not suite.success, (task, seed)


def test_things_lie_apart_on_the_table_and_the_hand_is_above_them(suite):
    starts = []
    for seed in SEEDS:
        suite.reset(LIFT, seed)
        places = np.array([suite.position(name) for name in CUBES])
        starts.append(places[:, :2].ravel())
        gaps = np.linalg.norm(places[:, None, :2] - places[None, :, :2], axis=-1)[np.triu_indices(4, 1)]
        assert gaps.min() > CLEARANCE - 0.005
        assert (np.abs(places[:, 2] - 0.0275) < 0.006).all()  # [m] at rest
        assert suite.grip_position[2] > 0.15
        assert 0.03 < suite.drawer_opening < 0.065
        assert suite.gripper_opening > 0.95
    assert np.std(starts, axis=0).min() > 0.03  # [m] scenes differ


def test_an_action_moves_the_hand_by_so_much(suite):
    for axis in range(3):
        for way in (-1, 1):
            suite.reset(LIFT, SEEDS[0])
            before = suite.grip_position
            action = np.array([0, 0, 0, 1.0])
            action[axis] = way * 0.02
            for _ in range(3):
                suite.step(action)
            for _ in range(4):
                suite.step(np.array([0, 0, 0, 1.0]))
            moved = suite.grip_position - before
            expected = np.zeros(3)
            expected[axis] = way * 0.06
            np.testing.assert_allclose(moved, expected, atol=0.01)


def test_the_gripper_opens_and_closes(suite):
    suite.reset(LIFT, SEEDS[0])
    for opening in (0.0, 1.0):
        for _ in range(10):
            suite.step(np.array([0, 0, 0, opening]))
        assert suite.observe().proprio[3] == pytest.approx(opening, abs=0.05)


def test_the_hand_stays_in_its_workspace(suite):
    rng = np.random.default_rng(0)
    for _ in range(3):
        suite.reset(LIFT, SEEDS[1])
        push = rng.choice([-1, 1], 3) * 0.03
        for _ in range(60):
            suite.step(np.array([*push, 0]))
            assert np.isfinite(scene(suite)).all()
        assert (suite.grip_position > WORKSPACE_LOW - 0.03).all()
        assert (suite.grip_position < WORKSPACE_HIGH + 0.03).all()


def test_proprio_is_the_hand_and_its_opening(suite):
    suite.reset(LIFT, SEEDS[2])
    proprio = suite.observe().proprio
    np.testing.assert_allclose(proprio, [*suite.grip_position, suite.gripper_opening], rtol=1e-6)
    for name in CUBES:  # where the objects are must be seen
        suite.data.body(name)
        address = suite.model.jnt_qposadr[suite.model.body(name).jntadr[0]]
        suite.data.qpos[address] += 0.05
    mujoco.mj_forward(suite.model, suite.data)
    np.testing.assert_array_equal(suite.observe().proprio, proprio)


@pytest.mark.parametrize("kind", ["colors", "lights", "camera", "distractors"])
def test_randomisation_changes_the_pictures_and_nothing_else(suite, kind):
    varied = make_suite("tabletop", image_size=32, randomize=[kind])
    bodies = ("hand", "drawer", "button cap", *CUBES)
    pictures = set()
    for seed in SEEDS[:4]:
        suite.reset(LIFT, seed)
        varied.reset(LIFT, seed)
        for _ in range(3):
            for name in bodies:
                np.testing.assert_allclose(varied.position(name), suite.position(name), atol=1e-9, err_msg=name)
            np.testing.assert_allclose(varied.observe().proprio, suite.observe().proprio, atol=1e-7)
            suite.step(np.array([0.02, 0.01, -0.02, 0]))
            varied.step(np.array([0.02, 0.01, -0.02, 0]))
        picture = varied.observe().images["front"]
        assert not np.array_equal(picture, suite.observe().images["front"])
        pictures.add(picture.tobytes())
    assert len(pictures) == 4


def test_distractors_are_seen_only_when_asked_for():
    for kinds, there in ((("distractors",), True), ((), False), (("colors",), False)):
        varied = make_suite("tabletop", image_size=64, randomize=kinds)
        varied.reset(LIFT, 3)
        seen = set(np.unique(RayCamera(varied.model, "front", height=64, width=64).picture(varied.data).segmentation))
        for name in DISTRACTORS:
            assert (varied.model.geom(name).id in seen) is there, (kinds, name)
        assert (set(DISTRACTORS) <= set(varied.free_bodies)) is there


def test_a_randomised_look_is_part_of_the_scene():
    varied = make_suite("tabletop", image_size=32, randomize=RANDOMIZABLE)
    pictures = []
    for seed in (4, 9, 4):
        varied.reset(LIFT, seed)
        pictures.append(varied.observe().images["front"])
    np.testing.assert_array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1])


def test_red_stays_red():
    varied = make_suite("tabletop", image_size=32, randomize=["colors"])
    for seed in range(20):
        varied.reset(LIFT, seed)
        for name, channel in (("red cube", 0), ("green cube", 1), ("blue cube", 2)):
            assert varied.model.geom(name).rgba[:3].argmax() == channel


def test_the_fingerprint_does_not_depend_on_the_order_of_the_kinds(suite):
    one, two = (make_suite("tabletop", randomize=kinds).spec for kinds in (("colors", "lights"), ("lights", "colors")))
    assert one.fingerprint == two.fingerprint != make_suite("tabletop").spec.fingerprint
    with pytest.raises(UnderstudyError, match="did you mean 'colors'"):
        make_suite("tabletop", randomize=["color"])


def carried(suite, body, place, height):
    """Put ``body`` at ``place`` as if it had been brought there, and take one step."""
    address = suite.model.jnt_qposadr[suite.model.body(body).jntadr[0]]
    suite.data.qpos[address : address + 7] = [*place[:2], height, 1, 0, 0, 0]
    suite.data.qvel[:] = 0
    mujoco.mj_forward(suite.model, suite.data)
    suite.step(np.array([0, 0, 0, 1.0]))
    return bool(suite.success)


def test_success_means_that_the_target_is_where_it_should_be(suite):
    for name, task in TASKS.items():
        if task.verb not in ("push", "put", "stack", "lift"):
            continue
        wrong = next(cube for cube in CUBES if cube not in (task.target, task.goal))
        for body, achieved in ((wrong, False), (task.target, True)):
            suite.reset(name, SEEDS[0])
            place = suite.position(task.goal) if task.goal else suite.position(body)
            height = {"push": 0.026, "put": 0.035, "stack": place[2] + 0.05, "lift": 0.2}[task.verb]
            assert carried(suite, body, place, height) is achieved, (name, body)


def test_success_is_true_or_false_and_nothing_like_it(suite):
    kinds = set()
    for name, task in TASKS.items():
        suite.reset(name, SEEDS[0])
        if task.goal:
            place = suite.position(task.goal)
            carried(suite, task.target, place, place[2] + 0.05 if task.verb == "stack" else 0.03)
        kinds.add(type(suite.success))
    assert kinds == {bool}
