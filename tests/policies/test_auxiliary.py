"""Auxiliary objectives: their values, what they may not touch, and that a run with them is still one exact run."""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from policies.auxiliary.act_jepa import JepaConfig, StateEncoder, masked_l1, spread_of
from policies.auxiliary.momentum import Momentum
from policies.auxiliary.taco import info_nce, logistic
from policies.cogact import CogACT
from policies.policy import load_policy
from policies.train import TrainConfig, TrainingBatches, run
from vla.config import load
from vla.errors import UnderstudyError
from vla.training.trainer import TrainerConfig
from vla.types import Observation, Task

JEPA = ("policy.auxiliary.jepa.weight=1", "policy.auxiliary.jepa.steps=4", "policy.auxiliary.jepa.width=32")
FRAMES = (*JEPA, "policy.auxiliary.jepa.target=observations", "policy.auxiliary.jepa.steps=2")
PREMIER = ("policy.auxiliary.taco.weight=0.1", "policy.auxiliary.taco.hidden=32")
TACO = (*PREMIER, "policy.auxiliary.taco.negatives=batch")
WAYS = {"jepa": JEPA, "frames": FRAMES, "premier": PREMIER, "taco": TACO, "both": (*JEPA, *PREMIER)}
BOTH = (*FRAMES, *PREMIER)


def batches_of(policy, windows, **settings):
    return TrainingBatches(policy, windows, TrainerConfig(batch_size=8), **{"shift": 0, **settings})


def action_loss(policy, batch):
    """The loss of the head alone, and of all, in evaluation mode and with the same draws."""
    torch.manual_seed(5)
    whole = policy.model(batch).detach()
    return policy.model.metrics().get("action_loss", whole), whole


def settings(dataset, out, *overrides):
    plain = ["preset=tiny", f"data={dataset.root}", f"out={out}", "trainer.precision=fp32", "trainer.log_every=1"]
    return load(TrainConfig, "train", [*plain, "trainer.batch_size=4", *overrides])


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


# --- values ---------------------------------------------------------------------------------------------------------


def test_info_nce_of_known_logits():
    logits = torch.tensor([[2.0, 0.0, 9.0], [1.0, 1.0, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([True, True, False])
    expected = (math.log(math.e**2 + 1) - 2 + math.log(2)) / 2
    assert info_nce(logits, mask).item() == pytest.approx(expected, rel=1e-6)
    assert info_nce(logits + 500, mask).item() == pytest.approx(expected, rel=1e-4)
    assert info_nce(torch.zeros(5, 5), torch.ones(5, dtype=torch.bool)).item() == pytest.approx(math.log(5))
    assert info_nce(logits, torch.zeros(3, dtype=torch.bool)).item() == 0


def test_the_logistic_form_of_known_likeness():
    likeness = torch.tensor([[1.5, -0.5], [0.0, 0.0], [7.0, 7.0]])
    expected = -math.log(1 / (1 + math.exp(-1.5))) - math.log(1 - 1 / (1 + math.exp(0.5))) + 2 * math.log(2)
    mask = torch.tensor([True, True, False])
    assert logistic(likeness, mask).item() == pytest.approx(expected / 2, rel=1e-6)


def test_l1_ignores_padded_steps():
    foretold, target = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 3.0], [2.0, 2.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    assert masked_l1(foretold, target, mask).item() == 2.0
    assert masked_l1(foretold, target, ~mask).item() == 100.0
    assert masked_l1(foretold, target, mask & False).item() == 0.0


def test_spread_is_over_the_batch_not_over_steps():
    places = torch.arange(4.0)[None, :, None].expand(6, 4, 3)
    assert spread_of(places).item() == 0
    ends = torch.tensor([-2.0, 2.0])[:, None, None].expand(2, 4, 3)
    assert spread_of(ends).item() == 2


def test_an_encoding_knows_what_was_and_not_what_comes():
    encoder, states = StateEncoder(JepaConfig(width=16, heads=2), proprio_dim=3, token_dim=8), torch.randn(2, 5, 3)
    changed = torch.cat([states[:, :3], states[:, 3:] + 1], dim=1)
    one, two = encoder(states).tokens, encoder(changed).tokens
    torch.testing.assert_close(one[:, :3], two[:, :3])
    assert ((one - two)[:, 3:].abs().amax(-1) > 1e-3).all()
    earlier = torch.cat([states[:, :1] + 1, states[:, 1:]], dim=1)
    assert ((encoder(earlier).tokens - one).abs().amax(-1) > 1e-3).all()


# --- the moving average ---------------------------------------------------------------------------------------------


def test_the_average_is_the_formula_after_some_steps():
    torch.manual_seed(0)
    source = nn.Linear(3, 2)
    source.bias.requires_grad_(False)
    target, expected = Momentum(source), source.weight.detach().clone()
    assert [name for name, _ in target.named_buffers()] == ["weight"]
    for number in range(5):
        with torch.no_grad():
            source.weight.add_(torch.randn(2, 3))
        momentum = 0.5 + 0.1 * number
        expected = momentum * expected + (1 - momentum) * source.weight.detach()
        target.follow(source, momentum=momentum)
    torch.testing.assert_close(target.weight, expected)
    x = torch.randn(4, 3)
    asked = target(source, lambda: source(x))
    torch.testing.assert_close(asked, x @ expected.T + source.bias)
    assert not asked.requires_grad
    assert not torch.allclose(source(x), asked)


def test_the_average_is_asked_in_evaluation_mode_and_leaves_the_mode_alone():
    source = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    target, x = Momentum(source), torch.ones(2, 3)
    modes = []
    target(source, lambda: modes.append(source.training) or source(x))
    assert modes == [False]
    assert source.training
    assert source[1].training


@pytest.mark.parametrize("way", [JEPA, FRAMES], ids=["states", "observations"])
def test_the_target_follows_once_for_each_optimizer_step(make_dataset, make_policy, way):
    policy, windows = make_policy(make_dataset(), *way, "policy.auxiliary.jepa.momentum=[0.5,1.0]")
    jepa = policy.model.auxiliary["jepa"]
    source = policy.model.backbone if jepa.encoder is None else jepa.encoder
    name = "norm.weight" if jepa.encoder is None else "state.weight"
    jepa.restart(policy.model.backbone)
    expected = source.get_parameter(name).detach().clone()
    for step in range(4):
        with torch.no_grad():
            source.get_parameter(name).add_(1.0)
        policy.model(batches_of(policy, windows)(step))
        policy.model.after_step(step, 4)
        momentum = 0.5 + 0.5 * step / 4
        expected = momentum * expected + (1 - momentum) * source.get_parameter(name).detach()
    torch.testing.assert_close(jepa.target.get_buffer(name.replace(".", "/")), expected)


# --- what comes later -----------------------------------------------------------------------------------------------


def test_what_lies_ahead_stays_in_the_episode(make_dataset, make_policy):
    _, windows = make_policy(make_dataset())
    later = windows.ahead(np.array([0, 7, 8, 20]), np.array([0, 1, 3]))
    assert later.frames.tolist() == [[0, 1, 3], [7, 8, 8], [8, 8, 8], [20, 20, 20]]
    assert later.mask.tolist() == [[True] * 3, [True, True, False], [True, False, False], [True, False, False]]


def test_hard_negatives_are_others_of_the_same_episode_and_near(make_dataset, make_policy):
    _, windows = make_policy(make_dataset())
    frames, rng, seen = np.arange(len(windows.ends)), np.random.default_rng(0), {}
    for _ in range(200):
        beside = windows.beside(frames, 2, rng)
        drawn = beside.frames[:, 0]
        assert beside.mask.all()
        assert (windows.ends[drawn] == windows.ends[frames]).all()
        assert (drawn != frames).all()
        assert (np.abs(drawn - frames) <= 2).all()
        for frame in (0, 4, 8, 9):
            seen.setdefault(frame, set()).add(int(drawn[frame]))
    assert seen == {0: {1, 2}, 4: {2, 3, 5, 6}, 8: {6, 7}, 9: {10, 11}}
    lonely = replace(windows, ends=np.arange(1, len(frames) + 1)).beside(frames, 2, rng)
    assert not lonely.mask.any()
    assert (lonely.frames[:, 0] == frames).all()


def test_batches_are_a_function_of_their_number(make_dataset, make_policy):
    policy, windows = make_policy(make_dataset(), *BOTH)
    one, two, other = (batches_of(policy, windows, shift=8)(number) for number in (3, 3, 4))
    assert one["taco.image.front"].shape == (8, 2, 32, 32, 3)
    assert one["jepa.proprio"].shape == (8, 2, 4)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["taco.proprio"], other["taco.proprio"])
    plain, _ = make_policy(make_dataset(name="again"))
    alone = batches_of(plain, windows, shift=8)(3)
    assert all(torch.equal(one[key], alone[key]) for key in alone)


def test_states_ahead_are_those_of_the_dataset(make_dataset, make_policy):
    policy, windows = make_policy(make_dataset(), *JEPA)
    batches = batches_of(policy, windows)
    frames, batch = windows.samples[batches._sampler.indices(1)], batches(1)
    assert not any(key.startswith("jepa.image") for key in batch)
    normalize = policy.normalizers.get("test-arm", "proprio").normalize
    for place, frame in enumerate(frames):
        rows = windows.proprio[frame : min(frame + 5, windows.ends[frame])]
        np.testing.assert_array_equal(batch["jepa.proprio"][place, : len(rows)], normalize(rows))
        assert batch["jepa.mask"][place].sum() == len(rows)


# --- what it may not touch ------------------------------------------------------------------------------------------


def test_switched_off_there_is_nothing_of_it(make_dataset, make_policy, tmp_path):
    dataset = make_dataset()
    plain, windows = make_policy(dataset)
    off, _ = make_policy(dataset, "policy.auxiliary.jepa.weight=0", "policy.auxiliary.taco.weight=0")
    both, _ = make_policy(dataset, *BOTH)
    names = set(plain.model.state_dict())
    assert not any("auxiliary" in name for name in names)
    assert set(off.model.state_dict()) == names < set(both.model.state_dict())
    batch, with_later = (batches_of(policy, windows)(0) for policy in (off, both))
    assert not any("." in key and not key.startswith("image.") for key in batch)
    assert plain.model.metrics() == {}
    both.model.load_state_dict(plain.model.state_dict(), strict=False)
    head, whole = action_loss(both, with_later)
    assert action_loss(plain, batch)[1] == action_loss(off, batch)[1] == head != whole


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_later_reaches_neither_the_tokens_nor_the_head(make_dataset, make_policy, way):
    policy, windows = make_policy(make_dataset(), *WAYS[way])
    batch = batches_of(policy, windows)(0)
    changed = {
        key: value.flip(0) if key.startswith(("jepa.", "taco.")) and not key.endswith("mask") else value
        for key, value in batch.items()
    }
    assert torch.equal(policy.model.context(batch).tokens, policy.model.context(changed).tokens)
    (head, whole), (head_again, other) = action_loss(policy, batch), action_loss(policy, changed)
    assert head == head_again
    assert whole != other


@pytest.mark.parametrize("way", WAYS)
def test_no_gradient_flows_into_the_targets(make_dataset, make_policy, way):
    """Neither into what is later, nor into the average; but into the tokens, and into all that is new."""
    policy, windows = make_policy(make_dataset(), *WAYS[way])
    batch = batches_of(policy, windows)(0)
    for key, value in batch.items():
        if key.startswith(("jepa.", "taco.")) and value.is_floating_point():
            value.requires_grad_(True)
    context = policy.model.context(batch)
    context.tokens.retain_grad()
    policy.model.auxiliary(context, batch, policy.model.backbone, policy.model.context).backward()
    assert all(value.grad is None for value in batch.values())
    assert all(buffer.grad is None for buffer in policy.model.buffers())
    assert context.tokens.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in policy.model.auxiliary.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_losses_are_computed_in_full_precision(make_dataset, make_policy, way):
    policy, windows = make_policy(make_dataset(), "policy.head=regression", *WAYS[way])
    batch = batches_of(policy, windows)(0)
    with torch.autocast("cpu", torch.bfloat16):
        policy.model(batch)
    told = {name: value for name, value in policy.model.metrics().items() if name != "action_loss"}
    assert all(value.dtype == torch.float32 for value in told.values())
    assert any(value != value.bfloat16() for value in told.values())


@pytest.mark.parametrize("head", ["diffusion", "flow", "unet", "regression"])
def test_every_head_takes_them_and_a_checkpoint_holds_them(make_dataset, make_policy, tmp_path, head):
    dataset = make_dataset()
    policy, windows = make_policy(dataset, f"policy.head={head}", *BOTH)
    loss = policy.model(batches_of(policy, windows)(0))
    loss.backward()
    assert torch.isfinite(loss)
    told = policy.model.metrics()
    assert set(told) == {"action_loss", "jepa_loss", "jepa_target_std", "taco_loss"}
    parts = told["action_loss"] + told["jepa_loss"] + 0.1 * told["taco_loss"]
    torch.testing.assert_close(parts, loss.detach())
    policy.save(tmp_path / "saved")
    loaded = load_policy(tmp_path / "saved")
    theirs = loaded.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in policy.model.state_dict().items())
    chunks = []
    for asked in (policy, loaded):
        asked.reset(Task("open the drawer"), seed=3)
        images = {camera.name: np.zeros((32, 32, 3), np.uint8) for camera in asked.spec.cameras}
        chunks.append(asked.infer(Observation(images, np.zeros(4, np.float32), 1)).actions)
    np.testing.assert_array_equal(*chunks)


def test_a_backbone_taken_over_is_where_the_target_begins(make_dataset, make_policy, tmp_path):
    dataset = make_dataset()
    other, _ = make_policy(dataset)
    with torch.no_grad():
        other.model.backbone.cognition.fill_(3.0)
    other.save(tmp_path / "other")
    policy, _ = make_policy(dataset, *FRAMES)
    policy.start_from(tmp_path / "other")
    assert (policy.model.auxiliary["jepa"].target.get_buffer("cognition") == 3).all()


# --- a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [BOTH, (*JEPA, *TACO, "trainer.grad_accumulation=2")], ids=["frames", "states"])
def test_stopped_and_resumed_is_as_if_never_stopped(make_dataset, tmp_path, monkeypatch, way):
    dataset, whole, parts = make_dataset(), tmp_path / "whole", tmp_path / "parts"
    plan = (*way, "trainer.steps=6", "policy.auxiliary.jepa.momentum=[0.5,1.0]")
    run(settings(dataset, whole, *plan))
    ask = TrainingBatches.__call__
    last = 3 * (2 if "trainer.grad_accumulation=2" in way else 1)

    def until(self, number):
        if number == last:
            raise KeyboardInterrupt
        return ask(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBatches, "__call__", until)
        with pytest.raises(KeyboardInterrupt):
            run(settings(dataset, parts, *plan))
    run(settings(dataset, parts, *plan, "resume=true"))
    for file in ("model.safetensors", "training_state/step-00000006/model.safetensors"):
        one, two = load_file(whole / file), load_file(parts / file)
        assert any("auxiliary.jepa.target" in name for name in one)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    clock = {"samples_per_s"}
    rows = [[{key: row[key] for key in row.keys() - clock} for row in metrics(out)] for out in (whole, parts)]
    assert rows[0] == rows[1]
    assert {"action_loss", "jepa_loss", "jepa_target_std", "taco_loss"} <= rows[0][0].keys()


def test_the_saved_target_is_the_target_and_not_an_average_of_it(make_dataset, tmp_path):
    run(settings(make_dataset(), tmp_path, *JEPA, "trainer.steps=3"))
    state = load_file(tmp_path / "training_state/step-00000003/model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    name = "auxiliary.jepa.target.state/weight"
    assert torch.equal(saved[name], state[name])
    assert not torch.equal(saved["auxiliary.jepa.encoder.state.weight"], state["auxiliary.jepa.encoder.state.weight"])


@pytest.mark.parametrize("way", ["jepa", "premier", "taco"])
def test_its_loss_falls_beside_that_of_the_head(make_dataset, make_policy, way):
    policy, windows = make_policy(make_dataset(), "policy.head=regression", *WAYS[way])
    model, batch = policy.model.train(), batches_of(policy, windows)(0)
    optimizer, losses = torch.optim.AdamW(model.parameters(), 5e-4), []
    for step in range(120):
        loss = model(batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.after_step(step, 120)
        losses.append([float(value) for name, value in sorted(model.metrics().items()) if name.endswith("_loss")])
    first, last = np.mean(losses[:5], axis=0), np.mean(losses[-5:], axis=0)
    assert (last < 0.6 * first).all()


def test_targets_that_collapse_are_told_once(make_dataset, make_policy, caplog):
    policy, windows = make_policy(make_dataset(), *JEPA)
    model, jepa = policy.model.train(), policy.model.auxiliary["jepa"]
    model(batches_of(policy, windows)(0))
    first = model.metrics()["jepa_target_std"]
    assert first == jepa.spread_at_first > 0
    model(batches_of(policy, windows)(1))
    model.metrics()
    assert not caplog.records
    jepa.target.get_buffer("state/weight").zero_()  # all states look alike
    with caplog.at_level(logging.WARNING):
        for number in (2, 3):
            model(batches_of(policy, windows)(number))
            assert model.metrics()["jepa_target_std"] < 0.01 * first
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "jepa collapse" in caplog.text
    assert jepa.spread_at_first == first


# --- vision-language models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", [("policy.vlm.lora.rank=2",), ("policy.vlm.freeze=vlm", "features")], ids=["adapted", "kept"]
)
def test_on_a_vision_language_model(make_dataset, tiny_vlm, tmp_path, way):
    dataset, folder = make_dataset(), tiny_vlm.save_tiny("prismatic", tmp_path / "vlm")
    more = (way[0], f"features={tmp_path / 'features'}") if way[1:] else way
    vlm = f"policy.vlm={{path: {folder}, image_size: 56, precision: fp32}}"
    plan = (vlm, *BOTH, *more, "trainer.schedule=constant", "policy.auxiliary.jepa.momentum=[0.5,0.5]")
    run(settings(dataset, tmp_path / "whole", *plan, "trainer.steps=4"))
    run(settings(dataset, tmp_path / "parts", *plan, "trainer.steps=2"))
    run(settings(dataset, tmp_path / "parts", *plan, "trainer.steps=4", "resume=true"))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    kept = {name.rpartition(".")[2] for name in one if name.startswith("auxiliary.jepa.target.")}
    assert all("lora_" in name or name.startswith("proprio") for name in kept)
    assert any("lora_" in name for name in kept) is not bool(way[1:])
    assert isinstance(load_policy(tmp_path / "whole"), CogACT)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("taco.steps=17", "taco.steps is 17, a chunk has 16"),
        ("taco.window=0", "window of at least 1"),
        ("jepa.heads=3", "heads 3 must divide"),
        ("jepa.momentum=[0.9,0.5]", "no smaller"),
        ("jepa.steps=0", "at least 1"),
        ("jepa.weight=-1", "0 or more"),
        ("jepa.target=pictures", "allowed: observations, states"),
    ],
)
def test_what_does_not_fit_is_refused(make_dataset, make_policy, override, told):
    with pytest.raises(UnderstudyError, match=told):
        make_policy(make_dataset(), "policy.auxiliary.taco.weight=1", f"policy.auxiliary.{override}")
