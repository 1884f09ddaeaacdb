"""Intervals of means: laws, coverage, and what a table may say of a difference."""

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from vla.errors import UnderstudyError
from vla.representation.evaluation.intervals import (
    Difference,
    bootstrap_interval,
    paired_difference,
    resample_counts,
    t_interval,
    verdict,
)

unhurried = settings(deadline=None, max_examples=40)
VALUES = st.lists(st.floats(-5, 5), min_size=2, max_size=30)


@unhurried
@given(VALUES, st.integers(0, 100))
def test_an_interval_lies_within_the_values_and_repeats_under_its_seed(values, seed):
    interval = bootstrap_interval(values, seed=seed)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval.estimate == pytest.approx(np.mean(values))
    assert interval == bootstrap_interval(values, seed=seed)
    wider = bootstrap_interval(values, seed=seed, confidence=0.99)
    assert wider.low <= interval.low <= interval.high <= wider.high


def test_bootstrap_and_t_cover_the_mean_as_often_as_they_claim():
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(400, 40))
    found = [bootstrap_interval(values, resamples=399) for values in runs]
    assert 0.89 < np.mean([i.low <= 0 <= i.high for i in found]) < 0.98
    few = [t_interval(values[:3]) for values in runs]
    assert 0.92 < np.mean([i.low <= 0 <= i.high for i in few]) < 0.98


def test_t_interval_against_scipy():
    values = [0.7, 0.4, 0.9]
    low, high = student.interval(0.95, 2, loc=np.mean(values), scale=np.std(values, ddof=1) / 3**0.5)
    interval = t_interval(values)
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_one_value_says_nothing_of_spread():
    assert t_interval([0.5]).high == inf
    assert bootstrap_interval([0.5]).low == -inf
    assert bootstrap_interval([0.5, 0.9], groups=np.array([7, 7])).low == -inf
    difference = paired_difference([1.0], [0.0])
    assert (difference.low, difference.p, verdict(difference)) == (-inf, 1.0, "not better than")


def test_groups_are_drawn_whole():
    groups = np.array(["b", "a", "b", "c"])
    counts = np.concatenate(list(resample_counts(4, resamples=50, seed=0, groups=groups)))
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 0] + counts[:, 1] + counts[:, 3] == 3).all()
    with pytest.raises(UnderstudyError, match="one for each item"):
        bootstrap_interval([1, 2], groups=np.arange(3))


def test_a_clear_difference_is_better_or_worse_by_its_direction():
    rng = np.random.default_rng(1)
    baseline = rng.normal(size=50)
    method = baseline + 0.5 + 0.1 * rng.normal(size=50)
    found = paired_difference(method, baseline)
    assert 0.4 < found.low < found.estimate < found.high < 0.6
    assert found.p == pytest.approx(2 / 2000)
    assert verdict(found) == "better"
    assert verdict(found, higher_is_better=False) == "worse"
    assert verdict(paired_difference(baseline, method)) == "worse"


def test_no_difference_is_an_answer():
    rng = np.random.default_rng(2)
    baseline = rng.normal(size=50)
    same = paired_difference(baseline, baseline)
    assert (same.estimate, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert verdict(same) == "not better than"
    false_alarms = [
        verdict(paired_difference(rng.normal(size=30), rng.normal(size=30), resamples=199)) for _ in range(300)
    ]
    assert 0.01 < np.mean([word != "not better than" for word in false_alarms]) < 0.1


@pytest.mark.parametrize(("items", "word"), [(3, "not better than"), (5, "not better than"), (6, "better")])
def test_a_handful_of_items_never_makes_a_method_better(items, word):
    found = paired_difference(np.ones(items), np.zeros(items))
    assert found.p == pytest.approx(max(2.0 ** (1 - items), 2 / 2000))
    assert verdict(found) == word
    # the same when they hide among items on which both agree, or are the frames of as many clips
    idle = np.zeros(20 * items)
    assert paired_difference([*np.ones(items), *idle], [*np.zeros(items), *idle]).p >= found.p
    frames = paired_difference(np.ones(10 * items), np.zeros(10 * items), groups=np.arange(items).repeat(10))
    assert (frames.p, verdict(frames)) == (found.p, word)


def test_a_difference_of_0_is_0_whatever_the_rounding():
    up, down = 0.3 - 0.2, 0.1 - 0.2
    assert up + down != 0
    exact = paired_difference([0.1] * 5 + [-0.1] * 5, np.zeros(10))
    assert paired_difference([up] * 5 + [down] * 5, np.zeros(10)).p == exact.p == 1
    assert paired_difference([up, down] * 7, np.zeros(14), groups=np.arange(7).repeat(2)).p == 1
    # five clips differ, which no test can call significant; in fifteen others the frames cancel
    gaps = [1.0, 1.0] * 5 + [up, down] * 15
    assert paired_difference(gaps, np.zeros(40), groups=np.arange(20).repeat(2)).p == 2.0**-4


@unhurried
@given(st.integers(0, 2**32 - 1), st.integers(10, 30), st.floats(-1, 1))
def test_the_interval_leaves_out_0_exactly_when_p_says_so(seed, items, shift):
    rng = np.random.default_rng(seed)
    found = paired_difference(rng.normal(size=items) + shift, np.zeros(items))
    assert (found.low > 0 or found.high < 0) == (found.p <= 0.05)


def test_what_is_no_comparison_is_refused():
    with pytest.raises(UnderstudyError, match="same items"):
        paired_difference([1, 2], [1])
    with pytest.raises(UnderstudyError, match="finite"):
        bootstrap_interval([])
    with pytest.raises(UnderstudyError, match="too few"):
        bootstrap_interval([1, 2, 3], resamples=10)
    with pytest.raises(UnderstudyError, match="strictly between"):
        t_interval([1, 2], confidence=95)
    assert verdict(Difference(0.1, -0.1, 0.3, p=0.3, confidence=0.95)) == "not better than"
