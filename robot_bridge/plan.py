"""What the processes of a run agree on before they start, and the memory that they share while it lasts.

    eyes ──seen──► asking ──chunks, link──► control ──► arm
      ▲                                        │
      └────────────────state───────────────────┴──ticks, steps, events──► recorder, report, live line

Each ring has one writer. Nobody waits for anybody.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robot_bridge.arms.arm import ArmSpec, Box
from robot_bridge.control import ControlConfig
from robot_bridge.rings import Field, Ring
from robot_bridge.showing import Shows
from robot_bridge.transport import Keys
from robot_bridge.wire import TIMING, Codec
from vla.types import PolicySpec, Task

TICK_SLOTS = 1 << 13
MESSAGE = 200
INSTRUCTION = 400


@dataclass(frozen=True)
class Made:
    """Something that a process makes for itself: ``target`` is ``module:class``, or the name of an arm."""

    target: str
    options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """One run. ``folder``: what the processes share; ``shadow``: nothing is sent to the arm.

    ``actions``: a file [T, A] of recorded actions to play again, instead of asking a server; ``goes_on``: they are
    setpoints of the joints, to which the arm is led, and after a stop to those that are left; ``record``: a dataset to
    which the episodes are added; ``workspace``: one that is not the arm's own; ``shows``: what shows the task.
    """

    folder: Path
    arm: Made
    cameras: Made
    policy: PolicySpec
    arm_spec: ArmSpec
    address: str = ""
    keys: Keys | None = None
    codecs: tuple[Codec, ...] = ("raw", "jpeg")
    name: str = "arm"
    config: ControlConfig = field(default_factory=ControlConfig)
    actions: Path | None = None
    goes_on: bool = False
    record: Path | None = None
    workspace: Box | None = None
    shows: Shows = field(default_factory=Shows)

    @property
    def step_ns(self) -> int:
        """Of the policy."""
        return round(1e9 / self.policy.control_hz)

    def channels(self) -> dict[str, tuple[list[Field], int]]:
        """Fields and slots of each ring."""
        joints, dim = len(self.arm_spec.joints), self.policy.action.dim
        images: list[Field] = [
            (f"image_{camera.name}", "u1", (camera.height, camera.width, 3)) for camera in self.policy.cameras
        ]
        where: list[Field] = [("joints", "<f8", (joints,)), ("proprio", "<f4", (self.policy.proprio_dim,))]
        stamp: Field = ("stamp_ns", "<i8")
        return {
            "state": ([stamp, *where], 8),
            "seen": ([stamp, *where, ("trouble", f"S{MESSAGE}"), *images], 16),
            "task": ([("episode", "<i8"), ("instruction", f"S{INSTRUCTION}"), ("seed", "<i8")], 4),
            "chunks": (
                [
                    *(stamp, ("arrived_ns", "<i8"), ("round_trip_us", "<i8"), ("encoded_us", "<i8")),
                    *((f"{name}_us", "<i8") for name in TIMING),
                    ("actions", "<f4", (self.policy.pred_horizon, dim)),
                ],
                8,
            ),
            "link": (
                [
                    *(stamp, ("alive", "?"), ("rate", "<f8"), ("meeting", "<i8"), ("episode", "<i8")),
                    *(("asked", "<i8"), ("answered", "<i8"), ("dropped", "<i8"), ("trouble", f"S{MESSAGE}")),
                ],
                4,
            ),
            "ticks": (
                [
                    *(stamp, ("late_ns", "<i8"), ("state", "u1"), ("reference", "<f8", (joints,))),
                    *(("sent", "<f8", (joints,)), ("measured", "<f8", (joints,))),
                ],
                TICK_SLOTS,
            ),
            "steps": ([stamp, ("asked", "<f4", (dim,)), ("sent", "<f4", (dim,)), ("age_ns", "<i8")], 512),
            "events": ([stamp, ("code", "S24"), ("message", f"S{MESSAGE}")], 256),
            "control": (
                [
                    *(stamp, ("state", "u1"), ("reason", f"S{MESSAGE}"), ("ticks", "<i8"), ("missed", "<i8")),
                    ("interventions", "<i8"),
                ],
                4,
            ),
            "recorder": (
                [
                    *(stamp, ("episode", "<i8"), ("frames", "<i8"), ("dropped", "<i8"), ("saved", "<i8")),
                    *(("waiting", "<i8"), ("trouble", f"S{MESSAGE}")),
                ],
                4,
            ),
        }

    def rings(self, *, make: bool = False) -> dict[str, Ring]:
        """The shared memory, by name."""
        return {
            name: Ring(self.folder / name, fields, slots=slots, make=make)
            for name, (fields, slots) in self.channels().items()
        }


def task_of(record: Any) -> tuple[int, Task, int]:
    """Number, task and seed of the episode in a record of the ring ``task``."""
    return int(record["episode"]), Task(record["instruction"].decode(errors="replace")), int(record["seed"])
