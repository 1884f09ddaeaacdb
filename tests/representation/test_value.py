"""Order of a value along a clip and success against failure, by hand and against SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, spearmanr

from vla.errors import UnderstudyError
from vla.representation.evaluation.value import auroc, monotone_fraction, spearman

unhurried = settings(deadline=None)
SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=20)


def test_a_value_that_rises_to_the_goal_is_minus_one():
    remaining = np.linspace(1, 0, 20)
    assert spearman(np.exp(-remaining), remaining) == pytest.approx(-1)
    assert spearman(remaining**3, remaining) == pytest.approx(1)
    assert spearman(np.zeros(20), remaining) == 0


@unhurried
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=30))
def test_spearman_agrees_with_scipy_ties_included(pairs):
    a, b = np.array(pairs, dtype=float).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert spearman(a, b) == 0
    else:
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_steps_that_rise():
    assert monotone_fraction([0, 1, 2, 3]) == 1
    assert monotone_fraction([0, 1, 1, 0, 5]) == 0.5
    assert monotone_fraction(np.ones(9)) == 0


def test_auroc_by_hand_with_ties():
    assert auroc([2, 3], [0, 1]) == 1
    assert auroc([0, 1], [2, 3]) == 0
    assert auroc([1, 1, 1], [1, 1]) == 0.5
    # wins of 2 against 1, 2: 1.5; of 1 against 1, 2: 0.5; of 4
    assert auroc([2, 1], [1, 2]) == 0.5
    assert auroc([2, 2, 0], [2, 1]) == pytest.approx((1.5 + 1.5 + 0) / 6)


@unhurried
@given(SCORES, SCORES)
def test_auroc_is_the_u_statistic_and_mirrors(success, failure):
    peer = mannwhitneyu(success, failure, method="asymptotic").statistic / (len(success) * len(failure))
    assert auroc(success, failure) == pytest.approx(peer, abs=1e-12)
    assert auroc(failure, success) == pytest.approx(1 - peer, abs=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: spearman([1, 2], [1]),
        lambda: spearman([1, np.nan], [1, 2]),
        lambda: monotone_fraction([1]),
        lambda: auroc([], [1]),
    ],
)
def test_what_has_no_answer_is_refused(call):
    with pytest.raises(UnderstudyError):
        call()
