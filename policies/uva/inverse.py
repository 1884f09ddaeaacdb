"""Actions of a film that has none: UVA's inverse model over every part of it (Li et al. 2025, §III-C and IV-E).

A window shows the frames at ``stride``, 2 ``stride``, … after its begin and tells N = F ``stride`` actions from its
begin on. The first ``stride`` of them lie before any frame that it shows and are left out; windows begin a ``stride``
apart, so each action between two frames of the film is told by up to F - 1 windows, several times each, and how far
they agree says how far to trust them:

    frames     0   ·   ·   4   ·   ·   8   ·   ·   12  …        (stride 4, F = 4)
    window     (begins at -4)    actions  0 … 11
    window              (begins at 0)     actions  4 … 15
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from policies.uva.policy import UVA

DOUBT = 0.2
"""Disagreement, in parts of half of an action's range, at which quality is 1 / e."""
AT_ONCE = 16
"""Windows."""


@dataclass(frozen=True)
class Labels:
    """``actions`` [T, A] in physical units; ``quality`` [T], 1 where all that was told agrees, towards 0 else."""

    actions: np.ndarray
    quality: np.ndarray


def label(policy: "UVA", rows: np.ndarray, instruction: str, *, draws: int = 2, seed: int = 0) -> Labels:
    """Actions at each of ``rows`` [T, S, 2 C], latents of a film at the policy's control rate, T > ``stride``."""
    config, generator = policy.config, torch.Generator().manual_seed(seed)
    stride, horizon, frames = config.stride, config.pred_horizon, len(rows)
    begins = np.arange(-stride, frames - stride, stride)
    told = np.concatenate(
        [
            _told(policy, rows, begins[start : start + AT_ONCE], instruction, draws, generator)
            for start in range(0, len(begins), AT_ONCE)
        ]
    )  # [W, draws, N, A], normalised
    total = np.zeros((frames, told.shape[-1]))
    square, count = np.zeros_like(total), np.zeros((frames, 1))
    for begin, each in zip(begins, told, strict=True):
        last = min(begin + horizon, frames)
        known = np.arange(begin + stride, last)
        here = each[:, stride : last - begin]
        total[known] += here.sum(0)
        square[known] += np.square(here).sum(0)
        count[known] += draws
    mean = total / np.maximum(count, 1)
    spread = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 0)).mean(1)
    actions = policy.normalizers.get(policy.embodiment, "action").unnormalize(mean.astype(np.float32))
    return Labels(actions, np.exp(-spread / DOUBT).astype(np.float32))


def _told(
    policy: "UVA", rows: np.ndarray, begins: np.ndarray, instruction: str, draws: int, generator: torch.Generator
) -> np.ndarray:
    """What windows that begin at ``begins`` [W] tell, [W, draws, N, A]; behind the end its last frame stands still."""
    config, camera = policy.config, policy.spec.cameras[0].name
    steps = config.stride * np.arange(1, config.frames + 1)
    seen = np.asarray(rows[np.clip(begins[:, None] + steps, 0, len(rows) - 1)])
    text = policy.tokenize([instruction] * len(begins))
    batch = {f"future.image.{camera}": torch.from_numpy(seen), "text": text}
    device = next(policy.model.parameters()).device
    with torch.no_grad():
        z = policy.model.seen({name: value.to(device) for name, value in batch.items()}, "inverse")
        z = z.repeat_interleave(draws, dim=0)
        shape = (config.action.steps + 1, len(z), config.pred_horizon, policy.spec.action.dim)
        made = policy.model.actions_of(z, torch.randn(shape, generator=generator).to(device))
    return made.unflatten(0, (len(begins), draws)).cpu().numpy()
