"""Which scenes an evaluation plays: the policy, those who tell what its success is worth, and what it is told in each.

For every task the same test scenes are played by the policy, by random actions (floor), by the expert (ceiling), and
by the policy told the instruction of another task (control: a policy that does not listen succeeds there too).
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from policies.policy import SPEC_FILE, read_spec
from sim.results import Condition
from sim.robustness import disturbed
from sim.rollout import Scene, Setting
from sim.shown import CONTROLS, GOALS, chosen, prompts_of
from sim.suite import TEST_SEEDS, NoExpert, shared_suite, suite_of
from vla.errors import UnderstudyError
from vla.prompt import read_goal

if TYPE_CHECKING:
    from sim.evaluate import EvalConfig

logger = logging.getLogger(__name__)

ARTICLES = frozenset({"a", "an", "the"})
PREPOSITIONS = frozenset({"to", "in", "into", "on", "onto", "of", "with", "from", "at", "by"})


def plan(tasks: Sequence[str], setting: Setting, config: "EvalConfig") -> list[Scene]:
    """All episodes: policy, control, floor and ceiling on the same test scenes."""
    if config.episodes < 1:
        raise UnderstudyError(f"episodes must be at least 1, got {config.episodes}")
    if not 0 <= config.seed <= len(TEST_SEEDS) - config.episodes:
        most = len(TEST_SEEDS) - config.episodes
        raise UnderstudyError(f"seed (the first of {config.episodes} test scenes) must be 0…{most}, got {config.seed}")
    seeds = TEST_SEEDS[config.seed : config.seed + config.episodes]
    words = instructions(tasks, setting)
    shown, goal = wants_prompt(config), goal_of(config)
    films = prompts_of(config.prompt, words) if shown else {task: [""] for task in tasks}
    wrong = wrong_instructions(words) if config.control_episodes else {}
    if shown:  # who is shown is misled by another film, not by other words
        wrong = {task: told for task, told in wrong.items() if films[told] != films[task]}

    if goal and goal not in GOALS:
        wrong = {}  # one picture for all

    def scene(task: str, told: str, condition: Condition, seed: int) -> Scene:
        return Scene(setting, task, told, condition, seed, prompt=chosen(films[told], told, seed), goal=goal)

    scenes = [scene(task, task, "policy", seed) for task in tasks for seed in seeds]
    few = seeds[: config.control_episodes]
    scenes += [scene(task, told, "wrong-instruction", seed) for task, told in wrong.items() for seed in few]
    controls = CONTROLS if shown else CONTROLS[:1] if goal else ()
    scenes += [scene(task, task, control, seed) for control in controls for task in tasks for seed in few]
    scenes += disturbed(scenes, config.axes, read_spec(config.policy), wrong_instructions(words)) if config.axes else []
    bare = Setting(setting.suite_options)
    scenes += [Scene(bare, task, task, "random", seed) for task in tasks for seed in seeds]
    able = with_expert([(task, seed) for task in tasks for seed in seeds], setting)
    return scenes + [Scene(bare, task, task, "expert", seed) for task, seed in able]


def with_expert(scenes: Sequence[tuple[str, int]], setting: Setting) -> list[tuple[str, int]]:
    """Those of the scenes for which somebody is known who can do the task; the first of each task tells."""
    suite = shared_suite(suite_of(scenes[0][0]), setting.suite_options)
    able: dict[str, bool] = {}
    for task, seed in scenes:
        if task not in able:
            suite.reset(task, seed)
            try:
                able[task] = bool(suite.expert())
            except NoExpert as error:
                able[task] = False
                logger.warning("no ceiling: %s", error)
    return [(task, seed) for task, seed in scenes if able[task]]


def wants_prompt(config: "EvalConfig") -> bool:
    """Whether the policy is shown its tasks; raises `UnderstudyError` when it is and there is nothing to show."""
    shown = (config.policy / SPEC_FILE).is_file() and "video" in read_spec(config.policy).accepts
    if shown and config.prompt is None:
        raise UnderstudyError(
            f"{config.policy} is shown what to do: give prompt=VIDEO, or prompt=FOLDER of captioned videos, such as "
            "vla human split=test writes"
        )
    if not shown and config.prompt is not None:
        raise UnderstudyError(f"{config.policy} looks at no prompt: leave prompt out")
    return shown


def goal_of(config: "EvalConfig") -> str:
    """What pictures its tasks to the policy; "" where none is wanted."""
    pictured = (config.policy / SPEC_FILE).is_file() and "goal" in read_spec(config.policy).accepts
    if pictured != bool(config.goal):
        raise UnderstudyError(
            f"{config.policy} looks at no goal: leave goal out"
            if config.goal
            else f"{config.policy} wants to see its goal: give goal=IMAGE, goal=VIDEO, goal=expert or goal=grabber"
        )
    if config.goal and config.goal not in GOALS:
        read_goal(Path(config.goal))
    return config.goal


def instructions(tasks: Sequence[str], setting: Setting) -> dict[str, str]:
    """Task → what it is told."""
    suite = shared_suite(suite_of(tasks[0]), setting.suite_options)
    words = {}
    for task in tasks:
        suite.reset(task, TEST_SEEDS[0])
        words[task] = suite.instruction
    return words


def wrong_instructions(instructions: Mapping[str, str]) -> dict[str, str]:
    """For each task another one to be told: the next whose object is not the same, so that luck cannot fulfil both."""
    tasks, objects = list(instructions), {task: _object(words) for task, words in instructions.items()}
    wrong = {}
    for number, task in enumerate(tasks):
        others = [*tasks[number + 1 :], *tasks[:number]]
        apart = [other for other in others if not (objects[task] <= objects[other] or objects[other] <= objects[task])]
        if apart:
            wrong[task] = apart[0]
    return wrong


def _object(instruction: str) -> frozenset[str]:
    """What an instruction is about: the words after its verb, up to the next preposition."""
    words = instruction.lower().split()[1:]
    about = takewhile(lambda word: word not in PREPOSITIONS, words)
    return frozenset(about) - ARTICLES
