r"""A person's video as LeRobot's teleoperator: ``lerobot-teleoperate`` and ``lerobot-record`` take it for a leader.

    vla human pick --number 3 --out p
    lerobot-teleoperate --robot.discover_packages_path=sim.lerobot_plugin --robot.type=understudy \
        --robot.simulate=film/3 --teleop.type=understudy_demo --teleop.videos='["p/front.mp4", "p/side.mp4"]' \
        --teleop.cameras=p/cameras.json --teleop_time_s=20

Its actions are ``<joint>.pos`` of the arm that it was retargeted to, in that arm's units: it leads a robot of
``type=understudy`` of the same arm. For ``start_s`` it holds the path's first place, to which the robot's governor
brings the arm; then it goes along the path in real time, and at the end stays there.
"""

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from robot_bridge.arms.arm import make_arm
from robot_bridge.demonstration import prepared
from robot_bridge.retarget.command import Asked, named, run
from robot_bridge.retarget.folder import Prepared
from vla.errors import UnderstudyError

logger = logging.getLogger(__name__)


@TeleoperatorConfig.register_subclass("understudy_demo")
@dataclass
class DemoTeleoperatorConfig(TeleoperatorConfig):
    """Which video, and for which arm."""

    demo: str = ""
    """folder of ``vla retarget``"""
    videos: list[str] = field(default_factory=list)
    """instead of a folder: the videos, which are retargeted when it connects"""
    cameras: str = ""
    """cameras.json of these videos"""
    out: str = "outputs/retarget"
    """where what is made of them goes, with its report"""
    arm: str = "sim"
    """a name of `robot_bridge.arms.arm.ARMS`"""
    options: dict[str, Any] = field(default_factory=dict)
    """of that arm"""
    start_s: float = 3.0
    """how long the first place is held"""

    def __post_init__(self) -> None:
        if bool(self.demo) == bool(self.videos):
            raise UnderstudyError(
                "give --teleop.demo, a folder of vla retarget, or --teleop.videos and --teleop.cameras"
            )


class DemoTeleoperator(Teleoperator):
    """Setpoints of a retargeted video behind LeRobot's interface."""

    config_class = DemoTeleoperatorConfig
    name = "understudy_demo"

    def __init__(self, config: DemoTeleoperatorConfig) -> None:
        super().__init__(config)
        self.config = config
        self._path: Prepared | None = None
        self._began = 0.0

    @cached_property
    def action_features(self) -> dict[str, type]:
        """A position for each joint."""
        return {f"{joint}.pos": float for joint in make_arm(self.config.arm, **self.config.options).spec.joints}

    @property
    def feedback_features(self) -> dict[str, type]:
        """None: a film does not feel."""
        return {}

    @property
    def is_connected(self) -> bool:
        """Whether `connect` has been called."""
        return self._path is not None

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Read the setpoints, of videos after making them; raises `UnderstudyError` for what is not to be trusted."""
        config = self.config
        folder = Path(config.demo or config.out)
        if config.videos:
            cameras = Path(config.cameras) if config.cameras else None
            run(Asked(named(config.videos), folder, cameras, arm=config.arm, arm_options=tuple(config.options.items())))
        path = prepared(folder, config.arm, make_arm(config.arm, **config.options).spec)
        if path.verdict == "check":
            logger.warning("%s is to be checked by a person first: see its report.html", folder)
        self._path, self._began = path, 0.0

    @property
    def is_calibrated(self) -> bool:
        """Yes: the cameras were, before the video was retargeted."""
        return True

    def calibrate(self) -> None:
        """Nothing: see `is_calibrated`."""

    def configure(self) -> None:
        """Nothing."""

    @check_if_not_connected
    def get_action(self) -> dict[str, float]:
        """The setpoints of now; the time begins with the first call."""
        assert self._path is not None
        self._began = self._began or monotonic()
        rows = self._path.joints
        at = self._path.hz * max(0.0, monotonic() - self._began - self.config.start_s)
        row = min(int(at), len(rows) - 1)
        after, share = min(row + 1, len(rows) - 1), min(at - row, 1.0)
        now = (1 - share) * rows[row] + share * rows[after]
        return dict(zip(self.action_features, np.asarray(now, np.float64).tolist(), strict=True))

    @property
    def lasts_s(self) -> float:
        """From the first call to the end of the path."""
        return 0.0 if self._path is None else self.config.start_s + len(self._path.joints) / self._path.hz

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        """Nothing: see `feedback_features`."""

    @check_if_not_connected
    def disconnect(self) -> None:
        """Forget the path."""
        self._path = None
