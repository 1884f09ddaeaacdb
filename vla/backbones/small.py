"""A vision-language model that trains from scratch on a laptop.

The order of the tokens that the causal language model reads, for two cameras:

    [ bos  words … pad | camera 1: patches | camera 2: patches | keypoints 1 | keypoints 2 | proprio | COGNITION ]

Words come first, so that under the causal mask every patch already knows what is asked; the last layer's hidden
state at COGNITION, a learned embedding, is the one token that the action head sees (CogACT, §3.2).

Each camera is read by a ViT whose patch embedding is a stack of strided convolutions (Xiao et al. 2021, "Early
convolutions help transformers see better": fewer steps to train from scratch). The words modulate that stem by FiLM
(as OpenVLA-OFT's FiLM does in its vision encoder): without it a small model needs several times the data to bind
the words to the objects. A `Tower` that was trained before may stand in their place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional

from vla.backbones.backbone import TokenGroup
from vla.backbones.transformer import TransformerBlock, init_linear, sinusoid
from vla.errors import UnderstudyError

PAD, UNKNOWN, START = "[pad]", "[unk]", "[bos]"
TOKENIZER, FOLDER = "tokenizer.json", "representation"
"""What a checkpoint holds of the backbone besides its weights; the folder if it sees through a `Tower`."""


@dataclass
class SmallVLMConfig:
    """Sizes of the small vision-language model."""

    image_size: int = 64
    """pixels a side of every camera's image"""
    patch_size: int = 8
    """pixels a side of a patch; a power of two"""
    merge: int = 2
    """patches a side that become one token of the language model, side by side in its channels"""
    vision_width: int = 128
    vision_depth: int = 3
    language_width: int = 192
    language_depth: int = 3
    heads: int = 4
    max_words: int = 24
    """longest instruction, in tokens"""
    representation: Path | None = None
    """folder that `vla pretrain` wrote, to see through instead of convolutions and a ViT trained from scratch; then
    ``patch_size`` and ``vision_depth`` say nothing, and ``merge`` must divide the side of its grid of tokens. Pictures
    are kept at ``image_size`` and resized to its own from there: a smaller one loses detail, a larger one only takes
    memory, so give the same (64 in both cpu presets, 224 in the papers')"""
    freeze: bool = True
    """keep the representation as it is; false: it learns on, at ``backbone_lr`` times the learning rate"""


class Tower(Protocol):
    """What may stand in place of the convolutions and the ViT: an ``nn.Module`` with these members."""

    side: int
    """of the grid of patches"""
    about: Mapping[str, str]
    """name, path and a hash of the weights, as they were before this training"""
    strange: list[str]
    """words of the training instructions that it has never read"""

    def save(self, folder: Path) -> None:
        """Write what it is built again from, besides the weights."""
        ...

    def __call__(self, pictures: Tensor, words: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """[B, H, W, 3] uint8, ``words`` [B, C], ``text`` [B, L] ids → patches [B, side², C], keypoints [B, 2 POINTS].

        C is ``vision_width``; the ids are those of `SmallVLM.tokenize`.
        """
        ...


def build_tokenizer(instructions: Sequence[str]) -> Tokenizer:
    """A lower-cased word-level tokenizer over the words of the training instructions."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=[PAD, UNKNOWN, START])
    tokenizer.train_from_iterator(sorted(set(instructions)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.token_to_id(START))]
    )
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD), pad_token=PAD)
    return tokenizer


class FiLM(nn.Module):
    """Scale and shift feature maps by a condition; starts as the identity (Perez et al. 2018)."""

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.to_scale_shift = nn.Linear(condition, 2 * channels)
        nn.init.zeros_(self.to_scale_shift.weight)
        nn.init.zeros_(self.to_scale_shift.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``x`` [B, C, H, W], ``condition`` [B, D]."""
        scale, shift = self.to_scale_shift(condition)[:, :, None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


class ConvBlock(nn.Module):
    """3x3 convolution, group norm, FiLM by the words, SiLU."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, condition: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(4, channels_out)
        self.film = FiLM(condition, channels_out)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H / stride, W / stride]."""
        return functional.silu(self.film(self.norm(self.convolution(x)), condition))


class ConvStem(nn.Module):
    """Strided convolutions down to one feature vector per patch, and keypoints seen on the way.

    The keypoints are expected coordinates under spatial softmaxes (Finn et al. 2016, "Deep spatial autoencoders"), on
    the map of a quarter of the resolution. With the words in every layer they can follow the object that is meant:
    asked for the place of one of three cubes, the whole backbone was off by 0.4 pixels after 500 steps of 64 samples.
    """

    POINTS = 32

    def __init__(self, width: int, *, patch_size: int, condition: int) -> None:
        super().__init__()
        doublings = patch_size.bit_length() - 3
        if 4 * 2**doublings != patch_size:
            raise ValueError(f"patch_size must be 4, 8, 16 or a larger power of two, got {patch_size}")
        channels = [max(32, width >> (doublings - number)) for number in range(doublings + 1)]
        self.patchify = nn.Conv2d(3, channels[0], 4, stride=4)
        self.look = ConvBlock(channels[0], channels[0], stride=1, condition=condition)
        self.stages = nn.ModuleList(
            ConvBlock(before, after, stride=2, condition=condition) for before, after in pairwise(channels)
        )
        self.heat = nn.Conv2d(channels[0], self.POINTS, 1)
        self.sharpness = nn.Parameter(torch.full((self.POINTS, 1), 3.0))

    def forward(self, images: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in -1…1 → patches [B, H/patch * W/patch, width] and keypoints [B, 2 * POINTS] in -1…1."""
        x = self.look(self.patchify(images), condition)
        points = expected_places(self.heat(x), self.sharpness)
        for stage in self.stages:
            x = stage(x, condition)
        return x.flatten(2).transpose(1, 2), points


def expected_places(heat: Tensor, sharpness: Tensor) -> Tensor:
    """Where each heat map [B, K, H, W] is hot: [B, 2 K] in -1…1, columns first. In float32: coordinates are sums."""
    height, width = heat.shape[-2:]
    contrast = functional.layer_norm(heat.flatten(2).float(), (height * width,))
    share = (contrast * sharpness).softmax(-1).unflatten(2, (height, width))
    columns = share.sum(2) @ torch.linspace(-1, 1, width, device=heat.device)
    rows = share.sum(3) @ torch.linspace(-1, 1, height, device=heat.device)
    return torch.cat([columns, rows], dim=1)


def grid_positions(side: int, width: int) -> Tensor:
    """Where each patch is, [side * side, width]: half of the channels tell the row, half the column.

    Fixed sinusoids instead of a learned table, which a small model spends its first thousand steps on.
    """
    line = sinusoid(torch.arange(side) / side * 32, width // 2, longest=100.0)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def causal(words: Tensor, length: int) -> Tensor:
    """What each token may see, [B, 1, N, N]: itself and what came before, but no padding among the words [B, L]."""
    real = functional.pad(words, (0, length - words.shape[1]), value=True)
    before = torch.ones(length, length, dtype=torch.bool, device=words.device).tril()
    return (before & real[:, None] | torch.eye(length, dtype=torch.bool, device=words.device))[:, None]


def mlp(inputs: int, width: int) -> nn.Sequential:
    """Linear, GELU, linear."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))


def _check(config: SmallVLMConfig, tower: Tower | None) -> None:
    if config.language_depth < 1:
        raise ValueError(f"language_depth must be at least 1, got {config.language_depth}")
    if tower is not None and tower.side % config.merge:
        raise UnderstudyError(
            f"policy.backbone.merge={config.merge} must divide the {tower.side} x {tower.side} tokens of the "
            "representation: give another"
        )
    if tower is None and config.image_size % (config.patch_size * config.merge):
        raise ValueError(
            f"image_size {config.image_size} must be a multiple of patch_size * merge "
            f"= {config.patch_size * config.merge}"
        )


def merged(patches: Tensor, side: int) -> Tensor:
    """[B, n * n, C] → [B, (n / side)², C * side²]: neighbours joined in the channels (as in Qwen2-VL and SmolVLM)."""
    batch, count, channels = patches.shape
    grid = patches.view(batch, round(count**0.5) // side, side, -1, side, channels)
    return grid.transpose(2, 3).flatten(3).flatten(1, 2)


class SmallVLM(nn.Module):
    """Images, words and proprio → one cognition token. 0.6 M parameters at the ``cpu`` preset."""

    def __init__(
        self,
        config: SmallVLMConfig,
        *,
        cameras: Sequence[str],
        proprio_dim: int,
        tokenizer: Tokenizer,
        tower: Tower | None = None,
    ) -> None:
        super().__init__()
        _check(config, tower)
        self.config, self.cameras, self.tokenizer, self.tower = config, tuple(cameras), tokenizer, tower
        self.width = config.language_width
        side = config.image_size // config.patch_size if tower is None else tower.side
        self.word_condition = nn.Embedding(tokenizer.get_vocab_size(), config.vision_width)
        if tower is None:
            self.stem = ConvStem(config.vision_width, patch_size=config.patch_size, condition=config.vision_width)
            self.register_buffer("position", grid_positions(side, config.vision_width), persistent=False)
        self.camera = nn.Parameter(0.02 * torch.randn(len(self.cameras), 1, config.vision_width))
        depth = config.vision_depth if tower is None else 0
        self.vision = nn.ModuleList(TransformerBlock(config.vision_width, config.heads) for _ in range(depth))
        joined = config.vision_width * config.merge**2
        self.projector = nn.Sequential(nn.LayerNorm(joined), mlp(joined, self.width))
        self.keypoints = mlp(2 * ConvStem.POINTS, self.width)
        self.proprio = mlp(proprio_dim, self.width)
        self.cognition = nn.Parameter(0.02 * torch.randn(self.width))
        self.vision.apply(init_linear)
        self.words = nn.Embedding(tokenizer.get_vocab_size(), self.width)
        self.word_order = nn.Parameter(0.02 * torch.randn(config.max_words, self.width))
        others = len(self.cameras) * ((side // config.merge) ** 2 + 1) + 2
        self.order = nn.Parameter(0.02 * torch.randn(others, self.width))
        self.language = nn.ModuleList(TransformerBlock(self.width, config.heads) for _ in range(config.language_depth))
        self.language.apply(init_linear)
        self.norm = nn.LayerNorm(self.width)

    @property
    def about(self) -> Mapping[str, str] | None:
        """What it sees through: name, path and a hash of the weights, as they were before this training."""
        return None if self.tower is None else self.tower.about

    @property
    def static(self) -> bool:
        """Whether `vla.backbones.graph.Graph` can record it."""
        return self.tower is None

    def settle(self) -> None:
        """Nothing to do: it computes in the precision of its weights."""

    @property
    def strange_words(self) -> list[str]:
        """Words of the training instructions that the representation has never read."""
        return [] if self.tower is None else self.tower.strange

    def save(self, folder: Path) -> None:
        """Write what it is built again from, besides the weights."""
        self.tokenizer.save(str(folder / TOKENIZER))
        if self.tower is not None:
            self.tower.save(folder / FOLDER)

    def tokenize(self, instructions: Sequence[str]) -> Tensor:
        """Token ids [B, longest]; raises `UnderstudyError` for an instruction that is too long."""
        encoded = self.tokenizer.encode_batch(list(instructions))
        for instruction, encoding in zip(instructions, encoded, strict=True):
            words = sum(encoding.attention_mask)  # the others are padding
            if words > self.config.max_words:
                raise UnderstudyError(
                    f"instruction of {words} tokens, at most {self.config.max_words} fit: "
                    f"{instruction!r}; raise policy.backbone.max_words and train again"
                )
        return torch.tensor([encoding.ids for encoding in encoded])

    def unknown_words(self, instruction: str) -> list[str]:
        """Words of the instruction that were in no training instruction."""
        encoding = self.tokenizer.encode(instruction)
        return [
            instruction[a:b]
            for token, (a, b) in zip(encoding.tokens, encoding.offsets, strict=True)
            if token == UNKNOWN
        ]

    def forward(
        self, images: Mapping[str, Tensor], proprio: Tensor, text: Tensor, present: Tensor | None = None
    ) -> TokenGroup:
        """Camera → [B, H, W, 3] uint8, proprio [B, P] normalised, token ids [B, L] → the cognition token [B, 1, D].

        A camera that is false in ``present`` [B, cameras] bool is seen by no token.
        """
        mask = text != self.tokenizer.token_to_id(PAD)
        patches, points = self._see(images, self._words(text, mask), text)
        seen = torch.cat(
            [
                *(self.projector(merged(patch, self.config.merge)) for patch in patches),
                self.keypoints(points),
                self.proprio(proprio)[:, None],
                self.cognition.expand(len(text), 1, -1),
            ],
            dim=1,
        )
        x = torch.cat([self.words(text) + self.word_order[: text.shape[1]], seen + self.order], dim=1)
        visible = causal(mask if present is None else self._attended(mask, present), x.shape[1])
        for block in self.language[:-1]:
            x = block(x, visible)
        x = self.language[-1](x, visible, last=1)
        return TokenGroup(self.norm(x), torch.ones(len(text), 1, dtype=torch.bool, device=text.device))

    def _attended(self, words: Tensor, present: Tensor) -> Tensor:
        """Which places, words first, hold something [B, up to proprio]: not the patches and keypoints of no camera."""
        patches = present.repeat_interleave((len(self.order) - 2) // len(self.cameras) - 1, dim=1)
        return torch.cat([words, patches, present], dim=1)

    def _words(self, text: Tensor, mask: Tensor) -> Tensor:
        """The instruction as one vector [B, C] for FiLM: the mean of its words' embeddings."""
        weight = mask[..., None].float()
        return (self.word_condition(text) * weight).sum(1) / weight.sum(1)

    def _see(self, images: Mapping[str, Tensor], words: Tensor, text: Tensor) -> tuple[list[Tensor], Tensor]:
        """For each camera, in order: patch features [B, N, C]; and keypoints [B, cameras, 2 K]."""
        cameras = len(self.cameras)
        pictures, words = torch.cat([images[name] for name in self.cameras]), words.repeat(cameras, 1)
        if self.tower is None:
            x, points = self.stem(pictures.permute(0, 3, 1, 2).float() / 127.5 - 1, words)
            x = x + self.position
        else:
            x, points = self.tower(pictures, words, text.repeat(cameras, 1))
        x = x.unflatten(0, (cameras, -1)) + self.camera[:, None]
        x = x.flatten(0, 1)
        for block in self.vision:
            x = block(x)
        return list(x.unflatten(0, (cameras, -1))), points.unflatten(0, (cameras, -1)).transpose(0, 1)
