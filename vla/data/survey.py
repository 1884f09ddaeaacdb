"""What of a torn dataset is still whole: every file is read, nothing is believed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data import lerobot_format as layout
from vla.data import video
from vla.data.lerobot_format import DatasetSpec
from vla.data.lerobot_reader import has_footer, read_tasks
from vla.data.parquet_salvage import salvage
from vla.errors import UnderstudyError

INDEX_COLUMNS = ["episode_index", "frame_index"]


@dataclass
class Found:
    """One whole episode.

    ``start`` and ``length`` are rows within the data file ``path``; ``row`` is its row of meta/episodes, or ``None``;
    ``videos``: feature key → (file, first second in it).
    """

    index: int
    path: Path
    start: int
    length: int
    row: dict[str, Any] | None
    videos: dict[str, tuple[Path, float]] = field(default_factory=dict)


@dataclass
class Survey:
    """All that can be kept of a dataset, and why the rest cannot.

    ``info``: the content for meta/info.json but for the counts; ``spec``: ours, if Understudy recorded it; ``tasks``:
    the instructions by task index; ``salvaged``: the data files without a footer whose rows can still be read;
    ``notes``: a sentence for every loss.
    """

    root: Path
    info: dict[str, Any]
    spec: DatasetSpec | None
    tasks: list[str] | None
    episodes: list[Found] = field(default_factory=list)
    salvaged: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def table(self, path: Path) -> pa.Table | None:
        """All rows of a data file, or ``None`` when they cannot be read."""
        try:
            return pq.read_table(path, partitioning=None)
        except (OSError, pa.ArrowException):
            return salvage(path, self.info["features"])

    @property
    def video_keys(self) -> list[str]:
        """The features that are stored as video."""
        return [key for key, feature in self.info["features"].items() if feature["dtype"] == "video"]


def survey(root: Path) -> Survey:
    """Read everything under ``root``; raises `UnderstudyError` when nothing says what the dataset was."""
    found = Survey(root, {"features": {}}, _our_spec(root), _tasks(root))
    files = sorted((root / "data").glob("*/*.parquet"))
    info = readable_json(root / layout.INFO)
    if info is not None and {"features", "fps"} <= info.keys():
        found.info = info
    else:
        found.notes.append("meta/info.json was missing or cut off: it is made again")
        if found.spec is not None:
            found.info = layout.info_of(found.spec, episodes=0, frames=0, tasks=0)
        else:
            found.info = _guessed_info(found, files)
    rows = _read_rows(found)
    named: set[int] = set()
    for path in files:
        named |= _read_data(found, path, rows)
    for index in sorted(set(rows) - named):
        found.notes.append(f"episode {index} is lost: its data is not there")
    found.episodes.sort(key=lambda episode: episode.index)
    _place_videos(found)
    return found


def _our_spec(root: Path) -> DatasetSpec | None:
    content = readable_json(root / layout.OURS)
    return None if content is None else DatasetSpec.from_dict(content["spec"])


def readable_json(path: Path) -> dict[str, Any] | None:
    """A json file's content, or ``None`` when it is missing, cut off or no object."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _tasks(root: Path) -> list[str] | None:
    try:
        return read_tasks(root) or None
    except (OSError, pa.ArrowException):
        return None


def _read_rows(found: Survey) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for path in sorted((found.root / "meta/episodes").glob("*/*.parquet")):
        try:
            read = pq.read_table(path, partitioning=None).to_pylist()
        except (OSError, pa.ArrowException):
            found.notes.append(f"{path.relative_to(found.root)} cannot be read: made again from the data")
            continue
        rows |= {row["episode_index"]: row for row in read}
    return rows


def _read_data(found: Survey, path: Path, rows: Mapping[int, dict[str, Any]]) -> set[int]:
    """Add the whole episodes of one data file; answers which episodes it tells of, whole or not."""
    name = path.relative_to(found.root)
    table = found.table(path)
    if table is None:
        found.notes.append(f"{name} cannot be read")
        return set()
    if not has_footer(path):
        found.notes.append(f"{name} was never finished: the {table.num_rows} whole frames in it were read out of it")
        found.salvaged.add(path)
    indices, frames = (table[column].to_numpy() for column in INDEX_COLUMNS)
    known = {episode.index for episode in found.episodes}
    starts = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist()] if len(indices) else []
    for start, stop in zip(starts, [*starts[1:], len(indices)], strict=True):
        index, length = int(indices[start]), stop - start
        row = rows.get(index)
        if index in known:
            found.notes.append(f"a second copy of episode {index} in {name} is left out")
        elif not np.array_equal(frames[start:stop], np.arange(length)):
            found.notes.append(f"episode {index} is not whole: frames of it are missing")
        elif row is not None and row["length"] != length:
            found.notes.append(f"episode {index} is not whole: {length} of its {row['length']} frames are there")
        else:
            found.episodes.append(Found(index, path, start, length, row))
    return set(indices.tolist())


def _place_videos(found: Survey) -> None:
    """Find each episode's part of each video; leave out the episodes that a video does not reach."""
    fps = float(found.info["fps"])
    for key in found.video_keys:
        files = _whole_videos(found, key)
        kept: list[Found] = []
        after: tuple[Path | None, int] = (next(iter(files), None), 0)
        for episode in found.episodes:
            path, frame = _told_place(found, episode, key) or _next_place(files, *after, episode.length)
            after = (path, frame + episode.length)
            if path is not None and files.get(path, 0) >= frame + episode.length:
                episode.videos[key] = (path, frame / fps)
                kept.append(episode)
            else:
                found.notes.append(f"episode {episode.index} is lost: its video of {key} is missing or too short")
        found.episodes = kept


def _whole_videos(found: Survey, key: str) -> dict[Path, int]:
    """Video file → number of frames, for those that can be read."""
    files: dict[Path, int] = {}
    for path in sorted((found.root / "videos" / key).glob("*/*.mp4")):
        try:
            files[path] = video.probe(path)[0]
        except UnderstudyError:
            found.notes.append(f"{path.relative_to(found.root)} cannot be read")
    return files


def _told_place(found: Survey, episode: Found, key: str) -> tuple[Path, int] | None:
    """The file and first frame of an episode's video, where they are written down or a rule of ours."""
    template = found.info.get("video_path") or layout.VIDEO_PATH
    row = episode.row
    if row is not None and row.get(f"videos/{key}/file_index") is not None:
        chunk, file = row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"]
        first = round(row[f"videos/{key}/from_timestamp"] * float(found.info["fps"]))
        return found.root / template.format(video_key=key, chunk_index=chunk, file_index=file), first
    if found.spec is not None:
        return found.root / template.format(video_key=key, **layout.place(episode.index)), 0
    return None


def _next_place(files: dict[Path, int], path: Path | None, frame: int, length: int) -> tuple[Path | None, int]:
    """Where LeRobot's writer put the next episode: behind the last one, or at the start of the next file."""
    if path is None or files.get(path, 0) >= frame + length:
        return path, frame
    later = [other for other in files if other > path]
    return (later[0], 0) if later else (path, frame)


def _guessed_info(found: Survey, files: list[Path]) -> dict[str, Any]:
    """The features as the data files and the videos show them."""
    table = next((table for path in files if (table := found.table(path)) is not None), None)
    if table is None:
        raise UnderstudyError(f"nothing can be saved at {found.root}: no info.json and no data file can be read")
    features = {name: _feature(table[name]) for name in table.column_names}
    for folder in sorted((found.root / "videos").glob("*")):
        for path in sorted(folder.glob("*/*.mp4"))[:1]:
            features[folder.name] = {"dtype": "video", "shape": [*video.frame_size(path), 3], "names": None}
    steps = np.diff(table["timestamp"].to_numpy().astype(np.float64))
    fps = round(1 / float(np.median(steps[steps > 0])), 3) if (steps > 0).any() else 1.0
    has_video = any(feature["dtype"] == "video" for feature in features.values())
    return {
        "codebase_version": layout.CODEBASE_VERSION,
        "fps": layout.plain_number(fps),
        "features": features,
        "chunks_size": layout.FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": layout.DATA_PATH,
        "video_path": layout.VIDEO_PATH if has_video else None,
        "robot_type": None,
    }


def _feature(column: pa.ChunkedArray) -> dict[str, Any]:
    kind = column.type
    if pa.types.is_struct(kind):
        data = column[0]["bytes"].as_py() if len(column) else b""
        image = cv2.imdecode(np.frombuffer(data or b"\0", np.uint8), cv2.IMREAD_COLOR)
        shape = [0, 0, 3] if image is None else list(image.shape)
        return {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]}
    if pa.types.is_nested(kind):
        return {"dtype": _dtype(kind.value_type), "shape": [len(column[0]) if len(column) else 0], "names": None}
    return {"dtype": _dtype(kind), "shape": [1], "names": None}


def _dtype(kind: pa.DataType) -> str:
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))
