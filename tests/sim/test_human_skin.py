"""The skin of the simulated hand: one closed surface that follows the bones, for either side."""

import numpy as np
import pytest

from sim.cameras import BACKEND, RayCamera
from sim.human_hand import KEYPOINTS, SKINS, Grip, HandLook
from vla.errors import UnderstudyError

mujoco = pytest.importorskip("mujoco")
human_skin = pytest.importorskip("sim.human_skin")
TIPS, SkinCamera, SkinnedHand, skin_of, surface = (
    getattr(human_skin, name) for name in ("TIPS", "SkinCamera", "SkinnedHand", "skin_of", "surface")
)

SHOULDER = np.array([-0.1, -0.1, 0.4])


class Scene:
    """A hand alone with a camera, and where its skin is."""

    def __init__(self, side=1, scale=1.0):
        spec = mujoco.MjSpec()
        self.hand = SkinnedHand(HandLook(side, scale, SKINS[1], (0.2, 0.3, 0.6)))
        self.hand.add(spec)
        spec.worldbody.add_camera(name="above", pos=[0.0, 0.0, 0.6])
        self.model = spec.compile()
        self.hand.bind(self.model)
        self.data = mujoco.MjData(self.model)
        self._scene, self._eye = mujoco.MjvScene(self.model, 100), mujoco.MjvCamera()

    def skin(self):
        """The vertices [V, 3] as they would be drawn: this much of it needs no OpenGL."""
        mujoco.mj_forward(self.model, self.data)
        option, everything = mujoco.MjvOption(), mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self.model, self.data, option, None, self._eye, everything, self._scene)
        return np.array(self._scene.skinvert, np.float64).reshape(-1, 3)

    def pose(self, angles, *, palm=(0, 0, 0), shoulder=(-1.0, 0, 0)):
        """Palm down at ``palm``; the vertices."""
        self.hand.pose(self.data, np.array(palm, float), np.eye(3), angles=angles, shoulder=np.array(shoulder, float))
        return self.skin()


@pytest.fixture(scope="module")
def right():
    return Scene()


@pytest.fixture(scope="module")
def left():
    return Scene(side=-1)


def rest():
    return human_skin._REST.reshape(-1).copy()


def edges(faces):
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def volume(vertices, faces):
    one, two, three = (vertices[faces[:, corner]] for corner in range(3))
    return float(np.einsum("ij,ij->", one, np.cross(two, three)) / 6)


def assert_closed(faces):
    """Every edge has a face on either side, which goes along it the other way."""
    there = edges(faces)
    codes, back = there @ [10**7, 1], there @ [1, 10**7]
    assert len(np.unique(codes)) == len(codes)
    np.testing.assert_array_equal(np.sort(codes), np.sort(back))


def winding(points, vertices, faces):
    """How often the surface goes around each point: 1 inside, 0 outside."""
    one, two, three = (vertices[faces[:, corner]] - points[:, None] for corner in range(3))
    a, b, c = (np.linalg.norm(way, axis=-1) for way in (one, two, three))
    up = np.einsum("pfi,pfi->pf", one, np.cross(two, three))
    dots = [np.einsum("pfi,pfi->pf", *pair) for pair in ((one, two), (two, three), (three, one))]
    return (2 * np.arctan2(up, a * b * c + dots[0] * c + dots[1] * a + dots[2] * b)).sum(axis=1) / (4 * np.pi)


def test_surface_nets_find_a_ball_and_close_it():
    grid = np.stack(np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij"), axis=-1)
    vertices, faces = surface(np.linalg.norm(grid - 11.3, axis=-1) - 8)
    assert_closed(faces)
    assert len(vertices) - len(edges(faces)) // 2 + len(faces) == 2
    assert np.abs(np.linalg.norm(vertices - 11.3, axis=1) - 8).max() < 0.15
    assert volume(vertices, faces) == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.03)


@pytest.mark.parametrize("side", [1, -1])
def test_the_skin_is_one_closed_surface_seen_from_outside(side):
    skin = skin_of(side, 1.0)
    assert_closed(skin.faces)
    assert len(skin.vertices) - len(edges(skin.faces)) // 2 + len(skin.faces) == 2  # of one piece, without a hole
    assert 0.0005 < volume(skin.vertices, skin.faces) < 0.0012


def test_all_keypoints_are_under_the_skin(right):
    angles = rest()
    angles[[4, 8, 12, 16]] = 0
    vertices = right.pose(angles)
    points = right.hand.keypoints(right.data)
    assert points.shape == (KEYPOINTS, 3)
    np.testing.assert_allclose(winding(points, vertices, skin_of(1, 1.0).faces), 1, atol=1e-3)
    away = points + np.array([0, 0, 0.1])
    np.testing.assert_allclose(winding(away, vertices, skin_of(1, 1.0).faces), 0, atol=1e-3)


def test_weights_are_shares_of_a_few_neighbours():
    skin = skin_of(1, 1.0)
    assert skin.weights.shape == (len(skin.vertices), len(skin.bones))
    np.testing.assert_allclose(skin.weights.sum(axis=1), 1)
    assert skin.weights.min() >= 0
    assert (skin.weights > 0).sum(axis=1).max() <= 4
    assert (skin.weights > 0).any(axis=0).all()


def test_in_the_rest_pose_nothing_is_moved(right):
    np.testing.assert_allclose(right.pose(rest()), skin_of(1, 1.0).vertices, atol=1e-6)


def test_the_skin_goes_where_its_finger_goes_and_nowhere_else(right):
    before, angles, skin = right.pose(rest()), rest(), skin_of(1, 1.0)
    index = skin.bones.index("index 2")
    body = right.model.body("index 2").id
    place, turn = right.data.xpos[body].copy(), right.data.xmat[body].reshape(3, 3).copy()
    angles[5:8] += [0.5, 0.6, 0.4]
    after = right.pose(angles)
    wholly = skin.weights[:, index] > 0.999
    assert wholly.sum() > 100
    carried = (before[wholly] - place) @ turn @ right.data.xmat[body].reshape(3, 3).T + right.data.xpos[body]
    np.testing.assert_allclose(after[wholly], carried, atol=1e-5)
    finger = [number for number, bone in enumerate(skin.bones) if bone.startswith("index")]
    untouched = skin.weights[:, finger].sum(axis=1) == 0
    assert np.linalg.norm(after[wholly] - before[wholly], axis=1).min() > 0.01
    np.testing.assert_allclose(after[untouched], before[untouched], atol=1e-6)


def test_a_left_hand_is_the_mirror_image_of_a_right_one(right, left):
    mirror = np.array([1, -1, 1])
    angles = rest() + np.random.default_rng(0).uniform(-0.2, 0.4, 20)
    ours = right.pose(angles, palm=(0.1, 0.2, 0.3), shoulder=(-0.5, 0.1, 0.6))
    theirs = left.pose(angles, palm=(0.1, -0.2, 0.3), shoulder=(-0.5, -0.1, 0.6))
    np.testing.assert_allclose(theirs, ours * mirror, atol=1e-5)
    np.testing.assert_allclose(
        left.hand.keypoints(left.data), right.hand.keypoints(right.data) * mirror, atol=1e-9, rtol=0
    )


def test_a_larger_hand_has_a_larger_skin():
    one, larger = skin_of(1, 1.0), skin_of(1, 1.1)
    np.testing.assert_allclose(larger.vertices, 1.1 * one.vertices)
    np.testing.assert_array_equal(larger.weights, one.weights)
    scene = Scene(scale=1.1)
    np.testing.assert_allclose(scene.pose(rest()), larger.vertices, atol=1e-6)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("opening", [0.0, 0.05, 0.074])
def test_a_pinch_has_its_pads_where_it_was_told(side, opening, right, left):
    scene = right if side > 0 else left
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1.0]])
    point = np.array([0.5, 0.1, 0.03])
    scene.hand.pinch(scene.data, point, turn, opening=opening, shoulder=SHOULDER)
    mujoco.mj_forward(scene.model, scene.data)
    thumb, index = scene.hand.keypoints(scene.data)[[4, 8]]
    pads = thumb + TIPS["thumb"] * turn[:, 0], index - TIPS["index"] * turn[:, 0]
    np.testing.assert_allclose(pads[0], point - opening / 2 * turn[:, 0], atol=4e-4)
    np.testing.assert_allclose(pads[1], point + opening / 2 * turn[:, 0], atol=4e-4)
    others = scene.hand.keypoints(scene.data)[[0, 5, 9, 13, 17]]
    assert (others[:, 2] > point[2] + 0.05).all()  # the palm is above what is gripped


def test_it_can_be_steered_like_the_hand_of_capsules(right):
    grip = Grip(np.array([0.4, 0.0, 0.1]), np.array([0.2, 0.6, 0.0]), gap=0.04)
    right.hand.show(right.data, grip, SHOULDER)
    mujoco.mj_forward(right.model, right.data)
    points = right.hand.keypoints(right.data)
    np.testing.assert_allclose((points[4] + (points[8] + points[12]) / 2) / 2, grip.point, atol=2e-3)


def test_of_the_hand_only_the_skin_is_drawn(right):
    names = ("palm", "thenar", "forearm", "index 0", "thumb 2")
    assert all(right.model.geom(name).group[0] == 3 for name in names)
    assert right.model.geom("sleeve").group[0] == 0
    if BACKEND == "none":
        pytest.skip("no OpenGL library works on this machine")
    right.pose(rest())
    camera = SkinCamera(right.model, "above", height=96, width=128)
    picture, depth = camera.picture(right.data), camera.depth(right.data)
    camera.close()
    np.testing.assert_array_equal(depth, picture.depth)
    skin = np.isfinite(depth) & (picture.segmentation == -1)  # all else is a geom
    assert 0.02 < skin.mean() < 0.4
    tint = picture.color[skin].mean(axis=0)
    assert tint[0] > tint[1] > tint[2] > 0
    assert depth[skin].min() == pytest.approx(0.6 - skin_of(1, 1.0).vertices[:, 2].max(), abs=0.005)
    rays = RayCamera(right.model, "above", height=96, width=128).picture(right.data)
    assert set(np.unique(rays.segmentation)) <= {-1, right.model.geom("sleeve").id}


def test_without_opengl_it_says_that_rays_see_no_skin(right, monkeypatch):
    monkeypatch.setattr(human_skin, "BACKEND", "none")
    with pytest.raises(UnderstudyError, match=r"drawn by OpenGL alone.*apt-get install"):
        SkinCamera(right.model, "above", height=32, width=32)
