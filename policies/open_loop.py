"""How a policy's chunks compare with what was recorded, observation by observation: no simulator, no robot."""

from typing import Any

import numpy as np

from policies.policy import Policy
from vla.data.lerobot import Dataset
from vla.types import Observation, Task


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
    """Mean absolute error of the predictions, and that of repeating the first action of each chunk's frames.

    The second is the floor to beat: a policy that only ever says "stay" scores it. In units of each entry's standard
    deviation in the episode, so that joints and fingers count alike.
    """
    recorded, predicted = dataset.arrays(index)["actions"], predict_episode(policy, dataset, index)
    horizon = policy.spec.pred_horizon
    held = np.repeat(recorded[::horizon], horizon, axis=0)[: len(recorded)]
    scale = np.maximum(recorded.std(0), 1e-6)
    moving = recorded.std(0) > 1e-4
    return tuple(float((np.abs(guess - recorded) / scale)[:, moving].mean()) for guess in (predicted, held))
