"""One picture of a dataset: frames of several episodes from first to last, and their actions over time."""

from pathlib import Path

import numpy as np

from vla.data.lerobot_reader import Dataset
from vla.data.video import resized

EPISODES = 6
FRAMES = 6
TILE = 128
"""Longest side of a frame in the picture [px]."""
INCH = 1.35


def write_contact_sheet(dataset: Dataset, arrays: list[dict[str, np.ndarray]], path: Path) -> Path:
    """Draw up to `EPISODES` episodes spread over the dataset, one a row, and write a PNG to ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = np.unique(np.linspace(0, len(arrays) - 1, min(EPISODES, len(arrays))).round().astype(int)).tolist()
    cameras = [camera.name for camera in dataset.spec.cameras]
    columns = FRAMES if cameras else 0
    figure = Figure(figsize=(INCH * (columns + 4), INCH * len(chosen) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(chosen), columns + 3)
    for row, index in enumerate(chosen):
        length = dataset.episodes[index].length
        if cameras:
            # A camera a row in turn: all of them are seen, and only one is decoded for each episode.
            camera = cameras[row % len(cameras)]
            steps = np.linspace(0, length - 1, FRAMES).round().astype(int)
            frames = dataset.frames(index, camera)[steps]
            for column, (step, frame) in enumerate(zip(steps, frames, strict=True)):
                axes = figure.add_subplot(grid[row, column])
                axes.imshow(_tile(frame))
                axes.set_axis_off()
                axes.set_title(f"{index}: {camera}" if column == 0 else f"{step}", fontsize=6, loc="left")
        axes = figure.add_subplot(grid[row, columns:])
        axes.plot(np.arange(length) / dataset.spec.fps, arrays[index]["actions"], linewidth=0.7)
        axes.tick_params(labelsize=5)
        axes.set_title(_title(dataset, index), fontsize=6, loc="left")
    figure.supxlabel("actions over time [s]", fontsize=6, x=0.85)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path


def _tile(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = min(1.0, TILE / max(height, width))
    return resized(frame, (max(1, round(height * scale)), max(1, round(width * scale))))


def _title(dataset: Dataset, index: int) -> str:
    info = dataset.episodes[index]
    mark = {True: "succeeded", False: "failed", None: ""}[info.success]
    words = info.instruction if len(info.instruction) <= 60 else info.instruction[:59] + "…"
    return f"{words} {mark}".strip().replace("$", r"\$")
