"""What a late answer costs: success against the time from picture to chunk, for each way of carrying out chunks.

The policy of ``make demo`` on the table-top suite (20 control steps a second, chunks of 16), and a second one, equal
but for having been trained to go on from up to 400 ms of the last chunk. The world moves on while a chunk is made.
Each finished cell is a small json; run again to go on.
"""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.study import kept, markdown, mean_of, play_tasks

from policies import train as training
from policies.cogact import CONFIG
from policies.cogact_model import CogACTConfig
from policies.execution import ExecutionConfig
from sim.collect import expand
from sim.demo import DemoConfig
from sim.rollout import Setting
from vla.bench import Row, parser, write_bench
from vla.config import from_yaml, load
from vla.errors import UnderstudyError

HZ = 20
DELAYS = (0, 2, 4, 8)
"""In control steps: 0 to 400 ms."""
WAYS = {
    "chunking": ExecutionConfig(ensemble="newest"),
    "temporal": ExecutionConfig(ensemble="temporal", num_chunks=4),
    "adaptive": ExecutionConfig(ensemble="adaptive"),
    "guided": ExecutionConfig(ensemble="newest", realtime="guided"),
    "identity": ExecutionConfig(ensemble="newest", realtime="identity"),
    "trained": ExecutionConfig(ensemble="newest", realtime="trained"),
}
FIRST_SCENE = 400


def train_on_prefixes(demo: DemoConfig, work: Path) -> Path:
    """The demonstration's policy once more, from the same backbone, and trained to go on from what is under way."""
    out = work / "trained"
    if not (out / f"training_state/step-{demo.trainer['steps']:08d}").is_dir():
        policy = asdict(from_yaml(CogACTConfig, demo.out / "train" / CONFIG))
        policy["diffusion"]["max_delay"] = max(DELAYS)
        settings = training.TrainConfig(demo.out / "data", policy=policy, trainer=demo.trainer, out=out)
        settings.start_from = demo.out / "warm-up"
        settings.resume = (out / "training_state").is_dir()
        training.run(settings)
    return out


def main(argv: list[str]) -> int:
    """``vla bench delay``: a quarter of an hour on two cores."""
    arguments = parser("delay", __doc__)
    arguments.add_argument("--demo", type=Path, default=Path("outputs/demo"), help="what make demo left")
    arguments.add_argument("--episodes", type=int, default=15, help="test scenes of each task")
    arguments.add_argument("--work", type=Path, default=Path("outputs/delay"), help="where the second policy goes")
    given = arguments.parse_args(argv)
    if not (given.demo / "train").is_dir():
        raise UnderstudyError(f"{given.demo} holds no policy; run make demo first, or give --demo")
    demo = load(DemoConfig, "demo", [f"out={given.demo}"])
    tasks, options = expand(tuple(demo.collect["tasks"])), json.dumps(demo.collect["suite"], sort_keys=True)
    plain, on_prefixes = given.demo / "train", train_on_prefixes(demo, given.work)
    cells = {}
    for way, how in WAYS.items():
        checkpoint = on_prefixes if way == "trained" else plain
        for delay in DELAYS:
            execution = ExecutionConfig(**{**vars(how), "delay": delay})
            setting = Setting(options, str(checkpoint), execution)
            play = partial(play_tasks, tasks, setting, "policy", episodes=given.episodes, first_scene=FIRST_SCENE)
            cells[way, delay] = kept(f"delay-{way}-{delay}", play, episodes=given.episodes)
    rows = [[way, *(mean_of(cells[way, delay]) for delay in DELAYS)] for way in WAYS]
    sys.stdout.write(markdown(["", *(f"{1000 * delay // HZ} ms" for delay in DELAYS)], rows))
    flat = [
        Row(f"{way}, {1000 * delay // HZ} ms", one["success_rate"], "success") for (way, delay), one in cells.items()
    ]
    write_bench("delay", flat, {}, given.json, notes=("success on unseen scenes; intervals in the table above",))
    return 0
