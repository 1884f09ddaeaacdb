"""An arm for somebody whose loop is slower than the arm's, or less punctual: its setpoints come from a process here.

    stream = Stream("so101", port="/dev/ttyACM0")
    stream.connect()
    stream.go(joints)       # a few times a second; the process governs, interpolates and keeps the arm's rate
    stream.state()
    stream.disconnect()

What is asked is passed one period of the asker later, on a straight line from what was asked before it. What the arm
cannot reach within a second is refused. An arm that does not follow, or does not say any more where it is, brakes.
"""

import contextlib
import multiprocessing as mp
import os
import shutil
import signal
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, monotonic_ns, sleep
from typing import Any

import numpy as np

from robot_bridge.arms.arm import ARMS, Arm, ArmError, ArmSpec, ArmState, Joints, Limits, make_arm, setpoint
from robot_bridge.loop import be_prompt, make_sleep
from robot_bridge.rings import Field, Ring, text
from robot_bridge.safety import Governor, RefusedError, check_jump
from vla.errors import UnderstudyError, first_line

LONGEST_S = 0.2
"""Period of the asker beyond which what it asked before is no longer taken for the beginning of a line."""
OLD_NS = 500_000_000
"""Age of a state after which the process is taken for dead."""
STARTING_S = 60.0
FEEDBACK_NS = 100_000_000
"""Age of the arm's own measurement after which it is taken for frozen."""
LAG_NS = 200_000_000
"""How long the arm may be further from its setpoint than its limits say."""
REACH_S = 2.0
"""How far off a goal may be, in time of the fastest that the arm goes."""
MARGIN_S = 1.0
"""What braking may take beyond what it should, and the arm to be let go."""
MESSAGE = 300


class Stream:
    """The arm of that name, driven by a process of its own; the owner calls `disconnect`."""

    def __init__(self, name: str, **options: object) -> None:
        self._name, self._options = name, options
        self.spec: ArmSpec = make_arm(name, **options).spec
        self._folder: Path | None = None
        self._rings: dict[str, Ring] = {}
        self._process: BaseProcess | None = None
        self._asked: Joints = np.zeros(len(self.spec.joints))
        self._asked_s = -np.inf

    def connect(self) -> None:
        """Start the process, and wait until the arm holds; raises `ArmError` with the reason when it does not."""
        if self._process is not None:
            return
        self._folder = Path(tempfile.mkdtemp(prefix="understudy-stream-"))
        self._rings, self._asked_s = _rings(self._folder, len(self.spec.joints), make=True), -np.inf
        arguments = (self._folder, self._name, ARMS[self._name], self._options, os.getpid())
        self._process = mp.get_context("spawn").Process(target=_drive, args=arguments, daemon=True)
        self._process.start()
        until = monotonic() + STARTING_S
        while self._rings["state"].newest() is None:
            if monotonic() > until or not self._process.is_alive():
                self.disconnect()
                raise ArmError(f"the process that drives the {self._name} does not come up")
            sleep(0.01)
        try:
            self.state()
        except ArmError:
            self.disconnect()
            raise

    def state(self) -> ArmState:
        """The newest measurement; raises `ArmError` with what has ended the process."""
        newest = self._newest()
        return ArmState(newest["joints"], newest["joints"].astype(np.float32), int(newest["stamp_ns"]))

    def _newest(self) -> Any:
        newest = self._open()["state"].newest()
        assert newest is not None, "connect has waited for it"
        if newest["error"]:
            raise ArmError(newest["error"].decode(errors="replace"))
        if monotonic_ns() - int(newest["written_ns"]) > OLD_NS:
            raise ArmError(f"the process that drives the {self._name} has been silent for {1e-9 * OLD_NS} s")
        return newest

    def go(self, joints: Joints) -> Joints:
        """Ask for ``joints`` [D]; what of them is within their ends.

        Raises `UnderstudyError` for what is no number or too far away, and `ArmError` with what has ended the process.
        """
        limits, now = self.spec.limits, monotonic()
        asked, passed = np.clip(setpoint(joints, self.spec), limits.low, limits.high), now - self._asked_s
        gripper = None if self.spec.gripper is None else self.spec.gripper.index
        try:
            check_jump(asked, self._newest()["sent"], limits, REACH_S, free=gripper)
        except RefusedError as refusal:
            raise UnderstudyError(f"too far to go at once: {refusal}") from refusal
        line = 0.0 < passed < LONGEST_S
        velocity = (asked - self._asked) / passed if line else np.zeros_like(asked)
        self._open()["goal"].write(
            stamp_ns=monotonic_ns(), joints=asked, velocity=velocity, span_ns=int(1e9 * passed) if line else 0
        )
        self._asked, self._asked_s = asked, now
        return asked

    def disconnect(self) -> None:
        """Let the arm brake and hold, and end the process; a second time is no harm."""
        process, self._process = self._process, None
        if process is None or self._folder is None:
            return
        self._rings["over"].write(over=True)
        process.join(longest_stop_s(self.spec.limits) + 2 * MARGIN_S)
        process.kill()
        process.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _open(self) -> dict[str, Ring]:
        if self._process is None:
            raise ArmError(f"the {self._name} is not connected: call connect first")
        return self._rings


def _rings(folder: Path, joints: int, *, make: bool = False) -> dict[str, Ring]:
    stamp: Field = ("stamp_ns", "<i8")
    where: Field = ("joints", "<f8", (joints,))
    channels: dict[str, list[Field]] = {
        "goal": [stamp, where, ("velocity", "<f8", (joints,)), ("span_ns", "<i8")],
        "state": [stamp, where, ("sent", "<f8", (joints,)), ("written_ns", "<i8"), ("error", f"S{MESSAGE}")],
        "over": [("over", "?")],
    }
    return {name: Ring(folder / name, fields, make=make) for name, fields in channels.items()}


def _drive(folder: Path, name: str, target: str, options: dict[str, object], parent: int) -> None:
    """The process: until it is told that it is over, or its parent has gone."""
    ARMS[name] = target  # the parent may know one that is not on the list
    arm: Arm = make_arm(name, **options)
    rings = _rings(folder, len(arm.spec.joints))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard's interruption is the parent's to hear
    signal.signal(signal.SIGTERM, lambda *_: rings["over"].write(over=True))
    try:
        arm.connect()
        be_prompt()
        _follow(arm, rings, parent)
    except UnderstudyError as error:
        with contextlib.suppress(UnderstudyError):
            arm.stop()
        rings["state"].write(stamp_ns=0, written_ns=monotonic_ns(), error=text(first_line(error), MESSAGE))
    finally:
        arm.disconnect()


def _follow(arm: Arm, rings: dict[str, Ring], parent: int) -> None:
    """One setpoint a tick, each at its own instant; the last ones bring the arm to rest. Raises `ArmError`."""
    governor, watch, wait_until = Governor(arm.spec.limits, arm.spec.rate_hz), _Watch(arm.spec), make_sleep()
    governor.reset(arm.state().joints)
    tick_ns, due_ns, until_ns = round(1e9 / arm.spec.rate_hz), monotonic_ns(), 0
    held, trouble = governor.position, ""
    while not until_ns or (monotonic_ns() < until_ns and not governor.at_rest):
        state = arm.state()
        trouble = trouble or watch.trouble(state, governor.position, monotonic_ns())
        if not until_ns and (trouble or rings["over"].written or os.getppid() != parent):
            until_ns = monotonic_ns() + int(1e9 * (governor.stop_s + MARGIN_S))
        sent = governor.brake() if until_ns else governor.towards(*_reference(rings["goal"].newest(), held))
        arm.command(sent)
        now_ns, error = monotonic_ns(), text(trouble, MESSAGE)
        rings["state"].write(stamp_ns=state.stamp_ns, joints=state.joints, sent=sent, written_ns=now_ns, error=error)
        due_ns = max(due_ns + tick_ns, monotonic_ns())  # a tick that was missed is left out
        wait_until(due_ns)
    if trouble:
        raise ArmError(trouble)


def _reference(goal: Any | None, held: Joints) -> tuple[Joints, Joints]:
    """Where the arm should be now, and how fast."""
    still = np.zeros_like(held)
    if goal is None:
        return held, still
    left_ns = int(goal["stamp_ns"]) + int(goal["span_ns"]) - monotonic_ns()
    if left_ns <= 0:
        return goal["joints"], still
    return goal["joints"] - 1e-9 * left_ns * goal["velocity"], goal["velocity"]


class _Watch:
    """What an arm does that is a reason to brake."""

    def __init__(self, spec: ArmSpec) -> None:
        self._spec, self._lagging_ns = spec, 0

    def trouble(self, state: ArmState, sent: Joints, now_ns: int) -> str:
        """Of the measurement ``state`` while the arm is told ``sent`` [D]; "" for none."""
        behind = np.abs(state.joints - sent) > self._spec.limits.lag
        self._lagging_ns = (self._lagging_ns or now_ns) if behind.any() else 0
        if now_ns - state.stamp_ns > FEEDBACK_NS:
            return f"the arm's measurement is {1e-6 * (now_ns - state.stamp_ns):.0f} ms old"
        if self._lagging_ns and now_ns - self._lagging_ns > LAG_NS:
            return f"{self._spec.joints[int(np.argmax(behind))]} does not follow: is it blocked?"
        return ""


def longest_stop_s(limits: Limits) -> float:
    """An upper bound of how long braking takes from the fastest that the arm goes [s]."""
    axes = zip(limits.velocity, limits.acceleration, limits.jerk, strict=True)
    return max(velocity / most + 2.5 * most / jerk for velocity, most, jerk in axes)
