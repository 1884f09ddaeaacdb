"""``vla progress``: how far from the goal each frame of a video is, by a distance that was learned from recordings.

What `policies.manipulate_by_seeing` plans by is a reward too, and a progress bar for any video from the same camera:
one minus the cosine between a frame's state and the goal's, 0 (there) to 2.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from policies.policy import load_policy
from vla.config import help_text, load, wants_help
from vla.data.frames import fit_image
from vla.data.video import encode_mp4
from vla.errors import UnderstudyError
from vla.prompt import read_goal, read_video
from vla.representation.evaluation.value import monotone_fraction, spearman

EXAMPLE = "vla progress policy=outputs/train video=recordings/films/clips/000000.mp4"
AT_ONCE = 256


@dataclass
class ProgressConfig:
    """Which video, how far from what."""

    policy: Path
    """checkpoint that has a distance (``vla train policy=manipulate_by_seeing``)"""
    video: Path
    goal: Path | None = None
    """a picture, or a video, whose last frame it is; none: the last frame of ``video``"""
    out: Path = Path("outputs/progress")


def main(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = "Plot how far from a goal each frame of a video is, and film it."
        sys.stdout.write(help_text(ProgressConfig, verb="progress", about=about, example=EXAMPLE, name="progress"))
        return 0
    config = load(ProgressConfig, "progress", argv)
    found = progress(config)
    sys.stdout.write(
        f"from {found['distance'][0]:.2f} to {found['distance'][-1]:.2f}; nearer at {found['nearer']:.0%} of the "
        f"frames, rank correlation with time {found['spearman']:.2f}: {config.out}/progress.png\n"
    )
    return 0


def progress(config: ProgressConfig) -> dict:
    """The distances [T] and what they amount to, which are written with a plot and a film into ``config.out``."""
    policy = load_policy(config.policy)
    if getattr(getattr(policy, "config", None), "learns", "") != "distance":
        raise UnderstudyError(f"{config.policy} has no distance; train one with vla train policy=manipulate_by_seeing")
    size = policy.config.image_size
    frames, seconds = read_video(config.video, policy.spec.control_hz, lambda picture: fit_image(picture, size))
    hz = len(frames) / seconds
    goal = read_goal(config.goal or config.video)
    distance = np.concatenate(
        [policy.distances(frames[start : start + AT_ONCE], goal) for start in range(0, len(frames), AT_ONCE)]
    )
    time = np.arange(len(frames)) / hz
    found = {
        "seconds": time.round(4).tolist(),
        "distance": distance.round(5).tolist(),
        "spearman": spearman(distance, time) if len(frames) > 1 else 0.0,
        "nearer": monotone_fraction(-distance) if len(frames) > 1 else 0.0,
    }
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "progress.json").write_text(json.dumps(found, indent=2) + "\n")
    _plot(time, distance, config.out / "progress.png")
    (config.out / "progress.mp4").write_bytes(encode_mp4(_film(frames, distance), hz))
    return found


def _plot(time: np.ndarray, distance: np.ndarray, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(time, distance)
    axes.set(xlabel="time [s]", ylabel="distance to the goal", ylim=(0, None))
    figure.savefig(path, dpi=120)


def _film(frames: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The frames with a bar below that fills as the goal comes nearer."""
    size = frames.shape[2]
    bar = np.zeros((len(frames), max(4, size // 16), size, 3), np.uint8)
    share = 1 - distance / max(float(distance.max()), 1e-6)
    filled = np.arange(size)[None, None] < (size * share)[:, None, None]
    bar[np.broadcast_to(filled, bar.shape[:3])] = (60, 200, 90)
    return np.concatenate([frames, bar], axis=1)
