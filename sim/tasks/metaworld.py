"""Meta-World's 50 tasks (Yu et al. 2019; package 3.1.1): a Sawyer arm over a table, one task a scene.

Actions are four numbers at 80 Hz, each in -1…1: displacement of the hand (x, y, z), of which 1.0 is 0.01 m, in the
world frame (x to the robot's right, y away from it, z up), and the gripper's effort (-1 opens, +1 closes). Proprio is
what Meta-World's observation says of the hand alone: its position [m] and its opening (0 closed, 1 open, the fingers
0.1 m apart). Where the objects and the goal are must be seen.

Two profiles, never to be mixed (their fingerprints differ):

- ``fast``: small pictures without shadows, reflections and anti-aliasing, through OpenGL or, without one, the rays;
- ``lerobot``: LeRobot's protocol to the pixel, so that its published figures can be compared with (480 px, shadows,
  its zoomed corner2, 500 steps). A seed gives the same scene in both.

What Meta-World does by itself and this file does not: ``reset(seed)`` ignores the seed; in 29 tasks the first picture
shows the goal, and in 10 of them the object too, as much as 20 cm from its place (``lerobot`` keeps that, because
LeRobot's policies see it), in two of them by where the puck came to rest in the episode before; most cameras stand on
their heads; step 501 raises.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy, deepcopy
from dataclasses import dataclass, field
from functools import cache
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from sim.disturbance import Disturbance, Place, disturb
from sim.physics import check_physics
from sim.suite import SuiteSpec
from sim.tasks.metaworld_sets import TASK_SETS
from sim.tasks.mujoco_suite import RendererName, choose_renderer
from vla.errors import UnderstudyError, unknown
from vla.types import ActionSpec, CameraSpec, Gripper, Observation

if TYPE_CHECKING:  # mujoco, gymnasium and metaworld take a second to import: not for the names of the tasks
    import mujoco

    from sim.cameras import Camera

INSTRUCTIONS: dict[str, str] = loads(Path(__file__).with_name("metaworld_instructions.json").read_text("utf-8"))
"""Task, by Meta-World's name without its version, → the words for it."""

CLOSE_UPS = {
    "side": ((1.2, 0.72, 0.9), (0, 1, 0, -0.5352, 0, 0.8447), 18.0),
    "top": ((0.0, 0.74, 1.4), (1, 0, 0, 0, 1, 0), 20.0),
}
"""Cameras of ours: position [m], x and y axes (right and up in the picture), vertical field of view [degrees]."""

_ALIASES = {"front": "corner4", "wrist": "gripperPOV"}
_UPSIDE_DOWN = ("corner", "corner2", "corner3", "corner4")
_UPRIGHT = ("topview", "gripperPOV", "behindGripper")
CAMERAS = (*_ALIASES, *CLOSE_UPS, *_UPSIDE_DOWN, *_UPRIGHT)
"""``front`` is LeRobot's zoomed corner2, ``wrist`` looks past the fingers at what is under them, ``side`` and ``top``
are close to the place where most objects lie; the others are Meta-World's, turned upright."""

HALFWAY = {
    **dict.fromkeys(("door-lock", "door-unlock"), "door-unlock"),
    **dict.fromkeys(("drawer-close", "drawer-open"), "drawer-open"),
    **dict.fromkeys(("faucet-close", "faucet-open"), "faucet-open"),
    **dict.fromkeys(("window-close", "window-open"), "window-open"),
}
"""Tasks of which the opposite is another task at the same thing → the one of the two that says where it stands."""

TABLE = Place((-0.35, 0.4), (0.35, 0.9), height=0.0)
ProfileName = Literal["fast", "lerobot"]

_SCENES_KEPT = 8  # a scene holds about 60 MB, and 30 MB more for each size of its OpenGL pictures
_HZ = 80.0
_SETTLING = 400  # steps of physics: a second
_PLAIN = (bool, int, float, np.ndarray, list, tuple, type(None))  # what Meta-World remembers of an episode is of these
_FILM_CAMERA = "front"


class _WithCloseUps:
    """Mixed into an environment of Meta-World: loads the same model with `CLOSE_UPS` in it."""

    def _initialize_simulation(self) -> "tuple[mujoco.MjModel, mujoco.MjData]":
        import mujoco

        spec = mujoco.MjSpec.from_file(self.fullpath)
        for name, (position, axes, fovy) in CLOSE_UPS.items():
            right, up = np.reshape(axes, (2, 3))
            rotation = np.stack([right, up, np.cross(right, up)], axis=1)
            quaternion = np.empty(4)
            mujoco.mju_mat2Quat(quaternion, rotation.reshape(-1))
            spec.worldbody.add_camera(name=name, pos=position, quat=quaternion, fovy=fovy)
        model = spec.compile()
        return model, mujoco.MjData(model)


@cache
def _environment_class(task: str) -> type:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    base = ALL_V3_ENVIRONMENTS[f"{task}-v3"]
    return type(base.__name__, (_WithCloseUps, base), {})


class _Scene:
    """One task's environment, and the cameras that have looked at it."""

    def __init__(self, task: str, *, halfway: bool) -> None:
        self.env: Any = _environment_class(task)()
        if halfway:  # a window to be shut stands elsewhere than one to be opened, and higher
            self.env._random_reset_space = _environment_class(HALFWAY[task])()._random_reset_space
        self.env.max_path_length = np.inf  # how long an episode may be is for the caller to say
        self.env.seeded_rand_vec, self.env._freeze_rand_vec = True, False
        self.env._set_task_called = True
        self.env._partially_observable = False  # the experts need the goal
        del self.env.sawyer_observation_space  # else observations are still clipped to a hidden goal
        self.env._set_task_inner()
        self.cameras: dict[tuple[str, int], Camera] = {}

    def reset(self, seed: int) -> np.ndarray:
        """The scene of ``seed``, whatever happened before; the full observation [39]."""
        import mujoco

        mujoco.mj_resetData(self.env.model, self.env.data)
        self.env.seed(seed)
        return self.env.reset()[0]

    def close(self) -> None:
        for camera in self.cameras.values():
            camera.close()
        self.cameras.clear()
        self.env.close()


@dataclass(frozen=True)
class _Profile:
    image_size: int
    max_steps: int
    nice: bool
    cameras: tuple[str, ...] = field(default=("front",))


_PROFILES = {
    "fast": _Profile(image_size=64, max_steps=300, nice=False),
    "lerobot": _Profile(image_size=480, max_steps=500, nice=True),
}
assert tuple(_PROFILES) == get_args(ProfileName)


class MetaWorldSuite:
    """`sim.suite.Suite` over Meta-World's tasks, ``metaworld/button-press-topdown`` and so on.

    ``profile``: ``fast`` or ``lerobot``, see above; ``image_size``: pixels a side (64 in ``fast``, always 480 in
    ``lerobot``); ``cameras``: any of `CAMERAS` (``front`` alone by default; none at all is quickest, for those who
    need no pictures); ``renderer``: ``auto`` takes OpenGL where there is one and the rays elsewhere; ``halfway``: only
    the tasks of `HALFWAY`, which begin in the middle, and no goal is marked, so that the scene does not tell the task.

    One suite plays any number of tasks; it keeps the scenes of the last eight.
    """

    def __init__(
        self,
        *,
        profile: ProfileName = "fast",
        image_size: int | None = None,
        cameras: Sequence[str] | None = None,
        renderer: RendererName = "auto",
        halfway: bool = False,
    ) -> None:
        if profile not in _PROFILES:
            raise unknown("profile", profile, _PROFILES)
        self._profile = _PROFILES[profile]
        size = self._profile.image_size if image_size is None else int(image_size)
        names = self._profile.cameras if cameras is None else tuple(cameras)
        if profile == "lerobot" and (size, names) != (self._profile.image_size, self._profile.cameras):
            raise UnderstudyError(
                f"profile 'lerobot' has one camera, 'front', of 480 px; got {', '.join(names)} of {size} px; "
                "leave image_size and cameras out, or use profile='fast'"
            )
        if profile == "lerobot" and halfway:
            raise UnderstudyError("profile 'lerobot' begins where LeRobot does; for halfway=true use profile='fast'")
        self._halfway = halfway
        self._renderer = _renderer(profile, renderer)
        self._check_cameras(names)
        self.max_steps = self._profile.max_steps
        self.spec = SuiteSpec(
            name="metaworld",
            embodiment="sawyer-metaworld",
            action=ActionSpec(
                kind="ee_delta",
                names=("delta_x", "delta_y", "delta_z", "gripper"),
                low=(-1.0,) * 4,
                high=(1.0,) * 4,
                frame="world",
                gripper=Gripper(index=3, open=-1.0, closed=1.0),
            ),
            cameras=tuple(CameraSpec(name, size, size) for name in names),
            proprio_names=("ee_x", "ee_y", "ee_z", "gripper_opening"),
            control_hz=_HZ,
            fingerprint=f"metaworld-1 {profile} {self._renderer} {'+'.join(names)} {size}px" + " halfway 2" * halfway,
        )
        self._scenes: dict[str, _Scene] = {}
        self._task = ""
        self._state = np.empty(0)
        self._steps = 0
        self._success = False

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        """All 50 tasks."""
        return tuple(f"metaworld/{task}" for task in INSTRUCTIONS)

    @classmethod
    def task_sets(cls) -> dict[str, tuple[str, ...]]:
        """MT10, MT50, both halves of ML10, and the four difficulties."""
        return TASK_SETS

    @property
    def instruction(self) -> str:
        """The words for the current task."""
        return INSTRUCTIONS[self._current_task()]

    @property
    def steps(self) -> int:
        """Steps taken since `reset`."""
        return self._steps

    @property
    def success(self) -> bool:
        """Whether Meta-World has called the task achieved at any step since `reset`."""
        return self._success

    def reset(self, task: str, seed: int) -> None:
        """Start ``task`` in the scene that ``seed`` decides; ``seed`` is 0 or more."""
        name = task.removeprefix("metaworld/")
        if name == task or name not in INSTRUCTIONS:
            raise unknown("task", task, self.task_names())
        if seed < 0:
            raise UnderstudyError(f"a seed is 0 or more, got {seed}")
        if self._halfway and name not in HALFWAY:
            raise unknown("task that can begin halfway", task, tuple(f"metaworld/{one}" for one in HALFWAY))
        scene = self._scene(name)
        self._state = scene.reset(int(seed))
        if self._halfway:
            self._state = _begin_halfway(scene.env)
        self._task, self._steps, self._success = name, 0, False
        if not self._profile.nice:
            _put_in_place(scene.env)

    def observe(self) -> Observation:
        """Render the cameras and read the proprio of this instant."""
        self._current_task()
        images = {camera.name: self._picture(camera.name, camera.height) for camera in self.spec.cameras}
        stamp_ns = round(1e9 * self._steps / _HZ)
        return Observation(images=images, proprio=self._state[:4].astype(np.float32), stamp_ns=stamp_ns)

    def step(self, action: np.ndarray) -> None:
        """Carry out one action [4], clipped to -1…1: five physics steps of 2.5 ms."""
        action = np.asarray(action, np.float32)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise UnderstudyError(f"an action is four finite numbers (x, y, z, gripper), got {action}")
        self._current_task()
        self._state, _, _, _, info = self._env.step(np.clip(action, -1, 1))
        self._steps += 1
        check_physics(self._env.data, step=self._steps)
        self._success = self._success or bool(info["success"])

    def expert(self) -> Callable[[], np.ndarray]:
        """Meta-World's own script for the task; it knows where everything is. Each call gives the next action [4]."""
        from metaworld.policies import ENV_POLICY_MAP

        policy = ENV_POLICY_MAP[f"{self._current_task()}-v3"]()

        def act() -> np.ndarray:
            with warnings.catch_warnings():  # the scripts ask for more than 1 and say so at every step
                warnings.filterwarnings("ignore", message="Constant")
                return np.clip(policy.get_action(self._state), -1, 1).astype(np.float32)

        return act

    def keep(self) -> Callable[[], None]:
        """Remember this instant of the episode; each call of what is returned, until the next `reset`, goes back."""
        self._current_task()
        env = self._env
        world, rest = copy(env.data), (self._task, self._state.copy(), self._steps, self._success)
        plain = {name: deepcopy(value) for name, value in vars(env).items() if isinstance(value, _PLAIN)}

        def back() -> None:
            env.data = copy(world)
            vars(env).update(deepcopy(plain))
            self._task, self._state, self._steps, self._success = rest

        return back

    def disturbed(self, axis: str, level: int, seed: int) -> AbstractContextManager[None]:
        """See `sim.suite.Suite`."""
        self._current_task()
        return disturb(self._env.model, self._env.data, Disturbance(axis, level), seed, TABLE)

    def film(self, size: int) -> np.ndarray:
        """One frame [size, size, 3] for people to watch."""
        return self._picture(_FILM_CAMERA, size)

    def close(self) -> None:
        """Free the scenes and the renderer."""
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()
        self._task = ""

    @property
    def _env(self) -> Any:
        return self._scenes[self._task].env

    def _current_task(self) -> str:
        if not self._task:
            raise UnderstudyError("no episode has been started: call reset(task, seed) first")
        return self._task

    def _scene(self, task: str) -> _Scene:
        """The scene of ``task``, now the most recently used one."""
        scene = self._scenes.pop(task, None) or _Scene(task, halfway=self._halfway)
        self._scenes[task] = scene
        while len(self._scenes) > _SCENES_KEPT:
            self._scenes.pop(next(iter(self._scenes))).close()
        return scene

    def _picture(self, camera: str, size: int) -> np.ndarray:
        """[size, size, 3] uint8, upright."""
        scene = self._scenes[self._current_task()]
        source = _ALIASES.get(camera, camera)
        if (source, size) not in scene.cameras:
            scene.cameras[source, size] = self._make_camera(scene.env.model, source, size)
        image = scene.cameras[source, size].render(scene.env.data)
        if image.min() == image.max():
            raise UnderstudyError(
                f"camera {camera!r} of metaworld/{self._task} gave an empty picture (all {image.max()}): its OpenGL "
                "context is lost; make a new suite, or use renderer='ray'"
            )
        return np.ascontiguousarray(image[::-1, ::-1]) if source in _UPSIDE_DOWN else image

    def _make_camera(self, model: "mujoco.MjModel", camera: str, size: int) -> "Camera":
        from sim.cameras import GLCamera, RayCamera

        if self._renderer == "ray":
            return RayCamera(model, camera, height=size, width=size, sites=True)
        return GLCamera(model, camera, height=size, width=size, sites=True, nice=self._profile.nice)

    def _check_cameras(self, names: Sequence[str]) -> None:
        # behindGripper stands inside the arm: OpenGL leaves out the inner sides of surfaces, rays hit them
        allowed = CAMERAS if self._renderer == "gl" else tuple(name for name in CAMERAS if name != "behindGripper")
        for name in names:
            if name not in allowed:
                raise unknown("camera", name, allowed)


def _begin_halfway(env: Any) -> np.ndarray:
    """Put the one joint that is not the robot's into the middle of its range, unmark the goal; the observation [39].

    The hand comes to rest first: at reset one of two opposite tasks may have waited longer for it than the other.
    """
    import mujoco

    model, data = env.model, env.data
    own = model.body_rootid[model.jnt_bodyid] != model.body("base").id
    (joint,) = np.flatnonzero(own & (model.jnt_type != mujoco.mjtJoint.mjJNT_FREE))
    model.site_rgba[:, 3] = 0
    for proceed in (*[mujoco.mj_step] * _SETTLING, mujoco.mj_forward):
        data.qpos[model.jnt_qposadr[joint]] = model.jnt_range[joint].mean()
        data.qvel[model.jnt_dofadr[joint]] = 0
        proceed(model, data)
    env._prev_obs = env._get_curr_obs_combined_no_goal()
    return env._get_obs().astype(np.float64)


def _put_in_place(env: Any) -> None:
    """Let pictures show the goals and objects where the reset wrote them; the physics is not touched."""
    import mujoco

    mujoco.mj_kinematics(env.model, env.data)
    mujoco.mj_camlight(env.model, env.data)


def _renderer(profile: ProfileName, wanted: RendererName) -> Literal["gl", "ray"]:
    """Which renderer to use on this machine."""
    from sim.rendering import apt_line

    chosen = choose_renderer(wanted)
    if profile == "lerobot" and chosen == "ray":
        raise UnderstudyError(f"profile 'lerobot' needs OpenGL; use profile='fast', or install one: {apt_line()}")
    return chosen
