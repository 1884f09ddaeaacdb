"""RLDS: a TensorFlow Datasets folder (features.json, dataset_info.json, *.tfrecord…), one record an episode.

A record's entries are ``steps/<feature>``, all steps of a feature behind one another: T encoded images, T texts, or T·D
numbers. What RLDS has no place for (the rate, what an action means) comes from `KNOWN` or from the caller.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vla.data.importers.source import Size, Source, finite, sized
from vla.data.importers.tfrecord import Record, Value, parse_example, records
from vla.data.lerobot_format import DatasetSpec, stored_as
from vla.data.spec_guess import bounds, guess_kind
from vla.data.video import resized
from vla.errors import UnderstudyError
from vla.types import ActionKind, ActionSpec, CameraSpec, Episode, Gripper, Task

SHARD = re.compile(r"^(?P<name>.+)-(?P<split>[^-]+)\.tfrecord(-\d+-of-\d+)?$")
OBSERVATION, STEPS = "steps/observation/", "steps/"
STATES = ("state", "proprio", "robot_state", "joint_state")
ASSUMED_FPS = 10.0
NANOSECONDS = 1_000_000_000


DELTA_POSE = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


@dataclass(frozen=True)
class Facts:
    """What is known of a published dataset beyond its files. ``fps`` [Hz]."""

    fps: float
    action: tuple[str, ...]
    proprio: tuple[str, ...]
    gripper: Gripper | None
    embodiment: str


BRIDGE = Facts(5.0, DELTA_POSE, POSE, Gripper(6, open=1.0, closed=0.0), "widowx")
KNOWN = {"bridge_dataset": BRIDGE, "bridge": BRIDGE, "bridge_orig": BRIDGE, "bridge_oxe": BRIDGE}
"""TFDS name → facts (BridgeData V2: 5 Hz, relative end-effector poses, gripper 1 = open)."""


@dataclass(frozen=True)
class Feature:
    """One entry of features.json: ``kind`` is ``image``, ``text`` or ``number``; ``shape`` of one step."""

    kind: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in one step."""
        return int(np.prod(self.shape, dtype=int))


def find_rlds(folder: Path) -> Path | None:
    """The version folder of a TFDS dataset at or under ``folder``; `UnderstudyError` when there are several."""
    for pattern in ("features.json", "*/features.json", "*/*/features.json"):
        found = sorted(path.parent for path in folder.glob(pattern))
        if len(found) > 1:
            raise UnderstudyError(
                f"{folder} holds several datasets; give one of {', '.join(str(path) for path in found)}"
            )
        if found:
            return found[0]
    return None


def open_rlds(folder: Path, *, image_size: int | None, fps: float | None) -> Source:
    """The TFDS folder as a `Source`; ``fps`` [Hz] overrides what is known of the dataset."""
    info = _json(folder / "dataset_info.json")
    features = read_features(_json(folder / "features.json"), folder)
    found = {}
    for path in sorted(folder.glob("*.tfrecord*")):
        if match := SHARD.match(path.name):
            found |= {(match["split"], len(found) + n): record for n, record in enumerate(records(path))}
    if not found:
        raise UnderstudyError(f"{folder} holds no record: there is no *.tfrecord file with one")
    name = str(info.get("name") or folder.parent.name)
    recording = Recording(name, features, tuple(found.values()), tuple(split for split, _ in found))
    facts = KNOWN.get(name)
    warnings = []
    if fps is None and facts is None:
        warnings.append(f"{name} does not say at which rate it was recorded; {ASSUMED_FPS:g} Hz is assumed (set fps)")
    recording.prepare(facts, fps or (facts.fps if facts else ASSUMED_FPS), image_size)
    shards = [int(n) for split in info.get("splits", ()) for n in split.get("shardLengths", ())]
    return Source(
        format="RLDS",
        name=name,
        spec=stored_as(recording.spec),
        numbers=tuple(range(len(found))),
        promised=sum(shards) or len(found),
        read=recording.episode,
        label=recording.label,
        warnings=tuple(warnings),
    )


class Recording:
    """The records of one TFDS folder, and how one episode is read from them."""

    spec: DatasetSpec

    def __init__(
        self, name: str, features: Mapping[str, Feature], found: tuple[Record, ...], splits: tuple[str, ...]
    ) -> None:
        self.name, self.features, self.records, self.splits = name, features, found, splits
        self.actions = self._columns(("action",), STEPS)
        if not self.actions:
            raise UnderstudyError(f"{name} has no numbers under 'steps/action'; it has {', '.join(sorted(features))}")
        self.states = self._columns(STATES, OBSERVATION) or self._small_observations()
        self.instruction = next(
            (key for key, f in features.items() if f.kind == "text" and "instruction" in key.rpartition("/")[2]), None
        )
        self.images = {
            key.removeprefix(OBSERVATION): key
            for key, feature in sorted(features.items())
            if feature.kind == "image" and key.startswith(OBSERVATION) and feature.shape[2:] == (3,)
        }

    def _columns(self, names: tuple[str, ...], prefix: str) -> tuple[str, ...]:
        """The number feature of the first of these names, or all number features inside the folder of that name."""
        numbers = [key for key, feature in self.features.items() if feature.kind == "number"]
        for name in names:
            inside = tuple(key for key in numbers if key == prefix + name or key.startswith(f"{prefix}{name}/"))
            if inside:
                return inside
        return ()

    def _small_observations(self) -> tuple[str, ...]:
        return tuple(
            key
            for key, feature in self.features.items()
            if feature.kind == "number"
            and key.startswith(OBSERVATION)
            and len(feature.shape) < 2
            and "embedding" not in key
        )

    def prepare(self, facts: Facts | None, fps: float, image_size: int | None) -> None:
        """Make the spec: bounds from all actions, image sizes from the first record where features.json has none."""
        names = self._names(self.actions, facts.action if facts else ())
        kind: ActionKind = guess_kind(names)
        low, high = bounds(self._action_range(), len(names))
        cameras = tuple(CameraSpec(name, *self._image_size(key)) for name, key in self.images.items())
        self.spec = DatasetSpec(
            fps=fps,
            cameras=sized(cameras, image_size),
            proprio_names=self._names(self.states, facts.proprio if facts else ()),
            action=ActionSpec(
                kind, names, low, high, gripper=facts.gripper if facts and facts.action == names else None
            ),
            embodiment=facts.embodiment if facts else "unknown",
            fingerprint=f"rlds:{self.name}",
        )

    def _names(self, keys: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
        names = []
        for key in keys:
            short, size = key.rpartition("/")[2], self.features[key].size
            names += [short] if len(keys) > 1 and size == 1 else [f"{short}_{n}" for n in range(size)]
        return known if len(known) == len(names) else tuple(names)

    def _action_range(self) -> dict[str, list[float]]:
        lows, highs = [], []
        for record in self.records:
            try:
                actions = self._numbers(record.glance(self.actions), self.actions)
            except UnderstudyError:
                continue  # reported when the episode itself is read
            actions = actions[np.isfinite(actions).all(1)]
            if len(actions):
                lows.append(actions.min(0))
                highs.append(actions.max(0))
        return {"min": np.min(lows, 0).tolist(), "max": np.max(highs, 0).tolist()} if lows else {}

    def _image_size(self, key: str) -> Size:
        height, width = self.features[key].shape[:2]
        if height > 0 and width > 0:
            return height, width
        entries = self.records[0].glance([key])
        return decode(entries[key][0], key, 0).shape[:2]

    def label(self, number: int) -> str:
        """The episode's name among all recordings."""
        record = self.records[number]
        return f"{self.name}/{self.splits[number]}/{record.path.name}#{record.number}"

    def episode(self, number: int) -> Episode:
        """One episode; its images are decoded when they are asked for."""
        record = self.records[number]
        entries = parse_example(record.read(), where=record)
        actions = finite(self._numbers(entries, self.actions), "the actions")
        length = len(actions)
        proprio = np.zeros((length, 0), np.float32)
        if self.states:
            proprio = finite(self._numbers(entries, self.states), "the states")
        texts = entries.get(self.instruction or "", ())
        return Episode(
            images={camera.name: self._frames(camera, entries) for camera in self.spec.cameras},
            proprio=proprio,
            actions=actions,
            task=Task(bytes(texts[0]).decode() if len(texts) else ""),
            fps=self.spec.fps,
            embodiment=self.spec.embodiment,
            success=succeeded(entries.get("steps/reward")),
            source=self.label(number),
            stamps_ns=np.round(np.arange(length) / self.spec.fps * NANOSECONDS).astype(np.int64),
        )

    def _numbers(self, entries: Mapping[str, Value], keys: tuple[str, ...]) -> np.ndarray:
        """[T, D] of these features side by side."""
        columns = []
        for key in keys:
            values, size = entries.get(key, ()), self.features[key].size
            if not isinstance(values, np.ndarray) or len(values) % size:
                raise UnderstudyError(f"{key} should hold {size} numbers a step, it holds {len(values)} in all")
            columns.append(values.reshape(-1, size))
        if len({len(column) for column in columns}) != 1:
            raise UnderstudyError(f"{', '.join(keys)} have different lengths: {[len(column) for column in columns]}")
        return np.concatenate(columns, axis=1)

    def _frames(self, camera: CameraSpec, entries: Mapping[str, Value]) -> Callable[[], np.ndarray]:
        key = self.images[camera.name]
        return partial(decode_all, entries.get(key, []), key, (camera.height, camera.width))


def decode_all(images: list[bytes], key: str, size: Size) -> np.ndarray:
    """Encoded images as [T, H, W, 3] uint8 RGB of ``size`` (H, W)."""
    if not images:
        raise UnderstudyError(f"{key} holds no image")
    return np.stack([resized(decode(image, key, frame), size) for frame, image in enumerate(images)])


def decode(image: bytes, key: str, frame: int) -> np.ndarray:
    """A JPEG or PNG as [H, W, 3] uint8 RGB; raises `UnderstudyError` naming the frame."""
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) if image else None
    if pixels is None:
        raise UnderstudyError(f"{key} of frame {frame} is no JPEG or PNG image that can be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def succeeded(reward: Value | None) -> bool | None:
    """``True`` for a reward of 1 at the very end and 0 before, which RLDS gives to demonstrations; else not known."""
    if not isinstance(reward, np.ndarray) or not len(reward):
        return None
    return True if reward[-1] == 1.0 and not reward[:-1].any() else None


def read_features(content: Mapping[str, Any], folder: Path) -> dict[str, Feature]:
    """features.json as entry name → `Feature`; features that hold neither images, text nor numbers are left out."""
    if "featuresDict" not in content:
        raise UnderstudyError(f"{folder}/features.json is of an older TFDS than 4.5; write it again with a newer one")
    found: dict[str, Feature] = {}
    _walk(content, "", found)
    return found


def _walk(node: Mapping[str, Any], name: str, found: dict[str, Feature]) -> None:
    if "featuresDict" in node:
        for key, child in node["featuresDict"].get("features", {}).items():
            _walk(child, f"{name}/{key}" if name else key, found)
    elif "sequence" in node:
        _walk(node["sequence"]["feature"], name, found)
    elif "image" in node:
        found[name] = Feature("image", _shape(node["image"]) or (-1, -1, 3))
    elif "text" in node:
        found[name] = Feature("text", ())
    elif "tensor" in node or "scalar" in node:
        tensor = node.get("tensor") or node["scalar"]
        text = tensor.get("dtype") in ("string", "object")
        found[name] = Feature("text" if text else "number", _shape(tensor))


def _shape(node: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in node.get("shape", {}).get("dimensions", ()))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UnderstudyError(f"there is no {path}; an RLDS folder has features.json, dataset_info.json and *.tfrecord")
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UnderstudyError(f"{path} cannot be read ({error}); fetch it again") from error
