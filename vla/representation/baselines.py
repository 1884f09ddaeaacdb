"""The other ways to learn to see from video, on the same videos as Voltron, and frames of the same locked index.

| family | source | frames of a video |
|---|---|---|
| R3M | Nair et al. 2022 | five: near the start, three in order, near the end |
| TCN | Sermanet et al. 2018, in R3M's form, without words | the same five |
| VIP | Ma et al. 2023 | start, goal, a frame and the next one |
| TCC | Dwibedi et al. 2019; XIRL, Zakka et al. 2021 | `TCCConfig.frames`, evenly drawn |
| SigLIP | Zhai et al. 2023, on pairs of frames and captions | an early and a late one |
| autoencoder, forward model, temporal contrast | Misra et al. 2024 | a frame and one up to ``reach`` later |

All see through a `FrameEncoder`, the maximum over the patches and, where the paper has one, a linear layer. The papers
take the mean; on a table-top a hand fills a few patches of 64 and what it holds one, and the mean buries them: after
some 20,000 pairs SigLIP named the right one of 21 captions in 6 % of the videos with the mean, in 26 % with the
maximum.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla.errors import UnderstudyError
from vla.representation import objectives
from vla.representation.encoder import EncoderConfig, FrameEncoder
from vla.representation.language import Captions, LanguageConfig

Batch = Mapping[str, Tensor]


@dataclass
class ContrastConfig:
    """What learns from frames alone."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    negatives: int = 3
    """frames of other videos for each of this one"""
    norm_penalty: float = 1e-5
    """weight of the embedding's L1 and L2 norms"""


@dataclass
class R3MConfig(ContrastConfig):
    """Time contrast and a score of how far a caption's action has come."""

    language: LanguageConfig = field(default_factory=LanguageConfig)
    reward_width: int = 256
    """of the score's MLP; the paper has 1024"""
    reward_depth: int = 4


@dataclass
class VIPConfig(ContrastConfig):
    """Implicit value."""

    norm_penalty: float = 1e-3
    discount: float = 0.98
    dim: int = 128
    """of the embedding; the paper has 1024"""


@dataclass
class TCCConfig:
    """Temporal cycle consistency."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    dim: int = 32
    frames: int = 20
    """of each video in a batch; XIRL has 40"""
    temperature: float = 0.01
    """XIRL has 0.1, on an encoder that has seen ImageNet; from scratch that collapses to a constant"""


@dataclass
class SigLIPConfig:
    """Video and caption in one space."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    dim: int = 128


@dataclass
class LatentConfig:
    """The autoencoder, the forward model and temporal contrast of the principled-representation study."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    reach: int = 8
    """a later frame is at most so many frames away"""
    dim: int = 256
    codes: int = 512


class Embedder(nn.Module):
    """What the baselines share: an encoder, and one vector for each image."""

    def __init__(self, encoder: EncoderConfig) -> None:
        super().__init__()
        self.captions: Captions | None = None
        self.encoder = FrameEncoder(encoder)
        self.width = encoder.width

    def forward(self, batch: Batch) -> Tensor:
        """The training loss."""
        return self.losses(batch)["loss"]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and its parts, of ``images`` [B, F, H, W, 3] uint8 and what else the family asks for."""
        raise NotImplementedError

    def encode(self, images: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens of the patches [B, N, D] of images [B, H, W, 3]; these families read no words: [B, 0, D]."""
        tokens = self.encoder(images if images.ndim == 4 else images[:, -1])
        return tokens, tokens[:, :0]

    def embed(self, images: Tensor) -> Tensor:
        """One vector for each image, [B, E]."""
        return self.encoder(images).amax(1)

    def _embed_all(self, images: Tensor) -> Tensor:
        """[B, F, H, W, 3] → [B, F, E]."""
        return self.embed(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def other_videos(batch: int, count: int, *, device: torch.device | None = None) -> Tensor:
    """For each row of a batch ``count`` other rows, [B, count]."""
    if batch < 2:
        raise UnderstudyError("telling videos apart takes at least two in a batch; raise trainer.batch_size")
    count = min(count, batch - 1)
    offsets = 1 + torch.rand(batch, batch - 1, device=device).argsort(1)[:, :count]
    return (torch.arange(batch, device=device)[:, None] + offsets) % batch


def size_penalty(z: Tensor) -> Tensor:
    """L1 plus L2 norm of embeddings [..., E], the mean over them (R3M, VIP)."""
    z = z.float()
    return z.abs().sum(-1).mean() + z.square().sum(-1).clamp(min=1e-12).sqrt().mean()


class TCN(Embedder):
    """Time contrast over three frames of a video."""

    def __init__(self, config: ContrastConfig) -> None:
        super().__init__(config.encoder)
        self.config = config

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of quintets [B, 5, H, W, 3]."""
        z = self._embed_all(batch["images"][:, 1:4])
        near = objectives.time_contrast(z, other_videos(len(z), self.config.negatives, device=z.device))
        return {"loss": near + self.config.norm_penalty * size_penalty(z), "time_contrast": near}


class R3M(Embedder):
    """Time contrast, and a caption's progress scored from the first and a later frame.

    Unlike the released code, the score's MLP is given the change from the first frame instead of the later frame, both
    normalised: the same information, but from scratch the change is a hundredth of the picture and would not be seen.
    The score is a log-odds without a sigmoid.
    """

    def __init__(self, config: R3MConfig, *, captions: Captions) -> None:
        super().__init__(config.encoder)
        self.config, self.captions = config, captions
        sizes = [2 * self.width + captions.width, *[config.reward_width] * config.reward_depth]
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.reward = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))
        self.norm_first, self.norm_change = nn.LayerNorm(self.width), nn.LayerNorm(self.width)
        for layer in hidden[::2]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of quintets [B, 5, H, W, 3] and ``text`` [B, L]."""
        z = self._embed_all(batch["images"])
        others = other_videos(len(z), self.config.negatives, device=z.device)
        near = objectives.time_contrast(z[:, 1:4], others)
        first, *middle, last = z.unbind(1)
        words = self.captions.sentence(batch["text"])
        more = [last, middle[1], middle[2]]
        less = [first, middle[0], middle[1]]
        right = torch.stack([self.progress(first, later, words) for later in more], 1)
        wrong = torch.stack([self._wrong(first, a, b, words, others) for a, b in zip(less, more, strict=True)], 1)
        told = self.captions.mask(batch["text"]).sum(1) > 1
        language = objectives.progress_ranking(right, wrong, told.float())
        loss = near + language + self.config.norm_penalty * size_penalty(z)
        return {"loss": loss, "time_contrast": near, "language": language}

    def progress(self, first: Tensor, later: Tensor, words: Tensor) -> Tensor:
        """How far the action of ``words`` [..., W] has come from ``first`` to ``later``, both [..., D]: log-odds."""
        change = self.norm_change(later - first)
        return self.reward(torch.cat([self.norm_first(first), change, words], -1)).squeeze(-1)

    def score(self, images: Tensor, captions: Tensor) -> Tensor:
        """How far each of ``captions`` [S, L] has come in ``images`` [B, 2, H, W, 3], first and later: [B, S]."""
        first, later = self._embed_all(images)[:, :, None].expand(-1, -1, len(captions), -1).unbind(1)
        return self.progress(first, later, self.captions.sentence(captions).expand(len(images), -1, -1))

    def _wrong(self, first: Tensor, less: Tensor, more: Tensor, words: Tensor, others: Tensor) -> Tensor:
        """Scores [B, 1 + K] that have to lose: an earlier frame, and other videos' frames."""
        count = others.shape[1]
        strange = self.progress(first[others], more[others], words[:, None].expand(-1, count, -1))
        return torch.cat([self.progress(first, less, words)[:, None], strange], 1)


class VIP(Embedder):
    """Implicit value of a goal picture."""

    def __init__(self, config: VIPConfig) -> None:
        super().__init__(config.encoder)
        self.config = config
        self.head = nn.Linear(self.width, config.dim)

    def embed(self, images: Tensor) -> Tensor:
        """One vector for each image, [B, dim]."""
        return self.head(super().embed(images))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of spans [B, 4, H, W, 3]."""
        z = self._embed_all(batch["images"]).float()
        others = other_videos(len(z), self.config.negatives, device=z.device)
        value = objectives.implicit_value(z, others, discount=self.config.discount)
        return {"loss": value + self.config.norm_penalty * size_penalty(z), "value": value}


class TCC(Embedder):
    """Frames of all videos on one clock, wherever that clock stands."""

    def __init__(self, config: TCCConfig) -> None:
        super().__init__(config.encoder)
        self.config = config
        # without the norm all distances begin near 0, every frame is every other's neighbour, and nothing is learned
        self.head = nn.Sequential(nn.LayerNorm(self.width), nn.Linear(self.width, config.dim))

    def embed(self, images: Tensor) -> Tensor:
        """One vector for each image, [B, dim]."""
        return self.head(super().embed(images))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of ``images`` [V, T, H, W, 3] and their ``times`` [V, T] in 0…1."""
        z = self._embed_all(batch["images"]).float()
        cycle = objectives.cycle_back(z, batch["times"], temperature=self.config.temperature)
        return {"loss": cycle, "cycle": cycle}


class SigLIP(Embedder):
    """What changed between two frames, beside what was said of it."""

    def __init__(self, config: SigLIPConfig, *, captions: Captions) -> None:
        super().__init__(config.encoder)
        self.config, self.captions = config, captions
        self.compare = nn.Sequential(nn.LayerNorm(2 * self.width), nn.Linear(2 * self.width, self.width), nn.GELU())
        self.head = nn.Linear(self.width, config.dim)
        self.words = nn.Sequential(nn.Linear(captions.width, self.width), nn.GELU(), nn.Linear(self.width, config.dim))
        self.norm = nn.LayerNorm(self.width)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of pairs [B, 2, H, W, 3] and ``text`` [B, L]; equal captions are right for each other's videos."""
        told = self.captions.mask(batch["text"]).sum(1) > 1
        images, text = batch["images"], batch["text"]
        if told.any():  # a video that nobody described is nobody's match
            images, text = images[told], text[told]
        video, words = self.embed_video(images), self.embed_text(text)
        same = (text[:, None] == text[None]).all(-1) & told.any()
        pairs = {"scale": self.log_scale.exp(), "bias": self.bias}
        loss = objectives.pairwise_sigmoid(video, words, same=same, **pairs)
        return {"loss": loss, "pairs": loss}

    def score(self, images: Tensor, captions: Tensor) -> Tensor:
        """Logit of each of ``captions`` [S, L] for ``images`` [B, 2, H, W, 3]: [B, S]."""
        return self.embed_video(images) @ self.embed_text(captions).T * self.log_scale.exp() + self.bias

    def embed_video(self, images: Tensor) -> Tensor:
        """[B, 2, H, W, 3] → unit vectors [B, dim]: patch by patch the later frame beside the first, then pooled."""
        first, later = self.encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2]).unbind(1)
        changes = self.compare(torch.cat([later, later - first], dim=-1))
        return functional.normalize(self.head(self.norm(changes.amax(1))).float(), dim=-1)

    def embed_text(self, text: Tensor) -> Tensor:
        """[B, L] → unit vectors [B, dim]."""
        return functional.normalize(self.words(self.captions.sentence(text)).float(), dim=-1)


class Latent(Embedder):
    """An embedding of its own below the maximum over the patches."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config.encoder)
        self.config = config
        self.head = nn.Linear(self.width, config.dim)

    def embed(self, images: Tensor) -> Tensor:
        """One vector for each image, [B, dim]."""
        return self.head(super().embed(images))


class TemporalContrast(Latent):
    """Two frames of one video are each other's partner among all of the batch."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of pairs [B, 2, H, W, 3]."""
        z = self._embed_all(batch["images"])
        loss = objectives.info_nce(z[:, 0], z[:, 1])
        return {"loss": loss, "contrast": loss}


class PixelDecoder(nn.Module):
    """A vector back to a picture: a small map, upsampled by transposed convolutions."""

    def __init__(self, dim: int, *, image_size: int) -> None:
        super().__init__()
        if image_size % 16:
            raise UnderstudyError(f"drawing pictures needs encoder.image_size to be a multiple of 16, got {image_size}")
        self.side = image_size // 16
        self.start = nn.Linear(dim, 128 * self.side**2)
        channels = [128, 64, 32, 32]
        layers = [
            layer
            for a, b in pairwise(channels)
            for layer in (nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), nn.GroupNorm(4, b), nn.ReLU())
        ]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """[B, E] → [B, H, W, 3] in -1…1."""
        start = self.start(z).view(len(z), 128, self.side, self.side)
        return self.layers(start).permute(0, 2, 3, 1)


class Autoencoder(Latent):
    """A quantised vector that has to give the same picture back."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config)
        self.codes = nn.Parameter(torch.randn(config.codes, config.dim) * config.dim**-0.5)
        self.decoder = PixelDecoder(config.dim, image_size=config.encoder.image_size)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of pairs [B, 2, H, W, 3], of which the first is used."""
        return self._picture_loss(self.embed(batch["images"][:, 0]), batch["images"][:, 0])

    def _picture_loss(self, z: Tensor, picture: Tensor, hint: Tensor | float = 0.0) -> dict[str, Tensor]:
        code, cost = objectives.quantized(z.float(), self.codes)
        pixels = (self.decoder(code + hint).float() - (picture.float() / 127.5 - 1)).square().mean()
        return {"loss": pixels + cost, "pixels": pixels}


class ForwardModel(Autoencoder):
    """A quantised vector that, told how many frames later, has to give that later picture."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config)
        self.later = nn.Embedding(config.reach + 1, config.dim)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of pairs [B, 2, H, W, 3] that lie ``gap`` [B] frames apart."""
        return self._picture_loss(self.embed(batch["images"][:, 0]), batch["images"][:, 1], self.later(batch["gap"]))
