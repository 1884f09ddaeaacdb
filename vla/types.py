"""The contract. Everything that crosses a folder's border is one of these types.

Conventions, said once:

- units are SI: metres, radians, seconds, newtons; a gripper opening is in metres or a fraction, as its spec says;
- images are RGB ``uint8``, height x width x channel, unbatched, row 0 at the top;
- quaternions are ``(w, x, y, z)``;
- stamps are ``time.monotonic_ns()`` of the machine that made the observation, in nanoseconds;
- arrays here are numpy; torch lives behind the policies.

A policy sees an `Observation` and a `Task` and answers with an `ActionChunk`; a dataset is a list of `Episode`.

    Task ─┐
          ├─► Policy.infer ─► ActionChunk ─► executor ─► action [A] ─► simulated or real arm
    Observation ─┘
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64, UInt8

ActionKind = Literal["joint_position", "ee_delta", "ee_pose"]
Accepts = Literal["instruction", "video", "goal"]
EXPERT_SOURCE = "expert "
"""How `Episode.source` begins for a demonstration by a simulated expert; the task's name follows."""
ACTION_KINDS: tuple[ActionKind, ...] = ("joint_position", "ee_delta", "ee_pose")


@dataclass(frozen=True)
class VideoClip:
    """A demonstration to imitate: ``frames`` [T, H, W, 3] uint8 at ``fps`` frames per second."""

    frames: UInt8[np.ndarray, "t h w 3"]
    fps: float


@dataclass(frozen=True)
class Task:
    """What to do: told (``instruction``), shown (``video``) or pictured (``goal`` [H, W, 3])."""

    instruction: str
    video: VideoClip | None = None
    goal: UInt8[np.ndarray, "h w 3"] | None = None


@dataclass(frozen=True)
class Observation:
    """One instant: unbatched and unnormalised.

    ``images``: camera name → [H, W, 3] uint8 RGB; ``proprio`` [P] float32, in the units its names say;
    ``stamp_ns``: when it was captured, nanoseconds of the monotonic clock.
    """

    images: Mapping[str, UInt8[np.ndarray, "_h _w 3"]]
    proprio: Float32[np.ndarray, " p"]
    stamp_ns: int


@dataclass(frozen=True)
class Gripper:
    """Which entry of an action drives the gripper, and which values of it mean open and closed."""

    index: int
    open: float
    closed: float


@dataclass(frozen=True)
class ActionSpec:
    """What one row of actions means.

    ``kind``: ``joint_position`` [rad], ``ee_delta`` (end-effector displacement per step) or ``ee_pose``;
    ``names``: one per entry; ``low``/``high``: the bounds per entry, in physical units;
    ``frame``: the frame that end-effector actions are written in, e.g. ``"base"``;
    ``gripper``: ``None`` for an arm without one.
    """

    kind: ActionKind
    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    frame: str = "base"
    gripper: Gripper | None = None

    def __post_init__(self) -> None:
        if self.kind not in ACTION_KINDS:
            raise ValueError(f"action kind {self.kind!r} is not one of {ACTION_KINDS}")
        if not len(self.names) == len(self.low) == len(self.high):
            raise ValueError(
                f"an action needs one low and one high per name: {len(self.names)} names, "
                f"{len(self.low)} low, {len(self.high)} high"
            )
        if any(not lo < hi for lo, hi in zip(self.low, self.high, strict=True)):
            raise ValueError(f"every low must be under its high: low {self.low}, high {self.high}")
        if self.gripper is not None and not 0 <= self.gripper.index < len(self.names):
            raise ValueError(f"gripper index {self.gripper.index} is outside 0…{len(self.names) - 1}")

    @property
    def dim(self) -> int:
        """Entries in one action."""
        return len(self.names)


@dataclass(frozen=True)
class ActionChunk:
    """``actions`` [pred_horizon, A] float32, unnormalised; row *i* is due at ``stamp_ns + i * dt`` (``dt`` [s])."""

    actions: Float32[np.ndarray, "horizon a"]
    stamp_ns: int
    dt: float


@dataclass(frozen=True)
class CameraSpec:
    """A camera by name, with the size of its images in pixels."""

    name: str
    height: int
    width: int


@dataclass(frozen=True)
class PolicySpec:
    """What a policy expects and promises; it is sent in the bridge's handshake and saved beside the weights.

    ``obs_horizon`` observations go in, ``pred_horizon`` actions come out, ``exec_horizon`` of them are carried
    out before the next inference. ``accepts``: how a task may be put. ``checkpoint``: the folder, or "".
    """

    cameras: tuple[CameraSpec, ...]
    proprio_names: tuple[str, ...]
    action: ActionSpec
    accepts: tuple[Accepts, ...]
    obs_horizon: int
    pred_horizon: int
    exec_horizon: int
    control_hz: float
    checkpoint: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.exec_horizon <= self.pred_horizon:
            raise ValueError(f"exec_horizon must be 1…{self.pred_horizon} (pred_horizon), got {self.exec_horizon}")

    @property
    def proprio_dim(self) -> int:
        """Entries of ``Observation.proprio``."""
        return len(self.proprio_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` turns them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PolicySpec":
        """The inverse of `to_dict`; raises `TypeError` on a key that the spec does not have."""
        return cls(
            **{
                **data,
                "cameras": tuple(CameraSpec(**camera) for camera in data["cameras"]),
                "proprio_names": tuple(data["proprio_names"]),
                "action": action_spec_from_dict(data["action"]),
                "accepts": tuple(data["accepts"]),
            }
        )


def action_spec_from_dict(data: Mapping[str, Any]) -> ActionSpec:
    """An `ActionSpec` from the plain types that `dataclasses.asdict` makes of it."""
    gripper = data.get("gripper")
    return ActionSpec(
        **{
            **data,
            "names": tuple(data["names"]),
            "low": tuple(data["low"]),
            "high": tuple(data["high"]),
            "gripper": Gripper(**gripper) if gripper else None,
        }
    )


@dataclass(frozen=True)
class Episode:
    """One recorded attempt at a task.

    ``images``: camera name → a call that decodes all its frames [T, H, W, 3] uint8 (lazy, so that an episode is
    cheap to hold); ``proprio`` [T, P]; ``actions`` [T, A]: row *t* was commanded at observation *t*;
    ``stamps_ns`` [T]: when each observation was really captured; ``fps``: the nominal rate;
    ``success``: ``None`` when nobody judged it; ``source``: where it comes from (an expert, ``"teleop"``, a file …);
    ``seed`` and ``initial_state``: which scene it started from, for simulated episodes; ``extras``: name → one number
    for each step [T], such as ``quality``, 0…1: how far to trust an action that was not recorded but inferred.
    """

    images: Mapping[str, Callable[[], UInt8[np.ndarray, "t h w 3"]]]
    proprio: Float32[np.ndarray, "t p"]
    actions: Float32[np.ndarray, "t a"]
    task: Task
    fps: float
    embodiment: str
    success: bool | None
    source: str
    stamps_ns: Int64[np.ndarray, " t"]
    seed: int | None = None
    initial_state: int | None = None
    extras: Mapping[str, Float32[np.ndarray, " t"]] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of steps T."""
        return len(self.actions)
