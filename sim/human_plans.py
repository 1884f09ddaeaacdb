"""How a person does a task of the table-top suite: strokes of the hand, drawn anew for every seed.

It shares nothing with the robot's expert but the scene: another approach, other paths, another speed, pauses,
corrections, and now and then a failure. A `Plan` is open-loop; `sim.human_world` says what it does to the scene.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import mujoco
import numpy as np

from sim.human_hand import PAD, Grip
from sim.human_strokes import MIDDLE, Moment, Person, Stroke, fitted, sampled
from sim.human_world import FPS, Thing, World, base_model
from sim.tasks.tabletop import TabletopTask

FAILURES = {
    "touch": ("miss", "short"),
    "lift": ("miss", "drop"),
    "push": ("miss", "short"),
    "stack": ("miss", "drop"),
    "put": ("miss", "drop"),
    "open": ("miss", "short"),
    "close": ("miss", "short"),
    "press": ("miss", "short"),
}
UP, FLAT = np.array([0.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])
_PACE = 0.42  # [m/s] of a person in no hurry
_OPEN = 0.03  # [m] by which the open fingers are wider than the thing


@dataclass
class Planner:
    """Strokes for one task in the scene of ``world``; ``failure``: one of `FAILURES` of the verb, or ``""``."""

    task: TabletopTask
    world: World
    person: Person
    rng: np.random.Generator
    pinch_yaw: float = 0.0
    failure: str = ""
    strokes: list[Stroke] = field(init=False, default_factory=list)
    start: Grip = field(init=False)

    def plan(self) -> list[Moment]:
        """All frames: idle, the task, the retreat."""
        self.start = self.at = self._home()
        self._wait(self.rng.uniform(0.1, 0.5), "approach")
        BEHAVIOURS[self.task.verb](self)
        return sampled(self.start, fitted(self.strokes), self.rng)

    @property
    def thing(self) -> Thing:
        """What is to be handled."""
        return self.world.things[self.task.target]

    def _home(self) -> Grip:
        """The hand before it does anything, at the person's side of the table."""
        away = (self.person.shoulder - MIDDLE) * FLAT
        away *= self.rng.uniform(0.3, 0.42) / np.linalg.norm(away)
        point = MIDDLE + away + self._stray(0.04) + self.rng.uniform(0.12, 0.24) * UP
        pitch = self.person.pitch * self.rng.uniform(0.2, 0.8)
        angles = np.array([self.person.facing(MIDDLE) + self.rng.normal(0, 0.15), pitch, self.person.roll])
        return Grip(point, angles, gap=self.rng.uniform(0.02, 0.07))

    def go(self, goal: Grip, phase: str, *, hold: str = "", pushes: bool = False, rise: float = 0.0) -> None:
        """A stroke at the person's pace; longer ones are curved."""
        distance = float(np.linalg.norm(goal.point - self.at.point))
        bend = self.rng.normal(0, 0.12) * distance if distance > 0.12 and not pushes and hold != "drawer" else 0.0
        frames = FPS * (0.12 + distance / _PACE) / self.person.pace
        self.strokes.append(Stroke(goal, frames, phase, hold, pushes, rise, bend))
        self.at = goal

    def _wait(self, seconds: float, phase: str, *, hold: str = "") -> None:
        self.strokes.append(Stroke(self.at, FPS * seconds / self.person.pace**0.5, phase, hold))

    def _moved(self, **changes: object) -> Grip:
        return replace(self.at, **changes)

    def _reach(self, grip: Grip, *, above: float) -> None:
        """Come over ``grip`` and down onto it, with a correction or a hesitation now and then."""
        back = (self.person.shoulder - grip.point) * FLAT
        over = grip.point + above * UP + self.rng.uniform(0, 0.3) * above * back / np.linalg.norm(back)
        if self.rng.random() < 0.3:
            beside = over + self._stray(0.025) + 0.01 * UP
            self.go(replace(grip, point=beside), "approach", rise=self.rng.uniform(0, 0.06))
            if self.rng.random() < 0.5:
                self._wait(0.2, "approach")
        self.go(replace(grip, point=over), "approach", rise=self.rng.uniform(0, 0.06))
        if self.rng.random() < self.person.hesitation:
            self._wait(self.rng.uniform(0.1, 0.4), "approach")
        self.go(grip, "approach")

    def _retreat(self) -> None:
        """Up, and back to where the person sits; some stop half-way."""
        self.go(self._moved(point=self.at.point + self.rng.uniform(0.05, 0.09) * UP), "retreat")
        home, part = self._home(), self.rng.uniform(0.4, 1.0)
        goal = replace(home, point=self.at.point + part * (home.point - self.at.point))
        self.go(goal, "retreat", rise=0.02)

    def _stray(self, deviation: float) -> np.ndarray:
        """A random displacement [3] m on the level."""
        return np.array([*self.rng.normal(0, deviation, 2), 0.0])

    def _missed(self, place: np.ndarray) -> np.ndarray:
        """A place [3] beside ``place`` with nothing on it."""
        others = np.array([self.world.position(name)[:2] for name in self.world.things])
        turns = self.rng.permutation(np.linspace(0, 2 * np.pi, 16, endpoint=False))
        distance = self.rng.uniform(0.065, 0.09)
        ring = place[:2] + distance * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        free = np.linalg.norm(ring[:, None] - others[None], axis=-1).min(axis=1)
        best = ring[np.flatnonzero(free > 0.06)[0]] if (free > 0.06).any() else ring[free.argmax()]
        return np.array([*best, place[2]])

    def _angles(
        self, point: np.ndarray, *, pitch: float, toward: float | None = None, period: float = 0.0
    ) -> np.ndarray:
        """Yaw as it comes naturally, or the nearest to it that differs from ``toward`` by a multiple of ``period``."""
        yaw = self.person.facing(point) + self.rng.normal(0, 0.1)
        if toward is not None and period:
            yaw = toward + period * round((yaw - toward) / period)
        return np.array([yaw, pitch, self.person.roll])

    def _grasp(self) -> str:
        """Take the target; the name to hold, ``""`` after a miss."""
        name, thing = self.task.target, self.thing
        place = self.world.position(name).copy()
        missed = self.failure == "miss"
        point = self._missed(place) if missed else place + self._stray(0.002)
        point[2] = min(0.9 * thing.half_height, 0.03) + self.rng.uniform(-0.003, 0.004)
        toward = self.world.yaw(name) + thing.across - self.pinch_yaw
        angles = self._angles(point, pitch=self.person.pitch, toward=toward, period=thing.period)
        gap = thing.width + _OPEN * self.rng.uniform(0.8, 1.5)
        self._reach(Grip(point, angles, gap), above=self.rng.uniform(0.06, 0.1))
        self.go(self._moved(gap=0.3 * thing.width if missed else thing.width), "grasp")
        self._wait(self.rng.uniform(0.05, 0.25), "grasp", hold="" if missed else name)
        return "" if missed else name

    def _raise(self, hold: str, height: float) -> None:
        self.go(self._moved(point=self.at.point * FLAT + height * UP), "act", hold=hold)

    def _slip(self, goal: Grip, hold: str, *, part: float) -> None:
        """Start towards ``goal``, lose what is held on the way, stop and go."""
        start = self.at
        point = start.point + part * (goal.point - start.point)
        self.go(replace(goal, point=point), "act", hold=hold)
        self.go(self._moved(gap=self.at.gap + 0.02, point=point + 0.02 * UP), "act")
        self._wait(self.rng.uniform(0.2, 0.5), "retreat")
        self._retreat()

    def lift(self) -> None:
        """Take it and hold it up."""
        hold = self._grasp()
        if self.failure == "drop":
            goal = self._moved(point=self.at.point + 0.16 * UP)
            self._slip(goal, hold, part=self.rng.uniform(0.1, 0.32))
            return
        high = self.at.point * FLAT + self.rng.uniform(0.14, 0.22) * UP
        goal = self._moved(point=high + self._stray(0.025))
        self.go(goal, "act", hold=hold)
        self._wait(self.rng.uniform(0.4, 0.9), "act", hold=hold)
        if not hold:
            self._retreat()

    def _carry(self, place: np.ndarray, *, drop_from: float) -> None:
        """Take the target, let it go so that its middle is above ``place``, retreat."""
        hold = self._grasp()
        offset = self.at.point - self.world.position(self.task.target) if hold else np.zeros(3)
        over = np.array([*(place + offset)[:2], place[2] + offset[2] + drop_from + self.rng.uniform(0.05, 0.1)])
        self._raise(hold, max(self.rng.uniform(0.1, 0.15), over[2]))
        if self.failure == "drop":
            self._slip(self._moved(point=over + 0.03 * UP), hold, part=self.rng.uniform(0.1, 0.45))
            return
        self.go(self._moved(point=over), "act", hold=hold, rise=self.rng.uniform(0.0, 0.05))
        if self.rng.random() < self.person.hesitation:
            self._wait(0.15, "act", hold=hold)
        self.go(self._moved(point=place + offset + drop_from * UP), "act", hold=hold)
        self.go(self._moved(gap=self.thing.width + _OPEN), "release")
        self._wait(self.rng.uniform(0.05, 0.25), "release")
        self._retreat()

    def put(self) -> None:
        """Into the tray, from a little above it."""
        tray = base_model().geom("tray")
        place = base_model().body("tray").pos + self._stray(0.01)
        place[2] = tray.pos[2] + tray.size[2] + self.thing.half_height
        self._carry(place, drop_from=self.rng.uniform(0.0, 0.02))

    def stack(self) -> None:
        """Onto the other cube."""
        base = self.world.position(self.task.goal) + self._stray(0.004)
        base[2] += self.world.things[self.task.goal].half_height + self.thing.half_height
        self._carry(base, drop_from=0.001)

    def push(self) -> None:
        """To the pad, with the fingertips or held between them."""
        pad = base_model().body("pad").pos + self._stray(0.008)
        here = self.world.position(self.task.target).copy()
        part = self.rng.uniform(0.2, 0.55) if self.failure == "short" else 1.0
        end = (1 - part) * here + part * pad
        if self.failure != "miss" and self.rng.random() < 0.35:
            hold = self._grasp()
            self.go(self._moved(point=end * FLAT + self.at.point * UP), "act", hold=hold)
            self.go(self._moved(gap=self.thing.width + _OPEN), "release")
            self._retreat()
            return
        ahead = (pad - here) * FLAT / np.linalg.norm((pad - here)[:2])
        touching = self.thing.radius + PAD
        height = min(self.thing.half_height, 0.022) * UP
        aside = np.zeros(3)
        if self.failure == "miss":
            sign = 1 if self.rng.random() < 0.5 else -1
            aside = sign * self.rng.uniform(0.05, 0.065) * np.array([-ahead[1], ahead[0], 0])
        begin = here * FLAT - (touching + self.rng.uniform(0.012, 0.03)) * ahead + aside + height
        angles = self._angles(begin, pitch=self.rng.uniform(0.95, 1.25))
        self._reach(Grip(begin, angles, gap=0.02, flat=1.0), above=self.rng.uniform(0.06, 0.09))
        hold = "" if self.failure == "miss" else self.task.target
        goal = end * FLAT - touching * ahead + aside + height
        self.go(self._moved(point=goal), "act", hold=hold, pushes=True)
        self._retreat()

    def touch(self) -> None:
        """With the tip of the first finger, from above."""
        thing, place = self.thing, self.world.position(self.task.target).copy()
        top = place + self._stray(0.2 * thing.radius) + (thing.half_height + PAD) * UP
        self._poke(top, hold=self.task.target, depth=0.0)

    def press(self) -> None:
        """The button, with the first finger."""
        model = base_model()
        cap = model.body("button").pos + model.body("button cap").pos + self._stray(0.004)
        self._poke(
            cap + (model.geom("button cap").size[1] + PAD) * UP, hold="button", depth=-model.joint("button").range[0]
        )

    def _poke(self, top: np.ndarray, *, hold: str, depth: float) -> None:
        """Bring the fingertip onto ``top`` and ``depth`` farther down; misses go beside it or stop above."""
        if self.failure == "miss":
            top = self._missed(top)
            top[2] = max(PAD + 0.004, top[2] - 0.04)
        if self.failure == "short":
            top = top + self.rng.uniform(0.025, 0.045) * UP
        hold = "" if self.failure else hold
        angles = self._angles(top, pitch=self.rng.uniform(0.75, 1.15))
        self._reach(Grip(top, angles, gap=0.0, pointing=1.0), above=self.rng.uniform(0.06, 0.1))
        if depth and not self.failure:
            self.go(self._moved(point=self.at.point - depth * UP), "act", hold=hold)
        self._wait(self.rng.uniform(0.25, 0.5), "act", hold=hold)
        self._retreat()

    def _handle(self) -> np.ndarray:
        """The middle of the handle [3] as the scene has it."""
        data = mujoco.MjData(base_model())
        data.qpos[:] = self.world.qpos
        mujoco.mj_kinematics(base_model(), data)
        return data.geom("handle").xpos.copy()

    def open_drawer(self) -> None:
        """By the handle, towards the middle of the table."""
        handle, model = self._handle(), base_model()
        missed, width = self.failure == "miss", 2 * model.geom("handle").size[0]
        point = handle + ([self.rng.choice([-1, 1]) * self.rng.uniform(0.05, 0.07), -0.015, 0.0] if missed else 0.0)
        angles = self._angles(point, pitch=self.rng.uniform(0.5, 0.8))
        self._reach(Grip(point, angles, gap=width + _OPEN), above=self.rng.uniform(0.05, 0.09))
        self.go(self._moved(gap=0.5 * width if missed else width), "grasp")
        hold = "" if missed else "drawer"
        self._wait(self.rng.uniform(0.05, 0.2), "grasp", hold=hold)
        left = model.joint("drawer").range[1] - self.world.scene.drawer_opening
        part = self.rng.uniform(0.1, 0.3) if self.failure == "short" else self.rng.uniform(0.85, 1.0)
        self.go(self._moved(point=self.at.point - [0, part * left, 0]), "act", hold=hold)
        if self.failure == "short":
            self.go(self._moved(point=self.at.point - [0, 0.05, 0]), "act")
        self.go(self._moved(gap=width + _OPEN), "release")
        self._retreat()

    def close_drawer(self) -> None:
        """With straight fingers against the handle."""
        handle, radius = self._handle(), base_model().geom("handle").size[0]
        before = handle - [0, radius + PAD, self.rng.uniform(-0.01, 0.01)]
        missed = self.failure == "miss"
        if missed:
            before[0] += self.rng.choice([-1, 1]) * self.rng.uniform(0.12, 0.14)
        angles = self._angles(before, pitch=self.rng.uniform(0.7, 1.0))
        start = before - [0, self.rng.uniform(0.02, 0.04), 0]
        self._reach(Grip(start, angles, gap=0.02, flat=1.0), above=self.rng.uniform(0.05, 0.09))
        self.go(self._moved(point=before), "grasp")
        hold = "" if missed else "drawer"
        part = self.rng.uniform(0.15, 0.5) if self.failure == "short" else 1.05
        push = np.array([0.0, part * self.world.scene.drawer_opening, 0.0])
        self._wait(0.1, "grasp", hold=hold)
        self.go(self._moved(point=self.at.point + push), "act", hold=hold)
        self._retreat()


BEHAVIOURS: dict[str, Callable[[Planner], None]] = {
    "touch": Planner.touch,
    "lift": Planner.lift,
    "push": Planner.push,
    "stack": Planner.stack,
    "put": Planner.put,
    "open": Planner.open_drawer,
    "close": Planner.close_drawer,
    "press": Planner.press,
}
