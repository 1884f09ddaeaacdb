"""An arm of ours as LeRobot's robot. Importing LeRobot takes 10 s: slow."""

import sys
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from robot_bridge.arms.arm import ARMS, ArmError
from sim.world import SPEC
from vla.errors import UnderstudyError

pytestmark = pytest.mark.slow
TOYS = Path(__file__).resolve().parents[1] / "robot_bridge"
CAMERAS = "streamed_toys:ToyCameras"


@pytest.fixture
def make(monkeypatch, tmp_path):
    """LeRobot's robot of a configuration, over the toys unless it says otherwise."""
    from lerobot.robots import make_robot_from_config

    from sim.lerobot_plugin import ArmRobotConfig

    monkeypatch.setitem(ARMS, "toy", "streamed_toys:ToyArm")
    monkeypatch.syspath_prepend(TOYS)

    def made(**changes):
        seen = {"arm": "toy", "camera_class": CAMERAS, "camera_sizes": {"front": [32, 32]}}
        if "simulate" in changes:
            seen = {}
        return make_robot_from_config(ArmRobotConfig(**{"calibration_dir": tmp_path} | seen | changes))

    return made


def test_lerobot_makes_it_and_knows_its_features_before_it_connects(make):
    robot = make(options={"log": ""})
    assert type(robot).__name__ == "ArmRobot"
    assert robot.config.type == "understudy"
    assert robot.action_features == {"hinge.pos": float, "jaw.pos": float}
    assert robot.observation_features == {"hinge.pos": float, "jaw.pos": float, "front": (32, 32, 3)}
    assert not robot.is_connected
    assert robot.is_calibrated


def test_it_tells_where_the_arm_is_and_what_the_cameras_see(make):
    robot = make()
    with robot:
        seen = robot.get_observation()
        assert (seen["hinge.pos"], seen["jaw.pos"]) == pytest.approx((0.2, 0.5))
        assert seen["front"].shape == (32, 32, 3)
        assert robot.is_connected
    assert not robot.is_connected


def test_what_is_sent_arrives(make):
    with make() as robot:
        assert robot.send_action({"hinge.pos": 5.0, "jaw.pos": 0.1}) == {"hinge.pos": 1.0, "jaw.pos": 0.1}
        until = monotonic() + 30
        while monotonic() < until and abs(robot.get_observation()["hinge.pos"] - 1.0) > 1e-3:
            sleep(0.05)
        assert robot.get_observation()["jaw.pos"] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(make, bad):
    with make() as robot:
        with pytest.raises(UnderstudyError, match="jaw"):
            robot.send_action({"hinge.pos": 0.0, "jaw.pos": bad})
        with pytest.raises(UnderstudyError, match=r"needs jaw\.pos"):
            robot.send_action({"hinge.pos": 0.0})


def test_unconnected_it_refuses_as_lerobots_robots_do(make):
    robot = make()
    for call in (robot.get_observation, robot.disconnect, lambda: robot.send_action({})):
        with pytest.raises(ConnectionError):
            call()


def test_an_arm_that_does_not_connect_says_why(make):
    robot = make(options={"breaks_after": 0})
    with pytest.raises(ArmError, match="mend it"):
        robot.connect()
    assert not robot.is_connected


def test_pictures_of_another_size_are_an_error(make):
    with pytest.raises(UnderstudyError, match="camera_sizes"):
        make(camera_options={"size": 16}).connect()
    with pytest.raises(ValueError, match="camera_class"):
        make(camera_class="")


def test_it_moves_the_simulated_arm_as_it_is_told(make):
    with make(simulate="tabletop/lift-red-cube", seed=3) as robot:
        seen = robot.get_observation()
        assert seen["front"].shape == (64, 64, 3)
        begin = np.array([seen[f"{joint}.pos"] for joint in SPEC.joints])
        goal = begin + np.array([0.2, *[0.0] * 6, -begin[7]])
        for part in np.linspace(0, 1, 20):
            row = begin + part * (goal - begin)
            robot.send_action({f"{joint}.pos": value for joint, value in zip(SPEC.joints, row)})
            sleep(0.05)
        until, reached = monotonic() + 30, begin
        while monotonic() < until and np.abs(reached - goal).max() > 0.02:
            sleep(0.05)
            reached = np.array([robot.get_observation()[f"{joint}.pos"] for joint in SPEC.joints])
        np.testing.assert_allclose(reached, goal, atol=0.02)


@pytest.mark.parametrize("where", ["toy", "sim"])
def test_lerobot_rollout_plays_a_policy_of_its_own_on_it(make, where, monkeypatch, tmp_path):
    from lerobot.scripts import lerobot_rollout

    dim, side, log = (2, 32, tmp_path / "sent.npy") if where == "toy" else (8, 64, None)
    save_act(tmp_path / "act", dim, side)
    arguments = ["lerobot-rollout", f"--policy.path={tmp_path / 'act'}", "--robot.type=understudy"]
    if where == "toy":
        arguments += ["--robot.arm=toy", f"--robot.camera_class={CAMERAS}", "--robot.camera_sizes={front: [32, 32]}"]
        arguments += [f"--robot.options={{log: {log}}}"]
    else:
        arguments += ["--robot.simulate=tabletop/lift-red-cube"]
    arguments += [f"--robot.calibration_dir={tmp_path}", "--fps=20", "--duration=1", "--device=cpu"]
    arguments += ["--robot.discover_packages_path=sim.lerobot_plugin", "--play_sounds=false"]
    monkeypatch.setattr(sys, "argv", arguments)
    lerobot_rollout.main()
    if log is not None:
        sent = np.load(log)
        assert len(sent) > 1
        assert np.isfinite(sent).all()


def save_act(folder, dim, side):
    """LeRobot's ACT, as small as it goes, untrained."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    small = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, "chunk_size": 4}
    config = ACTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (dim,)),
            "observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, side, side)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (dim,))},
        device="cpu",
        n_action_steps=4,
        use_vae=False,
        pretrained_backbone_weights=None,
        **small,
    )
    ACTPolicy(config).save_pretrained(folder)
    for pipeline in make_pre_post_processors(config):
        pipeline.save_pretrained(folder)
