"""``vla plan forward``: is it worth to look ahead? A video action model chooses its actions by what it expects of them.

The same unseen scenes are played three ways, with the same policy:

    plain    the first chunk that the policy draws
    guided   of K chunks, the one whose predicted last picture is nearest to a picture of the goal
    oracle   of the same K, the one whose last picture really is nearest: the simulator tries them all

The goal's picture is the scripted expert's last one, in the same scene. Chunks are carried out one after the other.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from robot_bridge.safety import governed
from sim.intervals import wilson
from sim.predict import video_model
from sim.rollout import check_fits
from sim.shown import left_by_expert
from sim.suite import TEST_SEEDS, Suite, make_suite, suite_of
from vla.config import help_text, load, wants_help
from vla.errors import unknown
from vla.types import Observation, Task

if TYPE_CHECKING:
    from policies.uva.planner import ForwardPlanner
    from policies.uva.policy import UVA

EXAMPLE = "vla plan forward policy=outputs/train tasks=[tabletop/press-button] episodes=20 samples=16"
WAYS = ("plain", "guided", "oracle")


@dataclass
class ForwardConfig:
    """What to play, and how."""

    policy: Path
    """checkpoint of a video action model (``vla train policy=uva``)"""
    tasks: tuple[str, ...]
    """``suite/task``"""
    episodes: int = 20
    """test scenes of each task"""
    samples: int = 16
    """chunks to choose from"""
    ways: tuple[str, ...] = WAYS
    exec_horizon: int | None = None
    """control steps of a chunk that are carried out; none: the policy's own"""
    suite: dict[str, Any] = field(default_factory=dict)
    """options of the suite"""
    first_scene: int = 0
    out: Path = Path("outputs/plan-forward")


def main(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = "Choose actions by what a video action model expects of them, beside plain sampling and the simulator."
        text = help_text(ForwardConfig, verb="plan forward", about=about, example=EXAMPLE, name="plan_forward")
        sys.stdout.write(text)
        return 0
    config = load(ForwardConfig, "plan_forward", argv)
    found = plan_forward(config)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "plan_forward.json").write_text(json.dumps(found, indent=2) + "\n")
    table = Table(title=f"{config.samples} chunks to choose from")
    for column in ("", "success", "95 %"):
        table.add_column(column)
    for way, successes in found.items():
        total, tried = sum(successes.values()), config.episodes * len(successes)
        low, high = wilson(total, tried)
        table.add_row(way, f"{total} of {tried}", f"{low:.2f} – {high:.2f}")
    Console().print(table)
    return 0


def plan_forward(config: ForwardConfig) -> dict[str, dict[str, int]]:
    """Way → task → successes."""
    for way in config.ways:
        if way not in WAYS:
            raise unknown("way", way, WAYS)
    policy = video_model(config.policy)
    seeds = TEST_SEEDS[config.first_scene : config.first_scene + config.episodes]
    scenes = [(task, seed) for task in config.tasks for seed in seeds]
    found = {way: dict.fromkeys(config.tasks, 0) for way in config.ways}
    suites: dict[str, Suite] = {}
    for task, seed in track(scenes, "playing", console=Console(stderr=True)):
        name = suite_of(task)
        if name not in suites:
            suites[name] = make_suite(name, **config.suite)
            check_fits(policy.spec, suites[name])
        goal = left_by_expert(suites[name], policy.spec.cameras[0].name, task, seed)
        for way in config.ways:
            found[way][task] += play(way, suites[name], (task, seed), goal, policy, config)
    return found


def play(
    way: str, suite: Suite, scene: tuple[str, int], goal: np.ndarray, policy: "UVA", config: ForwardConfig
) -> bool:
    """One episode; whether it succeeded."""
    from policies.uva.planner import ForwardPlanner

    planner = ForwardPlanner(policy, samples=config.samples)
    suite.reset(*scene)
    planner.reset(Task(suite.instruction, goal=goal), seed=scene[1])
    choose: dict[str, Callable[[Observation], np.ndarray]] = {
        "plain": lambda seen: policy.infer(seen).actions,
        "guided": lambda seen: planner.infer(seen).actions,
        "oracle": lambda seen: _tried(planner, suite, seen),
    }
    steps = config.exec_horizon or policy.spec.exec_horizon
    while not suite.success and suite.steps < suite.max_steps:
        for action in choose[way](suite.observe())[:steps]:
            if suite.success or suite.steps >= suite.max_steps:
                break
            suite.step(governed(action, suite.spec.action))
    return suite.success


def _tried(planner: "ForwardPlanner", suite: Suite, seen: Observation) -> np.ndarray:
    """Of the chunks that the policy draws, the one that ends nearest to the goal when it is really carried out."""
    chunks, _ = planner.policy.imagined(seen, planner.samples)
    camera, ends, back = planner.spec.cameras[0].name, [], suite.keep()
    for chunk in chunks:
        for action in chunk:
            suite.step(governed(action, suite.spec.action))
        ends.append(suite.observe().images[camera])
        back()
    return chunks[int(planner.distances(planner.policy.latents(np.stack(ends))).argmin())]
