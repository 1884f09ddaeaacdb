"""Open loop: predictions beside what was recorded."""

import numpy as np
import pytest

from policies.open_loop import action_plot, error_against_holding, predict_episode
from vla.types import ActionChunk, PolicySpec

HORIZON = 4


class Recalling:
    """Answers with the recorded actions from the observation's instant on, plus ``offset``; zeros after the end."""

    def __init__(self, dataset, index, offset=0.0):
        spec = dataset.spec
        self._actions, self._offset = dataset.arrays(index)["actions"], offset
        self.spec = PolicySpec(
            spec.cameras, spec.proprio_names, spec.action, ("instruction",), 1, HORIZON, HORIZON, spec.fps
        )
        self.tasks = []

    def reset(self, task, *, seed=0):
        self.tasks.append(task.instruction)

    def infer(self, observation, underway=None):
        frame = round(observation.stamp_ns / 1e8)
        chunk = np.zeros((HORIZON, 3), np.float32)
        rows = self._actions[frame : frame + HORIZON] + self._offset
        chunk[: len(rows)] = rows
        return ActionChunk(chunk, observation.stamp_ns, 0.1)


def spread(dataset):
    """Standard deviation of each entry over all episodes."""
    return np.concatenate([dataset.arrays(info.index)["actions"] for info in dataset.episodes]).std(0)


def test_a_policy_that_recalls_is_the_recording(make_dataset):
    dataset = make_dataset()
    policy = Recalling(dataset, 1)
    recorded = dataset.arrays(1)["actions"]
    np.testing.assert_array_equal(predict_episode(policy, dataset, 1), recorded)
    assert policy.tasks == [dataset.episodes[1].instruction]
    error, holding = error_against_holding(policy, dataset, 1)
    held = np.repeat(recorded[::HORIZON], HORIZON, axis=0)[: len(recorded)]
    assert error == 0
    assert holding == pytest.approx((np.abs(held - recorded) / spread(dataset)).mean(), rel=1e-5)


def test_the_error_is_in_standard_deviations(make_dataset):
    dataset = make_dataset()
    for index in range(len(dataset.episodes)):
        error, _ = error_against_holding(Recalling(dataset, index, offset=0.01), dataset, index)
        assert error == pytest.approx((0.01 / spread(dataset)).mean(), rel=1e-3)


def test_the_plot_shows_the_entries_that_move_most(make_dataset):
    dataset = make_dataset()
    plot = action_plot(Recalling(dataset, 0), dataset, 0, most=2)
    recorded = dataset.arrays(0)["actions"]
    chosen = sorted(np.argsort(-recorded.std(0))[:2])
    assert plot["names"] == [dataset.spec.action.names[number] for number in chosen]
    np.testing.assert_array_equal(plot["recorded"], recorded[:, chosen])
    np.testing.assert_array_equal(plot["predicted"], recorded[:, chosen])
