"""``vla bench representation``: the plain implementation learns the same thing as ours."""

import pytest
import torch

from vla.bench import script
from vla.representation.language import LanguageConfig, make_language


@pytest.fixture(scope="module")
def bench():
    return script("representation")


@pytest.mark.parametrize("kind", ["vcond", "vdual", "vgen"])
def test_every_candidate_takes_a_step(bench, kind):
    captions = make_language(LanguageConfig(), bench.CAPTIONS)
    steps = bench.steps_for(kind, captions, batch=2)
    assert list(steps) == ["plain", "ours, fp32", "ours"]
    for step in steps.values():
        step()


@pytest.mark.parametrize("kind", ["vcond", "vdual", "vgen"])
def test_both_have_the_same_size_and_the_same_loss_when_they_say_nothing(bench, kind):
    torch.manual_seed(0)
    captions = make_language(LanguageConfig(), bench.CAPTIONS)
    frames = 1 if kind == "vcond" else 2
    plain, ours = bench.PlainVoltron(captions, frames=frames, writes=kind == "vgen"), bench.ours(kind, captions)
    mine, theirs = (sum(tensor.numel() for tensor in model.parameters()) for model in (ours, plain))
    assert mine == pytest.approx(theirs, rel=0.01)
    for last in (ours.decoder.pixels, ours.decoder.vocabulary, plain.pixels, plain.say):
        if last is not None:
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)
    images = torch.randint(0, 256, (16, frames, 64, 64, 3), dtype=torch.uint8)
    text = captions.tokenize([bench.CAPTIONS[0]] * 16)
    padded = torch.nn.functional.pad(text, (0, bench.WORDS - text.shape[1]), value=captions.pad)
    one = float(ours({"images": images, "text": text}).detach())
    two = float(plain({"images": images, "text": padded}).detach())
    assert one == pytest.approx(two, rel=1e-3)
