"""Films of a hand that picks a cube from the table and places it elsewhere, in several cameras, with the truth.

    film = pick_film(seed=3)                          # nothing is drawn yet
    film.cameras["side"].project(film.truth.pinch)    # where the pads meet in each frame [T, 2] px
    for frame in film.frames(depth=["side"]):             # one instant at a time
        frame.color["side"], frame.depth["side"]

It is a test bench for whatever reads a human's motion off a video: hand, cube, table, cameras and light are known
exactly, and the skin (`sim.human_skin`) is one that trackers of real hands find. The world is the table-top suite's,
without the arm: its base is the origin. Thumb and index finger close on two opposite faces of the cube, level, as a
gripper that points down would. A film is a pure function of what `pick_film` is given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import mujoco
import numpy as np

from robot_bridge.retarget.cameras import Camera
from robot_bridge.retarget.hands import INDEX_TIP, THUMB_TIP, Side, side_of
from sim.human_hand import SKINS, HandLook, add_shape
from sim.human_scene import look_at
from sim.human_skin import TIPS, SkinCamera, SkinnedHand
from sim.tasks.tabletop_scene import AREA_HIGH, AREA_LOW
from vla.errors import UnderstudyError, unknown

VIEWS = {"front": (55, 20, 0.68), "quarter": (72, 30, 0.71), "side": (90, 14, 0.68), "back": (106, 24, 0.68)}
"""Cameras that look at the middle of the table: azimuth and elevation [degrees], distance [m].

The azimuth is counted from the way that the person looks towards the thumb's side: a left hand has them mirrored.
"""
FOVY = 42.0
CUBE = 0.025
"""Half its edge [m]."""
_LOOKED_AT = np.array([0.47, -0.03, 0.09])
_SHOULDER, _ASIDE = np.array([-0.12, -0.03, 0.40]), np.array([0.0, -0.11, 0.0])
"""[m] of a person who looks along the world's x over the middle of the table, and how far aside if it is the right."""
_APART = 0.12
"""From the cube's start to its goal, at least [m]."""
_TWIST = np.radians(45)
"""How far the cube may be turned from what is handiest; a cube is the same after twice as much."""
_CUBES = ((0.1, 0.25, 0.85), (0.1, 0.6, 0.2), (0.9, 0.8, 0.1), (0.5, 0.15, 0.6), (0.92, 0.92, 0.9), (0.1, 0.1, 0.12))
_TABLES = ((0.55, 0.48, 0.42), (0.62, 0.62, 0.60), (0.35, 0.38, 0.40), (0.40, 0.46, 0.42), (0.75, 0.74, 0.70))
_SLEEVES = ((0.15, 0.22, 0.45), (0.75, 0.75, 0.72), (0.25, 0.26, 0.28), (0.45, 0.15, 0.2), (0.2, 0.4, 0.3))


class _Move(NamedTuple):
    """To ``goal`` [7] (place m, yaw, tilt and lean rad, opening m) in a minimum-jerk path of ``seconds``.

    It begins ``early`` s before the one before it ends: people do not stop on the way.
    """

    name: str
    goal: np.ndarray
    seconds: float
    early: float = 0.0


@dataclass(frozen=True)
class PickTruth:
    """What happens, T frames, in the world's frame (the arm's base).

    ``stamps`` [T] s; ``keypoints`` [T, 21, 3] m; ``pinch`` [T, 3] m: the middle between the pads of thumb and index
    finger; ``palm`` [T, 3, 3]: x to the fingertips, z out of the back of the hand; ``opening`` [T] m between the pads;
    ``grasped`` [T]; ``cube`` [T, 7] m (xyz, wxyz), at ``start`` [7] in the beginning and at ``goal`` [7] in the end.
    """

    stamps: np.ndarray
    keypoints: np.ndarray
    pinch: np.ndarray
    palm: np.ndarray
    opening: np.ndarray
    grasped: np.ndarray
    cube: np.ndarray

    @property
    def start(self) -> np.ndarray:
        """Of the cube."""
        return self.cube[0]

    @property
    def goal(self) -> np.ndarray:
        """Of the cube."""
        return self.cube[-1]


@dataclass(frozen=True)
class PickFrame:
    """One instant in all cameras: ``color`` [H, W, 3] uint8 and ``depth`` [H, W] float32 m along the camera's axis.

    The depth is infinite where there is nothing; there is none at all where none was asked for.
    """

    color: dict[str, np.ndarray]
    depth: dict[str, np.ndarray]


@dataclass(frozen=True)
class PickFilm:
    """A film that has been acted but not drawn; ``size`` (width, height)."""

    seed: int
    side: Side
    size: tuple[int, int]
    fps: float
    cameras: dict[str, Camera]
    truth: PickTruth
    _stage: "_Stage" = field(repr=False)
    _grips: "list[_Grip]" = field(repr=False)

    def frames(self, *, depth: Sequence[str] = (), noise: float = 0.0) -> Iterator[PickFrame]:
        """Draw it, one instant at a time; raises `UnderstudyError` where there is no OpenGL.

        ``depth``: the cameras that measure it.
        ``noise``: standard deviation of the depth [m] at a distance of 1 m; it grows with the distance's square.
        """
        width, height = self.size
        stage = self._stage
        seen = {name: SkinCamera(stage.model, name, height=height, width=width) for name in self.cameras}
        rng = np.random.default_rng([0xDE97, self.seed])
        try:
            for grip, cube in zip(self._grips, self.truth.cube):
                stage.show(grip, cube)
                color = {name: camera.render(stage.data) for name, camera in seen.items()}
                far = {name: camera.depth(stage.data) for name, camera in seen.items() if name in depth}
                yield PickFrame(color, {name: _noisy(one, noise, rng) for name, one in far.items()} if noise else far)
        finally:
            for camera in seen.values():
                camera.close()


class _Person(NamedTuple):
    """Who acts: 1 for the right hand, -1 for the left, and the place of the shoulder [3] m."""

    sign: int
    shoulder: np.ndarray


class _Grip(NamedTuple):
    """Of the pinch: place [3] m, rotation [3, 3], opening m."""

    point: np.ndarray
    turn: np.ndarray
    opening: float


@dataclass
class _Stage:
    """The scene, and how it is put into a state."""

    model: mujoco.MjModel
    data: mujoco.MjData
    hand: SkinnedHand
    shoulder: np.ndarray

    def show(self, grip: _Grip, cube: np.ndarray) -> np.ndarray:
        """Put hand and cube ([7]) where they belong; the palm's pose [7]."""
        body = self.model.body("cube").mocapid[0]
        self.data.mocap_pos[body], self.data.mocap_quat[body] = cube[:3], cube[3:]
        point, turn, opening = grip
        palm = self.hand.pinch(self.data, point, turn, opening=opening, shoulder=self.shoulder)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        return palm


def pick_film(
    seed: int,
    *,
    cameras: Sequence[str] = tuple(VIEWS),
    size: tuple[int, int] = (640, 480),
    fps: float = 15,
    seconds: float = 7.0,
    side: Side = "right",
) -> PickFilm:
    """Act a film: what is done, who does it, and in which light is drawn with ``seed``.

    ``cameras``: any of `VIEWS`; ``size``: width and height of the pictures. Neither these nor ``fps`` changes what is
    done. Whoever is left-handed sits a little to the other side, and the cameras stand on that side too.
    """
    for name in cameras:
        if name not in VIEWS:
            raise unknown("camera", name, VIEWS)
    if not 3 <= seconds < np.inf:
        raise UnderstudyError(f"nobody picks and places a cube in {seconds} s; give it 3 or more")
    if seed < 0 or not 1 <= fps < np.inf:
        raise UnderstudyError(f"films are numbered from 0 and have a frame a second or more, got {seed} and {fps}")
    who = _person(seed, side)
    stage = _stage(np.random.default_rng([0x100C, seed]), cameras, sign=who.sign, shoulder=who.shoulder)
    grips, cubes, grasped = _acted(np.random.default_rng([0x9A7B, seed]), who, fps=fps, seconds=seconds)
    truth = _truth(stage, grips, cubes, grasped=grasped, fps=fps)
    placed = {}
    for name in cameras:
        index = stage.model.camera(name).id
        position, rotation = stage.data.cam_xpos[index].copy(), stage.data.cam_xmat[index].reshape(3, 3).copy()
        placed[name] = Camera.of_mujoco(position, rotation, fovy=FOVY, size=size)
    return PickFilm(seed, side, size, fps, placed, truth, stage, grips)


def pick_places(seed: int, side: Side = "right") -> tuple[np.ndarray, np.ndarray]:
    """Where the cube lies in the beginning and in the end of that film, [7] each (xyz, wxyz), without drawing it."""
    _, cubes, _ = _acted(np.random.default_rng([0x9A7B, seed]), _person(seed, side), fps=15, seconds=7.0)
    return cubes[0], cubes[-1]


def _person(seed: int, side: Side) -> _Person:
    sign, drawn = 1 if side_of(side) == "right" else -1, np.random.default_rng([0x91C4, seed])
    return _Person(sign, _SHOULDER + sign * _ASIDE + drawn.uniform(-1, 1, 3) * [0.06, 0.05, 0.04])


def _stage(rng: np.random.Generator, cameras: Sequence[str], *, sign: int, shoulder: np.ndarray) -> _Stage:
    """Table, cube, light and hand in a look of their own."""
    spec = mujoco.MjSpec()
    _room(spec, rng)
    table, cube = (np.array(colors[rng.integers(len(colors))]) for colors in (_TABLES, _CUBES))
    table, cube = (np.clip(color + rng.uniform(-0.05, 0.05, 3), 0.03, 1) for color in (table, cube))
    add_shape(spec.worldbody, "table", kind="BOX", size=[0.55, 0.75, 0.02], rgb=table, pos=[0.4, 0, -0.02])
    body = spec.worldbody.add_body(name="cube", mocap=True)
    add_shape(body, "cube", kind="BOX", size=[CUBE] * 3, rgb=cube)
    skin = np.clip(np.array(SKINS[rng.integers(len(SKINS))]) + rng.uniform(-0.04, 0.04), 0.05, 1)
    sleeve = np.clip(_SLEEVES[rng.integers(len(_SLEEVES))] + rng.uniform(-0.05, 0.05, 3), 0, 1)
    hand = SkinnedHand(HandLook(sign, float(rng.uniform(0.92, 1.1)), tuple(skin.tolist()), tuple(sleeve.tolist())))
    hand.add(spec)
    for name in cameras:
        around, up, distance = VIEWS[name]
        (ca, ce), (sa, se) = np.cos(np.radians((sign * around, up))), np.sin(np.radians((sign * around, up)))
        position = _LOOKED_AT + distance * np.array([ca * ce, sa * ce, se])
        camera = spec.worldbody.add_camera(name=name, fovy=FOVY)
        camera.pos, camera.quat = position, look_at(position, _LOOKED_AT)
    model = spec.compile()
    hand.bind(model)
    return _Stage(model, mujoco.MjData(model), hand, shoulder)


def _room(spec: mujoco.MjSpec, rng: np.random.Generator) -> None:
    """A lamp that throws shadows, some light from everywhere, the floor and the walls of a room."""
    headlight = spec.visual.headlight
    headlight.ambient, headlight.diffuse, headlight.specular = [rng.uniform(0.3, 0.42)] * 3, [0.25] * 3, [0.0] * 3
    spec.visual.quality.shadowsize = 1024  # four times as fine takes twice as long, and looks the same
    place = np.array([0.5, 0.0, 1.7]) + rng.uniform(-1, 1, 3) * [0.4, 0.7, 0.2]
    aim = _LOOKED_AT - place
    bright = rng.uniform(0.45, 0.7) * (1 + rng.uniform(-0.06, 0.06, 3))
    lamp = spec.worldbody.add_light(name="lamp", castshadow=True)
    lamp.pos, lamp.dir, lamp.diffuse, lamp.specular = place, aim / np.linalg.norm(aim), bright, [0.1] * 3
    wall = np.clip(rng.uniform(0.35, 0.85) + rng.uniform(-0.05, 0.05, 3), 0, 1)
    for number, place in enumerate(((0, 0, -0.8), (-1.6, 0, 0), (2.4, 0, 0), (0, -1.8, 0), (0, 1.8, 0))):
        size = [0.02 if along else 3.0 for along in place]
        add_shape(spec.worldbody, f"wall {number}", kind="BOX", size=size, rgb=wall, pos=place)


def _acted(
    rng: np.random.Generator, who: _Person, *, fps: float, seconds: float
) -> tuple[list[_Grip], np.ndarray, np.ndarray]:
    """Grips, poses of the cube [T, 7], and when it is held [T]."""
    cube, moves = _plan(rng, who)
    lasts = np.array([move.seconds for move in moves])
    ends = np.cumsum(lasts - [move.early for move in moves])
    begins, names = ends - lasts, [move.name for move in moves]
    stamps = np.arange(round(seconds * fps)) * (ends[-1] / (seconds * fps))
    path = np.tile(moves[0].goal, (len(stamps), 1))
    for begin, before, move in zip(begins[1:], moves, moves[1:]):
        part = np.clip((stamps - begin) / move.seconds, 0, 1)
        path += (part**3 * (10 - 15 * part + 6 * part**2))[:, None] * (move.goal - before.goal)
    grips = [_grip(row) for row in path]
    taken, freed = names.index("close"), names.index("open")
    held = (stamps >= ends[taken]) & (stamps <= begins[freed])
    at, until = (_grip(moves[number].goal) for number in (taken, freed - 1))
    carried = np.array([_carried(cube, at, until if time > ends[taken] else at) for time in stamps])
    carried[held] = [_carried(cube, at, grip) for grip, hold in zip(grips, held) if hold]
    return grips, carried, held


def _plan(rng: np.random.Generator, who: _Person) -> tuple[np.ndarray, list[_Move]]:
    """The cube's first pose [7], and what the hand does; the first move only says where it is."""
    sign, drawn = who.sign, rng.uniform
    places = _places(rng)
    yaws = [_facing(who, place) + drawn(-1, 1) * _TWIST for place in places]
    tilt, aside, wide = sign * drawn(-0.15, 0.2), drawn(-0.006, 0.006), 2 * CUBE + drawn(0.022, 0.034)
    rows = []
    for place, yaw in zip(places, yaws):
        point = place + np.array([-aside * np.sin(yaw), aside * np.cos(yaw), 0])
        rows.append(np.array([*point, yaw, tilt, 0.0, wide]))
    at, there = rows
    at[2] = there[2] = CUBE + drawn(-0.004, 0.004)
    shut = np.array([0, 0, 0, 0, 0, 0, 2 * CUBE - wide])
    high, bent = drawn(0.11, 0.15), np.array([0, 0, 0, 0, drawn(-0.1, 0.1), drawn(-0.1, 0.1), 0])
    up = np.array([0, 0, high, 0, 0, 0, 0])
    moves = [
        _Move("rest", _home(rng, who), drawn(0.15, 0.4)),
        _Move("reach", at + _above(rng), drawn(0.9, 1.2)),
        _Move("descend", at, drawn(0.7, 0.9), early=0.25),
        _Move("close", at + shut, drawn(0.35, 0.5)),
        _Move("hold", at + shut, drawn(0.1, 0.25)),
        _Move("lift", at + shut + up + bent, drawn(0.6, 0.8)),
        _Move("carry", there + shut + up + bent, drawn(0.9, 1.2), early=0.25),
        _Move("lower", there + shut, drawn(0.7, 0.9), early=0.25),
        _Move("settle", there + shut, drawn(0.1, 0.2)),
        _Move("open", there, drawn(0.3, 0.45)),
        _Move("leave", there + _above(rng), drawn(0.5, 0.7)),
        _Move("withdraw", _home(rng, who), drawn(0.8, 1.1), early=0.25),
        _Move("stay", np.zeros(7), drawn(0.1, 0.3)),
    ]
    moves[-1] = moves[-1]._replace(goal=moves[-2].goal)
    half = (yaws[0] + np.pi / 2 * rng.integers(4)) / 2
    return np.array([*places[0], np.cos(half), 0, 0, np.sin(half)]), moves


def _places(rng: np.random.Generator) -> np.ndarray:
    """Start and goal of the cube's middle [2, 3] m, not too close to each other."""
    while True:
        places = rng.uniform(AREA_LOW, AREA_HIGH, (2, 2))
        if np.linalg.norm(places[1] - places[0]) >= _APART:
            return np.column_stack([places, [CUBE, CUBE]])


def _facing(who: _Person, place: np.ndarray) -> float:
    """The handiest yaw of the pinch there: the fingers point away from the shoulder."""
    return float(np.arctan2(*(place - who.shoulder)[1::-1])) - 0.1 * who.sign


def _home(rng: np.random.Generator, who: _Person) -> np.ndarray:
    """Before it all and after: a little back, above the table, half open."""
    point = np.array([0.40, -0.03, 0.17]) + rng.uniform(-1, 1, 3) * [0.04, 0.05, 0.03]
    yaw = _facing(who, point) + rng.normal(0, 0.1)
    return np.array([*point, yaw, rng.normal(0, 0.08), rng.uniform(-0.15, 0.1), rng.uniform(0.04, 0.08)])


def _above(rng: np.random.Generator) -> np.ndarray:
    """From a grip to where one comes from or goes to: higher, and somewhat nearer to the person."""
    return np.array(
        [-rng.uniform(0, 0.03), rng.normal(0, 0.006), rng.uniform(0.06, 0.09), 0, 0, rng.normal(0, 0.06), 0]
    )


def _grip(row: np.ndarray) -> _Grip:
    """From place, yaw, tilt about the line from thumb to finger, lean across it, and opening."""
    (cy, cl, ct), (sy, sl, st) = np.cos(row[[3, 5, 4]]), np.sin(row[[3, 5, 4]])
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1.0]])
    lean = np.array([[cl, 0, sl], [0, 1.0, 0], [-sl, 0, cl]])
    tilt = np.array([[1.0, 0, 0], [0, ct, -st], [0, st, ct]])
    return _Grip(row[:3].copy(), yaw @ lean @ tilt, float(row[6]))


def _carried(cube: np.ndarray, at: _Grip, now: _Grip) -> np.ndarray:
    """The pose [7] of what was at ``cube`` [7] when it was taken with ``at``, in the grip ``now``."""
    turn, quaternion, turned = now.turn @ at.turn.T, np.empty(4), np.empty(4)
    mujoco.mju_mat2Quat(quaternion, turn.reshape(-1))
    mujoco.mju_mulQuat(turned, quaternion, cube[3:])
    return np.concatenate([now.point + turn @ (cube[:3] - at.point), turned])


def _truth(stage: _Stage, grips: list[_Grip], cubes: np.ndarray, *, grasped: np.ndarray, fps: float) -> PickTruth:
    """Put the hand into each pose and see where everything is."""
    radii = np.array([TIPS["thumb"], TIPS["index"]]) * stage.hand.look.scale
    keypoints, pinch, palms, openings = [], [], [], []
    for grip, cube in zip(grips, cubes):
        stage.show(grip, cube)
        points = stage.hand.keypoints(stage.data)
        thumb, index = points[THUMB_TIP], points[INDEX_TIP]
        apart = float(np.linalg.norm(index - thumb))
        keypoints.append(points)
        pinch.append((thumb + index) / 2 + (radii[0] - radii[1]) / 2 * (index - thumb) / apart)
        palms.append(stage.data.body("palm").xmat.reshape(3, 3).copy())
        openings.append(apart - radii.sum())
    stamps = np.arange(len(grips)) / fps
    return PickTruth(stamps, *map(np.array, (keypoints, pinch, palms, openings)), grasped, cubes)


def _noisy(depth: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    near = np.where(np.isfinite(depth), depth, 0)
    return depth + (noise * near**2 * rng.standard_normal(depth.shape)).astype(np.float32)
