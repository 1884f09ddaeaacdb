"""The process that records: what was seen and what was sent, episode by episode, as training reads it.

    seen, steps, events, control, task, link ──► Recorder ──► OUT.spools/*.spool ──► Saver ──► the dataset OUT
                                                 appends, drops when it is too slow     a thread; removes the spool

It only reads the rings of a run, so control and seeing cannot wait for it, whatever the disk does. An episode begins
with the policy's first step and ends when the arm has stopped, is armed anew, or the next episode begins. Killed at any
time, it leaves the finished episodes, and the whole part of the one in progress as a spool.

`Run` starts it beside its other processes, with the same two arguments, and does not end when it does:

    target = partial(record, out=Path("recordings/kitchen"))
    context.Process(target=_quiet, args=(target, plan, os.getpid()), name="recorder", daemon=True)

and when the run is closed, the process is told to end like the others (SIGTERM); it then finishes what is to be saved,
which may take seconds. What it had no time for, `save_finished` saves, in any process, or the next recorder does.
"""

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import monotonic_ns, sleep
from typing import Any

from robot_bridge.control import State
from robot_bridge.plan import MESSAGE, Plan, task_of
from robot_bridge.rings import Ring, text
from vla.errors import UnderstudyError, first_line
from vla.spool import Spool, Spooled, episode_of, find_spools
from vla.types import Episode, PolicySpec

logger = logging.getLogger(__name__)

SAVE = "vla.data.recordings:save_episode"
TABLES = ("seen", "steps", "events")
BEFORE = 4
"""Observations kept from before an episode begins: its first step answers one of them."""
POLL_S = 0.01
TELL_NS = 100_000_000
SYNC_NS = 1_000_000_000
SYNC_SHARE = 10
"""At least so many times as long as one sync took passes until the next."""
NICE = 10
_ENDED = (State.IDLE, State.ARMED, State.STOPPED)

Save = Callable[[Path, PolicySpec, Episode], object]


def spools_folder(out: Path) -> Path:
    """Where the spools of recordings into ``out`` lie: beside it, on the same disk."""
    return out.with_name(f"{out.name}.spools")


def record(plan: Plan, parent: int, *, out: Path, save: str = SAVE) -> None:
    """The process: records into the dataset ``out`` until its parent has gone. ``save``: see `Saver`."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with _alone(spools_folder(out)):
        recorder = Recorder(plan, out, save=save)
        try:
            while os.getppid() == parent:
                recorder.turn()
                sleep(POLL_S)
        finally:
            recorder.close()


def save_finished(out: Path, *, save: str = SAVE) -> int:
    """Save what a recorder finished but had no time to save into ``out``; how many episodes. Raises `UnderstudyError`.

    What cannot be saved stays where it is, and the reason is raised when all others are saved.
    """
    with _alone(spools_folder(out)):
        saver = Saver(out, save)
        saver.close()
    if saver.trouble:
        raise UnderstudyError(saver.trouble)
    return saver.saved


class Saver:
    """A thread that makes episodes of finished spools and removes them, the oldest first.

    ``save``: ``module:function``, called with the dataset's folder, the policy's spec and the episode; where its
    libraries are missing, the spools stay, for ``vla data import`` elsewhere.
    """

    def __init__(self, out: Path, save: str = SAVE) -> None:
        self.saved, self.trouble = 0, ""
        self._given = self._done = 0
        self._out, self._target = out, save
        self._files: SimpleQueue[Path | None] = SimpleQueue()
        for file in find_spools(spools_folder(out), unfinished=False):
            self.put(file)
        self._thread = Thread(target=self._work, name="saver")
        self._thread.start()

    def put(self, file: Path) -> None:
        """A finished spool."""
        self._given += 1
        self._files.put(file)

    @property
    def waiting(self) -> int:
        """Finished spools that are not saved yet."""
        return self._given - self._done

    def close(self) -> None:
        """Save what is waiting, and end."""
        self._files.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            module, _, function = self._target.partition(":")
            save: Save = getattr(import_module(module), function)
        except ImportError as error:
            self._complain(f"{error}: episodes stay as spools in {spools_folder(self._out)} for `vla data import`")
            return
        while (file := self._files.get()) is not None:
            self._save(save, file)
            self._done += 1

    def _save(self, save: Save, file: Path) -> None:
        try:
            spooled = Spooled(file)
            if not spooled.counts["steps"]:
                file.unlink()
                return
            save(self._out, spooled.policy, episode_of(spooled))
            file.unlink()
        except (UnderstudyError, ImportError, OSError, MemoryError) as error:
            self._complain(f"{file.name} is kept in {file.parent} and not saved: {first_line(error)}")
        else:
            self.saved += 1

    def _complain(self, message: str) -> None:
        self.trouble = message
        logger.warning(message)


class Recorder:
    """What the process knows; `turn` is one round of its loop.

    ``episode``: the number of the one that is recorded, 0 for none; ``frames``: observations written of it;
    ``dropped``: observations lost in all episodes, because the disk was too slow; ``trouble``: what a person should do.
    """

    def __init__(self, plan: Plan, out: Path, *, save: str = SAVE, rings: dict[str, Ring] | None = None) -> None:
        self.plan, self.rings, self.folder = plan, rings or plan.rings(), spools_folder(out)
        self.episode = self.frames = self.dropped = 0
        self.trouble = ""
        self._at = {name: self.rings[name].written for name in TABLES}
        self._before: deque[Any] = deque(maxlen=BEFORE)
        self._spool: Spool | None = None
        self._count = self._stepped_ns = self._told_ns = self._synced_ns = self._lost = 0
        self._pause_ns = SYNC_NS
        self._refuses = plan.config.shadow
        self.folder.mkdir(parents=True, exist_ok=True)
        self.saver = Saver(out, save)
        if self._refuses:
            self._complain("nothing is sent in shadow mode, so there is nothing to record")

    def turn(self) -> None:
        """Write what has come since the last turn, and end the episode if it has."""
        status, link = self.rings["control"].newest(), self.rings["link"].newest()
        number = 0 if link is None else int(link["episode"])
        news = self._news()
        try:
            for _, table, one in sorted(news, key=lambda item: item[0]):
                self._take(table, one, number)
            self._sync()
            if self._spool is not None and self._is_over(status, number):
                self._end()
        except OSError as error:
            self._give_up(error)
        if monotonic_ns() - self._told_ns > TELL_NS:
            self._tell()

    def close(self) -> None:
        """End the episode in progress with what there is of it, and wait until all is saved."""
        self.turn()
        try:
            if self._spool is not None:
                self._end()
        except OSError as error:
            self._give_up(error)
        self.saver.close()
        self._tell()

    def _news(self) -> list[tuple[int, str, Any]]:
        """Stamp [ns], table and record of everything new."""
        news: list[tuple[int, str, Any]] = []
        for table in TABLES:
            found, self._at[table], lost = self.rings[table].since(self._at[table])
            news += [(int(one["stamp_ns"]), table, one) for one in found]
            if table != "events" and self._spool is not None:
                self._lost += lost
        return news

    def _take(self, table: str, one: Any, number: int) -> None:
        if self._refuses:
            return
        if table == "steps" and self._spool is None:
            self._begin(number)
        if table == "events" and one["code"] == b"order_arm" and one["message"] == b"done" and self._spool is not None:
            self._end()
        if self._spool is not None:
            self._spool.write(table, one)
            self.frames += table == "seen"
        elif table == "seen":
            self._before.append(one)
        if table == "steps":
            self._stepped_ns = int(one["stamp_ns"])

    def _begin(self, number: int) -> None:
        plan, told = self.plan, self.rings["task"].newest()
        self._count += 1
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{self._count:04d}"
        head = {
            "policy": plan.policy.to_dict(),
            "embodiment": plan.arm_spec.embodiment,
            "instruction": "" if told is None else task_of(told)[1].instruction,
            "source": f"bridge {plan.policy.checkpoint or plan.actions or plan.address}, {name}",
        }
        channels = plan.channels()
        self._spool = Spool(self.folder / f"{name}.spool", head, {table: channels[table][0] for table in TABLES})
        self.episode, self.frames, self._lost = number, 0, 0
        while self._before:
            self._spool.write("seen", self._before.popleft())
            self.frames += 1

    def _is_over(self, status: Any, number: int) -> bool:
        stands = status is not None and int(status["state"]) in _ENDED
        return (stands and int(status["stamp_ns"]) > self._stepped_ns) or number != self.episode

    def _end(self) -> None:
        assert self._spool is not None
        file = self._spool.finish()
        if self._lost:
            self.dropped += self._lost
            self._complain(
                f"{self._lost} observations or steps were dropped from episode {self.episode}, {self.frames} written: "
                f"the disk of {self.folder} is too slow"
            )
        self._spool, self.episode = None, 0
        self.saver.put(file)

    def _sync(self) -> None:
        """Now and then; on a disk where that takes long, less often."""
        began_ns = monotonic_ns()
        if self._spool is None or began_ns - self._synced_ns < self._pause_ns:
            return
        self._spool.sync()
        self._synced_ns = monotonic_ns()
        self._pause_ns = max(SYNC_NS, SYNC_SHARE * (self._synced_ns - began_ns))

    def _give_up(self, error: OSError) -> None:
        """Record no more in this run; the arm goes on."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else f"cannot write ({error})"
        self._refuses = True
        if self._spool is not None:
            with contextlib.suppress(OSError):
                self._spool.close()
        self._complain(f"{why}: recording has ended, episode {self.episode} is cut off in {self.folder}")
        self._spool, self.episode = None, 0

    def _complain(self, message: str) -> None:
        self.trouble = message
        logger.warning(message)

    def _tell(self) -> None:
        self._told_ns = monotonic_ns()
        self.rings["recorder"].write(
            stamp_ns=self._told_ns,
            episode=self.episode,
            frames=self.frames,
            dropped=self.dropped + (self._lost if self._spool is not None else 0),
            saved=self.saver.saved,
            waiting=self.saver.waiting,
            trouble=text(self.trouble or self.saver.trouble, MESSAGE),
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else records into this folder meanwhile; the lock goes with the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UnderstudyError(f"another process records into {folder}: give another folder") from error
        yield
