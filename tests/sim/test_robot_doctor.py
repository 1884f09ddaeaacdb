"""`vla doctor` on a checkpoint, recordings, an arm and a server: what fits exits 0, and what does not says where."""

import json
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from policies.normalizer import Normalizer, NormalizerSet
from policies.policy import write_spec
from robot_bridge.server import PolicyServer
from sim import doctor
from sim.robot_doctor import Robot, examine_robot
from sim.scenes import SPEC
from sim.tasks.tabletop import TabletopSuite
from vla.data.lerobot_format import DatasetSpec
from vla.data.lerobot_writer import EpisodeWriter
from vla.errors import UnderstudyError
from vla.types import CameraSpec, Episode, Gripper, PolicySpec, Task

SUITE = TabletopSuite().spec
DATA = DatasetSpec(20.0, SUITE.cameras, SUITE.proprio_names, SUITE.action, SUITE.embodiment)
POLICY = PolicySpec(SUITE.cameras, SUITE.proprio_names, SUITE.action, ("instruction",), 1, 4, 2, control_hz=20.0)


def checkpoint(root, spec=POLICY, *, changed=None, family="cogact"):
    """A folder that looks like one; ``changed``: entries of the action's statistics."""
    root.mkdir()
    write_spec(root, family, spec)
    fitted = Normalizer.fit(np.random.default_rng(0).normal(size=(50, 4)))
    action = replace(fitted, **(changed or {}))
    NormalizerSet({SUITE.embodiment: {"action": action, "proprio": fitted}}).save(root / "normalizer.json")
    return root


def dataset(root, spec=DATA, *, opening=lambda steps: np.linspace(1, 0, steps)):
    """Three episodes of five steps whose gripper is told ``opening``."""
    steps = 5
    with EpisodeWriter(root, spec) as writer:
        for seed in range(3):
            actions = np.full((steps, spec.action.dim), 0.01, np.float32)
            actions[:, 3] = opening(steps)
            images = {
                camera.name: lambda camera=camera: np.full((steps, camera.height, camera.width, 3), 9, np.uint8)
                for camera in spec.cameras
            }
            proprio = np.zeros((steps, len(spec.proprio_names)), np.float32)
            stamps = np.arange(steps) * 50_000_000
            task = Task("lift the red cube")
            writer.save(Episode(images, proprio, actions, task, spec.fps, spec.embodiment, True, "test", stamps, seed))
    return root


def failed(rows):
    return [row.about for row in rows if row.status == "fail"]


def test_what_fits_is_said_in_a_table_and_a_file(tmp_path, capsys):
    file, given = tmp_path / "doctor.json", ("--checkpoint", checkpoint(tmp_path / "c"), "--arm", "sim")
    arguments = [*map(str, given), "--dataset", str(dataset(tmp_path / "d")), "--json", str(file)]
    assert doctor.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "checkpoint ↔ arm" in printed
    assert "numpy" not in printed
    written = json.loads(file.read_text("utf-8"))
    assert written["ok"] is True
    assert {row["status"] for row in written["checks"]} == {"ok"}
    assert {row["about"].partition(":")[0] for row in written["checks"]} == {
        *("checkpoint", "checkpoint ↔ dataset", "checkpoint ↔ arm", "checkpoint ↔ cameras"),
        *("dataset", "dataset ↔ arm", "dataset ↔ cameras"),
    }


def test_what_does_not_fit_exits_1(tmp_path):
    spec = replace(POLICY, control_hz=30.0, cameras=(CameraSpec("overhead", 64, 64),))
    folder = checkpoint(tmp_path / "c", spec, changed={"center": (0.0, float("nan"), 0.0, 0.0)})
    data = dataset(tmp_path / "d")
    assert doctor.main(["--checkpoint", str(folder), "--dataset", str(data)]) == 1
    assert failed(examine_robot(Robot(checkpoint=folder, dataset=data, arm="sim"))) == [
        "checkpoint ↔ dataset: rate",
        "checkpoint ↔ dataset: camera overhead",
        "checkpoint: statistics of action",
        "checkpoint ↔ cameras: camera overhead",
    ]


def test_recordings_tell_whether_the_gripper_is_the_other_way_round(tmp_path):
    usual = dataset(tmp_path / "usual", opening=lambda steps: np.zeros(steps) + (np.arange(steps) > 2))
    (row,) = (row for row in examine_robot(Robot(dataset=usual)) if row.about == "dataset: gripper's values")
    assert (row.status, row.given) == ("warn", "3 of 3 episodes begin closed")
    wide = replace(DATA, action=replace(DATA.action, gripper=Gripper(3, 100.0, 0.0), high=(0.03,) * 3 + (100.0,)))
    assert [row.status for row in examine_robot(Robot(dataset=dataset(tmp_path / "wide", wide)))] == ["warn"]
    silent = replace(DATA, action=replace(DATA.action, gripper=None))
    rows = examine_robot(Robot(checkpoint(tmp_path / "c"), dataset(tmp_path / "silent", silent)))
    assert [row.status for row in rows if "gripper" in row.about] == ["warn", "ok"]


def test_a_checkpoint_without_statistics_is_not_whole(tmp_path):
    folder = checkpoint(tmp_path / "c")
    (folder / "normalizer.json").write_text("{")
    assert failed(examine_robot(Robot(folder))) == ["checkpoint: statistics"]
    (folder / "normalizer.json").unlink()
    assert failed(examine_robot(Robot(folder))) == ["checkpoint: statistics"]
    assert examine_robot(Robot(checkpoint(tmp_path / "peer", family="lerobot"))) == []
    with pytest.raises(UnderstudyError, match="not a checkpoint"):
        examine_robot(Robot(tmp_path))


def test_of_several_embodiments_the_arms_own_is_taken(tmp_path):
    folder, other = checkpoint(tmp_path / "c"), replace(POLICY, control_hz=5.0)
    write_spec(folder, "cogact", other, others={"another": other, SPEC.embodiment: POLICY})
    data = dataset(tmp_path / "d")
    assert failed(examine_robot(Robot(folder, data))) == []
    assert failed(examine_robot(Robot(folder, data, embodiment="another"))) == ["checkpoint ↔ dataset: rate"]


def toys():
    """Of ``tests/robot_bridge``."""
    file = Path(__file__).parents[1] / "robot_bridge" / "toys.py"
    spec = spec_from_file_location("robot_bridge_toys", file)
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
    return sys.modules[spec.name]


def test_a_server_is_asked_what_it_serves(tmp_path):
    folder = checkpoint(tmp_path / "c")
    with PolicyServer(toys().ToyBrain(spec=POLICY), "tcp://127.0.0.1:0").serving() as server:
        rows = examine_robot(Robot(folder, arm="sim", server=server.address))
        assert failed(rows) == []
        assert {"server ↔ arm: rate", "checkpoint ↔ server: horizons"} <= {row.about for row in rows}
        rows = examine_robot(Robot(server=server.address, arm="ur", arm_options=("host=192.0.2.1",)))
        assert failed(rows) == ["server ↔ arm: gripper", "server ↔ arm: proprio"]
    with PolicyServer(toys().ToyBrain(spec=replace(POLICY, exec_horizon=1)), "tcp://127.0.0.1:0").serving() as server:
        assert failed(examine_robot(Robot(folder, server=server.address))) == ["checkpoint ↔ server: horizons"]
    (row,) = examine_robot(Robot(server="tcp://127.0.0.1:9"))
    assert (row.about, row.status) == ("server", "fail")
    assert "vla serve" in row.given


@pytest.mark.parametrize(
    ("robot", "word"),
    [
        (Robot(arm="ur"), "host"),
        (Robot(arm="robot"), "unknown arm"),
        (Robot(arm="sim", arm_options=("seed",)), "KEY=VALUE"),
        (Robot(arm="sim", arm_options=("sed=1",)), "'seed'"),
    ],
)
def test_an_arm_that_cannot_be_made_says_what_it_wants(robot, word):
    with pytest.raises(UnderstudyError, match=word):
        examine_robot(robot)


def test_cameras_of_a_real_arm_are_told(tmp_path):
    folder, host = checkpoint(tmp_path / "c"), ("host=192.0.2.1", "watchdog_s=0.1")
    cases = {(): "warn", ("front=64x64",): "ok", ("front=480x640",): "fail"}
    for cameras, status in cases.items():
        rows = examine_robot(Robot(folder, arm="ur", arm_options=host, cameras=cameras))
        assert [row.status for row in rows if "cameras" in row.about] == [status]
    with pytest.raises(UnderstudyError, match="front=480x640"):
        examine_robot(Robot(folder, arm="ur", arm_options=host, cameras=("front",)))
