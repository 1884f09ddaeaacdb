"""The ray camera against geometry worked out by hand, and against OpenGL where it works."""

import numpy as np
import pytest

from sim import cameras
from sim.cameras import BACKEND, GLCamera, RayCamera, camera_id, make_camera
from vla.errors import UnderstudyError

mujoco = pytest.importorskip("mujoco")

SCENE = """
<mujoco>
  <asset>
    <texture name="checker" type="2d" builtin="checker" rgb1=".2 .3 .4" rgb2=".7 .7 .7" width="64" height="64"/>
    <material name="floor" texture="checker" texrepeat="4 4" texuniform="true"/>
    <material name="red" rgba=".8 .1 .1 1" specular="0"/>
  </asset>
  <worldbody>
    <light pos="0 0 3" directional="true" dir=".1 .3 -1"/>
    <geom name="floor" type="plane" size="2 2 .1" material="floor"/>
    <geom name="ball" type="sphere" size=".1" pos="0 0 .3" rgba="0 1 0 1"/>
    <geom name="box" type="box" size=".1 .05 .08" pos=".3 .2 .08" euler="0 0 30" material="red"/>
    <geom name="can" type="cylinder" size=".06 .1" pos="-.3 .2 .1" rgba="0 0 1 1"/>
    <geom name="pill" type="capsule" size=".05 .1" pos="-.3 -.2 .15" euler="40 20 0" rgba="1 1 0 1"/>
    <geom name="egg" type="ellipsoid" size=".1 .05 .07" pos=".3 -.3 .1" rgba="1 0 1 1"/>
    <geom name="ghost" type="box" size=".5 .01 .5" pos="0 -.8 .5" rgba="1 1 1 0"/>
    <geom name="collision" type="box" size=".5 .01 .5" pos="0 -.9 .5" group="3"/>
    <site name="goal" type="sphere" size=".05" pos="-.1 -.5 .2" rgba="1 .5 0 1"/>
    <camera name="front" pos="0 -1.2 .8" xyaxes="1 0 0 0 .5 .85" fovy="45"/>
    <camera name="level" pos="0 -1 .3" xyaxes="1 0 0 0 0 1" fovy="60"/>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def scene():
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def ray(model, name="front", size=64, **options):
    return RayCamera(model, name, height=size, width=size, **options)


def test_a_ball_is_a_disc_where_geometry_puts_it(scene):
    model, data = scene
    picture = ray(model, "level", 128).picture(data)
    rows, columns = np.nonzero(picture.segmentation == model.geom("ball").id)
    assert abs(rows.mean() - 63.5) < 0.5
    assert abs(columns.mean() - 63.5) < 0.5
    focal = 64 / np.tan(np.radians(30))
    radius = focal * 0.1 / np.sqrt(1 - 0.1**2)
    assert abs(len(rows) - np.pi * radius**2) < 0.05 * np.pi * radius**2
    assert picture.depth[63, 63] == pytest.approx(0.9, abs=1e-3)


def test_depth_is_along_the_axis_not_along_the_ray():
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><geom type="plane" size="9 9 1"/><camera name="down" pos="0 0 2"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(ray(model, "down").picture(data).depth, 2.0, atol=1e-5)


def test_row_0_is_the_top_and_column_0_the_left(scene):
    model, data = scene
    segmentation = ray(model, "front").picture(data).segmentation
    place = {name: np.argwhere(segmentation == model.geom(name).id).mean(axis=0) for name in ("can", "box", "pill")}
    assert place["can"][1] < 32 < place["box"][1]
    assert place["can"][0] < place["pill"][0]
    assert (segmentation[0] == -1).all()
    assert (segmentation[-1] == model.geom("floor").id).all()


def test_hidden_groups_and_transparent_geoms_are_not_seen(scene):
    model, data = scene
    seen = set(np.unique(ray(model).picture(data).segmentation))
    assert seen == {-1} | {model.geom(name).id for name in ("floor", "ball", "box", "can", "pill", "egg")}


def test_colours_lights_and_poses_may_change_between_pictures(scene):
    model, data = scene
    camera = ray(model)
    before = camera.picture(data)
    ball = before.segmentation == model.geom("ball").id
    assert before.color[ball][:, 0].max() == 0
    model.geom("ball").rgba = (1, 0, 0, 1)
    after = camera.render(data)
    assert after[ball][:, 0].max() > 100
    assert after[ball][:, 1].max() == 0
    np.testing.assert_array_equal(after[~ball], before.color[~ball])
    model.light_diffuse[:] = 0
    assert camera.render(data).mean() < after.mean() - 5
    model.cam("front").pos[0] += 0.2
    model.cam("front").fovy = 60
    mujoco.mj_forward(model, data)
    assert (camera.picture(data).segmentation != before.segmentation).mean() > 0.05


def test_the_same_scene_gives_the_same_picture_in_a_new_camera(scene):
    model, data = scene
    first = ray(model).render(data)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert first.std() > 10
    np.testing.assert_array_equal(first, ray(model).render(data))


def test_a_picture_outlives_the_next_one(scene):
    model, data = scene
    camera = ray(model)
    picture = camera.picture(data)
    kept = [picture.color.copy(), picture.depth.copy(), picture.segmentation.copy()]
    model.cam("front").pos[0] += 0.3
    mujoco.mj_forward(model, data)
    camera.picture(data)
    for array, copy in zip((picture.color, picture.depth, picture.segmentation), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_sites_are_drawn_when_asked_for_and_only_then(scene):
    model, data = scene
    without, with_sites = ray(model).picture(data), ray(model, sites=True).picture(data)
    changed = (without.color != with_sites.color).any(axis=-1)
    assert 10 < changed.sum() < 200
    assert (with_sites.segmentation[changed] == -1).all()
    assert (with_sites.depth[changed] < without.depth[changed]).all()
    red, green, blue = with_sites.color[changed].astype(int).mean(axis=0)
    assert red > 1.5 * green
    assert blue == 0


def test_the_floor_is_chequered(scene):
    model, data = scene
    picture = ray(model).picture(data)
    floor = picture.color[picture.segmentation == model.geom("floor").id]
    dark = (floor[:, 0] < 90).mean()
    assert 0.3 < dark < 0.7


def test_a_round_mesh_is_shaded_like_a_sphere():
    turn = np.arange(400) * np.pi * (3 - np.sqrt(5))
    height = np.linspace(-1, 1, 400)
    radius = np.sqrt(1 - height**2)
    vertices = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=1)
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><asset><mesh name="round" vertex="{" ".join(map(str, vertices.reshape(-1)))}" scale=".2 .2 .2"/>'
        '</asset><worldbody><light directional="true" dir="1 .2 -1"/>'
        '<geom type="mesh" mesh="round"/><geom type="sphere" size=".2" pos="9 0 0"/>'
        '<camera name="mesh" pos="0 -1.2 0" xyaxes="1 0 0 0 0 1"/>'
        '<camera name="sphere" pos="9 -1.2 0" xyaxes="1 0 0 0 0 1"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    mesh, sphere = ray(model, "mesh").picture(data), ray(model, "sphere").picture(data)
    both = (mesh.segmentation == 0) & (sphere.segmentation == 1)
    assert both.sum() > 450
    assert sphere.color[both].std() > 15
    difference = np.abs(mesh.color.astype(int) - sphere.color)[both]
    assert np.quantile(difference, 0.9) < 8


def test_names_are_checked(scene):
    model, _ = scene
    with pytest.raises(UnderstudyError, match="did you mean 'front'"):
        camera_id(model, "frnt")
    with pytest.raises(UnderstudyError, match="unknown camera '7'"):
        camera_id(model, 7)
    with pytest.raises(UnderstudyError, match="unknown renderer"):
        make_camera(model, "front", height=8, width=8, renderer="glx")


def test_rays_with_normals_are_called_as_mujoco_3_5_wants(scene, monkeypatch):
    """Stands in for the newer call: one more argument, filled with one unit normal per ray."""
    model, data = scene
    cast = mujoco.mj_multiRay

    def newer(*, normal, **arguments):
        cast(**arguments)
        normal.reshape(-1, 3)[:] = (0, 0, 1)

    monkeypatch.setattr(cameras, "_HAS_NORMALS", True)
    monkeypatch.setattr(mujoco, "mj_multiRay", newer)
    upward = ray(model).picture(data)
    ball = upward.color[upward.segmentation == model.geom("ball").id][:, 1].astype(int)
    assert np.ptp(ball) < 60, "every normal points up, so the ball looks nearly flat"


@pytest.fixture
def pair(scene):
    if BACKEND == "none":
        pytest.skip("no OpenGL library works on this machine")
    model, data = scene
    camera = GLCamera(model, "front", height=120, width=160)
    yield RayCamera(model, "front", height=120, width=160).picture(data), camera.picture(data), model
    camera.close()


def test_rays_and_opengl_see_the_same(pair):
    rays, gl, _ = pair
    same = rays.segmentation == gl.segmentation
    assert same.mean() > 0.99
    solid = same & (rays.segmentation >= 0)
    assert np.quantile(np.abs(rays.depth[solid] - gl.depth[solid]), 0.99) < 0.01
    assert np.isinf(gl.depth[gl.segmentation == -1]).all()
    assert np.isinf(rays.depth[rays.segmentation == -1]).all()
    difference = np.abs(rays.color.astype(int) - gl.color)[solid]
    assert difference.mean() < 15, "OpenGL adds highlights and filters textures: nothing more"


def test_opengl_leaves_the_model_as_it_was(pair):
    *_, model = pair
    size, quality = model.vis.global_, model.vis.quality
    assert (size.offwidth, size.offheight, quality.offsamples, quality.shadowsize) == (640, 480, 4, 4096)


def test_opengl_cameras_of_one_size_share_a_context_until_the_last_is_closed(scene):
    if BACKEND == "none":
        pytest.skip("no OpenGL library works on this machine")
    model, data = scene
    first, second = (GLCamera(model, name, height=32, width=32) for name in ("front", "level"))
    other = GLCamera(model, "front", height=48, width=48)
    assert first._screen is second._screen
    assert first._screen is not other._screen
    before = second.render(data)
    assert not np.array_equal(first.render(data), before)
    first.close()
    other.render(data)
    other.close()
    np.testing.assert_array_equal(second.render(data), before)
    with pytest.raises(UnderstudyError, match="has been closed"):
        first.render(data)
    second.close()
