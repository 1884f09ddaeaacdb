"""Worlds and senses other than those trained on, one axis at a time: how robust a policy is.

An axis has levels; 0 is the world as it is. The same scene (task and seed) is disturbed alike whoever plays it.

    camera                 every camera moves by 2 cm and turns by 2° a level, each in a direction of its own
    light                  the lamps shine from elsewhere and by a factor of up to 1.5 a level brighter or darker
    colours                every colour moves a tenth of the way a level to one that is drawn for it
    distractors            two more balls lie about for each level; they are seen and not felt
    camera-dropped         the policy's camera of that number gives black pictures
    late                   it sees what was 50 ms ago for each level
    instruction-blank      it is told nothing
    instruction-swapped    it is told another task's words (and judged on its own)
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from sim.suite import Suite
from vla.errors import UnderstudyError, unknown
from vla.types import Observation

if TYPE_CHECKING:
    import mujoco

    from sim.cameras import Balls

WORLD = ("camera", "light", "colours", "distractors")
AXES = {**dict.fromkeys(WORLD, 3), "camera-dropped": 1, "late": 3, "instruction-blank": 1, "instruction-swapped": 1}
"""Axis → its highest level; of ``camera-dropped`` as many as the policy has cameras."""
LATE_S = 0.05
_SHIFT, _TURN = 0.02, np.deg2rad(2.0)
_RADII = (0.02, 0.035)  # [m] of distractors
_BRIGHTER, _BLEND = 1.5, 0.1


@dataclass(frozen=True)
class Disturbance:
    """One axis at one level; level 0 of no axis changes nothing."""

    axis: str = ""
    level: int = 0

    def __post_init__(self) -> None:
        if self.axis and self.axis not in AXES:
            raise unknown("axis", self.axis, AXES)
        if self.level < bool(self.axis) or (self.axis not in ("", "camera-dropped") and self.level > AXES[self.axis]):
            raise UnderstudyError(f"the levels of {self.axis} are 1…{AXES[self.axis]}, got {self.level}")

    def __str__(self) -> str:
        return f"{self.axis}:{self.level}" if self.axis else ""

    @contextmanager
    def of_world(self, suite: Suite, seed: int) -> Iterator[None]:
        """The world of the episode that has just begun, changed for a while."""
        if self.axis not in WORLD:
            yield
            return
        with suite.disturbed(self.axis, self.level, seed):
            yield

    def words(self, instruction: str) -> str:
        """What the policy is told."""
        return "" if self.axis == "instruction-blank" else instruction


class Senses:
    """What a policy that looks through these ``cameras`` sees of an episode."""

    def __init__(self, suite: Suite, disturbance: Disturbance, cameras: Sequence[str]) -> None:
        self._suite, self._dropped, behind = suite, "", 0
        if disturbance.axis == "camera-dropped":
            if disturbance.level > len(cameras):
                raise UnderstudyError(f"camera {disturbance.level} cannot drop; there are {', '.join(cameras)}")
            self._dropped = cameras[disturbance.level - 1]
        if disturbance.axis == "late":
            behind = ceil(LATE_S * disturbance.level * suite.spec.control_hz - 1e-9)
        self._seen: deque[Observation] = deque(maxlen=behind + 1)

    def pass_by(self) -> None:
        """A control step begins: what will be seen late is looked at now."""
        if self._seen.maxlen != 1:
            self._seen.append(self._suite.observe())

    def observe(self) -> Observation:
        """What the policy sees at this control step."""
        seen = self._suite.observe() if self._seen.maxlen == 1 else self._seen[0]
        if not self._dropped:
            return seen
        images = {**seen.images, self._dropped: np.zeros_like(seen.images[self._dropped])}
        return Observation(images=images, proprio=seen.proprio, stamp_ns=seen.stamp_ns)


@dataclass(frozen=True)
class Place:
    """Where distractors may stand: corners of a rectangle (x, y) and the height of what they stand on [m]."""

    low: tuple[float, float]
    high: tuple[float, float]
    height: float


@contextmanager
def disturb(model: "mujoco.MjModel", data: "mujoco.MjData", by: Disturbance, seed: int, place: Place) -> Iterator[None]:
    """For a while ``model`` looks otherwise; ``place``: where distractors may stand."""
    import mujoco

    from sim.cameras import balls_in

    if by.axis not in WORLD:
        raise unknown("axis of the world", by.axis, WORLD)
    rng = np.random.default_rng([0xD157, WORLD.index(by.axis), seed])
    if by.axis == "distractors":
        with balls_in(model, _balls(2 * by.level, rng, place)):
            yield
        return
    changed = {
        "camera": (model.cam_pos, model.cam_quat),
        "light": (model.light_diffuse, model.light_dir, model.vis.headlight.diffuse, model.vis.headlight.ambient),
        "colours": (model.geom_rgba, model.mat_rgba),
    }[by.axis]
    before = [array.copy() for array in changed]
    if by.axis == "camera":
        _move_cameras(model, by.level, rng)
    elif by.axis == "light":
        _change_lights(model, by.level, rng)
    else:
        for rgba in changed:
            rgba[:, :3] += _BLEND * by.level * (rng.uniform(size=(len(rgba), 3)) - rgba[:, :3])
    mujoco.mj_camlight(model, data)  # no more: after a step poses are those before it, and have to stay so
    try:
        yield
    finally:
        for array, values in zip(changed, before, strict=True):
            array[:] = values
        mujoco.mj_camlight(model, data)


def _move_cameras(model: "mujoco.MjModel", level: int, rng: np.random.Generator) -> None:
    import mujoco

    for number in range(model.ncam):
        way, about = (_direction(rng) for _ in range(2))
        model.cam_pos[number] += _SHIFT * level * way
        turn, turned = np.empty(4), np.empty(4)
        mujoco.mju_axisAngle2Quat(turn, about, _TURN * level)
        mujoco.mju_mulQuat(turned, model.cam_quat[number], turn)
        model.cam_quat[number] = turned


def _change_lights(model: "mujoco.MjModel", level: int, rng: np.random.Generator) -> None:
    brighter = _BRIGHTER ** (level * rng.uniform(-1, 1))
    for array in (model.light_diffuse, model.vis.headlight.diffuse, model.vis.headlight.ambient):
        array *= brighter
    for direction in model.light_dir:
        direction += 0.3 * level * rng.uniform(-1, 1, 3)
        direction /= max(1e-6, float(np.linalg.norm(direction)))


def _direction(rng: np.random.Generator) -> np.ndarray:
    drawn = rng.standard_normal(3)
    return drawn / np.linalg.norm(drawn)


def _balls(count: int, rng: np.random.Generator, place: Place) -> "Balls":
    from sim.cameras import Balls

    radius = rng.uniform(*_RADII, count)
    position = np.column_stack([rng.uniform(place.low, place.high, (count, 2)), place.height + radius])
    return Balls(position, radius, rng.uniform(0.1, 0.9, (count, 3)))
