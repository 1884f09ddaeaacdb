"""Manipulate by Seeing's network (Wang, Dasari et al. 2023): a space in which distance says how far the goal is.

    picture ─► eyes ─► φ ─► state s, a unit vector ──┐
    move a [M] ──────────────────────────────────────┴─► dynamics d(s, a) ─► the next state, a unit vector
    picture ─► other eyes ─► whether the gripper is to be closed

Of the moves that the recordings hold, the one that was made should lead nearest to a later picture of the same
recording (§3.2): ``cross entropy of cos(d(s_t, a_m), s_goal) / temperature over m``, and ``d(s_t, a_t)`` should be
``s_{t+1}`` (mean squared error). The first alone keeps the space from collapsing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import v2

from vla.representation.encoder import EncoderConfig, FrameEncoder


@dataclass
class CEMConfig:
    """The planner that looks several moves ahead, by the cross-entropy method."""

    moves: int = 3
    samples: int = 256
    elites: int = 32
    rounds: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.elites <= self.samples or self.moves < 1 or self.rounds < 1:
            raise ValueError(f"cem wants 2 to samples elites, and at least one move and round, got {self}")


@dataclass
class ManipulateBySeeingConfig:
    """Sizes and habits."""

    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(kind="resnet"))
    """of the pictures, trained from scratch; its ``image_size`` is that of all pictures"""
    representation: Path | None = None
    """folder that ``vla pretrain`` wrote, to begin with instead (the paper begins with R3M); then ``encoder`` says
    only how large the pictures are"""
    freeze: bool = False
    """keep the representation as it is"""
    pool: Literal["mean", "all"] = "mean"
    """what of the encoder's map becomes the state: the paper's mean, or all its cells"""
    cameras: tuple[str, ...] = ()
    """the one camera to look through; empty: the dataset's only one"""
    learns: Literal["distance", "cloning"] = "distance"
    """``cloning``: the baseline, which says the move that leads from one picture to the other instead"""
    state: int = 128
    """numbers of a state"""
    hidden: int = 128
    stride: int = 4
    """control steps of a move"""
    least: float = 0.005
    """shorter moves are not learned from [m, or the action's own unit]"""
    rotations: bool = False
    """moves turn as well, and the network sees the first three rows of their transforms, as for the paper's knobs; for
    ``directions=false`` and actions that are a way and a rotation vector [rad]"""
    least_turn: float = 0.05
    """nor are turns, unless the way is long enough [rad]"""
    directions: bool = True
    """a move is a direction alone, as it must be where no scale is known; false: its length counts too"""
    reach: float | None = None
    """how far to go along a direction; none: the median of the recordings' moves"""
    augment: bool = False
    """in training each picture is now and then grey, of other colours and cropped, by itself (the paper's)"""
    candidates: int = 1000
    """moves to choose from, drawn of the recordings once and for all"""
    temperature: float = 1.0
    """of the cross entropy; the paper has none"""
    closes: float = 0.8
    """probability from which on the gripper is to be closed; the paper has 0.8"""
    planner: Literal["greedy", "cem"] = "greedy"
    best: int = 1
    """how many of the best moves the greedy planner makes the mean of; the paper makes the best"""
    cem: CEMConfig = field(default_factory=CEMConfig)

    def __post_init__(self) -> None:
        if self.reach is not None and not (self.directions and self.reach > 0):
            raise ValueError(
                f"reach={self.reach} is above 0 and for directions=true: other moves have their own length"
            )
        if not 1 <= self.best <= self.candidates:
            raise ValueError(f"best={self.best} is 1 to candidates={self.candidates}")
        if self.rotations and self.directions:
            raise ValueError("rotations=true is for directions=false: a turn on the spot has no direction")

    @property
    def image_size(self) -> int:
        """Pixels a side of all pictures."""
        return self.encoder.image_size

    @property
    def pred_horizon(self) -> int:
        """Rows of a chunk: one move."""
        return self.stride


class ScratchEyes(nn.Module):
    """Eyes that know nothing yet."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder, self.width, self.tokens = FrameEncoder(config), config.width, config.tokens

    def look(self, pictures: Tensor) -> Tensor:
        """[B, H, W, 3] uint8 → [B, N, D]."""
        return self.encoder(pictures)


class Pooled(nn.Module):
    """What eyes see, as so many numbers: tokens ─► mean or all ─► ReLU ─► linear."""

    def __init__(self, eyes: nn.Module, *, tokens: int, pool: Literal["mean", "all"], numbers: int) -> None:
        super().__init__()
        self.eyes, self.mean = eyes, pool == "mean"
        self.linear = nn.Linear(eyes.width * (1 if self.mean else tokens), numbers)

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, H, W, 3] uint8 → [B, numbers]."""
        tokens = self.eyes.look(pictures)
        return self.linear(functional.relu(tokens.mean(1) if self.mean else tokens.flatten(1)))


class Dynamics(nn.Module):
    """State and move → the next state: three layers, then unit length."""

    def __init__(self, state: int, hidden: int, action: int) -> None:
        super().__init__()
        self.of_state, self.of_move = nn.Linear(state, hidden), nn.Linear(action, hidden, bias=False)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, state))

    def forward(self, state: Tensor, move: Tensor) -> Tensor:
        """[..., S] and [..., M] → [..., S], which are broadcast: many moves from one state share its layer."""
        return unit(self.rest(self.of_state(state) + self.of_move(move)))


class SeeingModel(nn.Module):
    """The network; calling it with a batch gives the loss.

    A batch holds ``image.CAMERA`` [B, H, W, 3], ``next.image.CAMERA`` and ``goal.image.CAMERA`` [B, 1, H, W, 3] (all
    uint8), ``move`` [B, M], ``moved`` [B] and ``next.mask`` [B, 1] bool: whether it is one to learn from, and
    ``closed`` [B] float if there is a gripper. ``candidates`` [K, M]: as ``move``, in units of ``length``, which the
    model keeps and does not use.
    """

    def __init__(
        self,
        config: ManipulateBySeeingConfig,
        *,
        camera: str,
        candidates: Tensor,
        gripper: bool,
        make_eyes: Callable[[], tuple[nn.Module, int]],
    ) -> None:
        super().__init__()
        self.config, self.camera = config, camera
        self.register_buffer("candidates", candidates)
        self.register_buffer("length", torch.ones(()))
        numbers = candidates.shape[1]
        rest = torch.eye(3, 4).flatten() if config.rotations else torch.zeros(numbers)
        self.register_buffer("rest", rest, persistent=False)
        self.phi, self.gripper = self._pooled(make_eyes, config.state), None
        if config.learns == "distance":
            self.dynamics = Dynamics(config.state, config.hidden, numbers)
        else:
            self.says = nn.Sequential(
                *(nn.Linear(2 * config.state, config.hidden), nn.ReLU()),
                *(nn.Linear(config.hidden, config.hidden), nn.ReLU(), nn.Linear(config.hidden, numbers)),
            )
        if gripper:
            self.gripper = self._pooled(make_eyes, 1)
        self.vary = paper_augmentation(config.image_size) if config.augment else None
        self._told: dict[str, Tensor] = {}

    def _pooled(self, make_eyes: Callable[[], tuple[nn.Module, int]], numbers: int) -> Pooled:
        eyes, tokens = make_eyes()
        return Pooled(eyes, tokens=tokens, pool=self.config.pool, numbers=numbers)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch."""
        losses = self.losses(batch)
        self._told = {f"{name}_loss": value.detach() for name, value in losses.items()}
        return torch.stack(list(losses.values())).sum()

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``spatial`` and ``dynamics``, or ``cloning``; and ``gripper``."""
        name = f"image.{self.camera}"
        pictures = torch.cat([batch[name], batch[f"next.{name}"][:, 0], batch[f"goal.{name}"][:, 0]])
        if self.training and self.vary is not None:
            pictures = torch.stack([self.vary(one) for one in pictures.movedim(-1, 1)]).movedim(1, -1)
        state, after, goal = self.state(pictures).chunk(3)
        moved, move = (batch["moved"] & batch["next.mask"][:, 0]).float(), batch["move"]
        if self.config.learns == "cloning":
            losses = {"cloning": weighed(self._cloned(state, goal, move), moved)}
        else:
            logits = self.scores(state, goal, self.candidates) / self.config.temperature
            made = torch.cdist(move, self.candidates).argmin(1)
            reached = (self.dynamics(state, move) - after).square().mean(1)
            losses = {
                "spatial": weighed(functional.cross_entropy(logits.float(), made, reduction="none"), moved),
                "dynamics": weighed(reached, moved),
            }
        if self.gripper is not None:
            losses["gripper"] = functional.binary_cross_entropy_with_logits(
                self.gripper(pictures[: len(move)])[:, 0].float(), batch["closed"]
            )
        return losses

    def metrics(self) -> dict[str, Tensor]:
        """What the last loss was made of."""
        return self._told

    def state(self, pictures: Tensor) -> Tensor:
        """φ: [B, H, W, 3] uint8 → [B, S] of unit length."""
        return unit(self.phi(pictures))

    def scores(self, state: Tensor, goal: Tensor, moves: Tensor) -> Tensor:
        """How near to ``goal`` [B, S] each of ``moves`` [K, M] leads from ``state`` [B, S]: cosines [B, K]."""
        return (self.dynamics(state[:, None], moves) * goal[:, None]).sum(-1)  # a product of matrices would be in bf16

    @torch.no_grad()
    def choose(self, state: Tensor, goal: Tensor, generator: torch.Generator) -> Tensor:
        """The move [B, M] to make now."""
        if self.config.learns == "cloning":
            return self.says(torch.cat([state, goal], dim=-1)).float()
        if self.config.planner == "cem":
            return torch.stack([self._searched(*pair, generator) for pair in zip(state, goal, strict=True)])
        best = self.scores(state, goal, self.candidates).topk(self.config.best, dim=1).indices
        return self.candidates[best].mean(1)

    def _searched(self, state: Tensor, goal: Tensor, generator: torch.Generator) -> Tensor:
        """The first move [M] of the several that are nearest to the goal on their way (Rubinstein 1999)."""
        cem, known = self.config.cem, self.candidates
        mean, deviation = known.mean(0).expand(cem.moves, -1), known.std(0).expand(cem.moves, -1)
        for _ in range(cem.rounds):
            noise = torch.randn((cem.samples, cem.moves, known.shape[1]), generator=generator).to(known.device)
            plans = known[torch.cdist(mean + deviation * noise, known).argmin(-1)]
            ends, near = state.expand(cem.samples, -1), known.new_zeros(cem.samples)
            for move in plans.unbind(1):
                ends = self.dynamics(ends, move)
                near += (ends * goal).sum(-1)
            best = plans[near.topk(cem.elites).indices]
            mean, deviation = best.mean(0), best.std(0)
        return known[torch.cdist(mean[:1], known).argmin(-1)][0]

    def _cloned(self, state: Tensor, goal: Tensor, move: Tensor) -> Tensor:
        """Squared error and, since lengths say little, one minus the cosine of what differs from rest [B]."""
        said = self.says(torch.cat([state, goal], dim=-1)).float()
        cosine = functional.cosine_similarity(said - self.rest, move - self.rest)
        return (said - move).square().mean(1) + 1 - cosine


def paper_augmentation(size: int) -> v2.Compose:
    """Of one picture [3, size, size]: one in twenty grey, colours by a fifth, a crop of 224 of 240."""
    larger = v2.Resize([round(size * 240 / 224)] * 2)
    return v2.Compose([larger, v2.RandomGrayscale(0.05), v2.ColorJitter(0.2, 0.2, 0.2, 0.2), v2.RandomCrop(size)])


def unit(x: Tensor) -> Tensor:
    """Of length 1 along the last axis, in float32."""
    return functional.normalize(x.float(), dim=-1)


def weighed(losses: Tensor, weights: Tensor) -> Tensor:
    """The mean [B] → scalar of what has weight; 0 if nothing has."""
    return (losses * weights).sum() / weights.sum().clamp(min=1)
