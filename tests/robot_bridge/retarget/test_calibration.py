"""Calibration against rendered boards of known place, and against poses of known noise."""

import json
import struct
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest

from robot_bridge.retarget.boards import (
    AprilTags,
    Charuco,
    Sighting,
    find_tags,
    load_board,
    page,
    read_pictures,
    save_board,
    write_board,
)
from robot_bridge.retarget.calibrate import main, overlay, pose_of, read_poses
from robot_bridge.retarget.calibration import (
    View,
    hand_eye,
    intrinsics,
    place,
    place_by_board,
    place_by_tags,
    solve_hand_eye,
    solved,
)
from robot_bridge.retarget.cameras import Camera, inverted, load_cameras, save_cameras
from vla.errors import UnderstudyError

PER_MM = 4
FINER = 3
"""So many rays each way fall into a pixel of a rendered picture."""
SIZE = (640, 480)
CHARUCO = Charuco()
TAG = AprilTags(tag=0.06, first=3)
BENT = np.array([-0.25, 0.08, 0.001, -0.001, 0.0])
FACING = np.diag([1.0, -1.0, -1.0])
"""A board's axes in the camera's frame when its print is upright before the camera."""


def camera(distortion=(0.0,) * 5, size=SIZE):
    matrix = np.array([[600.0, 0, 325], [0, 605, 236], [0, 0, 1]])
    return Camera(size, matrix, np.array(distortion))


@cache
def drawn(board):
    return page(board, PER_MM)


def rays(eye):
    """Where each pixel of a finer picture looks [H, W, 3]: the lens is undone step by step, then interpolated."""
    width, height = eye.size
    at = np.stack(np.meshgrid(np.arange(-1, width + 1), np.arange(-1, height + 1)), -1).astype(float)
    seen = (at - eye.matrix[:2, 2]) / np.diag(eye.matrix)[:2]
    straight, (k1, k2, p1, p2, k3) = seen.copy(), eye.distortion
    for _ in range(25 if eye.distortion.any() else 0):
        x, y = straight[..., 0], straight[..., 1]
        far = x * x + y * y
        aside = np.stack([2 * p1 * x * y + p2 * (far + 2 * x * x), p1 * (far + 2 * y * y) + 2 * p2 * x * y], -1)
        straight = (seen - aside) / (1 + far * (k1 + far * (k2 + far * k3)))[..., None]
    fine = cv2.resize(straight, None, fx=FINER, fy=FINER, interpolation=cv2.INTER_LINEAR)[FINER:-FINER, FINER:-FINER]
    return np.concatenate([fine, np.ones((*fine.shape[:2], 1))], -1).astype(np.float32)


def film(eye, *placed, looks=None, background=128):
    """A picture [H, W] of boards, each with its camera_from_board [4, 4]; ``looks``: the camera's `rays`."""
    looks = rays(eye) if looks is None else looks
    picture = np.full(looks.shape[:2], background, np.uint8)
    for board, pose in placed:
        sheet = drawn(board)
        height, width = sheet.shape
        hit = looks @ np.linalg.inv(pose[:3][:, [0, 1, 3]]).T.astype(np.float32)
        across = hit[..., 0] / hit[..., 2] * (1e3 * PER_MM) + (width - 1) / 2
        down = -hit[..., 1] / hit[..., 2] * (1e3 * PER_MM) + (height - 1) / 2
        on = (across > 0) & (across < width - 1) & (down > 0) & (down < height - 1)
        picture[on] = cv2.remap(sheet, across, down, cv2.INTER_LINEAR)[on]
    return cv2.resize(picture, eye.size, interpolation=cv2.INTER_AREA)


def turn(*degrees):
    return pose_of((0, 0, 0), degrees)[:3, :3]


def posed(rotation, shift):
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, shift
    return pose


def before(random, count, *, tilt=0.6, near=0.3, far=0.5):
    """camera_from_board of boards before a camera, tilted by up to ``tilt`` [rad] about each axis."""
    for _ in range(count):
        vector = random.uniform(-1, 1, 3) * [tilt, tilt, 0.4]
        yield posed(FACING @ cv2.Rodrigues(vector)[0], random.uniform([-0.09, -0.07, near], [0.09, 0.07, far]))


class Told:
    """A board whose sightings are made up: the picture holds their number."""

    about = "a board that is told"

    def __init__(self, sightings):
        self.sightings = sightings
        self.pictures = [np.full((480, 640), number, np.uint8) for number in range(len(sightings))]

    def find(self, picture):
        return self.sightings[int(picture[0, 0])]


def told(eye, poses, points, noise=0.0):
    random = np.random.default_rng(5)
    at = [replace(eye, base_from_camera=inverted(pose)).project(points) for pose in poses]
    return Told([Sighting(points, pixels + random.normal(0, noise, pixels.shape)) for pixels in at])


GRID = np.stack([*np.meshgrid(np.linspace(-0.09, 0.09, 6), np.linspace(-0.06, 0.06, 5)), np.zeros((5, 6))], -1)
GRID = GRID.reshape(-1, 3)


def degrees_between(one, other):
    return np.degrees(np.linalg.norm(cv2.Rodrigues(one[:3, :3].T @ other[:3, :3])[0]))


def mm_between(one, other):
    return 1e3 * np.linalg.norm(one[:3, 3] - other[:3, 3])


# Boards


@pytest.mark.parametrize("blur", [0, 0.8])
@pytest.mark.parametrize(("board", "spread"), [(CHARUCO, 0.08), (TAG, 0.05), (AprilTags(0.04, 3, 2, 0.012, 40), 0.06)])
def test_corners_are_found_where_geometry_puts_them(board, spread, blur):
    """No bias: OpenCV's own ways are off by half a pixel (ChArUco and AprilTag) or by 0.2 px and more (tags)."""
    random, eye = np.random.default_rng(0), camera()
    looks, off = rays(eye), []
    for pose in before(random, 5):
        picture = film(eye, (board, pose), looks=looks)
        if blur:
            noisy = 0.7 * cv2.GaussianBlur(picture, (0, 0), blur) + random.normal(20, 2, picture.shape)
            picture = np.clip(noisy, 0, 255).astype(np.uint8)
        seen = board.find(picture)
        off.append(seen.pixels - replace(eye, base_from_camera=inverted(pose)).project(seen.points))
    off = np.concatenate(off)
    assert np.abs(off.mean(0)).max() < 0.03
    assert off.std(0).max() < spread


def test_a_board_lies_as_its_frame_says():
    """Seen from above, print upright: x to the right, y up in the picture, z towards the camera."""
    pose = posed(FACING, (0.02, -0.01, 0.4))
    for board in (CHARUCO, TAG, Charuco(8, 6, 0.022, 0.016, "5x5_50")):
        seen = board.find(film(camera(), (board, pose)))
        np.testing.assert_allclose(solved(camera(), seen.points, seen.pixels)[0], pose, atol=5e-3)
        right, up = seen.points[:, 0].argmax(), seen.points[:, 1].argmax()
        assert seen.pixels[right, 0] == pytest.approx(seen.pixels[:, 0].max(), abs=1)
        assert seen.pixels[up, 1] == pytest.approx(seen.pixels[:, 1].min(), abs=1)


@pytest.mark.parametrize("board", [CHARUCO, TAG, AprilTags(0.03, 4, 3, 0.01, 9), Charuco(6, 8, 0.02, 0.015)])
def test_a_board_is_printed_at_its_size_and_described_beside(tmp_path, board):
    file = tmp_path / "new" / "board.png"
    size_mm = write_board(board, file)
    assert size_mm == pytest.approx([1e3 * side + 28 for side in board.size])
    content = file.read_bytes()
    at = content.index(b"pHYs") + 4
    assert struct.unpack(">IIB", content[at : at + 9]) == (10_000, 10_000, 1)
    assert load_board(file.with_suffix(".json")) == board
    picture = read_pictures([file])["board.png"]
    assert picture.shape[::-1] == tuple(round(10 * side) for side in size_mm)
    seen = board.find(picture)
    on_paper = (seen.pixels - (np.array(picture.shape[::-1]) - 1) / 2) / 10 * [1, -1]
    np.testing.assert_allclose(on_paper, 1e3 * seen.points[:, :2], atol=0.005)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Charuco(dictionary="4x4_500"), "did you mean '4x4_50'"),
        (lambda: Charuco(columns=2), "3 columns"),
        (lambda: Charuco(marker=0.03), "0.4 to 0.95"),
        (lambda: Charuco(columns=20, rows=10), "4x4_50 has 50"),
        (lambda: AprilTags(columns=2, gap=0.001), "7.5 mm of white"),
        (lambda: AprilTags(first=600), "0…586"),
        (lambda: AprilTags(rows=0), "a column"),
    ],
)
def test_a_board_that_cannot_be_found_is_not_made(make, message):
    with pytest.raises(UnderstudyError, match=message):
        make()


def test_what_describes_no_board_is_refused(tmp_path):
    file = tmp_path / "board.json"
    with pytest.raises(UnderstudyError, match="vla calibrate board"):
        load_board(file)
    for text, message in (
        ("{", "no board"),
        ("[]", "no board"),
        ('{"board": "charuko"}', "did you mean 'charuco'"),
        ('{"board": "tags", "sides": 4}', "no board"),
        ('{"board": "tags", "tag_mm": "x"}', "no board"),
    ):
        file.write_text(text)
        with pytest.raises(UnderstudyError, match=message):
            load_board(file)
    with pytest.raises(UnderstudyError, match="as a png"):
        write_board(TAG, tmp_path / "board.jpg")


def test_a_board_of_older_software_is_found_when_it_is_described_as_such():
    new, old = (Charuco(8, 6, 0.022, 0.016, legacy=legacy) for legacy in (False, True))
    assert len(old.find(page(old, PER_MM)).points) == len(new.find(page(new, PER_MM)).points) == 35
    assert old.find(page(new, PER_MM)) is None


def test_one_row_of_corners_is_no_sighting():
    """They lie on a line, which tells neither a lens nor a pose."""
    sheet = page(CHARUCO, PER_MM)
    rows = np.full_like(sheet, 255)
    rows[: (14 + 60) * PER_MM] = sheet[: (14 + 60) * PER_MM]
    assert len(CHARUCO.find(sheet).points) == 24
    assert CHARUCO.find(rows) is None


def test_two_tags_of_one_id_are_refused():
    places = [posed(FACING, (x, 0, 0.5)) for x in (-0.1, 0.1)]
    with pytest.raises(UnderstudyError, match="tag 3 is there twice"):
        find_tags(film(camera(), *((TAG, pose) for pose in places)))


# Lenses


@pytest.mark.parametrize("bend", [np.zeros(5), BENT])
def test_a_lens_is_found_exactly_from_exact_corners(bend):
    truth = camera(bend)
    found = intrinsics(*reversed_pictures(told(truth, before(np.random.default_rng(0), 15), GRID)))
    np.testing.assert_allclose(found.camera.matrix, truth.matrix, rtol=1e-5)
    np.testing.assert_allclose(found.camera.distortion, bend, atol=1e-4)
    assert found.camera.residual_px < 1e-3
    assert (len(found.views), found.left_out) == (15, ())


def reversed_pictures(board):
    return board.pictures, board


@pytest.mark.parametrize("bend", [np.zeros(5), BENT])
def test_a_lens_is_found_from_rendered_pictures(bend):
    truth = camera(bend)
    looks = rays(truth)
    pictures = [film(truth, (CHARUCO, pose), looks=looks) for pose in before(np.random.default_rng(1), 12)]
    found = intrinsics(pictures, CHARUCO)
    np.testing.assert_allclose(np.diag(found.camera.matrix)[:2], [600, 605], rtol=0.004)
    np.testing.assert_allclose(found.camera.matrix[:2, 2], [325, 236], atol=1.5)
    corners = np.array([[[40.0, 40], [600, 40], [40, 440], [600, 440]]])
    np.testing.assert_allclose(found.camera.rays(corners), truth.rays(corners), atol=0.005)
    assert found.camera.residual_px < 0.1
    assert "12 pictures count, 15 are better" in found.warnings


def test_a_wide_lens_needs_its_third_term():
    truth = camera(np.array([-0.3, 0.15, 0, 0, -0.06]))
    board = told(truth, before(np.random.default_rng(0), 15, near=0.2, far=0.3), GRID)
    narrow, wide = intrinsics(board.pictures, board), intrinsics(board.pictures, board, wide=True)
    assert narrow.camera.residual_px > 100 * wide.camera.residual_px
    np.testing.assert_allclose(wide.camera.distortion, truth.distortion, atol=1e-3)


def test_a_picture_that_does_not_fit_is_left_out():
    board = told(camera(), before(np.random.default_rng(0), 12), GRID, noise=0.1)
    moved = board.sightings[4].pixels + np.random.default_rng(1).normal(0, 2, (len(GRID), 2))
    board.sightings[4] = replace(board.sightings[4], pixels=moved)
    board.sightings[7] = None
    found = intrinsics(board.pictures, board)
    assert found.left_out == (4,)
    assert [view.picture for view in found.views] == [0, 1, 2, 3, 5, 6, 8, 9, 10, 11]
    np.testing.assert_allclose(np.diag(found.camera.matrix)[:2], [600, 605], rtol=0.005)


def test_too_little_to_find_a_lens_by_is_refused():
    board = told(camera(), before(np.random.default_rng(0), 15), GRID)
    with pytest.raises(UnderstudyError, match="seen in 5 of 5 pictures; at least 6"):
        intrinsics(board.pictures[:5], board)
    with pytest.raises(UnderstudyError, match="seen in 0 of 2"):
        intrinsics([np.full((480, 640), 128, np.uint8)] * 2, CHARUCO)
    with pytest.raises(UnderstudyError, match="one size"):
        intrinsics([*board.pictures, board.pictures[0][:400]], board)
    with pytest.raises(UnderstudyError, match="no picture"):
        intrinsics([], board)
    flat = told(camera(), before(np.random.default_rng(0), 15, tilt=0.05), GRID, noise=0.1)
    with pytest.raises(UnderstudyError, match=r"tilted by \d+° at most"):
        intrinsics(flat.pictures, flat)
    exact = told(camera(), before(np.random.default_rng(0), 15, tilt=0.1), GRID)
    with pytest.raises(UnderstudyError, match=r"uncertain by 0\.0 %"):
        intrinsics(exact.pictures, exact)
    small = told(camera(), before(np.random.default_rng(0), 6), 0.3 * GRID, noise=1.5)
    with pytest.raises(UnderstudyError, match=r"tilted by [2-9]\d° at most between two pictures, and the focal"):
        intrinsics(small.pictures, small)
    wrong = told(camera(), before(np.random.default_rng(0), 15), GRID, noise=6.0)
    with pytest.raises(UnderstudyError, match="measure the print"):
        intrinsics(wrong.pictures, wrong)


def test_a_board_in_the_middle_alone_is_told():
    poses = [posed(pose[:3, :3], (0, 0, 0.6)) for pose in before(np.random.default_rng(0), 15)]
    board = told(camera(), poses, GRID, noise=0.05)
    assert any("covers" in warning for warning in intrinsics(board.pictures, board).warnings)


# Places

BASE_FROM_CAMERA = posed(turn(0, 0, 20) @ FACING @ turn(35, 5, 0), (0.35, -0.45, 0.5))
"""Half a metre above the table, looking down at it from the side."""


def on_table(x, y, degrees=0.0, z=0.0):
    return posed(turn(0, 0, degrees), (x, y, z))


def table_middle():
    """Where the camera's axis meets the table."""
    along = BASE_FROM_CAMERA[:3, 2]
    return BASE_FROM_CAMERA[:3, 3] - along * BASE_FROM_CAMERA[2, 3] / along[2]


def test_a_board_of_known_pose_tells_where_a_camera_stands():
    eye, (x, y, _) = camera(BENT), table_middle()
    pose = on_table(x + 0.02, y - 0.03, 30)
    found = place_by_board(eye, [film(eye, (CHARUCO, inverted(BASE_FROM_CAMERA) @ pose))], CHARUCO, pose)
    assert mm_between(found.camera.base_from_camera, BASE_FROM_CAMERA) < 1
    assert degrees_between(found.camera.base_from_camera, BASE_FROM_CAMERA) < 0.1
    assert found.camera.residual_px < 0.15
    assert (found.warnings, found.sigma_mm < 1) == ((), True)


def gripper_poses(random, count, middle):
    """base_from_gripper, the gripper about ``middle`` [3] and turned to all sides."""
    for _ in range(count):
        yield posed(cv2.Rodrigues(random.uniform(-0.5, 0.5, 3))[0], middle + random.uniform(-0.08, 0.08, 3))


def test_a_tag_that_the_gripper_carries_tells_where_a_camera_stands():
    eye, random = camera(), np.random.default_rng(3)
    gripper_from_board, looks = posed(turn(10, -20, 5), (0.01, 0.02, 0.05)), rays(eye)
    poses = [one @ gripper_from_board for one in gripper_poses(random, 6, table_middle() + np.array([0, 0, 0.1]))]
    pictures = [film(eye, (TAG, inverted(BASE_FROM_CAMERA) @ pose), looks=looks) for pose in poses]
    found = place_by_board(eye, pictures, TAG, poses)
    assert mm_between(found.camera.base_from_camera, BASE_FROM_CAMERA) < 1
    assert degrees_between(found.camera.base_from_camera, BASE_FROM_CAMERA) < 0.1
    assert len(found.views) == 6
    swapped = [poses[1], poses[0], *poses[2:]]
    with pytest.raises(UnderstudyError, match="exchanged"):
        place_by_board(eye, pictures, TAG, swapped)


@pytest.fixture(scope="module")
def table():
    """A picture of six tags of two sizes on the table, and where the middle of each is."""
    x, y, _ = table_middle()
    places = {number: (x + 0.13 * (number % 3 - 1), y + 0.14 * (number // 3) - 0.09, 0.0) for number in range(6)}
    boards = [(AprilTags(0.05 if n % 2 else 0.07, first=n), on_table(*p[:2], 15 * n)) for n, p in places.items()]
    picture = film(camera(BENT), *((board, inverted(BASE_FROM_CAMERA) @ pose) for board, pose in boards))
    return picture, places


@pytest.mark.parametrize("used", [(0, 2, 3, 5), (0, 1, 2, 3, 4, 5)])
def test_tags_on_the_table_tell_where_a_camera_stands(table, used):
    picture, places = table
    found = place_by_tags(camera(BENT), [picture], {number: places[number] for number in used})
    assert mm_between(found.camera.base_from_camera, BASE_FROM_CAMERA) < 1
    assert degrees_between(found.camera.base_from_camera, BASE_FROM_CAMERA) < 0.1
    assert found.camera.residual_px < 0.1


def test_pictures_of_half_the_size_tell_the_same(table):
    picture, places = table
    half = cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA)
    found = place_by_tags(camera(BENT), [half], places).camera
    assert found.size == (320, 240)
    assert mm_between(found.base_from_camera, BASE_FROM_CAMERA) < 2


def test_places_that_do_not_tell_are_refused(table):
    picture, places = table
    with pytest.raises(UnderstudyError, match="3 of the tags"):
        place_by_tags(camera(BENT), [picture], {**{number: places[number] for number in range(3)}, 77: (0, 0, 0)})
    with pytest.raises(UnderstudyError, match="two exchanged"):
        place_by_tags(camera(BENT), [picture], {**places, 0: places[5], 5: places[0]})
    line = Sighting(np.linspace([0, 0, 0], [1, 0, 0], 5), np.linspace([10, 10], [500, 20], 5))
    with pytest.raises(UnderstudyError, match="not on one line"):
        place(camera(), {0: line})
    with pytest.raises(UnderstudyError, match="seen in none of 1"):
        place_by_board(camera(), [picture], AprilTags(first=100), np.eye(4))
    with pytest.raises(UnderstudyError, match="a rotation and a shift"):
        place_by_board(camera(BENT), [picture], AprilTags(0.07, first=0), np.diag([2.0, 2, 2, 1]))


def test_four_points_far_away_may_be_mirrored_and_that_is_told():
    square = 0.03 * np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0.0]])
    noise, poses = np.random.default_rng(0).normal(0, 0.1, (4, 2)), {"far": (15, 1.5), "near": (40, 0.3)}
    for name, (tilt, away) in poses.items():
        pose = posed(FACING @ turn(tilt, 0, 0), (0, 0, away))
        pixels = replace(camera(), base_from_camera=inverted(pose)).project(square)
        found, residual, other = solved(camera(), square, pixels)
        np.testing.assert_allclose(found, pose, atol=1e-4)
        assert residual < 1e-3 < other < 50, "a flat board has a second pose, which fits less well"
        warnings = place(camera(), {0: Sighting(square, pixels + noise)}).warnings
        assert any("mirrored" in one for one in warnings) == (name == "far")
        assert any("more points, farther apart" in one for one in warnings) == (name == "far")


def test_how_well_the_pixels_tell_a_place_is_what_noise_makes_of_it():
    random, truth = np.random.default_rng(0), replace(camera(), base_from_camera=BASE_FROM_CAMERA)
    points = table_middle() + random.uniform([-0.15, -0.12, 0], [0.15, 0.12, 0.1], (12, 3))
    exact = truth.project(points)
    found = [place(truth, {0: Sighting(points, exact + random.normal(0, 0.3, exact.shape))}) for _ in range(60)]
    spread = np.array([one.camera.base_from_camera[:3, 3] for one in found]).std(0)
    assert 1e3 * np.linalg.norm(spread) == pytest.approx(np.median([one.sigma_mm for one in found]), rel=0.25)


# A camera on the arm, or one that looks at the arm

MOUNT = {
    "eye-in-hand": posed(turn(5, -10, 85), (0.03, -0.05, 0.04)),
    "eye-to-hand": BASE_FROM_CAMERA,
}
HELD = {
    "eye-in-hand": posed(turn(0, 0, 30), (0.4, 0.1, 0.02)),
    "eye-to-hand": posed(turn(10, -20, 5), (0.01, 0.02, 0.05)),
}


def moves(where, count, *, mm=0.0, degrees=0.0, seed=0):
    """base_from_gripper and camera_from_board of a calibration; the latter with noise."""
    random, robot, boards = np.random.default_rng(seed), [], []
    for _ in range(count):
        view = posed(
            FACING @ cv2.Rodrigues(random.uniform(-0.5, 0.5, 3))[0],
            random.uniform([-0.08, -0.06, 0.3], [0.08, 0.06, 0.5]),
        )
        carried = HELD[where] @ inverted(MOUNT[where] @ view)
        robot.append(carried if where == "eye-in-hand" else inverted(carried))
        off = posed(cv2.Rodrigues(np.radians(random.normal(0, degrees, 3)))[0], random.normal(0, mm / 1e3, 3))
        boards.append(view @ off)
    return robot, boards


@pytest.mark.parametrize("where", ["eye-in-hand", "eye-to-hand"])
def test_a_hand_eye_calibration_without_noise_is_exact(where):
    found = solve_hand_eye(*moves(where, 20), where)
    np.testing.assert_allclose(found.mount, MOUNT[where], atol=1e-6)
    np.testing.assert_allclose(found.board, HELD[where], atol=1e-6)
    assert max(found.residual_mm, found.residual_deg) < 1e-3
    assert len(found.by_method) == 5
    assert found.warnings == ()


@pytest.mark.parametrize("where", ["eye-in-hand", "eye-to-hand"])
def test_a_hand_eye_calibration_with_noise_is_as_good_as_noise_allows(where):
    """20 poses with 1 mm and 0.1° of noise on each axis."""
    mm, degrees, told_mm = [], [], []
    for seed in range(10):
        found = solve_hand_eye(*moves(where, 20, mm=1, degrees=0.1, seed=seed), where)
        mm.append(mm_between(found.mount, MOUNT[where]))
        degrees.append(degrees_between(found.mount, MOUNT[where]))
        told_mm.append(found.residual_mm)
        assert found.residual_mm == min(found.by_method.values())
    assert np.median(mm) < 1.9
    assert np.median(degrees) < 0.15
    assert 1.0 < np.median(told_mm) < 2.5, "the residual is of the size of the noise"


def test_poses_that_do_not_tell_are_refused():
    robot, boards = moves("eye-to-hand", 12)
    with pytest.raises(UnderstudyError, match="three poses, better 15, got 2"):
        solve_hand_eye(robot[:2], boards[:2], "eye-to-hand")
    one_axis = [posed(turn(0, 0, 10 * number), (0.01 * number, 0, 0)) for number in range(12)]
    with pytest.raises(UnderstudyError, match=r"by 0.0° about a second"):
        solve_hand_eye(one_axis, boards, "eye-to-hand")
    with pytest.raises(UnderstudyError, match="were the poses inverted"):
        solve_hand_eye([inverted(pose) for pose in robot], boards, "eye-to-hand")
    with pytest.raises(UnderstudyError, match="a rotation and a shift"):
        solve_hand_eye([1.1 * pose for pose in robot], boards, "eye-to-hand")
    assert solve_hand_eye(robot, boards, "eye-to-hand").warnings == ("12 poses count, 15 are better",)
    shuffled = solve_hand_eye(robot, [*boards[6:], *boards[:6]], "eye-to-hand")
    assert any("belong together" in warning for warning in shuffled.warnings)


@pytest.mark.parametrize(("where", "board"), [("eye-in-hand", CHARUCO), ("eye-to-hand", TAG)])
def test_a_hand_eye_calibration_of_rendered_pictures(where, board):
    eye = camera()
    robot, boards = moves(where, 8)
    looks = rays(eye)
    pictures = [film(eye, (board, pose), looks=looks) for pose in boards]
    found = hand_eye(eye, pictures, board, robot, where)
    assert mm_between(found.mount, MOUNT[where]) < 1
    assert degrees_between(found.mount, MOUNT[where]) < 0.15
    assert max(view.residual_px for view in found.views) < 0.6
    with pytest.raises(UnderstudyError, match="8 and 7 were given"):
        hand_eye(eye, pictures, board, robot[:7], where)
    with pytest.raises(UnderstudyError, match="seen in 0 of 8"):
        hand_eye(eye, pictures, AprilTags(first=200), robot, where)


# The command


def test_the_picture_of_the_residuals_shows_where_and_how_much():
    picture = np.full((240, 320), 200, np.uint8)
    seen = np.array([[60.0, 50], [200, 120]])
    views = [View(0, seen, seen + np.array([0.2, 0])), View(3, seen, seen + np.array([2.0, 0]))]
    sheet = overlay(picture, views, views[1])
    assert sheet.shape == (3 * 240 + 140, 3 * 320, 3)
    area = sheet[3 * 50 - 20 : 3 * 50 + 20, 3 * 60 + 20 : 3 * 60 + 100].astype(int)
    assert (area[..., 0] - area[..., 2] > 100).any(), "a red line to the right of the first corner, enlarged"
    away = sheet[3 * 200 :, : 3 * 320][: 3 * 40]
    assert (away == away[0, 0]).all()
    bars = sheet[720:835].astype(int)
    heights = [(bars[:, x].max(-1) < 250).sum() for x in (300, 700)]
    assert heights[1] > 5 * heights[0] > 0


def shots(folder, eye, board, poses, looks):
    folder.mkdir()
    for number, pose in enumerate(poses):
        cv2.imwrite(str(folder / f"{number:03}.png"), film(eye, (board, pose), looks=looks))
    return folder


def test_the_command_from_the_print_to_the_place(tmp_path, capsys):
    """Lens, place of a fixed camera three ways, and a camera on the arm; one file holds them all."""
    eye, random, cameras = camera(), np.random.default_rng(1), tmp_path / "cameras.json"
    looks, at = rays(eye), ["--name", "front", "--cameras", str(cameras)]
    save_cameras(cameras, {"other": eye})

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    assert "238 x 178 mm" in run("board", "--out", tmp_path / "board.png")
    run("board", "--kind", "tags", "--tag", 60, "--first", 3, "--out", tmp_path / "tag.png")
    board, tag = tmp_path / "board.json", tmp_path / "tag.json"
    assert (load_board(board), load_board(tag)) == (CHARUCO, TAG)

    lens = shots(tmp_path / "lens", eye, CHARUCO, before(random, 8), looks)
    out = run("camera", *at, "--board", board, lens)
    assert out.startswith("front: lens 0.0")
    assert "good (below 0.5 px)" in out
    np.testing.assert_allclose(np.diag(load_cameras(cameras)["front"].matrix)[:2], [600, 605], rtol=0.005)

    x, y, _ = table_middle()
    still = shots(tmp_path / "still", eye, CHARUCO, [inverted(BASE_FROM_CAMERA) @ on_table(x, y, 30)], looks)
    out = run("fixed", *at, "--board", board, "--at", x, y, 0, "--turned", 0, 0, 30, still)
    assert "front: place 0.0" in out
    assert mm_between(load_cameras(cameras)["front"].base_from_camera, BASE_FROM_CAMERA) < 3

    robot, boards = moves("eye-to-hand", 6)
    reach = shots(tmp_path / "reach", eye, TAG, boards, looks)
    poses = tmp_path / "poses.json"
    poses.write_text(json.dumps({f"{number:03}.png": pose.tolist() for number, pose in enumerate(robot)}))
    out = run("hand-eye", *at, "--board", tag, "--poses", poses, "--where", "eye-to-hand", reach)
    assert "6 poses count, 15 are better" in out
    held = json.loads((tmp_path / "front-hand-eye.json").read_text())
    assert mm_between(np.array(held["base_from_camera"]), BASE_FROM_CAMERA) < 3
    np.testing.assert_allclose(load_cameras(cameras)["front"].base_from_camera, held["base_from_camera"])

    carried = ["--on-gripper", 0.01, 0.02, 0.05, "--turned", 10, -20, 5]
    run("fixed", *at, "--board", tag, "--poses", poses, *carried, reach)
    assert mm_between(load_cameras(cameras)["front"].base_from_camera, BASE_FROM_CAMERA) < 3

    parked = ["--where", "eye-in-hand", "--parked", 0.4, 0, 0.5]
    with pytest.raises(UnderstudyError, match="were the poses inverted"):
        main([str(one) for one in ("hand-eye", *at, "--board", tag, "--poses", poses, *parked, reach)])
    assert set(load_cameras(cameras)) == {"front", "other"}
    for name in ("lens", "place", "hand-eye"):
        assert cv2.imread(str(tmp_path / f"front-{name}.png")).shape == (2 * 480 + 140, 2 * 640, 3)


def test_the_command_places_by_tags_and_by_points(tmp_path, table, capsys):
    picture, places = table
    cameras, file = tmp_path / "cameras.json", tmp_path / "table.png"
    cv2.imwrite(str(file), picture)
    common = ["fixed", "--name", "front", "--cameras", str(cameras), str(file)]
    save_cameras(cameras, {"front": camera(BENT)})
    truth = replace(camera(BENT), base_from_camera=BASE_FROM_CAMERA)
    for ways in (
        [f"--tag={number}={x},{y},{z}" for number, (x, y, z) in places.items()],
        ["--point={},{}={},{},{}".format(*truth.project(np.array(where)), *where) for where in places.values()],
    ):
        assert main([*common, *ways]) == 0
        assert mm_between(load_cameras(cameras)["front"].base_from_camera, BASE_FROM_CAMERA) < 1
        assert "good" in capsys.readouterr().out
    for wrong, message in (
        ([], "one of --at"),
        (["--tag=1=2,3"], "not written"),
        (["--tag=a=1,2,3"], "not written"),
        (["--at", "0", "0", "0"], "--board"),
        (["--on-gripper", "0", "0", "0", "--tag", "1=1,2,3"], "one of"),
    ):
        with pytest.raises(UnderstudyError, match=message):
            main([*common, *wrong])
    with pytest.raises(UnderstudyError, match="unknown camera 'frnt'; did you mean 'front'"):
        main(["fixed", "--name", "frnt", "--cameras", str(cameras), str(file), "--tag=1=1,2,3"])


@pytest.mark.parametrize("verb", [[], ["board"], ["camera"], ["fixed"], ["hand-eye"]])
def test_every_command_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([*verb, "--help"])
    assert left.value.code == 0
    assert "example" in capsys.readouterr().out


def test_poses_are_read_from_csv_and_json(tmp_path):
    table, named = tmp_path / "poses.csv", tmp_path / "poses.json"
    table.write_text("picture,x,y,z,qw,qx,qy,qz\na.png,0.1,-0.2,0.3,0.5,0.5,0.5,0.5\nb.png,0,0,1,1,0,0,0\n")
    named.write_text('{"a.png": {"position": [0.1, -0.2, 0.3], "quaternion": [0.5, 0.5, 0.5, 0.5]}}')
    cyclic = posed([[0, 0, 1], [1, 0, 0], [0, 1, 0]], (0.1, -0.2, 0.3))
    np.testing.assert_allclose(read_poses(table)["a.png"], cyclic, atol=1e-12)
    np.testing.assert_allclose(read_poses(table)["b.png"], posed(np.eye(3), (0, 0, 1)), atol=1e-12)
    np.testing.assert_allclose(read_poses(named)["a.png"], cyclic, atol=1e-12)
    np.testing.assert_allclose(pose_of((1, 2, 3), (90, 0, 90))[:3, :3] @ [0, 1, 0], [0, 0, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "picture,x,y,z,qw,qx,qy\na,0,0,0,1,0,0\n", "holds no poses"),
        ("p.csv", "picture,x,y,z,qw,qx,qy,qz\na,0,0,0,1,0,0,1\n", "length 1"),
        ("p.csv", "picture,x,y,z,qw,qx,qy,qz\na,412,0,0,1,0,0,0\n", "millimetres"),
        ("p.csv", "picture,x,y,z,qw,qx,qy,qz\na,nan,0,0,1,0,0,0\n", "millimetres"),
        ("p.json", "[1, 2]", "holds no poses"),
        ("p.json", '{"a": {"position": [0, 0, 0]}}', "holds no poses"),
        ("p.json", '{"a": [1, 2, 3]}', "holds no poses"),
    ],
)
def test_what_holds_no_poses_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UnderstudyError, match=message):
        read_poses(tmp_path / name)


def test_pictures_are_read_from_files_folders_and_videos(tmp_path):
    from vla.data.video import encode_mp4

    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / name), np.full((48, 64), 90, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    frames = np.repeat(np.linspace(0, 250, 130).astype(np.uint8), 64 * 48 * 3).reshape(130, 48, 64, 3)
    (tmp_path / "film.mp4").write_bytes(encode_mp4(frames, 30))
    assert list(read_pictures([tmp_path])) == ["a.jpg", "b.png"]
    filmed = read_pictures([tmp_path / "film.mp4"])
    assert list(filmed)[:2] == ["film.mp4@0", "film.mp4@2"]
    assert len(filmed) == 65
    assert filmed["film.mp4@100"].mean() == pytest.approx(250 * 100 / 129, abs=4)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(b"no video")
    for given, message in (
        ([tmp_path / "c.png"], "no picture"),
        ([tmp_path / "c.mp4"], "no video"),
        ([tmp_path / "notes.txt"], "can be read"),
        ([tmp_path / "empty.png"], "can be read"),
        ([tmp_path / "cut.mp4"], "cannot be decoded"),
        ([tmp_path / "a.jpg", tmp_path / "a.jpg"], "two pictures 'a.jpg'"),
    ):
        with pytest.raises(UnderstudyError, match=message):
            read_pictures(given)


def test_a_description_of_a_board_may_be_corrected_by_hand(tmp_path):
    file = tmp_path / "board.json"
    save_board(CHARUCO, file)
    held = json.loads(file.read_text())
    assert held["square_mm"] == 30
    file.write_text(json.dumps({**held, "square_mm": 29.4, "marker_mm": 21.56}))
    assert load_board(file) == replace(CHARUCO, square=0.0294, marker=0.02156)
