"""What representations are trained with: plain functions of features, each with its source.

``z`` are embeddings, similarity is the negative distance where the paper's is, and every loss is a mean over the batch.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def in_float32[Loss: Callable[..., Any]](loss: Loss) -> Loss:
    """The loss in float32, whatever the autocast around it: distances and logits that differ by per cents."""

    @wraps(loss)
    def exact(*tensors: Tensor, **settings: Any) -> Any:
        wide = [tensor.float() if tensor.is_floating_point() else tensor for tensor in tensors]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return loss(*wide, **settings)

    return exact


def standardized(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Patches [..., P] with mean 0 and variance 1 each: the target of masked autoencoding (He et al. 2022, §4)."""
    patches = patches.float()
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) * (variance + eps).rsqrt()


def reconstruction(predicted: Tensor, patches: Tensor) -> Tensor:
    """Mean squared error [B] between predictions and standardised ``patches``, both [B, M, P], all of them masked.

    Predicting each patch's mean (zero) scores 1 by construction, up to the unbiased variance.
    """
    return (predicted.float() - standardized(patches)).square().mean(dim=(1, 2))


def caption_nll(logits: Tensor, ids: Tensor, mask: Tensor, *, pad: int) -> Tensor:
    """Mean negative log likelihood of each caption, [B] nats a token (Voltron's V-Gen).

    ``logits`` [B, L, V] at token *t* speak of token *t + 1* of ``ids`` [B, L]; a step counts where its input ``mask``
    [B, L] is true, so that after the last word ``pad`` has to be predicted (as the released code has it), for the
    longest caption of a batch too.
    """
    steps = mask.float()
    following = functional.pad(ids[:, 1:], (0, 1), value=pad)
    told = functional.cross_entropy(logits.flatten(0, 1).float(), following.flatten(), reduction="none")
    return (told.view_as(steps) * steps).sum(1) / steps.sum(1)


def unigram_nll(ids: Tensor, mask: Tensor, *, pad: int) -> Tensor:
    """`caption_nll` [B] of the best predictor that knows only how often each token follows in these captions."""
    following = functional.pad(ids[:, 1:], (0, 1), value=pad)
    counts = torch.bincount(following[mask]).double()
    lost = -(counts / counts.sum()).clamp(min=1e-12).log()[following]
    return (lost * mask).sum(1) / mask.sum(1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance over the last axis, with a gradient at zero."""
    return (a - b).square().sum(-1).clamp(min=1e-12).sqrt()


@in_float32
def time_contrast(z: Tensor, others: Tensor) -> Tensor:
    """Frames near in time lie nearer than frames far in time or of other videos (TCN; R3M's form, Nair et al. 2022).

    ``z`` [B, 3, D]: frames s0 < s1 < s2 of each video; ``others`` [B, K]: for each video, K rows of other videos.
    InfoNCE over negative distances: (s2, s1) beats (s2, s0), and (s1, s0) beats (s2, s0), and both beat the others.
    """
    s0, s1, s2 = z.unbind(1)
    far = -distance(s2, s0)
    late = [-distance(s2, s1), far, *(-distance(s2[:, None], s2[others])).unbind(1)]
    early = [-distance(s1, s0), far, *(-distance(s0[:, None], s0[others])).unbind(1)]
    return (first_wins(torch.stack(late, -1)) + first_wins(torch.stack(early, -1))) / 2


def first_wins(scores: Tensor) -> Tensor:
    """Mean cross entropy of the first of ``scores`` [B, K]."""
    return functional.cross_entropy(scores.float(), torch.zeros(len(scores), dtype=torch.long, device=scores.device))


def progress_ranking(right: Tensor, wrong: Tensor, weight: Tensor) -> Tensor:
    """A caption's score of more progress beats those of less and of other videos (R3M's language loss).

    ``right`` [B, S] and ``wrong`` [B, S, K] log-odds; ``weight`` [B] is 0 where nobody gave a caption.
    """
    scores = torch.cat([right[..., None], wrong], dim=-1).float()
    lost = -scores.log_softmax(-1)[..., 0].mean(1)
    return (lost * weight).sum() / weight.sum().clamp(min=1)


@in_float32
def implicit_value(z: Tensor, others: Tensor, *, discount: float = 0.98) -> Tensor:
    """VIP (Ma et al. 2023, eq. 5): the dual of goal-conditioned RL, with reward -1 a step.

    ``z`` [B, 4, D]: first frame, goal, a frame and the one after it; value is V(o; g) = -|z(o) - z(g)|. ``others``
    [B, K]: rows of other videos, whose frames count as further transitions towards this goal.
    """
    start, goal, now, after = z.unbind(1)

    def error(now: Tensor, after: Tensor, goal: Tensor) -> Tensor:
        return -(-1 + discount * -distance(after, goal) + distance(now, goal))

    near = (1 - discount) * distance(start, goal).mean()
    within = error(now, after, goal)
    across = error(now[others], after[others], goal[:, None]).flatten()
    return near + log_mean_exp(within) + log_mean_exp(across)


def log_mean_exp(x: Tensor) -> Tensor:
    """``log(mean(exp(x)))`` over all entries."""
    return torch.logsumexp(x.float(), 0) - torch.log(torch.tensor(float(len(x)), device=x.device))


@in_float32
def cycle_back(z: Tensor, times: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Temporal cycle consistency by regression (Dwibedi et al. 2019, §3.2; XIRL's ``regression_mse``).

    ``z`` [V, T, D], ``times`` [V, T] in 0…1. From each frame to its soft nearest neighbour in each other video and
    back: the place it comes back to should be where it began. Mean over all ordered pairs of videos.
    """
    videos, _, width = z.shape
    pairs = [(a, b) for a in range(videos) for b in range(videos) if a != b]
    first, second = (torch.tensor(side, device=z.device) for side in zip(*pairs, strict=True))
    return cycle_between(z[first], z[second], times[first], scale=1 / (width * temperature))


@in_float32
def cycle_between(a: Tensor, b: Tensor, times: Tensor, *, scale: float) -> Tensor:
    """`cycle_back` from each of the videos ``a`` [B, T, D] to its partner ``b`` [B, S, D] and back.

    ``times`` [B, T] of ``a``; ``scale`` multiplies the squared distances.
    """
    there = (-torch.cdist(a, b).square() * scale).softmax(-1) @ b
    back = (-torch.cdist(there, a).square() * scale).softmax(-1)
    returned = (back @ times.to(a.dtype)[..., None]).squeeze(-1)
    return (returned - times).square().mean()


@in_float32
def pairwise_sigmoid(images: Tensor, texts: Tensor, *, same: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """SigLIP (Zhai et al. 2023, Algorithm 1): each pair by itself is right or wrong.

    ``images``, ``texts`` [B, D] of unit length; ``same`` [B, B] true where caption and video mean the same, which in
    a templated corpus is not only the diagonal.
    """
    logits = images @ texts.T * scale + bias
    sign = torch.where(same, 1.0, -1.0)
    return -functional.logsigmoid(sign * logits).sum(1).mean()


@in_float32
def info_nce(a: Tensor, b: Tensor, *, temperature: float = 1.0) -> Tensor:
    """SimCLR's loss over 2 B views (Chen et al. 2020, eq. 1): of ``a`` [B, D] its partner in ``b`` [B, D]."""
    both = functional.normalize(torch.cat([a, b]), dim=-1)
    scores = (both @ both.T / temperature).float()
    scores = scores.masked_fill(torch.eye(len(both), dtype=torch.bool, device=scores.device), float("-inf"))
    partner = torch.arange(len(both), device=scores.device).roll(len(a))
    return functional.cross_entropy(scores, partner)


@in_float32
def quantized(z: Tensor, codes: Tensor, *, commitment: float = 0.25) -> tuple[Tensor, Tensor]:
    """The nearest of ``codes`` [K, D] to each of ``z`` [..., D] and VQ-VAE's loss (van den Oord et al. 2017, eq. 3).

    The gradient of what comes after passes straight through to ``z``.
    """
    nearest = codes[torch.cdist(z.flatten(0, -2).float(), codes.float()).argmin(-1)].view_as(z)
    loss = (nearest - z.detach()).square().mean() + commitment * (nearest.detach() - z).square().mean()
    return z + (nearest - z).detach(), loss


def joint_in_patch(logits: Tensor, present: Tensor) -> Tensor:
    """PAAT (Reilly & Das 2023): for each patch and joint, whether the joint lies in the patch; [B, N, J] both."""
    return functional.binary_cross_entropy_with_logits(logits.float(), present.float())


def joints_to_patches(keypoints: Tensor, *, image_size: int, patch_size: int) -> Tensor:
    """Keypoints [B, J, 2] in pixels (x, y; NaN: not seen) → [B, N, J] bool, true for the patch each one lies in."""
    side = image_size // patch_size
    cell = torch.floor(keypoints / patch_size)
    inside = (torch.isfinite(cell) & (cell >= 0) & (cell < side)).all(-1)
    number = torch.where(inside, cell[..., 1] * side + cell[..., 0], 0).long()
    return functional.one_hot(number, side * side).bool().transpose(1, 2) & inside[:, None]
