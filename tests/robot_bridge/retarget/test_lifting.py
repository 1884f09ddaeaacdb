"""Lifts on hands whose truth is known: exact without noise, and refused where they cannot be."""

from dataclasses import replace

import numpy as np
import pytest
from retarget_made_hands import camera_at, picking, seen_by

from robot_bridge.retarget.hands import HandTrack
from robot_bridge.retarget.lifting import SKIN_M, given, meeting, mono, rgbd, stereo
from vla.errors import UnderstudyError

STAMPS, POINTS, _, _ = picking()
CAMERAS = {"a": camera_at((1.3, 0.2, 0.6)), "b": camera_at((0.6, -0.9, 0.5)), "c": camera_at((0.4, 0.9, 0.7))}
TRACKS = {name: seen_by(camera, STAMPS, POINTS) for name, camera in CAMERAS.items()}


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_rays_meet_where_the_hand_is(names):
    path = stereo({name: TRACKS[name] for name in names}, CAMERAS)
    np.testing.assert_allclose(path.points, POINTS, atol=1e-9)
    assert path.error_px.max() < 1e-6
    assert path.side == "right"
    assert path.known.all()


def test_noise_of_two_pixels_is_millimetres_and_told_in_pixels():
    tracks = {name: seen_by(camera, STAMPS, POINTS, noise_px=2.0) for name, camera in CAMERAS.items()}
    path = stereo(tracks, CAMERAS)
    apart = np.linalg.norm(path.points - POINTS, axis=-1)
    assert 1e-3 < np.median(apart) < 6e-3
    assert 1.0 < np.median(path.error_px) < 3.0


def test_a_keypoint_that_one_camera_sees_is_not_known():
    pixels = TRACKS["b"].pixels.copy()
    pixels[7, 1] = np.nan
    path = stereo({"a": TRACKS["a"], "b": replace(TRACKS["b"], pixels=pixels)}, CAMERAS)
    assert not path.known[7]
    assert path.known.sum() == len(STAMPS) - 1


def test_parallel_rays_meet_nowhere():
    ray = np.array([[[[0.0, 0.0, 1.0]]], [[[0.0, 0.0, 1.0]]]])
    assert np.isnan(meeting(ray, np.array([[0.0, 0, 0], [0.1, 0, 0]]))).all()
    across = np.array([[[[0.0, 0.0, 1.0]]], [[[0.0, 1.0, 0.0]]]])
    np.testing.assert_allclose(
        meeting(across, np.array([[0.0, 0, 0], [0.0, -2.0, 3.0]]))[0, 0], [0, 0, 3.0], atol=1e-12
    )


def test_cameras_with_other_frame_rates_are_put_on_one_clock():
    fast_stamps, fast_points, _, _ = picking(fps=45.0)
    tracks = {"a": TRACKS["a"], "b": seen_by(CAMERAS["b"], fast_stamps, fast_points)}
    assert np.linalg.norm(stereo(tracks, CAMERAS).points - POINTS, axis=-1).max() < 2e-3


def test_stereo_needs_two_views_of_one_moment():
    with pytest.raises(UnderstudyError, match="give another, or another lift"):
        stereo({"a": TRACKS["a"]}, CAMERAS)
    later = replace(TRACKS["b"], stamps=STAMPS + 100.0)
    with pytest.raises(UnderstudyError, match="of the same moment"):
        stereo({"a": TRACKS["a"], "b": later}, CAMERAS)
    with pytest.raises(UnderstudyError, match="another shape"):
        CAMERAS["a"].scaled((480, 480))


def depth_of(camera, points, size=(480, 640)):
    """A plane far away, and a patch at each keypoint as deep as its skin."""
    depth = np.full(size, 2.0, np.float32)
    there = points @ camera.camera_from_base[:3, :3].T + camera.camera_from_base[:3, 3]
    behind = SKIN_M * there / np.linalg.norm(there, axis=1, keepdims=True)
    for (x, y), z in zip(np.round(camera.project(points)).astype(int), (there - behind)[:, 2]):
        depth[y - 3 : y + 4, x - 3 : x + 4] = z
    return depth


def test_depth_at_the_keypoints_is_where_the_hand_is():
    camera, frames = CAMERAS["a"], np.arange(0, 90, 15)
    apart = POINTS[frames].copy()
    apart += 0.03 * np.arange(21)[None, :, None] * np.array([0, 0.05, 0])  # no patch on another
    track = seen_by(camera, STAMPS[frames], apart)
    path = rgbd(track, camera, [depth_of(camera, points) for points in apart])
    assert np.median(np.linalg.norm(path.points - apart, axis=-1)) < 2e-3


def test_a_fingertip_whose_depth_is_the_wall_behind_it_is_put_back():
    camera = CAMERAS["a"]
    track = seen_by(camera, STAMPS[:1], POINTS[:1])
    depth = depth_of(camera, POINTS[0])
    x, y = np.round(camera.project(POINTS[0, 20])).astype(int)
    depth[y - 5 : y + 6, x - 5 : x + 6] = 2.0
    path = rgbd(track, camera, lambda frame: depth)
    assert np.linalg.norm(path.points[0, 20] - POINTS[0, 20]) < 0.02
    depth[:] = 2.0
    depth[::7] = np.nan
    assert np.isfinite(rgbd(track, camera, [depth]).points).all()  # a flat hand, two metres away, is a hand
    with pytest.raises(UnderstudyError, match="the depth of frame 0 is"):
        rgbd(track, camera, [depth[:100]])


def test_one_camera_alone_finds_a_hand_of_the_very_size_that_it_guesses():
    path = mono(TRACKS["a"], CAMERAS["a"])
    assert np.nanmedian(np.linalg.norm(path.points - POINTS, axis=-1)) < 2e-3
    larger = replace(TRACKS["a"], world=1.2 * TRACKS["a"].world)
    assert np.nanmedian(np.linalg.norm(mono(larger, CAMERAS["a"]).points - POINTS, axis=-1)) > 0.1


def test_a_tracker_that_knows_the_place_is_believed():
    camera, points = CAMERAS["a"], TRACKS["a"].points.copy()
    points[:, 1] = POINTS @ camera.camera_from_base[:3, :3].T + camera.camera_from_base[:3, 3]
    np.testing.assert_allclose(given(replace(TRACKS["a"], points=points), camera).points, POINTS, atol=1e-9)
    with pytest.raises(UnderstudyError, match="says nothing of depth"):
        given(TRACKS["a"], camera)
    with pytest.raises(UnderstudyError, match="no hand"):
        given(HandTrack.empty("nobody.mp4", (640, 480), STAMPS), camera)
