"""What can do a task in place of a robot: the hand, a stick with two claws, and two spheres (as in XSkill).

All are `Demonstrator` and are steered by the same `sim.human_hand.Grip`.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import mujoco
import numpy as np

from sim.human_hand import KEYPOINTS, SKINS, Grip, Hand, HandLook, add_shape, weigh

DemonstratorName = Literal["hand", "grabber", "sphere"]

_CLAW_HALF = (0.009, 0.004, 0.032)
_STICK = (0.009, 0.75)
_STICK_LEAN = np.array([0.0, 0.0, 0.35])
"""How far above the shoulder the stick points [m]."""
_SPHERE_RADIUS = 0.025
_SLEEVES = ((0.15, 0.22, 0.45), (0.75, 0.75, 0.72), (0.25, 0.26, 0.28), (0.45, 0.15, 0.2), (0.2, 0.4, 0.3))


PINCH_YAWS: dict[str, float] = {"hand": 0.0, "grabber": np.pi / 2, "sphere": np.pi / 2}
"""Angle from the yaw to the line on which each closes [rad]."""


class Demonstrator(Protocol):
    """Something that is added to a scene before it is compiled, and then put into a pose for every frame."""

    geoms: frozenset[int]

    def add(self, spec: mujoco.MjSpec) -> None:
        """Put it last among the bodies of ``spec``."""
        ...

    def bind(self, model: mujoco.MjModel) -> None:
        """Look up where it is in the compiled ``model``."""
        ...

    def show(self, data: mujoco.MjData, grip: Grip, shoulder: np.ndarray) -> np.ndarray:
        """Write its pose into ``data``; the pose [7] (xyz, wxyz) of its palm, or what it has in its place."""
        ...

    def keypoints(self, data: mujoco.MjData) -> np.ndarray:
        """The 21 keypoints [21, 3], world; NaN for what has none."""
        ...


def make_demonstrator(
    name: DemonstratorName, side: int, rng: np.random.Generator, *, scale: float | None = None
) -> Demonstrator:
    """One with a look of its own; ``side``: +1 right-handed, -1 left-handed; ``scale``: a size that is not drawn."""
    jitter = rng.uniform(-0.05, 0.05, 3)
    skin = np.clip(SKINS[rng.integers(len(SKINS))] + jitter[0], 0.05, 1)
    sleeve = np.clip(_SLEEVES[rng.integers(len(_SLEEVES))] + jitter, 0, 1)
    scale = scale or float(rng.uniform(0.88, 1.12))
    if name == "hand":
        return Hand(HandLook(side, scale, tuple(skin.tolist()), tuple(sleeve.tolist())))
    return Claws(kind=name, color=tuple(sleeve.tolist()))


@dataclass
class Claws:
    """Two claws on a stick that somebody holds (``grabber``), or two spheres that nobody does (``sphere``)."""

    kind: Literal["grabber", "sphere"]
    color: tuple[float, float, float]
    geoms: frozenset[int] = field(init=False, repr=False, default=frozenset())
    _slides: np.ndarray = field(init=False, repr=False)
    _mocap: int = field(init=False, repr=False)

    def add(self, spec: mujoco.MjSpec) -> None:
        """The tool's frame: z up the stick, y from one claw to the other, origin between the tips."""
        tool = spec.worldbody.add_body(name="tool", mocap=True)
        for name, sign in (("left", 1), ("right", -1)):
            claw = weigh(tool.add_body(name=f"{name} claw"))
            slide = mujoco.mjtJoint.mjJNT_SLIDE
            claw.add_joint(name=f"{name} claw", type=slide, axis=[0, sign, 0])
            if self.kind == "sphere":
                at, size = [0, sign * _SPHERE_RADIUS, 0], [_SPHERE_RADIUS, 0, 0]
                add_shape(claw, f"{name} claw", kind="SPHERE", size=size, rgb=self.color, pos=at)
            else:
                at = [0, sign * _CLAW_HALF[1], _CLAW_HALF[2] - 0.012]
                add_shape(claw, f"{name} claw", kind="BOX", size=_CLAW_HALF, rgb=(0.15, 0.15, 0.16), pos=at)
        if self.kind == "grabber":
            top = 2 * _CLAW_HALF[2] - 0.012
            add_shape(tool, "head", kind="BOX", size=[0.012, 0.045, 0.008], rgb=(0.15, 0.15, 0.16), pos=[0, 0, top])
            add_shape(
                tool,
                "stick",
                kind="CAPSULE",
                size=[_STICK[0], 0, 0],
                rgb=self.color,
                fromto=[0, 0, top, 0, 0, _STICK[1]],
            )

    def bind(self, model: mujoco.MjModel) -> None:
        """Look up where the tool is in the compiled ``model``."""
        names = ("left claw", "right claw")
        self._slides = np.array([model.joint(name).qposadr[0] for name in names])
        self._mocap = int(model.body("tool").mocapid[0])
        self.geoms = frozenset(model.geom(name).id for name in names)

    def show(self, data: mujoco.MjData, grip: Grip, shoulder: np.ndarray) -> np.ndarray:
        """The claws close across the yaw; the stick leans towards the one who holds it."""
        yaw = grip.angles[0]
        across = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
        up = shoulder + _STICK_LEAN - grip.point
        up -= (up @ across) * across
        up /= np.linalg.norm(up)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, np.stack([np.cross(across, up), across, up], axis=1).reshape(-1))
        data.mocap_pos[self._mocap], data.mocap_quat[self._mocap] = grip.point, quaternion
        data.qpos[self._slides] = grip.gap / 2 * (1 - grip.pointing) * (1 - grip.flat)
        return np.concatenate([grip.point, quaternion])

    def keypoints(self, data: mujoco.MjData) -> np.ndarray:
        """NaN: it has no fingers."""
        return np.full((KEYPOINTS, 3), np.nan)
