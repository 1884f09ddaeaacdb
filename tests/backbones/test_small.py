"""The small vision-language model: what reaches the cognition token, and what must not."""

import pytest
import torch
from torch import nn

from policies.cogact_model import CogACTConfig
from policies.train import TrainConfig
from vla.backbones.small import PAD, SmallVLM, build_tokenizer
from vla.config import build, load
from vla.errors import UnderstudyError

INSTRUCTIONS = ("lift the red cube", "lift the blue cube", "open the drawer")
CAMERAS = ("front", "wrist")
PROPRIO = 3


@pytest.fixture(scope="module")
def config():
    settings = load(TrainConfig, "train", ["preset=tiny", "data=nowhere"]).policy
    return build(CogACTConfig, {key: value for key, value in settings.items() if key != "name"}).backbone


@pytest.fixture
def model(config):
    """Weights at random everywhere, also where they start at zero: then everything that can matter does."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(INSTRUCTIONS)
    model = SmallVLM(config, cameras=CAMERAS, proprio_dim=PROPRIO, tokenizer=tokenizer).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def inputs(config, model):
    generator = torch.Generator().manual_seed(1)
    side = config.image_size
    images = {n: torch.randint(256, (3, side, side, 3), dtype=torch.uint8, generator=generator) for n in CAMERAS}
    return images, torch.randn(3, PROPRIO, generator=generator), model.tokenize(INSTRUCTIONS)


@pytest.fixture
def read(model):
    """``read(images, proprio, text)``: the language model's first input and its last hidden state, both [B, N, D]."""
    seen = {}
    hooks = [
        model.language[0].register_forward_pre_hook(lambda _, args: seen.update({"in": args[0].detach()})),
        model.language[-1].register_forward_pre_hook(lambda _, args: seen.update({"last": args})),
    ]

    def run(*inputs):
        model(*inputs)
        return seen["in"], model.language[-1].forward(*seen["last"]).detach()

    yield run
    for hook in hooks:
        hook.remove()


def token(model, *inputs):
    return model(*inputs).tokens.detach()


def differs(one, two):
    """The smallest difference of any sample, of its largest entry."""
    return (one - two).abs().flatten(1).amax(1).min().item()


def test_the_cognition_token_is_the_last_and_the_only_one(model, inputs, read):
    group = model(*inputs)
    assert group.tokens.shape == (3, 1, model.width)
    assert group.mask.all()
    assert group.mask.shape == (3, 1)
    _, hidden = read(*inputs)
    torch.testing.assert_close(group.tokens, model.norm(hidden[:, -1:]), rtol=1e-4, atol=1e-5)


def reached(read, inputs, other):
    """Which places of the language model's input differ between two inputs."""
    before, after = read(*inputs)[0], read(*other)[0]
    return (before - after).abs().amax((0, 2)).gt(1e-6).nonzero().flatten().tolist()


def test_the_order_of_the_sequence_is_words_cameras_proprio_cognition(inputs, read):
    images, proprio, text = inputs
    places = {n: reached(read, inputs, ({**images, n: 255 - images[n]}, proprio, text)) for n in CAMERAS}
    front, wrist = places.values()
    length = read(*inputs)[0].shape[1]
    assert sorted(front + wrist) == list(range(text.shape[1], length - 2))  # every place between is one camera's
    assert front[0] == text.shape[1] < wrist[0]
    assert len(front) == len(wrist)
    assert reached(read, inputs, (images, proprio + 1, text)) == [length - 2]


def test_the_language_model_is_causal(inputs, read):
    images, proprio, text = inputs
    _, before = read(images, proprio, text)
    dark = {**images, "wrist": torch.zeros_like(images["wrist"])}
    for other in ((images, proprio + 1, text), (dark, proprio, text)):
        first = reached(read, inputs, other)[0]
        _, after = read(*other)
        torch.testing.assert_close(before[:, :first], after[:, :first])
        assert differs(before[:, -1], after[:, -1]) > 1e-3


def test_words_matter_and_every_patch_knows_them(model, inputs, read):
    images, proprio, text = inputs
    embedded, hidden = read(images, proprio, text)
    other_embedded, other_hidden = read(images, proprio, text.roll(1, 0))
    assert differs(token(model, *inputs), token(model, images, proprio, text.roll(1, 0))) > 1e-3
    patches = slice(text.shape[1], -2)
    assert differs(hidden[:, patches], other_hidden[:, patches]) > 1e-3
    assert differs(embedded[:, patches], other_embedded[:, patches]) > 1e-4  # the words modulate the pictures' stem


def test_the_order_of_the_words_matters(model, inputs):
    images, proprio, _ = inputs
    one, two = (model.tokenize([words] * 3) for words in ("lift the red cube", "cube red the lift"))
    assert differs(token(model, images, proprio, one), token(model, images, proprio, two)) > 1e-4


def test_padding_says_nothing(config, model, inputs):
    images, proprio, text = inputs
    before, pad = token(model, *inputs), model.tokenizer.token_to_id(PAD)
    assert (text == pad).any()
    longer = torch.full((3, config.max_words), pad)
    longer[:, : text.shape[1]] = text
    torch.testing.assert_close(token(model, images, proprio, longer), before, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        for table in (module for module in model.modules() if isinstance(module, nn.Embedding)):
            table.weight[pad] += 10
    torch.testing.assert_close(token(model, *inputs), before)


def test_cameras_are_told_apart_by_name_and_not_by_order(model, inputs):
    images, proprio, text = inputs
    before = token(model, images, proprio, text)
    assert torch.equal(token(model, dict(reversed(images.items())), proprio, text), before)
    assert torch.equal(token(model, {**images, "film": images["front"]}, proprio, text), before)
    swapped = {"front": images["wrist"], "wrist": images["front"]}
    assert differs(token(model, swapped, proprio, text), before) > 1e-3


def test_where_something_is_seen_matters(model, inputs):
    images, proprio, text = inputs
    moved = {name: image.roll(8, dims=2) for name, image in images.items()}
    assert differs(token(model, moved, proprio, text), token(model, *inputs)) > 1e-3


def test_samples_of_a_batch_do_not_mix(model, inputs):
    images, proprio, text = inputs
    alone = [
        token(model, {name: image[i : i + 1] for name, image in images.items()}, proprio[i : i + 1], text[i : i + 1])
        for i in range(3)
    ]
    torch.testing.assert_close(torch.cat(alone), token(model, *inputs), rtol=1e-3, atol=1e-4)


def test_everything_learns(model, inputs):
    model(*inputs).tokens.square().mean().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_unknown_words_are_reported_as_they_were_written(model):
    assert model.unknown_words("Lift the Purple cube with zest") == ["Purple", "with", "zest"]
    assert not model.unknown_words("OPEN the Drawer")
    assert torch.equal(model.tokenize(["LIFT the Red cube"]), model.tokenize(["lift the red cube"]))


def test_an_instruction_that_does_not_fit_is_refused(config, model):
    most = config.max_words - 1  # one place is the beginning's
    assert model.tokenize(["cube " * most]).shape == (1, config.max_words)
    with pytest.raises(UnderstudyError, match=f"at most {config.max_words} fit"):
        model.tokenize(["open the drawer", "cube " * (most + 1)])


def test_the_vocabulary_depends_on_the_words_alone():
    one, two = (build_tokenizer(texts) for texts in (INSTRUCTIONS, (*INSTRUCTIONS[::-1], INSTRUCTIONS[0])))
    assert one.get_vocab() == two.get_vocab()
    assert len(set(one.get_vocab().values())) == len(one.get_vocab())


def test_sizes_that_do_not_fit_each_other_are_refused(config):
    tokenizer = build_tokenizer(INSTRUCTIONS)
    for changes, message in (({"image_size": 36}, "multiple of patch_size"), ({"patch_size": 12}, "patch_size")):
        with pytest.raises(ValueError, match=message):
            SmallVLM(type(config)(**{**vars(config), **changes}), cameras=CAMERAS, proprio_dim=1, tokenizer=tokenizer)


def test_a_camera_that_is_missing_says_nothing(model, inputs):
    images, proprio, text = inputs
    present = torch.tensor([[True, False], [True, True], [False, True]])
    before = token(model, images, proprio, text, present)
    torch.testing.assert_close(before[1], token(model, images, proprio, text)[1])
    other = {name: image.clone() for name, image in images.items()}
    other["wrist"][0], other["front"][2] = 0, 255
    torch.testing.assert_close(token(model, other, proprio, text, present), before)
    other["front"][0] = 255
    assert differs(token(model, other, proprio, text, present)[0], before[0]) > 1e-4
