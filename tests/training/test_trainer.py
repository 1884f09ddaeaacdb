"""The training loop: an exact resume, accumulation, the average, and what it refuses."""

import json
import math
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from vla.errors import UnderstudyError
from vla.training.checkpoint import newest
from vla.training.trainer import TrainerConfig, learning_rate, train

STEPS = 20


def config(**changes):
    plain = {"steps": STEPS, "batch_size": 8, "lr": 1e-2, "warmup": 5, "ema": 0.9, "precision": "fp32", "log_every": 2}
    return TrainerConfig(**{**plain, "save_every": 1000, **changes})


def saved(run):
    """Every tensor of the newest state, and its ``state.json``."""
    folder = newest(run)
    tensors = {
        f"{file.stem}.{name}": tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
    return tensors, json.loads((folder / "state.json").read_text())


def assert_same(one, two):
    assert one[1] == two[1]
    assert one[0].keys() == two[0].keys()
    different = [name for name in one[0] if not torch.equal(one[0][name], two[0][name])]
    assert not different


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def stopping_at(batches, number, error=KeyboardInterrupt):
    def until(index):
        if index == number:
            raise error
        return batches(index)

    return until


def test_stopped_and_resumed_is_as_if_never_stopped(tmp_path, make_model, batches):
    whole = train(make_model(), batches, config(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(make_model(), stopping_at(batches, 10), config(), tmp_path / "parts")
    assert saved(tmp_path / "parts")[1]["step"] == 10
    torch.manual_seed(12345)
    torch.randn(7)  # nothing may hang on the generator that the stopped run left
    parts = train(make_model(seed=99), batches, config(), tmp_path / "parts", resume=True)
    assert_same(saved(tmp_path / "whole"), saved(tmp_path / "parts"))
    assert equal(weights(whole), weights(parts))


def test_two_times_ten_steps_are_twenty(tmp_path, make_model, batches):
    constant = {"schedule": "constant"}
    whole = train(make_model(), batches, config(**constant), tmp_path / "whole")
    train(make_model(), batches, config(steps=10, **constant), tmp_path / "parts")
    parts = train(make_model(seed=99), batches, config(**constant), tmp_path / "parts", resume=True)
    assert_same(saved(tmp_path / "whole"), saved(tmp_path / "parts"))
    assert equal(weights(whole), weights(parts))


def test_a_killed_run_goes_on_from_its_last_state(tmp_path, make_model, batches):
    train(make_model(), batches, config(), tmp_path / "whole")
    killed = stopping_at(batches, 14, RuntimeError("killed"))
    with pytest.raises(RuntimeError, match="killed"):
        train(make_model(), killed, config(save_every=5), tmp_path / "parts")
    assert saved(tmp_path / "parts")[1]["step"] == 10
    train(make_model(), batches, config(), tmp_path / "parts", resume=True)
    assert_same(saved(tmp_path / "whole"), saved(tmp_path / "parts"))


def test_a_stop_within_a_step_is_as_if_never_stopped(tmp_path, make_model, batches, monkeypatch):
    train(make_model(), batches, config(), tmp_path / "whole")
    update = AveragedModel.update_parameters

    def interrupted(self, model):
        if self.n_averaged == 10:
            signal.raise_signal(signal.SIGINT)
        update(self, model)

    with monkeypatch.context() as patch:
        patch.setattr(AveragedModel, "update_parameters", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(make_model(), batches, config(), tmp_path / "parts")
    train(make_model(), batches, config(), tmp_path / "parts", resume=True)
    assert_same(saved(tmp_path / "whole"), saved(tmp_path / "parts"))


def test_a_run_depends_on_its_seed_alone(tmp_path, make_model, batches):
    runs = [(0, "a"), (0, "b"), (1, "c")]
    results = [weights(train(make_model(), batches, config(seed=seed), tmp_path / name)) for seed, name in runs]
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])


def test_every_logged_step_has_one_line_also_after_a_resume(tmp_path, make_model, batches):
    with pytest.raises(RuntimeError):
        train(make_model(), stopping_at(batches, 11, RuntimeError), config(save_every=6), tmp_path)
    assert [row["step"] for row in metrics(tmp_path)] == [2, 4, 6, 8, 10]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')  # a line that a kill cut in two
    train(make_model(), batches, config(steps=21), tmp_path, resume=True)
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [*range(2, 21, 2), 21]
    assert all(math.isfinite(row[name]) for row in rows for name in ("loss", "grad_norm", "lr", "samples_per_s"))


def test_a_folder_that_holds_a_run_is_refused(tmp_path, make_model, batches):
    train(make_model(), batches, config(steps=2), tmp_path)
    before = saved(tmp_path)
    with pytest.raises(UnderstudyError, match=r"already holds a run; give resume=true"):
        train(make_model(), batches, config(), tmp_path)
    assert_same(saved(tmp_path), before)


def test_nothing_to_resume_is_an_error(tmp_path, make_model, batches):
    with pytest.raises(UnderstudyError, match="nothing to resume"):
        train(make_model(), batches, config(), tmp_path, resume=True)


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path, make_model, batches):
    first = train(make_model(), batches, config(), tmp_path)
    state, rows = saved(tmp_path), metrics(tmp_path)
    again = train(make_model(seed=99), batches, config(), tmp_path, resume=True)
    assert_same(saved(tmp_path), state)
    assert metrics(tmp_path) == rows
    assert equal(weights(first), weights(again))


class Spoilt(nn.Module):
    """NaN from a step on."""

    def __init__(self, start):
        super().__init__()
        self.weight, self.start, self.calls = nn.Parameter(torch.ones(3)), start, 0

    def forward(self, batch):
        self.calls += 1
        factor = float("nan") if self.calls > self.start else 1.0
        return factor * self.weight.square().sum()


@pytest.mark.parametrize("start", [0, 3, 19])
def test_a_loss_that_is_no_number_is_an_error(tmp_path, batches, start):
    with pytest.raises(UnderstudyError, match=r"the loss is nan at step \d+; lower trainer.lr"):
        train(Spoilt(start), batches, config(log_every=7), tmp_path)


def test_a_spoilt_state_never_replaces_a_good_one(tmp_path, batches):
    with pytest.raises(UnderstudyError):
        train(Spoilt(7), batches, config(log_every=20, save_every=5), tmp_path)
    assert all(tensor.isfinite().all() for tensor in saved(tmp_path)[0].values())


def test_a_stop_does_not_save_what_is_spoilt(tmp_path, batches):
    with pytest.raises((KeyboardInterrupt, UnderstudyError)):
        train(Spoilt(7), stopping_at(batches, 9), config(log_every=20, save_every=5), tmp_path)
    assert all(tensor.isfinite().all() for tensor in saved(tmp_path)[0].values())


class SpoiltGradient(nn.Module):
    """A finite loss with a gradient that is not, at a step."""

    def __init__(self, step):
        super().__init__()
        self.weight, self.step, self.calls = nn.Parameter(torch.ones(3)), step, 0

    def forward(self, batch):
        self.calls += 1
        loss = self.weight.square().sum()
        return loss + torch.sqrt(self.weight[0] - self.weight[0]) if self.calls == self.step else loss


def test_a_gradient_that_is_no_number_does_not_spoil_the_state(tmp_path, batches):
    with pytest.raises(UnderstudyError):
        train(SpoiltGradient(10), batches, config(log_every=20, save_every=5), tmp_path)
    assert all(tensor.isfinite().all() for tensor in saved(tmp_path)[0].values())


class Plain(nn.Module):
    """A regression without any randomness."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, batch):
        return (self.net(batch["x"]) - batch["x"].sum(1, keepdim=True)).abs().mean()


def test_two_passes_of_eight_are_one_of_sixteen(tmp_path, batches):
    def large(number):
        return {"x": torch.cat([batches(2 * number)["x"], batches(2 * number + 1)["x"]])}

    constant = {"schedule": "constant", "log_every": 1}
    two = train(Plain(), batches, config(grad_accumulation=2, **constant), tmp_path / "two")
    one = train(Plain(), large, config(batch_size=16, **constant), tmp_path / "one")
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    for a, b in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        assert (a["step"], a["lr"]) == (b["step"], b["lr"])
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], abs=1e-4)


def test_the_batches_asked_for_are_numbered_without_gap_or_repeat(tmp_path, make_model, batches):
    asked = []

    def spy(number):
        asked.append(number)
        return batches(number)

    train(make_model(), spy, config(steps=5, grad_accumulation=3), tmp_path)
    assert asked == list(range(15))


def test_a_model_is_told_of_each_step_and_tells_what_to_log(tmp_path, make_model, batches):
    model, told = make_model(), []
    model.after_step = lambda step, steps: told.append((step, steps))
    model.metrics = lambda: {"steps_so_far": torch.tensor(float(len(told)))}
    train(model, batches, config(steps=4, grad_accumulation=3), tmp_path)
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert [(row["step"], row["steps_so_far"]) for row in metrics(tmp_path)] == [(2, 2.0), (4, 4.0)]


def test_what_is_saved_and_returned_is_the_average(tmp_path, make_model, batches):
    model, seen = make_model(), []
    train(model, batches, config(steps=9, save_every=3), tmp_path, on_save=lambda: seen.append(weights(model)))
    state, _ = saved(tmp_path)
    assert len(seen) == 3
    assert not equal(seen[-1], {name: state[f"model.{name}"] for name in seen[-1]})
    assert equal(seen[-1], weights(model))
    for name, parameter in model.named_parameters():
        assert torch.equal(state[f"ema.module.{name}"], parameter)


def test_the_average_is_that_of_the_weights_on_the_way(tmp_path, batches):
    """With the warm-up's decays, ``1 - (1 + n)^-0.75`` at update n, bounded by ``ema``."""
    model, way = Plain(), []

    def note():
        state, _ = saved(tmp_path)
        way.append(state["model.net.0.weight"])

    shadow = model.net[0].weight.detach().clone()
    train(model, batches, config(steps=6, save_every=1), tmp_path, on_save=note)
    for update, weight in enumerate(way):
        decay = min(0.9, 1 - (1 + update) ** -0.75)
        shadow = decay * shadow + (1 - decay) * weight
    torch.testing.assert_close(model.net[0].weight, shadow)


def test_some_parameters_learn_more_slowly(tmp_path, make_model, batches):
    """Adam's first step is the learning rate in size, whatever the gradient's."""
    model, plan = make_model(), config(steps=1, warmup=0, ema=0, weight_decay=0)
    before = weights(model)
    train(model, batches, plan, tmp_path, lr_scale=lambda name: 0.1 if name == "net.0.bias" else 1.0)
    moved = {name: float((tensor - before[name]).abs().max()) for name, tensor in weights(model).items()}
    assert moved["net.0.weight"] == pytest.approx(1e-2, rel=0.01)
    assert moved["net.0.bias"] == pytest.approx(1e-3, rel=0.01)


def test_saving_does_not_disturb_the_training(tmp_path, make_model, batches):
    train(make_model(), batches, config(), tmp_path / "never")
    train(make_model(), batches, config(save_every=2), tmp_path / "often", on_save=lambda: torch.randn(3))
    assert_same(saved(tmp_path / "never"), saved(tmp_path / "often"))


def test_without_an_average_the_weights_themselves_are_kept(tmp_path, make_model, batches):
    model = train(make_model(), batches, config(ema=0), tmp_path)
    state, _ = saved(tmp_path)
    assert not any(name.startswith("ema.") for name in state)
    assert equal({f"model.{name}": tensor for name, tensor in weights(model).items()}, state)


def test_training_lowers_the_loss_and_leaves_the_frozen_alone(tmp_path, make_model, batches):
    model = train(make_model(), batches, config(steps=200, log_every=10, ema=0), tmp_path)
    losses = [row["loss"] for row in metrics(tmp_path)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert torch.equal(model.unused, torch.ones(2))
    assert not model.training


def test_the_learning_rate_warms_up_and_falls_to_zero():
    plan = config(steps=100, warmup=10, lr=2.0)
    rates = [learning_rate(plan, step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    steady = config(steps=100, warmup=10, lr=2.0, schedule="constant")
    assert {learning_rate(steady, step) for step in range(10, 300)} == {2.0}
    assert learning_rate(config(warmup=0), 0) == pytest.approx(1e-2)
