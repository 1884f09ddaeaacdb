"""Cameras against geometry, against what MuJoCo draws, and against their own file."""

import json

import numpy as np
import pytest

from robot_bridge.retarget.cameras import Camera, camera_of, inverted, load_cameras, save_cameras
from vla.errors import UnderstudyError

BALL_M = 0.012


def looking(size=(640, 480), **more):
    """A camera 2 m above the base's origin that looks down, its x along the base's."""
    matrix = np.array([[600.0, 0, (size[0] - 1) / 2], [0, 600, (size[1] - 1) / 2], [0, 0, 1]])
    placed = np.eye(4)
    placed[:3, :3], placed[:3, 3] = np.diag([1.0, -1, -1]), [0, 0, 2]
    return Camera(size, matrix, base_from_camera=placed, **more)


def test_a_point_lies_where_a_ruler_says():
    camera = looking()
    seen = camera.project(np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 3.0]]))
    np.testing.assert_allclose(seen[:3], [[319.5, 239.5], [349.5, 239.5], [319.5, 209.5]], atol=1e-9)
    assert np.isnan(seen[3]).all(), "what is behind the camera is nowhere in its picture"
    assert camera.project(np.zeros((2, 5, 3))).shape == (2, 5, 2)


def test_rays_undo_the_projection_and_the_lens():
    camera = looking(distortion=np.array([-0.25, 0.08, 0.001, -0.001, 0.0]))
    pixels = np.stack(np.meshgrid(np.linspace(0, 639, 7), np.linspace(0, 479, 5)), -1)
    rays = camera.rays(pixels)
    assert np.abs(rays - looking().rays(pixels)).max() > 0.01, "the lens bends them"
    np.testing.assert_allclose(camera.project(camera.to_base(1.7 * rays)), pixels, atol=0.02)


def test_the_inverse_of_a_pose():
    pose = looking().base_from_camera @ np.array(
        [[0.6, -0.8, 0, 0.1], [0.8, 0.6, 0, -0.2], [0, 0, 1, 0.3], [0, 0, 0, 1]]
    )
    np.testing.assert_allclose(inverted(pose), np.linalg.inv(pose), atol=1e-12)


@pytest.mark.parametrize("factor", [0.5, 2, 3])
def test_a_picture_of_another_size_has_the_same_points_in_the_same_places(factor):
    """The middle of pixel 0 of a picture of half the size is between the middles of pixels 0 and 1."""
    camera = looking(distortion=np.array([-0.1, 0.02, 0, 0, 0]))
    points = np.random.default_rng(0).uniform([-0.6, -0.4, 0], [0.6, 0.4, 0.5], (20, 3))
    scaled = camera.scaled((round(640 * factor), round(480 * factor)))
    np.testing.assert_allclose(scaled.project(points), (camera.project(points) + 0.5) * factor - 0.5, atol=1e-9)


def test_a_picture_of_another_shape_is_refused():
    with pytest.raises(UnderstudyError, match="640×480, and the video has 640×360"):
        looking().scaled((640, 360))


def balls(model_of, camera, depths):
    """A scene with a ball behind each pixel of a grid [N, 2], at ``depths`` [N] m; the places of the balls [N, 3]."""
    width, height = camera.size
    grid = np.meshgrid(np.linspace(0.08, 0.92, 6) * (width - 1), np.linspace(0.1, 0.9, 5) * (height - 1))
    pixels = np.stack(grid, -1).reshape(-1, 2)
    points = camera.to_base(camera.rays(pixels) * depths[:, None])
    drawn = "".join(f'<geom type="sphere" size="{BALL_M}" pos="{x} {y} {z}" rgba="1 0 0 1"/>' for x, y, z in points)
    return model_of(drawn), points


@pytest.mark.parametrize("size", [(480, 270), (240, 320), (321, 241)])
@pytest.mark.parametrize("renderer", ["ray", "gl"])
def test_mujoco_draws_a_ball_where_its_camera_projects_it(size, renderer):
    """Not only the picture's middle: balls all over pictures that are not square, of a camera that is turned."""
    mujoco = pytest.importorskip("mujoco")
    from sim.cameras import BACKEND, make_camera

    if renderer == "gl" and BACKEND == "none":
        pytest.skip("no OpenGL library works here")

    def model_of(more):
        held = '<camera name="eye" pos="0 -.7 .4" xyaxes="1 .1 0 0 .5 .85" fovy="45"/>'
        return mujoco.MjModel.from_xml_string(
            f'<mujoco><worldbody>{more}<body pos=".1 .2 .3" euler="10 20 -15">{held}</body></worldbody></mujoco>'
        )

    def placed(model):
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        return data

    eye = placed(model_of("")).camera("eye")
    camera = Camera.of_mujoco(eye.xpos, eye.xmat, fovy=45, size=size)
    model, points = balls(model_of, camera, np.random.default_rng(0).uniform(0.6, 1.0, 30))
    drawn = make_camera(model, "eye", height=size[1], width=size[0], renderer=renderer)
    segmentation = drawn.picture(placed(model)).segmentation
    drawn.close()
    middles = np.array([np.argwhere(segmentation == ball).mean(0)[::-1] for ball in range(len(points))])
    off = middles - camera.project(points)
    assert np.abs(off).max() < 0.3
    assert np.abs(off.mean(0)).max() < 0.05, "half a pixel of the convention would show here"


def test_a_file_of_cameras_says_what_it_was_given(tmp_path):
    file = tmp_path / "new" / "cameras.json"
    cameras = {
        "front": looking(distortion=np.array([-0.1, 0.02, 1e-3, 0, 0]), residual_px=0.25),
        "side": looking((4, 2)),
    }
    save_cameras(file, cameras)
    read = load_cameras(file)
    assert list(read) == ["front", "side"]
    for name, camera in cameras.items():
        assert (read[name].size, read[name].residual_px) == (camera.size, camera.residual_px)
        for array in ("matrix", "distortion", "base_from_camera"):
            np.testing.assert_array_equal(getattr(read[name], array), getattr(camera, array))
    with pytest.raises(UnderstudyError, match="did you mean 'front'"):
        camera_of(read, "fornt")


def spoilt(**change):
    def change_one(held):
        held["cameras"]["front"].update(change)

    return change_one


SHEARED, MIRRORED = np.eye(4), np.diag([1.0, 1, -1, 1])
SHEARED[0, 1] = 0.1


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoilt(base_from_camera=SHEARED.tolist()), "no rotation"),
        (spoilt(base_from_camera=MIRRORED.tolist()), "no rotation"),
        (spoilt(base_from_camera=(2 * np.eye(4)).tolist()), "no rotation"),
        (spoilt(matrix=[[1, 2], [3, 4]]), "does not hold cameras"),
        (spoilt(width="wide"), "does not hold cameras"),
        (lambda held: held["cameras"]["front"].pop("matrix"), "does not hold cameras"),
        (lambda held: held.pop("cameras"), "does not hold cameras"),
    ],
)
def test_a_file_that_holds_no_cameras_is_refused(tmp_path, spoil, told):
    file = tmp_path / "cameras.json"
    save_cameras(file, {"front": looking()})
    held = json.loads(file.read_text())
    spoil(held)
    file.write_text(json.dumps(held))
    with pytest.raises(UnderstudyError, match=told):
        load_cameras(file)


def test_what_is_no_json_or_is_not_there_is_refused(tmp_path):
    file = tmp_path / "cameras.json"
    with pytest.raises(UnderstudyError, match="vla calibrate"):
        load_cameras(file)
    file.write_text("{")
    with pytest.raises(UnderstudyError, match="does not hold cameras"):
        load_cameras(file)
