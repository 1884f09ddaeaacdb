"""How the camera moved: directions of motion out of a video, by visual odometry with OpenCV, and a dataset of them.

    motion = motion_between(before, after, camera_matrix(320, 60.0))
    motion.direction    # [3], of length 1: x right, y down, z forward, as the first picture has it

Corners are followed by Lucas and Kanade's flow, there and back; the essential matrix of those that come back (MAGSAC)
says which way the camera went and how it turned. One camera knows no scale, so every direction has length 1; where
almost nothing moved in the picture, the camera stood still. Each step has a ``quality``, 0 to 1: the share of the
corners that agree.

That is enough for a distance to be learned from films: ``vla data motion FILMS DATASET``, then ``vla train
policy=manipulate_by_seeing policy.directions=true`` and ``vla progress``. It is not enough for an arm to be driven:
directions are the camera's, which no arm knows, and nothing says when a gripper closed. It wants texture and light, a
camera that does not only turn, and a static part of the picture that is larger than what moves by itself.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from vla.data.frames import fit_image
from vla.data.human_clips import Clip, film_at
from vla.data.human_video import read_clips
from vla.data.lerobot import DatasetSpec, EpisodeWriter, open_dataset
from vla.data.lerobot_format import INFO, QUALITY
from vla.errors import UnderstudyError
from vla.types import ActionSpec, CameraSpec, Episode, Task

logger = logging.getLogger(__name__)

SIDE = 320
"""Pixels a side in which motion is looked for."""
CORNERS, LEAST = 600, 24
"""Followed at most; that must come back, or the camera's motion is unknown."""
STILL, BACK = 0.4, 1.0
"""Pixels: a median flow below, and nothing moved; a corner that comes back farther away is lost."""
INLIER, SURE, FAR = 1.0, 0.999, 1000.0
"""Pixels from where the motion has a corner; confidence; steps of the camera up to which a corner tells its side."""
TRUSTED = 0.2
"""Quality below which a direction is not believed, and left out as if nothing had moved."""
CAMERA, EMBODIMENT = "wrist", "camera in the hand"


@dataclass(frozen=True)
class Motion:
    """``direction`` [3] of length 1, or 0; ``rotation`` [3, 3] of the second camera in the first; ``quality`` 0…1."""

    direction: np.ndarray
    rotation: np.ndarray
    quality: float


def camera_matrix(side: int, fov: float) -> np.ndarray:
    """Of a square picture with a field of view of ``fov`` degrees, [3, 3]."""
    if not 10 <= fov <= 150:
        raise UnderstudyError(f"the field of view is 10 to 150 degrees, got {fov}")
    focal = side / 2 / np.tan(np.radians(fov) / 2)
    return np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])


def motion_between(before: np.ndarray, after: np.ndarray, matrix: np.ndarray) -> Motion:
    """How the camera moved from one picture [H, W, 3] uint8 to the next."""
    unknown = Motion(np.zeros(3), np.eye(3), 0.0)
    gray = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (before, after)]
    corners = cv2.goodFeaturesToTrack(gray[0], CORNERS, 0.01, 5)
    if corners is None:
        return unknown
    there, found, _ = cv2.calcOpticalFlowPyrLK(*gray, corners, None)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(*gray[::-1], there, None)
    kept = (found & returned).ravel().astype(bool) & (np.linalg.norm(back - corners, axis=2).ravel() < BACK)
    if kept.sum() < LEAST:
        return unknown
    start, end = corners[kept][:, 0], there[kept][:, 0]
    if np.median(np.linalg.norm(end - start, axis=1)) < STILL:
        return Motion(np.zeros(3), np.eye(3), 1.0)
    essential, mask = cv2.findEssentialMat(start, end, matrix, cv2.USAC_MAGSAC, SURE, INLIER)
    if essential is None or essential.shape != (3, 3):
        return unknown
    agreed = int(mask.sum())
    _, turn, shift, *_ = cv2.recoverPose(essential, start, end, matrix, FAR, mask=mask)
    return Motion(-(turn.T @ shift)[:, 0], turn.T, agreed / len(corners))


def motions(film: np.ndarray, fov: float) -> list[Motion]:
    """From each frame of ``film`` [T, H, W, 3] to the next, and none after the last: T of them."""
    matrix = camera_matrix(film.shape[1], fov)
    found = [motion_between(film[number], film[number + 1], matrix) for number in range(len(film) - 1)]
    return [*found, Motion(np.zeros(3), np.eye(3), 0.0)]


def dataset_of(videos: Path, target: Path, *, fov: float, rate: float, image_size: int) -> list[float]:
    """The mean quality of each film that was added to the dataset ``target``; those that are in it are left alone.

    ``fov``: degrees that the shorter side of the picture sees; ``rate`` [Hz] at which frames are looked at.
    """
    camera_matrix(SIDE, fov)
    spec = DatasetSpec(
        fps=rate,
        cameras=(CameraSpec(CAMERA, image_size, image_size),),
        proprio_names=(),
        action=ActionSpec("ee_delta", ("delta_x", "delta_y", "delta_z"), (-1.0,) * 3, (1.0,) * 3, frame="camera"),
        embodiment=EMBODIMENT,
        fingerprint=f"egomotion {fov:g} degrees",
        extras=(QUALITY,),
    )
    there, qualities = (target / INFO).is_file(), []
    done = {info.source for info in open_dataset(target).episodes} if there else set()
    left = [clip for clip in read_clips(videos).clips if f"filmed {clip.name}" not in done]
    with EpisodeWriter(target, spec, resume=there) as writer:
        for clip in track(left, "motion", console=Console(stderr=True)):
            try:
                episode = _episode(clip, spec, fov)
            except UnderstudyError as error:
                logger.warning("left out: %s", error)
                continue
            writer.save(episode)
            qualities.append(float(episode.extras[QUALITY].mean()))
    return qualities


def _episode(clip: Clip, spec: DatasetSpec, fov: float) -> Episode:
    film = film_at(clip, size=SIDE, rate_hz=spec.fps)
    found, size = motions(film, fov), spec.cameras[0].height
    small = np.stack([fit_image(frame, size) for frame in film])
    return Episode(
        images={CAMERA: lambda: small},
        proprio=np.zeros((len(film), 0), np.float32),
        actions=np.array([motion.direction * (motion.quality >= TRUSTED) for motion in found], np.float32),
        task=Task(clip.caption),
        fps=spec.fps,
        embodiment=spec.embodiment,
        success=None,
        source=f"filmed {clip.name}",
        stamps_ns=np.round(np.arange(len(film)) * 1e9 / spec.fps).astype(np.int64),
        extras={QUALITY: np.array([motion.quality for motion in found], np.float32)},
    )
