"""LeRobot itself reads what we write, and we read what it writes, whole or torn. Importing it takes 12 s: slow."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from vla.data.importers import import_dataset
from vla.data.lerobot import EpisodeWriter, open_dataset
from vla.data.repair import repair

pytestmark = pytest.mark.slow
FPS, SIDE = 10, 64


@pytest.fixture(scope="module")
def lerobot_dataset():
    """The class LeRobotDataset, imported offline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        yield LeRobotDataset


def pixels(item, camera):
    """[H, W, 3] uint8 of LeRobot's item: bytes for video, 0…1 for stored images."""
    image = item[f"observation.images.{camera}"].numpy().transpose(1, 2, 0)
    return image if image.dtype == np.uint8 else (image * 255).round().astype(np.uint8)


@pytest.mark.parametrize("storage", ["image", "video"])
@pytest.mark.parametrize("repaired", [False, True])
def test_lerobot_reads_what_we_write(tmp_path, spec, make_episode, lerobot_dataset, storage, repaired):
    root = tmp_path / "d"
    seeds = [0, 1, 2]
    with EpisodeWriter(root, replace(spec, storage=storage)) as writer:
        for seed in seeds:
            writer.save(make_episode(seed, length=5 + seed))
    if repaired:
        (root / "data/chunk-000/file-001.parquet").unlink()
        (root / "meta/info.json").write_bytes(b"{")
        repair(root)
        seeds = [0, 2]
    theirs = lerobot_dataset("local/d", root=root, video_backend="pyav", return_uint8=True)
    assert (theirs.num_episodes, theirs.fps) == (len(seeds), 10)
    assert theirs.num_frames == sum(5 + seed for seed in seeds)
    at = 0
    for index, seed in enumerate(seeds):
        episode = make_episode(seed, length=5 + seed)
        ours = open_dataset(root).episode(index)
        images = {name: frames() for name, frames in ours.images.items()}
        for step in range(episode.length):
            item = theirs[at]
            np.testing.assert_array_equal(item["observation.state"].numpy(), episode.proprio[step])
            np.testing.assert_array_equal(item["action"].numpy(), episode.actions[step])
            assert int(item["observation.capture_time_ns"]) == episode.stamps_ns[step]
            assert (int(item["episode_index"]), int(item["frame_index"])) == (index, step)
            assert item["task"] == episode.task.instruction
            for name, frames in images.items():
                np.testing.assert_array_equal(pixels(item, name), frames[step])
            at += 1
    stats = theirs.meta.stats["action"]
    actions = np.concatenate([make_episode(seed, length=5 + seed).actions for seed in seeds])
    np.testing.assert_allclose(stats["min"], actions.min(0), atol=1e-6)
    np.testing.assert_allclose(stats["mean"], actions.mean(0), atol=1e-5)


def frames_of(index, length):
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    base = np.stack([rows, columns, rows + columns], axis=-1) + 25 * index
    return np.clip(base + 6 * np.arange(length)[:, None, None, None], 0, 255).astype(np.uint8)


def numbers_of(index, length, size):
    return np.random.default_rng(10 * index + size).normal(size=(length, size)).astype(np.float32)


def record(lerobot_dataset, root, *, dtype, episodes):
    """Let LeRobot record; answers its dataset, which is not finalized yet."""
    features = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "observation.images.top": {"dtype": dtype, "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]},
    }
    recorder = lerobot_dataset.create("local/d", fps=FPS, root=root, features=features, robot_type="toy")
    for index in range(episodes):
        length = 6 + index
        for step in range(length):
            frame = {
                "observation.state": numbers_of(index, length, 3)[step],
                "action": numbers_of(index, length, 2)[step],
                "observation.images.top": frames_of(index, length)[step],
                "task": f"do {index % 2}",
            }
            recorder.add_frame(frame)
        recorder.save_episode()
    return recorder


def check(root, episodes, tolerance):
    dataset = open_dataset(root)
    assert len(dataset.episodes) == len(episodes)
    for position, index in enumerate(episodes):
        length = 6 + index
        arrays = dataset.arrays(position)
        np.testing.assert_array_equal(arrays["proprio"], numbers_of(index, length, 3))
        np.testing.assert_array_equal(arrays["actions"], numbers_of(index, length, 2))
        assert dataset.episodes[position].instruction == f"do {index % 2}"
        difference = np.abs(dataset.frames(position, "top").astype(int) - frames_of(index, length))
        assert difference.mean() <= tolerance
    return dataset


@pytest.mark.parametrize(("dtype", "tolerance"), [("image", 0), ("video", 4)])
def test_we_read_what_lerobot_writes_whole_and_torn(tmp_path, lerobot_dataset, dtype, tolerance):
    recorder = record(lerobot_dataset, tmp_path / "whole", dtype=dtype, episodes=3)
    # What is on the disk now is what a kill would leave.
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    recorder.finalize()
    dataset = check(tmp_path / "whole", [0, 1, 2], tolerance)
    assert dataset.spec.embodiment == "toy"
    assert not repair(tmp_path / "whole").changed
    import_dataset(tmp_path / "whole", tmp_path / "ours", image_size=32)
    assert open_dataset(tmp_path / "ours").frames(2, "top").shape == (8, 32, 32, 3)
    with pytest.raises(ValueError, match="vla data repair"):
        open_dataset(tmp_path / "torn")
    report = repair(tmp_path / "torn")
    assert report.episodes == 3, report
    check(tmp_path / "torn", [0, 1, 2], tolerance)
    theirs = lerobot_dataset("local/d", root=tmp_path / "torn", video_backend="pyav", return_uint8=True)
    assert theirs.num_frames == 6 + 7 + 8
    np.testing.assert_array_equal(theirs[6]["action"].numpy(), numbers_of(1, 7, 2)[0])
    np.testing.assert_array_equal(pixels(theirs[6 + 7], "top"), open_dataset(tmp_path / "torn").frames(2, "top")[0])


def test_a_lerobot_dataset_without_its_description_and_with_a_lost_video(tmp_path, lerobot_dataset):
    recorder = record(lerobot_dataset, tmp_path / "d", dtype="video", episodes=3)
    recorder.finalize()
    (tmp_path / "d/meta/info.json").unlink()
    repair(tmp_path / "d")
    check(tmp_path / "d", [0, 1, 2], 4)
    (video,) = (tmp_path / "d/videos").rglob("*.mp4")
    video.unlink()
    report = repair(tmp_path / "d")
    assert report.episodes == 0
    assert sum("is lost" in note for note in report.notes) == 3
    assert list((tmp_path / "d/torn/data").rglob("*.parquet"))
