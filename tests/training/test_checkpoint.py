"""States to resume from: whole, fitting, and only the newest."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vla.errors import UnderstudyError
from vla.training.checkpoint import TrainingState, newest


def state_of(width=4, steps=3):
    torch.manual_seed(width)
    model = nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(steps):
        model(torch.ones(1, width)).sum().backward()
        optimizer.step()
    return TrainingState(model, optimizer, None, step=steps)


def test_only_the_newest_whole_state_is_kept(tmp_path):
    state = state_of()
    for step in (3, 7, 10):
        state.step = step
        state.save(tmp_path)
        assert [path.name for path in (tmp_path / "training_state").iterdir()] == [f"step-{step:08d}"]
    (tmp_path / "training_state" / "step-00000099.part").mkdir()
    assert newest(tmp_path).name == "step-00000010"
    state.save(tmp_path)  # the same step again, and the torn one is swept away
    assert [path.name for path in (tmp_path / "training_state").iterdir()] == ["step-00000010"]
    assert newest(tmp_path / "nowhere") is None


def test_loading_brings_back_weights_moments_and_step(tmp_path):
    state, fresh = state_of(), state_of(steps=0)
    state.save(tmp_path)
    fresh.load(tmp_path)
    assert fresh.step == 3
    torch.testing.assert_close(fresh.model.state_dict(), state.model.state_dict(), rtol=0, atol=0)
    one, two = fresh.optimizer.state_dict()["state"], state.optimizer.state_dict()["state"]
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_a_state_of_other_sizes_is_refused(tmp_path):
    state_of(width=4).save(tmp_path)
    with pytest.raises(UnderstudyError, match="does not fit this configuration"):
        state_of(width=5, steps=0).load(tmp_path)


@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_a_missing_file_is_refused(tmp_path, name):
    state_of().save(tmp_path)
    (newest(tmp_path) / f"{name}.safetensors").unlink()
    with pytest.raises(UnderstudyError, match="does not fit this configuration"):
        state_of(steps=0).load(tmp_path)


@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_a_torn_file_is_refused(tmp_path, name):
    state_of().save(tmp_path)
    path = newest(tmp_path) / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UnderstudyError):
        state_of(steps=0).load(tmp_path)


def test_a_weight_too_few_is_refused(tmp_path):
    state_of().save(tmp_path)
    save_file({"weight": torch.zeros(2, 4)}, newest(tmp_path) / "model.safetensors")
    with pytest.raises(UnderstudyError, match="bias"):
        state_of(steps=0).load(tmp_path)


def test_the_state_is_plain_json_and_tensors(tmp_path):
    state_of().save(tmp_path)
    assert json.loads((newest(tmp_path) / "state.json").read_text())["step"] == 3
    assert {path.suffix for path in newest(tmp_path).iterdir()} == {".json", ".safetensors"}
