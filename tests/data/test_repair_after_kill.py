import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vla.data.lerobot import open_dataset
from vla.data.repair import repair
from vla.errors import UnderstudyError

REPO = Path(__file__).resolve().parents[2]

RECORDER = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from vla.data.lerobot import DatasetSpec, EpisodeWriter
from vla.types import ActionSpec, CameraSpec, Episode, Task
action = ActionSpec("joint_position", ("a",), (-1.0,), (1.0,))
spec = DatasetSpec(10.0, (CameraSpec("top", 48, 48),), ("p", "q"), action, "arm", storage=sys.argv[3])
with EpisodeWriter(sys.argv[2], spec, resume=True) as writer:
    while True:
        rng = np.random.default_rng(writer.num_episodes)
        length = int(rng.integers(1, 30))
        images = rng.integers(0, 256, (length, 48, 48, 3), np.uint8)
        episode = Episode({"top": lambda: images}, rng.normal(size=(length, 2)).astype(np.float32),
                          rng.normal(size=(length, 1)).astype(np.float32), Task(f"task {writer.num_episodes % 3}"),
                          10.0, "arm", bool(writer.num_episodes % 2), "", np.arange(length), writer.num_episodes)
        print(writer.save(episode), flush=True)
"""


@pytest.mark.parametrize("storage", ["image", "video"])
def test_killed_at_random_times_every_saved_episode_is_there_bit_for_bit(tmp_path, storage):
    root, saved, waits = tmp_path / "d", -1, random.Random(7)
    for _ in range(3):
        command = [sys.executable, "-c", RECORDER, str(REPO), str(root), storage]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as recorder:
            saved = int(recorder.stdout.readline())
            time.sleep(waits.uniform(0, 0.15))
            recorder.send_signal(signal.SIGKILL)
            saved = max([saved, *(int(line) for line in recorder.stdout.read().splitlines())])
        try:
            open_dataset(root)
        except UnderstudyError:
            repair(root)
    repair(root)
    dataset = open_dataset(root)
    assert len(dataset.episodes) >= saved + 1 >= 3
    for index in range(saved + 1):
        rng = np.random.default_rng(index)
        length = int(rng.integers(1, 30))
        images = rng.integers(0, 256, (length, 48, 48, 3), np.uint8)
        episode = dataset.episode(index)
        np.testing.assert_array_equal(episode.proprio, rng.normal(size=(length, 2)).astype(np.float32))
        np.testing.assert_array_equal(episode.actions, rng.normal(size=(length, 1)).astype(np.float32))
        assert (episode.task.instruction, episode.success) == (f"task {index % 3}", bool(index % 2))
        assert episode.images["top"]().shape == images.shape
        if storage == "image":
            np.testing.assert_array_equal(episode.images["top"](), images)
