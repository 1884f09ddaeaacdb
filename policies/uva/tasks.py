"""What UVA is trained to do, by what it is shown (Li et al. 2025, §III-C; the released configuration for shares).

| task          | history | future       | actions | proprio | learns          |
|---------------|---------|--------------|---------|---------|-----------------|
| policy        | given   | all masked   | masked  | given   | actions         |
| video         | given   | partly given | masked  | masked  | masked tokens   |
| dynamics      | given   | partly given | given   | given   | masked tokens   |
| inverse       | masked  | given        | masked  | masked  | actions         |
| policy_video  | given   | partly given | masked  | given   | both            |

``dynamics`` is the forward model, ``policy_video`` the paper's policy and planner. Proprio is ours to decide, the paper
has none in these tables: it is hidden where an action-free video is to do as well. How many tokens of the future are
masked is drawn from a normal distribution around all of them, the same places in every frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MASKED_DEVIATION, LEAST_MASKED = 0.25, 0.7
"""Of the share of masked places, whose mean is 1 and which is at most 1."""


@dataclass(frozen=True)
class Task:
    """What is shown (``future``: all, some or none of it), and which losses there are."""

    history: bool
    future: str
    actions: bool
    proprio: bool
    learns_actions: bool
    learns_video: bool


TASKS = {
    "policy": Task(True, "none", actions=False, proprio=True, learns_actions=True, learns_video=False),
    "video": Task(True, "some", actions=False, proprio=False, learns_actions=False, learns_video=True),
    "dynamics": Task(True, "some", actions=True, proprio=True, learns_actions=False, learns_video=True),
    "inverse": Task(False, "all", actions=False, proprio=False, learns_actions=True, learns_video=False),
    "policy_video": Task(True, "some", actions=False, proprio=True, learns_actions=True, learns_video=True),
}


def masked_places(task: Task, count: int, places: int, device: torch.device) -> Tensor:
    """Which places of the future are hidden, [``count``, ``places``] bool, the same for all frames of a sample."""
    if task.future == "all":
        return torch.zeros(count, places, dtype=torch.bool, device=device)
    if task.future == "none":
        return torch.ones(count, places, dtype=torch.bool, device=device)
    share = truncated(count, device)
    order = torch.rand(count, places, device=device).argsort(1).argsort(1)
    return order < (share * places).ceil()[:, None]


def truncated(count: int, device: torch.device) -> Tensor:
    """Draws [``count``] from a normal distribution around 1, between `LEAST_MASKED` and 1, by its quantiles."""
    normal = torch.distributions.Normal(
        torch.tensor(1.0, device=device), torch.tensor(MASKED_DEVIATION, device=device), validate_args=False
    )
    low, high = normal.cdf(torch.tensor([LEAST_MASKED, 1.0], device=device))
    drawn = normal.icdf(low + (high - low) * torch.rand(count, device=device))
    return drawn.clamp(LEAST_MASKED, 1.0)
