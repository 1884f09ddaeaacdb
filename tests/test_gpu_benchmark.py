"""The benchmark of large models on a GPU: what it says where there is none, what it builds, and all of it, tiny."""

import json

import pytest
import torch

from policies import hastened
from vla import bench
from vla.bench import script
from vla.errors import UnderstudyError

gpu = script("gpu")


@pytest.mark.parametrize("argv", [[], ["--size", "tiny"], ["--device", "cpu"]])
def test_without_a_gpu_it_says_how_to_try_it(argv, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnderstudyError, match="vla bench gpu --device cpu --size tiny"):
        bench.main(["gpu", *argv])


@pytest.mark.parametrize(("name", "billions"), [("paligemma-3b", 3.0), ("prismatic-7b", 7.5)])
def test_the_models_are_as_large_as_they_are_called(name, billions):
    policy = gpu.made(name, "full", torch.device("meta"))
    assert sum(one.numel() for one in policy.model.parameters()) == pytest.approx(1e9 * billions, rel=0.02)
    assert sum(one.numel() for one in policy.model.head.parameters()) == pytest.approx(88e6, rel=0.02)
    assert policy.model.backbone.static
    ids = policy.model.backbone.tokenize([gpu.INSTRUCTION])
    assert (ids == policy.model.backbone.family.config.image_token_id).sum() == 2 * 256
    assert policy.model.head.config.guidance == 1.5
    assert len(list(policy.model.head.steps())) == 10


def test_a_floor_is_the_longer_of_the_two():
    rates = gpu.Rates(flops=1e12, read=1e9)
    assert rates.least(2e12, 1e9) == 2
    assert rates.least(1e12, 3e9) == 3


def test_the_floor_counts_products_and_the_weights_that_are_read():
    policy = gpu.made("paligemma-3b", "tiny", torch.device("cpu"))
    backbone, head = policy.model.backbone, policy.model.head
    table = sum(one.numel() for one in backbone.vlm.get_input_embeddings().parameters())
    read = sum(one.numel() * one.element_size() for one in backbone.parameters())
    size = next(backbone.parameters()).element_size()
    seconds = gpu.floors(policy, gpu.Rates(flops=1e30, read=1.0))
    assert seconds["tokens"] == read - size * table
    assert seconds["head"] == 10 * 4 * sum(one.numel() for one in head.denoiser.parameters())
    work = gpu.floors(policy, gpu.Rates(flops=1.0, read=1e30))
    blocks = sum(one.numel() for one in head.denoiser.blocks.parameters() if one.ndim > 1)
    assert work["head"] > 10 * 2 * 2 * 17 * blocks


def test_the_training_step_learns_everything():
    policy = gpu.made("paligemma-3b", "tiny", torch.device("cpu"), learns=True)
    assert all(parameter.requires_grad for parameter in policy.model.backbone.vlm.parameters())
    frozen = gpu.made("paligemma-3b", "tiny", torch.device("cpu"))
    assert frozen.model.backbone.frozen


def test_every_step_of_it_runs(tmp_path, monkeypatch):
    """But for the compiler, which `tests/policies/test_hastened.py` tries."""
    monkeypatch.setattr(hastened, "quick", lambda head, context, *, compiled: head.sample)
    file = tmp_path / "gpu.json"
    bench.main(["gpu", "--device", "cpu", "--size", "tiny", "--json", str(file)])
    found = json.loads(file.read_text("utf-8"))
    rows = {row["name"]: row for row in found["rows"]}
    for name in gpu.NAMES:
        for way in ("eager", "graphs", "hastened"):
            assert 0 < rows[f"{name}, {way}: all"]["p50"] <= rows[f"{name}, {way}: all"]["p99"]
        assert {f"{name}, hastened: {stage}" for stage in ("capture", "tokens", "head", "chunk")} <= set(rows)
        floor, answer = rows[f"{name}: floor"]["value"], rows[f"{name}, hastened: all"]["p50"]
        assert found["ratios"][f"p50_vs_floor {name}"] == pytest.approx(floor / answer)
        assert 0 < floor < answer
    assert 0 < found["ratios"]["train_vs_products paligemma-3b"] < 1
    assert "tiny size" in " ".join(found["notes"])
