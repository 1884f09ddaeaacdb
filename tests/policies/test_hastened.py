"""A hastened policy: the same chunks, and the usual way where a quick one would be wrong or too dear."""

import copy

import numpy as np
import pytest
import torch

from policies import hastened
from policies.hastened import Hastened
from policies.policy import Underway
from vla.backbones.hub import HubVLM, Source
from vla.backbones.hub_config import HubVLMConfig, LoraSettings
from vla.types import Observation, Task


@pytest.fixture
def policy(make_dataset, make_policy):
    return make_policy(make_dataset())[0]


def observation(policy, seed=0):
    rng = np.random.default_rng(seed)
    sides = {camera.name: (camera.height, camera.width, 3) for camera in policy.spec.cameras}
    images = {name: rng.integers(0, 256, shape, dtype=np.uint8) for name, shape in sides.items()}
    return Observation(images, np.zeros(policy.spec.proprio_dim, np.float32), 0)


def chunk(policy, instruction="lift the red cube", underway=None):
    policy.reset(Task(instruction), seed=1)
    return policy.infer(observation(policy), underway).actions


@pytest.fixture
def made(monkeypatch):
    """The shapes that a quick sampler was made for; in its place, the plain one moved by one."""
    shapes = []

    def quick(head, context, *, compiled):
        shapes.append(tuple(context.tokens.shape))
        return lambda context, noise: head.sample(context, noise) + 1

    monkeypatch.setattr(hastened, "quick", quick)
    return shapes


@pytest.mark.slow
@pytest.mark.parametrize("head", ["diffusion", "unet"])
def test_the_chunks_are_the_same(head, make_dataset, make_policy):
    policy, _ = make_policy(make_dataset(), f"policy.head={head}")
    instructions = ("lift the red cube", "open the drawer")  # of different lengths
    plain = [chunk(policy, instruction) for instruction in instructions]
    policy.hasten()
    for instruction, expected in zip(instructions, plain, strict=True):
        spread = np.ptp(expected, axis=0).max()
        np.testing.assert_allclose(chunk(policy, instruction), expected, atol=0.1 * spread)
    assert policy.hastened.refused == []


def test_one_sampler_serves_every_instruction(policy, made):
    plain = chunk(policy)
    policy.hasten()
    assert not np.allclose(chunk(policy), plain)
    chunk(policy, "open the drawer")
    assert len(made) == 1


def test_what_goes_on_from_what_is_underway_is_sampled_as_usual(policy, made):
    underway = Underway(chunk(policy)[4:], 2, "guided")
    plain = chunk(policy, underway=underway)
    policy.hasten()
    assert np.array_equal(chunk(policy, underway=underway), plain)
    assert made == []


def test_a_head_without_a_loop_stays_as_it_is(make_dataset, make_policy, made):
    policy, _ = make_policy(make_dataset(), "policy.head=regression")
    plain = chunk(policy)
    policy.hasten()
    assert np.array_equal(chunk(policy), plain)
    assert made == []


def test_on_a_cpu_only_the_first_number_of_samples_is_compiled(policy, made):
    sample = Hastened.settled(policy.model.eval())
    batch = {**policy.inputs({n: i[None] for n, i in observation(policy).images.items()}, np.zeros((1, 4), "float32"))}
    batch["text"] = policy.model.backbone.tokenize(["open the drawer"])
    noise = torch.randn(1, *policy.model.head.noise_shape)
    plain = policy.model.sample(batch, noise)
    torch.testing.assert_close(sample(batch, noise), plain + 1)
    twice = {name: torch.cat([value, value]) for name, value in batch.items()}
    torch.testing.assert_close(sample(twice, torch.cat([noise, noise])), torch.cat([plain, plain]), atol=1e-4, rtol=0)
    assert len(made) == 1


def test_what_cannot_be_made_quick_is_told_and_goes_on(policy, monkeypatch, caplog):
    def broken(head, context, *, compiled):
        raise RuntimeError("operation not permitted when stream is capturing\nand so on")

    monkeypatch.setattr(hastened, "quick", broken)
    plain = chunk(policy)
    policy.hasten()
    assert np.array_equal(chunk(policy), plain)
    assert "operation not permitted" in caplog.text
    assert len(policy.hastened.refused) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["paligemma", "qwen3_vl"])
def test_a_settled_model_says_the_same(family, precision, tiny_vlm, tmp_path):
    config = HubVLMConfig(
        str(tiny_vlm.save_tiny(family, tmp_path)),
        image_size=56,
        lora=LoraSettings(rank=2),
        cognition="learned",
        precision=precision,
    )
    vlm = HubVLM(config, Source.read(config), cameras=["front"], proprio_dim=4).eval()
    for name, parameter in vlm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    images = {"front": torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8)}
    inputs = (images, torch.zeros(2, 4), vlm.tokenize(["lift it", "open the drawer"]))
    with torch.no_grad():
        before = vlm(*inputs).tokens
        once = copy.deepcopy(vlm)
        once.settle()
        after = once(*inputs).tokens
    kinds = {parameter.dtype for parameter in once.vlm.parameters()}
    assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, before, atol=0.05 if precision == "bf16" else 1e-4, rtol=0.05)
