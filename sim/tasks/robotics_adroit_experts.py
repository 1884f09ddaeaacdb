"""Experts for the Adroit tasks, which read the simulator's state.

Three are scripts. Their forearm is led by inverse kinematics and computed torque: its springs alone would take half an
episode to arrive. Where the palm goes beside a thing and how the fingers close was found by search (cross-entropy, some
thousand trials in the training scenes 0 to 5). For the pen no script is known: what turns it in a scene was found by
the same search over six postures of the hand, and is played back without looking.
"""

from collections.abc import Callable, Iterator
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from sim.suite import NoExpert
from sim.tasks.led_hand import LedHand, turned
from sim.tasks.mujoco_suite import Expert
from sim.tasks.robotics_adroit import FOREARM, JOINTS, WRIST

if TYPE_CHECKING:
    from sim.tasks.robotics_adroit import AdroitWorld

SPRING, WRIST_SPRING = 200.0, 10.0  # [N/m] or [N m/rad] of a joint of the forearm, and of the wrist
CALM, BRISK = 15.0, 25.0  # [1/s] how fast the forearm makes up for what it lags behind
STRIDE, TURN = 0.012, 0.05  # [m], [rad] a step
PULL = 0.12  # [m] how far ahead of a dragged thing its goal is set

_NAMES = list(JOINTS)


def fist(
    closed: float,
    *,
    bends: tuple[float, float, float] = (1.6, 1.28, 0.96),
    thumb: tuple[float, float, float, float, float] = (1.0, 0.6, 0.0, 0.0, -1.2),
) -> np.ndarray:
    """An action [30] whose fingers are bent, from 0 (straight) to 1; the forearm's entries are 0.

    ``bends``: the fingers' three joints, from the knuckle on; ``thumb``: THJ4 to THJ0; [rad] at 1.
    """
    action = np.zeros(len(_NAMES))
    for finger in ("FF", "MF", "RF", "LF"):
        for joint, bend in zip((2, 1, 0), bends):
            action[_NAMES.index(f"{finger}J{joint}")] = bend * closed
    for joint, bend in zip((4, 3, 2, 1, 0), thumb):
        action[_NAMES.index(f"THJ{joint}")] = bend * closed
    return action


GRIP = fist(1.0, bends=(1.54, 1.6, 1.45), thumb=(0.6, 1.17, -0.14, -0.15, -1.14))
"""Round the handle of the hammer."""
ASTRIDE = fist(1.0, bends=(0.34, 0.36, 0.32), thumb=(0.83, 0.11, 0.0, 0.0, -0.77))
"""Above the handle, the thumb on its other side."""


def adroit_expert(world: "AdroitWorld") -> Expert:
    """The expert for the world's task: each call gives the next action [30]."""
    if world.task == "pen":
        return recorded_pen(world.seed).__next__
    script = {"door": door, "hammer": hammer, "relocate": relocate}[world.task]
    return script(world).__next__


def recorded_pen(seed: int) -> Iterator[np.ndarray]:
    """The demonstration of a scene, from its reset on; raises `NoExpert` for a scene that has none."""
    recordings = loads(Path(__file__).with_name("robotics_adroit_pen.json").read_text("utf-8"))
    if str(seed) not in recordings:
        raise NoExpert(
            f"no script is known for adroit/pen, and scene {seed} has no recorded demonstration; those that have one: "
            f"{', '.join(sorted(recordings, key=int))}"
        )
    return _played(np.array(recordings[str(seed)]))


def _played(hand: np.ndarray) -> Iterator[np.ndarray]:
    """Actions [30] from those of the wrist and the fingers [T, 24]; the last is held."""
    forearm = np.zeros(len(FOREARM))
    for row in hand:
        yield np.concatenate([forearm, row])
    while True:
        yield np.concatenate([forearm, hand[-1]])


def relocate(world: "AdroitWorld") -> Iterator[np.ndarray]:
    """Put the palm over the ball, close the hand, bring the ball to its place."""
    arm = LedForearm(world)
    level = arm.hand.pose[1]

    def ball() -> np.ndarray:
        return world.data.body("Object").xpos + _by(0, -0.02, 0)

    yield from arm.lead(lambda: ball() + _by(0, 0, 0.1), level, fist(0.3), near=0.03, patience=60)
    yield from arm.lead(ball, level, fist(0.3), near=0.012, patience=40)
    there = ball()
    yield from arm.lead(lambda: there, level, fist(1.0), near=0.0, patience=36)
    while True:
        missed = world.data.site("target").xpos - world.data.body("Object").xpos
        yield arm.action(arm.hand.pose[0] + missed, level, fist(1.0))


def door(world: "AdroitWorld") -> Iterator[np.ndarray]:
    """Press the latch down with hooked fingers, draw the door ajar by it, reach round its edge and push it open."""
    arm = LedForearm(world, attitude=0.03, eager=BRISK, stride=0.035)
    level, hooked, flat = arm.hand.pose[1], fist(1.0), fist(0.2)
    upright = np.array([0.0, 0.0, 1.0])
    hinge = world.data.joint("door_hinge").xanchor.copy()

    def handle() -> np.ndarray:
        return world.data.site("S_handle").xpos.copy()

    def turned_by() -> float:
        return float(world.data.joint("door_hinge").qpos[0])

    def on_door(x: float, y: float) -> np.ndarray:
        """A place beside the door that turns with it: x and y from the hinge, y into the room behind; 0.16 m high."""
        place = hinge + turned(np.eye(3), turned_by() * upright) @ [x, y, 0.0]
        return np.array([*place[:2], 0.16])

    above, below = handle() + _by(0.052, -0.105, 0.06), handle() + _by(-0.04, 0.1, -0.166)
    yield from arm.lead(lambda: above, level, fist(0.62), near=0.02, patience=31)
    yield from arm.lead(lambda: above, level, hooked, near=0.0, patience=5)
    yield from arm.lead(lambda: below, level, hooked, near=0.0, patience=21)
    begin, hold = turned_by(), arm.hand.pose[0] - handle() + _by(-0.188, -0.293, -0.049)
    for _ in range(50):
        if turned_by() > 0.14:
            break
        place = handle() + turned(np.eye(3), (turned_by() - begin) * upright) @ hold
        yield arm.action(place, turned(level, 1.17 * turned_by() * upright), hooked)
    yield from arm.lead(lambda: on_door(-0.6, -0.03) + _by(-0.11, -0.135, 0), level, flat, near=0.03, patience=15)
    yield from arm.lead(lambda: on_door(-0.6, -0.03) + _by(-0.11, 0.184, 0), level, flat, near=0.02, patience=12)
    while True:
        yield arm.action(on_door(-0.389, -0.257), turned(level, -0.13 * upright), flat)


def hammer(world: "AdroitWorld") -> Iterator[np.ndarray]:
    """Take the hammer by the end of its handle, lift it, bring its head before the nail and drive it in."""
    arm = LedForearm(world, attitude=0.03)
    level, strike = arm.hand.pose[1], np.array([0.93, 0.36, 0.0])  # the board does not turn

    def site(name: str) -> np.ndarray:
        return world.data.site(name).xpos.copy()

    def handle() -> np.ndarray:
        return world.data.body("Object").xpos + _by(0.068, -0.032, -0.016)

    yield from arm.lead(handle, level, ASTRIDE, near=0.0, patience=36)
    there = handle()
    yield from arm.lead(lambda: there, level, GRIP, near=0.0, patience=6)
    for _ in range(33):
        yield arm.drag(site("tool"), site("tool") + _by(0, 0, 0.03), GRIP)
    while np.linalg.norm(site("S_target") - 0.08 * strike - site("tool")) > 0.03:
        yield arm.drag(site("tool"), site("S_target") - 0.08 * strike, GRIP)
    while True:
        yield arm.drag(site("tool"), site("S_target") + 0.13 * strike, GRIP)


def _by(x: float, y: float, z: float) -> np.ndarray:
    """An offset [m]."""
    return np.array([x, y, z])


class LedForearm:
    """The forearm and the wrist, asked to bring the palm to a pose; the fingers do as they are told.

    ``attitude`` and ``stride`` [m] as `LedHand`'s; ``eager`` [1/s]: how fast it makes up for what it lags behind.
    """

    def __init__(
        self, world: "AdroitWorld", *, attitude: float = 1.0, eager: float = CALM, stride: float = STRIDE
    ) -> None:
        self._world, self._eager = world, eager
        own = [joint for joint in (*FOREARM, *WRIST) if world.has(joint)]
        self._entries = [_NAMES.index(joint) for joint in own]
        self._springs = np.where([joint in WRIST for joint in own], WRIST_SPRING, SPRING)
        self._arm = slice(0, len(own))
        self.hand = LedHand(world, site="S_grasp", joints=self._arm, stride=stride, turn=TURN, attitude=attitude)

    def lead(
        self, where: Callable[[], np.ndarray], rotation: np.ndarray, fingers: np.ndarray, *, near: float, patience: int
    ) -> Iterator[np.ndarray]:
        """Actions until the palm is near, or patience is at its end."""
        for _ in range(patience):
            place = where()
            yield self.action(place, rotation, fingers)
            if np.linalg.norm(self.hand.pose[0] - place) < near:
                return

    def action(self, position: np.ndarray, rotation: np.ndarray, fingers: np.ndarray) -> np.ndarray:
        """One action [30]: the palm a stride further towards a pose, the fingers as given."""
        wanted = self.hand.angles_toward((position, rotation))
        return self._pressed(wanted, fingers, eager=self._eager, damping=1.0)

    def drag(self, held: np.ndarray, goal: np.ndarray, fingers: np.ndarray) -> np.ndarray:
        """One action [30]: with force, a point that moves with the palm towards a goal, however the palm turns."""
        model, data = self._world.model, self._world.data
        jacobian = np.empty((3, model.nv))
        mujoco.mj_jac(model, data, jacobian, None, held, model.body("palm").id)
        arm, way = jacobian[:, self._arm], goal - held
        way *= min(1.0, PULL / max(1e-9, float(np.linalg.norm(way))))
        change = arm.T @ np.linalg.solve(arm @ arm.T + 1e-3 * np.eye(3), way)
        wanted = np.clip(data.qpos[self._arm] + change, *model.jnt_range[self._arm].T)
        return self._pressed(wanted, fingers, eager=BRISK, damping=0.7)

    def _pressed(self, wanted: np.ndarray, fingers: np.ndarray, *, eager: float, damping: float) -> np.ndarray:
        """The action that presses the springs so far that the joints go where they should; ``damping``: 1 critical."""
        data, model, arm = self._world.data, self._world.model, self._arm
        inertia = np.empty((model.nv, model.nv))
        mujoco.mj_fullM(model, inertia, data.qM)
        speed = eager * (wanted - data.qpos[arm]) - 2 * damping * data.qvel[arm]
        torque = inertia[arm, arm] @ (eager * speed)
        torque += data.qfrc_bias[arm] - data.qfrc_passive[arm]
        action = fingers.copy()
        action[self._entries] = data.qpos[arm] + torque / self._springs
        return action
