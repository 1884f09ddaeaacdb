"""Networks that behave as badly as they are told to: `Proxy` for everybody, `Tunnel` for root.

    Proxy     passes the bytes of TCP connections on, late or not at all, and keeps what it has passed
    Tunnel    a cable between this machine and a network namespace, which loses, doubles and exchanges IP packets:

        this machine ── TUN ──► relay: `Weather` ──► TUN ── namespace        (tunnel.here, tunnel.there)

Both are ruled by their ``weather``, which may be changed at any time.
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import select
import socket
import struct
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

TUN = Path("/dev/net/tun")
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MOST = 1 << 16
POLL_S = 0.005


@dataclass
class Weather:
    """Seconds, and shares of packets. Bytes of a TCP connection only know ``delay_s``, ``jitter_s`` and ``cut``.

    Jitter keeps the order; a packet that is exchanged overtakes those that are under way. ``seed``: what is drawn is
    the same in every run, as far as the packets are.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    cut: bool = False


@dataclass
class Cable:
    """What is under way in one direction, in the order in which it is due."""

    draw: random.Random = field(default_factory=lambda: random.Random(0))
    last: float = 0.0
    waiting: list = field(default_factory=list)
    number: itertools.count = field(default_factory=itertools.count)

    def put(self, what, weather, *, overtake=False):
        now = monotonic()
        due = now + max(0.0, weather.delay_s + self.draw.uniform(-1, 1) * weather.jitter_s)
        if overtake:
            due = now
        else:
            due = self.last = max(due, self.last)
        heapq.heappush(self.waiting, (due, next(self.number), what))

    def due(self):
        """What has arrived."""
        now = monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            yield heapq.heappop(self.waiting)[2]

    def left_s(self):
        """Until something arrives, if something is under way."""
        return max(0.0, self.waiting[0][0] - monotonic()) if self.waiting else POLL_S


class Relay:
    """A thread that calls `_turn` until the relay is closed."""

    def __init__(self):
        self.weather, self.counts = Weather(), Counter()
        self._open = True
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *about):
        self._open = False
        self._thread.join(5)
        self._close()

    def heal(self):
        """Fine weather."""
        self.weather = Weather()

    def _run(self):
        while self._open:
            self._turn()


class Proxy(Relay):
    """A door at ``address`` to the TCP port ``target`` of this machine.

    ``sent``: the bytes that each connection has brought to the server; ``inject``: bytes that are slipped into the
    newest connection after its own; ``pause_after``: how many more bytes pass to the server before the cable is cut.
    """

    def __init__(self, target):
        super().__init__()
        self.target, self.sent, self.pause_after = target, [], None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._peers, self._cables, self._logs, self._pieces = {}, {}, {}, []

    def inject(self, piece):
        self._pieces.append(piece)

    def hang_up(self):
        """End every connection, as a switch that is restarted does."""
        for one in list(self._peers):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _turn(self):
        wait_s = min([POLL_S, *(cable.left_s() for cable in self._cables.values())])
        sources = [self._listener] if self.weather.cut else [self._listener, *self._peers]
        for one in select.select(sources, [], [], wait_s)[0]:
            if one is self._listener:
                self._accept()
            elif one in self._peers:
                self._read(one)
        if self.weather.cut:
            return
        newest = next(reversed(self._logs), None)
        while self._pieces and newest is not None:
            self._cables[self._peers[newest]].put(self._pieces.pop(0), self.weather)
        for to, cable in list(self._cables.items()):
            for piece in cable.due():
                self._deliver(to, piece)

    def _accept(self):
        client = self._listener.accept()[0]
        try:
            server = socket.create_connection(self.target, timeout=1)
        except OSError:
            client.close()
            return
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.settimeout(2)
            self._peers[one], self._cables[one] = other, Cable()
        self.sent.append(bytearray())
        self._logs[client] = self.sent[-1]
        self.counts["connections"] += 1

    def _read(self, one):
        try:
            piece = one.recv(MOST)
        except OSError:
            piece = b""
        if piece and one in self._logs:
            self._logs[one] += piece
            piece = self._up_to_the_pause(piece)
        self._cables[self._peers[one]].put(piece, self.weather)
        if not piece:
            self._drop(one)

    def _up_to_the_pause(self, piece):
        if self.pause_after is None:
            return piece
        piece, self.pause_after = piece[: self.pause_after], self.pause_after - len(piece)
        if self.pause_after <= 0:
            self.pause_after = None
            self.weather.cut = True
        return piece

    def _deliver(self, to, piece):
        try:
            if piece:
                to.sendall(piece)
                self.counts["bytes"] += len(piece)
                return
        except OSError:
            self.counts["lost"] += 1
        self._drop(to)

    def _drop(self, one):
        other = self._peers.get(one)
        for each in filter(None, (one, other)):
            self._peers.pop(each, None)
            self._cables.pop(each, None)
            self._logs.pop(each, None)
            each.close()

    def _close(self):
        for one in list(self._peers):
            self._drop(one)
        self._listener.close()


class Tunnel(Relay):
    """A network namespace called ``name``, and the only cable to it."""

    def __init__(self):
        super().__init__()
        number = next(
            one for one in range(os.getpid() % 1000, 2000) if not Path(f"/run/netns/understudy{one}").exists()
        )
        self.name, net = f"understudy{number}", f"198.{18 + number // 1000}.{number % 1000 // 4}"
        first = 4 * (number % 4) + 1
        self.here, self.there = f"{net}.{first}", f"{net}.{first + 1}"
        self._ends = [self._tun("a"), self._tun("b")]
        self._cables = [Cable(random.Random(1)), Cable(random.Random(2))]
        self._lay()

    def command(self, *argv):
        """``argv`` as a command in the namespace."""
        return ["ip", "netns", "exec", self.name, *argv]

    def _tun(self, end):
        made = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(made, TUNSETIFF, struct.pack("16sH22x", f"us{self.name[10:]}{end}".encode(), IFF_TUN | IFF_NO_PI))
        return made

    def _lay(self):
        here, there = (f"us{self.name[10:]}{end}" for end in "ab")
        ip("netns", "add", self.name)
        ip("link", "set", there, "netns", self.name)
        ip("addr", "add", self.here, "peer", self.there, "dev", here)
        ip("link", "set", here, "up")
        ip("-n", self.name, "addr", "add", self.there, "peer", self.here, "dev", there)
        ip("-n", self.name, "link", "set", there, "up")
        ip("-n", self.name, "link", "set", "lo", "up")

    def _turn(self):
        wait_s = min(POLL_S, *(cable.left_s() for cable in self._cables))
        for end in select.select(self._ends, [], [], wait_s)[0]:
            cable = self._cables[self._ends.index(end)]
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._pass(cable, os.read(end, MOST))
        for cable, end in zip(self._cables, reversed(self._ends), strict=True):
            for packet in cable.due():
                with contextlib.suppress(OSError):  # the other end is down
                    os.write(end, packet)

    def _pass(self, cable, packet):
        weather, draw = self.weather, cable.draw.random
        if weather.cut or draw() < weather.loss:
            self.counts["lost"] += 1
            return
        self.counts["passed"] += 1
        exchanged, doubled = draw() < weather.reorder, draw() < weather.duplicate
        self.counts["reordered"] += exchanged
        self.counts["doubled"] += doubled
        for _ in range(1 + doubled):
            cable.put(packet, weather, overtake=exchanged)

    def _close(self):
        for end in self._ends:
            os.close(end)
        ip("netns", "del", self.name)


def ip(*argv):
    """Run ``ip``; raises `RuntimeError` with what it said."""
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(argv)}: {done.stderr.strip()}")


def no_tunnel():
    """Why this machine can make no `Tunnel`; empty when it can."""
    if os.geteuid() != 0:
        return "needs root"
    try:
        os.close(os.open(TUN, os.O_RDWR))
        ip("netns", "list")
    except (OSError, RuntimeError) as error:
        return f"needs TUN devices and network namespaces: {error}"
    return ""
