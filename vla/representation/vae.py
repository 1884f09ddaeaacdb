"""A small variational autoencoder for latent video models, trained from scratch on film: a `PatchAutoencoder`.

Without the discriminator and the perceptual loss of Rombach et al. 2022 (§3.1, appendix G), for which one needs weights
of others: squared error of the pixels (the absolute one forgets what is small), and a little of the divergence from a
standard normal. Latents are what the mean says, divided by their own deviation, which training keeps count of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vla.errors import UnderstudyError
from vla.representation.encoder import EncoderConfig

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    from vla.representation.patch_autoencoder import PatchAutoencoder

SLOWLY = 0.01
"""How quickly the count of the deviation follows."""
BATCHES_TO_BEGIN = 24


@dataclass
class VAEConfig:
    """Sizes, and what is weighed how."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """``patch_size``: pixels a side of a latent place; ``width``: channels where the map is smallest, half as many one
    level above; ``depth``: residual blocks at each level; the rest says nothing"""
    folded: int = 4
    """pixels a side that are channels before the first convolution, so that none works at full resolution"""
    least_width: int = 64
    """channels of the largest map"""
    channels: int = 128
    """numbers of a latent place"""
    least_deviation: float = 0.05
    """of a principal component that is scaled to 1, in a patch of -1…1; finer ones are scaled alike. At 1 or 2 what is
    seen least weighs least, so that a video model spends itself on what is seen"""
    divergence: float = 1e-5
    """weight of the divergence, for each number"""


class VAE(nn.Module):
    """What `vla pretrain` trains; keeps what `vla.representation.load.Representation` asks of a model."""

    deviation: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.captions = None
        self.config, self.width = config, config.channels
        self.encoder = _network(config)
        self.register_buffer("deviation", torch.ones(()))

    def begin(self, batches: Callable[[int], Mapping[str, Tensor]]) -> None:
        """Look at the first batches, before anything is learned: the linear part follows from them."""
        seen = torch.cat([batches(number)["images"].flatten(0, 1) for number in range(BATCHES_TO_BEGIN)])
        self.encoder.fit(scaled(seen), least_deviation=self.config.least_deviation)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The training loss."""
        return self.losses(batch)["loss"]

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of ``images`` [B, F, H, W, 3]: every frame by itself."""
        images = scaled(batch["images"].flatten(0, 1))
        latents = self.encoder.encode(images).latent_dist
        if self.training:
            self._count(latents)
        drawn = self.encoder.decode(latents.sample()).sample.float()
        pixels = (drawn - images).square().mean()
        divergence = latents.kl().mean() / latents.mean[0].numel()
        return {"loss": pixels + self.config.divergence * divergence, "pixels": pixels, "divergence": divergence}

    @torch.no_grad()
    def _count(self, latents: "DiagonalGaussianDistribution") -> None:
        self.deviation.lerp_(latents.mean.float().std(), SLOWLY)

    def encode(self, images: Tensor, text: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B, H, W, 3] uint8 → latents [B, N, C], row by row, and no words."""
        latents = self.encoder.encode(scaled(images)).latent_dist.mean / self.deviation
        return latents.flatten(2).transpose(1, 2), images.new_zeros(len(images), 0, self.width, dtype=latents.dtype)

    def embed(self, images: Tensor) -> Tensor:
        """All of a picture's latents as one vector, [B, N C]."""
        return self.encode(images)[0].flatten(1)


def scaled(images: Tensor) -> Tensor:
    """[B, H, W, 3] uint8 → [B, 3, H, W] in -1…1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def unscaled(pictures: Tensor) -> Tensor:
    """The inverse of `scaled`."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def _network(config: VAEConfig) -> "PatchAutoencoder":
    from vla.representation.patch_autoencoder import PatchAutoencoder

    encoder = config.encoder
    levels = (encoder.patch_size // config.folded).bit_length()
    if config.folded * 2 ** (levels - 1) != encoder.patch_size or config.least_width % 8 or encoder.width % 8:
        raise UnderstudyError(
            "representation.encoder.patch_size must be representation.folded times a power of two, both widths "
            f"multiples of 8; got {encoder.patch_size}, {config.folded}, {config.least_width} and {encoder.width}"
        )
    if config.channels > 3 * encoder.patch_size**2:
        raise UnderstudyError(
            f"representation.channels={config.channels} are more than the {3 * encoder.patch_size**2} numbers of a "
            "place's pixels"
        )
    return PatchAutoencoder(
        patch_size=encoder.patch_size,
        folded=config.folded,
        latent_channels=config.channels,
        block_out_channels=[max(config.least_width, encoder.width >> level) for level in reversed(range(levels))],
        layers_per_block=encoder.depth,
        sample_size=encoder.image_size,
    )
