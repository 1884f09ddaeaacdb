"""Films of Meta-World's tasks: the states of an expert's episode, with a hand where the gripper is, or with the robot.

The physics is Meta-World's own (`sim.human_metaworld_acts`); the picture comes from a second model of the same file,
in which the arm is hidden and the hand added. Through OpenGL where there is one, else by rays.
In T3 what can be moved is of another colour; its shape stays.
"""

import json
from functools import lru_cache

import mujoco
import numpy as np

from sim.cameras import BACKEND, Camera, make_camera
from sim.human_film import Film, FilmJob
from sim.human_labels import PHASES
from sim.human_metaworld_acts import SPREAD, Episode, Take, movable, own, record, replayed
from sim.human_shots import Acting, Shot, add_ball, draw_exogenous, shoot
from sim.human_strokes import FPS
from sim.human_tools import Demonstrator, make_demonstrator
from sim.suite import shared_suite
from sim.tasks.metaworld import _ALIASES, _UPSIDE_DOWN, CLOSE_UPS, INSTRUCTIONS, MetaWorldSuite
from vla.errors import UnderstudyError, unknown

CAMERAS = ("front", "side")
EDGES = ((0.4, 0.45), (-0.4, 0.45), (0.35, 0.95), (-0.35, 0.95))
"""Where the ball that has nothing to do with the task may be [m]."""
_KEPT = 6  # sets with their OpenGL contexts
_NAMES_COLORS = ("metaworld/bin-picking",)  # these words would not be true of other colours


class Set:
    """One task's model with one kind of demonstrator in it, and the cameras that have looked at it."""

    def __init__(self, suite: MetaWorldSuite, tool: Demonstrator | None, *, ball: bool) -> None:
        env = suite._env
        spec = mujoco.MjSpec.from_file(env.fullpath)
        for name in CLOSE_UPS:
            index = env.model.camera(name).id
            pose = {"pos": env.model.cam_pos[index], "quat": env.model.cam_quat[index]}
            spec.worldbody.add_camera(name=name, fovy=env.model.cam_fovy[index], **pose)
        if ball:
            add_ball(spec)
        if tool is not None:
            tool.add(spec)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.tool = tool
        self._cameras: dict[tuple[str, int], Camera] = {}
        self._stand = self.model.cam_pos.copy(), self.model.cam_quat.copy()
        if tool is not None:
            tool.bind(self.model)
            hidden = [self.model.body(name).id for name in ("base", "mocap")]
            self.model.geom_group[np.isin(self.model.body_rootid[self.model.geom_bodyid], hidden)] = 3
            for site in ("endEffector", "rightEndEffector", "leftEndEffector", "mocap"):
                self.model.site(site).rgba[3] = 0

    def dress(self, episode: Episode, look: Demonstrator | None) -> None:
        """What the episode's reset wrote into the model, and the demonstrator's colours."""
        own_sites = len(episode.fields["site_rgba"])
        hidden = self.model.site_rgba[:own_sites, 3] == 0
        for name, values in episode.fields.items():
            getattr(self.model, name)[: len(values)] = values
        self.model.site_rgba[:own_sites, 3][hidden] = 0
        self.model.cam_pos[:], self.model.cam_quat[:] = self._stand
        if look is not None:
            spec = mujoco.MjSpec()
            look.add(spec)
            colors = spec.compile().geom_rgba
            self.model.geom_rgba[-len(colors) :] = colors

    def camera(self, name: str, size: int) -> Camera:
        """Made once for each size, which costs more than a film does."""
        if (name, size) not in self._cameras:
            renderer = "ray" if BACKEND == "none" else "gl"
            self._cameras[name, size] = make_camera(
                self.model, name, height=size, width=size, renderer=renderer, sites=True
            )
        return self._cameras[name, size]


def film_metaworld(job: FilmJob) -> Film:
    """Act, then render."""
    if job.task not in MetaWorldSuite.task_names():
        raise unknown("task", job.task, MetaWorldSuite.task_names())
    if job.camera not in CAMERAS:
        raise UnderstudyError(f"Meta-World is filmed from {' or '.join(CAMERAS)}, not from {job.camera!r}")
    suite = shared_suite("metaworld", json.dumps({"cameras": []}))
    number = MetaWorldSuite.task_names().index(job.task)
    replays = job.embodiment == "robot" or job.tier == "T0"
    rng = np.random.default_rng([0x90B07, job.seed, number]) if replays else job.rng("plan")
    episode = record(suite, job, rng)
    take = replayed(job, episode) if replays else own(job, episode, rng)
    return _rendered(job, suite, episode, take)


@lru_cache(maxsize=_KEPT)
def _set(suite: MetaWorldSuite, task: str, embodiment: str, side: int, ball: bool) -> Set:
    """The set of a task that ``suite`` has just played."""
    tool = make_demonstrator(embodiment, side, np.random.default_rng(0), scale=1.0) if side else None
    return Set(suite, tool, ball=ball)


def _rendered(job: FilmJob, suite: MetaWorldSuite, episode: Episode, take: Take) -> Film:
    person = take.person
    stage = _set(suite, job.task, job.embodiment, person.side if person else 0, job.exogenous)
    look = make_demonstrator(job.embodiment, person.side, job.rng("tool"), scale=1.0) if person else None
    stage.dress(episode, look)
    name = _ALIASES.get(job.camera, job.camera)
    model, index = stage.model, stage.model.camera(name).id
    things = np.flatnonzero(movable(model)[: len(episode.fields["body_pos"])])
    _vary(job, model, index, things)
    shot = Shot(
        model=model,
        data=stage.data,
        camera=stage.camera(name, job.image_size),
        camera_id=index,
        states=episode.qpos[take.steps],
        acting=Acting(stage.tool, take.grips, person.shoulder) if person else None,
        gripper=_gripper,
        places=lambda data: data.xpos[things].copy(),
        exogenous=draw_exogenous(job.exogenous_rng, len(take.steps), edges=EDGES) if job.exogenous else None,
        upside_down=name in _UPSIDE_DOWN,
    )
    frames, labels = shoot(shot)
    labels |= {
        "object_names": np.array([model.body(int(thing)).name or f"body {thing}" for thing in things]),
        "phase": take.phases,
        "phase_names": np.array(PHASES),
        "contact": episode.touched[take.steps] & ((take.phases == 1) | (take.phases == 2)),
        "success": np.array(take.success),
        "progress": take.progress,
    }
    about = job.about() | {
        "success": take.success,
        "failure": take.failure,
        "hand": person.hand if person else "",
        "seat": person.seat if person else "",
        "frames": len(take.steps),
        "fps": FPS,
    }
    return Film(frames, INSTRUCTIONS[job.task.removeprefix("metaworld/")], labels, about)


def _gripper(data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray, float]:
    """Pose of the robot's hand [7], the middle between its fingers [3], its opening [m]."""
    hand, left, right = data.body("hand"), data.site("leftEndEffector").xpos, data.site("rightEndEffector").xpos
    spread = float(np.linalg.norm(data.body("leftclaw").xpos - data.body("rightclaw").xpos))
    return np.concatenate([hand.xpos, hand.xquat]), (left + right) / 2, min(SPREAD, spread)


def _vary(job: FilmJob, model: mujoco.MjModel, camera: int, things: np.ndarray) -> None:
    """The camera of the scene's seed, and in T3 other colours for what moves."""
    if "camera" in job.randomize:
        reach = 0.06 if job.embodiment != "robot" and job.tier in ("T2", "T3") else 0.02
        rng = np.random.default_rng([0xCA3E, job.scene])
        model.cam_pos[camera] += rng.uniform(-reach, reach, 3)
        model.cam_quat[camera] += rng.uniform(-reach, reach, 4) / 3
        model.cam_quat[camera] /= np.linalg.norm(model.cam_quat[camera])
    if job.tier == "T3" and job.embodiment != "robot" and job.task not in _NAMES_COLORS:
        color = job.rng("instance").uniform(0.1, 0.9, 3)
        model.geom_rgba[np.isin(model.geom_bodyid, things), :3] = color
