"""``vla plan``: parameters are those of the model, memory follows from them, and nothing is made to count them."""

import pytest

from policies.plan import PlanConfig, main, parts, per_gpu
from vla.config import load
from vla.errors import UnderstudyError


def planned(*overrides):
    return parts(load(PlanConfig, "plan", list(overrides)))


def total(found, name):
    return sum(getattr(part, name) for part in found)


@pytest.mark.parametrize("family", ["cogact", "cogact_flow", "cogact_l1"])
def test_the_parameters_are_those_of_the_model(family, make_dataset, make_policy):
    policy, _ = make_policy(make_dataset(), f"policy={family}")
    sizes = ("cameras=2", "proprio_dim=4", "action_dim=3")
    found = planned(f"policy={family}", "preset=tiny", *sizes)
    words = policy.model.backbone.words.weight.numel() + policy.model.backbone.word_condition.weight.numel()
    ours = sum(parameter.numel() for parameter in policy.model.parameters()) - words
    (between,) = [part for part in found if part.name == "what is between"]
    assert 0 < total(found, "parameters") - ours < between.parameters
    assert total(found, "optimizer") == 8 * total(found, "learned")


def test_the_papers_head_has_89_million():
    found = {part.name: part for part in planned("preset=paper")}
    assert found["head"].parameters == pytest.approx(89e6, rel=0.04)  # a cognition token of 768 instead of 4096
    assert found["head"].activations > 0
    assert found["language"].flops > 0


def test_what_is_frozen_takes_no_moments_and_no_activations(tiny_vlm, tmp_path):
    folder = tiny_vlm.save_tiny("prismatic", tmp_path)
    (folder / "model.safetensors").unlink()
    vlm = f"policy.vlm={{path: {folder}, image_size: 56}}"
    light = ("policy.vlm.lora.rank=4", "policy.vlm.gradient_checkpointing=true")
    whole, frozen, adapted = (planned("preset=tiny", vlm, *way) for way in ((), ("policy.vlm.freeze=vlm",), light))
    assert [part.name for part in whole][:3] == ["vision (dino)", "vision (siglip)", "language"]
    assert total(whole, "learned") == total(whole, "parameters")
    learned = {part.name: part.learned for part in frozen}
    assert learned["vision (dino)"] == learned["language"] == 0
    assert 0 < total(adapted, "learned") < total(whole, "learned")
    for name in ("activations", "flops", "optimizer"):
        assert total(frozen, name) < total(adapted, name) < total(whole, name) or name == "flops"
    assert total(frozen, "flops") < total(whole, "flops")


def test_more_gpus_share_all_but_the_activations():
    found = planned("preset=paper")
    one, eight = per_gpu(found, 1), per_gpu(found, 8)
    kept = total(found, "activations")
    assert eight - kept == pytest.approx((one - kept) / 8)


def test_the_command_tells_shards_from_copies(capsys):
    found = planned("preset=paper")
    assert main(["preset=paper", "gpus=8"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"each of 8 GPU: {per_gpu(found, 8) / 1e9:.1f} GB of 80 in shards (launch=fsdp)" in told
    assert f"{per_gpu(found, 1) / 1e9:.1f} GB with a copy on each (launch=ddp)" in told
    assert main(["preset=paper"]) == 0
    assert "launch" not in capsys.readouterr().out


def test_the_command_says_what_to_do_when_it_does_not_fit(capsys):
    assert main(["preset=paper", "memory_gb=1"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "it does not fit" in told
    assert "GPUs" in told
    assert main(["--help"]) == 0
    assert "memory_gb" in capsys.readouterr().out


def test_a_family_whose_parts_it_does_not_know_is_refused():
    with pytest.raises(UnderstudyError, match="uva"):
        planned("policy=uva", "preset=tiny", "policy.vae=nowhere")
