"""Our policies beside LeRobot's on Meta-World's MT10: same demonstrations, same minutes of one core, three seeds each.

One policy for ten tasks. A policy's steps are what ``--minutes`` of one core buy on a machine with nothing else to do
(`plan`, measured once and kept), so that what else runs later changes no figure. Every cell is a training and an
evaluation, each a command of its own, which stands in its report; what is found is kept as a small json, and the same
command goes on where it stopped. At the end it prints the command of the page.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from benchmarks import mt10, uva_study
from benchmarks.study import RESULTS, TRIAL, Cell, cell_of, kept, markdown, mean_of
from benchmarks.tiny_smolvla import tiny_smolvla

from policies.lerobot_plugin.command import adopt
from sim import merge
from sim.intervals import percentiles, resampled_rates
from sim.results import read_report
from sim.tasks.metaworld import INSTRUCTIONS
from vla.bench import Row, parser, write_bench
from vla.errors import UnderstudyError

PLAN = RESULTS / "mt10-seeds-plan.json"
BATCH = {"ours": 64, "lerobot": 32}
COGACT = ["preset=cpu", "trainer.batch_size=64"]
STAGES: dict[str, list[tuple[str, float, list[str]]]] = {
    "cogact": [("l1", 2 / 3, ["policy=cogact_l1", *COGACT]), ("diffusion", 1 / 3, ["policy=cogact", *COGACT])],
    "l1": [("l1", 1.0, ["policy=cogact_l1", *COGACT])],
    "uva": [("uva", 1.0, uva_study.UVA)],
}
"""Policy → its trainings one after the other, each beginning with the backbone of the one before: share, settings."""
PEERS = {
    **mt10.PEERS,
    "smolvla": [
        *("chunk_size=16", "num_vlm_layers=4", "resize_imgs_with_padding=[64,64]", "freeze_vision_encoder=false"),
        *("train_expert_only=false", "optimizer_lr=1e-3", "scheduler_warmup_steps=50"),
    ],
}
"""LeRobot's; SmolVLA at a size that can learn from nothing in minutes."""
POLICIES = (*STAGES, *PEERS)
ONE_CORE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def call(command: Sequence[str], log: Path) -> float:
    """Run a command on one core and keep what it says; the seconds that it took."""
    log.parent.mkdir(parents=True, exist_ok=True)
    began = perf_counter()
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False, env=os.environ | ONE_CORE)
    if done.returncode:
        raise UnderstudyError(f"{shlex.join(command)} ended with {done.returncode}; see {log}")
    return perf_counter() - began


def ours(settings: Sequence[str], *, data: Path, out: Path, steps: int, seed: int, every: int = 20) -> list[str]:
    """The command of one of our trainings."""
    fixed = [f"data={data}", f"out={out}", f"trainer.steps={steps}", f"trainer.seed={seed}"]
    again = ["resume=true"] if (out / "training_state").is_dir() else []
    command = [sys.executable, "-m", "vla", "train", *settings, *fixed, f"trainer.log_every={every}", *again]
    return (
        [*command, f"policy.vae={uva_study.autoencoder(Path('outputs/uva'), data)}"]
        if "policy=uva" in settings
        else command
    )


def theirs(kind: str, *, data: Path, out: Path, steps: int, seed: int) -> list[str]:
    """The command of one of LeRobot's trainings."""
    settings = [one for one in mt10.PEER if not one.startswith("pretrained_")]
    settings += ["pretrained_backbone_weights=null"] if kind != "smolvla" else []
    if kind == "smolvla":
        settings.append(f"vlm_model_name={tiny_smolvla(data.parent / 'tiny-smolvlm', INSTRUCTIONS.values())}")
        settings.append(f"scheduler_decay_steps={steps}")
    given = [f"--policy.type={kind}", *(f"--policy.{setting}" for setting in [*settings, *PEERS[kind]])]
    given += ["--dataset.repo_id=local/mt10", f"--dataset.root={data.resolve()}", "--dataset.video_backend=pyav"]
    given += [f"--steps={steps}", f"--save_freq={-(-steps // 6)}", "--log_freq=10", f"--batch_size={BATCH['lerobot']}"]
    given += ["--num_workers=0", "--wandb.enable=false", f"--seed={seed}", f"--output_dir={out}"]
    return [sys.executable, "-m", "lerobot.scripts.lerobot_train", *given]


def gone_on(command: Sequence[str], checkpoint: Path, out: Path) -> Sequence[str]:
    """The command that goes on with one of LeRobot's trainings from its last state, if it has one."""
    if not (checkpoint / "train_config.json").is_file():
        shutil.rmtree(out, ignore_errors=True)
        return command
    return [*command[:3], f"--config_path={checkpoint}/train_config.json", "--resume=true"]


def seconds_a_step(policy: str, *, data: Path, work: Path) -> dict[str, float]:
    """Stage → seconds of one step, by the median of a trial."""
    found, work = {}, work / "trials"
    if policy in PEERS:
        out = work / policy
        shutil.rmtree(out, ignore_errors=True)
        call(theirs(policy, data=data, out=out, steps=TRIAL, seed=0), work / f"{policy}.log")
        spent = re.findall(r"updt_s:([\d.]+) data_s:([\d.]+)", (work / f"{policy}.log").read_text())
        return {policy: median(float(update) + float(load) for update, load in spent[1:])}
    for stage, _, settings in STAGES[policy]:
        out = work / f"{policy}-{stage}"
        shutil.rmtree(out, ignore_errors=True)
        call(ours(settings, data=data, out=out, steps=TRIAL, seed=0, every=5), work / f"{policy}-{stage}.log")
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found[stage] = BATCH["ours"] / median(line["samples_per_s"] for line in lines[2:])
    return found


def plan(minutes: float, *, data: Path, work: Path) -> dict[str, Any]:
    """Policy → stage → its steps; measured once."""
    found = json.loads(PLAN.read_text()) if PLAN.is_file() else {"minutes": minutes, "s_a_step": {}, "steps": {}}
    if found["minutes"] != minutes:
        raise UnderstudyError(f"{PLAN.name} is for {found['minutes']} minutes: remove it and its cells for {minutes}")
    for policy in POLICIES:
        if policy not in found["steps"]:
            one = seconds_a_step(policy, data=data, work=work)
            shares = {stage: share for stage, share, _ in STAGES.get(policy, [(policy, 1.0, [])])}
            found["s_a_step"][policy] = one
            found["steps"][policy] = {stage: round(60 * minutes * shares[stage] / one[stage]) for stage in one}
            PLAN.write_text(json.dumps(found, indent=2) + "\n")
    return found


def trained(policy: str, seed: int, planned: Mapping[str, Any], *, data: Path, work: Path) -> Path:
    """The checkpoint of a cell."""
    folder, before, steps = work / f"{policy}-{seed}", None, planned["steps"][policy]
    if policy in PEERS:
        checkpoint, out = folder / "train/checkpoints/last/pretrained_model", folder / "train"
        command = theirs(policy, data=data, out=out, steps=steps[policy], seed=seed)
        if not (checkpoint / "provenance.json").is_file():
            call(gone_on(command, checkpoint, out), folder / "train.log")
            adopt(checkpoint, data)
        noted(checkpoint, command, steps[policy] * planned["s_a_step"][policy][policy])
        return checkpoint
    for stage, _, settings in STAGES[policy]:
        out = folder / stage
        given = [*settings, *([f"start_from={before}"] if before else [])]
        command = ours(given, data=data, out=out, steps=steps[stage], seed=seed)
        if not (out / f"training_state/step-{steps[stage]:08d}").is_dir():
            call(command, folder / f"{stage}.log")
        noted(out, command, steps[stage] * planned["s_a_step"][policy][stage])
        before = out
    return folder / STAGES[policy][-1][0]


def noted(checkpoint: Path, command: Sequence[str], seconds: float) -> None:
    """Write down what made a checkpoint, and how long that takes on a core with nothing else to do."""
    file = checkpoint / "provenance.json"
    plain = " ".join(part for part in map(shlex.quote, command[1:]) if part != "resume=true")
    about = {
        "train_s": seconds,
        "command": plain.replace("-m vla", "vla").replace("-m lerobot.scripts.lerobot_train", "lerobot-train"),
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | about, indent=2))


def evaluated(policy: str, seed: int, checkpoint: Path, *, work: Path, episodes: int) -> dict[str, Any]:
    """The report of a cell."""
    out = work / f"{policy}-{seed}/eval"
    command = [sys.executable, "-m", "vla", "eval", f"policy={checkpoint}", f"tasks=[{','.join(mt10.TASKS)}]"]
    command += [f"episodes={episodes}", f"seed={mt10.FIRST_SCENE}", "control_episodes=0", f"out={out}"]
    command += ["suite={profile: fast, image_size: 64, cameras: [side, top]}"]
    command += ["execution.ensemble=newest"] if policy not in PEERS else []
    command += ["films=false"] if seed else []
    if not (out / "report.json").is_file():
        if others := sorted(map(str, work.glob("*/eval/report.json"))):  # whose floor and ceiling are the same
            merge.main([*(str(Path(one).parent) for one in others[:1]), "--out", str(out)])
        call(command, out.with_name("eval.log"))
    return read_report(out)


def main(argv: list[str]) -> int:
    """``vla bench mt10_seeds``: eighteen trainings and evaluations, some five hours on two cores."""
    arguments = parser("mt10_seeds", __doc__)
    arguments.add_argument("--minutes", type=float, default=20, help="of one core, for each training")
    arguments.add_argument("--policies", nargs="+", default=list(POLICIES), choices=POLICIES)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of training")
    arguments.add_argument("--episodes", type=int, default=20, help="test scenes of each task")
    arguments.add_argument("--work", type=Path, default=Path("outputs/mt10-seeds"), help="where checkpoints go")
    arguments.add_argument("--data", type=Path, default=Path("outputs/mt10/data"), help="of vla bench mt10")
    arguments.add_argument("--only", choices=("plan", "train"), help="go no further")
    given = arguments.parse_args(argv)
    planned = plan(given.minutes, data=given.data, work=given.work)
    if given.only == "plan":
        return 0
    cells: dict[str, list[Cell]] = {}
    for seed in given.seeds:
        for policy in given.policies:
            if given.only == "train":
                trained(policy, seed, planned, data=given.data, work=given.work)
            else:
                cells.setdefault(policy, []).append(cell(policy, seed, planned, given))
    if cells:
        sys.stdout.write(table(cells))
        runs = " ".join(f"{policy}={given.work}/{policy}-*/eval" for policy in cells)
        sys.stdout.write(f"vla leaderboard {runs} --out {given.work}/leaderboard\n")
        rows = [Row(name, together(each)["success_rate"], "success") for name, each in cells.items()]
        write_bench("mt10_seeds", rows, {}, given.json, notes=("success on unseen scenes, all seeds together",))
    return 0


def cell(policy: str, seed: int, planned: Mapping[str, Any], given: Namespace) -> Cell:
    """A training and its evaluation, or what was kept of them."""

    def played() -> Cell:
        checkpoint = trained(policy, seed, planned, data=given.data, work=given.work)
        return told(evaluated(policy, seed, checkpoint, work=given.work, episodes=given.episodes))

    name, steps = f"mt10-seeds-{policy}-{seed}", planned["steps"][policy]
    return kept(name, played, episodes=given.episodes, steps_trained=steps)


def told(report: Mapping[str, Any]) -> Cell:
    """What is kept of a report: successes, which scenes were won, size and how long the policy thinks."""
    rows = [row for task in mt10.TASKS for row in report["tasks"][task]["episodes_detail"]]
    successes = {task: report["tasks"][task]["successes"] for task in mt10.TASKS}
    return cell_of(successes, report["tasks"][mt10.TASKS[0]]["episodes"]) | {
        "won": [int(row["success"]) for row in rows],
        "parameters": report["provenance"]["parameters"],
        "latency_ms": {name: report["latency_ms"][name] for name in ("p50", "p95")},
        "evaluate_s": report["wall_s"]["evaluate"],
    }


def together(cells: Sequence[Cell]) -> Cell:
    """A policy's trainings; the interval is the leaderboard's: another training, and other scenes."""
    tasks = {task: sum(one["tasks"][task] for one in cells) for task in mt10.TASKS}
    found = cell_of(tasks, sum(one["episodes"] for one in cells))
    strata = [task for task in mt10.TASKS for _ in range(cells[0]["episodes"])]
    drawn = percentiles(resampled_rates([np.array([one["won"] for one in cells])], strata)[:, 0])
    low, high = found["wilson"]
    return found | {"wilson": (min(low, drawn[0]), max(high, drawn[1]))} if len(cells) > 1 else found


def table(cells: Mapping[str, Sequence[Cell]]) -> str:
    """One line a policy: all seeds together, each seed, size, thinking, then the successes of each task."""
    lines = []
    for name, each in cells.items():
        whole = together(each)
        rates = ", ".join(f"{one['success_rate']:.2f}" for one in each)
        about = [f"{each[0]['parameters'] / 1e6:.1f} M", f"{median(one['latency_ms']['p95'] for one in each):.0f} ms"]
        lines.append([name, mean_of(whole), rates, *about, *(str(whole["tasks"][task]) for task in mt10.TASKS)])
    head = ["", "mean (95 %)", "each seed", "parameters", "95 % of answers within"]
    return markdown([*head, *(task.removeprefix("metaworld/") for task in mt10.TASKS)], lines)
