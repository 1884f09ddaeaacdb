"""What a robot's parts say about themselves, compared by pairs before anything moves: the rows of `vla doctor` for it.

    vla doctor --checkpoint outputs/train --dataset outputs/collect --arm sim --arm-option model=panda

Nothing is moved: the arm is made, not connected; a server is asked for its spec; of recordings, numbers alone are read.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from policies.policy import PEERS, SPEC_FILE, read_spec, read_specs
from robot_bridge.arms.arm import Arm, make_arm
from robot_bridge.client import BridgeError, Connection
from robot_bridge.fitting import Fit, Side, alike, drives, gripper_seen, in_step, looks, normalised, of_policy
from robot_bridge.transport import Keys
from vla.data.lerobot_reader import Dataset, open_dataset
from vla.data.lerobot_writer import current_statistics
from vla.errors import UnderstudyError, first_line
from vla.types import CameraSpec, PolicySpec

NORMALIZER = "normalizer.json"
BEGINS = 20
"""Episodes whose first action is looked at."""


@dataclass(frozen=True)
class Robot:
    """What is to be compared; each may be missing. ``cameras``: what sees a real arm, as ``name=HEIGHTxWIDTH``."""

    checkpoint: Path | None = None
    dataset: Path | None = None
    arm: str = ""
    arm_options: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    server: str = ""
    key: Path | None = None
    server_key: Path | None = None
    embodiment: str = ""


def robot_of(options: argparse.Namespace) -> Robot:
    """Of the command's options, which are called as its fields are."""
    given = {name: getattr(options, name) for name in Robot.__dataclass_fields__}
    return Robot(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value})


def examine_robot(robot: Robot) -> list[Fit]:
    """A row for each thing that two parts must agree about, in the order in which data flows."""
    arm = _arm(robot)
    dataset = None if robot.dataset is None else open_dataset(robot.dataset)
    wished = [robot.embodiment, arm.spec.embodiment if arm else "", dataset.spec.embodiment if dataset else ""]
    trained = None if robot.checkpoint is None else _trained(robot.checkpoint, wished)
    served, rows = _served(robot)
    sides = [
        *([of_policy(trained)] if trained else []),
        *([_of_dataset(dataset)] if dataset else []),
        *([of_policy(served, "server")] if served else []),
    ]
    rows += [row for one, other in combinations(sides, 2) for row in alike(one, other)]
    if trained and served:
        rows.append(in_step(trained, served))
    if trained is not None and robot.checkpoint is not None:
        rows += _normalised(robot.checkpoint, of_policy(trained), wished)
    if dataset is not None:
        rows += _gripper(dataset, sides)
    if arm is not None:
        for side in sides:
            rows += drives(side, arm.spec, kinematics=arm.kinematics is not None)
            rows += looks(side, _cameras(robot, arm, side))
    return rows


def _arm(robot: Robot) -> Arm | None:
    if not robot.arm:
        return None
    try:
        return make_arm(robot.arm, **dict(_option(text) for text in robot.arm_options))
    except TypeError as error:  # an option that it must have is missing
        raise UnderstudyError(f"the arm {robot.arm} cannot be made: {error}; give --arm-option KEY=VALUE") from error


def _option(text: str) -> tuple[str, Any]:
    """``key=value``; what reads as a number or true is one."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UnderstudyError(f"--arm-option is KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _trained(folder: Path, wished: Sequence[str]) -> PolicySpec:
    """The checkpoint's spec; of several embodiments that which is wished for first, or the first."""
    if not (folder / SPEC_FILE).is_file():
        raise UnderstudyError(
            f"{folder} is not a checkpoint: it has no {SPEC_FILE}; give a folder that vla train wrote"
        )
    specs = read_specs(folder)
    known = next((name for name in wished if name in specs), None)
    return read_spec(folder) if known is None else specs[known]


def _served(robot: Robot) -> tuple[PolicySpec | None, list[Fit]]:
    """What the server says that it serves, or a row that it does not."""
    if not robot.server:
        return None, []
    keys = None if robot.key is None else Keys(robot.key, robot.server_key)
    connection = Connection(robot.server, robot="doctor", arm=f"doctor of {robot.arm or 'nothing'}", keys=keys)
    try:
        spec = connection.open()
    except BridgeError as error:
        return None, [Fit("server", "fail", f"{error.code}: {error}", robot.server, "start it, or mend the keys")]
    finally:
        connection.close()
    return spec, [Fit("server", "ok", f"serves {spec.checkpoint or 'a policy'}", robot.server)]


def _of_dataset(dataset: Dataset) -> Side:
    spec = dataset.spec
    return Side("dataset", spec.action, spec.cameras, spec.proprio_names, spec.fps)


def _normalised(folder: Path, side: Side, wished: Sequence[str]) -> list[Fit]:
    """The rows of ``normalizer.json``; a peer's checkpoint has its own way."""
    if json.loads((folder / SPEC_FILE).read_text())["policy"] in PEERS:
        return []
    file = folder / NORMALIZER
    try:
        groups: Mapping[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        about = f"{side.name}: statistics"
        return [Fit(about, "fail", first_line(error), str(file), "copy the checkpoint whole, or train again")]
    name = next((name for name in wished if name in groups), next(iter(groups), ""))
    return normalised(side, groups.get(name), where=NORMALIZER)


def _gripper(dataset: Dataset, sides: Sequence[Side]) -> list[Fit]:
    """What the recordings tell of the gripper; one that they do not name is where the policy has it."""
    own = next(side for side in sides if side.name == "dataset")
    known = next((side.action.gripper for side in (own, *sides) if side.action.gripper is not None), None)
    statistics = current_statistics(dataset.root, dataset.num_frames).get("action", {})
    if known is None or known.index >= own.action.dim or "min" not in statistics:
        return []
    low, high = (float(np.asarray(statistics[name]).reshape(-1)[known.index]) for name in ("min", "max"))
    chosen = np.unique(np.linspace(0, len(dataset.episodes) - 1, BEGINS).astype(int)) if dataset.episodes else []
    begins = [float(dataset.arrays(int(index))["actions"][0, known.index]) for index in chosen]
    return gripper_seen(replace(own, action=replace(own.action, gripper=known)), low, high, begins)


def _cameras(robot: Robot, arm: Arm, side: Side) -> list[CameraSpec] | None:
    """What sees the arm: as told; of a simulated one every camera of its scene, at the one size that is wanted."""
    if robot.cameras:
        return [_camera(text) for text in robot.cameras]
    from sim.arm import SimArm

    if not isinstance(arm, SimArm):
        return None
    size = next((camera.height for camera in side.cameras), 64)
    return [CameraSpec(name, size, size) for name in _names(arm.setting.scene().mechanism.model)]


def _names(model: Any) -> Iterator[str]:
    return (model.camera(index).name for index in range(model.ncam))


def _camera(text: str) -> CameraSpec:
    name, _, size = text.partition("=")
    height, _, width = size.partition("x")
    if not name or not height.isdigit() or not width.isdigit():
        raise UnderstudyError(f"--camera is NAME=HEIGHTxWIDTH, e.g. front=480x640; got {text!r}")
    return CameraSpec(name, int(height), int(width))
