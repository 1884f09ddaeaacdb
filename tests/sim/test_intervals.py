"""Intervals and tests against published values, against SciPy, and against the laws they must keep."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from sim.intervals import holm, mcnemar, newcombe, wilson
from vla.errors import UnderstudyError

COUNTS = st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
unhurried = settings(deadline=None)
PAIRS = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


@pytest.mark.parametrize(
    ("successes", "episodes", "published"),
    [
        (20, 20, (0.839, 1.0)),
        (19, 20, (0.764, 0.991)),
        # Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_gives_the_published_intervals(successes, episodes, published):
    assert wilson(successes, episodes) == pytest.approx(published, abs=6e-4 if episodes == 20 else 6e-5)


@unhurried
@given(COUNTS.filter(lambda counts: counts[1] > 0), st.floats(0.5, 0.999))
def test_wilson_agrees_with_scipy(counts, confidence):
    peer = binomtest(*counts).proportion_ci(confidence, method="wilson")
    assert wilson(*counts, confidence) == pytest.approx((peer.low, peer.high), abs=1e-9)


@unhurried
@given(COUNTS, st.floats(0.01, 0.99))
def test_wilson_holds_the_rate_lies_within_0_and_1_and_mirrors(counts, confidence):
    successes, episodes = counts
    low, high = wilson(successes, episodes, confidence)
    assert 0 <= low <= high <= 1
    if episodes:
        assert low <= successes / episodes <= high
    mirrored = wilson(episodes - successes, episodes, confidence)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


@unhurried
@given(COUNTS.filter(lambda counts: counts[0] < counts[1]), st.floats(0.01, 0.98))
def test_wilson_rises_with_successes_widens_with_confidence_and_narrows_with_episodes(counts, confidence):
    successes, episodes = counts
    low, high = wilson(successes, episodes, confidence)
    more_low, more_high = wilson(successes + 1, episodes, confidence)
    assert low < more_low
    assert high < more_high or high == more_high == 1
    surer_low, surer_high = wilson(successes, episodes, confidence + 0.01)
    assert surer_low <= low
    assert high <= surer_high
    twice_low, twice_high = wilson(2 * successes, 2 * episodes, confidence)
    assert twice_high - twice_low < high - low


@pytest.mark.parametrize(("successes", "episodes", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_counts_that_cannot_be_are_refused(successes, episodes, confidence):
    with pytest.raises(UnderstudyError, match="got"):
        wilson(successes, episodes, confidence)


@pytest.mark.parametrize(
    ("only_a", "only_b", "published"),
    # The first: Bentur et al. 2009 in Fagerland, Lydersen and Laake 2013; the others by hand: 2 / 2**5, 2 / 2**6.
    [(1, 7, 0.0703), (5, 0, 0.0625), (0, 6, 0.03125), (0, 0, 1.0), (4, 4, 1.0)],
)
def test_mcnemar_gives_the_published_values(only_a, only_b, published):
    assert mcnemar(only_a, only_b) == pytest.approx(published, abs=5e-5)


@unhurried
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_symmetric_exact_binomial_test(only_a, only_b):
    p_value = mcnemar(only_a, only_b)
    assert p_value == mcnemar(only_b, only_a)
    if only_a + only_b:
        assert p_value == pytest.approx(binomtest(only_a, only_a + only_b).pvalue, rel=1e-6, abs=1e-300)


@pytest.mark.parametrize(
    ("counts", "published"),
    [
        # Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10.
        ((36, 2, 12, 0), (0.0569, 0.3404)),
        # Altman et al. 2000, Statistics with confidence, table 6.2.
        ((14, 0, 5, 22), (0.011, 0.226)),
        # Bentur et al. 2009 in Fagerland, Lydersen and Laake 2014.
        ((1, 7, 1, 12), (-0.507, -0.026)),
    ],
)
def test_newcombe_gives_the_published_intervals(counts, published):
    assert newcombe(*counts) == pytest.approx(published, abs=6e-4)


@unhurried
@given(PAIRS)
def test_newcombe_holds_the_difference_and_mirrors(counts):
    both, only_a, only_b, neither = counts
    low, high = newcombe(*counts)
    difference = (only_b - only_a) / sum(counts)
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1
    assert newcombe(both, only_b, only_a, neither) == pytest.approx((-high, -low), abs=1e-12)
    assert newcombe(neither, only_b, only_a, both) == pytest.approx((-high, -low), abs=1e-12)


def test_mcnemar_of_very_many_scenes_does_not_overflow():
    assert mcnemar(3000, 3000) == 1
    assert 0 < mcnemar(1400, 1600) < 1e-3


def test_newcombe_without_a_pair_is_refused():
    with pytest.raises(UnderstudyError, match="not all 0"):
        newcombe(0, 0, 0, 0)


def test_holm_gives_the_textbook_adjustment():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@unhurried
@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_never_makes_a_p_value_smaller_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted))
    assert [q for _, q in sorted(zip(p_values, adjusted))] == sorted(adjusted)
