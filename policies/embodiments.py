"""The arms that one policy drives, and how their pictures, proprio and actions lie side by side in one batch.

    arm       cameras        proprio    actions          in the batch
    sawyer    side, top      4 numbers  4 numbers        side top  –      4 + 4 empty + (1, 0)   4 + 3 empty
    panda     side, wrist    8 numbers  7 numbers        side  –   wrist  8          + (0, 1)   7

What an arm lacks is zero and masked: its missing cameras are seen by no token, its missing entries of an action are
neither given to the denoiser nor counted in the loss. With one arm alone nothing is added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from policies.normalizer import Mode, Normalizer, NormalizerSet
from vla.data.lerobot import DatasetSpec
from vla.data.windows import Windows
from vla.errors import UnderstudyError
from vla.types import Accepts, ActionSpec, CameraSpec, PolicySpec


@dataclass(frozen=True)
class Embodiments:
    """``specs``: embodiment → what the policy expects of it and promises."""

    specs: Mapping[str, PolicySpec]

    @property
    def several(self) -> bool:
        """Whether anything has to be filled up at all."""
        return len(self.specs) > 1

    @property
    def cameras(self) -> tuple[str, ...]:
        """All cameras of any arm, by name."""
        return tuple(dict.fromkeys(camera.name for spec in self.specs.values() for camera in spec.cameras))

    @property
    def action_dim(self) -> int:
        """Entries of an action in the batch."""
        return max(spec.action.dim for spec in self.specs.values())

    @property
    def proprio_dim(self) -> int:
        """Entries of proprio in the batch: the most that any arm has, then which arm it is."""
        return max(spec.proprio_dim for spec in self.specs.values()) + (len(self.specs) if self.several else 0)

    def proprio(self, name: str, values: Tensor) -> Tensor:
        """[B, P] of the arm ``name`` → [B, `proprio_dim`]."""
        if not self.several:
            return values
        filled = pad(values, (0, self.proprio_dim - len(self.specs) - values.shape[-1]))
        which = torch.zeros(len(values), len(self.specs))
        which[:, list(self.specs).index(name)] = 1
        return torch.cat([filled, which], dim=1)

    def actions(self, values: Tensor) -> Tensor:
        """[B, N, A] → [B, N, `action_dim`]."""
        return pad(values, (0, self.action_dim - values.shape[-1]))

    def dims(self, name: str, count: int) -> Tensor:
        """Which entries of an action the arm has, [``count``, `action_dim`] bool."""
        return (torch.arange(self.action_dim) < self.specs[name].action.dim).expand(count, -1)

    def present(self, name: str, count: int) -> Tensor:
        """Which of `cameras` the arm has, [``count``, cameras] bool."""
        has = {camera.name for camera in self.specs[name].cameras}
        return torch.tensor([camera in has for camera in self.cameras]).expand(count, -1)

    def images(self, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Camera → [B, H, W, 3], with black ones for the cameras that are missing."""
        black = np.zeros_like(next(iter(images.values())))
        return {name: images.get(name, black) for name in self.cameras}


def specs_of(
    parts: Sequence[tuple[DatasetSpec, Windows]],
    *,
    image_size: int,
    pred_horizon: int,
    exec_horizon: int,
    accepts: tuple[Accepts, ...] = ("instruction",),
) -> dict[str, PolicySpec]:
    """Embodiment → what the policy expects and promises; datasets of one embodiment must agree about that."""
    specs: dict[str, PolicySpec] = {}
    for dataset, windows in parts:
        spec = PolicySpec(
            cameras=tuple(CameraSpec(name, image_size, image_size) for name in windows.frames),
            proprio_names=dataset.proprio_names,
            action=dataset.action,
            accepts=accepts,
            obs_horizon=1,
            pred_horizon=pred_horizon,
            exec_horizon=exec_horizon,
            control_hz=dataset.fps,
        )
        if specs.setdefault(dataset.embodiment, spec) != spec:
            raise UnderstudyError(
                f"two datasets of the embodiment {dataset.embodiment!r} differ in cameras, proprio, actions or rate: "
                f"{specs[dataset.embodiment]} and {spec}; give policy.cameras=[…] that both have, or record one again"
            )
    return specs


def fit_normalizers(parts: Sequence[tuple[DatasetSpec, Windows]], *, mode: Mode) -> NormalizerSet:
    """Normalisers for each embodiment, of its training samples. A gripper that is only open or closed is not scaled."""
    sets = {}
    for dataset, _ in parts:
        own = [windows for other, windows in parts if other.embodiment == dataset.embodiment]
        actions = np.concatenate([windows.actions[windows.samples] for windows in own])
        proprio = np.concatenate([windows.proprio[windows.samples] for windows in own])
        sets[dataset.embodiment] = {
            "action": fit_actions(actions, dataset.action, mode=mode),
            "proprio": Normalizer.fit(proprio, mode=mode),
        }
    return NormalizerSet(sets)


def fit_actions(actions: np.ndarray, spec: ActionSpec, *, mode: Mode) -> Normalizer:
    """The normaliser of ``actions`` [N, A]."""
    gripper = spec.gripper
    if gripper is None or not np.isin(actions[:, gripper.index], (gripper.open, gripper.closed)).all():
        return Normalizer.fit(actions, mode=mode)
    low, high = sorted((gripper.open, gripper.closed))
    mask = [index != gripper.index for index in range(spec.dim)]
    return Normalizer.fit(actions, mode=mode, mask=mask, binary=(low, high))
