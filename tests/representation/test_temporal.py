"""Kendall's τ and cycle consistency on clips whose answers are known, and against SciPy."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from vla.errors import UnderstudyError
from vla.representation.evaluation.temporal import (
    cycle_chance,
    cycle_consistencies,
    cycle_consistency,
    kendall_tau,
    kendall_taus,
    nearest_frames,
    shuffled,
    three_way,
    three_way_consistencies,
    trimmed_and_warped,
)

unhurried = settings(deadline=None, max_examples=50)


def ramp(frames, *, width=4, seed=0):
    """A straight line through feature space."""
    direction = np.random.default_rng(seed).normal(size=width)
    return np.linspace(0, 1, frames)[:, None] * direction + 3.0


def test_identical_ramps_are_in_order_and_reversed_ones_are_not():
    clip = ramp(30)
    assert kendall_tau(clip, clip) == 1
    assert kendall_tau(clip, clip[::-1]) == -1
    assert kendall_tau(clip, ramp(47)) > 0.97
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 20, 3))
    assert kendall_tau(a, b, stride=3) == kendall_tau(a[::3], b[::3]) != kendall_tau(a, b)


def test_shuffling_time_leaves_no_order():
    rng, clip = np.random.default_rng(0), ramp(30)
    taus = [kendall_tau(clip[shuffled(30, rng)], clip) for _ in range(100)]
    assert abs(np.mean(taus)) < 0.04
    assert np.abs(taus).max() < 0.6


def test_a_constant_feature_earns_nothing():
    clip = np.full((20, 3), 0.1)
    assert kendall_tau(clip, clip) == 0
    assert cycle_consistency(clip, clip) == 2 / 20
    assert three_way(clip, clip, clip, tolerance=0) == 1 / 20


@unhurried
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 12), st.integers(1, 3))
def test_tau_agrees_with_scipy_on_the_brute_force_neighbours(seed, frames_a, frames_b, width):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(frames_a, width)) + 1e6, rng.normal(size=(frames_b, width)) + 1e6
    nearest = np.linalg.norm(a[:, None] - b[None], axis=-1).argmin(1)
    peer = kendalltau(np.arange(frames_a), nearest).statistic
    assert kendall_tau(a, b) == pytest.approx(0.0 if np.isnan(peer) else peer, abs=1e-12)


@unhurried
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_tau_does_not_depend_on_scale_or_offset(seed, scale):
    rng = np.random.default_rng(seed)
    a, b, offset = rng.normal(size=(9, 4)), rng.normal(size=(11, 4)), rng.normal(size=4)
    assert kendall_tau(scale * (a + offset), scale * (b + offset)) == kendall_tau(a, b)


def test_cycles_counted_by_hand():
    a, b = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[0.1], [2.9]])
    # 0 → 0 → 0, 1 → 0 → 0, 2 → 1 → 3, 3 → 1 → 3
    assert cycle_consistency(a, b, tolerance=0) == 0.5
    assert cycle_consistency(a, b, tolerance=1) == 1
    assert cycle_consistency(a, b, tolerance=0.2) == 0.5
    assert cycle_consistency(a, b, tolerance=0.25) == 1
    assert cycle_consistency(b, a, tolerance=0) == 1
    c = np.array([[-1.0], [-2.0]])
    # whatever is seen, c answers with its frame 0, and that leads back to frame 0
    assert three_way(a, b, c, tolerance=0) == 0.25
    assert three_way(a, b, c, tolerance=2) == 0.75


def test_a_cycle_that_ends_anywhere_scores_by_chance():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(40, 60, 16)) for _ in range(2))
    mean = np.mean([cycle_consistency(x, y, tolerance=3) for x, y in zip(a, b)])
    assert cycle_chance(10) == pytest.approx((10 + 2 * 9) / 100)
    assert cycle_chance(100, tolerance=0.29) == cycle_chance(100, tolerance=29)  # 0.29 · 100 < 29 in floating point
    assert cycle_chance(20, tolerance=0.05) == cycle_chance(20, tolerance=1)
    # Neighbours that chose each other at random still return to where they started more often than chance.
    assert cycle_chance(60, tolerance=3) < mean < 0.7


def test_tables_hold_what_single_pairs_give_for_clips_of_any_length():
    rng = np.random.default_rng(1)
    clips = [rng.normal(size=(frames, 3)) for frames in (5, 9, 7, 12)]
    taus, cycles = kendall_taus(clips, stride=2), cycle_consistencies(clips, tolerance=0.1)
    triples = three_way_consistencies(clips, tolerance=0.1)
    assert np.isnan(np.diag(taus)).all()
    assert np.isfinite(triples).sum() == 4 * 3 * 2
    for a, b, c in ((0, 1, 2), (3, 0, 1), (2, 3, 0), (1, 2, 3)):
        assert taus[a, b] == pytest.approx(kendall_tau(clips[a], clips[b], stride=2))
        assert cycles[a, b] == cycle_consistency(clips[a], clips[b], tolerance=0.1)
        assert triples[a, b, c] == three_way(clips[a], clips[b], clips[c], tolerance=0.1)


def test_the_way_round_three_clips_against_brute_force():
    a, b, c = np.random.default_rng(5).normal(size=(3, 10, 2))

    def nearest(x, y):
        return np.linalg.norm(x[:, None] - y[None], axis=-1).argmin(1)

    back = nearest(c, a)[nearest(b, c)[nearest(a, b)]]
    for tolerance in (0, 1, 2, 4):
        assert three_way(a, b, c, tolerance=tolerance) == (np.abs(back - np.arange(10)) <= tolerance).mean()
    assert 0 < three_way(a, b, c, tolerance=1) < three_way(a, b, c, tolerance=4)


def test_equal_frames_tie_and_the_first_is_taken():
    paused = np.repeat(np.random.default_rng(2).normal(size=(6, 64)) + 50, 3, axis=0)
    assert (nearest_frames([paused, paused])[0, 1] == np.repeat(np.arange(0, 18, 3), 3)).all()
    nearly = paused + 1e-9 * (2 - np.arange(18) % 3)[:, None]  # the last of three is nearest, by rounding
    assert (nearest_frames([paused, nearly])[0, 1] == np.repeat(np.arange(0, 18, 3), 3)).all()


def test_sixty_clips_take_well_under_a_second():
    rng = np.random.default_rng(3)
    clips = list(rng.normal(size=(60, 30, 192)).astype(np.float32))
    start = time.process_time()
    kendall_taus(clips)
    assert time.process_time() - start < 2  # of all threads together, on a machine that others use too


@unhurried
@given(st.integers(8, 200), st.integers(0, 2**32 - 1), st.floats(0, 0.25))
def test_a_warped_clip_stays_in_order_and_within_its_bounds(length, seed, trim):
    frames = trimmed_and_warped(length, np.random.default_rng(seed), trim=trim)
    steps = np.diff(frames)
    assert len(frames) >= 2
    assert frames[0] >= 0
    assert frames[-1] <= length - 1
    assert frames[0] <= trim * length + 1
    assert steps.min() >= 0
    assert steps.max() <= 2
    assert len(frames) <= 2 * length + 2 * (0.1 * length) + 1


def test_warps_differ_and_repeat_under_a_seed():
    warps = [trimmed_and_warped(40, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert (warps[0] == warps[1]).all()
    assert not np.array_equal(warps[0], warps[2])
    lengths = [len(trimmed_and_warped(40, np.random.default_rng(seed))) for seed in range(100)]
    assert min(lengths) < 30 < 50 < max(lengths)


def test_a_feature_of_progress_survives_the_warp_and_a_clock_does_not():
    rng, progress, clock = np.random.default_rng(4), [], []
    for _ in range(30):
        a, b = trimmed_and_warped(40, rng), trimmed_and_warped(40, rng)
        progress.append(cycle_consistency(ramp(40)[a], ramp(40)[b], tolerance=2))
        agree = np.abs(a[: min(len(a), len(b))] - b[: min(len(a), len(b))]) <= 2
        clock.append(agree.mean())
    assert np.mean(progress) > 0.75
    assert np.mean(clock) < 0.5


@pytest.mark.parametrize("tolerance", [-1, 1.5])
def test_a_tolerance_is_whole_frames_or_a_share(tolerance):
    with pytest.raises(UnderstudyError, match="whole frames or a share"):
        cycle_consistency(ramp(5), ramp(5), tolerance=tolerance)


@pytest.mark.parametrize(
    "clips",
    [[ramp(5)], [ramp(5), ramp(5, width=3)], [ramp(5), ramp(1)], [ramp(5), np.full((5, 4), np.nan)]],
)
def test_clips_that_cannot_be_compared_are_refused(clips):
    with pytest.raises(UnderstudyError):
        kendall_taus(clips)


def test_a_clip_too_short_to_warp_is_refused():
    with pytest.raises(UnderstudyError, match="at least 8 frames"):
        trimmed_and_warped(7, np.random.default_rng(0))
    with pytest.raises(UnderstudyError, match="stride"):
        kendall_tau(ramp(5), ramp(5), stride=0)
