"""``vla drive`` as a whole, in simulation: a recording played again, and all that is refused before anything moves."""

import json
from dataclasses import replace

import numpy as np
import pytest
from robot_bridge_rig import TOOL_POLICY

from policies.policy import write_spec
from robot_bridge.arguments import box
from robot_bridge.control import ControlConfig, State
from robot_bridge.drive import Drive, asked_actions, drive, main
from robot_bridge.ledger import Log
from robot_bridge.plan import Made, Plan
from robot_bridge.retarget.folder import QUALITY, Prepared, save
from robot_bridge.run import Run, run_folder
from robot_bridge.seeing import Gaze
from sim.suite import TEST_SEEDS
from sim.tasks.tabletop import HOME_JOINTS, TabletopSuite
from sim.world import SPEC, World
from vla.data.recordings import save_episode
from vla.errors import UnderstudyError
from vla.types import Episode, Task

pytestmark = pytest.mark.realtime

TASK = "tabletop/touch-red-cube"


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A checkpoint's spec, and the expert's actions in the first test scene as a recording; where its tool ended."""
    folder = tmp_path_factory.mktemp("drive")
    write_spec(folder, "cogact", TOOL_POLICY)
    suite = TabletopSuite(image_size=16)
    suite.reset(TASK, TEST_SEEDS.start)
    expert, actions, seen = suite.expert(), [], []
    while not suite.success and suite.steps < suite.max_steps:
        seen.append(suite.observe())
        actions.append(expert().astype(np.float32))
        suite.step(actions[-1])
    frames = np.stack([one.images["front"] for one in seen])
    episode = Episode(
        images={"front": lambda: frames},
        proprio=np.stack([one.proprio for one in seen]),
        actions=np.stack(actions),
        task=Task("touch the red cube"),
        fps=20.0,
        embodiment="panda-primitive",
        success=True,
        source="test",
        stamps_ns=np.arange(len(actions)) * 50_000_000,
    )
    save_episode(folder / "recording", TOOL_POLICY, episode)
    return folder, suite.grip_position


def test_a_recording_is_played_again_and_reported(played, tmp_path):
    folder, there = played
    asked = Drive(
        checkpoint=folder,
        arm_options=(("task", TASK),),
        replay=folder / "recording",
        out=tmp_path / "report",
        seconds=15.0,
    )
    (ended,) = drive(asked)
    assert ended.success or "played" in ended.reason
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert told["ledger"]["ticks"] > 200
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    assert np.isfinite(there).all()


@pytest.fixture
def demonstrated(tmp_path):
    """Two seconds of setpoints as `vla retarget` leaves them: an arc, and the gripper closes."""
    home, share = np.array([*HOME_JOINTS, 1.0]), np.linspace(0, 1, 100)[:, None]
    joints = home + np.array([0.3, 0.2, 0, 0.2, 0, 0, 0, 0]) * (3 * share**2 - 2 * share**3)
    joints[50:, 7] = 0.0
    ready = Prepared(joints, 50.0, SPEC.embodiment, share[:, 0])
    save(tmp_path / "demo", {"verdict": "execute", "reasons": [], "segments": []}, ready)
    return tmp_path / "demo", joints


def test_what_was_made_of_a_video_is_driven(demonstrated, tmp_path, monkeypatch):
    folder, joints = demonstrated
    logs = []
    monkeypatch.setattr("robot_bridge.drive.write_report", lambda out, log: logs.append(log))
    (ended,) = drive(Drive(demo=folder, out=tmp_path, seconds=15.0))
    assert "played" in ended.reason
    measured = np.stack([tick["measured"] for tick in logs[0].ticks])
    assert len(measured) > 100
    np.testing.assert_allclose(measured[-1], joints[-1], atol=0.03)
    for row in joints[::10, :7]:  # it has been everywhere on the way
        assert np.abs(measured[:, :7] - row).max(1).min() < 0.02


def test_a_video_that_is_not_to_be_trusted_is_not_driven(demonstrated, tmp_path):
    folder, _ = demonstrated
    bad = {"name": "hold 1", "verdict": "reject", "reasons": ["the hand was not seen"]}
    (folder / QUALITY).write_text(json.dumps({"verdict": "reject", "reasons": [], "segments": [bad]}))
    with pytest.raises(UnderstudyError, match="is not for an arm: hold 1: the hand was not seen"):
        drive(Drive(demo=folder))
    with pytest.raises(UnderstudyError, match="holds no retargeted video"):
        main(["--demo", str(tmp_path), "--arm", "sim"])


def test_a_recording_of_another_arm_is_refused(played):
    folder, _ = played
    turned = replace(TOOL_POLICY.action.gripper, open=0.0, closed=1.0)
    other = replace(TOOL_POLICY, action=replace(TOOL_POLICY.action, gripper=turned))
    with pytest.raises(UnderstudyError, match="gripper"):
        asked_actions(folder / "recording", other)
    with pytest.raises(UnderstudyError, match="rate"):
        asked_actions(folder / "recording", replace(TOOL_POLICY, control_hz=10.0))


def test_a_shadow_sends_nothing(played, tmp_path):
    folder, _ = played
    np.save(tmp_path / "actions.npy", asked_actions(folder / "recording", TOOL_POLICY))
    world = World(TASK, TEST_SEEDS.start)
    plan = Plan(
        folder=run_folder(),
        arm=Made("sim", {"world": str(world.folder)}),
        cameras=Made("sim.arm:SimCameras", {"world": str(world.folder), "image_size": 16}),
        policy=TOOL_POLICY,
        arm_spec=SPEC,
        config=ControlConfig(shadow=True),
        actions=tmp_path / "actions.npy",
    )
    try:
        with Run(plan) as run:
            log, sent = Log(run.plan, run.rings), world.rings["command"].written
            before = world.rings["motion"].newest()["joints"]
            run.begin(Task("touch the red cube"))
            run.arm()
            run.wait_for(State.STOPPED)
            log.drain()
            assert len(log.steps) > 5
            assert world.rings["command"].written == sent
        assert world.rings["command"].written == sent
        np.testing.assert_allclose(world.rings["motion"].newest()["joints"], before, atol=0.01)
    finally:
        world.close()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "CHECKPOINT"),
        (["nowhere"], "not a checkpoint"),
        (["somewhere", "--arm", "so11"], "so101|so100"),
        (["somewhere", "--arm-option", "port"], "name=value"),
        (["somewhere", "--key", "k"], "keys come in two"),
    ],
)
def test_what_cannot_be_is_said_before_anything_moves(given, why):
    with pytest.raises(UnderstudyError, match=why):
        main(given)


def test_a_policy_that_does_not_fit_the_arm_is_not_armed(tmp_path):
    write_spec(tmp_path, "cogact", replace(TOOL_POLICY, proprio_names=("a", "b", "c", "d")))
    with pytest.raises(UnderstudyError, match="proprio"):
        drive(Drive(checkpoint=tmp_path, replay=tmp_path / "nothing"))


@pytest.mark.fault(27)
def test_cameras_that_are_exchanged_are_noticed():
    random, gaze = np.random.default_rng(0), Gaze()
    front, side = random.integers(0, 256, (2, 32, 32, 3), np.uint8)
    joints = np.zeros(7)

    def noisy(image):
        return np.clip(image + random.integers(-5, 6, image.shape), 0, 255).astype(np.uint8)

    for _ in range(5):
        assert gaze.trouble({"front": noisy(front), "side": noisy(side)}, joints, 0) == ""
    assert "exchanged" in gaze.trouble({"front": noisy(side), "side": noisy(front)}, joints, 0)


def test_a_workspace_has_a_lowest_and_a_highest_corner():
    assert box([0.2, -0.3, 0.0, 0.6, 0.3, 0.4]) == ((0.2, -0.3, 0.0), (0.6, 0.3, 0.4))
    with pytest.raises(UnderstudyError, match="lowest"):
        box([0.2, -0.3, 0.0, 0.1, 0.3, 0.4])
