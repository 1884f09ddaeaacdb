"""Chunks for robots: one policy, any number of robots, each with an episode of its own.

    robot ──OBSERVE──► I/O thread ──► its newest observation ──► inference thread ──► CHUNK ──► that robot alone
                       (ROUTER)       (older ones are dropped)    (all that wait, in one batch)

The I/O thread never infers and never waits for inference, so it answers ALIVE at any time; whatever it cannot read it
counts and drops. One robot holds the lease of an arm until it says BYE or has been silent for a second.
"""

import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, monotonic_ns
from typing import Any

import zmq

from policies.policy import Policy
from robot_bridge import wire
from robot_bridge.brain import Brain, OneByOne, check_chunk
from robot_bridge.transport import (
    Events,
    Keys,
    lock_server,
    only_known,
    pipe,
    receive,
    refuse_in_the_open,
    send,
    socket,
)
from robot_bridge.wire import Codec, Header, Kind, WireError
from vla.errors import UnderstudyError, first_line
from vla.types import ActionChunk, Task

logger = logging.getLogger(__name__)

LEASE_NS = 1_000_000_000
"""Silence after which an arm may be leased to another robot."""
CODECS: tuple[Codec, ...] = ("raw", "jpeg")
MOST_ROBOTS = 64
LOOK_NS = 100_000_000
"""How often one looks for robots that fell silent."""
_COUNTED = {kind: kind.name.lower() for kind in Kind}


@dataclass
class Waiting:
    """An observation that wants an answer."""

    header: Header
    parts: list[wire.Buffer]
    since_ns: int


@dataclass
class Robot:
    """What the server knows of one connection."""

    identity: bytes
    name: str
    arm: str
    codec: Codec
    session: Policy
    seen_ns: int
    task: tuple[Header, Task, int] | None = None
    waiting: Waiting | None = None
    last: tuple[int, int] = field(default=(0, 0))
    """episode and request of the newest observation"""
    begun: int = 0
    """request of the newest RESET"""
    ready: list[wire.Buffer] | None = None
    """what it was answered"""


class PolicyServer:
    """Serves until `stop`; `run` blocks, `serving` does it in a thread."""

    def __init__(
        self,
        brain: Brain,
        address: str = "tcp://127.0.0.1:5555",
        *,
        keys: Keys | None = None,
        allowed: Path | None = None,
        batch_wait_s: float = 0.002,
        most_together: int = 8,
    ) -> None:
        """``allowed``: a folder with the public keys of robots; ``batch_wait_s``: how long one waits for others."""
        refuse_in_the_open(address, keys)
        if (keys is None) != (allowed is None):
            raise UnderstudyError("a server with keys wants to know whose to let in, and the other way round")
        self.brain, self._keys, self._allowed = brain, keys, allowed
        self._wait_s, self._most = batch_wait_s, most_together
        self.epoch, self.counts, self._bell = os.urandom(16), Counter[str](), -1
        self._hash = wire.spec_hash(brain.spec)
        self._robots: dict[bytes, Robot] = {}
        self._lock = threading.Lock()  # what waits, and what is begun
        self._work, self._done = SimpleQueue[None](), SimpleQueue[list[wire.Buffer]]()
        self._stopping = False
        self._died: Exception | None = None
        self._address = address
        self.address = ""
        """where it is bound, once it serves: a port 0 has become a real one"""
        self.latencies_us: dict[str, deque[int]] = {name: deque(maxlen=1000) for name in wire.TIMING}

    @property
    def robots(self) -> int:
        """How many are connected."""
        return len(self._robots)

    @contextmanager
    def serving(self) -> Iterator["PolicyServer"]:
        """Serve in a thread of its own."""
        ready = threading.Event()
        thread = threading.Thread(target=self.run, args=(ready.set,), daemon=True)
        thread.start()
        if not ready.wait(10):
            raise UnderstudyError(f"the server did not come up at {self._address}")
        try:
            yield self
        finally:
            self.stop()
            thread.join(10)

    def stop(self) -> None:
        """End `run`."""
        self._stopping = True
        self._ring()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`; raises `UnderstudyError` when the address cannot be had, or inference has ended."""
        context = zmq.Context()  # ended here, and not whenever nobody refers to it: till then it holds the port
        try:
            with (
                only_known(context, self._allowed),
                pipe() as (bell, self._bell),
                socket(context, zmq.ROUTER) as router,
                closing(Events(router, only={"refused"})) as events,
            ):
                self._bind(router)
                worker = threading.Thread(target=self._infer)
                worker.start()
                logger.info("serving at %s, epoch %s", self.address, self.epoch.hex()[:8])
                try:
                    ready()
                    self._pass_on(router, bell, events)
                finally:
                    self.stop()
                    worker.join()
        finally:
            context.term()
        if self._died is not None:
            raise UnderstudyError(f"inference has ended: {first_line(self._died)}") from self._died

    def _bind(self, router: zmq.Socket[Any]) -> None:
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a robot that reconnects is the one it was
        if self._keys is not None:
            lock_server(router, self._keys)
        try:
            router.bind(self._address)
        except zmq.ZMQError as error:
            raise UnderstudyError(f"cannot serve at {self._address}: {error}") from error
        self.address = router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\x00")

    def _pass_on(self, router: zmq.Socket[Any], bell: int, events: Events) -> None:
        poller, looked = zmq.Poller(), monotonic_ns()
        for one in (bell, router, events.socket):
            poller.register(one, zmq.POLLIN)
        while not self._stopping:
            for made, _ in poller.poll(100):
                if made == bell:
                    os.read(bell, 1)
                    self._send(router, self._done.get())
                elif made is router:
                    self._take_in(router)
                else:
                    self.counts["refused_connections"] += len(events.read())
            if (now := monotonic_ns()) - looked > LOOK_NS:
                self._forget_silent(now - LEASE_NS)
                looked = now

    def _take_in(self, router: zmq.Socket[Any]) -> None:
        first, *parts = receive(router)
        identity = bytes(first)
        try:
            for answer in self._heard(identity, parts):
                self._send(router, [identity, *answer])
        except WireError as error:
            self.counts["refused"] += 1
            self._send(router, [identity, *self._error(Header(Kind.ERROR), "message", str(error))])

    def _send(self, router: zmq.Socket[Any], parts: list[wire.Buffer]) -> None:
        try:
            send(router, parts)
        except zmq.ZMQError:
            self.counts["unsent"] += 1  # the robot is gone, or reads nothing: its own watchdog stops it

    def _heard(self, identity: bytes, parts: list[wire.Buffer]) -> Iterator[list[wire.Buffer]]:
        if not parts:
            raise WireError("an empty message")
        header = Header.unpack(parts[0])
        self.counts[_COUNTED[header.kind]] += 1
        if header.kind is Kind.HELLO:
            yield self._welcome(identity, header, wire.unpack_map(_only(parts, 2)[1]))
            return
        robot = self._robots.get(identity)
        if robot is None or header.epoch != self.epoch:
            self.counts["strangers"] += 1
            yield self._error(header, "epoch", "this server does not know you: say HELLO, it may have started anew")
            return
        if header.spec != self._hash:
            yield self._error(header, "spec", "you expect another policy than the one that is served")
            return
        robot.seen_ns = monotonic_ns()
        if header.kind is Kind.ALIVE:
            yield [self._reply(header, Kind.ALIVE)]
        elif header.kind is Kind.BYE:
            del self._robots[identity]
        elif header.kind is Kind.RESET:
            yield from self._begin(robot, header, *wire.unpack_task(parts[1:]))
        elif header.kind is Kind.OBSERVE:
            self._take(robot, Waiting(header, parts[1:], monotonic_ns()))
        else:
            raise WireError(f"a server is not sent {header.kind.name}")

    def _welcome(self, identity: bytes, header: Header, told: dict[str, Any]) -> list[wire.Buffer]:
        name, arm = str(told.get("robot", ""))[:80], str(told.get("arm", ""))[:80]
        offered = told.get("codecs")
        codec = next((one for one in offered if one in CODECS), None) if isinstance(offered, list) else None
        if not arm or codec is None:
            return self._error(header, "hello", f"say which arm, and one of the codecs {', '.join(CODECS)}")
        holder = next((r for r in self._robots.values() if r.arm == arm and r.identity != identity), None)
        if holder is not None:
            return self._error(header, "lease", f"the arm {arm!r} is driven by {holder.name!r}")
        if len(self._robots) >= (1 if isinstance(self.brain, OneByOne) else MOST_ROBOTS):
            return self._error(header, "full", f"{len(self._robots)} robots are served already")
        self._robots[identity] = Robot(identity, name, arm, codec, self.brain.session(), monotonic_ns())
        plain = {"spec": self.brain.spec.to_dict(), "codec": codec, "lease_ns": LEASE_NS}
        return [self._reply(header, Kind.WELCOME), wire.pack_map(plain)]

    def _begin(self, robot: Robot, header: Header, task: Task, seed: int) -> Iterator[list[wire.Buffer]]:
        if header.request <= robot.begun:
            if header.request == robot.begun and robot.ready is not None:
                yield robot.ready  # the robot has not heard it
            return
        with self._lock:
            robot.task, robot.waiting = (header, task, seed), None
            robot.begun, robot.ready = header.request, None
        self._ring()

    def _take(self, robot: Robot, waiting: Waiting) -> None:
        order = (waiting.header.episode, waiting.header.request)
        if order <= robot.last:
            self.counts["out_of_order"] += 1
            return
        robot.last = order
        with self._lock:
            self.counts["overtaken"] += robot.waiting is not None
            robot.waiting = waiting
        self._ring()

    def _forget_silent(self, late: int) -> None:
        for identity in [identity for identity, robot in self._robots.items() if robot.seen_ns < late]:
            logger.warning("%s fell silent; its arm is free", self._robots.pop(identity).name)
            self.counts["silent"] += 1

    def _infer(self) -> None:
        """The inference thread: everything that touches a policy happens here. If it dies, the server does."""
        try:
            while not self._stopping:
                tasks, batch = self._next()
                for robot, (header, task, seed) in tasks:
                    robot.ready = self._reset(robot, header, task, seed)
                    self._say(robot, robot.ready)
                for robot, answer in self._answers(batch):
                    self._say(robot, answer)
        except Exception as error:
            logger.exception("inference has ended")
            self._died = error
            self.stop()

    def _say(self, robot: Robot, answer: list[wire.Buffer]) -> None:
        self._done.put([robot.identity, *answer])
        os.write(self._bell, b"!")
        os.sched_yield()  # the I/O thread sends it before this one goes on

    def _next(self) -> tuple[list[tuple[Robot, tuple[Header, Task, int]]], list[tuple[Robot, Waiting]]]:
        """What is to be done now: tasks to begin, and observations that wait."""
        if not self._anything():
            self._wait(0.1)
        if len(self._robots) > 1 and self._anything():
            until = monotonic() + self._wait_s
            while not self._everybody() and not self._stopping and (left := until - monotonic()) > 0:
                self._wait(left)
        with self._lock:
            robots = list(self._robots.values())
            tasks = [(robot, robot.task) for robot in robots if robot.task is not None]
            ready = [(robot, robot.waiting) for robot in robots if robot.waiting is not None]
            batch = sorted(ready, key=lambda pair: pair[1].since_ns)[: self._most]
            for robot, _ in tasks:
                robot.task = None
            for robot, _ in batch:
                robot.waiting = None
        return tasks, batch

    def _ring(self) -> None:
        """There may be work."""
        if self._work.empty():
            self._work.put(None)

    def _wait(self, seconds: float) -> None:
        """Until it rings; a ring for work that is done already does no harm."""
        with suppress(Empty):
            self._work.get(timeout=seconds)

    def _anything(self) -> bool:
        return any(robot.task or robot.waiting for robot in list(self._robots.values()))

    def _everybody(self) -> bool:
        return all(robot.task or robot.waiting for robot in list(self._robots.values()))

    def _reset(self, robot: Robot, header: Header, task: Task, seed: int) -> list[wire.Buffer]:
        try:
            robot.session.reset(task, seed=seed)
        except Exception as error:  # noqa: BLE001 whatever the policy does, the server goes on
            return self._failed(header, error)
        return [self._reply(header, Kind.READY)]

    def _answers(self, batch: list[tuple[Robot, Waiting]]) -> Iterator[tuple[Robot, list[wire.Buffer]]]:
        began, seen = monotonic_ns(), []
        for robot, waiting in batch:
            header = waiting.header
            if began - waiting.since_ns > header.budget_ns:
                self.counts["late"] += 1
                yield robot, self._error(header, "late", "it waited for longer than its answer would be of use")
                continue
            try:
                one = wire.unpack_observation(waiting.parts, self.brain.spec, robot.codec, stamp_ns=header.stamp_ns)
            except WireError as error:
                self.counts["refused"] += 1
                yield robot, self._error(header, "message", str(error))
                continue
            seen.append((robot, waiting, one))
        if not seen:
            return
        try:
            chunks = self.brain.infer_together([robot.session for robot, _, _ in seen], [one for _, _, one in seen])
            if len(chunks) != len(seen):
                raise UnderstudyError(f"the policy was asked for {len(seen)} chunks and answered {len(chunks)}")
        except Exception as error:  # noqa: BLE001 as above
            yield from ((robot, self._failed(waiting.header, error)) for robot, waiting, _ in seen)
            return
        inferred = monotonic_ns()
        for (robot, waiting, _), chunk in zip(seen, chunks, strict=True):
            spent = (began - waiting.since_ns, inferred - began, inferred - waiting.since_ns)
            yield robot, self._answer(waiting.header, chunk, spent)

    def _answer(self, header: Header, chunk: ActionChunk, spent_ns: tuple[int, ...]) -> list[wire.Buffer]:
        """A chunk that is none is its own robot's trouble alone."""
        timing = {name: ns // 1000 for name, ns in zip(wire.TIMING, spent_ns, strict=True)}
        try:
            check_chunk(chunk, (self.brain.spec.pred_horizon, self.brain.spec.action.dim))
            packed = wire.pack_chunk(chunk, timing)
        except Exception as error:  # noqa: BLE001 as above
            return self._failed(header, error)
        for name, value in timing.items():
            self.latencies_us[name].append(value)
        self.counts["answered"] += 1
        return [self._reply(header, Kind.CHUNK), *map(bytes, packed)]

    def _failed(self, header: Header, error: Exception) -> list[wire.Buffer]:
        self.counts["failed"] += 1
        logger.error("the policy failed", exc_info=error)
        return self._error(header, "policy", f"{type(error).__name__}: {first_line(error)}"[:300])

    def _error(self, header: Header, code: str, message: str) -> list[wire.Buffer]:
        return [self._reply(header, Kind.ERROR), wire.pack_map({"code": code, "message": message})]

    def _reply(self, to: Header, kind: Kind) -> bytes:
        return Header(kind, self.epoch, to.episode, to.sequence, to.request, to.stamp_ns, 0, self._hash).pack()


def _only(parts: list[wire.Buffer], count: int) -> list[wire.Buffer]:
    if len(parts) != count:
        raise WireError(f"a message of {count} parts was expected, got {len(parts)}")
    return parts
