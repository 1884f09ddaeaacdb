"""What is done in a film of Meta-World: an expert's episode in physics, and which of its instants each frame shows.

Of the episode a demonstrator replays only the part in which things move, at its own speed; how it gets there and how
it leaves is its own. An attempt that fails ends before anything has moved.
"""

from dataclasses import dataclass, replace

import mujoco
import numpy as np

from sim.human_film import FilmJob
from sim.human_hand import Grip
from sim.human_labels import PHASES
from sim.human_strokes import FPS, Person, Stroke, fitted, sampled
from sim.human_tools import PINCH_YAWS
from sim.tasks.metaworld import MetaWorldSuite

MIDDLE = np.array([0.0, 0.68, 0.0])
ROBOT_STRIDE = 4
"""Control steps of 1/80 s in a frame of the robot: it is very quick, and filmed at half its speed."""
_STEPS_A_FRAME = 5.0  # of a person in no hurry
_MOST_STEPS = 300
_TAIL = 12
_NOISES = (0.25, 0.1, 0.0)  # half ranges of the action; the next one after an episode that failed
_COPIED = ("body_pos", "body_quat", "geom_pos", "geom_quat", "geom_rgba", "site_pos", "site_quat", "site_rgba")
_LIFTED = 0.02  # [m]
SPREAD = 0.1
"""Between the fingers when Meta-World calls the opening 1 [m]."""
_PACE = 0.42  # [m/s]
_UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Episode:
    """An expert's episode, one row for each control step, and the model's fields that the reset has written.

    ``tool`` [N, 3] m: the middle between the fingers; ``opening`` [N] m; ``touched`` [N]: the robot is at something
    movable; ``bodies`` [N, n, 3] m: where what is movable is.
    """

    qpos: np.ndarray
    tool: np.ndarray
    opening: np.ndarray
    touched: np.ndarray
    bodies: np.ndarray
    success: bool
    done_at: int
    fields: dict[str, np.ndarray]

    @property
    def first_touch(self) -> int:
        """The step at which something is touched first; where nothing is, some way before the end."""
        return int(self.touched.argmax()) if self.touched.any() else int(0.6 * self.done_at)

    @property
    def holds(self) -> bool:
        """Whether something is in the air at the end, which would stay there without the hand."""
        risen = self.bodies[-1, :, 2] - self.bodies[0, :, 2]
        return bool(self.touched[-3:].any() and len(risen) and risen.max() > _LIFTED)


@dataclass(frozen=True)
class Take:
    """What is filmed: the step of the episode, the tool (``None``: the robot) and the phase of each frame."""

    steps: np.ndarray
    grips: list[Grip] | None
    phases: np.ndarray
    progress: np.ndarray
    success: bool
    person: Person | None = None
    failure: str = ""


def record(suite: MetaWorldSuite, job: FilmJob, rng: np.random.Generator) -> Episode:
    """The expert's first success under less and less noise."""
    for noise in _NOISES:
        suite.reset(job.task, job.scene)
        episode = _recorded(suite, rng, noise)
        if episode.success:
            break
    return episode


def movable(model: mujoco.MjModel) -> np.ndarray:
    """Which bodies [B] hang on a joint and are not the robot's."""
    moves = np.zeros(model.nbody, bool)
    for body in range(1, model.nbody):
        moves[body] = model.body_jntnum[body] > 0 or moves[model.body_parentid[body]]
    return moves & (model.body_rootid != model.body("base").id)


def replayed(job: FilmJob, episode: Episode) -> Take:
    """The robot's own frames; with a tool in place of its gripper if the job is a demonstrator's."""
    steps = np.arange(0, len(episode.qpos), ROBOT_STRIDE)
    take = Take(steps, None, _phases(steps, episode), _progress(episode.tool, steps, episode), episode.success)
    if job.embodiment == "robot":
        return take
    person = _draw_person(job)
    angles = _angles(job, person, stray=0.0)
    return replace(take, grips=[_grip(episode, step, angles) for step in steps], person=person)


def own(job: FilmJob, episode: Episode, rng: np.random.Generator) -> Take:
    """Its own way to where things begin to move, the episode from there, and its own way back."""
    person = _draw_person(job)
    fails = bool(job.rng("failure").random() < job.failures)
    begin = max(0, episode.first_touch - int(rng.integers(4, 12)))
    angles = _angles(job, person, stray=rng.normal(0, 0.15))
    first = _grip(episode, begin, angles)
    home = _home(first, person, rng)
    there = sampled(home, fitted(_way_there(first, person, rng, short=fails), shortest=9), rng)
    during = np.empty(0, int) if fails else _warped(begin, len(episode.qpos) - 1, person.pace, rng)
    acted = [_grip(episode, step, angles) for step in during]
    last = acted[-1] if acted else there[-1].grip
    leaves = fails or not episode.holds
    back = sampled(last, fitted(_way_back(last, home, person, rng), shortest=3), rng)[1:] if leaves else []
    end = during[-1] if len(during) else begin
    steps = np.concatenate([np.full(len(there), begin), during, np.full(len(back), end)])
    phases = _phases(steps, episode)
    phases[: len(there)], phases[len(steps) - len(back) :] = 0, PHASES.index("retreat")
    grips = [*(moment.grip for moment in there), *acted, *(moment.grip for moment in back)]
    path = np.array([*(grip.point for grip in grips[: len(there)]), *episode.tool[begin:]])
    share = _progress(path, _positions(len(there), during - begin, len(back)), episode, begin=len(there) - begin)
    success = episode.success and not fails
    failure = "short" if fails else "" if success else "expert"
    return Take(steps, grips, phases, share, success, person, failure)


def _recorded(suite: MetaWorldSuite, rng: np.random.Generator, noise: float) -> Episode:
    env, expert = suite._env, suite.expert()
    model, data = env.model, env.data
    moves, robot = movable(model), model.body_rootid == model.body("base").id
    fields = {name: getattr(model, name).copy() for name in _COPIED}
    rows: list[tuple[np.ndarray, np.ndarray, float, bool, np.ndarray]] = []
    drift, left = np.zeros(3), _TAIL
    while left and suite.steps < _MOST_STEPS:
        one, other = model.geom_bodyid[data.contact.geom].T
        touched = bool(((robot[one] & moves[other]) | (robot[other] & moves[one])).any())
        opening = SPREAD * float(np.clip(suite._state[3], 0, 1))
        rows.append((data.qpos.copy(), env.tcp_center.copy(), opening, touched, data.xpos[moves].copy()))
        action = expert()
        drift = 0.8 * drift + 0.6 * rng.standard_normal(3)
        action[:3] += noise * drift
        suite.step(action)
        left -= suite.success
    qpos, tool, opening, touched, bodies = map(np.array, zip(*rows, strict=True))
    done_at = len(rows) - _TAIL if suite.success else len(rows)
    return Episode(qpos, tool, opening, touched, bodies, suite.success, done_at, fields)


def _grip(episode: Episode, step: int, angles: np.ndarray) -> Grip:
    return Grip(episode.tool[step], angles, gap=float(episode.opening[step]))


def _phases(steps: np.ndarray, episode: Episode) -> np.ndarray:
    """Numbers in `PHASES` [T]: there is a grasp where things are touched before they move."""
    far = np.linalg.norm(episode.bodies - episode.bodies[episode.first_touch], axis=2)
    moved = (far > 0.005).any(axis=1) & (np.arange(len(far)) >= episode.first_touch)
    acts = int(moved.argmax()) if moved.any() else episode.first_touch
    return np.searchsorted([episode.first_touch, acts], steps, side="right").astype(np.int8)


def _progress(path: np.ndarray, at: np.ndarray, episode: Episode, *, begin: int = 0) -> np.ndarray:
    """Share [T] of the tool's way to success that is behind at the places ``at`` [T] of ``path``.

    ``begin``: where in the path the episode's first step would be.
    """
    walked = np.concatenate([[0.0], np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()])
    done = min(episode.done_at + begin, len(path) - 1)
    share = walked[at] / max(float(walked[done]), 1e-6)
    return np.where((at >= done) & episode.success, 1, np.clip(share, 0, 0.99)).astype(np.float32)


def _positions(before: int, during: np.ndarray, after: int) -> np.ndarray:
    """Where each frame is on the path that leads there and then through the episode; the way back adds nothing."""
    last = before + during[-1] if len(during) else before - 1
    return np.concatenate([np.arange(before), before + during, np.full(after, last)]).astype(int)


def _draw_person(job: FilmJob) -> Person:
    """Somebody to the robot's left or right, so that the fingers can close as the gripper's do."""
    rng = job.rng("person")
    right = rng.random() < 0.15  # both cameras stand on the right, and see more of somebody on the left
    away = np.array([1.0 if right else -1.0, rng.normal(0, 0.15), 0])
    side = 1 if rng.random() < 0.75 else -1
    return Person(
        seat="right" if right else "left",
        side=side,
        shoulder=MIDDLE + rng.uniform(0.6, 0.72) * away + rng.uniform(0.3, 0.45) * _UP,
        head=MIDDLE + 0.6 * away + 0.65 * _UP,
        pace=float(np.exp(rng.uniform(np.log(0.6), np.log(1.8)))),
        pitch=rng.uniform(0.5, 0.9),
        roll=rng.normal(0.1, 0.1) * side,
        hesitation=rng.uniform(0, 0.5),
    )


def _angles(job: FilmJob, person: Person, *, stray: float) -> np.ndarray:
    """Yaw, pitch and roll at which the tool closes along the world's x, as the gripper does."""
    towards = np.pi if person.seat == "right" else 0.0
    return np.array([towards - PINCH_YAWS[job.embodiment] + stray, person.pitch, person.roll])


def _home(first: Grip, person: Person, rng: np.random.Generator) -> Grip:
    away = (person.shoulder - MIDDLE) * [1, 1, 0]
    away *= rng.uniform(0.3, 0.42) / np.linalg.norm(away)
    point = MIDDLE + away + [*rng.normal(0, 0.04, 2), rng.uniform(0.12, 0.3)]
    angles = first.angles + np.array([rng.normal(0, 0.2), -rng.uniform(0.1, 0.5), 0])
    return Grip(point, angles, gap=float(rng.uniform(0.02, 0.07)))


def _way_there(first: Grip, person: Person, rng: np.random.Generator, *, short: bool) -> list[Stroke]:
    """Over the place and down to it; a short one stays above."""
    over = replace(first, point=first.point + rng.uniform(0.04, 0.08) * _UP)
    strokes = [_stroke(over, 0.4, person, rng, rise=rng.uniform(0, 0.06))]
    if rng.random() < person.hesitation:
        strokes.append(Stroke(over, FPS * rng.uniform(0.1, 0.4), "approach"))
    if short:
        low = replace(over, point=over.point - rng.uniform(0.0, 0.02) * _UP)
        return [*strokes, _stroke(low, 0.02, person, rng), Stroke(low, FPS * rng.uniform(0.2, 0.5), "approach")]
    return [*strokes, _stroke(first, 0.06, person, rng)]


def _way_back(last: Grip, home: Grip, person: Person, rng: np.random.Generator) -> list[Stroke]:
    above = replace(last, point=last.point + rng.uniform(0.04, 0.08) * _UP, gap=last.gap + 0.02)
    return [_stroke(above, 0.06, person, rng), _stroke(home, 0.3, person, rng)]


def _stroke(goal: Grip, distance: float, person: Person, rng: np.random.Generator, *, rise: float = 0.0) -> Stroke:
    frames = FPS * (0.12 + distance / _PACE) / person.pace
    bend = rng.normal(0, 0.12) * distance if distance > 0.12 else 0.0
    return Stroke(goal, frames, "approach", rise=rise, bend=bend)


def _warped(begin: int, end: int, pace: float, rng: np.random.Generator) -> np.ndarray:
    """Steps of the episode from ``begin`` to ``end``, one a frame, at an uneven speed and with a pause now and then."""
    rate = _STEPS_A_FRAME * pace
    count = int(np.clip((end - begin) / rate, 5, 32))
    speeds = np.exp(rng.normal(0, 0.25, count))
    if rng.random() < 0.4:
        speeds[rng.integers(count)] = 0.05
    passed = speeds.cumsum() / speeds.sum()
    return begin + np.rint(passed * (end - begin)).astype(int)
