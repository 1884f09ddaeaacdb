"""A run: the processes between a policy's server and an arm, started, watched and ended together.

with Run(plan) as run:
    run.begin(Task("lift the red cube"), seed=7)
    run.order("arm")
    run.wait_for(State.STOPPED)
"""

import logging
import multiprocessing as mp
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, monotonic_ns, sleep
from types import FrameType
from typing import Any, Self

from robot_bridge import asking, loop, recorder, replaying, seeing
from robot_bridge.control import MOVING, State
from robot_bridge.orders import give_order, runs_folder
from robot_bridge.plan import INSTRUCTION, Plan
from robot_bridge.rings import text
from vla.errors import UnderstudyError
from vla.types import Task

logger = logging.getLogger(__name__)

STARTING_S = 60.0
LEAVING_S = 5.0
SILENT_NS = 1_000_000_000
RECORDER = "recorder"
"""The one process that the arm can do without."""


def run_folder() -> Path:
    """A new folder for what the processes of a run share, which nobody else can read."""
    return Path(tempfile.mkdtemp(prefix="understudy-run-", dir=runs_folder()))


class Run:
    """One arm under way. ``plan.folder`` goes when the run is closed."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.rings = plan, plan.rings(make=True)
        self._episode = 0
        context = mp.get_context("spawn")
        targets: dict[str, Callable[[Plan, int], None]] = {"control": loop.control, "seeing": seeing.see}
        targets["asking"] = asking.ask if plan.actions is None else replaying.replay
        if plan.record is not None:
            targets[RECORDER] = partial(recorder.record, out=plan.record)
        self.processes: dict[str, BaseProcess] = {
            name: context.Process(target=_quiet, args=(target, plan, os.getpid()), name=name, daemon=True)
            for name, target in targets.items()
        }

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        for process in self.processes.values():
            process.start()
        until = monotonic() + STARTING_S
        while self.rings["control"].newest() is None or self.rings["seen"].newest() is None:
            self.check_alive()
            if monotonic() > until:
                raise UnderstudyError("the arm or its cameras do not come up")
            sleep(0.02)

    def __exit__(self, *about: object) -> None:
        self.close()

    @property
    def state(self) -> State:
        """Of the arm's control."""
        return State(int(self.status["state"]))

    @property
    def status(self) -> Any:
        """The newest record of the ring ``control``."""
        return self.rings["control"].newest()

    @property
    def reason(self) -> str:
        """Why the arm stands, or the trouble that keeps it from being armed."""
        link = self.rings["link"].newest()
        found = self.status["reason"] or (link["trouble"] if link is not None else b"")
        return str(found.decode(errors="replace"))

    def begin(self, task: Task, *, seed: int = 0, timeout_s: float = 10.0) -> None:
        """Begin an episode at the server, with the arm at rest; raises `UnderstudyError` when that cannot be."""
        if self.state in MOVING:
            raise UnderstudyError(f"the arm is {self.state.name}: stop it before another episode begins")
        self._episode += 1
        self.rings["task"].write(episode=self._episode, instruction=text(task.instruction, INSTRUCTION), seed=seed)
        until, link = monotonic() + timeout_s, None
        while monotonic() < until:
            self.check_alive()
            link = self.rings["link"].newest()
            if link is not None and link["alive"] and int(link["episode"]) == self._episode:
                return
            sleep(0.01)
        why = "nobody asks" if link is None else link["trouble"].decode(errors="replace")
        raise UnderstudyError(f"no episode has begun within {timeout_s:g} s: {why}")

    def order(self, word: str) -> None:
        """Say ``arm``, ``reset`` or ``stop``."""
        give_order(self.plan.folder, word)

    def arm(self, *, timeout_s: float = 5.0) -> None:
        """Reset if need be, and arm; raises `UnderstudyError` with the reason when that is refused.

        A stop that comes meanwhile is a stop.
        """
        until, said = monotonic() + timeout_s, self.rings["events"].written
        for word, wanted in (("reset", (State.IDLE,)), ("arm", MOVING)):
            while self.state not in (*wanted, *MOVING):
                self.check_alive()
                told = [record for record in self.rings["events"].since(said)[0] if record["message"] != b"done"]
                stopped = [record for record in told if record["code"].startswith(b"stop_")]
                if stopped or monotonic() > until:
                    why = told[-1]["message"].decode() if told else self.reason
                    raise UnderstudyError(f"the arm cannot be armed: {why}")
                self.order(word)
                sleep(0.05)

    def wait_for(self, *states: State, timeout_s: float = 30.0) -> State:
        """The first of ``states`` that is reached; raises `UnderstudyError`."""
        until = monotonic() + timeout_s
        while monotonic() < until:
            if self.state in states:
                return self.state
            self.check_alive()
            sleep(0.005)
        raise UnderstudyError(f"the arm is {self.state.name} after {timeout_s:g} s: {self.reason}")

    def close(self) -> None:
        """Stop the arm, wait until it stands, end the processes; a second time is no harm."""
        started = [process for process in self.processes.values() if process.pid is not None]
        for process in started:  # control brakes before it ends, and is the first of them
            process.terminate()
            process.join(LEAVING_S)
            process.kill()
        shutil.rmtree(self.plan.folder, ignore_errors=True)
        if self.plan.record is not None:
            try:
                recorder.save_finished(self.plan.record)
            except UnderstudyError as error:
                logger.warning("%s", error)

    def check_alive(self) -> None:
        """Raise `UnderstudyError` when a process that the arm needs has ended, or control says nothing any more."""
        for name, process in self.processes.items():
            if not process.is_alive() and name != RECORDER:
                raise UnderstudyError(f"the process {name} has ended (code {process.exitcode}): {self._last_words()}")

        status = self.rings["control"].newest()
        if status is not None and monotonic_ns() - int(status["stamp_ns"]) > SILENT_NS:
            raise UnderstudyError(f"the control process has been silent for more than {1e-9 * SILENT_NS} s")

    def _last_words(self) -> str:
        status = self.rings["control"].newest()
        return "see above" if status is None or not status["reason"] else str(status["reason"].decode())


def _quiet(target: Callable[[Plan, int], None], plan: Plan, parent: int) -> None:
    """A process ends when it is told to, in order; the keyboard's interruption is its parent's to hear."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave)
    try:
        target(plan, parent)
    except UnderstudyError as error:
        raise SystemExit(f"{mp.current_process().name}: {error}") from error
