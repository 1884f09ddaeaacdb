"""Independent pieces of work on the CPUs of many machines, through Ray: `sim.pool.run_jobs` with ``cluster``.

    cluster=ray                 a Ray of this command's own, on this machine, gone with it
    cluster=auto                the one that runs on this machine (``ray start``)
    cluster=HOST:PORT           the one whose head is there (port 6379, as it comes); this machine belongs to it
    cluster=ray://HOST:PORT     the same from a machine outside of it (port 10001, as it comes)

Jobs go out in small chunks, one thread and one CPU each, and only as far ahead as results are fetched. A chunk whose
worker or machine dies is done again, job by job, so that a job that kills is found; since each job is a pure function,
nothing is lost and no number changes.

What every machine needs: the same versions of what decides numbers (`sim.store.versions`), the same way to OpenGL, and
every path that jobs read or write under the same name, that is, a shared file system. All that is looked at first, on
each machine, and what does not fit is an error that names it. Our own code need not be installed there: a cluster that
is joined gets this command's copy of it (3 MB, kept by each machine), so that no machine works with an older one.

Whoever reaches a Ray cluster can run any code on it: functions, jobs and results travel between its processes as
pickles, ours and only ours. The Ray of ``cluster=ray`` therefore listens on loopback alone and asks for a token that
only this command and its workers know. A cluster of many machines belongs into a network that one trusts, with Ray's
own token (``RAY_AUTH_MODE=token``).
"""

import logging
import os
import platform
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from sim.pool import MAX_RESTARTS, ONE_THREAD, one_thread
from sim.rendering import choose_backend
from sim.store import OURS, versions
from vla.errors import UnderstudyError, first_line

logger = logging.getLogger(__name__)

OWN = "ray"
"""The name of the cluster that is this command's own."""
LONGEST_CHUNK = 16
"""Jobs in a chunk; a task costs about 1 ms, and is what a killed worker costs."""
AHEAD = 8
"""Chunks for each CPU that are sent out before the results of the first are there."""
ANSWER_S = 5.0
"""Within which a cluster has to take a call."""
LOOK_S = 300.0
"""Within which a machine has to start a worker and to import what it needs."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Chunk[Job]:
    """Some jobs in a row, from number ``first`` on; ``deaths``: how often a worker died over them."""

    first: int
    jobs: Sequence[Job]
    deaths: int = 0

    def apart(self, *, deaths: int) -> list["Chunk[Job]"]:
        """One chunk for each job."""
        return [Chunk(self.first + number, [job], deaths) for number, job in enumerate(self.jobs)]


def run_on_ray[Job, Result](
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    cluster: str,
    workers: int,
    preload: Sequence[str] = (),
    paths: Sequence[str | Path] = (),
    lost: Callable[[Job], Result] | None = None,
) -> Iterator[Result]:
    """Yield ``function(job)`` for every job, in the order of ``jobs``; see `sim.pool.run_jobs`.

    ``workers``: CPUs of ``cluster=ray``; any other has its own. Leaving the iteration ends what still runs.

    Raises:
        UnderstudyError: no Ray, no answer from the cluster, or a machine that lacks something.
        BrokenProcessPool: a job over which workers died `MAX_RESTARTS` times more.
    """
    if not jobs:
        return
    ray = _joined(cluster, workers)
    if cluster != OWN:
        _check_machines(ray, preload, [str(Path(path).resolve()) for path in paths])
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < 1:
        raise UnderstudyError(f"the Ray cluster {cluster} has no CPU to offer")
    spread = Spread(ray, function, tuple(preload), chunks_of(jobs, cpus), AHEAD * cpus, lost)
    try:
        yield from spread.results(len(jobs))
    finally:
        spread.stop()


def chunks_of[Job](jobs: Sequence[Job], cpus: int) -> list[Chunk[Job]]:
    """All jobs, in chunks so small that every CPU gets several."""
    size = max(1, min(LONGEST_CHUNK, len(jobs) // (AHEAD * cpus)))
    return [Chunk(first, jobs[first : first + size]) for first in range(0, len(jobs), size)]


@dataclass
class Spread:
    """The chunks of one call: ``waiting`` to be sent out, under way (``flying``), and what came back."""

    ray: ModuleType
    function: Callable[[Any], Any]
    preload: tuple[str, ...]
    waiting: deque[Chunk]
    ahead: int
    lost: Callable[[Any], Any] | None = None
    flying: dict[Any, Chunk] = field(default_factory=dict)
    done: dict[int, Any] = field(default_factory=dict)
    refused: dict[int, BaseException] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = deque(self.waiting)
        self._task = self.ray.remote(num_cpus=1, max_retries=0)(_work)
        self._window = self.ahead * len(self.waiting[0].jobs)

    def results(self, count: int) -> Iterator[Any]:
        """The results of ``count`` jobs, in order; an error where its job stands."""
        for number in range(count):
            while number not in self.done:
                if number in self.refused:
                    raise self.refused[number]
                while self.waiting and self.waiting[0].first < number + self._window:
                    self._send(self.waiting.popleft())
                self._gather()
            yield self.done.pop(number)

    def stop(self) -> None:
        """End what still runs."""
        if self.ray.is_initialized():
            for reference in self.flying:
                self.ray.cancel(reference, force=True)

    def _send(self, chunk: Chunk) -> None:
        self.flying[self._task.remote(self.function, chunk.jobs, self.preload)] = chunk

    def _gather(self) -> None:
        """Wait for one chunk at least, and take in all that have come back."""
        self.ray.wait(list(self.flying), num_returns=1)
        ready, _ = self.ray.wait(list(self.flying), num_returns=len(self.flying), timeout=0)
        for reference in ready:
            chunk = self.flying.pop(reference)
            try:
                results = self.ray.get(reference)
            except self.ray.exceptions.RayTaskError as error:
                self._refuse(chunk, error)
            except _lost(self.ray) as error:
                self._again(chunk, error)
            else:
                self.done |= dict(enumerate(results, start=chunk.first))

    def _refuse(self, chunk: Chunk, error: Any) -> None:
        """Keep the error of a job until its turn; one job's of a chunk is found by doing them one by one."""
        if len(chunk.jobs) > 1:
            self.waiting.extendleft(reversed(chunk.apart(deaths=chunk.deaths)))
        else:
            self.refused[chunk.first] = error.cause

    def _again(self, chunk: Chunk, error: Exception) -> None:
        if chunk.deaths == MAX_RESTARTS and self.lost is not None:
            self.done[chunk.first] = self.lost(chunk.jobs[0])
            return
        if chunk.deaths == MAX_RESTARTS:
            told = f"the worker of job {chunk.first} died {chunk.deaths + 1} times ({first_line(error)}): "
            raise BrokenProcessPool(f"{told}{chunk.jobs[0]!r:.200}") from error
        last = chunk.first + len(chunk.jobs) - 1
        logger.warning("a worker was killed; jobs %d to %d are done again", chunk.first, last)
        self.waiting.extendleft(reversed(chunk.apart(deaths=chunk.deaths + 1)))


def _lost(ray: ModuleType) -> tuple[type[Exception], ...]:
    """What tells that a worker, its machine, or a result that lay there, is gone."""
    names = ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "ObjectLostError")
    return tuple(getattr(ray.exceptions, name) for name in names)


def _work(function: Callable[[Any], Any], jobs: Sequence[Any], preload: tuple[str, ...]) -> list[Any]:
    """A task: the results of a chunk."""
    _prepare(preload)
    return [function(job) for job in jobs]


@cache
def _prepare(preload: tuple[str, ...]) -> None:
    for module in preload:
        import_module(module)
    one_thread()


@cache
def _ray() -> ModuleType:
    # Read when Ray is imported: it reports nothing to its makers, and a command under `uv run` installs nothing anew.
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
    try:
        return import_module("ray")
    except ImportError as error:
        raise UnderstudyError('cluster=… needs Ray: pip install -e ".[cluster]"') from error


_member_of: list[tuple[str, int]] = []
"""The cluster that this process has joined, and with how many workers: one at most."""


def _joined(cluster: str, workers: int) -> ModuleType:
    """Ray, in the ``cluster``: joined when this is first called, left when the process ends."""
    wanted = (cluster, workers if cluster == OWN else 0)
    if _member_of and _member_of[0][0] != cluster:
        raise UnderstudyError(f"this process works on the cluster {_member_of[0][0]}: use {cluster} in another one")
    if _member_of == [wanted] and _ray().is_initialized():
        return _ray()
    leave()
    shared = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster == OWN:
        _start_own(workers, shared)
    else:
        _join(cluster, shared)
    _member_of.append(wanted)
    return _ray()


def leave() -> None:
    """Leave the cluster that was joined, and end it when it is this process's own."""
    if _member_of:
        _member_of.clear()
        _ray().shutdown()


def _start_own(workers: int, shared: dict[str, Any]) -> None:
    # The first lets Ray listen on loopback alone on Linux too; without it every address of the machine is bound, and
    # `_node_ip_address="127.0.0.1"` is replaced (Ray 2.60, services.resolve_ip_for_localhost).
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = _ray()
    # "local" starts one whatever else runs here; without it Ray joins the last one that was started. Its workers would
    # be nicer than all other processes (15), and starve beside a training.
    alone = {"address": "local", "num_cpus": workers, "num_gpus": 0, "include_dashboard": False}
    alone |= {"_system_config": {"worker_niceness": 0}}
    ray.init(**alone, runtime_env={"env_vars": ONE_THREAD}, **shared)
    if (bound := ray.nodes()[0]["NodeManagerAddress"]) != LOOPBACK:
        ray.shutdown()
        raise UnderstudyError(f"Ray listens on {bound} and not on loopback: it was imported before by somebody else")


def _join(address: str, shared: dict[str, Any]) -> None:
    _check_answers(address)
    ray = _ray()
    modules = [str(Path(import_module(name).__file__).parent) for name in OURS]
    environment = {"env_vars": ONE_THREAD, "py_modules": modules, "excludes": ["__pycache__"]}
    try:
        ray.init(address=address, runtime_env=environment, **shared)
    except (ConnectionError, RuntimeError, ImportError, SystemExit) as error:  # it exits where it finds no Ray
        raise UnderstudyError(f"no Ray cluster could be joined at {address}: {first_line(error)}") from error


def _check_answers(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself tries for two minutes, then ends the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdigit():
        raise UnderstudyError(f"cluster={address}: give ray, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise UnderstudyError(
            f"nobody answers at {address} ({error}); on its head machine: ray start --head, which prints the address"
        ) from error


def about_machine(preload: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    """What decides on this machine whether a job gives the same result as on another: name → what it has."""
    about = {"Python": ".".join(platform.python_version_tuple()[:2]), "OpenGL": choose_backend(), **versions()}
    for module in preload:
        try:
            import_module(module)
        except ImportError as error:
            about[f"module {module}"] = f"not importable ({error})"
    return about | {f"path {path}": "missing" for path in paths if not Path(path).exists()}


def _check_machines(ray: ModuleType, preload: Sequence[str], paths: Sequence[str]) -> None:
    """Let every machine look whether it has what this one has; raises `UnderstudyError` naming those that have not."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = about_machine(preload, paths)
    if missing := [name for name, state in here.items() if state == "missing"]:
        raise UnderstudyError(f"this machine has no {', '.join(missing)}")
    look = ray.remote(num_cpus=0, max_retries=0)(about_machine)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        asked[name] = look.options(scheduling_strategy=there).remote(list(preload), list(paths))
    complaints = [told for name, answer in asked.items() if (told := _complaint(ray, name, answer, here))]
    if complaints:
        raise UnderstudyError(f"{len(complaints)} of {len(nodes)} machines do not fit: {'; '.join(complaints[:5])}")


def _complaint(ray: ModuleType, name: str, answer: Any, here: dict[str, str]) -> str:
    try:
        there = ray.get(answer, timeout=LOOK_S)
    except ray.exceptions.RayError as error:
        return f"{name} cannot run our code: {first_line(error)}"
    differing = sorted(key for key in here | there if here.get(key) != there.get(key))
    told = [f"{key} {there.get(key, 'missing')}, here {here.get(key, 'present')}" for key in differing]
    return f"{name} has {', '.join(told)}" if told else ""
