"""The control process: one tick of the arm's rate after another, each at its own instant.

Nothing else runs in this process: no thread, no socket of the network, no garbage collector. Where the machine permits
it is scheduled before everything else (FIFO). A tick that was missed is left out, never made up for.
"""

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from time import monotonic_ns, sleep

import numpy as np

from robot_bridge.arms.arm import Arm, ArmError, ArmState, make_arm
from robot_bridge.control import Controller, Link, State
from robot_bridge.orders import OrderSocket
from robot_bridge.plan import MESSAGE, Plan
from robot_bridge.rings import Ring, text
from vla.errors import UnderstudyError, first_line
from vla.types import ActionChunk

logger = logging.getLogger(__name__)

PRIORITY = 50
LOCK_ALL = 3  # MCL_CURRENT | MCL_FUTURE
SILENT_NS = 500_000_000
"""Silence of the process that asks after which it is taken for dead."""
SPARE_S = 0.5
"""More than braking takes, before it is left at that."""
_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def be_prompt() -> bool:
    """Let this process be scheduled first and stay in memory; whether the machine permits it. Stops collecting."""
    gc.collect()
    gc.freeze()
    gc.disable()
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mlockall(LOCK_ALL)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError:
        return False
    return True


def make_sleep() -> Callable[[int], None]:
    """A sleep until an instant of the monotonic clock, which no adjustment of the clock and no signal moves."""
    if not sys.platform.startswith("linux"):
        return lambda until_ns: sleep(max(0.0, 1e-9 * (until_ns - monotonic_ns())))
    call = ctypes.CDLL(None).clock_nanosleep
    clock = 1  # CLOCK_MONOTONIC

    def until(until_ns: int) -> None:
        when = _Timespec(until_ns // 1_000_000_000, until_ns % 1_000_000_000)
        while call(clock, _TIMER_ABSTIME, ctypes.byref(when), None):
            continue

    return until


def control(plan: Plan, parent: int) -> None:
    """The process: drives the arm until its parent has gone, then brakes and leaves it holding."""
    rings, arm = plan.rings(), make_arm(plan.arm.target, **plan.arm.options)
    with ExitStack() as leaving:
        try:
            leaving.callback(arm.disconnect)
            arm.connect()
            loop = Loop(plan, arm, rings, parent)
            orders = OrderSocket(plan.folder)
            leaving.callback(orders.close)
        except UnderstudyError as error:
            told = text(first_line(error), MESSAGE)
            rings["control"].write(stamp_ns=monotonic_ns(), state=State.STOPPED, reason=told)
            raise
        signal.signal(signal.SIGTERM, lambda number, frame: loop.leave())
        be_prompt()
        loop.run(orders)


class Loop:
    """Ticks of a `Controller` at the rate of its arm."""

    def __init__(self, plan: Plan, arm: Arm, rings: dict[str, Ring], parent: int) -> None:
        spec = arm.spec if plan.workspace is None else replace(arm.spec, workspace=plan.workspace)
        if plan.workspace is not None and arm.kinematics is None:
            raise ArmError("a workspace is of use to an arm that knows where its tool is; this one does not")
        self.controller = Controller(plan.policy, spec, arm.kinematics, plan.config)
        self.missed = self.ticks = 0
        self._plan, self._arm, self._rings, self._parent = plan, arm, rings, parent
        self._chunks = self._links = 0
        self._link = Link(alive=False, trouble="the asking process has not begun")
        self._link_ns = 0
        self._tick_ns = round(1e9 / arm.spec.rate_hz)
        self._state, self._leaving = arm.state(), False
        if why := self.controller.misplaced(self._state.joints):
            raise ArmError(why)
        self.controller.governor.reset(self._state.joints)

    def leave(self) -> None:
        """Let `run` brake and end."""
        self._leaving = True

    def run(self, orders: OrderSocket) -> None:
        """Until the parent has gone, somebody says `leave`, or the arm answers no more."""
        wait_until, due_ns = make_sleep(), monotonic_ns() + self._tick_ns
        while os.getppid() == self._parent and not self._leaving:
            wait_until(due_ns)
            now_ns = monotonic_ns()
            self._hear(orders, now_ns)
            if not self._tick(now_ns, now_ns - due_ns):
                return
            due_ns += self._tick_ns
            behind = (monotonic_ns() - due_ns) // self._tick_ns + 1
            if behind > 0:
                self.missed += behind
                due_ns += behind * self._tick_ns
        self._leave()

    def _hear(self, orders: OrderSocket, now_ns: int) -> None:
        """Orders, then what the asking process has brought."""
        for word in orders.read():
            told = self.controller.order(word, now_ns)
            self._say(now_ns, f"order_{word}", told or "done")
        brought, said = self._rings["chunks"], self._rings["link"]
        if brought.written != self._chunks:
            chunks, self._chunks, _ = brought.since(self._chunks)
            for chunk in chunks:
                made = ActionChunk(chunk["actions"], int(chunk["stamp_ns"]), 1e-9 * self._plan.step_ns)
                self.controller.offer(made, now_ns)
        if said.written != self._links and (link := said.newest()) is not None:
            self._links, self._link_ns = said.written, int(link["stamp_ns"])
            trouble = link["trouble"].decode(errors="replace")
            self._link = Link(bool(link["alive"]), float(link["rate"]), int(link["meeting"]), trouble)
        if now_ns - self._link_ns > SILENT_NS and self._link.alive:
            self._link = Link(alive=False, meeting=self._link.meeting, trouble="the asking process is silent")

    def _tick(self, now_ns: int, late_ns: int) -> bool:
        """Whether the arm still answers."""
        controller = self.controller
        try:
            self._state = self._arm.state()
            setpoint = controller.tick(now_ns, self._state, self._link)
            if not controller.config.shadow:
                self._arm.command(setpoint)
        except Exception as error:  # noqa: BLE001 whatever it is, the arm must not go on without us
            self._give_up(now_ns, error)
            return False
        self.ticks += 1
        self._write(now_ns, late_ns, setpoint, self._state)
        return True

    def _give_up(self, now_ns: int, error: Exception) -> None:
        """Nothing more can be said to the arm but to stop by its own means."""
        if not isinstance(error, ArmError):
            logger.error("control has failed", exc_info=error)
        if not self.controller.config.shadow:
            with contextlib.suppress(Exception):
                self._arm.stop()
        self._say(now_ns, "stop_arm", first_line(error))
        self._status(now_ns, State.STOPPED, first_line(error))

    def _write(self, now_ns: int, late_ns: int, setpoint: np.ndarray, state: ArmState) -> None:
        controller, rings = self.controller, self._rings
        rings["state"].write(stamp_ns=state.stamp_ns, joints=state.joints, proprio=state.proprio)
        rings["ticks"].write(
            stamp_ns=now_ns,
            late_ns=late_ns,
            state=controller.state,
            reference=controller.reference,
            sent=setpoint,
            measured=state.joints,
        )
        while controller.steps:
            rings["steps"].write(**vars(controller.steps.popleft()))
        while controller.interventions:
            one = controller.interventions.popleft()
            self._say(one.stamp_ns, one.code, one.message)
        if self.ticks % 5 == 0:
            self._status(now_ns, controller.state, controller.reason)

    def _status(self, now_ns: int, state: State, reason: str) -> None:
        counts = self.controller.counts
        self._rings["control"].write(
            stamp_ns=now_ns,
            state=state,
            reason=text(reason, MESSAGE),
            ticks=self.ticks,
            missed=self.missed,
            interventions=sum(counts.values()),
        )

    def _say(self, now_ns: int, code: str, message: str) -> None:
        self._rings["events"].write(stamp_ns=now_ns, code=text(code, 24), message=text(message, MESSAGE))

    def _leave(self) -> None:
        """Brake, because nobody is there any more."""
        self.controller.order("stop", monotonic_ns())
        until = monotonic_ns() + int(1e9 * (self.controller.governor.stop_s + SPARE_S))
        while monotonic_ns() < until and self.controller.state is State.RAMP_STOP:
            if not self._tick(monotonic_ns(), 0):
                return
            sleep(1e-9 * self._tick_ns)
