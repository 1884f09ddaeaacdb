"""From chunks to actions: which rows are due, how they are weighed, when the policy is asked."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from policies.execution import ChunkExecutor, ExecutionConfig, adaptive_weights, combine, temporal_weights
from vla.errors import UnderstudyError
from vla.types import ActionChunk, ActionSpec, Gripper, Observation, PolicySpec, Task

SPEC = ActionSpec("ee_delta", ("dx", "dy", "grip"), (-1.0, -2.0, 0.0), (1.0, 6.0, 1.0), gripper=Gripper(2, 1.0, 0.0))
BARE = ActionSpec("ee_delta", ("dx", "dy", "dz"), (-1.0,) * 3, (1.0,) * 3)
ENSEMBLES = ("newest", "temporal", "adaptive")
rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-4, 4, width=32))
alphas = st.floats(0, 2)


class Counting:
    """A policy whose chunk k (from 0) has 100 k + i in row i."""

    def __init__(self, *, pred_horizon=6, exec_horizon=2, action=BARE):
        self.spec = PolicySpec(
            cameras=(),
            proprio_names=(),
            action=action,
            accepts=("instruction",),
            obs_horizon=1,
            pred_horizon=pred_horizon,
            exec_horizon=exec_horizon,
            control_hz=10.0,
        )
        self.resets = []
        self.underway = []

    def reset(self, task, *, seed=0):
        self.resets.append((task, seed))
        self._chunks = count()

    def infer(self, observation, underway=None):
        self.underway.append(underway)
        base = 100 * next(self._chunks) + np.arange(self.spec.pred_horizon, dtype=np.float32)
        return ActionChunk(np.repeat(base[:, None], self.spec.action.dim, axis=1), observation.stamp_ns, 0.1)


def run(executor, steps):
    """The first entry of every action, and the steps at which a picture was wanted."""
    executor.reset(Task("go"), seed=3)
    looked, acted = [], []
    for step in range(steps):

        def observe(step=step):
            looked.append(step)
            return Observation({}, np.zeros(0, np.float32), step)

        acted.append(float(executor.act(observe)[0]))
    return acted, looked


@pytest.mark.parametrize("horizon", [1, 2, 5, 6])
def test_receding_horizon_carries_out_the_first_rows_and_looks_only_when_a_chunk_is_due(horizon):
    executor = ChunkExecutor(Counting(), ExecutionConfig("newest", num_chunks=3, exec_horizon=horizon))
    acted, looked = run(executor, 12)
    assert acted == [100 * (step // horizon) + step % horizon for step in range(12)]
    assert looked == list(range(0, 12, horizon))
    assert len(executor.latencies_ms) == len(looked)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_one_chunk_is_no_ensemble(ensemble):
    alone = ChunkExecutor(Counting(), ExecutionConfig(ensemble, num_chunks=1))
    assert run(alone, 12)[0] == run(ChunkExecutor(Counting(), ExecutionConfig("newest")), 12)[0]


def test_the_rows_due_now_are_those_of_the_same_instant():
    executor = ChunkExecutor(Counting(), ExecutionConfig("temporal", num_chunks=3, decay=0.0))
    acted, _ = run(executor, 8)
    assert acted[4] == pytest.approx(np.mean([4, 102, 200]))  # a4, b2, c0 of the drawing in policies/execution.py
    assert acted[7] == pytest.approx(np.mean([105, 203, 301]))  # the first chunk has ended and left


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_no_chunk_is_used_beyond_its_end(ensemble):
    executor = ChunkExecutor(Counting(pred_horizon=3), ExecutionConfig(ensemble, num_chunks=9, decay=0.0, alpha=0.0))
    acted, _ = run(executor, 6)
    assert acted[:2] == [0, 1]
    assert acted[4] == (200 if ensemble == "newest" else pytest.approx((102 + 200) / 2))
    assert acted[5] == 201


def test_a_reset_forgets_the_last_episode_and_passes_task_and_seed_on():
    policy = Counting()
    executor = ChunkExecutor(policy, ExecutionConfig("temporal", num_chunks=3))
    first = run(executor, 5)
    assert run(executor, 5) == first
    assert len(executor.latencies_ms) == 3
    assert policy.resets == [(Task("go"), 3)] * 2


@given(rows, alphas, st.sampled_from(ENSEMBLES), st.sampled_from([SPEC, BARE]))
def test_chunks_that_agree_are_followed(values, alpha, ensemble, spec):
    agreed = np.repeat(values[:1], len(values), axis=0)
    action = combine(agreed, spec, ExecutionConfig(ensemble, alpha=alpha))
    np.testing.assert_allclose(action, values[0], rtol=1e-5, atol=1e-6)


@given(rows, alphas, st.sampled_from(ENSEMBLES), st.sampled_from([SPEC, BARE]))
def test_an_ensemble_stays_between_its_members(values, alpha, ensemble, spec):
    action = combine(values, spec, ExecutionConfig(ensemble, alpha=alpha))
    assert (action >= values.min(0) - 1e-5).all()
    assert (action <= values.max(0) + 1e-5).all()


@given(rows, alphas, st.sampled_from(ENSEMBLES))
def test_the_gripper_follows_the_newest_chunk(values, alpha, ensemble):
    action = combine(values, SPEC, ExecutionConfig(ensemble, alpha=alpha))
    assert action[2] == values[-1, 2]


@given(rows, alphas, st.sampled_from([SPEC, BARE]))
def test_adaptive_weights_add_to_one_and_differ_by_e_to_the_two_alpha_at_most(values, alpha, spec):
    weights = adaptive_weights(values, spec, alpha=alpha).astype(float)
    assert weights.sum() == pytest.approx(1)
    assert weights.max() / weights.min() <= np.exp(2 * alpha) * (1 + 1e-5)
    assert weights[-1] == pytest.approx(weights.max())  # nothing agrees with the newest more than itself


def test_adaptive_weights_reach_their_bound_where_a_chunk_contradicts_the_newest():
    weights = adaptive_weights(np.array([[-0.5, 0, 0], [0.5, 0, 0]], np.float32), BARE, alpha=0.1)
    assert weights[1] / weights[0] == pytest.approx(np.exp(0.2))
    assert adaptive_weights(np.eye(3, dtype=np.float32)[:2], BARE, alpha=0.3)[1] == pytest.approx(
        np.exp(0.3) / (1 + np.exp(0.3))
    )


@given(rows, st.floats(-4, 4, width=32))
def test_the_gripper_has_no_say_in_the_weights(values, grip):
    changed = values.copy()
    changed[0, 2] = grip
    np.testing.assert_array_equal(adaptive_weights(values, SPEC, alpha=1), adaptive_weights(changed, SPEC, alpha=1))


def test_entries_count_by_their_bounds_and_not_by_their_units():
    metres = ActionSpec("ee_delta", ("x", "y"), (-0.03, -3.0), (0.03, 3.0))
    same = ActionSpec("ee_delta", ("x", "y"), (-1.0, -1.0), (1.0, 1.0))
    values = np.array([[0.3, -0.8], [0.9, 0.1]], np.float32)
    scaled = (values * np.float32([0.03, 3.0])).astype(np.float32)
    np.testing.assert_allclose(
        adaptive_weights(scaled, metres, alpha=1), adaptive_weights(values, same, alpha=1), rtol=1e-6
    )


@pytest.mark.parametrize("decay", [0.0, 0.01, 1.0])
def test_temporal_weights_are_those_of_act(decay):
    weights = temporal_weights(5, decay=decay)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights[1:] / weights[:-1], np.exp(-decay), rtol=1e-6)  # the oldest weighs most


@pytest.mark.parametrize("horizon", [7, -1, 0])
def test_a_horizon_beyond_the_chunk_is_refused(horizon):
    with pytest.raises(UnderstudyError, match=r"1…6 \(the policy's pred_horizon\)"):
        ChunkExecutor(Counting(), ExecutionConfig(exec_horizon=horizon))


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(UnderstudyError, match="num_chunks must be at least 1"):
        ChunkExecutor(Counting(), ExecutionConfig(num_chunks=0))
    with pytest.raises(UnderstudyError, match="did you mean 'temporal'"):
        combine(np.zeros((2, 3), np.float32), BARE, ExecutionConfig("temporall"))


def by_hand(steps, *, horizon, delay):
    """What is carried out when every chunk but the first arrives ``delay`` steps late."""
    acted = []
    for step in range(steps):
        number = max(0, (step - delay) // horizon)
        acted.append(100 * number + step - number * horizon)
    return acted


@pytest.mark.parametrize(("horizon", "delay"), [(2, 0), (2, 1), (2, 2), (3, 2), (3, 3), (4, 1)])
def test_a_chunk_that_comes_late_begins_in_its_middle(horizon, delay):
    executor = ChunkExecutor(Counting(), ExecutionConfig("newest", exec_horizon=horizon, delay=delay))
    for _ in range(2):
        acted, looked = run(executor, 14)
        assert acted == by_hand(14, horizon=horizon, delay=delay)
        assert looked == list(range(0, 14, horizon))


def test_one_chunk_is_made_at_a_time():
    executor = ChunkExecutor(Counting(), ExecutionConfig("newest", exec_horizon=1, delay=3))
    assert executor.exec_horizon == 3
    assert run(executor, 12)[0] == by_hand(12, horizon=3, delay=3)


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_real_time_chunking_is_told_the_rows_that_are_due(delay):
    policy = Counting()
    executor = ChunkExecutor(policy, ExecutionConfig("newest", exec_horizon=2, delay=delay, realtime="guided"))
    run(executor, 8)
    assert policy.underway[0] is None
    for number, told in enumerate(policy.underway[1:]):
        assert told.delay == delay
        assert told.how == "guided"
        assert told.actions[:, 0].tolist() == [100 * number + row for row in range(2, 6)]
    assert all(told is None for told in _told(ExecutionConfig("newest", exec_horizon=2, delay=delay)))


def _told(config):
    policy = Counting()
    run(ChunkExecutor(policy, config), 8)
    return policy.underway


def test_the_arm_stands_still_where_chunks_have_run_out():
    executor = ChunkExecutor(Counting(), ExecutionConfig("newest", exec_horizon=6, delay=3))
    acted = run(executor, 15)[0]
    assert acted[:6] == [0, 1, 2, 3, 4, 5]
    assert acted[6:9] == [0, 0, 0]  # of displacements: none
    assert acted[9:12] == [103, 104, 105]


def test_a_place_is_kept_and_so_is_the_gripper():
    spec = Counting().spec
    gripper = Gripper(index=0, open=1.0, closed=0.0)
    for action in (replace(spec.action, kind="joint_position"), replace(spec.action, gripper=gripper)):
        counting = Counting()
        counting.spec = replace(spec, action=action)
        acted = run(ChunkExecutor(counting, ExecutionConfig("newest", exec_horizon=6, delay=3)), 9)[0]
        assert acted[6:] == [5, 5, 5]


def test_what_cannot_be_late_is_refused():
    with pytest.raises(UnderstudyError, match="does not last"):
        ChunkExecutor(Counting(), ExecutionConfig("newest", exec_horizon=4, delay=3, realtime="guided"))
    with pytest.raises(UnderstudyError, match="delay must be 0 or more"):
        ChunkExecutor(Counting(), ExecutionConfig("newest", delay=-1))
    with pytest.raises(UnderstudyError, match="one action at a time"):
        ChunkExecutor(Counting(pred_horizon=1, exec_horizon=1), ExecutionConfig("newest", delay=1))
    with pytest.raises(UnderstudyError, match="ensemble=newest"):
        ChunkExecutor(Counting(), ExecutionConfig("adaptive", realtime="guided"))
