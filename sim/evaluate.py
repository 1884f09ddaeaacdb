"""``vla eval``: success rates on scenes that nobody trained on, with floor, ceiling and control (`sim.conditions`)."""

import json
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil, isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from policies.execution import ExecutionConfig
from policies.policy import parameters_of
from policies.provenance import code_version, read_provenance
from sim.collect import expand
from sim.conditions import plan
from sim.pool import default_workers, with_progress
from sim.report import write_report
from sim.results import EpisodeResult, summarize
from sim.robustness import grid
from sim.rollout import Played, Scene, Setting, play_all
from sim.shown import CONTROLS, GOALS
from sim.store import FILE, EpisodeStore, Key, by_content, fingerprint, software
from sim.suite import TEST_SEEDS, shared_suite, suite_of
from vla.config import help_text, load, wants_help
from vla.errors import UnderstudyError

logger = logging.getLogger(__name__)

EXAMPLE = "vla eval policy=outputs/train tasks=[tabletop/lift-red-cube] episodes=50 out=outputs/eval"
WARM_UP = 3
"""Answers that are slower than the others."""


@dataclass
class EvalConfig:
    """What to evaluate, and how long."""

    policy: Path
    """folder of a checkpoint"""
    tasks: tuple[str, ...] = ()
    """task names, ``*`` allowed; empty: those that the checkpoint was trained on"""
    prompt: Path | None = None
    """what a policy is shown that wants to be shown its task: a video of somebody doing it, or a folder of captioned
    videos (``vla human split=test``), of which each scene gets one with its task's words"""
    goal: str = ""
    """what a policy is given that wants a picture of its goal: IMAGE, VIDEO (its last frame), or who leaves it in each
    scene: expert, or grabber, a person with the arm's gripper and wrist camera"""
    episodes: int = 20
    """test scenes for each task"""
    control_episodes: int = 20
    """test scenes for each task in the wrong-instruction control, and in those of the prompt; 0: none"""
    out: Path = Path("outputs/eval")
    suite: dict[str, Any] = field(default_factory=dict)
    """options of the suite; must give the pictures that the policy was trained on"""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    seed: int = 0
    """first test scene"""
    axes: tuple[str, ...] = ()
    """ways in which the world or the senses differ from those trained on, each at all its levels, on the same scenes:
    camera, light, colours, distractors, camera-dropped, late, instruction-blank, instruction-swapped; or all"""
    latency: str = ""
    """the world moves on while the policy thinks: for so many milliseconds, or as long as it thinks here (``measured``:
    the 95 % quantile of its answers on one core of this machine); empty: the world stands still"""
    workers: int = field(default_factory=default_workers)
    batch: int = 1
    """episodes that one policy answers at once, in this process, for a GPU or many workers; 1: each worker has one"""
    cluster: str = ""
    """spread the episodes over a Ray cluster: ``ray`` for one of this machine, or its address; empty: processes here"""
    quick: bool = False
    """compile the policy first, for a minute in each worker: for evaluations of many hundred scenes"""
    films: bool = True
    """film one success and one failure of each task"""
    other_scene: bool = False
    """evaluate although the suite's fingerprint is not that of the training data"""
    json: Path | None = None
    """write report.json here too"""


@dataclass(frozen=True)
class Evaluation:
    """Everything that was played: ``results`` with their films, and ``actions`` [T, A] carried out in filmed ones."""

    results: list[EpisodeResult]
    action_plots: dict[str, dict[str, Any]]
    wall_s: float
    about: dict[str, Any] = field(default_factory=dict)
    """what only playing tells: the latency that was charged"""


def main(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = "Play test scenes with a trained policy; write report.json and report.html."
        sys.stdout.write(help_text(EvalConfig, verb="eval", about=about, example=EXAMPLE, name="eval"))
        return 0
    config = load(EvalConfig, "eval", argv)
    evaluation = evaluate(config)
    about = {"command": shlex.join(["vla", "eval", *argv]), **provenance(config), **evaluation.about}
    report = summarize(evaluation.results, wall_s={"evaluate": evaluation.wall_s}, provenance=about)
    curves = config.policy / "metrics.jsonl"
    page = write_report(
        config.out, report, curves=curves if curves.is_file() else None, action_plots=evaluation.action_plots
    )
    if config.json is not None:
        config.json.write_text((config.out / "report.json").read_text())
    tell(report, page)
    return int(bool(report["faults"]))


def evaluate(config: EvalConfig) -> Evaluation:
    """Play all scenes, then play the ones worth watching again for their films."""
    started = perf_counter()
    config = seen_by_all(config) if config.cluster else config
    tasks = expand(config.tasks or trained_tasks(config.policy))
    setting = setting_of(config, tasks)
    scenes = plan(tasks, setting, config)
    charged: dict[str, Any] = {}
    if config.latency:
        setting, charged = charge(config.latency, scenes[0])
        scenes = [replace(scene, setting=setting) if scene.asks else scene for scene in scenes]
    results = list(with_progress(resumed(config, scenes), what="evaluate", total=len(scenes)))
    plots: dict[str, dict[str, Any]] = {}
    if config.films:
        results, plots = film(scenes, results, config)
    return Evaluation(results, plots, perf_counter() - started, charged)


def seen_by_all[Config: EvalConfig](config: Config) -> Config:
    """With paths that do not depend on where a process was started."""
    goal = str(Path(config.goal).resolve()) if config.goal and config.goal not in GOALS else config.goal
    prompt = None if config.prompt is None else config.prompt.resolve()
    return replace(config, policy=config.policy.resolve(), out=config.out.resolve(), prompt=prompt, goal=goal)


def resumed(config: EvalConfig, scenes: Sequence[Scene]) -> Iterator[EpisodeResult]:
    """The results of all scenes: those that ``out`` holds from an earlier run of the same, the others as they come.

    Floor and ceiling are the same whatever policy is evaluated: merged into ``out`` from elsewhere, they are found.
    """
    files = {file for scene in scenes for file in (scene.prompt, scene.goal)}
    named = {file: file if file in GOALS else by_content(file) for file in files}
    weights, about = fingerprint(config.policy), {"software": software(), "batch": config.batch}

    def key(store: EpisodeStore, scene: Scene) -> Key:
        setting = scene.setting
        suite = shared_suite(suite_of(scene.task), setting.suite_options).spec.fingerprint
        decides = {"suite": suite, "options": setting.suite_options, "quick": setting.quick}
        decides |= {"weights": weights if scene.asks else ""}
        decides |= {"execution": asdict(setting.execution), "disturbed": str(scene.disturbed)}
        return store.key(about | decides, replace(scene, prompt=named[scene.prompt], goal=named[scene.goal]))

    config.out.mkdir(parents=True, exist_ok=True)
    with EpisodeStore(config.out / FILE) as store:
        keys = [key(store, scene) for scene in scenes]
        if found := store.found(keys):
            logger.info("%d of %d episodes were played before; remove %s to play anew", *map(len, (found, keys)), FILE)
        yield from store.resumed(keys, lambda left: played_by(config, [scenes[number] for number in left]))


def setting_of(config: EvalConfig, tasks: Sequence[str]) -> Setting:
    """What all episodes share, after a look whether the pictures are of the kind that was trained on."""
    setting = Setting(json.dumps(config.suite, sort_keys=True), str(config.policy), config.execution, config.quick)
    if not config.other_scene:
        check_fingerprint(config.policy, shared_suite(suite_of(tasks[0]), setting.suite_options).spec.fingerprint)
    return setting


def played_by(config: EvalConfig, scenes: Sequence[Scene]) -> Iterator[Played]:
    """The episodes, by as many workers as ``config`` says."""
    return play_all(scenes, workers=config.workers, batch=config.batch, cluster=config.cluster)


def charge(latency: str, scene: Scene) -> tuple[Setting, dict[str, Any]]:
    """The setting in which each chunk comes so late, and what is to be said of it.

    ``latency``: milliseconds, or ``measured``: then the policy plays ``scene`` in a process of one core.
    """
    if latency == "measured":
        (played,) = play_all([scene], workers=1)
        warm = played.result.latency_ms[WARM_UP:] or played.result.latency_ms
        late_ms = float(np.percentile(warm, 95))
    else:
        try:
            late_ms = float(latency)
        except ValueError as error:
            raise UnderstudyError(f"latency is milliseconds, or 'measured'; got {latency!r}") from error
        if not (isfinite(late_ms) and late_ms >= 0):
            raise UnderstudyError(f"latency is 0 milliseconds or more, got {latency}")
    hz = shared_suite(suite_of(scene.task), scene.setting.suite_options).spec.control_hz
    steps = ceil(late_ms / 1e3 * hz - 1e-9)
    setting = replace(scene.setting, execution=replace(scene.setting.execution, delay=steps))
    return setting, {"charged_latency_ms": late_ms, "charged_steps": steps}


def film(
    scenes: Sequence[Scene], results: list[EpisodeResult], config: EvalConfig
) -> tuple[list[EpisodeResult], dict[str, dict[str, Any]]]:
    """Play the first success and the first failure of each task again, with a camera running.

    Returns all results, the filmed ones with their film, and the plots of the actions of those episodes. What could
    not be judged is not filmed; a film in which it ended otherwise is of another episode, and is thrown away.
    """
    chosen: dict[tuple[str, bool], int] = {}
    for number, one in enumerate(results):
        if one.condition == "policy" and not one.fault:
            chosen.setdefault((one.task, one.success), number)
    names = {n: f"films/{results[n].task.replace('/', '-')}-{results[n].seed}.mp4" for n in chosen.values()}
    again = [replace(scenes[number], film=str(config.out / name)) for number, name in names.items()]
    plots = {}
    replays = with_progress(played_by(config, again), what="film", total=len(again))
    for (number, name), replay in zip(names.items(), replays):
        ends = [(one.success, one.steps, one.fault) for one in (results[number], replay.result)]
        if ends[0] != ends[1]:
            about = (replay.result.task, replay.result.seed, replay.result.fault)
            logger.warning("%s, seed %d ended otherwise when played again: no film of it %s", *about)
            (config.out / name).unlink(missing_ok=True)
            continue
        results[number] = replace(results[number], film=name)
        outcome = "success" if replay.result.success else "failure"
        action = shared_suite(suite_of(replay.result.task), scenes[0].setting.suite_options).spec.action
        title = f"{replay.result.instruction} ({outcome}, seed {replay.result.seed})"
        plots[title] = {"names": list(action.names), "executed": replay.actions}
    return results, plots


def trained_tasks(checkpoint: Path) -> tuple[str, ...]:
    """The simulated tasks in a checkpoint's training data."""
    tasks = read_provenance(checkpoint).get("tasks", [])
    if not tasks:
        raise UnderstudyError(f"{checkpoint} does not say which tasks it was trained on; give tasks=[suite/task,…]")
    return tuple(tasks)


def check_fingerprint(checkpoint: Path, offered: str) -> None:
    """Refuse pictures and numbers of another kind than those trained on."""
    trained = read_provenance(checkpoint).get("data", {}).get("fingerprint", offered)
    if trained != offered:
        raise UnderstudyError(
            f"the policy's pictures are {trained!r}, this suite's {offered!r}; give the same suite.* options, "
            "or other_scene=true to evaluate all the same"
        )


def provenance(config: EvalConfig) -> dict[str, Any]:
    """How the report came about."""
    name = suite_of(expand(config.tasks or trained_tasks(config.policy))[0])
    return {
        "checkpoint": str(config.policy),
        "policy": read_provenance(config.policy),
        "parameters": parameters_of(config.policy),
        "suite": config.suite,
        "fingerprint": shared_suite(name, json.dumps(config.suite, sort_keys=True)).spec.fingerprint,
        "prompt": str(config.prompt) if config.prompt else None,
        "goal": config.goal or None,
        "execution": vars(config.execution),
        "test_seeds": [TEST_SEEDS.start + config.seed, TEST_SEEDS.start + config.seed + config.episodes - 1],
        "code": code_version(),
    }


def tell(report: dict[str, Any], page: Path) -> None:
    """The figures as a table on the terminal, and where the page is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    conditions = report["conditions"]
    columns = {"random": "random", "expert": "expert", "wrong-instruction": "misled"}
    columns |= {name: name.removesuffix("-prompt") for name in CONTROLS if name in conditions}
    table = Table("task", "success", "95 % interval", *columns.values(), box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True

    def cell(condition: str, task: str | None) -> str:
        part = conditions.get(condition)
        entry = None if part is None else part["mean"] if task is None else part["tasks"].get(task)
        if entry is None:
            return "–"
        return f"{entry['success_rate']:.2f}" + (f" ({entry['faults']} not judged)" if entry["faults"] else "")

    for task, entry in [*report["tasks"].items(), (None, report["mean"])]:
        low, high = entry["wilson"]
        rate = f"{entry['successes']}/{entry['episodes']} = {entry['success_rate']:.2f}"
        others = [cell(condition, task) for condition in columns]
        table.add_row(task.partition("/")[2] if task else "mean", rate, f"{low:.2f} – {high:.2f}", *others)
    console = Console()
    console.print(table)
    if report["robustness"]:
        console.print(grid(report["robustness"]))
    if "wrong-instruction" in conditions:
        console.print("misled: the same policy, told (or shown) another task")
    for remark in report["remarks"]:
        console.print(f"· {remark}")
    console.print(f"report: {page}", soft_wrap=True)
