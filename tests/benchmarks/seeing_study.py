"""Manipulate by Seeing with no robot demonstration: its planner beside cloning of the same recordings.

A person with a grabber (`vla collect by=grabber`) reaches, pushes and picks up and puts away; the arm then does the
same in test scenes, each with a picture of the goal that the grabber leaves there. From scratch, from a representation
of ours, with that kept as it is, with the paper's own settings, and from poses as structure from motion tells them;
beside them cloning with the same network, random actions and the scripted expert, who knows where everything is.
Each finished cell is a small json; run again to go on.
"""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from benchmarks.study import Cell, kept, markdown, mean_of, play_scenes, steps_of, train_for

from policies.checkpoint import CONFIG
from policies.execution import ExecutionConfig
from policies.manipulate_by_seeing_model import ManipulateBySeeingConfig
from policies.policy import load_policy
from sim import collect, human
from sim.rollout import Scene, Setting
from sim.suite import TEST_SEEDS
from vla.bench import Row, parser, write_bench
from vla.config import CONFIGS, build, from_yaml, load, to_yaml
from vla.data.lerobot import open_dataset
from vla.data.windows import load_windows
from vla.representation import pretrain
from vla.representation.evaluation.value import spearman

TASKS = ("tabletop/touch-red-cube", "tabletop/push-red-cube-pad", "tabletop/put-red-cube-tray")
SUITE = {"cameras": ["wrist"], "image_size": 64}
UNSEEN_SEED = 500_000
"""First scene of the recordings that nobody learns from."""
BATCH = 32
SECONDS = 600.0
"""Of training, for each cell."""
RECORDINGS = 150
"""Of each task; of fewer, cells are kept under names of their own."""
OURS = ["policy=manipulate_by_seeing", "preset=cpu", f"trainer.batch_size={BATCH}"]
SEES, FROZEN = "policy.representation={representation}", "policy.freeze=true"
CELLS = {
    "scratch": [],
    "cloning": ["policy.learns=cloning"],
    "cloning, directions": ["policy.learns=cloning", "policy.directions=true"],
    "pretrained": [SEES],
    "frozen": [SEES, FROZEN],
    "directions": ["policy.directions=true"],
    "sfm": ["policy.directions=true", "policy.reach=0.05"],
    "paper": ["policy.directions=true", "policy.temperature=1", "policy.pool=mean", "policy.best=1"],
}
PLANNED = {"scratch, the best move": ("scratch", "best", "1"), "scratch, cem": ("scratch", "planner", "cem")}
"""Cells that plan otherwise by what another has learned: whose, and which setting is which."""
RESAMPLES = 2000


def recorded(work: Path, episodes: int, *, labels: str = "exact", seed: int = 0) -> Path:
    """Recordings of a person with a grabber."""
    about = {
        "tasks": list(TASKS),
        "episodes": episodes,
        "suite": SUITE,
        "by": "grabber",
        "labels": labels,
        "seed": seed,
    }
    out = work / f"data-{labels}-{seed}"
    return collect.run(build(collect.CollectConfig, about | {"out": out}))


def representation(work: Path) -> Path:
    """R3M on films of people at the same table, seen from the front."""
    out = work / "r3m"
    if not (out / "provenance.json").is_file():
        films = {"tasks": ["tabletop/*"], "clips": 600, "image_size": 64, "out": work / "films"}
        data = human.run(build(human.HumanConfig, films))
        given = ["representation=r3m", "preset=cpu", f"data={data}", f"out={out}", "trainer.steps=600"]
        given += [
            "representation.encoder.patch_size=16",
            "representation.encoder.width=128",
            "representation.encoder.heads=4",
        ]
        settings = load(pretrain.PretrainConfig, "pretrain", given, config_dir=CONFIGS / "pretrain")
        settings.resume = (out / "training_state").is_dir()
        pretrain.run(settings)
    return out


def played(setting: Setting, how: str, *, episodes: int) -> Cell:
    """Successes on the test scenes, each with the goal that a grabber leaves there; none is needed without a policy.

    ``how`` "other-goal": the goal is what the next task leaves in the same scene.
    """
    condition, goals = ("policy", TASKS[1:] + TASKS[:1]) if how == "other-goal" else (how, TASKS)
    goal = "grabber" if setting.checkpoint else ""
    scenes = [
        Scene(setting, task, pictured, condition, seed, goal=goal)
        for task, pictured in zip(TASKS, goals, strict=True)
        for seed in TEST_SEEDS[:episodes]
    ]
    return play_scenes(scenes)


def told(checkpoint: Path, unseen: Path) -> dict[str, Any]:
    """On recordings that nobody has learned from: the cosine of the chosen and the true move, and of how far it is.

    ``direction``: to the recording's last frame, at every frame with a move; ``random``: of a move drawn instead;
    ``remaining``: rank correlation of the distance with the way that is left, in each recording.
    """
    policy, dataset = load_policy(checkpoint), open_dataset(unseen)
    windows = load_windows(dataset, pred_horizon=policy.config.stride, image_size=64, cameras=("wrist",))
    frames, random = windows.frames["wrist"], np.random.default_rng(0)
    found: dict[str, list[float]] = {"direction": [], "random": [], "remaining": []}
    for end in np.unique(windows.ends):
        begin = int(np.searchsorted(windows.ends, end))
        film, rows = np.asarray(frames[begin:end]), np.arange(begin, end)
        batch = policy.training_batch(windows.gather(rows))
        moved, moves = batch["moved"].numpy(), batch["move"].numpy()
        states, goal = policy.states(film), policy.states(film[-1:])
        chosen = policy.model.choose(states, goal.expand(len(states), -1), _generator()).cpu().numpy()
        drawn = policy.model.candidates.cpu().numpy()[random.integers(len(policy.model.candidates), size=len(rows))]
        found["direction"].append(float(_cosines(chosen, moves)[moved].mean()))
        found["random"].append(float(_cosines(drawn, moves)[moved].mean()))
        left = np.linalg.norm(windows.actions[begin:end, :3], axis=1)[::-1].cumsum()[::-1]
        if policy.config.learns == "distance":
            found["remaining"].append(spearman(policy.distances(film, film[-1]), left))
    return {name: _interval(each, random) for name, each in found.items() if each}


def _generator() -> Any:
    import torch

    return torch.Generator().manual_seed(0)


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[B, 3] twice → [B]."""
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-9)


def _interval(each: list[float], random: np.random.Generator) -> list[float]:
    """Mean over recordings, and where 95 of 100 resampled means lie."""
    means = random.choice(each, (RESAMPLES, len(each))).mean(1)
    return [float(np.mean(each)), *(float(value) for value in np.quantile(means, [0.025, 0.975]))]


def otherwise(checkpoint: Path, setting: str, value: str) -> Path:
    """The same policy with another setting of its planner."""
    out = checkpoint.with_name(f"{checkpoint.name}-{setting}-{value}")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(checkpoint, out, ignore=shutil.ignore_patterns("training_state"))
    policy = replace(from_yaml(ManipulateBySeeingConfig, out / CONFIG), **{setting: yaml.safe_load(value)})
    (out / CONFIG).write_text(to_yaml(policy))
    return out


def main(argv: list[str]) -> int:
    """``vla bench seeing_study``: two hours and a half on a core."""
    arguments = parser("seeing_study", __doc__)
    arguments.add_argument("--cells", nargs="+", default=[*CELLS, *PLANNED], choices=[*CELLS, *PLANNED], metavar="CELL")
    arguments.add_argument("--seconds", type=float, default=SECONDS, help="of training, for each cell")
    arguments.add_argument("--recordings", type=int, default=RECORDINGS, help="of each task")
    arguments.add_argument("--episodes", type=int, default=100, help="test scenes of each task")
    arguments.add_argument("--work", type=Path, default=Path("outputs/seeing"), help="where all of it goes")
    given = arguments.parse_args(argv)
    options, cells = json.dumps(SUITE, sort_keys=True), {}
    unseen = recorded(given.work, 10, seed=UNSEEN_SEED)

    def counted(name: str, setting: Setting, how: str, **about: object) -> Cell:
        play = partial(played, setting, how, episodes=given.episodes)
        fewer = f"{given.recordings}-" if about and given.recordings != RECORDINGS else ""
        return kept(f"seeing-{fewer}{name}", play, episodes=given.episodes, **about)

    for who in ("random", "expert"):
        cells[who] = counted(who, Setting(options), who)
    for cell in given.cells:
        name, *planned = PLANNED.get(cell, (cell,))
        data = recorded(given.work, given.recordings, labels="sfm" if name == "sfm" else "exact")
        settings = [one.format(representation=given.work / "r3m") for one in CELLS[name]]
        if any("representation" in one for one in settings):
            representation(given.work)
        checkpoint, spent = train_for(
            given.seconds, given.work / name.replace(", ", "-"), [*OURS, *settings, f"data={data}"], batch_size=BATCH
        )
        if planned:
            checkpoint = otherwise(checkpoint, *planned)
        setting = Setting(options, str(checkpoint), ExecutionConfig(ensemble="newest"))
        about = {"checkpoint": checkpoint, "train_s": spent, "train_steps": steps_of(checkpoint)}
        told_apart = told(checkpoint, unseen)
        cells[cell] = counted(cell.replace(", ", "-").replace(" ", "-"), setting, "policy", **about, **told_apart)
        if cell == "scratch":
            cells[f"{cell}, blank goal"] = counted(f"{cell}-blank", setting, "blank-prompt", **about)
            cells[f"{cell}, another goal"] = counted(f"{cell}-other", setting, "other-goal", **about)
    head = ["", "mean (95 %)", *(task.partition("/")[2] for task in TASKS), "direction", "remaining", "steps"]
    lines = [
        [who, mean_of(one), *(str(one["tasks"][task]) for task in TASKS), *_told(one), str(one.get("train_steps", ""))]
        for who, one in cells.items()
    ]
    sys.stdout.write(markdown(head, lines))
    rows = [Row(name, one["success_rate"], "success") for name, one in cells.items()]
    notes = ("success on unseen scenes, with no robot demonstration; intervals in the table above",)
    write_bench("seeing_study", rows, {}, given.json, notes=notes)
    return 0


def _told(cell: Cell) -> list[str]:
    return [
        f"{cell[name][0]:.2f} ({cell[name][1]:.2f} – {cell[name][2]:.2f})" if name in cell else ""
        for name in ("direction", "remaining")
    ]
