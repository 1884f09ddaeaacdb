"""``vla predict``: films of what is expected, and actions for films that have none."""

import json

import numpy as np
import pytest

from policies.policy import load_policy
from policies.train import TrainConfig, run
from policies.uva import inverse
from policies.uva.inverse import label
from sim.label import LabelConfig, label_videos
from sim.predict import Judge, Shown, VideoConfig, predict_videos, video
from vla.config import load
from vla.data.lerobot import open_dataset
from vla.errors import UnderstudyError


@pytest.fixture
def made(video_checkpoint):
    return video_checkpoint


@pytest.mark.parametrize("given", ["video", "dynamics", "policy_video"])
def test_a_film_and_its_figures(made, given, tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(made / "cache"))
    config = VideoConfig(made / "policy", made / "data", films=1, out=tmp_path, given=given)
    found = predict_videos(config)
    assert set(found) == {"predicted", "last picture", "autoencoder"}
    assert all(np.isfinite(list(one.values())).all() for one in found.values())
    assert found["predicted"] == predict_videos(config)["predicted"]
    assert [file.name for file in tmp_path.glob("*.mp4")] == ["episode-0.mp4"]


def test_the_command_writes_what_it_found(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(made / "cache"))
    assert video([f"policy={made / 'policy'}", f"data={made / 'data'}", f"out={tmp_path}", "episodes=1"]) == 0
    assert "SSIM" in capsys.readouterr().out
    assert json.loads((tmp_path / "video.json").read_text())["predicted"]["clips"] >= 1


def test_the_judge_tells_a_copy_from_noise(made):
    policy, random = load_policy(made / "policy"), np.random.default_rng(0)
    truth = random.integers(0, 256, (12, 4, 32, 32, 3), dtype=np.uint8)
    near = np.clip(truth.astype(int) + random.integers(-8, 9, truth.shape), 0, 255).astype(np.uint8)
    judge = Judge(policy.autoencoder, frames=4)
    judge.see(Shown(truth, near, np.roll(truth, 1, axis=0), truth))
    found = judge.found()
    assert found["predicted"]["psnr_db"] == pytest.approx(
        20 * np.log10(255 / np.sqrt(np.mean((truth.astype(float) - near) ** 2))), abs=0.1
    )
    assert found["autoencoder"]["ssim"] == pytest.approx(1, abs=1e-4)
    assert found["autoencoder"]["frechet"] < found["predicted"]["frechet"]
    assert found["last picture"]["frechet"] == pytest.approx(0, abs=1e-2)  # the same clips in another order
    assert found["last picture"]["psnr_db"] < 10


def test_a_policy_without_pictures_is_refused(tmp_path):
    with pytest.raises(UnderstudyError, match="not a checkpoint"):
        predict_videos(VideoConfig(tmp_path, tmp_path))


def test_every_action_is_told_by_the_windows_around_it(made, monkeypatch):
    """Windows that tell the time of each action: their mean is that time, and where they differ quality falls."""
    policy, asked = load_policy(made / "policy"), []
    horizon, dim = policy.config.pred_horizon, policy.spec.action.dim

    def told(policy, rows, begins, instruction, draws, generator):
        asked.extend(begins.tolist())
        times = begins[:, None] + np.arange(horizon)
        told = np.repeat(times[:, None, :, None] / 100, draws, axis=1).repeat(dim, axis=3)
        told[:, 0, :, 0] += 0.2 * (times > 20)
        return told

    monkeypatch.setattr(inverse, "_told", told)
    normalizer = policy.normalizers.get(policy.embodiment, "action")
    made_labels = label(policy, np.zeros((33, 16, 8)), "press the button")
    assert asked == list(range(-4, 29, 4))
    expected = np.repeat(np.arange(33)[:, None] / 100, dim, axis=1)
    expected[21:, 0] += 0.1
    np.testing.assert_allclose(made_labels.actions, normalizer.unnormalize(expected.astype(np.float32)), atol=1e-5)
    assert made_labels.quality[:21] == pytest.approx(1)
    assert made_labels.quality[21:] == pytest.approx(np.exp(-0.1 / dim / inverse.DOUBT), abs=1e-3)


def test_films_become_a_dataset_that_a_policy_trains_on(made, tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(made / "cache"))
    config = LabelConfig(made / "policy", made / "data", tmp_path / "labelled")
    assert len(label_videos(config)) == 4  # both cameras' films
    assert label_videos(config) == []  # all are there
    dataset, recorded = open_dataset(tmp_path / "labelled"), open_dataset(made / "data")
    one = dataset.episode(0)
    assert one.length == recorded.episodes[0].length
    assert one.task.instruction == "press the button"
    assert one.extras["quality"].shape == (one.length,)
    assert ((one.extras["quality"] > 0) & (one.extras["quality"] <= 1)).all()
    np.testing.assert_array_equal(one.images["front"](), recorded.episode(0).images["front"]())
    given = ["preset=tiny", f"data={tmp_path / 'labelled'}", f"out={tmp_path / 'trained'}", "trainer.steps=2"]
    run(load(TrainConfig, "train", given))
    assert load_policy(tmp_path / "trained").spec.proprio_names == ()
