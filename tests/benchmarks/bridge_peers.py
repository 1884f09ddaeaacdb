"""What `vla bench bridge` times beside ours, each in two processes; imports nothing of ours.

    python bridge_peers.py serve NAME FOLDER         says its address, and serves until its input ends
    python bridge_peers.py ask NAME FOLDER ADDRESS   for each line "WARM-UP COUNT" a line with COUNT times [ms]

It runs under two Pythons: openpi's client wants an older numpy than we do. So whatever a system needs is imported where
the system begins. All are asked the same: two pictures of 224 x 224 x 3 uint8 and 14 float32, for 16 x 7 float32; the
policy has its answer at hand. FOLDER holds what was made for this run: ``tls.key``, ``tls.crt``, and ours' keys.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from queue import Queue, SimpleQueue
from threading import Event, Thread
from time import monotonic, perf_counter_ns
from typing import Any

import numpy as np

CAMERAS, SIZE, PROPRIO = ("front", "wrist"), 224, 14
ACTIONS = np.linspace(-1, 1, 16 * 7, dtype=np.float32).reshape(16, 7)
"""What every policy answers [pred_horizon, A]."""
PRIORITY = 10
METHOD = "/Policy/Answer"

Say = Callable[[str], None]
Ask = Callable[[], np.ndarray]


@dataclass(frozen=True)
class System:
    """``serve``: says its address, then answers for ever; ``asking``: a connection, as a call that asks once."""

    serve: Callable[[Path, Say], None]
    asking: Callable[[Path, str], AbstractContextManager[Ask]]


def pictures() -> dict[str, np.ndarray]:
    """Camera → [224, 224, 3] uint8: smooth, as what a camera sees is, with some noise, as a camera has."""
    random, (y, x) = np.random.default_rng(0), np.mgrid[:SIZE, :SIZE]
    waves = [np.stack([np.sin((k + 1) * x / 40) + np.cos(y / (20 + 9 * k + n)) for k in range(3)], -1) for n in (0, 9)]
    seen = [128 + 50 * wave + random.normal(0, 3, wave.shape) for wave in waves]
    return {name: np.clip(one, 0, 255).astype(np.uint8) for name, one in zip(CAMERAS, seen, strict=True)}


def proprio() -> np.ndarray:
    """[14] float32."""
    return np.linspace(-1, 1, PROPRIO, dtype=np.float32)


def observation() -> dict[str, np.ndarray]:
    """Everything by name, as the peers send it."""
    return {**pictures(), "state": proprio()}


# --- gRPC: one stream of bytes in each direction ------------------------------------------------------------------


def _port(server: Any, folder: Path, tls: bool) -> int:
    """Bind a gRPC server to some port of this machine."""
    import grpc

    if not tls:
        return server.add_insecure_port("127.0.0.1:0")
    pair = ((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())
    return server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))


def _channel(folder: Path, address: str, tls: bool, options: Any = None) -> Any:
    import grpc

    if not tls:
        return grpc.insecure_channel(address, options)
    trusted = grpc.ssl_channel_credentials((folder / "tls.crt").read_bytes())
    return grpc.secure_channel(address, trusted, options)


def serve_stream(folder: Path, say: Say, *, tls: bool) -> None:
    """A gRPC server that answers within the stream in which it is asked."""
    import grpc

    def answers(requests: Iterator[bytes], context: object) -> Iterator[bytes]:
        del context
        picture = SIZE * SIZE * 3
        for request in requests:
            for number in range(len(CAMERAS)):
                np.frombuffer(request, np.uint8, picture, number * picture).reshape(SIZE, SIZE, 3)
            np.frombuffer(request, np.float32, PROPRIO, len(CAMERAS) * picture)
            yield ACTIONS.tobytes()

    _, service, method = METHOD.split("/")
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.stream_stream_rpc_method_handler(answers)})
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    port = _port(server, folder, tls)
    server.start()
    say(f"127.0.0.1:{port}")
    server.wait_for_termination()


@contextmanager
def asking_stream(folder: Path, address: str, *, tls: bool) -> Iterator[Ask]:
    """The other end of `serve_stream`."""
    arrays, requests = [*pictures().values(), proprio()], SimpleQueue[bytes | None]()
    with _channel(folder, address, tls) as channel:
        answers = channel.stream_stream(METHOD)(iter(requests.get, None))

        def ask() -> np.ndarray:
            requests.put(b"".join(array.data for array in arrays))
            return np.frombuffer(next(answers), np.float32).reshape(ACTIONS.shape)

        yield ask
        requests.put(None)


# --- GR00T: REQ/REP, msgpack, each array as a file of numpy's ------------------------------------------------------


def _as_file(array: np.ndarray) -> dict[str, Any]:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return {"array": True, "npy": file.getvalue()}


def _from_file(found: dict[str, Any]) -> Any:
    return np.load(BytesIO(found["npy"]), allow_pickle=False) if "array" in found else found


def serve_groot(folder: Path, say: Say) -> None:
    """A REP socket, and a loop that names its endpoints."""
    import msgpack
    import zmq

    del folder
    endpoints = {"get_action": lambda seen: {"action": ACTIONS}}
    socket = zmq.Context.instance().socket(zmq.REP)
    say(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
    while True:
        request = msgpack.unpackb(socket.recv(), object_hook=_from_file)
        socket.send(msgpack.packb(endpoints[request["endpoint"]](request["data"]), default=_as_file))


@contextmanager
def asking_groot(folder: Path, address: str) -> Iterator[Ask]:
    """The other end of `serve_groot`."""
    import msgpack
    import zmq

    del folder
    seen = observation()
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.connect(address)

        def ask() -> np.ndarray:
            socket.send(msgpack.packb({"endpoint": "get_action", "data": seen}, default=_as_file))
            return msgpack.unpackb(socket.recv(), object_hook=_from_file)["action"]

        yield ask


# --- no protocol at all: what ZeroMQ itself takes for these buffers ------------------------------------------------


def serve_bare(folder: Path, say: Say) -> None:
    """A ROUTER that answers whatever comes: no header, no checks, no thread of its own for the policy."""
    import zmq

    del folder
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind("tcp://127.0.0.1:0")
    say(socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
    while True:
        who, *_ = socket.recv_multipart(copy=False)
        socket.send_multipart([who, ACTIONS], copy=False)


@contextmanager
def asking_bare(folder: Path, address: str) -> Iterator[Ask]:
    """The other end of `serve_bare`."""
    import zmq

    del folder
    seen = [array.data for array in observation().values()]
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(address)

        def ask() -> np.ndarray:
            socket.send_multipart(seen, copy=False)
            return np.frombuffer(socket.recv(), np.float32).reshape(ACTIONS.shape)

        yield ask


# --- LeRobot: pickle; an observation is sent by one call, its actions are fetched by another -----------------------


def serve_lerobot(folder: Path, say: Say, *, tls: bool) -> None:
    """LeRobot's messages, stubs, chunking and queue of one; a plain array for the answer, which is kinder than its own.

    Its own pickles sixteen tensors with a stamp each, and looks at whether an observation is like the last one.
    """
    import grpc
    from lerobot.transport import services_pb2, services_pb2_grpc
    from lerobot.transport.utils import bytes_to_python_object, python_object_to_bytes, receive_bytes_in_chunks

    class Server(services_pb2_grpc.AsyncInferenceServicer):
        def __init__(self) -> None:
            self.seen: Queue[Any] = Queue(maxsize=1)
            self.ending = Event()

        def Ready(self, request: Any, context: Any) -> Any:  # noqa: N802
            return services_pb2.Empty()

        def SendObservations(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
            sent = receive_bytes_in_chunks(request_iterator, None, self.ending, "")
            self.seen.put(bytes_to_python_object(sent))
            return services_pb2.Empty()

        def GetActions(self, request: Any, context: Any) -> Any:  # noqa: N802
            self.seen.get(timeout=2)
            return services_pb2.Actions(data=python_object_to_bytes({"action": ACTIONS}))

    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(Server(), server)
    port = _port(server, folder, tls)
    server.start()
    say(f"127.0.0.1:{port}")
    server.wait_for_termination()


@contextmanager
def asking_lerobot(folder: Path, address: str, *, tls: bool) -> Iterator[Ask]:
    """The other end of `serve_lerobot`."""
    from lerobot.transport import services_pb2, services_pb2_grpc
    from lerobot.transport.utils import (
        bytes_to_python_object,
        grpc_channel_options,
        python_object_to_bytes,
        send_bytes_in_chunks,
    )

    seen = observation()
    with _channel(folder, address, tls, grpc_channel_options()) as channel:
        stub = services_pb2_grpc.AsyncInferenceStub(channel)
        stub.Ready(services_pb2.Empty())

        def ask() -> np.ndarray:
            stub.SendObservations(send_bytes_in_chunks(python_object_to_bytes(seen), services_pb2.Observation))
            return bytes_to_python_object(stub.GetActions(services_pb2.Empty()).data)["action"]

        yield ask


# --- openpi: websockets and its msgpack; inference happens in the event loop ---------------------------------------


def serve_openpi(folder: Path, say: Say) -> None:
    """Its protocol: what the policy is, then an answer with its times for each observation."""
    import asyncio

    from openpi_client import msgpack_numpy
    from websockets.asyncio.server import serve

    del folder

    async def talk(connection: Any) -> None:
        packer, whole_s = msgpack_numpy.Packer(), 0.0
        await connection.send(packer.pack({"policy": "constant"}))
        async for message in connection:
            begun = monotonic()
            msgpack_numpy.unpackb(message)
            inferring = monotonic()
            answer: dict[str, Any] = {"actions": ACTIONS}
            answer["server_timing"] = {"infer_ms": 1e3 * (monotonic() - inferring), "prev_total_ms": 1e3 * whole_s}
            await connection.send(packer.pack(answer))
            whole_s = monotonic() - begun

    async def run() -> None:
        async with serve(talk, "127.0.0.1", 0, compression=None, max_size=None) as server:
            say(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            await server.serve_forever()

    asyncio.run(run())


@contextmanager
def asking_openpi(folder: Path, address: str) -> Iterator[Ask]:
    """openpi's own client."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    del folder
    seen = {**{f"observation/{name}": array for name, array in observation().items()}, "prompt": "push the red cube"}
    policy = WebsocketClientPolicy(address)
    yield lambda: policy.infer(seen)["actions"]
    policy._ws.close()


PEERS = {
    "bare DEALER and ROUTER": System(serve_bare, asking_bare),
    "openpi": System(serve_openpi, asking_openpi),
    "gRPC stream": System(partial(serve_stream, tls=False), partial(asking_stream, tls=False)),
    "gRPC stream, TLS": System(partial(serve_stream, tls=True), partial(asking_stream, tls=True)),
    "GR00T pattern": System(serve_groot, asking_groot),
    "LeRobot pattern": System(partial(serve_lerobot, tls=False), partial(asking_lerobot, tls=False)),
    "LeRobot pattern, TLS": System(partial(serve_lerobot, tls=True), partial(asking_lerobot, tls=True)),
}


def settle(turn: int) -> None:
    """On one core, before others that want it, where that is permitted; threads made later inherit both."""
    if not hasattr(os, "sched_setscheduler"):
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[turn % len(cores)]})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except PermissionError:
        return


def _until_input_ends() -> None:
    sys.stdin.read()
    os._exit(0)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _timed(ask: Ask, count: int) -> list[float]:
    """Milliseconds of each of ``count`` round trips."""
    times = []
    for _ in range(count):
        begun = perf_counter_ns()
        answer = ask()
        times.append(1e-6 * (perf_counter_ns() - begun))
    assert answer.dtype == np.float32
    assert np.array_equal(answer, ACTIONS)
    return times


def part(systems: Mapping[str, System], argv: list[str]) -> None:
    """Play the part that ``argv`` names: see the top of this file."""
    role, name, folder, *address = argv
    settle(role == "serve")
    if role == "serve":
        Thread(target=_until_input_ends, daemon=True).start()
        systems[name].serve(Path(folder), _say)
        return
    for line in sys.stdin:
        warmup, count = map(int, line.split())
        with systems[name].asking(Path(folder), *address) as ask:
            _timed(ask, warmup)
            times = _timed(ask, count)
        _say(json.dumps(times))


if __name__ == "__main__":
    part(PEERS, sys.argv[1:])
