"""CogACT's network and its settings: backbone, head and what is learned besides, as one module."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from policies.auxiliary.objective import Auxiliary, AuxiliaryConfig
from policies.embodiments import Embodiments
from policies.heads.diffusion import DiffusionConfig, DiffusionHead
from policies.heads.dit import DiT, DiTSize
from policies.heads.flow import FlowConfig, FlowHead
from policies.heads.generative import GenerativeHead
from policies.heads.realtime import Known
from policies.heads.regression import RegressionConfig, RegressionHead
from policies.heads.unet import UNet, UNetSize
from policies.normalizer import Mode
from vla.backbones.backbone import TokenGroup
from vla.backbones.hub_config import HubVLMConfig
from vla.backbones.small import FOLDER, TOKENIZER, SmallVLM, SmallVLMConfig
from vla.errors import UnderstudyError
from vla.representation.tower import PretrainedTower, Source

if TYPE_CHECKING:
    from vla.backbones import hub


@dataclass
class CogACTConfig:
    """The policy's sizes and habits."""

    backbone: SmallVLMConfig = field(default_factory=SmallVLMConfig)
    vlm: HubVLMConfig | None = None
    """a vision-language model that others trained; it takes the place of ``backbone``"""
    head: Literal["diffusion", "flow", "unet", "regression"] = "diffusion"
    """``diffusion`` is CogACT; on the same backbone, ``flow`` is the same transformer with π0's flow matching, ``unet``
    Diffusion Policy's U-Net with CogACT's process, ``regression`` OpenVLA-OFT's L1 head"""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """the process, and the sizes of the transformer that ``flow`` has as well"""
    flow: FlowConfig = field(default_factory=FlowConfig)
    unet: UNetSize = field(default_factory=UNetSize)
    regression: RegressionConfig = field(default_factory=RegressionConfig)
    cameras: tuple[str, ...] = ()
    """which cameras of the dataset to look through; empty: all"""
    pred_horizon: int = 16
    exec_horizon: int = 4
    """control steps between two inferences"""
    normalization: Mode = "quantile"
    mask_padding: bool = False
    """leave padded rows out of the loss; CogACT learns the neutral action there instead"""
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)
    """what is learned besides the actions, whichever head it is"""

    @property
    def image_size(self) -> int:
        """Pixels a side of every camera's pictures, as they are kept."""
        return self.backbone.image_size if self.vlm is None else self.vlm.image_size


class CogACTModel(nn.Module):
    """Backbone and head as one module; calling it with a batch gives the loss."""

    def __init__(
        self, config: CogACTConfig, backbone: "SmallVLM | hub.HubVLM", *, action_dim: int, proprio_dim: int = 0
    ) -> None:
        """``proprio_dim`` is that of the states which an auxiliary objective reads."""
        super().__init__()
        self.mask_padding = config.mask_padding
        self.backbone = backbone
        self.head = make_head(config, action_dim=action_dim, token_dim=backbone.width)
        sizes = {"action_dim": action_dim, "proprio_dim": proprio_dim, "chunk": config.pred_horizon}
        self.auxiliary = Auxiliary(config.auxiliary, backbone, **sizes)
        self._told: dict[str, Tensor] = {}

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch made by `CogACT.training_batch`."""
        mask = batch["mask"] if self.mask_padding else torch.ones_like(batch["mask"])
        context = self.context(batch)
        loss = self.head.loss(context, batch["actions"], mask, batch.get("dims"))
        if not self.auxiliary:
            return loss
        self._told = {"action_loss": loss.detach()}
        return loss + self.auxiliary(context, batch, self.backbone, self.context)

    def after_step(self, step: int, steps: int) -> None:
        """What follows optimizer step ``step`` of ``steps``."""
        self.auxiliary.after_step(self.backbone, step, steps)

    def metrics(self) -> dict[str, Tensor]:
        """What the last loss was made of, if it was of several."""
        return self._told | self.auxiliary.metrics()

    @torch.no_grad()
    def sample(self, batch: Mapping[str, Tensor], noise: Tensor, known: Known | None = None) -> Tensor:
        """Normalised actions [B, N, A] from ``noise`` of the same shape, going on from what is ``known``."""
        return self.head.sample(self.context(batch), noise, known, batch.get("dims"))

    def context(self, batch: Mapping[str, Tensor]) -> TokenGroup:
        """What the head sees of a batch."""
        if "features" in batch:
            return self.backbone.with_proprio(batch["features"], batch["proprio"])
        images = {name: batch[f"image.{name}"] for name in self.backbone.cameras}
        return self.backbone(images, batch["proprio"], batch["text"], batch.get("present"))


def make_backbone(
    config: CogACTConfig, arms: Embodiments, tokenizer: Tokenizer, *, with_model: bool = True
) -> "SmallVLM | hub.HubVLM":
    """The backbone that a policy begins with; ``tokenizer``: of the small one."""
    if config.vlm is not None:
        return _hub(config.vlm, arms, with_model=with_model)
    path = config.backbone.representation
    return _small(config.backbone, arms, tokenizer, None if path is None else Source.read(path))


def backbone_from(config: CogACTConfig, arms: Embodiments, checkpoint: Path) -> "SmallVLM | hub.HubVLM":
    """The backbone of a checkpoint, with its own words but not yet with its weights."""
    if config.vlm is not None:
        return _hub(config.vlm, arms, checkpoint)
    if not (checkpoint / TOKENIZER).is_file():
        raise UnderstudyError(f"the checkpoint {checkpoint} lacks {TOKENIZER}; copy the whole folder or train again")
    source = None if config.backbone.representation is None else Source.without_weights(checkpoint / FOLDER)
    return _small(config.backbone, arms, Tokenizer.from_file(str(checkpoint / TOKENIZER)), source)


def make_head(config: CogACTConfig, *, action_dim: int, token_dim: int) -> GenerativeHead | RegressionHead:
    """The head that ``config.head`` names."""
    shape = {"action_dim": action_dim, "chunk": config.pred_horizon}
    if config.head == "regression":
        return RegressionHead(config.regression, **shape, token_dim=token_dim)
    if config.head == "unet":
        if config.diffusion.max_delay:
            raise UnderstudyError("policy.diffusion.max_delay: the U-Net knows one time for all rows; leave it at 0")
        return DiffusionHead(config.diffusion, UNet(config.unet, **shape, token_dim=token_dim), **shape)
    size = DiTSize(config.diffusion.depth, config.diffusion.width, config.diffusion.heads)
    denoiser = DiT(size, **shape, token_dim=token_dim)
    if config.head == "flow":
        return FlowHead(config.flow, denoiser, **shape)
    return DiffusionHead(config.diffusion, denoiser, **shape)


def _small(config: SmallVLMConfig, arms: Embodiments, tokenizer: Tokenizer, source: Source | None) -> SmallVLM:
    tower = None
    if source is not None:
        tower = PretrainedTower(source, width=config.vision_width, freeze=config.freeze, tokenizer=tokenizer)
    shape = {"cameras": arms.cameras, "proprio_dim": arms.proprio_dim}
    return SmallVLM(config, **shape, tokenizer=tokenizer, tower=tower)


def _hub(
    config: HubVLMConfig, arms: Embodiments, checkpoint: Path | None = None, *, with_model: bool = True
) -> "hub.HubVLM":
    from vla.backbones import hub

    if checkpoint is None:
        source = hub.Source.read(config, with_model=with_model)
    else:
        source = hub.Source.read_again(config, checkpoint)
    return hub.HubVLM(config, source, cameras=arms.cameras, proprio_dim=arms.proprio_dim)
