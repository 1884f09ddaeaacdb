"""AgileX's Piper with its gripper, by ``piper_sdk`` over CAN; it never ran on hardware here.

    arm = make_arm("piper", can="can0")     # after: ip link set can0 up type can bitrate 1000000

Joints go out by the SDK's joint control (MOVE J), whose own interpolation follows them; the newest counts. The arm
sends measurements unasked, and the SDK's thread keeps the last one: its stamp tells whether another has come. That
thread is Python's and takes its share of the loop's time: some ticks come late. In the tests a stand-in replaces the
SDK, with names and parameters that are checked against the real one where that is installed.
"""

import math
from time import monotonic_ns
from typing import Any

import numpy as np

from robot_bridge.arms.arm import ArmError, ArmSpec, ArmState, Joints, Limits, setpoint
from robot_bridge.arms.chain import Chain, Link
from robot_bridge.arms.driver import NewsClock, connected, joint_state, load_kit, wait_for
from vla.errors import first_line
from vla.types import Gripper

JOINTS = (*(f"joint_{number}" for number in range(1, 7)), "gripper")
RATE_HZ = 100.0
ENABLE_S = 5.0
RAW = np.array([1000 * 180 / math.pi] * 6 + [1e6])
"""What the wire counts in: 0.001° in a radian, 0.001 mm in a metre."""
BY_CAN, MOVE_J, FULL_SPEED, POSITION = 0x01, 0x01, 100, 0x00
GRIPPER_ON, GRIPPER_EFFORT = 0x01, 1000
"""Effort in 0.001 Nm; the SDK allows 5000."""
LIMITS = Limits(
    low=(-2.6179, 0.0, -2.967, -1.745, -1.22, -2.09439, 0.0),
    high=(2.6179, 3.14, 0.0, 1.745, 1.22, 2.09439, 0.07),
    velocity=(3.0,) * 6 + (0.1,),
    acceleration=(5.0,) * 6 + (0.5,),
    jerk=(50.0,) * 6 + (10.0,),
    lag=(0.4,) * 6 + (0.08,),
)
"""Ranges from the SDK's table [rad, m]; speed is under the manual's 180°/s, acceleration and jerk are ours. A gripper
that holds something does not reach its setpoint: its lag is no fault."""
RIGHT = math.pi / 2
TABLE = (
    Link(d=0.123),
    Link(alpha=-RIGHT, offset=-math.radians(172.22)),
    Link(a=0.28503, offset=-math.radians(102.78)),
    Link(d=0.25075, a=-0.02198, alpha=RIGHT),
    Link(alpha=-RIGHT),
    Link(d=0.091, alpha=RIGHT),
)
"""From the SDK, for arms whose joints 2 and 3 are zeroed 2° apart, as all are since its firmware 1.6-3."""
TROUBLE = {
    1: "an emergency stop",
    2: "no solution",
    3: "a singularity",
    4: "a target out of its limits",
    5: "no answer from a joint",
    6: "a brake that is shut",
    7: "a collision",
    9: "a faulty joint",
    14: "a controller that is too hot",
    15: "a brake resistor that is too hot",
}


class PiperArm:
    """A Piper on the CAN interface ``can``."""

    spec = ArmSpec("piper", JOINTS, LIMITS, RATE_HZ, proprio_names=JOINTS, gripper=Gripper(6, open=0.07, closed=0.0))

    def __init__(self, can: str = "can0") -> None:
        self.can = can
        self._chain = Chain.modified(TABLE, LIMITS.low, LIMITS.high)
        self._clock = NewsClock()
        self._arm: Any = None

    @property
    def kinematics(self) -> Chain:
        """See `Arm`; of the flange that bears the gripper."""
        return self._chain

    def connect(self) -> None:
        """See `Arm`."""
        kit = load_kit("piper_sdk", "piper")
        try:
            self._arm = kit.C_PiperInterface_V2(self.can)
            self._arm.ConnectPort(can_init=True)
        except (OSError, ValueError) as error:
            self._arm = None
            raise ArmError(f"no CAN interface {self.can}: {first_line(error)}; set it up with ip link") from error
        self._clock = NewsClock()
        try:
            before = self._arm.GetArmJointMsgs().time_stamp  # not 0 where it was connected before
            if not wait_for(lambda: self._arm.GetArmJointMsgs().time_stamp != before, ENABLE_S):
                raise ArmError(f"nothing comes from the arm on {self.can}: is it on, and the bit rate 1000000?")
            self._well()
            if not wait_for(self._arm.EnablePiper, ENABLE_S):
                raise ArmError("the arm does not enable its motors: is it still in its teaching mode?")
            self._hold()
        except ArmError:
            self.disconnect()
            raise

    def state(self) -> ArmState:
        """See `Arm`."""
        arm = self._well()
        said = arm.GetArmJointMsgs()
        stamp_ns = self._clock.stamp_ns(said.time_stamp, monotonic_ns())
        joints = [getattr(said.joint_state, name) for name in JOINTS[:6]]
        return joint_state(np.array([*joints, arm.GetArmGripperMsgs().gripper_state.grippers_angle]) / RAW, stamp_ns)

    def command(self, joints: Joints) -> None:
        """See `Arm`."""
        self._well()
        self._send(setpoint(joints, self.spec))

    def stop(self) -> None:
        """See `Arm`. The SDK's own stop lets the arm sink: here it is sent to where it is, and holds."""
        connected(self._arm)
        self._hold()

    def disconnect(self) -> None:
        """See `Arm`; the motors stay on."""
        arm, self._arm = self._arm, None
        if arm is not None:
            arm.DisconnectPort()

    def _hold(self) -> None:
        self._send(self.state().joints)

    def _send(self, joints: Joints) -> None:
        """Mode and setpoint, each time: an arm that has missed the mode would ignore the rest."""
        *turns, opening = (int(count) for count in np.rint(joints * RAW))
        self._arm.MotionCtrl_2(BY_CAN, MOVE_J, FULL_SPEED, POSITION)
        self._arm.JointCtrl(*turns)
        self._arm.GripperCtrl(opening, GRIPPER_EFFORT, GRIPPER_ON, 0)

    def _well(self) -> Any:
        """The SDK's arm; raises `ArmError` for one that is gone or reports trouble."""
        arm = connected(self._arm)
        if not arm.isOk():
            raise ArmError(f"nothing comes from {self.can}: look at plug and adapter, connect again")
        status = int(arm.GetArmStatus().arm_status.arm_status)
        if status:
            raise ArmError(
                f"the arm reports {TROUBLE.get(status, f'status {status}')}: look why, restart it, then connect again"
            )
        return arm
