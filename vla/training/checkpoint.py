"""The state of a run, for an exact resume: safetensors and JSON, never pickle.

    training_state/
      step-00000010/  model.safetensors  ema.safetensors  optimizer.safetensors  state.json

A state is written under another name and renamed when it is whole; the one before it is deleted after that. There is
no generator's state to keep: all randomness of a step follows from (seed, step, rank).

What is written does not depend on how many processes trained, nor on whether the model was in shards.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vla.errors import UnderstudyError, first_line
from vla.training.sharding import gather, part_of, scatter, whole_of

FOLDER = "training_state"


@dataclass
class TrainingState:
    """All that changes while training; ``ema`` is ``None`` when no average is kept."""

    model: nn.Module
    """what is trained"""
    optimizer: torch.optim.Optimizer
    ema: AveragedModel | None
    step: int = 0
    whole: nn.Module | None = None
    """where ``model`` and ``ema`` are in shards: the whole model, into which either is gathered"""

    def save(self, run: Path) -> None:
        """Write the state of ``step`` into ``run``, then drop older ones."""
        folder = run / FOLDER
        target = folder / f"step-{self.step:08d}"
        part = folder / f"{target.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, piece in self.pieces():
            write = save_file if isinstance(piece, dict) else save_model
            write(piece, str(part / f"{name}.safetensors"))
        (part / "state.json").write_text(json.dumps({"step": self.step}))
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        for other in folder.iterdir():
            if other != target:
                shutil.rmtree(other)

    def pieces(self) -> Iterator[tuple[str, nn.Module | dict[str, Tensor]]]:
        """What `save` writes, one whole thing after the other; with shards, every process must go through them all."""
        if self.whole is not None:
            gather(self.model, self.whole)
        yield "model", self._one
        yield "optimizer", _optimizer_tensors(self.optimizer)
        if self.ema is not None:
            with self._whole_average(self.ema) as average:
                if self.whole is not None:
                    gather(average, self.whole)
                yield "ema", self.ema

    @property
    def _one(self) -> nn.Module:
        return self.model if self.whole is None else self.whole

    def load(self, run: Path) -> None:
        """Take over the newest whole state in ``run``; raises `UnderstudyError` when it does not fit."""
        folder = newest(run)
        if folder is None:
            raise UnderstudyError(f"there is nothing to resume in {run}: it has no {FOLDER}/step-*")
        try:
            self._load_weights(folder)
            _restore_optimizer(self.optimizer, load_file(folder / "optimizer.safetensors"))
        except (RuntimeError, OSError, SafetensorError) as error:
            raise UnderstudyError(
                f"{folder} does not fit this configuration ({first_line(error)}); "
                "resume with the settings it was begun with"
            ) from error
        self.step = json.loads((folder / "state.json").read_text())["step"]

    def _load_weights(self, folder: Path) -> None:
        load_model(self._one, folder / "model.safetensors")
        if self.whole is not None:
            scatter(self.whole, self.model)
        if self.ema is not None:
            with self._whole_average(self.ema) as average:
                load_model(self.ema, folder / "ema.safetensors")
                if self.whole is not None:
                    scatter(self.whole, average)

    @contextmanager
    def _whole_average(self, ema: AveragedModel) -> Iterator[nn.Module]:
        """Meanwhile ``ema`` is around the whole model, if there is one; gives what it is around otherwise."""
        average = ema.module
        ema.module = average if self.whole is None else self.whole
        try:
            yield average
        finally:
            ema.module = average

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Meanwhile the model, the whole one where there are shards, has the averaged weights."""
        self.take_average()
        try:
            yield
        finally:
            if self.whole is None:
                self.take_average()

    def take_average(self) -> None:
        """The model gets the averaged weights, and the average its own; or the whole model a copy of the average."""
        if self.ema is None:
            return
        if self.whole is not None:
            gather(self.ema.module, self.whole)
            return
        for mine, theirs in zip(self.model.parameters(), self.ema.module.parameters(), strict=True):
            mine.data, theirs.data = theirs.data, mine.data


def newest(run: Path) -> Path | None:
    """The newest whole state of a run, if there is one."""
    states = [path for path in (run / FOLDER).glob("step-*") if path.suffix != ".part"]
    return max(states, default=None)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``"parameter.entry"`` → tensor, e.g. ``"3.exp_avg"``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{entry}": whole_of(torch.as_tensor(value).detach()).contiguous()
        for number, entries in state.items()
        for entry, value in entries.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, entry = name.partition(".")
        state.setdefault(int(number), {})[entry] = part_of(tensor, parameters[int(number)])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
