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


def assert_close(one, two, atol=1e-4):
    """Two checkpoints, and the states that they were saved with, hold the same numbers but for rounding.

    Adam makes steps of a whole learning rate out of a gradient that is nothing but rounding.
    """
    for pattern in ("model.safetensors", "training_state/*/*.safetensors"):
        files = [sorted(folder.glob(pattern)) for folder in (one, two)]
        assert [path.name for path in files[0]] == [path.name for path in files[1]] != []
        for ours, theirs in zip(*files):
            tensors, others = load_file(ours), load_file(theirs)
            assert tensors.keys() == others.keys()
            for name, value in tensors.items():
                np.testing.assert_allclose(others[name], value, rtol=1e-3, atol=atol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["ddp", "fsdp"])
def test_two_processes_are_one_with_the_same_batch(train, launch):
    one, alone, _ = train("one", "trainer.batch_size=8", "trainer.steps=4")
    two, together, said = train("two", "trainer.batch_size=4", "trainer.steps=4", f"launch={launch}", "processes=2")
    assert "torch.distributed.run --nproc-per-node=2 --standalone -m vla train" in said
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert_close(one, two)


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes(train):
    one, alone, _ = train("one", "trainer.batch_size=8", "trainer.steps=8")
    train("both", "trainer.batch_size=8", "trainer.steps=2")
    for steps, launch in ((4, "fsdp"), (6, "ddp")):
        two = ("trainer.batch_size=4", f"launch={launch}", "processes=2")
        train("both", *two, f"trainer.steps={steps}", "resume=true")
    both, resumed, _ = train("both", "trainer.batch_size=8", "trainer.steps=8", "resume=true")
    np.testing.assert_allclose(resumed, alone, rtol=1e-4)
    assert_close(one, both, atol=1e-3)


@pytest.mark.slow
def test_adapters_of_a_frozen_model_learn_in_shards(train, tiny_vlm, tmp_path):
    """What is frozen is in bf16, the adapters beside it in float32."""
    folder = tiny_vlm.save_tiny("prismatic", tmp_path / "vlm")
    vlm = f"policy.vlm={{path: {folder}, image_size: 56, lora: {{rank: 4}}, gradient_checkpointing: true}}"
    steady = ("trainer.steps=3", "policy.vlm.precision=bf16")
    one, alone, _ = train("one", vlm, *steady, "trainer.batch_size=8")
    two, together, _ = train("two", vlm, *steady, "trainer.batch_size=4", "launch=fsdp", "processes=2")
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert_close(one, two, atol=1e-3)


@pytest.mark.parametrize("launch", ["ddp", "fsdp"])
def test_the_command_of_a_cluster_names_its_meeting_place(launch):
    words = ["data=d", f"launch={launch}", "processes=8", "nodes=4", "node=2", "meet=10.0.0.1:4000"]
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
