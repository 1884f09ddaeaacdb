"""CogACT on vision-language models of the hub: trained, saved, resumed, loaded; and what a checkpoint leaves out."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from policies.policy import load_policy
from policies.train import TrainConfig, run
from vla.backbones.hub import HubVLM
from vla.config import load
from vla.errors import UnderstudyError
from vla.types import Observation, Task

RANDOM = "policy.vlm.random_init=true"
WHOLE, FROZEN, ADAPTED = (), ("policy.vlm.freeze=vlm",), ("policy.vlm.lora.rank=4",)
LEARNED = ("policy.vlm.lora.rank=4", "policy.vlm.cognition=learned", "policy.vlm.gradient_checkpointing=true")
WAYS = {"whole": WHOLE, "frozen": FROZEN, "adapted": ADAPTED, "learned": LEARNED}


@pytest.fixture(scope="module")
def folders(tiny_vlm, tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    return {family: tiny_vlm.save_tiny(family, root / family) for family in ("prismatic", "qwen3_vl")}


def settings(dataset, out, vlm, *overrides):
    plain = ["preset=tiny", f"data={dataset.root}", f"out={out}", "trainer.precision=fp32", "trainer.batch_size=4"]
    given = [f"policy.vlm={{path: {vlm}, image_size: 56, precision: fp32}}", *overrides]
    return load(TrainConfig, "train", [*plain, *given])


def chunk(policy):
    rng = np.random.default_rng(0)
    cameras = policy.spec.cameras
    images = {camera.name: rng.integers(0, 256, (56, 56, 3), dtype=np.uint8) for camera in cameras}
    policy.reset(Task("open the drawer"), seed=3)
    return policy.infer(Observation(images, np.zeros(policy.spec.proprio_dim, np.float32), 1)).actions


@pytest.mark.parametrize("way", WAYS)
def test_trained_in_parts_and_loaded_it_is_what_it_was(way, make_dataset, folders, tmp_path):
    dataset, steady = make_dataset(), "trainer.schedule=constant"
    for family, folder in folders.items():
        plan = (*WAYS[way], steady)
        whole, parts = tmp_path / family / "whole", tmp_path / family / "parts"
        run(settings(dataset, whole, folder, *plan, "trainer.steps=4"))
        run(settings(dataset, parts, folder, *plan, "trainer.steps=2"))
        run(settings(dataset, parts, folder, *plan, "trainer.steps=4", "resume=true"))
        one, other = load_policy(whole), load_policy(parts)
        assert np.array_equal(chunk(one), chunk(other))
        assert np.isfinite(chunk(one)).all()
        kept = set(load_file(whole / "model.safetensors"))
        inside = {name for name in kept if name.startswith("backbone.vlm.")}
        learned = {name for name, p in one.model.named_parameters() if p.requires_grad}
        if way == "whole":
            assert len(inside) > 50
        else:
            assert inside == {name for name in learned if name.startswith("backbone.vlm.")}
        told = json.loads((whole / "provenance.json").read_text())["representation"]
        assert told["path"] == str(folder.resolve())


def test_what_learns_has_moved_and_the_rest_has_not(make_dataset, folders, tmp_path):
    dataset, folder = make_dataset(), folders["prismatic"]
    began = load_file(folder / "model.safetensors")
    run(settings(dataset, tmp_path / "a", folder, "trainer.steps=3", "policy.vlm.freeze=vision", "trainer.ema=0"))
    after = load_file(tmp_path / "a" / "model.safetensors")
    moved = {
        name
        for name, value in began.items()
        if not torch.equal(value, after[f"backbone.vlm.{name[6:]}".replace("embed_tokens.", "embed_tokens.words.")])
    }
    assert any("language_model.layers.0" in name for name in moved)
    assert any("projector" in name for name in moved)
    assert not any(name.startswith(("model.dino", "model.siglip")) for name in moved)


def test_pretrained_weights_learn_slower_than_what_is_new(make_dataset, folders, tmp_path):
    dataset, folder = make_dataset(), folders["prismatic"]
    for name, way in (("whole", WHOLE), ("adapted", ADAPTED)):
        run(settings(dataset, tmp_path / name, folder, *way, "trainer.steps=2", "backbone_lr=0", "trainer.ema=0"))
    whole, adapted = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "adapted"))
    began = load_file(folder / "model.safetensors")
    name = "language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(whole[f"backbone.vlm.{name}"], began[f"model.{name}"])
    assert any((value != 0).any() for key, value in adapted.items() if "lora_B" in key)
    assert (whole["backbone.proprio.2.weight"] != 0).any()


def test_a_checkpoint_that_leaves_the_model_out_wants_that_very_model(make_dataset, folders, tiny_vlm, tmp_path):
    dataset, vlm = make_dataset(), shutil.copytree(folders["prismatic"], tmp_path / "vlm")
    for name, way in (("whole", WHOLE), ("adapted", ADAPTED)):
        run(settings(dataset, tmp_path / name, vlm, *way, "trainer.steps=1"))
    expected = chunk(load_policy(tmp_path / "adapted"))
    tiny_vlm.save_tiny("paligemma", vlm)
    with pytest.raises(UnderstudyError, match="fingerprint"):
        load_policy(tmp_path / "adapted")
    shutil.rmtree(vlm)
    assert np.isfinite(chunk(load_policy(tmp_path / "whole"))).all()
    with pytest.raises(UnderstudyError, match="there is no model"):
        load_policy(tmp_path / "adapted")
    shutil.copytree(folders["prismatic"], vlm)
    assert np.array_equal(chunk(load_policy(tmp_path / "adapted")), expected)
    shutil.rmtree(tmp_path / "adapted" / "vlm")
    with pytest.raises(UnderstudyError, match=r"source\.json"):
        load_policy(tmp_path / "adapted")


def test_fresh_weights_are_all_kept(make_dataset, folders, tmp_path):
    dataset, vlm = make_dataset(), shutil.copytree(folders["qwen3_vl"], tmp_path / "vlm")
    (vlm / "model.safetensors").unlink()
    run(settings(dataset, tmp_path / "out", vlm, *FROZEN, "policy.vlm.random_init=true", "trainer.steps=1"))
    shutil.rmtree(vlm)
    assert np.isfinite(chunk(load_policy(tmp_path / "out"))).all()


def test_kept_features_train_the_same_policy_without_the_model(make_dataset, folders, tmp_path, monkeypatch):
    dataset, folder, kept = make_dataset(), folders["prismatic"], f"features={tmp_path / 'features'}"
    run(settings(dataset, tmp_path / "direct", folder, *FROZEN, "trainer.steps=4"))
    run(settings(dataset, tmp_path / "kept", folder, *FROZEN, "trainer.steps=4", kept))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("direct", "kept"))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=2e-4) for name in one)
    np.testing.assert_allclose(*(chunk(load_policy(tmp_path / name)) for name in ("direct", "kept")), atol=2e-3)

    def never(*arguments, **settings):
        raise AssertionError("the model was asked")

    monkeypatch.setattr(HubVLM, "_cognition", never)
    run(settings(dataset, tmp_path / "again", folder, *FROZEN, "trainer.steps=4", kept))
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], other[name]) for name in again)


def test_features_that_stop_go_on_and_stale_ones_are_refused(make_dataset, folders, tiny_vlm, tmp_path, monkeypatch):
    dataset, vlm = make_dataset(), shutil.copytree(folders["prismatic"], tmp_path / "vlm")
    kept, seen, batches = f"features={tmp_path / 'features'}", HubVLM.features, []
    monkeypatch.setattr("vla.data.kept.BATCH", 4)
    monkeypatch.setattr("vla.data.kept.NOTED", 1)

    def counted(self, images, text, present=None):
        if len(batches) == 3:
            raise KeyboardInterrupt
        batches.append(len(text))
        return seen(self, images, text, present)

    def go(name, *more):
        run(settings(dataset, tmp_path / name, vlm, *FROZEN, "trainer.steps=1", kept, *more))

    with monkeypatch.context() as patch:
        patch.setattr(HubVLM, "features", counted)
        with pytest.raises(KeyboardInterrupt):
            go("a")
    assert json.loads((tmp_path / "features/about.json").read_text())["done"] == 12
    go("a")
    frames = np.load(tmp_path / "features/rows.npy")
    assert len(frames) == 28
    assert (frames != 0).any(1).all()
    with pytest.raises(UnderstudyError, match=r"stale: made with prompt .*instead of 'Do"):
        go("b", "policy.vlm.prompt='Do {instruction}'")
    tiny_vlm.save_tiny("prismatic", vlm, seed=5)
    with (vlm / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UnderstudyError, match="stale: made with weights"):
        go("b")
    for wrong in (
        "policy.vlm.lora.rank=4",
        "policy.vlm.freeze=vision",
        "policy.vlm.cognition=learned",
        "shift=2",
        RANDOM,
    ):
        with pytest.raises(UnderstudyError, match=r"nothing learns|do not move"):
            go("b", wrong)
