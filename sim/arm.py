"""The simulated arm as the bridge sees it: `SimArm` drives it, `SimCameras` look at it, each from its own process.

    world = World("tabletop/lift-red-cube", seed=7)
    arm, cameras = SimArm(world.folder), SimCameras(world.folder)

The physics run in real time in the process of `sim.world.World`. Without a world the arm makes one of its own.
"""

from pathlib import Path
from time import monotonic_ns

import mujoco
import numpy as np

from robot_bridge.arms.arm import ArmError, ArmState, Joints, Pose, setpoint
from robot_bridge.rings import Ring
from sim.tasks.tabletop import TabletopSuite
from sim.world import SPEC, World, open_rings

_ROUNDS = 6
"""More would wander off where a pose cannot be reached."""
_NEAR_M = 1e-4


class SimArm:
    """`robot_bridge.arms.arm.Arm` for the table-top suite's arm: Panda kinematics, 500 setpoints a second."""

    spec = SPEC

    def __init__(self, world: str | Path = "", *, task: str = "tabletop/lift-red-cube", seed: int = 0) -> None:
        """``world``: folder of a `World`; without one, the arm makes its own with ``task`` and ``seed``."""
        self._folder, self._task, self._seed = str(world), task, seed
        self._own: World | None = None
        self._rings: dict[str, Ring] | None = None
        self._kinematics: SimKinematics | None = None

    @property
    def kinematics(self) -> "SimKinematics | None":
        """See `robot_bridge.arms.arm.Arm`."""
        return self._kinematics

    def connect(self) -> None:
        """See `robot_bridge.arms.arm.Arm`."""
        if self._rings is not None:
            return
        if not self._folder:
            self._own = World(self._task, self._seed)
        folder = self._own.folder if self._own else Path(self._folder)
        if not (folder / "state").exists():
            raise ArmError(f"there is no simulated world at {folder}: has the process that made it ended?")
        self._rings, self._kinematics = open_rings(folder), SimKinematics()
        self.command(self.state().joints.clip(self.spec.limits.low, self.spec.limits.high))

    def state(self) -> ArmState:
        """See `robot_bridge.arms.arm.Arm`."""
        newest = self._open()["state"].newest()
        if newest is None:
            raise ArmError("the simulated arm has not measured anything yet")
        return ArmState(newest["joints"], newest["proprio"], int(newest["stamp_ns"]))

    def command(self, joints: Joints) -> None:
        """See `robot_bridge.arms.arm.Arm`."""
        self._open()["command"].write(stamp_ns=monotonic_ns(), joints=setpoint(joints, self.spec))

    def stop(self) -> None:
        """See `robot_bridge.arms.arm.Arm`."""
        self._open()["command"].write(stamp_ns=monotonic_ns(), brake=True)

    def disconnect(self) -> None:
        """See `robot_bridge.arms.arm.Arm`."""
        if self._own is not None:
            self._own.close()
        self._own = self._rings = None

    def _open(self) -> dict[str, Ring]:
        if self._rings is None:
            raise ArmError("the simulated arm is not connected: call connect() first")
        return self._rings


class SimKinematics:
    """`robot_bridge.arms.arm.Kinematics` by MuJoCo, of the point between the fingertips."""

    def __init__(self) -> None:
        suite = TabletopSuite(cameras=())
        self._model, self._data = suite.model, mujoco.MjData(suite.model)
        self._site = self._model.site("grip").id
        self._low, self._high = self._model.jnt_range[:7].T

    def forward(self, joints: Joints) -> Pose:
        """See `robot_bridge.arms.arm.Kinematics`."""
        self._data.qpos[:7] = joints[:7]
        mujoco.mj_kinematics(self._model, self._data)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._data.site_xmat[self._site])
        return Pose(self._data.site_xpos[self._site].copy(), quaternion)

    def inverse(self, pose: Pose, near: Joints) -> Joints:
        """See `robot_bridge.arms.arm.Kinematics`: damped least squares, a few rounds from ``near``."""
        joints, jacobian = near.copy(), np.empty((6, self._model.nv))
        error, inverse, relative = np.empty(6), np.empty(4), np.empty(4)
        for _ in range(_ROUNDS):
            here = self.forward(joints)
            mujoco.mju_negQuat(inverse, here.quaternion)
            mujoco.mju_mulQuat(relative, pose.quaternion, inverse)
            error[:3] = pose.position - here.position
            mujoco.mju_quat2Vel(error[3:], relative, 1.0)
            if np.abs(error).max() < _NEAR_M:
                break
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._site)
            arm = jacobian[:, :7]
            step = arm.T @ np.linalg.solve(arm @ arm.T + 1e-4 * np.eye(6), error)
            joints[:7] = np.clip(joints[:7] + step, self._low, self._high)
        return joints


class SimCameras:
    """`robot_bridge.arms.arm.Cameras` that look at a world from another process."""

    def __init__(self, world: str | Path, *, image_size: int = 64, cameras: tuple[str, ...] = ("front",)) -> None:
        self._folder, self._options = Path(world), {"image_size": image_size, "cameras": cameras}
        self._suite: TabletopSuite | None = None
        self._episode = 0

    def connect(self) -> None:
        """See `robot_bridge.arms.arm.Cameras`."""
        if not (self._folder / "pose").exists():
            raise ArmError(f"there is no simulated world at {self._folder}: has the process that made it ended?")
        self._rings, self._suite = open_rings(self._folder), TabletopSuite(**self._options)

    def read(self) -> tuple[dict[str, np.ndarray], int]:
        """See `robot_bridge.arms.arm.Cameras`."""
        if self._suite is None:
            raise ArmError("the cameras are not connected: call connect() first")
        pose, scene = self._rings["pose"].newest(), self._rings["scene"].newest()
        if pose is None or scene is None:
            raise ArmError("the simulated world does not stand yet")
        suite = self._suite
        if int(pose["episode"]) != self._episode:
            suite.reset(scene["task"].decode(), int(scene["seed"]))
            self._episode = int(pose["episode"])
        suite.data.qpos[:] = pose["qpos"][: suite.model.nq]
        mujoco.mj_forward(suite.model, suite.data)
        return dict(suite.observe().images), int(pose["stamp_ns"])

    def disconnect(self) -> None:
        """See `robot_bridge.arms.arm.Cameras`."""
        self._suite = None
