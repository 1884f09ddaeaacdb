"""The folder that a retargeted video leaves, read again by who drives; numpy alone, for the computer at the robot."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from robot_bridge.retarget.hands import Floats
from vla.errors import UnderstudyError

JOINTS, QUALITY = "joints.npz", "quality.json"
FORMAT = 1


@dataclass(frozen=True)
class Prepared:
    """Setpoints [M, D] that are ready for an arm of that embodiment, ``hz`` a second.

    ``source_s`` [M]: the video's time of each; ``verdict``: execute or check.
    """

    joints: Floats
    hz: float
    embodiment: str
    source_s: Floats
    verdict: str = "execute"


def save(out: Path, quality: Mapping[str, object], ready: Prepared | None) -> None:
    """Write what `load` reads; ``quality``: as JSON, with its ``verdict``; ``ready``: where the arm finds a way."""
    out.mkdir(parents=True, exist_ok=True)
    (out / JOINTS).unlink(missing_ok=True)
    if ready is not None:
        with (out / JOINTS).open("wb") as sink:
            np.savez_compressed(
                sink,
                format=np.array(FORMAT),
                embodiment=np.array(ready.embodiment),
                hz=np.array(ready.hz),
                joints=ready.joints,
                source_s=ready.source_s,
            )
    (out / QUALITY).write_text(json.dumps(quality, indent=2) + "\n")


def load(folder: Path) -> Prepared:
    """What `save` wrote; raises `UnderstudyError` where there is nothing for an arm in it, saying why."""
    quality = folder / QUALITY
    if not quality.is_file():
        raise UnderstudyError(f"{folder} holds no retargeted video: make one with vla retarget VIDEO --out {folder}")
    try:
        said = json.loads(quality.read_text())
        if said["verdict"] == "reject":
            raise UnderstudyError(f"{folder} is not for an arm: {why_not(said)}; see {folder / 'report.html'}")
        with np.load(folder / JOINTS, allow_pickle=False) as held:
            if int(held["format"]) != FORMAT:
                raise UnderstudyError(f"{folder} was made by another version: run vla retarget again")
            arrays = {name: np.array(held[name]) for name in ("joints", "source_s")}
            return Prepared(hz=float(held["hz"]), embodiment=str(held["embodiment"]), verdict=said["verdict"], **arrays)
    except UnderstudyError:
        raise
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise UnderstudyError(f"{folder} is damaged ({error}): run vla retarget again") from error


def why_not(quality: Mapping[str, Any]) -> str:
    """What speaks against it, in one line, of a quality as JSON."""
    bad = [one for one in quality["segments"] if one["verdict"] == "reject"]
    reasons = [*quality["reasons"], *(f"{one['name']}: {'; '.join(one['reasons'])}" for one in bad)]
    return "; ".join(reasons) or "no segment of it is known"
