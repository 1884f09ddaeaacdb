"""UVA's network (Li et al. 2025, §III): one joint latent of video and actions, two small diffusion heads beside it.

    future frames ─┐
    history frames ┤ at each of F x S places: projected, side by side, projected ─► encoder ─► decoder ─► Z [B, F S, D]
    actions ───────┤                                                                                     │
    proprio, other ┘  (what is hidden is a learned vector)           words ─► tokens in front            │
    cameras' history                                                                                     │
                             masked places ─► `TokenDiffusion` of a frame's token ◄──────────────────────┤
                             N rows ────────► `TokenDiffusion` of an action ◄── `ActionAdapter` ◄────────┘

F frames of the history stand at the same places as F of the future, so there are as many of the one as of the other.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.normalizer import Mode
from policies.uva.denoiser import DenoiserConfig, TokenDiffusion
from policies.uva.tasks import TASKS, Task, masked_places
from vla.backbones.transformer import TransformerBlock, init_linear
from vla.errors import UnderstudyError, unknown
from vla.representation.language import Captions, LanguageConfig

LATENT_BOUND = 5.0
"""Latents have a deviation of 1."""


@dataclass
class UVAConfig:
    """The policy's sizes and habits."""

    vae: Path
    """folder of the autoencoder: of ``vla pretrain representation=vae``, or a diffusers ``AutoencoderKL``; it stays as
    it is"""
    image_size: int = 256
    """pixels a side of what the autoencoder sees"""
    cameras: tuple[str, ...] = ()
    """which cameras of the dataset to look through, empty: all; the first one's future is predicted"""
    frames: int = 4
    """of the history, and as many of the future"""
    stride: int = 4
    """control steps between two of them, so many actions a frame"""
    exec_horizon: int = 4
    """control steps between two inferences; as many as ``stride`` and the history is what was seen, no nearest frame"""
    width: int = 768
    depth: int = 12
    """blocks of the encoder, and as many of the decoder"""
    heads: int = 12
    dropout: float = 0.1
    adapter: int = 4
    """cells a side that the action adapter pools a frame to"""
    video: DenoiserConfig = field(default_factory=DenoiserConfig)
    action: DenoiserConfig = field(default_factory=DenoiserConfig)
    tasks: tuple[str, ...] = ("policy", "video", "dynamics", "inverse", "policy_video")
    """what a batch may be for, each as likely; ``[video]`` is the paper's first stage, ``[policy]`` a policy alone"""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    language_tokens: int = 64
    """the words' one vector is repeated to so many"""
    language_drop: float = 0.1
    """share of the samples whose words are a learned vector instead"""
    normalization: Mode = "minmax"
    mask_padding: bool = False
    """leave padded rows out of the loss; the paper learns them"""

    def __post_init__(self) -> None:
        for name in self.tasks:
            if name not in TASKS:
                raise unknown("task of UVA", name, TASKS)

    @property
    def pred_horizon(self) -> int:
        """Actions of a chunk."""
        return self.frames * self.stride


@dataclass(frozen=True)
class Shapes:
    """What the data decide: ``side`` of a frame's grid of tokens, numbers of each (``channels``), the cameras."""

    side: int
    channels: int
    action_dim: int
    proprio_dim: int
    cameras: tuple[str, ...]


class Stream(nn.Module):
    """One of the things that lie side by side at each place: a projection, and a vector for what is hidden."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)
        self.hidden = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, values: Tensor | None, hide: Tensor | None = None) -> Tensor:
        """[..., dim] → [..., width]; ``hide`` [...]: where it is not shown; no values: nowhere."""
        if values is None:
            return self.hidden
        shown = self.project(values)
        return shown if hide is None else torch.where(hide[..., None], self.hidden.to(shown.dtype), shown)


class ActionAdapter(nn.Module):
    """Z to one vector for each action: convolution, pooling, linear layers for each frame, then from F frames to N."""

    def __init__(self, config: UVAConfig, side: int) -> None:
        super().__init__()
        width, self._shape = config.width, (config.frames, side, side)
        pooled = min(config.adapter, side)
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(pooled)
        self.frame = nn.Sequential(nn.Linear(width * pooled**2, width), nn.ReLU(), nn.Linear(width, width))
        self.spread = nn.Linear(config.frames, config.pred_horizon)
        self.action = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, z: Tensor) -> Tensor:
        """[B, F S, D] → [B, N, D]."""
        maps = z.unflatten(1, self._shape).flatten(0, 1).permute(0, 3, 1, 2)
        seen = self.pool(functional.relu(self.convolution(maps)))
        frames = self.frame(seen.flatten(1)).unflatten(0, (len(z), self._shape[0]))
        return self.action(self.spread(frames.transpose(1, 2)).transpose(1, 2))


class UVAModel(nn.Module):
    """The network; calling it with a batch gives the loss of one of the `TASKS`, which chance decides.

    A batch holds ``history.image.CAMERA`` and ``future.image.CAMERA`` [B, F, S, 2 C] (means and deviations of latents),
    ``text`` [B, L] and, unless it is of action-free video, ``actions`` [B, N, A], ``mask`` [B, N] and
    ``history.proprio`` [B, F, P]. Of a camera but the first only the history is looked at, if it is there.
    """

    def __init__(self, config: UVAConfig, shapes: Shapes, language: Captions) -> None:
        super().__init__()
        self.config, self.shapes, self.language = config, shapes, language
        width, places = config.width, shapes.side**2
        if places % config.stride:
            raise UnderstudyError(
                f"policy.stride={config.stride} actions cannot share the {places} places of a frame evenly; give "
                "another stride, or pictures of another size"
            )
        self.future = Stream(shapes.channels, width)
        self.history = Stream(shapes.channels, width)
        self.actions = Stream(shapes.action_dim, width)
        self.proprio = Stream(shapes.proprio_dim, width) if shapes.proprio_dim else None
        self.others = nn.ModuleDict({name: Stream(shapes.channels, width) for name in shapes.cameras[1:]})
        streams = 3 + (self.proprio is not None) + len(self.others)
        self.fuse = nn.Linear(streams * width, width)
        self.words = nn.Linear(language.width, width)
        self.no_words = nn.Parameter(0.02 * torch.randn(width))
        self.places = nn.ModuleList(Places(config, places) for _ in range(3))
        self.norm_in = nn.LayerNorm(width, eps=1e-6)
        block = {"dropout": config.dropout}
        self.encoder = nn.ModuleList(TransformerBlock(width, config.heads, **block) for _ in range(config.depth))
        self.between = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Linear(width, width))
        self.decoder = nn.ModuleList(TransformerBlock(width, config.heads, **block) for _ in range(config.depth))
        self.norm_out = nn.LayerNorm(width, eps=1e-6)
        self.adapter = ActionAdapter(config, shapes.side)
        self.video_head = TokenDiffusion(config.video, dim=shapes.channels, condition=width, bound=LATENT_BOUND)
        self.action_head = TokenDiffusion(config.action, dim=shapes.action_dim, condition=width, bound=1.0)
        for part in (self.encoder, self.decoder, self.between, self.adapter, self.fuse):
            part.apply(init_linear)
        self._told: dict[str, Tensor] = {}

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch."""
        names = self.config.tasks if "actions" in batch else ("video",)
        name = names[int(torch.randint(len(names), ()))]
        losses = self.losses(batch, TASKS[name])
        self._told = {f"{part}_loss": value.detach() for part, value in losses.items()}
        return torch.stack([*losses.values(), self._unused(losses)]).sum()

    def losses(self, batch: Mapping[str, Tensor], task: Task) -> dict[str, Tensor]:
        """``action`` and ``video``, as far as the task learns them."""
        future = self.latents(batch[f"future.image.{self.shapes.cameras[0]}"])
        masked = masked_places(task, len(future), self.places_of_frame, future.device)
        drop = torch.rand(len(masked), device=masked.device) < self.config.language_drop
        z = self.joint(batch, task, masked, future, drop)
        losses = {}
        if task.learns_actions:
            losses["action"] = self._action_loss(z, batch)
        if task.learns_video:
            losses["video"] = self._video_loss(z, future, masked)
        return losses

    def latents(self, rows: Tensor) -> Tensor:
        """[..., 2 C] → [..., C] float32: drawn from the posterior while it trains, else the mean."""
        mean, deviation = rows.float().chunk(2, dim=-1)
        return torch.addcmul(mean, deviation, torch.randn_like(mean)) if self.training else mean

    def joint(
        self,
        batch: Mapping[str, Tensor],
        task: Task,
        masked: Tensor,
        future: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> Tensor:
        """The joint latent Z [B, F S, D].

        ``future`` [B, F, S, C]: the first camera's latents, of which the places ``masked`` [B, S] are hidden; ``drop``
        [B]: whose words are.
        """
        tokens, text = self._fused(batch, task, masked, future), self.language.sentence(batch["text"])
        words = self.words(text.to(self.words.weight.dtype))
        if drop is not None:
            words = torch.where(drop[:, None], self.no_words.to(words.dtype), words)
        words = words[:, None].expand(-1, self.config.language_tokens, -1)
        x = self.norm_in(torch.cat([words, self.places[0](tokens)], dim=1))
        for block in self.encoder:
            x = block(x)
        x = self.between(x)
        x = torch.cat([x[:, : words.shape[1]], self.places[1](x[:, words.shape[1] :])], dim=1)
        for block in self.decoder[:-1]:
            x = block(x)
        x = self.decoder[-1](x, last=tokens.shape[1])
        return self.places[2](self.norm_out(x))

    def _fused(self, batch: Mapping[str, Tensor], task: Task, masked: Tensor, future: Tensor | None) -> Tensor:
        """[B, F S, D]: at each place what stands there, side by side, then as one."""
        frames, (first, *_) = self.config.frames, self.shapes.cameras
        shape = (len(masked), frames, masked.shape[1], self.config.width)
        shown = [
            self.future(None if task.future == "none" else future, masked[:, None].expand(shape[:3])),
            self.history(self.latents(batch[f"history.image.{first}"]) if task.history else None),
            self._at_places(batch["actions"]) if task.actions else self.actions(None),
        ]
        if self.proprio is not None:
            told = batch.get("history.proprio") if task.proprio else None
            shown.append(self.proprio(told if told is None else told[:, :, None]))
        for name, stream in self.others.items():
            rows = batch.get(f"history.image.{name}") if task.history else None
            shown.append(stream(rows if rows is None else self.latents(rows)))
        kind = (
            next(one.dtype for one in shown if one.ndim > 1) if any(one.ndim > 1 for one in shown) else shown[0].dtype
        )
        return self.fuse(torch.cat([one.to(kind).expand(shape) for one in shown], dim=-1)).flatten(1, 2)

    def _at_places(self, actions: Tensor) -> Tensor:
        """The actions [B, N, A], each at its part of a frame's places in their order, [B, F, S, D]."""
        told = self.actions(actions).unflatten(1, (self.config.frames, self.config.stride))
        return told.repeat_interleave(self.places_of_frame // self.config.stride, dim=2)

    def _action_loss(self, z: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        error = self.action_head.loss(batch["actions"].flatten(0, 1), self.adapter(z).flatten(0, 1))
        if not self.config.mask_padding:
            return error.mean()
        weight = batch["mask"].flatten().to(error.dtype)
        return (error * weight).sum() / weight.sum().clamp(min=1)

    def _video_loss(self, z: Tensor, future: Tensor, masked: Tensor) -> Tensor:
        hidden = masked[:, None].expand(-1, self.config.frames, -1)
        return self.video_head.loss(future[hidden], z.unflatten(1, hidden.shape[1:])[hidden]).mean()

    def _unused(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Nothing, of every weight: processes that train together must all have a gradient for all of them."""
        if not torch.distributed.is_initialized():
            return next(iter(losses.values())).new_zeros(())
        return torch.stack([0 * parameter.sum() for parameter in self.parameters() if parameter.requires_grad]).sum()

    def metrics(self) -> dict[str, Tensor]:
        """What the last loss was made of."""
        return {} if torch.distributed.is_initialized() else self._told

    @torch.no_grad()
    def seen(self, batch: Mapping[str, Tensor], task: str = "policy") -> Tensor:
        """Z [B, F S, D] when nothing of the future is known, or, for ``inverse``, all of it."""
        shown = TASKS[task]
        masked = batch["text"].new_ones(len(batch["text"]), self.places_of_frame, dtype=torch.bool)
        if shown.future == "all":
            return self.joint(batch, shown, ~masked, self.latents(batch[f"future.image.{self.shapes.cameras[0]}"]))
        return self.joint(batch, replace(shown, future="none"), masked)

    @torch.no_grad()
    def actions_of(self, z: Tensor, noise: Tensor) -> Tensor:
        """Normalised actions [B, N, A] of ``noise`` [steps + 1, B, N, A]."""
        _, batch, rows, dim = noise.shape
        condition = self.adapter(z).flatten(0, 1)
        return self.action_head.sample(condition, noise.flatten(1, 2)).view(batch, rows, dim)

    @torch.no_grad()
    def video_of(
        self,
        batch: Mapping[str, Tensor],
        generator: torch.Generator,
        task: str = "video",
        *,
        rounds: int = 1,
        z: Tensor | None = None,
    ) -> Tensor:
        """Latents of the future [B, F, S, C]; ``z``: what `seen` gave for this batch and task, if it is known.

        In each of several ``rounds`` some places become known for the next, few at first, the same ones in all frames
        (Chang et al. 2022, MaskGIT, §3.2: a cosine).
        """
        shown, z = replace(TASKS[task], future="some"), self.seen(batch, task) if z is None else z
        count, places, frames = len(z), self.places_of_frame, self.config.frames
        rank = torch.rand(count, places, generator=generator).argsort(1).argsort(1).to(z.device)
        future = z.new_zeros(count, frames, places, self.shapes.channels, dtype=torch.float32)
        left = places
        for number in range(rounds):
            if number:
                z = self.joint(batch, shown, rank < left, future)
            known, left = left, int(places * math.cos(math.pi / 2 * (number + 1) / rounds))
            new = ((rank < known) & (rank >= left))[:, None].expand(-1, frames, -1)
            noise = torch.randn(self.config.video.steps + 1, int(new.sum()), future.shape[-1], generator=generator)
            future[new] = self.video_head.sample(z.unflatten(1, new.shape[1:])[new], noise.to(z.device))
        return future

    @property
    def places_of_frame(self) -> int:
        """Tokens of one frame."""
        return self.shapes.side**2


class Places(nn.Module):
    """Where a token stands: its frame and its place there, both learned."""

    def __init__(self, config: UVAConfig, places: int) -> None:
        super().__init__()
        self.frame = nn.Parameter(0.02 * torch.randn(config.frames, 1, config.width))
        self.place = nn.Parameter(0.02 * torch.randn(places, config.width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, F S, D] → the same."""
        return x + (self.frame + self.place).flatten(0, 1)
