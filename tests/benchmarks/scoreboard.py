"""What each way of learning from the same sim-human films is worth, at an equal budget of time.

The films are made once (`vla human`). Every representation trains for ``--minutes`` on this machine: its speed is
measured in a short run first, and gives the number of steps. Then all are probed (`vla probe`), beside their random
inits and the raw pixels. Everything is kept in ``--work``: run again to go on. ``--seeds`` trains those of ``--best``
anew. Run it with nothing else on the machine, or the budgets are not equal.
"""

import json
import shutil
import sys
from pathlib import Path

from sim import human
from sim.probe import command
from vla.bench import parser
from vla.config import CONFIGS, build, load
from vla.representation import pretrain

METHODS = ("mvp", "voltron_cond", "voltron_dual", "voltron_gen", "r3m", "vip", "tcc", "siglip")
MORE = ("tcn", "autoencoder", "forward_model", "temporal_contrastive", "paat")
BATCHES = {"r3m": 32, "tcn": 32, "vip": 32, "tcc": 6}
"""Videos in a batch, where it is not the preset's: these families see 4 to 20 frames of each."""
CALIBRATION = 40
RESULTS = Path(__file__).with_name("results") / "scoreboard.json"


def films(work: Path, clips: int, *, exogenous: bool) -> Path:
    """The corpus: one film for each number, every table-top task in turn."""
    name = f"films-{clips}{'-distractor' * exogenous}"
    return human.run(build(human.HumanConfig, {"clips": clips, "exogenous": exogenous, "out": work / name}))


def settings(method: str, data: Path, out: Path, *, steps: int, seed: int) -> pretrain.PretrainConfig:
    """Those of ``vla pretrain representation=METHOD preset=cpu``."""
    given = [
        *(f"representation={method}", "preset=cpu", f"data={data}", f"out={out}"),
        *(f"trainer.steps={steps}", f"trainer.seed={seed}", f"trainer.batch_size={BATCHES.get(method, 64)}"),
    ]
    return load(pretrain.PretrainConfig, "pretrain", given, config_dir=CONFIGS / "pretrain")


def steps_for(method: str, data: Path, work: Path, *, minutes: float) -> int:
    """How many steps of this method fit into ``minutes`` on this machine."""
    folder = work / "calibration" / method
    if not (folder / "done").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        pretrain.run(settings(method, data, folder, steps=CALIBRATION, seed=0))
        (folder / "done").touch()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rate = max(row["samples_per_s"] for row in rows)  # the quietest moment
    return max(10, round(60 * minutes * rate / BATCHES.get(method, 64)))


def trained(method: str, data: Path, work: Path, *, minutes: float, seed: int) -> Path:
    """The checkpoint of a method, trained now unless it is there; a stopped run goes on."""
    out = work / f"{data.name}-{minutes:g}min" / (method if seed == 0 else f"{method}-seed{seed}")
    if (out / "done").is_file():
        return out
    config = settings(method, data, out, steps=steps_for(method, data, work, minutes=minutes), seed=seed)
    config.resume = (out / "training_state").is_dir()
    pretrain.run(config)
    (out / "done").touch()
    return out


def main(argv: list[str]) -> int:
    """``vla bench scoreboard``: hours on two cores; ``--quick`` to see it work."""
    arguments = parser("scoreboard", __doc__)
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=(*METHODS, *MORE))
    arguments.add_argument("--best", nargs="*", default=[], help="methods that get more seeds")
    arguments.add_argument("--seeds", type=int, default=3, help="how many, for those")
    arguments.add_argument("--minutes", type=float, default=6.0, help="of training, for each")
    arguments.add_argument("--clips", type=int, default=2100)
    arguments.add_argument("--distractor", action="store_true", help="also in the films that are learned from")
    arguments.add_argument("--quick", action="store_true", help="probe with fewer labels and rollouts")
    arguments.add_argument("--work", type=Path, default=Path("outputs/scoreboard"))
    given = arguments.parse_args(argv)
    data = films(given.work, given.clips, exogenous=given.distractor)
    cells = [(method, 0) for method in dict.fromkeys([*given.methods, *given.best])]
    cells += [(method, seed) for seed in range(1, given.seeds) for method in given.best]
    folders = [trained(method, data, given.work, minutes=given.minutes, seed=seed) for method, seed in cells]
    out = given.work / f"probe-{data.name}"
    file = given.json or RESULTS
    command.main([*map(str, folders), *["--quick"] * given.quick, "--out", str(out), "--json", str(file)])
    for folder in folders:
        row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        sys.stdout.write(f"{folder.name}: {row['step']} steps, loss {row['loss']:.3f}\n")
    return 0
