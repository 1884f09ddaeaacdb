"""``vla serve CHECKPOINT`` and ``vla keys``."""

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from time import sleep
from types import FrameType
from typing import Any, get_args

from policies.execution import Ensemble, ExecutionConfig
from policies.policy import load_policy
from robot_bridge.brain import Brain, OneByOne
from robot_bridge.metrics import serve_metrics
from robot_bridge.server import PolicyServer
from robot_bridge.transport import Keys, make_keys
from vla.errors import UnderstudyError

logger = logging.getLogger(__name__)

LOOK_S = 0.2
ENDING_S = 5.0

SERVE = """\
example:
  vla serve outputs/train
  vla serve outputs/train --address tcp://0.0.0.0:5555 --key keys/server.key_secret --allow keys/robots
  vla serve outputs/train --protocol vla-eval --map front=agentview wrist=wrist state=states
"""
KEYS = """\
Makes two pairs of keys: one for a server, one for a robot. Copy FOLDER/server.key and the robot's .key_secret to the
robot, and keep FOLDER/robots, whose keys the server lets in.

example:
  vla keys keys --robot left
  vla serve outputs/train --address tcp://0.0.0.0:5555 --key keys/server.key_secret --allow keys/robots
"""


def main(argv: list[str]) -> int:
    """``vla serve``."""
    given = _serve_arguments().parse_args(argv)
    if given.with_parent:
        threading.Thread(target=_end_with, args=(given.with_parent,), daemon=True).start()
    policy: Any = load_policy(given.checkpoint, embodiment=given.embodiment)
    if given.quick:
        policy.hasten()
    brain: Brain = policy if hasattr(policy, "infer_together") else OneByOne(policy)
    server = _server(given, brain) if given.protocol == "understudy" else _foreign(given, brain)

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        server.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with serve_metrics(server, port=given.metrics):
        server.run()
    answered = server.counts["answered"]
    logger.info("%d answers, %d refused messages", answered, server.counts["refused"])
    return 0


def _server(given: argparse.Namespace, brain: Brain) -> PolicyServer:
    if given.map or given.token or given.ensemble or given.exec_horizon:
        raise UnderstudyError("--map, --token, --ensemble and --exec-horizon go with --protocol vla-eval or gr00t")
    keys = None if given.key is None else Keys(given.key)
    address = given.address or "tcp://127.0.0.1:5555"
    return PolicyServer(brain, address, keys=keys, allowed=given.allow, most_together=given.most_together)


def _foreign(given: argparse.Namespace, brain: Brain) -> Any:
    """A server that speaks another project's protocol; its libraries are loaded only now."""
    from robot_bridge.foreign import gr00t, vla_eval
    from robot_bridge.foreign.episode import check_embodiment, read_token
    from robot_bridge.foreign.table import Table, read_map

    if given.key or given.allow:
        raise UnderstudyError(f"the protocol {given.protocol} knows no keys: give --token FILE")
    check_embodiment(given.checkpoint, given.embodiment)
    table, token = Table.server(brain.spec, read_map(given.map), given.protocol), read_token(given.token)
    if given.protocol == "vla-eval":
        execution = ExecutionConfig(given.ensemble or ExecutionConfig.ensemble, exec_horizon=given.exec_horizon)
        return vla_eval.HarnessServer(brain, table, given.address or vla_eval.ADDRESS, execution=execution, token=token)
    if given.ensemble or given.exec_horizon:
        raise UnderstudyError("a client of GR00T's is given whole chunks, and carries them out as it is told there")
    return gr00t.Gr00tServer(brain, table, given.address or gr00t.ADDRESS, token=token)


def _end_with(parent: int) -> None:
    """End this process once its parent has gone: in order, and if that does not help, at once."""
    while os.getppid() == parent:
        sleep(LOOK_S)
    for last_word in (signal.SIGTERM, signal.SIGKILL):
        os.kill(os.getpid(), last_word)
        sleep(ENDING_S)


def _serve_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vla serve",
        description="Answer robots' observations with chunks of actions.",
        epilog=SERVE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint")
    parser.add_argument("--address", help="the protocol's own port of this machine; others want keys, or a token")
    parser.add_argument("--key", type=Path, help="the server's .key_secret")
    parser.add_argument("--allow", type=Path, help="folder with the .key of each robot that is let in")
    parser.add_argument("--embodiment", default="", help="of a policy for several arms: which")
    parser.add_argument("--quick", action="store_true", help="compile first: a minute, then quicker answers")
    parser.add_argument("--most-together", type=int, default=8, help="robots answered in one batch (%(default)s)")
    parser.add_argument("--metrics", type=int, default=0, help="local port for Prometheus; 0: none")
    parser.add_argument(
        "--protocol",
        default="understudy",
        choices=("understudy", "vla-eval", "gr00t"),
        help="of the clients: our robots, allenai's evaluation harness, or GR00T's clients (%(default)s)",
    )
    foreign = parser.add_argument_group("clients of others (robot_bridge/foreign/README.md)")
    foreign.add_argument("--map", nargs="+", default=[], metavar="NAME=THEIRS", help="what is called how, or a .yaml")
    foreign.add_argument("--token", type=Path, metavar="FILE", help="a secret, for addresses that others can reach")
    foreign.add_argument("--ensemble", choices=get_args(Ensemble), help="vla-eval: of chunks that overlap (adaptive)")
    foreign.add_argument("--exec-horizon", type=int, help="vla-eval: steps between two chunks; the policy's own")
    # the process that started this one, and without which it is of no use
    parser.add_argument("--with-parent", type=int, default=0, metavar="PID", help=argparse.SUPPRESS)
    return parser


def keys(argv: list[str]) -> int:
    """``vla keys``."""
    parser = argparse.ArgumentParser("vla keys", description=KEYS, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--robot", default="robot", help="name of the robot (%(default)s)")
    given = parser.parse_args(argv)
    if not (given.folder / "server.key_secret").exists():
        make_keys(given.folder, "server")
    public, secret = make_keys(given.folder, given.robot)
    known = given.folder / "robots"
    known.mkdir(exist_ok=True)
    public.rename(known / public.name)
    sys.stdout.write(
        f"the server's:  vla serve … --key {given.folder / 'server.key_secret'} --allow {known}\n"
        f"the robot's:   copy {given.folder / 'server.key'} and {secret} there, by a way that nobody reads\n"
    )
    return 0
