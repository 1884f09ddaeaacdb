"""What each way of learning from the same sim-human films is worth, at an equal budget of time.

The films are made once (`vla human`). Every representation trains for ``--minutes`` on this machine: its speed is
measured in a short run first, and gives the number of steps. Then all are probed (`vla probe`), beside their random
inits and the raw pixels. Everything is kept in ``--work``: run again to go on. ``--seeds`` trains those of ``--best``
anew and asks them the central questions. The steps are those of the first run's speed, so that nothing else should run
on the machine until all methods have told theirs. The tables are written to scoreboard.md beside the json.
"""

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sim import human
from sim.probe import command
from sim.probe.study import PROBLEMS
from vla.bench import parser
from vla.config import CONFIGS, build, load
from vla.representation import pretrain
from vla.representation.evaluation.intervals import t_interval

METHODS = ("siglip", "vip", "r3m", "tcc", "voltron_gen", "voltron_dual", "voltron_cond", "mvp")
MORE = ("tcn", "autoencoder", "forward_model", "temporal_contrastive", "paat")
BATCHES = {"r3m": 32, "tcn": 32, "vip": 32, "tcc": 6}
"""Videos in a batch, where it is not the preset's: these families see 4 to 20 frames of each."""
CALIBRATION = 40
CENTRAL = ("control", "retrieval", "alignment")
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
    out = work / f"{data.name}-{minutes:g}min" / _seeded(method, seed)
    if (out / "done").is_file():
        return out
    config = settings(method, data, out, steps=steps_for(method, data, work, minutes=minutes), seed=seed)
    config.resume = (out / "training_state").is_dir()
    pretrain.run(config)
    (out / "done").touch()
    return out


def told(cells: list[dict[str, Any]], columns: Sequence[str]) -> str:
    """A Markdown table: a row for each subject, what it is known for in each column, with interval and mark."""
    by_place = {(cell["subject"], cell["column"]): cell for cell in cells}
    columns = [column for column in columns if any(cell["column"] == column for cell in cells)]
    rows = [["", *columns]]
    for subject in dict.fromkeys(cell["subject"] for cell in cells):
        found = [by_place.get((subject, column)) for column in columns]
        if any(found):
            rows.append([subject, *("–" if cell is None else _entry(cell) for cell in found)])
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _headline(cell: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = cell["metrics"][PROBLEMS[cell["problem"]].headline]
    return found


def _entry(cell: dict[str, Any]) -> str:
    metric = _headline(cell)
    spread = "" if metric["low"] is None else f" ({metric['low']:.2f} – {metric['high']:.2f})"
    return f"{metric['value']:.2f}{spread} {cell['mark']}".rstrip()


def over_seeds(cells: list[dict[str, Any]], methods: Sequence[str], seeds: int) -> str:
    """A Markdown table: each method's seeds, and Student's interval of their mean."""
    by_place = {(cell["subject"], cell["problem"]): _headline(cell)["value"] for cell in cells}
    rows = ["| method | " + " | ".join(CENTRAL) + " |", "|---" * (1 + len(CENTRAL)) + "|"]
    for method in methods:
        names = [_seeded(method, seed) for seed in range(seeds)]
        entries = []
        for problem in CENTRAL:
            values = [by_place[name, problem] for name in names]
            mean = t_interval(values)
            listed = ", ".join(f"{value:.2f}" for value in values)
            entries.append(f"{listed}: {mean.estimate:.2f} ({mean.low:.2f} – {mean.high:.2f})")
        rows.append(f"| {' | '.join([method, *entries])} |")
    return "\n".join(rows)


def page(first: dict[str, Any], more: dict[str, Any] | None, given: argparse.Namespace) -> str:
    """The tables that stand in the project."""
    every = list(dict.fromkeys(cell["column"] for cell in first["cells"]))
    central = [column for column in every if column.partition(" ")[0] in CENTRAL]
    abouts = "\n".join(f"- **{name}**: {one.about}; {one.headline}" for name, one in PROBLEMS.items())
    trained = "\n".join(
        f"| {name} | {one['steps']} | {one['batch_size']} | {one['loss']:.3f} |"
        for name, one in first["training"].items()
    )
    about = (
        f"{given.clips} sim-human films, {given.minutes:g} minutes of training each, one frame index, `preset=cpu`; "
        f"probed at scale `{first['scale']}`. {first['legend']}"
    )
    parts = [
        "# What a representation is worth\n\nWritten by `vla bench scoreboard`: do not edit.",
        about,
        f"```bash\n{command_line(given)}\n```",
        "## The central questions",
        told(first["cells"], central),
        "## The others",
        told(first["cells"], [column for column in every if column not in central]),
        abouts,
        "## Training",
        f"| method | steps | videos a step | last loss |\n|---|---|---|---|\n{trained}",
    ]
    if more is not None:
        parts += [
            f"## {given.seeds} seeds",
            "Each seed's value, their mean, and Student's interval of it.",
            over_seeds(more["cells"], given.best, given.seeds),
        ]
    return "\n\n".join(parts) + "\n"


def command_line(given: argparse.Namespace) -> str:
    """What to type for the same tables."""
    words = ["vla bench scoreboard", *["--quick"] * given.quick, *["--distractor"] * given.distractor]
    if given.best:
        words += ["--best", *given.best, f"--seeds {given.seeds}"]
    return " ".join(words)


def _seeded(method: str, seed: int) -> str:
    return method if seed == 0 else f"{method}-seed{seed}"


def probed(folders: Sequence[Path], out: Path, file: Path, *options: str) -> dict[str, Any]:
    """What `vla probe` found, with how each checkpoint was trained."""
    command.main([*map(str, folders), *options, "--out", str(out), "--json", str(file)])
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    found["training"] = {folder.name: _training(folder) for folder in folders}
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


def _training(folder: Path) -> dict[str, float]:
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    trainer = json.loads((folder / "provenance.json").read_text())["settings"]["trainer"]
    return {"steps": last["step"], "batch_size": trainer["batch_size"], "seed": trainer["seed"], "loss": last["loss"]}


def main(argv: list[str]) -> int:
    """``vla bench scoreboard``: hours on two cores; ``--quick`` to see it work."""
    arguments = parser("scoreboard", __doc__)
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=(*METHODS, *MORE))
    arguments.add_argument(
        "--best", nargs="*", default=[], choices=(*METHODS, *MORE), help="methods that get more seeds"
    )
    arguments.add_argument("--seeds", type=int, default=3, help="how many, for those")
    arguments.add_argument("--minutes", type=float, default=6.0, help="of training, for each")
    arguments.add_argument("--clips", type=int, default=2100)
    arguments.add_argument(
        "--distractor",
        action="store_true",
        help="in the films that are learned from, and in a second round of questions",
    )
    arguments.add_argument("--quick", action="store_true", help="probe with fewer labels and rollouts")
    arguments.add_argument("--work", type=Path, default=Path("outputs/scoreboard"))
    given = arguments.parse_args(argv)
    data = films(given.work, given.clips, exogenous=given.distractor)
    for method in given.methods:
        steps_for(method, data, given.work, minutes=given.minutes)

    def checkpoints(methods: Iterable[str], seeds: Iterable[int]) -> list[Path]:
        cells = [(method, seed) for seed in seeds for method in methods]
        return [trained(method, data, given.work, minutes=given.minutes, seed=seed) for method, seed in cells]

    out, file = given.work / f"probe-{data.name}", given.json or RESULTS
    scale, calm = "--quick" if given.quick else "--study", ["--no-distractor"]
    methods = tuple(dict.fromkeys([*given.methods, *given.best]))
    first = probed(checkpoints(methods, [0]), out, file, scale, *calm * (not given.distractor))
    more = None
    if given.best:
        seeds, to = checkpoints(given.best, range(given.seeds)), file.with_stem(f"{file.stem}-seeds")
        more = probed(seeds, out, to, scale, *calm, "--problems", *CENTRAL)
    file.with_suffix(".md").write_text(page(first, more, given), encoding="utf-8")
    return 0
