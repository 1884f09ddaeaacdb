"""What a seed decides in the table-top suite: where things lie, and how they look."""

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

RANDOMIZABLE = ("colors", "lights", "camera", "distractors")
DISTRACTORS = ("purple block", "orange ball")
HEIGHTS = {"red cube": 0.025, "green cube": 0.025, "blue cube": 0.025, "yellow cylinder": 0.03}
HEIGHTS |= {"purple block": 0.02, "orange ball": 0.022}  # [m] of the centre when it rests on the table
AREA_LOW, AREA_HIGH = np.array([0.38, -0.18]), np.array([0.6, 0.12])  # [m] where objects lie
DISTRACTOR_LOW, DISTRACTOR_HIGH = np.array([0.34, -0.4]), np.array([0.72, 0.2])
CLEARANCE = 0.085  # [m] between centres, so that the open fingers fit between two objects


@dataclass(frozen=True)
class Scene:
    """Start of an episode: free bodies' poses ([7]: position, wxyz), drawer opening [m], grip position [3]."""

    poses: dict[str, np.ndarray]
    drawer_opening: float
    grip_position: np.ndarray


def draw_scene(rng: np.random.Generator, *, distractors: bool) -> Scene:
    """Objects apart from each other on the table, the drawer part-way, the hand somewhere above."""
    names = [name for name in HEIGHTS if name not in DISTRACTORS]
    places = _apart(rng, count=len(names))
    poses = {name: _pose(place, HEIGHTS[name], rng) for name, place in zip(names, places, strict=True)}
    grip = np.array([0.46, -0.02, 0.22]) + rng.uniform(-1, 1, 3) * [0.05, 0.08, 0.03]
    opening = rng.uniform(0.035, 0.06)
    # last, so that distractors change nothing else
    extra = _around(rng, places) if distractors else [np.array([-0.3, side]) for side in (-0.6, 0.6)]
    for name, place in zip(DISTRACTORS, extra, strict=True):
        poses[name] = _pose(place, HEIGHTS[name], rng)
    return Scene(poses=poses, drawer_opening=opening, grip_position=grip)


def _apart(rng: np.random.Generator, *, count: int) -> np.ndarray:
    """``count`` places [count, 2] in the area, at least `CLEARANCE` from each other."""
    while True:
        places = rng.uniform(AREA_LOW, AREA_HIGH, (count, 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(count)
        if gaps.min() > CLEARANCE:
            return places


def _around(rng: np.random.Generator, places: np.ndarray) -> list[np.ndarray]:
    """A place for each distractor that is clear of the objects, of the tray, of the button and of the drawer."""
    fixtures = np.array([[0.46, -0.3], [0.63, -0.28], [0.5, 0.22], [0.66, -0.03]])
    taken = [*places, *fixtures]
    chosen: list[np.ndarray] = []
    while len(chosen) < len(DISTRACTORS):
        place = rng.uniform(DISTRACTOR_LOW, DISTRACTOR_HIGH)
        if min(np.linalg.norm(place - other) for other in taken) > CLEARANCE:
            chosen.append(place)
            taken.append(place)
    return chosen


def _pose(place: np.ndarray, height: float, rng: np.random.Generator) -> np.ndarray:
    half_yaw = rng.uniform(-0.12, 0.12) / 2  # the hand keeps its yaw, so cubes lie nearly square to it
    return np.array([*place, height, np.cos(half_yaw), 0.0, 0.0, np.sin(half_yaw)])


@dataclass(frozen=True)
class VisualDefaults:
    """The look of the scene as its file has it, to start from at every reset."""

    rgba: np.ndarray
    light_position: np.ndarray
    light_diffuse: np.ndarray
    camera_position: np.ndarray
    camera_quat: np.ndarray


def hide_distractors(model: mujoco.MjModel) -> VisualDefaults:
    """Make the distractors invisible (they are shown when asked for) and remember how the scene looks."""
    for name in DISTRACTORS:
        model.geom(name).rgba[3] = 0.0
    return VisualDefaults(
        rgba=model.geom_rgba.copy(),
        light_position=model.light_pos.copy(),
        light_diffuse=model.light_diffuse.copy(),
        camera_position=model.cam_pos.copy(),
        camera_quat=model.cam_quat.copy(),
    )


def randomize_visuals(
    model: mujoco.MjModel, defaults: VisualDefaults, *, kinds: Sequence[str], rng: np.random.Generator
) -> None:
    """Draw the look of one episode: each kind changes only what it names, the rest returns to the defaults."""
    model.geom_rgba[:] = defaults.rgba
    model.light_pos[:] = defaults.light_position
    model.light_diffuse[:] = defaults.light_diffuse
    model.cam_pos[:] = defaults.camera_position
    model.cam_quat[:] = defaults.camera_quat
    if "colors" in kinds:
        # small enough that red stays red; the table and the arm may change more
        model.geom_rgba[:, :3] = np.clip(defaults.rgba[:, :3] + rng.uniform(-0.08, 0.08, (model.ngeom, 3)), 0, 1)
        model.geom("table").rgba[:3] = rng.uniform(0.3, 0.8, 3)
    if "lights" in kinds:
        model.light_pos[:] += rng.uniform(-0.4, 0.4, model.light_pos.shape)
        model.light_diffuse[:] *= rng.uniform(0.6, 1.3)
    if "camera" in kinds:
        moved = [index for index in range(model.ncam) if model.camera(index).name != "film"]
        model.cam_pos[moved] += rng.uniform(-0.02, 0.02, (len(moved), 3))
        model.cam_quat[moved] += rng.uniform(-0.015, 0.015, (len(moved), 4))
        model.cam_quat[moved] /= np.linalg.norm(model.cam_quat[moved], axis=1, keepdims=True)
    if "distractors" in kinds:
        for name in DISTRACTORS:
            model.geom(name).rgba[3] = 1.0
