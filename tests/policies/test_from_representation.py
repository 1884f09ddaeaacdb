"""CogACT seeing through what was learned from video: frozen or not, saved whole, and nothing new without it."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from policies.cogact import CogACT
from policies.policy import load_policy
from policies.train import TrainConfig, run, training_windows
from vla.backbones.small import SmallVLMConfig, build_tokenizer
from vla.config import load
from vla.data.frames import fit_image
from vla.errors import UnderstudyError
from vla.representation.families import FAMILIES
from vla.representation.load import Representation
from vla.representation.tower import PretrainedTower, Source, fitted
from vla.training.trainer import TrainerConfig, average_of
from vla.types import Observation, Task

ENCODER = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 1, "heads": 2}
CAPTIONS = ["lift the red cube", "open a drawer slowly"]
INSTRUCTIONS = ["lift the red cube", "open the drawer"]
KINDS = ("voltron_cond", "vip")
OWN = "backbone.tower.representation."
COGNITION, ORDER = (0.0434331, -0.0165977, 0.0052825), (0.00081998, 0.0399165, 0.0093215)
"""First weights of the tiny preset under seed 0, one drawn after the convolutions and the vision blocks, one after the
vision blocks' second draw: what they were before there was a representation to choose."""


def saved(folder, name, *, captions=CAPTIONS, seed=1, encoder=None, **settings):
    """A representation as `vla pretrain` leaves it, untrained."""
    kind = {"kind": "resnet"} if name == "vip" else {}
    torch.manual_seed(seed)
    made = Representation.create(name, {"encoder": {**ENCODER, **kind, **(encoder or {})}, **settings}, captions)
    made.save(folder)
    return folder


@pytest.fixture
def make_tower(tmp_path):
    """``make_tower(name)``: a tower on a fresh representation of that family."""

    def make(name, *, freeze=True, instructions=INSTRUCTIONS, **settings):
        folder = saved(tmp_path / f"tower-{name}", name, **settings)
        tokenizer = build_tokenizer(instructions)
        torch.manual_seed(0)
        tower = PretrainedTower(Source.read(folder), width=16, freeze=freeze, tokenizer=tokenizer)
        torch.nn.init.normal_(tower.film.to_scale_shift.weight, std=0.3)  # at zero it would hide the words
        return tower, tokenizer

    return make


@pytest.fixture
def make(make_dataset, tiny):
    """``make(path, *overrides)``: an untrained policy that sees through ``path``, and a batch of all its samples."""
    dataset = make_dataset()

    def create(path, *overrides):
        config = tiny(f"policy.backbone.representation={path}", *overrides)
        windows = training_windows(dataset, config, holdout=0)
        torch.manual_seed(0)
        policy = CogACT.create(config, dataset.spec, windows)
        return policy, policy.training_batch(windows.gather(windows.samples))

    create.dataset = dataset
    return create


def settings(dataset, out, path, *overrides):
    plain = ["preset=tiny", f"data={dataset.root}", f"out={out}", "trainer.precision=fp32", "trainer.batch_size=4"]
    return load(TrainConfig, "train", [*plain, f"policy.backbone.representation={path}", *overrides])


def pictures(count=2, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def ids(tokenizer, instructions=INSTRUCTIONS):
    return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(instructions)])


def observation_of(dataset):
    episode = dataset.episode(0)
    images = {name: decode()[3] for name, decode in episode.images.items()}
    return Observation(images, episode.proprio[3], int(episode.stamps_ns[3]))


def answers(policy, observation, instruction=INSTRUCTIONS[0]):
    policy.reset(Task(instruction), seed=5)
    return np.stack([policy.infer(observation).actions for _ in range(2)])


def own_weights(folder):
    """The representation's weights in a checkpoint, by the names that they have in its own folder."""
    weights = load_file(folder / "model.safetensors")
    return {name.removeprefix(OWN): tensor for name, tensor in weights.items() if name.startswith(OWN)}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tokens_are_the_representations_and_nothing_else_is_kept(make_tower, tmp_path, name):
    tower, tokenizer = make_tower(name)
    whole = Source.read(tmp_path / f"tower-{name}").representation
    expected = whole.encode(pictures().numpy(), INSTRUCTIONS if whole.reads else None)
    torch.testing.assert_close(tower.tokens(pictures(), ids(tokenizer)), expected)
    assert {name.split(".")[0] for name in tower.representation.state_dict()} <= {"encoder", "captions", "deviation"}


def test_patches_and_places_are_shaped_as_the_backbone_wants_them_and_follow_the_words(make_tower):
    tower, tokenizer = make_tower("vip")
    words = torch.randn(2, 16)
    patches, places = tower(pictures(), words, ids(tokenizer))
    assert patches.shape == (2, 16, 16)
    assert places.shape == (2, 64)
    assert places.abs().max() <= 1
    for one, two in zip((patches, places), tower(pictures(), words.flip(0), ids(tokenizer)), strict=True):
        assert (one - two).abs().amax(1).min() > 1e-4


def test_an_encoder_that_reads_is_told_what_it_knows_of_the_instruction(make_tower):
    told = ["lift a blue cube", "zebra", "open the drawer"]
    tower, tokenizer = make_tower("voltron_cond", instructions=told)
    captions = tower.representation.captions
    known = captions.tokenize(["lift a cube", "", "open the drawer"])
    caption = tower.caption(ids(tokenizer, told))
    assert torch.equal(caption[:, : known.shape[1]], known)
    assert (caption[:, known.shape[1] :] == captions.pad).all()
    assert tower.strange == ["blue", "zebra"]
    one, two = (tower.tokens(pictures(3), ids(tokenizer, told)[order]) for order in ([0, 1, 2], [1, 2, 0]))
    assert (one - two).abs().amax((1, 2)).min() > 1e-4


def test_a_caption_longer_than_the_representation_reads_is_cut_as_its_own(make_tower):
    tower, tokenizer = make_tower("voltron_cond", language={"max_words": 4})
    expected = tower.representation.captions.tokenize(INSTRUCTIONS)
    assert torch.equal(tower.caption(ids(tokenizer)), expected)


@pytest.mark.parametrize(("before", "after"), [(64, 32), (96, 32), (32, 64), (48, 32), (32, 32)])
def test_pictures_are_resized_as_everywhere(before, after):
    smooth = fit_image(pictures(1, 8)[0].numpy(), before)
    expected = fit_image(smooth, after).astype(int)
    difference = np.abs(fitted(torch.from_numpy(smooth)[None], after)[0].numpy() - expected)
    if max(before, after) % min(before, after):  # torch shares out a pixel at an edge differently
        assert difference.mean() < 4
    else:
        assert difference.max() <= 1


def test_another_image_size_than_its_own_is_resized_to(make, tmp_path):
    path = saved(tmp_path / "r", "vip", encoder={"image_size": 64, "patch_size": 16})
    policy, batch = make(path)
    assert policy.spec.cameras[0].height == 32
    assert policy.model(batch).isfinite()


@pytest.mark.parametrize("head", ["cogact", "cogact_l1"])
@pytest.mark.parametrize("name", KINDS)
def test_frozen_it_stays_as_it_was_to_the_bit(make_dataset, tmp_path, name, head):
    path, dataset, out = saved(tmp_path / "r", name), make_dataset(), tmp_path / "out"
    run(settings(dataset, out, path, f"policy={head}", "trainer.steps=3", "backbone_lr=1"))
    before, after = load_file(path / "model.safetensors"), own_weights(out)
    assert {name.split(".")[0] for name in after} >= {"encoder"}
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name
    assert (load_file(out / "model.safetensors")["backbone.tower.film.to_scale_shift.weight"] != 0).any()


@pytest.mark.parametrize("name", KINDS)
def test_fine_tuned_it_learns_at_its_own_rate_and_the_rest_at_the_full_one(make_dataset, tmp_path, name):
    path, dataset = saved(tmp_path / "r", name), make_dataset()
    before = load_file(path / "model.safetensors")
    plan = ("policy.backbone.freeze=false", "trainer.steps=3")
    run(settings(dataset, tmp_path / "still", path, *plan, "backbone_lr=0"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in own_weights(tmp_path / "still").items())
    whole = load_file(tmp_path / "still" / "model.safetensors")
    assert (whole["backbone.tower.film.to_scale_shift.weight"] != 0).any()
    run(settings(dataset, tmp_path / "moving", path, *plan))
    assert not all(torch.equal(tensor, before[name]) for name, tensor in own_weights(tmp_path / "moving").items())


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_everything_that_is_not_frozen_learns(make, tmp_path, name, freeze):
    policy, batch = make(saved(tmp_path / "r", name), f"policy.backbone.freeze={freeze}", "policy.head=regression")
    torch.manual_seed(0)
    for parameter in policy.model.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    policy.model.train()
    policy.model(batch).backward()
    learns = {n for n, p in policy.model.named_parameters() if p.grad is not None and p.grad.any()}
    own = {n for n, _ in policy.model.named_parameters() if n.startswith(OWN)}
    assert own
    assert learns == {n for n, _ in policy.model.named_parameters()} - (own if freeze else set())


def test_frozen_it_is_run_without_gradients_and_in_evaluation_mode(make, tmp_path):
    policy, batch = make(saved(tmp_path / "r", "voltron_cond"))
    tower = policy.model.train().backbone.tower
    assert tower.training
    assert not any(module.training for module in tower.representation.modules())
    seen = []
    tower.representation.encoder.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    policy.model(batch)
    assert seen == [False]
    average = average_of(policy.model, TrainerConfig()).module
    assert not any(module.training for module in average.train().backbone.tower.representation.modules())


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_the_loss_of_one_batch_falls(make, tmp_path, name, freeze):
    policy, batch = make(saved(tmp_path / "r", name), f"policy.backbone.freeze={freeze}", "policy.head=regression")
    model = policy.model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 2e-3)
    losses = []
    for _ in range(60):
        losses.append(model(batch))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("head", ["diffusion", "regression"])
@pytest.mark.parametrize("name", [*KINDS, "siglip"])
def test_a_checkpoint_outlives_the_folder_it_was_made_from(make, tmp_path, name, head):
    path = saved(tmp_path / "r", name)
    policy, _ = make(path, f"policy.head={head}")
    shutil.rmtree(path)
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    again.save(tmp_path / "twice")
    observation = observation_of(make.dataset)
    expected = answers(policy, observation)
    for asked in (again, load_policy(tmp_path / "twice")):
        np.testing.assert_array_equal(answers(asked, observation), expected)
        assert asked.representation == policy.representation


def test_a_checkpoint_holds_a_distilbert_too(make, tmp_path):
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

    from vla.representation.language import word_tokenizer

    tokenizer = word_tokenizer(CAPTIONS, vocabulary=100)
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": tokenizer.get_vocab_size()}
    DistilBertModel(DistilBertConfig(pad_token_id=0, **sizes)).save_pretrained(tmp_path / "bert")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path / "bert")
    path = saved(tmp_path / "r", "voltron_cond", language={"distilbert": str(tmp_path / "bert")})
    policy, _ = make(path, "policy.backbone.freeze=false")
    assert not any(p.requires_grad for p in policy.model.backbone.tower.representation.captions.parameters())
    policy.save(tmp_path / "saved")
    for folder in (path, tmp_path / "bert"):
        shutil.rmtree(folder)
    again = load_policy(tmp_path / "saved")
    observation = observation_of(make.dataset)
    np.testing.assert_array_equal(answers(again, observation), answers(policy, observation))


def test_the_words_change_what_is_done(make, tmp_path):
    policy, _ = make(saved(tmp_path / "r", "voltron_cond"), "policy.head=regression")
    torch.manual_seed(0)
    for parameter in policy.model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    observation = observation_of(make.dataset)
    one, two = (answers(policy, observation, instruction) for instruction in INSTRUCTIONS)
    assert np.abs(one - two).max() > 1e-4


def test_words_that_the_representation_never_read_are_told(make, tmp_path, caplog):
    make(saved(tmp_path / "knows", "voltron_cond"))
    assert "has never read" not in caplog.text
    make(saved(tmp_path / "r", "voltron_cond", captions=["lift the cube"]))
    assert "has never read: drawer, open, red" in caplog.text


def test_what_is_no_representation_is_refused(make, tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UnderstudyError, match="is no representation: it lacks"):
            make(path)


def test_a_grid_that_cannot_be_merged_is_refused(make, tmp_path):
    path = saved(tmp_path / "r", "vip", encoder={"image_size": 24})
    with pytest.raises(UnderstudyError, match=r"merge=2 must divide the 3 x 3 tokens"):
        make(path)


def checkpoint(make, tmp_path):
    policy, _ = make(saved(tmp_path / "r", "voltron_cond"))
    policy.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("name", ["encoder.image_token", "captions.words.weight"])
def test_a_missing_weight_is_an_error(make, tmp_path, name):
    folder = checkpoint(make, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop(OWN + name)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UnderstudyError, match=f"(?s)does not fit .*{name}"):
        load_policy(folder)


@pytest.mark.parametrize("name", ["representation.json", "config.yaml", "tokenizer.json"])
def test_a_missing_file_is_an_error(make, tmp_path, name):
    folder = checkpoint(make, tmp_path)
    (folder / "representation" / name).unlink()
    with pytest.raises(UnderstudyError, match=f"lacks .*representation/{name}"):
        load_policy(folder)


def test_the_provenance_names_it(make_dataset, tmp_path):
    path, dataset, out = saved(tmp_path / "r", "vip"), make_dataset(), tmp_path / "out"
    run(settings(dataset, out, path, "trainer.steps=1"))
    told = json.loads((out / "provenance.json").read_text())["representation"]
    assert (told["name"], told["path"], len(told["weights"])) == ("vip", str(path), 64)
    other = Source.read(saved(tmp_path / "other", "vip", seed=2)).about
    assert other["weights"] != told["weights"]


def test_a_backbone_taken_over_must_have_seen_through_the_same(make_dataset, tmp_path):
    path, dataset, warm = saved(tmp_path / "r", "vip"), make_dataset(), tmp_path / "warm"
    run(settings(dataset, warm, path, "policy=cogact_l1", "trainer.steps=2"))
    still = ("trainer.steps=1", "trainer.lr=0", "trainer.weight_decay=0", f"start_from={warm}")
    run(settings(dataset, tmp_path / "out", path, *still))
    began, out = load_policy(warm).model.backbone.state_dict(), load_policy(tmp_path / "out").model.backbone
    assert all(torch.equal(out.state_dict()[name], tensor) for name, tensor in began.items())
    for other in (saved(tmp_path / "other", "vip", seed=2), "null"):
        with pytest.raises(UnderstudyError, match="give the same"):
            run(settings(dataset, tmp_path / "b", other, *still))


def test_a_stopped_run_goes_on(make_dataset, tmp_path):
    path, dataset = saved(tmp_path / "r", "voltron_cond"), make_dataset()
    plan = ("trainer.schedule=constant", "policy.backbone.freeze=false")
    run(settings(dataset, tmp_path / "whole", path, *plan, "trainer.steps=4"))
    run(settings(dataset, tmp_path / "parts", path, *plan, "trainer.steps=2"))
    run(settings(dataset, tmp_path / "parts", path, *plan, "trainer.steps=4", "resume=true"))
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == two


def test_what_is_new_starts_the_same_whichever_representation_it_is(make, tmp_path):
    one, two = (make(saved(tmp_path / name, name))[0].model.state_dict() for name in KINDS)
    new = {name for name in one if not name.startswith(OWN)}
    assert new == {name for name in two if not name.startswith(OWN)}
    assert all(torch.equal(one[name], two[name]) for name in new)


def test_without_one_nothing_is_new(make_dataset, make_policy, tmp_path):
    """Names, first weights and files of checkpoints are what they were before there was a choice."""
    policy, _ = make_policy(make_dataset(), "policy.backbone.max_words=16")
    names = {name.split(".")[1] for name in policy.model.state_dict() if name.startswith("backbone.")}
    assert names == {
        *("word_condition", "stem", "camera", "vision", "projector", "keypoints", "proprio", "cognition"),
        *("words", "word_order", "order", "language", "norm"),
    }
    backbone = policy.model.backbone
    for drawn, expected in ((backbone.cognition, COGNITION), (backbone.order[0], ORDER)):
        np.testing.assert_allclose(drawn[:3].tolist(), expected, rtol=1e-4)
    policy.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "representation").exists()
    config = tmp_path / "saved" / "config.yaml"
    kept = [
        line for line in config.read_text().splitlines() if line.strip() not in ("representation: null", "freeze: true")
    ]
    config.write_text("\n".join(kept))
    assert "freeze" not in config.read_text()
    observation = observation_of(make_dataset(name="same"))
    np.testing.assert_array_equal(answers(load_policy(tmp_path / "saved"), observation), answers(policy, observation))
    assert SmallVLMConfig().representation is None
