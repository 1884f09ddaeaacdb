"""From a hand to a gripper: place, turning, grasps, gaps."""

from dataclasses import replace

import numpy as np
import pytest
from retarget_made_hands import picking

from robot_bridge.retarget.grasps import events
from robot_bridge.retarget.lifting import HandPath
from robot_bridge.retarget.tool_path import ToolPathConfig, palm_frames, tool_path
from vla.errors import UnderstudyError

STAMPS, POINTS, PINCH, CLOSED = picking()
HAND = HandPath(STAMPS, POINTS, np.zeros(len(STAMPS)), "right", "stereo")


def rotation(quaternions):
    w, x, y, z = quaternions.T
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)


def test_the_tool_goes_where_the_fingers_meet():
    path = tool_path(HAND)
    apart = np.linalg.norm(path.position - PINCH, axis=1)
    assert np.median(apart) < 2e-3
    assert apart.max() < 0.02  # at the corners of a path that no hand would have
    assert path.known.all()
    assert path.measured.all()


def test_down_is_down_and_turns_with_the_hand():
    frames = rotation(tool_path(HAND).quaternion)
    np.testing.assert_allclose(frames[:, :, 2], np.broadcast_to([0, 0, -1], (len(STAMPS), 3)), atol=1e-6)
    yaw = np.interp(STAMPS, [0.0, 6.0], [0.1, 0.5])
    across = np.stack([-np.sin(yaw), np.cos(yaw), np.zeros_like(yaw)], axis=1)
    assert np.abs((frames[:, :, 1] * across).sum(1)).min() > np.cos(np.radians(3))


def test_the_palm_turns_the_gripper_in_all_directions():
    tilt = np.radians(30)
    turn = np.array([[np.cos(tilt), 0, np.sin(tilt)], [0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)]])
    straight, tilted = (
        rotation(tool_path(replace(HAND, points=points), ToolPathConfig(turning="palm")).quaternion)
        for points in (POINTS, POINTS @ turn.T)
    )
    angle = np.arccos(np.clip((np.trace(np.swapaxes(turn @ straight, 1, 2) @ tilted, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert np.degrees(angle).max() < 1.0


def test_a_frame_of_the_palm_is_a_rotation():
    frames = palm_frames(POINTS)
    np.testing.assert_allclose(frames @ np.swapaxes(frames, 1, 2), np.broadcast_to(np.eye(3), frames.shape), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(frames), 1.0)
    np.testing.assert_allclose(frames[0, :, 2], [0, 0, 1], atol=0.2)  # a palm that faces down has its back up


def test_noise_is_smoothed_and_single_outliers_are_gone():
    random = np.random.default_rng(0)
    noisy = POINTS + 0.004 * random.standard_normal(POINTS.shape)
    noisy[40] += 0.3
    path = tool_path(replace(HAND, points=noisy))
    jerk = [np.abs(np.diff(place, 3, axis=0)).mean() for place in (path.position, noisy[:, [4, 8]].mean(1))]
    assert jerk[0] < 0.1 * jerk[1]
    assert np.linalg.norm(path.position[40] - PINCH[40]) < 0.015


def test_short_gaps_are_filled_and_long_ones_stay():
    points = POINTS.copy()
    points[20:24], points[50:70] = np.nan, np.nan
    path = tool_path(replace(HAND, points=points))
    assert path.known[20:24].all()
    assert not path.measured[20:24].any()
    assert not path.known[50:70].any()
    assert np.linalg.norm(path.position[20:24] - PINCH[20:24], axis=1).max() < 0.02
    points[2:] = np.nan
    with pytest.raises(UnderstudyError, match="known in 2 frames of 90"):
        tool_path(replace(HAND, points=points))


def test_grasps_are_found_within_five_frames():
    path = tool_path(HAND)
    ((first, after),) = events(path.closed)
    assert abs(first - np.argmax(CLOSED)) <= 5
    assert abs(after - (len(CLOSED) - np.argmax(CLOSED[::-1]))) <= 5
