"""Ten Meta-World tasks, one policy that is told which: four heads × four ways of carrying out their chunks.

All heads start from one backbone (trained with the L1 head) and train as many steps on the same demonstrations; all
play the same unseen scenes. Beside them LeRobot's ACT and diffusion policy, trained on the same demonstrations for as
long as CogACT's diffusion head and its backbone were. Each finished cell is a small json; run again to go on.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.study import Cell, kept, markdown, mean_of, play_tasks

from policies import train as training
from policies.execution import ExecutionConfig
from policies.lerobot_plugin.command import adopt
from sim import collect
from sim.results import Condition
from sim.rollout import Setting
from vla.bench import Row, parser, write_bench
from vla.config import build, load
from vla.errors import UnderstudyError

TASKS = tuple(
    f"metaworld/{name}"
    for name in (
        "reach",
        "push",
        "pick-place",
        "door-open",
        "drawer-open",
        "drawer-close",
        "button-press-topdown",
        "peg-insert-side",
        "window-open",
        "window-close",
    )
)
SUITE = {"profile": "fast", "image_size": 64, "cameras": ["side", "top"]}
NOISE = 0.1
"""Under the 0.3 of `vla collect` the expert of ``push`` hovers over the puck, and so does who learns from it."""
WARM_UP, STEPS = 4000, 2000
BATCH = 64
HEADS = {"diffusion": "cogact", "flow": "cogact_flow", "unet": "cogact_unet", "l1": "cogact_l1"}
EXECUTIONS = {
    "chunking": ExecutionConfig(ensemble="newest"),
    "temporal": ExecutionConfig(ensemble="temporal", num_chunks=4),
    "adaptive": ExecutionConfig(ensemble="adaptive"),
    "rtc": ExecutionConfig(ensemble="newest", realtime="guided"),
}
PEER = ["n_action_steps=4", "pretrained_backbone_weights=null", "push_to_hub=false", "device=cpu"]
PEERS = {
    "act": [
        *("chunk_size=16", "dim_model=256", "n_heads=4", "dim_feedforward=1024"),
        *("n_encoder_layers=2", "n_vae_encoder_layers=2", "optimizer_lr=1e-4", "optimizer_lr_backbone=1e-4"),
    ],
    "diffusion": [
        *("horizon=16", "n_obs_steps=2", "down_dims=[64,128,256]", "diffusion_step_embed_dim=128"),
        *("crop_shape=null", "noise_scheduler_type=DDIM", "num_inference_steps=10"),
    ],
}
"""LeRobot's ACT and diffusion policy, at sizes and rates that have a chance in minutes on a CPU; neither reads the
instruction. Both act on four steps of a chunk of 16, as ours do."""
PEER_BATCH = 32
FIRST_SCENE = 400


def train_head(head: str, *, data: Path, work: Path, warm_up: Path | None) -> float:
    """Train one head, from the backbone in ``warm_up`` if given; the seconds of its steps, by the median step."""
    out = work / (head if warm_up else "warm-up")
    given = [f"policy={HEADS[head]}", "preset=cpu", f"data={data}", f"out={out}"]
    given += [f"trainer.steps={STEPS if warm_up else WARM_UP}", f"trainer.batch_size={BATCH}"]
    settings = load(training.TrainConfig, "train", given + ([f"start_from={warm_up}"] if warm_up else []))
    steps = settings.trainer["steps"]
    if not (out / f"training_state/step-{steps:08d}").is_dir():
        settings.resume = (out / "training_state").is_dir()
        training.run(settings)
    rates = [json.loads(line)["samples_per_s"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    return steps * BATCH / median(rates)


def train_peer(kind: str, *, data: Path, work: Path, seconds: float) -> tuple[Path, float]:
    """Let LeRobot train for ``seconds``: as many steps as 30 of them say; the checkpoint, and how long it took."""
    out = work / f"lerobot-{kind}"
    checkpoint = out / "checkpoints/last/pretrained_model"
    if not (out / "wall_s.json").is_file():
        trial = lerobot_train(kind, data=data, out=work / f"lerobot-{kind}-trial", steps=30)
        steps = round(30 * seconds / trial)
        shutil.rmtree(out, ignore_errors=True)
        took = lerobot_train(kind, data=data, out=out, steps=steps)
        adopt(checkpoint, data)
        (out / "wall_s.json").write_text(json.dumps(took))
    return checkpoint, json.loads((out / "wall_s.json").read_text())


def lerobot_train(kind: str, *, data: Path, out: Path, steps: int) -> float:
    """Run LeRobot's command for ``steps``; the seconds of its loop, loading included and starting up not."""
    shutil.rmtree(out, ignore_errors=True)
    given = [f"--policy.type={kind}", *(f"--policy.{setting}" for setting in [*PEER, *PEERS[kind]])]
    given += ["--dataset.repo_id=local/mt10", f"--dataset.root={data.resolve()}", "--dataset.video_backend=pyav"]
    given += [f"--steps={steps}", f"--save_freq={steps}", "--log_freq=10", f"--batch_size={PEER_BATCH}"]
    given += ["--num_workers=1", "--wandb.enable=false", f"--output_dir={out}"]
    command = [sys.executable, "-m", "lerobot.scripts.lerobot_train", *given]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=offline)
    if done.returncode:
        raise UnderstudyError(f"LeRobot's training ended with {done.returncode}: {done.stderr[-500:]}")
    spent = re.findall(r"updt_s:([\d.]+) data_s:([\d.]+)", done.stderr)
    return sum(float(update) + float(load) for update, load in spent) * steps / len(spent)


def main(argv: list[str]) -> int:
    """``vla bench mt10``: three hours on two cores."""
    arguments = parser("mt10", __doc__)
    arguments.add_argument("--demos", type=int, default=100, help="demonstrations of each task")
    arguments.add_argument("--episodes", type=int, default=20, help="test scenes of each task")
    arguments.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    arguments.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS, help="policies of LeRobot's")
    arguments.add_argument("--work", type=Path, default=Path("outputs/mt10"), help="where data and checkpoints go")
    given = arguments.parse_args(argv)
    data, options = given.work / "data", json.dumps(SUITE, sort_keys=True)
    recording = {"tasks": list(TASKS), "episodes": given.demos, "out": data, "suite": SUITE, "noise": NOISE}
    collect.run(build(collect.CollectConfig, recording))

    def played(name: str, setting: Setting, condition: Condition = "policy", **about: object) -> Cell:
        play = partial(play_tasks, TASKS, setting, condition, episodes=given.episodes, first_scene=FIRST_SCENE)
        return kept(f"mt10-{name}", play, episodes=given.episodes, **about)

    cells = {who: played(who, Setting(options), who) for who in ("random", "expert")}
    warmed = train_head("l1", data=data, work=given.work, warm_up=None)
    for head in given.heads:
        seconds = train_head(head, data=data, work=given.work, warm_up=given.work / "warm-up")
        for execution, how in EXECUTIONS.items():
            if (head, execution) == ("l1", "rtc"):
                continue  # there is no noise to guide
            setting = Setting(options, str(given.work / head), how)
            cells[f"{head}-{execution}"] = played(f"{head}-{execution}", setting, train_s=[warmed, seconds])
    for kind in given.peers:
        ours = warmed + train_head("diffusion", data=data, work=given.work, warm_up=given.work / "warm-up")
        checkpoint, seconds = train_peer(kind, data=data, work=given.work, seconds=ours)
        cells[f"lerobot-{kind}"] = played(f"lerobot-{kind}", Setting(options, str(checkpoint)), train_s=[seconds])
    sys.stdout.write(table(cells))
    rows = [Row(name, one["success_rate"], "success") for name, one in cells.items()]
    write_bench("mt10", rows, {}, given.json, notes=("success on unseen scenes; intervals in the table above",))
    return 0


def table(cells: dict[str, Cell]) -> str:
    """One line a cell: the mean with its interval, then the successes of each task."""
    rows = [
        [name.replace("-", ", "), mean_of(cell), *(str(cell["tasks"][task]) for task in TASKS)]
        for name, cell in cells.items()
    ]
    return markdown(["", "mean (95 %)", *(task.removeprefix("metaworld/") for task in TASKS)], rows)
