"""From states to pictures and labels, frame by frame, in whatever scene; and what in a film means nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from sim.cameras import Camera
from sim.human_hand import KEYPOINTS, Grip, add_shape
from sim.human_strokes import FPS
from sim.human_tools import Demonstrator

_BALL_COLORS = ((0.9, 0.2, 0.8), (0.1, 0.8, 0.85), (0.97, 0.97, 0.97), (0.08, 0.08, 0.1), (0.45, 0.28, 0.15))
_BALL = 0.032
_SWAY_HZ = 0.25


@dataclass(frozen=True)
class Exogenous:
    """A ball's path [T, 3] m, a light's displacement [T, 3] m and strength [T]; nothing depends on the task."""

    ball: np.ndarray
    color: tuple[float, float, float]
    light: np.ndarray
    strength: np.ndarray


def draw_exogenous(rng: np.random.Generator, frames: int, *, edges: Sequence[tuple[float, float]]) -> Exogenous:
    """Smooth random motion about one of the places ``edges`` [m] on the table, and a light that swings."""
    base = np.array(edges[rng.integers(len(edges))])
    time = np.arange(frames) / FPS
    aside = base[:, None] + 0.07 * np.stack([_smooth(rng, time), _smooth(rng, time)])
    height = _BALL + 0.14 * np.abs(np.sin(np.pi * rng.uniform(0.5, 1.3) * time + rng.uniform(0, np.pi)))
    light = np.stack([_smooth(rng, time) for _ in range(3)], axis=1) * [0.5, 0.5, 0.2]
    return Exogenous(
        ball=np.column_stack([*aside, height]),
        color=_BALL_COLORS[rng.integers(len(_BALL_COLORS))],
        light=light,
        strength=1 + 0.3 * _smooth(rng, time),
    )


def _smooth(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """A random signal [T] of about ±1 that changes within a second or two."""
    rates, phases = rng.uniform(0.15, 0.7, 4), rng.uniform(0, 2 * np.pi, 4)
    return np.sin(2 * np.pi * rates[:, None] * time + phases[:, None]).sum(axis=0) / 2


def add_ball(spec: mujoco.MjSpec) -> None:
    """The ball of `Exogenous`, to be put before the demonstrator."""
    ball = spec.worldbody.add_body(name="exogenous", mocap=True)
    add_shape(ball, "exogenous", kind="SPHERE", size=[_BALL, 0, 0], rgb=_BALL_COLORS[0])


@dataclass(frozen=True)
class Acting:
    """A demonstrator with what it does: a `Grip` for each frame, and where its shoulder is [3] m."""

    tool: Demonstrator
    grips: Sequence[Grip]
    shoulder: np.ndarray


@dataclass(frozen=True)
class Shot:
    """A compiled scene, ready to be filmed.

    ``states`` [T, nq]: of everything but the demonstrator; ``acting``: ``None`` for the robot, whose ``gripper`` tells
    the pose [7], the grip point [3] and the opening m; ``places``: where the named things are [n, 3]; ``upside_down``:
    the camera stands on its head, the picture does not; ``sway``: how far [m] the camera swings to and fro.
    """

    model: mujoco.MjModel
    data: mujoco.MjData
    camera: Camera
    camera_id: int
    states: np.ndarray
    acting: Acting | None
    gripper: Callable[[mujoco.MjData], tuple[np.ndarray, np.ndarray, float]]
    places: Callable[[mujoco.MjData], np.ndarray]
    exogenous: Exogenous | None = None
    upside_down: bool = False
    sway: float = 0.0


def shoot(shot: Shot) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The frames [T, H, W, 3], and the labels that follow from the poses; lights and camera are put back."""
    model = shot.model
    before = model.light_pos.copy(), model.light_diffuse.copy(), model.cam_pos.copy()
    if shot.exogenous is not None:
        model.geom("exogenous").rgba[:3] = shot.exogenous.color
    rows: list[dict[str, np.ndarray]] = []
    intrinsics = _intrinsics(shot)
    for frame in range(len(shot.states)):
        _stir(shot, frame, *before)
        rows.append(_frame(shot, frame, intrinsics))
    model.light_pos[:], model.light_diffuse[:], model.cam_pos[:] = before
    frames = np.array([row.pop("picture") for row in rows])
    labels = {name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}
    labels["camera_matrix"] = intrinsics.astype(np.float32)
    if shot.exogenous is not None:
        labels["exogenous_position"] = shot.exogenous.ball.astype(np.float32)
    return frames, labels


def project(points: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Where points [N, 3] are in the picture [N, 2] px; NaN behind the camera, whose ``pose`` is [4, 4]."""
    seen = (points - pose[:3, 3]) @ pose[:3, :3]
    depth = np.where(seen[:, 2:] > 1e-6, seen[:, 2:], np.nan)
    return (seen / depth) @ intrinsics[:2].T


def _stir(shot: Shot, frame: int, light: np.ndarray, diffuse: np.ndarray, camera: np.ndarray) -> None:
    """What moves by itself: ball and light, and the head that carries the camera."""
    model = shot.model
    if shot.exogenous is not None:
        shot.data.mocap_pos[model.body("exogenous").mocapid[0]] = shot.exogenous.ball[frame]
        model.light_pos[:] = light + shot.exogenous.light[frame]
        model.light_diffuse[:] = diffuse * shot.exogenous.strength[frame]
    if shot.sway:
        swing = np.sin(2 * np.pi * (_SWAY_HZ * frame / FPS + np.array([0.0, 0.3, 0.7])))
        model.cam_pos[shot.camera_id] = camera[shot.camera_id] + shot.sway * swing


def _frame(shot: Shot, frame: int, intrinsics: np.ndarray) -> dict[str, np.ndarray]:
    data, acting, state = shot.data, shot.acting, shot.states[frame]
    data.qpos[: len(state)] = state
    pose = acting.tool.show(data, acting.grips[frame], acting.shoulder) if acting else None
    mujoco.mj_kinematics(shot.model, data)
    mujoco.mj_camlight(shot.model, data)
    if acting:
        points, pinch, opening = acting.tool.keypoints(data), acting.grips[frame].point, acting.grips[frame].gap
    else:
        points, (pose, pinch, opening) = np.full((KEYPOINTS, 3), np.nan), shot.gripper(data)
    view = _camera_pose(shot)
    picture = shot.camera.render(data)
    return {
        "picture": picture[::-1, ::-1] if shot.upside_down else picture,
        "keypoints_3d": points,
        "keypoints_2d": project(points, intrinsics, view),
        "hand_pose": pose,
        "pinch_point": pinch,
        "opening": np.array(opening),
        "object_positions": shot.places(data),
        "camera_pose": view,
    }


def _intrinsics(shot: Shot) -> np.ndarray:
    """The camera's matrix [3, 3]."""
    size = shot.camera.height
    focal = size / 2 / np.tan(np.radians(shot.model.cam_fovy[shot.camera_id]) / 2)
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])


def _camera_pose(shot: Shot) -> np.ndarray:
    """Camera in the world [4, 4]: x right, y down, z forward, as the picture has it."""
    pose = np.eye(4)
    axes = shot.data.cam_xmat[shot.camera_id].reshape(3, 3)
    pose[:3, :3] = axes * ([-1, 1, -1] if shot.upside_down else [1, -1, -1])
    pose[:3, 3] = shot.data.cam_xpos[shot.camera_id]
    return pose
