"""Boxes: overlaps known by hand, laws, and accuracy by split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.errors import UnderstudyError
from vla.representation.evaluation.grounding import box_iou, grounding

unhurried = settings(deadline=None)
BOX = st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.01, 3), st.floats(0.01, 3))


@pytest.mark.parametrize(
    ("other", "overlap"),
    [
        ((0, 0, 2, 2), 1),
        ((1, 0, 2, 2), 1 / 3),
        ((1, 1, 2, 2), 1 / 7),
        ((0, 0, 1, 1), 1 / 4),
        ((2, 0, 2, 2), 0),
        ((5, 5, 1, 1), 0),
        ((1, 1, -1, 1), 0),
        ((0, 0, 0, 0), 0),
    ],
)
def test_overlaps_by_hand(other, overlap):
    assert box_iou([(0, 0, 2, 2)], [other])[0] == pytest.approx(overlap)
    assert box_iou([other], [(0, 0, 2, 2)])[0] == pytest.approx(overlap)


def test_two_empty_boxes_do_not_overlap():
    assert box_iou([(0, 0, 0, 0)], [(0, 0, 0, 0)])[0] == 0
    assert box_iou([(3, 3, -2, -2)], [(0, 0, 2, 2)])[0] == 0


@unhurried
@given(BOX, BOX, st.floats(0.1, 10), st.tuples(st.floats(-5, 5), st.floats(-5, 5)))
def test_overlap_is_symmetric_and_knows_no_place_or_scale(a, b, scale, shift):
    a, b = np.array([a]), np.array([b])
    overlap = box_iou(a, b)[0]
    assert 0 <= overlap <= 1 + 1e-12
    assert box_iou(b, a)[0] == overlap
    assert box_iou(a, a)[0] == pytest.approx(1)
    move = np.array([[*shift, 0, 0]])
    assert box_iou(scale * (a + move), scale * (b + move))[0] == pytest.approx(overlap, abs=1e-6)


def test_accuracy_by_split():
    truth = np.tile([0.0, 0.0, 2.0, 2.0], (4, 1))
    guess = np.array([[0, 0, 2, 2], [1, 0, 2, 2], [0, 0, 1, 2], [9, 9, 1, 1.0]])  # IoU 1, 1/3, 1/2, 0
    found = grounding(guess, truth, splits=["free", "free", "stacked", "stacked"])
    assert (found["total"].items, found["total"].hits) == (4, {0.25: 3, 0.5: 2})
    assert found["free"].accuracy(0.25) == 1
    assert found["free"].accuracy(0.5) == 0.5
    assert found["stacked"].accuracy(0.5) == 0.5
    assert set(found) == {"total", "free", "stacked"}


def test_boxes_that_are_none_are_refused():
    with pytest.raises(UnderstudyError, match=r"\[N, 4\]"):
        box_iou([(0, 0, 1)], [(0, 0, 1)])
    with pytest.raises(UnderstudyError, match="as many splits"):
        grounding([(0, 0, 1, 1)], [(0, 0, 1, 1)], splits=["total"])
