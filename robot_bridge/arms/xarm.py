"""UFACTORY's xArm 6 and 7, by ``xarm-python-sdk``; it never ran on hardware here.

    arm = make_arm("xarm", host="192.168.1.200", model="xarm6")

Setpoints go out in the SDK's servo motion mode (1), which only takes the newest. Each call waits for the controller's
answer: a measurement is fresh, or there is none. The gripper is left out: the controller answers it by way of a slow
bus. In the tests a stand-in replaces the SDK, with names and parameters that are checked against the real one where
that is installed.
"""

import math
from time import monotonic_ns
from typing import Any

import numpy as np

from robot_bridge.arms.arm import ArmError, ArmSpec, ArmState, Joints, Limits, setpoint
from robot_bridge.arms.chain import Chain, Link
from robot_bridge.arms.driver import connected, joint_state, load_kit
from vla.errors import first_line, unknown

RATE_HZ = 100.0
SERVO_MODE, MOVE, STOP = 1, 0, 4
SPEED = math.pi
"""Of each joint [rad/s], from the user manual."""
ROUND, RIGHT = 2 * math.pi, math.pi / 2
RANGES = {
    "xarm6": (
        (-ROUND, ROUND),
        (-2.059488, 2.094395),
        (-3.92699, 0.191986),
        (-ROUND, ROUND),
        (-1.692969, math.pi),
        (-ROUND, ROUND),
    ),
    "xarm7": (
        (-ROUND, ROUND),
        (-2.059488, 2.094395),
        (-ROUND, ROUND),
        (-0.191986, 3.92699),
        (-ROUND, ROUND),
        (-1.692969, math.pi),
        (-ROUND, ROUND),
    ),
}
"""What the SDK itself lets through [rad]."""
TABLES = {
    "xarm6": (
        Link(d=0.267, alpha=-RIGHT),
        Link(a=0.28948866, offset=-1.3849179),
        Link(a=0.0775, alpha=-RIGHT, offset=1.3849179),
        Link(d=0.3425, alpha=RIGHT),
        Link(a=0.076, alpha=-RIGHT),
        Link(d=0.097),
    ),
    "xarm7": (
        Link(d=0.267, alpha=-RIGHT),
        Link(alpha=RIGHT),
        Link(d=0.293, a=0.0525, alpha=RIGHT),
        Link(a=0.0775, alpha=RIGHT),
        Link(d=0.3425, alpha=RIGHT),
        Link(a=0.076, alpha=-RIGHT),
        Link(d=0.097),
    ),
}
"""In the standard way, from UFACTORY's article on kinematic and dynamic parameters."""


def limits(model: str) -> Limits:
    """The manual allows 20 rad/s² and 500 rad/s³; here it is half of both at most."""
    ranges = RANGES[model]
    many = len(ranges)
    return Limits(
        low=tuple(low for low, _ in ranges),
        high=tuple(high for _, high in ranges),
        velocity=(SPEED,) * many,
        acceleration=(10.0,) * many,
        jerk=(200.0,) * many,
        lag=(0.4,) * many,
    )


class XArm:
    """An xArm whose controller is at ``host``, without a gripper."""

    def __init__(self, host: str, model: str = "xarm6") -> None:
        if model not in RANGES:
            raise unknown("model of the arm xarm", model, RANGES)
        names = tuple(f"joint_{number + 1}" for number in range(len(RANGES[model])))
        self.spec = ArmSpec(model, names, limits(model), RATE_HZ, proprio_names=names)
        self.host = host
        self._chain = Chain.standard(TABLES[model], self.spec.limits.low, self.spec.limits.high)
        self._arm: Any = None
        self._ready = False

    @property
    def kinematics(self) -> Chain:
        """See `Arm`; of the flange."""
        return self._chain

    def connect(self) -> None:
        """See `Arm`. An error that the controller shows is not cleared: somebody looks first."""
        kit = load_kit("xarm.wrapper", "xarm")
        try:
            self._arm = kit.XArmAPI(self.host, is_radian=True)
        except Exception as error:  # the SDK raises nothing narrower
            raise ArmError(f"no arm at {self.host}: {first_line(error)}; is it on, and in this network?") from error
        try:
            self._well()
            self._done(self._arm.motion_enable(enable=True), "enable its motors")
            self._prepare()
        except ArmError:
            self.disconnect()
            raise

    def state(self) -> ArmState:
        """See `Arm`."""
        arm = self._well()
        asked_ns = monotonic_ns()
        code, angles = arm.get_servo_angle(is_radian=True, is_real=True)
        self._done(code, "say where its joints are")
        return joint_state(np.array(angles[: len(self.spec.joints)], np.float64), asked_ns)

    def command(self, joints: Joints) -> None:
        """See `Arm`."""
        arm = self._well()
        wanted = setpoint(joints, self.spec)
        if not self._ready:
            self._prepare()
        self._done(arm.set_servo_angle_j(wanted.tolist(), is_radian=True), "take a setpoint")

    def stop(self) -> None:
        """See `Arm`."""
        self._ready = False
        self._done(connected(self._arm).set_state(STOP), "stop: press its button")

    def disconnect(self) -> None:
        """See `Arm`."""
        arm, self._arm, self._ready = self._arm, None, False
        if arm is not None:
            arm.disconnect()  # in servo motion mode, and in every other, it holds where it is

    def _prepare(self) -> None:
        """Have it take setpoints."""
        self._done(self._arm.set_mode(SERVO_MODE), "enter its servo motion mode")
        self._done(self._arm.set_state(MOVE), "get ready")
        self._ready = True

    def _well(self) -> Any:
        """The SDK's arm; raises `ArmError` for one that is gone or shows an error."""
        arm = connected(self._arm)
        if not arm.connected:
            raise ArmError(f"the connection to {self.host} is lost: look at cable and controller, connect again")
        if arm.error_code:
            raise ArmError(
                f"the arm shows error {arm.error_code}: look it up in the manual, clear it in its Studio, connect again"
            )
        return arm

    def _done(self, code: int, what: str) -> None:
        """Raises `ArmError` for a call that the SDK did not answer with 0."""
        if code != 0:
            raise ArmError(f"the arm does not {what} (the SDK's code {code}); connect again")
