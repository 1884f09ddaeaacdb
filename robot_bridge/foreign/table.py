"""Who is called what on the other side: one table, given on the command line or in a YAML file, and checked at once.

front=agentview                      our camera → theirs; a camera that is not named is called the same
turned=front,wrist                   cameras whose pictures are upside down there (turned by 180°), or all
crop=0.9                             only the middle of a picture goes on, this share of its area
state=states                         their state: one key, or several in the order of our proprio (arm,gripper)
state.ours, state.theirs             what its entries mean, as in robot_bridge.foreign.conventions
instruction=task_description         the words
action=actions                       their action: one key, or several with their sizes (arm:6,gripper:1)
action.ours, action.theirs           what its entries mean; ours is known from the policy but for its rotations
action.kind=ee_pose                  what theirs is, if it is not what ours is: ee_delta or ee_pose
settle=10                            steps of an episode before the policy is asked: the arm stands, the gripper open
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray

from policies.policy import check_seen
from robot_bridge.arguments import pair
from robot_bridge.foreign.conventions import Conversion, Layout, Pose, Rows, centre, check_rebase, rebased
from vla.errors import UnderstudyError, unknown
from vla.types import ACTION_KINDS, ActionKind, Observation, PolicySpec

Protocol = Literal["vla-eval", "gr00t"]
Side = Literal["server", "client"]
"""A server reads their states and writes actions that they carry out; a client does the reverse."""

NAMES: dict[Protocol, dict[str, str]] = {
    "vla-eval": {"state": "states", "instruction": "task_description", "action": "actions"},
    "gr00t": {"state": "state", "instruction": "annotation.human.action.task_description", "action": "action"},
}
"""What each protocol usually calls things."""
KEYS = (
    *("turned", "crop", "state", "state.ours", "state.theirs", "instruction"),
    *("action", "action.ours", "action.theirs", "action.kind", "settle"),
)


@dataclass(frozen=True)
class Seen:
    """An observation in their words: their camera → picture [H, W, 3], their state's key → vector [D], the words."""

    images: Mapping[str, NDArray[np.uint8]]
    states: Mapping[str, NDArray[Any]]
    instruction: str


def read_map(words: Sequence[str]) -> dict[str, str]:
    """``NAME=THEIRS`` pairs and YAML files with the same names as one table; raises `UnderstudyError`."""
    told: dict[str, str] = {}
    for word in words:
        told |= _read_file(Path(word)) if word.endswith((".yaml", ".yml")) else dict([pair(word)])
    return told


def _read_file(path: Path) -> dict[str, str]:
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UnderstudyError(f"{path} is no table that can be read: {error}") from error
    if not isinstance(found, dict) or any(isinstance(value, (dict, list)) for value in found.values()):
        raise UnderstudyError(f"{path} is no table of NAME: THEIRS, a line each")
    return {str(name): "all" if value is True else str(value) for name, value in found.items()}


class Table:
    """A `PolicySpec` in the words of the other side; raises `UnderstudyError` where the two do not fit."""

    def __init__(self, spec: PolicySpec, told: Mapping[str, str], *, protocol: Protocol, side: Side) -> None:
        """``told``: as `read_map` gives it."""
        ours = [camera.name for camera in spec.cameras]
        for name in told:
            if name not in (*KEYS, *ours):
                raise unknown("name in the map (a camera of the policy, or a key)", name, [*ours, *KEYS])
        self.spec, self.told = spec, dict(told)
        told = {**NAMES[protocol], **told}
        self.cameras = {name: told.get(name, name) for name in ours}
        turned = set(ours) if told.get("turned") == "all" else set(filter(None, told.get("turned", "").split(",")))
        if strange := turned - set(ours):
            raise unknown("camera in turned", min(strange), [*ours, "all"])
        self.turned, self.crop = turned, _number("crop", told.get("crop", "1"), above=0, most=1)
        self.settle = int(_number("settle", told.get("settle", "0"), above=-1, most=10_000))
        self.state = tuple(told["state"].split(",")) if spec.proprio_dim else ()
        self.instruction = told["instruction"]
        self._layouts(told, side)
        self.action = _columns(told["action"], self.action_theirs.size)

    def _layouts(self, told: Mapping[str, str], side: Side) -> None:
        spec = self.spec
        self.state_ours = Layout.of(told.get("state.ours", str(spec.proprio_dim or "")))
        self.state_theirs = Layout.of(told.get("state.theirs", self.state_ours.text))
        plain = Layout.of_action(spec.action)
        self.action_ours = Layout.of(told.get("action.ours", plain.text), gripper=spec.action.gripper)
        self.action_theirs = Layout.of(told.get("action.theirs", self.action_ours.text), gripper=spec.action.gripper)
        for what, layout, has, names in (
            ("state.ours", self.state_ours, spec.proprio_dim, spec.proprio_names),
            ("action.ours", self.action_ours, spec.action.dim, spec.action.names),
        ):
            if layout.size != has:
                raise UnderstudyError(
                    f"{what} {layout.text!r} has {layout.size} entries, the policy {has} ({', '.join(names)})"
                )
        kind = told.get("action.kind", spec.action.kind)
        if kind not in ACTION_KINDS:
            raise unknown("action kind", kind, ACTION_KINDS)
        self.kind: ActionKind = kind
        check_rebase((spec.action.kind, self.kind), self.action_ours, self.state_ours)
        if self.settle and spec.action.kind != "ee_delta":
            raise UnderstudyError(f"settle wants actions that may be nothing (ee_delta), these are {spec.action.kind}")
        states, actions = (self.state_theirs, self.state_ours), (self.action_ours, self.action_theirs)
        if side == "client":
            states, actions = (self.state_ours, self.state_theirs), (self.action_theirs, self.action_ours)
        self._state = Conversion(*states, what="the state")
        self._action = Conversion(*actions, what="the action")

    @classmethod
    def server(cls, spec: PolicySpec, told: Mapping[str, str], protocol: Protocol) -> Self:
        """For a policy of ours that they ask."""
        if "instruction" not in spec.accepts:
            raise UnderstudyError(
                f"the policy is put its tasks by {', '.join(spec.accepts)}, the protocol {protocol} by words alone"
            )
        return cls(spec, told, protocol=protocol, side="server")

    def observed(self, seen: Seen, stamp_ns: int) -> Observation:
        """What they saw, as the policy sees it; raises `UnderstudyError` naming what is missing, on both sides."""
        missing = [f"{theirs} (our {ours})" for ours, theirs in self.cameras.items() if theirs not in seen.images]
        if missing:
            raise UnderstudyError(
                f"the observation lacks the camera {', '.join(missing)}; it has {', '.join(map(str, seen.images))}"
            )
        images = {ours: self._turn(ours, seen.images[theirs]) for ours, theirs in self.cameras.items()}
        observation = Observation(images, self.proprio(seen), stamp_ns)
        check_seen(self.spec, observation)
        return observation

    def proprio(self, seen: Seen) -> Rows:
        """Our proprio [P] of their states."""
        if not self.state:
            return np.empty(0, np.float32)
        lacks = [key for key in self.state if key not in seen.states]
        if lacks:
            raise UnderstudyError(
                f"the observation lacks the state {', '.join(lacks)}, which the policy reads as "
                f"{', '.join(self.spec.proprio_names)}; it has {', '.join(map(str, seen.states)) or 'none'}"
            )
        vector = np.concatenate([np.ravel(seen.states[key]) for key in self.state])
        if not np.isfinite(vector).all():
            raise UnderstudyError(f"the state holds NaN or infinity: {vector.tolist()}")
        return self._state(vector[None])[0]

    def carried_out(self, rows: Rows, proprio: Callable[[], Rows]) -> Rows:
        """Actions [N, A] of the policy as they carry them out [N, theirs].

        ``proprio`` [P] says where the arm was; it is asked only when theirs are of another kind.
        """
        if self.kind != self.spec.action.kind:
            rows = rebased(rows, self.action_ours, Pose.of(proprio(), self.state_ours), to=self.kind)
        return self._action(rows)

    def still(self) -> Rows:
        """The action [A] of ours that does nothing, with the gripper open."""
        action = np.zeros(self.spec.action.dim, np.float32)
        if self.spec.action.gripper is not None:
            action[self.spec.action.gripper.index] = self.spec.action.gripper.open
        return action

    def shown(self, observation: Observation, instruction: str) -> Seen:
        """What we saw, as their policy sees it."""
        check_seen(self.spec, observation)
        images = {theirs: self._turn(ours, observation.images[ours]) for ours, theirs in self.cameras.items()}
        if not self.state:
            return Seen(images, {}, instruction)
        rows = self._state(observation.proprio[None])[0]
        if len(self.state) > 1 and len(self.state) != len(self.state_theirs.parts):
            raise UnderstudyError(
                f"state names {len(self.state)} keys and state.theirs {len(self.state_theirs.parts)} parts "
                f"({self.state_theirs.text}): give as many"
            )
        parts = [part.entries for part in self.state_theirs.parts] if len(self.state) > 1 else [slice(None)]
        return Seen(images, {key: rows[entries] for key, entries in zip(self.state, parts)}, instruction)

    def decided(self, rows: Rows, proprio: Rows) -> Rows:
        """Actions [N, theirs] of their policy as ours [N, A], from where the arm was, ``proprio`` [P]."""
        made = self._action(rows)
        if self.kind == self.spec.action.kind:
            return made
        return rebased(made, self.action_ours, Pose.of(proprio, self.state_ours), to=self.spec.action.kind)

    def split(self, rows: Rows) -> dict[str, Rows]:
        """Actions [… , theirs] by their keys."""
        ends = np.cumsum([size for _, size in self.action])
        return {key: rows[..., end - size : end] for (key, size), end in zip(self.action, ends)}

    def joined(self, parts: Mapping[str, NDArray[Any]]) -> Rows:
        """The inverse of `split`; raises `UnderstudyError` for a missing key or another size."""
        lacks = [key for key, _ in self.action if key not in parts]
        if lacks:
            raise UnderstudyError(
                f"the answer lacks the action {', '.join(lacks)}; it has {', '.join(map(str, parts))}"
            )
        wrong = [
            f"{key} has {parts[key].shape[-1]} entries, not {n}" for key, n in self.action if parts[key].shape[-1] != n
        ]
        if wrong:
            raise UnderstudyError(f"the action {'; '.join(wrong)}")
        return np.concatenate([parts[key] for key, _ in self.action], axis=-1).astype(np.float32)

    def _turn(self, ours: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        image = centre(image, self.crop) if self.crop < 1 else image
        return np.ascontiguousarray(image[::-1, ::-1] if ours in self.turned else image)


def _number(name: str, text: str, *, above: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not above < value <= most:
        raise UnderstudyError(f"{name} is a number above {above:g} and up to {most:g}, got {text!r}")
    return value


def _columns(text: str, size: int) -> tuple[tuple[str, int], ...]:
    """``arm:6,gripper:1`` as names and sizes; one name alone is all of it."""
    if "," not in text and ":" not in text:
        return ((text, size),)
    columns = []
    for word in text.split(","):
        name, _, count = word.partition(":")
        if not count.isdecimal():
            raise UnderstudyError(f"action names several keys with their sizes, as in arm:6,gripper:1; got {text!r}")
        columns.append((name, int(count)))
    if sum(count for _, count in columns) != size:
        raise UnderstudyError(f"action {text!r} has {sum(n for _, n in columns)} entries, action.theirs has {size}")
    return tuple(columns)
