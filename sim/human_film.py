"""One film of a demonstrator, or of the robot, at a task: a pure function of its `FilmJob`.

    film = film(FilmJob("tabletop/lift-red-cube", tier="T1", seed=7))
    film.frames, film.caption, film.labels["keypoints_2d"]

Tiers say how far the demonstrator's film is from the robot's of the same seed:

- ``T0``: the robot's episode frame by frame, the tool where the gripper is;
- ``T1``: the same scene, look and camera, its own way of doing it;
- ``T2``: another layout, look and camera;
- ``T3``: as T2, and what is handled is another instance (a ball for a cube, another handle, …).
"""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from zlib import crc32

import numpy as np

from sim.human_scene import CameraName
from sim.human_tools import DemonstratorName
from sim.suite import TEST_SEEDS, TRAIN_SEEDS
from sim.tasks.tabletop_scene import RANDOMIZABLE
from vla.errors import UnderstudyError, unknown

Tier = Literal["T0", "T1", "T2", "T3"]
Embodiment = Literal["hand", "grabber", "sphere", "robot"]
TIERS, EMBODIMENTS = get_args(Tier), get_args(Embodiment)
assert {*get_args(DemonstratorName), "robot"} == {*EMBODIMENTS}


@dataclass(frozen=True)
class FilmJob:
    """What decides a film. ``seed``: of the robot's scene; ``failures``: share of a demonstrator's attempts that fail.

    ``camera``: for Meta-World ``front`` or ``side``; ``randomize``: any of the table-top suite's kinds.
    """

    task: str
    tier: Tier = "T1"
    seed: int = 0
    embodiment: Embodiment = "hand"
    image_size: int = 96
    camera: CameraName = "front"
    exogenous: bool = False
    failures: float = 0.1
    randomize: tuple[str, ...] = RANDOMIZABLE

    @property
    def pair(self) -> str:
        """What the films of all embodiments have in common for this task, tier and seed."""
        return f"{self.task}#{self.tier}#{self.seed}"

    @property
    def scene(self) -> int:
        """Seed of the layout and the look: another one, of the same range, for a demonstrator in T2 and T3."""
        if self.embodiment == "robot" or self.tier in ("T0", "T1"):
            return self.seed
        seeds = TEST_SEEDS if self.seed in TEST_SEEDS else TRAIN_SEEDS
        return seeds[int(np.random.default_rng([0x5CE9E, self.seed]).integers(len(seeds)))]

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers for one purpose, which no other setting than task, tier, seed and embodiment changes."""
        words = [crc32(word.encode()) for word in (purpose, self.task, self.tier, self.embodiment)]
        return np.random.default_rng([*words, self.seed])

    @property
    def exogenous_rng(self) -> np.random.Generator:
        """Random numbers for what has nothing to do with the task, and therefore does not know it."""
        return np.random.default_rng([0xE80, crc32(self.embodiment.encode()), self.seed])

    def about(self) -> dict[str, Any]:
        """What the job says of its film."""
        names = ("task", "tier", "embodiment", "seed", "scene", "camera", "pair", "exogenous", "image_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Film:
    """``frames`` [T, H, W, 3] uint8 at 10 fps, the words, and what only evaluation may see.

    ``labels``: arrays by frame; ``about``: what the whole film is, as JSON can hold it.
    """

    frames: np.ndarray
    caption: str
    labels: dict[str, np.ndarray]
    about: dict[str, Any] = field(default_factory=dict)


def film(job: FilmJob) -> Film:
    """Act and render."""
    for value, known, what in ((job.tier, TIERS, "tier"), (job.embodiment, EMBODIMENTS, "embodiment")):
        if value not in known:
            raise unknown(what, value, known)
    if job.seed not in TRAIN_SEEDS and job.seed not in TEST_SEEDS:
        raise UnderstudyError(f"a seed is one of training ({TRAIN_SEEDS}) or of test ({TEST_SEEDS}), got {job.seed}")
    if job.task.startswith("metaworld/"):
        from sim.human_metaworld import film_metaworld

        return film_metaworld(job)
    from sim.human_tabletop import film_tabletop

    return film_tabletop(job)
