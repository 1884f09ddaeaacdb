"""Does a policy learn more from a representation than from nothing? CogACT and its L1 head, four ways to start each.

One task under randomised colours, lights, cameras and distractors, and a vision tower that is the policy's own from
random weights, a representation kept frozen, one that is fine-tuned, or its architecture with fresh weights, trained in
the same way: what the last two differ by is what pre-training gave. The same demonstrations, steps and test scenes for
all. Each finished cell is a small json; run again to go on.
"""

import hashlib
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from policies import train as training
from sim import collect
from sim.evaluate import EvalConfig, evaluate, tell
from sim.results import summarize
from vla.bench import Row, parser, write_bench
from vla.config import build, load
from vla.representation.load import WEIGHTS
from vla.representation.load import load as load_representation

TASK = "tabletop/touch-red-cube"
STARTS = ("scratch", "frozen", "fine-tuned", "untrained")
HEADS = ("cogact_l1", "cogact")
SUITE = {"image_size": 64, "cameras": ["front"], "randomize": ["camera", "colors", "distractors", "lights"]}
STEPS, BATCH = 1500, 64
RESULTS = Path(__file__).with_name("results")


def run_cell(start: str, head: str, *, representation: Path, demos: int, episodes: int, work: Path) -> dict[str, Any]:
    """Collect (once for all), train, evaluate."""
    data = work / f"data-{demos}"
    plan = {"tasks": [TASK], "episodes": demos, "out": data, "suite": SUITE}
    collect.run(build(collect.CollectConfig, plan))
    name = named(start, representation)
    out = work / f"{head}-{name}-{demos}"
    given = [f"policy={head}", "preset=cpu", f"data={data}", f"out={out}"]
    given += [f"trainer.steps={STEPS}", f"trainer.batch_size={BATCH}"]
    if start != "scratch":
        frozen = "true" if start == "frozen" else "false"
        eyes = untrained(representation, work) if start == "untrained" else representation
        given += [f"policy.backbone.representation={eyes}", f"policy.backbone.freeze={frozen}"]
    settings = load(training.TrainConfig, "train", given)
    settings.resume = (out / "training_state").is_dir()
    began = perf_counter()
    training.run(settings)
    trained = perf_counter() - began
    asked = {"policy": out, "tasks": [TASK], "episodes": episodes, "control_episodes": 0, "suite": SUITE}
    played = evaluate(build(EvalConfig, {**asked, "out": work / f"eval-{head}-{name}-{demos}", "films": False}))
    report = summarize(played.results, wall_s={"train": trained, "evaluate": played.wall_s})
    tell(report, work)
    keys = ("episodes", "successes", "success_rate", "wilson")
    return {
        "start": start,
        "head": head,
        "demos": demos,
        "steps": STEPS,
        "representation": representation.name,
        **{key: report["mean"][key] for key in keys},
        "random": report["conditions"]["random"]["mean"]["success_rate"],
        "wall_s": report["wall_s"],
        "code": training.code_version(),
    }


def named(start: str, representation: Path) -> str:
    """What a cell is called; two folders of one name are told apart by their weights."""
    if start == "scratch":
        return start
    with (representation / WEIGHTS).open("rb") as file:
        return f"{start}-{representation.name}-{hashlib.file_digest(file, 'sha256').hexdigest()[:8]}"


def known(file: Path, episodes: int) -> dict[str, Any] | None:
    """A cell that was finished with as many steps and test scenes."""
    if not file.is_file():
        return None
    cell: dict[str, Any] = json.loads(file.read_text())
    return cell if (cell["steps"], cell["episodes"]) == (STEPS, episodes) else None


def untrained(representation: Path, work: Path) -> Path:
    """A folder with the same architecture and fresh weights."""
    folder = work / named("untrained", representation)
    if not (folder / WEIGHTS).is_file():
        torch.manual_seed(0)
        load_representation(representation).untrained().save(folder)
    return folder


def main(argv: list[str]) -> int:
    """``vla bench representation_policy --representation FOLDER``."""
    arguments = parser("representation_policy", __doc__)
    arguments.add_argument("--representation", type=Path, required=True, help="a folder that vla pretrain wrote")
    arguments.add_argument("--demos", type=int, default=100, help="demonstrations")
    arguments.add_argument("--episodes", type=int, default=200, help="test scenes")
    arguments.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    arguments.add_argument("--work", type=Path, default=Path("outputs/representation-policy"))
    given = arguments.parse_args(argv)
    cells = []
    for head in given.heads:
        for start in STARTS:
            name = named(start, given.representation)
            file = RESULTS / f"representation-policy-{head}-{name}-{given.demos}.json"
            cell = known(file, given.episodes)
            if cell is None:
                sizes = {"demos": given.demos, "episodes": given.episodes, "work": given.work}
                cell = run_cell(start, head, representation=given.representation, **sizes)
                file.write_text(json.dumps(cell, indent=2) + "\n")
            cells.append(cell)
    for cell in cells:
        low, high = cell["wilson"]
        rate = f"{cell['successes']}/{cell['episodes']} = {cell['success_rate']:.2f} ({low:.2f} – {high:.2f})"
        sys.stdout.write(f"| {cell['head']} | {cell['start']} | {rate} | {cell['random']:.2f} |\n")
    rows = [Row(f"{cell['head']}, {cell['start']}", cell["success_rate"], "success") for cell in cells]
    write_bench("representation_policy", rows, {}, given.json, notes=("success on unseen scenes; intervals above",))
    return 0
