import json
import socket

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla.data.importers import import_dataset
from vla.data.importers.tfrecord import crc32c, parse_example, records
from vla.data.lerobot import EpisodeWriter, open_dataset
from vla.errors import UnderstudyError


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an importer opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)


def check(made, root, *, numbers, tolerance, first_stamp):
    dataset = open_dataset(root)
    assert len(dataset.episodes) == len(numbers)
    for index, number in enumerate(numbers):
        episode, length = dataset.episode(index), made.LENGTHS[number]
        assert episode.task.instruction == f"do {number % 2}"
        np.testing.assert_array_equal(episode.actions, made.numbers(number, length, 2).astype(np.float32))
        np.testing.assert_array_equal(episode.proprio, made.numbers(number, length, 4).astype(np.float32))
        stamps = first_stamp + np.arange(length) * 100_000_000
        np.testing.assert_allclose(episode.stamps_ns, stamps, rtol=1e-7, atol=0)  # the source's are float32 seconds
        (frames,) = (decode() for decode in episode.images.values())
        assert np.abs(frames.astype(int) - made.moving(length, number)).max() <= tolerance
    low, high = (np.array(bound) for bound in (dataset.spec.action.low, dataset.spec.action.high))
    for index in range(len(numbers)):
        actions = dataset.arrays(index)["actions"]
        assert (actions >= low - 1e-6).all()
        assert (actions <= high + 1e-6).all()
    return dataset


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
@pytest.mark.parametrize(("dtype", "as_images"), [("float32", False), ("float64", True)])
def test_lerobot_v2(tmp_path, caplog, version, dtype, as_images, made):
    source = made.write_v2(tmp_path / "old", version=version, dtype=dtype, as_images=as_images)
    report = import_dataset(source, tmp_path / "new")
    assert (report.format, report.promised, report.found, report.imported) == (f"LeRobot {version}", 3, 3, (0, 1, 2))
    assert not caplog.records
    dataset = check(
        made, tmp_path / "new", numbers=(0, 1, 2), tolerance=0 if as_images else 12, first_stamp=100_000_000
    )
    assert dataset.spec.proprio_names == ("a", "b", "c", "grip")
    assert dataset.spec.action.names == ("x", "y")
    assert dataset.spec.embodiment == "toy"
    assert [info.success for info in dataset.episodes] == [True] * 3


def test_rlds(tmp_path, caplog, made):
    made.write_rlds(tmp_path)
    report = import_dataset(tmp_path, tmp_path / "new", fps=10)
    assert (report.format, report.promised, report.found, report.frames) == ("RLDS", 3, 3, 21)
    assert not caplog.records
    dataset = check(made, tmp_path / "new", numbers=(0, 1, 2), tolerance=0, first_stamp=0)
    assert [info.success for info in dataset.episodes] == [True, None, True]
    assert dataset.spec.storage == "image"


def test_rlds_with_scattered_states_and_no_rate(tmp_path, caplog, made):
    folder = made.write_rlds(tmp_path, extra_state=True)
    report = import_dataset(folder, tmp_path / "new")
    assert [text for text in caplog.messages if "10 Hz is assumed" in text] == list(report.warnings)
    dataset = check(made, tmp_path / "new", numbers=(0, 1, 2), tolerance=0, first_stamp=0)
    assert dataset.spec.proprio_names == ("effector_0", "effector_1", "effector_2", "opening")


def test_a_promise_that_is_not_kept_is_one_warning(tmp_path, caplog, made):
    source = made.write_v2(tmp_path / "old", kept=(0, 2))
    report = import_dataset(source, tmp_path / "new")
    (warning,) = caplog.messages
    assert "promises 3 episodes, 2 are there (0, 2)" in warning
    assert report.imported == (0, 2)
    check(made, tmp_path / "new", numbers=(0, 2), tolerance=12, first_stamp=100_000_000)
    caplog.clear()
    import_dataset(made.write_rlds(tmp_path, name="bridge_dataset", promised=60), tmp_path / "bridge")
    (warning,) = caplog.messages
    assert "promises 60 episodes, 3 are there" in warning
    assert open_dataset(tmp_path / "bridge").spec.fps == 5


def test_chosen_episodes_and_going_on(tmp_path, made):
    source = made.write_v2(tmp_path / "old")
    assert import_dataset(source, tmp_path / "new", episodes=[1]).imported == (1,)
    report = import_dataset(source, tmp_path / "new")
    assert (report.imported, report.kept, report.episodes) == ((0, 2), 1, 3)
    again = import_dataset(source, tmp_path / "new", episodes=range(99))
    assert (again.imported, again.kept) == ((), 3)
    check(made, tmp_path / "new", numbers=(1, 0, 2), tolerance=12, first_stamp=100_000_000)
    with pytest.raises(UnderstudyError, match="none of the episodes asked for"):
        import_dataset(source, tmp_path / "new", episodes=[7])
    with pytest.raises(UnderstudyError, match="holds other data: cameras"):
        import_dataset(source, tmp_path / "new", image_size=8)


@pytest.mark.parametrize("moment", ["between episodes", "within an episode"])
def test_ctrl_c_keeps_the_finished_episodes_and_the_same_call_goes_on(tmp_path, monkeypatch, moment, made):
    source = made.write_v2(tmp_path / "old")
    real = EpisodeWriter.save

    def save(self, episode):
        if self.num_episodes == 1:
            if moment == "within an episode":
                monkeypatch.setattr(self, "_episode_file", interrupt)
                real(self, episode)
            interrupt()
        return real(self, episode)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeWriter, "save", save)
        report = import_dataset(source, tmp_path / "new", progress=True)
    assert report.interrupted
    assert report.imported == (0,)
    report = import_dataset(source, tmp_path / "new")
    assert not report.interrupted
    assert (report.imported, report.kept) == ((1, 2), 1)
    check(made, tmp_path / "new", numbers=(0, 1, 2), tolerance=12, first_stamp=100_000_000)


def test_images_are_resized_by_area(tmp_path, made):
    for source in (made.write_v2(tmp_path / "old", as_images=True), made.write_rlds(tmp_path)):
        target = tmp_path / f"small {source.name}"
        import_dataset(source, target, image_size=8, fps=10)
        dataset = open_dataset(target)
        (camera,) = dataset.spec.cameras
        assert (camera.height, camera.width) == (8, 8)
        blocks = made.moving(9, 1).reshape(9, 8, 4, 8, 4, 3).mean((2, 4))
        assert np.abs(dataset.frames(1, camera.name) - blocks).max() <= 0.5


def test_our_own_format_is_imported_to_be_made_smaller(tmp_path, spec, make_episode):
    with EpisodeWriter(tmp_path / "d", spec) as writer:
        for seed in range(3):
            writer.save(make_episode(seed))
    import_dataset(tmp_path / "d", tmp_path / "small", image_size=16)
    dataset = open_dataset(tmp_path / "small")
    assert dataset.spec.action == spec.action
    for index in range(3):
        episode, original = dataset.episode(index), make_episode(index)
        np.testing.assert_array_equal(episode.actions, original.actions)
        np.testing.assert_array_equal(episode.stamps_ns, original.stamps_ns)
        assert (episode.success, episode.seed) == (original.success, original.seed)
        assert episode.source.startswith("expert")
        assert episode.images["wrist"]().shape == (6, 16, 16, 3)


def test_a_damaged_video_is_named_with_its_episode_and_the_ones_before_it_are_kept(tmp_path, made):
    source = made.write_v2(tmp_path / "old")
    path = source / "videos/chunk-000/observation.images.top/episode_000001.mp4"
    whole = path.read_bytes()
    short = made.encode_mp4(made.moving(6, 1), made.FPS)
    for n, content in enumerate((whole[: len(whole) // 2], b"", short)):
        path.write_bytes(content)
        with pytest.raises(UnderstudyError, match=r"episode 1 of .*old was not imported: .*episode_000001.mp4"):
            import_dataset(source, tmp_path / f"new {n}")
        assert len(open_dataset(tmp_path / f"new {n}").episodes) == 1
    path.unlink()
    with pytest.raises(UnderstudyError, match=r"episode 1 of .* has no video episode_000001.mp4"):
        import_dataset(source, tmp_path / "new 0")
    path.write_bytes(whole)
    assert import_dataset(source, tmp_path / "new 0").imported == (1, 2)


def test_numbers_that_are_none_are_named_with_episode_and_frame(tmp_path, made):
    source = made.write_v2(tmp_path / "old")
    path = source / "data/chunk-000/episode_000002.parquet"
    table = pq.read_table(path).to_pydict()
    for key, what, value in (("action", "actions", float("nan")), ("observation.state", "states", float("inf"))):
        broken = {**table, key: [list(row) for row in table[key]]}
        broken[key][4][1] = value
        pq.write_table(made.pa.table(broken), path)
        with pytest.raises(UnderstudyError, match=f"episode 2 of .* {what} of frame 4 hold NaN or infinity"):
            import_dataset(source, tmp_path / "new")
    assert len(open_dataset(tmp_path / "new").episodes) == 2


def test_a_camera_that_is_only_declared_is_left_out(tmp_path, caplog, made):
    source = made.write_v2(tmp_path / "old")
    info = json.loads((source / "meta/info.json").read_text())
    info["features"]["observation.images.side"] = info["features"]["observation.images.top"]
    (source / "meta/info.json").write_text(json.dumps(info))
    import_dataset(source, tmp_path / "new")
    assert [camera.name for camera in open_dataset(tmp_path / "new").spec.cameras] == ["top"]
    assert "'side'" in caplog.text


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_damaged_records_are_named(tmp_path, made):
    folder = made.write_rlds(tmp_path)
    shard = made.shard_of(folder)
    whole = shard.read_bytes()
    second = records(shard)[1]
    flip(shard, second.offset + second.length // 2)
    with pytest.raises(UnderstudyError, match=r"episode 1 of .* record 1 of .*tfrecord.* damaged \(checksum\)"):
        import_dataset(folder, tmp_path / "new", fps=10)
    assert len(open_dataset(tmp_path / "new").episodes) == 1
    shard.write_bytes(whole[:-10])
    with pytest.raises(UnderstudyError, match=r"episode 2 of .* ends within record 2"):
        import_dataset(folder, tmp_path / "cut", fps=10)
    shard.write_bytes(whole)
    flip(shard, second.offset - 11)
    with pytest.raises(UnderstudyError, match="the length of record 1"):
        import_dataset(folder, tmp_path / "length", fps=10)


def test_crc32c_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    data = np.random.default_rng(0).bytes(70_000)
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    assert crc32c(data) == register ^ 0xFFFFFFFF


def test_examples_with_negative_unpacked_and_unknown_entries(tmp_path, made):
    negative = bytes([0xFE, *[0xFF] * 8, 1])
    packed = made.field(3, made.field(1, b"\x05" + negative + b"\xac\x02"))
    unpacked = made.field(3, b"\x08\x05" + b"\x08\x07")
    floats = made.field(2, b"".join(b"\x0d" + np.float32(value).tobytes() for value in (1.5, -2.0)))
    data = made.example({"a": packed, "b": unpacked, "c": floats, "d": made.field(1, made.field(1, b"x")), "e": b""})
    path = tmp_path / "t.tfrecord"
    path.write_bytes(made.record(data))
    (record,) = records(path)
    entries = parse_example(record.read(), where=record)
    assert entries["a"].tolist() == [5, -2, 300]
    assert entries["b"].tolist() == [5, 7]
    assert entries["c"].tolist() == [1.5, -2.0]
    assert (entries["d"], entries["e"]) == ([b"x"], [])
    assert record.glance(["b"]).keys() == {"b"}
    path.write_bytes(made.record(b"\x0a\xff no message"))
    with pytest.raises(UnderstudyError, match=r"record 0 of .* holds no tf\.train\.Example"):
        records(path)[0].glance(["b"])


def test_errors_for_what_cannot_be_imported(tmp_path, spec, made):
    with pytest.raises(UnderstudyError, match="there is no folder"):
        import_dataset(tmp_path / "nowhere", tmp_path / "new")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnderstudyError, match="known are LeRobot"):
        import_dataset(tmp_path / "empty", tmp_path / "new")
    source = made.write_v2(tmp_path / "old", version="v1.6")
    with pytest.raises(UnderstudyError, match=r"says it is LeRobot v1\.6"):
        import_dataset(source, tmp_path / "new")
    with pytest.raises(UnderstudyError, match="image_size"):
        import_dataset(source, tmp_path / "new", image_size=0)
    source = made.write_v2(tmp_path / "none", kept=())
    with pytest.raises(UnderstudyError, match="has no episode"):
        import_dataset(source, tmp_path / "new")
    made.write_rlds(tmp_path / "two", name="one")
    made.write_rlds(tmp_path / "two", name="other")
    with pytest.raises(UnderstudyError, match="holds several datasets"):
        import_dataset(tmp_path / "two", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UnderstudyError, match="is not a dataset"):
        import_dataset(made.write_v2(tmp_path / "good"), tmp_path / "two")
