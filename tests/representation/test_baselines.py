"""Every baseline: a loss that a gradient reaches, and what is particular to each."""

import pytest
import torch

from vla.representation import baselines
from vla.representation.encoder import EncoderConfig
from vla.representation.language import LanguageConfig, make_language

CAPTIONS = ["lift the red cube", "open the drawer", "touch the red cube", "press the button"]
TINY = EncoderConfig("resnet", image_size=32, patch_size=8, width=32, depth=1, heads=2)
FRAMES = {
    "TCN": 5,
    "R3M": 5,
    "VIP": 4,
    "TCC": 6,
    "SigLIP": 2,
    "TemporalContrast": 2,
    "Autoencoder": 2,
    "ForwardModel": 2,
}
CONFIGS = {
    "TCN": baselines.ContrastConfig,
    "R3M": baselines.R3MConfig,
    "VIP": baselines.VIPConfig,
    "TCC": baselines.TCCConfig,
    "SigLIP": baselines.SigLIPConfig,
}


def model_of(name):
    torch.manual_seed(0)
    config = CONFIGS.get(name, baselines.LatentConfig)(encoder=TINY)
    captions = {"captions": make_language(LanguageConfig(), CAPTIONS)} if name in ("R3M", "SigLIP") else {}
    return getattr(baselines, name)(config, **captions)


def batch_for(model, name, size=4):
    images = torch.randint(0, 255, (size, FRAMES[name], 32, 32, 3), dtype=torch.uint8)
    batch = {"images": images, "times": torch.linspace(0, 1, FRAMES[name]).expand(size, -1)}
    batch["gap"] = torch.ones(size, dtype=torch.long)
    if model.captions is not None:
        batch["text"] = model.captions.tokenize(CAPTIONS[:size])
    return batch


@pytest.mark.parametrize("name", FRAMES)
def test_a_gradient_reaches_every_weight(name):
    model = model_of(name)
    model(batch_for(model, name)).backward()
    without = [key for key, tensor in model.named_parameters() if tensor.grad is None]
    assert not without
    assert all(torch.isfinite(tensor.grad).all() for tensor in model.parameters())


@pytest.mark.parametrize("name", FRAMES)
def test_it_learns_a_batch(name):
    model = model_of(name)
    batch = batch_for(model, name)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    torch.manual_seed(0)
    first = float(model(batch).detach())
    for step in range(60):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = model(batch)
        loss.backward()
        optimizer.step()
    torch.manual_seed(0)
    assert float(model(batch).detach()) < 0.9 * first


def test_negatives_are_of_other_videos():
    others = baselines.other_videos(6, 3)
    assert others.shape == (6, 3)
    assert (others != torch.arange(6)[:, None]).all()
    assert all(len(set(row)) == 3 for row in others.tolist())
    assert baselines.other_videos(3, 10).shape == (3, 2)


def test_a_captions_vector_does_not_depend_on_its_neighbours():
    """R3M's released code averages over padding too, so that a caption changes with the batch it is in."""
    model = model_of("R3M")
    alone = model.captions.sentence(model.captions.tokenize(["open the drawer"]))
    among = model.captions.sentence(
        model.captions.tokenize(["open the drawer", "a much longer caption about lift the red cube"])
    )
    assert torch.allclose(alone[0], among[0], atol=1e-6)


def test_the_forward_model_is_told_how_far_ahead():
    model = model_of("ForwardModel").eval()
    batch = batch_for(model, "ForwardModel")
    later = {**batch, "gap": batch["gap"] * 5}
    assert float(model(batch).detach()) != float(model(later).detach())
