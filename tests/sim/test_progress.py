"""How far from the goal each frame of a video is: the figures, the plot and the film."""

import json

import cv2
import numpy as np
import pytest

from policies.train import TrainConfig
from policies.train import run as train
from sim.collect import CollectConfig
from sim.collect import run as collect
from sim.progress import ProgressConfig, main, progress
from vla.config import load
from vla.data.lerobot import open_dataset
from vla.data.video import encode_mp4
from vla.errors import UnderstudyError


@pytest.fixture(scope="module")
def grabbed(tmp_path_factory):
    """A checkpoint that was hardly trained, and the film of a demonstration."""
    folder = tmp_path_factory.mktemp("progress")
    suite = {"image_size": 32, "cameras": ["wrist"]}
    tasks = ("tabletop/touch-red-cube",)
    data = collect(CollectConfig(tasks=tasks, episodes=1, out=folder / "data", suite=suite, by="grabber", workers=0))
    given = ["policy=manipulate_by_seeing", "preset=tiny", "trainer.steps=1", f"data={data}"]
    train(load(TrainConfig, "train", [*given, f"out={folder / 'policy'}"]))
    frames = open_dataset(data).episode(0).images["wrist"]()
    (folder / "film.mp4").write_bytes(encode_mp4(frames, 20.0))
    return folder, frames


def test_the_distance_falls_to_that_of_the_goal_itself(grabbed, tmp_path):
    folder, frames = grabbed
    found = progress(ProgressConfig(folder / "policy", folder / "film.mp4", out=tmp_path))
    assert len(found["distance"]) == len(frames)
    assert found["distance"][-1] == pytest.approx(0, abs=0.02)
    assert max(found["distance"]) > found["distance"][-1]
    assert json.loads((tmp_path / "progress.json").read_text()) == found
    assert (tmp_path / "progress.png").stat().st_size > 3000
    film = cv2.VideoCapture(str(tmp_path / "progress.mp4"))
    assert int(film.get(cv2.CAP_PROP_FRAME_COUNT)) == len(frames)
    assert film.get(cv2.CAP_PROP_FRAME_HEIGHT) == 36
    cv2.imwrite(str(tmp_path / "goal.png"), frames[0][..., ::-1])
    away = progress(ProgressConfig(folder / "policy", folder / "film.mp4", tmp_path / "goal.png", tmp_path))
    assert away["distance"][0] < np.mean(away["distance"])


def test_the_command_says_what_it_found(grabbed, tmp_path, capsys):
    folder, _ = grabbed
    assert main([f"policy={folder / 'policy'}", f"video={folder / 'film.mp4'}", f"out={tmp_path}"]) == 0
    assert "rank correlation with time" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "vla progress policy=" in capsys.readouterr().out


def test_a_wide_film_is_seen_as_the_robots_camera_is_whole(grabbed, tmp_path):
    folder, frames = grabbed
    (tmp_path / "wide.mp4").write_bytes(encode_mp4(np.concatenate([frames, frames[:, :, ::-1]], axis=2), 20.0))
    found = progress(ProgressConfig(folder / "policy", tmp_path / "wide.mp4", out=tmp_path))
    assert found["distance"][-1] == pytest.approx(0, abs=0.02)


def test_a_policy_without_a_distance_is_refused(grabbed, tmp_path):
    folder, _ = grabbed
    given = ["policy=manipulate_by_seeing", "preset=tiny", "trainer.steps=1", "policy.learns=cloning"]
    train(load(TrainConfig, "train", [*given, f"data={folder / 'data'}", f"out={tmp_path / 'cloning'}"]))
    with pytest.raises(UnderstudyError, match="has no distance"):
        progress(ProgressConfig(tmp_path / "cloning", folder / "film.mp4"))
    with pytest.raises(UnderstudyError, match="not a checkpoint"):
        progress(ProgressConfig(tmp_path, folder / "film.mp4"))
