"""LeRobot v2.0 and v2.1: one parquet file and one mp4 per camera for every episode, the metadata in json lines.

meta/info.json            rate, features, and how many episodes there should be
meta/episodes.jsonl       episode_index, tasks, length
meta/tasks.jsonl          task_index, task
data/chunk-000/episode_000000.parquet
videos/chunk-000/<key>/episode_000000.mp4

The files are found by name and not through the path templates of info.json, which are wrong in real recordings.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data import video
from vla.data.importers.source import Size, Source, finite, sized
from vla.data.lerobot_format import ACTION, INFO, STATE, DatasetSpec, stored_as
from vla.data.lerobot_reader import matrix
from vla.data.spec_guess import guess_spec
from vla.errors import UnderstudyError
from vla.types import CameraSpec, Episode, Task

NUMBER = re.compile(r"episode_(\d+)$")
NANOSECONDS = 1_000_000_000
SUCCESS = "next.success"


def open_lerobot_v2(root: Path, *, image_size: int | None) -> Source:
    """The recording at ``root`` as a `Source`; raises `UnderstudyError` when it cannot be one."""
    info = read_json(root / INFO)
    files = numbered(root, "data/**/episode_*.parquet")
    if not files:
        raise UnderstudyError(f"{root} has no episode: there is no data/*/episode_*.parquet")
    spec, keys = guess_spec(info, {ACTION: action_range(files)}, source=root.name)
    videos = {
        name: numbered(root, f"videos/**/{glob_escaped(key)}/episode_*.mp4")
        for name, key in keys.items()
        if info["features"][key]["dtype"] == "video"
    }
    absent = [name for name, found in videos.items() if not found]
    cameras = tuple(
        replace_size(camera, videos.get(camera.name)) for camera in spec.cameras if camera.name not in absent
    )
    recording = Recording(root, spec, keys, files, {name: found for name, found in videos.items() if found})
    recording.cameras = sized(cameras, image_size)
    return Source(
        format=f"LeRobot {info['codebase_version']}",
        name=root.name,
        spec=stored_as(replace(spec, cameras=recording.cameras)),
        numbers=tuple(files),
        promised=int(info.get("total_episodes", len(files))),
        read=recording.episode,
        label=recording.label,
        warnings=tuple(
            f"{root.name} declares a camera {name!r} ({keys[name]}) but holds no video of it; it is left out"
            for name in absent
        ),
    )


class Recording:
    """The files of one recording, and how one episode is read from them."""

    cameras: tuple[CameraSpec, ...] = ()

    def __init__(
        self,
        root: Path,
        spec: DatasetSpec,
        keys: Mapping[str, str],
        files: Mapping[int, Path],
        videos: Mapping[str, Mapping[int, Path]],
    ) -> None:
        self.root, self.spec, self.keys, self.files, self.videos = root, spec, keys, files, videos
        self._tasks = {row["task_index"]: row["task"] for row in read_lines(root / "meta/tasks.jsonl")}
        self._told = {row["episode_index"]: row.get("tasks") for row in read_lines(root / "meta/episodes.jsonl")}

    def label(self, number: int) -> str:
        """The episode's name among all recordings."""
        return f"{self.root.name}/episode_{number:06d}"

    def episode(self, number: int) -> Episode:
        """One episode; its images are decoded when they are asked for."""
        table = read_table(self.files[number])
        columns = table.column_names
        actions = finite(matrix(table[ACTION]), "the actions")
        proprio = np.zeros((len(actions), 0), np.float32)
        if self.spec.proprio_names:
            proprio = finite(matrix(table[STATE]), "the states")
        return Episode(
            images={camera.name: self._images(camera, number, table) for camera in self.cameras},
            proprio=proprio,
            actions=actions,
            task=Task(self._instruction(number, table)),
            fps=self.spec.fps,
            embodiment=self.spec.embodiment,
            success=bool(table[SUCCESS][-1].as_py()) if SUCCESS in columns and len(actions) else None,
            source=self.label(number),
            stamps_ns=self._stamps(table),
        )

    def _stamps(self, table: pa.Table) -> np.ndarray:
        seconds = np.arange(table.num_rows) / self.spec.fps
        if "timestamp" in table.column_names:
            seconds = matrix(table["timestamp"], np.float64)[:, 0]
        return np.round(finite_stamps(seconds) * NANOSECONDS).astype(np.int64)

    def _instruction(self, number: int, table: pa.Table) -> str:
        told = self._told.get(number)
        if told:
            return told[0] if isinstance(told, list) else str(told)
        if "task_index" in table.column_names and table.num_rows:
            return self._tasks.get(int(matrix(table["task_index"], np.float64)[0, 0]), "")
        return ""

    def _images(self, camera: CameraSpec, number: int, table: pa.Table) -> Callable[[], np.ndarray]:
        size = (camera.height, camera.width)
        if camera.name not in self.videos:
            return partial(self._stored_images, table[self.keys[camera.name]], number, size)
        path = self.videos[camera.name].get(number)
        if path is None:
            raise UnderstudyError(f"camera {camera.name!r} has no video episode_{number:06d}.mp4 under {self.root}")
        return partial(video.decode_span, path, start_s=0.0, count=table.num_rows, fps=self.spec.fps, size=size)

    def _stored_images(self, column: pa.ChunkedArray, number: int, size: Size) -> np.ndarray:
        frames = []
        for frame, cell in enumerate(column.to_pylist()):
            data = cell["bytes"] if cell["bytes"] is not None else (self.root / cell["path"]).read_bytes()
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise UnderstudyError(f"the image of frame {frame} in {self.files[number]} cannot be decoded")
            frames.append(video.resized(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), size))
        return np.stack(frames)


def numbered(root: Path, pattern: str) -> dict[int, Path]:
    """Episode number → file, ascending, for the files whose names end in ``episode_<number>``."""
    found = {int(match[1]): path for path in root.glob(pattern) if (match := NUMBER.search(path.stem))}
    return dict(sorted(found.items()))


def glob_escaped(name: str) -> str:
    """A feature's name as a pattern that matches only itself."""
    return re.sub(r"([\[\]*?])", r"[\1]", name)


def replace_size(camera: CameraSpec, videos: Mapping[int, Path] | None) -> CameraSpec:
    """The camera with the size that its first video has, whatever the metadata says."""
    if not videos:
        return camera
    height, width = video.frame_size(next(iter(videos.values())))
    return replace(camera, height=height, width=width)


def action_range(files: Mapping[int, Path]) -> dict[str, list[float]]:
    """Smallest and largest finite action over all episodes, per entry: bounds that the recording really keeps."""
    lows, highs = [], []
    for path in files.values():
        actions = matrix(read_table(path, [ACTION])[ACTION])
        actions = actions[np.isfinite(actions).all(1)]
        if len(actions):
            lows.append(actions.min(0))
            highs.append(actions.max(0))
    if not lows:
        return {}
    return {"min": np.min(lows, 0).tolist(), "max": np.max(highs, 0).tolist()}


def finite_stamps(seconds: np.ndarray) -> np.ndarray:
    """``seconds`` [T], or `UnderstudyError` when one of them is no number."""
    if not np.isfinite(seconds).all():
        raise UnderstudyError(f"the timestamp of frame {int(np.argmin(np.isfinite(seconds)))} is no number")
    return seconds


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A parquet file; raises `UnderstudyError` naming it when it is damaged or lacks a column."""
    try:
        with pq.ParquetFile(path) as file:
            missing = set(columns or [ACTION]) - set(file.schema_arrow.names)
            if missing:
                raise UnderstudyError(f"{path} has no column {', '.join(sorted(missing))}")
            return file.read(columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise UnderstudyError(f"{path} is damaged and cannot be read ({error}); fetch it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """A json file; raises `UnderstudyError` naming it when it is damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UnderstudyError(f"{path} cannot be read ({error}); fetch it again") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A file of json lines; empty when it is not there."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UnderstudyError(f"{path} cannot be read ({error}); fetch it again") from error
