"""Makers' arms without the makers: what each driver talks to, as a context that gives an arm not yet connected.

The UR's is a process that speaks its wire (fake_ur.py), and the real ur_rtde. The others' are stand-ins for the SDK's
module: names and parameters are the SDK's (test_makers_arms.py compares them where it is installed), the joints follow
with a lag and a limited speed.
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import monotonic, time
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest

from robot_bridge.arms.franka import FrankaArm
from robot_bridge.arms.piper import PiperArm
from robot_bridge.arms.ur import URArm
from robot_bridge.arms.xarm import XArm

NUMBERS = count(1)


class Joints:
    """They follow their target [D] with a lag [s], and no faster than their speed [1/s], whenever somebody looks."""

    def __init__(self, values, speed=2.0, lag_s=0.02):
        self.values = self.target = np.array(values, np.float64)
        self.speed, self.lag_s, self.seen_s = speed, lag_s, monotonic()
        self.frozen = False

    def now(self):
        passed, self.seen_s = monotonic() - self.seen_s, monotonic()
        steps = min(1000, int(passed / 0.002) + 1)
        for _ in range(steps):
            way = (self.target - self.values) * min(1.0, passed / steps / self.lag_s)
            self.values = self.values + np.clip(way, -self.speed * passed / steps, self.speed * passed / steps)
        return self.values

    def send(self, target):
        self.now()
        self.target = np.array(target, np.float64)

    def halt(self):
        self.send(self.now())


class FrankyError(Exception):
    pass


class Robot:
    """franky's, and the one that all of a test have in common: ``Robot.last``."""

    last = None

    def __init__(self, fci_hostname, realtime_config=None):
        if fci_hostname == "nowhere":
            raise FrankyError("libfranka: Connection to FCI refused.")
        self.joints, self.motion, self.trouble = Joints([0, -0.78, 0, -2.35, 0, 1.57, 0.78]), None, None
        self.begun_s, self.has_errors, self.clock = monotonic(), False, monotonic
        Robot.last = self

    @property
    def current_joint_positions(self):
        return self.joints.now()

    @property
    def is_in_control(self):
        return isinstance(self.motion, JointImpedanceTrackingMotion)

    @property
    def state(self):
        seconds = self.clock() - self.begun_s
        return SimpleNamespace(
            q=self.joints.now().tolist(), time=SimpleNamespace(to_sec=lambda: seconds), current_errors="[]"
        )

    def move(self, motion, asynchronous=False):
        assert asynchronous
        self.motion = motion
        if isinstance(motion, JointImpedanceTrackingMotion):
            motion.joints = self.joints
            self.joints.send(motion.reference.q)
        else:
            self.joints.halt()

    def poll_motion(self):
        if self.trouble:
            raise FrankyError(self.trouble)
        return self.is_in_control

    def join_motion(self, timeout=None):
        return True


class JointReference:
    def __init__(self, q=None, dq=None):
        self.q = q


class JointImpedanceTrackingMotion:
    def __init__(self, stiffness=None):
        self.reference, self.joints = None, None

    def set_reference(self, reference):
        self.reference = reference
        if self.joints is not None:
            self.joints.send(reference.q)


class TorqueStopMotion:
    def __init__(self):
        pass


class XArmAPI:
    """UFACTORY's; angles in degrees unless told otherwise, as the real one."""

    last = None

    def __init__(self, port=None, is_radian=False):
        if port == "nowhere":
            raise Exception("connect socket failed")
        self.joints, self.is_radian = Joints([0, -0.5, -0.5, 0, 1.0, 0]), is_radian
        self.connected, self.error_code, self.mode, self.moving, self.enabled = True, 0, 0, 4, False
        XArmAPI.last = self

    def motion_enable(self, enable=True, servo_id=None):
        self.enabled = enable
        return 0

    def set_mode(self, mode=0):
        self.mode = mode
        return 0

    def set_state(self, state=0):
        self.moving = state
        if state == 4:
            self.joints.halt()
        return 0

    def get_servo_angle(self, servo_id=None, is_radian=None, is_real=False):
        if not self.connected:
            return -1, [0.0] * 7
        angles = [*self.joints.now(), 0.0]
        return 0, angles if is_radian else np.degrees(angles).tolist()

    def set_servo_angle_j(self, angles, speed=None, mvacc=None, mvtime=None, is_radian=None):
        if (self.mode, self.moving, self.enabled) != (1, 0, True):
            return 9
        self.joints.send(angles if is_radian else np.radians(angles))
        return 0

    def disconnect(self):
        self.connected = False


class C_PiperInterface_V2:  # noqa: N801 - the SDK's
    """AgileX's: one for each CAN interface, however often it is made."""

    made = {}  # noqa: RUF012

    def __new__(cls, can_name="can0"):
        return cls.made.setdefault(can_name, super().__new__(cls))

    def __init__(self, can_name="can0"):
        if can_name == "nowhere":
            raise ConnectionError("['nowhere' Interface __init__ ERROR]")
        if hasattr(self, "joints"):
            return
        self.joints = Joints([0, 90e3, -90e3, 0, 0, 0, 35e3], speed=120e3)
        self.open, self.enabled, self.mode, self.status, self.stamp = False, 0, None, 0, 0.0

    def ConnectPort(self, can_init=False, piper_init=True, start_thread=True):  # noqa: N802
        self.open = True

    def DisconnectPort(self, thread_timeout=0.1):  # noqa: N802
        self.open = False

    def isOk(self):  # noqa: N802
        return self.open

    def EnablePiper(self):  # noqa: N802
        self.enabled += 1
        return self.enabled > 2

    def GetArmStatus(self):  # noqa: N802
        return SimpleNamespace(arm_status=SimpleNamespace(arm_status=self.status))

    def GetArmJointMsgs(self):  # noqa: N802
        if self.open and not self.joints.frozen:
            self.stamp = time()
        turns = {f"joint_{number + 1}": round(value) for number, value in enumerate(self.joints.now()[:6])}
        return SimpleNamespace(time_stamp=self.stamp, joint_state=SimpleNamespace(**turns))

    def GetArmGripperMsgs(self):  # noqa: N802
        return SimpleNamespace(gripper_state=SimpleNamespace(grippers_angle=round(self.joints.now()[6])))

    def MotionCtrl_2(self, ctrl_mode=1, move_mode=1, move_spd_rate_ctrl=50, is_mit_mode=0):  # noqa: N802
        self.mode = (ctrl_mode, move_mode, is_mit_mode)

    def JointCtrl(self, joint_1, joint_2, joint_3, joint_4, joint_5, joint_6):  # noqa: N802
        turns = (joint_1, joint_2, joint_3, joint_4, joint_5, joint_6)
        assert all(isinstance(turn, int) for turn in turns), "CAN carries whole numbers"
        if self.mode == (1, 1, 0) and self.enabled > 2:
            self.joints.send([*turns, self.joints.target[6]])

    def GripperCtrl(self, gripper_angle=0, gripper_effort=0, gripper_code=0, set_zero=0):  # noqa: N802
        assert set_zero == 0, "that would set the zero anew"
        if gripper_code == 1:
            self.joints.send([*self.joints.target[:6], gripper_angle])


def module(name, **contents):
    made = ModuleType(name)
    vars(made).update(contents)
    return made


FRANKY = module(
    "franky",
    Robot=Robot,
    JointReference=JointReference,
    JointImpedanceTrackingMotion=JointImpedanceTrackingMotion,
    TorqueStopMotion=TorqueStopMotion,
    RealtimeConfig=SimpleNamespace(Enforce=0, Ignore=1),
    Exception=FrankyError,
)
KITS = {
    "franky": FRANKY,
    "xarm.wrapper": module("xarm.wrapper", XArmAPI=XArmAPI),
    "piper_sdk": module("piper_sdk", C_PiperInterface_V2=C_PiperInterface_V2),
}


class FakeUR:
    """The process; ``address`` is its own of the loopback, since ur_rtde's ports are fixed."""

    def __init__(self, model):
        number = os.getpid() * 64 + next(NUMBERS) % 64
        self.address = f"127.{number >> 16 & 127 | 64}.{number >> 8 & 255}.{number & 255 | 1}"
        script = Path(__file__).with_name("fake_ur.py")
        self.process = subprocess.Popen(
            [sys.executable, script, self.address, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.until("ready")

    def until(self, wanted):
        """Read what it says up to the line that holds ``wanted``."""
        for line in self.process.stdout:
            if wanted in line:
                return line
        return pytest.skip(f"the fake controller cannot listen on {self.address}")

    def tell(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        self.until(f"told {word}")


@contextmanager
def fake_ur(model="ur5e"):
    pytest.importorskip("rtde_control", reason="ur-rtde is not installed")
    fake = FakeUR(model)
    try:
        yield fake
    finally:
        fake.process.kill()
        fake.process.communicate()


@contextmanager
def ur():
    # Two seconds of silence, not a tenth: the machine that tests may be slow.
    with fake_ur() as fake:
        yield URArm(fake.address, watchdog_s=2.0)


@contextmanager
def stood_in(arm):
    with patch.dict(sys.modules, KITS):
        yield arm


ARMS = {
    "ur": ur,
    "franka": lambda: stood_in(FrankaArm("172.16.0.2")),
    "xarm": lambda: stood_in(XArm("192.168.1.200")),
    "piper": lambda: stood_in(PiperArm("can0")),
}
