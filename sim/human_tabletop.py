"""Films of the table-top suite's tasks: what a person, a tool or the robot does, and how it looks."""

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import mujoco
import numpy as np

from sim.cameras import RayCamera
from sim.human_film import Film, FilmJob
from sim.human_hand import Grip
from sim.human_labels import PHASES, handled, phases_of_robot, progress, robot_contact
from sim.human_plans import FAILURES, Planner
from sim.human_scene import EDGES, Look, Shape, build_scene, draw_instance, draw_look, things_in
from sim.human_shots import Acting, Shot, draw_exogenous, shoot
from sim.human_strokes import FPS, SEATS, Moment, Person, draw_person, seat_for
from sim.human_tools import PINCH_YAWS, make_demonstrator
from sim.human_world import Referee, World, base_model
from sim.suite import shared_suite
from sim.tasks.tabletop import FINGER_TRAVEL, OBJECTS, TASKS, TabletopSuite, TabletopTask
from sim.tasks.tabletop_scene import DISTRACTORS, draw_scene
from vla.errors import unknown

SCENE_STREAM = 0x7AB1E
"""With a seed, what the suite's `reset` draws its scene from."""
ROBOT_NOISE = 0.15
"""Of the robot's demonstrations, in half ranges of the action, as `vla collect` has it."""
_TRIES = 6
_PATIENCE = 4  # a robot that is slow and disturbed may take so many times a policy's steps
SWAY = 0.006  # [m] of the head, with the ego camera
FIXTURES = ("handle", "button cap", "tray", "pad")


@dataclass(frozen=True)
class Act:
    """What happens, frame by frame: states of the table-top model [T, nq], the tool, and what it amounts to.

    ``grips`` is ``None`` for the robot, which is in ``qpos``; ``contact`` [T]; ``phases``: numbers in `PHASES` [T].
    """

    qpos: np.ndarray
    grips: list[Grip] | None
    contact: np.ndarray
    phases: np.ndarray
    success: bool
    done_at: int
    person: Person | None = None
    failure: str = ""


def film_tabletop(job: FilmJob) -> Film:
    """Act, then render."""
    if job.task not in TASKS:
        raise unknown("task", job.task, TASKS)
    task = TASKS[job.task]
    person = _person(job, task)
    head = person.head if person else np.array([-0.05, 0.0, 0.62])
    loose = job.embodiment != "robot" and job.tier in ("T2", "T3")
    look = draw_look(job.scene, job.camera, randomize=job.randomize, head=head, loose=loose)
    shapes = draw_instance(task, job.rng("instance")) if job.tier == "T3" and job.embodiment != "robot" else {}
    if person is None or job.tier == "T0":
        act = _robot_act(job, task, look)
        if person is not None:
            act = _followed(act, person, pinch_yaw=PINCH_YAWS[job.embodiment])
    else:
        act = _person_act(job, person, look, shapes)
    return _rendered(job, act, look, shapes)


def _person(job: FilmJob, task: TabletopTask) -> Person | None:
    if job.embodiment == "robot":
        return None
    rng = job.rng("person")
    if job.tier == "T0":  # the fingers close as the gripper's do, from left and right
        left = task.target != "drawer" and rng.random() < 0.5
        return seat_for("left" if left else "right", 1 if rng.random() < 0.75 else -1)
    return draw_person(task, rng)


def _person_act(job: FilmJob, person: Person, look: Look, shapes: dict[str, Shape]) -> Act:
    """The first plan of a few that turns out as it was meant to."""
    task, rng, chance = TASKS[job.task], job.rng("plan"), job.rng("failure")
    fails = bool(chance.random() < job.failures)
    failure = str(chance.choice(FAILURES[task.verb])) if fails else ""
    things = things_in(shapes, distractors=look.distractors)
    for _ in range(_TRIES):
        scene = draw_scene(np.random.default_rng([SCENE_STREAM, job.scene]), distractors=look.distractors)
        world = World(scene, things)
        moments = Planner(task, world, person, rng, pinch_yaw=PINCH_YAWS[job.embodiment], failure=failure).plan()
        act = _played(task, world, moments, person, failure)
        if act.success != fails:
            break
    return act


def _played(task: TabletopTask, world: World, moments: list[Moment], person: Person, failure: str) -> Act:
    referee, states, contact, done = Referee(task), [], [], []
    for moment in moments:
        world.step(moment)
        states.append(world.qpos.copy())
        contact.append(world.touching)
        done.append(referee.achieved(world.qpos, touched=world.touching))
    return Act(
        qpos=np.array(states),
        grips=[moment.grip for moment in moments],
        contact=np.array(contact),
        phases=np.array([PHASES.index(moment.phase) for moment in moments], np.int8),
        success=any(done),
        done_at=done.index(True) if any(done) else len(done),
        person=person,
        failure=failure,
    )


def _robot_act(job: FilmJob, task: TabletopTask, look: Look) -> Act:
    """The suite's expert, every second control step; another disturbance if it fails."""
    options = {"cameras": [], "randomize": ["distractors"] if look.distractors else []}
    suite = shared_suite("tabletop", json.dumps(options, sort_keys=True))
    for attempt in range(_TRIES):
        rng = np.random.default_rng([0x90B07, job.seed, sorted(TASKS).index(task.name), attempt])
        suite.reset(task.name, job.seed)
        act = _recorded(suite, rng)
        if act.success:
            break
    return act


def _recorded(suite: TabletopSuite, rng: np.random.Generator) -> Act:
    expert, spec = suite.expert(), suite.spec
    stride = round(spec.control_hz / FPS)
    idle, tail, pace = int(rng.integers(2, 9)), int(rng.integers(10, 18)), rng.uniform(0.4, 0.9)
    states, contact, drift = [], [], np.zeros(3)
    done_at, step = -1, 0
    half = (np.array(spec.action.high) - spec.action.low)[:3] / 2
    touched = partial(_robot_touches, suite)
    while tail and step < _PATIENCE * suite.max_steps:
        if step % stride == 0:
            states.append(suite.data.qpos.copy())
            contact.append(touched())
        action = np.array([0, 0, 0, 1.0]) if step < idle else expert().astype(np.float64)
        drift = 0.8 * drift + 0.6 * rng.standard_normal(3)
        action[:3] = pace * action[:3] + (step >= idle) * ROBOT_NOISE * half * drift
        suite.step(action)
        step += 1
        done_at = len(states) if suite.success and done_at < 0 else done_at
        tail -= suite.success
    states.append(suite.data.qpos.copy())
    contact.append(touched())
    qpos = np.array(states)
    contact = robot_contact(suite.task, qpos, np.array(contact))
    done_at = done_at if suite.success else len(states)
    return Act(qpos, None, contact, phases_of_robot(suite.task, qpos, contact), suite.success, done_at)


def _robot_touches(suite: TabletopSuite) -> bool:
    """Whether a finger is at what the task is about."""
    return suite.touched(handled(suite.task))


def _followed(act: Act, person: Person, *, pinch_yaw: float) -> Act:
    """The same states, with a tool where the gripper is."""
    model = base_model()
    data = mujoco.MjData(model)
    angles = np.array([SEATS[person.seat] + np.pi - pinch_yaw, person.pitch, person.roll])
    grips = []
    for qpos in act.qpos:
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        grips.append(Grip(data.site("grip").xpos.copy(), angles, gap=_opening(data)))
    return replace(act, grips=grips, person=person)


def _rendered(job: FilmJob, act: Act, look: Look, shapes: dict[str, Shape]) -> Film:
    person, acting = act.person, None
    if person is not None:
        tool = make_demonstrator(job.embodiment, person.side, job.rng("tool"))
        acting = Acting(tool, act.grips, person.shoulder)
    model = build_scene(look, job.camera, shapes=shapes, tool=acting and acting.tool, ball=job.exogenous)
    names = [*OBJECTS, *(DISTRACTORS if look.distractors else ()), *FIXTURES]
    shot = Shot(
        model=model,
        data=mujoco.MjData(model),
        camera=RayCamera(model, job.camera, height=job.image_size, width=job.image_size),
        camera_id=model.camera(job.camera).id,
        states=act.qpos,
        acting=acting,
        gripper=_gripper,
        places=lambda data: np.array([(data.geom if name == "handle" else data.body)(name).xpos for name in names]),
        exogenous=draw_exogenous(job.exogenous_rng, len(act.qpos), edges=EDGES) if job.exogenous else None,
        sway=SWAY if job.camera == "ego" else 0.0,
    )
    frames, labels = shoot(shot)
    tool_path = labels["pinch_point"]
    labels |= {
        "object_names": np.array(names),
        "phase": act.phases,
        "phase_names": np.array(PHASES),
        "contact": act.contact,
        "success": np.array(act.success),
        "progress": progress(TASKS[job.task], act.qpos, tool_path, contact=act.contact, done_at=act.done_at),
    }
    return Film(frames, TASKS[job.task].instruction, labels, _about(job, act, look, shapes))


def _gripper(data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray, float]:
    """Pose of the robot's hand [7], its grip point [3], its opening [m]."""
    hand = data.body("hand")
    return np.concatenate([hand.xpos, hand.xquat]), data.site("grip").xpos.copy(), _opening(data)


def _opening(data: mujoco.MjData) -> float:
    """Between the robot's fingers [m]; a drawer may bend them apart farther than they travel."""
    return 2 * float(np.clip(data.qpos[7:9].mean(), 0, FINGER_TRAVEL))


def _about(job: FilmJob, act: Act, look: Look, shapes: dict[str, Shape]) -> dict[str, Any]:
    """The line of a film in the table of films."""
    task, person = TASKS[job.task], act.person
    return job.about() | {
        "success": act.success,
        "failure": act.failure,
        "hand": "" if person is None else person.hand,
        "seat": "" if person is None else person.seat,
        "verb": task.verb,
        "target": task.target,
        "goal": task.goal,
        "instance": {name: [shape.kind, *map(float, shape.size)] for name, shape in shapes.items()},
        "distractors": look.distractors,
        "frames": len(act.qpos),
        "fps": FPS,
    }
