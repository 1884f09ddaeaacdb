"""A representation comes back as it was saved, says what it is, and refuses what it cannot do."""

import json

import numpy as np
import pytest
import torch

from vla.errors import UnderstudyError
from vla.representation.families import FAMILIES
from vla.representation.load import ABOUT, WEIGHTS, Representation, load
from vla.representation.pooling import MAPExtractor

CAPTIONS = ["lift the red cube", "open the drawer"]
TINY = {"image_size": 32, "patch_size": 8, "width": 48, "depth": 1, "heads": 3}


def created(name, **more):
    torch.manual_seed(0)
    kind = "vit" if name in ("voltron_cond", "voltron_dual", "voltron_gen", "mvp", "paat") else "resnet"
    made = Representation.create(name, {"encoder": {**TINY, "kind": kind}, **more}, CAPTIONS)
    made.model.eval()
    return made


def pictures(count=3, size=32):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back_bit_by_bit(name, tmp_path):
    made = created(name)
    made.save(tmp_path)
    again = load(tmp_path)
    assert again.name == name
    assert torch.equal(made.encode(pictures()), again.encode(pictures()))
    assert torch.equal(made.embed(pictures()), again.embed(pictures()))
    assert again.encode(pictures()).shape == (3, 16, again.width)


def test_words_stand_behind_the_patches_and_change_them():
    made = created("voltron_cond")
    silent = made.encode(pictures())
    said = made.encode(pictures(), ["open the drawer"] * 3, mode="multimodal")
    assert said.shape == (3, 16 + 5, 48)
    assert not torch.allclose(silent, said[:, :16], atol=1e-4)
    assert torch.allclose(made.encode(pictures(), ["open the drawer"] * 3), said[:, :16])


def test_two_frames_are_looked_at_by_those_that_can():
    made = created("voltron_dual")
    pairs = np.stack([pictures(), pictures()], axis=1)
    assert torch.allclose(made.encode(pairs), made.encode(pictures()), atol=1e-5)


def test_pictures_of_any_size_are_fitted():
    made = created("vip")
    assert made.encode(pictures(size=96)).shape == (3, 16, 48)


def test_tokens_go_into_the_extractor():
    made = created("mvp")
    assert MAPExtractor(96, 3, token_width=made.width)(made.encode(pictures()).clone()).shape == (3, 96)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda r: r.encode(pictures().astype(np.float32)), "uint8"),
        (lambda r: r.encode(pictures(), ["one"]), "1 captions for 3 images"),
        (lambda r: r.encode(pictures(), mode="both"), "visual or multimodal"),
    ],
)
def test_what_does_not_fit_is_said(call, told):
    with pytest.raises(UnderstudyError, match=told):
        call(created("voltron_cond"))


def test_eyes_that_cannot_read_say_so():
    with pytest.raises(UnderstudyError, match="reads no words"):
        created("vip").encode(pictures(), ["open the drawer"] * 3)


def test_the_checkpoint_says_where_its_words_come_from(tmp_path):
    created("voltron_cond").save(tmp_path)
    assert json.loads((tmp_path / ABOUT).read_text())["text"] == "embedding trained here"


def test_a_missing_weight_is_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    created("mvp").save(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    weights.pop("encoder.embed.weight")
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(UnderstudyError, match="does not fit"):
        load(tmp_path)


@pytest.mark.parametrize("name", [ABOUT, WEIGHTS, "config.yaml", "tokenizer.json"])
def test_a_missing_file_is_named(name, tmp_path):
    created("voltron_cond").save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UnderstudyError, match=name):
        load(tmp_path)


@pytest.mark.parametrize(("preset", "millions"), [("paper", 28.39), ("paper_base", 113.4)])
def test_the_papers_presets_have_the_papers_blocks(preset, millions):
    from vla.config import CONFIGS
    from vla.config import load as settings
    from vla.representation.pretrain import PretrainConfig

    config = settings(PretrainConfig, "pretrain", [f"preset={preset}", "data=x"], config_dir=CONFIGS / "pretrain")
    chosen = {key: value for key, value in config.representation.items() if key != "name"}
    with torch.device("meta"):
        made = Representation.create("voltron_cond", chosen, CAPTIONS)
    found = sum(tensor.numel() for tensor in made.model.encoder.blocks.parameters()) / 1e6
    assert found == pytest.approx(millions, abs=0.05)
    assert (config.trainer["batch_size"] * config.trainer["grad_accumulation"], made.tokens) == (1024, 196)
