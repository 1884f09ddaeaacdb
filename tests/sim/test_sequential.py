"""Tests that may be looked at as often as one likes: they err no more than they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import beta

from sim.intervals import mcnemar
from sim.sequential import always_valid, difference, e_value
from vla.errors import UnderstudyError

counts = st.integers(0, 60)


@given(counts, counts)
def test_the_e_value_is_what_the_mixture_wins(a, b):
    assert e_value(a, b) == pytest.approx(2.0 ** (a + b) * beta(a + 1, b + 1), rel=1e-9)
    assert e_value(a, b) == e_value(b, a)


@given(counts, counts)
def test_a_fair_coin_wins_nothing_on_average(a, b):
    """The next scene is a fair coin: what is expected of the next e-value is this one."""
    assert (e_value(a + 1, b) + e_value(a, b + 1)) / 2 == pytest.approx(e_value(a, b), rel=1e-9)


def looked_at_always(rng, *, only_a, only_b, scenes):
    """All discordant counts of one race [scenes, 2]."""
    draws = rng.random(scenes)
    return np.cumsum(np.stack([draws < only_a, draws > 1 - only_b], axis=1), axis=0)


def test_looking_always_errs_seldom_and_mcnemar_often():
    rng = np.random.default_rng(0)
    races = [looked_at_always(rng, only_a=0.2, only_b=0.2, scenes=200) for _ in range(200)]
    wrong = [any(e_value(*look) >= 20 for look in race.tolist()) for race in races]
    asked_as_often = [any(mcnemar(*look) < 0.05 for look in race[::5].tolist()) for race in races]
    assert np.mean(wrong) <= 0.05
    assert np.mean(asked_as_often) > 0.1


def test_a_real_difference_is_found():
    rng = np.random.default_rng(1)
    races = [looked_at_always(rng, only_a=0.05, only_b=0.3, scenes=200) for _ in range(50)]
    assert np.mean([any(e_value(*look) >= 20 for look in race.tolist()) for race in races]) > 0.95


def test_the_interval_holds_at_every_look_at_once():
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(60):
        race = looked_at_always(rng, only_a=0.1, only_b=0.3, scenes=120)
        for number, look in enumerate(race.tolist(), start=1):
            low, high = difference(*look, number)
            if not low <= 0.2 <= high:
                missed += 1
                break
    assert missed / 60 <= 0.05


@given(st.integers(0, 40), st.integers(0, 40))
def test_an_interval_holds_its_estimate_and_is_mirrored(count, others):
    trials = count + others
    low, high = always_valid(count, trials)
    assert 0 <= low <= (count / trials if trials else 0.5) <= high <= 1
    assert always_valid(others, trials) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_more_scenes_tell_more():
    widths = [np.diff(difference(n // 10, n // 5, n))[0] for n in (20, 100, 1000, 5000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.1


def test_what_is_no_count_is_refused():
    with pytest.raises(UnderstudyError, match="count"):
        always_valid(3, 2)
    with pytest.raises(UnderstudyError, match="level"):
        always_valid(1, 2, level=0.0)
