"""Who acts, and how a hand goes from one place to the next: persons, strokes, and the frames along them."""

from dataclasses import dataclass, replace

import numpy as np

from sim.human_hand import Grip
from sim.tasks.tabletop import TabletopTask
from sim.tasks.tabletop_scene import AREA_HIGH, AREA_LOW

FPS = 10
SEATS = {"opposite": 0.0, "left": np.pi / 2, "robot": np.pi, "right": -np.pi / 2}
"""Where the person sits about the table's middle [rad from the world's x]; ``robot`` is behind the robot's base."""
_SEAT_WEIGHTS = {"opposite": 0.2, "left": 0.3, "robot": 0.2, "right": 0.3}  # from opposite, the arm hides much
SHORTEST, LONGEST = 19, 44
"""Frames of all strokes together; the clip has one more, the start."""
MIDDLE = np.array([*(AREA_LOW + AREA_HIGH) / 2, 0.0])


@dataclass(frozen=True)
class Moment:
    """One frame of a plan: the tool, what it holds (``""``, a body, ``drawer`` or ``button``) and how."""

    grip: Grip
    phase: str
    hold: str = ""
    pushes: bool = False


@dataclass(frozen=True)
class Person:
    """Who acts: ``side`` +1 right-handed, -1 left-handed; ``shoulder`` and ``head`` [3] m; ``pace`` 1 is usual."""

    seat: str
    side: int
    shoulder: np.ndarray
    head: np.ndarray
    pace: float
    pitch: float
    roll: float
    hesitation: float

    @property
    def hand(self) -> str:
        """Which hand acts."""
        return "right" if self.side > 0 else "left"

    def facing(self, point: np.ndarray) -> float:
        """Yaw from the shoulder to a point."""
        return float(np.arctan2(*(point - self.shoulder)[1::-1]))


@dataclass(frozen=True)
class Stroke:
    """A movement to ``goal`` in so many frames; ``rise`` and ``bend`` [m] curve it upward and aside."""

    goal: Grip
    frames: float
    phase: str
    hold: str = ""
    pushes: bool = False
    rise: float = 0.0
    bend: float = 0.0


def draw_person(task: TabletopTask, rng: np.random.Generator) -> Person:
    """Somebody at the table; nobody reaches over the cabinet for its drawer."""
    seats = [seat for seat in SEATS if not (task.target == "drawer" and seat == "left")]
    weights = np.array([_SEAT_WEIGHTS[seat] for seat in seats])
    seat = seats[rng.choice(len(seats), p=weights / weights.sum())]
    side = 1 if rng.random() < 0.75 else -1
    angle = SEATS[seat] + rng.normal(0, 0.2)
    away = np.array([np.cos(angle), np.sin(angle), 0])
    to_their_right = np.array([-away[1], away[0], 0])
    reach = rng.uniform(0.58, 0.72)
    height = np.array([0, 0, rng.uniform(0.26, 0.42)])
    return Person(
        seat=seat,
        side=side,
        shoulder=MIDDLE + reach * away + side * rng.uniform(0.05, 0.2) * to_their_right + height,
        head=MIDDLE + rng.uniform(0.5, 0.6) * away + [0, 0, rng.uniform(0.55, 0.68)],
        pace=float(np.exp(rng.uniform(np.log(0.6), np.log(1.8)))),
        pitch=rng.uniform(0.5, 0.95),
        roll=rng.normal(0.2, 0.12) * side,  # the thumb's side is raised, as it is when one watches
        hesitation=rng.uniform(0, 0.5),
    )


def seat_for(seat: str, side: int) -> Person:
    """Somebody at the middle of a side who moves as told: for replays."""
    away = np.array([np.cos(SEATS[seat]), np.sin(SEATS[seat]), 0])
    shoulder, head = (MIDDLE + distance * away + [0, 0, height] for distance, height in ((0.65, 0.35), (0.55, 0.6)))
    return Person(seat, side, shoulder, head, pace=1.0, pitch=0.7, roll=0.0, hesitation=0.0)


def fitted(strokes: list[Stroke], *, shortest: int = SHORTEST) -> list[Stroke]:
    """Whole numbers of frames, ``shortest`` to `LONGEST` in all."""
    total = sum(stroke.frames for stroke in strokes)
    factor = np.clip(total, shortest, LONGEST) / total
    fitted = [replace(stroke, frames=max(1, round(factor * stroke.frames))) for stroke in strokes]
    while (more := sum(stroke.frames for stroke in fitted)) not in range(shortest, LONGEST + 1):
        longest = max(range(len(fitted)), key=lambda number: fitted[number].frames)
        change = 1 if more < shortest else -1
        fitted[longest] = replace(fitted[longest], frames=fitted[longest].frames + change)
    return fitted


def sampled(start: Grip, strokes: list[Stroke], rng: np.random.Generator) -> list[Moment]:
    """One `Moment` a frame, along minimum-jerk paths whose speed is not quite even."""
    moments = [Moment(start, strokes[0].phase)]
    at = start
    for stroke in strokes:
        goal, count = stroke.goal, int(stroke.frames)
        turned = goal.angles.copy()
        turned[0] = at.angles[0] + (goal.angles[0] - at.angles[0] + np.pi) % (2 * np.pi) - np.pi
        way = (goal.point - at.point)[:2]
        aside = np.array([-way[1], way[0], 0]) / (np.linalg.norm(way) + 1e-9)
        warp = rng.uniform(-0.4, 0.4)
        for number in range(1, count + 1):
            time = number / count
            time += warp * np.sin(2 * np.pi * time) / (2 * np.pi)
            part = time**3 * (10 - 15 * time + 6 * time**2)
            bow = np.sin(np.pi * part) * (stroke.bend * aside + [0, 0, stroke.rise])
            grip = Grip(
                point=at.point + part * (goal.point - at.point) + bow,
                angles=at.angles + part * (turned - at.angles),
                gap=at.gap + part * (goal.gap - at.gap),
                pointing=at.pointing + part * (goal.pointing - at.pointing),
                flat=at.flat + part * (goal.flat - at.flat),
            )
            moments.append(Moment(grip, stroke.phase, stroke.hold, stroke.pushes))
        at = replace(goal, angles=turned)
    return moments
