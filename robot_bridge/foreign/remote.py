"""A policy that somebody else's server answers for, behind our interface: a folder that `vla remote` makes.

`load_policy` opens it as any other: ``policy_spec.json`` says what it sees and does, ``remote.json`` where it is asked
and what things are called there. Every question has a deadline, and a server that is lost is named.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import msgpack
import numpy as np
import zmq
from numpy.typing import NDArray

from policies.policy import Underway, going_on, read_spec, write_spec
from robot_bridge.foreign import vla_eval
from robot_bridge.foreign.arrays import MAX_MESSAGE, pack_msgpack_numpy, pack_ndarray, pack_npy, unpack, vector
from robot_bridge.foreign.episode import read_token
from robot_bridge.foreign.gr00t import CONFIG_MARKS
from robot_bridge.foreign.table import Protocol as Spoken
from robot_bridge.foreign.table import Seen, Table
from robot_bridge.wire import WireError
from vla.errors import UnderstudyError, first_line, unknown
from vla.types import ActionChunk, Observation, PolicySpec, Task

FAMILY, REMOTE_FILE = "remote", "remote.json"
SCHEMES: dict[str, Spoken] = {"ws": "vla-eval", "gr00t": "gr00t", "gr00t-sim": "gr00t"}
"""How the address of a server begins; ``gr00t-sim``: one that takes the flat keys of GR00T's simulations."""


@dataclass(frozen=True)
class Remote:
    """Where a policy is asked: what ``remote.json`` holds."""

    url: str
    map: Mapping[str, str]
    timeout_s: float = 30.0
    token_file: str = ""

    @property
    def protocol(self) -> Spoken:
        """What is spoken there."""
        scheme = urlsplit(self.url).scheme
        if scheme not in SCHEMES:
            raise unknown("scheme of a server's address", scheme, SCHEMES)
        return SCHEMES[scheme]


class Link(Protocol):
    """A server that is asked; raises `UnderstudyError` when it says no, or nothing at all."""

    def begin(self, words: str, seed: int) -> None:
        """Begin an episode, on a connection of its own if the last one broke."""
        ...

    def ask(self, seen: Seen, table: Table) -> NDArray[Any]:
        """Their actions [N, theirs]."""
        ...

    def about(self) -> dict[str, Any]:
        """What the server says of itself."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class HarnessLink:
    """A model server of the vla-eval protocol."""

    def __init__(self, remote: Remote) -> None:
        token = read_token(Path(remote.token_file) if remote.token_file else None).decode()
        self._name, self._url = remote.url, f"{remote.url.rstrip('/')}/{token}" if token else remote.url
        self._timeout_s, self._seq = remote.timeout_s, 0
        self._open, self._connection = ExitStack(), cast(Any, None)

    def about(self) -> dict[str, Any]:
        """Its HELLO."""
        if self._connection is None:
            self._connect()
        told = {"harness_version": vla_eval.HARNESS, "protocol_version": vla_eval.VERSION}
        about = self._exchange("hello", told, answer="hello")
        version = about.get("protocol_version", vla_eval.VERSION)
        if version != vla_eval.VERSION:
            raise UnderstudyError(f"the server at {self._name} speaks version {version} of the protocol, not 1")
        return about

    def begin(self, words: str, seed: int) -> None:
        """Tell it; it does not answer."""
        if self._connection is None:
            self.about()
        self._send("episode_start", {"task": {"name": words, "seed": seed, "episode_idx": 0}})

    def ask(self, seen: Seen, table: Table) -> NDArray[Any]:
        """An action, or a chunk."""
        payload: dict[str, Any] = {name: pack_ndarray(state) for name, state in seen.states.items()}
        payload |= {"images": {name: pack_ndarray(image) for name, image in seen.images.items()}}
        told = self._exchange("observation", {**payload, table.instruction: seen.instruction}, answer="action")
        parts = {key: vector(told[key], f"the action {key}") for key, _ in table.action if key in told}
        return np.atleast_2d(table.joined(parts))

    def close(self) -> None:
        """Hang up."""
        self._connection = None
        self._open.close()

    def _connect(self) -> None:
        vla_eval.websockets_server()  # the error that says what to install
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        settings: dict[str, Any] = {"compression": None, "max_size": MAX_MESSAGE, "ping_interval": None}
        try:
            made = connect(self._url, open_timeout=self._timeout_s, close_timeout=1, **settings)
            self._connection = self._open.enter_context(made)
        except (OSError, TimeoutError, WebSocketException) as error:
            raise UnderstudyError(f"no server answers at {self._name}: {first_line(error)}") from error

    def _send(self, kind: str, payload: Mapping[str, Any]) -> None:
        from websockets.exceptions import ConnectionClosed

        self._seq += 1
        try:
            self._connection.send(vla_eval.pack_message(kind, payload, self._seq))
        except (ConnectionClosed, OSError) as error:
            self._lost(error)

    def _exchange(self, kind: str, payload: Mapping[str, Any], *, answer: str) -> dict[str, Any]:
        from websockets.exceptions import ConnectionClosed

        self._send(kind, payload)
        until = monotonic() + self._timeout_s
        while True:
            try:
                data = self._connection.recv(timeout=max(until - monotonic(), 0))
            except TimeoutError:
                self.close()
                raise UnderstudyError(f"the server at {self._name} did not answer in {self._timeout_s:g} s") from None
            except (ConnectionClosed, OSError) as error:
                self._lost(error)
            told, found, seq = vla_eval.read_message(data)
            if told == "error":
                raise UnderstudyError(f"the server at {self._name} refused: {str(found.get('error'))[:300]}")
            if told == answer and seq == self._seq:
                return found

    def _lost(self, error: Exception) -> None:
        self.close()
        raise UnderstudyError(f"the server at {self._name} was lost: {first_line(error)}") from error


class Gr00tLink:
    """A policy server of GR00T's, asked for one environment."""

    def __init__(self, remote: Remote) -> None:
        self._token = read_token(Path(remote.token_file) if remote.token_file else None).decode()
        parts = urlsplit(remote.url)
        self._name, self._flat = remote.url, parts.scheme == "gr00t-sim"
        self._address, self._timeout_s = f"tcp://{parts.hostname}:{parts.port or 5555}", remote.timeout_s
        self._socket: Any = None
        self._pack: Any = None

    def about(self) -> dict[str, Any]:
        """Modality → its keys and steps; which of the two ways to write arrays it knows is seen here."""
        found = self._call("get_modality_config", None)
        if not isinstance(found, dict):
            raise UnderstudyError(f"the server at {self._name} tells no modality config, but {type(found).__name__}")
        old = any(isinstance(one, dict) and CONFIG_MARKS[0] in one for one in found.values())
        self._pack = pack_npy if old else pack_msgpack_numpy
        return {name: one["as_json"] for name, one in found.items() if isinstance(one, dict) and "as_json" in one}

    def begin(self, words: str, seed: int) -> None:
        """Reset it."""
        if self._pack is None:
            self.about()
        self._call("reset", {"options": {"seed": seed}})

    def ask(self, seen: Seen, table: Table) -> NDArray[Any]:
        """A chunk."""
        video = {name: self._pack(image[None, None]) for name, image in seen.images.items()}
        state = {name: self._pack(row[None, None].astype(np.float32)) for name, row in seen.states.items()}
        observation: dict[str, Any] = {
            "video": video,
            "state": state,
            "language": {table.instruction: [[seen.instruction]]},
        }
        if self._flat:
            named = {"video": video, "state": state}
            observation = {f"{group}.{name}": one for group, ones in named.items() for name, one in ones.items()}
            observation[table.instruction] = [seen.instruction]
        answer = self._call("get_action", {"observation": observation, "options": None})
        actions = answer[0] if isinstance(answer, list) and answer else answer
        if not isinstance(actions, dict):
            raise WireError(f"the server at {self._name} answered no actions, but {type(actions).__name__}")
        prefix = "action." if self._flat else ""
        parts = {key: vector(actions[prefix + key], key) for key, _ in table.action if prefix + key in actions}
        rows = table.joined(parts)
        return rows[0] if rows.ndim == 3 else np.atleast_2d(rows)

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    def _call(self, endpoint: str, data: Mapping[str, Any] | None) -> Any:
        if self._socket is None:
            self._socket = zmq.Context.instance().socket(zmq.REQ)
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
            self._socket.connect(self._address)
        request: dict[str, Any] = {"endpoint": endpoint} | ({} if data is None else {"data": data})
        request |= {"api_token": self._token} if self._token else {}
        self._socket.send(msgpack.packb(request, use_bin_type=True))
        if not self._socket.poll(1000 * self._timeout_s):
            self.close()  # a REQ that has no answer can ask nothing more
            raise UnderstudyError(f"the server at {self._name} did not answer in {self._timeout_s:g} s")
        answer = unpack_answer(self._socket.recv(), self._name)
        if isinstance(answer, dict) and "error" in answer:
            raise UnderstudyError(f"the server at {self._name} refused: {str(answer['error'])[:300]}")
        return answer


def unpack_answer(data: bytes, name: str) -> Any:
    """What GR00T's server says, which need not be a map."""
    if data == b"ERROR":
        raise UnderstudyError(f"the server at {name} answered ERROR: it may speak the older framing, which is pickle")
    return unpack(data)


LINKS: dict[Spoken, Callable[[Remote], Link]] = {"vla-eval": HarnessLink, "gr00t": Gr00tLink}


class RemotePolicy:
    """Keeps `policies.policy.Policy` over a `Link`."""

    def __init__(self, spec: PolicySpec, remote: Remote) -> None:
        self.spec, self.remote = spec, remote
        self.table = Table(spec, remote.map, protocol=remote.protocol, side="client")
        self.link: Link = LINKS[remote.protocol](remote)
        self._instruction = ""

    @classmethod
    def load(cls, folder: Path) -> "RemotePolicy":
        """What `save` wrote; the server is asked at the first reset."""
        file = folder / REMOTE_FILE
        if not file.is_file():
            raise UnderstudyError(f"{folder} has no {REMOTE_FILE}: make it again with `vla remote`")
        return cls(read_spec(folder), Remote(**json.loads(file.read_text())))

    def save(self, folder: Path) -> None:
        """Write all that `load` needs, no secret."""
        folder.mkdir(parents=True, exist_ok=True)
        write_spec(folder, FAMILY, self.spec)
        (folder / REMOTE_FILE).write_text(json.dumps(asdict(self.remote), indent=2))

    def reset(self, task: Task, *, seed: int = 0) -> None:
        """Begin an episode; ``seed`` is told, and heeded by who heeds it."""
        self.link.begin(task.instruction, seed)
        self._instruction = task.instruction

    def infer(self, observation: Observation, underway: Underway | None = None) -> ActionChunk:
        """Their next chunk; rows that are ``underway`` stand in it as they are."""
        rows = self.link.ask(self.table.shown(observation, self._instruction), self.table)
        if len(rows) != self.spec.pred_horizon:
            raise UnderstudyError(
                f"the server at {self.remote.url} answered {len(rows)} actions, the policy's pred_horizon is "
                f"{self.spec.pred_horizon}: make it again with `vla remote … --chunk {len(rows)}`"
            )
        if not np.isfinite(rows).all():
            raise UnderstudyError(f"the server at {self.remote.url} answered NaN or infinity")
        actions = self.table.decided(rows.astype(np.float32), observation.proprio)
        return ActionChunk(going_on(actions, underway), observation.stamp_ns, 1 / self.spec.control_hz)

    def session(self) -> "RemotePolicy":
        """The same policy for another episode at the same time, over a connection of its own."""
        return RemotePolicy(self.spec, self.remote)

    def infer_together(
        self, sessions: Sequence["RemotePolicy"], seen: Sequence[tuple[Observation, Underway | None]]
    ) -> list[ActionChunk]:
        """One after the other."""
        return [session.infer(*one) for session, one in zip(sessions, seen, strict=True)]

    def hasten(self) -> None:
        """Refuse: it runs elsewhere."""
        raise UnderstudyError("a policy that is served elsewhere is as quick as its server: leave quick=true out")
