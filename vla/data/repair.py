"""Mending a dataset that was torn while it was written: every whole episode is kept, nothing is thrown away.

    report = repair("data/recorded")

A new ``data``, ``videos`` and ``meta`` are made complete under ``.mending`` (of links, where a file stays as it is),
and only then take the old ones' places; what was not used goes to ``torn``. A repair that is killed is run again.
"""

import itertools
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vla.data import episode_statistics as statistics
from vla.data import lerobot_format as layout
from vla.data.lerobot_reader import Dataset, has_footer, matrix, open_dataset
from vla.data.lerobot_writer import EXTRA_COLUMNS, episode_statistics
from vla.data.survey import Found, Survey, readable_json, survey
from vla.errors import UnderstudyError

MENDING, READY, TORN = ".mending", "ready.json", "torn"
FOLDERS = ("data", "videos", "meta")


@dataclass(frozen=True)
class RepairReport:
    """What a repair found and did.

    ``episodes`` and ``frames``: in the dataset now; ``changed``: whether anything was done; ``notes``: a sentence for
    everything that was lost or made again; ``moved``: the files that are now under ``torn``.
    """

    root: Path
    episodes: int
    frames: int
    changed: bool
    notes: tuple[str, ...]
    moved: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report for a person."""
        if not self.changed:
            return [f"{self.root} is whole: {self.episodes} episodes, {self.frames} frames; nothing to mend"]
        moved = [f"moved to {self.root / TORN}: {', '.join(self.moved)}"] if self.moved else []
        return [*self.notes, *moved, f"{self.root} is mended: {self.episodes} episodes, {self.frames} frames"]


def repair(root: str | Path) -> RepairReport:
    """Mend the dataset at ``root`` so that `open_dataset` opens it; a whole one is left as it is.

    Episodes that are whole keep their order and are counted from 0 without gaps. Files that cannot be used are moved
    to ``root/torn``. Raises `UnderstudyError` when there is no dataset, or nothing in it can be saved.
    """
    root = Path(root)
    mending = root / MENDING
    if not any((root / folder).is_dir() for folder in (*FOLDERS, MENDING)):
        raise UnderstudyError(f"{root} is not a dataset: it has none of the folders {', '.join(FOLDERS)}")
    earlier = (mending / READY).is_file()
    if earlier:
        _take_place(root)
    shutil.rmtree(mending, ignore_errors=True)
    version = str((readable_json(root / layout.INFO) or {}).get("codebase_version", layout.CODEBASE_VERSION))
    if not version.startswith("v3"):
        raise UnderstudyError(
            f"{root} is LeRobot {version}; only v3.0 is repaired: run vla data import {root} NEW_FOLDER"
        )
    found = survey(root)
    if _is_whole(found):
        notes = ("an earlier repair was finished",) if earlier else ()
        return _report(root, notes=notes, moved=(), changed=earlier)
    try:
        used = _stage(found, mending)
        unused = _unused(root, used)
        ready = {"torn": unused, "folders": [folder for folder in FOLDERS if (mending / folder).is_dir()]}
        layout.write_atomic(mending / READY, layout.json_bytes(ready))
    except OSError as error:
        shutil.rmtree(mending, ignore_errors=True)
        raise UnderstudyError(f"{root} could not be mended ({error}); nothing of it was changed") from error
    _take_place(root)
    return _report(root, notes=tuple(found.notes), moved=tuple(unused), changed=True)


def _report(root: Path, *, notes: tuple[str, ...], moved: tuple[str, ...], changed: bool) -> RepairReport:
    dataset = open_dataset(root)
    return RepairReport(root, len(dataset.episodes), dataset.num_frames, changed, notes, moved)


def _is_whole(found: Survey) -> bool:
    if found.notes or any(path for folder in FOLDERS for path in (found.root / folder).rglob("*" + layout.PART)):
        return False
    try:
        dataset = open_dataset(found.root)
    except UnderstudyError:
        return False
    count = len(dataset.episodes)
    if count and (found.tasks is None or readable_json(found.root / layout.STATS) is None):
        return False
    return (
        [episode.index for episode in found.episodes] == list(range(count)) == list(range(found.info["total_episodes"]))
    )


def _stage(found: Survey, mending: Path) -> set[Path]:
    """Make the mended dataset under ``mending``; answers which of the old files live on in it."""
    rows = _numbered_rows(found)
    used = _stage_data(found, mending, rows) | _stage_videos(found, mending, rows) | _stage_meta(found, mending)
    tasks = found.tasks or _tasks_of_rows(found)
    for row, episode in zip(rows, found.episodes, strict=True):
        if row["tasks"] is None:
            number = found.table(episode.path)["task_index"][episode.start].as_py()
            row["tasks"] = [tasks[number] if number < len(tasks) else ""]
    info = {
        **found.info,
        "total_episodes": len(rows),
        "total_frames": sum(row["length"] for row in rows),
        "total_tasks": len(tasks),
        "splits": {"train": f"0:{len(rows)}"},
    }
    if found.spec is not None:
        ours = {"format": 1, "spec": found.spec.to_dict()}
        layout.write_atomic(mending / layout.OURS, layout.json_bytes(ours))
    if tasks:
        layout.write_atomic(mending / layout.TASKS, layout.parquet_bytes(layout.tasks_table(tasks)))
    layout.write_atomic(mending / layout.INFO, layout.json_bytes(info))
    for row in rows:
        if not any(name.startswith("stats/") for name in row):
            row |= _statistics_of(Dataset(mending, info, rows), info["features"], row)
    total = statistics.aggregate(episode_statistics(row) for row in rows)
    if total:
        layout.write_atomic(mending / layout.STATS, layout.json_bytes(statistics.to_json(total), indent=None))
    _stage_rows(mending, rows, together=found.spec is None)
    return used


def _numbered_rows(found: Survey) -> list[dict[str, Any]]:
    """The rows of meta/episodes with new numbers, but for the tasks and the statistics of those that had no row."""
    rows: list[dict[str, Any]] = []
    start = 0
    for number, episode in enumerate(found.episodes):
        row: dict[str, Any] = {"tasks": None} | (episode.row or {})
        row |= {"episode_index": number, "length": episode.length}
        row |= {"dataset_from_index": start, "dataset_to_index": start + episode.length}
        row |= _place(found, number, "data", episode.path)
        for key, (path, seconds) in episode.videos.items():
            row |= _place(found, number, f"videos/{key}", path)
            end = seconds + episode.length / float(found.info["fps"])
            row |= {f"videos/{key}/from_timestamp": seconds, f"videos/{key}/to_timestamp": end}
        if found.spec is not None:
            row = dict.fromkeys(EXTRA_COLUMNS) | row
        start += episode.length
        rows.append(row)
    return rows


def _place(found: Survey, number: int, prefix: str, path: Path) -> dict[str, int]:
    """Our writer counts on episode i lying in file i; LeRobot's files keep their numbers."""
    if found.spec is not None:
        place = layout.place(number)
    else:
        chunk, file = (int(name.rpartition("-")[2]) for name in (path.parent.name, path.stem))
        place = {"chunk_index": chunk, "file_index": file}
    return {f"{prefix}/{name}": at for name, at in place.items()}


def _stage_data(found: Survey, mending: Path, rows: list[dict[str, Any]]) -> set[Path]:
    template = found.info.get("data_path") or layout.DATA_PATH
    members: dict[str, list[tuple[Found, dict[str, Any]]]] = {}
    for episode, row in zip(found.episodes, rows, strict=True):
        target = template.format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
        members.setdefault(target, []).append((episode, row))
    kept: dict[Path, int] = {}
    for target, group in members.items():
        path = group[0][0].path
        table = found.table(path)
        mended = pa.concat_tables(
            [_renumbered(table.slice(episode.start, episode.length), row) for episode, row in group]
        )
        kept[path] = kept.get(path, 0) + mended.num_rows
        if path not in found.salvaged and mended.equals(table):
            _link(path, mending / target)
        else:
            layout.write_atomic(mending / target, layout.parquet_bytes(mended))
    return {path for path, count in kept.items() if path not in found.salvaged and count == found.table(path).num_rows}


def _renumbered(table: pa.Table, row: dict[str, Any]) -> pa.Table:
    columns = {
        "episode_index": np.full(table.num_rows, row["episode_index"]),
        "index": np.arange(row["dataset_from_index"], row["dataset_to_index"]),
    }
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    return table


def _stage_videos(found: Survey, mending: Path, rows: list[dict[str, Any]]) -> set[Path]:
    template = found.info.get("video_path") or layout.VIDEO_PATH
    used: set[Path] = set()
    for episode, row in zip(found.episodes, rows, strict=True):
        for key, (path, _) in episode.videos.items():
            place = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
            _link(path, mending / template.format(video_key=key, **place))
            used.add(path)
    return used


def _stage_meta(found: Survey, mending: Path) -> set[Path]:
    """Carry over what others keep in ``meta``; answers all files of ``meta`` that need not go to ``torn``."""
    remade = {layout.INFO, layout.STATS, layout.TASKS, layout.OURS}
    used: set[Path] = set()
    for path in sorted((found.root / "meta").rglob("*")):
        name = path.relative_to(found.root).as_posix()
        if not path.is_file() or path.suffix == layout.PART:
            continue
        if name not in remade and not name.startswith("meta/episodes/"):
            _link(path, mending / name)
        readable = has_footer(path) if path.suffix == ".parquet" else readable_json(path) is not None
        if readable or path.suffix not in (".parquet", ".json"):
            used.add(path)
    return used


def _tasks_of_rows(found: Survey) -> list[str]:
    """The instructions by task index, from the episodes that still say theirs."""
    tasks: dict[int, str] = {}
    for episode in found.episodes:
        if episode.row is not None and episode.row["tasks"]:
            tasks[found.table(episode.path)["task_index"][episode.start].as_py()] = episode.row["tasks"][0]
    return [tasks.get(number, "") for number in range(max(tasks, default=-1) + 1)]


def _statistics_of(dataset: Dataset, features: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The columns with the statistics of one episode, made from its data."""
    names = [key for key, feature in features.items() if _is_vector(feature)]
    table = dataset.table(row["episode_index"], names)
    stats = {key: statistics.vector_stats(matrix(table[key], np.float64)) for key in names}
    for name, key in dataset.camera_keys.items():
        stats[key] = statistics.image_stats(dataset.frames(row["episode_index"], name))
    return {
        f"stats/{key}/{name}": value
        for key, entry in statistics.to_json(stats).items()
        for name, value in entry.items()
    }


def _is_vector(feature: dict[str, Any]) -> bool:
    return feature["dtype"] not in ("image", "video", "string") and len(feature["shape"]) == 1


def _stage_rows(mending: Path, rows: list[dict[str, Any]], *, together: bool) -> None:
    """Write meta/episodes: a file an episode, or one for all where LeRobot goes on writing."""
    for number, row in enumerate(rows):
        row |= {f"meta/episodes/{name}": at for name, at in layout.place(0 if together else number).items()}
    for group in [rows] if together else [[row] for row in rows]:
        if not group:
            continue
        names = list(dict.fromkeys(name for row in group for name in row))
        table = pa.table({name: _cells(name, [row.get(name) for row in group]) for name in names})
        place = {name: group[0][f"meta/episodes/{name}"] for name in ("chunk_index", "file_index")}
        layout.write_atomic(mending / layout.EPISODES_PATH.format(**place), layout.parquet_bytes(table))


def _cells(name: str, values: list[Any]) -> pa.Array:
    if not name.startswith("stats/"):
        return pa.array(values, EXTRA_COLUMNS.get(name))
    kind = pa.int64() if name.endswith("/count") else pa.float64()
    depth = next((np.ndim(value) for value in values if value is not None), 1)
    for _ in range(depth):
        kind = pa.list_(kind)
    return pa.array(values, kind)


def _unused(root: Path, used: set[Path]) -> list[str]:
    files = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*")) if path.is_file()]
    return [path.relative_to(root).as_posix() for path in files if path not in used]


def _take_place(root: Path) -> None:
    """Put the mended folders where the old ones are; every step can be done again after a kill."""
    mending = root / MENDING
    ready = json.loads((mending / READY).read_text())
    for name in ready["torn"]:
        if (root / name).is_file():
            (root / TORN / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).replace(_free(root / TORN / name))
    for folder in FOLDERS:
        if (mending / folder).is_dir():
            shutil.rmtree(root / folder, ignore_errors=True)
            (mending / folder).replace(root / folder)
        elif folder not in ready["folders"]:
            shutil.rmtree(root / folder, ignore_errors=True)
    shutil.rmtree(mending)


def _free(path: Path) -> Path:
    """``path``, or with a number behind it when an earlier repair put something there."""
    return next(
        free for n in itertools.count() if not (free := path.with_name(path.name + (f".{n}" if n else ""))).exists()
    )


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
