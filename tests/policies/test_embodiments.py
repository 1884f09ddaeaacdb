"""One policy, several arms: actions, proprio and cameras of different kinds in one batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.cogact import CogACT
from policies.embodiments import Embodiments, fit_normalizers, specs_of
from policies.policy import load_policy
from policies.train import MixedBatches, TrainConfig, mixed_in, run, training_windows
from vla.config import load
from vla.data.lerobot import DatasetSpec, EpisodeWriter, open_dataset
from vla.data.mixture import MixtureSampler
from vla.errors import UnderstudyError
from vla.training.trainer import TrainerConfig
from vla.types import ActionSpec, CameraSpec, Episode, Observation, Task

HEADS = {"diffusion": [], "flow": ["policy=cogact_flow"], "l1": ["policy=cogact_l1"], "unet": ["policy=cogact_unet"]}


@pytest.fixture
def other(tmp_path):
    """Two episodes of an arm with five joints, six numbers of proprio and two cameras, one of them its own."""
    spec = DatasetSpec(
        fps=20.0,
        cameras=(CameraSpec("wrist", 32, 32), CameraSpec("ceiling", 32, 32)),
        proprio_names=tuple(f"q{n}" for n in range(6)),
        action=ActionSpec("joint_position", tuple(f"j{n}" for n in range(5)), (-3.0,) * 5, (3.0,) * 5),
        embodiment="five-joints",
        fingerprint="test/2",
    )
    with EpisodeWriter(tmp_path / "other", spec) as writer:
        for seed in range(2):
            rng = np.random.default_rng(seed)
            pictures = {c.name: rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8) for c in spec.cameras}
            episode = Episode(
                images={name: lambda frames=frames: frames for name, frames in pictures.items()},
                proprio=rng.normal(size=(8, 6)).astype(np.float32),
                actions=rng.uniform(1, 2, (8, 5)).astype(np.float32),
                task=Task("wave to the crowd"),
                fps=20.0,
                embodiment="five-joints",
                success=True,
                source="teleop",
                stamps_ns=np.arange(8) * 50_000_000,
                seed=seed,
                initial_state=seed,
            )
            writer.save(episode)
    return open_dataset(tmp_path / "other")


@pytest.fixture
def mixed(make_dataset, other, tiny):
    """``mixed(*overrides)``: an untrained policy for both arms, and the batches of both."""

    def make(*overrides, weights=(), batch_size=12):
        dataset, config = make_dataset(), tiny(*overrides)
        windows, (spec, others) = training_windows(dataset, config, holdout=0), mixed_in(other, config)
        torch.manual_seed(0)
        policy = CogACT.create(config, dataset.spec, windows, others=[(spec, others)])
        parts = [(dataset.spec.embodiment, windows), (spec.embodiment, others)]
        trainer = TrainerConfig(batch_size=batch_size)
        return policy, MixedBatches(policy, parts, weights, trainer, shift=0), (dataset, other)

    return make


@pytest.mark.parametrize("name", HEADS)
def test_one_batch_holds_both_and_every_head_learns_from_it(mixed, name):
    policy, batches, _ = mixed(*HEADS[name], "policy.pred_horizon=4")
    batch = batches(0)
    ours = int((~batch["dims"][:, 3]).sum())
    assert 0 < ours < 12
    assert batch["actions"].shape == (12, 4, 5)
    assert not batch["actions"][:ours, :, 3:].any()
    assert batch["dims"].tolist() == [[True] * 3 + [False] * 2] * ours + [[True] * 5] * (12 - ours)
    assert policy.model.backbone.cameras == ("front", "wrist", "ceiling")
    assert batch["present"].tolist() == [[True, True, False]] * ours + [[False, True, True]] * (12 - ours)
    assert batch["proprio"].shape == (12, 6 + 2)
    assert batch["proprio"][:, 6:].tolist() == [[1.0, 0.0]] * ours + [[0.0, 1.0]] * (12 - ours)
    assert not batch["proprio"][:ours, 4:6].any()
    optimizer = torch.optim.Adam(policy.model.parameters(), 3e-3)
    losses = []
    for step in range(30):
        torch.manual_seed(step % 3)
        loss = policy.model(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_each_arm_has_its_own_statistics_and_gets_actions_of_its_own(mixed, tmp_path):
    policy, _, (dataset, other) = mixed("policy=cogact_l1")
    policy.save(tmp_path / "saved")
    first = load_policy(tmp_path / "saved")
    second = load_policy(tmp_path / "saved", embodiment="five-joints")
    assert first.spec.action == dataset.spec.action
    assert second.spec.action == other.spec.action
    assert second.spec.control_hz == 20
    assert load_policy(tmp_path / "saved", embodiment="whoever").spec == first.spec
    with pytest.raises(UnderstudyError, match="five-joints"):
        first.driving("four-joints")
    for one, source in ((first, dataset), (second, other)):
        episode = source.episode(0)
        images = {name: frames()[0] for name, frames in episode.images.items()}
        one.reset(Task(episode.task.instruction), seed=1)
        chunk = one.infer(Observation(images=images, proprio=episode.proprio[0], stamp_ns=0)).actions
        assert chunk.shape == (one.spec.pred_horizon, source.spec.action.dim)
    assert (chunk > 0.9).all(), "un-normalised with the statistics of the arm whose joints stand between 1 and 2"


def test_one_arm_alone_is_as_it_was(make_dataset, make_policy):
    policy, windows = make_policy(make_dataset())
    batch = policy.training_batch(windows.gather(np.arange(4)))
    assert set(batch) == {"proprio", "image.front", "image.wrist", "text", "actions", "mask"}
    assert batch["proprio"].shape == (4, 4)
    assert not policy.arms.several


def test_what_an_arm_lacks_changes_nothing(mixed):
    policy, batches, _ = mixed()
    for parameter in policy.model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    batch, model = batches(3), policy.model.eval()

    def answer(batch):
        torch.manual_seed(0)
        with torch.no_grad():
            noise = torch.randn(12, *model.head.noise_shape)
            return model(batch), model.sample(batch, noise) * batch["dims"][:, None]

    garbage = {key: value.clone() for key, value in batch.items()}
    absent = ~batch["present"]
    garbage["image.front"][absent[:, 0]] = 200
    garbage["image.ceiling"][absent[:, 2]] = 200
    garbage["actions"][~batch["dims"][:, None].expand_as(batch["actions"])] = 5
    for before, after in zip(answer(batch), answer(garbage)):
        torch.testing.assert_close(after, before)
    garbage["image.wrist"][:] = 200
    assert (answer(garbage)[1] - answer(batch)[1]).abs().max() > 1e-4


def test_batches_are_a_function_of_their_number_and_follow_the_weights(mixed):
    _, batches, _ = mixed(weights=(1, 9), batch_size=50)
    again = batches(7)
    assert all(torch.equal(value, again[key]) for key, value in batches(7).items())
    shares = [float(batches(number)["dims"][:, 4].float().mean()) for number in range(8)]
    assert np.mean(shares) == pytest.approx(0.9, abs=0.06)


def test_the_command_trains_on_both_and_says_so(make_dataset, other, tmp_path):
    dataset = make_dataset()
    settings = ["policy=cogact_l1", "preset=tiny", f"data={dataset.root}", f"mix=[{other.root}]", "mix_weights=[1,1]"]
    out = run(load(TrainConfig, "train", [*settings, f"out={tmp_path / 'run'}", "trainer.steps=3"]))
    assert set(load_policy(out).arms.specs) == {"test-arm", "five-joints"}
    assert str(other.root) in (out / "provenance.json").read_text()
    longer = [*settings, f"out={tmp_path / 'run'}", "trainer.steps=5", "resume=true"]
    assert run(load(TrainConfig, "train", longer)) == out


def test_a_vision_language_model_reads_both(mixed, tiny_vlm, tmp_path):
    vlm = tiny_vlm.save_tiny("paligemma", tmp_path / "vlm")
    policy, batches, _ = mixed(f"policy.vlm={{path: {vlm}, image_size: 56}}", batch_size=4)
    loss = policy.model(batches(1))
    loss.backward()
    assert torch.isfinite(loss)


def test_auxiliary_objectives_see_both(mixed):
    policy, batches, _ = mixed("policy.auxiliary.jepa.weight=1", "policy.auxiliary.taco.weight=0.1")
    assert torch.isfinite(policy.model(batches(0)))


def test_datasets_of_one_arm_are_normalised_together_or_refused(make_dataset, other, tiny):
    config, dataset = tiny(), make_dataset()
    windows = training_windows(dataset, config, holdout=0)
    sizes = {"image_size": 32, "pred_horizon": 4, "exec_horizon": 2}
    twice = [(dataset.spec, windows), (dataset.spec, windows)]
    assert len(specs_of(twice, **sizes)) == 1
    one, both = (fit_normalizers(parts, mode="minmax") for parts in (twice[:1], twice))
    assert one == both
    from dataclasses import replace

    spec, others = mixed_in(other, config)
    with pytest.raises(UnderstudyError, match="differ in cameras, proprio, actions or rate"):
        specs_of([(dataset.spec, windows), (replace(spec, embodiment="test-arm"), others)], **sizes)
    with pytest.raises(UnderstudyError, match="none of the cameras"):
        mixed_in(other, replace(config, cameras=("front",)))


def test_weights_must_fit(make_dataset, tiny):
    windows = training_windows(make_dataset(), tiny(), holdout=0)
    for wrong in ((1,), (1, 0), (1, float("nan"))):
        with pytest.raises(UnderstudyError, match="2 weights above 0"):
            MixtureSampler([windows, windows], wrong, batch_size=2, seed=0)
    sampler = MixtureSampler([windows, windows], (), batch_size=6, seed=0)
    assert sampler.shares.tolist() == [0.5, 0.5]
    assert sum(map(len, sampler.indices(4))) == 6


def test_the_most_of_each_decides_how_wide_a_batch_is(mixed):
    policy, _, _ = mixed()
    arms = policy.arms
    assert isinstance(arms, Embodiments)
    assert (arms.action_dim, arms.proprio_dim) == (5, 8)


def test_frames_are_drawn_by_their_quality_and_none_that_is_worth_nothing(make_dataset, tiny):
    windows = training_windows(make_dataset(), tiny(), holdout=0)
    quality = np.zeros(len(windows.ends))
    best, good = windows.samples[:2]
    quality[[best, good]] = 1.0, 0.5
    trusted = replace(windows, quality=quality)
    sampler = MixtureSampler([windows, trusted], (1, 1), batch_size=4000, seed=0)
    plain, drawn = sampler.indices(0)
    assert set(drawn) == {best, good}
    assert 1.7 < (drawn == best).sum() / (drawn == good).sum() < 2.3
    assert len(np.unique(plain)) > 2
    by_trust = MixtureSampler([windows, trusted], (), batch_size=2, seed=0)
    np.testing.assert_allclose(by_trust.shares[1], 1.5 / (1.5 + len(windows)))
    with pytest.raises(UnderstudyError, match="not to be trusted"):
        MixtureSampler([replace(windows, quality=np.zeros(len(windows.ends)))], (), batch_size=2, seed=0)
