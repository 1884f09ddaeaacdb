"""The simulated arm as the bridge sees it: `SimArm` drives it, `SimCameras` look at it, each from its own process.

    world = World("tabletop/lift-red-cube", seed=7)
    arm, cameras = SimArm(world.folder), SimCameras(world.folder)

The physics run in real time in the process of `sim.world.World`. Without a world the arm makes one of its own, of the
table top's arm or, with ``model="panda"``, ``"ur5e"`` or ``"so101"``, of an arm of `sim.arm_models`.
"""

from functools import cached_property
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from robot_bridge.arms.arm import ArmError, ArmState, Joints, Pose, setpoint
from robot_bridge.rings import Ring
from sim.firmware import Scene
from sim.mechanism import DAMPING, NEAR_M, ROUNDS
from sim.scenes import SPEC, TABLETOP, Setting, TabletopScene
from sim.world import World, open_rings
from vla.errors import UnderstudyError

if TYPE_CHECKING:  # it takes mink along, which only who retargets needs
    from robot_bridge.retarget.linkage import Linkage


class SimArm:
    """`robot_bridge.arms.arm.Arm` for every arm that is simulated here."""

    spec = SPEC

    def __init__(self, world: str | Path = "", *, task: str = "", seed: int = 0, model: str = TABLETOP) -> None:
        """``world``: folder of a `World`; without one, the arm makes its own with ``model``, ``task`` and ``seed``."""
        self._folder, self._task, self._seed = str(world), task, seed
        self.setting = _setting(Path(world)) if world else Setting.of(model)
        self.spec = self.setting.spec
        self._own: World | None = None
        self._rings: dict[str, Ring] | None = None

    @cached_property
    def kinematics(self) -> "SimKinematics | None":
        """See `robot_bridge.arms.arm.Arm`; ``None`` for an arm of fewer than six joints."""
        return make_kinematics(self.setting)

    def linkage(self) -> "Linkage":
        """See `robot_bridge.retarget.linkage.HasLinkage`: the arm, and of the scene only what never moves."""
        return self.setting.linkage()

    def connect(self) -> None:
        """See `robot_bridge.arms.arm.Arm`."""
        if self._rings is not None:
            return
        if not self._folder:
            self._own = World(self._task, self._seed, model=self.setting.model)
        folder = self._own.folder if self._own else Path(self._folder)
        if _setting(folder) != self.setting:
            raise ArmError(f"the world at {folder} is of another arm now: make this one anew")
        self._rings = open_rings(folder, self.spec)
        _ = self.kinematics  # made now, so that nobody waits for it later
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
    """`robot_bridge.arms.arm.Kinematics` by MuJoCo, of the scene's tool: between the fingertips, if it has any."""

    def __init__(self, scene: Scene | None = None) -> None:
        """Of the table top's arm, unless a ``scene`` is given."""
        self._arm = (scene or TabletopScene()).mechanism
        self._model, self._data = self._arm.model, mujoco.MjData(self._arm.model)

    def forward(self, joints: Joints) -> Pose:
        """See `robot_bridge.arms.arm.Kinematics`."""
        self._data.qpos[self._arm.angles] = joints[: len(self._arm.angles)]
        mujoco.mj_kinematics(self._model, self._data)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._data.site_xmat[self._arm.site])
        return Pose(self._data.site_xpos[self._arm.site].copy(), quaternion)

    def inverse(self, pose: Pose, near: Joints) -> Joints:
        """See `robot_bridge.arms.arm.Kinematics`: damped least squares, a few rounds from ``near``."""
        joints, jacobian, count = near.copy(), np.empty((6, self._model.nv)), len(self._arm.angles)
        error, inverse, relative = np.empty(6), np.empty(4), np.empty(4)
        for _ in range(ROUNDS):
            here = self.forward(joints)
            mujoco.mju_negQuat(inverse, here.quaternion)
            mujoco.mju_mulQuat(relative, pose.quaternion, inverse)
            error[:3] = pose.position - here.position
            mujoco.mju_quat2Vel(error[3:], relative, 1.0)
            if np.abs(error).max() < NEAR_M:
                break
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._arm.site)
            arm = jacobian[:, self._arm.dofs]
            step = arm.T @ np.linalg.solve(arm @ arm.T + DAMPING * np.eye(6), error)
            joints[:count] = np.clip(joints[:count] + step, self._arm.low, self._arm.high)
        return joints


def make_kinematics(setting: Setting) -> SimKinematics | None:
    """Of the setting's arm; ``None`` for one of fewer than six joints, which cannot hold its tool as it likes."""
    scene = setting.scene()
    return SimKinematics(scene) if len(scene.mechanism.angles) >= 6 else None


class SimCameras:
    """`robot_bridge.arms.arm.Cameras` that look at a world from another process."""

    def __init__(self, world: str | Path, *, image_size: int = 64, cameras: tuple[str, ...] = ("front",)) -> None:
        self._folder, self._size, self._names = Path(world), image_size, tuple(cameras)
        self._scene: Scene | None = None
        self._episode = 0

    def connect(self) -> None:
        """See `robot_bridge.arms.arm.Cameras`."""
        setting = _setting(self._folder)
        self._rings = open_rings(self._folder, setting.spec)
        self._scene, self._episode = setting.scene(image_size=self._size, cameras=self._names), 0

    def read(self) -> tuple[dict[str, np.ndarray], int]:
        """See `robot_bridge.arms.arm.Cameras`."""
        if self._scene is None:
            raise ArmError("the cameras are not connected: call connect() first")
        pose, scene = self._rings["pose"].newest(), self._rings["scene"].newest()
        if pose is None or scene is None:
            raise ArmError("the simulated world does not stand yet")
        if int(pose["episode"]) != self._episode:
            self._scene.reset(scene["task"].decode(), int(scene["seed"]))
            self._episode = int(pose["episode"])
        model, data = self._scene.mechanism.model, self._scene.mechanism.data
        data.qpos[:] = pose["qpos"][: model.nq]
        mujoco.mj_forward(model, data)
        return self._scene.look(), int(pose["stamp_ns"])

    def disconnect(self) -> None:
        """See `robot_bridge.arms.arm.Cameras`."""
        self._scene = None


def _setting(folder: Path) -> Setting:
    try:
        return Setting.read(folder)
    except UnderstudyError as error:
        raise ArmError(str(error)) from error
