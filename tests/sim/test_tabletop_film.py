"""The task of a film: the cube lies where the film begins, and what counts is where the film ends."""

import numpy as np
import pytest

from vla.errors import UnderstudyError

pytest.importorskip("mujoco")
from robot_bridge.retarget.inverse import solve
from robot_bridge.retarget.lifting import HandPath
from robot_bridge.retarget.pacing import arm_only, paced
from robot_bridge.retarget.tool_path import ToolPath, tool_path
from sim.follow import follow
from sim.human_pick import pick_film, pick_places
from sim.human_pick_command import main
from sim.scenes import SPEC, TABLETOP, Setting
from sim.tasks.tabletop_film import film_of, task_of
from sim.world import ArmPhysics


def test_a_film_s_name_has_its_number_and_hand():
    assert film_of("film/12") == (12, "right")
    assert film_of(task_of(3, "left")) == (3, "left")
    assert film_of("tabletop/press-button") is None
    for wrong in ("film/", "film/x", "film/-1"):
        with pytest.raises(UnderstudyError, match="is no film"):
            film_of(wrong)
    with pytest.raises(UnderstudyError, match="hand"):
        film_of("film/3/foot")


@pytest.mark.parametrize("side", ["right", "left"])
def test_places_are_those_of_the_film(side):
    truth = pick_film(5, cameras=(), side=side).truth
    start, goal = pick_places(5, side)
    np.testing.assert_array_equal(start, truth.start)
    np.testing.assert_array_equal(goal, truth.goal)


def test_an_arm_that_knows_where_the_fingers_were_does_it_and_one_that_rests_does_not():
    truth = pick_film(3, cameras=()).truth
    hand = HandPath(truth.stamps, truth.keypoints, np.zeros(len(truth.stamps)), "right", "stereo")
    path = ToolPath(**{**vars(tool_path(hand)), "position": truth.pinch, "closed": truth.grasped})
    linkage = Setting.of(TABLETOP).linkage()
    joints = paced(path, solve(linkage, path, arm_only(SPEC)), SPEC, rate_hz=50).joints
    physics = ArmPhysics("film/3", 0)
    film = physics.scene.film
    np.testing.assert_allclose(physics.suite.position("red cube"), truth.start[:3], atol=1e-3)
    physics.advance(0.2)
    assert not physics.scene.judge()
    follow(physics, joints, 50)
    assert physics.scene.success
    assert film.off_m < 0.01
    physics.reset("tabletop/press-button", 0, 0)
    assert physics.scene.film is None
    assert not physics.scene.success


def test_the_command_says_what_is_not_there(tmp_path):
    with pytest.raises(UnderstudyError, match="camera"):
        main(["--cameras", "above", "--out", str(tmp_path)])
    for wrong in (["--number", "-1"], ["--fps", "0"], ["--seconds", "nan"]):
        with pytest.raises(UnderstudyError, match=r"numbered from 0|nobody picks"):
            main([*wrong, "--out", str(tmp_path)])
    with pytest.raises(UnderstudyError, match="only cameras that film"):
        main(["--cameras", "front", "--depth", "side", "--out", str(tmp_path)])
