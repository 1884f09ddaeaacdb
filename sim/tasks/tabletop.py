"""The embedded default suite: a Panda-kinematics arm over a table, told what to do in words.

Everything that an instruction can name is always in view (three cubes, a cylinder, a pad, a tray, a button, a
drawer), and a seed gives the same scene whatever the task, so only the words tell what to do.

Actions are four numbers at 20 Hz: displacement of the gripper (x, y, z) [m] in the base frame, and its opening
(1 open, 0 closed). The hand keeps pointing down.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mujoco
import numpy as np

from sim.cameras import make_camera
from sim.disturbance import Disturbance, Place, disturb
from sim.physics import check_physics
from sim.suite import SuiteSpec
from sim.tasks.tabletop_scene import DISTRACTORS, RANDOMIZABLE, draw_scene, hide_distractors, randomize_visuals
from vla.errors import unknown
from vla.types import ActionSpec, CameraSpec, Gripper, Observation

SCENE_FILE = Path(__file__).with_name("tabletop.xml")
CUBES = ("red cube", "green cube", "blue cube")
OBJECTS = (*CUBES, "yellow cylinder")
HOME_JOINTS = np.array([0.0, -0.15, 0.0, -2.55, 0.0, 2.4, 0.785])  # [rad] hand pointing down over the table
WORKSPACE_LOW = np.array([0.28, -0.4, 0.012])  # [m] where the grip point may be sent, base frame
WORKSPACE_HIGH = np.array([0.74, 0.36, 0.4])
SUBSTEPS = 10
MAX_LEAD = 0.04  # [m] how far the commanded point may run ahead of the real one, so that contact does not wind it up
FINGER_TRAVEL = 0.045  # [m] of each finger
TABLE = Place((0.3, -0.38), (0.75, 0.38), height=0.0)

Verb = Literal["touch", "lift", "push", "stack", "put", "open", "close", "press"]


@dataclass(frozen=True)
class TabletopTask:
    """One instruction: a verb, the object that it is about, and where that object should go."""

    verb: Verb
    target: str
    instruction: str
    goal: str = ""

    @property
    def name(self) -> str:
        """``tabletop/verb-target[-goal]``."""
        return "tabletop/" + "-".join(word for word in (self.verb, self.target, self.goal) if word).replace(" ", "-")


def _all_tasks() -> dict[str, TabletopTask]:
    stacks = (("red cube", "green cube"), ("green cube", "blue cube"), ("blue cube", "red cube"))
    tasks = [
        *(TabletopTask("touch", thing, f"touch the {thing}") for thing in OBJECTS),
        *(TabletopTask("lift", thing, f"lift the {thing}") for thing in OBJECTS),
        *(TabletopTask("push", cube, f"push the {cube} to the white pad", "pad") for cube in CUBES),
        *(TabletopTask("stack", top, f"stack the {top} on the {base}", base) for top, base in stacks),
        *(TabletopTask("put", thing, f"put the {thing} in the tray", "tray") for thing in OBJECTS),
        TabletopTask("open", "drawer", "open the drawer"),
        TabletopTask("close", "drawer", "close the drawer"),
        TabletopTask("press", "button", "press the button"),
    ]
    return {task.name: task for task in tasks}


TASKS = _all_tasks()


class TabletopSuite:
    """`sim.suite.Suite` over the table-top scene.

    ``cameras``: any of ``front``, ``side``, ``wrist``; ``randomize``: any of ``colors``, ``lights``, ``camera``,
    ``distractors`` (domain randomisation, drawn from the same seed as the scene); ``renderer``: ``ray`` needs no
    OpenGL, ``gl`` uses it.
    """

    max_steps = 100

    def __init__(
        self,
        *,
        image_size: int = 64,
        cameras: Sequence[str] = ("front",),
        randomize: Sequence[str] = (),
        renderer: Literal["ray", "gl"] = "ray",
    ) -> None:
        for name in randomize:
            if name not in RANDOMIZABLE:
                raise unknown("kind of randomisation", name, RANDOMIZABLE)
        self.model = mujoco.MjModel.from_xml_path(str(SCENE_FILE))
        self.data = mujoco.MjData(self.model)
        known = [self.model.camera(index).name for index in range(self.model.ncam)]
        for name in cameras:
            if name not in known:
                raise unknown("camera", name, known)
        self._renderer = renderer
        self.randomize = tuple(sorted(randomize))
        self._cameras = {
            name: make_camera(self.model, name, height=image_size, width=image_size, renderer=renderer)
            for name in cameras
        }
        self._film_cameras: dict[int, object] = {}
        self._visual_defaults = hide_distractors(self.model)
        self._grip_site = self.model.site("grip").id
        self._finger_geoms = {self.model.geom(name).id for name in ("left_finger", "right_finger")}
        self._task = next(iter(TASKS.values()))
        self._steps = 0
        self._success = False
        self._command = np.zeros(3)
        step = 0.03
        self.spec = SuiteSpec(
            name="tabletop",
            embodiment="panda-primitive",
            action=ActionSpec(
                kind="ee_delta",
                names=("delta_x", "delta_y", "delta_z", "gripper"),
                low=(-step, -step, -step, 0.0),
                high=(step, step, step, 1.0),
                gripper=Gripper(index=3, open=1.0, closed=0.0),
            ),
            cameras=tuple(CameraSpec(name, image_size, image_size) for name in cameras),
            proprio_names=("ee_x", "ee_y", "ee_z", "gripper_opening"),
            control_hz=20.0,
            fingerprint=f"tabletop-1 {renderer} {'+'.join(cameras)} {image_size}px {'+'.join(self.randomize)}".strip(),
        )

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        """All tasks of the suite."""
        return tuple(TASKS)

    @property
    def task(self) -> TabletopTask:
        """The task of the current episode."""
        return self._task

    @property
    def instruction(self) -> str:
        """The words for the current task."""
        return self._task.instruction

    @property
    def steps(self) -> int:
        """Steps taken since `reset`."""
        return self._steps

    @property
    def success(self) -> bool:
        """Whether the task has been achieved at any step since `reset`."""
        return self._success

    def reset(self, task: str, seed: int) -> None:
        """Start ``task`` in the scene that ``seed`` decides."""
        if task not in TASKS:
            raise unknown("task", task, TASKS)
        self._task, self._steps, self._success = TASKS[task], 0, False
        rng = np.random.default_rng([0x7AB1E, seed])
        scene = draw_scene(rng, distractors="distractors" in self.randomize)
        randomize_visuals(self.model, self._visual_defaults, kinds=self.randomize, rng=rng)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:7] = HOME_JOINTS
        self.data.qpos[7:9] = FINGER_TRAVEL
        for name, pose in scene.poses.items():
            self.place(name, pose)
        self.data.joint("drawer").qpos = scene.drawer_opening
        mujoco.mj_forward(self.model, self.data)
        self.data.qpos[:7] = self._inverse_kinematics(scene.grip_position, iterations=50)
        mujoco.mj_forward(self.model, self.data)
        self._command = self.grip_position
        for _ in range(4):
            self._advance(opening=1.0)

    def observe(self) -> Observation:
        """Render the cameras and read the proprio of this instant."""
        images = {name: camera.render(self.data) for name, camera in self._cameras.items()}
        proprio = np.array([*self.grip_position, self.gripper_opening], np.float32)
        return Observation(images=images, proprio=proprio, stamp_ns=round(1e9 * self._steps / self.spec.control_hz))

    def step(self, action: np.ndarray) -> None:
        """Carry out one action [4]: displacement [m] and gripper opening, clipped to the bounds of the spec."""
        bounded = np.clip(action, self.spec.action.low, self.spec.action.high)
        lead = np.clip(self._command + bounded[:3] - self.grip_position, -MAX_LEAD, MAX_LEAD)
        self._command = np.clip(self.grip_position + lead, WORKSPACE_LOW, WORKSPACE_HIGH)
        self._advance(opening=float(bounded[3]))
        self._steps += 1
        check_physics(self.data, step=self._steps)
        self.judge()

    def judge(self) -> bool:
        """See whether the task is achieved now: for whoever moves the arm by other means than `step`."""
        self._success = self._success or self._achieved()
        return self._success

    def expert(self) -> Callable[[], np.ndarray]:
        """The scripted expert for the current task (`sim.experts`)."""
        from sim.experts import tabletop_expert

        return tabletop_expert(self)

    def keep(self) -> Callable[[], None]:
        """Remember this instant of the episode; each call of what is returned, until the next `reset`, goes back."""
        world, rest = copy(self.data), (self._command.copy(), self._steps, self._success)

        def back() -> None:
            self.data = copy(world)
            command, self._steps, self._success = rest
            self._command = command.copy()

        return back

    def disturbed(self, axis: str, level: int, seed: int) -> AbstractContextManager[None]:
        """See `sim.suite.Suite`."""
        return disturb(self.model, self.data, Disturbance(axis, level), seed, TABLE)

    def film(self, size: int) -> np.ndarray:
        """One frame [size, size, 3] from the audience's camera."""
        if size not in self._film_cameras:
            self._film_cameras[size] = make_camera(self.model, "film", height=size, width=size, renderer=self._renderer)
        return self._film_cameras[size].render(self.data)

    def close(self) -> None:
        """Drop the cameras."""
        self._cameras.clear()
        self._film_cameras.clear()

    @property
    def grip_position(self) -> np.ndarray:
        """Where the fingertips meet, [3] metres in the base frame."""
        return self.data.site_xpos[self._grip_site].copy()

    @property
    def gripper_opening(self) -> float:
        """Fraction of the full opening: 0 closed, 1 open."""
        return float(self.data.qpos[7:9].mean() / FINGER_TRAVEL)

    @property
    def drawer_opening(self) -> float:
        """How far the drawer is pulled out [m]."""
        return float(self.data.joint("drawer").qpos[0])

    @property
    def free_bodies(self) -> tuple[str, ...]:
        """The objects on the table that can be moved."""
        return (*OBJECTS, *DISTRACTORS) if "distractors" in self.randomize else OBJECTS

    def position(self, body: str) -> np.ndarray:
        """Where a body is, [3] metres in the base frame."""
        return self.data.body(body).xpos.copy()

    def place(self, body: str, pose: np.ndarray) -> None:
        """Put a free body there ([7]: position [m], wxyz), at rest."""
        joint = self.model.body(body).jntadr[0]
        self.data.qpos[self.model.jnt_qposadr[joint] :][:7] = pose
        self.data.qvel[self.model.jnt_dofadr[joint] :][:6] = 0
        mujoco.mj_forward(self.model, self.data)

    def _advance(self, *, opening: float) -> None:
        self.data.ctrl[:7] = self._inverse_kinematics(self._command, iterations=3)
        self.data.ctrl[7:9] = opening * FINGER_TRAVEL
        mujoco.mj_step(self.model, self.data, nstep=SUBSTEPS)

    def _inverse_kinematics(self, position: np.ndarray, *, iterations: int) -> np.ndarray:
        """Joint angles [7] that bring the grip point to ``position`` with the hand pointing down.

        Damped least squares on a scratch copy of the state; the damping bounds the step near singularities.
        """
        scratch = self._scratch
        scratch.qpos[:] = self.data.qpos
        jacobian, error = np.empty((6, self.model.nv)), np.empty(6)
        for _ in range(iterations):
            mujoco.mj_kinematics(self.model, scratch)
            mujoco.mj_comPos(self.model, scratch)
            rotation = scratch.site_xmat[self._grip_site].reshape(3, 3)
            error[:3] = position - scratch.site_xpos[self._grip_site]
            x, y, z = rotation.T.tolist()  # the hand's axes; it points down when they are the base's x, -y and -z
            error[3:] = 0.5 * (y[2] - z[1]), 0.5 * (x[2] + z[0]), -0.5 * (x[1] + y[0])
            mujoco.mj_jacSite(self.model, scratch, jacobian[:3], jacobian[3:], self._grip_site)
            arm = jacobian[:, :7]
            scratch.qpos[:7] += arm.T @ np.linalg.solve(arm @ arm.T + 1e-4 * np.eye(6), error)
        return np.clip(scratch.qpos[:7], *self.model.jnt_range[:7].T)

    @property
    def _scratch(self) -> mujoco.MjData:
        if not hasattr(self, "_scratch_data"):
            self._scratch_data = mujoco.MjData(self.model)
        return self._scratch_data

    def _achieved(self) -> bool:
        task = self._task
        if task.verb == "open":
            return self.drawer_opening > 0.09
        if task.verb == "close":
            return self.drawer_opening < 0.008
        if task.verb == "press":
            return bool(self.data.joint("button").qpos[0] < -0.012)
        if task.verb == "touch":
            return self.touched(task.target)
        target = self.position(task.target)
        if task.verb == "lift":
            return bool(target[2] > 0.09)
        offset = target - self.position(task.goal)
        aside = float(np.hypot(offset[0], offset[1]))
        if task.verb == "push":
            return bool(aside < 0.045 and target[2] < 0.04)
        if task.verb == "put":
            return bool(np.abs(offset[:2]).max() < 0.055 and target[2] < 0.05 and not self.touched(task.target))
        return bool(aside < 0.025 and 0.04 < offset[2] < 0.06 and not self.touched(task.target))

    def touched(self, body: str) -> bool:
        """Whether a finger is at it."""
        geom = self.model.geom(body).id
        pairs = self.data.contact.geom
        return any(geom in pair and not self._finger_geoms.isdisjoint(pair) for pair in pairs.tolist())
