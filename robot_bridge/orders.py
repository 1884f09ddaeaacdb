"""The operator's own way to the arm: a local socket that only the control process reads, once every tick.

It needs no server, no network and no other process of ours: ``stop`` is heard within a tick even when all else hangs.

    vla order stop                       # of the run that was started last
"""

import argparse
import os
import socket
import sys
import tempfile
from pathlib import Path

from robot_bridge.control import ORDERS
from vla.errors import UnderstudyError

SOCKET = "operator.sock"
_LONGEST = 64


class OrderSocket:
    """Where orders arrive; open to the user who started the run, and to nobody else."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / SOCKET
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        before = os.umask(0o177)
        try:
            self._socket.bind(str(self._file))
        finally:
            os.umask(before)
        self._socket.setblocking(False)

    def read(self) -> list[str]:
        """The orders that have come since; what is no order is dropped. Never waits."""
        found: list[str] = []
        while True:
            try:
                word = self._socket.recv(_LONGEST)
            except BlockingIOError:
                return found
            found += [known for known in ORDERS if word == known.encode()]

    def close(self) -> None:
        """Take it away."""
        self._socket.close()
        self._file.unlink(missing_ok=True)


def give_order(folder: Path, word: str) -> None:
    """Say ``arm``, ``reset`` or ``stop`` to the run in ``folder``; raises `UnderstudyError` when nobody listens."""
    if word not in ORDERS:
        raise UnderstudyError(f"an order is {', '.join(ORDERS)}; got {word!r}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        try:
            made.sendto(word.encode(), str(folder / SOCKET))
        except OSError as error:
            raise UnderstudyError(f"nobody listens in {folder}: {error.strerror}") from error


def runs_folder() -> Path:
    """Where the folders of runs lie: in memory, if this machine has such a place."""
    memory = Path("/dev/shm")  # noqa: S108 folders that only their owner can read are made in it
    return memory if memory.is_dir() else Path(tempfile.gettempdir())


def newest_run() -> Path:
    """The folder of the run that was started last; raises `UnderstudyError`."""
    found = [file.parent for file in runs_folder().glob(f"understudy-run-*/{SOCKET}") if os.access(file, os.W_OK)]
    if not found:
        raise UnderstudyError("no run is under way: start one with `vla drive`")
    return max(found, key=lambda folder: folder.stat().st_mtime)


def main(argv: list[str]) -> int:
    """``vla order``."""
    parser = argparse.ArgumentParser(
        "vla order",
        description="Say something to the arm of a run that is under way on this machine.",
        epilog="example:\n  vla order stop",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("order", choices=ORDERS)
    parser.add_argument("--run", type=Path, help="folder of the run; the last one started, if not given")
    given = parser.parse_args(argv)
    folder = given.run or newest_run()
    give_order(folder, given.order)
    sys.stdout.write(f"said {given.order} to {folder.name}\n")
    return 0
