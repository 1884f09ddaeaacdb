r"""An arm of ours as LeRobot's robot, so that ``lerobot-rollout``, ``-record``, ``-replay`` and others drive it.

    lerobot-rollout --robot.discover_packages_path=sim.lerobot_plugin --robot.type=understudy \
        --robot.simulate=tabletop/lift-red-cube --policy.path=outputs/… --task="lift the red cube" --duration=30

Its features are ours: ``<joint>.pos`` in radians, a gripper in what its spec says, pictures as they come. LeRobot's
loop runs at its ``--fps``; `robot_bridge.streaming` makes the arm's setpoints of that, in a process of its own, each
through our governor.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from lerobot.robots import Robot, RobotConfig
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from robot_bridge.arms.arm import Cameras
from robot_bridge.plan import Made
from robot_bridge.seeing import make_cameras
from robot_bridge.streaming import Stream
from sim.world import World
from vla.errors import UnderstudyError


@RobotConfig.register_subclass("understudy")
@dataclass
class ArmRobotConfig(RobotConfig):
    """Which arm, what sees it, and how large the pictures are."""

    arm: str = "sim"
    """a name of `robot_bridge.arms.arm.ARMS`"""
    options: dict[str, Any] = field(default_factory=dict)
    """of that arm"""
    camera_class: str = ""
    """module:class of a `robot_bridge.arms.arm.Cameras`; none for an arm that nobody sees"""
    camera_options: dict[str, Any] = field(default_factory=dict)
    """of that class"""
    camera_sizes: dict[str, list[int]] = field(default_factory=dict)
    """camera → [height, width] of its pictures: LeRobot wants to know before it connects"""
    simulate: str = ""
    """a task of the table top: its world is made, for the arm ``sim`` and its cameras"""
    seed: int = 0
    """of that world"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.simulate and not self.camera_class:
            self.camera_class, self.camera_sizes = "sim.arm:SimCameras", self.camera_sizes or {"front": [64, 64]}
            sizes = {side for size in self.camera_sizes.values() for side in size}
            if len(sizes) > 1:
                raise UnderstudyError(f"simulated pictures are squares of one size, got {self.camera_sizes}")
            self.camera_options = {"image_size": sizes.pop(), "cameras": tuple(self.camera_sizes)}
        if self.camera_sizes and not self.camera_class:
            raise UnderstudyError("--robot.camera_sizes needs --robot.camera_class, module:class of the cameras")


class ArmRobot(Robot):
    """Any `robot_bridge.arms.arm.Arm` behind LeRobot's interface."""

    config_class = ArmRobotConfig
    name = "understudy"

    def __init__(self, config: ArmRobotConfig) -> None:
        super().__init__(config)
        self.config = config
        self._stream = Stream(config.arm, **config.options)
        self._cameras: Cameras | None = None
        self._world: World | None = None
        self._is_connected = False

    @cached_property
    def observation_features(self) -> dict[str, type | tuple[int, ...]]:
        """The joints, and [H, W, 3] of each camera."""
        pictures = {name: (*size, 3) for name, size in self.config.camera_sizes.items()}
        return {**self.action_features, **pictures}

    @cached_property
    def action_features(self) -> dict[str, type]:
        """A position for each joint."""
        return {f"{joint}.pos": float for joint in self._stream.spec.joints}

    @property
    def is_connected(self) -> bool:
        """Whether `connect` has been called."""
        return self._is_connected

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Make the world if it is simulated, hold the arm where it is, and open the cameras."""
        config, world = self.config, {}
        try:
            if config.simulate:
                self._world = World(config.simulate, config.seed)
                world = {"world": str(self._world.folder)}
                self._stream = Stream(config.arm, **config.options, **world)
            self._stream.connect()
            if config.camera_class:
                self._cameras = make_cameras(Made(config.camera_class, {**config.camera_options, **world}))
                self._cameras.connect()
                self._check_sizes(self._cameras)
        except UnderstudyError:
            self._close()
            raise
        self._is_connected = True

    @property
    def is_calibrated(self) -> bool:
        """Yes: our arms do not connect without."""
        return True

    def calibrate(self) -> None:
        """Nothing: see `is_calibrated`."""

    def configure(self) -> None:
        """Nothing: our arms configure themselves."""

    @check_if_not_connected
    def get_observation(self) -> dict[str, Any]:
        """The joints as floats, and a picture [H, W, 3] uint8 of each camera."""
        names, joints = self.action_features, self._stream.state().joints
        seen: dict[str, Any] = dict(zip(names, joints.tolist(), strict=True))
        if self._cameras is not None:
            seen |= self._cameras.read()[0]
        return seen

    @check_if_not_connected
    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Go towards the joints of ``action``; what of it is within their ends."""
        missing = [name for name in self.action_features if name not in action]
        if missing:
            raise UnderstudyError(f"an action needs {', '.join(missing)}; it has {', '.join(action)}")
        asked = self._stream.go(np.array([action[name] for name in self.action_features], np.float64))
        return dict(zip(self.action_features, asked.tolist(), strict=True))

    @check_if_not_connected
    def disconnect(self) -> None:
        """Let the arm brake and hold; a simulated world ends."""
        self._is_connected = False
        self._close()

    def _check_sizes(self, cameras: Cameras) -> None:
        shapes = {name: list(picture.shape[:2]) for name, picture in cameras.read()[0].items()}
        if shapes != {name: list(size) for name, size in self.config.camera_sizes.items()}:
            raise UnderstudyError(f"the cameras give {shapes}, --robot.camera_sizes says {self.config.camera_sizes}")

    def _close(self) -> None:
        cameras, self._cameras = self._cameras, None
        if cameras is not None:
            cameras.disconnect()
        self._stream.disconnect()
        if self._world is not None:
            self._world.close()
            self._world = None
