"""``vla train``: presets, the whole way from a dataset to a checkpoint, and an exact resume of it."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from policies.cogact_model import CogACTModel
from policies.heads.dit import SIZES, DiTSize
from policies.policy import load_policy, policy_class
from policies.provenance import code_version
from policies.train import TrainConfig, run
from vla.backbones.small import SmallVLM
from vla.config import build, load
from vla.errors import UnderstudyError
from vla.training.trainer import TrainerConfig

PRESETS = ("tiny", "cpu", "paper")


def settings(dataset, out, *overrides):
    plain = ["preset=tiny", f"data={dataset.root}", f"out={out}", "trainer.precision=fp32", "trainer.log_every=1"]
    return load(TrainConfig, "train", [*plain, "trainer.batch_size=4", *overrides])


def tokenizer():
    return Tokenizer(WordLevel({"[pad]": 0, "[unk]": 1, "[bos]": 2}, unk_token="[unk]"))


@pytest.mark.parametrize("family", ["cogact", "cogact_flow", "cogact_unet", "cogact_l1"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_a_model(preset, family):
    config = load(TrainConfig, "train", [f"preset={preset}", f"policy={family}", "data=nowhere"])
    build(TrainerConfig, config.trainer)
    plain = {key: value for key, value in config.policy.items() if key != "name"}
    policy = build(policy_class(config.policy["name"]).config_class, plain)
    with torch.device("meta"):
        backbone = SmallVLM(policy.backbone, cameras=("front",), proprio_dim=4, tokenizer=tokenizer())
        model = CogACTModel(policy, backbone, action_dim=7)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert {"tiny": count < 1e6, "cpu": count < 2e7, "paper": count > 1e8}[preset]
    heads = {"cogact": "diffusion", "cogact_flow": "flow", "cogact_unet": "unet", "cogact_l1": "regression"}
    assert policy.head == heads[family]


def test_the_papers_preset_is_the_papers():
    config = load(TrainConfig, "train", ["preset=paper", "data=nowhere"])
    plain = {key: value for key, value in config.policy.items() if key != "name"}
    policy, trainer = build(policy_class("cogact").config_class, plain), build(TrainerConfig, config.trainer)
    head = policy.diffusion
    assert DiTSize(head.depth, head.width, head.heads) == SIZES["B"]
    assert (head.repeats, head.drop, head.guidance, head.ddim_steps) == (8, 0.1, 1.5, 10)
    assert (policy.pred_horizon, policy.normalization, policy.mask_padding) == (16, "quantile", False)
    assert (trainer.lr, trainer.schedule, trainer.warmup, trainer.weight_decay) == (2e-5, "constant", 0, 0)
    assert (trainer.batch_size, trainer.grad_clip, trainer.ema) == (256, 1.0, 0.9999)


def test_from_a_dataset_to_a_checkpoint(make_dataset, tmp_path):
    dataset, out = make_dataset(), tmp_path / "out"
    assert run(settings(dataset, out, "trainer.steps=3", "holdout=1")) == out
    assert load_policy(out).spec.pred_horizon == 16
    names = {path.name for path in out.iterdir()}
    assert names >= {"model.safetensors", "config.yaml", "policy_spec.json", "normalizer.json", "provenance.json"}
    told = json.loads((out / "provenance.json").read_text())
    assert told["data"] == {"path": str(dataset.root), "hash": dataset.hash(), "fingerprint": "test/1"}
    assert told["tasks"] == ["tabletop/open-drawer"]
    assert told["episodes"] == len(dataset.episodes) - 1
    assert told["settings"]["trainer"]["steps"] == 3
    assert told["code"] == code_version()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3


def test_ten_steps_and_ten_more_are_twenty(make_dataset, tmp_path):
    dataset, constant = make_dataset(), "trainer.schedule=constant"
    run(settings(dataset, tmp_path / "whole", "trainer.steps=8", constant))
    run(settings(dataset, tmp_path / "parts", "trainer.steps=4", constant))
    run(settings(dataset, tmp_path / "parts", "trainer.steps=8", constant, "resume=true"))
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == two


def test_accumulated_small_batches_are_one_large(make_dataset, tmp_path):
    dataset = make_dataset()
    plain = ("policy=cogact_l1", "shift=0", "trainer.steps=3")
    run(settings(dataset, tmp_path / "two", *plain, "trainer.batch_size=8", "trainer.grad_accumulation=2"))
    run(settings(dataset, tmp_path / "one", *plain, "trainer.batch_size=16"))
    one, two = (load_policy(tmp_path / name).model.state_dict() for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-4)


def test_a_folder_that_holds_a_run_is_refused(make_dataset, tmp_path):
    dataset = make_dataset()
    run(settings(dataset, tmp_path / "out", "trainer.steps=1"))
    with pytest.raises(UnderstudyError, match="give resume=true to go on, or another folder"):
        run(settings(dataset, tmp_path / "out", "trainer.steps=2"))


def test_resuming_with_other_sizes_is_refused(make_dataset, tmp_path):
    dataset = make_dataset()
    run(settings(dataset, tmp_path / "out", "trainer.steps=1"))
    larger = ("trainer.steps=2", "resume=true", "policy.backbone.language_width=64")
    with pytest.raises(UnderstudyError, match="resume with the settings it was begun with"):
        run(settings(dataset, tmp_path / "out", *larger))


def test_words_of_the_held_out_are_not_known(make_dataset, tmp_path):
    run(settings(make_dataset(), tmp_path / "out", "trainer.steps=1", "holdout=2"))
    assert load_policy(tmp_path / "out").model.backbone.unknown_words("open the drawer") == ["open", "drawer"]


@pytest.mark.parametrize("holdout", [3, 99])
def test_a_holdout_of_everything_is_refused(make_dataset, tmp_path, holdout):
    with pytest.raises(UnderstudyError, match=f"holdout={holdout} leaves no episode of the 3"):
        run(settings(make_dataset(), tmp_path / "out", f"holdout={holdout}"))


def test_settings_that_do_not_exist_are_refused(make_dataset, tmp_path):
    dataset = make_dataset()
    for override, nearest in (("policy.hed=diffusion", "head"), ("trainer.step=3", "steps")):
        with pytest.raises(UnderstudyError, match=f"did you mean '.*{nearest}'"):
            run(settings(dataset, tmp_path / "out", f"{override}"))
    with pytest.raises(UnderstudyError, match="did you mean 'cogact'"):
        run(settings(dataset, tmp_path / "out", "policy.name=cogakt"))


def test_a_run_may_start_from_the_backbone_of_another(make_dataset, tmp_path):
    dataset, warm = make_dataset(), tmp_path / "warm"
    run(settings(dataset, warm, "policy=cogact_l1", "trainer.steps=2"))
    still = ("trainer.steps=1", "trainer.lr=0", "trainer.weight_decay=0")
    run(settings(dataset, tmp_path / "out", *still, f"start_from={warm}"))
    run(settings(dataset, tmp_path / "cold", *still))
    began, out, cold = (load_policy(folder).model for folder in (warm, tmp_path / "out", tmp_path / "cold"))
    for name, tensor in began.backbone.state_dict().items():
        assert torch.equal(out.backbone.state_dict()[name], tensor), name
    for name, tensor in cold.head.state_dict().items():  # the head is as new as without it
        assert torch.equal(out.head.state_dict()[name], tensor), name
    assert not torch.equal(cold.backbone.cognition, began.backbone.cognition)
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["start_from"] == str(warm)


def test_a_backbone_taken_over_learns_at_its_own_rate(make_dataset, tmp_path):
    dataset, warm = make_dataset(), tmp_path / "warm"
    run(settings(dataset, warm, "policy=cogact_l1", "trainer.steps=2"))
    plan = ("trainer.steps=2", "trainer.weight_decay=0", f"start_from={warm}")
    run(settings(dataset, tmp_path / "out", *plan, "backbone_lr=0"))
    began, out = load_policy(warm).model, load_policy(tmp_path / "out").model
    for name, tensor in began.backbone.state_dict().items():
        assert torch.equal(out.backbone.state_dict()[name], tensor), name
    assert (out.head.denoiser.action_out.weight != 0).any()  # where an untrained head has zeros
    run(settings(dataset, tmp_path / "moving", *plan))
    assert not torch.equal(load_policy(tmp_path / "moving").model.backbone.cognition, began.backbone.cognition)


def test_a_backbone_that_does_not_fit_is_refused(make_dataset, tmp_path):
    dataset, warm = make_dataset(), tmp_path / "warm"
    run(settings(dataset, warm, "trainer.steps=1"))
    with pytest.raises(UnderstudyError, match=r"(?s)other sizes than policy\.backbone"):
        run(settings(dataset, tmp_path / "a", f"start_from={warm}", "policy.backbone.language_width=64"))
    other = make_dataset(name="other", instructions=("lift the red cube", "close the window"))
    with pytest.raises(UnderstudyError, match="knows other words"):
        run(settings(other, tmp_path / "b", f"start_from={warm}"))
    with pytest.raises(UnderstudyError, match="lacks"):
        run(settings(dataset, tmp_path / "c", f"start_from={tmp_path}"))


def test_two_precisions_in_one_process(make_dataset, tmp_path):
    dataset = make_dataset()
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        run(settings(dataset, out, "trainer.steps=1", f"trainer.precision={precision}"))
        weights = load_policy(out).model.state_dict()
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.slow
def test_trained_in_half_precision_the_weights_are_kept_in_full(make_dataset, tmp_path, run_python):
    dataset, out = make_dataset(), tmp_path / "out"
    code = f"from policies.train import main; main(['preset=tiny', 'data={dataset.root}', 'out={out}', "
    done = run_python(code + "'trainer.precision=bf16', 'trainer.steps=2', 'trainer.batch_size=4'])")
    assert done.returncode == 0, done.stderr
    model = load_policy(out).model
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert any((tensor != tensor.bfloat16().float()).any() for tensor in model.parameters())
