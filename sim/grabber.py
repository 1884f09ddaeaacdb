"""A person with a grabber: the robot's gripper on a stick, with the camera of its wrist, and no robot.

What was filmed with the motion of the camera is a demonstration: the action is how the tool moved until the next frame
(Wang, Dasari et al. 2023, "Manipulate by Seeing", §3.3). The gripper is held upright, as the arm will hold it; all
else is the person's own way (`sim.human_plans`): another path and pace than a robot's expert, with corrections.

Real recordings have their poses from structure from motion, which knows no scale and loses frames: ``labels="sfm"``.
"""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal
from zlib import crc32

import mujoco
import numpy as np

from sim.cameras import RayCamera
from sim.collect import Attempt, named
from sim.experts import HELD_OPENING
from sim.human_hand import KEYPOINTS, Grip, add_shape, weigh
from sim.human_plans import Planner
from sim.human_scene import Look, build_scene, things_in
from sim.human_strokes import FPS, Moment, draw_person
from sim.human_tabletop import SCENE_STREAM
from sim.human_world import Referee, World, base_model
from sim.suite import shared_suite
from sim.tasks.tabletop import FINGER_TRAVEL, TASKS, TabletopSuite
from sim.tasks.tabletop_scene import draw_scene
from vla.errors import UnderstudyError
from vla.types import EXPERT_SOURCE, Episode, Task

if TYPE_CHECKING:
    from sim.suite import Suite

Labels = Literal["exact", "sfm"]
EMBODIMENT, CAMERA = "grabber", "wrist"
PACE = (0.4, 0.7)
"""Of a usual person's: slow enough for an arm to follow."""
LEAD = 3
"""Steps by which a command to the gripper comes before it has closed."""
TAIL, TRIES = 4, 20
"""Of those who leave a goal: frames after their success, attempts."""
SCALES, NOISE, LOST = (1.5, 6.0), 0.003, 0.1
"""Of poses from structure from motion: how much too large the world is in a film, noise [m], share of the frames that
get no pose."""


@dataclass
class Gripper:
    """The robot's gripper in the scene, by itself; keeps `sim.human_tools.Demonstrator`."""

    geoms: frozenset[int] = field(init=False, default=frozenset())
    _mocap: int = field(init=False, repr=False)
    _slides: np.ndarray = field(init=False, repr=False)

    def add(self, spec: mujoco.MjSpec) -> None:
        """Fingers, palm and camera as the arm has them; x, y and z are the hand's, the origin its grip point."""
        own = base_model()
        tool = spec.worldbody.add_body(name="tool", mocap=True)
        grip, camera = own.site("grip").pos, own.camera(CAMERA)
        palm = own.geom(own.body("hand").geomadr[0])
        add_shape(tool, "palm", kind="BOX", size=palm.size, rgb=palm.rgba[:3], pos=palm.pos - grip)
        tool.add_camera(name=EMBODIMENT, pos=camera.pos - grip, quat=camera.quat, fovy=camera.fovy[0])
        for name, sign in (("left", 1), ("right", -1)):
            finger = own.geom(f"{name}_finger")
            body = weigh(tool.add_body(name=f"{name} claw", pos=own.body(f"{name}_finger").pos - grip))
            body.add_joint(name=f"{name} claw", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, sign, 0])
            add_shape(body, f"{name} claw", kind="BOX", size=finger.size, rgb=finger.rgba[:3], pos=finger.pos)

    def bind(self, model: mujoco.MjModel) -> None:
        """Look up where it is in the compiled ``model``."""
        self._slides = np.array([model.joint(f"{side} claw").qposadr[0] for side in ("left", "right")])
        self._mocap = int(model.body("tool").mocapid[0])

    def show(self, data: mujoco.MjData, grip: Grip, shoulder: np.ndarray) -> np.ndarray:
        """Upright, whoever holds it: the hand's axes are the base's x, -y and -z."""
        down = np.array([0.0, 1.0, 0.0, 0.0])
        data.mocap_pos[self._mocap], data.mocap_quat[self._mocap] = grip.point, down
        data.qpos[self._slides] = opening(grip) * FINGER_TRAVEL
        return np.concatenate([grip.point, down])

    def keypoints(self, data: mujoco.MjData) -> np.ndarray:
        """NaN: it has no fingers of flesh."""
        return np.full((KEYPOINTS, 3), np.nan)


class Upright(Planner):
    """Plans of a person whose tool keeps its direction, and begins where the robot does."""

    def _home(self) -> Grip:
        point = self.world.scene.grip_position + self._stray(0.03) + [0, 0, self.rng.uniform(-0.03, 0.05)]
        return Grip(point, np.zeros(3), gap=2 * FINGER_TRAVEL)

    def _angles(self, point: np.ndarray, **_: object) -> np.ndarray:
        return np.zeros(3)


@dataclass(frozen=True)
class Take:
    """Frame by frame: states of the table-top model [T, nq], the tool's point [T, 3] m and its opening [T], 0…1."""

    states: np.ndarray
    points: np.ndarray
    openings: np.ndarray


def opening(grip: Grip) -> float:
    """Fraction of the full opening."""
    return float(min(1.0, grip.gap * (1 - grip.pointing) * (1 - grip.flat) / (2 * FINGER_TRAVEL)))


def demonstrate(attempt: Attempt) -> Episode | None:
    """One demonstration up to its success and ``tail`` frames more: a pure function of the attempt."""
    suite = shared_suite("tabletop", attempt.options)
    if [camera.name for camera in suite.spec.cameras] != [CAMERA]:
        raise UnderstudyError(f"a grabber has one camera: give suite.cameras=[{CAMERA}]")
    suite.reset(attempt.task, attempt.seed)
    rng = np.random.default_rng([0x6AB, crc32(attempt.task.encode()), attempt.seed])
    hidden = "distractors" not in suite.randomize
    take = acted(attempt.task, attempt.seed, rng, tail=attempt.tail, distractors=not hidden, hz=suite.spec.control_hz)
    if take is None:
        return None
    frames = filmed(take, suite, size=suite.spec.cameras[0].height)
    kept, points = np.arange(len(frames)), take.points
    if attempt.labels == "sfm":
        kept, points = as_from_motion(points, rng)
    soon = np.minimum(kept + LEAD, len(frames) - 1)
    closed = take.openings[soon] <= HELD_OPENING
    moves = np.diff(points[kept], axis=0, append=points[kept[-1:]])
    return Episode(
        images={CAMERA: partial(np.asarray, frames[kept])},
        proprio=np.column_stack([points, take.openings])[kept].astype(np.float32),
        actions=np.column_stack([moves, 1.0 - closed]).astype(np.float32),
        task=Task(suite.instruction),
        fps=suite.spec.control_hz,
        embodiment=named(attempt.labels),
        success=True,
        source=EXPERT_SOURCE + attempt.task,
        stamps_ns=np.round(kept * 1e9 / suite.spec.control_hz).astype(np.int64),
        seed=attempt.seed,
    )


def left_by_grabber(suite: "Suite", camera: str, task: str, seed: int) -> np.ndarray:
    """What a person with a grabber sees in the end, in the scene of ``seed``: a goal for the arm."""
    size = {one.name: one.height for one in suite.spec.cameras}.get(camera)
    if not isinstance(suite, TabletopSuite) or camera != CAMERA or size is None:
        raise UnderstudyError(f"goal=grabber is for tabletop tasks and policies that see through {CAMERA}")
    hidden = "distractors" not in suite.randomize
    suite.reset(task, seed)
    for attempt in range(TRIES):
        rng = np.random.default_rng([0x6AC, crc32(task.encode()), seed, attempt])
        take = acted(task, seed, rng, tail=TAIL, distractors=not hidden, hz=suite.spec.control_hz)
        if take is not None:
            last = Take(take.states[-1:], take.points[-1:], take.openings[-1:])
            return filmed(last, suite, size=size)[0]
    raise UnderstudyError(f"nobody can do {task} in scene {seed} with a grabber")


def acted(task: str, seed: int, rng: np.random.Generator, *, tail: int, distractors: bool, hz: float) -> Take | None:
    """What the person does in the scene of ``seed``, ``hz`` frames a second; ``None`` when it goes wrong."""
    about = TASKS[task]
    world = World(
        draw_scene(np.random.default_rng([SCENE_STREAM, seed]), distractors=distractors),
        things_in({}, distractors=distractors),
    )
    person = replace(draw_person(about, rng), pace=rng.uniform(*PACE))
    moments = Upright(about, world, person, rng).plan()
    referee, states, done = Referee(about), [], len(moments)
    for number, moment in enumerate(moments):
        world.step(moment)
        states.append(world.qpos.copy())
        if referee.achieved(world.qpos, touched=world.touching):
            done = min(done, number)
    if done == len(moments):
        return None
    stop = done + 1 + math.ceil(tail * FPS / hz)
    return _at_rate(np.array(states[:stop]), moments[:stop], hz)


def _at_rate(states: np.ndarray, moments: list[Moment], hz: float) -> Take:
    """With as many frames between any two as it takes."""
    every = np.arange(0, len(states) - 1 + 1e-6, FPS / hz)
    rows = np.column_stack(
        [states, [moment.grip.point for moment in moments], [opening(moment.grip) for moment in moments]]
    )
    between = np.stack([np.interp(every, np.arange(len(rows)), column) for column in rows.T], axis=1)
    return Take(between[:, :-4], between[:, -4:-1], between[:, -1])


def filmed(take: Take, suite: TabletopSuite, *, size: int) -> np.ndarray:
    """What the tool's camera sees, [T, size, size, 3], with colours, lights and camera as ``suite`` has them now."""
    own, front = suite.model, suite.model.camera("front").id
    lights, stand = (own.light_pos, own.light_diffuse), (own.cam_pos[front], own.cam_quat[front], own.cam_fovy[front])
    tool, shows = Gripper(), "distractors" in suite.randomize
    model = build_scene(Look(own.geom_rgba, *lights, *stand, shows), "front", shapes={}, tool=tool, ball=False)
    here, wrist = model.camera(EMBODIMENT).id, own.camera(CAMERA).id
    model.cam_pos[here], model.cam_quat[here] = own.cam_pos[wrist] - own.site("grip").pos, own.cam_quat[wrist]
    data, camera, frames = mujoco.MjData(model), RayCamera(model, EMBODIMENT, height=size, width=size), []
    for state, point, opened in zip(take.states, take.points, take.openings, strict=True):
        data.qpos[: len(state)] = state
        tool.show(data, Grip(point, np.zeros(3), gap=2 * FINGER_TRAVEL * opened), np.zeros(3))
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        frames.append(camera.render(data))
    return np.stack(frames)


def as_from_motion(points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The frames [K] that get a pose, and the points [T, 3] as structure from motion tells them: degraded."""
    scale = float(np.exp(rng.uniform(*np.log(SCALES))))
    kept = np.flatnonzero(rng.random(len(points)) >= LOST)
    return kept, scale * (points + rng.normal(0, NOISE, points.shape))
