"""Vision-language models of the hub: every family's real class, tiny, through the path that real weights take."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    PaliGemmaProcessor,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.qwen2_vl import Qwen2VLVideoProcessor

from vla.backbones.hub import COGNITION, PADDING, HubVLM, Source, fingerprint
from vla.backbones.hub_config import HubVLMConfig, LoraSettings
from vla.errors import UnderstudyError

FAMILIES = ("smolvlm", "paligemma", "qwen2_5_vl", "qwen3_vl", "prismatic")
SIDE = 56
WORDS = ["lift it", "open the drawer", "push"]


@pytest.fixture(scope="session")
def folders(tiny_vlm, tmp_path_factory):
    """Family → folder with its checkpoint."""
    root = tmp_path_factory.mktemp("hub")
    return {family: tiny_vlm.save_tiny(family, root / family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def folder(request, folders):
    return folders[request.param]


def made(folder, *, cameras=("front", "wrist"), seed=0, **settings):
    torch.manual_seed(seed)
    plain = {"image_size": SIDE, "precision": "fp32", "proprio": False, **settings}
    config = HubVLMConfig(str(folder), **plain)
    return HubVLM(config, Source.read(config), cameras=cameras, proprio_dim=4).eval()


def pictures(count=3, *, cameras=("front", "wrist"), seed=0):
    rng = torch.Generator().manual_seed(seed)
    shape = (count, SIDE, SIDE, 3)
    return {name: torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng) for name in cameras}


def features(vlm, images, words=WORDS, **more):
    with torch.no_grad():
        return vlm(images, torch.zeros(len(words), 4), vlm.tokenize(words), **more).tokens[:, 0]


def processor_of(family, tiny_vlm, folder):
    """The family's own processor, which our reader has to agree with."""
    tokenizer, images = AutoTokenizer.from_pretrained(folder), tiny_vlm.tiny_image_processor(family)
    if family == "smolvlm":
        return SmolVLMProcessor(images, tokenizer, SmolVLMVideoProcessor(), image_seq_len=4)
    if family == "paligemma":
        images.image_seq_length = 16
        return PaliGemmaProcessor(images, tokenizer)
    kind = Qwen2_5_VLProcessor if family == "qwen2_5_vl" else Qwen3VLProcessor
    return kind(images, tokenizer, Qwen2VLVideoProcessor())


@pytest.mark.parametrize("family", FAMILIES[:-1])
def test_prompt_and_pixels_are_those_of_the_familys_own_processor(family, folders, tiny_vlm):
    vlm, images = made(folders[family]), pictures(1)
    asked = vlm.config.prompt.format(instruction=WORDS[0])
    if family == "paligemma":
        text = f"<image><image>{asked}"
    else:
        one = vlm.family.image.replace("{tokens}", vlm.family.placeholder)
        if family == "smolvlm":
            one = "<image>"
        text = vlm.family.template.format(images=2 * one, text=asked)
    given = [images["front"][0].numpy(), images["wrist"][0].numpy()]
    theirs = processor_of(family, tiny_vlm, folders[family])(
        text=[text], images=[given], return_tensors="pt", add_special_tokens=False
    )
    ours = vlm.tokenize(WORDS[:1])[0]
    assert ours[:-1].tolist() == theirs["input_ids"][0].tolist()
    assert ours[-1] == COGNITION
    packed = vlm.family.pack(vlm._pixels(images, ours[None]))
    assert packed["pixel_values"].shape == theirs["pixel_values"].shape
    assert torch.allclose(packed["pixel_values"], theirs["pixel_values"], atol=1e-5)
    if "image_grid_thw" in theirs:
        assert packed["image_grid_thw"].tolist() == theirs["image_grid_thw"].tolist()


@pytest.mark.parametrize("family", FAMILIES[:-1])
def test_the_feature_is_the_hidden_state_of_the_end_token_of_the_real_model(family, folders, tiny_vlm):
    """Row by row through the model's own forward pass and its own positions, no padding."""
    vlm, images = made(folders[family]), pictures()
    model = AutoModelForImageTextToText.from_pretrained(folders[family]).eval().model
    found = features(vlm, images)
    for row, words in enumerate(WORDS):
        ids = vlm.tokenize([words])
        ids = ids.masked_fill(ids == COGNITION, vlm.tokenizer.eos_token_id)
        seen = {name: image[row : row + 1] for name, image in images.items()}
        inputs = vlm.family.pack(vlm._pixels(seen, ids))
        if family == "paligemma":
            inputs["token_type_ids"] = torch.zeros_like(ids)
        if family.startswith("qwen"):
            inputs["mm_token_type_ids"] = (ids == vlm.family.config.image_token_id).int()
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).last_hidden_state
        assert torch.allclose(hidden[0, -1], found[row], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_feature(folder, side):
    vlm, images = made(folder), pictures()
    vlm.tokenizer.padding_side = side
    ids = vlm.tokenize(WORDS)
    ends = (ids[:, -1] == COGNITION).tolist()
    assert ends == ([True] * 3 if side == "left" else [False, True, False])
    assert (ids == PADDING).any()
    together = features(vlm, images)
    for row, words in enumerate(WORDS):
        alone = features(vlm, {name: image[row : row + 1] for name, image in images.items()}, [words])
        assert torch.allclose(alone[0], together[row], atol=1e-5)


def test_pictures_are_seen_in_the_order_of_the_cameras(folder):
    one, other, images = made(folder), made(folder, cameras=("wrist", "front")), pictures()
    swapped = {"front": images["wrist"], "wrist": images["front"]}
    assert torch.allclose(features(one, images), features(other, swapped), atol=1e-6)
    assert not torch.allclose(features(one, images), features(one, swapped), atol=1e-3)


def test_a_missing_camera_is_seen_by_nobody(folder):
    vlm, images = made(folder), pictures()
    blind = features(vlm, {"front": images["front"]})
    assert torch.isfinite(blind).all()
    present = torch.tensor([[True, False], [True, True], [True, False]])
    mixed = features(vlm, images, present=present)
    assert torch.allclose(mixed[[0, 2]], blind[[0, 2]], atol=1e-5)
    assert torch.allclose(mixed[1], features(vlm, images)[1], atol=1e-5)
    assert not torch.allclose(mixed[1], blind[1], atol=1e-3)
    with pytest.raises(UnderstudyError, match="front, wrist"):
        features(vlm, {})


def test_bf16_and_fp32_agree(folder):
    images = pictures()
    full, half = (features(made(folder, precision=precision), images) for precision in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.999
    assert not torch.equal(full, half)


def test_a_learned_cognition_token_learns(folder):
    vlm = made(folder, cognition="learned", freeze="vision").train()
    images, ids = pictures(), vlm.tokenize(WORDS)
    vlm(images, torch.zeros(3, 4), ids).tokens.square().sum().backward()
    embedding = vlm.vlm.get_input_embeddings()
    assert embedding.cognition.grad.norm() > 0
    before = features(vlm.eval(), images)
    with torch.no_grad():
        embedding.cognition += 0.1
    assert not torch.allclose(before, features(vlm, images), atol=1e-4)
    assert made(folder).vlm.get_input_embeddings().cognition is None


@pytest.mark.parametrize("freeze", ["none", "vision", "vlm"])
def test_what_is_frozen_gets_no_gradient_and_no_dropout(folder, freeze):
    vlm = made(folder, freeze=freeze, proprio=True).train()
    vlm(pictures(), torch.zeros(3, 4), vlm.tokenize(WORDS)).tokens.square().sum().backward()
    seeing = tuple(f"{name}." for name in vlm.family.vision)
    learned = {name for name, parameter in vlm.vlm.named_parameters() if parameter.grad is not None}
    assert any(name.startswith(seeing) for name in learned) == (freeze == "none")
    assert any("layers.0.mlp" in name and not name.startswith(seeing) for name in learned) == (freeze != "vlm")
    assert vlm.frozen == (freeze == "vlm")
    assert vlm.proprio[-1].weight.grad is not None
    still = [vlm.vlm.get_submodule(name) for name in vlm.family.vision]
    assert any(module.training for part in still for module in part.modules()) == (freeze == "none")


def test_adapters_begin_as_nothing_learn_and_merge(folder):
    images = pictures()
    plain, vlm = features(made(folder), images), made(folder, lora=LoraSettings(rank=4, alpha=8))
    assert torch.allclose(plain, features(vlm, images), atol=1e-6)
    learned = [name for name, parameter in vlm.vlm.named_parameters() if parameter.requires_grad]
    assert learned
    assert all("lora_" in name for name in learned)
    assert not any(name.startswith(vlm.family.vision) for name in learned)
    with torch.no_grad():
        for name, parameter in vlm.vlm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted = features(vlm, images)
    assert not torch.allclose(plain, adapted, atol=1e-3)
    vlm.merge()
    assert torch.allclose(features(vlm, images), adapted, atol=1e-4)
    vlm.unmerge()
    assert torch.allclose(features(vlm, images), adapted, atol=1e-4)


def test_checkpointed_activations_give_the_same_gradients(folder):
    found = []
    for checkpointing in (False, True):
        vlm = made(folder, gradient_checkpointing=checkpointing).train()
        vlm(pictures(), torch.zeros(3, 4), vlm.tokenize(WORDS)).tokens.square().sum().backward()
        found.append({name: p.grad for name, p in vlm.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5) for name in found[0])


def test_a_copy_shares_what_is_frozen(folder):
    vlm = made(folder, freeze="vision")
    copied = deepcopy(vlm)
    theirs = dict(copied.named_parameters())
    for name, parameter in vlm.named_parameters():
        assert (theirs[name] is parameter) == (not parameter.requires_grad)
    images = pictures()
    assert torch.equal(features(vlm, images), features(copied, images))


def test_a_missing_weight_is_an_error_unless_fresh_ones_are_asked_for(folder, folders, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if "layers.0" in name)
    save_file({n: w for n, w in weights.items() if n != lost}, tmp_path / "model.safetensors", {"format": "pt"})
    assert fingerprint(tmp_path) != fingerprint(folder)
    with pytest.raises(UnderstudyError, match=r"lacks 1 weights.*random_init"):
        made(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UnderstudyError, match="cannot read the model"):
        made(tmp_path)
    drawn = features(made(tmp_path, random_init=True), pictures())
    assert torch.isfinite(drawn).all()
    assert not torch.allclose(drawn, features(made(folder), pictures()), atol=1e-3)
    assert not torch.allclose(drawn, features(made(tmp_path, random_init=True, seed=1), pictures()), atol=1e-3)


def test_what_cannot_be_read_is_refused(folders, tmp_path):
    with pytest.raises(UnderstudyError, match=r"no/such-model.*download=true"):
        made("no/such-model")
    with pytest.raises(UnderstudyError, match="multiple of 28"):
        made(folders["qwen2_5_vl"], image_size=50)
    for file in folders["paligemma"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    AutoTokenizer.from_pretrained(folders["qwen3_vl"]).save_pretrained(tmp_path)
    with pytest.raises(UnderstudyError, match="'<image>'"):
        made(tmp_path).tokenize(WORDS)


def test_pictures_of_another_size_are_resized(folders):
    vlm = made(folders["prismatic"], image_size=28)
    small = {name: image[:, ::2, ::2] for name, image in pictures().items()}
    assert vlm._pixels(small, vlm.tokenize(WORDS)).shape == (3, 2, 6, SIDE, SIDE)
    assert torch.isfinite(features(vlm, small)).all()
