"""The process in which a suite plays whose packages cannot share our environment: run by the Python that has them.

    .venv-robosuite/bin/python -m sim.guest_process sim.tasks.robosuite_guest:RobosuiteGuest '{"image_size": 64}' FD

It answers, on the connection whose descriptor is FD, what `sim.guest.GuestSuite` asks, one thing at a time. What is
refused (`UnderstudyError`) is said and raised again at the host; anything else ends the process, and the host reads
why from stderr. What the suite's libraries print goes there too. The process ends with its host, whose end of stdin
then closes.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from sim.guest_messages import Told, receive, send, spec_to_json
from sim.suite import Suite
from vla.errors import UnderstudyError

Answer = tuple[Told, tuple[np.ndarray, ...]]


class Guest:
    """A suite, the experts that were asked for and the instants that were kept in this episode."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._experts: list[Callable[[], np.ndarray]] = []
        self._ways_back: list[Callable[[], None]] = []

    def spec(self) -> Answer:
        """What the suite offers."""
        return {"spec": spec_to_json(self._suite.spec), "max_steps": self._suite.max_steps}, ()

    def reset(self, task: str, seed: int) -> Answer:
        """Start an episode."""
        self._experts, self._ways_back = [], []
        self._suite.reset(task, seed)
        return self._state(), ()

    def observe(self) -> Answer:
        """The pictures in the order of the spec's cameras, then the proprio."""
        seen = self._suite.observe()
        return {"stamp_ns": seen.stamp_ns}, (*(seen.images[one.name] for one in self._suite.spec.cameras), seen.proprio)

    def step(self, action: np.ndarray) -> Answer:
        """One action."""
        self._suite.step(action)
        return self._state(), ()

    def expert(self) -> Answer:
        """A new expert; what `act` knows it by."""
        self._experts.append(self._suite.expert())
        return {"number": len(self._experts) - 1}, ()

    def act(self, number: int) -> Answer:
        """The next action of an expert."""
        return {}, (self._experts[number](),)

    def keep(self) -> Answer:
        """Remember this instant; what `back` knows it by."""
        return self._way_back(self._suite.keep())

    def disturb(self, axis: str, level: int, seed: int) -> Answer:
        """Make the world look otherwise; what `back` knows the way back by."""
        undo = ExitStack()
        undo.enter_context(self._suite.disturbed(axis, level, seed))
        return self._way_back(undo.close)

    def back(self, number: int) -> Answer:
        """Go back to an instant, or to the undisturbed world."""
        self._ways_back[number]()
        return self._state(), ()

    def film(self, size: int) -> Answer:
        """One frame for people."""
        return {}, (self._suite.film(size),)

    def _way_back(self, way: Callable[[], None]) -> Answer:
        self._ways_back.append(way)
        return {"number": len(self._ways_back) - 1}, ()

    def _state(self) -> Told:
        suite = self._suite
        return {
            "instruction": suite.instruction,
            "steps": suite.steps,
            "success": suite.success,
            "max_steps": suite.max_steps,
        }


QUESTIONS = ("spec", "reset", "observe", "step", "expert", "act", "keep", "disturb", "back", "film")


def serve(wire: Connection, make: Callable[[], Suite]) -> None:
    """Make the suite, then answer until the host has gone; a suite that cannot be made is refused at ``spec``."""
    try:
        guest = Guest(make())
    except UnderstudyError as refused:
        receive(wire)
        send(wire, _refusal(refused))
        return
    while True:
        try:
            asked, arrays = receive(wire)
        except EOFError:
            return
        told, answered = _answer(guest, asked, arrays)
        send(wire, told, *answered)


def _answer(guest: Guest, asked: Told, arrays: list[np.ndarray]) -> Answer:
    question = asked.pop("do")
    if question not in QUESTIONS:
        raise LookupError(f"nobody answers {question!r}")
    try:
        return getattr(guest, question)(*arrays, **asked)
    except UnderstudyError as refused:
        return _refusal(refused), ()


def _refusal(refused: UnderstudyError) -> Told:
    return {"refused": str(refused), "kind": type(refused).__name__}


def _follow_host() -> None:
    """End when stdin closes, also in the midst of a step that never ends."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


def main(argv: list[str]) -> int:
    """Serve one suite."""
    inside, options, descriptor = argv
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's to handle
    threading.Thread(target=_follow_host, daemon=True).start()
    module, _, attribute = inside.partition(":")
    wanted: dict[str, Any] = json.loads(options)
    with Connection(int(descriptor)) as wire:
        serve(wire, lambda: getattr(import_module(module), attribute)(**wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
