"""Scripted experts for robosuite's tasks.

Each looks only at the present state, never at what it did before, so that it recovers from disturbances. A behaviour
answers with where the grip point should be, which way the fingers should close and point, and what the gripper should
do; the action is a bounded step towards it. Of the training scenes 0…19 they do

    lift, stack, door, pick-place-can, pick-place-cereal     20 of 20, in 31, 57, 75, 116 and 118 steps
    pick-place-milk, pick-place-bread                        19 of 20, in 100 steps
    nut-assembly-square, nut-assembly-round                  18 of 20, in 110 steps: the wrist runs into its limit
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.suite import NoExpert
from sim.tasks.mujoco_suite import Expert

if TYPE_CHECKING:
    from sim.tasks.robosuite_guest import RobosuiteWorld

OPEN, CLOSED = -1.0, 1.0
STEP, TURN = 0.05, 0.5  # [m], [rad] what an action of 1 asks for
GAIN, TURN_GAIN = 4.0, 4.0  # the controller covers an eighth of a step within a period
HOVER = 0.1  # [m] above a thing, on the way over it
FUNNEL_NECK, FUNNEL_SLOPE = 0.008, 6.0  # [m], and metres up per metre aside
DEPTH = 0.03  # [m] how far below its top a tall thing is held
ABOVE = 0.04  # [m] how high a thing is carried over where it goes
OVER_WALLS = 0.18  # [m] the same, over the walls of bins
PEG = 0.1  # [m] from the middle of a peg to its top
NEARER = 0.06  # [m] than the middle of a bin, because the arm does not reach down to the farthest
FLOOR = 0.05  # [m] from where a bin is said to be to as far above its floor as a thing may fall
TILT = 0.1  # [m] aside that a hand counts for each radian that it is tilted
UNLATCHED = 1.2  # [rad] turn of the handle
CLEAR = 0.015  # [m] how near the grip point is to where it should close


DOWN = np.array([0.0, 0.0, -1.0])
UP = -DOWN


@dataclass(frozen=True)
class Aim:
    """``position`` of the grip point [m]; ``across``: the way the fingers close; ``along``: where they point."""

    position: np.ndarray
    across: np.ndarray
    gripper: float
    along: np.ndarray = field(default_factory=lambda: DOWN)


@dataclass(frozen=True)
class Thing:
    """An object: its middle and where to hold it [m], across what, coming from where, and its half height [m]."""

    body: str
    middle: np.ndarray
    hold: np.ndarray
    across: np.ndarray
    half_height: float
    along: np.ndarray = field(default_factory=lambda: DOWN)
    hover: float = HOVER


Behaviour = Callable[["RobosuiteWorld"], Aim]


def robosuite_expert(world: "RobosuiteWorld") -> Expert:
    """The expert for the world's task: each call gives the next action [7]."""
    if world.task not in BEHAVIOURS:
        raise NoExpert(
            f"there is no expert for robosuite/{world.task}; there are some for {', '.join(sorted(BEHAVIOURS))}"
        )
    behaviour = BEHAVIOURS[world.task]
    return lambda: _towards(world, behaviour(world))


def lift(world: "RobosuiteWorld") -> Aim:
    """Take the cube and raise it."""
    cube = _thing(world, world.env.cube)
    if _holds(world, cube):
        return Aim(world.grip.xpos + 0.1 * UP, _closing(world), CLOSED)
    return _take(world, cube)


def stack(world: "RobosuiteWorld") -> Aim:
    """Take the red cube and let go of it on the green one."""
    top, base = _thing(world, world.env.cubeA), _thing(world, world.env.cubeB)
    rest = base.middle + (base.half_height + top.half_height) * UP
    return _put(world, top, rest)


def pick_place(world: "RobosuiteWorld") -> Aim:
    """Take the thing and let it fall into its bin."""
    env = world.env
    thing = _thing(world, env.objects[env.object_id])
    *middle, floor = env.target_bin_placements[env.object_id]
    way = world.data.body("robot0_base").xpos[:2] - middle
    near = middle + NEARER * way / np.linalg.norm(way)
    rest = np.array([*near, floor + FLOOR + thing.half_height])
    return _put(world, thing, rest, over=OVER_WALLS, within=0.05)


def nut_assembly(world: "RobosuiteWorld") -> Aim:
    """Take the nut by its handle, turn it as the peg is turned, and lower it over the peg."""
    env, grip = world.env, world.grip.xpos
    about = env.nuts[env.nut_id]
    middle = world.data.body(about.root_body).xpos
    peg = world.data.body(f"peg{env.nut_id + 1}")
    handle = world.data.site(about.important_sites["handle"]).xpos
    nut = Thing(about.root_body, middle, handle, np.cross(UP, handle - middle), 0.01)
    if not _holds(world, nut):
        return _take(world, nut)
    way = (peg.xpos - middle)[:2]
    pointing = np.arctan2(handle[1] - middle[1], handle[0] - middle[0])
    turns = [float(np.angle(np.exp(1j * (angle - pointing)))) for angle in (np.pi / 2, np.pi, -np.pi / 2)]
    askew = min(turns, key=abs)  # sideways or towards the robot: the arm does not reach beyond the peg
    closing = _turned(_closing(world), np.clip(askew, -1, 1))  # the fingers are alike: a turn by more is another
    top, far = peg.xpos[2] + PEG, float(np.linalg.norm(way))
    threaded = middle[2] < top or (far < 0.004 and abs(askew) < 0.03)
    up = -0.05 if threaded and far < 0.02 else top + (0.03 if far < 0.03 else 0.06) - middle[2]
    return Aim(grip + np.array([*(way if up < 0.02 else (0, 0)), up]), closing, CLOSED)


def door(world: "RobosuiteWorld") -> Aim:
    """Take the handle from in front, push it down, and pull the door open."""
    env, data, grip = world.env, world.data, world.grip.xpos
    handle, latch, hinge = data.site("Door_handle").xpos, data.joint("Door_latch_joint"), data.joint("Door_hinge")
    inwards = latch.xaxis
    across = np.cross(inwards, handle - latch.xanchor)
    held = Thing("Door_latch", handle, handle, across, 0.02, inwards, hover=0.2)
    if not _holds(world, held):
        return _take(world, held)
    opened, turned = data.qpos[env.hinge_qpos_addr], data.qpos[env.handle_qpos_addr]
    way = _arc(handle, latch, 0.4) if turned < UNLATCHED and opened < 0.03 else _arc(handle, hinge, 0.3)
    return Aim(grip + way, across, CLOSED, inwards)


def _arc(point: np.ndarray, joint: Any, angle: float) -> np.ndarray:
    """The way [3] on which a joint that turns by ``angle`` [rad] takes a point."""
    arm = point - joint.xanchor
    along = joint.xaxis * (joint.xaxis @ arm)
    across = arm - along
    return (np.cos(angle) - 1) * across + np.sin(angle) * np.cross(joint.xaxis, across)


def _turned(way: np.ndarray, angle: float) -> np.ndarray:
    """A way, turned about the vertical by an angle [rad]."""
    return np.cos(angle) * way + np.sin(angle) * np.cross(UP, way)


def _put(world: "RobosuiteWorld", thing: Thing, rest: np.ndarray, *, over: float = ABOVE, within: float = 0.01) -> Aim:
    """Take ``thing``, carry it ``over`` and to ``rest``, let go of it ``within`` so much, and leave upwards."""
    grip = world.grip.xpos
    aside = float(np.linalg.norm((thing.middle - rest)[:2]))
    if _holds(world, thing):
        if aside < within and thing.middle[2] < rest[2] + 0.008:
            return Aim(grip, _closing(world), OPEN)
        up = rest[2] + min(over, 4.0 * max(0.0, aside - within / 2)) - thing.middle[2]
        sideways = (rest - thing.middle)[:2] if up < 0.03 else np.zeros(2)
        return Aim(grip + np.array([*sideways, up]), _closing(world), CLOSED)
    if aside < 2 * within:
        return Aim(grip + 0.1 * UP, _closing(world), OPEN)
    return _take(world, thing)


def _take(world: "RobosuiteWorld", thing: Thing) -> Aim:
    """Open, come down a funnel onto the thing, and close; down is where the fingers are to point."""
    grip, hold, along = world.grip.xpos, thing.hold, thing.along
    height = float((hold - grip) @ along)
    aside = float(np.linalg.norm(grip + height * along - hold))
    aside += TILT * float(np.linalg.norm(world.grip.xmat.reshape(3, 3)[:, 2] - along))
    if aside < CLEAR and height < 0.01:
        return Aim(hold, thing.across, CLOSED, along)
    wanted = min(thing.hover, FUNNEL_SLOPE * max(0.0, aside - FUNNEL_NECK))
    if height < wanted - 0.03:
        return Aim(grip - (wanted - height) * along, thing.across, OPEN, along)
    return Aim(hold - wanted * along, thing.across, OPEN, along)


def _towards(world: "RobosuiteWorld", aim: Aim) -> np.ndarray:
    """A bounded step [7] to where the aim is, as straight as the bounds allow."""
    delta = GAIN * (aim.position - world.grip.xpos) / STEP
    delta /= max(1.0, float(np.abs(delta).max()))
    rotation = world.grip.xmat.reshape(3, 3)
    across = aim.across - (aim.across @ aim.along) * aim.along
    across /= np.linalg.norm(across)
    beside = np.cross(aim.along, across)
    nearer = np.sign(across @ rotation[:, 0] + beside @ rotation[:, 1]) or 1.0  # the fingers are alike: the lesser turn
    wanted = np.stack([nearer * across, nearer * beside, aim.along], axis=1)
    turn = sum(np.cross(rotation[:, i], wanted[:, i]) for i in range(3)) / 2
    return np.array([*delta, *np.clip(TURN_GAIN * turn / TURN, -1, 1), aim.gripper])


def _closing(world: "RobosuiteWorld") -> np.ndarray:
    """The way in which the fingers close now."""
    return world.grip.xmat.reshape(3, 3)[:, 0]


def _holds(world: "RobosuiteWorld", thing: Thing) -> bool:
    """Whether both fingers touch it."""
    touched = {"left": False, "right": False}
    model, contacts = world.model, world.data.contact.geom
    for pair in contacts:
        names = [model.geom(int(geom)).name for geom in pair]
        bodies = [model.body(model.geom_bodyid[int(geom)]).name for geom in pair]
        for this, other in ((0, 1), (1, 0)):
            if bodies[other] == thing.body and "finger" in names[this]:
                touched["left" if "finger1" in names[this] else "right"] = True
    return all(touched.values())


def _thing(world: "RobosuiteWorld", about: object) -> Thing:
    """What robosuite's object is like at this instant, from the shapes that it collides with."""
    model, data = world.model, world.data
    body = model.body(about.root_body)
    rotation, place = data.body(body.id).xmat.reshape(3, 3), data.body(body.id).xpos
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for geom in np.flatnonzero(model.geom_bodyid == body.id):
        if not model.geom_contype[geom]:
            continue
        middle, half = model.geom_aabb[geom].reshape(2, 3)
        turned = data.geom_xmat[geom].reshape(3, 3)
        at = rotation.T @ (data.geom_xpos[geom] + turned @ middle - place)
        reach = np.abs(rotation.T @ turned) @ half
        low, high = np.minimum(low, at - reach), np.maximum(high, at + reach)
    size = high - low
    narrow = int(size[1] < size[0])
    across = rotation[:, narrow]
    if size[:2].max() < 0.075 and abs(across @ _closing(world)) < np.sqrt(0.5):
        across = rotation[:, 1 - narrow]  # it fits between the fingers either way: the lesser turn
    middle = place + rotation @ ((low + high) / 2)
    hold = middle + max(0.0, size[2] / 2 - DEPTH) * UP
    return Thing(about.root_body, middle, hold, across, size[2] / 2)


BEHAVIOURS: dict[str, Behaviour] = {
    "lift": lift,
    "stack": stack,
    "door": door,
    "nut-assembly-square": nut_assembly,
    "nut-assembly-round": nut_assembly,
    **dict.fromkeys(("pick-place-can", "pick-place-milk", "pick-place-bread", "pick-place-cereal"), pick_place),
}
