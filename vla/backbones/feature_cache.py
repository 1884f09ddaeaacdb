"""What a frozen vision-language model makes of a dataset, computed once and kept on disk.

    features/  features.json   what they were made from, and how many rows are there
               features.npy    [frames, D] float32, read through a memory map

A row is the cognition feature of one frame under its episode's instruction, without proprio. Whoever trains a head on
them needs no vision-language model in memory.
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vla.backbones.hub_config import HubVLMConfig, is_elsewhere
from vla.data.windows import Windows
from vla.errors import UnderstudyError

if TYPE_CHECKING:
    from vla.backbones.hub import HubVLM

ABOUT, ARRAY = "features.json", "features.npy"
BATCH, KEPT = 32, 16
"""Frames at a time; batches between two notes of how far it has come."""

logger = logging.getLogger(__name__)


def key_of(config: HubVLMConfig, about: Mapping[str, str], windows: Windows, *, data: str) -> dict[str, Any]:
    """All that decides the features: the model's weights, the prompt, what becomes of a picture, the data's hash."""
    if not is_elsewhere(config) or config.lora is not None or config.cognition == "learned":
        raise UnderstudyError(
            "features are kept of a model of which nothing learns: give policy.vlm.freeze=vlm, no policy.vlm.lora, "
            "policy.vlm.cognition=end and weights that are not random"
        )
    return {
        "model": about["name"],
        "weights": about["weights"],
        "prompt": config.prompt,
        "image_size": config.image_size,
        "precision": config.precision,
        "cameras": list(windows.frames),
        "data": data,
    }


def features_of(folder: Path, key: Mapping[str, Any], windows: Windows, make: Callable[[], "HubVLM"]) -> np.ndarray:
    """Features [frames, D] of all frames of ``windows``, from ``folder`` or made and put there; a stopped run goes on.

    ``make`` is called when something is left to do. Raises `UnderstudyError` when ``folder`` holds features that were
    made from something else, and names what differs.
    """
    total = len(windows.ends)
    told = json.loads((folder / ABOUT).read_text()) if (folder / ABOUT).is_file() else None
    if told is not None and told["key"] != dict(key):
        other = [name for name in key if told["key"].get(name) != key[name]]
        was = ", ".join(f"{name} {told['key'].get(name)!r} instead of {key[name]!r}" for name in other)
        raise UnderstudyError(f"the features in {folder} are stale: made with {was}; delete the folder or give another")
    if told is None or told["done"] < total:
        backbone = make().to(PartialState().device).eval()
        done = 0 if told is None else told["done"]
        _fill(folder, key, windows, backbone, done=done)
    return np.load(folder / ARRAY, mmap_mode="r")


def _fill(folder: Path, key: Mapping[str, Any], windows: Windows, backbone: "HubVLM", *, done: int) -> None:
    total, device = len(windows.ends), PartialState().device
    folder.mkdir(parents=True, exist_ok=True)
    mode, shape = ("r+", None) if done else ("w+", (total, backbone.width))
    array = np.lib.format.open_memmap(folder / ARRAY, mode=mode, dtype=np.float32, shape=shape)
    bars = (TextColumn("features"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bars, TextColumn("left"), TimeRemainingColumn()) as progress, torch.inference_mode():
        bar = progress.add_task("features", total=total, completed=done)
        for start in range(done, total, BATCH):
            rows = np.arange(start, min(start + BATCH, total))
            images = {name: torch.from_numpy(frames[rows]).to(device) for name, frames in windows.frames.items()}
            text = backbone.tokenize([windows.instructions[number] for number in windows.instruction_of[rows]])
            array[rows] = backbone.features(images, text.to(device)).cpu().numpy()
            progress.update(bar, completed=int(rows[-1]) + 1)
            if start // BATCH % KEPT == KEPT - 1 or rows[-1] + 1 == total:
                array.flush()
                (folder / ABOUT).write_text(json.dumps({"key": dict(key), "done": int(rows[-1]) + 1}, indent=2) + "\n")
    logger.info("features of %d frames in %s", total, folder)
