"""LeRobot's cameras as ours, whatever kind it knows.

cameras = LeRobotCameras({"front": {"type": "opencv", "index_or_path": 0, "width": 640, "height": 480, "fps": 30}})
"""

import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.arms.arm import ArmError
from vla.errors import unknown

log = logging.getLogger(__name__)

PACKAGES = {"opencv": "opencv", "intelrealsense": "realsense", "reachy2_camera": "reachy2_camera", "zmq": "zmq"}
"""LeRobot's name of a kind of camera → the package of `lerobot.cameras` that has it."""
FAULTS = (OSError, RuntimeError, ValueError)


class LeRobotCameras:
    """`Cameras` over `lerobot.cameras`: name → LeRobot's settings of that camera, ``type`` among them.

    Each reads in a thread of its own, so that `read` takes what is there; LeRobot refuses a picture that is older
    than half a second to a second. The stamps are of when a picture arrived here: LeRobot has none of its exposure.
    """

    def __init__(self, cameras: Mapping[str, Mapping[str, Any]]) -> None:
        for settings in cameras.values():
            if settings.get("type") not in PACKAGES:
                raise unknown("type of camera", str(settings.get("type")), PACKAGES)
        self._settings = {name: dict(settings) for name, settings in cameras.items()}
        self._cameras: dict[str, Any] = {}

    def connect(self) -> None:
        """Open every camera, and wait for its first picture."""
        if self._cameras:
            return
        try:
            made = self._make()
        except (ImportError, TypeError, ValueError) as error:
            raise ArmError(f"these cameras cannot be made: {error}") from error
        for name, camera in made.items():
            try:
                camera.connect()
            except FAULTS as error:
                self.disconnect()
                raise ArmError(f"the camera {name} does not open: {error} (lerobot-find-cameras lists them)") from error
            self._cameras[name] = camera

    def read(self) -> tuple[dict[str, NDArray[np.uint8]], int]:
        """The newest picture of each camera [H, W, 3] RGB, and when the oldest of them arrived [ns]."""
        if not self._cameras:
            raise ArmError("the cameras are not connected: call connect first")
        pictures, stamps = {}, []
        for name, camera in self._cameras.items():
            try:
                # The stamp first: a picture that comes in between is newer than it says, never older.
                stamps.append(round(1e9 * (camera.latest_timestamp or 0.0)))  # perf_counter, Linux's monotonic clock
                pictures[name] = camera.read_latest()
            except FAULTS as error:
                raise ArmError(f"the camera {name} gives no picture: {error}") from error
        return pictures, min(stamps)

    def disconnect(self) -> None:
        """Close them; a second time is no harm."""
        cameras, self._cameras = self._cameras, {}
        for name, camera in cameras.items():
            try:
                camera.disconnect()
            except FAULTS as error:
                log.warning("the camera %s did not close: %s", name, error)

    def _make(self) -> dict[str, Any]:
        from lerobot.cameras import CameraConfig, make_cameras_from_configs

        configs = {}
        for name, settings in self._settings.items():
            import_module(f"lerobot.cameras.{PACKAGES[settings['type']]}")
            kind = CameraConfig.get_choice_class(settings["type"])
            configs[name] = kind(**{key: value for key, value in settings.items() if key != "type"})
        return make_cameras_from_configs(configs)
