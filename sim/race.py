"""``vla race``: let two policies play the same scenes until it is known which is better, or that it hardly matters.

After every round (some scenes of each task) the e-value and the interval of `sim.sequential` are looked at, which may
be done as often as one likes. It ends with a winner, with "no difference larger than the margin", or undecided after
``most`` scenes of each task. What was played is two ordinary reports, for ``vla compare``.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from sim.collect import expand
from sim.conditions import plan
from sim.evaluate import EvalConfig, charge, played_by, provenance, seen_by_all, setting_of, trained_tasks
from sim.pool import with_progress
from sim.report import write_report
from sim.results import EpisodeResult, summarize, write_json
from sim.rollout import Scene, Setting
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
    config = checked(load(RaceConfig, "eval", argv))
    began, looks, verdict = perf_counter(), [], ""
    racers = {"a": Racer.of(replace(config, policy=config.against)), "b": Racer.of(config)}
    results: dict[str, list[EpisodeResult]] = {who: [] for who in racers}
    for look, played in race(config, racers):
        looks.append(look)
        for who in results:
            results[who] += played[who]
        verdict = decided(look, config)
        sys.stdout.write(f"{look.scenes} scenes: {told(look)}\n")
        if verdict:
            break
    verdict = verdict or f"undecided after {config.most} scenes of each task"
    faults = dict.fromkeys(racers, 0)
    for who, racer in racers.items():
        seen = min(len(looks) * config.episodes, config.most)
        origin = {**provenance(replace(racer.config, episodes=seen)), **racer.charged}
        report = summarize(results[who], wall_s={"race": perf_counter() - began}, provenance=origin)
        write_report(config.out / who, report)
        faults[who] = sum(report["faults"].values())
    found = {"verdict": verdict, "faults": faults, "looks": [vars(look) for look in looks]}
    for file in filter(None, (config.out / "race.json", config.json)):
        write_json(file, found)
    sys.stdout.write(
        f"{verdict}\nA: {config.against}, B: {config.policy}; reports in {config.out}/a and {config.out}/b\n"
    )
    for who, count in faults.items():
        if count:
            sys.stdout.write(
                f"{count} episodes of {who.upper()} could not be judged and count as failures: see its report\n"
            )
    return int(any(faults.values()))


def checked(config: RaceConfig) -> RaceConfig:
    """A race that can be held; raises `UnderstudyError` otherwise."""
    if not (0 < config.level < 1 and 0 < config.margin < 1 and 1 <= config.episodes <= config.most):
        raise UnderstudyError(
            f"level and margin lie between 0 and 1, and episodes (of a round) between 1 and most; got {config.level}, "
            f"{config.margin}, {config.episodes} and {config.most}"
        )
    if config.axes:
        raise UnderstudyError("a race is in the world as it is: leave axes out, and see vla eval axes=… for a grid")
    config = replace(config, tasks=expand(config.tasks or trained_tasks(config.policy)))
    return replace(seen_by_all(config), against=config.against.resolve()) if config.cluster else config


@dataclass(frozen=True)
class Racer:
    """One of the two: its evaluation's settings, and how late its answers come."""

    config: RaceConfig
    setting: Setting
    charged: Mapping[str, Any]

    @classmethod
    def of(cls, config: RaceConfig) -> "Racer":
        """With the latency that ``config`` asks for."""
        setting, charged = setting_of(config, config.tasks), dict[str, Any]()
        if config.latency:
            setting, charged = charge(config.latency, plan(config.tasks, setting, replace(config, episodes=1))[0])
        return cls(config, setting, charged)

    def play(self, first: int, count: int) -> list[EpisodeResult]:
        """``count`` scenes of each task, from the test scene ``first`` on."""
        config = replace(self.config, seed=first, episodes=count)
        planned = plan(config.tasks, self.setting, config)
        scenes: list[Scene] = [one for one in planned if one.condition == "policy"]
        played = with_progress(played_by(config, scenes), what=str(config.policy), total=len(scenes))
        return [one.result for one in played]


def race(config: RaceConfig, racers: Mapping[str, Racer]) -> Iterator[tuple[Look, dict[str, list[EpisodeResult]]]]:
    """Round after round until ``most``: what is known then, and who achieved what in that round."""
    won: Counter[tuple[bool, bool]] = Counter()
    for first in range(0, config.most, config.episodes):
        count = min(config.episodes, config.most - first)
        played = {who: racer.play(config.seed + first, count) for who, racer in racers.items()}
        won.update((a.success, b.success) for a, b in zip(played["a"], played["b"], strict=True))
        only_a, only_b, scenes = won[True, False], won[False, True], won.total()
        interval = difference(only_a, only_b, scenes, config.level)
        yield Look(scenes, only_a, only_b, e_value(only_a, only_b), interval), played


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
