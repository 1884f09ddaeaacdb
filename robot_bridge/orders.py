"""The operator's own way to the arm: a local socket that only the control process reads, once every tick.

It needs no server, no network and no other process of ours: ``stop`` is heard within a tick even when all else hangs.

    vla order stop                       # to every run of this user
"""

import argparse
import os
import shutil
import socket
import stat
import sys
import tempfile
from pathlib import Path
from time import time

from robot_bridge.control import ORDERS
from vla.errors import UnderstudyError

SOCKET = "operator.sock"
_LONGEST = 64
_YOUNG_S = 1.0
"""Age up to which a socket that does not answer may be one that is just being made."""


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


def listening_runs() -> list[Path]:
    """The folders of this user's runs whose arm hears orders; what runs that were killed have left is swept away."""
    return [file.parent for file in sorted(runs_folder().glob(f"understudy-run-*/{SOCKET}")) if _listens(file)]


def _listens(file: Path) -> bool:
    try:
        folder = file.parent.stat(follow_symlinks=False)
        if folder.st_uid != os.getuid() or not stat.S_ISDIR(folder.st_mode):
            return False
        born_s = file.stat(follow_symlinks=False).st_mtime
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
            made.connect(str(file))
    except ConnectionRefusedError:
        if time() - born_s > _YOUNG_S:
            shutil.rmtree(file.parent, ignore_errors=True)
        return False
    except OSError:  # it has ended meanwhile
        return False
    return True


def addressed(word: str) -> list[Path]:
    """The folders of the runs that ``word`` is meant for: ``stop`` is for all, anything else for the only one.

    Raises `UnderstudyError` when there is none, or when it is not clear which.
    """
    found = listening_runs()
    if not found:
        raise UnderstudyError("no run is under way: start one with `vla drive`")
    if word != "stop" and len(found) > 1:
        listed = ", ".join(map(str, found))
        raise UnderstudyError(f"{len(found)} runs are under way; say which should {word}, with --run: {listed}")
    return found


def main(argv: list[str]) -> int:
    """``vla order``."""
    parser = argparse.ArgumentParser(
        "vla order",
        description="Say something to the arms of the runs that are under way on this machine.",
        epilog="example:\n  vla order stop",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("order", choices=ORDERS)
    parser.add_argument("--run", type=Path, help="folder of the run; if not given: all for stop, else the only one")
    given = parser.parse_args(argv)
    deaf = []
    for folder in [given.run] if given.run else addressed(given.order):
        try:
            give_order(folder, given.order)
        except UnderstudyError as error:
            deaf.append(str(error))  # the others are to hear it all the same
        else:
            sys.stdout.write(f"said {given.order} to {folder.name}\n")
    if deaf:
        raise UnderstudyError("; ".join(deaf))
    return 0
