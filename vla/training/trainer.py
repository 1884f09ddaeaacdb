"""One loop for every model: one process, DDP or shards, EMA, accumulation, mixed precision, an exact resume.

A model is any ``nn.Module`` whose call with a batch gives a scalar loss. Batches come from a function of the batch's
number, so step *s* sees the same data, noise and dropout whether or not the run was stopped before it.

It may have two members more: ``after_step(step, steps)``, called after each optimizer step, for weights that follow
others; and ``metrics()``, scalar tensors of its last call by name, logged beside the loss.

Every hidden source of state is a function of the step: the learning rate, the batch, the generators' seed. Only the
weights, their average and the optimizer's moments are saved (`vla.training.checkpoint`).
"""

import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel

from vla.errors import UnderstudyError
from vla.training.checkpoint import TrainingState, newest
from vla.training.precision import Precision, bf16_is_fast
from vla.training.sharding import average_in_shards, shards_of
from vla.training.tracking import Tracker

Batch = dict[str, Tensor]

logger = logging.getLogger(__name__)


@dataclass
class TrainerConfig:
    """How to train."""

    steps: int = 1000
    """optimizer steps"""
    batch_size: int = 64
    """samples in one forward pass on one device"""
    grad_accumulation: int = 1
    """forward passes for each optimizer step"""
    lr: float = 1e-3
    warmup: int = 50
    """steps of linear warm-up"""
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.01
    """of matrices; biases, gains and other vectors are not decayed"""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's"""
    grad_clip: float = 1.0
    ema: float = 0.999
    """largest decay of the weights' average, which is what gets saved; 0 keeps none"""
    precision: Precision = "auto"
    """``auto``: bf16 where the processor multiplies it in hardware"""
    seed: int = 0
    log_every: int = 20
    save_every: int = 500
    """steps between two states to resume from"""
    sharded: bool = False
    """with several processes, each holds its part of weights, average and moments instead of all (``launch=fsdp``)"""


def learning_rate(config: TrainerConfig, step: int) -> float:
    """The rate of optimizer step ``step`` (counted from 0): linear warm-up, then constant or a cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "constant":
        return config.lr * warm
    progress = max(0, step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(
    model: nn.Module,
    batch: Callable[[int], Batch],
    config: TrainerConfig,
    run: Path,
    *,
    resume: bool = False,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
    on_save: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Train ``model`` for ``config.steps`` optimizer steps; afterwards it holds the averaged weights.

    ``batch(n)`` gives batch *n* (global over ranks and accumulation); ``run``: the folder for metrics and states;
    ``lr_scale``: a parameter's name → factor on its learning rate; ``on_save``: called on the main process with the
    averaged weights in the model, each time a state was saved. Ctrl-C saves a state first, then raises on. With
    ``config.sharded`` what is trained is a twin of ``model``, and only the main process has the weights in the end.
    """
    run.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision="no")  # its own setting would hold for the whole process
    use_bf16 = config.precision == "bf16" or (config.precision == "auto" and bf16_is_fast(accelerator.device))
    state = _begin(model, config, accelerator, lr_scale)
    if resume:
        state.load(run)
    elif newest(run) is not None:
        raise UnderstudyError(f"{run} already holds a run; give resume=true to go on, or another folder")
    loop = _Loop(accelerator, *_prepared(state, accelerator), batch, config)
    loop.autocast = torch.autocast(accelerator.device.type, torch.bfloat16, enabled=use_bf16)
    loop.sharded = state.whole is not None
    saving = _Saving(state, run, on_save, main=accelerator.is_main_process)
    with Tracker(run, steps=config.steps, start=state.step, quiet=not accelerator.is_main_process) as tracker:
        try:
            _run(loop, state, saving, tracker)
        except KeyboardInterrupt:
            saving()
            raise
    saving()
    state.take_average()
    return model.eval()


def _begin(
    model: nn.Module, config: TrainerConfig, accelerator: Accelerator, lr_scale: Callable[[str], float]
) -> TrainingState:
    if not (config.sharded and accelerator.num_processes > 1):
        optimizer = make_optimizer(model, config, lr_scale)
        model.to(accelerator.device).train()
        return TrainingState(model, optimizer, average_of(model, config))
    shards = shards_of(model.train(), accelerator.device)
    ema = average_of(model, config)
    if ema is not None:
        average_in_shards(ema.module, model, shards)
    return TrainingState(shards, make_optimizer(shards, config, lr_scale), ema, whole=model)


def _prepared(state: TrainingState, accelerator: Accelerator) -> tuple[nn.Module, torch.optim.Optimizer]:
    """What takes the steps; and where there are shards, only the main process keeps the whole model."""
    if state.whole is None:
        return accelerator.prepare(state.model, state.optimizer)
    if not accelerator.is_main_process:
        state.whole.to("meta")
    return state.model, state.optimizer


def make_optimizer(
    model: nn.Module, config: TrainerConfig, lr_scale: Callable[[str], float] = lambda name: 1.0
) -> torch.optim.AdamW:
    """AdamW over what is to be learned: a group for each ``scale`` of the learning rate, with and without decay."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((lr_scale(name), parameter.ndim > 1), []).append(parameter)
    scaled = [
        {"params": parameters, "scale": scale, "weight_decay": config.weight_decay * decayed}
        for (scale, decayed), parameters in groups.items()
    ]
    return torch.optim.AdamW(scaled, config.lr, betas=config.betas, fused=True)


def average_of(model: nn.Module, config: TrainerConfig) -> AveragedModel | None:
    """The exponential moving average of the weights; update *n* decays by ``1 - (1 + n)^-0.75``, at most by ``ema``.

    PyTorch's own: the one of diffusers does the same and takes seven seconds to import.
    """
    if config.ema == 0:
        return None

    def approach(averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
        decay = min(config.ema, 1 - (1 + updates.item()) ** -0.75)
        torch._foreach_lerp_(averages, weights, 1 - decay)

    return AveragedModel(model, multi_avg_fn=approach)


def _run(loop: "_Loop", state: TrainingState, saving: "_Saving", tracker: Tracker) -> None:
    config = loop.config
    with ThreadPoolExecutor(1) as loader, _noted() if loop.sharded else nullcontext([]) as earlier:
        upcoming = loader.submit(loop.load, state.step) if state.step < config.steps else None
        while state.step < config.steps:
            batches = upcoming.result()
            if state.step + 1 < config.steps:
                upcoming = loader.submit(loop.load, state.step + 1)
            with _noted() as pressed:  # weights, average and count must belong together again before a stop
                loss, norm, rate = loop.step(state.step, batches)
                if hasattr(state.model, "after_step"):
                    state.model.after_step(state.step, config.steps)
                if state.ema is not None:
                    state.ema.update_parameters(state.model)
                state.step += 1
            if loop.agree(stop=bool(pressed or earlier)):
                raise KeyboardInterrupt
            tracker.count(config.batch_size * config.grad_accumulation * loop.accelerator.num_processes)
            if state.step % config.log_every == 0 or state.step == config.steps:
                loss = loop.accelerator.reduce(loss, "mean")
                tracker.log(state.step, loss=float(loss), grad_norm=float(norm), lr=rate, **loop.metrics(state.model))
            if state.step % config.save_every == 0 and state.step < config.steps:
                saving()


@contextmanager
def _noted() -> Iterator[list[bool]]:
    """Ctrl-C does no more than lengthen the list that this gives."""
    pressed: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _check_finite(value: float, step: int, *, what: str = "loss") -> None:
    if not math.isfinite(value):
        raise UnderstudyError(f"the {what} is {value} at step {step}; lower trainer.lr, or set trainer.precision=fp32")


class _Saving:
    """Saves the state, and the averaged model through ``on_save``."""

    def __init__(self, state: TrainingState, run: Path, on_save: Callable[[], None], *, main: bool) -> None:
        self._state, self._run, self._on_save, self._main = state, run, on_save, main

    def __call__(self) -> None:
        if self._main:
            self._state.save(self._run)
        elif self._state.whole is None:
            return
        else:
            for _ in self._state.pieces():
                pass
        with self._state.averaged():
            if self._main:
                self._on_save()


class _Loop:
    """One optimizer step on one rank."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Callable[[int], Batch],
        config: TrainerConfig,
    ) -> None:
        self.accelerator, self.config = accelerator, config
        self._model, self._optimizer, self._batch = model, optimizer, batch
        self.autocast: AbstractContextManager[object] = nullcontext()
        self.sharded = False

    def load(self, step: int) -> list[Batch]:
        """The batches of this rank for one optimizer step."""
        ranks, passes = self.accelerator.num_processes, self.config.grad_accumulation
        first = (step * ranks + self.accelerator.process_index) * passes
        return [self._batch(first + number) for number in range(passes)]

    def agree(self, *, stop: bool) -> bool:
        """Whether to stop: with shards, as soon as one process is to, since a state is saved by all together."""
        if not self.sharded:
            return stop
        asked = torch.tensor(float(stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum") > 0)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """What ``model`` tells of its last call, mean over the ranks."""
        told = model.metrics() if hasattr(model, "metrics") else {}
        return {name: float(self.accelerator.reduce(value, "mean")) for name, value in told.items()}

    def step(self, step: int, batches: list[Batch]) -> tuple[Tensor, Tensor, float]:
        """Loss, gradient norm and learning rate of one optimizer step."""
        accelerator, rate = self.accelerator, learning_rate(self.config, step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        torch.manual_seed(hash((self.config.seed, step, accelerator.process_index)) & 0x7FFF_FFFF)
        total = torch.zeros((), device=accelerator.device)
        for number, batch in enumerate(batches):
            on_device = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
            last = number == len(batches) - 1
            with nullcontext() if last else accelerator.no_sync(self._model):
                with self.autocast:
                    loss = self._model(on_device) / len(batches)
                accelerator.backward(loss)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(self._model.parameters(), self.config.grad_clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        _check_finite(float(total), step + 1)  # before it spoils the weights
        _check_finite(float(norm), step + 1, what="norm of the gradient")
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total, norm, rate
