"""A retargeted video as training data: rows, pictures, quality, and a policy that learns from them."""

from dataclasses import replace

import numpy as np
import pytest
from retarget_made_hands import camera_at, picking, seen_by

from policies.train import TrainConfig, run
from robot_bridge.arms.arm import make_arm
from robot_bridge.retarget.command import main
from robot_bridge.retarget.dataset import UNSEEN, rows_of, shown_at, write_episode
from robot_bridge.retarget.linkage import linkage_of
from robot_bridge.retarget.retarget import RetargetConfig, retarget
from vla.config import load
from vla.data.lerobot import open_dataset
from vla.data.video import write_mp4
from vla.errors import UnderstudyError

STAMPS, POINTS, _, _ = picking()
CAMERAS = {"front": camera_at((1.3, 0.2, 0.6)), "side": camera_at((0.6, -0.9, 0.5))}
ARM = make_arm("sim")
SHAPE = {"arm": ARM.spec, "instruction": "carry it", "image_size": 32}


@pytest.fixture(scope="module")
def tracks():
    return {name: seen_by(camera, STAMPS, POINTS, noise_px=1.0) for name, camera in CAMERAS.items()}


@pytest.fixture(scope="module")
def made(tracks):
    return retarget(tracks, CAMERAS, linkage_of(ARM), ARM.spec, config=RetargetConfig())


@pytest.fixture
def video(tmp_path):
    """As bright as its time: 2 of 255 a frame."""
    frames = ((at, np.full((48, 64, 3), 2 * number, np.uint8)) for number, at in enumerate(STAMPS))
    write_mp4(tmp_path / "front.mp4", frames, fps=15)
    return tmp_path / "front.mp4"


def test_rows_are_in_the_arm_s_time_with_the_picture_of_the_hand_s(made, video, tmp_path):
    count = write_episode(made, video, tmp_path / "shown", **SHAPE)
    data = open_dataset(tmp_path / "shown")
    rows = data.arrays(0)
    assert len(rows["actions"]) == count == int(np.ceil(10 * made.joints.stamps[-1]))
    assert data.spec.action.kind == "joint_position"
    assert data.spec.action.gripper == ARM.spec.gripper
    at = np.searchsorted(made.joints.stamps, 2.1)
    np.testing.assert_allclose(rows["actions"][20], made.joints.joints[at], atol=1e-6)
    shown = shown_at(video, rows_of(made.joints, 10.0)[1], 32).mean((1, 2, 3))
    frame = np.searchsorted(STAMPS, made.joints.source_s[::5][:count] + 1e-6, side="right") - 1
    np.testing.assert_allclose(shown, 2 * frame, atol=4)
    still = np.diff(made.joints.source_s) == 0  # while the gripper moves, the hand's time stands still
    assert still.sum() > 0.8 * 50
    assert open_dataset(tmp_path / "shown").episodes[0].instruction == "carry it"


def test_quality_is_the_segment_s_and_halved_where_the_hand_was_not_seen(tracks, video, tmp_path):
    pixels = {name: track.pixels.copy() for name, track in tracks.items()}
    pixels["front"][40:44] = np.nan
    hidden = {name: replace(track, pixels=pixels[name]) for name, track in tracks.items()}
    made = retarget(hidden, CAMERAS, linkage_of(ARM), ARM.spec, config=RetargetConfig())
    assert [one.verdict for one in made.quality.segments] == ["execute", "check", "execute"]
    write_episode(made, video, tmp_path / "shown", **SHAPE)
    rows = open_dataset(tmp_path / "shown").arrays(0)
    assert set(np.unique(rows["quality"])) == {np.float32(0.5 * UNSEEN), np.float32(0.5), np.float32(1.0)}
    np.testing.assert_array_equal(rows["quality"] == 0.25, rows["seen"] == 0)
    assert rows["inverse_mm"].max() < 2


def test_a_video_is_added_once_and_others_go_on(made, video, tmp_path):
    out = tmp_path / "shown"
    assert write_episode(made, video, out, **SHAPE) > 0
    assert write_episode(made, video, out, **SHAPE) == 0
    again = video.rename(tmp_path / "again.mp4")
    assert write_episode(made, again, out, **SHAPE) > 0
    assert len(open_dataset(out).episodes) == 2
    with pytest.raises(UnderstudyError):
        write_episode(made, tmp_path / "other.mp4", out, **SHAPE | {"image_size": 48})


def test_what_is_not_to_be_trusted_is_nothing_to_learn_from(made, tracks, video, tmp_path):
    alone = retarget({"front": tracks["front"]}, CAMERAS, linkage_of(ARM), ARM.spec, config=RetargetConfig(lift="mono"))
    with pytest.raises(UnderstudyError, match="nothing to learn from: one camera alone"):
        write_episode(alone, video, tmp_path / "shown", **SHAPE)
    with pytest.raises(UnderstudyError, match="--instruction"):
        main([str(video), "--dataset", str(tmp_path / "shown")])
    words = ["--dataset", str(tmp_path / "shown"), "--instruction", "carry it"]
    for wrong in (["--dataset-hz", "0"], ["--dataset-hz", "nan"], ["--image-size", "0"]):
        with pytest.raises(UnderstudyError, match="rows a second"):
            main([str(video), *words, *wrong])
    track = tmp_path / "front.npz"
    tracks["front"].save(track)
    with pytest.raises(UnderstudyError, match="track without pictures"):
        main([str(track), *words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "shown").exists()


def test_a_policy_learns_from_it_alone_and_beside_a_robot(made, video, tmp_path):
    write_episode(made, video, tmp_path / "shown", **SHAPE)
    settings = ["policy=cogact_l1", "preset=tiny", f"data={tmp_path / 'shown'}", "trainer.steps=2", "holdout=0"]
    run(load(TrainConfig, "train", [*settings, f"out={tmp_path / 'alone'}"]))
    mixed = [*settings, f"mix=[{tmp_path / 'shown'}]", f"out={tmp_path / 'mixed'}"]
    assert (run(load(TrainConfig, "train", mixed)) / "config.yaml").is_file()
