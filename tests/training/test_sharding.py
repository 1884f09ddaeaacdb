"""A model in shards: split and put together again, half on each of two processes, and trained as it is whole."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule

from vla.errors import UnderstudyError
from vla.training.checkpoint import newest
from vla.training.sharding import average_in_shards, gather, part_of, scatter, shards_of, whole_of
from vla.training.trainer import TrainerConfig, average_of, train

SCRIPT = Path(__file__).parent / "in_shards.py"
CPU = torch.device("cpu")


@pytest.fixture
def _group():
    """This process as a group of its own."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def stack():
    return runpy.run_path(str(SCRIPT))["Stack"]


@pytest.fixture
def two(tmp_path):
    """The folder of what two processes did."""
    group = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    command = [*group, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return tmp_path


@pytest.mark.usefixtures("_group")
def test_each_block_is_split_for_itself_and_the_model_stays_whole(stack):
    model = stack()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shards = shards_of(model, CPU)
    apart = [name for name, module in shards.named_modules() if isinstance(module, FSDPModule)]
    assert apart == ["", "blocks.0", "blocks.1"]
    assert [name for name, _ in shards.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert [p.requires_grad for p in shards.parameters()] == [p.requires_grad for p in model.parameters()]
    for value in shards.parameters():
        value.detach().add_(1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.usefixtures("_group")
def test_to_scatter_and_to_gather_gives_the_same(stack):
    model, other = stack(), stack()
    for value in other.parameters():
        value.detach().mul_(3)
    other.calls.fill_(7)
    shards = shards_of(model, CPU)
    scatter(other, shards)
    gather(shards, model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())
    weight = next(shards.parameters())
    assert torch.equal(whole_of(part_of(torch.ones(16, 4), weight)), torch.ones(16, 4))
    assert whole_of(torch.ones(2)).tolist() == part_of(torch.ones(2), weight).tolist() == [1, 1]


@pytest.mark.usefixtures("_group")
def test_an_average_shares_in_shards_what_it_shared_whole(stack):
    model = stack()
    ema = average_of(model, TrainerConfig())
    ema.module.eye.weight = model.eye.weight
    shards = shards_of(model, CPU)
    average_in_shards(ema.module, model, shards)
    assert ema.module.eye.weight is shards.eye.weight
    assert ema.module.out.weight is not shards.out.weight
    ema.update_parameters(shards)
    shards.out.weight.detach().add_(1)
    ema.update_parameters(shards)
    moved = whole_of(ema.module.out.weight.detach()) - model.out.weight
    torch.testing.assert_close(moved, torch.full_like(moved, 2**-0.75))


@pytest.mark.usefixtures("_group")
def test_a_single_number_cannot_be_split():
    model = nn.Linear(2, 2)
    model.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(UnderstudyError, match="parameter scale is a single number"):
        shards_of(model, CPU)


def test_one_process_alone_has_nothing_to_split(tmp_path, make_model, batches):
    model = make_model()
    assert train(model, batches, TrainerConfig(steps=2, sharded=True), tmp_path) is model
    assert not any(isinstance(module, FSDPModule) for module in model.modules())


@pytest.mark.slow
def test_two_processes_hold_a_half_each_and_train_one_model(two, tmp_path, stack):
    script = runpy.run_path(str(SCRIPT))
    for held in (json.loads((two / f"held-{rank}.json").read_text()) for rank in (0, 1)):
        assert held.keys() == {"weights", "average", "moments"}
        for own, everything in held.values():
            assert own == pytest.approx(everything / 2, rel=0.05)  # three rows are two and one

    def four(number):
        return {"x": torch.cat([script["batch"](4 * number + part)["x"] for part in range(4)])}

    model = train(stack(), four, TrainerConfig(steps=4, **script["SETTINGS"]), tmp_path / "alone")
    handed, alone = load_file(two / "handed.safetensors"), dict(model.state_dict())
    assert handed.pop("calls") == 2 * alone.pop("calls")
    torch.testing.assert_close(handed, alone)
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (load_file(newest(tmp_path / run) / f"{name}.safetensors") for run in ("alone", "run"))
        for key in ours.keys() - {"calls", "module.calls"}:
            torch.testing.assert_close(theirs[key], ours[key], rtol=1e-4, atol=1e-5)
    rows = [[json.loads(line) for line in (two / run / "metrics.jsonl").open()] for run in ("alone", "run")]
    for ours, theirs in zip(*rows, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-5)
    # A Ctrl-C on one process: both stop after the same step, with a whole state.
    step = json.loads((newest(two / "stopped") / "state.json").read_text())["step"]
    assert 9 // 2 <= step < 1000
