"""Vid2Robot, shown by people it never saw in scenes it never saw: is the film heeded, and what are its losses worth?

Four things of Meta-World, each to be opened and to be shut, all of them half open and with no goal marked: only the
film tells which. Films of a simulated hand show it, others of test scenes in the evaluation. The same test scenes are
played with a film of a hand, of the robot, of the opposite, with a blank one, one out of order, and with a hand that
does the same, or the opposite, to another thing. Beside the whole: with frames in order across films as well (which is
not the paper's), trained by its actions alone, without one loss at a time, with the film as a single vector and words
alone besides the actions (as in BC-Z), and told instead of shown, which is what a film can give at most. Each finished
cell is a small json; run again to go on.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmarks import mt10
from benchmarks.study import Cell, kept, markdown, mean_of, more, play_scenes, play_tasks, steps_of, train_for

from policies.execution import ExecutionConfig
from policies.policy import load_policy
from sim import collect, human
from sim.conditions import instructions
from sim.results import Condition
from sim.rollout import Scene, Setting
from sim.shown import chosen, prompts_of
from sim.suite import TEST_SEEDS
from vla.bench import Row, parser, write_bench
from vla.config import build
from vla.data.corpus import open_corpus
from vla.data.privileged import read_labels
from vla.prompt import spread
from vla.representation.evaluation.retrieval import retrieve
from vla.representation.evaluation.temporal import kendall_tau

THINGS = {
    "faucet": ("open", "close"),
    "window": ("open", "close"),
    "drawer": ("open", "close"),
    "door": ("unlock", "lock"),
}
NEXT = {"faucet": "window", "window": "drawer", "drawer": "faucet"}
"""Things at which the same is done by the same name."""
TASKS = tuple(f"metaworld/{thing}-{act}" for thing, acts in THINGS.items() for act in acts)
SUITE = mt10.SUITE | {"halfway": True}
BATCH = 64
SECONDS = 2400.0
"""Of training, for each cell."""
SIZE = [
    *("policy=vid2robot", "preset=cpu", "policy.encoder.patch_size=16", "policy.encoder.width=128"),
    *("policy.encoder.depth=2", "policy.encoder.heads=4", "policy.prompt_frames=8", "policy.state_frames=2"),
    *(
        "policy.stride=16",
        "policy.resampler_depth=1",
        "policy.prompt_depth=2",
        "policy.action_depth=2",
        "policy.pred_horizon=8",
    ),
    *("policy.exec_horizon=8", f"trainer.batch_size={BATCH}", "trainer.lr=1.5e-3"),
    "policy.pairs={robot_robot: 0.5, hindsight: 0.5, colocated: 0}",
    *("policy.contrast=0.3", "policy.words=0.3", "policy.order=0"),
]
"""Fewer frames, places and layers than at ``preset=cpu``, so that a cell sees enough samples in its time; every second
prompt is a person's, where the paper (§III-A) has one in ten, of hundreds of times as many. The contrasts begin at
twelve times the cross entropy of the actions and leave little of the gradient to it; with a tenth of them films are
told apart less (R@1 0.60)."""
CELLS = {
    "all": [],
    "ordered": ["policy.order=0.5"],
    "actions-alone": ["policy.alignment=0", "policy.contrast=0", "policy.words=0"],
    "no-alignment": ["policy.alignment=0"],
    "no-contrast": ["policy.contrast=0"],
    "no-words": ["policy.words=0"],
    "one-vector": ["policy.prompt_latents=1", "policy.alignment=0", "policy.contrast=0"],
    "told": ["policy.prompt=words"],
}
CONTROLS = ("robot", "opposite", "blank-prompt", "shuffled-prompt", "other-thing", "other-thing-opposite")
"""How else the whole one is shown; every cell is shown films of hands."""


TEST_FILMS = 160
ALIKE = ("recall_at_1", "chance", "kendall_tau")


def shows(how: str) -> dict[str, str]:
    """Task → the one in the film that it is shown."""
    found = {}
    for thing in NEXT if "other-thing" in how else THINGS:
        other = NEXT[thing] if "other-thing" in how else thing
        acts = THINGS[other]
        for act, same in zip(THINGS[thing], reversed(acts) if "opposite" in how else acts, strict=True):
            found[f"metaworld/{thing}-{act}"] = f"metaworld/{other}-{same}"
    return found


def demonstrations(work: Path, episodes: int) -> Path:
    """Episodes of Meta-World's experts."""
    about = {"tasks": list(TASKS), "episodes": episodes, "suite": SUITE, "noise": mt10.NOISE}
    return collect.run(build(collect.CollectConfig, about | {"out": work / "data"}))


def films_of(work: Path, clips: int, *, split: str, embodiment: str, seed: int = 0) -> Path:
    """Films of the tasks in the scenes from ``seed`` on, as `vla human` makes them."""
    out = work / f"films-{split}-{embodiment}"
    about = {"tasks": list(TASKS), "clips": clips, "split": split, "embodiment": embodiment, "out": out, "seed": seed}
    return human.run(build(human.HumanConfig, {**about, "camera": "side", "image_size": 64, "failures": 0.0}))


def played(films: Mapping[str, Sequence[str]], setting: Setting, how: str, *, episodes: int) -> Cell:
    """Successes of each task on the test scenes; each has a film of its own, or none where there are no ``films``."""
    condition: Condition = how if how in ("blank-prompt", "shuffled-prompt") else "policy"
    scenes = [
        Scene(setting, task, task, condition, seed, prompt=chosen(films[film], film, seed) if films else "")
        for task, film in shows(how).items()
        for seed in TEST_SEEDS[mt10.FIRST_SCENE : mt10.FIRST_SCENE + episodes]
    ]
    cell = play_scenes(scenes)
    tiers: dict[str, list[int]] = {}
    for scene, won in zip(scenes, cell["won"], strict=True) if films else []:
        tiers.setdefault(_tier(Path(scene.prompt)), []).append(won)
    return cell | {"tiers": {tier: [sum(one), len(one)] for tier, one in sorted(tiers.items())}}


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
    return dict(zip(ALIKE, (found.recall(1), found.chance_recall(1), float(np.mean(taus))), strict=True))


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
    each = model.align(video.frames) if hasattr(model, "align") else video.frames
    return whole[0].cpu().numpy(), each[0].cpu().numpy()


def main(argv: list[str]) -> int:
    """``vla bench vid2robot_study``: six hours on a core."""
    arguments = parser("vid2robot_study", __doc__)
    arguments.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS, metavar="CELL")
    arguments.add_argument("--seconds", type=float, default=SECONDS, help="of training, for each cell")
    arguments.add_argument("--demos", type=int, default=100, help="demonstrations of each task")
    arguments.add_argument("--clips", type=int, default=1200, help="films of hands to learn from")
    arguments.add_argument("--episodes", type=int, default=20, help="test scenes of each task")
    arguments.add_argument("--work", type=Path, default=Path("outputs/vid2robot"), help="where all of it goes")
    given = arguments.parse_args(argv)
    setting, cells = Setting(json.dumps(SUITE, sort_keys=True)), {}
    data = demonstrations(given.work, given.demos)
    learned = films_of(given.work, given.clips, split="train", embodiment="hand")
    # of other scenes each, so that nobody knows a film again by its scene
    hands = films_of(given.work, TEST_FILMS, split="test", embodiment="hand")
    robots = films_of(given.work, TEST_FILMS, split="test", embodiment="robot", seed=TEST_FILMS)
    words = instructions(TASKS, setting)
    shown = {"hand": prompts_of(hands, words), "robot": prompts_of(robots, words)}
    for who in ("random", "expert"):
        play = partial(play_tasks, TASKS, setting, who, episodes=given.episodes, first_scene=mt10.FIRST_SCENE)
        cells[who] = kept(f"vid2robot-{who}", play, episodes=given.episodes)
    for cell in given.cells:
        films = [] if cell == "told" else [f"videos=[{learned}]"]
        settings = [*SIZE, *CELLS[cell], *films, f"data={data}"]
        checkpoint, spent = train_for(given.seconds, given.work / cell, settings, batch_size=BATCH)
        trained = replace(setting, checkpoint=str(checkpoint), execution=ExecutionConfig(ensemble="newest"))
        about = {"checkpoint": checkpoint, "train_s": spent, "train_steps": steps_of(checkpoint)}
        for how in ("hand", *(CONTROLS if cell == "all" else ())):
            prompts = {} if cell == "told" else shown["robot" if how == "robot" else "hand"]
            play = partial(played, prompts, trained, how, episodes=given.episodes)
            cells[f"{cell}, {how}"] = kept(f"vid2robot-{cell}-{how}", play, episodes=given.episodes, **about)
        if cell != "told":
            compare = partial(alike, checkpoint, hands, robots)
            found = kept(f"vid2robot-{cell}-alike", compare, episodes=given.episodes, **about)
            sys.stdout.write(f"{cell}: {json.dumps({name: found[name] for name in ALIKE})}\n")
    sys.stdout.write(table(cells))
    rows = [Row(name, one["success_rate"], "success") for name, one in cells.items()]
    write_bench(
        "vid2robot_study", rows, {}, given.json, notes=("success on unseen scenes; intervals in the table above",)
    )
    return 0


def table(cells: Mapping[str, Cell]) -> str:
    """One line a cell: its mean, by how many points the whole one shown a hand is above it, each task's successes."""
    head = ["", "mean (95 %)", "shown a hand", *(task.removeprefix("metaworld/") for task in TASKS), "steps"]
    whole = cells.get("all, hand")
    lines = [
        [
            who,
            mean_of(cell),
            more(cell, whole) if whole and cell is not whole and len(cell["tasks"]) == len(TASKS) else "",
            *(str(cell["tasks"].get(task, "–")) for task in TASKS),
            str(cell.get("train_steps", "")),
        ]
        for who, cell in cells.items()
    ]
    return markdown(head, lines)
