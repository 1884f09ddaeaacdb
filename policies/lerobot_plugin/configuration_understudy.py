"""The settings of our policies, as LeRobot parses them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig, DiffuserSchedulerConfig

from policies.policy import SPEC_FILE, read_spec
from policies.train import TrainConfig, checked
from vla.config import load

if TYPE_CHECKING:
    from vla.training.trainer import TrainerConfig


@PreTrainedConfig.register_subclass("understudy")
@dataclass
class UnderstudyConfig(PreTrainedConfig):
    """A policy of ours; what it is made of is said as in ``vla train``.

    Actions and proprio are normalised inside the policy, by quantiles of the dataset, not by LeRobot's processors.
    """

    recipe: str = "cogact"
    """a file in configs/policy: cogact, cogact_flow, cogact_l1, cogact_unet"""
    preset: str = "cpu"
    """a file in configs/preset: tiny, cpu, paper"""
    overrides: list[str] = field(default_factory=list)
    """further settings of ``vla train``, e.g. ["policy.pred_horizon=32","trainer.lr=1e-4"]"""
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
    )

    def settings(self) -> tuple[Any, Any, "TrainerConfig"]:
        """The family's class, its settings and the trainer's; raises `UnderstudyError` for a key that is none."""
        given = [f"policy={self.recipe}", f"preset={self.preset}", "data=.", *self.overrides]
        config = load(TrainConfig, "train", given)
        return checked(config.policy, config.trainer)

    @property
    def horizon(self) -> int:
        """Rows of a chunk: the checkpoint's, or what the settings say for a new policy."""
        if self.pretrained_path is not None and (Path(self.pretrained_path) / SPEC_FILE).is_file():
            return read_spec(Path(self.pretrained_path)).pred_horizon
        return int(self.settings()[1].pred_horizon)

    @property
    def observation_delta_indices(self) -> None:
        """One observation, the newest."""
        return

    @property
    def action_delta_indices(self) -> list[int]:
        """A chunk, from the observation on."""
        return list(range(self.horizon))

    @property
    def reward_delta_indices(self) -> None:
        """None are read."""
        return

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW as our trainer has it."""
        trainer = self.settings()[2]
        return AdamWConfig(
            lr=trainer.lr, betas=trainer.betas, weight_decay=trainer.weight_decay, grad_clip_norm=trainer.grad_clip
        )

    def get_scheduler_preset(self) -> DiffuserSchedulerConfig:
        """The rate as our trainer has it, over LeRobot's number of steps."""
        trainer = self.settings()[2]
        name = "cosine" if trainer.schedule == "cosine" else "constant_with_warmup"
        return DiffuserSchedulerConfig(name=name, num_warmup_steps=trainer.warmup)

    def validate_features(self) -> None:
        """Refuse data without pictures or actions."""
        if not self.image_features or self.action_feature is None:
            raise ValueError(
                f"a policy of type 'understudy' needs pictures and actions; the inputs are "
                f"{sorted(self.input_features or {})}, the outputs {sorted(self.output_features or {})}"
            )
