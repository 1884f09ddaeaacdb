"""What several tests of the simulator play with."""

import pytest


@pytest.fixture(scope="session")
def video_checkpoint(tmp_path_factory):
    """A folder: ``data``, two demonstrations, and ``policy``, a tiny UVA that has hardly been trained on them."""
    import torch

    from policies.train import TrainConfig, run
    from sim.collect import CollectConfig
    from sim.collect import run as collect
    from vla.config import load
    from vla.representation.load import Representation

    folder = tmp_path_factory.mktemp("video")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_CACHE", str(folder / "cache"))
        suite = {"image_size": 32, "cameras": ["front", "wrist"]}
        data, tasks = folder / "data", ("tabletop/press-button",)
        collect(CollectConfig(tasks=tasks, episodes=2, out=data, suite=suite, workers=0))
        encoder = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 1}
        torch.manual_seed(0)
        Representation.create("vae", {"encoder": encoder, "least_width": 8, "channels": 4}, []).save(folder / "vae")
        given = ["policy=uva", "preset=tiny", f"data={data}", f"out={folder / 'policy'}"]
        run(load(TrainConfig, "train", [*given, f"policy.vae={folder / 'vae'}", "trainer.steps=2"]))
    return folder
