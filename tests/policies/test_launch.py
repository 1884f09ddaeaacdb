"""Several processes train one model: as one process does with the same batch, and one goes on where several stopped."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file

from policies.train import TrainConfig, launcher
from vla.config import load


@pytest.fixture
def train(make_dataset, tmp_path):
    """``train(name, *overrides)``: the command, in processes of its own; the losses of its steps."""
    dataset = make_dataset()

    def run(name, *overrides):
        out = tmp_path / name
        plain = ["policy=cogact_l1", "preset=tiny", f"data={dataset.root}", f"out={out}", "trainer.precision=fp32"]
        steady = ["trainer.schedule=constant", "trainer.log_every=1", "trainer.save_every=2"]
        command = [sys.executable, "-m", "vla", "train", *plain, *steady, *overrides]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return out, [json.loads(line)["loss"] for line in lines], done.stderr

    return run


@pytest.mark.slow
def test_two_processes_are_one_with_the_same_batch(train):
    one, alone, _ = train("one", "trainer.batch_size=8", "trainer.steps=4")
    two, together, said = train("two", "trainer.batch_size=4", "trainer.steps=4", "launch=ddp", "processes=2")
    assert "torch.distributed.run --nproc-per-node=2 --standalone -m vla train" in said
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_one_goes_on_where_two_stopped(train):
    _, alone, _ = train("one", "trainer.batch_size=8", "trainer.steps=4")
    train("both", "trainer.batch_size=4", "trainer.steps=2", "launch=ddp", "processes=2")
    _, resumed, _ = train("both", "trainer.batch_size=8", "trainer.steps=4", "resume=true")
    np.testing.assert_allclose(resumed, alone, rtol=1e-4)


def test_the_command_of_a_cluster_names_its_meeting_place():
    words = ["data=d", "launch=ddp", "processes=8", "nodes=4", "node=2", "meet=10.0.0.1:4000"]
    command = launcher(load(TrainConfig, "train", words), words)
    assert command[1:9] == [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=8",
        "--nnodes=4",
        "--node-rank=2",
        "--master-addr=10.0.0.1",
        "--master-port=4000",
        "-m",
    ]
    assert command[9:] == ["vla", "train", *words]
