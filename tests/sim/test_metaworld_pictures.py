"""What Meta-World's cameras show: upright, large enough, of this scene, never black; and LeRobot's pictures."""

import gc
import subprocess
import sys

import numpy as np
import pytest

from sim.suite import make_suite
from sim.tasks import metaworld
from sim.tasks.metaworld import CAMERAS, CLOSE_UPS
from vla.errors import UnderstudyError

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("metaworld")

REACH, PUSH, BUTTON, DRAWER = (f"metaworld/{task}" for task in ("reach", "push", "button-press-topdown", "drawer-open"))
RENDERERS = ("ray", "gl")
UPRIGHT = tuple(name for name in CAMERAS if name != "behindGripper")


@pytest.fixture(scope="module", params=RENDERERS)
def seeing(request):
    """One suite with the close cameras, by rays and, where there is an OpenGL, through it."""
    suite = _suite(request.param, cameras=("front", "wrist", "side", "top"))
    yield suite
    suite.close()


def _suite(renderer, **options):
    from sim.cameras import BACKEND

    if renderer == "gl" and BACKEND == "none":
        pytest.skip("no OpenGL library works on this machine")
    return make_suite("metaworld", renderer=renderer, **options)


def test_observations_are_what_the_spec_says(seeing):
    seeing.reset(PUSH, 0)
    seen = seeing.observe()
    assert tuple(seen.images) == tuple(camera.name for camera in seeing.spec.cameras)
    for camera in seeing.spec.cameras:
        image = seen.images[camera.name]
        assert image.shape == (camera.height, camera.width, 3) == (64, 64, 3)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert image.std() > 10
    assert seen.proprio.dtype == np.float32
    assert seen.proprio.shape == (len(seeing.spec.proprio_names),)
    assert seeing.spec.control_hz == pytest.approx(1 / seeing._env.dt)
    assert seeing.film(48).shape == (48, 48, 3)
    assert seeing.instruction == metaworld.INSTRUCTIONS["push"]


@pytest.fixture(scope="module")
def everywhere():
    suite = make_suite("metaworld", cameras=UPRIGHT, renderer="ray", image_size=96)
    yield suite
    suite.close()


@pytest.mark.parametrize("name", UPRIGHT)
def test_every_camera_is_upright(everywhere, name):
    """What goes up in the world goes up in the picture; for cameras that look down, what goes away from the robot."""
    down = {"top": (-0.06, 0.66, 0.1), "topview": (-0.06, 0.66, 0.1), "wrist": (0.06, 0.6, 0.05)}
    down["gripperPOV"] = down["wrist"]  # places that the hand does not hide
    everywhere.reset(REACH, 1)
    goal = everywhere._env.model.site("goal").id
    rows = []
    for shift in (0.0, 0.04):
        place = np.array(down.get(name, (0.0, 0.64, 0.1))) + ([0, shift, 0] if name in down else [0, 0, shift])
        rows.append(np.argwhere(shown(everywhere, name, goal, place))[:, 0].mean())
    assert rows[1] < rows[0] - 1


def shown(suite, camera, site, place):
    """Where in the picture a marker at ``place`` is seen: [H, W] bool."""
    model, data = suite._env.model, suite._env.data
    model.site_pos[site] = place
    mujoco.mj_forward(model, data)
    pictures = []
    for alpha in (1.0, 0.0):
        model.site_rgba[site, 3] = alpha
        pictures.append(suite._picture(camera, suite.spec.cameras[0].height).astype(int))
    model.site_rgba[site, 3] = 1.0
    seen = np.abs(pictures[0] - pictures[1]).max(axis=-1) > 20
    assert seen.any()
    return seen


@pytest.mark.parametrize("camera", CLOSE_UPS)
@pytest.mark.parametrize("task", [REACH, PUSH])
def test_goals_are_large_enough_for_small_pictures(seeing, camera, task):
    """5 pixels of 64 for the marker of 4 cm, in the corners of the space that goals are drawn from."""
    seeing.reset(task, 0)
    space = seeing._env._random_reset_space
    low, high = space.low[-3:], space.high[-3:]
    for corner in ((0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 0)):
        place = np.where(corner, high, low)
        seen = shown(seeing, camera, seeing._env.model.site("goal").id, place)
        assert np.ptp(np.nonzero(seen.any(axis=0))) + 1 >= 5


@pytest.mark.parametrize("camera", CLOSE_UPS)
@pytest.mark.parametrize("place", [(-0.1, 0.75), (0.1, 0.75), (0.0, 0.9)])
def test_the_puck_is_large_enough_for_small_pictures(everywhere, camera, place):
    from sim.cameras import RayCamera

    everywhere.reset(PUSH, 0)
    everywhere._env._set_obj_xyz(np.array([*place, 0.02]))
    model, data = everywhere._env.model, everywhere._env.data
    seen = RayCamera(model, camera, height=64, width=64).picture(data).segmentation
    puck = np.isin(seen, np.flatnonzero(model.geom_bodyid == model.body("obj").id))
    assert puck.any(axis=0).sum() >= 5
    assert not puck[[0, -1]].any()
    assert not puck[:, [0, -1]].any()


def test_the_wrist_camera_sees_both_fingers_and_what_is_under_the_hand():
    from sim.cameras import RayCamera

    suite = make_suite("metaworld", cameras=("wrist",), renderer="ray")
    suite.reset(PUSH, 0)
    env = suite._env
    env._set_obj_xyz(np.array([0.0, 0.6, 0.02]))
    seen = RayCamera(env.model, "gripperPOV", height=64, width=64).picture(env.data).segmentation
    bodies = {env.model.body(env.model.geom_bodyid[geom]).name for geom in np.unique(seen) if geom >= 0}
    suite.close()
    assert {"rightclaw", "leftclaw"} <= bodies or {"rightpad", "leftpad"} <= bodies
    assert "obj" in bodies


def test_the_first_picture_shows_this_scene_and_not_the_last(seeing):
    for task in (PUSH, DRAWER):
        seeing.reset(task, 5)
        act = seeing.expert()
        for _ in range(60):
            seeing.step(act())
        seeing.reset(task, 11)
        first = seeing.observe().images
        mujoco.mj_forward(seeing._env.model, seeing._env.data)
        for name, image in seeing.observe().images.items():
            np.testing.assert_array_equal(image, first[name])


def test_pictures_survive_other_tasks_other_suites_and_their_end(seeing):
    """The traps of OpenGL: black and stale frames after another context was used, closed or collected."""
    tasks = (PUSH, DRAWER, BUTTON)
    before = {}
    for task in tasks:
        seeing.reset(task, 9)
        before[task] = seeing.observe().images
    other = _suite(seeing._renderer, cameras=("front",))
    other.reset(PUSH, 1)
    other.observe()
    seeing.observe()
    other.close()
    lost = _suite(seeing._renderer, cameras=("front",), image_size=32)
    lost.reset(REACH, 1)
    lost.observe()
    del lost
    gc.collect()
    for task in tasks:
        seeing.reset(task, 9)
        for name, image in seeing.observe().images.items():
            np.testing.assert_array_equal(image, before[task][name])


def test_an_empty_picture_is_an_error_not_data(seeing, monkeypatch):
    seeing.reset(PUSH, 0)
    seeing.observe()
    camera = seeing._scenes["push"].cameras["corner4", 64]
    monkeypatch.setattr(camera, "render", lambda data: np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(UnderstudyError, match=r"'front'.* empty picture"):
        seeing.observe()


def test_nothing_is_said_at_exit():
    """A suite that nobody closed: MuJoCo alone would end with errors of EGL's, which is gone before its contexts."""
    program = f"""
import weakref; weakref.finalize(weakref.ref, int)  # so that weakref's own exit hook runs after EGL's
from sim.suite import make_suite
suite = make_suite("metaworld", cameras=("front", "wrist"))
for task in ({PUSH!r}, {REACH!r}):
    suite.reset(task, 0)
    suite.observe()
suite.film(32)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_fingerprints_differ_with_everything_that_changes_a_picture():
    options = [
        {"renderer": "ray"},
        {"renderer": "ray", "image_size": 96},
        {"renderer": "ray", "cameras": ("corner2",)},
        {"renderer": "ray", "cameras": ("front", "wrist")},
    ]
    from sim.cameras import BACKEND

    if BACKEND != "none":
        options += [{"renderer": "gl"}, {"profile": "lerobot"}]
    prints = [make_suite("metaworld", **option).spec.fingerprint for option in options]
    assert len(set(prints)) == len(prints)


def test_the_renderer_is_chosen_by_what_the_machine_has(monkeypatch):
    from sim import cameras

    monkeypatch.setattr(cameras, "BACKEND", "none")
    assert " ray " in make_suite("metaworld").spec.fingerprint
    with pytest.raises(UnderstudyError, match="renderer='ray'"):
        make_suite("metaworld", renderer="gl")
    with pytest.raises(UnderstudyError, match="needs OpenGL"):
        make_suite("metaworld", profile="lerobot")
    monkeypatch.setattr(cameras, "BACKEND", "egl")
    assert " gl " in make_suite("metaworld").spec.fingerprint


def test_lerobots_profile_is_fixed():
    suite = _suite("gl", profile="lerobot")
    assert [(camera.name, camera.height, camera.width) for camera in suite.spec.cameras] == [("front", 480, 480)]
    assert suite.max_steps == 500
    with pytest.raises(UnderstudyError, match="480 px"):
        make_suite("metaworld", profile="lerobot", image_size=64)
    with pytest.raises(UnderstudyError, match="480 px"):
        make_suite("metaworld", profile="lerobot", cameras=("front", "wrist"))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["push", "drawer-open", "window-close"])
def test_lerobots_profile_is_lerobots(task):
    """Pictures, states and scenes against LeRobot's own environment."""
    lerobot = pytest.importorskip("lerobot.envs.metaworld")
    suite = _suite("gl", profile="lerobot")
    theirs = lerobot.MetaworldEnv(f"{task}-v3", obs_type="pixels_agent_pos")
    for seed in (1000, 1001):
        seen, _ = theirs.reset(seed=seed)
        suite.reset(f"metaworld/{task}", seed)
        ours = suite.observe()
        # Their first picture depends on the episode before, by some micrometres of the goal's marker.
        assert (ours.images["front"] != seen["pixels"]).mean() < 1e-4
        for action in np.random.default_rng(seed).uniform(-1, 1, (10, 4)).astype(np.float32):
            seen, *_ = theirs.step(action)
            suite.step(action)
        ours = suite.observe()
        np.testing.assert_array_equal(ours.images["front"], seen["pixels"])
        np.testing.assert_array_equal(ours.proprio, seen["agent_pos"].astype(np.float32))
    theirs.close()
    suite.close()
