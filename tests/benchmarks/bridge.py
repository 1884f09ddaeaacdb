"""Round trip of the bridge, request to answer, beside openpi's client, gRPC, and how GR00T and LeRobot do it.

Two pictures of 224 x 224 and 14 numbers go in, 16 x 7 come out, over the loopback; the policy answers at once. Client
and server are two processes, on a core each, SCHED_FIFO where that is permitted. The systems take turns in each round;
p50 and p99 are the medians over the rounds. openpi's client gets an environment of its own, made once, with uv.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic_ns
from typing import IO, Any

from benchmarks import bridge_peers as peers
from benchmarks.bridge_peers import ACTIONS, CAMERAS, PEERS, PROPRIO, SIZE, Ask, Say, System

from policies.policy import Policy, Underway
from robot_bridge.client import Connection
from robot_bridge.server import PolicyServer
from robot_bridge.transport import Keys, make_keys
from robot_bridge.wire import Codec
from vla.bench import Row, Times, parser, write_bench
from vla.errors import UnderstudyError
from vla.types import ActionChunk, ActionSpec, CameraSpec, Observation, PolicySpec, Task

WARMUP = 50
OPENPI = Path("outputs/bench/openpi")
OPENPI_NEEDS = (
    *("openpi-client==0.1.2", "websockets==17.4", "msgpack==1.2.4", "numpy==1.26.4"),
    "typing_extensions==4.16.0",  # which its client imports and does not ask for
)
RATIOS = {
    "raw_vs_openpi": ("ours, raw", "openpi"),
    "raw_vs_lerobot": ("ours, raw", "LeRobot pattern"),
    "curve_vs_grpc_tls": ("ours, raw + CURVE", "gRPC stream, TLS"),
}


class Constant:
    """A policy that has its answer at hand, as a `robot_bridge.brain.Brain` and as each of its sessions."""

    def __init__(self, cameras: Sequence[str]) -> None:
        names = tuple(f"a{number}" for number in range(ACTIONS.shape[1]))
        self.spec = PolicySpec(
            cameras=tuple(CameraSpec(name, SIZE, SIZE) for name in cameras),
            proprio_names=tuple(f"p{number}" for number in range(PROPRIO)),
            action=ActionSpec("joint_position", names, (-1.0,) * len(names), (1.0,) * len(names)),
            accepts=("instruction",),
            obs_horizon=1,
            pred_horizon=len(ACTIONS),
            exec_horizon=len(ACTIONS) // 2,
            control_hz=20.0,
        )

    def session(self) -> Policy:
        """Itself: it keeps nothing."""
        return self

    def reset(self, task: Task, *, seed: int = 0) -> None:
        """Nothing."""

    def infer(self, observation: Observation, underway: Underway | None = None) -> ActionChunk:
        """The constant."""
        return ActionChunk(ACTIONS, observation.stamp_ns, 0.05)

    def infer_together(
        self, sessions: Sequence[Policy], seen: Sequence[tuple[Observation, Underway | None]]
    ) -> list[ActionChunk]:
        """The constant for each."""
        return [session.infer(*one) for session, one in zip(sessions, seen, strict=True)]


def serve_ours(folder: Path, say: Say, *, cameras: Sequence[str], curve: bool) -> None:
    """The bridge's server."""
    keys = {"keys": Keys(folder / "server.key_secret"), "allowed": folder / "robots"} if curve else {}
    server = PolicyServer(Constant(cameras), "tcp://127.0.0.1:0", **keys)
    server.run(lambda: say(server.address))


@contextmanager
def asking_ours(folder: Path, address: str, *, cameras: Sequence[str], curve: bool, codec: Codec) -> Iterator[Ask]:
    """The bridge's client, as a control loop uses it."""
    keys = Keys(folder / "robots" / "robot.key_secret", folder / "server.key") if curve else None
    connection = Connection(address, keys=keys, codecs=(codec,))
    connection.open()
    connection.begin(Task("push the red cube"))
    images = {name: one for name, one in peers.pictures().items() if name in cameras}
    state = peers.proprio()

    def ask() -> Any:
        connection.ask(Observation(images, state, monotonic_ns()))
        while (answer := connection.poll(0.05)) is None:
            assert not connection.trouble, connection.trouble
        return answer.chunk.actions

    yield ask
    connection.close()


def _ours(*, cameras: Sequence[str] = CAMERAS, curve: bool = False, codec: Codec = "raw") -> System:
    return System(
        partial(serve_ours, cameras=cameras, curve=curve),
        partial(asking_ours, cameras=cameras, curve=curve, codec=codec),
    )


OURS = {
    "ours, raw": _ours(),
    "ours, raw + CURVE": _ours(curve=True),
    "ours, JPEG": _ours(codec="jpeg"),
    "ours, state only": _ours(cameras=()),
}


def part() -> None:
    """One of our processes: `bridge_peers.part` with our systems."""
    peers.part(OURS, sys.argv[1:])


@dataclass(frozen=True)
class Pair:
    """A server and its client, a process each; ``told``: what they complain about."""

    name: str
    server: subprocess.Popen[str]
    client: subprocess.Popen[str]
    told: IO[str]

    def times(self, count: int) -> list[float]:
        """Milliseconds of ``count`` round trips, after some that are not counted."""
        assert self.client.stdin is not None
        self.client.stdin.write(f"{WARMUP} {count}\n")
        self.client.stdin.flush()
        return json.loads(_line(self.name, self.client, self.told))


@contextmanager
def running(name: str, python: Path, folder: Path) -> Iterator[Pair]:
    """The two processes of a system; raises `UnderstudyError` when they do not come up."""
    ours = ["-c", "from vla.bench import script; script('bridge').part()"]
    code = ours if name in OURS else ["-I", str(Path(__file__).with_name("bridge_peers.py"))]
    with ExitStack() as stack:
        told = stack.enter_context((folder / f"{name}.txt").open("w+"))

        def start(*arguments: str) -> subprocess.Popen[str]:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": told}
            process = stack.enter_context(subprocess.Popen([str(python), *code, *arguments], text=True, **pipes))
            stack.callback(process.kill)
            return process

        server = start("serve", name, str(folder))
        client = start("ask", name, str(folder), _line(name, server, told))
        yield Pair(name, server, client, told)


def _line(name: str, process: subprocess.Popen[str], told: IO[str]) -> str:
    """The next line that a process says."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        told.seek(0)
        raise UnderstudyError(f"{name} ended: {(told.read().strip().splitlines() or ['no word'])[-1]}")
    return line


def openpi_python(folder: Path = OPENPI) -> Path:
    """The Python that has openpi's client; raises `UnderstudyError` when there is none and none can be made."""
    python = folder / "bin" / "python"
    ready = [str(python), "-I", "-c", "import openpi_client.websocket_client_policy, websockets.asyncio.server"]
    if python.exists() and subprocess.run(ready, capture_output=True, check=False).returncode == 0:
        return python
    own = Path(__file__).resolve().parents[2] / ".venv-uv" / "bin" / "uv"
    uv = str(own) if own.exists() else "uv"
    try:
        for command in (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
            [uv, "pip", "install", "--quiet", "--python", str(python), *OPENPI_NEEDS],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        why = type(error).__name__  # not its text: that names where packages come from
        raise UnderstudyError(f"no environment with openpi's client could be made ({why})") from error
    return python


def prepare(folder: Path) -> None:
    """Keys of ours, and a certificate for TLS where openssl can make one."""
    make_keys(folder, "server")
    make_keys(folder / "robots", "robot")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    try:
        subprocess.run(["openssl", "req", "-x509", *kind, *subject, *files], check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError):
        return  # whoever needs it does not come up, and is left out


def measure(names: Sequence[str], rounds: int, count: int) -> tuple[dict[str, list[list[float]]], list[str]]:
    """Name → milliseconds of each request of each round, in turns; and why a peer is left out."""
    notes: list[str] = []
    with TemporaryDirectory() as made, ExitStack() as stack:
        folder, pairs = Path(made), []
        prepare(folder)
        for name in names:
            try:
                python = openpi_python() if name == "openpi" else Path(sys.executable)
                pair = stack.enter_context(running(name, python, folder))
                pair.times(1)
                pairs.append(pair)
            except UnderstudyError as error:
                if name in OURS:
                    raise
                notes.append(f"{name} is left out: {error}")
        found: dict[str, list[list[float]]] = {pair.name: [] for pair in pairs}
        for turn in range(rounds):
            first = turn % len(pairs)
            for pair in pairs[first:] + pairs[:first]:
                found[pair.name].append(pair.times(count))
    return found, notes


def summary(found: Mapping[str, list[list[float]]]) -> tuple[list[Row], dict[str, float], bool]:
    """Rows, ratios of p50 with larger better, and whether the machine was too noisy to tell.

    Args:
        found: name → rounds → milliseconds of each request.
    """
    rows, samples = [], {}
    for name, rounds in found.items():
        each = [Row.of_times(name, [1e-3 * ms for ms in one]) for one in rounds]
        p50, p99 = (median(getattr(row, what) for row in each) for what in ("p50", "p99"))
        rows.append(Row(name, p50, "ms", p50, p99))
        samples[name] = [row.p50 for row in each]
    ratios = {
        name: Times(samples, ours).ratio(ours, peer)
        for name, (ours, peer) in RATIOS.items()
        if ours in samples and peer in samples
    }
    return rows, ratios, any(Times(samples, name).noisy for name in samples if name in OURS)


def main(argv: list[str]) -> int:
    """``vla bench bridge``."""
    arguments = parser("bridge", __doc__)
    arguments.add_argument("--requests", type=int, help="of each system in each round (1000; 3000 with --long)")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--systems", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS], metavar="NAME")
    given = arguments.parse_args(argv)
    count = given.requests or (3000 if given.long else 1000)
    found, notes = measure(given.systems, given.rounds, count)
    rows, ratios, noisy = summary(found)
    notes.insert(0, f"{given.rounds} rounds of {count} requests; a ratio is the peer's p50 over ours")
    write_bench("bridge", rows, ratios, given.json, noisy=noisy, notes=notes)
    return 0
