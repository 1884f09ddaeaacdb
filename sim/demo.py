"""``vla demo``: from nothing to a success rate, a film and a page. Read `run` like a table of contents."""

import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from policies import train as training
from policies.open_loop import action_plot, error_against_holding
from policies.policy import load_policy
from sim import collect
from sim.evaluate import EvalConfig, evaluate, provenance, tell
from sim.pool import start_server
from sim.predict import VideoConfig, predict_videos
from sim.report import write_report
from sim.results import summarize
from sim.suite import suite_module, suite_of
from vla.config import CONFIGS, build, help_text, load, to_yaml, wants_help
from vla.data.importers import import_dataset
from vla.data.lerobot import open_dataset
from vla.errors import UnderstudyError
from vla.representation import pretrain

logger = logging.getLogger(__name__)

EXAMPLE = "vla demo suite=metaworld out=outputs/demo-metaworld"
MARK = "demo.yaml"


@dataclass
class RealConfig:
    """A real recording to import, train on briefly, and predict open loop; left out when it is not there."""

    source: Path = Path("../shared/samples/robot/g1_pick_bottle_lerobot_v21")
    image_size: int = 64
    trainer: dict[str, Any] = field(default_factory=dict)
    """settings of the trainer that differ from those of the simulated policy"""


@dataclass
class ForeseeConfig:
    """A video action model of the same demonstrations, for a film of what it expects beside what happened."""

    preset: str = "cpu"
    """of ``policy=uva``"""
    autoencoder: dict[str, Any] = field(default_factory=dict)
    """settings of the trainer of its autoencoder"""
    trainer: dict[str, Any] = field(default_factory=dict)
    """settings of its trainer"""
    holdout: int = 6
    """last episodes, which it does not see before it is filmed on them"""


@dataclass
class DemoConfig:
    """The demonstration's chapters."""

    collect: dict[str, Any] = field(default_factory=dict)
    """settings of `vla collect`"""
    policy: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    warm_up: dict[str, Any] = field(default_factory=dict)
    """settings of the trainer that differ while the backbone learns to see, under the L1 head"""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """settings of `vla eval`"""
    real: RealConfig | None = field(default_factory=RealConfig)
    foresee: ForeseeConfig | None = field(default_factory=ForeseeConfig)
    out: Path = Path("outputs/demo")
    resume: bool = False
    """keep the demonstrations, and the training, of a demo that was stopped"""


def main(argv: list[str]) -> int:
    """The command."""
    if wants_help(argv):
        about = "Collect demonstrations, train one policy on them, evaluate it on unseen scenes, write a report."
        sys.stdout.write(help_text(DemoConfig, verb="demo", about=about, example=EXAMPLE, name="demo"))
        return 0
    run(load(DemoConfig, "demo", argv))
    return 0


def run(config: DemoConfig) -> Path:
    """Collect, train, evaluate, look at a real recording, report; returns the page."""
    began = perf_counter()
    wall: dict[str, float] = {}

    with _timed("imports", wall):
        demonstrations = _checked(config)
    _clear(config)

    with _timed("collect", wall):
        data = collect.run(demonstrations)

    with _timed("train", wall):
        backbone = _warm_up(config, data)
        settings = training.TrainConfig(data, policy=config.policy, trainer=config.trainer, out=config.out / "train")
        settings.start_from, settings.resume = backbone, _begun(settings.out)
        checkpoint = training.run(settings)

    with _timed("evaluate", wall):
        suite = config.collect.get("suite", {})
        plan = {"suite": suite, **config.evaluate, "policy": checkpoint, "out": config.out}
        evaluation = build(EvalConfig, plan, "evaluate")
        played = evaluate(evaluation)

    plots = played.action_plots
    if config.real is not None and config.real.source.is_dir():
        with _timed("real recording", wall):
            plots = {**_real(config), **plots}

    films = {}
    if config.foresee is not None:
        with _timed("video model", wall):
            films = _foresee(config.foresee, data, config.out / "video")

    wall["total"] = perf_counter() - began
    report = summarize(played.results, wall_s=wall, provenance=provenance(evaluation))
    curves = {"Backbone, under the L1 head": backbone / "metrics.jsonl", "CogACT": checkpoint / "metrics.jsonl"}
    page = write_report(config.out, report, curves=curves, films=films, action_plots=plots)
    tell(report, page)
    logger.info("%s", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in wall.items()))
    return page


def _checked(config: DemoConfig) -> collect.CollectConfig:
    """Refuse bad settings before minutes are spent; while this imports the models, the workers' server does, too."""
    demonstrations = build(collect.CollectConfig, {**config.collect, "out": config.out / "data"}, "collect")
    suite = suite_module(suite_of(demonstrations.tasks[0]))
    start_server(("sim.collect", "sim.rollout", "policies.cogact", suite))
    training.checked(config.policy, {**config.trainer, **config.warm_up})
    build(EvalConfig, {**config.evaluate, "policy": config.out}, "evaluate")
    return demonstrations


def _clear(config: DemoConfig) -> None:
    """Start anew in a folder that a demo made before; refuse one that holds anything else."""
    out = config.out
    if out.is_dir() and any(out.iterdir()) and not config.resume:
        if not (out / MARK).is_file():
            raise UnderstudyError(f"{out} holds something that is no demo; give another folder: out=outputs/another")
        logger.info("%s held a demo: it is replaced (resume=true would go on in it)", out)
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text(to_yaml(config))


def _warm_up(config: DemoConfig, data: Path) -> Path:
    """Let the backbone learn to see by regression, as CogACT's comes from OpenVLA and has seen actions before.

    The diffusion loss alone, from random weights, was slower to make it look at the objects.
    """
    policy = {**config.policy, "head": "regression"}
    trainer = {**config.trainer, **config.warm_up}
    settings = training.TrainConfig(data, policy=policy, trainer=trainer, out=config.out / "warm-up")
    settings.resume = _begun(settings.out)
    return training.run(settings)


def _begun(run_folder: Path) -> bool:
    return (run_folder / "training_state").is_dir()


def _real(config: DemoConfig) -> dict[str, dict[str, Any]]:
    """Import the real recording, train on all its episodes but the last, and predict that one open loop."""
    assert config.real is not None
    root = config.out / "real"
    import_dataset(config.real.source, root / "data", image_size=config.real.image_size)
    dataset = open_dataset(root / "data")
    settings = training.TrainConfig(
        data=root / "data",
        policy=config.policy,
        trainer={**config.trainer, **config.real.trainer},
        out=root / "train",
        resume=_begun(root / "train"),
        holdout=1,
    )
    policy = load_policy(training.run(settings))
    held_out = len(dataset.episodes) - 1
    error, holding = error_against_holding(policy, dataset, held_out)
    logger.info("open loop on the held-out real episode: error %.2f, holding still %.2f (sd)", error, holding)
    title = (
        f"{dataset.spec.embodiment}, a real recording: held-out episode, open loop; mean error {error:.2f} sd, "
        f"of holding still {holding:.2f} sd"
    )
    return {title: action_plot(policy, dataset, held_out)}


def _foresee(config: ForeseeConfig, data: Path, root: Path) -> dict[str, Path]:
    """Train an autoencoder and a video model, and film what it expects of episodes that it has not seen."""
    first = open_dataset(data).spec.cameras[0]
    films = ["representation=vae", f"data={data}", "layout=lerobot_v3"]
    films += [f"representation.encoder.image_size={first.height}", f"out={root / 'autoencoder'}", "max_frames=100"]
    films += ["representation.least_deviation=1"]  # what is seen least weighs least
    pretraining = load(pretrain.PretrainConfig, "pretrain", films, config_dir=CONFIGS / "pretrain")
    pretraining.trainer |= config.autoencoder
    pretraining.resume = _begun(pretraining.out)
    given = ["policy=uva", f"preset={config.preset}", f"policy.vae={pretrain.run(pretraining)}", f"data={data}"]
    given += [f"policy.image_size={first.height}", f"policy.cameras=[{first.name}]", "policy.tasks=[video]"]
    given += ["policy.video.temperature=0"]  # the film shows what is expected, not a draw of what may come
    settings = load(training.TrainConfig, "train", [*given, f"out={root / 'train'}", f"holdout={config.holdout}"])
    settings.trainer |= config.trainer
    settings.resume = _begun(settings.out)
    checkpoint = training.run(settings)
    found = predict_videos(VideoConfig(checkpoint, data, episodes=config.holdout, films=2, out=root))
    near, still = found["predicted"]["psnr_db"], found["last picture"]["psnr_db"]
    logger.info("expected pictures: %.1f dB from the true ones, the last picture %.1f dB", near, still)
    caption = f"What a video model expects (right) beside what happened (left), episodes it had not seen: {near:.1f} dB"
    return {f"{caption} ({number + 1})": root / f"episode-{number}.mp4" for number in range(min(2, config.holdout))}


@contextmanager
def _timed(name: str, wall: dict[str, float]) -> Iterator[None]:
    began = perf_counter()
    yield
    wall[name] = perf_counter() - began
