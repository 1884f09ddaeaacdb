"""One policy that answers many episodes at once: workers simulate and render, this process infers.

    worker 0: slots 0 2 4 …  ─┐  pictures through shared memory   ┌─ group A: slots 0 … B-1
    worker 1: slots 1 3 5 …  ─┴─►──────────────────────────────►──┴─ group B: slots B … 2B-1
                              ◄── a chunk for each slot ──────────── one batch of B answers a group, in turn

While the policy answers one group, the workers carry out the chunks of the other. A slot plays one scene after the
other; which scene comes to which slot depends on how long episodes are and not on how long they take, and a batch has
always B rows (a slot without an episode repeats what was seen last). So the result depends on B, through the rounding
of matrix products, and not on the number of workers.

A worker that dies is made anew and begins the episodes of its slots again; a scene in which workers die twice cannot
be judged, and says so.
"""

import json
import logging
import multiprocessing
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from time import perf_counter
from typing import Any

import numpy as np

from policies.policy import Underway
from sim.pool import start_server, start_worker
from sim.rollout import Asked, Game, Played, Scene, crashed, shared_policy, timed
from sim.suite import Suite, SuiteSpec, make_suite, shared_suite, suite_module, suite_of
from vla.errors import UnderstudyError
from vla.types import Observation, Task

logger = logging.getLogger(__name__)

GROUPS = 2
TRIES = 2
"""How often a scene is begun in which a worker dies."""


@dataclass(frozen=True)
class Seen:
    """`sim.rollout.Asked` without its pictures, which lie in the slot's shared memory."""

    proprio: np.ndarray
    stamp_ns: int
    underway: Underway | None
    put: Task | None


class Pictures:
    """The pictures of one slot, in memory that both processes see."""

    def __init__(self, spec: SuiteSpec, name: str | None = None) -> None:
        sizes = [camera.height * camera.width * 3 for camera in spec.cameras]
        self._memory = SharedMemory(name, create=name is None, size=max(1, sum(sizes)))
        self._own, self._views = name is None, {}
        for camera, start in zip(spec.cameras, np.cumsum([0, *sizes]).tolist()):
            shape = (camera.height, camera.width, 3)
            self._views[camera.name] = np.ndarray(shape, np.uint8, self._memory.buf, start)

    @property
    def name(self) -> str:
        """By which the other process finds them."""
        return self._memory.name

    def write(self, images: Mapping[str, np.ndarray]) -> None:
        """Put them there."""
        for name, view in self._views.items():
            view[:] = images[name]

    def read(self) -> dict[str, np.ndarray]:
        """A copy of each."""
        return {name: view.copy() for name, view in self._views.items()}

    def close(self) -> None:
        """Let go of the memory; who made it removes it."""
        self._views.clear()
        self._memory.close()
        if self._own:
            self._memory.unlink()


def simulate(pipe: Connection, suite: str, options: str, memory: Mapping[int, str]) -> None:
    """A worker's life: for every message {slot: scene or chunk} an answer {slot: `Seen`, `Played` or an error}.

    Each slot has a suite of its own, made when it is first needed. Before a slot is served its number is sent, so that
    it is known in which a worker died.
    """
    start_worker()
    suites: dict[int, Suite] = {}
    pictures: dict[int, Pictures] = {}
    games: dict[int, Game] = {}
    while (message := pipe.recv()) is not None:
        answers: dict[int, Seen | Played | UnderstudyError] = {}
        for slot, what in message.items():
            pipe.send(slot)
            try:
                if slot not in suites:
                    suites[slot] = make_suite(suite, **json.loads(options))
                    pictures[slot] = Pictures(suites[slot].spec, memory[slot])
                if isinstance(what, Scene):
                    games[slot] = Game(what, suites[slot])
                turn = games[slot].advance(None if isinstance(what, Scene) else what)
            except UnderstudyError as error:
                answers[slot] = error
                continue
            if isinstance(turn, Asked):
                seen = turn.observation
                pictures[slot].write(seen.images)
                turn = Seen(seen.proprio, seen.stamp_ns, turn.underway, turn.put)
            answers[slot] = turn
        pipe.send(answers)


class Died(Exception):  # noqa: N818  not an error for people: the worker is made anew
    """A worker has died while it served ``slot``."""

    def __init__(self, slot: int, code: int | None) -> None:
        super().__init__(slot)
        self.slot, self.code = slot, code


class Worker:
    """A process that simulates, as this one sees it."""

    def __init__(self, *about: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=simulate, args=(other, *about), daemon=True)
        self._process.start()
        other.close()
        self._serving = -1

    def send(self, message: Mapping[int, Any] | None) -> None:
        """What its slots are to do; ``None``: go."""
        try:
            self._pipe.send(message)
        except OSError:  # it died, which is said when its answer is wanted
            logger.debug("a worker is gone")

    def receive(self) -> dict[int, Any]:
        """The answer to the first message that has none yet; raises `Died`."""
        try:
            while isinstance(said := self._pipe.recv(), int):
                self._serving = said
        except (EOFError, OSError):
            self._process.join()
            raise Died(self._serving, self._process.exitcode) from None
        return said

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.terminate()
        self._process.join()
        self._pipe.close()


@dataclass
class Slot:
    """A place in the batch."""

    number: int
    session: Any
    pictures: Pictures
    scene: int | None = None
    """which of the scenes is played here"""
    put: Task | None = None
    """what the policy was last told here"""
    observation: Observation | None = None
    answer: Seen | Played | None = None
    latencies_ms: list[float] = field(default_factory=list)


def play_together(scenes: Sequence[Scene], *, workers: int, batch: int) -> Iterator[Played]:
    """Play scenes in which one policy acts, ``batch`` of them at a time, in order; ``workers``: processes (≥ 1)."""
    if batch < 1:
        raise UnderstudyError(f"batch must be at least 1, got {batch}")
    table = Table(scenes, workers=max(1, workers), batch=batch)
    try:
        yield from table.play()
    finally:
        table.close()


class Table:
    """All slots and workers of an evaluation."""

    def __init__(self, scenes: Sequence[Scene], *, workers: int, batch: int) -> None:
        setting, self._name = scenes[0].setting, suite_of(scenes[0].task)
        if any((scene.setting, suite_of(scene.task)) != (setting, self._name) for scene in scenes):
            raise UnderstudyError("what is played together has one policy and one suite")
        self._scenes, self._options = scenes, setting.suite_options
        spec = shared_suite(self._name, self._options).spec
        self._policy = shared_policy(setting.checkpoint, embodiment=spec.embodiment, quick=setting.quick)
        if not hasattr(self._policy, "infer_together"):
            raise UnderstudyError(f"{setting.checkpoint} answers one episode at a time: give batch=1")
        slots = [Slot(number, self._policy.session(), Pictures(spec)) for number in range(GROUPS * batch)]
        self._groups = [slots[batch * number :][:batch] for number in range(GROUPS)]
        self._slots, self._queue = slots, deque(range(len(scenes)))
        self._deaths: Counter[int | None] = Counter()
        start_server(("sim.together", suite_module(self._name)))
        self._workers = [self._worker() for _ in range(min(workers, len(slots)))]

    def _worker(self) -> Worker:
        return Worker(self._name, self._options, {slot.number: slot.pictures.name for slot in self._slots})

    def play(self) -> Iterator[Played]:
        """Every scene's episode, in order."""
        done: dict[int, Played] = {}
        for group in self._groups:
            self._send(group, {slot.number: self._begin(slot) for slot in group if self._queue})
        for number in range(len(self._scenes)):
            while number not in done:
                for group in self._groups:
                    self._gather(group)
                    done |= self._finished(group)
                    self._send(group, self._answers(group))
            yield done.pop(number)

    def close(self) -> None:
        """End the workers, free the memory."""
        for worker in self._workers:
            worker.close()
        for slot in self._slots:
            slot.pictures.close()

    def _begin(self, slot: Slot) -> Scene:
        slot.scene, slot.latencies_ms = self._queue.popleft(), []
        return self._scenes[slot.scene]

    def _of(self, slot: Slot) -> int:
        return slot.number % len(self._workers)

    def _send(self, group: Sequence[Slot], what: Mapping[int, Any]) -> None:
        for number, worker in enumerate(self._workers):
            own = {slot.number: what[slot.number] for slot in group if self._of(slot) == number and slot.number in what}
            if own:
                worker.send(own)

    def _gather(self, group: Sequence[Slot]) -> None:
        for number in range(len(self._workers)):
            own = [slot for slot in group if self._of(slot) == number and slot.scene is not None]
            while any(slot.answer is None for slot in own):
                try:
                    answers = self._workers[number].receive()
                except Died as died:
                    self._again(number, died, group)
                    continue
                for slot in own:
                    slot.answer = answers.get(slot.number, slot.answer)
                    if isinstance(slot.answer, UnderstudyError):
                        raise slot.answer

    def _again(self, number: int, died: Died, group: Sequence[Slot]) -> None:
        """A new worker begins the episodes of the one that died, first those of the ``group`` that is waited for."""
        self._workers[number].close()
        if died.slot < 0:
            raise UnderstudyError(
                f"a worker died before it served anything (exit code {died.code}): see its output above"
            )
        guilty = self._slots[died.slot].scene
        self._deaths[guilty] += 1
        self._workers[number] = self._worker()
        logger.warning("a worker died (exit code %s); its episodes begin again", died.code)
        others = [slots for slots in self._groups if slots is not group]
        for slots in (group, *others):
            mine = [slot for slot in slots if self._of(slot) == number and slot.scene is not None]
            for slot in mine:
                slot.answer, slot.latencies_ms = None, []
                if self._deaths[slot.scene] >= TRIES:
                    slot.answer = crashed(self._scenes[slot.scene])
            self._send(slots, {slot.number: self._scenes[slot.scene] for slot in mine if slot.answer is None})

    def _finished(self, group: Sequence[Slot]) -> dict[int, Played]:
        done = {}
        for slot in group:
            if isinstance(slot.answer, Played):
                done[slot.scene] = timed(slot.answer, slot.latencies_ms)
                slot.scene = None
        return done

    def _answers(self, group: Sequence[Slot]) -> dict[int, Any]:
        """What the slots of a group do next: go on with a chunk, or begin another scene."""
        asking = [slot for slot in group if isinstance(slot.answer, Seen)]
        chunks = dict(zip((slot.number for slot in group), self._inferred(group))) if asking else {}
        what: dict[int, Any] = {slot.number: chunks[slot.number] for slot in asking}
        for slot in group:
            slot.answer = None
            if slot.scene is None and self._queue:
                what[slot.number] = self._begin(slot)
        return what

    def _inferred(self, group: Sequence[Slot]) -> list[np.ndarray]:
        """A chunk for every slot of a group, in one batch."""
        asking = [slot for slot in group if isinstance(slot.answer, Seen)]
        for slot in asking:
            seen = slot.answer
            slot.observation = Observation(slot.pictures.read(), seen.proprio, seen.stamp_ns)
            if seen.put is not None:
                slot.put = seen.put
                slot.session.reset(seen.put, seed=self._scenes[slot.scene].seed)
        for slot in group:
            if slot.observation is None:  # it has had no episode yet that asked
                slot.put, slot.observation = asking[0].put, asking[0].observation
                slot.session.reset(slot.put, seed=0)
        began = perf_counter()
        seen = [(slot.observation, slot.answer.underway if slot in asking else None) for slot in group]
        chunks = self._policy.infer_together([slot.session for slot in group], seen)
        for slot in asking:
            slot.latencies_ms.append(1e3 * (perf_counter() - began))
        return [chunk.actions for chunk in chunks]
