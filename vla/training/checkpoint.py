"""The state of a run, for an exact resume: safetensors and JSON, never pickle.

    training_state/
      step-00000010/  model.safetensors  ema.safetensors  optimizer.safetensors  state.json

A state is written under another name and renamed when it is whole; the one before it is deleted after that. There is
no generator's state to keep: all randomness of a step follows from (seed, step, rank).
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vla.errors import UnderstudyError, first_line

FOLDER = "training_state"


@dataclass
class TrainingState:
    """All that changes while training; ``ema`` is ``None`` when no average is kept."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: AveragedModel | None
    step: int = 0

    def save(self, run: Path) -> None:
        """Write the state of ``step`` into ``run``, then drop older ones."""
        folder = run / FOLDER
        target = folder / f"step-{self.step:08d}"
        part = folder / f"{target.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_model(self.model, str(part / "model.safetensors"))
        save_file(_optimizer_tensors(self.optimizer), part / "optimizer.safetensors")
        if self.ema is not None:
            save_model(self.ema, str(part / "ema.safetensors"))
        (part / "state.json").write_text(json.dumps({"step": self.step}))
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        for other in folder.iterdir():
            if other != target:
                shutil.rmtree(other)

    def load(self, run: Path) -> None:
        """Take over the newest whole state in ``run``; raises `UnderstudyError` when it does not fit."""
        folder = newest(run)
        if folder is None:
            raise UnderstudyError(f"there is nothing to resume in {run}: it has no {FOLDER}/step-*")
        try:
            load_model(self.model, folder / "model.safetensors")
            if self.ema is not None:
                load_model(self.ema, folder / "ema.safetensors")
            _restore_optimizer(self.optimizer, load_file(folder / "optimizer.safetensors"))
        except (RuntimeError, OSError, SafetensorError) as error:
            raise UnderstudyError(
                f"{folder} does not fit this configuration ({first_line(error)}); "
                "resume with the settings it was begun with"
            ) from error
        self.step = json.loads((folder / "state.json").read_text())["step"]


def newest(run: Path) -> Path | None:
    """The newest whole state of a run, if there is one."""
    states = [path for path in (run / FOLDER).glob("step-*") if path.suffix != ".part"]
    return max(states, default=None)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``"parameter.entry"`` → tensor, e.g. ``"3.exp_avg"``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{entry}": torch.as_tensor(value).detach().contiguous()
        for number, entries in state.items()
        for entry, value in entries.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, entry = name.partition(".")
        state.setdefault(int(number), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
