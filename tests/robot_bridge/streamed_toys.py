"""An arm and cameras that another process can import: ``streamed_toys:ToyArm``."""

from pathlib import Path
from time import monotonic_ns

import numpy as np

from robot_bridge.arms.arm import ArmError, ArmSpec, ArmState, Limits, setpoint
from vla.types import Gripper

SPEC = ArmSpec(
    embodiment="toy",
    joints=("hinge", "jaw"),
    limits=Limits((-1.0, 0.0), (1.0, 1.0), (2.0, 1.0), (10.0, 10.0), (100.0, 100.0), (0.3, 1.5)),
    rate_hz=100.0,
    proprio_names=("hinge", "jaw"),
    gripper=Gripper(index=1, open=1.0, closed=0.0),
)


class ToyArm:
    """Is at once where it is sent; ``log``: a file that gets everything that it was sent [T, D] when it is let go."""

    spec, kinematics = SPEC, None

    def __init__(self, log="", breaks_after=-1):
        self.log, self.left, self.sent, self.on = log, breaks_after, [], False
        self.joints = np.array([0.2, 0.5])

    def connect(self):
        if self.left == 0:
            raise ArmError("the toy is broken: mend it")
        self.on = True

    def state(self):
        if not self.on:
            raise ArmError("call connect first")
        return ArmState(self.joints, self.joints.astype(np.float32), monotonic_ns())

    def command(self, joints):
        if len(self.sent) == self.left:
            raise ArmError("the toy has broken: mend it")
        self.joints = setpoint(joints, self.spec)
        self.sent.append(self.joints)

    def stop(self):
        pass

    def disconnect(self):
        if self.log:
            np.save(Path(self.log), np.array(self.sent))
        self.on = False


class ToyCameras:
    """One picture, always the same."""

    def __init__(self, size=32):
        self.size = size

    def connect(self):
        pass

    def read(self):
        return {"front": np.full((self.size, self.size, 3), 7, np.uint8)}, monotonic_ns()

    def disconnect(self):
        pass
