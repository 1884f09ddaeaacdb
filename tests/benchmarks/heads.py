"""Which action head: CogACT's diffusion transformer beside the L1 head, same backbone, data, steps and scenes.

Four Meta-World tasks, one policy each. In ``reach`` and ``push`` the target is 1 to 3 pixels wide in the far camera, so
all policies look through two closer ones, from the side and from above. Each finished cell is a small json; run again
to go on.
"""

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from policies import train as training
from sim import collect
from sim.evaluate import EvalConfig, evaluate, tell
from sim.results import summarize
from vla.bench import Row, parser, write_bench
from vla.config import build, load

TASKS = ("button-press-topdown", "drawer-open", "reach", "push")
STEPS = {"l1": 800, "diffusion": 1200}
BATCH = {"l1": 64, "diffusion": 32}
"""The diffusion head starts from the backbone that the L1 head trained: both have seen the same scenes before."""
CAMERAS = ["side", "top"]
NOISE = {"push": 0.1}
"""Where it is not that of `vla collect`: under 0.3 the expert hovers over the puck, 224 steps instead of 61, and a
policy that learned from it hovers for ever (0 of 50)."""
RESULTS = Path(__file__).with_name("results")
PLAIN_CNN = {"button-press-topdown": 0.975, "drawer-open": 1.0, "reach": 0.25, "push": 0.10}
"""A plain 0.2 M CNN through the far camera alone, 20 episodes each: the figures to beat."""


def run_cell(task: str, head: str, *, demos: int, episodes: int, work: Path) -> dict[str, Any]:
    """Collect (once for both heads), train, evaluate."""
    name = f"metaworld/{task}"
    suite = {"profile": "fast", "image_size": 64, "cameras": CAMERAS}
    data = work / task / "data"
    recording = {"tasks": [name], "episodes": demos, "out": data, "suite": suite}
    if task in NOISE:
        recording["noise"] = NOISE[task]
    collect.run(build(collect.CollectConfig, recording))
    out = work / task / head
    trainer = [f"trainer.steps={STEPS[head]}", f"trainer.batch_size={BATCH[head]}", "trainer.lr=2e-3"]
    policy = ["policy=cogact", f"start_from={work / task / 'l1'}"] if head == "diffusion" else ["policy=cogact_l1"]
    settings = load(training.TrainConfig, "train", [*policy, "preset=cpu", f"data={data}", f"out={out}", *trainer])
    settings.resume = (out / "training_state").is_dir()
    began = perf_counter()
    training.run(settings)
    trained = perf_counter() - began
    plan = {"policy": out, "tasks": [name], "episodes": episodes, "control_episodes": 0, "suite": suite}
    played = evaluate(build(EvalConfig, {**plan, "out": work / task / f"eval-{head}", "films": False}))
    report = summarize(played.results, wall_s={"train": trained, "evaluate": played.wall_s})
    tell(report, work)
    keys = ("episodes", "successes", "success_rate", "wilson")
    return {
        "task": task,
        "head": head,
        "demos": demos,
        "steps": STEPS[head],
        **{key: report["mean"][key] for key in keys},
        "random": report["conditions"]["random"]["mean"]["success_rate"],
        "expert": report["conditions"]["expert"]["mean"]["success_rate"],
        "latency_ms": report["latency_ms"],
        "wall_s": report["wall_s"],
        "code": training.code_version(),
    }


def main(argv: list[str]) -> int:
    """``vla bench heads``: hours are not needed, half of one is."""
    arguments = parser("heads", __doc__)
    arguments.add_argument("--demos", type=int, default=80, help="demonstrations of each task")
    arguments.add_argument("--episodes", type=int, default=50, help="test scenes of each task")
    arguments.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    arguments.add_argument("--work", type=Path, default=Path("outputs/heads"), help="where data and checkpoints go")
    given = arguments.parse_args(argv)
    cells = []
    for task in given.tasks:
        for head in STEPS:
            file = RESULTS / f"heads-{task}-{head}.json"
            if not file.is_file():
                cell = run_cell(task, head, demos=given.demos, episodes=given.episodes, work=given.work)
                file.write_text(json.dumps(cell, indent=2) + "\n")
            cells.append(json.loads(file.read_text()))
    rows = [Row(f"{cell['task']}, {cell['head']}", cell["success_rate"], "success") for cell in cells]
    for cell in cells:
        low, high = cell["wilson"]
        sys.stdout.write(
            f"| {cell['task']} | {cell['head']} | {cell['successes']}/{cell['episodes']} = {cell['success_rate']:.2f} "
            f"| {low:.2f} – {high:.2f} | {cell['random']:.2f} | {cell['expert']:.2f} | {PLAIN_CNN[cell['task']]} |\n"
        )
    write_bench("heads", rows, {}, given.json, notes=("success on unseen scenes; intervals in the table above",))
    return 0
