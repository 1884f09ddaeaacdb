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
from typing import Any

from policies.policy import load_policy
from robot_bridge.brain import Brain, OneByOne
from robot_bridge.metrics import serve_metrics
from robot_bridge.server import PolicyServer
from robot_bridge.transport import Keys, make_keys

logger = logging.getLogger(__name__)

LOOK_S = 0.2
ENDING_S = 5.0

SERVE = """\
example:
  vla serve outputs/train
  vla serve outputs/train --address tcp://0.0.0.0:5555 --key keys/server.key_secret --allow keys/robots
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
    keys = None if given.key is None else Keys(given.key)
    server = PolicyServer(brain, given.address, keys=keys, allowed=given.allow, most_together=given.most_together)

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
    parser.add_argument("--address", default="tcp://127.0.0.1:5555", help="%(default)s; others want keys")
    parser.add_argument("--key", type=Path, help="the server's .key_secret")
    parser.add_argument("--allow", type=Path, help="folder with the .key of each robot that is let in")
    parser.add_argument("--embodiment", default="", help="of a policy for several arms: which")
    parser.add_argument("--quick", action="store_true", help="compile first: a minute, then quicker answers")
    parser.add_argument("--most-together", type=int, default=8, help="robots answered in one batch (%(default)s)")
    parser.add_argument("--metrics", type=int, default=0, help="local port for Prometheus; 0: none")
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
