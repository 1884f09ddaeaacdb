"""Writing a LeRobotDataset v3.0, one durable episode at a time."""

import errno
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pyarrow as pa

from vla.data import episode_statistics as statistics
from vla.data import lerobot_format as layout
from vla.data.lerobot_format import DatasetSpec
from vla.data.lerobot_reader import Dataset, open_dataset, read_episode_rows, read_tasks
from vla.data.video import encode_mp4
from vla.errors import UnderstudyError
from vla.types import CameraSpec, Episode

PNG_LEVEL = 1
EXTRA_COLUMNS = {"success": pa.bool_(), "source": pa.string(), "seed": pa.int64(), "initial_state": pa.int64()}
"""Our columns of ``meta/episodes``; LeRobot carries them along unread."""

Files = list[tuple[Path, bytes | pa.Buffer]]


class EpisodeWriter:
    """Records episodes into ``root``; a context manager.

    When `save` returns, the episode is on the disk and stays there whatever happens to the process. With ``resume``
    an existing dataset of the same spec is continued; without it ``root`` must be empty or absent.
    """

    def __init__(self, root: Path, spec: DatasetSpec, *, resume: bool = False) -> None:
        self.root, self.spec = Path(root), spec
        self.num_episodes = 0
        self._num_frames = 0
        self._tasks: list[str] = []
        self._stats: dict[str, statistics.Stats] = {}
        self._features = layout.features_of(spec)
        occupied = self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir()))
        if occupied and not resume:
            raise UnderstudyError(
                f"{self.root} exists and is not empty; give a new folder, or resume=True to go on in it"
            )
        if occupied:
            self._continue(open_dataset(self.root))
        else:
            self._write([], self._head_files(0, 0, [], {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is pending between two episodes; here so that a recorder can be closed like a file."""

    def save(self, episode: Episode) -> int:
        """Write one episode durably and return its index.

        Raises `UnderstudyError` when it does not fit the spec, holds NaN or infinity (naming episode and frame), or
        when the disk is full; the episodes before it are safe and the writer can go on.
        """
        index = self.num_episodes
        check_episode(episode, self.spec, index)
        instruction = episode.task.instruction
        tasks = self._tasks if instruction in self._tasks else [*self._tasks, instruction]
        columns = self._columns(episode, tasks.index(instruction))
        stats = {key: statistics.vector_stats(values) for key, values in columns.items()}
        files: Files = []
        for camera in self.spec.cameras:
            frames = decoded_frames(episode, camera, index)
            key = layout.camera_key(camera.name)
            stats[key] = statistics.image_stats(frames)
            if self.spec.storage == "video":
                path = layout.VIDEO_PATH.format(video_key=key, **layout.place(index))
                files.append((self.root / path, encode_mp4(frames, self.spec.fps)))
            else:
                columns[key] = encode_png(frames)
        files.append((self.root / layout.DATA_PATH.format(**layout.place(index)), self._data_file(columns)))
        files.append((self._episodes_path(index), self._episode_file(episode, stats)))
        frames_after = self._num_frames + episode.length
        total = statistics.aggregate([self._stats, stats])
        heads = self._head_files(index + 1, frames_after, tasks, total)
        self._write(files, heads)
        self.num_episodes, self._num_frames, self._tasks, self._stats = index + 1, frames_after, tasks, total
        return index

    def _columns(self, episode: Episode, task_index: int) -> dict[str, Any]:
        """Feature key → values of all frames, in the order of the features; images are not here yet."""
        steps = np.arange(episode.length)
        columns = {
            layout.STATE: episode.proprio,
            layout.ACTION: episode.actions,
            **episode.extras,
            layout.STAMP: episode.stamps_ns,
            "timestamp": (steps / self.spec.fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(episode.length, self.num_episodes),
            "index": steps + self._num_frames,
            "task_index": np.full(episode.length, task_index),
        }
        return {key: values for key, values in columns.items() if key in self._features}

    def _data_file(self, columns: dict[str, Any]) -> pa.Buffer:
        keys = [key for key in self._features if key in columns]
        arrays = [layout.arrow_column(self._features[key], columns[key]) for key in keys]
        table = pa.table(dict(zip(keys, arrays, strict=True)))
        return layout.parquet_bytes(table.replace_schema_metadata(layout.huggingface_metadata(self._features)))

    def _episodes_path(self, index: int) -> Path:
        return self.root / layout.EPISODES_PATH.format(**layout.place(index))

    def _episode_file(self, episode: Episode, stats: dict[str, statistics.Stats]) -> pa.Buffer:
        """One row of ``meta/episodes``."""
        index, length = self.num_episodes, episode.length
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [episode.task.instruction],
            "length": length,
            "dataset_from_index": self._num_frames,
            "dataset_to_index": self._num_frames + length,
            "success": episode.success,
            "source": episode.source,
            "seed": episode.seed,
            "initial_state": episode.initial_state,
        }
        prefixes = ["data", "meta/episodes"]
        if self.spec.storage == "video":
            for camera in self.spec.cameras:
                prefix = f"videos/{layout.camera_key(camera.name)}"
                prefixes.append(prefix)
                row |= {f"{prefix}/from_timestamp": 0.0, f"{prefix}/to_timestamp": length / self.spec.fps}
        row |= {f"{prefix}/{name}": at for prefix in prefixes for name, at in layout.place(index).items()}
        cells = {name: pa.array([value], EXTRA_COLUMNS.get(name)) for name, value in row.items()}
        for key, entry in statistics.to_json(stats).items():
            cells |= {f"stats/{key}/{name}": pa.array([value]) for name, value in entry.items()}
        return layout.parquet_bytes(pa.table(cells))

    def _head_files(self, episodes: int, frames: int, tasks: list[str], stats: dict[str, statistics.Stats]) -> Files:
        """The files that are replaced with every episode: of constant size, ``info.json`` last."""
        meta: Files = []
        if episodes == 0:
            meta.append((self.root / layout.OURS, layout.json_bytes({"format": 1, "spec": self.spec.to_dict()})))
        if tasks != self._tasks:
            meta.append((self.root / layout.TASKS, layout.parquet_bytes(layout.tasks_table(tasks))))
        if episodes:
            meta.append((self.root / layout.STATS, layout.json_bytes(statistics.to_json(stats), indent=None)))
        info = layout.info_of(self.spec, episodes=episodes, frames=frames, tasks=len(tasks))
        return [*meta, (self.root / layout.INFO, layout.json_bytes(info))]

    def _write(self, new: Files, replaced: Files) -> None:
        """Write the files in order; when one fails, take back the new ones, so that no half episode is left."""
        try:
            # A row of meta/episodes makes an episode exist, so its task has to be there before it.
            tasks = [file for file in replaced if file[0].suffix == ".parquet"]
            others = [file for file in replaced if file[0].suffix != ".parquet"]
            for path, content in [*new[:-1], *tasks, *new[-1:], *others]:
                layout.write_atomic(path, content)
        except OSError as error:
            self._take_back([path for path, _ in new])
            raise UnderstudyError(self._failure(error)) from error

    def _take_back(self, new: list[Path]) -> None:
        """Undo a save that failed half-way; what cannot be undone on a sick disk is left to ``vla data repair``."""
        with suppress(OSError):
            for path in reversed(new):
                path.unlink(missing_ok=True)
            for path, content in self._head_files(self.num_episodes, self._num_frames, self._tasks, self._stats):
                layout.write_atomic(path, content)

    def _failure(self, error: OSError) -> str:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"cannot write ({error})"
        return (
            f"{why}: episode {self.num_episodes} was not saved under {self.root}, the {self.num_episodes} before it "
            "are safe; make room and record it again"
        )

    def _continue(self, dataset: Dataset) -> None:
        """Take up the counters of a dataset that this class wrote."""
        if not (self.root / layout.OURS).is_file():
            raise UnderstudyError(
                f"{self.root} was not recorded by Understudy, so it is not continued; import it first"
            )
        theirs, ours = dataset.spec.to_dict(), self.spec.to_dict()
        differing = [f"{key} ({theirs[key]!r} there, {ours[key]!r} here)" for key in ours if theirs[key] != ours[key]]
        if differing:
            raise UnderstudyError(f"{self.root} holds other data: {'; '.join(differing)}; record into a new folder")
        self.num_episodes, self._num_frames = len(dataset.episodes), dataset.num_frames
        self._tasks = read_tasks(self.root)
        self._stats = current_statistics(self.root, self._num_frames)


def current_statistics(root: Path, num_frames: int) -> dict[str, statistics.Stats]:
    """The aggregated statistics of a dataset; made again from the episodes' when a kill left ``stats.json`` behind."""
    path = root / layout.STATS
    if path.is_file():
        stats = statistics.from_json(json.loads(path.read_text()))
        if "index" in stats and stats["index"]["count"][0] == num_frames:
            return stats
    return statistics.aggregate(episode_statistics(row) for row in read_episode_rows(root, statistics=True))


def episode_statistics(row: dict[str, Any]) -> dict[str, statistics.Stats]:
    """The statistics in a row of ``meta/episodes``, by feature."""
    nested: dict[str, dict[str, Any]] = {}
    for column, value in row.items():
        if column.startswith("stats/") and value is not None:
            key, _, name = column.removeprefix("stats/").rpartition("/")
            nested.setdefault(key, {})[name] = value
    return statistics.from_json(nested)


def encode_png(frames: np.ndarray) -> list[bytes]:
    """[T, H, W, 3] uint8 as PNG files, lightly compressed: time matters more than size while recording."""
    encoded = []
    for number, frame in enumerate(frames):
        done, data = cv2.imencode(".png", frame[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
        assert done, f"frame {number} could not be encoded"
        encoded.append(data.tobytes())
    return encoded


def check_episode(episode: Episode, spec: DatasetSpec, index: int) -> None:
    """Raise `UnderstudyError` unless the episode's numbers fit the spec and are finite."""
    length = episode.length
    if length == 0:
        raise UnderstudyError(f"episode {index} is empty; an episode needs at least one frame")
    shapes = {
        "proprio": (episode.proprio, (length, len(spec.proprio_names)), np.float32),
        "actions": (episode.actions, (length, spec.action.dim), np.float32),
        "stamps_ns": (episode.stamps_ns, (length,), np.int64),
        **{name: (episode.extras.get(name, np.empty(0)), (length,), np.float32) for name in spec.extras},
    }
    for name, (array, shape, dtype) in shapes.items():
        if array.shape != shape or array.dtype != dtype:
            raise UnderstudyError(
                f"{name} of episode {index} must be {np.dtype(dtype).name} {list(shape)}, "
                f"got {array.dtype.name} {list(array.shape)}"
            )
        finite = np.isfinite(array).reshape(length, -1).all(1)
        if not finite.all():
            frame = int(np.argmin(finite))
            raise UnderstudyError(f"{name} of episode {index}, frame {frame} holds NaN or infinity: {array[frame]}")
    for name, given, expected in (("fps", episode.fps, spec.fps), ("embodiment", episode.embodiment, spec.embodiment)):
        if given != expected:
            raise UnderstudyError(f"{name} of episode {index} is {given!r}, this dataset's is {expected!r}")
    cameras = {camera.name for camera in spec.cameras}
    if set(episode.images) != cameras:
        raise UnderstudyError(
            f"episode {index} has the cameras {sorted(episode.images)}, this dataset's are {sorted(cameras)}"
        )


def decoded_frames(episode: Episode, camera: CameraSpec, index: int) -> np.ndarray:
    """The frames of one camera [T, H, W, 3] uint8, or `UnderstudyError` when they do not fit."""
    frames = episode.images[camera.name]()
    shape = (episode.length, camera.height, camera.width, 3)
    if frames.shape != shape or frames.dtype != np.uint8:
        raise UnderstudyError(
            f"camera {camera.name!r} of episode {index} must be uint8 {list(shape)}, "
            f"got {frames.dtype.name} {list(frames.shape)}"
        )
    return frames
