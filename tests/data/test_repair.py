import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla.data import repair as repair_module
from vla.data.lerobot import EpisodeWriter, open_dataset
from vla.data.parquet_salvage import salvage
from vla.data.repair import repair
from vla.errors import UnderstudyError

DATA, ROW = "data/chunk-000/file-{:03d}.parquet", "meta/episodes/chunk-000/file-{:03d}.parquet"


@pytest.fixture(params=["image", "video"])
def recorded(request, tmp_path, spec, make_episode):
    """Four episodes on disk, and how much their images may differ."""
    spec = replace(spec, storage=request.param)
    root = tmp_path / "d"
    with EpisodeWriter(root, spec) as writer:
        for seed in range(4):
            writer.save(make_episode(seed, length=4 + seed))
    return root, 12 if request.param == "video" else 0


def check(root, same, make_episode, seeds, tolerance):
    """The dataset holds exactly these episodes, opens without complaint, and can be continued."""
    dataset = open_dataset(root)
    assert len(dataset.episodes) == len(seeds)
    for index, seed in enumerate(seeds):
        same(dataset.episode(index), make_episode(seed, length=4 + seed), tolerance)
    assert json.loads((root / "meta/info.json").read_text())["total_frames"] == dataset.num_frames
    assert json.loads((root / "meta/stats.json").read_text())["index"]["count"] == [dataset.num_frames]
    assert not [path for path in root.rglob("*.part") if "torn" not in path.relative_to(root).parts]
    assert not (root / ".mending").exists()
    assert not repair(root).changed
    with EpisodeWriter(root, dataset.spec, resume=True) as writer:
        writer.save(make_episode(9, length=13))
    same(open_dataset(root).episode(len(seeds)), make_episode(9, length=13), tolerance)
    rows = [pq.read_table(path).to_pydict() for path in sorted((root / "data").glob("*/*.parquet"))]
    assert [n for row in rows for n in row["index"]] == list(range(open_dataset(root).num_frames))


def test_a_whole_dataset_is_left_alone(recorded):
    root, _ = recorded
    before = open_dataset(root).hash()
    report = repair(root)
    assert not report.changed
    assert report.episodes == 4
    assert open_dataset(root).hash() == before
    assert "nothing to mend" in report.lines()[0]


def cut(path, keep=-30):
    path.write_bytes(path.read_bytes()[:keep])


def info_missing(root):
    (root / "meta/info.json").unlink()


def info_short(root):
    cut(root / "meta/info.json", 100)


def info_empty(root):
    (root / "meta/info.json").write_bytes(b"")


def info_counts_less(root):
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_episodes": 1}))


def stats_cut(root):
    cut(root / "meta/stats.json")


def tasks_cut(root):
    cut(root / "meta/tasks.parquet")


def parts_left(root):
    (root / "data/chunk-000/file-004.parquet.part").write_bytes(b"PAR1 half")
    (root / "meta/info.json.part").write_bytes(b"{")


@pytest.mark.parametrize(
    "damage", [info_missing, info_short, info_empty, info_counts_less, stats_cut, tasks_cut, parts_left]
)
def test_torn_metadata_costs_no_episode(recorded, same, make_episode, damage):
    root, tolerance = recorded
    damage(root)
    assert repair(root).changed
    check(root, same, make_episode, [0, 1, 2, 3], tolerance)


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_an_episode_without_data_is_named_and_the_others_close_ranks(recorded, same, make_episode, lost):
    root, tolerance = recorded
    (root / DATA.format(lost)).unlink()
    report = repair(root)
    assert [note for note in report.notes if f"episode {lost} is lost" in note]
    check(root, same, make_episode, [seed for seed in range(4) if seed != lost], tolerance)


def test_a_damaged_data_file_goes_to_torn(recorded, same, make_episode):
    root, tolerance = recorded
    path = root / DATA.format(2)
    beginning = path.read_bytes()[:40]
    path.write_bytes(beginning)
    report = repair(root)
    assert DATA.format(2) in report.moved
    assert (root / "torn" / DATA.format(2)).read_bytes() == beginning
    check(root, same, make_episode, [0, 1, 3], tolerance)


def test_data_without_its_footer_is_read_all_the_same(recorded, same, make_episode):
    root, tolerance = recorded
    cut(root / DATA.format(3), -200)
    assert [note for note in repair(root).notes if "7 whole frames" in note]
    check(root, same, make_episode, [0, 1, 2, 3], tolerance)


def test_a_lost_row_of_the_metadata_is_made_again(recorded, same, make_episode):
    root, tolerance = recorded
    expected = pq.read_table(root / ROW.format(3)).to_pylist()[0]
    cut(root / ROW.format(3))
    repair(root)
    row = pq.read_table(root / ROW.format(3)).to_pylist()[0]
    assert row.keys() == expected.keys()
    for name in row.keys() - {"success", "source", "seed", "initial_state"}:
        if name.startswith("stats/"):
            np.testing.assert_allclose(row[name], expected[name], atol=0.02 if "images" in name else 1e-6)
        else:
            assert row[name] == expected[name], name
    dataset = open_dataset(root)
    unknown = {"success": None, "source": root.name, "seed": None, "initial_state": None}
    same(dataset.episode(3), replace(make_episode(3, length=7), **unknown), tolerance)
    assert dataset.episodes[2].success is None
    assert dataset.episodes[1].success is False


def test_an_episode_that_was_whole_but_not_yet_counted_is_kept(recorded, make_episode):
    root, _ = recorded
    (root / ROW.format(3)).unlink()
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"total_episodes": 3}))
    assert len(open_dataset(root).episodes) == 3
    assert repair(root).episodes == 4
    np.testing.assert_array_equal(open_dataset(root).arrays(3)["actions"], make_episode(3, length=7).actions)


def test_a_missing_video_loses_only_its_episode(tmp_path, spec, make_episode, same):
    root = tmp_path / "d"
    with EpisodeWriter(root, replace(spec, storage="video")) as writer:
        for seed in range(4):
            writer.save(make_episode(seed, length=4 + seed))
    (root / "videos/observation.images.wrist/chunk-000/file-003.mp4").unlink()
    cut(root / "videos/observation.images.top/chunk-000/file-001.mp4", 300)
    report = repair(root)
    assert {note.split(":")[0] for note in report.notes if "is lost" in note} == {
        "episode 1 is lost",
        "episode 3 is lost",
    }
    assert (root / "torn" / DATA.format(3)).is_file()
    check(root, same, make_episode, [0, 2], 12)


def test_what_others_keep_in_meta_stays(recorded, make_episode, same):
    root, tolerance = recorded
    (root / "meta/modality.json").write_text("{}")
    (root / DATA.format(0)).unlink()
    repair(root)
    assert (root / "meta/modality.json").read_text() == "{}"
    check(root, same, make_episode, [1, 2, 3], tolerance)


@pytest.mark.parametrize("step", range(8))
def test_a_repair_that_is_killed_is_run_again(tmp_path, spec, make_episode, same, monkeypatch, step):
    root = tmp_path / "d"
    with EpisodeWriter(root, spec) as writer:
        for seed in range(4):
            writer.save(make_episode(seed, length=4 + seed))
    (root / DATA.format(1)).unlink()
    (root / "data/chunk-000/file-009.parquet.part").write_bytes(b"half")
    calls = 0

    def dies(real):
        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls > step:
                raise KeyboardInterrupt
            return real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(repair_module.layout, "write_atomic", dies(repair_module.layout.write_atomic))
        patch.setattr(repair_module.shutil, "rmtree", dies(repair_module.shutil.rmtree))
        patch.setattr(Path, "replace", dies(Path.replace))
        try:
            repair(root)
        except KeyboardInterrupt:
            pass
        else:
            assert calls <= step
    repair(root)
    check(root, same, make_episode, [0, 2, 3], 0)


def test_errors_of_repair(tmp_path):
    with pytest.raises(UnderstudyError, match="is not a dataset"):
        repair(tmp_path / "nowhere")
    (tmp_path / "e/meta").mkdir(parents=True)
    with pytest.raises(UnderstudyError, match="nothing can be saved"):
        repair(tmp_path / "e")
    (tmp_path / "e/meta/info.json").write_text('{"codebase_version": "v2.1"}')
    with pytest.raises(UnderstudyError, match="vla data import"):
        repair(tmp_path / "e")


def test_without_any_description_the_numbers_are_still_saved(recorded, make_episode):
    root, _ = recorded
    (root / "meta/understudy.json").unlink()
    (root / "meta/info.json").unlink()
    repair(root)
    dataset = open_dataset(root)
    assert dataset.spec.fps == 10.0
    assert [(camera.height, camera.width) for camera in dataset.spec.cameras] == [(32, 32), (32, 40)]
    for index in range(4):
        np.testing.assert_array_equal(dataset.arrays(index)["actions"], make_episode(index, length=4 + index).actions)
        assert dataset.frames(index, "top").shape == (4 + index, 32, 32, 3)


def test_salvage_gives_every_whole_row_group_and_nothing_else(tmp_path):
    from vla.data.lerobot_format import arrow_column

    shapes = {"a": ("float32", 3), "b": ("bool", 1), "c.d": ("image", 3), "e": ("int64", 1), "f": ("float64", 20)}
    features = {key: {"dtype": dtype, "shape": [size]} for key, (dtype, size) in shapes.items()}
    rng = np.random.default_rng(0)

    def table(rows):
        columns = {}
        for key, (dtype, size) in shapes.items():
            image = dtype == "image"
            values = [rng.bytes(9000) for _ in range(rows)] if image else rng.normal(size=(rows, size)) * 9
            columns[key] = arrow_column(features[key], values if image else values.astype(dtype))
        return repair_module.pa.table(columns)

    tables = [table(rows) for rows in (150, 1, 300)]
    path, ends = tmp_path / "t.parquet", []
    with pq.ParquetWriter(path, tables[0].schema, compression="snappy", use_dictionary=True) as writer:
        for part in tables:
            writer.write_table(part)
            ends.append(path.stat().st_size)
    content = path.read_bytes()
    for size in [*ends, *(end - 1 for end in ends), *(end + 9 for end in ends), 4, 0]:
        path.write_bytes(content[:size])
        whole = sum(end <= size for end in ends)
        saved = salvage(path, features)
        assert (
            saved is None
            if not whole
            else saved.combine_chunks().equals(repair_module.pa.concat_tables(tables[:whole]).combine_chunks())
        )
