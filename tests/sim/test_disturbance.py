"""Worlds that look otherwise: only what is said differs, alike for everybody, and it is undone."""

import numpy as np
import pytest

from sim.disturbance import AXES, WORLD, Disturbance, Senses
from sim.robustness import disturbed
from sim.rollout import Scene, Setting, play
from sim.suite import TEST_SEEDS, make_suite
from vla.errors import UnderstudyError
from vla.types import ActionSpec, CameraSpec, PolicySpec

SUITES = {"tabletop": "tabletop/push-red-cube-pad", "metaworld": "metaworld/push"}


@pytest.fixture(scope="module", params=SUITES)
def suite(request):
    made = make_suite(request.param, image_size=48, cameras=["front", "wrist"])
    yield made
    made.close()


def begin(suite, seed=TEST_SEEDS[3]):
    suite.reset(SUITES[suite.spec.name], seed)
    return suite.observe()


@pytest.mark.parametrize("axis", WORLD)
def test_the_world_looks_otherwise_alike_for_everybody_and_again_as_it_was(suite, axis):
    plain = begin(suite)
    seen = []
    for level in (1, 3, 1):
        begin(suite)
        with Disturbance(axis, level).of_world(suite, TEST_SEEDS[3]):
            seen.append(suite.observe())
            assert seen[-1].images["front"].std() > 3
    apart = [np.abs(one.images["front"].astype(int) - plain.images["front"]).mean() for one in seen]
    assert 0 < apart[0] < apart[1]
    np.testing.assert_array_equal(seen[0].images["front"], seen[2].images["front"])
    np.testing.assert_array_equal(suite.observe().images["front"], plain.images["front"])
    np.testing.assert_array_equal(begin(suite).images["wrist"], plain.images["wrist"])
    begin(suite)
    with Disturbance(axis, 1).of_world(suite, TEST_SEEDS[4]):
        assert not np.array_equal(suite.observe().images["front"], seen[0].images["front"])


def moved(suite, axis):
    begin(suite)
    rng, spec = np.random.default_rng(0), suite.spec.action
    with Disturbance(axis, 3).of_world(suite, 5) if axis else Disturbance().of_world(suite, 5):
        for _ in range(8):
            suite.step(rng.uniform(spec.low, spec.high))
    return suite.observe().proprio


@pytest.mark.parametrize("axis", WORLD)
def test_nothing_of_it_is_felt(suite, axis):
    np.testing.assert_array_equal(moved(suite, axis), moved(suite, ""))


def test_a_camera_drops(suite):
    plain = begin(suite)
    for cameras, level, dropped, kept in (
        (["front", "wrist"], 2, "wrist", "front"),
        (["wrist", "front"], 2, "front", "wrist"),  # the policy's second, not the suite's
        (["wrist"], 1, "wrist", "front"),
    ):
        seen = Senses(suite, Disturbance("camera-dropped", level), cameras).observe()
        assert not seen.images[dropped].any()
        np.testing.assert_array_equal(seen.images[kept], plain.images[kept])
    with pytest.raises(UnderstudyError, match="camera 3 cannot drop; there are front, wrist"):
        Senses(suite, Disturbance("camera-dropped", 3), ["front", "wrist"])


def test_what_is_seen_late_is_what_was(suite):
    begin(suite)
    behind = round(0.1 * suite.spec.control_hz)
    senses, truth = Senses(suite, Disturbance("late", 2), ["front", "wrist"]), []
    for step in range(behind + 3):
        senses.pass_by()
        truth.append(suite.observe())
        assert senses.observe().stamp_ns == truth[max(0, step - behind)].stamp_ns
        np.testing.assert_array_equal(senses.observe().proprio, truth[max(0, step - behind)].proprio)
        suite.step(np.asarray(suite.spec.action.high) / 2)


def test_words_are_left_out():
    assert Disturbance("instruction-blank", 1).words("push") == ""
    assert Disturbance().words("push") == Disturbance("camera", 2).words("push") == "push"


@pytest.mark.parametrize(("axis", "level"), [("fog", 1), ("camera", 0), ("camera", 4), ("late", -1)])
def test_what_is_no_axis_or_level_is_refused(axis, level):
    with pytest.raises(UnderstudyError, match=r"axis|levels"):
        Disturbance(axis, level)


def spec(accepts):
    action = ActionSpec("ee_delta", ("x",), (-1.0,), (1.0,))
    cameras = (CameraSpec("front", 8, 8), CameraSpec("wrist", 8, 8))
    return PolicySpec(cameras, (), action, accepts, 1, 4, 2, 20.0)


def test_a_grid_holds_every_axis_at_every_level():
    scenes = [Scene(Setting("{}"), task, task, "policy", 7) for task in ("tabletop/a", "tabletop/b")]
    scenes.append(Scene(Setting("{}"), "tabletop/a", "tabletop/a", "random", 7))
    made = disturbed(scenes, ("all",), spec(("instruction",)), {"tabletop/a": "tabletop/b"})
    cells = {str(scene.disturbed): [one for one in made if one.disturbed == scene.disturbed] for scene in made}
    levels = AXES | {"camera-dropped": 2}
    assert list(cells) == [f"{axis}:{level}" for axis in AXES for level in range(1, levels[axis] + 1)]
    assert all(scene.condition == "disturbed" for scene in made)
    assert [(scene.task, scene.told) for scene in cells["instruction-swapped:1"]] == [("tabletop/a", "tabletop/b")]
    assert all(len(cells[name]) == 2 for name in cells if not name.startswith("instruction-swapped"))


def test_who_is_not_told_has_no_axes_of_words():
    scenes = [Scene(Setting("{}"), "tabletop/a", "tabletop/a", "policy", 7)]
    made = disturbed(scenes, ("all",), spec(("video",)), {})
    assert not any("instruction" in str(scene.disturbed) for scene in made)
    with pytest.raises(UnderstudyError, match="not told its task in words"):
        disturbed(scenes, ("instruction-blank",), spec(("video",)), {})
    with pytest.raises(UnderstudyError, match="did you mean 'camera'"):
        disturbed(scenes, ("camra",), spec(("video",)), {})


def test_an_episode_under_a_disturbance_says_so_and_leaves_nothing_behind():
    options = '{"cameras": ["front"], "image_size": 32}'
    task = SUITES["tabletop"]
    plain = Scene(Setting(options), task, task, "expert", TEST_SEEDS[0])
    changed = Scene(Setting(options), task, task, "expert", TEST_SEEDS[0], disturbed=Disturbance("camera", 2))
    before, played, after = play(plain), play(changed), play(plain)
    assert (played.result.disturbed, before.result.disturbed) == ("camera:2", "")
    np.testing.assert_array_equal(played.actions, before.actions)  # an expert looks at no camera
    assert after.result == before.result
