"""Normalisation: what comes back, what is clipped, what is refused."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from policies.normalizer import Normalizer, NormalizerSet
from vla.errors import UnderstudyError

MODES = ("quantile", "minmax", "zscore")
tables = hnp.arrays(
    np.float32, st.tuples(st.integers(2, 40), st.integers(1, 4)), elements=st.floats(-1e3, 1e3, width=32)
)


def near(values, expected):
    """Equal to the precision that float32 has at the size of the numbers."""
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6 * max(1, np.abs(expected).max()))


@given(tables, st.sampled_from(MODES))
def test_round_trip_inside_the_fitted_range(values, mode):
    fitted = Normalizer.fit(values, mode=mode)
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    inside = np.clip(values, low, high)
    normalized = fitted.normalize(inside)
    assert normalized.dtype == np.float32
    near(fitted.unnormalize(normalized), inside)


@given(tables, st.sampled_from(["quantile", "minmax"]))
def test_normalised_values_and_what_comes_back_are_bounded(values, mode):
    fitted = Normalizer.fit(values, mode=mode)
    assert np.abs(fitted.normalize(values * 5 + 1)).max() <= 1
    back = fitted.unnormalize(np.full(fitted.dim, 30, np.float32))
    assert (back <= values.max(0) + 1e-3).all()
    if mode == "minmax":
        near(fitted.unnormalize(fitted.normalize(values)), values)


def test_the_quantiles_become_minus_one_and_one():
    values = np.random.default_rng(0).gamma(2, size=(5000, 2))
    fitted = Normalizer.fit(values, mode="quantile")
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    np.testing.assert_allclose(fitted.normalize(q01), [-1, -1], atol=1e-6)
    np.testing.assert_allclose(fitted.normalize(q99), [1, 1], atol=1e-6)
    np.testing.assert_allclose(fitted.normalize(values.max(0)), [1, 1])


def test_zscore_is_neither_clipped_going_in_nor_coming_out():
    values = np.random.default_rng(0).normal(3, 2, (5000, 1))
    fitted = Normalizer.fit(values, mode="zscore")
    assert fitted.normalize(values).std() == pytest.approx(1, abs=1e-5)
    assert fitted.normalize(np.array([23.0]))[0] == pytest.approx(10, rel=0.05)
    near(fitted.unnormalize(fitted.normalize(np.array([[-40.0], [40.0]]))), np.array([[-40.0], [40.0]]))


@given(st.floats(-1e3, 1e3, width=32), st.sampled_from(MODES), st.floats(-5, 5, width=32))
def test_a_dimension_that_never_changes_is_zero_and_comes_back_as_its_constant(constant, mode, predicted):
    values = np.stack([np.full(7, constant), np.arange(7)], axis=1).astype(np.float32)
    fitted = Normalizer.fit(values, mode=mode)
    np.testing.assert_allclose(fitted.normalize(values)[:, 0], 0, atol=1e-6)
    near(fitted.unnormalize(np.array([predicted, 0], np.float32))[0], np.float32(constant))


@given(tables, st.sampled_from(MODES))
def test_a_masked_entry_passes_as_it_is(values, mode):
    assume(values.shape[1] > 1)
    mask = [False, *[True] * (values.shape[1] - 1)]
    fitted = Normalizer.fit(values, mode=mode, mask=mask)
    np.testing.assert_array_equal(fitted.normalize(values)[:, 0], values[:, 0])
    np.testing.assert_array_equal(fitted.unnormalize(values)[:, 0], values[:, 0])
    unmasked = Normalizer.fit(values, mode=mode)
    np.testing.assert_array_equal(fitted.normalize(values)[:, 1:], unmasked.normalize(values)[:, 1:])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 0.08)])
def test_a_binary_entry_snaps_to_the_nearer_of_its_two_values(low, high):
    values = np.array([[low, 0.3], [high, 0.7]], np.float32)
    fitted = Normalizer.fit(values, mode="minmax", mask=[False, True], binary=(low, high))
    np.testing.assert_array_equal(fitted.normalize(values)[:, 0], values[:, 0])
    width = high - low
    predicted = np.array([low - width, low, low + 0.49 * width, low + 0.51 * width, high, high + width])
    snapped = fitted.unnormalize(np.stack([predicted, np.zeros(6)], axis=1))[:, 0]
    np.testing.assert_array_equal(snapped, np.float32([low, low, low, high, high, high]))


def test_any_leading_axes():
    values = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    fitted = Normalizer.fit(values.reshape(-1, 2))
    np.testing.assert_array_equal(fitted.normalize(values).reshape(-1, 2), fitted.normalize(values.reshape(-1, 2)))


def test_an_unknown_mode_is_refused():
    with pytest.raises(UnderstudyError, match="did you mean 'quantile'"):
        Normalizer.fit(np.zeros((2, 1)), mode="quantiles")


@pytest.fixture
def both():
    values = np.random.default_rng(0).normal(size=(50, 2))
    action = Normalizer.fit(values, mask=[True, False], binary=(0.0, 1.0))
    return NormalizerSet({"arm-a": {"action": action, "proprio": Normalizer.fit(values, mode="zscore")}})


def test_what_is_not_there_is_an_error_and_never_passes_unnormalised(both):
    with pytest.raises(UnderstudyError, match=r"embodiment in normalizer.json 'arm-b'; did you mean 'arm-a'"):
        both.get("arm-b", "action")
    with pytest.raises(UnderstudyError, match="key of arm-a 'actions'; did you mean 'action'"):
        both.get("arm-a", "actions")


def test_saved_and_loaded_is_the_same(both, tmp_path):
    both.save(tmp_path / "n.json")
    json.loads((tmp_path / "n.json").read_text())
    assert NormalizerSet.load(tmp_path / "n.json") == both
    with pytest.raises(UnderstudyError, match="no normaliser at"):
        NormalizerSet.load(tmp_path / "missing.json")
