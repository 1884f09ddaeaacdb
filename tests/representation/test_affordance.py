"""Precision of the most graspable pixels on maps made by hand."""

import numpy as np
import pytest
import torch

from vla.errors import UnderstudyError
from vla.representation.evaluation.affordance import (
    IGNORE,
    NEGATIVE,
    POSITIVE,
    blurred,
    graspable,
    precision_at,
    precision_chance,
)


def test_the_probability_is_over_classes_and_not_over_rows():
    logits = torch.randn(2, 3, 8, 5, generator=torch.Generator().manual_seed(0))
    by_hand = logits.exp()[:, POSITIVE] / logits.exp().sum(1)
    assert torch.allclose(graspable(logits), by_hand)
    assert graspable(logits).shape == (2, 8, 5)
    assert not torch.allclose(graspable(logits).sum(1), torch.ones(2, 5))


def test_a_softmax_over_rows_would_choose_another_pixel():
    logits = torch.zeros(1, 3, 4, 4)
    logits[0, POSITIVE, :, 0] = 6.0  # a column that is graspable from top to bottom
    logits[0, POSITIVE, 2, 3] = 1.0  # and a pixel that only outdoes its own column
    labels = torch.full((1, 4, 4), NEGATIVE)
    labels[0, :, 0] = POSITIVE
    assert precision_at(graspable(logits), labels)["top 1"] == [1.0]
    assert precision_at(logits.softmax(dim=2)[:, POSITIVE], labels)["top 1"] == [0.0]


def test_precisions_counted_by_hand():
    confidence, labels = np.linspace(1, 0, 200).reshape(1, 10, 20), np.full((1, 10, 20), NEGATIVE)
    labels.reshape(-1)[[0, 2, 3, 15]] = POSITIVE
    found = {name: values.tolist() for name, values in precision_at(confidence, labels).items()}
    assert found == {"top 1": [1.0], "1 %": [0.5], "5 %": [0.3], "10 %": [0.2]}
    assert precision_chance(labels) == pytest.approx([4 / 200])


def test_pixels_to_ignore_are_neither_right_nor_wrong_nor_counted():
    confidence, labels = np.linspace(1, 0, 40).reshape(1, 5, 8), np.full((1, 5, 8), NEGATIVE)
    labels.reshape(-1)[:20] = IGNORE
    labels.reshape(-1)[20] = POSITIVE
    found = precision_at(confidence, labels)
    assert found["top 1"] == found["5 %"] == [1.0]
    assert found["10 %"] == [0.5]  # two of the twenty that are labelled
    assert precision_chance(labels) == [1 / 20]


def test_a_map_that_knows_nothing_earns_nothing():
    labels = torch.full((1, 80, 80), NEGATIVE)
    labels[0, :20] = POSITIVE
    constant = blurred(torch.full((1, 80, 80), 0.37))
    assert torch.allclose(constant, torch.tensor(0.37))
    for rounding in (0, 1e-8):
        assert precision_at(constant.double() + rounding * labels, labels)["10 %"] == [0.0]


@pytest.mark.parametrize("side", [40, 80])
def test_the_blur_is_a_gaussian_in_proportion_to_the_map(side):
    spike = torch.zeros(1, side, side)
    spike[0, side // 2, side // 2] = 1
    soft = blurred(spike)[0]
    sigma = 7 * side / 80
    assert float(soft.sum()) == pytest.approx(1, abs=1e-5)
    assert int((soft > 0).any(0).sum()) == {80: 29, 40: 15}[side]
    ratio = float(soft[side // 2, side // 2 + 3] / soft[side // 2, side // 2])
    assert ratio == pytest.approx(np.exp(-9 / 2 / sigma**2), rel=1e-4)
    assert torch.allclose(soft, soft.T)


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UnderstudyError, match="no labelled pixel"):
        precision_at(np.zeros((1, 4, 4)), np.full((1, 4, 4), IGNORE))
    with pytest.raises(UnderstudyError, match=r"\[N, H, W\]"):
        precision_at(np.zeros((1, 3, 4, 4)), np.zeros((1, 4, 4)))
