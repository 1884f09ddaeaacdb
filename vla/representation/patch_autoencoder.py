"""An autoencoder that begins with principal components: linear both ways, and a convolutional one that learns the rest.

    picture ─┬─► patches' components, whitened ─┬─► latents ─┬─► patches of the components ─┬─► picture
             └─► `AutoencoderKL`'s encoder ─────┘            └─► `AutoencoderKL`'s decoder ─┘

Convolutions alone need hours on a laptop for what the components of a few hundred pictures give at once.
"""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

FIRST_LOG_VARIANCE = -5.0


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Takes and gives what diffusers' `AutoencoderKL` does, and is saved and read as that is.

    ``patch_size``: pixels a side of a latent place; ``folded``: pixels a side that are channels before the first
    convolution; ``block_out_channels``: one for each halving from ``folded`` to ``patch_size``, and one more.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        patch_size: int = 16,
        folded: int = 4,
        latent_channels: int = 128,
        block_out_channels: Sequence[int] = (64, 64, 128),
        layers_per_block: int = 1,
        sample_size: int = 64,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        self.analysis = nn.Conv2d(3, latent_channels, patch_size, stride=patch_size)
        self.synthesis = nn.ConvTranspose2d(latent_channels, 3, patch_size, stride=patch_size)
        self.rest = AutoencoderKL(
            in_channels=3 * folded**2,
            out_channels=3 * folded**2,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=8,
            sample_size=sample_size,
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        for last in (self.rest.encoder.conv_out, self.rest.decoder.conv_out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        nn.init.constant_(self.rest.encoder.conv_out.bias[latent_channels:], FIRST_LOG_VARIANCE)

    @torch.no_grad()
    def fit(self, images: Tensor, *, least_deviation: float) -> None:
        """Set the linear part to the principal components of the patches of ``images`` [B, 3, H, W] in -1…1.

        Those whose standard deviation is ``least_deviation`` or more become 1, the others keep their share.
        """
        size, channels = self.config.patch_size, self.config.latent_channels
        patches = functional.pixel_unshuffle(images, size).permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = patches.unflatten(1, (3, -1)).mean((0, 2))
        off = patches - mean.repeat_interleave(size**2)
        variance, components = torch.linalg.eigh(off.T @ off / len(off))
        components = components[:, -channels:].flip(1)
        deviation = variance[-channels:].flip(0).clamp(min=least_deviation**2).sqrt()
        shape = (channels, 3, size, size)
        self.analysis.weight.copy_((components / deviation).T.view(shape))
        self.analysis.bias.copy_(-(mean.repeat_interleave(size**2) @ components) / deviation)
        self.synthesis.weight.copy_((components * deviation).T.view(shape))
        self.synthesis.bias.copy_(mean)

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """[B, 3, H, W] in -1…1 → the posterior of [B, C, H / P, W / P]."""
        found = self.rest.encode(functional.pixel_unshuffle(x, self.config.folded)).latent_dist.parameters
        mean, log_variance = found.chunk(2, dim=1)
        return AutoencoderKLOutput(DiagonalGaussianDistribution(torch.cat([mean + self.analysis(x), log_variance], 1)))

    def decode(self, z: Tensor) -> DecoderOutput:
        """[B, C, H / P, W / P] → pictures [B, 3, H, W]."""
        rest = functional.pixel_shuffle(self.rest.decode(z).sample, self.config.folded)
        return DecoderOutput(self.synthesis(z) + rest)
