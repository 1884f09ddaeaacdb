"""Jobs on several processes: in order, each once, none lost with its worker."""

import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from time import monotonic, sleep

import pytest

from sim.pool import MAX_RESTARTS, default_workers, run_jobs, with_progress

JOBS = """
import os, signal, time
from pathlib import Path


def square(number):
    time.sleep(0.02 * (number % 3))
    return number * number, os.getpid()


def die_once(job):
    folder, number = job
    mark = Path(folder) / f"{number}.seen"
    if number in (2, 5) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_at_four(job):
    folder, number = job
    if number == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(folder) / f"{number}-{time.time_ns()}.done").touch()
    return number


def always_die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(number):
    if number == 3:
        raise ValueError("job 3 is bad")
    return number


def linger(folder):
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(60)


def handles_interrupt(number):
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """The module above, where workers find it."""
    (tmp_path / "pool_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import pool_jobs

    return pool_jobs


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_jobs(jobs, workers):
    results = list(run_jobs(jobs.square, range(9), workers=workers))
    assert [square for square, _ in results] == [number**2 for number in range(9)]
    here = {pid == os.getpid() for _, pid in results}
    assert here == {workers == 0}
    assert len({pid for _, pid in results}) <= max(workers, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_loses_nothing(jobs, tmp_path, workers, caplog):
    todo = [(str(tmp_path), number) for number in range(8)]
    assert list(run_jobs(jobs.die_once, todo, workers=workers)) == list(range(8))
    assert {path.name for path in tmp_path.glob("*.seen")} == {"2.seen", "5.seen"}
    assert "a worker was killed" in caplog.text


def test_a_job_that_always_kills_its_worker_is_given_up(jobs, caplog):
    with pytest.raises(BrokenProcessPool):
        list(run_jobs(jobs.always_die, [1], workers=1))
    assert caplog.text.count("a worker was killed") == MAX_RESTARTS


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_always_kills_may_be_stood_for_and_the_others_are_done_once(jobs, tmp_path, workers):
    todo = [(str(tmp_path), number) for number in range(9)]
    results = list(run_jobs(jobs.die_at_four, todo, workers=workers, lost=lambda job: f"lost {job[1]}"))
    assert results == [0, 1, 2, 3, "lost 4", 5, 6, 7, 8]
    times = {number: len(list(tmp_path.glob(f"{number}-*.done"))) for number in range(9)}
    assert times[4] == 0
    assert all(times[number] <= 2 for number in times)  # those that ran beside it, once more
    assert sum(times.values()) <= 8 + MAX_RESTARTS * workers


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_job_is_the_callers(jobs, workers):
    results = run_jobs(jobs.refuse, range(6), workers=workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="job 3 is bad"):
        next(results)


def runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(true, *, seconds=30):
    end = monotonic() + seconds
    while not true():
        assert monotonic() < end
        sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_leave_with_a_killed_parent(jobs, tmp_path):
    code = f"import pool_jobs, sim.pool; list(sim.pool.run_jobs(pool_jobs.linger, [{str(tmp_path)!r}] * 2, workers=2))"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    parent.kill()
    parent.wait()
    workers = [int(mark.stem) for mark in tmp_path.glob("*.pid")]
    until(lambda: not any(map(runs, workers)))


def test_ctrl_c_is_the_parents_to_handle(jobs):
    assert list(run_jobs(jobs.handles_interrupt, [1], workers=1)) == [True]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_jobs_are_no_results(jobs, workers):
    assert list(run_jobs(jobs.square, [], workers=workers)) == []


def test_progress_passes_everything_on(capsys):
    assert list(with_progress(iter("abc"), what="test", total=5, done=2)) == ["a", "b", "c"]
    assert "5/5" in capsys.readouterr().out
    assert default_workers() >= 1
