"""A policy of ours behind LeRobot's interface."""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import ActionSelectKwargs, PreTrainedPolicy
from safetensors.torch import save_file
from torch import Tensor

from policies.cogact import WEIGHTS, CogACT
from policies.lerobot_plugin.configuration_understudy import UnderstudyConfig
from policies.lerobot_plugin.peer import cameras_of
from policies.policy import SPEC_FILE, load_policy
from vla.data.frames import fit_image
from vla.data.lerobot import open_dataset
from vla.data.lerobot_format import ACTION, STATE
from vla.data.windows import Batch, bare_windows, pad_neutral
from vla.errors import UnderstudyError

if TYPE_CHECKING:
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

MODEL = "model."


class UnderstudyPolicy(PreTrainedPolicy):
    """``model`` is the policy's network; the policy around it, ``ours``, keeps normalisers and words."""

    config_class = UnderstudyConfig
    name = "understudy"

    def __init__(
        self,
        config: UnderstudyConfig,
        dataset_stats: Mapping[str, Any] | None = None,
        dataset_meta: "LeRobotDatasetMetadata | None" = None,
        *,
        ours: CogACT | None = None,
    ) -> None:
        super().__init__(config)
        del dataset_stats  # means and extremes; the normalisers want quantiles of the training samples
        if ours is None and dataset_meta is None:
            raise UnderstudyError("a new policy is made for a dataset: train it with lerobot-train or vla train first")
        self.ours = create(config, dataset_meta) if ours is None else ours
        self.model = self.ours.model
        self.reset()

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **_: object
    ) -> "UnderstudyPolicy":
        """Load a folder; every weight must be there, whatever ``strict`` says."""
        folder = Path(pretrained_name_or_path)
        if not (folder / SPEC_FILE).is_file():
            raise UnderstudyError(f"{folder} is no folder with a checkpoint of ours: it has no {SPEC_FILE}")
        config = config or PreTrainedConfig.from_pretrained(folder)
        policy = cls(config, ours=load_policy(folder))
        policy.to(config.device)
        return policy.eval()

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        self.config._save_pretrained(save_directory)
        self.ours.save(save_directory)
        if state_dict is not None:  # gathered from shards: what this process holds is not the whole
            whole = {name.removeprefix(MODEL): value.contiguous() for name, value in state_dict.items()}
            save_file(whole, save_directory / WEIGHTS)

    def get_optim_params(self) -> list[torch.nn.Parameter]:
        """What is to be learned."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def reset(self) -> None:
        """Begin an episode."""
        self._due: deque[Tensor] = deque()

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """The loss of LeRobot's batch: images [B, 3, H, W], state [B, P], action [B, N, A], ``action_is_pad``, task."""
        images, proprio, told = self._seen(batch)
        mask = ~batch["action_is_pad"].cpu().numpy()
        actions = pad_neutral(batch[ACTION].float().cpu().numpy(), mask, self.ours.spec.action)
        made = self.ours.training_batch(Batch(images, proprio, actions, mask, told))
        return self.model({key: value.to(self._device) for key, value in made.items()}), {}

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **given: Unpack[ActionSelectKwargs]) -> Tensor:
        """Actions [B, N, A] in physical units."""
        images, proprio, told = self._seen(batch)
        noise = given.get("noise")
        if noise is None:
            noise = torch.randn(len(proprio), *self.model.head.noise_shape)
        text = self.model.backbone.tokenize(told)
        return torch.from_numpy(self.ours.chunks(images, proprio, text, noise.cpu().numpy())).to(self._device)

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **given: Unpack[ActionSelectKwargs]) -> Tensor:
        """The action [B, A] that is due; a new chunk is made every ``exec_horizon`` steps."""
        if not self._due:
            rows = self.predict_action_chunk(batch, **given)[:, : self.ours.spec.exec_horizon]
            self._due.extend(rows.transpose(0, 1))
        return self._due.popleft()

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _seen(self, batch: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
        """Pictures as bytes of the model's size, proprio, and what was said."""
        size = self.ours.config.image_size
        keys = cameras_of(self.config)
        images = {camera.name: as_bytes(batch[keys[camera.name]], size) for camera in self.ours.spec.cameras}
        count = len(next(iter(images.values())))
        proprio = batch[STATE].float().cpu().numpy() if STATE in batch else np.zeros((count, 0), np.float32)
        return images, proprio, list(batch.get("task") or [""] * count)


def as_bytes(images: Tensor, size: int) -> np.ndarray:
    """[B, 3, H, W] in 0…1 → [B, size, size, 3] uint8."""
    whole = (images.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return np.stack([fit_image(np.ascontiguousarray(image), size) for image in whole])


def create(config: UnderstudyConfig, meta: "LeRobotDatasetMetadata") -> CogACT:
    """An untrained policy for the dataset that ``meta`` describes."""
    family, settings, _ = config.settings()
    dataset = open_dataset(meta.root)
    windows = bare_windows(dataset, pred_horizon=settings.pred_horizon)
    named = settings.cameras or [camera.name for camera in dataset.spec.cameras]
    nothing = np.empty((0, settings.image_size, settings.image_size, 3), np.uint8)
    return family.create(settings, dataset.spec, replace(windows, frames=dict.fromkeys(named, nothing)))
