"""From what a policy's action means to joints: one class for each kind of action.

A target is where the arm is to be at the end of a step. Deltas add up on a reference of their own, which stays near to
where the tool really is, so that an arm that is held back does not wind it up.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot_bridge.arms.arm import ArmSpec, Joints, Kinematics, Pose
from robot_bridge.safety import RefusedError
from vla.errors import UnderstudyError
from vla.types import ActionSpec

LEAD_M = 0.04
"""How far the reference of deltas may run ahead of the tool [m]."""
LEAD_RAD = 0.35
EDGE_M = 0.002


class Targets(Protocol):
    """Targets [D] of actions [A]."""

    hurry: float
    """times the arm's own speed that a target may ask for before it is a jump, and not only a fast move"""

    def begin(self, joints: Joints) -> None:
        """Start from ``joints`` [D]."""
        ...

    def next(self, action: NDArray[np.float32], measured: Joints) -> Joints:
        """Where ``action`` leads from the last step taken, when the arm is at ``measured`` [D]."""
        ...

    def take(self) -> None:
        """Take the step that `next` answered last."""
        ...


class JointTargets:
    """``joint_position``: an action is a target."""

    hurry = 1.0

    def __init__(self, action: ActionSpec, arm: ArmSpec, kinematics: Kinematics | None) -> None:
        self._action, self._arm, self._kinematics = action, arm, kinematics

    def begin(self, joints: Joints) -> None:
        """See `Targets`."""

    def next(self, action: NDArray[np.float32], measured: Joints) -> Joints:
        """See `Targets`; raises `RefusedError` for joints that bring the tool out of the workspace."""
        joints = with_gripper(action.astype(np.float64), action, self._action, self._arm)
        if self._kinematics is None:
            return joints
        there, here = (outside_m(one, self._arm, self._kinematics) for one in (joints, measured))
        if there > max(here, EDGE_M):  # one that is outside already may come nearer
            raise RefusedError("workspace", f"the tool would be {1e3 * there:.0f} mm outside of its workspace")
        return joints

    def take(self) -> None:
        """See `Targets`."""


class ToolTargets:
    """``ee_delta`` and ``ee_pose``: x, y, z [m], then, if there are three more, a rotation vector [rad].

    A rotation vector of a delta turns in the base's frame; without one the tool keeps the orientation it began with.
    A tool that moves as fast as its actions may asks single joints for more than their speed: they are slowed down.
    """

    def __init__(self, action: ActionSpec, arm: ArmSpec, kinematics: Kinematics) -> None:
        self._action, self._arm, self._kinematics = action, arm, kinematics
        gripper = () if action.gripper is None else (action.gripper.index,)
        self.hurry = 4.0 if action.kind == "ee_delta" else 1.0
        self._moving = [index for index in range(action.dim) if index not in gripper]
        if len(self._moving) not in (3, 6):
            raise UnderstudyError(f"{action.kind} moves x, y, z and may turn; it has {', '.join(action.names)}")
        box = arm.workspace or ((-np.inf,) * 3, (np.inf,) * 3)
        self._low, self._high = map(np.asarray, box)

    def begin(self, joints: Joints) -> None:
        """See `Targets`."""
        self._asked = self._pose, self._last = self._kinematics.forward(joints), joints

    def next(self, action: NDArray[np.float32], measured: Joints) -> Joints:
        """See `Targets`."""
        moved = action[self._moving].astype(np.float64)
        if self._action.kind == "ee_delta":
            here = self._kinematics.forward(measured).position
            position = here + np.clip(self._pose.position + moved[:3] - here, -LEAD_M, LEAD_M)
            turned = near_to(rotated(self._pose.quaternion, moved[3:]), self._kinematics.forward(measured).quaternion)
        else:
            position = moved[:3]
            turned = rotated(np.array([1.0, 0, 0, 0]), moved[3:]) if len(moved) == 6 else self._pose.quaternion
        pose = Pose(np.clip(position, self._low, self._high), turned)
        joints = with_gripper(self._kinematics.inverse(pose, self._last), action, self._action, self._arm)
        self._asked = pose, joints
        return joints

    def take(self) -> None:
        """See `Targets`."""
        self._pose, self._last = self._asked


def make_targets(action: ActionSpec, arm: ArmSpec, kinematics: Kinematics | None) -> Targets:
    """What fits; raises `UnderstudyError` when the arm cannot be driven like that."""
    if not np.isfinite([action.low, action.high]).all():
        raise UnderstudyError("the policy's actions have no bounds: nothing could be told from nonsense")
    if action.kind == "joint_position":
        if action.names != arm.joints:
            raise UnderstudyError(f"the policy moves {', '.join(action.names)}; the arm has {', '.join(arm.joints)}")
        return JointTargets(action, arm, kinematics)
    if kinematics is None:
        raise UnderstudyError(f"the policy's actions are {action.kind}, and this arm is driven by its joints alone")
    return ToolTargets(action, arm, kinematics)


def with_gripper(joints: Joints, action: NDArray[np.float32], spec: ActionSpec, arm: ArmSpec) -> Joints:
    """``joints`` [D] with the gripper where ``action`` wants it: open is open on both sides, whatever its sign."""
    if spec.gripper is None or arm.gripper is None:
        return joints
    share = (action[spec.gripper.index] - spec.gripper.closed) / (spec.gripper.open - spec.gripper.closed)
    joints = joints.copy()
    joints[arm.gripper.index] = arm.gripper.closed + share * (arm.gripper.open - arm.gripper.closed)
    return joints


def rotated(quaternion: Joints, vector: Joints) -> Joints:
    """``quaternion`` (w, x, y, z) turned by a rotation ``vector`` [rad] of the base's frame."""
    angle = float(np.linalg.norm(vector)) if len(vector) else 0.0
    if angle < 1e-12:
        return quaternion
    turned = product(np.array([np.cos(angle / 2), *(np.sin(angle / 2) / angle * vector)]), quaternion)
    return turned / np.linalg.norm(turned)


def outside_m(joints: Joints, arm: ArmSpec, kinematics: Kinematics) -> float:
    """How far [m] the tool is out of its workspace at ``joints`` [D]; 0 or less inside, or where there is none."""
    if arm.workspace is None:
        return 0.0
    low, high = arm.workspace
    position = kinematics.forward(joints).position
    return float(np.max(np.maximum(np.subtract(low, position), np.subtract(position, high))))


def near_to(quaternion: Joints, measured: Joints) -> Joints:
    """``quaternion``, or as much of the way there from ``measured`` as the reference may run ahead."""
    w, x, y, z = measured
    back = np.array([w, -x, -y, -z])
    turn = product(quaternion, back)
    turn = turn if turn[0] >= 0 else -turn
    angle = 2 * float(np.arccos(min(turn[0], 1.0)))
    if angle <= LEAD_RAD:
        return quaternion
    return rotated(measured, turn[1:] / np.linalg.norm(turn[1:]) * LEAD_RAD)


def product(one: Joints, other: Joints) -> Joints:
    """The rotation ``other`` and then ``one``, as quaternions (w, x, y, z)."""
    w, x, y, z = one
    a, b, c, d = other
    found = [w * a - x * b - y * c - z * d, w * b + x * a + y * d - z * c]
    return np.array([*found, w * c - x * d + y * a + z * b, w * d + x * c - y * b + z * a])
