"""A hand that picks something up, as a tracker would see it: made of numbers, so that the truth is known."""

import numpy as np

from robot_bridge.retarget.cameras import Camera
from robot_bridge.retarget.hands import SIDES, HandTrack

FINGERS = np.array([(0.06, 0.03), (0.09, 0.03), (0.095, 0.01), (0.09, -0.01), (0.08, -0.03)])
"""Where each finger begins [m]: along the hand, across it."""


def hand_points(pinch: np.ndarray, opening: float, yaw: float = 0.0) -> np.ndarray:
    """A right hand [21, 3] m, palm down, whose thumb and index fingertips are ``opening`` apart about ``pinch``."""
    points = np.zeros((21, 3))
    for finger, (ahead, across) in enumerate(FINGERS):
        for joint in range(4):
            points[1 + 4 * finger + joint] = (ahead + 0.02 * joint - 0.12, across, 0.05 - 0.01 * joint)
    points[0] = (-0.12, 0.0, 0.05)
    points[4], points[8] = (0.0, opening / 2, 0.0), (0.0, -opening / 2, 0.0)
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1.0]])
    return points @ turn.T + pinch


def picking(fps: float = 15.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Stamps [T], points [T, 21, 3], pinch points [T, 3] and closed [T] of a hand that carries something for 6 s."""
    stamps = np.arange(0.0, 6.0, 1 / fps)
    via = np.array([(0.45, -0.1, 0.2), (0.5, -0.1, 0.03), (0.5, -0.1, 0.03), (0.5, 0.05, 0.2), (0.55, 0.15, 0.03)])
    at = np.array([0.0, 1.5, 2.2, 3.5, 4.6])
    pinch = np.stack([np.interp(stamps, at, column) for column in via.T], axis=1)
    closed = (stamps >= 2.0) & (stamps < 5.0)
    opening = np.interp(stamps, [1.8, 2.1, 4.9, 5.2], [0.09, 0.04, 0.04, 0.09])
    yaw = np.interp(stamps, [0.0, 6.0], [0.1, 0.5])
    return stamps, np.stack([hand_points(*one) for one in zip(pinch, opening, yaw)]), pinch, closed


def camera_at(eye: tuple[float, float, float], at: tuple[float, float, float] = (0.5, 0.0, 0.1)) -> Camera:
    """A camera [640 × 480] at ``eye`` that looks at ``at``, upright."""
    forward = np.subtract(at, eye) / np.linalg.norm(np.subtract(at, eye))
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    placed = np.eye(4)
    placed[:3, :3], placed[:3, 3] = np.stack([right, np.cross(forward, right), forward], axis=1), eye
    return Camera((640, 480), np.array([[600.0, 0, 319.5], [0, 600.0, 239.5], [0, 0, 1]]), base_from_camera=placed)


def seen_by(camera: Camera, stamps: np.ndarray, points: np.ndarray, *, noise_px: float = 0.0) -> HandTrack:
    """The track of a right hand at ``points`` [T, 21, 3]."""
    track = HandTrack.empty("made", camera.size, stamps)
    right, random = SIDES.index("right"), np.random.default_rng(0)
    track.pixels[:, right] = camera.project(points) + noise_px * random.standard_normal((*points.shape[:2], 2))
    there = points @ camera.camera_from_base[:3, :3].T + camera.camera_from_base[:3, 3]
    relative = there[..., 2] - there[:, :1, 2]
    track.relative[:, right] = relative / there[:, :1, 2] * camera.matrix[0, 0]
    track.world[:, right] = there - there.mean(1, keepdims=True)
    track.score[:, right] = 1.0
    return track
