"""Films of a hand that picks and places a cube: what is told about them is what they show."""

from itertools import islice

import numpy as np
import pytest

from sim.cameras import BACKEND
from vla.errors import UnderstudyError

mujoco = pytest.importorskip("mujoco")
human_pick = pytest.importorskip("sim.human_pick")
CUBE, VIEWS, pick_film = human_pick.CUBE, human_pick.VIEWS, human_pick.pick_film

needs_opengl = pytest.mark.skipif(BACKEND == "none", reason="no OpenGL library works on this machine")
SMALL = {"cameras": ("front", "side"), "size": (160, 120), "fps": 5}


@pytest.fixture(scope="module")
def film():
    return pick_film(3, **SMALL)


@pytest.fixture(scope="module")
def drawn(film):
    """Its frames, with depth."""
    if BACKEND == "none":
        pytest.skip("no OpenGL library works on this machine")
    return list(film.frames(depth=film.cameras))


def turned(cubes):
    """Rotations [T, 3, 3] of poses [T, 7]."""
    matrices = np.empty((len(cubes), 9))
    for matrix, cube in zip(matrices, cubes):
        mujoco.mju_quat2Mat(matrix, cube[3:])
    return matrices.reshape(-1, 3, 3)


def in_camera(camera, points):
    """Points [..., 3] m of the world in the camera's frame."""
    return points @ camera.camera_from_base[:3, :3].T + camera.camera_from_base[:3, 3]


def pixels_of(camera, points):
    """Columns and rows [...] of the pixels that points are in."""
    columns, rows = np.moveaxis(np.rint(camera.project(points)).astype(int), -1, 0)
    return columns, rows


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_cube_is_taken_lifted_carried_and_put_down(seed, side):
    truth = pick_film(seed, side=side, **SMALL).truth
    held, cube = truth.grasped, truth.cube[:, :3]
    first, last = np.flatnonzero(held)[[0, -1]]
    assert held[first : last + 1].all()
    assert 0.15 * len(held) < first < last < 0.9 * len(held)
    np.testing.assert_array_equal(truth.cube[:first], np.tile(truth.start, (first, 1)))
    np.testing.assert_array_equal(truth.cube[last + 1 :], np.tile(truth.goal, (len(held) - last - 1, 1)))
    assert cube[:, 2].max() > CUBE + 0.1
    assert np.linalg.norm(truth.goal[:2] - truth.start[:2]) > 0.1
    for pose in (truth.start, truth.goal):
        assert pose[2] == pytest.approx(CUBE, abs=1e-6)
        np.testing.assert_allclose(turned(pose[None])[0][:, 2], [0, 0, 1], atol=1e-6)


def test_the_cube_is_fixed_to_the_fingers_that_hold_it(film):
    truth = film.truth
    held = truth.grasped
    for keypoint in (0, 4, 8, 17):
        away = np.linalg.norm(truth.keypoints[held, keypoint] - truth.cube[held, :3], axis=1)
        assert np.ptp(away) < 1e-4
    inside = np.einsum("tji,tjk->tik", truth.palm[held], turned(truth.cube[held]))
    np.testing.assert_allclose(inside, np.tile(inside[0], (len(inside), 1, 1)), atol=1e-4)
    np.testing.assert_allclose(truth.opening[held], 2 * CUBE, atol=1e-4)
    assert (truth.opening[~held] > 0.03).all()


@pytest.mark.parametrize("seed", [0, 3, 7])
def test_the_pads_close_level_on_two_opposite_faces(seed):
    truth = pick_film(seed, **SMALL).truth
    first, last = np.flatnonzero(truth.grasped)[[0, -1]]
    for frame in (first, last):
        along = truth.keypoints[frame, 8] - truth.keypoints[frame, 4]
        along /= np.linalg.norm(along)
        offset = truth.pinch[frame] - truth.cube[frame, :3]
        assert abs(along[2]) < 0.12  # the hand may have begun to lift
        face = turned(truth.cube[frame][None])[0].T @ along
        assert np.abs(face).max() > 0.9999
        assert abs(offset @ along) < 5e-4
        assert np.linalg.norm(offset) < 0.009


def test_the_pinch_is_where_the_fingertips_are(film):
    truth = film.truth
    tips = truth.keypoints[:, [4, 8]]
    np.testing.assert_allclose(truth.pinch, tips.mean(axis=1), atol=1.2e-3)
    gap = np.linalg.norm(tips[:, 1] - tips[:, 0], axis=1) - truth.opening
    assert np.ptp(gap) < 1e-9
    np.testing.assert_allclose(np.linalg.det(truth.palm), 1)
    steps = np.linalg.norm(np.diff(truth.pinch, axis=0), axis=1) * film.fps
    assert steps.max() < 0.8  # [m/s], nobody hurries
    assert truth.keypoints[..., 2].min() > 0.005


def test_seconds_frames_and_stamps_agree(film):
    assert len(film.truth.stamps) == 35
    np.testing.assert_allclose(film.truth.stamps, np.arange(35) / 5)
    for name in ("keypoints", "pinch", "palm", "opening", "grasped", "cube"):
        assert len(getattr(film.truth, name)) == 35


def test_neither_rate_nor_cameras_change_what_is_done(film):
    other = pick_film(3, cameras=("quarter",), size=(64, 48), fps=10)
    np.testing.assert_allclose(other.truth.keypoints[::2], film.truth.keypoints, atol=1e-9)
    np.testing.assert_allclose(other.truth.goal, film.truth.goal, atol=1e-9)
    assert not np.allclose(pick_film(4, **SMALL).truth.start, film.truth.start, atol=1e-3)


def test_a_left_hand_is_filmed_from_its_own_side(film):
    other = pick_film(3, side="left", **SMALL)
    ours, theirs = (each.cameras["side"].base_from_camera[:3, 3] for each in (film, other))
    assert ours[1] > 0.3
    assert theirs[1] < -0.3
    for each, sign in ((film, 1), (other, -1)):  # from wrist to index and little finger, around the palm's normal
        palm, points = each.truth.palm[0], each.truth.keypoints[0]
        around = np.cross(points[5] - points[0], points[17] - points[0])
        assert sign * (around @ palm[:, 2]) < 0


@pytest.mark.parametrize("view", VIEWS)
def test_the_whole_hand_is_in_the_picture(view):
    for seed in range(4):
        film = pick_film(seed, cameras=(view,), fps=4)
        pixels = film.cameras[view].project(film.truth.keypoints)
        assert (pixels > 4).all()
        assert (pixels < np.array(film.size) - 5).all()
        assert 80 < np.median(np.ptp(pixels, axis=1).max(axis=1)) < 250


def test_the_truth_is_where_the_hand_is_drawn(film, drawn):
    for view, camera in film.cameras.items():
        ahead = in_camera(camera, film.truth.keypoints)[..., 2]
        columns, rows = pixels_of(camera, film.truth.keypoints)
        depth = np.array([frame.depth[view][row, column] for frame, row, column in zip(drawn, rows, columns)])
        under = ahead - depth  # how far behind what is seen there
        assert (under > -0.004).mean() > 0.99
        assert (under < 0.02).mean() > 0.55  # the other keypoints are behind something
        seen = np.abs(depth[:, 8] - ahead[:, 8]) < 0.02
        assert seen.mean() > 0.8 or view == "side"
        mirrored = film.size[0] - 1 - columns
        wrong = np.array([frame.depth[view][row, column] for frame, row, column in zip(drawn, rows, mirrored)])
        assert (np.abs(ahead - wrong) < 0.02).mean() < 0.3


@needs_opengl
def test_before_the_grasp_every_keypoint_is_on_the_skin(film):
    stage = film._stage
    stage.show(film._grips[0], film.truth.cube[0])
    for view, camera in film.cameras.items():
        eye = human_pick.SkinCamera(stage.model, view, height=120, width=160)
        skin = eye.picture(stage.data).segmentation == -1  # all else is a geom
        eye.close()
        columns, rows = pixels_of(camera, film.truth.keypoints[0])
        assert skin[rows, columns].all()
        low, high = (edge(np.argwhere(skin), axis=0) for edge in (np.min, np.max))
        assert (low < [rows.min(), columns.min()]).all()
        assert high[0] > rows.max()


def test_the_depth_of_cube_and_table_is_that_of_the_geometry(film, drawn):
    start, goal = film.truth.start, film.truth.goal
    for view, camera in film.cameras.items():
        for pose, frame in ((start, drawn[0]), (goal, drawn[-1])):
            top = pose[:3] + np.array([0, 0, CUBE])
            column, row = pixels_of(camera, top)
            ahead = in_camera(camera, top)[2]
            assert frame.depth[view][row, column] == pytest.approx(ahead, abs=0.015)  # one pixel is 3 mm wide or more
        column, row = 80, 112  # bare table, this side of hand and cube
        ray = camera.base_from_camera[:3, :3] @ camera.rays(np.array([column, row], float))
        ahead = -camera.base_from_camera[2, 3] / ray[2]
        assert drawn[0].depth[view][row, column] == pytest.approx(ahead, abs=0.002)


def test_frames_have_the_size_that_was_asked_for(film, drawn):
    assert len(drawn) == len(film.truth.stamps)
    for frame in drawn:
        assert set(frame.color) == set(frame.depth) == {"front", "side"}
        assert all(color.shape == (120, 160, 3) and color.dtype == np.uint8 for color in frame.color.values())
        assert all(depth.shape == (120, 160) and depth.dtype == np.float32 for depth in frame.depth.values())
    assert not np.array_equal(drawn[0].color["front"], drawn[10].color["front"])


@needs_opengl
def test_a_film_is_a_function_of_its_seed(film, drawn):
    again = list(islice(pick_film(3, **SMALL).frames(), 3))
    for one, other in zip(again, drawn):
        np.testing.assert_array_equal(one.color["side"], other.color["side"])
        assert one.depth == {}
    other = next(iter(pick_film(4, **SMALL).frames()))
    assert not np.array_equal(other.color["side"], drawn[0].color["side"])


@needs_opengl
def test_noise_of_the_depth_grows_with_the_distance(film, drawn):
    frames = [next(iter(film.frames(depth=film.cameras, noise=0.01))) for _ in range(2)]
    np.testing.assert_array_equal(frames[0].depth["side"], frames[1].depth["side"])
    exact = drawn[0].depth["side"]
    off = (frames[0].depth["side"] - exact) / exact**2
    assert off.std() == pytest.approx(0.01, rel=0.05)
    assert frames[0].depth["side"].dtype == np.float32


def test_what_cannot_be_filmed_is_refused(film, monkeypatch):
    with pytest.raises(UnderstudyError, match=r"unknown camera 'sid'.*side"):
        pick_film(0, cameras=("sid",))
    with pytest.raises(UnderstudyError, match="nobody picks and places a cube in 1 s"):
        pick_film(0, seconds=1)
    with pytest.raises(UnderstudyError, match="hand"):
        pick_film(0, side="both")
    monkeypatch.setattr("sim.human_skin.BACKEND", "none")
    with pytest.raises(UnderstudyError, match="drawn by OpenGL alone"):
        next(film.frames())


@needs_opengl
def test_a_film_is_written_as_those_who_retarget_read_it(film, tmp_path):
    from robot_bridge.retarget.cameras import load_cameras
    from robot_bridge.retarget.retarget import read_depths
    from sim.human_pick_command import write
    from vla.data.video import every_frame

    write(film, tmp_path, depth=["side"])
    assert load_cameras(tmp_path / "cameras.json").keys() == film.cameras.keys()
    stamps = [stamp for stamp, _ in every_frame(tmp_path / "front.mp4")]
    np.testing.assert_allclose(stamps, film.truth.stamps, atol=1e-3)
    depth = read_depths(tmp_path / "depth-side")(len(stamps) - 1)
    assert depth.shape == (120, 160)
    assert 0.4 < np.median(depth[depth > 0]) < 3
    with np.load(tmp_path / "truth.npz") as truth:
        np.testing.assert_array_equal(truth["pinch"], film.truth.pinch)
