"""CogACT: training and inference see the same, a checkpoint is the policy, and what does not fit is refused."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from policies.policy import Underway, load_policy
from policies.train import TrainingBatches
from vla.backbones.small import PAD
from vla.data.frames import fit_image
from vla.errors import UnderstudyError
from vla.training.trainer import TrainerConfig
from vla.types import Observation, Task


def observation_of(dataset, frame):
    """Frame ``frame`` of the dataset as a robot would see it, and the task of its episode."""
    for index, info in enumerate(dataset.episodes):
        if frame < info.length:
            episode = dataset.episode(index)
            images = {name: decode()[frame] for name, decode in episode.images.items()}
            return Observation(images, episode.proprio[frame], int(episode.stamps_ns[frame])), episode.task
        frame -= info.length
    raise IndexError(frame)


def seen_at_inference(policy, monkeypatch, observation, task):
    """What reaches the model when the policy is asked."""
    seen, sample = [], policy.model.sample

    def spy(batch, noise, known=None):
        seen.append({key: value.clone() for key, value in batch.items()})
        return sample(batch, noise, known)

    with monkeypatch.context() as patch:
        patch.setattr(policy.model, "sample", spy)
        policy.reset(task)
        policy.infer(observation)
    (batch,) = seen
    return batch


def assert_same_sample(seen, trained_on, place, *, pad):
    """The one sample of ``seen`` is that at ``place`` of ``trained_on``, but for padding after the words."""
    for key, value in seen.items():
        here, there = value[0], trained_on[key][place]
        if key == "text":
            assert (there[len(here) :] == pad).all()
            there = there[: len(here)]
        assert here.dtype == there.dtype, key
        assert torch.equal(here, there), key


@pytest.mark.parametrize("size", [(32, 32), (80, 80), (48, 60), (20, 24)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_golden_sample(make_dataset, make_policy, monkeypatch, tmp_path, size):
    """A frame is the same to the bit in training and at inference, also through a checkpoint."""
    dataset = make_dataset(*size)
    policy, windows = make_policy(dataset)
    policy.save(tmp_path / "saved")
    loaded = load_policy(tmp_path / "saved")
    trainer = TrainerConfig(batch_size=len(windows))
    trained_on = TrainingBatches(policy, windows, trainer, shift=0)(0)
    frames = TrainingBatches(policy, windows, trainer, shift=0)._sampler.indices(0)
    for place in (0, 7, len(windows) - 1):
        observation, task = observation_of(dataset, int(frames[place]))
        for asked in (policy, loaded):
            seen = seen_at_inference(asked, monkeypatch, observation, task)
            assert set(seen) == set(trained_on) - {"actions", "mask"}
            assert_same_sample(seen, trained_on, place, pad=policy.model.backbone.tokenizer.token_to_id(PAD))


def test_training_actions_come_back_through_unnormalisation(make_dataset, make_policy):
    dataset = make_dataset()
    policy, windows = make_policy(dataset, "policy.normalization=minmax")
    batch = windows.gather(windows.samples)
    normalized = policy.training_batch(batch)["actions"].numpy()
    assert np.abs(normalized).max() <= 1
    back = policy.normalizers.get("test-arm", "action").unnormalize(normalized)
    np.testing.assert_allclose(back, batch.actions, atol=1e-6)


def test_the_shift_moves_pictures_and_nothing_else(make_dataset, make_policy):
    policy, windows = make_policy(make_dataset())
    trainer = TrainerConfig(batch_size=8)
    still, moved, again = (TrainingBatches(policy, windows, trainer, shift=shift)(3) for shift in (0, 8, 8))
    for key in still:
        assert torch.equal(moved[key], again[key]), key
        assert torch.equal(moved[key], still[key]) is not key.startswith("image."), key


@pytest.mark.parametrize("head", ["diffusion", "regression"])
def test_a_checkpoint_is_the_policy(make_dataset, make_policy, tmp_path, head):
    dataset = make_dataset(48, 48)
    policy, _ = make_policy(dataset, f"policy.head={head}")
    policy.save(tmp_path / "saved")
    loaded = load_policy(tmp_path / "saved")
    assert loaded.spec.checkpoint == str(tmp_path / "saved")
    observation, task = observation_of(dataset, 4)
    chunks = []
    for asked in (policy, loaded):
        asked.reset(task, seed=5)
        chunks.append([asked.infer(observation).actions for _ in range(3)])
    np.testing.assert_array_equal(chunks[0], chunks[1])
    assert np.ptp(chunks[0][0][:, 0]) > 0


def saved(make_dataset, make_policy, tmp_path):
    policy, _ = make_policy(make_dataset())
    policy.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "normalizer.json", "tokenizer.json"])
def test_a_checkpoint_without_one_of_its_files_is_refused(make_dataset, make_policy, tmp_path, name):
    folder = saved(make_dataset, make_policy, tmp_path)
    (folder / name).unlink()
    with pytest.raises(UnderstudyError, match=f"lacks {name}"):
        load_policy(folder)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UnderstudyError, match=r"is not a checkpoint: it has no policy_spec\.json"):
        load_policy(tmp_path)
    (tmp_path / "policy_spec.json").write_text(json.dumps({"policy": "cogakt", "spec": {}}))
    with pytest.raises(UnderstudyError, match="did you mean 'cogact'"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("language_width: 48", "language_width: 64"),
        ("head: diffusion", "head: regression"),
        ("head: diffusion", "head: difusion"),
        ("exec_horizon: 4", "exec_horizons: 4"),
    ],
)
def test_an_altered_config_is_refused(make_dataset, make_policy, tmp_path, before, after):
    folder = saved(make_dataset, make_policy, tmp_path)
    text = (folder / "config.yaml").read_text()
    assert before in text
    (folder / "config.yaml").write_text(text.replace(before, after))
    with pytest.raises(UnderstudyError, match=r"config\.yaml"):
        load_policy(folder)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_a_weight_too_few_or_too_many_is_refused(make_dataset, make_policy, tmp_path, change):
    folder = saved(make_dataset, make_policy, tmp_path)
    weights = load_file(folder / "model.safetensors")
    if change == "missing":
        weights.pop("backbone.cognition")
    else:
        weights["backbone.cognitions"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UnderstudyError, match=r"(?s)does not fit .*cognition"):
        load_policy(folder)


def test_weights_that_do_not_fit_are_told_in_one_line(make_dataset, make_policy, tmp_path):
    folder = saved(make_dataset, make_policy, tmp_path)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("language_width: 48", "language_width: 64"))
    with pytest.raises(UnderstudyError) as error:
        load_policy(folder)
    assert "\n" not in str(error.value)


def test_torn_weights_are_refused(make_dataset, make_policy, tmp_path):
    folder = saved(make_dataset, make_policy, tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnderstudyError, match=r"model\.safetensors"):
        load_policy(folder)


def test_what_an_observation_lacks_is_named(make_dataset, make_policy):
    dataset = make_dataset()
    policy, _ = make_policy(dataset)
    observation, task = observation_of(dataset, 0)
    policy.reset(task)
    blind = Observation({"front": observation.images["front"]}, observation.proprio, 0)
    with pytest.raises(UnderstudyError, match="lacks the camera wrist; it has front"):
        policy.infer(blind)
    with pytest.raises(UnderstudyError, match=r"4 proprio entries \(x, y, z, opening\), got \(3,\)"):
        policy.infer(Observation(observation.images, observation.proprio[:3], 0))


def test_the_backbone_is_asked_once_however_many_steps_the_head_takes(make_dataset, make_policy):
    policy, _ = make_policy(make_dataset(), "policy.diffusion.guidance=2.0", "policy.diffusion.ddim_steps=20")
    observation, task = observation_of(make_dataset(name="same"), 0)
    calls = {"backbone": [], "denoiser": []}
    hooks = [
        policy.model.backbone.register_forward_hook(lambda m, a, out: calls["backbone"].append(len(out.tokens))),
        policy.model.head.denoiser.register_forward_hook(lambda m, a, out: calls["denoiser"].append(len(out))),
    ]
    policy.reset(task)
    policy.infer(observation)
    for hook in hooks:
        hook.remove()
    assert calls == {"backbone": [1], "denoiser": [2] * 20}


def test_padding_is_left_out_of_the_loss_when_asked(make_dataset, make_policy):
    dataset = make_dataset()
    for masked in (True, False):
        policy, windows = make_policy(dataset, "policy.head=regression", f"policy.mask_padding={masked}")
        batch = policy.training_batch(windows.gather(windows.samples))
        assert not batch["mask"].all()
        garbage = {**batch, "actions": torch.where(batch["mask"][..., None], batch["actions"], torch.tensor(9.0))}
        same = torch.equal(policy.model(batch), policy.model(garbage))
        assert same is masked


def test_strange_words_are_told(make_dataset, make_policy, caplog):
    policy, _ = make_policy(make_dataset())
    with caplog.at_level(logging.WARNING):
        policy.reset(Task("lift the drawer"))
        assert not caplog.records
        policy.reset(Task("lift the zebra gently"))
    assert "zebra, gently" in caplog.text


def test_pictures_of_any_size_are_squeezed_as_in_training(make_dataset, make_policy, monkeypatch):
    dataset = make_dataset(32, 32)
    policy, _ = make_policy(dataset)
    observation, task = observation_of(dataset, 0)
    large = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    images = {"front": large, "wrist": observation.images["wrist"]}
    seen = seen_at_inference(policy, monkeypatch, Observation(images, observation.proprio, 0), task)
    np.testing.assert_array_equal(seen["image.front"][0], fit_image(large, 32))


def test_a_gripper_that_is_only_open_or_closed_stays_so(make_dataset, make_policy):
    dataset = make_dataset()
    policy, windows = make_policy(dataset)
    batch = policy.training_batch(windows.gather(windows.samples))
    assert set(np.unique(batch["actions"][..., 2])) == {0.0, 1.0}
    observation, task = observation_of(dataset, 0)
    policy.reset(task)
    assert set(np.unique(policy.infer(observation).actions[:, 2])) <= {0.0, 1.0}


@pytest.mark.parametrize("head", ["diffusion", "flow", "unet", "regression"])
def test_a_chunk_goes_on_from_what_is_underway(head, make_dataset, make_policy):
    dataset = make_dataset()
    policy, _ = make_policy(dataset, f"policy.head={head}")
    observation, task = observation_of(dataset, 3)
    policy.reset(task, seed=1)
    first = policy.infer(observation).actions
    for how in ("guided", "identity"):
        policy.reset(task, seed=1)
        going_on = policy.infer(observation, Underway(first[4:], 2, how)).actions
        np.testing.assert_allclose(going_on[:2], first[4:6], rtol=1e-4, atol=1e-4)
        assert np.isfinite(going_on).all()
    with pytest.raises(UnderstudyError, match="max_delay"):
        policy.infer(observation, Underway(first[4:], 2, "trained"))


def test_a_policy_trained_on_prefixes_goes_on_from_them(make_dataset, make_policy, tmp_path):
    dataset = make_dataset()
    policy, _ = make_policy(dataset, "policy.head=flow", "policy.flow.max_delay=4")
    policy.save(tmp_path / "saved")
    policy, (observation, task) = load_policy(tmp_path / "saved"), observation_of(dataset, 3)
    policy.reset(task, seed=1)
    first = policy.infer(observation).actions
    going_on = policy.infer(observation, Underway(first[4:], 3, "trained")).actions
    np.testing.assert_allclose(going_on[:3], first[4:7], rtol=1e-4, atol=1e-4)
    with pytest.raises(UnderstudyError, match="one time for all rows"):
        make_policy(dataset, "policy.head=unet", "policy.diffusion.max_delay=2")
