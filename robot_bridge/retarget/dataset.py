"""A retargeted video as an episode of a LeRobot dataset: what the camera saw, what the arm would be told, how sure.

    time of the arm   0 ── 0.1 ── 0.2 ── …                       ``hz`` rows a second
    picture           the video's frame at the hand's own time then, which stands still while the gripper moves
    action            the arm's setpoints one row later
    quality           of its segment's verdict, halved where the hand was not seen; training mixes by it

The pictures show a hand where the arm will be: such data teach what to do beside data of the arm, hardly without.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from robot_bridge.arms.arm import ArmSpec
from robot_bridge.demonstration import demo_spec
from robot_bridge.retarget.folder import why_not
from robot_bridge.retarget.hands import Floats
from robot_bridge.retarget.pacing import JointPath
from robot_bridge.retarget.quality import Verdict
from robot_bridge.retarget.retarget import Retargeted
from vla.data.frames import fit_image
from vla.data.lerobot import DatasetSpec, EpisodeWriter, open_dataset
from vla.data.lerobot_format import INFO, QUALITY
from vla.data.video import every_frame
from vla.errors import UnderstudyError
from vla.types import CameraSpec, Episode, Task

TRUST: Mapping[Verdict, float] = {"execute": 1.0, "check": 0.5, "reject": 0.0}
UNSEEN = 0.5
"""Share of the trust that is left in a row whose hand was not seen."""
EXTRAS = (QUALITY, "seen", "reprojection_px", "inverse_mm")


def write_episode(
    made: Retargeted,
    video: Path,
    out: Path,
    *,
    arm: ArmSpec,
    instruction: str,
    hz: float = 10.0,
    image_size: int = 224,
) -> int:
    """Add a video to the dataset ``out``, and return its rows; a video that is in it already is left alone (0 rows).

    ``video``: the first of those that it was made of, whose camera's name the pictures have.

    Raises `UnderstudyError` for a video that is not to be trusted, and for a dataset of another arm, camera or rate.
    """
    if made.joints is None or made.quality.verdict == "reject":
        raise UnderstudyError(f"{video} is nothing to learn from: {why_not(made.quality.to_dict())}")
    camera = next(iter(made.tracks))
    spec = DatasetSpec(
        fps=hz,
        cameras=(CameraSpec(camera, image_size, image_size),),
        proprio_names=(),
        action=demo_spec(arm, hz).action,
        embodiment=arm.embodiment,
        fingerprint="retargeted",
        extras=EXTRAS,
    )
    there = (out / INFO).is_file()
    source = f"retargeted {video.resolve()}"
    if there and source in {info.source for info in open_dataset(out).episodes}:
        return 0
    actions, source_s = rows_of(made.joints, hz)
    pictures = shown_at(video, source_s, image_size)
    stamps = np.round(np.arange(len(actions)) * 1e9 / hz).astype(np.int64)
    episode = Episode(
        images={camera: lambda: pictures},
        proprio=np.zeros((len(actions), 0), np.float32),
        actions=actions,
        task=Task(instruction),
        fps=hz,
        embodiment=arm.embodiment,
        success=None,
        source=source,
        stamps_ns=stamps,
        extras=columns(made, source_s),
    )
    with EpisodeWriter(out, spec, resume=there) as writer:
        writer.save(episode)
    return len(actions)


def rows_of(path: JointPath, hz: float) -> tuple[np.ndarray, Floats]:
    """Setpoints [T, D] float32, of row t those at (t + 1) / ``hz``, and the video's time [T] at t / ``hz``."""
    at = np.arange(0.0, path.stamps[-1], 1 / hz)
    later = np.minimum(np.searchsorted(path.stamps, at + 1 / hz), len(path.stamps) - 1)
    return path.joints[later].astype(np.float32), np.interp(at, path.stamps, path.source_s)


def shown_at(video: Path, times: Floats, size: int) -> np.ndarray:
    """The pictures [T, size, size, 3] that a video shows at ``times`` [T] s, ascending."""
    out, filled, last = np.zeros((len(times), size, size, 3), np.uint8), 0, np.zeros((size, size, 3), np.uint8)
    for stamp, frame in every_frame(video):
        upto = int(np.searchsorted(times, stamp - 1e-6))
        out[filled:upto], filled, last = last, upto, fit_image(frame, size)
    out[filled:] = last
    return out


def columns(made: Retargeted, source_s: Floats) -> dict[str, np.ndarray]:
    """`EXTRAS` at the video's times [T]: zeros in place of what a lift does not tell."""
    stamps, path = made.path.stamps, made.path
    frame = np.clip(np.searchsorted(stamps, source_s, side="right") - 1, 0, len(stamps) - 1)
    trust = np.zeros(len(source_s))
    for segment in made.quality.segments:
        trust[source_s >= segment.start_s - 1e-6] = TRUST[segment.verdict]
    seen = path.measured[frame]
    rows = {
        QUALITY: trust * np.where(seen, 1.0, UNSEEN),
        "seen": seen,
        "reprojection_px": np.nan_to_num(path.error_px[frame]),
        "inverse_mm": 1e3 * np.nan_to_num(made.solved.position_m[frame]),
    }
    return {name: np.asarray(values, np.float32) for name, values in rows.items()}
