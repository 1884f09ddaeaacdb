"""Independent pieces of work on several processes: one result each, in order, and no piece lost with a worker.

They are this machine's, or, with ``cluster``, those of one or many machines that Ray keeps (`sim.cluster`). Processes
of this machine are forked from a clean server that has already imported what the work needs, so that a worker starts
in milliseconds; nothing of the parent's state (threads, OpenGL contexts, locks) is inherited.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vla.errors import UnderstudyError

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1")
"""Environment of a worker: read when torch, MKL or Mesa are loaded."""


def run_jobs[Job, Result](
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    preload: Sequence[str] = (),
    cluster: str = "",
    paths: Sequence[str | Path] = (),
    lost: Callable[[Job], Result] | None = None,
) -> Iterator[Result]:
    """Yield ``function(job)``, a pure function of each job, in the order of ``jobs``.

    A worker that is killed costs the jobs that were running: they are done again by another. ``workers=0`` runs
    everything in this process, for debugging.

    Args:
        function: of a module that workers can import.
        jobs: what it is called with.
        workers: processes of this machine; a cluster elsewhere has as many as it has CPUs.
        preload: modules that workers find imported.
        cluster: "" for this machine's processes, ``ray`` or the address of a Ray cluster; see `sim.cluster`.
        paths: what jobs read or write, which every machine of a cluster has to see.
        lost: what stands for the result of a job that took its worker along `MAX_RESTARTS` times more.

    Raises:
        BrokenProcessPool: such a job, where nothing is to stand for it.
    """
    if cluster:
        from sim.cluster import run_on_ray

        if workers == 0:
            raise UnderstudyError(f"workers=0 works in this process: leave out either it or cluster={cluster}")
        about = {"cluster": cluster, "workers": workers, "preload": preload, "paths": paths}
        yield from run_on_ray(function, jobs, lost=lost, **about)
    elif workers == 0:
        yield from map(function, jobs)
    else:
        yield from _in_pools(function, jobs, workers, preload, lost)


def _in_pools[Job, Result](
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    preload: Sequence[str],
    lost: Callable[[Job], Result] | None,
) -> Iterator[Result]:
    """Pool after pool: each lasts until a worker dies. Whose fault that was is found among those that were running."""
    left, done, number = dict(enumerate(jobs)), {}, 0
    while number < len(jobs):
        try:
            for finished, future in _one_pool(function, left, workers=min(workers, len(left)), preload=preload):
                done[finished] = future
                del left[finished]
                while number in done:
                    yield done.pop(number).result()
                    number += 1
        except BrokenProcessPool:
            logger.warning("a worker was killed; %d of %d jobs go on in new workers", len(left), len(jobs))
            for suspect in list(left)[:workers]:
                done[suspect] = _by_itself(function, left.pop(suspect), preload, lost)
            while number in done:
                yield done.pop(number).result()
                number += 1


def _by_itself[Job, Result](
    function: Callable[[Job], Result], job: Job, preload: Sequence[str], lost: Callable[[Job], Result] | None
) -> "Future[Result]":
    """One job in a worker of its own."""
    for _ in range(MAX_RESTARTS - 1):
        try:
            ((_, future),) = _one_pool(function, {0: job}, workers=1, preload=preload)
            return future
        except BrokenProcessPool:
            logger.warning("a worker was killed once more by the same job")
    try:
        ((_, future),) = _one_pool(function, {0: job}, workers=1, preload=preload)
    except BrokenProcessPool:
        if lost is None:
            raise
        future = Future()
        future.set_result(lost(job))
    return future


def start_server(preload: Sequence[str]) -> None:
    """Start the process that workers are forked from, unless it runs, and let it import ``preload`` in the background.

    There is one such process: what a later pool wants imported as well has to stand in the first ``preload``.
    """
    multiprocessing.set_forkserver_preload([*preload])
    forkserver.ensure_running()


def _one_pool[Job, Result](
    function: Callable[[Job], Result], jobs: dict[int, Job], *, workers: int, preload: Sequence[str]
) -> "Iterator[tuple[int, Future[Result]]]":
    """Jobs as they end, with their numbers; raises `BrokenProcessPool` when a worker dies."""
    context = multiprocessing.get_context("forkserver")
    start_server(preload)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker)
    try:
        futures = {pool.submit(function, job): number for number, job in jobs.items()}
        for future in as_completed(futures):
            if isinstance(error := future.exception(), BrokenProcessPool):
                raise error
            yield futures[future], future
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def start_worker() -> None:
    """One thread of work for each worker; Ctrl-C is the parent's to handle, a parent that is killed takes it along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    one_thread()


def one_thread() -> None:
    """Work on one thread from now on: episodes run beside each other, and sums of one order are the same everywhere."""
    os.environ.update(ONE_THREAD)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def _follow_parent() -> None:
    """Leave when the process that made the pool is gone; a queue that nobody fills again would be waited for."""
    multiprocessing.parent_process().join()
    os._exit(1)


def default_workers() -> int:
    """One for each processor that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def with_progress[Result](results: Iterable[Result], *, what: str, total: int, done: int = 0) -> Iterator[Result]:
    """Pass ``results`` on under a progress bar with the time left."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task(what, total=total, completed=done)
        for result in results:
            progress.advance(bar)
            yield result
