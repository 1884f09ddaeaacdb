"""Cameras of known place: from points to pixels and back, and the file that keeps them.

A transform is called ``target_from_source`` and takes points of the source's frame to the target's, as a matrix
[4, 4]. A camera's frame is OpenCV's: x to the right, y down, z forward; MuJoCo's has y up and looks along -z. Pixels:
(0, 0) is the middle of the first one, so that the middle of a picture is at ((W - 1) / 2, (H - 1) / 2).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vla.errors import UnderstudyError, unknown

Floats = NDArray[np.float64]
OPENCV_FROM_MUJOCO = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Camera:
    """One camera.

    ``size`` (width, height); ``matrix`` K [3, 3] px; ``distortion`` [5] (k1, k2, p1, p2, k3); ``base_from_camera``
    [4, 4] m: where it is in the frame of the arm's base; ``residual_px``: rms of its calibration.
    """

    size: tuple[int, int]
    matrix: Floats
    distortion: Floats = field(default_factory=lambda: np.zeros(5))
    base_from_camera: Floats = field(default_factory=lambda: np.eye(4))
    residual_px: float | None = None

    @classmethod
    def of_mujoco(cls, position: Floats, rotation: Floats, *, fovy: float, size: tuple[int, int]) -> "Camera":
        """A camera of MuJoCo's at ``position`` [3] m, with ``rotation`` [3, 3] (``cam_xmat``), in the world's frame.

        ``fovy`` [degrees] is vertical.
        """
        width, height = size
        focal = 0.5 * height / np.tan(np.radians(fovy) / 2)
        matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
        placed = np.eye(4)
        placed[:3, :3], placed[:3, 3] = np.reshape(rotation, (3, 3)) @ OPENCV_FROM_MUJOCO, position
        return cls(size, matrix, base_from_camera=placed)

    @property
    def camera_from_base(self) -> Floats:
        """The inverse of ``base_from_camera``."""
        return inverted(self.base_from_camera)

    def project(self, points: Floats) -> Floats:
        """Points [..., 3] m in the base's frame → pixels [..., 2]; NaN for those behind the camera."""
        flat = np.asarray(points, np.float64).reshape(-1, 3)
        there = flat @ self.camera_from_base[:3, :3].T + self.camera_from_base[:3, 3]
        ahead = there[:, 2] > 0
        pixels = np.full((len(flat), 2), np.nan)
        if ahead.any():
            still = np.zeros(3)
            pixels[ahead] = cv2.projectPoints(there[ahead], still, still, self.matrix, self.distortion)[0][:, 0]
        return pixels.reshape(*np.shape(points)[:-1], 2)

    def rays(self, pixels: Floats) -> Floats:
        """Pixels [..., 2] → where they look from the camera on [..., 3], in its own frame, z = 1."""
        flat = np.asarray(pixels, np.float64).reshape(-1, 1, 2)
        # The plain call stops after five rounds, up to 3 px off at the corners of a wide lens.
        how = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-9)
        rays, still = np.ones((len(flat), 3)), np.eye(3)
        if len(flat):
            rays[:, :2] = cv2.undistortPointsIter(flat, self.matrix, self.distortion, still, still, how)[:, 0]
        return rays.reshape(*np.shape(pixels)[:-1], 3)

    def to_base(self, points: Floats) -> Floats:
        """Points [..., 3] m of the camera's frame → the base's."""
        return points @ self.base_from_camera[:3, :3].T + self.base_from_camera[:3, 3]

    def scaled(self, size: tuple[int, int]) -> "Camera":
        """The same camera with pictures of another ``size`` and the same shape."""
        factor = size[0] / self.size[0]
        if abs(size[1] / self.size[1] - factor) > 0.01 * factor:
            raise UnderstudyError(
                f"the camera was calibrated at {self.size[0]}×{self.size[1]}, and the video has {size[0]}×{size[1]}: "
                "another shape; calibrate with pictures of the video's own format"
            )
        matrix = self.matrix.copy()
        matrix[:2, :2] *= factor
        matrix[:2, 2] = (self.matrix[:2, 2] + 0.5) * factor - 0.5
        return Camera(size, matrix, self.distortion, self.base_from_camera, self.residual_px)


def inverted(target_from_source: Floats) -> Floats:
    """``source_from_target`` [4, 4]."""
    rotation, shift = target_from_source[:3, :3], target_from_source[:3, 3]
    inverse = np.eye(4)
    inverse[:3, :3], inverse[:3, 3] = rotation.T, -rotation.T @ shift
    return inverse


def save_cameras(file: Path, cameras: Mapping[str, Camera]) -> None:
    """Write cameras by name as JSON, for people to read too."""
    held = {
        name: {
            "width": camera.size[0],
            "height": camera.size[1],
            "matrix": camera.matrix.tolist(),
            "distortion_k1_k2_p1_p2_k3": camera.distortion.tolist(),
            "base_from_camera": camera.base_from_camera.tolist(),
            "residual_px": camera.residual_px,
        }
        for name, camera in cameras.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"cameras": held}, indent=2) + "\n")


def load_cameras(file: Path) -> dict[str, Camera]:
    """Read what `save_cameras` wrote; raises `UnderstudyError` for what is missing, or is no pose."""
    if not file.is_file():
        raise UnderstudyError(f"there are no cameras at {file}; make them: vla calibrate --help")
    try:
        held = json.loads(file.read_text())["cameras"]
        return {name: _camera(one) for name, one in held.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnderstudyError(f"{file} does not hold cameras ({error}); make it again: vla calibrate") from error


def camera_of(cameras: Mapping[str, Camera], name: str) -> Camera:
    """One by its name; raises `UnderstudyError` naming the nearest."""
    if name not in cameras:
        raise unknown("camera", name, cameras)
    return cameras[name]


def _camera(held: Mapping[str, object]) -> Camera:
    matrix = np.array(held["matrix"], np.float64).reshape(3, 3)
    distortion = np.array(held["distortion_k1_k2_p1_p2_k3"], np.float64).reshape(5)
    placed = np.array(held["base_from_camera"], np.float64).reshape(4, 4)
    turn = placed[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4) or np.linalg.det(turn) < 0:
        raise ValueError("base_from_camera is no pose: its first three rows and columns are no rotation")
    residual = held["residual_px"]
    size = (int(str(held["width"])), int(str(held["height"])))
    return Camera(size, matrix, distortion, placed, None if residual is None else float(str(residual)))
