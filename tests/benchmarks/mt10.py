"""Ten Meta-World tasks, one policy that is told which: four heads × four ways of carrying out their chunks.

All heads start from one backbone (trained with the L1 head) and train as many steps on the same demonstrations; all
play the same unseen scenes. Beside them LeRobot's ACT and diffusion policy, trained on the same demonstrations for as
long as the slowest head and its backbone were. Each finished cell is a small json; run again to go on.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from policies import train as training
from policies.execution import ExecutionConfig
from policies.lerobot_plugin.command import adopt
from sim import collect
from sim.intervals import wilson
from sim.pool import default_workers, with_progress
from sim.results import Condition
from sim.rollout import Scene, Setting, play_all
from sim.suite import TEST_SEEDS
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
RESULTS = Path(__file__).with_name("results")


def train_head(head: str, *, data: Path, work: Path, warm_up: Path | None) -> float:
    """Train one head, from the backbone in ``warm_up`` if given; seconds that it took."""
    out = work / (head if warm_up else "warm-up")
    given = [f"policy={HEADS[head]}", "preset=cpu", f"data={data}", f"out={out}"]
    given += [f"trainer.steps={STEPS if warm_up else WARM_UP}", f"trainer.batch_size={BATCH}"]
    settings = load(training.TrainConfig, "train", given + ([f"start_from={warm_up}"] if warm_up else []))
    if is_trained(out, settings.trainer["steps"]):
        return json.loads((out / "wall_s.json").read_text())
    settings.resume = (out / "training_state").is_dir()
    began = perf_counter()
    training.run(settings)
    seconds = perf_counter() - began
    (out / "wall_s.json").write_text(json.dumps(seconds))
    return seconds


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


def is_trained(out: Path, steps: int) -> bool:
    """Whether the run in ``out`` came to its end."""
    return (out / "wall_s.json").is_file() and (out / f"training_state/step-{steps:08d}").is_dir()


def play_tasks(setting: Setting, condition: Condition, *, episodes: int) -> dict[str, Any]:
    """Successes of each task on the test scenes, and the mean with its interval."""
    seeds = TEST_SEEDS[FIRST_SCENE : FIRST_SCENE + episodes]
    scenes = [Scene(setting, task, task, condition, seed) for task in TASKS for seed in seeds]
    played = play_all(scenes, workers=default_workers())
    results = [one.result for one in with_progress(played, what=condition, total=len(scenes))]
    tasks = {task: sum(one.success for one in results if one.task == task) for task in TASKS}
    total = sum(tasks.values())
    return {
        "tasks": tasks,
        "episodes": episodes,
        "success_rate": total / len(scenes),
        "wilson": wilson(total, len(scenes)),
    }


def cell(name: str, play: Callable[[], dict[str, Any]], **about: object) -> dict[str, Any]:
    """What ``play()`` gives, kept in a file of that name."""
    file = RESULTS / f"mt10-{name}.json"
    if not file.is_file():
        file.write_text(json.dumps({**play(), **about, "code": training.code_version()}, indent=2) + "\n")
    return json.loads(file.read_text())


def main(argv: list[str]) -> int:
    """``vla bench mt10``: two hours on two cores."""
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
    bare = Setting(options)
    cells = {who: cell(who, partial(play_tasks, bare, who, episodes=given.episodes)) for who in ("random", "expert")}
    warmed = train_head("l1", data=data, work=given.work, warm_up=None)
    longest = warmed
    for head in given.heads:
        seconds = train_head(head, data=data, work=given.work, warm_up=given.work / "warm-up")
        longest = max(longest, warmed + seconds)
        setting = Setting(options, str(given.work / head))
        for execution, how in EXECUTIONS.items():
            if (head, execution) == ("l1", "rtc"):
                continue  # there is no noise to guide

            play = partial(play_tasks, replace(setting, execution=how), "policy", episodes=given.episodes)
            cells[f"{head}-{execution}"] = cell(f"{head}-{execution}", play, train_s=[warmed, seconds])
    for kind in given.peers:
        checkpoint, seconds = train_peer(kind, data=data, work=given.work, seconds=longest)
        play = partial(play_tasks, Setting(options, str(checkpoint)), "policy", episodes=given.episodes)
        cells[f"lerobot-{kind}"] = cell(f"lerobot-{kind}", play, train_s=[seconds])
    sys.stdout.write(table(cells))
    rows = [Row(name, one["success_rate"], "success") for name, one in cells.items()]
    write_bench("mt10", rows, {}, given.json, notes=("success on unseen scenes; intervals in the table above",))
    return 0


def table(cells: dict[str, Any]) -> str:
    """One line a cell: the mean with its interval, then the successes of each task."""
    head = ["", "mean (95 %)", *(task.removeprefix("metaworld/") for task in TASKS)]
    lines = [head, ["---"] * len(head)]
    for name, one in cells.items():
        low, high = one["wilson"]
        mean = f"{one['success_rate']:.2f} ({low:.2f} – {high:.2f})"
        lines.append([name.replace("-", ", "), mean, *(f"{one['tasks'][task]}" for task in TASKS)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
