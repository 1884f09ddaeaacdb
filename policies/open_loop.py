"""How a policy's chunks compare with what was recorded, observation by observation: no simulator, no robot."""

from typing import Any

import numpy as np

from policies.policy import Policy
from vla.data.lerobot import Dataset
from vla.types import Observation, Task

SMALLEST_SPREAD = 1e-3


def predict_episode(policy: Policy, dataset: Dataset, index: int) -> np.ndarray:
    """Predicted actions [T, A] for one recorded episode, a new chunk inferred every ``pred_horizon`` frames."""
    episode, horizon = dataset.episode(index), policy.spec.pred_horizon
    frames = {camera.name: episode.images[camera.name]() for camera in policy.spec.cameras}
    policy.reset(Task(episode.task.instruction), seed=index)
    chunks = []
    for start in range(0, episode.length, horizon):
        images = {name: stack[start] for name, stack in frames.items()}
        observation = Observation(images, episode.proprio[start], int(episode.stamps_ns[start]))
        chunks.append(policy.infer(observation).actions)
    return np.concatenate(chunks)[: episode.length]


def action_plot(policy: Policy, dataset: Dataset, index: int, *, most: int = 6) -> dict[str, Any]:
    """Recorded and predicted actions of the ``most`` liveliest entries, as `sim.report.write_report` takes them."""
    recorded, predicted = dataset.arrays(index)["actions"], predict_episode(policy, dataset, index)
    spread = recorded.std(0)
    chosen = np.sort(np.argsort(-spread)[:most])
    names = [dataset.spec.action.names[number] for number in chosen]
    return {"names": names, "recorded": recorded[:, chosen], "predicted": predicted[:, chosen]}


def error_against_holding(policy: Policy, dataset: Dataset, index: int) -> tuple[float, float]:
    """Mean absolute error of the predictions, and that of repeating the first recorded action of each chunk.

    The second is the floor to beat: a policy that only ever says "stay" scores it. In standard deviations of each
    entry over the whole dataset, so that joints and fingers count alike; entries that never move are left out.
    """
    recorded, predicted = dataset.arrays(index)["actions"], predict_episode(policy, dataset, index)
    horizon = policy.spec.pred_horizon
    held = np.repeat(recorded[::horizon], horizon, axis=0)[: len(recorded)]
    spread = np.concatenate([dataset.arrays(info.index)["actions"] for info in dataset.episodes]).std(0)
    moving = spread > SMALLEST_SPREAD
    error, holding = ((np.abs(guess - recorded) / np.maximum(spread, SMALLEST_SPREAD)) for guess in (predicted, held))
    return float(error[:, moving].mean()), float(holding[:, moving].mean())
