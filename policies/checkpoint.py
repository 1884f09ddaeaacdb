"""The files of a policy's checkpoint, and how its weights are read."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

from policies.policy import WEIGHTS_FILE
from vla.errors import UnderstudyError, first_line

WEIGHTS, CONFIG, NORMALIZER = WEIGHTS_FILE, "config.yaml", "normalizer.json"


def check_files(folder: Path, *names: str) -> None:
    """Raise `UnderstudyError` for a checkpoint that lacks a file."""
    for name in names:
        if not (folder / name).is_file():
            raise UnderstudyError(f"the checkpoint {folder} lacks {name}; copy the whole folder or train again")


def read_weights(model: nn.Module, folder: Path) -> None:
    """Fill ``model`` from a checkpoint, onto the GPU if there is one; every weight must be there."""
    try:
        load_model(model, folder / WEIGHTS)
    except (RuntimeError, OSError, SafetensorError) as error:
        raise UnderstudyError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {first_line(error)}") from error
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
