"""What every arm promises, simulated or real, and the one way to make one by name.

    arm = make_arm("so101", port="/dev/ttyACM0")
    arm.connect()
    arm.command(arm.state().joints)     # hold
    arm.stop()
    arm.disconnect()

An arm takes setpoints for its joints, ``spec.rate_hz`` of them a second, and follows them; it plans nothing. The
gripper is a joint like the others. What makes setpoints of actions, and keeps them within ``spec.limits``, is
`robot_bridge.control`; an arm only refuses what is no number or of a wrong length.
"""

import inspect
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vla.errors import UnderstudyError, unknown
from vla.types import Gripper

Joints = NDArray[np.float64]
Box = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Two corners [m] in the frame of an arm's base: the lowest x, y, z and the highest."""

ARMS = {
    "sim": "sim.arm:SimArm",
    "ur": "robot_bridge.arms.ur:URArm",
    "franka": "robot_bridge.arms.franka:FrankaArm",
    "xarm": "robot_bridge.arms.xarm:XArm",
    "piper": "robot_bridge.arms.piper:PiperArm",
    "so100": "robot_bridge.arms.lerobot:so100",
    "so101": "robot_bridge.arms.lerobot:so101",
    "koch": "robot_bridge.arms.lerobot:koch",
}
"""Arm name → ``module:class``; the module is imported when the arm is made, not before."""


class ArmError(UnderstudyError):
    """The arm does not answer, or refuses: nothing more is sent to it."""


class Pose(NamedTuple):
    """``position`` [3] metres, ``quaternion`` [4] (w, x, y, z) of the tool in the frame of the arm's base."""

    position: Joints
    quaternion: Joints


@dataclass(frozen=True)
class Limits:
    """One number for each joint, in radians, or in metres for what slides.

    ``low``, ``high`` [rad], ``velocity`` [rad/s], ``acceleration`` [rad/s²], ``jerk`` [rad/s³]: what a setpoint keeps;
    ``lag``: how far the arm may be from its setpoint [rad] before that counts as a fault.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    lag: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {len(values) for values in vars(self).values()}
        if len(lengths) != 1:
            raise ValueError(f"limits need one number for each joint, got {sorted(lengths)} of them")
        if any(not low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"every low must be under its high: low {self.low}, high {self.high}")
        if any(not value > 0 for values in list(vars(self).values())[2:] for value in values):
            raise ValueError("velocity, acceleration, jerk and lag must be above 0")


@dataclass(frozen=True)
class ArmSpec:
    """What an arm offers: constant for its life.

    ``joints``: their names, in the order of every setpoint; ``rate_hz``: setpoints a second; ``proprio_names``: of what
    `Arm.state` tells a policy; ``gripper``: which joint it is, and which values of it mean open and closed;
    ``workspace``: corners [m] of the box that the tool must not leave, in the base's frame; ``watchdog_s``: silence
    after which the arm brakes by itself, 0 for an arm that goes on or holds, as its maker likes.
    """

    embodiment: str
    joints: tuple[str, ...]
    limits: Limits
    rate_hz: float
    proprio_names: tuple[str, ...]
    gripper: Gripper | None = None
    workspace: Box | None = None
    watchdog_s: float = 0.0

    def __post_init__(self) -> None:
        if len(self.joints) != len(self.limits.low):
            raise ValueError(f"{len(self.joints)} joints have limits for {len(self.limits.low)}")


@dataclass(frozen=True)
class ArmState:
    """What the arm measured: ``joints`` [D], ``proprio`` [P] float32 for the policy, and when, on our clock.

    ``stamp_ns`` is of the measurement, not of the call: a state that has grown old says so.
    """

    joints: Joints
    proprio: NDArray[np.float32]
    stamp_ns: int


class Kinematics(Protocol):
    """Where the tool is, and which joints bring it elsewhere; wanted for policies that move the end-effector."""

    def forward(self, joints: Joints) -> Pose:
        """The tool's pose at ``joints`` [D]."""
        ...

    def inverse(self, pose: Pose, near: Joints) -> Joints:
        """Joints [D] for ``pose``, the solution nearest to ``near`` [D], whose gripper it keeps."""
        ...


class Arm(Protocol):
    """An arm. Used by one thread of one process; none of the calls takes longer than a tick, but `connect`."""

    spec: ArmSpec

    @property
    def kinematics(self) -> Kinematics | None:
        """Of this arm, once connected; ``None`` for one that can be driven by its joints alone."""
        ...

    def connect(self) -> None:
        """Find the arm, and hold it where it is; raises `ArmError` with what to do."""
        ...

    def state(self) -> ArmState:
        """The newest measurement; raises `ArmError`."""
        ...

    def command(self, joints: Joints) -> None:
        """Go to ``joints`` [D] within one tick; raises `UnderstudyError` for what is no setpoint, else `ArmError`."""
        ...

    def stop(self) -> None:
        """Brake by the arm's own means and hold; not an emergency stop, which is a button."""
        ...

    def disconnect(self) -> None:
        """Leave the arm holding; a second time is no harm."""
        ...


class Cameras(Protocol):
    """What sees the arm; used by one process, which may be another than the arm's."""

    def connect(self) -> None:
        """Open them; raises `ArmError`."""
        ...

    def read(self) -> tuple[dict[str, NDArray[np.uint8]], int]:
        """The newest picture of each camera [H, W, 3] RGB, and when the oldest of them was taken [ns]."""
        ...

    def disconnect(self) -> None:
        """Close them; a second time is no harm."""
        ...


def make_arm(name: str, **options: object) -> Any:
    """An arm by name with its own options; raises `UnderstudyError` for one that it does not have."""
    if name not in ARMS:
        raise unknown("arm", name, ARMS)
    module, _, attribute = ARMS[name].partition(":")
    made = getattr(import_module(module), attribute)
    allowed = list(inspect.signature(made).parameters)
    for option in options:
        if option not in allowed:
            raise unknown(f"option of the arm {name}", option, allowed)
    return made(**options)


def setpoint(joints: Joints, spec: ArmSpec) -> Joints:
    """``joints`` as float64 [D]; raises `UnderstudyError` for a wrong length, NaN or infinity: the last gate."""
    checked = np.asarray(joints, np.float64)
    if checked.shape != (len(spec.joints),):
        raise UnderstudyError(
            f"a setpoint has {len(spec.joints)} joints ({', '.join(spec.joints)}), got {checked.shape}"
        )
    if not np.isfinite(checked).all():
        bad = [name for name, value in zip(spec.joints, checked, strict=True) if not np.isfinite(value)]
        raise UnderstudyError(f"the setpoint is not finite in {', '.join(bad)}: it was not sent")
    return checked
