"""Arms with their makers' shapes, from MuJoCo Menagerie: which file, what in it is what, and what the makers allow.

    MENAGERIE_ROOT=…/mujoco_menagerie vla doctor --arm sim --arm-option model=ur5e

Nothing is downloaded and nothing of theirs is copied here: the environment variable names a folder in Menagerie's
layout. The Panda is also taken from the package ``gym-hil``, where that is installed. To whatever file it is, floor,
light, a camera ``front`` and the tool's frame are added where they are missing; gravity is compensated, as the makers'
controllers do; and motors that take torques are made to take positions.
"""

import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import pi
from pathlib import Path

import mujoco
import numpy as np

from robot_bridge.arms import ur
from robot_bridge.arms.arm import ArmSpec, Limits
from sim.cameras import make_camera
from sim.firmware import PHYSICS_S
from sim.mechanism import Mechanism, Wiring
from vla.errors import UnderstudyError, first_line, unknown
from vla.types import Gripper

ROOT = "MENAGERIE_ROOT"
TOOL, FRONT = "understudy_tool", "front"
STIFFNESS, DAMPING_S = 30.0, 0.1
"""Of a motor that takes torques: all of its torque at 1/30 rad of error; its lag of 0.1 s is fed forward."""
SERVOS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
PANDA_JOINTS = tuple(f"joint{index}" for index in range(1, 8))
PANDA = Limits(
    low=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973, 0.0),
    high=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973, 1.0),
    velocity=(*(2.175,) * 4, *(2.61,) * 3, 6.0),
    acceleration=(*(10.0,) * 7, 60.0),
    jerk=(*(1000.0,) * 7, 6000.0),
    lag=(*(0.3,) * 4, *(0.4,) * 3, 2.0),
)
"""Franka Panda: the maker's joint ends and velocities (less than its 15…20 rad/s² and 7500…15000 rad/s³ at the joints);
the gripper is a fraction of its opening, and may be blocked by what it holds."""


FLANGE, OUTWARD = (0.0, 0.1, 0.0), (-(0.5**0.5), 0.5**0.5, 0.0, 0.0)
"""Of a UR5e, in the frame of its last link: the tool's z points away from it."""


@dataclass(frozen=True)
class ArmModel:
    """One file that an arm is read from. ``home``: joints [D] to begin with; ``reach`` [m]: how far away to look from.

    ``package``: that holds the file among its own, instead of MuJoCo Menagerie.
    """

    file: str
    spec: ArmSpec
    wiring: Wiring
    home: tuple[float, ...]
    reach: float
    package: str = ""


def _panda() -> tuple[ArmModel, ...]:
    joints, gripper = (*PANDA_JOINTS, "gripper"), Gripper(7, open=1.0, closed=0.0)
    spec = ArmSpec("panda-mesh", joints, PANDA, 500.0, proprio_names=joints, gripper=gripper, watchdog_s=0.04)
    home = (0.0, 0.0, 0.0, -0.5 * pi, 0.0, 0.5 * pi, -0.25 * pi, 1.0)
    hand = Wiring(
        PANDA_JOINTS,
        tool="hand",
        offset=(0.0, 0.0, 0.1034),
        fingers=("finger_joint1", "finger_joint2"),
        travel=(0.0, 0.04),
        grips=("actuator8",),
        told=(0.0, 255.0),
    )
    robotiq = Wiring(
        PANDA_JOINTS,
        tool="pinch",
        fingers=("right_driver_joint", "left_driver_joint"),
        travel=(0.8, 0.0),
        grips=("fingers_actuator",),
        told=(255.0, 0.0),
    )
    return (
        ArmModel("franka_emika_panda/panda.xml", spec, hand, home, 0.9),
        ArmModel("assets/panda.xml", spec, robotiq, home, 0.9, package="gym_hil"),
    )


def _ur5e() -> tuple[ArmModel, ...]:
    free = ur.limits("ur5e")
    elbow = pi - 1e-4  # the shoulder is in the way beyond
    low, high = (*free.low[:2], -elbow, *free.low[3:]), (*free.high[:2], elbow, *free.high[3:])
    bounded = replace(free, low=low, high=high)
    spec = ArmSpec("ur5e-mesh", ur.JOINTS, bounded, 500.0, proprio_names=ur.JOINTS, watchdog_s=0.04)
    joints = tuple(f"{name}_joint" for name in ur.JOINTS)
    wiring = Wiring(joints, tool="wrist_3_link", offset=FLANGE, turn=OUTWARD)
    home = (-0.5 * pi, -0.5 * pi, 0.5 * pi, -0.5 * pi, -0.5 * pi, 0.0)
    return (ArmModel("universal_robots_ur5e/ur5e.xml", spec, wiring, home, 1.0),)


def _servos(name: str, low: tuple[float, ...], high: tuple[float, ...]) -> ArmSpec:
    """LeRobot's names of the joints, rate and speeds as of its real arms here; ends [rad] as the file has them."""
    limits = Limits((*low, 0.0), (*high, 1.0), (2.0,) * 6, (10.0,) * 6, (100.0,) * 6, (*(0.35,) * 5, 1.5))
    joints, gripper = (*SERVOS, "gripper"), Gripper(5, open=1.0, closed=0.0)
    return ArmSpec(name, joints, limits, 50.0, proprio_names=joints, gripper=gripper, watchdog_s=0.1)


def _so101() -> tuple[ArmModel, ...]:
    newer = Wiring(
        SERVOS,
        tool="gripperframe",
        fingers=("gripper",),
        travel=(-0.1745, 1.7453),
        grips=("gripper",),
        told=(-0.1745, 1.7453),
    )
    older = Wiring(
        ("Rotation", "Pitch", "Elbow", "Wrist_Pitch", "Wrist_Roll"),
        tool="Fixed_Jaw",
        offset=(0.0, -0.1, 0.0),
        fingers=("Jaw",),
        travel=(-0.2, 2.0),
        grips=("Jaw",),
        told=(-0.2, 2.0),
    )
    ends, bent = (1.9198, 1.7453, 1.69, 1.658, 2.7438), (0.0, -1.57, 1.57, 1.57, -1.57, 0.5)
    middle = (0.0, 0.0, 0.0, 0.0, 0.0, 0.5)
    spec = _servos("so101-mesh", tuple(-end for end in ends), ends)
    low, high = (-2.2, -3.1415, 0.0, -2.0, -3.1415), (2.2, 0.2, 3.1415, 1.8, 3.1415)
    return (
        ArmModel("robotstudio_so101/so101.xml", spec, newer, middle, 0.4),
        ArmModel("trs_so_arm100/so_arm100.xml", _servos("so100-mesh", low, high), older, bent, 0.4),
    )


MODELS = {"panda": _panda(), "ur5e": _ur5e(), "so101": _so101()}
"""Name → the files that it may be read from; the first that is there counts."""


def found_model(name: str) -> tuple[ArmModel, Path]:
    """The description of an arm, and its file; raises `UnderstudyError` with what to put where."""
    if name not in MODELS:
        raise unknown("model of a simulated arm", name, ("tabletop", *MODELS))
    root = os.environ.get(ROOT, "")
    for model in MODELS[name]:
        folder = _folder(model.package) if model.package else Path(root) if root else None
        if folder is not None and (folder / model.file).is_file():
            return model, folder / model.file
    wanted = " or ".join(f"{ROOT}/{model.file}" for model in MODELS[name] if not model.package)
    packages = [model.package.replace("_", "-") for model in MODELS[name] if model.package]
    other = "".join(f", or install the package {package}" for package in packages)
    now = f"it is {root}, and has no such file" if root else "it is not set"
    raise UnderstudyError(
        f"there is no model of the arm {name}: let the environment variable {ROOT} name a copy of MuJoCo Menagerie, so "
        f"that {wanted} is there ({now}){other}"
    )


def _folder(package: str) -> Path | None:
    """Where a package lies, which is not imported."""
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


class BareScene:
    """An arm of `MODELS` on a floor, without a task: `sim.firmware.Scene`."""

    success = False

    def __init__(self, model: ArmModel, file: Path, *, image_size: int = 64, cameras: tuple[str, ...] = ()) -> None:
        """``cameras``: ``front``, or any of the file's own."""
        self.spec, self._home = model.spec, np.array(model.home)
        try:
            compiled = furnished(model, file).compile()
        except ValueError as error:
            raise UnderstudyError(f"MuJoCo does not read {file}: {first_line(error)}") from error
        compiled.opt.timestep = PHYSICS_S
        self.mechanism = Mechanism(compiled, mujoco.MjData(compiled), model.wiring, site=TOOL)
        size = {"height": image_size, "width": image_size}
        self._cameras = {name: make_camera(compiled, name, **size, renderer="ray") for name in cameras}

    def reset(self, task: str, seed: int) -> None:
        """Put the arm into its pose to begin with; ``seed`` changes nothing."""
        if task:
            raise UnderstudyError(
                f"the arm {self.spec.embodiment} stands alone and has no tasks; {task!r} was asked for"
            )
        data = self.mechanism.data
        mujoco.mj_resetData(self.mechanism.model, data)
        self.mechanism.place(self._home)
        mujoco.mj_forward(self.mechanism.model, data)

    def proprio(self) -> np.ndarray:
        """The joints [D] float32."""
        return self.mechanism.joints.astype(np.float32)

    def judge(self) -> bool:
        """Never."""
        return False

    def look(self) -> dict[str, np.ndarray]:
        """A picture [H, W, 3] of each camera."""
        return {name: camera.render(self.mechanism.data) for name, camera in self._cameras.items()}


def furnished(model: ArmModel, file: Path) -> mujoco.MjSpec:
    """The file's MJCF, with what it lacks: see above."""
    spec = mujoco.MjSpec.from_file(str(file))
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    for body in spec.bodies:
        body.gravcomp = 1.0
    for actuator in spec.actuators:
        if actuator.target in model.wiring.joints and actuator.biastype == mujoco.mjtBias.mjBIAS_NONE:
            _make_servo(actuator)
    _mark_tool(spec, model.wiring)
    world = spec.worldbody
    if all(geom.type != mujoco.mjtGeom.mjGEOM_PLANE for geom in spec.geoms):
        plane = mujoco.mjtGeom.mjGEOM_PLANE
        world.add_geom(type=plane, size=[2, 2, 0.01], rgba=[0.55, 0.48, 0.42, 1], contype=0, conaffinity=0)
    if not spec.lights:
        world.add_light(pos=[0.3, -0.5, 2.0], dir=[0.1, 0.2, -1.0])
    if FRONT not in [camera.name for camera in spec.cameras]:
        away, at = model.reach * np.array([1.5, -1.0, 1.1]), model.reach * np.array([0.15, 0.0, 0.35])
        world.add_camera(name=FRONT, pos=away, quat=looking(away, at), fovy=46)
    return spec


def _make_servo(actuator: mujoco.MjsActuator) -> None:
    """A motor that takes a torque, made to take a position and to press with no more than that torque."""
    torque = float(np.abs(actuator.ctrlrange).max()) or 100.0
    stiffness = STIFFNESS * torque
    actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[0] = stiffness
    actuator.biasprm[:3] = 0.0, -stiffness, -DAMPING_S * stiffness
    actuator.forcerange, actuator.forcelimited = (-torque, torque), 1
    actuator.ctrllimited = 0


def _mark_tool(spec: mujoco.MjSpec, wiring: Wiring) -> None:
    """A site `TOOL` where the wiring says that the tool is."""
    for site in spec.sites:
        if site.name == wiring.tool:
            site.parent.add_site(name=TOOL, pos=site.pos, quat=site.quat)
            return
    for body in spec.bodies:
        if body.name == wiring.tool:
            body.add_site(name=TOOL, pos=wiring.offset, quat=wiring.turn)
            return
    raise UnderstudyError(f"the model has neither a site nor a body {wiring.tool}: is it another version of it?")


def looking(away: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The quaternion [4] of a camera at ``away`` [3] that looks at ``at`` [3], upright."""
    back = (away - at) / np.linalg.norm(away - at)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(back, right), back], axis=1).reshape(9))
    return quaternion
