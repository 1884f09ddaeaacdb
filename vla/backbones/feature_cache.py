"""What a frozen vision-language model makes of a dataset, computed once and kept on disk (`vla.data.kept`).

A row is the cognition feature of one frame under its episode's instruction, without proprio. Whoever trains a head on
them needs no vision-language model in memory.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState

from vla.backbones.hub_config import HubVLMConfig, is_elsewhere
from vla.data.kept import MakeRows, kept_rows
from vla.data.windows import Windows
from vla.errors import UnderstudyError

if TYPE_CHECKING:
    from vla.backbones.hub import HubVLM


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

    def prepare() -> MakeRows:
        backbone, device = make().to(PartialState().device).eval(), PartialState().device

        def rows(numbers: np.ndarray) -> np.ndarray:
            images = {name: torch.from_numpy(frames[numbers]).to(device) for name, frames in windows.frames.items()}
            text = backbone.tokenize([windows.instructions[number] for number in windows.instruction_of[numbers]])
            with torch.inference_mode():
                return backbone.features(images, text.to(device)).float().cpu().numpy()

        return rows

    return kept_rows(folder, key, len(windows.ends), prepare, what="features")
