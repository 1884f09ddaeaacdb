"""What `test_sharding` starts as two processes: a run in shards, and one that is stopped on one process alone."""

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor

from vla.training.checkpoint import TrainingState
from vla.training.trainer import TrainerConfig, train

SETTINGS = {
    "batch_size": 4,
    "lr": 1e-2,
    "warmup": 2,
    "ema": 0.9,
    "precision": "fp32",
    "schedule": "constant",
    "log_every": 1,
}


class Stack(nn.Module):
    """A frozen layer, two blocks that learn and a running sum that is no weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.eye = nn.Linear(4, 16).requires_grad_(False)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(2))
        self.out = nn.Linear(16, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch):
        self.calls += 1
        x = self.eye(batch["x"])
        for block in self.blocks:
            x = x + block(x)
        return (self.out(x) - batch["x"][:, :3].cumsum(1)).square().mean()


def batch(number):
    """Batch ``number``, of four samples."""
    return {"x": torch.randn(4, 4, generator=torch.Generator().manual_seed(number))}


def stopping(number):
    """From the tenth batch on with a Ctrl-C, on the second process alone."""
    if number >= 9 and PartialState().process_index == 1:
        signal.raise_signal(signal.SIGINT)
    return batch(number)


def look_at(state, out):
    """Write what this process holds of all numbers, moments and averages included."""
    moments = [value for entries in state.optimizer.state.values() for value in entries.values() if value.ndim]
    held = {"weights": state.model.parameters(), "average": state.ema.module.parameters(), "moments": moments}
    sizes = {}
    for name, tensors in held.items():
        tensors = list(tensors)
        assert all(isinstance(tensor, DTensor) for tensor in tensors), name
        sizes[name] = [sum(t.to_local().numel() for t in tensors), sum(t.numel() for t in tensors)]
    (out / f"held-{PartialState().process_index}.json").write_text(json.dumps(sizes))


def main(out):
    """The two runs."""
    pieces, model = TrainingState.pieces, Stack()

    def watched(state):
        look_at(state, out)
        return pieces(state)

    def save():
        save_file(model.state_dict(), out / "handed.safetensors")

    TrainingState.pieces = watched
    plan = TrainerConfig(steps=4, grad_accumulation=2, sharded=True, **SETTINGS)
    train(model, batch, plan, out / "run", on_save=save)
    if PartialState().is_main_process:
        handed = load_file(out / "handed.safetensors")
        assert all(torch.equal(handed[name], value) for name, value in model.state_dict().items())
    with pytest.raises(KeyboardInterrupt):
        train(Stack(), stopping, TrainerConfig(steps=1000, sharded=True, **SETTINGS), out / "stopped")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
