"""What the figures of Vid2Robot and Manipulate by Seeing rest on."""

import numpy as np
import pytest
import torch

from vla.bench import script


@pytest.fixture(scope="module")
def shown():
    return script("shown")


def test_the_plain_network_computes_the_same(shown):
    """What is compared differs in how it is computed, not in what."""
    torch.manual_seed(0)
    ours = shown.network("manipulate_by_seeing", plain=False)
    plain = shown.network("manipulate_by_seeing", plain=True)
    plain.load_state_dict(ours.state_dict())
    assert type(plain.dynamics) is not type(ours.dynamics)
    given = shown.batch("manipulate_by_seeing", ours)
    torch.testing.assert_close(plain(given), ours(given), rtol=1e-4, atol=1e-4)


def test_a_step_is_taken(shown):
    torch.manual_seed(0)
    model = shown.network("manipulate_by_seeing", plain=False)
    before = [value.clone() for value in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    shown.step(model, optimizer, shown.batch("manipulate_by_seeing", model), fast=False)
    assert all((new != old).any() for new, old in zip(model.parameters(), before, strict=True))


def test_intervals_hold_the_mean_and_cosines_are_cosines():
    study = script("seeing_study")
    values = np.random.default_rng(0).normal(0.5, 0.1, 40).tolist()
    mean, low, high = study._interval(values, np.random.default_rng(1))
    assert low < mean < high
    assert high - low == pytest.approx(4 * 0.1 / 40**0.5, rel=0.3)
    a = np.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 0]])
    b = np.array([[2.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    np.testing.assert_allclose(study._cosines(a, b), [1, 0.5**0.5, 0])
