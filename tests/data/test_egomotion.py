"""Directions of a camera's motion out of its pictures: against the truth, and in a dataset that is trained on."""

import json

import cv2
import numpy as np
import pytest

from vla.cli import run
from vla.data.egomotion import SIDE, camera_matrix, motion_between, motions
from vla.data.lerobot import open_dataset
from vla.data.video import encode_mp4
from vla.errors import UnderstudyError

FOV = 60.0


def world(seed=0, count=1400):
    """Points [N, 3] before the camera, each with a patch of its own."""
    random = np.random.default_rng(seed)
    points = random.uniform([-3, -3, 1.5], [3, 3, 6], (count, 3))
    return points[np.argsort(-points[:, 2])], random.integers(0, 256, (count, 9, 9, 3), np.uint8)


def view(scene, place, turn=None):
    """What a camera at ``place`` [3], turned by ``turn`` [3] (a rotation vector), sees."""
    points, patches = scene
    seen = (points - place) @ cv2.Rodrigues(np.zeros(3) if turn is None else np.asarray(turn, float))[0]
    picture, matrix = np.full((SIDE, SIDE, 3), 90, np.uint8), camera_matrix(SIDE, FOV)
    for point, patch in zip(seen, patches, strict=True):
        x, y = (matrix[:2] @ (point / max(point[2], 1e-3))).tolist() if point[2] > 0.3 else (-99, -99)
        if 8 < x < SIDE - 8 and 8 < y < SIDE - 8:
            shift = np.array([[1, 0, x % 1], [0, 1, y % 1]], np.float32)
            soft = cv2.warpAffine(patch, shift, (9, 9), borderMode=cv2.BORDER_REPLICATE)
            picture[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5] = soft
    return cv2.GaussianBlur(picture, (3, 3), 0)


@pytest.mark.parametrize("way", [(0.06, 0, 0), (0, -0.06, 0), (0, 0, 0.09), (-0.04, 0.03, 0.05)])
def test_the_direction_is_found_though_the_camera_turns(way):
    scene, turn = world(), np.radians([1.0, -1.5, 0.7])
    motion = motion_between(view(scene, np.zeros(3)), view(scene, np.array(way), turn), camera_matrix(SIDE, FOV))
    assert np.linalg.norm(motion.direction) == pytest.approx(1)
    assert motion.direction @ way / np.linalg.norm(way) > 0.95
    np.testing.assert_allclose(cv2.Rodrigues(motion.rotation)[0][:, 0], turn, atol=0.01)
    assert motion.quality > 0.4


def test_a_camera_that_stands_still_does_not_move_and_an_empty_picture_says_nothing():
    picture = view(world(), np.zeros(3))
    still = motion_between(picture, picture, camera_matrix(SIDE, FOV))
    assert not still.direction.any()
    assert still.quality == 1
    empty = np.full((SIDE, SIDE, 3), 99, np.uint8)
    assert motion_between(empty, empty, camera_matrix(SIDE, FOV)).quality == 0
    other = np.random.default_rng(0).integers(0, 256, picture.shape, dtype=np.uint8)
    assert motion_between(picture, other, camera_matrix(SIDE, FOV)).quality < 0.1


def test_films_become_a_dataset_that_goes_on_and_is_learned_from(tmp_path, capsys):
    scene, steps = world(), np.linspace(0, 0.5, 12)
    films = tmp_path / "films"
    films.mkdir()
    frames = np.stack([view(scene, np.array([0.6 * step, 0, 0.8 * step])) for step in steps])
    for name in ("first", "second"):
        (films / f"{name}.mp4").write_bytes(encode_mp4(frames, 5.0))
        (films / f"{name}.txt").write_text("go there")
    (films / "torn.mp4").write_bytes(b"no film")
    (films / "torn.txt").write_text("go there")
    command = ["data", "motion", str(films), str(tmp_path / "out"), "--fov", "60", "--image-size", "32"]
    assert run(command) == 0
    assert "2 films added" in capsys.readouterr().out
    assert run(command) == 0
    assert "0 films added" in capsys.readouterr().out
    dataset = open_dataset(tmp_path / "out")
    episode = dataset.episode(0)
    cosines = episode.actions[:-1] @ np.array([0.6, 0, 0.8])
    assert len(dataset.episodes) == 2
    assert np.median(cosines) > 0.95
    assert not episode.actions[-1].any()
    assert (episode.extras["quality"][:-1] > 0.2).all()
    train = ["train", "policy=manipulate_by_seeing", "preset=tiny", f"data={tmp_path / 'out'}", "trainer.steps=2"]
    assert run([*train, "policy.stride=2", "policy.directions=true", f"out={tmp_path / 'policy'}"]) == 0
    spec = json.loads((tmp_path / "policy/policy_spec.json").read_text())["spec"]
    assert spec["action"]["gripper"] is None


def test_a_field_of_view_that_cannot_be_is_refused():
    with pytest.raises(UnderstudyError, match="degrees"):
        motions(np.zeros((2, 8, 8, 3), np.uint8), 400)
