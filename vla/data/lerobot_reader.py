"""Reading a LeRobotDataset v3.0 from disk, ours or LeRobot's, without LeRobot and never from the network."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data import lerobot_format as layout
from vla.data import video
from vla.data.lerobot_format import DatasetSpec
from vla.data.spec_guess import guess_spec
from vla.errors import UnderstudyError, unknown
from vla.types import Episode, Task

PARQUET_MAGIC = b"PAR1"
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class EpisodeInfo:
    """One episode without its data; ``success``, ``seed`` and ``initial_state`` are ``None`` when not known."""

    index: int
    length: int
    instruction: str
    success: bool | None = None
    source: str = ""
    seed: int | None = None
    initial_state: int | None = None


class Dataset:
    """An opened dataset: cheap to hold and to pickle; every call reads what it needs. Made by `open_dataset`.

    ``spec``: what all episodes share; ``episodes``: one `EpisodeInfo` per episode, by index; ``num_frames``: of all;
    ``camera_keys``: camera name → the feature that its images are stored under.
    """

    def __init__(self, root: Path, info: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.root = root
        self.num_frames = sum(row["length"] for row in rows)
        self._features = info["features"]
        self._paths = {"data": info.get("data_path", layout.DATA_PATH), "video": info.get("video_path")}
        self._rows = rows
        self._first_row_of_file = _first_rows(rows)
        self.spec, self.camera_keys = self._read_spec(info)
        source = root.name
        self.episodes = tuple(
            EpisodeInfo(
                index=row["episode_index"],
                length=row["length"],
                instruction=_instruction(row["tasks"]),
                success=row.get("success"),
                source=row.get("source") or source,
                seed=row.get("seed"),
                initial_state=row.get("initial_state"),
            )
            for row in rows
        )

    def _read_spec(self, info: dict[str, Any]) -> tuple[DatasetSpec, dict[str, str]]:
        ours = self.root / layout.OURS
        if ours.is_file():
            spec = DatasetSpec.from_dict(_json(ours)["spec"])
            keys = {camera.name: layout.camera_key(camera.name) for camera in spec.cameras}
        else:
            spec, keys = guess_spec(info, self._stats(), source=self.root.name)
        needed = [*keys.values(), layout.ACTION, *([layout.STATE] if spec.proprio_names else [])]
        missing = [key for key in needed if key not in self._features]
        if missing:
            raise UnderstudyError(
                f"the dataset at {self.root} lacks {', '.join(missing)}; it has {', '.join(sorted(self._features))}"
            )
        return spec, keys

    def _stats(self) -> dict[str, Any]:
        path = self.root / layout.STATS
        return _json(path) if path.is_file() else {}

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        """One episode's numbers: ``proprio`` [T, P] and ``actions`` [T, A] float32, ``stamps_ns`` [T] int64.

        And each of the spec's ``extras`` by its name, [T] float32.
        """
        extras = self.spec.extras
        wanted = [layout.STATE, layout.ACTION, layout.STAMP, "timestamp", "episode_index", *extras]
        table = self.table(index, [key for key in wanted if key in self._features])
        if not np.all(table["episode_index"].to_numpy() == index):
            raise self._torn(f"{self._data_path(self._row(index))} holds other episodes than meta/episodes says")
        length = table.num_rows
        state = matrix(table[layout.STATE]) if self.spec.proprio_names else np.zeros((length, 0), np.float32)
        if layout.STAMP in table.column_names:
            stamps = table[layout.STAMP].to_numpy().reshape(-1).astype(np.int64)
        else:
            stamps = np.round(table["timestamp"].to_numpy().astype(np.float64) * NANOSECONDS).astype(np.int64)
        found = {name: table[name].to_numpy().reshape(-1).astype(np.float32) for name in extras}
        return {"proprio": state, "actions": matrix(table[layout.ACTION]), "stamps_ns": stamps, **found}

    def frames(self, index: int, camera: str) -> np.ndarray:
        """All images of one camera in one episode, decoded: [T, H, W, 3] uint8 RGB."""
        if camera not in self.camera_keys:
            raise unknown("camera", camera, self.camera_keys)
        key, row = self.camera_keys[camera], self._row(index)
        if self._features[key]["dtype"] == "video":
            return video.decode_span(
                self.root / self._video_path(row, key),
                start_s=row.get(f"videos/{key}/from_timestamp", 0.0),
                count=row["length"],
                fps=self.spec.fps,
            )
        cells = self.table(index, [key])[key].to_pylist()
        return np.stack([self._decode(cell, index, number) for number, cell in enumerate(cells)])

    def episode(self, index: int) -> Episode:
        """One episode; its images are decoded when they are asked for."""
        info, arrays = self.episodes[self._checked(index)], self.arrays(index)
        return Episode(
            images={camera.name: partial(self.frames, index, camera.name) for camera in self.spec.cameras},
            proprio=arrays["proprio"],
            actions=arrays["actions"],
            task=Task(info.instruction),
            fps=self.spec.fps,
            embodiment=self.spec.embodiment,
            success=info.success,
            source=info.source,
            stamps_ns=arrays["stamps_ns"],
            seed=info.seed,
            initial_state=info.initial_state,
            extras={name: arrays[name] for name in self.spec.extras},
        )

    def hash(self) -> str:
        """A name for the content: equal for copies, different after any change; reads only names, sizes and ``meta/``.

        The metadata holds statistics of every episode, so changed numbers change it even when no size does.
        """
        digest = hashlib.sha256()
        for folder in ("meta", "data", "videos"):
            for path in sorted((self.root / folder).rglob("*")):
                if path.is_file() and path.suffix != layout.PART:
                    digest.update(f"{path.relative_to(self.root).as_posix()}\0{path.stat().st_size}\0".encode())
                    if folder == "meta":
                        digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self._rows):
            raise UnderstudyError(
                f"there is no episode {index} in {self.root}; it has {len(self._rows)}, counted from 0"
            )
        return index

    def _row(self, index: int) -> dict[str, Any]:
        return self._rows[self._checked(index)]

    def _data_path(self, row: dict[str, Any]) -> str:
        return self._paths["data"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])

    def _video_path(self, row: dict[str, Any], key: str) -> str:
        chunk, file = row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"]
        return self._paths["video"].format(video_key=key, chunk_index=chunk, file_index=file)

    def files(self, index: int) -> list[Path]:
        """The files that hold an episode's data and videos."""
        row = self._row(index)
        videos = [key for key in self.camera_keys.values() if self._features[key]["dtype"] == "video"]
        return [self.root / self._data_path(row), *(self.root / self._video_path(row, key) for key in videos)]

    def table(self, index: int, columns: list[str]) -> pa.Table:
        """These columns of one episode as they are stored; only the row groups that hold it are read."""
        row = self._row(index)
        path = self.root / self._data_path(row)
        first = row["dataset_from_index"] - self._first_row_of_file[_file_of(row)]
        try:
            with pq.ParquetFile(path) as file:
                groups, offset = _groups(file.metadata, first, first + row["length"])
                table = file.read_row_groups(groups, columns=columns).slice(offset, row["length"])
        except (OSError, pa.ArrowException) as error:
            raise self._torn(f"{path} cannot be read ({error})") from error
        if table.num_rows != row["length"]:
            raise self._torn(f"{path} ends before episode {index} does")
        return table

    def _decode(self, cell: dict[str, Any], index: int, frame: int) -> np.ndarray:
        data = cell["bytes"] if cell["bytes"] is not None else (self.root / cell["path"]).read_bytes()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise self._torn(f"the image of frame {frame} of episode {index} cannot be decoded")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _torn(self, what: str) -> UnderstudyError:
        return torn(self.root, what)


def open_dataset(root: str | Path) -> Dataset:
    """Open the dataset in the folder ``root``; the network is never asked.

    Raises `UnderstudyError` for a folder that is not there, is no dataset, is of an older format, is torn, or lacks
    the actions.
    """
    root = Path(root)
    if not root.is_dir():
        raise UnderstudyError(f"there is no folder {root}; give the path of a dataset (nothing is ever downloaded)")
    info_path = root / layout.INFO
    if not info_path.is_file():
        if (root / "meta").is_dir():
            raise torn(root, "meta/info.json is missing")
        raise UnderstudyError(f"{root} is not a dataset: it has no {layout.INFO}")
    info = _json(info_path)
    version = str(info.get("codebase_version", ""))
    if not version.startswith("v3"):
        raise UnderstudyError(
            f"{root} is in LeRobot's format {version or 'of no known version'}, not v3.0; "
            f"run: vla data import {root} NEW_FOLDER"
        )
    rows = read_episode_rows(root)
    _check_rows(root, info, rows)
    dataset = Dataset(root, info, rows)
    _check_files(dataset)
    return dataset


def torn(root: Path, what: str) -> UnderstudyError:
    """The error for a dataset that was cut off while it was written."""
    return UnderstudyError(f"the dataset at {root} is torn: {what}; run: vla data repair {root}")


def read_episode_rows(root: Path, *, statistics: bool = False) -> list[dict[str, Any]]:
    """The rows of ``meta/episodes`` by episode index, with or without the statistics' columns."""
    rows: list[dict[str, Any]] = []
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        try:
            with pq.ParquetFile(path, memory_map=True) as file:
                names = [
                    name for name in file.schema_arrow.names if statistics or not name.startswith(("stats/", "meta/"))
                ]
                rows += file.read(columns=names, use_threads=False).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise torn(root, f"{path.relative_to(root)} cannot be read ({error})") from error
    return sorted(rows, key=lambda row: row["episode_index"])


def read_tasks(root: Path) -> list[str]:
    """All instructions of a dataset, by task index."""
    path = root / layout.TASKS
    if not path.is_file():
        return []
    rows = pq.read_table(path).to_pylist()
    text = "task" if rows and "task" in rows[0] else "__index_level_0__"
    return [row[text] for row in sorted(rows, key=lambda row: row["task_index"])]


def _check_rows(root: Path, info: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    promised = info["total_episodes"]
    # One episode more than info.json counts: killed between the two writes, and the episode is whole.
    if not promised <= len(rows) <= promised + 1:
        raise torn(root, f"meta/info.json counts {promised} episodes, meta/episodes has {len(rows)}")
    start = 0
    for number, row in enumerate(rows):
        end = start + row["length"]
        if (row["episode_index"], row["dataset_from_index"], row["dataset_to_index"]) != (number, start, end):
            raise torn(root, f"meta/episodes does not go on at episode {number}, frame {start}")
        start = end


def _check_files(dataset: Dataset) -> None:
    for path in sorted({path for info in dataset.episodes for path in dataset.files(info.index)}):
        if not path.is_file():
            raise torn(dataset.root, f"{path.relative_to(dataset.root)} is missing")
        if path.suffix == ".parquet" and not has_footer(path):
            raise torn(dataset.root, f"{path.relative_to(dataset.root)} was never finished")


def has_footer(path: Path) -> bool:
    """Whether a parquet file was closed: its writer puts the magic number at the end last."""
    with path.open("rb") as file:
        if file.seek(0, 2) < 2 * len(PARQUET_MAGIC):
            return False
        file.seek(-len(PARQUET_MAGIC), 2)
        return file.read() == PARQUET_MAGIC


def _file_of(row: dict[str, Any]) -> tuple[int, int]:
    return row["data/chunk_index"], row["data/file_index"]


def _first_rows(rows: list[dict[str, Any]]) -> dict[tuple[int, int], int]:
    """Data file → index of its first frame in the dataset."""
    first: dict[tuple[int, int], int] = {}
    for row in rows:
        first.setdefault(_file_of(row), row["dataset_from_index"])
    return first


def _groups(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that overlap rows ``start``…``stop``, and where ``start`` is within them."""
    chosen, offset, begin = [], 0, 0
    for group in range(metadata.num_row_groups):
        end = begin + metadata.row_group(group).num_rows
        if begin < stop and start < end:
            if not chosen:
                offset = start - begin
            chosen.append(group)
        begin = end
    return chosen, offset


def matrix(column: pa.ChunkedArray, dtype: type = np.float32) -> np.ndarray:
    """[T, D] numbers from a list column (or from a scalar one: D = 1)."""
    flat = column.combine_chunks()
    values = flat.flatten() if pa.types.is_nested(flat.type) else flat
    rows = max(len(column), 1)
    if len(values) % rows:
        raise UnderstudyError(f"a column of vectors holds {len(values)} numbers in {rows} rows: not all are as long")
    with np.errstate(over="ignore"):
        numbers = values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    return numbers.reshape(len(column), len(values) // rows).copy()


def _instruction(tasks: list[str] | None) -> str:
    return tasks[0] if tasks else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UnderstudyError(f"{path} cannot be read ({error}); run: vla data repair {path.parent.parent}") from error
