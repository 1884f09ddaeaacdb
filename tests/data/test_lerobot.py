import errno
import json
import pickle
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla.data import lerobot_format
from vla.data.lerobot import EpisodeWriter, open_dataset
from vla.data.lerobot_format import FILES_PER_CHUNK, place
from vla.errors import UnderstudyError

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the data code opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)


def write(root, spec, episodes, **options):
    with EpisodeWriter(root, spec, **options) as writer:
        assert [writer.save(episode) for episode in episodes] == list(
            range(writer.num_episodes - len(episodes), writer.num_episodes)
        )
    return open_dataset(root)


def test_what_is_written_is_read_back(tmp_path, spec, make_episode, same):
    episodes = [make_episode(seed, length=4 + seed) for seed in range(4)]
    dataset = write(tmp_path / "d", spec, episodes)
    assert dataset.spec == spec
    assert dataset.num_frames == sum(episode.length for episode in episodes)
    for index, episode in enumerate(episodes):
        same(dataset.episode(index), episode)
        info = dataset.episodes[index]
        assert (info.index, info.length, info.instruction) == (index, episode.length, episode.task.instruction)
        assert (info.success, info.seed, info.initial_state) == (episode.success, index, index % 4)


def test_real_stamps_are_kept_to_the_nanosecond(tmp_path, spec, make_episode):
    stamps = np.array([2**53 + 1, 2**53 + 7, 2**62 + 3])
    dataset = write(tmp_path / "d", spec, [make_episode(0, length=3, stamps_ns=stamps)])
    np.testing.assert_array_equal(dataset.arrays(0)["stamps_ns"], stamps)


def test_video_comes_back_nearly_the_same_and_smaller_formats_do_not_shift_frames(tmp_path, spec, make_episode, same):
    spec = replace(spec, storage="video")
    episodes = [make_episode(seed, length=12) for seed in range(2)]
    dataset = write(tmp_path / "d", spec, episodes)
    for index, episode in enumerate(episodes):
        same(dataset.episode(index), episode, tolerance=12)
        brightness = dataset.frames(index, "top").reshape(12, -1).mean(1)
        # ffmpeg's conversion to RGB rounds down by 1.1 to 1.7 levels; neighbouring frames are 6 levels apart.
        np.testing.assert_allclose(brightness, episode.images["top"]().reshape(12, -1).mean(1), atol=2.5)


def test_odd_image_sizes_and_single_entry_vectors(tmp_path, spec, make_episode, same):
    one = replace(spec.action, names=("x",), low=(0.0,), high=(1.0,), gripper=None)
    frames = np.full((6, 31, 17, 3), 90, np.uint8)
    camera = replace(spec.cameras[0], height=31, width=17)
    for storage in ("image", "video"):
        small = replace(spec, action=one, proprio_names=("q",), cameras=(camera,), storage=storage)
        base = make_episode(0)
        episode = replace(
            base, proprio=base.proprio[:, :1], actions=base.actions[:, :1], images={"top": lambda: frames}
        )
        same(write(tmp_path / storage, small, [episode]).episode(0), episode, tolerance=3)


def test_a_dataset_pickles_and_hashes_by_content(tmp_path, spec, make_episode):
    first = write(tmp_path / "a", spec, [make_episode(0), make_episode(1)])
    copy = write(tmp_path / "b", spec, [make_episode(0), make_episode(1)])
    changed = make_episode(1)
    changed.actions[2, 1] += 1e-3
    other = write(tmp_path / "c", spec, [make_episode(0), changed])
    assert first.hash() == copy.hash() == pickle.loads(pickle.dumps(first)).hash()
    assert first.hash() != other.hash()


@pytest.mark.parametrize("name", ["actions", "proprio"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused_with_episode_and_frame(tmp_path, spec, make_episode, name, value):
    bad = make_episode(1)
    getattr(bad, name)[4, 1] = value
    with EpisodeWriter(tmp_path / "d", spec) as writer:
        writer.save(make_episode(0))
        with pytest.raises(UnderstudyError, match=f"{name} of episode 1, frame 4"):
            writer.save(bad)
        assert writer.save(make_episode(1)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.zeros((6, 4), np.float32)}, r"actions of episode 0 must be float32 \[6, 3\]"),
        ({"actions": np.zeros((6, 3))}, "actions of episode 0 must be float32"),
        ({"stamps_ns": np.zeros(6)}, "stamps_ns of episode 0 must be int64"),
        ({"fps": 20.0}, "fps of episode 0 is 20.0"),
        ({"images": {}}, r"has the cameras \[\]"),
        ({"actions": np.zeros((0, 3), np.float32)}, "episode 0 is empty"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused(tmp_path, spec, make_episode, changes, message):
    episode = make_episode(0)
    for name, value in changes.items():
        object.__setattr__(episode, name, value)  # the constructor checks shapes, but only in tests
    with EpisodeWriter(tmp_path / "d", spec) as writer, pytest.raises(UnderstudyError, match=message):
        writer.save(episode)
    assert len(open_dataset(tmp_path / "d").episodes) == 0


def test_resume_goes_on_and_refuses_other_data(tmp_path, spec, make_episode, same):
    root = tmp_path / "d"
    write(root, spec, [make_episode(0)])
    with pytest.raises(UnderstudyError, match="not empty"):
        EpisodeWriter(root, spec)
    with pytest.raises(UnderstudyError, match="fingerprint"):
        EpisodeWriter(root, replace(spec, fingerprint="other"), resume=True)
    dataset = write(root, spec, [make_episode(1), make_episode(2)], resume=True)
    for index in range(3):
        same(dataset.episode(index), make_episode(index))
    together = write(tmp_path / "at once", spec, [make_episode(seed) for seed in range(3)])
    assert together.hash() == dataset.hash()


def test_errors_for_paths_that_hold_no_dataset(tmp_path, spec, make_episode):
    with pytest.raises(UnderstudyError, match="there is no folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(UnderstudyError, match="is not a dataset"):
        open_dataset(tmp_path)
    (tmp_path / "old/meta").mkdir(parents=True)
    (tmp_path / "old/meta/info.json").write_text(json.dumps({"codebase_version": "v2.1"}))
    with pytest.raises(UnderstudyError, match="vla data import"):
        open_dataset(tmp_path / "old")
    dataset = write(tmp_path / "d", spec, [make_episode(0)])
    with pytest.raises(UnderstudyError, match="did you mean 'wrist'"):
        dataset.frames(0, "wrst")
    with pytest.raises(UnderstudyError, match="no episode 1"):
        dataset.arrays(1)


def remove_data(root):
    (root / "data/chunk-000/file-001.parquet").unlink()


def cut_data(root):
    path = root / "data/chunk-000/file-001.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def remove_episode_row(root):
    (root / "meta/episodes/chunk-000/file-001.parquet").unlink()


def remove_info(root):
    (root / "meta/info.json").unlink()


def drop_camera(root):
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["observation.images.top"]
    (root / "meta/info.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_data, "file-001.parquet is missing; run: vla data repair"),
        (cut_data, "was never finished; run: vla data repair"),
        (remove_episode_row, "vla data repair"),
        (remove_info, "vla data repair"),
        (drop_camera, "lacks observation.images.top"),
    ],
)
def test_a_torn_dataset_says_so(tmp_path, spec, make_episode, damage, message):
    root = tmp_path / "d"
    write(root, spec, [make_episode(seed) for seed in range(3)])
    damage(root)
    with pytest.raises(UnderstudyError, match=message):
        open_dataset(root)


def killed_at(monkeypatch, step):
    """Let the ``step``-th write be the last thing that the process did: half a temporary file, then nothing."""
    calls = 0
    real = lerobot_format.write_atomic

    def write_atomic(path, content):
        nonlocal calls
        if calls == step:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name + lerobot_format.PART).write_bytes(bytes(content)[: len(content) // 2])
            raise KeyboardInterrupt
        calls += 1
        real(path, content)

    monkeypatch.setattr(lerobot_format, "write_atomic", write_atomic)


@pytest.mark.parametrize("storage", ["image", "video"])
@pytest.mark.parametrize("step", range(7))
def test_killed_between_any_two_writes(tmp_path, spec, make_episode, same, monkeypatch, step, storage):
    root, spec = tmp_path / "d", replace(spec, storage=storage)
    tolerance = 12 if storage == "video" else 0
    writer = EpisodeWriter(root, spec)
    writer.save(make_episode(0))
    with monkeypatch.context() as patch:
        killed_at(patch, step)
        if step < (5 if storage == "image" else 7):
            with pytest.raises(KeyboardInterrupt):
                writer.save(make_episode(1))
        else:
            writer.save(make_episode(1))
    survivors = open_dataset(root)
    same(survivors.episode(0), make_episode(0), tolerance)
    seeds = [0, 2] if len(survivors.episodes) == 1 else [0, 1, 2]
    dataset = write(root, spec, [make_episode(2)], resume=True)
    assert len(dataset.episodes) == len(seeds)
    for index, seed in enumerate(seeds):
        same(dataset.episode(index), make_episode(seed), tolerance)
    stats = json.loads((root / "meta/stats.json").read_text())
    assert stats["index"]["count"] == [dataset.num_frames]


RECORDER = """
import sys, threading
import numpy as np
sys.path.insert(0, sys.argv[1])
from vla.data.lerobot import DatasetSpec, EpisodeWriter
from vla.types import ActionSpec, CameraSpec, Episode, Task
side, length = 64, 20
action = ActionSpec("joint_position", ("a",), (-1.0,), (1.0,))
spec = DatasetSpec(10.0, (CameraSpec("top", side, side),), ("p", "q"), action, "arm", storage=sys.argv[3])
with EpisodeWriter(sys.argv[2], spec, resume=True) as writer:
    while True:
        index = writer.num_episodes
        frames = np.full((length, side, side, 3), index % 200, np.uint8)
        numbers = np.full((length, 2), index, np.float32)
        writer.save(Episode({"top": lambda: frames}, numbers, numbers[:, :1].copy(), Task("record"), 10.0, "arm", True,
                            "", np.arange(length)))
        print(index, flush=True)
"""


@pytest.mark.parametrize("storage", ["image", "video"])
def test_killed_while_recording_loses_nothing_that_was_saved(tmp_path, storage):
    root, saved = tmp_path / "d", -1
    for kill_after in (1, 4):
        command = [sys.executable, "-c", RECORDER, str(REPO), str(root), storage]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as recorder:
            for _ in range(kill_after):
                saved = int(recorder.stdout.readline())
            recorder.send_signal(signal.SIGKILL)
            saved = max([saved, *(int(line) for line in recorder.stdout.read().splitlines())])
        dataset = open_dataset(root)
        assert len(dataset.episodes) >= saved + 1
        for info in dataset.episodes:
            assert (dataset.arrays(info.index)["actions"] == info.index).all()
            assert abs(int(dataset.frames(info.index, "top").mean()) - info.index) <= 2
    assert saved >= 4


def test_a_full_disk_loses_only_the_episode_in_progress(tmp_path, spec, make_episode, same, monkeypatch):
    root = tmp_path / "d"
    writer = EpisodeWriter(root, spec)
    writer.save(make_episode(0))
    real = lerobot_format.os.fsync
    # A disk that stays full, met at each of the new files; and one that refuses once, at any file at all.
    for allowed, refusals in [*((step, 100) for step in range(4)), *((step, 1) for step in range(8))]:
        calls = 0

        def fsync(handle, allowed=allowed, refusals=refusals):
            nonlocal calls
            calls += 1
            if allowed < calls <= allowed + refusals:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(lerobot_format.os, "fsync", fsync)
            with pytest.raises(
                UnderstudyError, match=r"the disk is full: episode 1 was not saved .* the 1 before it are safe"
            ):
                writer.save(make_episode(1))
        assert not list(root.rglob("*.part"))
        assert len(open_dataset(root).episodes) == 1
    assert writer.save(make_episode(2)) == 1
    dataset = open_dataset(root)
    same(dataset.episode(0), make_episode(0))
    same(dataset.episode(1), make_episode(2))


def test_files_roll_over_into_the_next_chunk(tmp_path, spec, make_episode, same, monkeypatch):
    assert place(999) == {"chunk_index": 0, "file_index": 999}
    assert place(FILES_PER_CHUNK) == {"chunk_index": 1, "file_index": 0}
    monkeypatch.setattr(lerobot_format, "FILES_PER_CHUNK", 2)
    dataset = write(tmp_path / "d", spec, [make_episode(seed) for seed in range(5)])
    assert (tmp_path / "d/data/chunk-002/file-000.parquet").is_file()
    for index in range(5):
        same(dataset.episode(index), make_episode(index))


def test_aggregated_statistics_match_the_numbers(tmp_path, spec, make_episode):
    episodes = [make_episode(seed, length=5 + 3 * seed) for seed in range(4)]
    write(tmp_path / "d", spec, episodes)
    stats = json.loads((tmp_path / "d/meta/stats.json").read_text())
    for key, arrays in (
        ("action", [e.actions for e in episodes]),
        ("observation.state", [e.proprio for e in episodes]),
    ):
        rows = np.concatenate(arrays)
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(stats[key][name], getattr(rows, name)(0), rtol=1e-4, atol=1e-5)
        assert stats[key]["count"] == [len(rows)]
        assert (np.array(stats[key]["q01"]) <= stats[key]["q50"]).all()
    pixels = np.concatenate([e.images["top"]()[:16].reshape(-1, 3) for e in episodes]) / 255
    image = stats["observation.images.top"]
    np.testing.assert_allclose(np.ravel(image["mean"]), pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(np.ravel(image["std"]), pixels.std(0), atol=1e-6)
    assert np.shape(image["q99"]) == (3, 1, 1)


def test_importing_the_adapter_stays_light():
    code = "import sys, vla.data.lerobot; print([m for m in ('torch', 'lerobot', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
