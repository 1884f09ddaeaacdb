"""Pictures as UVA sees them: through a frozen autoencoder, each frame of a dataset once, then from the disk.

A frame's row holds S places of 2 C numbers: means, then deviations, of the posterior, in units of the latents' own
deviation. Training draws from it, as in the paper; what a policy sees is the mean.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from vla.data.frames import cache_folder
from vla.data.kept import MakeRows, kept_rows
from vla.errors import UnderstudyError, first_line
from vla.representation.load import ABOUT, load
from vla.representation.vae import scaled, unscaled

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from vla.representation.patch_autoencoder import PatchAutoencoder

FOLDER, CONFIG = "vae", "config.json"
"""Of a checkpoint; diffusers' own file."""


class Autoencoder(nn.Module):
    """Frozen; ``scale``: what latents are multiplied with for a deviation of 1."""

    def __init__(self, network: "AutoencoderKL | PatchAutoencoder", scale: float) -> None:
        super().__init__()
        self.network, self.scale = network.eval().requires_grad_(False), scale

    @classmethod
    def read(cls, folder: Path) -> "Autoencoder":
        """What `vla pretrain representation=vae` wrote, or diffusers' ``AutoencoderKL``; every weight must be there."""
        if (folder / ABOUT).is_file():
            learned = load(folder)
            if learned.name != "vae":
                raise UnderstudyError(f"{folder} is a {learned.name}, no autoencoder: give one of representation=vae")
            return cls(learned.model.encoder, 1 / float(learned.model.deviation))
        if not (folder / CONFIG).is_file():
            raise UnderstudyError(
                f"{folder} holds no autoencoder: train one with vla pretrain representation=vae, or give the folder of "
                "a diffusers AutoencoderKL (config.json and safetensors)"
            )
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        from vla.representation.patch_autoencoder import PatchAutoencoder

        ours = json.loads((folder / CONFIG).read_text()).get("_class_name") == PatchAutoencoder.__name__
        how = {"use_safetensors": True, "output_loading_info": True, "low_cpu_mem_usage": False}
        try:
            network, told = (PatchAutoencoder if ours else AutoencoderKL).from_pretrained(
                folder, local_files_only=True, **how
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UnderstudyError(f"the autoencoder in {folder} cannot be read: {first_line(error)}") from error
        if told["missing_keys"] or told["mismatched_keys"]:
            lacks = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
            raise UnderstudyError(f"the autoencoder in {folder} lacks weights: {', '.join(lacks[:3])}")
        return cls(network, float(network.config.scaling_factor))

    def save(self, folder: Path) -> None:
        """Write it in diffusers' own way."""
        self.network.register_to_config(scaling_factor=self.scale)
        self.network.save_pretrained(folder, safe_serialization=True)

    def side(self, image_size: int) -> int:
        """Places a side of a picture of so many pixels a side."""
        config = self.network.config
        stride = config.get("patch_size", 2 ** (len(config.block_out_channels) - 1))
        if image_size % stride:
            raise UnderstudyError(
                f"policy.image_size must be a multiple of the autoencoder's {stride}, got {image_size}"
            )
        return image_size // stride

    @property
    def channels(self) -> int:
        """Numbers of a place."""
        return self.network.config.latent_channels

    @property
    def weights(self) -> str:
        """A hash of all that decides the latents."""
        digest = hashlib.sha256(json.dumps(self.scale).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def rows(self, images: np.ndarray) -> Tensor:
        """[B, H, W, 3] uint8 → [B, S, 2 C]: means and deviations."""
        device = next(self.network.parameters()).device
        given = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        posterior = self.network.encode(scaled(given)).latent_dist
        return self.scale * torch.cat([posterior.mean, posterior.std], dim=1).flatten(2).transpose(1, 2)

    @torch.inference_mode()
    def pictures(self, latents: Tensor) -> np.ndarray:
        """Latents [..., S, C] → [..., H, W, 3] uint8."""
        flat = latents.flatten(0, -3).float() / self.scale
        side = round(flat.shape[1] ** 0.5)
        drawn = self.network.decode(flat.transpose(1, 2).unflatten(2, (side, side))).sample
        images = unscaled(drawn)
        return images.cpu().numpy().reshape(*latents.shape[:-2], *images.shape[1:])


def latents_of(frames: np.ndarray, autoencoder: Autoencoder, *, content: str) -> np.ndarray:
    """Rows [N, S, 2 C] float16 of ``frames`` [N, H, W, 3], from the cache or made now.

    ``content`` names the frames: equal for the same pictures, another for others.
    """
    key = {"content": content, "image_size": frames.shape[1], "weights": autoencoder.weights, "format": 1}
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]

    def prepare() -> MakeRows:
        return lambda numbers: autoencoder.rows(frames[numbers]).to(torch.float16).cpu().numpy()

    return kept_rows(cache_folder() / "latents" / name, key, len(frames), prepare, what="latents")


class ClipFeatures(nn.Module):
    """Clips as tall pictures [B, 3, F H, H] uint8 → the latents of their frames, pooled to 2 x 2 places, [B, F 4 C]."""

    def __init__(self, autoencoder: Autoencoder, *, frames: int) -> None:
        super().__init__()
        self.autoencoder, self.num_features = autoencoder, frames * 4 * autoencoder.channels

    @torch.inference_mode()
    def forward(self, tall: Tensor) -> Tensor:
        """See the class."""
        width = tall.shape[-1]
        frames = tall.unflatten(2, (-1, width)).permute(0, 2, 3, 4, 1)
        means = self.autoencoder.rows(frames.flatten(0, 1).cpu().numpy())[..., : self.autoencoder.channels]
        side = round(means.shape[1] ** 0.5)
        pooled = nn.functional.adaptive_avg_pool2d(means.transpose(1, 2).unflatten(2, (side, side)), 2)
        return pooled.flatten(1).unflatten(0, frames.shape[:2]).flatten(1)
