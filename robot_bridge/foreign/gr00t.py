"""A policy server for GR00T's clients: one msgpack map a request and an answer, over ZeroMQ's REQ and REP.

    {"endpoint": "ping"}                                     ─► {"status": "ok", …}
    {"endpoint": "get_action", "data": {"observation": …}}   ─► [actions, {}]
    {"endpoint": "reset", "data": {"options": {"seed": 7}}}  ─► {}
    {"endpoint": "get_modality_config"}                      ─► video, state, action, language: their keys and times
    {"endpoint": "kill"}                                     ─► nil, and the server ends

An observation holds B environments: pictures [B, T, H, W, 3], states [B, T, D], words, by nested keys
(``observation["video"]["front"]``, Gr00tPolicy) or flat ones (``observation["video.front"]``, its simulations); N1.5
sends one environment, without B, as the data itself. Whole chunks [B, pred_horizon, D] are answered in the same form.
Each client has an episode for each of its environments. The older framing, ``torch.save``, is pickle and is refused.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import monotonic_ns
from typing import Any

import msgpack
import numpy as np
import zmq
from numpy.typing import NDArray

from policies.policy import Policy
from robot_bridge.brain import Brain
from robot_bridge.foreign.arrays import (
    MAX_MESSAGE,
    Unpacked,
    array,
    pack_msgpack_numpy,
    pack_npy,
    picture,
    unpack_map,
    vector,
)
from robot_bridge.foreign.conventions import Rows
from robot_bridge.foreign.episode import Asked, Episode, seed_of
from robot_bridge.foreign.table import Seen, Table
from robot_bridge.safety import check_chunk
from robot_bridge.wire import WireError
from vla.errors import UnderstudyError, unknown
from vla.types import Observation

logger = logging.getLogger(__name__)

ADDRESS = "tcp://127.0.0.1:5555"
PICKLED = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How a message of the older framing begins: ``torch.save``'s archive, or a pickle."""
CONFIG_MARKS = ("__ModalityConfig_class__", "__ModalityConfig__")
"""What a modality's config is called up to N1.6, and by N1.7; a map with both is read by either."""
Pack = Callable[[NDArray[Any]], Mapping[Any, Any]]


class Chunked(Episode):
    """One environment of a client; ``asked``: how often, which is all that is known of its time."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy, policy.reset)
        self.asked = 0

    @property
    def stamp_ns(self) -> int:
        """Its time, if it carries out as many rows of a chunk as the policy says."""
        return round(1e9 * self.asked * self.policy.spec.exec_horizon / self.policy.spec.control_hz)


@dataclass
class Client:
    """A client's environments, and the seed that it gave."""

    seed: int = 0
    episodes: list[Chunked] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """An observation of B environments, how it was written, and how the answer is to be."""

    seen: list[Seen]
    flat: bool
    batched: bool
    pack: Pack


class Gr00tServer(Asked):
    """Serves until `stop`; `run` blocks, `serving` does it in a thread."""

    def __init__(self, brain: Brain, table: Table, address: str = ADDRESS, *, token: bytes = b"") -> None:
        super().__init__(brain, table, address, token)
        self._clients: OrderedDict[bytes, Client] = OrderedDict()
        self._stopping = False
        self._endpoints: dict[str, Callable[[Client, Mapping[str, Any]], object]] = {
            "ping": lambda client, data: {"status": "ok", "message": "Server is running"},
            "get_action": self._get_action,
            "reset": self._reset,
            "get_modality_config": lambda client, data: self.modalities(),
            "kill": self._kill,
        }

    @property
    def robots(self) -> int:
        """How many environments have an episode."""
        return sum(len(client.episodes) for client in self._clients.values())

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop` or ``kill``; raises `UnderstudyError` when the address cannot be had."""
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)  # speaks to REQ as REP does, and knows who asks
        router.setsockopt(zmq.LINGER, 500)
        router.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        try:
            router.bind(self.address)
            self.address = router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\x00")
            logger.info("serving GR00T's protocol at %s", self.address)
            ready()
            while not self._stopping:
                if router.poll(100):
                    self._take(router)
        except zmq.ZMQError as error:
            raise UnderstudyError(f"cannot serve at {self.address}: {error}") from error
        finally:
            router.close()
            context.term()

    def stop(self) -> None:
        """End `run`."""
        self._stopping = True

    def _take(self, router: zmq.Socket[Any]) -> None:
        identity, *parts = router.recv_multipart()
        if len(parts) != 2 or parts[0]:
            self.counts["strangers"] += 1  # no REQ: nobody waits for an answer
            return
        router.send_multipart([identity, b"", self.answer(identity, parts[1])])

    def answer(self, identity: bytes, data: bytes) -> bytes:
        """What a client is answered, whatever it sent."""
        if data[:2] in PICKLED:
            self.counts["refused"] += 1
            logger.warning("a client speaks GR00T's older framing (TorchSerializer), which is pickle: it was refused")
            return b"ERROR"  # the word that such a client knows
        try:
            made = self._answered(identity, unpack_map(data))
        except Exception as error:  # noqa: BLE001 whatever a message or the policy does, the server goes on
            made = {"error": self.failed(error)}
        packed: bytes = msgpack.packb(made, use_bin_type=True)
        return packed

    def _answered(self, identity: bytes, request: Mapping[str, Any]) -> object:
        if not self.allowed(request.get("api_token")):
            raise WireError("Unauthorized: Invalid API token")
        name, data = request.get("endpoint", "get_action"), request.get("data") or {}
        if not isinstance(name, str) or name not in self._endpoints:
            raise unknown("endpoint", str(name)[:40], self._endpoints)
        if not isinstance(data, dict):
            raise WireError(f"the data of {name} is a map, got {type(data).__name__}")
        self.counts[name] += 1
        return self._endpoints[name](self._known(identity), data)

    def _known(self, identity: bytes) -> Client:
        """The client's own; whoever was silent for longest is forgotten."""
        client = self._clients.setdefault(identity, Client())
        self._clients.move_to_end(identity)
        while len(self._clients) > self.most:
            self._clients.popitem(last=False)
            logger.warning("more than %d clients: the episodes of one were forgotten", self.most)
        return client

    def _kill(self, client: Client, data: Mapping[str, Any]) -> None:
        logger.info("a client ended this server")
        self.stop()

    def _reset(self, client: Client, data: Mapping[str, Any]) -> dict[str, Any]:
        client.seed = seed_of(data.get("options"))
        for number, episode in enumerate(client.episodes):
            episode.begin(client.seed + number)
        return {}

    def _get_action(self, client: Client, data: Mapping[str, Any]) -> object:
        began, wrapped = monotonic_ns(), "observation" in data
        question = read_question(data["observation"] if wrapped else data, self.table)
        rows = self._chunks(client, question.seen)
        parts = self.table.split(rows if question.batched else rows[0])
        prefix = "action." if question.flat else ""
        actions = {prefix + key: question.pack(np.ascontiguousarray(part)) for key, part in parts.items()}
        self.answered(began, len(question.seen))
        return [actions, {}] if wrapped else actions

    def _chunks(self, client: Client, seen: list[Seen]) -> Rows:
        """[B, pred_horizon, theirs], one batch for all environments."""
        if len(seen) > self.most:
            raise WireError(f"{len(seen)} environments asked at once, this policy serves {self.most}")
        while len(client.episodes) < len(seen):
            client.episodes.append(Chunked(self.brain.session()))
            client.episodes[-1].begin(client.seed + len(client.episodes) - 1)
        episodes, table, spec = client.episodes[: len(seen)], self.table, self.brain.spec
        for episode, one in zip(episodes, seen, strict=True):
            if episode.hear(one.instruction):
                episode.asked = 0
        observed = [table.observed(one, episode.stamp_ns) for one, episode in zip(seen, episodes, strict=True)]
        chunks = self.brain.infer_together([episode.policy for episode in episodes], [(one, None) for one in observed])
        for chunk, episode in zip(chunks, episodes, strict=True):
            check_chunk(chunk.actions, spec.action)
            episode.asked += 1
        rows = [
            table.carried_out(np.clip(chunk.actions, spec.action.low, spec.action.high), partial(_proprio, one))
            for chunk, one in zip(chunks, observed, strict=True)
        ]
        return np.stack(rows)

    def modalities(self) -> dict[str, Any]:
        """Which keys we read and answer, and at which steps from now."""
        table, now = self.table, [0]
        told = {
            "video": (list(table.cameras.values()), now),
            "state": (list(table.state), now),
            "action": ([key for key, _ in table.action], list(range(self.brain.spec.pred_horizon))),
            "language": ([table.instruction], now),
        }
        return {
            name: dict.fromkeys(CONFIG_MARKS, True) | {"as_json": {"delta_indices": steps, "modality_keys": keys}}
            for name, (keys, steps) in told.items()
            if keys
        }


def _proprio(seen: Observation) -> Rows:
    return seen.proprio


def read_question(told: object, table: Table) -> Question:
    """Read an observation in any of its three forms; raises `WireError`."""
    if not isinstance(told, dict):
        raise WireError(f"an observation is a map, got {type(told).__name__}")
    flat = not any(isinstance(told.get(group), dict) for group in ("video", "state", "language"))
    images, states = _group(told, "video", flat=flat), _group(told, "state", flat=flat)
    words = _words(told if flat else _group(told, "language", flat=False), table.instruction)
    wanted = [*((images, name, 3) for name in table.cameras.values()), *((states, key, 1) for key in table.state)]
    found = [(group[name], name, axes) for group, name, axes in wanted if name in group]
    batched = all(array(packed, name).ndim == axes + 2 for packed, name, axes in found)
    if not batched and len(words) != 1:
        raise WireError(f"{len(words)} instructions were sent with one environment")
    pack = pack_npy if all("__ndarray_class__" in packed for packed, _, _ in found) else pack_msgpack_numpy
    seen = [
        Seen(
            Unpacked(images, partial(_newest, picture, 3, number if batched else None, len(words))),
            Unpacked(states, partial(_newest, vector, 1, number if batched else None, len(words))),
            text,
        )
        for number, text in enumerate(words)
    ]
    return Question(seen, flat, batched, pack)


def _group(told: Mapping[str, Any], name: str, *, flat: bool) -> Mapping[str, Any]:
    if flat:
        return {key.removeprefix(f"{name}."): value for key, value in told.items() if key.startswith(f"{name}.")}
    group = told.get(name, {})
    if not isinstance(group, dict):
        raise WireError(f"{name} of an observation is a map, got {type(group).__name__}")
    return group


def _words(told: Mapping[str, Any], key: str) -> list[str]:
    """One instruction for each environment: text, or lists of text whose last one counts."""
    found = told.get(key)
    listed = found if isinstance(found, list) else [found]
    last = [one[-1] if isinstance(one, list) and one else one for one in listed]
    words = [one for one in last if isinstance(one, str)]
    if not words or len(words) != len(last):
        raise WireError(
            f"the observation lacks the words {key} of what is to be done; it has {', '.join(map(str, told))}"
        )
    return words


def _newest(
    read: Callable[[object, str], NDArray[Any]], axes: int, number: int | None, count: int, packed: object, name: str
) -> NDArray[Any]:
    """The last in time of an array [B, T, …], of the environment ``number``; of one alone [T, …] or […]."""
    found = read(packed, name)
    if number is not None and len(found) != count:
        raise WireError(f"{name} is of {len(found)} environments, the instructions are of {count}")
    newest = found if number is None else found[number]
    if newest.ndim == axes + 1 and len(newest):
        newest = newest[-1]
    if newest.ndim != axes:
        raise WireError(
            f"{name} has the shape {found.shape}, with axes for environments and time before its own {axes}"
        )
    return newest
