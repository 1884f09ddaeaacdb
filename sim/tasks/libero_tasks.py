"""Which tasks LIBERO has, in which words; read by both sides, so it needs nothing of either."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ProfileName = Literal["fast", "libero"]
PROFILES = {"fast": 128, "libero": 256}
"""Profile → pixels a side of its pictures, unless others are asked for."""

_NAMES: dict[str, list[str]] = json.loads(Path(__file__).with_name("libero_tasks.json").read_text("utf-8"))


@dataclass(frozen=True)
class LiberoSuiteTasks:
    """One of the five suites: its folder in the package, its tasks in the benchmark's order, steps of an episode."""

    folder: str
    names: tuple[str, ...]
    max_steps: int


_LIMITS = {
    "spatial": ("libero_spatial", 220),
    "object": ("libero_object", 280),
    "goal": ("libero_goal", 300),
    "long": ("libero_10", 520),
    "90": ("libero_90", 400),
}
SUITES = {suite: LiberoSuiteTasks(folder, tuple(_NAMES[suite]), steps) for suite, (folder, steps) in _LIMITS.items()}
"""Suite → what is in it. The steps are OpenVLA's, which the field has kept: the longest demonstration and some."""


def suite_and_name(task: str) -> tuple[str, str]:
    """``goal/put_the_bowl_on_the_stove`` → its two halves."""
    suite, _, name = task.partition("/")
    return suite, name


def words(name: str) -> str:
    """The instruction, as the benchmark makes it from the name: without the scene, in lower case."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", name).replace("_", " ")
