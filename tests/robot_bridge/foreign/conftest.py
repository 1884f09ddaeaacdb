"""A policy to be served, and a suite as the harness sees one: ``from foreign_suite import SuiteBenchmark``."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

for name in ("foreign_suite", "foreign_clients"):
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if name not in sys.modules:
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])

TASKS = ("tabletop/touch-red-cube",)
SUITE = {"image_size": 32, "cameras": ["front"]}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A policy that was never trained: it gropes about, and so succeeds in some scenes, always in the same."""
    import torch

    from policies.policy import policy_class
    from policies.train import TrainConfig, training_windows
    from sim import collect
    from vla.config import build, load
    from vla.data.lerobot import open_dataset

    folder = tmp_path_factory.mktemp("served")
    data = collect.run(collect.CollectConfig(TASKS, episodes=2, out=folder / "data", suite=SUITE, workers=0))
    settings = dict(load(TrainConfig, "train", ["preset=tiny", "data=nowhere"]).policy)
    made = policy_class(settings.pop("name"))
    config, dataset = build(made.config_class, settings), open_dataset(data)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_CACHE", str(folder / "cache"))
        policy = made.create(config, dataset.spec, training_windows(dataset, config, holdout=0))
    torch.nn.init.normal_(policy.model.head.denoiser.action_out.weight, std=0.5)
    policy.save(folder / "policy")
    return folder / "policy"
