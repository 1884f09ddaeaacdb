"""``provenance.json`` of a checkpoint: which data, which code, which settings and how much time made it."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla.data.lerobot import Dataset, open_dataset
from vla.types import EXPERT_SOURCE

if TYPE_CHECKING:
    from policies.train import TrainConfig

FILE = "provenance.json"


def read_provenance(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint's says; nothing where there is none."""
    file = checkpoint / FILE
    return json.loads(file.read_text()) if file.is_file() else {}


def write_provenance(config: "TrainConfig", dataset: Dataset, **about: object) -> None:
    """Write it beside the weights; ``about``: ``command``, ``train_s`` of this run alone, …"""
    plain = {
        **data_provenance(dataset),
        **about,
        "episodes": len(dataset.episodes) - config.holdout,
        "videos": [str(path) for path in config.videos],
        "mix": [data_provenance(open_dataset(path))["data"] for path in config.mix],
        "start_from": str(config.start_from) if config.start_from else None,
        "settings": {
            "policy": config.policy,
            "trainer": config.trainer,
            "shift": config.shift,
            "backbone_lr": config.backbone_lr,
        },
        "code": code_version(),
        "packages": {name: version(name) for name in ("torch", "transformers", "diffusers", "numpy")},
    }
    (config.out / FILE).write_text(json.dumps(plain, indent=2))


def data_provenance(dataset: Dataset) -> dict[str, Any]:
    """Which data, and which simulated tasks are in it."""
    sources = {info.source for info in dataset.episodes}
    return {
        "data": {"path": str(dataset.root), "hash": dataset.hash(), "fingerprint": dataset.spec.fingerprint},
        "tasks": sorted(told.removeprefix(EXPERT_SOURCE) for told in sources if told.startswith(EXPERT_SOURCE)),
    }


def code_version() -> str:
    """The commit of the checkout, with ``+changes`` when files differ from it; the package's version without git."""
    root = Path(__file__).resolve().parents[1]
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+changes", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version("understudy")
