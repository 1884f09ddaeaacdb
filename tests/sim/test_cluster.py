"""The same jobs on Ray: the results of this machine's processes, in order, whoever is killed meanwhile."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from sim import cluster
from sim.pool import MAX_RESTARTS, run_jobs
from vla.errors import UnderstudyError

JOBS = """
import os, signal, time
from pathlib import Path

import numpy as np


def draw(seed):
    values = np.random.default_rng(seed).standard_normal((40, 40)).astype(np.float32)
    return float(np.linalg.svd(values @ values, compute_uv=False).sum())


def slow_draw(job):
    folder, seed = job
    (Path(folder) / f"{seed}-{os.getpid()}").touch()
    time.sleep(0.05)
    return draw(seed)


def die_once(job):
    folder, number = job
    mark = Path(folder) / f"{number}.seen"
    if number in (2, 5) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def always_die(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number):
    if number == 37:
        raise ValueError("job 37 is bad")
    return number


def linger(folder):
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(600)


def surroundings(number):
    return [os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")]
"""


@pytest.fixture(scope="session")
def jobs(tmp_path_factory):
    """The module above, where workers find it; the Ray of this process ends with the tests."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "cluster_jobs.py").write_text(JOBS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))
        import cluster_jobs

        yield cluster_jobs
        cluster.leave()


def on_ray(function, todo):
    return run_jobs(function, todo, workers=2, cluster="ray", preload=("numpy",))


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(true, *, seconds=60):
    end = monotonic() + seconds
    while not true():
        assert monotonic() < end
        sleep(0.05)


def test_results_are_those_of_this_process_in_order(jobs):
    assert list(on_ray(jobs.draw, range(100))) == list(run_jobs(jobs.draw, range(100), workers=0))
    assert list(on_ray(jobs.draw, [])) == []
    assert list(on_ray(jobs.surroundings, [0])) == [["1", "1", "1"]]


def test_chunks_hold_every_job_once_and_leave_every_cpu_several():
    for count, cpus in [(1, 4), (7, 2), (100, 2), (10_000, 3), (10_000, 1000)]:
        chunks = cluster.chunks_of(range(count), cpus)
        assert [job for chunk in chunks for job in chunk.jobs] == list(range(count))
        assert [chunk.first for chunk in chunks] == [chunk.jobs[0] for chunk in chunks]
        assert max(len(chunk.jobs) for chunk in chunks) <= cluster.LONGEST_CHUNK
        assert len(chunks) >= min(count, cluster.AHEAD * cpus)


def test_no_more_is_sent_out_than_the_window_allows(jobs, tmp_path):
    todo = [(str(tmp_path), seed) for seed in range(400)]
    results = on_ray(jobs.slow_draw, todo)
    next(results)
    sleep(1.0)
    window = cluster.AHEAD * 2 * cluster.LONGEST_CHUNK
    assert len(list(tmp_path.iterdir())) <= window < len(todo)
    results.close()


def test_a_worker_killed_from_outside_loses_nothing_and_changes_no_number(jobs, tmp_path, caplog):
    todo = [(str(tmp_path), seed) for seed in range(60)]
    results = on_ray(jobs.slow_draw, todo)
    found = [next(results) for _ in range(5)]
    newest = max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    os.kill(int(newest.name.partition("-")[2]), signal.SIGKILL)
    found += results
    assert found == [jobs.draw(seed) for seed in range(60)]
    assert "a worker was killed" in caplog.text
    assert len({file.name.partition("-")[2] for file in tmp_path.iterdir()}) >= 3


def test_workers_that_kill_themselves_lose_nothing(jobs, tmp_path):
    todo = [(str(tmp_path), number) for number in range(8)]
    assert list(on_ray(jobs.die_once, todo)) == list(range(8))
    assert {path.name for path in tmp_path.glob("*.seen")} == {"2.seen", "5.seen"}


def test_a_job_that_always_kills_its_worker_is_named_after_those_before_it(jobs, caplog):
    results = on_ray(jobs.always_die, range(4))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BrokenProcessPool, match=f"job 3 died {MAX_RESTARTS + 1} times.*: 3$"):
        next(results)
    assert caplog.text.count("jobs 3 to 3 are done again") == MAX_RESTARTS


def test_an_error_in_a_job_is_the_callers_after_the_results_before_it(jobs):
    results = on_ray(jobs.refuse, range(64))  # in chunks of four
    assert [next(results) for _ in range(37)] == list(range(37))
    with pytest.raises(ValueError, match="job 37 is bad"):
        next(results)


def test_leaving_half_way_ends_what_runs_and_the_next_jobs_go_on(jobs, tmp_path):
    results = on_ray(lambda job: jobs.linger(job) if job else 0, ["", *[str(tmp_path)] * 3])
    assert next(results) == 0
    until(lambda: len(list(tmp_path.glob("*.pid"))) >= 2)
    results.close()
    until(lambda: not any(alive(int(mark.stem)) for mark in tmp_path.glob("*.pid")))
    assert list(on_ray(jobs.draw, [1])) == [jobs.draw(1)]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks for sockets in /proc")
def test_its_own_ray_listens_on_loopback_alone_and_wants_a_token(jobs):
    list(on_ray(jobs.draw, [1]))
    session = {str(process) for process in _family(os.getpid())}
    listening = []
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        sockets = {row[9]: row[1].partition(":")[0] for row in rows if row[3] == "0A"}
        listening += [sockets[inode] for process in session for inode in _sockets(process) if inode in sockets]
    assert len(listening) >= 4
    assert {address[-8:] for address in listening} <= {"0100007F", "01000000"}  # 127.0.0.1 or ::1
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32


def _family(root):
    """A process and all that descend from it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if alive(folder.name):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def _sockets(process):
    links = []
    for entry in Path(f"/proc/{process}/fd").glob("*"):
        try:
            links.append(str(entry.readlink()))
        except OSError:
            continue
    return [link[8:-1] for link in links if link.startswith("socket:")]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_command_that_is_stopped(jobs, tmp_path, how):
    todo = f"[{str(tmp_path)!r}] * 2"
    code = f"import cluster_jobs as c, sim.pool as p\nlist(p.run_jobs(c.linger, {todo}, workers=2, cluster='ray'))"
    path = os.pathsep.join([str(Path(jobs.__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    family = _family(parent.pid)
    assert len(family) > 4
    parent.send_signal(how)
    parent.wait(30)
    until(lambda: not any(alive(int(mark.stem)) for mark in tmp_path.glob("*.pid")))
    # After a kill two watchers of Ray's own look for their parent for up to two minutes more.
    until(lambda: not any(map(alive, family)), seconds=60 if how == signal.SIGINT else 180)


def test_an_address_where_nobody_answers_is_said_in_seconds():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = monotonic()
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(UnderstudyError, match=f"nobody answers at {address}.*ray start --head"):
            cluster._check_answers(address)
    assert monotonic() - began < 2 * cluster.ANSWER_S
    for address in ("head", "head:", "ray://head"):
        with pytest.raises(UnderstudyError, match="give ray, auto, HOST:PORT"):
            cluster._check_answers(address)


def test_one_process_works_on_one_cluster_and_not_without_workers(jobs):
    list(on_ray(jobs.draw, [1]))
    with pytest.raises(UnderstudyError, match="works on the cluster ray: use auto in another one"):
        list(run_jobs(jobs.draw, [1], workers=2, cluster="auto"))
    with pytest.raises(UnderstudyError, match="workers=0 works in this process"):
        list(run_jobs(jobs.draw, [1], workers=0, cluster="ray"))


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    cluster._ray.cache_clear()
    with pytest.raises(UnderstudyError, match=r"\[cluster\]"):
        cluster._ray()
    cluster._ray.cache_clear()


def test_a_machine_tells_what_decides_its_numbers_and_what_it_lacks(tmp_path):
    about = cluster.about_machine(["numpy", "no_such_module"], [str(tmp_path), str(tmp_path / "gone")])
    assert about["numpy"] == np.__version__
    assert about["OpenGL"] in ("egl", "osmesa", "glfw", "none")
    assert "not importable" in about["module no_such_module"]
    assert about[f"path {tmp_path / 'gone'}"] == "missing"
    assert f"path {tmp_path}" not in about


class FakeRay:
    """Answers of machines, for `cluster._complaint`."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

    def get(self, answer, timeout):
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_machine_that_differs_is_named_with_what_differs():
    here = {"numpy": "2.2.0", "OpenGL": "egl"}
    told = cluster._complaint(FakeRay(), "node-7 (10.0.0.7)", {"numpy": "2.2.0", "OpenGL": "none"}, here)
    assert told == "node-7 (10.0.0.7) has OpenGL none, here egl"
    told = cluster._complaint(FakeRay(), "node-7", {**here, "path /data/policy": "missing"}, here)
    assert told == "node-7 has path /data/policy missing, here present"
    assert cluster._complaint(FakeRay(), "node-7", dict(here), here) == ""
    broken = FakeRay.exceptions.RayError("no module named torch")
    assert "node-7 cannot run our code: no module named torch" in cluster._complaint(FakeRay(), "node-7", broken, here)


TWO_MACHINES = """
import numpy as np
from ray.cluster_utils import Cluster
from sim.collect import Attempt, record
from sim.pool import run_jobs
from vla.errors import UnderstudyError

machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
other = machines.add_node(num_cpus=1)
attempts = [Attempt("tabletop/press-button", seed, 0.3, 4, '{"image_size": 32}') for seed in range(12)]
where = {"workers": 2, "cluster": machines.address, "preload": ("sim.collect", "sim.tasks.tabletop")}
try:
    list(run_jobs(record, attempts, **where, paths=["/no/such/checkpoint"]))
except UnderstudyError as error:
    print(error)
episodes = run_jobs(record, attempts, **where, paths=["."])
found = [next(episodes)]
machines.remove_node(other, allow_graceful=False)
for episode, attempt in zip([*found, *episodes], attempts, strict=True):
    again = record(attempt)
    assert np.array_equal(episode.actions, again.actions)
    for name, images in episode.images.items():
        assert np.array_equal(images(), again.images[name]())
print("the same", len(attempts))
"""


@pytest.mark.slow
def test_a_machine_that_dies_loses_nothing_and_changes_no_number():
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", TWO_MACHINES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "this machine has no path /no/such/checkpoint" in done.stdout
    assert "the same 12" in done.stdout
