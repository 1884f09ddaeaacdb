"""The real recordings, imported and compared with what is in their own files."""

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from vla.data import video
from vla.data.importers import import_dataset
from vla.data.importers.tfrecord import parse_example, records
from vla.data.lerobot import open_dataset


def column(path, name):
    return np.array(pq.read_table(path)[name].to_pylist())


def test_unitree_g1_v21(samples, tmp_path, caplog):
    source = samples / "robot" / "g1_pick_bottle_lerobot_v21"
    report = import_dataset(source, tmp_path / "g1", image_size=64)
    assert (report.format, report.promised, report.found) == ("LeRobot v2.1", 100, 4)
    assert report.imported == (10, 29, 30, 59)
    (warning,) = caplog.messages
    assert "promises 100 episodes, 4 are there (10, 29, 30, 59)" in warning
    dataset = open_dataset(tmp_path / "g1")
    assert [info.length for info in dataset.episodes] == [290, 221, 277, 280]
    assert dataset.spec.fps == 30
    assert dataset.spec.embodiment == "Unitree_G1_Inspire"
    assert dataset.spec.proprio_names[:2] == ("kLeftShoulderPitch", "kLeftShoulderRoll")
    for index, number in enumerate(report.imported):
        path = source / f"data/chunk-000/episode_{number:06d}.parquet"
        arrays = dataset.arrays(index)
        np.testing.assert_array_equal(arrays["actions"], column(path, "action").astype(np.float32))
        np.testing.assert_array_equal(arrays["proprio"], column(path, "observation.state").astype(np.float32))
        np.testing.assert_allclose(arrays["stamps_ns"] / 1e9, column(path, "timestamp"), atol=1e-6)
        assert dataset.episodes[index].instruction == "Pick up the yellow bottle on the table."
    path = source / "videos/chunk-000/observation.images.cam_high/episode_000029.mp4"
    original = video.decode_all(path)
    frames = dataset.frames(1, "cam_high")
    for step in (0, 100, 220):
        expected = cv2.resize(original[step], (64, 64), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(frames[step], expected)


def test_gr1_v20(samples, tmp_path, caplog):
    source = samples / "robot" / "gr1_pick_and_place_lerobot_v20"
    report = import_dataset(source, tmp_path / "gr1", episodes=[0, 4])
    assert (report.format, report.imported) == ("LeRobot v2.0", (0, 4))
    assert "'egoview'" in caplog.text
    dataset = open_dataset(tmp_path / "gr1")
    assert [camera.name for camera in dataset.spec.cameras] == ["ego_view"]
    for index, number in enumerate(report.imported):
        path = source / f"data/chunk-000/episode_{number:06d}.parquet"
        arrays = dataset.arrays(index)
        np.testing.assert_array_equal(arrays["actions"], column(path, "action").astype(np.float32))
        np.testing.assert_array_equal(arrays["proprio"], column(path, "observation.state").astype(np.float32))
        np.testing.assert_allclose(arrays["stamps_ns"] / 1e9, column(path, "timestamp"), atol=1e-6)
    assert dataset.episodes[1].instruction == "pick the cupcake from the counter and place it in the plate"
    original = video.decode_all(source / "videos/chunk-000/observation.images.ego_view/episode_000004.mp4")
    frames = dataset.frames(1, "ego_view")
    assert frames.shape == original.shape
    difference = np.abs(frames.astype(int) - original)
    neighbours = np.abs(original[1:].astype(int) - original[:-1])
    assert difference.mean() < 2.0
    assert difference[1:].mean() < neighbours.mean() + 1.5


def test_widowx_rlds(samples, tmp_path, caplog):
    source = samples / "robot" / "widowx_bridge_rlds"
    report = import_dataset(source, tmp_path / "bridge")
    assert (report.format, report.promised, report.found, report.frames) == ("RLDS", 50, 50, 500)
    assert not caplog.records
    dataset = open_dataset(tmp_path / "bridge")
    assert (dataset.spec.fps, dataset.spec.action.kind, dataset.spec.embodiment) == (5, "ee_delta", "widowx")
    assert [camera.name for camera in dataset.spec.cameras] == [f"image_{n}" for n in range(4)]
    raw = [
        parse_example(record.read(), where=record)
        for split in ("train", "val")
        for record in records(source / f"1.0.0/bridge_dataset-{split}.tfrecord-00000-of-00001")
    ]
    assert len(raw) == 50
    for index, entries in enumerate(raw):
        arrays = dataset.arrays(index)
        np.testing.assert_array_equal(arrays["actions"], entries["steps/action"].reshape(10, 7))
        np.testing.assert_array_equal(arrays["proprio"], entries["steps/observation/state"].reshape(10, 7))
        words = entries["steps/language_instruction"][0].decode()
        assert dataset.episodes[index].instruction == words
    assert dataset.episodes[0].instruction == "put cup from counter or drying rack into sink"
    for index, camera in ((0, "image_0"), (49, "image_2")):
        images = raw[index][f"steps/observation/{camera}"]
        decoded = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1] for data in images]
        np.testing.assert_array_equal(dataset.frames(index, camera), np.stack(decoded))


@pytest.mark.slow
def test_a_whole_recording_as_it_is(samples, tmp_path):
    source = samples / "robot" / "g1_pick_bottle_lerobot_v21"
    import_dataset(source, tmp_path / "g1", episodes=[29])
    dataset = open_dataset(tmp_path / "g1")
    original = video.decode_all(source / "videos/chunk-000/observation.images.cam_high/episode_000029.mp4")
    frames = dataset.frames(0, "cam_high")
    assert frames.shape == (221, 480, 640, 3)
    assert np.abs(frames.astype(np.int16) - original).mean() < 2.0
