"""Videos of people, with or without captions, from whichever layout they were published in.

    found = read_clips("data/something", split="train")
    found.clips[0].caption  # "Pushing a cup from left to right"
    decode_clip(found.clips[0], size=64, fps=10.0, max_frames=64)  # [T, 64, 64, 3] uint8

What a simulator knows beside its pictures (folders called ``privileged``) is never read: it is for evaluation only.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla.data.human_clips import (
    Clip,
    EpisodeFrames,
    FrameFiles,
    VideoSpan,
    decode_clip,
    is_there,
    place_of,
    refuse_privileged,
)
from vla.data.human_egocentric import (
    EPIC_CSV,
    ego4d_folder,
    epic_table,
    h2o_hand_pose,
    h2o_takes,
    read_ego4d,
    read_epic,
    read_h2o,
)
from vla.data.human_layouts import (
    CAPTIONS,
    MANIFEST,
    holds_clips,
    is_xirl,
    read_folder,
    read_frame_folders,
    read_lerobot,
    read_something,
    something_labels,
)
from vla.data.lerobot_format import INFO
from vla.errors import UnderstudyError, unknown

__all__ = [
    "LAYOUTS",
    "Clip",
    "Clips",
    "EpisodeFrames",
    "FrameFiles",
    "Skipped",
    "VideoSpan",
    "decode_clip",
    "detect_layout",
    "h2o_hand_pose",
    "read_clips",
    "warn_skipped",
]

logger = logging.getLogger(__name__)

Reader = Callable[[Path, str], list[Clip]]
"""(folder, split) → its clips."""
LAYOUTS: dict[str, Reader] = {
    "folder": read_folder,
    "something_something_v2": read_something,
    "ego4d": read_ego4d,
    "epic_kitchens_100": read_epic,
    "h2o": read_h2o,
    "frame_folders": read_frame_folders,
    "lerobot_v3": read_lerobot,
}
SPLITS = ("train", "validation", "test")
SHORT = {"val": "validation", "valid": "validation"}
LISTED = 10


@dataclass(frozen=True)
class Skipped:
    """A clip that is left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Clips:
    """The clips of one split; ``missing``: those listed there whose video is not on disk."""

    root: Path
    layout: str
    split: str
    clips: tuple[Clip, ...]
    missing: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class Sign:
    """How a layout is told: ``holds`` says whether a folder is like that, ``words`` say the same to a person."""

    layout: str
    words: str
    holds: Callable[[Path], bool]


def _has_captions(root: Path) -> bool:
    return any((root / name).is_file() for name in CAPTIONS)


def _has_ego4d(root: Path) -> bool:
    folder = ego4d_folder(root) / "annotations"
    return any((folder / name).is_file() for name in ("narration.json", "fho_main.json"))


SIGNS = (
    Sign("folder", "captions.csv or captions.jsonl", _has_captions),
    Sign("lerobot_v3", "meta/info.json", lambda root: (root / INFO).is_file()),
    Sign(
        "something_something_v2",
        "labels/train.json or labels/something-something-v2-train.json",
        lambda root: any(something_labels(root, split) for split in SPLITS),
    ),
    Sign("ego4d", "v2/annotations/narration.json or fho_main.json", _has_ego4d),
    Sign("epic_kitchens_100", "EPIC_100_train.csv", lambda root: any(epic_table(root, n) for n in EPIC_CSV.values())),
    Sign("h2o", "subject1/<scene>/<take>", lambda root: next(h2o_takes(root), None) is not None),
    Sign(
        "frame_folders",
        "manifest.csv or train/<embodiment>/<video>/0.png",
        lambda root: (root / MANIFEST).is_file() or is_xirl(root),
    ),
    Sign("folder", "any video or folder of images", holds_clips),
)
"""In this order: a captions file was written by the person who asks, the rest came with the download."""


def detect_layout(root: str | Path) -> str:
    """Which of `LAYOUTS` the folder ``root`` has; `UnderstudyError` saying what was looked for when it has none."""
    root = _folder(root)
    for sign in SIGNS:
        if sign.holds(root):
            return sign.layout
    looked_for = "; ".join(f"{sign.words} ({sign.layout})" for sign in SIGNS)
    raise UnderstudyError(f"{root} has none of the layouts that are known; looked for: {looked_for}")


def read_clips(root: str | Path, *, layout: str = "auto", split: str = "train", allow_missing: bool = False) -> Clips:
    """List the clips of a corpus without decoding any.

    Args:
        root: its folder.
        layout: one of `LAYOUTS`, or ``auto``.
        split: ``train``, ``validation`` or ``test``.
        allow_missing: leave clips out whose video is not on disk, and name them in the result.

    Raises:
        UnderstudyError: for an unknown layout or split, a list that cannot be read, a clip that points into privileged
            data, no clips at all, and clips that are not on disk.
    """
    root = _folder(root)
    layout = detect_layout(root) if layout == "auto" else layout
    if layout not in LAYOUTS:
        raise unknown("layout", layout, [*LAYOUTS, "auto"])
    split = SHORT.get(split, split)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    listed = LAYOUTS[layout](root, split)
    if not listed:
        raise UnderstudyError(f"{root} has no clips of the split {split!r} (as {layout})")
    twice = [name for name, count in Counter(clip.name for clip in listed).items() if count > 1]
    if twice:
        raise UnderstudyError(f"{root} lists {len(twice)} clips more than once: {named(twice)}")
    missing = _missing(listed, root)
    if missing and (not allow_missing or len(missing) == len(listed)):
        raise UnderstudyError(
            f"{len(missing)} of {len(listed)} clips of {root} are not on disk: {named([s.name for s in missing])}; "
            f"{missing[0].reason}; fetch them, or leave them out (allow_missing=true)"
        )
    absent = {skipped.name for skipped in missing}
    present = tuple(clip for clip in listed if clip.name not in absent)
    return Clips(root, layout, split, present, tuple(missing))


def _folder(root: str | Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise UnderstudyError(f"there is no folder {root}; give the path of a corpus (nothing is ever downloaded)")
    refuse_privileged(root)
    return root


def _missing(listed: Sequence[Clip], root: Path) -> list[Skipped]:
    """Those that are not on disk; each path is looked at once, as thousands of clips may share a video."""
    there: dict[Path, bool] = {}
    missing = []
    for clip in listed:
        place = place_of(clip.source)
        if place not in there:
            refuse_privileged(place, named_by=str(root))
            there[place] = is_there(clip.source)
        if not there[place]:
            missing.append(Skipped(clip.name, f"there is no {place}"))
    return missing


def named(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:LISTED]) + (f", … ({len(names)} in all)" if len(names) > LISTED else "")


def warn_skipped(skipped: Sequence[Skipped], total: int) -> None:
    """Log how many clips were left out, which, and why the first one."""
    if skipped:
        names = named([entry.name for entry in skipped])
        logger.warning("%d of %d clips are left out: %s; the first: %s", len(skipped), total, names, skipped[0].reason)
