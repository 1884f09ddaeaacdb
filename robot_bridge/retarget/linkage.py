"""An arm as inverse kinematics sees it: a MuJoCo model of the arm alone, its joints, its tool, what must not touch.

Simulated arms bring the model that they are simulated by; the makers' arms, of which the bridge knows a table of
lengths, get one made of it; any other arm is read from an MJCF or URDF file (``--model``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import mujoco
import numpy as np

from robot_bridge.arms.arm import ArmSpec
from robot_bridge.arms.chain import Chain, quaternion
from vla.errors import UnderstudyError, first_line

TOOL, VIEW = "understudy_tool", "understudy_view"
RADIUS = 0.04
"""Of the links of an arm of which only the lengths are known [m]."""
CLEARANCE = 0.006
"""Of the links from the floor and from each other [m]."""


@dataclass(frozen=True)
class Linkage:
    """An arm for inverse kinematics.

    ``model``: the arm and what stands still around it; ``joints``: those of the arm, in the order of its setpoints
    without the gripper; ``tool``: a site; ``home``: where they are to begin with, ``None`` if nobody says; ``avoid``:
    pairs of groups of geoms that keep apart.
    """

    model: mujoco.MjModel
    joints: tuple[str, ...]
    tool: str
    home: tuple[float, ...] | None = None
    avoid: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()

    @property
    def places(self) -> np.ndarray:
        """Addresses of the joints in ``qpos``."""
        return np.array([self.model.joint(name).qposadr[0] for name in self.joints])


@runtime_checkable
class HasLinkage(Protocol):
    """An arm that brings its own model."""

    def linkage(self) -> Linkage:
        """See `Linkage`."""
        ...


def linkage_of(
    arm: Any, *, model: Path | None = None, tool: str = "", beyond_m: float = 0.0, turned_deg: float = 0.0
) -> Linkage:
    """Of an arm of the bridge, or of a ``model`` file whose site ``tool`` it holds.

    A gripper on the flange has its fingertips ``beyond_m`` farther along the tool's z, and opens along the tool's y
    ``turned_deg`` about it. Raises `UnderstudyError` for an arm of which nothing is known but its motors.
    """
    linkage = _bare(arm, model, tool)
    site = linkage.model.site(linkage.tool).id
    place, turn = linkage.model.site_pos[site], linkage.model.site_quat[site]
    way, half = np.empty(3), np.radians(turned_deg) / 2
    mujoco.mju_rotVecQuat(way, np.array([0.0, 0.0, beyond_m]), turn)
    place += way
    linkage.model.site_sameframe[site] = 0  # or MuJoCo goes on taking the body's own turning for it
    mujoco.mju_mulQuat(turn, turn.copy(), np.array([np.cos(half), 0.0, 0.0, np.sin(half)]))
    return linkage


def _bare(arm: Any, model: Path | None, tool: str) -> Linkage:
    joints = _turning(arm.spec)
    if model is not None:
        return of_file(model, joints, tool)
    if isinstance(arm, HasLinkage):
        return arm.linkage()
    if isinstance(getattr(arm, "kinematics", None), Chain):
        return of_chain(arm.kinematics, joints)
    raise UnderstudyError(
        f"of the arm {arm.spec.embodiment} only the motors are known: give its MJCF or URDF with --model FILE, and the "
        "site or body of its tool with --tool NAME"
    )


def _turning(spec: ArmSpec) -> tuple[str, ...]:
    """The joints without the gripper."""
    gripper = spec.gripper
    return tuple(name for index, name in enumerate(spec.joints) if gripper is None or index != gripper.index)


def of_file(file: Path, joints: Sequence[str], tool: str) -> Linkage:
    """Read from MJCF or URDF; ``tool`` names a site or a body."""
    if not file.is_file():
        raise UnderstudyError(f"there is no model {file}")
    try:
        return of_spec(mujoco.MjSpec.from_file(str(file)), joints, tool)
    except ValueError as error:
        raise UnderstudyError(f"MuJoCo does not read {file}: {first_line(error)}") from error


def of_spec(spec: mujoco.MjSpec, joints: Sequence[str], tool: str, *, home: tuple[float, ...] | None = None) -> Linkage:
    """The arm with these ``joints`` out of a scene, of which only what belongs to the world's own body stays."""
    there = {joint.name for joint in spec.joints}
    if missing := [name for name in joints if name not in there]:
        raise UnderstudyError(
            f"the model has no joint {', '.join(missing)}; it has {', '.join(sorted(there)) or 'none at all'}"
        )
    if not any(tool == part.name for part in [*spec.sites, *spec.bodies]):
        raise UnderstudyError(f"the model has neither a site nor a body {tool!r}")
    own = _root(next(joint for joint in spec.joints if joint.name == joints[0]).parent)
    remove = getattr(spec, "delete", None) or spec.detach_body  # MuJoCo 3.3.2 has the first instead of the second
    for body in spec.worldbody.bodies:
        if body.name != own.name:
            remove(body)
    for key in spec.keys:
        spec.delete(key) if hasattr(spec, "delete") else key.delete()
    if all(tool != site.name for site in spec.sites):
        next(body for body in spec.bodies if body.name == tool).add_site(name=TOOL)
        tool = TOOL
    for geom in spec.geoms:
        geom.contype, geom.conaffinity = 1, 1
    spec.worldbody.add_camera(name=VIEW)
    model = spec.compile()
    return Linkage(model, tuple(joints), tool, home, _apart(model))


def of_chain(chain: Chain, joints: Sequence[str]) -> Linkage:
    """Capsules along the arm that ``chain`` says, the tool at its flange, over a floor."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.01])
    body, frame = spec.worldbody, chain.first
    low, high = chain.low, chain.high
    for index, name in enumerate(joints):
        body = body.add_body(name=f"link {index + 1}", pos=frame[:3, 3], quat=quaternion(frame[:3, :3]))
        turn = _about_z(float(chain.offsets[index]))
        body.add_joint(name=name, axis=[0, 0, 1], range=[low[index], high[index]], limited=1)
        frame = turn @ chain.links[index]
        along = frame[:3, 3]
        if np.linalg.norm(along) > 2 * RADIUS:
            ends = [*np.zeros(3), *along]
            body.add_geom(type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=[RADIUS, 0, 0], fromto=ends, mass=1.0)
        else:
            body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[RADIUS, 0, 0], mass=1.0)
    body.add_site(name=TOOL, pos=frame[:3, 3], quat=quaternion(frame[:3, :3]))
    spec.worldbody.add_light(pos=[0.3, -0.5, 2.0], dir=[0.1, 0.2, -1.0])
    spec.worldbody.add_camera(name=VIEW)
    model = spec.compile()
    return Linkage(model, tuple(joints), TOOL, avoid=_apart(model))


def _apart(model: mujoco.MjModel) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """The second half of the arm keeps off what stands still, and off the arm's first links."""
    still = tuple(int(geom) for geom in np.flatnonzero(model.body_weldid[model.geom_bodyid] == 0))
    moving = [int(geom) for geom in range(model.ngeom) if geom not in still]
    if not moving:
        return ()
    depth = np.array([_depth(model, int(model.geom_bodyid[geom])) for geom in moving])
    far = tuple(geom for geom, deep in zip(moving, depth) if deep > np.median(depth))
    near = tuple(geom for geom, deep in zip(moving, depth) if deep < np.median(depth) - 2)
    return tuple((far, other) for other in (still, near) if far and other)


def _depth(model: mujoco.MjModel, body: int) -> int:
    return 0 if body == 0 else 1 + _depth(model, int(model.body_parentid[body]))


def _root(body: Any) -> Any:
    """The body of the world's own that ``body`` hangs on."""
    while body.parent is not None and body.parent.name != "world":
        body = body.parent
    return body


def _about_z(angle: float) -> np.ndarray:
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turned
