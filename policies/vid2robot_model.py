"""Vid2Robot's network (Jain et al. 2024, §III): a video of the task done by somebody is the prompt.

    prompt, 16 frames ─► ViT ─► resampler ─► 64 tokens ──────────────────┐ keys
                          │ the same                                     ▼
    state, 8 frames ───► ViT ─► resampler ─► 64 tokens ─► 4 cross-attentions ─► prompt-aware state tokens
                                                                                     │ keys
                          learned queries, one an entry of an action ─► 4 cross-attentions ─► 256 bins each

No words go in. Of all that it learns by (§III-C), one term is about actions: the cross entropy of the bins. Three are
about seeing: frames of prompt and robot align in time, videos of one task lie together, and near the words for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.heads.diffusion import DiffusionConfig, DiffusionHead
from policies.heads.dit import DiT, DiTSize
from policies.normalizer import Mode
from policies.vid2robot_losses import Alignment, SigmoidContrast, partners
from vla.backbones.backbone import TokenGroup
from vla.backbones.transformer import attention, init_linear
from vla.representation.encoder import EncoderConfig, VisionTransformer, patchify
from vla.representation.language import Captions, LanguageConfig
from vla.representation.objectives import cycle_between

TERMS = 4
"""The loss is their mean, those that are left out counting as nothing."""


@dataclass
class PairsConfig:
    """How often a sample's prompt is of which kind; kinds that the data lack leave their share to the others."""

    robot_robot: float = 0.9
    """another episode of the robot's, told the same"""
    hindsight: float = 0.05
    """a film of a person, somewhere, with the same words"""
    colocated: float = 0.05
    """a film of a person in the robot's own place: of a folder that ``policy.colocated`` names"""


@dataclass
class Vid2RobotConfig:
    """The policy's sizes and habits."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """of the frames of both videos; its ``image_size`` is that of all pictures"""
    cameras: tuple[str, ...] = ()
    """which cameras of the dataset to look through, empty: all; the first one's films are the robot's prompts"""
    prompt: Literal["video", "words"] = "video"
    """``words``: the same network, told its task instead, and trained by its actions alone: what a prompt can give at
    most"""
    prompt_frames: int = 16
    state_frames: int = 8
    stride: int = 8
    """control steps between two frames of the state"""
    proprio: bool = True
    """whether the state's proprio is a token too; the paper has frames alone"""
    latents: int = 64
    """tokens that a resampler makes of a video"""
    prompt_latents: int | None = None
    """of the prompt, where it has not as many as the state; 1 is a single vector, as in BC-Z (Jang et al. 2021)"""
    resampler_depth: int = 2
    prompt_depth: int = 4
    """cross-attentions of the state to the prompt"""
    action_depth: int = 4
    """cross-attentions of the actions to the state"""
    head: Literal["bins", "diffusion"] = "bins"
    """``bins`` is the paper's; ``diffusion``: CogACT's head on the mean of the same tokens"""
    bins: int = 256
    decode: Literal["likeliest", "mean"] = "likeliest"
    """which action the bins' probabilities make: ``likeliest`` is the paper's; ``mean`` strays less after short
    training, when the likeliest of many bins that are nearly as likely is a matter of chance"""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    pred_horizon: int = 4
    exec_horizon: int = 4
    alignment: float = 1.0
    """weight of temporal alignment"""
    contrast: float = 1.0
    """weight of prompt against robot video"""
    words: float = 1.0
    """weight of videos against words"""
    order: float = 0.0
    """weight, in the alignment, of a frame's nearest neighbour in another film of the task being at the same share of
    that film. Not the paper's: where hands and robots look unlike, cycles close just as well when one runs backwards"""
    temperature: float = 0.01
    """of the alignment's soft nearest neighbour; at 0.1 (XIRL's, on an encoder that has seen ImageNet) frames that all
    look alike at first have every other for a neighbour, and nothing is learned"""
    contrast_bias: float = -10.0
    """of both contrasts at first: the log odds that two of a batch mean the same. SigLIP's -10 is that of one pair in
    thousands; of ten tasks it is -2, and so far off the contrasts drown the actions for thousands of steps"""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    colocated: tuple[str, ...] = ()
    """names of those folders of ``videos`` that were filmed where the robot is"""
    augment: bool = True
    """prompts in other speeds and crops"""
    normalization: Mode = "quantile"

    @property
    def image_size(self) -> int:
        """Pixels a side of all pictures."""
        return self.encoder.image_size


class CrossBlock(nn.Module):
    """``x + attention(norm(x), tokens)``, then ``x + mlp(norm(x))``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_tokens, self.norm_mlp = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """[B, N, D] that ask and [B, M, D] that answer → [B, N, D]."""
        query = self.query(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(self.norm_tokens(tokens)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        attended = attention(query, key.transpose(1, 2), value.transpose(1, 2)).transpose(1, 2).flatten(2)
        x = x + self.project(attended)
        return x + self.mlp(self.norm_mlp(x))


class Resampler(nn.Module):
    """The tokens of a video, however many, as a few learned latents (Alayrac et al. 2022, §3.1: Perceiver Resampler).

    The latents see themselves besides the tokens.
    """

    def __init__(self, width: int, heads: int, *, latents: int, depth: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(0.02 * torch.randn(latents, width))
        self.blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, M, D] → [B, latents, D]."""
        x = self.latents.to(tokens.dtype).expand(len(tokens), -1, -1)
        for block in self.blocks:
            x = block(x, torch.cat([tokens, x], dim=1))
        return self.norm(x)


class AttentionPool(nn.Module):
    """One vector of many, weighed by one learned query."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] → [B, D]."""
        return (self.query(tokens).softmax(1) * tokens).sum(1)


@dataclass(frozen=True)
class Video:
    """What the network makes of one of the two videos: ``tokens`` [B, latents, D], ``frames`` [B, F, D]."""

    tokens: Tensor
    frames: Tensor


class Vid2RobotModel(nn.Module):
    """The network; calling it with a batch gives the loss.

    A batch holds ``prompt`` [B, F, H, W, 3], ``history.image.CAMERA`` [B, S, H, W, 3] (both uint8), ``history.proprio``
    [B, S, P], ``history.mask`` [B, S], false before an episode's begin, ``actions`` [B, N, A] in -1…1, ``mask`` [B, N],
    ``text`` [B, L] and ``task`` [B]: equal for samples that were told the same.
    """

    def __init__(
        self, config: Vid2RobotConfig, *, action_dim: int, proprio_dim: int, cameras: tuple[str, ...], words: Captions
    ) -> None:
        super().__init__()
        self.config, self.cameras, self.words = config, cameras, words
        width, heads = config.encoder.width, config.encoder.heads
        self.encoder = VisionTransformer(config.encoder)
        self.state_time = nn.Parameter(0.02 * torch.randn(len(cameras), config.state_frames, 1, width))
        depth = config.resampler_depth
        self.state_reader = Resampler(width, heads, latents=config.latents, depth=depth)
        shown = config.prompt == "video"
        if shown:
            self.prompt_time = nn.Parameter(0.02 * torch.randn(config.prompt_frames, 1, width))
            self.prompt_reader = Resampler(width, heads, latents=config.prompt_latents or config.latents, depth=depth)
            self.prompt_reader.apply(init_linear)
        if shown and config.alignment:
            self.align = Alignment(width)
            self.frame_pool = AttentionPool(width)
        if shown and (config.contrast or config.words):
            self.pool = AttentionPool(width)
        if shown and config.contrast:
            self.video_contrast = SigmoidContrast(config.contrast_bias)
        if shown and config.words:
            self.word_contrast = SigmoidContrast(config.contrast_bias)
        self.proprio = nn.Linear(proprio_dim, width) if config.proprio and proprio_dim else None
        self.listen = nn.ModuleList(CrossBlock(width, heads) for _ in range(config.prompt_depth))
        if not shown or config.words:
            self.words_in = nn.Linear(words.width, width)
        else:
            words.requires_grad_(False)
        self.head = make_head(config, action_dim=action_dim)
        for part in (self.state_reader, self.listen, self.head):
            part.apply(init_linear)
        self._told: dict[str, Tensor] = {}

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch."""
        losses = self.losses(batch)
        self._told = {f"{name}_loss": value.detach() for name, value in losses.items()}
        weights = {"alignment": self.config.alignment, "contrast": self.config.contrast, "words": self.config.words}
        return torch.stack([weights.get(name, 1.0) * value for name, value in losses.items()]).sum() / TERMS

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``actions``, ``alignment``, ``contrast`` and ``words``, as far as they weigh anything."""
        config, state, told = self.config, self.look(batch), self.config.prompt == "words"
        prompt = self.hear(batch["text"]) if told else self.watch(batch["prompt"])
        losses = {"actions": self.head.loss(self.aware(state, prompt, batch), batch["actions"], batch["mask"])}
        if told:
            return losses
        same = batch["task"][:, None] == batch["task"]
        if config.alignment:
            a, b = self.align(prompt.frames), self.align(state.frames)
            one, other = partners(batch["task"])
            whole = batch["history.mask"].all(1)  # before an episode's begin there are no frames to align
            cycles = [(a[one], a[other]), *([(b[whole], a[whole])] if whole.any() else [])]
            losses["alignment"] = torch.stack([self._cycled(*both) for both in cycles]).mean()
            if config.order:
                losses["alignment"] = losses["alignment"] + config.order * self._misplaced(a[one], a[other])
        if config.contrast or config.words:
            shown, done = self.pool(prompt.tokens), self.pool(state.tokens)
        if config.contrast:
            losses["contrast"] = self.video_contrast(shown, done, same)
        if config.words:
            told = self.hear(batch["text"]).tokens[:, 0]
            losses["words"] = (self.word_contrast(shown, told, same) + self.word_contrast(done, told, same)) / 2
        return losses

    def _cycled(self, there: Tensor, back: Tensor) -> Tensor:
        """Squared frames by which those of ``there`` [B, F, D] come back from ``back`` beside where they left."""
        times = torch.arange(there.shape[1], device=there.device).expand(there.shape[:2])
        return cycle_between(there, back, times, scale=1 / self.config.temperature)

    def _misplaced(self, film: Tensor, other: Tensor) -> Tensor:
        """Squared frames between those of ``film`` [B, F, D] and the soft nearest neighbours in ``other``."""
        times = torch.arange(film.shape[1], device=film.device, dtype=film.dtype)
        near = (-torch.cdist(film, other).square() / self.config.temperature).softmax(-1)
        return (near @ times - times).square().mean()

    def metrics(self) -> dict[str, Tensor]:
        """What the last loss was made of."""
        return self._told

    def watch(self, prompt: Tensor) -> Video:
        """A prompt [B, F, H, W, 3], which need be seen but once."""
        tokens = self._seen(prompt)
        return Video(self.prompt_reader((tokens + self.prompt_time).flatten(1, 2)), self._framed(tokens))

    def hear(self, text: Tensor) -> Video:
        """Words [B, L] as one token each, in the place of a prompt."""
        token = self.words_in(self.words.sentence(text).to(self.words_in.weight.dtype))[:, None]
        return Video(token, token)

    def look(self, batch: Mapping[str, Tensor]) -> Video:
        """The state: the last frames of all cameras."""
        seen = torch.stack([self._seen(batch[f"history.image.{name}"]) for name in self.cameras], dim=1)
        return Video(self.state_reader((seen + self.state_time).flatten(1, 3)), self._framed(seen[:, 0]))

    def aware(self, state: Video, prompt: Video, batch: Mapping[str, Tensor]) -> TokenGroup:
        """The state's tokens after they have seen the prompt's."""
        x = state.tokens
        if self.proprio is not None:
            x = torch.cat([x, self.proprio(batch["history.proprio"][:, -1:].to(x.dtype))], dim=1)
        for block in self.listen:
            x = block(x, prompt.tokens)
        return TokenGroup(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))

    @torch.no_grad()
    def sample(self, batch: Mapping[str, Tensor], prompt: Video, noise: Tensor) -> Tensor:
        """Normalised actions [B, N, A]; ``noise`` of that shape decides what a head of noise draws."""
        return self.head.sample(self.aware(self.look(batch), prompt, batch), noise)

    def _framed(self, tokens: Tensor) -> Tensor:
        """What alignment compares: one vector for each frame, [B, F, patches, D] → [B, F, D]."""
        if not hasattr(self, "frame_pool"):
            return tokens.mean(2)
        return self.frame_pool(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])

    def _seen(self, frames: Tensor) -> Tensor:
        """[B, F, H, W, 3] uint8 → tokens [B, F, patches, D]."""
        patches = patchify(frames.flatten(0, 1), self.config.encoder.patch_size)
        return self.encoder(patches[:, None])[0].unflatten(0, frames.shape[:2])


class BinsHead(nn.Module):
    """All entries of all rows at once, each a choice of a bin of -1…1 (§III-B, the action decoder).

    Beside them each row learns whether the episode is over by then, as one more entry of two bins; nobody acts on it
    yet, since a policy of ours goes on until it is stopped.
    """

    def __init__(self, config: Vid2RobotConfig, *, action_dim: int) -> None:
        super().__init__()
        width, heads = config.encoder.width, config.encoder.heads
        self.noise_shape, self.bins, self.decode = (config.pred_horizon, action_dim), config.bins, config.decode
        self.queries = nn.Parameter(0.02 * torch.randn(config.pred_horizon * (action_dim + 1), width))
        self.blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(config.action_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.choose = nn.Linear(width, config.bins)

    def loss(self, context: TokenGroup, actions: Tensor, mask: Tensor) -> Tensor:
        """Cross entropy: of the actions in the rows that are real, and of being over in all."""
        logits = self._logits(context)
        wanted = ((actions.clamp(-1, 1) + 1) / 2 * (self.bins - 1)).round().long()
        lost = functional.cross_entropy(logits[..., :-1, :].flatten(0, 2), wanted.flatten(), reduction="none")
        real = mask[..., None].expand_as(actions).to(lost.dtype)
        over = torch.where(mask, 0, self.bins - 1)
        ended = functional.cross_entropy(logits[..., -1, :].flatten(0, 1), over.flatten(), reduction="none")
        return ((lost * real.flatten()).sum() + ended.sum()) / (real.sum() + mask.numel())

    @torch.no_grad()
    def sample(self, context: TokenGroup, noise: Tensor) -> Tensor:
        """The likeliest bins, or their mean; ``noise`` says nothing."""
        logits = self._logits(context)[..., :-1, :]
        if self.decode == "mean":
            return logits.softmax(-1) @ torch.linspace(-1, 1, self.bins, device=logits.device)
        return logits.argmax(-1).float() / (self.bins - 1) * 2 - 1

    def _logits(self, context: TokenGroup) -> Tensor:
        """[B, N, A + 1, bins]."""
        x = self.queries.to(context.tokens.dtype).expand(len(context.tokens), -1, -1)
        for block in self.blocks:
            x = block(x, context.tokens)
        rows, entries = self.noise_shape
        return self.choose(self.norm(x)).float().unflatten(1, (rows, entries + 1))


class DenoisingHead(nn.Module):
    """CogACT's diffusion head on the mean of the prompt-aware tokens."""

    def __init__(self, config: Vid2RobotConfig, *, action_dim: int) -> None:
        super().__init__()
        shape, size = {"action_dim": action_dim, "chunk": config.pred_horizon}, config.diffusion
        denoiser = DiT(DiTSize(size.depth, size.width, size.heads), **shape, token_dim=config.encoder.width)
        self.head = DiffusionHead(size, denoiser, **shape)
        self.noise_shape = self.head.noise_shape

    def loss(self, context: TokenGroup, actions: Tensor, mask: Tensor) -> Tensor:
        """That of the noise."""
        return self.head.loss(_mean(context), actions, mask)

    @torch.no_grad()
    def sample(self, context: TokenGroup, noise: Tensor) -> Tensor:
        """Actions out of ``noise``."""
        return self.head.sample(_mean(context), noise)


def make_head(config: Vid2RobotConfig, *, action_dim: int) -> BinsHead | DenoisingHead:
    """The head that ``config.head`` names."""
    return (BinsHead if config.head == "bins" else DenoisingHead)(config, action_dim=action_dim)


def _mean(context: TokenGroup) -> TokenGroup:
    return TokenGroup(context.tokens.mean(1, keepdim=True), context.mask[:, :1])
