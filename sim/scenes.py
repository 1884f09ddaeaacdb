"""The scenes that a simulated arm may stand in, by name: the table-top suite's, and each of `sim.arm_models.MODELS`."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mujoco
import numpy as np

from robot_bridge.arms.arm import ArmSpec
from robot_bridge.retarget.linkage import Linkage, of_spec
from sim.arm_models import MODELS, PANDA, PANDA_JOINTS, TOOL, ArmModel, BareScene, found_model, furnished
from sim.firmware import PHYSICS_S, Scene
from sim.mechanism import Mechanism, Wiring
from sim.tasks.tabletop import FINGER_TRAVEL, HOME_JOINTS, SCENE_FILE, WORKSPACE_HIGH, WORKSPACE_LOW, TabletopSuite
from sim.tasks.tabletop_film import RepeatedFilm, film_of
from vla.errors import UnderstudyError
from vla.types import Gripper

TABLETOP = "tabletop"
ANY_TASK = "tabletop/lift-red-cube"
"""Whose scene a film's is made of."""
SPEC = ArmSpec(
    embodiment="panda-primitive",
    joints=(*PANDA_JOINTS, "gripper"),
    limits=replace(PANDA, acceleration=(*(30.0,) * 7, 60.0), jerk=(*(5000.0,) * 7, 6000.0)),
    rate_hz=500.0,
    proprio_names=("ee_x", "ee_y", "ee_z", "gripper_opening"),
    gripper=Gripper(index=7, open=1.0, closed=0.0),
    workspace=(tuple(WORKSPACE_LOW.tolist()), tuple(WORKSPACE_HIGH.tolist())),
    watchdog_s=0.04,
)
"""Of the table-top suite's arm: as a Panda's, but its links weigh less, and its motors can do what its policies ask."""
WIRING = Wiring(
    PANDA_JOINTS,
    tool="grip",
    fingers=("left_finger", "right_finger"),
    travel=(0.0, FINGER_TRAVEL),
    grips=("left_finger", "right_finger"),
    told=(0.0, FINGER_TRAVEL),
)


class TabletopScene:
    """The table-top suite, whose tasks the arm may achieve: `sim.firmware.Scene`."""

    spec = SPEC

    def __init__(self, *, image_size: int = 64, cameras: tuple[str, ...] = ()) -> None:
        self.suite = TabletopSuite(image_size=image_size, cameras=cameras)
        self._usual_s = self.suite.model.opt.timestep
        self.film: RepeatedFilm | None = None
        self.mechanism = Mechanism(self.suite.model, self.suite.data, WIRING, site=WIRING.tool)

    @property
    def success(self) -> bool:
        """Whether the task has been achieved since `reset`."""
        return self.suite.success if self.film is None else self.film.success

    def reset(self, task: str, seed: int) -> None:
        """Lay out the scene of ``seed``, or of the film that is the ``task``, with the arm as ``seed`` has it."""
        film = film_of(task)
        self.suite.model.opt.timestep = self._usual_s
        self.suite.reset(task if film is None else ANY_TASK, seed)
        self.film = None if film is None else RepeatedFilm(self.suite, *film)
        self.suite.model.opt.timestep = PHYSICS_S

    def proprio(self) -> np.ndarray:
        """The grip point [m] and the gripper's opening, [4] float32."""
        return np.array([*self.suite.grip_position, self.suite.gripper_opening], np.float32)

    def judge(self) -> bool:
        """See whether the task is achieved now, or was."""
        return self.suite.judge() if self.film is None else self.film.judge()

    def look(self) -> dict[str, np.ndarray]:
        """A picture [H, W, 3] of each camera."""
        return dict(self.suite.observe().images)


@dataclass(frozen=True)
class Setting:
    """Which scene it is, so that every process of a world makes the same; ``file``: of the arm's model, if it has one.

    Written into the world's folder.
    """

    model: str
    file: str = ""

    @classmethod
    def of(cls, model: str) -> "Setting":
        """By name; raises `UnderstudyError` when its file is not there."""
        return cls(model) if model == TABLETOP else cls(model, str(found_model(model)[1]))

    @classmethod
    def read(cls, folder: Path) -> "Setting":
        """Of the world that lives in ``folder``."""
        file = folder / "setting.json"
        if not file.exists():
            raise UnderstudyError(f"there is no simulated world at {folder}: has the process that made it ended?")
        return cls(**json.loads(file.read_text()))

    def write(self, folder: Path) -> None:
        """For `read`."""
        (folder / "setting.json").write_text(json.dumps(asdict(self)))

    @property
    def spec(self) -> ArmSpec:
        """Of its arm."""
        if self.model == TABLETOP:
            return SPEC
        return self._model.spec

    def scene(self, *, image_size: int = 64, cameras: tuple[str, ...] = ()) -> Scene:
        """Made anew, with these cameras."""
        if self.model == TABLETOP:
            return TabletopScene(image_size=image_size, cameras=cameras)
        return BareScene(self._model, Path(self.file), image_size=image_size, cameras=cameras)

    def linkage(self) -> Linkage:
        """Of its arm, for inverse kinematics; of what stands around it only the table or the floor."""
        if self.model == TABLETOP:
            return of_spec(
                mujoco.MjSpec.from_file(str(SCENE_FILE)), WIRING.joints, WIRING.tool, home=tuple(HOME_JOINTS)
            )
        own = self._model
        home = own.home[: len(own.wiring.joints)]
        return of_spec(furnished(own, Path(self.file)), own.wiring.joints, TOOL, home=home)

    @property
    def _model(self) -> ArmModel:
        file = Path(self.file).as_posix()
        return next(model for model in MODELS[self.model] if file.endswith(model.file))
