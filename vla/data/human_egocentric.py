"""How first-person videos with timed actions lie on disk: Ego4D, EPIC-KITCHENS-100, H2O.

Every reader takes the corpus' folder and a split (``train``, ``validation`` or ``test``) and lists its clips without
opening a single video.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.human_clips import (
    Clip,
    FrameFiles,
    Source,
    VideoSpan,
    frame_files,
    read_json,
    read_rows,
    refuse_privileged,
    subfolders,
    words,
)
from vla.errors import UnderstudyError

NARRATED_S = 2.0
"""A narrator of Ego4D gives one instant; the clip is what lies this long [s] before and after it."""
EGO4D_FPS = 30.0
"""The rate that Ego4D's videos were brought to."""
EGO4D_VIDEOS = ("video_540ss", "full_scale", "clips")
EGO4D_SPLIT_KEYS = ("split_fho", "split_em", "split_av")
EGO4D_SPLITS = {"train": "train", "val": "validation", "test": "test"}
SPEAKER = re.compile(r"^\s*#(?:unsure|summary|[a-z]{1,2})\b\s*(?:C\b\s*)?|#unsure\b", re.IGNORECASE)
"""``#C C`` is the person who wears the camera, ``#O`` another one, whom the text names."""

EPIC_CSV = {
    "train": "EPIC_100_train.csv",
    "validation": "EPIC_100_validation.csv",
    "test": "EPIC_100_test_timestamps.csv",
}
EPIC_VIDEO_INFO = "EPIC_100_video_info.csv"
EPIC_FRAMES = "frame_%010d.jpg"
EPIC_FPS, EPIC_EXTENSION_FPS = 59.94, 50.0
"""The rate of the videos of 2018, and of those that came in 2020 (``P01_101`` and on), where no table tells it."""

H2O_FPS = 30.0
H2O_CAMERA = "cam4"
"""The camera on the head; the other four stand in the room."""
H2O_NEAR_VALIDATION = frozenset({"k2", "o1", "o2"})
H2O_ACTION_LISTS = ("action_labels.txt", "actions.txt", "verbs.txt")
HANDS, JOINTS = 2, 21


def ego4d_folder(root: Path) -> Path:
    """The folder ``v2`` of an Ego4D download, or ``root`` where it is that folder itself."""
    return root / "v2" if (root / "v2").is_dir() else root


def read_ego4d(root: Path, split: str) -> list[Clip]:
    """Ego4D: a clip around every narration, and one from ``pre`` to ``post`` for every action of fho_main.json.

    The split of a video is what ego4d.json says; a video of which it says nothing is for training.
    """
    folder = ego4d_folder(root)
    splits = _ego4d_splits(root)
    narrations, actions = (folder / "annotations" / name for name in ("narration.json", "fho_main.json"))
    clips: list[Clip] = []
    if narrations.is_file():
        content = read_json(narrations)
        for uid, video in content.get("videos", content).items():
            if splits.get(uid, "train") == split:
                clips += _narrated(_ego4d_video(folder, uid), uid, video)
    if actions.is_file():
        for video in read_json(actions).get("videos", ()):
            if splits.get(video["video_uid"], "train") == split:
                clips += _critical(folder, video)
    return clips


def _ego4d_splits(root: Path) -> dict[str, str]:
    path = next((place / "ego4d.json" for place in (root, root / "v2") if (place / "ego4d.json").is_file()), None)
    if path is None:
        return {}
    told = {}
    for video in read_json(path).get("videos", ()):
        name = next((video[key] for key in EGO4D_SPLIT_KEYS if video.get(key)), None)
        told[video["video_uid"]] = EGO4D_SPLITS.get(str(name), "train")
    return told


def _ego4d_video(folder: Path, uid: str) -> Path:
    paths = [folder / name / f"{uid}.mp4" for name in EGO4D_VIDEOS]
    return next((path for path in paths if path.is_file()), paths[0])


def _narrated(path: Path, uid: str, video: Mapping[str, Any]) -> Iterator[Clip]:
    for name in sorted(key for key in video if key.startswith("narration_pass")):
        for number, narration in enumerate((video[name] or {}).get("narrations") or ()):
            at = float(narration["timestamp_sec"])
            source = VideoSpan(path, max(0.0, at - NARRATED_S), at + NARRATED_S)
            yield Clip(f"{uid}/{name}/{number:05d}", said(narration["narration_text"]), source)


def _critical(folder: Path, video: Mapping[str, Any]) -> Iterator[Clip]:
    uid = video["video_uid"]
    fps = float((video.get("video_metadata") or {}).get("fps") or EGO4D_FPS)
    for part, interval in enumerate(video.get("annotated_intervals") or ()):
        clip_uid, shift = interval.get("clip_uid"), 0.0
        path = folder / "clips" / f"{clip_uid}.mp4"
        if not path.is_file():  # the whole video holds the same frames, later
            path, shift = _ego4d_video(folder, uid), float(interval.get("start_sec") or 0.0)
        for number, action in enumerate(interval.get("narrated_actions") or ()):
            frames = action.get("clip_critical_frames") or {}
            if frames.get("pre_frame") is None or frames.get("post_frame") is None:
                continue  # an action without a change of state has no such frames; its narration is a clip
            first, last = sorted((int(frames["pre_frame"]), int(frames["post_frame"])))
            source = VideoSpan(path, shift + first / fps, shift + (last + 1) / fps)
            yield Clip(f"{uid}/fho/{part:03d}/{number:04d}", said(action["narration_text"]), source)


def said(narration: str) -> str:
    """A narration of Ego4D without the marks of who acts: ``#C C picks a cup`` → ``picks a cup``."""
    return words(SPEAKER.sub("", narration or ""))


def epic_table(root: Path, name: str) -> Path | None:
    """Where a table of EPIC-KITCHENS-100 lies: in ``root`` or in a folder in it."""
    return next((path for path in (root / name, *(f / name for f in subfolders(root))) if path.is_file()), None)


def read_epic(root: Path, split: str) -> list[Clip]:
    """EPIC-KITCHENS-100: one clip per narrated action, from its frames, or from its video where there are none."""
    path = epic_table(root, EPIC_CSV[split])
    if path is None:
        raise UnderstudyError(f"{root} has no {EPIC_CSV[split]}; it is in the annotations of EPIC-KITCHENS-100")
    told = epic_table(root, EPIC_VIDEO_INFO)
    rates = {row["video_id"]: float(row["fps"]) for row in read_rows(told, ("video_id", "fps"))} if told else {}
    inner = root / "EPIC-KITCHENS"
    base = inner if inner.is_dir() else root
    has_frames: dict[str, bool] = {}
    clips = []
    for row in read_rows(path, ("narration_id", "participant_id", "video_id", "start_frame", "stop_frame")):
        person, video = row["participant_id"], row["video_id"]
        folder = base / person / "rgb_frames" / video
        fps = rates.get(video) or (EPIC_EXTENSION_FPS if len(video.partition("_")[2]) == 3 else EPIC_FPS)
        if has_frames.setdefault(video, folder.is_dir()):
            first, last = max(1, int(row["start_frame"])), int(row["stop_frame"])
            source: Source = FrameFiles(folder, EPIC_FRAMES, first, last, fps)
        else:
            film = base / person / "videos" / f"{video}.MP4"
            film = film if film.is_file() else film.with_suffix(".mp4")
            source = VideoSpan(film, seconds(row["start_timestamp"]), seconds(row["stop_timestamp"]))
        clips.append(Clip(row["narration_id"], words(row.get("narration")), source))
    return clips


def seconds(stamp: str) -> float:
    """``00:01:02.50`` → 62.5."""
    total = 0.0
    try:
        for part in stamp.split(":"):
            total = 60 * total + float(part)
    except ValueError:
        raise UnderstudyError(f"a time is like 00:01:02.50, got {stamp!r}") from None
    return total


def h2o_takes(root: Path) -> Iterator[tuple[str, Path]]:
    """(split, folder) of every take ``subjectN/<scene>/<take>``."""
    for subject in subfolders(root):
        if not (match := re.match(r"subject(\d+)", subject.name)):
            continue
        for scene in subfolders(subject):
            number = int(match[1])
            split = "train" if number <= 3 else "test"
            if number == 3 and scene.name in H2O_NEAR_VALIDATION:
                split = "validation"
            for take in subfolders(scene):
                yield split, take


def read_h2o(root: Path, split: str) -> list[Clip]:
    """H2O: a clip per take from the camera on the head, or from each other one where that is missing.

    With a list of the actions' names (action_labels.txt: number and name in each line) there is a clip per action
    instead, captioned with its name.
    """
    names = _h2o_actions(root)
    clips = []
    for take_split, take in h2o_takes(root):
        if take_split != split:
            continue
        cameras = [folder for folder in subfolders(take) if re.fullmatch(r"cam\d", folder.name)]
        chosen = [folder for folder in cameras if folder.name == H2O_CAMERA] or cameras
        for camera in chosen:
            pictures = camera / "rgb256" if (camera / "rgb256").is_dir() else camera / "rgb"
            whole = Clip(camera.relative_to(root).as_posix(), "", frame_files(pictures, H2O_FPS))
            labels = camera / "action_label"
            clips += _h2o_parts(whole, labels, names) if names and labels.is_dir() else [whole]
    return clips


def _h2o_actions(root: Path) -> dict[int, str]:
    """Action number → name; a line without a number names the action of its own number, as 0 is none."""
    places = [folder / name for folder in (root, root / "label_split") for name in H2O_ACTION_LISTS]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        return {}
    names = {}
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), start=1):
        match = re.fullmatch(r"\s*(?:(\d+)[\s,:.]+)?(\S.*)", line)
        if match:
            names[int(match[1] or number)] = words(match[2])
    return names


def _h2o_parts(whole: Clip, labels: Path, names: Mapping[int, str]) -> Iterator[Clip]:
    """The stretches of one action each; what lies between them (number 0) belongs to none."""
    files = whole.source
    assert isinstance(files, FrameFiles)
    told = (_h2o_label(labels / f"{files.path(place).stem}.txt") for place in range(len(files)))
    for number, places in groupby(range(len(files)), key=list(told).__getitem__):
        if number and number in names:
            stretch = list(places)
            first, last = files.first + stretch[0], files.first + stretch[-1]
            source = replace(files, first=first, last=last)
            yield Clip(f"{whole.name}/{first:06d}-{last:06d}", names[number], source)


def _h2o_label(path: Path) -> int:
    try:
        return int(float(path.read_text()))
    except (OSError, ValueError):
        return 0


def h2o_hand_pose(root: Path, clip: Clip) -> np.ndarray:
    """The joints of both hands over a clip's frames: [T, 2, 21, 3] float32, metres in the camera's frame.

    Hand 0 is the left one; T are all frames of the clip, before any sampling. A hand that is not there is NaN.
    """
    files = clip.source
    if not isinstance(files, FrameFiles) or not files.folder.is_relative_to(root):
        raise UnderstudyError(f"clip {clip.name!r} is none of the H2O folder {root}; only that one has hand poses")
    folder = files.folder.parent / "hand_pose"
    refuse_privileged(folder)
    if not folder.is_dir():
        raise UnderstudyError(f"there is no {folder}; fetch the hand poses of H2O")
    pose = np.full((len(files), HANDS, JOINTS, 3), np.nan, np.float32)
    for place in range(len(files)):
        path = folder / f"{files.path(place).stem}.txt"
        if path.is_file():
            pose[place] = _h2o_hands(path)
    return pose


def _h2o_hands(path: Path) -> np.ndarray:
    """One frame: for each hand 1 or 0 (there or not), then x, y, z of its joints."""
    try:
        numbers = np.array(path.read_text().split(), np.float32)
    except ValueError as error:
        raise UnderstudyError(f"{path} holds something that is no number ({error})") from error
    if len(numbers) != HANDS * (1 + 3 * JOINTS):
        raise UnderstudyError(f"{path} should hold {HANDS * (1 + 3 * JOINTS)} numbers, it holds {len(numbers)}")
    hands = numbers.reshape(HANDS, 1 + 3 * JOINTS)
    joints = hands[:, 1:].reshape(HANDS, JOINTS, 3)
    return np.where(hands[:, :1, None] > 0, joints, np.float32(np.nan))
