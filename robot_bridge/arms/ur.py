"""Arms of Universal Robots, e-Series and CB3, by ``ur_rtde``: ``servoj`` at the controller's own rate.

    arm = make_arm("ur", host="192.168.0.10", model="ur5e")

It never ran on hardware here. All of it runs in the tests against a fake controller
(``tests/robot_bridge/fake_ur.py``), a process that speaks the wire's protocols to the real ``ur_rtde``; the script that
``ur_rtde`` uploads is acted there, not executed. What only an arm can tell: gain and look-ahead of ``servoj``, how
long a script takes to start, and whether the arm at hand is as its maker's table says (each is calibrated a little
otherwise: `kinematics` is off by up to some millimetres, the tool's offset on the pendant is not in it).

What it promises:

- A measurement bears the controller's own time. ``ur_rtde`` hands out what came last for ever, and says nothing; here,
  feedback that stands still grows old.
- Silence of ``watchdog_s`` while setpoints are followed makes the controller end the program: the arm brakes and holds.
  Then `command` raises: somebody decides to connect again.
- `stop` brakes with 4 rad/s², as UR's own drivers do, and returns when the arm stands. The program ends after it, for
  nobody feeds the watchdog; the next `command` starts it again, and takes some tenths of a second that once.
- ``ur_rtde`` waits without end for a controller that is gone, or connects again unasked and uploads its script: here,
  nothing more is asked of one that has not been heard for `HEARD_S`, and a lost connection stays an error.
"""

import math
from threading import Thread
from time import monotonic_ns
from typing import Any

import numpy as np

from robot_bridge.arms.arm import ArmError, ArmSpec, ArmState, Joints, Limits, setpoint
from robot_bridge.arms.chain import Chain, Link
from robot_bridge.arms.driver import TheirClock, connected, joint_state, load_kit, wait_for
from vla.errors import first_line, unknown

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
WANTED = ["timestamp", "actual_q", "actual_qd", "robot_mode", "safety_status_bits", "robot_status_bits"]
BRAKE = 4.0
"""Deceleration of a stop [rad/s²]."""
LOOKAHEAD_S, GAIN = 0.1, 300.0
"""How ``servoj`` follows; its maker's defaults."""
START_S = 5.0
CLOSE_S = 2.0
HEARD_S = 0.3
"""Since when nothing has come from a controller that is taken to be gone."""
SAFETY = {
    2: "a protective stop: look why, unlock it on the pendant",
    4: "a safeguard stop: close the guard",
    7: "an emergency stop: look why, release the button, power the arm on",
    8: "a safety violation: restart it on the pendant",
    9: "a fault: restart it on the pendant",
}
"""Bit of ``safety_status_bits`` → what it means and what to do."""

SLOW, NORMAL, FAST = math.radians(120), math.radians(180), math.radians(360)
MODELS = {
    "ur3e": ((0.15185, 0.13105, 0.08535, 0.0921), (-0.24355, -0.2132), (NORMAL,) * 3 + (FAST,) * 3),
    "ur5e": ((0.1625, 0.1333, 0.0997, 0.0996), (-0.425, -0.3922), (NORMAL,) * 6),
    "ur10e": ((0.1807, 0.17415, 0.11985, 0.11655), (-0.6127, -0.57155), (SLOW,) * 2 + (NORMAL,) * 4),
    "ur3": ((0.1519, 0.11235, 0.08535, 0.0819), (-0.24365, -0.21325), (NORMAL,) * 3 + (FAST,) * 3),
    "ur5": ((0.089159, 0.10915, 0.09465, 0.0823), (-0.425, -0.39225), (NORMAL,) * 6),
    "ur10": ((0.1273, 0.163941, 0.1157, 0.0922), (-0.612, -0.5723), (SLOW,) * 2 + (NORMAL,) * 4),
}
"""Model → d of joints 1, 4, 5, 6 and a of joints 2, 3 [m] (UR's article "DH parameters for calculations of kinematics
and dynamics"), and the joints' highest speeds [rad/s] (the models' user manuals: ±360° for every joint). The names of
the e-Series end in e; their controllers run at 500 Hz, the others' at 125 Hz."""


def table(model: str) -> list[Link]:
    """The rows of UR's article."""
    (d1, d4, d5, d6), (a2, a3), _ = MODELS[model]
    right = math.pi / 2
    return [Link(d=d1, alpha=right), Link(a=a2), Link(a=a3), Link(d4, 0, right), Link(d5, 0, -right), Link(d6)]


def limits(model: str) -> Limits:
    """UR gives positions and speeds; acceleration and jerk are ours, and gentle: 4 rad/s² is how UR's drivers brake."""
    speeds = MODELS[model][2]
    return Limits(
        low=(-2 * math.pi,) * 6,
        high=(2 * math.pi,) * 6,
        velocity=speeds,
        acceleration=(BRAKE,) * 6,
        jerk=(40.0,) * 6,
        lag=tuple(0.05 + 1.2 * LOOKAHEAD_S * speed for speed in speeds),
    )


class URArm:
    """An arm of Universal Robots at ``host``; ``watchdog_s``: see above."""

    def __init__(self, host: str, model: str = "ur5e", watchdog_s: float = 0.1) -> None:
        if model not in MODELS:
            raise unknown("model of the arm ur", model, MODELS)
        self.spec = ArmSpec(
            embodiment=model,
            joints=JOINTS,
            limits=limits(model),
            rate_hz=500.0 if model.endswith("e") else 125.0,
            proprio_names=JOINTS,
            watchdog_s=watchdog_s,
        )
        self.host = host
        self._chain = Chain.standard(table(model), self.spec.limits.low, self.spec.limits.high)
        self._clock = TheirClock()
        self._receive: Any = None
        self._control: Any = None
        self._following = False

    @property
    def kinematics(self) -> Chain:
        """See `Arm`; of the flange."""
        return self._chain

    def connect(self) -> None:
        """See `Arm`. The arm must be powered on, its brakes released, and an e-Series under remote control."""
        receive_kit, control_kit = load_kit("rtde_receive", "ur"), load_kit("rtde_control", "ur")
        try:
            self._receive = receive_kit.RTDEReceiveInterface(self.host, self.spec.rate_hz, WANTED)
            self._clock = TheirClock()
            begun = self._receive.getTimestamp()
            if not wait_for(lambda: self._receive.getTimestamp() != begun, START_S):
                raise ArmError(f"{self.host} answers, but its measurements stand still: restart the controller")
            self.state()  # the clocks are compared while the news is fresh
            self._control = control_kit.RTDEControlInterface(self.host, self.spec.rate_hz)
        except RuntimeError as error:
            self.disconnect()
            raise ArmError(
                f"no arm at {self.host}: {first_line(error)}; is it on, in this network, and under remote control?"
            ) from error
        except ArmError:
            self.disconnect()
            raise

    def state(self) -> ArmState:
        """See `Arm`."""
        receive = self._well()
        theirs_s = receive.getTimestamp()  # before the joints, which then are at least as new
        return joint_state(np.array(receive.getActualQ()), self._clock.stamp_ns(theirs_s, monotonic_ns()))

    def command(self, joints: Joints) -> None:
        """See `Arm`; the first one of a motion also sets the watchdog, which takes some ticks."""
        self._well()
        wanted = setpoint(joints, self.spec).tolist()
        if not self._following:
            self._begin()
        if not self._control.servoJ(wanted, 0.0, 0.0, 1 / self.spec.rate_hz, LOOKAHEAD_S, GAIN):
            raise ArmError(
                "the arm takes no setpoints: its program was ended on the pendant, or by the watchdog after "
                f"{self.spec.watchdog_s:g} s of silence; connect again"
            )

    def stop(self) -> None:
        """See `Arm`."""
        control = connected(self._control)
        following, self._following = self._following, False
        if following and not self._hears():
            raise ArmError(
                f"{self.host} does not answer: its watchdog brakes after {self.spec.watchdog_s:g} s; connect again"
            )
        if following and not control.servoStop(BRAKE):  # where its program has ended, the controller has braked
            self._well()

    def disconnect(self) -> None:
        """See `Arm`; what ur_rtde does not close at once because nobody answers, it closes in the background."""
        heard = self._receive is not None and self._hears()
        control, receive, self._control, self._receive = self._control, self._receive, None, None
        following, self._following = self._following, False
        if control is not None and heard:
            if following:
                control.servoStop(BRAKE)
            control.stopScript()
        closing = [Thread(target=kit.disconnect, daemon=True) for kit in (control, receive) if kit is not None]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(CLOSE_S)

    def _hears(self) -> bool:
        """Whether the controller is there: what ur_rtde asks of one that is not, it waits for without end."""
        if not self._receive.isConnected() or (self._control is not None and not self._control.isConnected()):
            return False
        now_ns = monotonic_ns()
        return now_ns - self._clock.stamp_ns(self._receive.getTimestamp(), now_ns) < 1e9 * HEARD_S

    def _well(self) -> Any:
        """What receives; raises `ArmError` for an arm that is gone or was stopped by somebody else."""
        receive = connected(self._receive)
        if not receive.isConnected():
            raise ArmError(f"the connection to {self.host} is lost: look at cable and controller, connect again")
        bits = receive.getSafetyStatusBits()
        for bit, told in SAFETY.items():
            if bits >> bit & 1:
                raise ArmError(f"the arm is in {told}, then connect again")
        return receive

    def _begin(self) -> None:
        """Have the controller's program run, and its watchdog watch."""
        control = connected(self._control)
        if not self._hears():
            raise ArmError(f"{self.host} has fallen silent: look at cable and controller, connect again")
        for _ in range(2):  # that the program has just ended is heard a moment later
            if not control.isProgramRunning():
                control.reuploadScript()
            if wait_for(control.isProgramRunning, START_S) and control.setWatchdog(1 / self.spec.watchdog_s):
                self._following = True
                return
        raise ArmError(f"the controller's program does not start: look at the pendant of {self.host}")
