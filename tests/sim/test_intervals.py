"""Intervals and tests against published values, against SciPy, and against the laws they must keep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from sim.intervals import holm, joined, mcnemar, newcombe, paired_trainings, percentiles, resampled_rates, wilson
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


def evaluated(rng, *, trainings, tasks=5, scenes=10, spread, skill=0.0):
    """Successes [S, N] of a policy whose trainings differ by ``spread`` logits, on tasks and scenes as hard as 0."""
    logits = skill + rng.normal(0, spread, (trainings, 1)) + np.repeat(np.linspace(-1.5, 2, tasks), scenes)
    return rng.random(logits.shape) < 1 / (1 + np.exp(-logits))


STRATA = np.repeat(np.arange(5), 10)


def test_of_one_training_the_bootstrap_is_that_of_its_episodes():
    # Without strata: the mean of N - 1 draws from N outcomes, whose variance is the unbiased one of a mean.
    outcome = evaluated(np.random.default_rng(0), trainings=1, spread=0)
    drawn = resampled_rates([outcome], ["one"] * 50, draws=40_000)[:, 0]
    assert drawn.mean() == pytest.approx(outcome.mean(), abs=1e-3)
    assert drawn.std() == pytest.approx(outcome.std(ddof=1) / 50**0.5, rel=0.02)
    picked = np.random.default_rng(1).integers(50, size=(40_000, 49))
    assert percentiles(drawn) == pytest.approx(percentiles(outcome[0][picked].mean(axis=1)), abs=0.011)


def test_of_scenes_without_luck_the_bootstrap_is_that_of_the_trainings():
    outcome = np.repeat([[True], [False], [False], [True], [True]], 50, axis=1)
    drawn = resampled_rates([outcome], STRATA, draws=40_000)[:, 0]
    assert set(np.round(drawn * 4, 9)) == {0, 1, 2, 3, 4}
    assert drawn.mean() == pytest.approx(0.6, abs=0.01)
    assert drawn.std() == pytest.approx(np.std([1, 0, 0, 1, 1], ddof=1) / 5**0.5, rel=0.02)


def test_both_levels_add_up_and_trainings_that_differ_widen():
    rng = np.random.default_rng(2)
    apart, alike = evaluated(rng, trainings=5, spread=1.5), evaluated(rng, trainings=5, spread=0)
    for outcome in (apart, alike):
        drawn = resampled_rates([outcome], STRATA, draws=20_000)[:, 0]
        scenes = resampled_rates([outcome.mean(axis=0, keepdims=True)], STRATA, draws=20_000)[:, 0]
        both = scenes.var() + outcome.mean(axis=1).var(ddof=1) / 5
        # Which scenes suit which training is chance on both levels, so it is counted once more.
        assert 0.97 * both < drawn.var() < 2 * both


def test_draws_of_scenes_are_shared_by_all_policies_and_seeded():
    outcome = evaluated(np.random.default_rng(3), trainings=1, spread=0)
    drawn = resampled_rates([outcome, outcome, ~outcome], STRATA, draws=2000)
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 1])
    np.testing.assert_allclose(drawn[:, 0] + drawn[:, 2], 1)
    np.testing.assert_array_equal(drawn, resampled_rates([outcome, outcome, ~outcome], STRATA, draws=2000))
    assert (drawn != resampled_rates([outcome, outcome, ~outcome], STRATA, draws=2000, seed=1)).any()


def test_scenes_are_drawn_within_their_stratum_unless_one_is_alone_in_its_own():
    outcome = np.repeat([[True, True, False, False, True]], 10, axis=1)  # each task always or never
    assert resampled_rates([outcome], STRATA, draws=2000).std() == pytest.approx(0, abs=1e-12)
    assert resampled_rates([outcome[:, ::10]], range(5), draws=2000).std() > 0.1


def test_weights_weigh():
    outcome = np.repeat([[True, True, False, False, True]], 10, axis=1)
    weights = np.repeat([3.0, 0, 1, 0, 0], 10)
    np.testing.assert_allclose(resampled_rates([outcome], STRATA, weights=weights, draws=2000), 0.75)


@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_the_interval_of_several_trainings_covers_the_truth_and_wilsons_does_not(spread):
    rng, covered, by_wilson = np.random.default_rng(4), [], []
    truth = evaluated(rng, trainings=40_000, spread=spread).mean()
    for number in range(300):
        outcome = evaluated(rng, trainings=3, spread=spread)
        low, high = percentiles(resampled_rates([outcome], STRATA, draws=1000, seed=number)[:, 0])
        covered.append(low <= truth <= high)
        low, high = wilson(int(outcome.sum()), outcome.size)
        by_wilson.append(low <= truth <= high)
    assert np.mean(covered) > 0.9
    assert np.mean(by_wilson) < 0.85 or not spread


def p_of(a, b, seed=0):
    drawn = resampled_rates([a, b], STRATA, draws=1000, seed=seed)
    return paired_trainings(a, b, drawn[:, 1] - drawn[:, 0])


@pytest.mark.parametrize("trainings", [2, 3])
@pytest.mark.parametrize("spread", [0.0, 0.4, 1.0])
def test_policies_that_are_equal_are_seldom_called_different(trainings, spread):
    rng = np.random.default_rng(5)
    p_values = [
        p_of(*(evaluated(rng, trainings=trainings, spread=spread) for _ in range(2)), seed=number)[1]
        for number in range(300)
    ]
    assert np.mean(np.array(p_values) < 0.05) < 0.085  # 5% and three standard errors of 300 trials


def test_a_difference_that_is_there_is_found():
    rng = np.random.default_rng(6)
    found = [
        p_of(*(evaluated(rng, trainings=3, spread=0.2, skill=skill) for skill in (0, 1.5)), seed=number)
        for number in range(100)
    ]
    assert np.mean([p_value < 0.05 for _, p_value in found]) > 0.8
    assert np.mean([low > 0 for (low, _), _ in found]) == np.mean([p_value < 0.05 for _, p_value in found])


def test_a_paired_difference_mirrors_and_too_few_scenes_never_decide():
    rng = np.random.default_rng(7)
    a, b = (evaluated(rng, trainings=3, spread=0.3, skill=skill) for skill in (0, 0.7))
    drawn = resampled_rates([a, b], STRATA, draws=1000)
    (low, high), p_value = paired_trainings(a, b, drawn[:, 1] - drawn[:, 0])
    (back_low, back_high), back = paired_trainings(b, a, drawn[:, 0] - drawn[:, 1])
    assert (back_low, back_high, back) == pytest.approx((-high, -low, p_value))
    assert low < b.mean() - a.mean() < high
    for scenes, least in ((5, 2 / 2**5), (6, 2 / 2**6)):
        never, always = np.zeros((3, scenes), bool), np.ones((3, scenes), bool)
        (low, high), p_value = paired_trainings(never, always, np.ones(1000))
        assert (high, p_value) == (1.0, least)
        assert low < wilson(scenes, scenes)[0]
    (low, high), p_value = paired_trainings(never, never, np.zeros(1000))
    assert (low, high, p_value) == pytest.approx((-wilson(0, 6)[1], wilson(0, 6)[1], 1.0))


def test_joined_rates_are_those_of_newcombe_and_cover():
    # Newcombe (1998, method 10, unpaired): 56 of 70 against 48 of 80.
    assert joined([(1, 56, 70), (-1, 48, 80)]) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    rates, rng = np.array([0.95, 0.5, 0.2]), np.random.default_rng(3)
    inside = []
    for counts in rng.binomial([40, 20, 10], rates, size=(1000, 3)):
        low, high = joined([(1 / 3, int(k), n) for k, n in zip(counts, (40, 20, 10))])
        inside.append(low <= rates.mean() <= high)
    assert 0.93 < np.mean(inside) < 0.98
