"""What robosuite's own tasks and LIBERO's have in common: a Panda under operational space control.

It runs where robosuite is installed, 1.5 or 1.4, which is not here (see `sim.guest`). Actions are seven numbers at
20 Hz, each in -1…1: displacement of the hand, of which 1.0 is 5 cm, and its rotation, of which 1.0 is half a radian,
both about the axes of the robot's base; then the gripper (-1 opens, +1 closes).

What robosuite does by itself and this file does not: only its own renderer leaves collision shapes out of the picture;
it computes every observable at every step of the physics, asked for or not.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sim.disturbance import Disturbance, Place, disturb
from sim.tasks.mujoco_suite import MujocoSuite, RendererName, choose_renderer
from vla.errors import UnderstudyError, unknown
from vla.types import ActionSpec, CameraSpec, Gripper

if TYPE_CHECKING:
    import mujoco

    from sim.cameras import Camera

HZ = 20.0
ACTION = ActionSpec(
    kind="ee_delta",
    names=("delta_x", "delta_y", "delta_z", "turn_x", "turn_y", "turn_z", "gripper"),
    low=(-1.0,) * 7,
    high=(1.0,) * 7,
    gripper=Gripper(index=6, open=-1.0, closed=1.0),
)
CAMERAS = {"front": "agentview", "wrist": "robot0_eye_in_hand"}
"""Our name for a camera → robosuite's."""

SURFACE = Place((-0.2, -0.3), (0.2, 0.3), height=0.0)
"""In front of the robot, in the middle of every table."""

_WORLDS_KEPT = 10  # one of LIBERO's suites; a world holds 100 MB and more, and takes a second or more to load
_COLLISION, _HIDDEN = 0, 3  # groups of geoms; `sim.cameras` draws 0…2


def import_robosuite() -> Any:
    """The package, whatever OpenGL the machine has; raises `ImportError` where it is not installed.

    robosuite insists on EGL unless it is told of another library at its import, and 1.4 fails there without one. We
    draw by ourselves, through whatever `sim.rendering` has found; "glx" is the word after which it looks for nothing.
    """
    from sim.cameras import BACKEND

    if BACKEND not in ("egl", "osmesa"):
        os.environ["MUJOCO_GL"] = "glx"
    import robosuite

    return robosuite


class PandaWorld:
    """One of robosuite's environments, made to obey its seed; it has neither renderer nor camera observations."""

    floor: ClassVar[float] = 0.0
    """height of what things stand on where there is no table [m]"""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.model: mujoco.MjModel = env.sim.model._model
        self.data: mujoco.MjData = env.sim.data._data
        self.model.geom_group[self.model.geom_group == _COLLISION] = _HIDDEN
        for name in env.observation_names:
            env.modify_observable(observable_name=name, attribute="enabled", modifier=False)
        sites, joints = (_names(self.model, what) for what in ("site", "jnt"))
        (grip,) = (name for name in sites if name.endswith("grip_site"))
        self.grip = self.data.site(grip)
        self.hand = self.data.body("robot0_right_hand")
        gripper = env.robots[0].gripper
        self.grippers = list(gripper.values()) if isinstance(gripper, dict) else [gripper]
        self.fingers = [self.data.joint(name) for name in joints if "finger_joint" in name]

    def draw(self, seed: int) -> None:
        """Reset to the scene of ``seed``: robosuite 1.5 draws from a generator of its own, 1.4 from NumPy's."""
        if hasattr(self.env, "rng"):
            self.env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        np.random.seed(seed % 2**32)  # noqa: NPY002  theirs
        for gripper in self.grippers:
            gripper.current_action = np.zeros(gripper.dof)  # 1.4 goes on from how far the last episode had closed it
        self.env.reset()

    @property
    def surface_height(self) -> float:
        """Of the table that the robot stands before, or of what is there instead [m]."""
        tables = [self.data.site(name).xpos[2] for name in _names(self.model, "site") if name.endswith("table_top")]
        return float(tables[0]) if tables else self.floor

    def step(self, action: np.ndarray) -> bool:
        """Carry out an action; whether the task is achieved now."""
        self.env.step(action[: self.env.action_dim])
        return bool(self.env._check_success())


class PandaSuite(MujocoSuite):
    """`sim.suite.Suite` over `PandaWorld`."""

    mirrored: ClassVar[bool] = False
    """whether left is right in its pictures"""
    profiles: ClassVar[dict[str, int]]
    """``fast``, and the package's own by the suite's name → pixels a side"""

    def __init__(
        self,
        *,
        profile: str = "fast",
        image_size: int | None = None,
        cameras: Sequence[str] = ("front",),
        renderer: RendererName = "auto",
    ) -> None:
        if profile not in self.profiles:
            raise unknown("profile", profile, self.profiles)
        chosen, size = choose_renderer(renderer), int(image_size or self.profiles[profile])
        if profile != "fast" and chosen == "ray":
            raise UnderstudyError(f"profile {profile!r} needs OpenGL; use profile='fast' for rays")
        looks = [CameraSpec(name, size, size) for name in cameras]
        self._look(looks, renderer=chosen, profile=profile, nice=profile != "fast")

    def reset(self, task: str, seed: int) -> None:
        """Start ``task`` in the scene that ``seed`` decides."""
        if len(self._worlds) >= _WORLDS_KEPT and task.removeprefix(f"{self.robot.suite}/") not in self._worlds:
            self.close()
        super().reset(task, seed)
        self._seed, self._taken = seed, []

    def step(self, action: np.ndarray) -> None:
        """Carry out one action [7], clipped to -1…1: 25 steps of physics of 2 ms."""
        super().step(action)
        self._taken.append(np.array(action))

    def keep(self) -> Callable[[], None]:
        """Remember this instant; each call of what is returned plays the episode again up to it.

        The controllers, the gripper and the tasks remember things in many places; an episode that is played again, at
        6 ms a step, comes to the same instant with certainty.
        """
        task, seed, taken = f"{self.robot.suite}/{self._current_task()}", self._seed, list(self._taken)

        def back() -> None:
            self.reset(task, seed)
            for action in taken:
                self.step(action)

        return back

    def disturbed(self, axis: str, level: int, seed: int) -> AbstractContextManager[None]:
        """After `reset`: within it, this episode's world looks otherwise."""
        world = self.world
        surface = replace(self.robot.surface, height=world.surface_height)
        return disturb(world.model, world.data, Disturbance(axis, level), seed, surface)

    def _picture(self, camera: CameraSpec) -> np.ndarray:
        image = super()._picture(camera)
        return np.ascontiguousarray(image[:, ::-1]) if self.mirrored else image

    def _make_camera(self, model: "mujoco.MjModel", camera: CameraSpec) -> "Camera":
        return super()._make_camera(model, replace(camera, name=CAMERAS[camera.name]))


def _names(model: "mujoco.MjModel", what: str) -> list[str]:
    return [getattr(model, what)(number).name for number in range(getattr(model, f"n{what}"))]
