"""Arms read from files in MuJoCo Menagerie's layout: toys of ours under its names, and gym-hil's Panda where it is."""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import mujoco
import numpy as np
import pytest

from robot_bridge.arms.arm import ArmError, make_arm
from robot_bridge.arms.ur import JOINTS as UR
from robot_bridge.fitting import misfits
from robot_bridge.safety import Governor
from sim.arm import SimArm, SimCameras, SimKinematics, make_kinematics
from sim.arm_models import MODELS, PANDA, TOOL, BareScene, furnished
from sim.firmware import Faults, Firmware
from sim.scenes import Setting
from sim.stage import SimStage
from sim.world import World
from vla.errors import UnderstudyError
from vla.types import ActionSpec, CameraSpec, PolicySpec

TICK_S = 0.002


def _toys():
    spec = spec_from_file_location(
        "robot_bridge_toy_menagerie", Path(__file__).parents[1] / "robot_bridge" / "toy_menagerie.py"
    )
    sys.modules[spec.name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toys = _toys()


@pytest.fixture
def menagerie(tmp_path, monkeypatch):
    monkeypatch.setenv("MENAGERIE_ROOT", str(toys.write(tmp_path)))
    return tmp_path


def moved(firmware, goal, seconds=3.0):
    """How far it was from its setpoint on the way to ``goal`` [D], told at the arm's own rate."""
    spec = firmware.spec
    governor, worst = Governor(spec.limits, spec.rate_hz), 0.0
    governor.reset(firmware.joints)
    every = round(1 / spec.rate_hz / TICK_S)
    for tick in range(round(seconds / TICK_S)):
        if tick % every == 0:
            firmware.command(governor.towards(goal, np.zeros(len(goal))), firmware.now_ns)
        firmware.advance(TICK_S)
        worst = max(worst, float((np.abs(firmware.joints - firmware.setpoint) / spec.limits.lag).max()))
    return worst


@pytest.mark.parametrize("name", MODELS)
def test_each_model_goes_where_it_is_sent_and_its_gripper_closes_and_opens(menagerie, name):
    setting = Setting.of(name)
    firmware, spec = Firmware(setting.scene(), "", 0), setting.spec
    assert firmware.joints.shape == (len(spec.joints),)
    assert firmware.state().proprio.shape == (len(spec.proprio_names),)
    goal = firmware.joints + 0.2 * np.sign(np.add(spec.limits.low, spec.limits.high) / 2 - firmware.joints)
    for opening in (0.0, 1.0):
        if spec.gripper is not None:
            goal[spec.gripper.index] = opening
        assert moved(firmware, goal) < 1
        np.testing.assert_allclose(firmware.joints, goal, atol=0.01)
    assert firmware.ignored == 0


def test_the_first_file_that_is_there_counts(menagerie):
    newer, older = (model.spec.embodiment for model in MODELS["so101"])
    assert Setting.of("so101").spec.embodiment == newer
    (menagerie / MODELS["so101"][0].file).unlink()
    setting = Setting.of("so101")
    assert setting.spec.embodiment == older
    firmware = Firmware(setting.scene(), "", 0)
    assert moved(firmware, firmware.joints + 0.05) < 1


@pytest.mark.parametrize("root", ["", "/nowhere"])
@pytest.mark.parametrize(("name", "file"), [("ur5e", "ur5e.xml"), ("panda", "panda.xml"), ("so101", "so_arm100.xml")])
def test_without_a_model_it_is_said_what_to_put_where(monkeypatch, root, name, file):
    monkeypatch.setenv("MENAGERIE_ROOT", root)
    monkeypatch.setattr("sim.arm_models.find_spec", lambda package: None)
    with pytest.raises(UnderstudyError, match="MENAGERIE_ROOT") as told:
        make_arm("sim", model=name)
    assert file in str(told.value)
    assert ("it is not set" in str(told.value)) == (not root)
    assert ("gym-hil" in str(told.value)) == (name == "panda")


def test_a_name_that_does_not_exist_and_a_file_that_is_another_are_refused(menagerie):
    with pytest.raises(UnderstudyError, match="'ur5e'"):
        SimArm(model="ur5")
    file = menagerie / MODELS["ur5e"][0].file
    text = file.read_text()
    for wrong, word in (
        ("<mujoco", "MuJoCo does not read"),
        (text.replace("elbow_joint", "knee"), "no joint elbow_joint"),
        (text.replace("wrist_3_link", "flange"), "neither a site nor a body wrist_3_link"),
        (text.replace("</actuator>", '<motor joint="elbow_joint"/></actuator>'), "2 motors"),
    ):
        file.write_text(wrong)
        with pytest.raises(UnderstudyError, match=word):
            Setting.of("ur5e").scene()


def test_a_panda_is_read_from_a_package_that_is_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "gym_hil"
    (package / "assets").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('heavy')")
    (package / "assets" / "panda.xml").write_text(toys.panda(torques=True))
    monkeypatch.delenv("MENAGERIE_ROOT", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    setting = Setting.of("panda")
    assert setting.file == str(package / "assets" / "panda.xml")
    assert setting.spec.limits == PANDA
    assert "gym_hil" not in sys.modules


@pytest.mark.skipif(find_spec("gym_hil") is None, reason="gym-hil is not installed")
def test_the_panda_of_gym_hil_moves(monkeypatch):
    monkeypatch.delenv("MENAGERIE_ROOT", raising=False)
    firmware = Firmware(Setting.of("panda").scene(), "", 0)
    assert moved(firmware, firmware.joints - np.array([0.2] * 7 + [1.0])) < 1


def test_motors_that_take_torques_are_made_to_take_positions(tmp_path):
    file = tmp_path / "panda.xml"
    file.write_text(toys.panda(torques=True))
    scene = BareScene(MODELS["panda"][0], file)
    firmware = Firmware(scene, "", 0)
    begin = firmware.joints
    assert moved(firmware, begin + np.array([0.3, 0.3, 0, 0, 0, 0.3, 0, -1.0])) < 1
    np.testing.assert_allclose(firmware.joints - begin, [0.3, 0.3, 0, 0, 0, 0.3, 0, -1.0], atol=0.01)
    assert np.abs(scene.mechanism.data.actuator_force[:7]).max() <= 87


def test_what_a_file_lacks_is_added_and_what_it_has_is_kept(menagerie):
    bare = furnished(MODELS["ur5e"][0], menagerie / MODELS["ur5e"][0].file).compile()
    full = furnished(MODELS["so101"][0], menagerie / MODELS["so101"][0].file).compile()
    planes = [(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE).sum() for model in (bare, full)]
    assert planes == [1, 1]
    assert (bare.nlight, full.nlight) == (1, 1)
    assert [full.camera(index).name for index in range(full.ncam)] == ["front", "wrist_cam"]
    assert bare.site(TOOL).pos.tolist() == [0.0, 0.1, 0.0]
    np.testing.assert_allclose(full.site(TOOL).pos, full.site("gripperframe").pos)


def test_the_same_firmware_has_the_same_faults(menagerie):
    firmware = Firmware(Setting.of("ur5e").scene(), "", 0)
    begin = firmware.joints
    firmware.faults = Faults(stuck=2)
    moved(firmware, begin + 0.1, seconds=1.0)
    assert firmware.joints[2] == begin[2]
    assert firmware.joints[0] > begin[0] + 0.09
    firmware.faults = Faults(deaf=True)
    firmware.command(firmware.joints, firmware.now_ns)
    assert firmware.ignored == 1
    for _ in range(50):
        firmware.advance(TICK_S)
    assert firmware.braking
    firmware.faults = Faults(noise_rad=0.1)
    firmware.advance(TICK_S)
    assert np.abs(firmware.state().joints - firmware.joints).max() > 0.01


def test_a_gripper_that_is_stuck_stays_where_it_is(menagerie):
    firmware = Firmware(Setting.of("panda").scene(), "", 0)
    firmware.faults = Faults(stuck=7)
    moved(firmware, np.append(firmware.joints[:7], 0.0), seconds=0.5)
    assert firmware.joints[7] == pytest.approx(1.0)


def test_kinematics_know_the_tool_and_hold_it_only_with_six_joints(menagerie):
    assert make_kinematics(Setting.of("so101")) is None
    scene = Setting.of("ur5e").scene()
    scene.reset("", 0)
    kinematics, joints = SimKinematics(scene), scene.mechanism.joints
    np.testing.assert_allclose(kinematics.forward(joints).position, scene.mechanism.tool, atol=1e-9)
    wanted = kinematics.forward(joints + 0.1)
    np.testing.assert_allclose(kinematics.inverse(wanted, joints), joints + 0.1, atol=1e-3)


def test_a_world_of_a_model_is_driven_and_seen_from_its_folder(menagerie, monkeypatch):
    world = World(model="so101")
    try:
        monkeypatch.delenv("MENAGERIE_ROOT")  # others need not know where the file is
        arm, cameras = SimArm(world.folder), SimCameras(world.folder, image_size=32, cameras=("front", "wrist_cam"))
        assert arm.spec.embodiment == "so101-mesh"
        arm.connect()
        cameras.connect()
        images, stamp = cameras.read()
        assert {name: image.shape for name, image in images.items()} == dict.fromkeys(
            ("front", "wrist_cam"), (32, 32, 3)
        )
        assert all(image.std() > 0 for image in images.values())
        assert stamp > 0
        assert len(world.motion()[0]["joints"]) == 6
        assert not world.success
        with pytest.raises(UnderstudyError, match="does not lay out"):
            world.reset("tabletop/lift-red-cube", 0, timeout_s=5.0)
        unknown = SimCameras(world.folder, cameras=("frnt",))
        with pytest.raises(UnderstudyError, match="'front'"):
            unknown.connect()
        arm.disconnect()
        cameras.disconnect()
    finally:
        world.close()
    with pytest.raises(ArmError, match="no simulated world"):
        SimArm(world.folder)


def test_a_run_has_such_an_arm_without_a_task_or_a_judge(menagerie):
    action = ActionSpec("joint_position", UR, (-1.0,) * 6, (1.0,) * 6)
    policy = PolicySpec((CameraSpec("front", 32, 32),), UR, action, ("instruction",), 1, 4, 2, control_hz=20.0)
    with pytest.raises(UnderstudyError, match="has no tasks"):
        SimStage({"model": "ur5e", "task": "tabletop/touch-red-cube"}, policy)
    stage = SimStage({"model": "ur5e"}, policy)
    try:
        arm = make_arm(stage.arm.target, **stage.arm.options)
        assert misfits(policy, arm.spec, stage.camera_specs, kinematics=arm.kinematics is not None) == []
        stage.begin(1)
        assert (stage.instruction, stage.done()) == ("", None)
    finally:
        stage.close()
