"""A small recorded dataset, and the policy at its smallest preset."""

import numpy as np
import pytest

from vla.data.lerobot import DatasetSpec, EpisodeWriter, open_dataset
from vla.types import ActionSpec, CameraSpec, Episode, Gripper, Task

INSTRUCTIONS = ("lift the red cube", "open the drawer")
LENGTHS = (9, 12, 7)


def episode(spec, seed, length, instructions):
    """Pictures of noise, so that no two frames are alike; actions in metres, a gripper that opens and closes."""
    rng = np.random.default_rng(seed)
    shapes = {camera.name: (length, camera.height, camera.width, 3) for camera in spec.cameras}
    images = {name: rng.integers(0, 256, shape, dtype=np.uint8) for name, shape in shapes.items()}
    actions = rng.normal(0, 0.02, (length, 3)).astype(np.float32)
    actions[:, 2] = np.arange(length) % 2
    return Episode(
        images={name: lambda frames=frames: frames for name, frames in images.items()},
        proprio=rng.normal(size=(length, 4)).astype(np.float32),
        actions=actions,
        task=Task(instructions[seed % 2]),
        fps=spec.fps,
        embodiment=spec.embodiment,
        success=True,
        source="expert tabletop/open-drawer",
        stamps_ns=np.arange(length) * 100_000_000,
        seed=seed,
        initial_state=seed,
    )


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_dataset(tmp_path):
    """``make_dataset(height=32, width=32, …)``: three episodes seen by two cameras."""

    def make(height=32, width=32, name="data", instructions=INSTRUCTIONS):
        action = ActionSpec(
            "ee_delta", ("dx", "dy", "grip"), (-1.0, -1.0, 0.0), (1.0,) * 3, gripper=Gripper(2, 1.0, 0.0)
        )
        spec = DatasetSpec(
            fps=10.0,
            cameras=(CameraSpec("front", height, width), CameraSpec("wrist", height, width)),
            proprio_names=("x", "y", "z", "opening"),
            action=action,
            embodiment="test-arm",
            fingerprint="test/1",
        )
        with EpisodeWriter(tmp_path / name, spec) as writer:
            for seed, length in enumerate(LENGTHS):
                writer.save(episode(spec, seed, length, instructions))
        return open_dataset(tmp_path / name)

    return make


@pytest.fixture
def tiny():
    """``tiny("policy.head=regression", …)``: the configuration of the policy at the tiny preset."""
    from policies.policy import policy_class
    from policies.train import TrainConfig
    from vla.config import build, load

    def make(*overrides):
        settings = dict(load(TrainConfig, "train", ["preset=tiny", "data=nowhere", *overrides]).policy)
        return build(policy_class(settings.pop("name")).config_class, settings)

    return make


@pytest.fixture
def make_policy(tiny):
    """``make_policy(dataset, *overrides)``: an untrained policy that answers at random, and its samples."""
    import torch

    from policies.cogact import CogACT
    from policies.train import training_windows

    def make(dataset, *overrides):
        config = tiny(*overrides)
        windows = training_windows(dataset, config, holdout=0)
        torch.manual_seed(0)
        policy = CogACT.create(config, dataset.spec, windows)
        for parameter in policy.model.parameters():
            if not parameter.any():  # what starts at zero would hide whatever comes before it
                torch.nn.init.normal_(parameter, std=0.03)
        return policy, windows

    return make
