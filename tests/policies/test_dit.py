"""The diffusion transformer: its published sizes, its start, its null."""

import pytest
import torch

from policies.heads.dit import SIZES, DiT, DiTSize

DEAD = 8
"""Parameters for each channel of the published history embedder (7 inputs and a bias), which no code path calls."""
SMALL = DiTSize(2, 32, 2)


@pytest.mark.parametrize(("size", "millions"), [("S", 12.48), ("B", 88.99), ("L", 307.76)])
def test_the_sizes_are_the_papers(size, millions):
    with torch.device("meta"):
        model = DiT(SIZES[size], action_dim=7, chunk=16, token_dim=4096)
    ours = sum(parameter.numel() for parameter in model.parameters())
    assert round((ours + DEAD * SIZES[size].width) / 1e6, 2) == millions


@pytest.fixture
def trained():
    """A small one with weights at random everywhere, also where it starts at zero."""
    torch.manual_seed(0)
    model = DiT(SMALL, action_dim=3, chunk=5, token_dim=8)
    for parameter in (model.null, model.action_out.weight):
        torch.nn.init.normal_(parameter)
    return model.eval()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    noisy, cognition = torch.randn(4, 5, 3, generator=generator), torch.randn(4, 1, 8, generator=generator)
    return noisy, torch.tensor([0, 10, 50, 99]), cognition


def test_it_starts_by_predicting_nothing(inputs):
    assert not DiT(SMALL, action_dim=3, chunk=5, token_dim=8)(*inputs).any()


def test_a_dropped_label_is_the_null_and_only_for_the_samples_that_drop_it(trained, inputs):
    noisy, time, cognition = inputs
    drop = torch.tensor([True, False, True, False])
    null = trained.null.expand(4, 1, -1)
    mixed = trained(noisy, time, cognition, drop)
    torch.testing.assert_close(mixed[drop], trained(noisy, time, null)[drop])
    torch.testing.assert_close(mixed[~drop], trained(noisy, time, cognition)[~drop])
    other = cognition + torch.randn(4, 1, 8)
    torch.testing.assert_close(trained(noisy, time, other, drop)[drop], mixed[drop])
    assert not torch.allclose(trained(noisy, time, other, drop)[~drop], mixed[~drop])


def test_the_null_learns_from_the_dropped_alone(trained, inputs):
    for drop, learns in ((torch.zeros(4).bool(), False), (torch.tensor([True, False, False, False]), True)):
        trained.zero_grad()
        trained(*inputs, drop).square().sum().backward()
        assert bool(trained.null.grad.any()) is learns


@pytest.mark.parametrize("changed", ["noise", "time", "cognition"])
def test_every_input_matters(trained, inputs, changed):
    noisy, time, cognition = inputs
    other = {
        "noise": (noisy + 1, time, cognition),
        "time": (noisy, time + 5, cognition),
        "cognition": (noisy, time, cognition + 1),
    }[changed]
    assert (trained(*other) - trained(*inputs)).abs().amax((1, 2)).min() > 1e-3


def test_every_row_sees_every_other_and_knows_its_place(trained, inputs):
    noisy, time, cognition = inputs
    before = trained(noisy, time, cognition)
    last = noisy.clone()
    last[:, -1] += 1
    assert (trained(last, time, cognition) - before)[:, 0].abs().max() > 1e-3
    assert not torch.allclose(trained(noisy.flip(1), time, cognition).flip(1), before)


def test_samples_of_a_batch_do_not_mix(trained, inputs):
    alone = [trained(*(part[i : i + 1] for part in inputs)) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), trained(*inputs))
