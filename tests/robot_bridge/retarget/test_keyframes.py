"""One camera and a table: places and turning where the hand takes something and leaves it."""

import numpy as np
import pytest
from retarget_made_hands import camera_at, picking, seen_by

from robot_bridge.retarget.grasps import events
from robot_bridge.retarget.keyframes import KeyframesConfig, keyframes, touchdown
from vla.errors import UnderstudyError

STAMPS, POINTS, PINCH, CLOSED = picking()
CAMERA = camera_at((1.1, -0.4, 0.6))
CONFIG = KeyframesConfig(held_m=0.03)


def test_the_tool_is_where_the_hand_took_and_left_it_and_above_between():
    path = keyframes(seen_by(CAMERA, STAMPS, POINTS, noise_px=1.0), CAMERA, "right", CONFIG)
    ((first, after),), ((true_first, true_after),) = events(path.closed), events(CLOSED)
    assert abs(first - true_first) <= 8  # it stands still there for longer
    assert abs(after - true_after) <= 8
    for frame, truth in ((first, (0.5, -0.1, 0.03)), (after - 1, (0.55, 0.15, 0.03))):
        np.testing.assert_allclose(path.position[frame], truth, atol=0.012)
    assert path.position[(first + after) // 2, 2] == pytest.approx(CONFIG.held_m + CONFIG.over_m, abs=0.01)


def test_the_gripper_turns_as_the_fingers_lie_over_the_table():
    path = keyframes(seen_by(CAMERA, STAMPS, POINTS), CAMERA, "right", CONFIG)
    w, x, y, z = path.quaternion.T
    np.testing.assert_allclose(1 - 2 * (x * x + y * y), -1.0, atol=1e-9)  # straight down
    across = np.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z)], axis=1)
    for frame in (35, 70):
        fingers = (POINTS[frame, 8] - POINTS[frame, 4])[:2]
        assert abs(across[frame] @ fingers) / np.linalg.norm(fingers) > np.cos(np.radians(6))


def test_rays_come_down_to_the_height_at_which_things_are_held():
    places = np.array([[0.4, 0.1, 0.03], [0.6, -0.2, 0.03]])
    np.testing.assert_allclose(touchdown(CAMERA, CAMERA.project(places), CONFIG), places, atol=1e-6)
    assert np.isnan(touchdown(CAMERA, np.array([[320.0, -4000.0]]), CONFIG)).all()


def test_a_clip_without_a_grasp_and_a_flat_camera_are_refused():
    fist = POINTS.copy()
    fist[:, 4], fist[:, 8] = PINCH + np.array([0, 0.002, 0]), PINCH - np.array([0, 0.002, 0])
    with pytest.raises(UnderstudyError, match="no grasp is seen"):
        keyframes(seen_by(CAMERA, STAMPS, fist), CAMERA, "right", CONFIG)
    flat = camera_at((1.3, 0.0, 0.08), (0.5, 0.0, 0.05))
    with pytest.raises(UnderstudyError, match="too flat"):
        keyframes(seen_by(flat, STAMPS, POINTS), flat, "right", CONFIG)
