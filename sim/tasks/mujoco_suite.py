"""What suites over somebody else's MuJoCo models have in common: cameras, counting, latching and going back.

    MujocoSuite (one robot, its spec)  ── a World for each model ──►  MjModel, MjData, reset, step, expert

A subclass says what its robot is (`Robot`) and how the world of a task is made (`MujocoSuite.make_world`); a `World`
is that package's own environment, made to obey its seed.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

import numpy as np

from sim.disturbance import Disturbance, Place, disturb
from sim.physics import check_physics
from sim.suite import SuiteSpec
from vla.errors import UnderstudyError, unknown
from vla.types import ActionSpec, CameraSpec, Observation

if TYPE_CHECKING:  # mujoco takes half a second to import: not for the names of the tasks
    import mujoco

    from sim.cameras import Camera

RendererName = Literal["auto", "gl", "ray"]
Expert = Callable[[], np.ndarray]

_FILM_CAMERA = "front"


@dataclass(frozen=True)
class Mount:
    """A camera of ours: where it stands [m] and what it looks at [m], both in the frame of ``body``.

    ``up``: what is up in the picture, in the same frame; ``fovy``: vertical field of view [degrees].
    """

    name: str
    position: tuple[float, float, float]
    looks_at: tuple[float, float, float]
    fovy: float
    body: str = "world"
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def add_to(self, spec: "mujoco.MjSpec") -> None:
        """Put it into a model that is yet to be compiled."""
        import mujoco

        back = np.subtract(self.position, self.looks_at)
        back = back / np.linalg.norm(back)
        right = np.cross(self.up, back)
        right /= np.linalg.norm(right)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(back, right), back], axis=1).reshape(-1))
        body = spec.body(self.body)
        body.add_camera(name=self.name, pos=self.position, quat=quaternion, fovy=self.fovy)


def compiled(path: str, mounts: Sequence[Mount]) -> "mujoco.MjModel":
    """The model in an MJCF file, with cameras of ours in it."""
    import mujoco

    spec = mujoco.MjSpec.from_file(path)
    for mount in mounts:
        mount.add_to(spec)
    return spec.compile()


@dataclass(frozen=True)
class Robot:
    """What is constant for a suite: its robot, its words and its cameras.

    ``tasks``: task, without the suite's name, → the words for it; ``package`` and ``extra``: what has to be installed,
    and under which name our project offers it; ``surface``: where other things may lie about; ``version`` goes up when
    scenes or numbers change their meaning.
    """

    suite: str
    embodiment: str
    package: str
    extra: str
    action: ActionSpec
    proprio_names: tuple[str, ...]
    control_hz: float
    max_steps: int
    tasks: dict[str, str]
    cameras: tuple[str, ...]
    surface: Place
    version: int = 1


class World(Protocol):
    """One model with its physics; ``data`` is all that an episode changes, and may be replaced by a copy of itself."""

    model: "mujoco.MjModel"
    data: "mujoco.MjData"

    def reset(self, task: str, seed: int) -> None:
        """The scene of ``seed``, whatever happened before."""
        ...

    def step(self, action: np.ndarray) -> bool:
        """Carry out an action that is within its bounds; whether the task is achieved now."""
        ...

    def proprio(self) -> np.ndarray:
        """What the robot feels of itself."""
        ...

    def expert(self) -> Expert:
        """Who can do the task of this episode; raises `UnderstudyError` when nobody is known."""
        ...


class AroundEnvironment:
    """What worlds share that are around a gymnasium environment: its model, and its data as theirs."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.model: mujoco.MjModel = env.model

    @property
    def data(self) -> "mujoco.MjData":
        """The state of the physics."""
        return self.env.data

    @data.setter
    def data(self, data: "mujoco.MjData") -> None:
        self.env.data = data


class MujocoSuite:
    """`sim.suite.Suite` over the worlds of a package.

    ``image_size``: pixels a side; ``cameras``: any of the suite's (none at all is quickest, for those who need no
    pictures); ``renderer``: ``auto`` takes OpenGL where there is one and the rays elsewhere. Pictures have no shadows,
    no reflections and no anti-aliasing; the marks of goals are drawn.
    """

    robot: ClassVar[Robot]

    def __init__(
        self, *, image_size: int = 64, cameras: Sequence[str] = ("front",), renderer: RendererName = "auto"
    ) -> None:
        size = int(image_size)
        self._look([CameraSpec(name, size, size) for name in cameras], renderer=choose_renderer(renderer))

    def _look(self, cameras: Sequence[CameraSpec], *, renderer: str, profile: str = "fast", nice: bool = False) -> None:
        """Settle the spec; nothing is loaded yet."""
        robot = self.robot
        require(robot.package, extra=robot.extra)
        for camera in cameras:
            if camera.name not in robot.cameras:
                raise unknown("camera", camera.name, robot.cameras)
        looks = " ".join(f"{camera.name} {camera.width}x{camera.height}" for camera in cameras)
        self.max_steps = robot.max_steps
        self.spec = SuiteSpec(
            name=robot.suite,
            embodiment=robot.embodiment,
            action=robot.action,
            cameras=tuple(cameras),
            proprio_names=robot.proprio_names,
            control_hz=robot.control_hz,
            fingerprint=f"{robot.suite}-{robot.version} {profile} {renderer} {looks}".strip(),
        )
        self._renderer, self._nice = renderer, nice
        self._worlds: dict[str, World] = {}
        self._pictures: dict[tuple[str, str, int, int], Camera] = {}
        self._low, self._high = np.array(robot.action.low), np.array(robot.action.high)
        self._task = ""
        self._steps = 0
        self._success = False

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        """All tasks of the suite."""
        return tuple(f"{cls.robot.suite}/{task}" for task in cls.robot.tasks)

    @classmethod
    def model_of(cls, task: str) -> str:
        """Tasks of one model share a world; by default each has its own."""
        return task

    def make_world(self, task: str) -> World:
        """Load the model of ``task``."""
        raise NotImplementedError

    @property
    def instruction(self) -> str:
        """The words for the current task."""
        return self.robot.tasks[self._current_task()]

    @property
    def steps(self) -> int:
        """Steps taken since `reset`."""
        return self._steps

    @property
    def success(self) -> bool:
        """Whether the package has called the task achieved after any step since `reset`."""
        return self._success

    @property
    def world(self) -> World:
        """The world of the current episode."""
        return self._worlds[self.model_of(self._current_task())]

    def reset(self, task: str, seed: int) -> None:
        """Start ``task`` in the scene that ``seed`` decides; ``seed`` is 0 or more."""
        name = task.removeprefix(f"{self.robot.suite}/")
        if name == task or name not in self.robot.tasks:
            raise unknown("task", task, self.task_names())
        if seed < 0:
            raise UnderstudyError(f"a seed is 0 or more, got {seed}")
        model = self.model_of(name)
        if model not in self._worlds:
            self._worlds[model] = self.make_world(name)
        self._worlds[model].reset(name, int(seed))
        self._task, self._steps, self._success = name, 0, False

    def observe(self) -> Observation:
        """Render the cameras and read the proprio of this instant."""
        world = self.world
        images = {camera.name: self._picture(camera) for camera in self.spec.cameras}
        stamp_ns = round(1e9 * self._steps / self.spec.control_hz)
        return Observation(images=images, proprio=world.proprio().astype(np.float32), stamp_ns=stamp_ns)

    def step(self, action: np.ndarray) -> None:
        """Carry out one action [A], clipped to the bounds of the spec; raises `sim.suite.Diverged`."""
        action = np.asarray(action, np.float64)
        if action.shape != self._low.shape or not np.isfinite(action).all():
            names = ", ".join(self.spec.action.names)
            raise UnderstudyError(f"an action is {len(self._low)} finite numbers ({names}), got {action}")
        achieved = self.world.step(np.clip(action, self._low, self._high))
        self._steps += 1
        check_physics(self.world.data, step=self._steps)
        self._success = self._success or bool(achieved)

    def expert(self) -> Expert:
        """Who can do the current task, reading the simulator's state; raises `UnderstudyError` when nobody is known."""
        act = self.world.expert()
        return lambda: np.clip(act(), self._low, self._high).astype(np.float32)

    def keep(self) -> Callable[[], None]:
        """Remember this instant of the episode; each call of what is returned, until the next `reset`, goes back."""
        world = self.world
        data, rest = copy(world.data), (self._task, self._steps, self._success)

        def back() -> None:
            world.data = copy(data)
            self._task, self._steps, self._success = rest

        return back

    def disturbed(self, axis: str, level: int, seed: int) -> AbstractContextManager[None]:
        """See `sim.suite.Suite`."""
        return disturb(self.world.model, self.world.data, Disturbance(axis, level), seed, self.robot.surface)

    def film(self, size: int) -> np.ndarray:
        """One frame [size, size, 3] for people to watch."""
        return self._picture(CameraSpec(_FILM_CAMERA, size, size))

    def close(self) -> None:
        """Free the worlds and the renderer."""
        for camera in self._pictures.values():
            camera.close()
        self._pictures.clear()
        self._worlds.clear()
        self._task = ""

    def _current_task(self) -> str:
        if not self._task:
            raise UnderstudyError("no episode has been started: call reset(task, seed) first")
        return self._task

    def _picture(self, camera: CameraSpec) -> np.ndarray:
        """[H, W, 3] uint8."""
        world, key = self.world, (self.model_of(self._task), camera.name, camera.height, camera.width)
        if key not in self._pictures:
            self._pictures[key] = self._make_camera(world.model, camera)
        image = self._pictures[key].render(world.data)
        if image.min() == image.max():
            raise UnderstudyError(
                f"camera {camera.name!r} of {self.robot.suite}/{self._task} gave an empty picture (all {image.max()}): "
                "its OpenGL context is lost; make a new suite, or use renderer='ray'"
            )
        return image

    def _make_camera(self, model: "mujoco.MjModel", camera: CameraSpec) -> "Camera":
        from sim.cameras import GLCamera, RayCamera

        size = {"height": camera.height, "width": camera.width}
        if self._renderer == "ray":
            return RayCamera(model, camera.name, **size, sites=True)
        return GLCamera(model, camera.name, **size, sites=True, nice=self._nice)


def require(package: str, *, extra: str) -> None:
    """Refuse to go on without a package, saying which extra of ours brings it."""
    if find_spec(package) is None:
        raise UnderstudyError(
            f"the package {package} is not installed: pip install understudy[{extra}], or in a checkout "
            f"uv pip install -e .[{extra}]"
        )


def choose_renderer(wanted: RendererName) -> Literal["gl", "ray"]:
    """Which renderer to use on this machine; raises `UnderstudyError` for ``gl`` where there is none."""
    from sim.cameras import BACKEND
    from sim.rendering import apt_line

    if wanted not in get_args(RendererName):
        raise unknown("renderer", wanted, get_args(RendererName))
    if wanted == "gl" and BACKEND == "none":
        raise UnderstudyError(f"no OpenGL library works on this machine; use renderer='ray', or install: {apt_line()}")
    if wanted == "auto":
        return "ray" if BACKEND == "none" else "gl"
    return wanted
