"""The arm that repeats a hand, seen from where the hand was filmed: for the film with both side by side."""

import mujoco
import numpy as np

from robot_bridge.retarget.cameras import OPENCV_FROM_MUJOCO, Camera
from robot_bridge.retarget.hands import Floats
from robot_bridge.retarget.linkage import VIEW, Linkage
from sim.cameras import BACKEND, make_camera


class ArmView:
    """Pictures of the arm of a `Linkage`, ``height`` pixels high, through ``camera``."""

    def __init__(self, linkage: Linkage, camera: Camera, *, height: int) -> None:
        model = linkage.model
        self._linkage, self._data = linkage, mujoco.MjData(model)
        view = model.camera(VIEW).id
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, (camera.base_from_camera[:3, :3] @ OPENCV_FROM_MUJOCO).reshape(9))
        model.cam_pos[view], model.cam_quat[view] = camera.base_from_camera[:3, 3], quaternion
        model.cam_fovy[view] = np.degrees(2 * np.arctan(camera.size[1] / 2 / camera.matrix[1, 1]))
        width = round(height * camera.size[0] / camera.size[1])
        renderer = "ray" if BACKEND == "none" else "gl"
        self._camera = make_camera(model, VIEW, height=height, width=width, renderer=renderer)

    def picture(self, joints: Floats) -> np.ndarray:
        """The arm [H, W, 3] at ``joints`` [N] (those of the gripper may follow)."""
        self._data.qpos[self._linkage.places] = joints[: len(self._linkage.joints)]
        mujoco.mj_forward(self._linkage.model, self._data)
        return self._camera.render(self._data)

    def close(self) -> None:
        """Free the camera."""
        self._camera.close()
