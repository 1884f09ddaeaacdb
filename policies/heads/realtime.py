"""Real-time chunking: a new chunk that goes on from the one that is being carried out.

While a chunk is computed the arm moves on by ``delay`` rows of the last one; those rows are known. A denoiser that was
trained on prefixes is given them without noise (Black et al. 2025, "Training-time action conditioning for efficient
real-time chunking"). Any other is pulled towards them, and a little towards the rows after them, while it samples
(Black, Galliker and Levine 2025, "Real-time execution of action chunking flow policies", §3 and eq. 2 to 5).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import e
from typing import Literal

import torch
from torch import Tensor

How = Literal["trained", "guided", "identity"]
MAX_PULL = 5.0
"""The paper's beta: the largest weight of the pull, which the formula lets grow without bounds near the noise."""


@dataclass(frozen=True)
class Known:
    """What was decided before.

    ``actions`` [B, N, A], normalised: the first ``delay`` rows will be carried out as they are, and every row pulls
    by its entry in ``weights`` [N], 0…1.

    ``how``: ``trained`` for a denoiser trained on prefixes, which heeds the first rows alone; ``guided`` pulls by the
    vector-Jacobian product through the denoiser; ``identity`` takes the Jacobian for 1 and the pull for at most 1, and
    costs nothing.
    """

    actions: Tensor
    delay: int
    weights: Tensor
    how: How = "guided"

    def put(self, actions: Tensor) -> Tensor:
        """``actions`` [B, N, A] with the first ``delay`` rows as they were decided."""
        return torch.cat([self.actions[:, : self.delay].to(actions.dtype), actions[:, self.delay :]], dim=1)


def soft_weights(chunk: int, *, delay: int, overlap: int) -> Tensor:
    """How much each of ``chunk`` rows follows the last chunk, [N] (eq. 5 of the paper; ``overlap`` is its H - s).

    1 for ``delay`` rows, then less and less, and 0 from row ``overlap`` on, which the last chunk does not reach.
    """
    row = torch.arange(chunk)
    falling = (overlap - row) / (overlap - delay + 1)
    soft = falling * (torch.exp(falling) - 1) / (e - 1)
    return torch.where(row < delay, 1.0, torch.where(row < overlap, soft, 0.0))


def blended(clean: Callable[[Tensor], Tensor], noisy: Tensor, known: Known, *, alpha: float, sigma: float) -> Tensor:
    """The denoised actions [B, N, A], moved towards what is known.

    By Bayes' rule with a Gaussian of variance sigma² / (alpha² + sigma²) around them (eq. 2 to 4, there for
    alpha = tau, sigma = 1 - tau), the pull's weight held below `MAX_PULL`.
    """
    variance = sigma**2 / (alpha**2 + sigma**2)
    weight = sigma * min(MAX_PULL, sigma / (max(alpha, 1e-6) * variance))
    rows = known.weights.to(noisy)[:, None]
    if known.how == "identity":
        actions = clean(noisy)
        return actions + min(weight, 1.0) * rows * (known.actions - actions)
    with torch.enable_grad():
        given = noisy.detach().requires_grad_()
        actions = clean(given)
        wanted = (rows * (known.actions - actions)).detach()
        (pull,) = torch.autograd.grad(actions, given, wanted)
    return actions.detach() + weight * pull
