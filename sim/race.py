"""``vla race``: let two policies play the same scenes until it is known which is better, or that it hardly matters.

After every round (some scenes of each task) the e-value and the interval of `sim.sequential` are looked at, which may
be done as often as one likes. It ends with a winner, with "no difference larger than the margin", or undecided after
``most`` scenes of each task. What was played is two ordinary reports, for ``vla compare``.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from sim.collect import expand
from sim.evaluate import EvalConfig, plan, played_by, provenance, setting_of, trained_tasks
from sim.pool import with_progress
from sim.report import write_report
from sim.results import EpisodeResult, summarize, write_json
from sim.rollout import Scene
from sim.sequential import difference, e_value
from vla.config import help_text, load, wants_help
from vla.errors import UnderstudyError

EXAMPLE = "vla race policy=outputs/train against=outputs/train-l1 out=outputs/race"


@dataclass
class RaceConfig(EvalConfig):
    """Who races, over what, and when it is enough; ``episodes``: scenes of each task in a round."""

    against: Path = Path("outputs/train")
    """folder of the other checkpoint: A; ``policy`` is B"""
    episodes: int = 5
    most: int = 100
    """scenes of each task at which to stop undecided"""
    level: float = 0.05
    """probability of a wrong winner that is allowed"""
    margin: float = 0.1
    """a difference of success rates that would not matter"""
    out: Path = Path("outputs/race")


@dataclass(frozen=True)
class Look:
    """What is known after a round: scenes (of all tasks), and how many only A, only B achieved."""

    scenes: int
    only_a: int
    only_b: int
    e_value: float
    interval: tuple[float, float]


def main(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = "Play two policies on the same scenes until they are told apart, or shown to be alike."
        sys.stdout.write(help_text(RaceConfig, verb="race", about=about, example=EXAMPLE, name="eval"))
        return 0
    config = load(RaceConfig, "eval", argv)
    began, results, looks, verdict = perf_counter(), {"a": [], "b": []}, [], ""
    for look, played in race(config):
        looks.append(look)
        for who in results:
            results[who] += played[who]
        verdict = decided(look, config)
        sys.stdout.write(f"{look.scenes} scenes: {told(look)}\n")
        if verdict:
            break
    verdict = verdict or f"undecided after {config.most} scenes of each task"
    for who, checkpoint in (("a", config.against), ("b", config.policy)):
        about = provenance(replace(config, policy=checkpoint, episodes=len(looks) * config.episodes))
        report = summarize(results[who], wall_s={"race": perf_counter() - began}, provenance=about)
        write_report(config.out / who, report)
    write_json(config.out / "race.json", {"verdict": verdict, "looks": [vars(look) for look in looks]})
    sys.stdout.write(
        f"{verdict}\nA: {config.against}, B: {config.policy}; reports in {config.out}/a and {config.out}/b\n"
    )
    return 0


def race(config: RaceConfig) -> Iterator[tuple[Look, dict[str, list[EpisodeResult]]]]:
    """Round after round until ``most``: what is known then, and who achieved what in that round."""
    if not (0 < config.level < 1 and 0 < config.margin < 1 and 1 <= config.episodes <= config.most):
        raise UnderstudyError(
            f"level and margin lie between 0 and 1, and episodes (of a round) between 1 and most; got {config.level}, "
            f"{config.margin}, {config.episodes} and {config.most}"
        )
    tasks = expand(config.tasks or trained_tasks(config.policy))
    won: Counter[tuple[bool, bool]] = Counter()
    for first in range(0, config.most, config.episodes):
        begun = replace(config, seed=config.seed + first, episodes=min(config.episodes, config.most - first))
        played = {"a": _round(replace(begun, policy=config.against), tasks), "b": _round(begun, tasks)}
        won.update((a.success, b.success) for a, b in zip(played["a"], played["b"], strict=True))
        only_a, only_b, scenes = won[True, False], won[False, True], won.total()
        interval = difference(only_a, only_b, scenes, config.level)
        yield Look(scenes, only_a, only_b, e_value(only_a, only_b), interval), played


def _round(config: EvalConfig, tasks: tuple[str, ...]) -> list[EpisodeResult]:
    setting = setting_of(config, tasks)
    scenes: list[Scene] = [one for one in plan(tasks, setting, config) if one.condition == "policy"]
    return [one.result for one in with_progress(played_by(config, scenes), what=str(config.policy), total=len(scenes))]


def decided(look: Look, config: RaceConfig) -> str:
    """The verdict, once there is one."""
    low, high = look.interval
    if look.e_value >= 1 / config.level:
        return f"{'A' if look.only_a > look.only_b else 'B'} is better: {told(look)}"
    if -config.margin < low and high < config.margin:
        return f"no difference larger than {100 * config.margin:.0f} points: {told(look)}"
    return ""


def told(look: Look) -> str:
    """A look in words."""
    points = 100 * (look.only_b - look.only_a) / look.scenes
    low, high = (100 * end for end in look.interval)
    evidence = f"only A {look.only_a}, only B {look.only_b}, e-value {look.e_value:.3g}"
    return f"{evidence}; B − A {points:+.1f} points ({low:+.0f} … {high:+.0f} at any look)"
