"""What a posed hand does to the table-top scene without physics: held things follow it, released ones fall to rest.

A `World` is stepped with one `Moment` after the other and tells the whole state of the table-top model (`qpos`), so
that its states and those of a robot's episode are read, judged and rendered by the same code.
"""

from dataclasses import dataclass, field
from functools import cache

import mujoco
import numpy as np

from sim.human_hand import PAD, Grip, rotation_of
from sim.human_strokes import FPS, Moment
from sim.tasks.tabletop import HOME_JOINTS, SCENE_FILE, TabletopSuite, TabletopTask
from sim.tasks.tabletop_scene import Scene

GRAVITY = 9.81
_LANDED = 1e-6


@dataclass(frozen=True)
class Thing:
    """A free body: half its height, how far it reaches aside, how wide it is between fingers [m].

    ``period`` rad: after which turn it can be taken in the same way, 0 for any; ``across`` rad: from its yaw to the
    line on which fingers close.
    """

    half_height: float
    radius: float
    width: float
    period: float = 0.0
    across: float = 0.0


@cache
def base_model() -> mujoco.MjModel:
    """The table-top suite's own model; not to be changed."""
    return mujoco.MjModel.from_xml_path(str(SCENE_FILE))


def thing_of(kind: int, size: np.ndarray) -> Thing:
    """The `Thing` that a geom of this type and these half sizes is."""
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return Thing(half_height=size[0], radius=size[0], width=2 * size[0])
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return Thing(half_height=size[1], radius=size[0], width=2 * size[0])
    if abs(size[0] - size[1]) < 1e-6:
        return Thing(half_height=size[2], radius=1.1 * size[0], width=2 * size[0], period=np.pi / 2)
    return Thing(half_height=size[2], radius=size[0], width=2 * size[1], period=np.pi, across=np.pi / 2)


def addresses(model: mujoco.MjModel, bodies: list[str]) -> dict[str, int]:
    """Body → where its free joint starts in ``qpos``."""
    return {name: int(model.jnt_qposadr[model.body(name).jntadr[0]]) for name in bodies}


@dataclass
class World:
    """The state of the table-top model under a tool's hand; ``things``: every free body that is in the scene."""

    scene: Scene
    things: dict[str, Thing]
    qpos: np.ndarray = field(init=False)
    touching: bool = field(init=False, default=False)
    """whether the tool is at what the last moment held"""
    _relative: tuple[str, np.ndarray, np.ndarray] | None = field(init=False, default=None)
    _falling: dict[str, float] = field(init=False, default_factory=dict)
    _before: np.ndarray = field(init=False, default_factory=lambda: np.zeros(3))

    def __post_init__(self) -> None:
        model = base_model()
        self.qpos = model.qpos0.copy()
        self._address = addresses(model, list(self.scene.poses))
        self._drawer, self._button = (int(model.joint(name).qposadr[0]) for name in ("drawer", "button"))
        self._button_range, self._drawer_range = (model.joint(name).range for name in ("button", "drawer"))
        self._button_rest = model.qpos0[self._button]
        self.qpos[: len(HOME_JOINTS)] = HOME_JOINTS
        for name, pose in self.scene.poses.items():
            self.qpos[self._address[name] : self._address[name] + 7] = pose
            if name in self.things:
                self.qpos[self._address[name] + 2] = self.things[name].half_height
        self.qpos[self._drawer] = self.scene.drawer_opening
        self._tray = model.body("tray").pos
        self._floor = model.geom("tray").pos[2] + model.geom("tray").size[2]
        self._inside = model.geom("tray").size[0]
        cap = model.body("button cap").pos + model.body("button").pos
        self._cap_top = cap[2] + model.geom("button cap").size[1]

    def position(self, name: str) -> np.ndarray:
        """Where the middle of a free body is; a view, which may be written."""
        return self.qpos[self._address[name] : self._address[name] + 3]

    def yaw(self, name: str) -> float:
        """How a free body is turned about the vertical [rad]."""
        w, x, y, z = self._quaternion(name)
        return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))

    def step(self, moment: Moment) -> None:
        """One frame of 1/`FPS` s."""
        hold, grip = moment.hold, moment.grip
        if self._relative is not None and (hold != self._relative[0] or moment.pushes):
            self._let_go()
        self._press(grip, hold == "button")
        self.touching = bool(hold)
        if hold == "drawer":
            self._pull(grip)
        elif hold in self.things and moment.pushes:
            self._push(hold, grip.point)
        elif hold in self.things:
            self._carry(hold, grip)
        for name in list(self._falling):
            self._fall(name)
        self._before = grip.point

    def _quaternion(self, name: str) -> np.ndarray:
        return self.qpos[self._address[name] + 3 : self._address[name] + 7]

    def _carry(self, name: str, grip: Grip) -> None:
        turn = np.empty(4)
        mujoco.mju_mat2Quat(turn, rotation_of(grip.angles).reshape(-1))
        if self._relative is None:
            back, offset, quaternion = np.empty(4), np.empty(3), np.empty(4)
            mujoco.mju_negQuat(back, turn)
            mujoco.mju_rotVecQuat(offset, self.position(name) - grip.point, back)
            mujoco.mju_mulQuat(quaternion, back, self._quaternion(name))
            self._relative = name, offset, quaternion
            self._falling.pop(name, None)
        moved = np.empty(3)
        mujoco.mju_rotVecQuat(moved, self._relative[1], turn)
        self.position(name)[:] = grip.point + moved
        mujoco.mju_mulQuat(self._quaternion(name), turn, self._relative[2])
        self._make_way(name)

    def _let_go(self) -> None:
        if self._relative[0] in self.things:
            name = self._relative[0]
            half_yaw = self.yaw(name) / 2
            self._quaternion(name)[:] = np.cos(half_yaw), 0, 0, np.sin(half_yaw)
            self._falling[name] = 0.0
        self._relative = None

    def _push(self, name: str, point: np.ndarray) -> None:
        """Keep the body before the fingers, which are broad enough that it does not turn aside."""
        way = (point - self._before)[:2]
        length = float(np.linalg.norm(way))
        if length < _LANDED:
            return
        ahead = way / length
        distance = float((self.position(name) - point)[:2] @ ahead)
        needed = self.things[name].radius + PAD
        self.touching = distance < needed + 0.002
        if distance < needed:
            self.position(name)[:2] += (needed - distance) * ahead
            self._make_way(name)

    def _make_way(self, mover: str) -> None:
        """What stands where ``mover`` now is has been shoved aside."""
        here, own = self.position(mover), self.things[mover]
        for name, thing in self.things.items():
            offset = self.position(name) - here
            apart = thing.radius + own.radius
            distance = float(np.linalg.norm(offset[:2]))
            low = abs(offset[2]) < thing.half_height + own.half_height - 0.004
            if name != mover and low and _LANDED < distance < apart:
                self.position(name)[:2] += offset[:2] * (apart / distance - 1)

    def _pull(self, grip: Grip) -> None:
        """The drawer follows the tool along its rail."""
        if self._relative is None:
            self._relative = "drawer", np.array([grip.point[1] + self.qpos[self._drawer]]), np.empty(0)
        self.qpos[self._drawer] = np.clip(self._relative[1][0] - grip.point[1], *self._drawer_range)

    def _press(self, grip: Grip, pressing: bool) -> None:
        depth = min(self._button_rest, grip.point[2] - PAD - self._cap_top) if pressing else self._button_rest
        self.qpos[self._button] = max(depth, self._button_range[0])

    def _fall(self, name: str) -> None:
        speed, position = self._falling[name] + GRAVITY / FPS, self.position(name)
        rest = self._support(name) + self.things[name].half_height
        position[2] = max(rest, position[2] - (speed - GRAVITY / FPS / 2) / FPS)
        self._falling[name] = speed
        if position[2] - rest < _LANDED:
            del self._falling[name]
            self._make_way(name)

    def _support(self, name: str) -> float:
        """Height of what lies under a body: the table, the tray, or another body's top."""
        here = self.position(name)
        height = self._floor if np.abs(here - self._tray)[:2].max() < self._inside else 0.0
        for other, thing in self.things.items():
            offset = here - self.position(other)
            above = offset[2] > thing.half_height
            if other != name and above and np.linalg.norm(offset[:2]) < 0.8 * thing.radius:
                height = max(height, float(self.position(other)[2] + thing.half_height))
        return height


class Referee:
    """The suite's own judgement on states that did not come out of its physics."""

    position = TabletopSuite.position
    drawer_opening = TabletopSuite.drawer_opening
    _judge = TabletopSuite._achieved

    def __init__(self, task: TabletopTask) -> None:
        self.data = mujoco.MjData(base_model())
        self._task, self._touched = task, False

    def achieved(self, qpos: np.ndarray, *, touched: bool) -> bool:
        """Whether the task is done in this state; ``touched``: whether the target is in somebody's fingers."""
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(base_model(), self.data)
        self._touched = touched
        return self._judge()

    def touched(self, body: str) -> bool:
        """What `achieved` was told."""
        return self._touched
