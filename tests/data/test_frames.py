"""The decoded-frame store: exact, made once, whole or not there."""

import numpy as np
import pytest

from vla.data.frames import cache_folder, decoded_frames, fit_image
from vla.data.lerobot import Dataset, EpisodeWriter, open_dataset

SIZE = 24


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make_dataset(spec, make_episode):
    def make(root, seeds=(0, 1, 2)):
        with EpisodeWriter(root, spec) as writer:
            for seed in seeds:
                writer.save(make_episode(seed, length=3 + seed))
        return open_dataset(root)

    return make


def stores(cache):
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("camera", ["top", "wrist"])
@pytest.mark.parametrize("size", [16, 24, 32, 40])
def test_the_store_is_what_decoding_and_fitting_give(tmp_path, make_dataset, camera, size):
    dataset = make_dataset(tmp_path / "d")
    frames = decoded_frames(dataset, camera=camera, size=size)
    decoded = np.concatenate([dataset.frames(index, camera) for index in range(3)])
    assert frames.shape == (dataset.num_frames, size, size, 3)
    np.testing.assert_array_equal(frames, np.stack([fit_image(image, size) for image in decoded]))


def test_the_second_call_decodes_nothing(tmp_path, make_dataset, monkeypatch):
    dataset = make_dataset(tmp_path / "d")
    first = np.array(decoded_frames(dataset, camera="top", size=SIZE))

    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(Dataset, "frames", refuse)
    copy = make_dataset(tmp_path / "copy")
    for again in (dataset, open_dataset(dataset.root), copy):
        np.testing.assert_array_equal(decoded_frames(again, camera="top", size=SIZE), first)
    with pytest.raises(AssertionError, match="decoded again"):  # another camera or size is another store
        decoded_frames(dataset, camera="wrist", size=SIZE)
    with pytest.raises(AssertionError, match="decoded again"):
        decoded_frames(dataset, camera="top", size=SIZE + 1)


def test_a_dataset_that_grew_is_decoded_anew(tmp_path, make_dataset, spec, make_episode):
    before = decoded_frames(make_dataset(tmp_path / "d"), camera="top", size=SIZE)
    with EpisodeWriter(tmp_path / "d", spec, resume=True) as writer:
        writer.save(make_episode(3))
    grown = open_dataset(tmp_path / "d")
    after = decoded_frames(grown, camera="top", size=SIZE)
    assert len(after) == grown.num_frames == len(before) + 6
    np.testing.assert_array_equal(after[: len(before)], before)
    np.testing.assert_array_equal(after[-1], fit_image(grown.frames(3, "top")[-1], SIZE))


def test_an_error_halfway_leaves_no_store(tmp_path, make_dataset, monkeypatch, cache):
    dataset = make_dataset(tmp_path / "d")
    read = Dataset.frames

    def torn(self, index, camera):
        if index == 1:
            raise OSError("the disk is sick")
        return read(self, index, camera)

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "frames", torn)
        with pytest.raises(OSError, match="the disk is sick"):
            decoded_frames(dataset, camera="top", size=SIZE)
    assert stores(cache) == []
    assert decoded_frames(dataset, camera="top", size=SIZE)[-1].any()


KILLED = """
import os, signal, sys
from vla.data.frames import decoded_frames
from vla.data.lerobot import Dataset, open_dataset

read = Dataset.frames
def last(self, index, camera):
    if index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, index, camera)
Dataset.frames = last
os.cpu_count = lambda: 1
decoded_frames(open_dataset(sys.argv[1]), camera="top", size=24)
"""


def test_a_kill_halfway_leaves_no_half_store(tmp_path, make_dataset, run_python):
    dataset = make_dataset(tmp_path / "d")
    assert run_python(KILLED, str(dataset.root)).returncode == -9
    frames = decoded_frames(dataset, camera="top", size=SIZE)
    decoded = np.concatenate([dataset.frames(index, "top") for index in range(3)])
    np.testing.assert_array_equal(frames, np.stack([fit_image(image, SIZE) for image in decoded]))


def test_a_store_that_was_cut_short_is_made_again(tmp_path, make_dataset, cache):
    dataset = make_dataset(tmp_path / "d")
    whole = np.array(decoded_frames(dataset, camera="top", size=SIZE))
    (path,) = (cache / "frames").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(decoded_frames(dataset, camera="top", size=SIZE), whole)


def test_progress_is_told_by_episode(tmp_path, make_dataset):
    told = []
    decoded_frames(make_dataset(tmp_path / "d"), camera="top", size=SIZE, progress=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_fitting_squeezes_the_whole_picture_into_a_square():
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit_image(image[:, :8], 8), image[:, :8])
    small = fit_image(image, 4)
    areas = image.reshape(4, 2, 4, 3, 3).mean((1, 3))
    np.testing.assert_allclose(small, areas, atol=0.51)  # each pixel is the mean of its area, rounded
    assert fit_image(image, 20).shape == (20, 20, 3)


def test_the_cache_is_where_it_was_asked_to_be(monkeypatch, tmp_path, cache):
    assert cache_folder() == cache
    monkeypatch.delenv("UNDERSTUDY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "understudy"
