"""Threads or processes where nothing is drawn: env-steps a second of random actions, two episodes at a time.

MuJoCo lets go of Python's lock while it steps, so threads could share its physics; what an episode does in Python
(targets, inverse kinematics, rewards, judging) they have to take turns at. `mujoco.rollout`, which keeps threads of its
own, is handed the same controls without any of that: no episode can be played so, and none can be faster.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter

import mujoco
import mujoco.rollout
import numpy as np

from sim.rollout import Game, Played, Scene, Setting, at_random, play_all
from sim.suite import TEST_SEEDS, Suite, make_suite, suite_of
from sim.tasks.tabletop import SUBSTEPS, TabletopSuite
from vla.bench import TOO_NOISY, Row, parser, write_bench

TASKS = ("tabletop/press-button", "metaworld/push")
WIDTH = 2
ONE, THREADS, PROCESSES = "one episode at a time", "two threads", "two processes"
PHYSICS = "mujoco.rollout, two threads"


def scenes(task: str, episodes: int) -> list[Scene]:
    """Random actions."""
    return [Scene(Setting("{}"), task, task, "random", seed) for seed in TEST_SEEDS[:episodes]]


def steps_of(suite: Suite, share: Sequence[Scene]) -> int:
    """Play them here, one after the other."""
    played = [Game(scene, suite).advance() for scene in share]
    return sum(one.result.steps for one in played if isinstance(one, Played))


def one_by_one(task: str) -> Callable[[int], float]:
    """In this thread."""
    suite = make_suite(suite_of(task))

    def rate(episodes: int) -> float:
        began = perf_counter()
        return steps_of(suite, scenes(task, episodes)) / (perf_counter() - began)

    return rate


def in_threads(task: str) -> Callable[[int], float]:
    """Each thread with a suite of its own."""
    suites, pool = [make_suite(suite_of(task)) for _ in range(WIDTH)], ThreadPoolExecutor(WIDTH)

    def rate(episodes: int) -> float:
        shares = [scenes(task, episodes)[number::WIDTH] for number in range(WIDTH)]
        began = perf_counter()
        return sum(pool.map(steps_of, suites, shares)) / (perf_counter() - began)

    return rate


def in_processes(task: str) -> Callable[[int], float]:
    """As `play_all` does; the clock starts when each has played one."""

    def rate(episodes: int) -> float:
        played = play_all(scenes(task, episodes + WIDTH), workers=WIDTH)
        for _ in range(WIDTH):
            next(played)
        began = perf_counter()
        return sum(one.result.steps for one in played) / (perf_counter() - began)

    return rate


def physics_alone() -> Callable[[int], float]:
    """The table top's world under the controls of a random episode, which MuJoCo's own threads carry out."""
    suite = TabletopSuite()
    suite.reset(TASKS[0], TEST_SEEDS[0])
    state = np.empty(mujoco.mj_stateSize(suite.model, mujoco.mjtState.mjSTATE_FULLPHYSICS))
    mujoco.mj_getState(suite.model, suite.data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    act, controls = at_random(suite.spec.action, 0), []
    for _ in range(suite.max_steps):
        suite.step(act())
        controls += [suite.data.ctrl.copy()] * SUBSTEPS
    worlds, threads = [mujoco.MjData(suite.model) for _ in range(WIDTH)], mujoco.rollout.Rollout(nthread=WIDTH)

    def rate(episodes: int) -> float:
        began = perf_counter()
        threads.rollout(suite.model, worlds, np.tile(state, (episodes, 1)), np.stack([controls] * episodes))
        return episodes * len(controls) / SUBSTEPS / (perf_counter() - began)

    return rate


def main(argv: list[str]) -> int:
    """``vla bench threads``: a minute on two cores."""
    arguments = parser("threads", __doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="of all, one after the other")
    arguments.add_argument("--episodes", type=int, default=16, help="of each in a round")
    given = arguments.parse_args(argv)
    rows, ratios, noise = [], {}, []
    for task in TASKS:
        candidates = {ONE: one_by_one(task), THREADS: in_threads(task), PROCESSES: in_processes(task)}
        if task == TASKS[0]:
            candidates[PHYSICS] = physics_alone()
        rates: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(given.rounds):
            for name, rate in candidates.items():
                rates[name].append(rate(given.episodes))
        pairs = zip(rates[PROCESSES], rates[THREADS], strict=True)
        ratios[f"processes_vs_threads_{suite_of(task)}"] = median(ours / theirs for ours, theirs in pairs)
        rows += [Row(f"{task}: {name}", median(each), "env-steps/s") for name, each in rates.items()]
        noise.append((max(rates[ONE]) - min(rates[ONE])) / median(rates[ONE]))
    notes = (f"random actions, nothing drawn; the median of {given.rounds} rounds",)
    write_bench("threads", rows, ratios, given.json, noisy=max(noise) > TOO_NOISY, notes=notes)
    return 0
