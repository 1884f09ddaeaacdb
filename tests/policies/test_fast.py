"""The quick sampler: the same actions, again and again; slow because something is compiled."""

import pytest
import torch

from policies.heads import fast
from policies.heads.diffusion import DiffusionConfig, DiffusionHead
from policies.heads.dit import DiT, DiTSize
from policies.heads.flow import FlowConfig, FlowHead
from vla.backbones.backbone import TokenGroup
from vla.errors import UnderstudyError

SIZES = {"action_dim": 3, "chunk": 8}


def make(kind):
    torch.manual_seed(0)
    denoiser = DiT(DiTSize(1, 32, 2), **SIZES, token_dim=16)
    torch.nn.init.normal_(denoiser.action_out.weight, std=0.1)
    head = FlowHead(FlowConfig(steps=4), denoiser, **SIZES) if kind == "flow" else None
    return head or DiffusionHead(DiffusionConfig(guidance=1.5, ddim_steps=5), denoiser, **SIZES)


def context(seed, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return TokenGroup(torch.randn(batch, 1, 16, generator=generator), torch.ones(batch, 1, dtype=torch.bool))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_quick_is_the_same(kind):
    head = make(kind).eval()
    before = dict(head.state_dict())
    sampler = fast.quick(head, context(0))
    for seed in (1, 2):
        noise = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(seed))
        plain = head.sample(context(seed), noise)
        torch.testing.assert_close(sampler(context(seed), noise), plain, atol=0.1, rtol=0.05)  # bf16 where it is fast
        assert torch.equal(head.sample(context(seed), noise), plain)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(fast.shutil, "which", lambda name: None)
    with pytest.raises(UnderstudyError, match=r"install a C\+\+ compiler"):
        fast.quick(make("flow"), context(0))
