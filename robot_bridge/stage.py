"""Where a run takes place: the arm and what sees it; in simulation, the scene and a judge too."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from robot_bridge.arms.arm import make_arm
from robot_bridge.plan import Made
from vla.errors import UnderstudyError
from vla.types import CameraSpec, PolicySpec

STAGES = {"sim": "sim.stage:SimStage"}
"""Arm name → stage; all others are hardware."""
CAMERAS = "robot_bridge.arms.lerobot_cameras:LeRobotCameras"


def bare_arm(arm: str, options: Sequence[tuple[str, object]]) -> Any:
    """The arm called ``arm``, to be asked what it is; of a stage's ``options`` only which model it is counts."""
    return make_arm(arm, **{name: value for name, value in options if arm not in STAGES or name == "model"})


class Stage(Protocol):
    """Made of the arm's name, its options, the cameras' options and the policy's spec."""

    arm: Made
    cameras: Made
    camera_specs: tuple[CameraSpec, ...] | None
    """of what the cameras deliver; ``None``: not known before they are opened"""
    instruction: str
    """of the scene; "" where nobody says"""

    def begin(self, episode: int) -> None:
        """Lay out the scene of an episode, if that is ours to do."""
        ...

    def done(self) -> bool | None:
        """Whether the task is achieved; ``None`` where nobody can tell."""
        ...

    def close(self) -> None:
        """End what was made for the stage."""
        ...


class Hardware:
    """A real arm: the scene is what lies there."""

    instruction = ""
    camera_specs: tuple[CameraSpec, ...] | None = None

    def __init__(
        self, arm: str, options: Mapping[str, object], cameras: Mapping[str, object], spec: PolicySpec
    ) -> None:
        missing = [camera.name for camera in spec.cameras if camera.name not in cameras]
        if missing:
            raise UnderstudyError(
                f"the policy looks through {', '.join(missing)}: say which camera that is, as in "
                f"--camera {missing[0]}=/dev/video0"
            )
        self.arm = Made(arm, dict(options))
        self.cameras = Made(CAMERAS, {"cameras": {camera.name: cameras[camera.name] for camera in spec.cameras}})

    def begin(self, episode: int) -> None:
        """Nothing: the scene is laid out by hand."""

    def done(self) -> bool | None:
        """Nobody can tell."""
        return None

    def close(self) -> None:
        """Nothing was made."""


def make_stage(arm: str, options: Mapping[str, object], cameras: Mapping[str, object], spec: PolicySpec) -> Stage:
    """The stage of the arm called ``arm``."""
    if arm not in STAGES:
        return Hardware(arm, options, cameras, spec)
    module, _, attribute = STAGES[arm].partition(":")
    found: Any = getattr(import_module(module), attribute)(options, spec)
    stage: Stage = found
    return stage
