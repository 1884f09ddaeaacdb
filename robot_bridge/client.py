"""The robot's side: `Connection` for a control loop that must not wait, `RemotePolicy` for whoever may.

    connection = Connection("tcp://10.0.0.7:5555", arm="left", keys=Keys(secret, server))
    connection.open()                       # shakes hands: the spec, the epoch, the lease
    connection.begin(Task("lift the cube"))
    connection.ask(observation, budget_s=0.2)
    answer = connection.poll()              # the newest answer that is still of use, or None

An answer counts only when it is of this epoch, this episode and the newest request; all others are dropped and
counted. Nothing here raises for what the network does: `trouble` says what is wrong.
"""

import os
from collections import Counter
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any

import zmq

from policies.policy import Underway
from robot_bridge import wire
from robot_bridge.transport import Events, Keys, lock_client, readable, receive, refuse_in_the_open, send, socket
from robot_bridge.wire import Codec, Header, Kind, WireError
from vla.errors import UnderstudyError
from vla.types import ActionChunk, Observation, PolicySpec, Task

ALIVE_EVERY_NS = 100_000_000
AGAIN_NS = 300_000_000
"""Silence after which HELLO and RESET are said again: a connection that breaks takes what was under way with it."""
RENEW_NS = 1_000_000_000
"""How long a refused connection is left alone: ZeroMQ tries no other by itself."""
FROZEN_NS = 400_000_000
"""Silence of a server that is asked whether it lives after which it is taken for dead."""


class BridgeError(UnderstudyError):
    """The server refused, or does not answer; ``code`` says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """What another process makes it anew from."""
        return type(self), (self.code, str(self))


@dataclass(frozen=True)
class Answer:
    """A chunk, and how long it took: ``round_trip_us`` by our clock, ``timing_us`` by the server's."""

    chunk: ActionChunk
    request: int
    round_trip_us: int
    timing_us: dict[str, int]


class Connection:
    """One robot's connection to a server; used by one thread."""

    def __init__(
        self,
        address: str,
        *,
        arm: str = "arm",
        robot: str = "robot",
        keys: Keys | None = None,
        codecs: tuple[Codec, ...] = ("raw", "jpeg"),
    ) -> None:
        refuse_in_the_open(address, keys)
        self.address, self._arm, self._robot, self._codecs = address, arm, robot, codecs
        self._keys, self._identity = keys, b"r" + os.urandom(15)
        self._context = zmq.Context()
        self._socket: zmq.Socket[Any] = self._made()
        self.counts = Counter[str]()
        self.trouble = ""
        """what is wrong now; empty when all is well"""
        self._spec: PolicySpec | None = None
        self._codec: Codec = "raw"
        self._epoch, self._hash = bytes(16), bytes(8)
        self._episode = self._request = self._sequence = 0
        self._asked_ns: dict[int, tuple[int, int]] = {}
        self._heard_ns = self._said_ns = 0
        self._ready = False

    def _made(self) -> zmq.Socket[Any]:
        made = socket(self._context, zmq.DEALER)
        made.setsockopt(zmq.ROUTING_ID, self._identity)  # the same after a reconnect, and hard to guess
        try:
            if self._keys is not None:
                lock_client(made, self._keys)
        except UnderstudyError:
            made.close()
            raise
        self._events, self._made_ns = Events(made), monotonic_ns()
        made.connect(self.address)
        self._poller = zmq.Poller()
        self._poller.register(made, zmq.POLLIN)
        return made

    def _renew(self) -> None:
        """Try a connection that was refused once more, with the keys as they are now."""
        events, before = self._events, self._socket
        self._socket = self._made()
        events.close()
        before.close()

    @property
    def spec(self) -> PolicySpec:
        """What is served, after `open`."""
        if self._spec is None:
            raise BridgeError("closed", f"not connected to {self.address}: call open() first")
        return self._spec

    @property
    def ready(self) -> bool:
        """Whether an episode has begun that the server, as far as it is known, still knows of."""
        return self._ready

    @property
    def epoch(self) -> bytes:
        """Changes when the server is started anew."""
        return self._epoch

    def open(self, timeout_s: float = 2.0) -> PolicySpec:
        """Shake hands; raises `BridgeError` with the reason within ``timeout_s``.

        Against a server that was started anew this gives a new epoch, and `begin` has to be called again.
        """
        if self._events.refused:
            self._renew()
        plain = {"robot": self._robot, "arm": self._arm, "codecs": list(self._codecs)}
        self._request += 1
        asked = Header(Kind.HELLO, request=self._request)
        header, told = self._answer_to([asked.pack(), wire.pack_map(plain)], asked, Kind.WELCOME, timeout_s)
        try:
            spec = PolicySpec.from_dict(told["spec"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BridgeError("spec", f"the server's spec cannot be read: {error}") from error
        if wire.spec_hash(spec) != header.spec or told.get("codec") not in self._codecs:
            raise BridgeError(
                "spec", "the server's spec and its hash disagree: it runs another version of this program"
            )
        self._spec, self._codec = spec, told["codec"]
        self._epoch, self._hash = header.epoch, header.spec
        self._ready, self.trouble = False, ""
        self._heard_ns = monotonic_ns()
        return spec

    def begin(self, task: Task, *, seed: int = 0, timeout_s: float = 5.0) -> None:
        """Begin an episode: what was asked before is void."""
        self._episode += 1
        self._ready = False
        self._asked_ns.clear()
        header = self._header(Kind.RESET)
        self._answer_to([header.pack(), *wire.pack_task(task, seed)], header, Kind.READY, timeout_s)
        self._ready = True

    def ask(self, observation: Observation, underway: Underway | None = None, *, budget_s: float = 1.0) -> int:
        """Send an observation whose answer is of use for ``budget_s``; the number of the request. Never waits."""
        if not self._ready:
            raise BridgeError("episode", "no episode has begun: call begin(task) first")
        budget = int(1e9 * budget_s)
        header = self._header(Kind.OBSERVE, stamp_ns=observation.stamp_ns, budget_ns=budget)
        now = monotonic_ns()
        self._asked_ns = {header.request: (now, now + budget)}
        self._say([header.pack(), *wire.pack_observation(observation, self.spec, self._codec, underway)])
        return header.request

    def poll(self, timeout_s: float = 0.0) -> Answer | None:
        """The newest answer that is of use, if there is one; keeps the connection alive and `trouble` up to date."""
        waits: object = self._poller.poll(int(1000 * timeout_s))
        while waits:
            found = self._heard(receive(self._socket))
            if found is not None:
                return found  # the newest request's: nothing better can wait behind it
            waits = readable(self._socket)
        self._watch()
        return None

    def close(self) -> None:
        """Say goodbye and leave; a second time is no harm."""
        if self._socket.closed:
            return
        if self._spec is not None:
            self._say([self._header(Kind.BYE).pack()])
            self._socket.setsockopt(zmq.LINGER, 100)
        self._events.close()
        self._socket.close()
        self._context.term()
        self._spec, self._ready = None, False

    def _header(self, kind: Kind, *, stamp_ns: int = 0, budget_ns: int = 0) -> Header:
        self._request += 1
        self._sequence += 1
        own = (self._episode, self._sequence, self._request)
        return Header(kind, self._epoch, *own, stamp_ns, budget_ns, self._hash)

    def _say(self, parts: list[wire.Buffer]) -> None:
        self._said_ns = monotonic_ns()
        try:
            send(self._socket, parts)
        except zmq.ZMQError:
            self.counts["unsent"] += 1

    def _heard(self, parts: list[wire.Buffer]) -> Answer | None:
        """An answer that counts; everything else is counted and dropped."""
        try:
            header = Header.unpack(parts[0])
            if header.kind is Kind.ERROR:
                self._complain(header, wire.unpack_map(parts[1]))
                return None
            if header.epoch != self._epoch or header.spec != self._hash:
                self.counts["other_epoch"] += 1
                return None
            self._heard_ns = monotonic_ns()
            if header.kind is not Kind.CHUNK:
                return None
            if header.episode != self._episode or header.request not in self._asked_ns:
                self.counts["late_or_unasked"] += 1
                return None
            asked, until = self._asked_ns.pop(header.request)
            if self._heard_ns > until:
                self.counts["out_of_budget"] += 1
                return None
            chunk, timing = wire.unpack_chunk(parts[1:], self.spec, stamp_ns=header.stamp_ns)
        except (WireError, IndexError):
            self.counts["refused"] += 1
            return None
        self.trouble = ""
        return Answer(chunk, header.request, (self._heard_ns - asked) // 1000, timing)

    def _complain(self, header: Header, told: dict[str, Any]) -> None:
        code = str(told.get("code"))
        self.counts[f"error_{code}"] += 1
        if header.epoch == self._epoch:
            self._heard_ns = monotonic_ns()
        if code in ("epoch", "spec"):
            self._ready = False
        self.trouble = f"{code}: {told.get('message')}"

    def _watch(self) -> None:
        self._events.read()
        if self._spec is None:
            return
        if self.trouble.startswith(("frozen", "disconnected")):
            self.trouble = ""
        self._stay_alive()
        now = monotonic_ns()
        if self.trouble.startswith(("epoch", "spec")):
            return  # nothing that happens to the wire mends that: only `open` does
        if self._events.refused:
            self.trouble = f"refused: {self.address} does not know our key, or is not who it should be"
            if now - self._made_ns > RENEW_NS:
                self._renew()
                self._events.refused = True  # until it is known better
        elif not self._events.connected:
            self.trouble = f"disconnected: {self.address} cannot be reached"
            if now - max(self._made_ns, self._heard_ns) > 2 * RENEW_NS:
                self._renew()
        elif now - self._heard_ns > FROZEN_NS:
            self.trouble = f"frozen: {self.address} has said nothing for {(now - self._heard_ns) / 1e9:.1f} s"

    def _stay_alive(self) -> None:
        if self._spec is not None and monotonic_ns() - self._said_ns > ALIVE_EVERY_NS:
            self._say([self._header(Kind.ALIVE).pack()])

    def _answer_to(
        self, parts: list[wire.Buffer], asked: Header, wanted: Kind, timeout_s: float
    ) -> tuple[Header, dict[str, Any]]:
        """Send, again and again, and wait for the answer to exactly this; raises `BridgeError`."""
        until = monotonic_ns() + int(1e9 * timeout_s)
        again = 0
        while (left := until - monotonic_ns()) > 0:
            self._events.read()
            if self._events.refused:
                raise BridgeError("refused", f"{self.address} does not know our key, or is not who it should be")
            if monotonic_ns() > again:
                try:
                    send(self._socket, parts)
                    again = monotonic_ns() + AGAIN_NS
                except zmq.ZMQError:
                    self._socket.poll(20, zmq.POLLOUT)
                    continue
            if not self._socket.poll(min(50, left // 1_000_000 + 1)):
                self._stay_alive()
                continue
            try:
                header, told = _told(receive(self._socket))
            except (WireError, IndexError):
                self.counts["refused"] += 1
                continue
            if header.request != asked.request:
                self.counts["late_or_unasked"] += header.kind is not Kind.ALIVE
                continue
            if header.kind is Kind.ERROR:
                self._complain(header, told)
                raise BridgeError(str(told.get("code")), f"{self.address}: {told.get('message')}")
            if header.kind is wanted:
                self._heard_ns, self.trouble = monotonic_ns(), ""
                return header, told
        raise BridgeError(
            "timeout", f"{self.address} has not answered within {timeout_s:g} s: does `vla serve` run there?"
        )


def _told(parts: list[wire.Buffer]) -> tuple[Header, dict[str, Any]]:
    header = Header.unpack(parts[0])
    return header, wire.unpack_map(parts[1]) if header.kind in (Kind.ERROR, Kind.WELCOME) else {}


class RemotePolicy:
    """A policy on another machine: keeps `policies.policy.Policy`. Waits for every answer."""

    def __init__(self, connection: Connection, *, timeout_s: float = 10.0) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self.spec = connection.open()
        self.last: Answer | None = None
        """the answer of the last `infer`, with its times"""

    def reset(self, task: Task, *, seed: int = 0) -> None:
        """Begin an episode."""
        self._connection.begin(task, seed=seed, timeout_s=self._timeout_s)

    def infer(self, observation: Observation, underway: Underway | None = None) -> ActionChunk:
        """The next chunk; raises `BridgeError` when none comes in time."""
        connection = self._connection
        connection.ask(observation, underway, budget_s=self._timeout_s)
        until = monotonic_ns() + int(1e9 * self._timeout_s)
        while monotonic_ns() < until:
            answer = connection.poll(0.05)
            if answer is not None:
                self.last = answer
                return answer.chunk
            if connection.trouble.startswith(("policy", "message", "epoch", "spec", "refused")):
                code, _, message = connection.trouble.partition(": ")
                raise BridgeError(code, message)
        raise BridgeError("timeout", f"{connection.address} has not answered within {self._timeout_s:g} s")

    def hasten(self) -> None:
        """Refuse: that is the server's to do."""
        raise UnderstudyError("a remote policy is hastened where it runs: vla serve … --quick")

    def close(self) -> None:
        """Leave the server."""
        self._connection.close()
