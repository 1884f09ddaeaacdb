"""What every policy promises, and the one way to load a trained one.

    policy = load_policy("outputs/train/mine")
    policy.reset(Task("lift the red cube"), seed=7)
    chunk = policy.infer(observation)

Numpy only: a policy may run in this process, in another one or on another machine.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vla.errors import UnderstudyError, unknown
from vla.types import ActionChunk, Observation, PolicySpec, Task

POLICIES = {
    "cogact": "policies.cogact:CogACT",
    "uva": "policies.uva.policy:UVA",
    "vid2robot": "policies.vid2robot:Vid2Robot",
    "manipulate_by_seeing": "policies.manipulate_by_seeing:ManipulateBySeeing",
}
"""Family name → ``module:class``; the module is imported when the policy is made, not before.

The class has ``config_class``, ``create(config, dataset_spec, windows)`` and ``load(folder)``; to be trained it also
has ``model``, ``prepared(windows, content)``, the samples as it wants them, ``training_batch(batch)``,
``later(windows, indices, rng)`` and ``inputs(images, proprio)`` for what it wants to have besides, ``tokenize(texts)``,
``start_from(checkpoint)``, ``save(folder)`` and ``representation``, what it sees through, if anything; and, if it
learns from action-free video, ``films(config, videos, dataset_spec)``, which opens it, and ``film_samples(films)``,
what of it are batches of their own, if anything.
"""

PEERS = {
    "lerobot": "policies.lerobot_plugin.peer:LeRobotPeer",
    "remote": "robot_bridge.foreign.remote:RemotePolicy",
}
"""Families that others train: they are only loaded."""

SPEC_FILE = "policy_spec.json"
WEIGHTS_FILE = "model.safetensors"


Realtime = Literal["none", "guided", "identity", "trained"]


@dataclass(frozen=True)
class Underway:
    """What is being carried out while a new chunk is made, so that the new one can go on from it.

    ``actions`` [K, A]: the rows of the last chunk that are due from the new observation on, in physical units; the
    first ``delay`` of them will have been carried out when the new chunk arrives. ``how`` a head that makes actions of
    noise heeds them: see `policies.heads.realtime.Known`.
    """

    actions: NDArray[np.float32]
    delay: int
    how: Realtime = "guided"


def going_on(actions: NDArray[np.float32], underway: Underway | None) -> NDArray[np.float32]:
    """``actions`` [N, A] after the rows that will have been carried out by then."""
    if underway is None:
        return actions
    return np.concatenate([underway.actions[: underway.delay], actions[min(underway.delay, len(underway.actions)) :]])


def check_seen(spec: PolicySpec, observation: Observation) -> None:
    """Refuse an observation that lacks a camera or has another proprio than ``spec`` says."""
    missing = [camera.name for camera in spec.cameras if camera.name not in observation.images]
    if missing:
        raise UnderstudyError(
            f"the observation lacks the camera {', '.join(missing)}; it has {', '.join(observation.images)}"
        )
    if observation.proprio.shape != (spec.proprio_dim,):
        raise UnderstudyError(
            f"the policy wants {spec.proprio_dim} proprio entries ({', '.join(spec.proprio_names)}), "
            f"got {observation.proprio.shape}"
        )


class Policy(Protocol):
    """Observations in, chunks of actions out; one episode at a time."""

    spec: PolicySpec

    def reset(self, task: Task, *, seed: int = 0) -> None:
        """Begin an episode. Everything random until the next reset follows from ``seed``."""
        ...

    def infer(self, observation: Observation, underway: Underway | None = None) -> ActionChunk:
        """The next ``spec.pred_horizon`` actions, in physical units, from the instant of ``observation`` on.

        They go on from what is ``underway``.
        """
        ...

    def hasten(self) -> None:
        """Answer quicker from now on, for inference alone; the first answer takes a minute longer."""
        ...


def policy_class(name: str) -> Any:
    """The class behind a family's name; raises `UnderstudyError` naming the nearest one."""
    return _class_in(POLICIES, name)


def _class_in(table: Mapping[str, str], name: str) -> Any:
    if name not in table:
        raise unknown("policy", name, table)
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


def load_policy(checkpoint: str | Path, *, embodiment: str = "") -> Policy:
    """The trained policy in the folder ``checkpoint``.

    Of a policy that was trained for several embodiments this is the one that drives ``embodiment``, or the first.
    Raises `UnderstudyError` when the folder is no checkpoint; a missing weight is an error, never a random start.
    """
    folder = checked_folder(checkpoint)
    family = json.loads((folder / SPEC_FILE).read_text())["policy"]
    policy = _class_in(POLICIES | PEERS, family).load(folder)
    chosen: Policy = policy.driving(embodiment) if embodiment in read_specs(folder) else policy
    return chosen


def checked_folder(checkpoint: str | Path) -> Path:
    """A checkpoint's folder; raises `UnderstudyError` when it is none."""
    folder = Path(checkpoint)
    if not (folder / SPEC_FILE).is_file():
        raise UnderstudyError(
            f"{folder} is not a checkpoint: it has no {SPEC_FILE}; give the folder that `vla train` wrote, or let "
            "`vla lerobot` make one of LeRobot's known"
        )
    return folder


def parameters_of(checkpoint: Path) -> int | None:
    """How many numbers a checkpoint's own weights are; ``None`` where there are none."""
    from safetensors import safe_open

    file = checkpoint / WEIGHTS_FILE
    if not file.is_file():
        return None
    with safe_open(file, framework="np") as weights:
        return sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118  no mapping


def write_spec(folder: Path, family: str, spec: PolicySpec, *, others: Mapping[str, PolicySpec] | None = None) -> None:
    """Write ``policy_spec.json``; ``others``: of every embodiment, when there are several."""
    plain: dict[str, Any] = {"policy": family, "spec": spec.to_dict()}
    if others:
        plain["embodiments"] = {name: other.to_dict() for name, other in others.items()}
    (folder / SPEC_FILE).write_text(json.dumps(plain, indent=2))


def read_spec(folder: Path) -> PolicySpec:
    """Read ``policy_spec.json``; the folder becomes ``spec.checkpoint``."""
    plain = json.loads((folder / SPEC_FILE).read_text())["spec"]
    return PolicySpec.from_dict({**plain, "checkpoint": str(folder)})


def read_specs(folder: Path) -> dict[str, PolicySpec]:
    """Embodiment → spec of a policy that was trained for several; empty for one alone."""
    plain = json.loads((folder / SPEC_FILE).read_text()).get("embodiments", {})
    return {name: PolicySpec.from_dict({**spec, "checkpoint": str(folder)}) for name, spec in plain.items()}
