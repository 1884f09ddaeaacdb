"""The small vision-language model: what reaches the cognition token, and what must not."""

import pytest
import torch

from policies.cogact import CogACTConfig
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
    tokenizer = build_tokenizer(INSTRUCTIONS, max_words=config.max_words)
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
    """``read(images, proprio, text)``: the language model's input and its last hidden state, both [B, N, D]."""
    seen = {}

    def remember(_module, _args, kwargs, output):
        seen["in"], seen["out"] = kwargs["inputs_embeds"].detach(), output.last_hidden_state.detach()

    hook = model.language.register_forward_hook(remember, with_kwargs=True)

    def run(*inputs):
        model(*inputs)
        return seen["in"], seen["out"]

    yield run
    hook.remove()


def token(model, *inputs):
    return model(*inputs).tokens.detach()


def differs(one, two):
    """The smallest difference of any sample, of its largest entry."""
    return (one - two).abs().flatten(1).amax(1).min().item()


def test_the_cognition_token_is_the_last_and_the_only_one(model, inputs, read):
    group = model(*inputs)
    embedded, hidden = read(*inputs)
    assert group.tokens.shape == (3, 1, model.width)
    assert group.mask.all()
    torch.testing.assert_close(group.tokens, hidden[:, -1:])
    torch.testing.assert_close(embedded[:, -1], model.cognition.detach().expand(3, -1))


def reached(read, inputs, other):
    """Which places of the language model's input differ between two inputs."""
    before, after = read(*inputs)[0], read(*other)[0]
    return (before - after).abs().amax((0, 2)).gt(1e-6).nonzero().flatten().tolist()


def test_the_order_of_the_sequence_is_words_cameras_proprio_cognition(config, model, inputs, read):
    images, proprio, text = inputs
    places = {n: reached(read, inputs, ({**images, n: 255 - images[n]}, proprio, text)) for n in CAMERAS}
    front, wrist = places.values()
    length = read(*inputs)[0].shape[1]
    assert sorted(front + wrist) == list(range(config.max_words, length - 2))  # every place between is one camera's
    assert front[0] == config.max_words < wrist[0]
    assert len(front) == len(wrist)
    assert reached(read, inputs, (images, proprio + 1, text)) == [length - 2]


def test_the_language_model_is_causal(config, inputs, read):
    images, proprio, text = inputs
    _, before = read(images, proprio, text)
    dark = {**images, "wrist": torch.zeros_like(images["wrist"])}
    for other in ((images, proprio + 1, text), (dark, proprio, text)):
        first = reached(read, inputs, other)[0]
        _, after = read(*other)
        torch.testing.assert_close(before[:, :first], after[:, :first])
        assert differs(before[:, -1], after[:, -1]) > 1e-3


def test_words_matter_and_every_patch_knows_them(config, model, inputs, read):
    images, proprio, text = inputs
    embedded, hidden = read(images, proprio, text)
    other_embedded, other_hidden = read(images, proprio, text.roll(1, 0))
    assert differs(token(model, *inputs), token(model, images, proprio, text.roll(1, 0))) > 1e-3
    patches = slice(config.max_words, -2)
    assert differs(hidden[:, patches], other_hidden[:, patches]) > 1e-3
    assert differs(embedded[:, patches], other_embedded[:, patches]) > 1e-4  # the words modulate the pictures' stem


def test_the_order_of_the_words_matters(model, inputs):
    images, proprio, _ = inputs
    one, two = (model.tokenize([words] * 3) for words in ("lift the red cube", "cube red the lift"))
    assert differs(token(model, images, proprio, one), token(model, images, proprio, two)) > 1e-4


def test_padding_says_nothing(model, inputs):
    before = token(model, *inputs)
    pad = model.tokenizer.token_to_id(PAD)
    with torch.no_grad():
        for table in (model.language.embed_tokens, model.word_condition):
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


def test_the_vocabulary_depends_on_the_words_alone(config):
    one, two = (build_tokenizer(texts, max_words=8) for texts in (INSTRUCTIONS, (*INSTRUCTIONS[::-1], INSTRUCTIONS[0])))
    assert one.get_vocab() == two.get_vocab()
    assert len(set(one.get_vocab().values())) == len(one.get_vocab())


def test_sizes_that_do_not_fit_each_other_are_refused(config):
    tokenizer = build_tokenizer(INSTRUCTIONS, max_words=8)
    for changes, message in (({"image_size": 36}, "multiple of patch_size"), ({"patch_size": 12}, "patch_size")):
        with pytest.raises(ValueError, match=message):
            SmallVLM(type(config)(**{**vars(config), **changes}), cameras=CAMERAS, proprio_dim=1, tokenizer=tokenizer)
