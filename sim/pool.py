"""Independent pieces of work on several processes: one result each, in order, and no piece lost with a worker.

Processes are forked from a clean server that has already imported what the work needs, so that a worker starts in
milliseconds; nothing of the parent's state (threads, OpenGL contexts, locks) is inherited.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3


def run_jobs[Job, Result](
    function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int, preload: Sequence[str] = ()
) -> Iterator[Result]:
    """Yield ``function(job)`` for every job, in the order of ``jobs``; ``preload``: modules that workers find imported.

    A worker that is killed costs the jobs that were running: they are done again in a new pool. ``workers=0`` runs
    everything in this process, for debugging.
    """
    if workers == 0:
        yield from map(function, jobs)
        return
    left = dict(enumerate(jobs))
    for attempt in range(MAX_RESTARTS + 1):
        try:
            for number, result in _one_pool(function, left, workers=min(workers, len(left)), preload=preload):
                del left[number]
                yield result
            return
        except BrokenProcessPool:
            if attempt == MAX_RESTARTS:
                raise
            logger.warning("a worker was killed; %d of %d jobs go on in new workers", len(left), len(jobs))


def start_server(preload: Sequence[str]) -> None:
    """Start the process that workers are forked from, unless it runs, and let it import ``preload`` in the background.

    There is one such process: what a later pool wants imported as well has to stand in the first ``preload``.
    """
    multiprocessing.set_forkserver_preload([*preload])
    forkserver.ensure_running()


def _one_pool[Job, Result](
    function: Callable[[Job], Result], jobs: dict[int, Job], *, workers: int, preload: Sequence[str]
) -> Iterator[tuple[int, Result]]:
    if not jobs:
        return
    context = multiprocessing.get_context("forkserver")
    start_server(preload)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        futures = {number: pool.submit(function, job) for number, job in jobs.items()}
        for number, future in futures.items():
            yield number, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """One thread of work for each worker; Ctrl-C is the parent's to handle, a parent that is killed takes it along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"):
        os.environ[name] = "1"  # read when torch, MKL or Mesa are loaded, which may be later
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
