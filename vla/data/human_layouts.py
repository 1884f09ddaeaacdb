"""How captioned videos lie on disk: folders with captions, Something-Something v2, frame folders, LeRobot v3.

Every reader takes the corpus' folder and a split (``train``, ``validation`` or ``test``) and lists its clips without
opening a single video. `vla.data.human_egocentric` has those that know actions by the second.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vla.data.human_clips import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Clip,
    EpisodeFrames,
    FrameFiles,
    Source,
    VideoSpan,
    by_number,
    frame_files,
    is_privileged,
    read_json,
    read_rows,
    refuse_privileged,
    subfolders,
    words,
)
from vla.data.lerobot_format import DATA_PATH, INFO, VIDEO_PATH
from vla.data.lerobot_reader import read_episode_rows
from vla.data.spec_guess import camera_keys
from vla.errors import UnderstudyError

CAPTIONS = ("captions.csv", "captions.jsonl")
MANIFEST = "manifest.csv"
XIRL_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
SOMETHING_VIDEOS = ("videos", "20bn-something-something-v2")
R3M_SPEAKER = "C "
"""R3M's texts keep the mark of Ego4D's narrators for the person who wears the camera."""


def read_folder(root: Path, split: str) -> list[Clip]:
    """Clips anywhere under ``root``, named by captions.csv or captions.jsonl.

    Columns ``file`` (relative to ``root``: a video, or a folder of images) and ``caption``; if wanted, ``start_s`` and
    ``stop_s`` [s], ``fps`` [Hz] of a folder of images, and ``split`` (default ``train``). Without such a file, all
    videos and all folders of images are clips that nobody captioned.
    """
    for name in CAPTIONS:
        path = root / name
        if path.is_file():
            rows = read_rows(path, ("file", "caption")) if path.suffix == ".csv" else _json_lines(path)
            return _numbered(_captioned(root, path, row) for row in rows if (row.get("split") or "train") == split)
    return [Clip(name, "", source) for name, source in _found_under(root)] if split == "train" else []


def _json_lines(path: Path) -> list[dict[str, Any]]:
    refuse_privileged(path)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UnderstudyError(f"{path} cannot be read ({error})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise UnderstudyError(f"line {number} of {path} is no JSON ({error})") from error
        if row is None:
            continue
        if not isinstance(row, dict) or not {"file", "caption"} <= set(row):
            raise UnderstudyError(f'line {number} of {path} is not like {{"file": "a.mp4", "caption": "open a door"}}')
        rows.append(row)
    return rows


def _captioned(root: Path, captions: Path, row: Mapping[str, Any]) -> Clip:
    name = str(row["file"] or "").strip()
    path = root / name
    if not name:
        raise UnderstudyError(f"{captions} has a row without a file: {dict(row)}")
    refuse_privileged(path, named_by=str(captions))
    start, stop, fps = (_number(captions, row, key) for key in ("start_s", "stop_s", "fps"))
    window = "" if start is None and stop is None else f"@{start or 0:g}-{'' if stop is None else format(stop, 'g')}"
    source: Source = VideoSpan(path, start or 0.0, stop)
    if path.is_dir() or (path.suffix.lower() not in VIDEO_SUFFIXES and not path.is_file()):
        source = frame_files(path, fps or 0.0)
        if window:
            source = _window(captions, source, start or 0.0, stop)
    return Clip(name + window, words(row["caption"]), source)


def _number(captions: Path, row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UnderstudyError(f"{key} of {row['file']} in {captions} is no number: {value!r}") from None


def _window(captions: Path, files: FrameFiles, start_s: float, stop_s: float | None) -> FrameFiles:
    if not files.fps:
        raise UnderstudyError(
            f"{captions} gives start_s or stop_s for the images in {files.folder}, but not their fps; add that column"
        )
    last = files.last if stop_s is None else files.first + round(stop_s * files.fps) - 1
    first = files.first + round(start_s * files.fps)
    return FrameFiles(files.folder, files.pattern, first, min(last, files.last), files.fps, files.names)


def _numbered(clips: Iterator[Clip]) -> list[Clip]:
    """The clips; one that is listed again (with another caption, say) gets ``#2`` behind its name."""
    seen: Counter[str] = Counter()
    out = []
    for clip in clips:
        seen[clip.name] += 1
        count = seen[clip.name]
        out.append(clip if count == 1 else Clip(f"{clip.name}#{count}", clip.caption, clip.source))
    return out


def _found_under(root: Path) -> Iterator[tuple[str, Source]]:
    """Name and source of every video and every folder of images, in a fixed order."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        place = Path(folder)
        real = os.path.realpath(folder)
        if real in seen:  # links may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".") and not is_privileged(place / name)), key=by_number
        )
        shown = sorted((name for name in names if not name.startswith(".")), key=by_number)
        videos = [name for name in shown if Path(name).suffix.lower() in VIDEO_SUFFIXES]
        for name in videos:
            if not is_privileged(place / name):
                yield (place / name).relative_to(root).as_posix(), VideoSpan(place / name)
        # Images beside videos are their thumbnails.
        if not videos and any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in shown):
            yield place.relative_to(root).as_posix() if place != root else root.name, frame_files(place)


def holds_clips(root: Path) -> bool:
    """Whether there is a captions file, a video or a folder of images in or under ``root``."""
    return any((root / name).is_file() for name in CAPTIONS) or next(_found_under(root), None) is not None


def read_something(root: Path, split: str) -> list[Clip]:
    """Something-Something v2: ``videos/<id>.webm`` and ``labels/<split>.json`` with an id and a label each."""
    path = something_labels(root, split)
    if path is None:
        raise UnderstudyError(f"{root} has no labels/{split}.json (nor labels/something-something-v2-{split}.json)")
    folder = next((root / name for name in SOMETHING_VIDEOS if (root / name).is_dir()), root / SOMETHING_VIDEOS[0])
    return [
        Clip(str(item["id"]), something_caption(item), VideoSpan(folder / f"{item['id']}.webm"))
        for item in read_json(path)
    ]


def something_labels(root: Path, split: str) -> Path | None:
    """Where a split's labels lie, if they do."""
    names = (f"{split}.json", f"something-something-v2-{split}.json")
    places = [root / "labels" / name for name in names] + [root / name for name in names]
    return next((path for path in places if path.is_file()), None)


def something_caption(item: Mapping[str, Any]) -> str:
    """The label, in which the placeholders are filled in; the test split has none."""
    template = str(item.get("template") or "").replace("[", "").replace("]", "")
    return words(item.get("label") or template)


def read_frame_folders(root: Path, split: str) -> list[Clip]:
    """Folders of images: with a manifest.csv (R3M, VIP, LIV), or ``<split>/<embodiment>/<video>/<i>.png`` (XIRL)."""
    manifest = root / MANIFEST
    if manifest.is_file():
        return _numbered(_listed(root, row) for row in read_rows(manifest)) if split == "train" else []
    return [
        Clip(f"{embodiment.name}/{folder.name}", "", frame_files(folder))
        for embodiment in subfolders(root / XIRL_SPLITS[split])
        for folder in subfolders(embodiment)
    ]


def _listed(root: Path, row: Mapping[str, str]) -> Clip:
    """A row of a manifest: (path, len, txt) of R3M, or (index, directory, num_frames, text) of LIV."""
    told = row.get("path") or row.get("directory")
    length, text = row.get("len") or row.get("num_frames"), row.get("txt") or row.get("text") or ""
    if not told or not (length or "").isdecimal():
        raise UnderstudyError(
            f"{root / MANIFEST} has neither the columns path, len, txt nor index, directory, num_frames, text with a "
            f"value in each: {dict(row)}"
        )
    folder = root / told
    if Path(told).is_absolute() and not folder.is_dir():  # where the frames lay on the machine that made them
        folder = root / Path(told).name
    refuse_privileged(folder, named_by=str(root / MANIFEST))
    files = frame_files(folder)
    last = files.first + int(length) - 1
    # Names without a pattern cannot stand for a frame that is not there.
    last = min(last, files.last) if files.names else last
    name = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else told
    source = FrameFiles(folder, files.pattern or "%06d.jpg", files.first, last, names=files.names)
    return Clip(name, words(text.removeprefix(R3M_SPEAKER) if "txt" in row else text), source)


def is_xirl(root: Path) -> bool:
    """Whether ``root`` has ``train`` or ``valid`` with folders of images two levels down."""
    for split in ("train", "valid"):
        for embodiment in subfolders(root / split):
            return any(len(frame_files(folder)) for folder in subfolders(embodiment)[:1])
    return False


def read_lerobot(root: Path, split: str) -> list[Clip]:
    """LeRobot v3, pictures and instructions only: one clip per episode and camera.

    It needs no action in the dataset and looks at none (`open_dataset` refuses one without): which frames there are
    is told by ``meta/info.json`` and ``meta/episodes`` alone.
    """
    info = read_json(root / INFO)
    version = str(info.get("codebase_version", ""))
    if not version.startswith("v3"):
        raise UnderstudyError(
            f"{root} is in LeRobot's format {version or 'of no known version'}, not v3.0; run: vla data import {root} "
            "NEW_FOLDER"
        )
    keys = camera_keys(info["features"])
    chosen = _episodes_of(info, split, root)
    return [
        Clip(
            f"episode_{row['episode_index']:06d}/{camera}",
            words((row.get("tasks") or [""])[0]),
            _episode_source(root, info, row, key),
        )
        for row in read_episode_rows(root)
        if row["episode_index"] in chosen
        for camera, key in keys.items()
    ]


def _episodes_of(info: Mapping[str, Any], split: str, root: Path) -> range:
    """The episodes of a split, which info.json writes as ``"from:to"``; without any, all are for training."""
    splits = info.get("splits") or {"train": ""}
    told = next((splits[name] for name in (split, {"validation": "val"}.get(split, split)) if name in splits), None)
    if told is None:
        raise UnderstudyError(f"{root / INFO} has no split {split!r}; it has {', '.join(splits)}")
    first, _, stop = str(told).partition(":")
    return range(int(first or 0), int(stop or info["total_episodes"]))


def _episode_source(root: Path, info: Mapping[str, Any], row: Mapping[str, Any], key: str) -> Source:
    if info["features"][key]["dtype"] == "image":
        place = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
        path = root / (info.get("data_path") or DATA_PATH).format(**place)
        return EpisodeFrames(path, key, row["episode_index"], float(info["fps"]))
    place = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
    period = 1 / float(info["fps"])
    # Half a frame early: the frame at the very start must not fall to rounding, nor the next episode's come in.
    start = float(row.get(f"videos/{key}/from_timestamp", 0.0)) - period / 2
    path = root / (info.get("video_path") or VIDEO_PATH).format(video_key=key, **place)
    return VideoSpan(path, start, start + row["length"] * period)
