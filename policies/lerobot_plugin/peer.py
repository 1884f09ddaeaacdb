"""A policy of LeRobot behind our interface: ACT, diffusion, SmolVLA and whatever else its registry knows.

It runs as LeRobot runs it, with its own processors, its own history of observations and its own queue of actions. One
that looks only when its queue is empty (`LOOK_ONCE`) answers with the whole queue (``n_action_steps``), so that
pictures are drawn and latency is charged as for ours; any other is asked at every control step, and ``pred_horizon`` is
1. In neither case do chunks overlap: our executor has nothing to combine.
"""

from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy, get_policy_class, make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline

from policies.policy import Underway, read_spec
from vla.data.frames import fit_image
from vla.data.lerobot import DatasetSpec
from vla.data.lerobot_format import IMAGES, STATE
from vla.errors import UnderstudyError
from vla.types import ActionChunk, CameraSpec, Observation, PolicySpec, Task

FAMILY = "lerobot"
LOOK_ONCE = ("act", "pi0", "pi05", "smolvla")
"""Kinds whose ``select_action`` heeds no observation while actions are queued, as long as they see one step alone."""


class LeRobotPeer:
    """Keeps `policies.policy.Policy` around a `PreTrainedPolicy` and its processors."""

    def __init__(
        self,
        policy: PreTrainedPolicy,
        processors: tuple[PolicyProcessorPipeline, PolicyProcessorPipeline],
        spec: PolicySpec,
    ) -> None:
        self.spec, self.policy = spec, policy.eval()
        self._into, self._out_of = processors
        self._keys = cameras_of(policy.config)
        self._instruction = ""

    @classmethod
    def load(cls, folder: Path) -> "LeRobotPeer":
        """The policy in a ``pretrained_model`` folder of LeRobot's that `adopt` has made known."""
        config = PreTrainedConfig.from_pretrained(folder)
        policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
        overrides = {"device_processor": {"device": config.device}}
        processors = make_pre_post_processors(config, str(folder), preprocessor_overrides=overrides)
        return cls(policy, processors, read_spec(folder))

    def reset(self, task: Task, *, seed: int = 0) -> None:
        """Begin an episode; LeRobot draws its noise from PyTorch's global generator."""
        torch.manual_seed(seed)
        self.policy.reset()
        self._into.reset()
        self._out_of.reset()
        self._instruction = task.instruction

    def hasten(self) -> None:
        """Refuse: it runs as LeRobot runs it."""
        raise UnderstudyError("a policy of LeRobot's runs as it is: leave quick=true out")

    @torch.inference_mode()
    def infer(self, observation: Observation, underway: Underway | None = None) -> ActionChunk:
        """The actions [``pred_horizon``, A] due; nothing is ``underway``, since a chunk ends before the next begins."""
        del underway
        batch: dict[str, Any] = {"task": [self._instruction]}
        if self.spec.proprio_names:
            batch[STATE] = torch.from_numpy(observation.proprio)[None]
        for camera in self.spec.cameras:
            image = fit_image(observation.images[camera.name], camera.height)
            batch[self._keys[camera.name]] = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        seen = self._into(batch)
        actions = [self._out_of(self.policy.select_action(dict(seen))) for _ in range(self.spec.pred_horizon)]
        return ActionChunk(torch.cat(actions).float().cpu().numpy(), observation.stamp_ns, 1 / self.spec.control_hz)


def cameras_of(config: PreTrainedConfig) -> dict[str, str]:
    """Camera name → key in a batch: the name is what follows ``observation.images.``, or ``observation.``."""
    return {key.removeprefix(IMAGES).removeprefix("observation."): key for key in config.image_features}


def spec_of(config: PreTrainedConfig, dataset: DatasetSpec) -> PolicySpec:
    """What a policy of LeRobot's promises, from its own settings and the dataset that it was trained on."""
    shapes = {name: config.image_features[key].shape for name, key in cameras_of(config).items()}
    state = config.robot_state_feature
    names = dataset.proprio_names if state is not None else ()
    wanted = (len(names), dataset.action.dim)
    has = (0 if state is None else state.shape[0], config.action_feature.shape[0])
    if wanted != has or any(height != width for _, height, width in shapes.values()):
        raise UnderstudyError(
            f"the policy has {has[0]} proprio and {has[1]} action entries and pictures of {sorted(shapes.values())}, "
            f"the dataset {wanted[0]} and {wanted[1]}; give the dataset that it was trained on, with square pictures"
        )
    queue = config.n_action_steps if config.type in LOOK_ONCE and config.n_obs_steps == 1 else 1
    return PolicySpec(
        cameras=tuple(CameraSpec(name, height, width) for name, (_, height, width) in shapes.items()),
        proprio_names=names,
        action=dataset.action,
        accepts=("instruction",),
        obs_horizon=1,
        pred_horizon=queue,
        exec_horizon=queue,
        control_hz=dataset.fps,
    )
