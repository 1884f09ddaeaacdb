"""Vid2Robot, shown by people it never saw in scenes it never saw: is the film heeded, and what are its losses worth?

The ten Meta-World tasks of `vla bench mt10` and its demonstrations; films of a simulated hand at the same tasks show
what to do, others of test scenes in the evaluation. The same test scenes are played with a film of a hand, of the
robot, of another task, with a blank one and with one out of order. Beside the whole: trained by its actions alone,
without one loss at a time, with the film as a single vector (as in BC-Z), and told instead of shown, which is what a
film can give at most. Each finished cell is a small json; run again to go on.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmarks import mt10
from benchmarks.study import RESULTS, Cell, cell_of, kept, markdown, mean_of, train_for
from torch.nn import functional

from policies.execution import ExecutionConfig
from policies.policy import load_policy
from sim import human
from sim.collect import expand
from sim.evaluate import instructions, wrong_instructions
from sim.pool import default_workers, with_progress
from sim.results import Condition
from sim.rollout import Scene, Setting, play_all
from sim.shown import chosen, prompts_of
from sim.suite import TEST_SEEDS
from vla.bench import Row, parser, write_bench
from vla.config import build
from vla.data.corpus import open_corpus
from vla.data.privileged import read_labels
from vla.prompt import spread
from vla.representation.evaluation.retrieval import retrieve
from vla.representation.evaluation.temporal import kendall_tau

BATCH = 64
SECONDS = 600.0
"""Of training, for each cell."""
SIZE = [
    *("policy=vid2robot", "preset=cpu", "policy.encoder.patch_size=16", "policy.encoder.width=128"),
    *("policy.encoder.depth=2", "policy.encoder.heads=4", "policy.prompt_frames=8", "policy.state_frames=2"),
    *(
        "policy.stride=16",
        "policy.resampler_depth=1",
        "policy.prompt_depth=2",
        "policy.action_depth=2",
        "policy.pred_horizon=16",
    ),
    *("policy.exec_horizon=8", f"trainer.batch_size={BATCH}", "trainer.lr=1.5e-3"),
    "policy.pairs={robot_robot: 0.5, hindsight: 0.5, colocated: 0}",
]
"""Fewer frames, places and layers than at ``preset=cpu``, so that a cell sees enough samples in its time."""
CELLS = {
    "all": [],
    "actions-alone": ["policy.alignment=0", "policy.contrast=0", "policy.words=0"],
    "no-alignment": ["policy.alignment=0"],
    "no-contrast": ["policy.contrast=0"],
    "no-words": ["policy.words=0"],
    "one-vector": ["policy.prompt_latents=1", "policy.alignment=0", "policy.contrast=0"],
    "told": ["policy.prompt=words"],
}
CONTROLS = ("robot", "wrong", "blank-prompt", "shuffled-prompt")
"""How else the whole one is shown; every cell is shown films of hands."""


def films_of(work: Path, clips: int, *, split: str, embodiment: str) -> Path:
    """Films of the tasks, as `vla human` makes them."""
    out = work / f"films-{split}-{embodiment}"
    about = {"tasks": list(mt10.TASKS), "clips": clips, "split": split, "embodiment": embodiment, "out": out}
    return human.run(build(human.HumanConfig, {**about, "camera": "side", "image_size": 64, "failures": 0.0}))


def played(films: Mapping[str, Sequence[str]], setting: Setting, how: str, *, episodes: int) -> Cell:
    """Successes of each task on the test scenes; each has a film of its own."""
    told = instructions(mt10.TASKS, setting)
    shows = wrong_instructions(told) if how == "wrong" else {task: task for task in mt10.TASKS}
    condition: Condition = how if how in ("blank-prompt", "shuffled-prompt") else "policy"
    scenes = [
        Scene(setting, task, task, condition, seed, prompt=chosen(films[shows[task]], task, seed) if films else "")
        for task in shows
        for seed in TEST_SEEDS[mt10.FIRST_SCENE : mt10.FIRST_SCENE + episodes]
    ]
    results = with_progress(play_all(scenes, workers=default_workers()), what=how, total=len(scenes))
    won = [(scene, one.result.success) for scene, one in zip(scenes, results, strict=True)]
    tiers: dict[str, list[bool]] = {}
    for scene, success in won if films else []:
        tiers.setdefault(_tier(Path(scene.prompt)), []).append(success)
    successes = {task: sum(success for scene, success in won if scene.task == task) for task in shows}
    return cell_of(successes, episodes) | {
        "tiers": {tier: [sum(one), len(one)] for tier, one in sorted(tiers.items())},
        "won": [[scene.task, scene.seed, bool(success)] for scene, success in won],
    }


def _tier(film: Path) -> str:
    about = {one["name"]: one for one in read_labels(film.parents[1])}
    return about[film.stem]["tier"]


def alike(checkpoint: Path, hands: Path, robots: Path) -> dict[str, float]:
    """Is a person's film nearest to a robot's of the same task, and do their frames match in the order of time?"""
    policy = load_policy(checkpoint)
    people, arms = (open_corpus([folder], image_size=policy.config.image_size) for folder in (hands, robots))
    vectors, orders, words = [], [], []
    for corpus in (people, arms):
        seen = [_watched(policy, corpus[np.arange(start, start + length)]) for start, length in _spans(corpus)]
        vectors.append(np.stack([vector for vector, _ in seen]))
        orders.append([frames for _, frames in seen])
        words.append(list(corpus.captions))
    found = retrieve(vectors[0], words[0], gallery=vectors[1], gallery_labels=words[1])
    pairs = [(a, b) for a, told in enumerate(words[0]) for b, other in enumerate(words[1]) if told == other]
    taus = [kendall_tau(orders[0][a], orders[1][b]) for a, b in pairs]
    return {"recall_at_1": found.recall(1), "chance": found.chance_recall(1), "kendall_tau": float(np.mean(taus))}


def _spans(corpus: object) -> list[tuple[int, int]]:
    return list(zip(corpus.starts.tolist(), corpus.lengths.tolist(), strict=True))


@torch.inference_mode()
def _watched(policy: object, film: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A film as one vector [D], and its frames [F, D] as they are aligned."""
    model = policy.model
    frames = torch.from_numpy(np.ascontiguousarray(film[spread(len(film), policy.config.prompt_frames)]))[None].to(
        policy.device
    )
    video = model.watch(frames)
    whole = model.pool(video.tokens) if hasattr(model, "pool") else video.tokens.mean(1)
    each = functional.normalize(model.align(video.frames), dim=-1) if hasattr(model, "align") else video.frames
    return whole[0].cpu().numpy(), each[0].cpu().numpy()


def main(argv: list[str]) -> int:
    """``vla bench vid2robot_study``: after ``vla bench mt10``, two hours and a half on two cores."""
    arguments = parser("vid2robot_study", __doc__)
    arguments.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS, metavar="CELL")
    arguments.add_argument("--seconds", type=float, default=SECONDS, help="of training, for each cell")
    arguments.add_argument("--episodes", type=int, default=20, help="test scenes of each task")
    arguments.add_argument(
        "--work", type=Path, default=Path("outputs/vid2robot"), help="where films and checkpoints go"
    )
    arguments.add_argument("--demonstrations", type=Path, default=Path("outputs/mt10/data"), help="of vla bench mt10")
    given = arguments.parse_args(argv)
    options = json.dumps(mt10.SUITE, sort_keys=True)
    learned = films_of(given.work, 600, split="train", embodiment="hand")
    hands, robots = (films_of(given.work, 200, split="test", embodiment=who) for who in ("hand", "robot"))
    words = instructions(expand(mt10.TASKS), Setting(options))
    shown = {"hand": prompts_of(hands, words), "robot": prompts_of(robots, words)}
    cells: dict[str, Cell] = {
        who: json.loads((RESULTS / f"mt10-{who}.json").read_text()) for who in ("random", "expert")
    }
    for cell in given.cells:
        films = [] if cell == "told" else [f"videos=[{learned}]"]
        settings = [*SIZE, *CELLS[cell], *films, f"data={given.demonstrations}"]
        checkpoint, spent = train_for(given.seconds, given.work / cell, settings, batch_size=BATCH)
        setting = Setting(options, str(checkpoint), ExecutionConfig(ensemble="newest"))
        for how in ("hand", *(CONTROLS if cell == "all" else ())):
            prompts = {} if cell == "told" else shown["robot" if how == "robot" else "hand"]
            play = partial(played, prompts, setting, how, episodes=given.episodes)
            cells[f"{cell}, {how}"] = kept(f"vid2robot-{cell}-{how}", play, episodes=given.episodes, train_s=[spent])
        if cell != "told":
            found = RESULTS / f"vid2robot-{cell}-alike.json"
            if not found.is_file():
                found.write_text(json.dumps(alike(checkpoint, hands, robots), indent=2) + "\n")
            sys.stdout.write(f"{cell}: {found.read_text()}")
    head = ["", "mean (95 %)", *(task.removeprefix("metaworld/") for task in mt10.TASKS)]
    lines = [
        [who, mean_of(cell), *(str(cell["tasks"].get(task, "–")) for task in mt10.TASKS)] for who, cell in cells.items()
    ]
    sys.stdout.write(markdown(head, lines))
    rows = [Row(name, one["success_rate"], "success") for name, one in cells.items()]
    write_bench(
        "vid2robot_study", rows, {}, given.json, notes=("success on unseen scenes; intervals in the table above",)
    )
    return 0
