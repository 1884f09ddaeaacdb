"""What a film of the table-top scene shows: its look, its camera, and other instances of what is in it.

Everything here is a function of a seed and says nothing about who acts, so that a person and a robot can be filmed in
one and the same place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import mujoco
import numpy as np

from sim.human_shots import add_ball
from sim.human_tools import Demonstrator
from sim.human_world import Thing, base_model, thing_of
from sim.tasks.tabletop import OBJECTS, SCENE_FILE, TabletopTask
from sim.tasks.tabletop_scene import DISTRACTORS, VisualDefaults, hide_distractors, randomize_visuals

CameraName = Literal["front", "side", "ego"]
EGO_FOVY = 62.0
EDGES = ((0.22, 0.28), (0.22, -0.28), (0.2, 0.0), (0.78, 0.28), (0.8, -0.28))
"""Places [m] at the rim of the picture, clear of the fixtures."""


@dataclass(frozen=True)
class Shape:
    """The type and the half sizes [3] m of a geom that stands in for another."""

    kind: int
    size: tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """Colours and lights of the table-top model, and how one camera stands."""

    rgba: np.ndarray
    light_position: np.ndarray
    light_diffuse: np.ndarray
    camera_position: np.ndarray
    camera_quat: np.ndarray
    fovy: float
    distractors: bool


def draw_look(seed: int, camera: CameraName, *, randomize: Sequence[str], head: np.ndarray, loose: bool) -> Look:
    """The suite's own randomisation, drawn for ``seed``; ``loose``: the camera strays more than the robot's may.

    ``head``: where the ``ego`` camera is, which looks at the middle of the table.
    """
    rng = np.random.default_rng([0x100C, seed])
    model, defaults = _scratch()
    shows = "distractors" in randomize and rng.random() < 0.5
    kinds = [kind for kind in randomize if kind != "distractors"] + ["distractors"] * shows
    model.geom_rgba[[model.geom(name).id for name in DISTRACTORS], 3] = 0
    randomize_visuals(model, defaults, kinds=kinds, rng=rng)
    if camera == "ego":
        position, quaternion, fovy = head.copy(), look_at(head, np.array([0.5, -0.04, 0.0])), EGO_FOVY
    else:
        index = model.camera(camera).id
        position, quaternion, fovy = model.cam_pos[index].copy(), model.cam_quat[index].copy(), model.cam_fovy[index]
    if loose and "camera" in randomize:
        extra = np.random.default_rng([0xCA3E, seed])
        position += extra.uniform(-0.06, 0.06, 3)
        turn = np.empty(4)
        axis = extra.standard_normal(3)
        mujoco.mju_axisAngle2Quat(turn, axis / np.linalg.norm(axis), extra.uniform(0, 0.08))
        mujoco.mju_mulQuat(quaternion, turn, quaternion.copy())
        fovy = float(fovy * extra.uniform(0.92, 1.1))
    light, diffuse = model.light_pos.copy(), model.light_diffuse.copy()
    return Look(model.geom_rgba.copy(), light, diffuse, position, quaternion, float(fovy), shows)


@cache
def _scratch() -> tuple[mujoco.MjModel, VisualDefaults]:
    """A table-top model whose look may be changed, and the look that it started with."""
    model = mujoco.MjModel.from_xml_path(str(SCENE_FILE))
    return model, hide_distractors(model)


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Quaternion of a camera at ``position`` that has ``target`` in its middle, upright."""
    back = position - target
    back = back / np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(back, right), back], axis=1).reshape(-1))
    return quaternion


def things_in(shapes: dict[str, Shape], *, distractors: bool) -> dict[str, Thing]:
    """The free bodies of the scene as `Thing`, those in ``shapes`` in their other shape."""
    model = base_model()
    things = {}
    for name in (*OBJECTS, *(DISTRACTORS if distractors else ())):
        geom = model.geom(name)
        shape = shapes.get(name) or Shape(int(geom.type[0]), tuple(geom.size))
        things[name] = thing_of(shape.kind, np.array(shape.size))
    return things


def draw_instance(task: TabletopTask, rng: np.random.Generator) -> dict[str, Shape]:
    """Another instance of what the task is about: geom → its shape."""
    box, ball = int(mujoco.mjtGeom.mjGEOM_BOX), int(mujoco.mjtGeom.mjGEOM_SPHERE)
    tube = int(mujoco.mjtGeom.mjGEOM_CYLINDER)
    grown = rng.uniform(0.95, 1.15)
    if task.target == "button":
        shapes = {"button cap": [Shape(box, (0.024, 0.024, 0.012)), Shape(tube, (0.034, 0.012, 0))]}
    elif task.target == "drawer":
        shapes = {
            "handle": [Shape(ball, (0.016, 0, 0)), Shape(box, (0.012, 0.008, 0.03)), Shape(tube, (0.014, 0.02, 0))]
        }
    else:
        longer = Shape(box, (0.036 * grown, 0.023, 0.023))
        rounder = Shape(ball, (0.025 * grown,) * 3)
        others = {"yellow cylinder": Shape(box, (0.024 * grown,) * 3)}
        other = others.get(task.target, Shape(tube, (0.024 * grown, 0.025, 0)))
        # nothing round is stacked, nothing that rolls is pushed
        shapes = {task.target: [longer, other] + [rounder] * (task.verb not in ("stack", "push"))}
    return {name: options[rng.integers(len(options))] for name, options in shapes.items()}


def build_scene(
    look: Look, camera: CameraName, *, shapes: dict[str, Shape], tool: Demonstrator | None, ball: bool
) -> mujoco.MjModel:
    """The table-top model in this look, and in it a tool that takes the robot's place."""
    spec = mujoco.MjSpec.from_file(str(SCENE_FILE))
    spec.worldbody.add_camera(name="ego", fovy=EGO_FOVY)
    for geom in spec.geoms:
        if geom.name in shapes:
            geom.type = mujoco.mjtGeom(shapes[geom.name].kind)
            geom.size = shapes[geom.name].size
    if ball:
        add_ball(spec)
    if tool is not None:
        tool.add(spec)
    model = spec.compile()
    if tool is not None:
        tool.bind(model)
        root = model.body("link0").id
        model.geom_group[model.body_rootid[model.geom_bodyid] == root] = 3  # cameras do not look at it
    model.geom_rgba[: len(look.rgba)] = look.rgba
    model.light_pos[:], model.light_diffuse[:] = look.light_position, look.light_diffuse
    index = model.camera(camera).id
    model.cam_pos[index], model.cam_quat[index] = look.camera_position, look.camera_quat
    model.cam_fovy[index] = look.fovy
    return model
