"""Sockets that are set alike everywhere, keys, and what happens to a connection as words.

Any address that is not of this machine alone wants keys (CURVE): the server's own, and those of the robots that it lets
in. Files are those of PyZMQ's certificates: ``robot.key`` may be known, ``robot.key_secret`` may not.
"""

import ipaddress
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from robot_bridge.wire import MAX_MESSAGE, Buffer
from vla.errors import UnderstudyError

HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 50, 150
HANDSHAKE_MS = 2000
COPIED = 512 << 10
"""Bytes up to which a buffer that is sent is copied: for less, it takes longer to say that it was sent."""
_IN, _NOW, _MORE = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_TOLD = {
    zmq.EVENT_CONNECTED: "connected",
    zmq.EVENT_DISCONNECTED: "disconnected",
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "ready",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "refused",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "refused",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "refused",
}


@dataclass(frozen=True)
class Keys:
    """``secret``: of this side; ``server``: the server's public key, which a robot must know beforehand."""

    secret: Path
    server: Path | None = None


def socket(context: zmq.Context[Any], kind: int) -> zmq.Socket[Any]:
    """A socket that never lingers, takes no huge message, and sees a frozen peer in a fifth of a second."""
    bytes(MAX_MESSAGE)  # once freed, glibc gives no smaller block back to the kernel: 0.1 ms less for each message
    made = context.socket(kind)
    made.copy_threshold = COPIED
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.MAXMSGSIZE, MAX_MESSAGE),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
        (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
        (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
        (zmq.RECONNECT_IVL, 10),
        (zmq.RECONNECT_IVL_MAX, 500),
        (zmq.SNDHWM, 2),
        (zmq.RCVHWM, 2),
        (zmq.IMMEDIATE, 1),
        (zmq.BACKLOG, 1024),
    ):
        made.setsockopt(option, value)
    return made


def is_local(address: str) -> bool:
    """Whether nobody outside this machine can reach the address."""
    parts = urlsplit(address)
    if parts.scheme in ("ipc", "inproc"):
        return True
    host = (parts.hostname or "").strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_in_the_open(address: str, keys: Keys | None) -> None:
    """Refuse an address that others can reach, without keys."""
    if keys is None and not is_local(address):
        raise UnderstudyError(
            f"{address} can be reached from other machines, and without keys anybody could drive the arm: make some "
            "with `vla keys`, or use tcp://127.0.0.1:PORT"
        )


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A new pair ``name.key``, ``name.key_secret``; the secret can be read by its owner alone."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{name}.key_secret").exists():
        raise UnderstudyError(f"{folder} already holds keys called {name}; give another name or folder")
    before = os.umask(0o077)
    try:
        public, secret = map(Path, zmq.auth.create_certificates(folder, name))
    finally:
        os.umask(before)
    public.chmod(0o644)
    return public, secret


def load_keys(file: Path, *, secret: bool) -> tuple[bytes, bytes | None]:
    """Public and secret key of a file; a secret that others can read is refused."""
    if not file.is_file():
        raise UnderstudyError(f"there is no key {file}; make one with `vla keys`")
    if secret and stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise UnderstudyError(f"{file} can be read by others: chmod 600 {file}")
    try:
        public, own = zmq.auth.load_certificate(file)
    except (OSError, ValueError) as error:
        raise UnderstudyError(f"{file} is no key of `vla keys`") from error
    if secret and own is None:
        raise UnderstudyError(f"{file} is a public key; give the file that ends in .key_secret")
    return public, own


def lock_server(made: zmq.Socket[Any], keys: Keys) -> None:
    """Let only known keys in; must come before ``bind``."""
    made.curve_publickey, made.curve_secretkey = load_keys(keys.secret, secret=True)
    made.curve_server = True


def lock_client(made: zmq.Socket[Any], keys: Keys) -> None:
    """Say who we are, to nobody but the server that we know; must come before ``connect``."""
    if keys.server is None:
        raise UnderstudyError("a robot must know the server's public key: give server_key=…/server.key")
    made.curve_publickey, made.curve_secretkey = load_keys(keys.secret, secret=True)
    made.curve_serverkey, _ = load_keys(keys.server, secret=False)


@contextmanager
def only_known(context: zmq.Context[Any], allowed: Path | None) -> Iterator[None]:
    """While this lasts, sockets with keys let in those whose public keys lie in the folder ``allowed``."""
    if allowed is None:
        yield
        return
    if not any(allowed.glob("*.key")):
        raise UnderstudyError(f"{allowed} holds no public key (*.key): nobody would be let in")
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    try:
        authenticator.configure_curve(domain="*", location=str(allowed))
        yield
    finally:
        authenticator.stop()


def readable(made: zmq.Socket[Any]) -> bool:
    """Whether a message has come; a tenth of what ``poll(0)`` takes."""
    return int(made.getsockopt(zmq.EVENTS)) & _IN != 0


def send(made: zmq.Socket[Any], parts: Sequence[Buffer]) -> None:
    """Send at once, or raise `zmq.ZMQError`; half of the time that ``send_multipart`` takes."""
    *before, last = parts
    for part in before:
        made.send(part, _MORE, copy=False)
    made.send(last, _NOW, copy=False)


def receive(made: zmq.Socket[Any]) -> list[Buffer]:
    """The parts of a message, where they lie; half of the time that ``recv_multipart`` takes."""
    frames = [made.recv(copy=False)]
    while frames[-1].more:
        frames.append(made.recv(copy=False))
    return [frame.buffer for frame in frames]


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Where one thread reads what another writes."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


class Events:
    """What happens to a socket's connections, as it happens; ``only``: the words that are listened for."""

    def __init__(self, made: zmq.Socket[Any], only: Collection[str] = frozenset(_TOLD.values())) -> None:
        self._made = made
        mask = sum(event for event, word in _TOLD.items() if word in only)
        self._monitor: zmq.Socket[Any] = made.get_monitor_socket(mask)
        self.refused = False
        self.connected = False

    def read(self) -> list[str]:
        """Words for what has happened since: connected, ready, refused, disconnected."""
        told = []
        while readable(self._monitor):
            word = _TOLD.get(zmq.Event(recv_monitor_message(self._monitor)["event"]))
            if word is None:
                continue
            told.append(word)
            self.connected = word == "ready" or (self.connected and word != "disconnected")
            self.refused = word == "refused" or (self.refused and word != "ready")
        return told

    @property
    def socket(self) -> zmq.Socket[Any]:
        """To be polled: readable when something has happened."""
        return self._monitor

    def close(self) -> None:
        """Stop listening."""
        self._made.disable_monitor()
        self._monitor.close()
