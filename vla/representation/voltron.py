"""Voltron (Karamcheti et al. 2023): masked autoencoding of frames, conditioned on or asked to say the caption.

- V-Cond: one frame, a quarter of its patches and the caption in, the other patches out;
- V-Dual: the same for an early and a later frame of one video, masked alike, both reconstructed;
- V-Gen: V-Dual in which, for a share α of the examples, the caption is hidden from the encoder and written by the
  decoder instead;
- MVP (Xiao et al. 2022): V-Cond without words, plain masked autoencoding.

The tokens, for two frames (encoder above, V-Gen's decoder below; ▒ stands for a patch that was masked):

    [ kept patches 0 | kept patches k | [CLS] words [SEP] ]
    [ patches 0, ▒   | patches k, ▒   | [CLS] words [SEP] ]   words see all patches and earlier words, patches no words
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vla.backbones.transformer import init_linear
from vla.representation import objectives
from vla.representation.encoder import (
    Block,
    EncoderConfig,
    RMSNorm,
    VisionTransformer,
    normalized,
    patch_positions,
    patchify,
    take,
)
from vla.representation.language import Captions, LanguageConfig

Batch = Mapping[str, Tensor]


@dataclass
class MaskedConfig:
    """Masked autoencoding."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    mask_ratio: float = 0.75
    """share of the patches that the encoder does not see"""

    def __post_init__(self) -> None:
        if self.encoder.kind != "vit":
            raise ValueError("masked autoencoding needs encoder.kind=vit: a ResNet cannot leave patches out")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie strictly between 0 and 1, got {self.mask_ratio}")


@dataclass
class GenerationConfig(MaskedConfig):
    """Masked autoencoding and captioning."""

    gen_ratio: float = 0.5
    """α: share of the examples whose caption is written, not read"""
    lm_weight: float = 0.5


def decoder_sizes(encoder: EncoderConfig) -> EncoderConfig:
    """Half the encoder's depth and width with as many heads; for a ViT-B MAE's own, 8 blocks of 512 and 16 heads."""
    depth, width, heads = encoder.depth // 2, encoder.width // 2, encoder.heads
    if encoder.width == 768:
        depth, width, heads = 8, 512, 16
    return EncoderConfig("vit", encoder.image_size, encoder.patch_size, width, max(1, depth), heads)


class Decoder(nn.Module):
    """From the kept patches' tokens to the pixels of the masked ones; V-Gen's also continues a caption."""

    def __init__(self, config: EncoderConfig, *, encoder_width: int, frames: int, captions: Captions | None) -> None:
        super().__init__()
        width = config.width
        self.config, self.frames = config, frames
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.register_buffer("position", patch_positions(config, width), persistent=False)
        self.context = nn.Parameter(torch.randn(frames, 1, width)) if frames > 1 else None
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = RMSNorm(width)
        self.pixels = nn.Linear(width, 3 * config.patch_size**2)
        self.words = nn.Linear(captions.width, width) if captions else None
        self.vocabulary = nn.Linear(width, captions.vocabulary) if captions else None
        self.apply(init_linear)

    def forward(
        self, tokens: Tensor, keep: Tensor, masked: Tensor, words: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, F * K, D] of the patches ``keep`` [B, K] → pixels [B, F * M, P] of the ``masked`` [B, M].

        ``words`` [B, L, W]: the caption to be continued; the second answer is then its logits [B, L, V].
        """
        batch, patches = len(tokens), self.config.tokens
        full = self.mask_token.to(tokens.dtype).expand(batch, self.frames * patches, -1)
        offsets = patches * torch.arange(self.frames, device=keep.device)[None, :, None]
        known, asked = (keep[:, None] + offsets).flatten(1), (masked[:, None] + offsets).flatten(1)
        embedded = self.embed(tokens)
        x = full.to(embedded.dtype).scatter(1, known[..., None].expand(-1, -1, full.shape[-1]), embedded)
        place = self.position if self.context is None else (self.position + self.context).flatten(0, 1)
        x, visible = x + place, None
        if words is not None:
            x = torch.cat([x, self.words(words)], dim=1)
            visible = prefix_mask(self.frames * patches, x.shape[1], device=x.device)
        for block in self.blocks:
            x = block(x, visible)
        seen = self.frames * patches
        predicted = self.pixels(self.norm(take(x, asked)))
        return predicted, None if words is None else self.vocabulary(self.norm(x[:, seen:]))


class Reconstruction(NamedTuple):
    """``error`` [B] of each example, the patches ``keep`` [B, K] that were seen, and the caption's logits, if asked."""

    error: Tensor
    keep: Tensor
    logits: Tensor | None


def prefix_mask(prefix: int, length: int, *, device: torch.device | None = None) -> Tensor:
    """What each token may see, [1, 1, N, N]: the first ``prefix`` all see each other, a later one all before it."""
    visible = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    visible[:, :prefix] = True
    return visible[None, None]


class MaskedAutoencoder(nn.Module):
    """V-Cond (``frames=1``), V-Dual (2) and, without ``captions``, MVP."""

    def __init__(self, config: MaskedConfig, *, frames: int, captions: Captions | None) -> None:
        super().__init__()
        self.config, self.frames, self.captions = config, frames, captions
        width = captions.width if captions else 0
        self.encoder = VisionTransformer(config.encoder, frames=frames, language_width=width)
        self.decoder = self._make_decoder()

    def _make_decoder(self) -> Decoder:
        sizes = decoder_sizes(self.config.encoder)
        return Decoder(sizes, encoder_width=self.config.encoder.width, frames=self.frames, captions=None)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.config.encoder.width

    def forward(self, batch: Batch) -> Tensor:
        """The training loss."""
        return self.losses(batch)["loss"]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and its parts, of ``images`` [B, F, H, W, 3] uint8 and, with captions, ``text`` [B, L] ids."""
        error = self.reconstruct(batch, batch.get("text")).error.mean()
        return {"loss": error, "reconstruction": error}

    def encode(self, images: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens of the last frame's patches [B, N, D] and of the words [B, L, D].

        ``images`` [B, F, H, W, 3] uint8; one frame [B, H, W, 3] stands for all of them, as the paper uses it. Without
        ``text`` a model that reads words gets ``[CLS]`` alone.
        """
        if images.ndim == 4:
            images = images[:, None].expand(-1, self.frames, -1, -1, -1)
        patches = patchify(images, self.config.encoder.patch_size)
        tokens, words = self.encoder(patches, *self._words(text, len(images), images.device))
        return tokens[:, -self.config.encoder.tokens :], words

    def embed(self, images: Tensor) -> Tensor:
        """One vector for each image [B, D]: the mean of its patches' tokens."""
        return self.encode(images, None)[0].mean(1)

    def _words(self, text: Tensor | None, batch: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        if self.captions is None:
            return None, None
        if text is None:
            text = torch.full((batch, 1), self.captions.cls, device=device)
        return self.captions.contextual(text), self.captions.mask(text)

    def reconstruct(self, batch: Batch, text: Tensor | None, words: Tensor | None = None) -> Reconstruction:
        """Mask, encode, decode; ``words``: a caption for the decoder to continue."""
        config = self.config.encoder
        patches = patchify(batch["images"], config.patch_size)
        keep, masked = random_masks(len(patches), config.tokens, self.config.mask_ratio, device=patches.device)
        tokens, _ = self.encoder(patches, *self._words(text, len(patches), patches.device), keep=keep)
        predicted, logits = self.decoder(tokens, keep, masked, words)
        chosen = masked[:, None, :, None].expand(-1, self.frames, -1, patches.shape[-1])
        target = normalized(patches.gather(2, chosen)).flatten(1, 2)
        return Reconstruction(objectives.reconstruction(predicted, target), keep, logits)


def random_masks(
    batch: int, patches: int, ratio: float, *, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Which patches are kept [B, K] and which masked [B, M], K = int(N (1 - ratio)); the same for all frames."""
    order = torch.rand(batch, patches, device=device).argsort(dim=1)
    kept = int(patches * (1 - ratio))
    return order[:, :kept], order[:, kept:]


@dataclass
class PoseAwareConfig(MaskedConfig):
    """Masked autoencoding and PAAT's auxiliary head."""

    joints: int = 21
    pose_weight: float = 1.0


class PoseAwareAutoencoder(MaskedAutoencoder):
    """V-Cond with PAAT's head (Reilly & Das 2023): which joints lie in a patch, told after the first block.

    Labels are needed to train, none to use: keypoints of a simulated hand, or of a hand tracker.
    """

    config: PoseAwareConfig

    def __init__(self, config: PoseAwareConfig, *, frames: int, captions: Captions | None) -> None:
        super().__init__(config, frames=frames, captions=captions)
        self.pose = nn.Sequential(nn.Linear(self.width, self.width // 3), nn.Linear(self.width // 3, config.joints))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``reconstruction`` and ``pose``; ``joints`` [B, J, 2]: pixels (x, y), NaN where not seen."""
        early: list[Tensor] = []
        hook = self.encoder.blocks[0].register_forward_hook(lambda _module, _inputs, output: early.append(output))
        try:
            made = self.reconstruct(batch, batch.get("text"))
        finally:
            hook.remove()
        sizes = {"image_size": self.config.encoder.image_size, "patch_size": self.config.encoder.patch_size}
        present = take(objectives.joints_to_patches(batch["joints"], **sizes).float(), made.keep)
        pose = objectives.joint_in_patch(self.pose(early[0][:, : made.keep.shape[1]]), present)
        error = made.error.mean()
        return {"loss": error + self.config.pose_weight * pose, "reconstruction": error, "pose": pose}


class CaptioningAutoencoder(MaskedAutoencoder):
    """V-Gen: reconstructs both frames, and writes the caption where the encoder did not see it."""

    config: GenerationConfig

    def _make_decoder(self) -> Decoder:
        sizes = decoder_sizes(self.config.encoder)
        return Decoder(sizes, encoder_width=self.config.encoder.width, frames=self.frames, captions=self.captions)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``reconstruction`` and ``caption``, the mean over the examples that had to write theirs."""
        text = batch["text"]
        writes = torch.rand(len(text), device=text.device) < self.config.gen_ratio
        read = self.captions.blank(text, writes)
        made = self.reconstruct(batch, read, self.captions.lexical(text))
        said = objectives.caption_nll(made.logits, text, self.captions.mask(text), pad=self.captions.pad)
        writes = writes & (self.captions.mask(text).sum(1) > 1)  # nobody learns to say nothing
        caption = (said * writes).sum() / writes.sum().clamp(min=1)
        error = made.error.mean()
        return {"loss": error + self.config.lm_weight * caption, "reconstruction": error, "caption": caption}

    def score(self, images: Tensor, captions: Tensor) -> Tensor:
        """How well each of ``captions`` [S, L] tells what happens in ``images`` [B, 2, H, W, 3]: [B, S], ≤ 0.

        The negative `caption_nll` with nothing said to the encoder and no patch masked; the paper's intent score.
        """
        batch, sentences = len(images), len(captions)
        patches = patchify(images, self.config.encoder.patch_size)
        tokens, _ = self.encoder(patches, *self._words(None, batch, images.device))
        every = torch.arange(self.config.encoder.tokens, device=images.device).expand(batch * sentences, -1)
        text = captions.repeat(batch, 1)
        _, logits = self.decoder(
            tokens.repeat_interleave(sentences, 0), every, every[:, :0], self.captions.lexical(text)
        )
        return -objectives.caption_nll(logits, text, self.captions.mask(text), pad=self.captions.pad).view(
            batch, sentences
        )
