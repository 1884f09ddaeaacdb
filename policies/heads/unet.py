"""Diffusion Policy's one-dimensional U-Net (Chi et al. 2023, §III-B and appendix A), LeRobot's own module."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla.errors import UnderstudyError


@dataclass
class UNetSize:
    """Channels at each resolution."""

    widths: tuple[int, ...] = (64, 128, 256)


class UNet(nn.Module):
    """Noisy actions [B, N, A], times [B], cognition [B, 1, D] → what is predicted [B, N, A]; keeps `Denoiser`.

    ``drop`` [B] bool replaces the cognition of those samples by a learned null.
    """

    def __init__(self, size: UNetSize, *, action_dim: int, chunk: int, token_dim: int) -> None:
        from lerobot.configs.types import FeatureType, PolicyFeature
        from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
        from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d

        super().__init__()
        halvings = 2 ** (len(size.widths) - 1)
        if chunk % halvings:
            raise UnderstudyError(f"policy.pred_horizon must be a multiple of {halvings} for this U-Net, got {chunk}")
        config = DiffusionConfig(
            down_dims=size.widths,
            horizon=chunk,
            output_features={"action": PolicyFeature(FeatureType.ACTION, (action_dim,))},
        )
        self.null = nn.Parameter(torch.zeros(1, token_dim))
        self.network = DiffusionConditionalUnet1d(config, global_cond_dim=token_dim)

    def forward(self, noisy: Tensor, time: Tensor, cognition: Tensor, drop: Tensor | None = None) -> Tensor:
        """Predict for ``noisy`` at ``time`` (0 clean … 100 noise)."""
        if drop is not None:
            cognition = torch.where(drop[:, None, None], self.null.to(cognition.dtype), cognition)
        return self.network(noisy, time, global_cond=cognition[:, 0])
