"""Encoders: a picture in, one token for each patch out.

`VisionTransformer` is Voltron's (Karamcheti et al. 2023, §III and its released code): pre-norm blocks with RMSNorm,
SwishGLU and LayerScale, fixed sine positions, and words that stand in the same sequence as the patches:

    [ kept patches of frame 0 | kept patches of frame k | words ]

`ResNet` is what R3M, VIP and XIRL sit on, at the same stride and width, so that both give the same tokens.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla.backbones.small import grid_positions
from vla.backbones.transformer import attention, init_linear

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, in 0…1: what every encoder's input is normalised with."""


@dataclass
class EncoderConfig:
    """Which encoder, and its sizes."""

    kind: Literal["vit", "resnet"] = "vit"
    image_size: int = 64
    """pixels a side"""
    patch_size: int = 8
    """pixels a side of what becomes one token"""
    width: int = 192
    depth: int = 6
    """blocks of the transformer; residual blocks of the ResNet at full width"""
    heads: int = 3
    """attention heads; the ResNet has none"""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of 4 and of heads {self.heads}")
        if self.kind == "resnet" and (self.width < 32 or self.width % 16 or self.patch_size not in (4, 8, 16, 32)):
            raise ValueError(f"a ResNet needs a width of 32, 48, 64, … and a patch_size of 4, 8, 16 or 32, got {self}")

    @property
    def tokens(self) -> int:
        """Patches of one frame."""
        return (self.image_size // self.patch_size) ** 2


class RMSNorm(nn.Module):
    """``x / (|x| d^-0.5) * g`` (Zhang & Sennrich 2019)."""

    def __init__(self, dim: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps, self.g = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] → [..., D]."""
        return functional.rms_norm(x.float(), self.g.shape, self.g, self.eps**2)


class SwishGLU(nn.Module):
    """The first half of a linear layer, times SiLU of its second half (Shazeer 2020); then a linear layer back.

    Voltron keeps ``hidden = 4 dim`` where others take two thirds of it, so its ViT-S has 28.4 M parameters.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.project, self.back = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] → [..., D]."""
        value, gate = self.project(x).chunk(2, dim=-1)
        return self.back(value * functional.silu(gate))


class Block(nn.Module):
    """``x + γ attention(norm(x))``, then ``x + γ mlp(norm(x))``, γ learned from 0.1 on (Touvron et al. 2021)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = RMSNorm(width), RMSNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = SwishGLU(width, 4 * width)
        self.scale_attention = nn.Parameter(torch.full((width,), 0.1))
        self.scale_mlp = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """[B, N, D] → [B, N, D]; ``visible`` [B or 1, 1, N or 1, N] bool: the keys (last) that each query may see."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = attention(query, key, value, visible).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.scale_attention * self.project(attended)
        return x + self.scale_mlp * self.mlp(self.norm_mlp(x))


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[..., H, W, 3] → [..., N, P * P * 3]: patches row by row, each one's pixels row by row, channels last."""
    *lead, height, width, channels = images.shape
    grid = images.reshape(-1, height // patch_size, patch_size, width // patch_size, patch_size, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(*lead, -1, patch_size * patch_size * channels)


def normalized(patches: Tensor) -> Tensor:
    """Patches [..., P * P * 3] of uint8 colours, channels last → float32 with ImageNet's mean and deviation."""
    repeats = patches.shape[-1] // 3
    mean = patches.new_tensor(MEAN, dtype=torch.float32).repeat(repeats) * 255
    scale = 1 / (patches.new_tensor(STD, dtype=torch.float32).repeat(repeats) * 255)
    return (patches.float() - mean) * scale


def take(tokens: Tensor, which: Tensor) -> Tensor:
    """``tokens`` [B, N, D], ``which`` [B, K] → [B, K, D]."""
    return tokens.gather(1, which[..., None].expand(-1, -1, tokens.shape[-1]))


class VisionTransformer(nn.Module):
    """Voltron's encoder over one or two frames and, with ``language_width`` above 0, words.

    ``frames``: 1, or 2 with a learned context embedding that tells the frames apart.
    """

    def __init__(self, config: EncoderConfig, *, frames: int = 1, language_width: int = 0) -> None:
        super().__init__()
        self.config, self.frames = config, frames
        width = config.width
        self.embed = nn.Linear(3 * config.patch_size**2, width)
        self.register_buffer("position", patch_positions(config, width), persistent=False)
        self.image_token = nn.Parameter(0.02 * torch.randn(width))
        self.context = nn.Parameter(torch.randn(frames, 1, width)) if frames > 1 else None
        self.language = nn.Linear(language_width, width) if language_width else None
        self.word_token = nn.Parameter(0.02 * torch.randn(width)) if language_width else None
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = RMSNorm(width)
        self.apply(init_linear)

    def forward(
        self, patches: Tensor, words: Tensor | None = None, mask: Tensor | None = None, *, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Patches [B, F, N, P * P * 3] uint8, of each frame the same ``keep`` [B, K] (all when ``None``).

        ``words`` [B, L, language_width] and their ``mask`` [B, L], true where a word is real: what is padding is no
        key for anybody. Returns the tokens of the patches [B, F * K, D] and of the words [B, L, D] (L may be 0).
        """
        frames = patches.shape[1]
        if keep is not None:
            chosen = keep[:, None, :, None].expand(-1, frames, -1, patches.shape[-1])
            patches = patches.gather(2, chosen)
        position = self.position if keep is None else self.position[keep][:, None]
        x = self.embed(normalized(patches)) + (position + self.image_token)
        if self.context is not None:
            x = x + self.context
        x = x.flatten(1, 2)
        seen, visible = x.shape[1], None
        if words is not None:
            x = torch.cat([x, self.language(words) + self.word_token], dim=1)
            visible = functional.pad(mask, (seen, 0), value=True)[:, None, None]
        for block in self.blocks:
            x = block(x, visible)
        x = self.norm(x)
        return x[:, :seen], x[:, seen:]


def patch_positions(config: EncoderConfig, width: int) -> Tensor:
    """Fixed two-dimensional sines for one frame's patches, [N, width]."""
    return grid_positions(config.image_size // config.patch_size, width)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm, around a shortcut (He et al. 2016, in its pre-activation order)."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels_in), nn.GroupNorm(4, channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H / stride, W / stride]."""
        y = self.conv1(functional.relu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(functional.relu(self.norm2(y)))


class ResNet(nn.Module):
    """A residual network whose map has one cell for each patch: the convolutional encoder of R3M, VIP and XIRL."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        doublings = config.patch_size.bit_length() - 2
        channels = [max(32, config.width >> (doublings - number)) for number in range(doublings + 1)]
        self.stem = nn.Conv2d(3, channels[0], 5, stride=2, padding=2)
        down = [ResidualBlock(a, b, stride=2) for a, b in pairwise(channels)]
        on = [ResidualBlock(config.width, config.width, stride=1) for _ in range(config.depth)]
        self.blocks = nn.Sequential(*down, *on)
        self.norm = nn.GroupNorm(4, config.width)

    def forward(self, images: Tensor) -> Tensor:
        """[B, H, W, 3] uint8 → [B, N, D], row by row."""
        x = normalized(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return functional.relu(self.norm(self.blocks(self.stem(x)))).flatten(2).transpose(1, 2)


class FrameEncoder(nn.Module):
    """One frame in, its tokens out, by either kind of encoder, without words: what the baselines train."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = VisionTransformer(config) if config.kind == "vit" else ResNet(config)

    def forward(self, images: Tensor) -> Tensor:
        """[B, H, W, 3] uint8 → [B, N, D]."""
        if isinstance(self.network, ResNet):
            return self.network(images)
        return self.network(patchify(images, self.config.patch_size)[:, None])[0]
