"""A vision-language model that trains from scratch on a laptop.

The order of the tokens that the causal language model reads, for two cameras:

    [ bos  words … pad | camera 1: patches | camera 2: patches | proprio | COGNITION ]

Words come first, so that under the causal mask every patch already knows what is asked; the last layer's hidden
state at COGNITION, a learned embedding, is the one token that the action head sees (CogACT, §3.2).

Each camera is read by a ViT whose patch embedding is a stack of strided convolutions (Xiao et al. 2021, "Early
convolutions help transformers see better": fewer steps to train from scratch). The words modulate that stem by FiLM
(as OpenVLA-OFT's FiLM does in its vision encoder): without it a small model needs several times the data to bind
the words to the objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaModel

from vla.backbones.backbone import TokenGroup
from vla.backbones.transformer import TransformerBlock, init_linear
from vla.errors import UnderstudyError

PAD, UNKNOWN, START = "[pad]", "[unk]", "[bos]"


@dataclass
class SmallVLMConfig:
    """Sizes of the small vision-language model."""

    image_size: int = 64
    """pixels a side of every camera's image"""
    patch_size: int = 8
    """pixels a side of a patch; a power of two"""
    vision_width: int = 128
    vision_depth: int = 3
    language_width: int = 192
    language_depth: int = 3
    heads: int = 4
    max_words: int = 16
    """longest instruction, in tokens"""


def build_tokenizer(instructions: Sequence[str], *, max_words: int) -> Tokenizer:
    """A lower-cased word-level tokenizer over the words of the training instructions."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=[PAD, UNKNOWN, START])
    tokenizer.train_from_iterator(sorted(set(instructions)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.token_to_id(START))]
    )
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD), pad_token=PAD, length=max_words)
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


class ConvStem(nn.Module):
    """Strided 3x3 convolutions down to one feature vector per patch, each modulated by the words."""

    def __init__(self, width: int, *, patch_size: int, condition: int) -> None:
        super().__init__()
        stages = patch_size.bit_length() - 1
        if 2**stages != patch_size:
            raise ValueError(f"patch_size must be a power of two, got {patch_size}")
        channels = [3, *(max(24, width >> (stages - 1 - stage)) for stage in range(stages))]
        pairs = list(pairwise(channels))
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(4, o) for _, o in pairs)
        self.films = nn.ModuleList(FiLM(condition, o) for _, o in pairs)
        self.activation = nn.SiLU()

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """[B, 3, H, W] in -1…1 → [B, H/patch * W/patch, width]."""
        x = images
        for convolution, norm, film in zip(self.convolutions, self.norms, self.films, strict=True):
            x = self.activation(film(norm(convolution(x)), condition))
        return x.flatten(2).transpose(1, 2)


class SmallVLM(nn.Module):
    """Images, words and proprio → one cognition token. Parameters: 1.9 M at the ``cpu`` preset."""

    def __init__(
        self, config: SmallVLMConfig, *, cameras: Sequence[str], proprio_dim: int, tokenizer: Tokenizer
    ) -> None:
        super().__init__()
        self.config, self.cameras, self.tokenizer = config, tuple(cameras), tokenizer
        self.width = config.language_width
        patches = (config.image_size // config.patch_size) ** 2
        self.word_condition = nn.Embedding(tokenizer.get_vocab_size(), config.vision_width)
        self.stem = ConvStem(config.vision_width, patch_size=config.patch_size, condition=config.vision_width)
        self.position = nn.Parameter(0.02 * torch.randn(len(self.cameras), patches, config.vision_width))
        self.vision = nn.ModuleList(
            TransformerBlock(config.vision_width, config.heads) for _ in range(config.vision_depth)
        )
        self.projector = nn.Sequential(
            nn.LayerNorm(config.vision_width),
            nn.Linear(config.vision_width, self.width),
            nn.GELU(),
            nn.Linear(self.width, self.width),
        )
        self.proprio = nn.Linear(proprio_dim, self.width)
        self.cognition = nn.Parameter(0.02 * torch.randn(self.width))
        self.vision.apply(init_linear)
        self.language = LlamaModel(
            LlamaConfig(
                vocab_size=tokenizer.get_vocab_size(),
                hidden_size=self.width,
                intermediate_size=int(self.width * 8 / 3),
                num_hidden_layers=config.language_depth,
                num_attention_heads=config.heads,
                max_position_embeddings=1024,
                attn_implementation="sdpa",
                use_cache=False,
            )
        )

    def tokenize(self, instructions: Sequence[str]) -> Tensor:
        """Token ids [B, max_words]; raises `UnderstudyError` for an instruction that is too long."""
        encoded = self.tokenizer.encode_batch(list(instructions))
        for instruction, encoding in zip(instructions, encoded, strict=True):
            if len(encoding.ids) > self.config.max_words:
                raise UnderstudyError(
                    f"instruction of {sum(encoding.attention_mask)} tokens, at most {self.config.max_words} fit: "
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

    def forward(self, images: Mapping[str, Tensor], proprio: Tensor, text: Tensor) -> TokenGroup:
        """Camera → [B, H, W, 3] uint8, proprio [B, P] normalised, token ids [B, L] → the cognition token [B, 1, D]."""
        mask = text != self.tokenizer.token_to_id(PAD)
        patches = self._see(images, self._words(text, mask))
        batch = len(text)
        sequence = torch.cat(
            [
                self.language.embed_tokens(text),
                *(self.projector(patch) for patch in patches),
                self.proprio(proprio)[:, None],
                self.cognition.expand(batch, 1, -1),
            ],
            dim=1,
        )
        attended = torch.ones(sequence.shape[:2], dtype=torch.bool, device=text.device)
        attended[:, : text.shape[1]] = mask
        hidden = self.language(inputs_embeds=sequence, attention_mask=attended.long()).last_hidden_state
        return TokenGroup(hidden[:, -1:], torch.ones(batch, 1, dtype=torch.bool, device=text.device))

    def _words(self, text: Tensor, mask: Tensor) -> Tensor:
        """The instruction as one vector [B, C] for FiLM: the mean of its words' embeddings."""
        weight = mask[..., None].float()
        return (self.word_condition(text) * weight).sum(1) / weight.sum(1)

    def _see(self, images: Mapping[str, Tensor], words: Tensor) -> list[Tensor]:
        """Patch features [B, N, C] for each camera, in the order of ``self.cameras``."""
        stacked = torch.cat([images[name] for name in self.cameras])
        pixels = stacked.permute(0, 3, 1, 2).float() / 127.5 - 1
        x = self.stem(pixels, words.repeat(len(self.cameras), 1))
        x = x.unflatten(0, (len(self.cameras), -1)) + self.position[:, None]
        x = x.flatten(0, 1)
        for block in self.vision:
            x = block(x)
        return list(x.unflatten(0, (len(self.cameras), -1)))
