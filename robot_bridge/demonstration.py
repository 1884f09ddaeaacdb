"""What was made of a video as something to drive: setpoints of all joints in the place of a policy's actions."""

from pathlib import Path

from robot_bridge.arms.arm import ArmSpec
from robot_bridge.retarget.folder import Prepared, load
from vla.errors import UnderstudyError
from vla.types import ActionSpec, PolicySpec

AHEAD_S = 0.5
"""How much of a path the arm is given at once."""


def prepared(folder: Path, arm: str, spec: ArmSpec) -> Prepared:
    """The setpoints that a video was made into; raises `UnderstudyError` for those of another arm, or not to trust."""
    found = load(folder)
    if found.embodiment != spec.embodiment:
        raise UnderstudyError(
            f"{folder} was made for the arm {found.embodiment}, and this is {spec.embodiment}: run vla retarget with "
            f"--arm {arm}"
        )
    return found


def demo_spec(arm: ArmSpec, hz: float) -> PolicySpec:
    """Setpoints of all joints as a policy's actions, ``hz`` a second."""
    action = ActionSpec("joint_position", arm.joints, arm.limits.low, arm.limits.high, gripper=arm.gripper)
    ahead = max(2, round(AHEAD_S * hz))
    return PolicySpec(
        cameras=(),
        proprio_names=arm.proprio_names,
        action=action,
        accepts=("instruction",),
        obs_horizon=1,
        pred_horizon=ahead,
        exec_horizon=ahead // 2,
        control_hz=hz,
    )
