"""UVA beside itself without video, CogACT and LeRobot's diffusion policy: same demonstrations, same time on the clock.

The ten Meta-World tasks of `vla bench mt10`, one policy for all, among them one that is all contact (a peg into a
hole). Once with its 100 demonstrations of each task, where CogACT and LeRobot's policies are those of that study;
once with 10 for a quarter of the time, CogACT too; and once more with 10 and the films of the 100, without their
actions: first video alone for a third of the time, then everything. UVA sees through an autoencoder that was trained
on the films before, which is not on its clock. Each finished cell is a small json; run again to go on.
"""

import json
import sys
from functools import partial
from pathlib import Path

from benchmarks import mt10
from benchmarks.study import RESULTS, kept, markdown, mean_of, play_tasks, train_for

from policies.execution import ExecutionConfig
from sim import collect
from sim.rollout import Setting
from vla.bench import Row, parser, write_bench
from vla.config import CONFIGS, build, load
from vla.representation import pretrain

MANY, FEW = 100, 10
SHARE = {MANY: 1.0, FEW: 0.25}
"""Of the time, with so many demonstrations."""
FILMS_SHARE = 1 / 3
"""Of the time, for video alone."""
OURS = ("uva", "uva-policy-alone")
CELLS = {
    **{f"{name}-{MANY}": (name, MANY) for name in OURS},
    **{f"{name}-{FEW}": (name, FEW) for name in (*OURS, "uva-and-films", "cogact")},
}
BATCH = 64
COGACT = ["policy=cogact", "preset=cpu", f"trainer.batch_size={BATCH}"]
UVA = [
    *("policy=uva", "preset=cpu", "policy.frames=2", "policy.stride=8", "policy.width=128", "policy.depth=2"),
    *("policy.heads=4", "policy.language_tokens=4", "policy.video.width=128", "policy.action.width=128"),
    *(f"trainer.batch_size={BATCH}", "trainer.lr=1.5e-3"),
]
"""A size that sees as many samples a second as CogACT's does; at that of ``preset=cpu`` it sees a quarter of them."""


def recorded(demos: int, *, work: Path, many: Path) -> Path:
    """Demonstrations, of the same scenes however many there are; all of them are those of `vla bench mt10`."""
    out = many if demos == MANY else work / f"data-{demos}"
    recording = {"tasks": list(mt10.TASKS), "episodes": demos, "suite": mt10.SUITE, "noise": mt10.NOISE, "out": out}
    return collect.run(build(collect.CollectConfig, recording))


def autoencoder(work: Path, films: Path) -> Path:
    """Trained on all films: 16 pixels a side become a place of 128 numbers."""
    out, folder = work / "autoencoder", CONFIGS / "pretrain"
    if not (out / "provenance.json").is_file():
        given = ["representation=vae", "preset=cpu", f"data={films}", f"out={out}", "layout=lerobot_v3", "fps=80"]
        given += ["max_frames=2000", "trainer.steps=2000"]
        settings = load(pretrain.PretrainConfig, "pretrain", given, config_dir=folder)
        settings.resume = (out / "training_state").is_dir()
        pretrain.run(settings)
    return out


def trained(cell: str, *, work: Path, many: Path, seconds: float) -> tuple[Path, list[float]]:
    """The checkpoint of a cell, and the seconds of its stages."""
    (name, demos), out = CELLS[cell], work / cell
    seconds *= SHARE[demos]
    data = recorded(demos, work=work, many=many)
    if name == "cogact":
        checkpoint, spent = train_for(seconds, out, [*COGACT, f"data={data}"], batch_size=BATCH)
        return checkpoint, [spent]
    given = [*UVA, f"data={data}", f"policy.vae={autoencoder(work, many)}"]
    if name == "uva-policy-alone":
        given.append("policy.tasks=[policy]")
    if name != "uva-and-films":
        checkpoint, spent = train_for(seconds, out, given, batch_size=BATCH)
        return checkpoint, [spent]
    given.append(f"videos=[{many}]")
    first, begun = train_for(
        FILMS_SHARE * seconds, work / f"{cell}-video", [*given, "policy.tasks=[video]"], batch_size=BATCH
    )
    given += [f"start_from={first}", "video_share=0.3"]
    checkpoint, spent = train_for((1 - FILMS_SHARE) * seconds, out, given, batch_size=BATCH)
    return checkpoint, [begun, spent]


def main(argv: list[str]) -> int:
    """``vla bench uva_study``: after ``vla bench mt10``, four hours on two cores."""
    arguments = parser("uva_study", __doc__)
    arguments.add_argument(
        "--cells", nargs="+", default=list(CELLS), choices=CELLS, metavar="CELL", help=", ".join(CELLS)
    )
    arguments.add_argument("--episodes", type=int, default=20, help="test scenes of each task")
    arguments.add_argument("--work", type=Path, default=Path("outputs/uva"), help="where data and checkpoints go")
    arguments.add_argument("--demonstrations", type=Path, default=Path("outputs/mt10/data"), help="of vla bench mt10")
    given = arguments.parse_args(argv)
    options, tasks = json.dumps(mt10.SUITE, sort_keys=True), mt10.TASKS
    compared = ("random", "expert", "diffusion-chunking", "l1-chunking", "lerobot-act", "lerobot-diffusion")
    cells = {f"mt10-{who}": json.loads((RESULTS / f"mt10-{who}.json").read_text()) for who in compared}
    seconds = sum(cells["mt10-diffusion-chunking"]["train_s"])
    for cell in given.cells:
        checkpoint, spent = trained(cell, work=given.work, many=given.demonstrations, seconds=seconds)
        setting = Setting(options, str(checkpoint), ExecutionConfig(ensemble="newest"))
        play = partial(play_tasks, tasks, setting, "policy", episodes=given.episodes, first_scene=mt10.FIRST_SCENE)
        cells[cell] = kept(f"uva-{cell}", play, episodes=given.episodes, train_s=spent)
    head = ["", "mean (95 %)", *(task.removeprefix("metaworld/") for task in tasks)]
    lines = [[who, mean_of(cell), *(str(cell["tasks"][task]) for task in tasks)] for who, cell in cells.items()]
    sys.stdout.write(markdown(head, lines))
    rows = [Row(name, one["success_rate"], "success") for name, one in cells.items()]
    write_bench("uva_study", rows, {}, given.json, notes=("success on unseen scenes; intervals in the table above",))
    return 0
