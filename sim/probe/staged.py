"""The table-top suite's physics, seen in a look of the scene's own: colours, lights, camera, and what moves by itself.

Training scenes and test scenes come from disjoint seeds; in a look that is *unseen* the camera strays farther than in
those that heads are fitted on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np

from sim.cameras import Picture, RayCamera
from sim.human_scene import EDGES, build_scene, draw_look
from sim.human_shots import Exogenous, draw_exogenous
from sim.human_strokes import FPS
from sim.shading import pixel_rays
from sim.tasks.tabletop import OBJECTS, TabletopSuite
from sim.tasks.tabletop_scene import HEIGHTS, RANDOMIZABLE
from vla.representation.evaluation.affordance import IGNORE, NEGATIVE, POSITIVE
from vla.types import Observation

CAMERA = "front"
LONGEST = 400  # control steps that the exogenous motion is drawn for
VIEWPOINT = np.array([-0.05, 0.0, 0.62])  # only an egocentric camera would use it
TOP = 0.008  # [m] from an object's highest point down to which a suction cup holds
LABEL_SIZE = 80
LEAST_SEEN = 25  # pixels, at twice the labels' size, of an object that is asked for


@dataclass(frozen=True)
class View:
    """Which look the scene has. ``exogenous``: a ball and a light that move by themselves."""

    image_size: int = 64
    unseen: bool = False
    exogenous: bool = False


class StagedSuite:
    """One table-top suite with and one without distractors, whichever the look shows, behind one camera."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._suites = {shown: TabletopSuite(cameras=(), randomize=("distractors",) * shown) for shown in (False, True)}
        self.suite = self._suites[False]
        self._model: mujoco.MjModel | None = None
        self._data: mujoco.MjData | None = None
        self._moving: Exogenous | None = None
        self._light = np.empty(0), np.empty(0)

    def reset(self, task: str, seed: int) -> None:
        """Start ``task`` in the scene and the look that ``seed`` decides."""
        look = draw_look(seed, CAMERA, randomize=RANDOMIZABLE, head=VIEWPOINT, loose=self.view.unseen)
        self.suite = self._suites[look.distractors]
        self.suite.reset(task, seed)
        self._model = build_scene(look, CAMERA, shapes={}, tool=None, ball=self.view.exogenous)
        self._data = mujoco.MjData(self._model)
        self._light = look.light_position, look.light_diffuse
        self._moving = None
        if self.view.exogenous:
            self._moving = draw_exogenous(np.random.default_rng([0xE80, seed]), LONGEST, edges=EDGES)
            self._model.geom("exogenous").rgba[:3] = self._moving.color
        size = self.view.image_size
        self._camera = RayCamera(self._model, CAMERA, height=size, width=size)

    def observe(self) -> Observation:
        """The picture and the suite's proprio."""
        state = self.suite.observe()
        self._settle()
        return Observation({CAMERA: self._camera.render(self._data)}, state.proprio, state.stamp_ns)

    def picture(self, size: int) -> Picture:
        """Colours, depth and segmentation, ``size`` pixels a side."""
        self._settle()
        return RayCamera(self._model, CAMERA, height=size, width=size).picture(self._data)

    def step(self, action: np.ndarray) -> None:
        """Carry out one action."""
        self.suite.step(action)

    def expert(self) -> Callable[[], np.ndarray]:
        """The suite's own."""
        return self.suite.expert()

    def geom(self, name: str) -> int:
        """The number of a geom in `picture`'s segmentation."""
        return self._model.geom(name).id

    def heights(self, picture: Picture) -> np.ndarray:
        """How high over the table each pixel's surface is [H, W] m."""
        size = len(picture.depth)
        rays = pixel_rays(size, size, float(self._model.cam_fovy[self._model.camera(CAMERA).id]))
        camera = self._data.camera(CAMERA)
        depth = np.where(np.isfinite(picture.depth), picture.depth, 0).reshape(-1)
        along = rays / -rays[:, 2:] * depth[:, None]
        return (along @ camera.xmat.reshape(3, 3)[2] + camera.xpos[2]).reshape(picture.depth.shape)

    def _settle(self) -> None:
        """Bring the picture's scene to where the suite is, and what moves by itself to this moment."""
        state = self.suite.data.qpos
        self._data.qpos[: len(state)] = state
        if self._moving is not None:
            frame = min(self.suite.steps * FPS // round(self.suite.spec.control_hz), LONGEST - 1)
            self._data.mocap_pos[self._model.body("exogenous").mocapid[0]] = self._moving.ball[frame]
            self._model.light_pos[:] = self._light[0] + self._moving.light[frame]
            self._model.light_diffuse[:] = self._light[1] * self._moving.strength[frame]
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)


@dataclass(frozen=True)
class Still:
    """A picture of the robot somewhere in a task, with what is in it; boxes are (x, y, w, h) as shares of the picture.

    ``pose`` [2 * 4 + 3]: x and y of the four objects and the end effector's position [m], base frame; ``graspable``
    [H, W]: 1 where an object's top is, 0 elsewhere, 2 for the robot itself; ``split``: whether the object stands free
    or near another.
    """

    image: np.ndarray
    pose: np.ndarray
    graspable: np.ndarray
    box: np.ndarray
    words: str
    split: str


@cache
def stage(view: View) -> StagedSuite:
    """The stage of this process, for who needs one at a time."""
    return StagedSuite(view)


def still(seed: int, view: View) -> Still | None:
    """The scene of ``seed`` after some steps of the expert at some task; ``None`` when the object is not to be seen."""
    staged, rng = stage(view), np.random.default_rng([0x57111, seed])
    target = OBJECTS[rng.integers(len(OBJECTS))]
    other = OBJECTS[rng.integers(len(OBJECTS))]
    staged.reset(f"tabletop/touch-{other.replace(' ', '-')}", seed)
    act = staged.expert()
    for _ in range(int(rng.integers(0, 25))):
        staged.step(act())
    picture = staged.picture(2 * LABEL_SIZE)
    pixels = np.argwhere(picture.segmentation == staged.geom(target))
    if len(pixels) < LEAST_SEEN:
        return None
    (top, left), (bottom, right) = pixels.min(0), pixels.max(0) + 1
    suite = staged.suite
    return Still(
        image=staged.observe().images[CAMERA],
        pose=np.array([*np.ravel([suite.position(name)[:2] for name in OBJECTS]), *suite.grip_position]),
        graspable=_graspable(staged),
        box=np.array([left, top, right - left, bottom - top]) / (2 * LABEL_SIZE),
        words=f"the {target}",
        split=_crowding(suite, target),
    )


def _graspable(staged: StagedSuite) -> np.ndarray:
    """Suction: the tops of free objects; the robot's own pixels do not count."""
    suite, picture = staged.suite, staged.picture(LABEL_SIZE)
    heights, labels = staged.heights(picture), np.full(picture.segmentation.shape, NEGATIVE)
    for name in suite.free_bodies:
        mine = picture.segmentation == staged.geom(name)
        labels[mine & (heights > suite.position(name)[2] + HEIGHTS[name] - TOP)] = POSITIVE
    model = suite.model
    robot = np.flatnonzero(model.body_rootid[model.geom_bodyid] == model.body("link0").id)
    labels[np.isin(picture.segmentation, robot)] = IGNORE
    return labels


def _crowding(suite: TabletopSuite, target: str) -> str:
    """OCID-Ref's splits, by the distance to the nearest other object."""
    others = [suite.position(name) for name in suite.free_bodies if name != target]
    gap = min(np.linalg.norm(suite.position(target)[:2] - other[:2]) for other in others)
    return "free" if gap > 0.13 else "near"
