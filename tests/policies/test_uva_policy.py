"""UVA from a dataset to a checkpoint: latents kept on disk, two stages, films, memory, and what is refused."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from policies.policy import load_policy
from policies.train import TrainConfig, run, training_windows
from policies.uva.latents import Autoencoder, latents_of
from policies.uva.policy import UVA
from vla.config import load
from vla.errors import UnderstudyError
from vla.representation.load import Representation
from vla.representation.vae import scaled, unscaled
from vla.types import Observation, Task

VAE = {"encoder": {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 1}, "least_width": 8}


@pytest.fixture
def vae(tmp_path):
    """An untrained autoencoder, as `vla pretrain` leaves it; its latents have a deviation of 2."""
    torch.manual_seed(0)
    made = Representation.create("vae", {**VAE, "channels": 4}, [])
    made.model.deviation.fill_(2.0)
    made.save(tmp_path / "vae")
    return tmp_path / "vae"


@pytest.fixture
def films(tmp_path):
    """Two short videos, one with a caption."""
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(2):
        writer = cv2.VideoWriter(str(folder / f"{number}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5.0, (32, 32))
        for frame in range(12):
            writer.write(np.full((32, 32, 3), 20 * frame, np.uint8))
        writer.release()
    (folder / "captions.csv").write_text("file,caption\n0.mp4,wipe the table\n1.mp4,lift the red cube\n")
    return folder


def settings(dataset, vae, out, *overrides):
    plain = ["policy=uva", "preset=tiny", f"data={dataset.root}", f"out={out}", f"policy.vae={vae}"]
    plain += ["trainer.precision=fp32", "trainer.log_every=1", "trainer.batch_size=4", "trainer.steps=3"]
    return load(TrainConfig, "train", [*plain, *overrides])


def observation(dataset, frame=3, stamp_ns=0):
    episode = dataset.episode(0)
    images = {name: decode()[frame] for name, decode in episode.images.items()}
    return Observation(images, episode.proprio[frame], stamp_ns)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_from_a_dataset_to_a_checkpoint_that_needs_nothing_else(make_dataset, vae, tmp_path):
    dataset, out = make_dataset(), tmp_path / "out"
    run(settings(dataset, vae, out))
    told = json.loads((out / "provenance.json").read_text())
    shutil.rmtree(vae)
    policy = load_policy(out)
    assert told["representation"]["weights"] == policy.autoencoder.weights
    policy.reset(Task("lift the red cube"), seed=3)
    first = policy.infer(observation(dataset)).actions
    assert first.shape == (16, 3)
    policy.reset(Task("lift the red cube"), seed=3)
    np.testing.assert_array_equal(policy.infer(observation(dataset)).actions, first)
    assert policy.foresee().shape == (4, 32, 32, 3)


def test_four_steps_and_four_more_are_eight(make_dataset, vae, tmp_path, films):
    dataset = make_dataset()
    more = ("trainer.schedule=constant", f"videos=[{films}]")
    run(settings(dataset, vae, tmp_path / "whole", "trainer.steps=8", *more))
    run(settings(dataset, vae, tmp_path / "parts", "trainer.steps=4", *more))
    run(settings(dataset, vae, tmp_path / "parts", "trainer.steps=8", *more, "resume=true"))
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_two_stages(make_dataset, vae, tmp_path, films):
    """Video alone, of films and of the demonstrations; then everything, from there."""
    dataset, shown = make_dataset(), f"videos=[{films}]"
    run(settings(dataset, vae, tmp_path / "one", shown, "policy.tasks=[video]"))
    both = settings(dataset, vae, tmp_path / "two", shown, f"start_from={tmp_path / 'one'}", "trainer.lr=0.0")
    run(both)
    one, two = (load_policy(tmp_path / name).model.state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert load_policy(tmp_path / "two").model.language.unknown_words("wipe the table") == 0
    with pytest.raises(UnderstudyError, match="other words"):
        run(settings(dataset, vae, tmp_path / "three", f"start_from={tmp_path / 'one'}"))


def test_latents_are_made_once_and_again_for_other_weights(vae, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    autoencoder, asked = Autoencoder.read(vae), []
    rows = autoencoder.rows
    monkeypatch.setattr(autoencoder, "rows", lambda images: asked.append(len(images)) or rows(images))
    kept = latents_of(frames, autoencoder, content="a")
    assert kept.shape == (70, 16, 8)
    np.testing.assert_allclose(kept[40:45], rows(frames[40:45]).numpy(), atol=2e-3)
    latents_of(frames, autoencoder, content="a")
    assert sum(asked) == 70
    other = Autoencoder(autoencoder.network, 0.25)
    assert other.weights != autoencoder.weights
    assert np.allclose(latents_of(frames, other, content="a"), kept.astype(np.float32) / 2, atol=1e-3)


def test_a_stopped_run_goes_on_with_its_latents(vae, monkeypatch):
    monkeypatch.setattr("vla.data.kept.NOTED", 1)
    frames, autoencoder, asked = np.zeros((100, 32, 32, 3), np.uint8), Autoencoder.read(vae), []
    rows = autoencoder.rows

    def make(images):
        asked.append(len(images))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return rows(images)

    monkeypatch.setattr(autoencoder, "rows", make)
    with pytest.raises(KeyboardInterrupt):
        latents_of(frames, autoencoder, content="b")
    assert len(latents_of(frames, autoencoder, content="b")) == 100
    assert asked == [32, 32, 32, 32, 4]


def test_latents_have_places_and_come_back_as_pictures(vae):
    autoencoder = Autoencoder.read(vae)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    rows = autoencoder.rows(images)
    posterior = autoencoder.network.encode(scaled(torch.from_numpy(images))).latent_dist
    torch.testing.assert_close(rows[0, 5, :4], posterior.mean[0, :, 1, 1] / 2)
    torch.testing.assert_close(rows[1, 6, 4:], posterior.std[1, :, 1, 2] / 2)
    expected = unscaled(autoencoder.network.decode(posterior.mean).sample)
    np.testing.assert_allclose(autoencoder.pictures(rows[None, ..., :4])[0], expected.numpy(), atol=1)


def test_an_autoencoder_of_diffusers_is_read(tmp_path):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    network = AutoencoderKL(**levels, block_out_channels=(8, 8, 8), norm_num_groups=4, latent_channels=4)
    autoencoder = Autoencoder(network, 0.5)
    autoencoder.save(tmp_path / "theirs")
    again, images = Autoencoder.read(tmp_path / "theirs"), np.zeros((1, 32, 32, 3), np.uint8)
    assert again.side(32) == 8
    torch.testing.assert_close(again.rows(images), autoencoder.rows(images))
    assert again.pictures(again.rows(images)[None, ..., :4]).shape == (1, 1, 32, 32, 3)


def test_it_begins_with_the_principal_components():
    """Pictures that lie in a space of few dimensions come back before anything is learned, their latents whitened."""
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(3, 3 * 8 * 8, generator=random)
    patches = torch.randn(64, 16, 3, generator=random) @ basis * 0.1 + 0.2
    images = functional.fold(patches.transpose(1, 2), 32, 8, stride=8)
    network = Representation.create("vae", {**VAE, "channels": 5}, []).model.encoder
    network.fit(images, least_deviation=0.05)
    latents = network.encode(images).latent_dist.mean
    torch.testing.assert_close(network.decode(latents).sample, images, atol=1e-3, rtol=0)
    assert 0.9 < latents[:, :3].square().mean() < 1.1


def test_no_weight_of_an_autoencoder_may_lack(vae, tmp_path):
    autoencoder = Autoencoder.read(vae)
    autoencoder.save(tmp_path / "theirs")
    assert Autoencoder.read(tmp_path / "theirs").weights == autoencoder.weights
    from safetensors.torch import load_file, save_file

    file = tmp_path / "theirs/diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    save_file({name: tensor for name, tensor in whole.items() if not name.startswith("analysis")}, file)
    with pytest.raises(UnderstudyError, match=r"lacks weights|cannot be read"):
        Autoencoder.read(tmp_path / "theirs")
    file.unlink()
    with pytest.raises(UnderstudyError, match="cannot be read"):
        Autoencoder.read(tmp_path / "theirs")
    with pytest.raises(UnderstudyError, match="no autoencoder"):
        Autoencoder.read(tmp_path / "nowhere")


def test_what_it_sees_of_an_episode_lies_a_stride_apart(make_dataset, vae, tmp_path, monkeypatch):
    """At inference as in training: the frames of the same times, the first one where there are none yet."""
    dataset, out = make_dataset(), tmp_path / "out"
    run(settings(dataset, vae, out, "policy.stride=2", "policy.exec_horizon=2"))
    policy = load_policy(out)
    policy.reset(Task("lift the red cube"))
    for frame in range(0, 9, 2):
        policy.infer(observation(dataset, frame, stamp_ns=frame * 100_000_000))
    windows = policy.prepared(training_windows(dataset, policy.config, holdout=0), dataset.hash())
    for last, frames in ((8, [2, 4, 6, 8]), (4, [0, 0, 2, 4])):
        asked = policy.later(windows, np.array([last]), np.random.default_rng(0))
        assert asked["history"].frames.tolist() == [frames]
        seen = np.stack([np.asarray(windows.frames["front"][frame]) for frame in frames])
        if last == 8:
            remembered = policy._batch([policy])["history.image.front"][0].numpy()
            np.testing.assert_allclose(remembered, seen, atol=5e-3)
    asked = policy.later(windows, np.array([4]), np.random.default_rng(0))
    assert asked["future"].frames.tolist() == [[6, 8, 8, 8]]


def test_rows_that_are_underway_stand_as_they_are(make_dataset, vae, tmp_path):
    from policies.policy import Underway

    dataset, out = make_dataset(), tmp_path / "out"
    run(settings(dataset, vae, out))
    policy = load_policy(out)
    policy.reset(Task("lift the red cube"))
    rows = np.full((6, 3), 0.5, np.float32)
    made = policy.infer(observation(dataset), Underway(rows, 2)).actions
    assert made.shape == (16, 3)
    assert (made[:2] == 0.5).all()
    assert not (made[2] == 0.5).all()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("policy.tasks=[polcy]",), "policy"),
        (("shift=2",), "latents"),
        (("policy.image_size=36",), "image_size"),
        (("videos=[{films}]", "video_share=1.5"), "video_share"),
    ],
)
def test_what_cannot_be_is_refused(given, told, make_dataset, vae, films, tmp_path):
    given = [one.format(films=films) for one in given]
    with pytest.raises(UnderstudyError, match=told):
        run(settings(make_dataset(), vae, tmp_path / "out", *given))


def test_cogact_learns_nothing_from_films(make_dataset, films, tmp_path):
    given = ["preset=tiny", f"data={make_dataset().root}", f"out={tmp_path / 'out'}", f"videos=[{films}]"]
    with pytest.raises(UnderstudyError, match="policy=uva"):
        run(load(TrainConfig, "train", given))


def test_its_class_is_loaded_by_name():
    from policies.policy import policy_class

    assert policy_class("uva") is UVA


def test_of_a_datasets_films_those_of_the_first_camera_are_learned(make_dataset, vae, tiny):
    """And their frames follow each other as those that the policy sees: every second one, at a stride of two."""
    dataset, config = make_dataset(), tiny("policy=uva", f"policy.vae={vae}", "policy.stride=2")
    policy = UVA.create(config, dataset.spec, training_windows(dataset, config, holdout=0))
    policy.prepared = lambda windows, content: windows
    windows = policy.film_samples(UVA.films(config, [dataset.root], dataset.spec))
    lengths = [info.length for info in dataset.episodes]
    assert len(windows) == sum((length + 1) // 2 for length in lengths)
    first = windows.samples[: (lengths[0] + 1) // 2]
    front = dataset.episode(0).images["front"]()[::2]
    seen = windows.frames["front"][first]
    wrist = dataset.episode(0).images["wrist"]()[::2]
    assert np.abs(seen.astype(int) - front).mean() < 0.7 * np.abs(seen.astype(int) - wrist).mean()  # JPEGs of noise
    assert windows.gather(first[:2]).actions.shape == (2, 8, 0)
