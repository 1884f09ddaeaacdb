"""Franka's arms (FR3, Panda), by ``franky`` (package franky-control); it never ran on hardware here.

    arm = make_arm("franka", host="172.16.0.2")

franky's own loop runs at 1 kHz and keeps the joints near the newest setpoint as springs and dampers would (its joint
impedance tracking motion): setpoints need neither come on time nor at 1 kHz. When this process dies, the arm notices
after 20 ms and brakes; when only its loop stalls, the arm holds the last setpoint.

One process may load one wrapper of libfranka. Linux needs a real-time kernel, or ``realtime=False`` on one without.
The hand is left out: libfranka answers it more slowly than a tick. In the tests a stand-in replaces franky, with
names and parameters that are checked against the real one where that is installed.
"""

import math
from contextlib import suppress
from time import monotonic_ns
from typing import Any

import numpy as np

from robot_bridge.arms.arm import ArmError, ArmSpec, ArmState, Joints, Limits, setpoint
from robot_bridge.arms.chain import Chain, Link
from robot_bridge.arms.driver import TheirClock, connected, joint_state, load_kit
from vla.errors import first_line

JOINTS = tuple(f"joint_{number}" for number in range(1, 8))
RATE_HZ = 200.0
REST_S = 3.0
STIFFNESS = (600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0)
"""Of each joint's spring [Nm/rad], those of libfranka's examples; franky damps them critically."""
VELOCITY = (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)
LIMITS = Limits(
    low=(-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159),
    high=(2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159),
    velocity=VELOCITY,
    acceleration=(10.0,) * 7,
    jerk=(5000.0,) * 7,
    lag=tuple(0.05 + 0.12 * speed for speed in VELOCITY),
)
"""FR3's, from Franka's table of robot and interface specifications; the springs lag by about 0.1 s of way."""
RIGHT = math.pi / 2
TABLE = (
    Link(d=0.333),
    Link(alpha=-RIGHT),
    Link(d=0.316, alpha=RIGHT),
    Link(a=0.0825, alpha=RIGHT),
    Link(d=0.384, a=-0.0825, alpha=-RIGHT),
    Link(alpha=RIGHT),
    Link(a=0.088, alpha=RIGHT),
)
"""From the same page, in the modified way; the flange is 0.107 m beyond joint 7."""


class FrankaArm:
    """A Franka at ``host``, without its hand."""

    spec = ArmSpec("franka", JOINTS, LIMITS, RATE_HZ, proprio_names=JOINTS)

    def __init__(self, host: str, realtime: bool = True) -> None:
        self.host, self.realtime = host, realtime
        self._chain = Chain.modified(TABLE, LIMITS.low, LIMITS.high, flange=0.107)
        self._clock = TheirClock()
        self._kit: Any = None
        self._robot: Any = None
        self._tracking: Any = None

    @property
    def kinematics(self) -> Chain:
        """See `Arm`; of the flange."""
        return self._chain

    def connect(self) -> None:
        """See `Arm`. FCI must be active in Desk, and the brakes open."""
        self._kit = kit = load_kit("franky", "franka")
        config = kit.RealtimeConfig.Enforce if self.realtime else kit.RealtimeConfig.Ignore
        try:
            self._robot = kit.Robot(self.host, realtime_config=config)
            self._clock = TheirClock()
            if self._robot.has_errors:
                raise ArmError(f"the arm reports {self._robot.state.current_errors}: look why, acknowledge it in Desk")
            self._track()
        except kit.Exception as error:
            self.disconnect()
            raise ArmError(f"no arm at {self.host}: {first_line(error)}") from error
        except ArmError:
            self.disconnect()
            raise

    def state(self) -> ArmState:
        """See `Arm`."""
        robot = self._well()
        now = robot.state
        return joint_state(np.array(now.q, np.float64), self._clock.stamp_ns(now.time.to_sec(), monotonic_ns()))

    def command(self, joints: Joints) -> None:
        """See `Arm`."""
        self._well()
        wanted = setpoint(joints, self.spec)
        if self._tracking is None:
            self._track()
        self._tracking.set_reference(self._kit.JointReference(q=wanted))

    def stop(self) -> None:
        """See `Arm`; franky lets go of the springs and damps, then the arm holds by itself."""
        robot = connected(self._robot)
        self._tracking = None
        try:
            if robot.is_in_control:
                robot.move(self._kit.TorqueStopMotion(), asynchronous=True)
        except self._kit.Exception as error:
            raise ArmError(f"the arm may still move, press its button: {first_line(error)}") from error

    def disconnect(self) -> None:
        """See `Arm`."""
        if self._robot is None:
            return
        try:
            with suppress(self._kit.Exception):  # an arm that is gone has braked by itself
                self.stop()
                self._robot.join_motion(timeout=REST_S)
        finally:
            self._robot = self._tracking = None

    def _well(self) -> Any:
        """The robot; raises `ArmError` where its loop has ended without being asked to."""
        robot = connected(self._robot)
        try:
            running = robot.poll_motion()  # raises what ended the loop
        except self._kit.Exception as error:
            raise ArmError(f"the arm has stopped: {first_line(error)}; look why, then connect again") from error
        if self._tracking is not None and not running:
            raise ArmError("the arm no longer follows: look at Desk, then connect again")
        return robot

    def _track(self) -> None:
        """Hold the joints where they are, by springs whose rest is then moved."""
        tracking = self._kit.JointImpedanceTrackingMotion(stiffness=list(STIFFNESS))
        tracking.set_reference(self._kit.JointReference(q=self._robot.current_joint_positions))
        self._robot.move(tracking, asynchronous=True)
        self._tracking = tracking
