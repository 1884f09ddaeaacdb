"""``vla plan eval``: what an evaluation costs, measured here on a few of its episodes, and how long it takes elsewhere.

    CPU-s of an episode = resets + steps × physics + ceil(steps / steps a chunk) × (pictures + inference)

Every term is CPU time of one worker on one thread, on this machine, as `sim.pool` runs it; a few tasks stand for a
suite. An evaluation also plays the floor (random actions), the ceiling (the expert) and the control (told something
else), which cost otherwise: the first two need no picture, the first and the last seldom end before their last step.

On N CPUs the whole lasts as long as its work divided by N at `PACKING`, but never less than its longest episode, and a
worker's start in any case.
"""

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from policies.execution import ExecutionConfig
from policies.policy import Policy
from sim.collect import expand
from sim.pool import run_jobs
from sim.results import Condition, write_json
from sim.rollout import FILM_SIZE, Asked, Game, Scene, Setting, shared_policy
from sim.suite import TEST_SEEDS, Suite, shared_suite, suite_module, suite_of
from vla.config import help_text, load, wants_help
from vla.errors import UnderstudyError

EXAMPLE = "vla plan eval tasks=[metaworld/*] episodes=50 cpus=1000 policy=outputs/train"
PACKING = 0.9
"""Part of the CPUs that is at work on average: workers start one after the other, and the last ones run out of jobs."""
STORED = 3000
"""Bytes of an episode in the store and the reports; 2.6 kB measured with 100 steps of 4 numbers."""


@dataclass
class PlanEvalConfig:
    """What is to be evaluated, and on how many CPUs."""

    tasks: tuple[str, ...]
    """task names, ``*`` allowed; suites may be mixed"""
    policy: Path | None = None
    """folder of a checkpoint; without one nothing is inferred, and every step costs its pictures"""
    episodes: int = 50
    """test scenes of each task"""
    control_episodes: int = 20
    """of each task in the control"""
    cpus: int = 1000
    suite: dict[str, Any] = field(default_factory=dict)
    """options of the suites"""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    sample: int = 3
    """tasks of each suite that are measured, one scene each"""
    json: Path | None = None
    """write the plan there"""

    def __post_init__(self) -> None:
        for name in ("episodes", "cpus", "sample"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Cost:
    """One worker's CPU seconds for each of the things that episodes are made of; a suite's are means over its sample.

    ``steps``: of the policy's episode (to the last one without a policy); ``memory``: the most that the worker held
    [bytes], ``film_bytes``: of an episode.
    """

    reset: float
    step: float
    observe: float
    infer: float
    expert: float
    film: float
    build: float
    steps: float
    expert_steps: float
    max_steps: float
    steps_a_chunk: float
    film_bytes: float
    memory: float

    def acting(self, steps: float) -> float:
        """An episode of a policy."""
        return 2 * self.reset + steps * self.step + math.ceil(steps / self.steps_a_chunk) * (self.observe + self.infer)


@dataclass(frozen=True)
class Line:
    """What one condition of one suite costs; seconds are CPU's, ``low`` and ``high`` where it is not measured here."""

    suite: str
    condition: str
    episodes: int
    low: float
    high: float
    source: str = "measured"


@dataclass(frozen=True)
class Elsewhere:
    """Known CPU-s an episode of a suite that cannot be played here."""

    low: float
    high: float
    source: str


ELSEWHERE = {
    "libero": Elsewhere(42, 66, "measured elsewhere: 220 steps, two cameras at 128 to 256 px, software rendering")
}


class Meter:
    """A suite that counts the CPU seconds that its calls take, in this process and in a guest of it."""

    def __init__(self, suite: Suite) -> None:
        self._suite, self._guests = suite, psutil.Process().children(recursive=True)
        self.spent: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._suite, name)
        return self.timed(name, found) if name in ("reset", "step", "observe", "film") else found

    def expert(self) -> Callable[[], Any]:
        """The suite's, counted."""
        return self.timed("expert", self._suite.expert())

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, with what it takes put down under ``name``."""

        def counted(*given: Any, **named: Any) -> Any:
            began = self._now()
            try:
                return call(*given, **named)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + self._now() - began
                self.calls[name] = self.calls.get(name, 0) + 1

        return counted

    def each(self, name: str) -> float:
        """CPU seconds of a call; 0 where there was none."""
        return self.spent.get(name, 0.0) / max(1, self.calls.get(name, 0))

    def _now(self) -> float:
        times = [guest.cpu_times() for guest in self._guests]
        return time.process_time() + sum(used.user + used.system for used in times)


def main(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = "Measure what an evaluation costs on a few of its episodes, and say how long it takes on many CPUs."
        sys.stdout.write(help_text(PlanEvalConfig, verb="plan eval", about=about, example=EXAMPLE, name="plan_eval"))
        return 0
    config = load(PlanEvalConfig, "plan_eval", argv)
    found = planned(config)
    if config.json is not None:
        write_json(config.json, found)
    tell(found, Console(width=None if sys.stdout.isatty() else 160, highlight=False))
    return 0


def planned(config: PlanEvalConfig) -> dict[str, Any]:
    """The plan: ``lines`` (suite × condition), ``costs`` of each suite, ``totals``."""
    tasks: dict[str, list[str]] = {}
    for pattern in config.tasks:
        names = expand([pattern])
        tasks.setdefault(suite_of(names[0]), []).extend(names)
    lines: list[Line] = []
    costs: dict[str, Cost] = {}
    for suite, names in tasks.items():
        unique = list(dict.fromkeys(names))
        try:
            costs[suite] = _mean(list(_measured(unique, config)))
        except UnderstudyError as error:
            if suite not in ELSEWHERE:
                raise
            known = ELSEWHERE[suite]
            why = f"{known.source}; here: {error}"
            lines.append(Line(suite, "policy", len(unique) * config.episodes, known.low, known.high, why))
        else:
            lines += _lines(suite, len(unique), costs[suite], config)
    films = sum(2 * len(set(tasks[suite])) * cost.film_bytes for suite, cost in costs.items())
    return {
        "lines": [asdict(line) for line in lines],
        "costs": {suite: asdict(cost) for suite, cost in costs.items()},
        "totals": totals(lines, costs, config, films),
        "policy": None if config.policy is None else str(config.policy),
    }


def _measured(tasks: Sequence[str], config: PlanEvalConfig) -> Iterator[Cost]:
    """Costs of some tasks, evenly chosen, measured in one worker."""
    count = min(config.sample, len(tasks))
    chosen = [tasks[number * len(tasks) // count] for number in range(count)]
    checkpoint = "" if config.policy is None else str(config.policy)
    setting = Setting(json.dumps(config.suite, sort_keys=True), checkpoint, config.execution)
    scenes = [Scene(setting, task, task, "policy", TEST_SEEDS[0]) for task in chosen]
    preload = ("sim.rollout", suite_module(suite_of(tasks[0])))
    return run_jobs(measure, scenes, workers=1, preload=preload)


def _mean(costs: Sequence[Cost]) -> Cost:
    """Means; of the start, which only the first pays, and of memory the most."""
    columns = {one.name: [getattr(cost, one.name) for cost in costs] for one in fields(Cost)}
    most = ("build", "memory", "max_steps")
    return Cost(**{name: max(values) if name in most else fmean(values) for name, values in columns.items()})


def measure(scene: Scene) -> Cost:
    """Play one scene as the policy, the expert and a film of it would be; only CPU seconds are kept."""
    began = time.process_time()
    suite = shared_suite(suite_of(scene.task), scene.setting.suite_options)
    policy = _policy(scene, suite)
    build = time.process_time() - began
    meter = Meter(suite)
    expert_steps = _played(scene, meter, "expert")
    steps, every = suite.max_steps, 1
    if policy is None:
        _played(scene, meter, "random")
        for _ in range(10):
            meter.observe()
    else:
        steps = _played(scene, meter, "policy", policy)
        every = scene.setting.execution.exec_horizon or policy.spec.exec_horizon
    with TemporaryDirectory() as folder:
        film_steps = _played(scene, meter, "expert", film=f"{folder}/film.mp4")
        film_bytes = Path(folder, "film.mp4").stat().st_size / film_steps * steps
    return Cost(
        **{name: meter.each(name) for name in ("reset", "step", "observe", "infer", "expert", "film")},
        build=build,
        steps=steps,
        expert_steps=expert_steps,
        max_steps=suite.max_steps,
        steps_a_chunk=every,
        film_bytes=film_bytes,
        memory=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )


def _policy(scene: Scene, suite: Suite) -> Policy | None:
    return (
        shared_policy(scene.setting.checkpoint, embodiment=suite.spec.embodiment) if scene.setting.checkpoint else None
    )


def _played(scene: Scene, meter: Meter, condition: Condition, policy: Policy | None = None, film: str = "") -> int:
    """Play ``scene`` as somebody; returns the steps that it took."""
    game = Game(replace(scene, condition=condition, film=film), meter)
    turn = game.advance()
    while isinstance(turn, Asked):
        assert policy is not None, "only a policy asks"
        if turn.put is not None:
            policy.reset(turn.put, seed=scene.seed)
        turn = game.advance(meter.timed("infer", policy.infer)(turn.observation, turn.underway).actions)
    if turn.result.fault:
        raise UnderstudyError(f"{scene.task} could not be measured: {turn.result.fault}")
    return turn.result.steps


def _lines(suite: str, tasks: int, cost: Cost, config: PlanEvalConfig) -> list[Line]:
    longest = cost.acting(cost.max_steps)
    control = min(config.episodes, config.control_episodes)
    seconds = {
        "policy": (config.episodes, cost.acting(cost.steps)),
        "wrong-instruction": (control, longest),
        "random": (config.episodes, cost.reset + cost.max_steps * cost.step),
        "expert": (config.episodes, cost.reset + cost.expert_steps * (cost.step + cost.expert)),
        "film": (2, cost.acting(cost.steps) + cost.steps * cost.film),
    }
    return [Line(suite, name, tasks * count, each, each) for name, (count, each) in seconds.items() if count]


def totals(lines: Sequence[Line], costs: dict[str, Cost], config: PlanEvalConfig, film_bytes: float) -> dict[str, Any]:
    """CPU-hours, and wall time on ``cpus``: [low, high] where a figure is known as a range."""
    work = [sum(line.episodes * getattr(line, end) for line in lines) for end in ("low", "high")]
    episodes = sum(line.episodes for line in lines)
    slowest = [cost.acting(cost.max_steps) + cost.film * cost.max_steps for cost in costs.values()]
    slowest += [line.high for line in lines if line.source != "measured"]
    start = _import_s() + max((cost.build for cost in costs.values()), default=0.0)
    workers = min(config.cpus, episodes)
    return {
        "episodes": episodes,
        "cpu_hours": [seconds / 3600 for seconds in work],
        "cpus": config.cpus,
        "longest_episode_s": max(slowest),
        "start_s": start,
        "wall_s": [start + max(*slowest, seconds / (workers * PACKING)) for seconds in work],
        "start_cpu_hours": workers * start / 3600,
        "memory_a_worker_bytes": max((cost.memory for cost in costs.values()), default=None),
        "films_bytes": film_bytes,
        "store_bytes": STORED * episodes,
    }


def _import_s() -> float:
    """CPU seconds that a fresh worker takes to import what it plays with."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import sim.rollout, policies.cogact"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def tell(found: dict[str, Any], console: Console) -> None:
    """The plan as a table, and what it means in sentences."""
    table = Table(
        "suite", "condition", "episodes", "CPU-s each", "CPU-hours", "", title="plan eval", title_justify="left"
    )
    for line in found["lines"]:
        each = _range([line["low"], line["high"]], "{:.2f}")
        hours = _range([line["episodes"] * line[end] / 3600 for end in ("low", "high")], "{:.2f}")
        table.add_row(line["suite"], line["condition"], f"{line['episodes']:,}", each, hours, line["source"])
    console.print(table)
    for suite, cost in found["costs"].items():
        shares = ("step", "observe", "infer")
        parts = ", ".join(f"{name} {1e3 * cost[name]:.2f} ms" for name in ("reset", *shares, "expert", "film"))
        eyes = (
            f"pictures every {cost['steps_a_chunk']:.0f} steps" if found["policy"] else "pictures every step, no policy"
        )
        console.print(f"{suite}: {parts} of CPU a call; {eyes}; {cost['max_steps']:.0f} steps at most", markup=False)
    sums = found["totals"]
    memory = sums["memory_a_worker_bytes"]
    console.print(
        f"{sums['episodes']:,} episodes, {_range(sums['cpu_hours'], '{:,.2f}')} CPU-hours; on {sums['cpus']:,} CPUs "
        f"{_range(sums['wall_s'], '{:,.0f}')} s: a worker starts in {sums['start_s']:.0f} s, the longest episode takes "
        f"{sums['longest_episode_s']:.1f} s, {PACKING:.0%} of the CPUs are at work",
        markup=False,
    )
    held = f"{memory / 1e6:,.0f} MB of memory a worker, " if memory else ""
    written = (
        f"{sums['films_bytes'] / 1e6:,.1f} MB of films ({FILM_SIZE} px), {sums['store_bytes'] / 1e6:,.1f} MB of results"
    )
    console.print(held + written, markup=False)


def _range(ends: Sequence[float], how: str) -> str:
    low, high = (how.format(end) for end in ends)
    return low if low == high else f"{low} – {high}"
