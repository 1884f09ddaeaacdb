"""One contract over every policy family: what the executor, the bridge and the simulator rely on."""

import json

import numpy as np
import pytest

from policies.execution import ChunkExecutor
from policies.policy import POLICIES, SPEC_FILE, load_policy, policy_class
from vla.config import build, load
from vla.errors import UnderstudyError
from vla.types import Observation, PolicySpec, Task, VideoClip

SEEN = "policy.backbone.representation={representation}"
SEEING = ("policy=manipulate_by_seeing", "policy.cameras=[wrist]")
THROUGH = "policy.representation={representation}"
READS = "policy.vlm={{path: {vlm}, image_size: 56}}"
FAMILIES = {
    "cogact": ("cogact", []),
    "cogact with an L1 head": ("cogact", ["policy=cogact_l1"]),
    "cogact with flow matching": ("cogact", ["policy=cogact_flow"]),
    "cogact with a U-Net": ("cogact", ["policy=cogact_unet"]),
    "cogact with masked padding": ("cogact", ["policy.mask_padding=true"]),
    "cogact, z-scores": ("cogact", ["policy.normalization=zscore"]),
    "cogact through a representation": ("cogact", [SEEN]),
    "cogact through a representation, fine-tuned": ("cogact", [SEEN, "policy.backbone.freeze=false"]),
    "cogact on a vision-language model": ("cogact", [READS]),
    "cogact on a vision-language model with adapters": ("cogact", [READS, "policy.vlm.lora.rank=4"]),
    "uva": ("uva", ["policy=uva", "policy.vae={vae}"]),
    "vid2robot": ("vid2robot", ["policy=vid2robot"]),
    "vid2robot with a diffusion head": ("vid2robot", ["policy=vid2robot", "policy.head=diffusion"]),
    "vid2robot that is told": ("vid2robot", ["policy=vid2robot", "policy.prompt=words"]),
    "manipulate by seeing": ("manipulate_by_seeing", [*SEEING]),
    "manipulate by seeing, planning ahead": ("manipulate_by_seeing", [*SEEING, "policy.planner=cem"]),
    "manipulate by seeing, cloned": ("manipulate_by_seeing", [*SEEING, "policy.learns=cloning"]),
    "manipulate by seeing through a representation": ("manipulate_by_seeing", [*SEEING, THROUGH]),
    "manipulate by seeing through a frozen one": ("manipulate_by_seeing", [*SEEING, THROUGH, "policy.freeze=true"]),
}
"""Name → family and overrides of ``vla train``; every family of `POLICIES` is here."""


def test_every_family_is_held_to_the_contract():
    assert {family for family, _ in FAMILIES.values()} == set(POLICIES)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two demonstrations of the table-top suite, seen by two cameras."""
    from sim.collect import CollectConfig, run
    from vla.data.lerobot import open_dataset

    suite = {"image_size": 32, "cameras": ["front", "wrist"]}
    tasks = ("tabletop/press-button",)
    out = tmp_path_factory.mktemp("contract") / "data"
    return open_dataset(run(CollectConfig(tasks=tasks, episodes=2, out=out, suite=suite, workers=0)))


@pytest.fixture(scope="module")
def representation(tmp_path_factory):
    """What `vla pretrain` leaves, untrained and tiny."""
    from vla.representation.load import Representation

    folder = tmp_path_factory.mktemp("representation")
    encoder = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 1, "heads": 2}
    Representation.create("voltron_cond", {"encoder": encoder}, ["press the button"]).save(folder)
    return folder


@pytest.fixture(scope="module")
def vlm(tiny_vlm, tmp_path_factory):
    """A tiny PaliGemma."""
    return tiny_vlm.save_tiny("paligemma", tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A tiny autoencoder, untrained."""
    from vla.representation.load import Representation

    folder = tmp_path_factory.mktemp("vae")
    encoder = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 1}
    Representation.create("vae", {"encoder": encoder, "least_width": 8, "channels": 4}, []).save(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request, dataset, representation, vlm, vae, tmp_path_factory):
    """An untrained policy of the family, as it comes back from its checkpoint."""
    import torch

    from policies.train import TrainConfig, training_windows

    family, overrides = FAMILIES[request.param]
    overrides = [override.format(representation=representation, vlm=vlm, vae=vae) for override in overrides]
    folder = tmp_path_factory.mktemp("checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_CACHE", str(folder / "cache"))
        settings = dict(load(TrainConfig, "train", ["preset=tiny", "data=nowhere", *overrides]).policy)
        settings.pop("name")
        made = policy_class(family)
        config = build(made.config_class, settings)
        torch.manual_seed(0)
        policy = made.create(config, dataset.spec, training_windows(dataset, config, holdout=0))
    policy.save(folder / "saved")
    return load_policy(folder / "saved")


@pytest.fixture
def observation(dataset):
    episode = dataset.episode(0)
    images = {name: decode()[3] for name, decode in episode.images.items()}
    return Observation(images, episode.proprio[3], 123_456_789)


def put(words="press the button"):
    """A task that is told, shown and pictured; other words, another video."""
    frames = np.random.default_rng(len(words)).integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)
    return Task(words, video=VideoClip(frames, 10.0), goal=frames[-1])


def chunks(policy, observation, seed, count=2):
    policy.reset(put(), seed=seed)
    return [policy.infer(observation).actions for _ in range(count)]


def test_a_chunk_is_what_the_spec_promises(policy, observation):
    policy.reset(put())
    chunk = policy.infer(observation)
    spec = policy.spec
    assert chunk.actions.shape == (spec.pred_horizon, spec.action.dim)
    assert chunk.actions.dtype == np.float32
    assert np.isfinite(chunk.actions).all()
    assert chunk.stamp_ns == observation.stamp_ns
    assert chunk.dt == pytest.approx(1 / spec.control_hz)


def test_everything_random_follows_from_the_seed(policy, observation):
    first = chunks(policy, observation, seed=7)
    np.random.default_rng().normal(size=9)
    chunks(policy, observation, seed=8, count=3)
    for one, two in zip(first, chunks(policy, observation, seed=7), strict=True):
        np.testing.assert_array_equal(one, two)


def test_pictures_of_other_cameras_change_nothing(policy, observation):
    more = Observation({**observation.images, "film": observation.images["front"]}, observation.proprio, 0)
    np.testing.assert_array_equal(chunks(policy, more, seed=1), chunks(policy, observation, seed=1))


def test_the_observation_is_left_alone(policy, observation):
    before = {name: image.copy() for name, image in observation.images.items()}, observation.proprio.copy()
    chunks(policy, observation, seed=0)
    np.testing.assert_array_equal(observation.proprio, before[1])
    for name, image in before[0].items():
        np.testing.assert_array_equal(observation.images[name], image)


def test_what_is_missing_is_refused_by_name(policy, observation):
    policy.reset(put())
    missing = policy.spec.cameras[-1].name
    images = {name: image for name, image in observation.images.items() if name != missing}
    with pytest.raises(UnderstudyError, match=missing):
        policy.infer(Observation(images, observation.proprio, 0))
    with pytest.raises(UnderstudyError, match="proprio"):
        policy.infer(Observation(observation.images, observation.proprio[:-1], 0))


def test_the_spec_is_the_datasets_and_survives_json(policy, dataset):
    spec = policy.spec
    assert PolicySpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.action == dataset.spec.action
    assert spec.proprio_names == dataset.spec.proprio_names
    assert spec.control_hz == dataset.spec.fps
    chosen = getattr(policy.config, "cameras", ()) or tuple(camera.name for camera in dataset.spec.cameras)
    assert tuple(camera.name for camera in spec.cameras) == chosen
    assert set(spec.accepts) & {"instruction", "video", "goal"}


def test_a_checkpoint_says_what_it_is(policy):
    from pathlib import Path

    folder = Path(policy.spec.checkpoint)
    plain = json.loads((folder / SPEC_FILE).read_text())
    assert plain["policy"] in POLICIES
    assert load_policy(folder).spec == policy.spec


def test_the_executor_drives_it(policy, observation):
    executor = ChunkExecutor(policy)
    executor.reset(put(), seed=2)
    actions = np.stack([executor.act(lambda: observation) for _ in range(2 * policy.spec.exec_horizon)])
    assert actions.shape[1] == policy.spec.action.dim
    first = chunks(policy, observation, seed=2)[0]
    np.testing.assert_array_equal(actions[: policy.spec.exec_horizon], first[: policy.spec.exec_horizon])


def test_episodes_side_by_side_are_as_one_after_the_other(policy, observation):
    """Their instructions may be of different lengths; what a session was told, no other hears."""
    told, sessions = ("press the button", "press", "press the button button"), [policy.session() for _ in range(3)]
    dark = Observation({name: i // 2 for name, i in observation.images.items()}, observation.proprio * 0.5, 7)
    seen = [(observation, None), (dark, None), (observation, None)]
    alone = []
    for number, (words, one) in enumerate(zip(told, seen, strict=True)):
        policy.reset(put(words), seed=number)
        sessions[number].reset(put(words), seed=number)
        alone.append(policy.infer(*one))
    together = policy.infer_together(sessions, seen)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.actions, other.actions, atol=2e-2)  # bf16 in places
        assert one.stamp_ns == other.stamp_ns
