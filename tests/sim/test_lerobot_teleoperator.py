"""A person's video as LeRobot's teleoperator. Importing LeRobot takes 10 s: slow."""

from time import monotonic, sleep

import numpy as np
import pytest

from robot_bridge.retarget.folder import Prepared, save
from sim.world import SPEC
from vla.errors import UnderstudyError

pytestmark = pytest.mark.slow
JOINTS = np.linspace(0.0, 0.1, 51)[:, None] * np.ones(len(SPEC.joints))


@pytest.fixture
def folder(tmp_path):
    """One second of setpoints, 50 of them."""
    ready = Prepared(JOINTS, 50.0, SPEC.embodiment, np.arange(51) / 50)
    save(tmp_path / "made", {"verdict": "execute", "reasons": [], "segments": []}, ready)
    return tmp_path / "made"


@pytest.fixture
def make(tmp_path):
    from lerobot.teleoperators import make_teleoperator_from_config

    from sim.lerobot_plugin import DemoTeleoperatorConfig

    return lambda **changes: make_teleoperator_from_config(
        DemoTeleoperatorConfig(**{"calibration_dir": tmp_path} | changes)
    )


def test_it_holds_the_first_place_goes_along_the_path_and_stays(make, folder, monkeypatch):
    from sim.lerobot_plugin import teleoperator

    now = [100.0]
    monkeypatch.setattr(teleoperator, "monotonic", lambda: now[0])
    leader = make(demo=str(folder), start_s=2.0)
    assert type(leader).__name__ == "DemoTeleoperator"
    assert list(leader.action_features) == [f"{joint}.pos" for joint in SPEC.joints]
    assert leader.feedback_features == {}
    leader.connect()
    assert leader.lasts_s == pytest.approx(2.0 + 51 / 50)
    for after, place in ((0.0, 0.0), (1.9, 0.0), (2.5, 0.05), (2.51, 0.051), (3.0, 0.1), (60.0, 0.1)):
        now[0] = 100.0 + after
        assert list(leader.get_action().values()) == pytest.approx([place] * len(SPEC.joints))
    leader.disconnect()
    assert not leader.is_connected
    with pytest.raises(ConnectionError):
        leader.get_action()


def test_what_is_not_to_be_trusted_or_another_arms_is_no_leader(make, folder, tmp_path):
    with pytest.raises(UnderstudyError, match=r"give --teleop\.demo"):
        make()
    with pytest.raises(UnderstudyError, match="holds no retargeted video"):
        make(demo=str(tmp_path)).connect()
    with pytest.raises(UnderstudyError, match="made for the arm"):
        make(demo=str(folder), arm="franka", options={"host": "127.0.0.1"}).connect()
    save(folder, {"verdict": "reject", "reasons": ["too far off"], "segments": []}, None)
    with pytest.raises(UnderstudyError, match="too far off"):
        make(demo=str(folder)).connect()


@pytest.mark.realtime
def test_lerobots_loop_makes_the_simulated_arm_do_what_the_film_shows(make, tmp_path):
    from lerobot.robots import make_robot_from_config

    from robot_bridge.retarget.inverse import solve
    from robot_bridge.retarget.lifting import HandPath
    from robot_bridge.retarget.pacing import arm_only, paced
    from robot_bridge.retarget.tool_path import ToolPath, tool_path
    from sim.human_pick import pick_film
    from sim.lerobot_plugin import ArmRobotConfig
    from sim.scenes import TABLETOP, Setting

    truth = pick_film(3, cameras=()).truth
    hand = HandPath(truth.stamps, truth.keypoints, np.zeros(len(truth.stamps)), "right", "stereo")
    path = ToolPath(**{**vars(tool_path(hand)), "position": truth.pinch, "closed": truth.grasped})
    joints = paced(path, solve(Setting.of(TABLETOP).linkage(), path, arm_only(SPEC)), SPEC, rate_hz=50)
    ready = Prepared(joints.joints, 50.0, SPEC.embodiment, joints.source_s)
    save(tmp_path / "made", {"verdict": "execute", "reasons": [], "segments": []}, ready)
    robot = make_robot_from_config(ArmRobotConfig(simulate="film/3", calibration_dir=tmp_path))
    with robot, make(demo=str(tmp_path / "made")) as leader:
        leader.get_action()
        ends = monotonic() + leader.lasts_s + 1.0
        while monotonic() < ends:
            robot.send_action(leader.get_action())
            sleep(1 / 30)
        assert robot._world.success
