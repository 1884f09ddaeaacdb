"""A model server for allenai's vla-evaluation-harness (``vla-eval run``), protocol 1: msgpack in WebSocket messages.

    HELLO ─► HELLO                who we are, what our actions mean, what we want to see
    EPISODE_START                 a task; nothing is answered
    OBSERVATION ─► ACTION         images, states, words → one action; or ─► ERROR with the reason
    EPISODE_END                   nothing is answered

Every connection has an episode of its own; they are answered one after the other. ``GET /health`` says that it serves.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from time import monotonic_ns, time
from typing import Any
from urllib.parse import urlsplit

import msgpack

from policies.execution import ExecutionConfig
from robot_bridge.brain import Brain
from robot_bridge.foreign.arrays import MAX_MESSAGE, Unpacked, pack_ndarray, picture, unpack_map, vector
from robot_bridge.foreign.conventions import Layout
from robot_bridge.foreign.episode import Asked, Stepwise, seed_of
from robot_bridge.foreign.table import Seen, Table
from robot_bridge.wire import WireError
from vla.errors import UnderstudyError
from vla.types import ActionKind

logger = logging.getLogger(__name__)

ADDRESS = "ws://127.0.0.1:8000"
VERSION, HARNESS = 1, "0.8.0"
"""Of the protocol, and of the harness that it was last tried with."""
TYPES = ("hello", "observation", "action", "episode_start", "episode_end", "error")
_GRIPPERS = {
    (-1.0, 1.0): "binary_close_positive",
    (1.0, -1.0): "binary_close_negative",
    (0.0, 1.0): "binary_close_01",
    (1.0, 0.0): "continuous_01",
}
"""(open, closed) → what the harness calls it."""
_ROTATIONS = {"quat_xyzw": "quaternion_xyzw", "quat_wxyz": "quaternion_wxyz"}


class HarnessServer(Asked):
    """Serves until `stop`; `run` blocks, `serving` does it in a thread."""

    def __init__(
        self,
        brain: Brain,
        table: Table,
        address: str = ADDRESS,
        *,
        execution: ExecutionConfig | None = None,
        token: bytes = b"",
    ) -> None:
        super().__init__(brain, table, address, token)
        if urlsplit(address).scheme != "ws" or not urlsplit(address).hostname:
            raise UnderstudyError(f"the address of this protocol is written ws://HOST:PORT, got {address}")
        self._execution = execution or ExecutionConfig()
        self._lock, self._end = threading.Lock(), threading.Event()
        self.robots = 0
        """how many are connected"""
        Stepwise(brain.session(), table, self._execution)  # settings that do not fit are refused now

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`; raises `UnderstudyError` when the address cannot be had."""
        server_module = websockets_server()
        parts = urlsplit(self.address)
        settings: dict[str, Any] = {
            "compression": None,
            "max_size": MAX_MESSAGE,
            "ping_interval": 60,
            "ping_timeout": 600,
        }
        settings |= {"origins": [None], "process_request": self._request}  # a page in a browser sends an origin
        try:
            server = server_module.serve(self._talk, parts.hostname, parts.port or 0, **settings)
        except OSError as error:
            raise UnderstudyError(f"cannot serve at {self.address}: {error}") from error
        self.address = f"ws://{parts.hostname}:{server.socket.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        logger.info("serving the vla-eval protocol at %s", self.address)
        try:
            ready()
            self._end.wait()
        finally:
            server.shutdown()
            thread.join()

    def stop(self) -> None:
        """End `run`."""
        self._end.set()

    def _request(self, connection: Any, request: Any) -> Any:
        """What is answered before there is a WebSocket, if anything is."""
        path = urlsplit(request.path).path
        if path == "/health":
            return connection.respond(HTTPStatus.OK, '{"status": "ok"}\n')
        if not self.allowed(path.strip("/")):
            self.counts["strangers"] += 1
            return connection.respond(HTTPStatus.UNAUTHORIZED, "the address is ws://HOST:PORT/TOKEN\n")
        return None

    def _talk(self, connection: Any) -> None:
        """One connection, in a thread of its own, until it is closed."""
        from websockets.exceptions import ConnectionClosed

        with self._lock:
            full = self.robots >= self.most
            self.robots += not full
        if full:
            connection.close(1013, f"{self.robots} are served already: this policy cannot serve more")
            return
        try:
            session = Stepwise(self.brain.session(), self.table, self._execution)
            for data in connection:
                with self._lock:
                    answer = self._answer(session, data)
                if answer is not None:
                    connection.send(answer)
        except ConnectionClosed as closed:
            logger.info("a connection ended: %s", closed)
        finally:
            with self._lock:
                self.robots -= 1

    def _answer(self, session: Stepwise, data: bytes | str) -> bytes | None:
        began, seq = monotonic_ns(), 0
        try:
            kind, payload, seq = read_message(data)
            self.counts[kind] += 1
            if kind == "hello":
                return pack_message("hello", self.hello(), seq)
            if kind == "observation":
                answer = pack_message("action", self._act(session, payload), seq)
                self.answered(began)
                return answer
            if kind == "episode_start":
                session.begin(seed_of(payload.get("task")))
        except Exception as error:  # noqa: BLE001 whatever a message or the policy does, the server goes on
            return pack_message("error", {"error": self.failed(error)}, seq)
        return None

    def _act(self, session: Stepwise, payload: Mapping[str, Any]) -> dict[str, Any]:
        action = session.act(read_seen(payload, self.table.instruction))
        return {name: pack_ndarray(part) for name, part in self.table.split(action).items()}

    def hello(self) -> dict[str, Any]:
        """What we say of ourselves; the harness gives ``observation_params`` to its benchmark."""
        table, spec = self.table, self.table.spec
        wrist = any("wrist" in name for names in table.cameras.items() for name in names)
        seen = {name: {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"} for name in table.cameras.values()}
        seen["language"] = {"name": "language", "dims": 0, "format": "language"}
        return {
            "harness_version": HARNESS,
            "protocol_version": VERSION,
            "model_server": "understudy",
            "capabilities": {},
            "policy": {"checkpoint": Path(spec.checkpoint).name, "action": spec.action.kind, "hz": spec.control_hz},
            "observation_params": {"send_state": bool(spec.proprio_dim), "send_wrist_image": wrist},
            "action_spec": dimensions(table.action_theirs, table.kind),
            "observation_spec": seen,
        }


def websockets_server() -> Any:
    """The library, which is only needed here; raises `UnderstudyError` when it is missing."""
    try:
        from websockets.sync import server
    except ModuleNotFoundError as error:
        raise UnderstudyError(
            "this protocol needs the package websockets: pip install 'understudy[harness]'"
        ) from error
    return server


def read_message(data: bytes | str) -> tuple[str, dict[str, Any], int]:
    """Type, payload and number of a message; raises `WireError`."""
    if isinstance(data, str):
        raise WireError("a message is binary, not text")
    plain = unpack_map(data)
    kind, payload, seq = (plain.get(name) for name in ("type", "payload", "seq"))
    if kind not in TYPES or not isinstance(payload, dict) or type(seq) is not int or not -(2**63) <= seq < 2**63:
        raise WireError(
            f"a message has a type ({', '.join(TYPES)}), a payload, which is a map, and a seq, which is a whole number"
        )
    return kind, payload, seq


def pack_message(kind: str, payload: Mapping[str, Any], seq: int) -> bytes:
    """The inverse of `read_message`; arrays are packed already."""
    plain = {"type": kind, "payload": payload, "seq": seq, "timestamp": time()}
    packed: bytes = msgpack.packb(plain, use_bin_type=True)
    return packed


def read_seen(payload: Mapping[str, Any], instruction: str) -> Seen:
    """An observation, of which only what is looked at will be decoded; raises `WireError`."""
    images, words = payload.get("images"), payload.get(instruction)
    lacks = ["images"] * (not isinstance(images, dict)) + [instruction] * (not isinstance(words, str))
    if lacks or not isinstance(images, dict) or not isinstance(words, str):
        raise WireError(
            f"the observation lacks {' and '.join(lacks)} (a map of cameras, and the words of what is to be done); it "
            f"has {', '.join(map(str, payload))}"
        )
    return Seen(Unpacked(images, picture), Unpacked(payload, vector), words)


def dimensions(layout: Layout, kind: ActionKind) -> dict[str, dict[str, Any]]:
    """An action in the words by which the harness compares the two sides."""
    found: dict[str, dict[str, Any]] = {}
    for part in layout.parts:
        if part.kind == "xyz":
            absolute = kind == "ee_pose"
            found["position"] = {"name": "position", "dims": 3, "format": "absolute_xyz" if absolute else "delta_xyz"}
        elif part.gripper is not None:
            told = _GRIPPERS.get((part.gripper.open, part.gripper.closed), "raw")
            found["gripper"] = {"name": "gripper", "dims": 1, "format": told}
        elif part.kind not in ("plain", "skip"):
            told = _ROTATIONS.get(part.kind, part.kind)
            found["rotation"] = {"name": "rotation", "dims": part.size, "format": told}
    return found if "position" in found else {"actions": {"name": "raw", "dims": layout.size, "format": "raw"}}
