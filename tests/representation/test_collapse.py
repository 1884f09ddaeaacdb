"""Monitors of collapse on features whose spread is known."""

import numpy as np
import pytest

from vla.errors import UnderstudyError
from vla.representation.evaluation.collapse import effective_rank, measure_collapse, uniformity


@pytest.fixture
def normal():
    return np.random.default_rng(0).normal(size=(3000, 24)).astype(np.float32)


def test_isotropic_features_use_every_direction(normal):
    found = measure_collapse(normal)
    assert effective_rank(normal) == pytest.approx(24, rel=0.01)
    assert found.std_mean == pytest.approx(1, abs=0.02)
    assert found.std_min > 0.9
    assert found.dead_share == 0
    assert found.norm_mean == pytest.approx(24**0.5, rel=0.02)


def test_a_line_uses_one_direction(normal):
    line = normal[:, :1] * np.arange(1, 25) + 7
    assert effective_rank(line) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_constant_uses_none_and_is_dead(dtype):
    found = measure_collapse(np.tile(np.linspace(0.1, 3, 16), (500, 1)).astype(dtype))
    assert found.effective_rank == 0
    assert found.dead_share == 1
    assert found.uniformity == pytest.approx(0, abs=1e-9)


def test_noise_of_single_precision_on_a_constant_is_no_direction():
    noise = 1e-7 * np.random.default_rng(1).normal(size=(500, 16))
    assert effective_rank((1 + noise).astype(np.float32)) == 0


def test_dead_dimensions_are_counted(normal):
    half = normal.copy()
    half[:, ::2] = 0.5
    assert measure_collapse(half).dead_share == 0.5
    assert effective_rank(half) == pytest.approx(12, rel=0.02)
    assert measure_collapse(1000 * half).dead_share == 0.5


def test_uniformity_by_hand_and_on_the_sphere(normal):
    # one pair at a right angle: |x - y|² = 2
    assert uniformity(np.array([[3.0, 0.0], [0.0, 0.1]])) == pytest.approx(-4)
    assert uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)
    assert uniformity(normal) == pytest.approx(-4, abs=0.4)
    assert uniformity(normal + 20) > -0.1


def test_features_that_are_none_are_refused():
    for bad in (np.ones(3), np.ones((1, 3)), np.array([[1.0], [np.inf]])):
        with pytest.raises(UnderstudyError, match="finite"):
            measure_collapse(bad)
