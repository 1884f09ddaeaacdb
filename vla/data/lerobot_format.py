"""How a LeRobotDataset v3.0 lies on disk: names, features, and writes that a kill cannot tear.

meta/info.json                            format version, rate, features, counts
meta/understudy.json                      what LeRobot has no place for: `DatasetSpec`
meta/stats.json                           statistics over all episodes
meta/tasks.parquet                        instruction → task_index
meta/episodes/chunk-000/file-000.parquet  one row per episode: lengths, where its data lies, its statistics
data/chunk-000/file-000.parquet           one row per frame
videos/<key>/chunk-000/file-000.mp4       only with ``storage="video"``
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.types import ActionSpec, CameraSpec, action_spec_from_dict

Storage = Literal["image", "video"]

CODEBASE_VERSION = "v3.0"
INFO, STATS, TASKS, OURS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/understudy.json"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = 1000
LARGEST_IMAGE = 128
"""Up to this side [px] images are stored as PNG (exact, quick to read), above as video (small)."""
PART = ".part"
"""Suffix of a file that is still being written; no reader's pattern matches it."""

STATE, ACTION, STAMP, IMAGES = "observation.state", "action", "observation.capture_time_ns", "observation.images."
INDEX_FEATURES = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
"""The columns that LeRobot itself adds to every dataset."""


QUALITY = "quality"
"""Name of the extra column, 0…1, that says how far to trust a row whose action was not recorded."""


@dataclass(frozen=True)
class DatasetSpec:
    """What all episodes of a dataset share.

    ``fps``: the nominal rate [Hz]; ``fingerprint``: `SuiteSpec.fingerprint` for simulated data, provenance for the
    rest; ``storage``: PNG images inside the parquet files (exact, quick to read) or mp4 (small); ``extras``: names of
    further columns, one float32 for each step.
    """

    fps: float
    cameras: tuple[CameraSpec, ...]
    proprio_names: tuple[str, ...]
    action: ActionSpec
    embodiment: str
    fingerprint: str = ""
    storage: Storage = "image"
    extras: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` turns them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "DatasetSpec":
        """The inverse of `to_dict`."""
        return cls(
            **{
                **data,
                "cameras": tuple(CameraSpec(**camera) for camera in data["cameras"]),
                "proprio_names": tuple(data["proprio_names"]),
                "extras": tuple(data.get("extras", ())),
                "action": action_spec_from_dict(data["action"]),
            }
        )


def stored_as(spec: DatasetSpec) -> DatasetSpec:
    """The spec with the storage that fits the size of its images."""
    largest = max((max(camera.height, camera.width) for camera in spec.cameras), default=0)
    return replace(spec, storage="image" if largest <= LARGEST_IMAGE else "video")


def place(number: int) -> dict[str, int]:
    """Chunk and file index of the ``number``-th file (one file per episode)."""
    return {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}


def camera_key(name: str) -> str:
    """The feature that a camera's images are stored under."""
    return IMAGES + name


def features_of(spec: DatasetSpec) -> dict[str, dict[str, Any]]:
    """LeRobot's ``features`` for a dataset of this kind."""
    features: dict[str, dict[str, Any]] = {}
    if spec.proprio_names:
        features[STATE] = _vector("float32", spec.proprio_names)
    features[ACTION] = _vector("float32", spec.action.names)
    for camera in spec.cameras:
        feature = {
            "dtype": spec.storage,
            "shape": [camera.height, camera.width, 3],
            "names": ["height", "width", "channels"],
        }
        if spec.storage == "video":
            feature["info"] = _video_info(camera, spec.fps)
        features[camera_key(camera.name)] = feature
    features |= {name: {"dtype": "float32", "shape": [1], "names": None} for name in spec.extras}
    features[STAMP] = {"dtype": "int64", "shape": [1], "names": None}
    return features | {key: dict(feature) for key, feature in INDEX_FEATURES.items()}


def _vector(dtype: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [len(names)], "names": list(names)}


def _video_info(camera: CameraSpec, fps: float) -> dict[str, Any]:
    return {
        "video.height": camera.height,
        "video.width": camera.width,
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p" if camera.height % 2 == camera.width % 2 == 0 else "yuv444p",
        "video.is_depth_map": False,
        "video.fps": plain_number(fps),
        "video.channels": 3,
        "has_audio": False,
    }


def plain_number(value: float) -> int | float:
    """``30`` for 30.0: LeRobot declares its rate an integer and prints it as such."""
    return int(value) if float(value).is_integer() else float(value)


def info_of(spec: DatasetSpec, *, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    """The content of ``meta/info.json``."""
    return {
        "codebase_version": CODEBASE_VERSION,
        "fps": plain_number(spec.fps),
        "features": features_of(spec),
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if spec.storage == "video" else None,
        "robot_type": spec.embodiment,
        "splits": {"train": f"0:{episodes}"},
    }


IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def arrow_type(feature: Mapping[str, Any]) -> pa.DataType:
    """The parquet column type of a feature; one-element vectors are scalars, as in LeRobot."""
    if feature["dtype"] == "image":
        return IMAGE_TYPE
    scalar = pa.type_for_alias(feature["dtype"])
    shape = feature["shape"]
    return scalar if list(shape) == [1] else pa.list_(scalar, shape[0])


def arrow_column(feature: Mapping[str, Any], values: Any) -> pa.Array:
    """A column from [T, D] numbers, or from T encoded images."""
    kind = arrow_type(feature)
    if kind == IMAGE_TYPE:
        paths = pa.array([None] * len(values), pa.string())
        return pa.StructArray.from_arrays([pa.array(values, pa.binary()), paths], fields=list(kind))
    array = np.ascontiguousarray(values)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1), kind.value_type), type=kind)
    return pa.array(array.reshape(-1), kind)


def huggingface_metadata(features: Mapping[str, Mapping[str, Any]]) -> dict[bytes, bytes]:
    """Schema metadata that tells the ``datasets`` library which columns are images."""
    kinds: dict[str, Any] = {}
    for key, feature in features.items():
        if feature["dtype"] == "video":
            continue
        if feature["dtype"] == "image":
            kinds[key] = {"_type": "Image"}
            continue
        value = {"dtype": feature["dtype"], "_type": "Value"}
        vector = {"feature": value, "length": feature["shape"][0], "_type": "List"}
        kinds[key] = value if list(feature["shape"]) == [1] else vector
    return {b"huggingface": json.dumps({"info": {"features": kinds}}).encode()}


def tasks_table(tasks: list[str]) -> pa.Table:
    """``meta/tasks.parquet``: pandas reads the instruction as the index, which is what LeRobot expects."""
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"},
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()})


def parquet_bytes(table: pa.Table) -> pa.Buffer:
    """A whole parquet file in memory; images are not compressed twice."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="snappy", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


def json_bytes(content: Any, *, indent: int | None = 2) -> bytes:
    """JSON that refuses NaN, which no other reader accepts."""
    return json.dumps(content, indent=indent, allow_nan=False).encode()


def write_atomic(path: Path, content: bytes | pa.Buffer) -> None:
    """Put ``content`` at ``path`` so that a kill or a power cut leaves either the old file or the whole new one.

    Raises `OSError` (disk full, no permission) after removing the unfinished temporary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """Make a rename itself durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
