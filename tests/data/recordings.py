"""Small recordings in the formats that are imported, made from random numbers."""

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data.importers.tfrecord import masked_crc
from vla.data.video import encode_mp4

FPS, SIDE = 10, 32
LENGTHS = (5, 9, 7)


def moving(length, number, side=SIDE):
    """Frames [T, side, side, 3] whose brightness tells episode and step."""
    rows, columns = np.mgrid[0:side, 0:side]
    base = np.stack([rows, columns, rows + columns], axis=-1) + 40 * number
    return np.stack([np.clip(base + 8 * t, 0, 255) for t in range(length)]).astype(np.uint8)


def numbers(number, length, size):
    return np.random.default_rng(100 * number + size).normal(size=(length, size))


def write_v2(root, *, version="v2.1", kept=(0, 1, 2), dtype="float32", as_images=False):
    """A LeRobot v2 recording of three episodes, of which only ``kept`` are there."""
    features = {
        "observation.state": {"dtype": dtype, "shape": [4], "names": {"motors": ["a", "b", "c", "grip"]}},
        "action": {"dtype": dtype, "shape": [2], "names": [["x", "y"]]},
        "observation.images.top": {"dtype": "image" if as_images else "video", "shape": [3, SIDE, SIDE], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1]},
    }
    info = {"codebase_version": version, "robot_type": "toy", "fps": FPS, "features": features}
    info |= {"total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS), "splits": {"train": "0:99"}}
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    tasks = [{"task_index": n, "task": f"do {n}"} for n in range(2)]
    episodes = [
        {"episode_index": n, "tasks": [f"do {n % 2}", "valid"], "length": size} for n, size in enumerate(LENGTHS)
    ]
    for name, lines in (("tasks", tasks), ("episodes", episodes)):
        (root / f"meta/{name}.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    for number in kept:
        write_v2_episode(root, number, dtype, as_images)
    return root


def write_v2_episode(root, number, dtype, as_images):
    length = LENGTHS[number]
    kind = pa.float64() if dtype == "float64" else pa.float32()
    columns = {
        "observation.state": pa.array(numbers(number, length, 4).tolist(), pa.list_(kind)),
        "action": pa.array(numbers(number, length, 2).tolist(), pa.list_(kind)),
        "timestamp": pa.array((np.arange(length) + 1) / FPS, pa.float32()),
        "task_index": pa.array(np.full(length, number % 2)),
        "next.success": pa.array(np.arange(length) == length - 1),
    }
    frames = moving(length, number)
    if as_images:
        cells = [{"bytes": png(frame), "path": None} for frame in frames]
        columns["observation.images.top"] = pa.array(cells)
    else:
        path = root / f"videos/chunk-000/observation.images.top/episode_{number:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_mp4(frames, FPS))
    path = root / f"data/chunk-000/episode_{number:06d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def png(frame):
    return cv2.imencode(".png", frame[:, :, ::-1])[1].tobytes()


def write_rlds(root, *, name="toy", promised=3, extra_state=False):
    """A TFDS folder ``name/1.0.0`` with one shard of three episodes."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    observation = {"image_0": image([SIDE, SIDE, 3]), "depth": image([SIDE, SIDE, 1])}
    if extra_state:
        observation |= {"effector": tensor([3], "float32"), "opening": tensor([], "float32")}
        observation |= {"natural_language_embedding": tensor([2], "float32")}
    else:
        observation["state"] = tensor([4], "float32")
    steps = {
        "action": tensor([2], "float32"),
        "reward": tensor([], "float32"),
        "is_last": tensor([], "bool"),
        "language_instruction": {"text": {}},
        "observation": {"featuresDict": {"features": observation}},
    }
    top = {"steps": {"sequence": {"feature": {"featuresDict": {"features": steps}}, "length": "-1"}}}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": top}}))
    info = {"name": name, "splits": [{"name": "train", "shardLengths": [str(promised)]}]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    shard = folder / f"{name}-train.tfrecord-00000-of-00001"
    shard.write_bytes(b"".join(record(rlds_example(n, extra_state)) for n in range(len(LENGTHS))))
    return folder


def image(shape):
    return {"image": {"shape": {"dimensions": [str(size) for size in shape]}, "dtype": "uint8"}}


def tensor(shape, dtype):
    return {"tensor": {"shape": {"dimensions": [str(size) for size in shape]} if shape else {}, "dtype": dtype}}


def rlds_example(number, extra_state):
    length = LENGTHS[number]
    state = numbers(number, length, 4).astype("<f4")
    states = {"steps/observation/state": state}
    if extra_state:
        states = {"steps/observation/effector": state[:, :3], "steps/observation/opening": state[:, 3]}
    floats = {**states, "steps/action": numbers(number, length, 2).astype("<f4")}
    floats["steps/reward"] = (np.arange(length) == length - 1).astype("<f4") * (number != 1)
    images = [png(frame) for frame in moving(length, number)]
    texts = [f"do {number % 2}".encode()] * length
    entries = {key: field(2, field(1, values.tobytes())) for key, values in floats.items()}
    entries["steps/observation/image_0"] = field(1, b"".join(field(1, data) for data in images))
    entries["steps/language_instruction"] = field(1, b"".join(field(1, data) for data in texts))
    entries["steps/is_last"] = field(3, field(1, b"\0" * (length - 1) + b"\1"))
    return example(entries)


def example(entries):
    """A serialised tf.train.Example: name → serialised Feature."""
    pairs = b"".join(field(1, field(1, name.encode()) + field(2, value)) for name, value in entries.items())
    return field(1, pairs)


def field(number, content):
    """A length-delimited protobuf field."""
    size, encoded = len(content), bytearray()
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *encoded, size]) + content


def record(data):
    """One TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def shard_of(folder: Path) -> Path:
    return next(folder.glob("*.tfrecord*"))
