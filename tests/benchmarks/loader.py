"""Training samples a second: our decoded-frame store beside LeRobotDataset and torch's DataLoader.

Both read the same dataset: two cameras and chunks of 16 actions, in batches of 64, recorded here by a simulated expert.
Ours is what ``vla train`` does for each batch, normalisation and words included; LeRobot's is its dataset with
``delta_timestamps``, with 0 or 2 workers, whichever is faster. No model runs, and images are not augmented, except in
the row with shifted images, which is how ``vla train`` has them.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Literal
from unittest.mock import patch

import numpy as np

from policies.cogact import CogACT
from policies.cogact_model import CogACTConfig
from policies.train import TrainingBatches, training_windows
from sim.collect import Attempt, record
from sim.pool import default_workers, run_jobs
from sim.suite import TRAIN_SEEDS, make_suite
from vla.backbones.small import SmallVLMConfig
from vla.bench import Row, Times, interleaved, parser, write_bench
from vla.data.frames import fit_image
from vla.data.lerobot import DatasetSpec, EpisodeWriter, open_dataset
from vla.data.windows import Windows
from vla.errors import UnderstudyError
from vla.training.trainer import TrainerConfig
from vla.types import Episode

BATCH, HORIZON = 64, 16
CAMERAS, TASK = ("front", "wrist"), "tabletop/lift-red-cube"
OUR_TURN, THEIR_TURN = 64, 4
"""Batches in one turn: of theirs as few as keep two workers busy to the end, of ours as many as take a tenth second."""
LEROBOT = "lerobot.datasets.lerobot_dataset"


@dataclass(frozen=True)
class Setting:
    """One dataset: pixels a side, and how its images are stored."""

    size: int
    storage: Literal["image", "video"]

    def __str__(self) -> str:
        return f"{self.size} px {self.storage}"


HEADLINE = Setting(96, "video")
SETTINGS = (HEADLINE, Setting(96, "image"), *(Setting(size, kind) for size in (64, 128) for kind in ("video", "image")))


@dataclass(frozen=True)
class Result:
    """What one setting gave: samples a second, and what ours costs once."""

    setting: Setting
    times: Times
    decode_s: float
    samples: int

    def rate(self, name: str) -> float:
        """Samples a second, from the median turn."""
        return BATCH * turn(name) / self.times.medians[name]

    @property
    def peer(self) -> str:
        """LeRobot's faster loader."""
        return max((name for name in self.times.samples if name.startswith("lerobot")), key=self.rate)

    def ratio(self, ours: str) -> float:
        """How many times more samples ours gives than LeRobot's faster loader."""
        return self.times.ratio(ours, self.peer) * turn(ours) / turn(self.peer)

    @property
    def break_even(self) -> float:
        """Epochs after which having decoded everything once has paid off."""
        return self.decode_s / (self.samples / self.rate(self.peer) - self.samples / self.rate("ours"))

    def rows(self) -> Iterator[Row]:
        """For the table."""
        for name in self.times.samples:
            yield Row(f"{self.setting}: {name}", self.rate(name), "samples/s")
        yield Row(f"{self.setting}: ours, decoding once", self.decode_s, "s")


def turn(name: str) -> int:
    """Batches in one turn of a candidate."""
    return OUR_TURN if name.startswith("ours") else THEIR_TURN


def demonstrations(episodes: int, size: int) -> list[Episode]:
    """What an expert shows, as in ``vla collect``; every worker has LeRobot imported, for its loaders later."""
    options = f'{{"cameras": ["{CAMERAS[0]}", "{CAMERAS[1]}"], "image_size": {size}}}'
    attempts = [Attempt(TASK, seed, 0.15, 4, options) for seed in TRAIN_SEEDS[:episodes]]
    preload = ("sim.collect", "sim.tasks.tabletop", LEROBOT)
    tried = run_jobs(record, attempts, workers=default_workers(), preload=preload)
    return [episode for episode in tried if episode is not None]


def write(root: Path, episodes: Sequence[Episode], setting: Setting) -> None:
    """The episodes as a dataset of that size and storage."""
    suite = make_suite("tabletop", cameras=CAMERAS, image_size=setting.size)
    spec = DatasetSpec(
        fps=suite.spec.control_hz,
        cameras=suite.spec.cameras,
        proprio_names=suite.spec.proprio_names,
        action=suite.spec.action,
        embodiment=suite.spec.embodiment,
        storage=setting.storage,
    )
    with EpisodeWriter(root, spec) as writer:
        for episode in episodes:
            small = {name: partial(shrunk, frames, setting.size) for name, frames in episode.images.items()}
            writer.save(replace(episode, images=small))


def shrunk(frames: Callable[[], np.ndarray], size: int) -> np.ndarray:
    """All frames [T, size, size, 3]."""
    return np.stack([fit_image(frame, size) for frame in frames()])


def our_windows(root: Path, size: int) -> tuple[CogACT, Windows, float]:
    """A policy, for its normalisers and its words, the samples, and the seconds that decoding them once took."""
    dataset = open_dataset(root)
    config = CogACTConfig(backbone=SmallVLMConfig(image_size=size), pred_horizon=HORIZON)
    start = perf_counter()
    windows = training_windows(dataset, config, holdout=0)
    seconds = perf_counter() - start
    return CogACT.create(config, dataset.spec, windows), windows, seconds


def lerobot_dataset(root: Path) -> Any:
    """LeRobot's view of the dataset, with the chunk of actions that follows each frame."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    fps = open_dataset(root).spec.fps
    return LeRobotDataset(
        "local/bench",
        root=root,
        delta_timestamps={"action": [step / fps for step in range(HORIZON)]},
        video_backend=video_backend(),
        return_uint8=True,
    )


def video_backend() -> str:
    """LeRobot's faster decoder where its libraries are found, else its other one."""
    try:
        import torchcodec  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        return "pyav"
    return "torchcodec"


def lerobot_loader(dataset: Any, workers: int) -> Any:
    """A loader whose every pass is one turn, so that no worker decodes ahead while ours is timed."""
    from torch.utils.data import DataLoader, RandomSampler

    sampler = RandomSampler(dataset, num_samples=THEIR_TURN * BATCH)
    parallel = {"persistent_workers": True, "multiprocessing_context": "forkserver"} if workers else {}
    return DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers, **parallel)


def measure(root: Path, setting: Setting, rounds: int) -> Result:
    """Both loaders on the dataset in ``root``, turn by turn."""
    policy, windows, decode_s = our_windows(root, setting.size)
    dataset = lerobot_dataset(root)
    refuse_different(windows, dataset)

    def ours(shift: int) -> Callable[[], None]:
        batches = TrainingBatches(policy, windows, TrainerConfig(batch_size=BATCH), shift=shift)
        numbers = count()

        def once() -> None:
            for number in islice(numbers, OUR_TURN):
                batches(number)

        return once

    def theirs(workers: int) -> Callable[[], None]:
        loader = lerobot_loader(dataset, workers)

        def once() -> None:
            assert sum(len(batch["action"]) for batch in loader) == THEIR_TURN * BATCH

        return once

    candidates = {f"lerobot, {workers} workers": theirs(workers) for workers in (0, 2)}
    times = interleaved({**candidates, "ours": ours(0), "ours, images shifted": ours(4)}, rounds)
    return Result(setting, times, decode_s, len(windows))


def refuse_different(windows: Windows, dataset: Any) -> None:
    """Raise unless both give the same images, up to two grey levels, and the same actions."""
    chosen = np.linspace(0, len(dataset) - 1, 5).astype(int)
    ours = windows.gather(chosen)
    for row, index in enumerate(chosen):
        item, real = dataset[int(index)], ours.mask[row]
        same = np.array_equal(item["action"].numpy()[real], ours.actions[row][real])
        for name, frames in ours.images.items():
            image = item[f"observation.images.{name}"].numpy().transpose(1, 2, 0).astype(np.float32)
            levels = image if dataset.meta.video_keys else 255 * image  # LeRobot gives stored images in 0…1
            same &= bool(np.abs(levels - frames[row]).max() <= 2)
        if not same:
            raise UnderstudyError(f"sample {index} differs between the two loaders, so their speeds do not compare")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the datasets and for everybody's caches, removed afterwards; nothing asks the network."""
    with TemporaryDirectory(prefix="understudy-bench-") as folder:
        root = Path(folder)
        own = {"UNDERSTUDY_CACHE": str(root / "ours"), "HF_HOME": str(root / "theirs"), "HF_HUB_OFFLINE": "1"}
        with patch.dict(os.environ, own):
            yield root


def main(argv: list[str]) -> int:
    """Record, measure, print, write."""
    options = parser("loader", __doc__).parse_args(argv)
    with scratch() as folder:
        episodes = demonstrations(120 if options.long else 40, max(setting.size for setting in SETTINGS))
        results = {}
        for setting in SETTINGS:
            root = folder / str(setting).replace(" ", "-")
            write(root, episodes, setting)
            results[setting] = measure(root, setting, rounds=10 if options.long else 4)
    headline = results[HEADLINE]
    ratios = {
        "loader_vs_lerobot": headline.ratio("ours"),
        "loader_vs_lerobot_image": results[Setting(HEADLINE.size, "image")].ratio("ours"),
        "loader_shifted_vs_lerobot": headline.ratio("ours, images shifted"),
    }
    rows = [row for result in results.values() for row in result.rows()]
    write_bench("loader", rows, ratios, options.json, noisy=headline.times.noisy, notes=notes(headline))
    return 0


def notes(headline: Result) -> list[str]:
    """What a reader has to know about the numbers."""
    cost = f"{headline.decode_s:.2f} s for {headline.samples} frames of {len(CAMERAS)} cameras at {headline.setting}"
    peer = f"LeRobot's faster loader (for video: {headline.peer.removeprefix('lerobot, ')}, {video_backend()})"
    return [
        f"the ratios are at {HEADLINE.size} px, against {peer}",
        f"ours decodes every frame once, before training ({cost}), LeRobot again in every epoch",
        f"decoding once pays off after {headline.break_even:.2f} epochs",
        "the dataset is small, and both read it from memory: one that is larger than memory would slow ours down",
        "the videos are H.264, one file an episode: quicker to decode than the AV1 that LeRobot itself writes",
        "ours makes the whole batch for the model (normalised, words as numbers); LeRobot's preprocessor is not timed",
    ]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
