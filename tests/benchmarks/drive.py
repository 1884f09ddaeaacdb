"""The policy of ``make demo`` through the bridge and without it, on the same unseen scenes, by its newest chunk.

Without: the world waits while the policy thinks, or moves on by one control step. Through the bridge: a server, three
processes, an arm whose physics go on in real time, the governor, the same limit of time. Each finished cell is a small
json; run again to go on.
"""

import json
import sys
from functools import partial
from pathlib import Path

from benchmarks.study import Cell, cell_of, kept, markdown, mean_of, play_tasks

from policies.execution import ExecutionConfig
from robot_bridge.drive import Drive, drive
from sim.rollout import Setting
from sim.tasks.tabletop import TabletopSuite
from vla.bench import Row, parser, write_bench

TASKS = ("touch-red-cube", "touch-green-cube", "touch-blue-cube", "open-drawer", "close-drawer", "press-button")
FIRST_SCENE = 600
SECONDS = TabletopSuite.max_steps / 20.0
STARTING_S = 0.5
"""Until the first chunk has come, the arm stands."""


def through_the_bridge(task: str, checkpoint: Path, *, episodes: int) -> Cell:
    """One task over server, processes and governor, in real time."""
    options = (("task", task), ("first_scene", FIRST_SCENE))
    asked = Drive(checkpoint=checkpoint, arm_options=options, episodes=episodes, seconds=SECONDS + STARTING_S)
    return cell_of({task: sum(bool(one.success) for one in drive(asked))}, episodes)


def main(argv: list[str]) -> int:
    """``vla bench drive``: a quarter of an hour on two cores."""
    arguments = parser("drive", __doc__)
    arguments.add_argument("--demo", type=Path, default=Path("outputs/demo"), help="what make demo left")
    arguments.add_argument("--episodes", type=int, default=20, help="test scenes of each task (%(default)s)")
    given = arguments.parse_args(argv)
    checkpoint, tasks = given.demo / "train", [f"tabletop/{name}" for name in TASKS]
    options = json.dumps({"image_size": 64, "cameras": ["front", "wrist"]})
    cells = {}
    for who, delay in (("in one process", 0), ("in one process, a step late", 1)):
        setting = Setting(options, str(checkpoint), ExecutionConfig(ensemble="newest", delay=delay))
        play = partial(play_tasks, tasks, setting, "policy", episodes=given.episodes, first_scene=FIRST_SCENE)
        cells[who] = kept(f"drive-here-{delay}", play, episodes=given.episodes)
    played = {}
    for task in tasks:
        name = f"drive-bridge-{task.removeprefix('tabletop/')}"
        play = partial(through_the_bridge, task, checkpoint, episodes=given.episodes)
        played |= kept(name, play, episodes=given.episodes)["tasks"]
    cells["through the bridge"] = cell_of(played, given.episodes)
    head = ["", "mean (95 %)", *TASKS]
    lines = [[who, mean_of(cell), *(str(cell["tasks"][task]) for task in tasks)] for who, cell in cells.items()]
    sys.stdout.write(markdown(head, lines))
    rows = [Row(who, cell["success_rate"], "success") for who, cell in cells.items()]
    write_bench("drive", rows, {}, given.json, notes=("success on unseen scenes; intervals in the table above",))
    return 0
