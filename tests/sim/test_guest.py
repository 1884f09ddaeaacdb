"""A suite in another process is a suite like any other; one that dies, hangs or chatters is dealt with by name."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from sim.guest import PROJECT, GuestSuite, Home
from sim.rollout import Game, Scene, Setting
from sim.suite import Diverged, EnvironmentCrashed
from vla.errors import UnderstudyError


class HereHome(Home):
    """This interpreter."""

    def python(self):
        return Path(sys.executable)


class Toy(GuestSuite):
    """The toy, elsewhere."""

    home = HereHome("toy")
    inside = "toy_guest:ToySuite"
    modules = (PROJECT, Path(__file__).parent)
    patience_s = 60.0


@pytest.fixture(scope="module")
def toy():
    made = Toy(image_size=4)
    yield made
    made.close()


def play(suite, task="toy/add", seed=3):
    """What an episode comes to, by everything that a suite can be asked."""
    suite.reset(task, seed)
    seen = [suite.instruction, suite.steps, suite.success, suite.max_steps]
    act = suite.expert()
    suite.step(act())
    back = suite.keep()
    while not suite.success:
        suite.step(act())
    seen += [suite.steps, suite.observe()]
    back()
    seen += [suite.steps, suite.success, suite.observe(), suite.film(5)]
    with suite.disturbed("light", 2, 0):
        seen.append(suite.observe())
    return [*seen, suite.observe()]


def as_numbers(seen):
    return [
        (one.stamp_ns, one.proprio.tolist(), {name: image.tolist() for name, image in one.images.items()})
        if hasattr(one, "images")
        else np.asarray(one).tolist()
        for one in seen
    ]


def test_it_is_the_same_suite_as_here(toy, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    here = import_module("toy_guest").ToySuite(image_size=4)
    assert toy.spec == here.spec
    assert as_numbers(play(toy)) == as_numbers(play(here))


def test_numbers_come_and_go_exactly(toy):
    toy.reset("toy/add", 0)
    before = toy.observe()
    action = np.array([1 / 3, -1e-9])
    toy.step(action)
    np.testing.assert_array_equal(
        toy.observe().proprio, (np.random.default_rng(0).uniform(0, 1, 2) + action).astype("f4")
    )
    image = before.images["front"]
    assert (image.shape, image.dtype, image.flags.writeable) == ((4, 4, 3), np.uint8, True)
    assert (image == 0).all()


def test_what_is_refused_there_is_refused_here(toy):
    with pytest.raises(UnderstudyError, match="did you mean 'toy/add'"):
        toy.reset("toy/ad", 0)
    toy.reset("toy/print", 0)
    with pytest.raises(UnderstudyError, match="nobody knows how"):
        toy.expert()
    with pytest.raises(UnderstudyError, match="allowed: light"), toy.disturbed("gravity", 1, 0):
        pass
    with pytest.raises(UnderstudyError, match="too small"):
        Toy(refuse="too small")
    toy.reset("toy/diverge", 0)
    with pytest.raises(Diverged, match="it flew away"):
        toy.step(np.zeros(2))


def test_before_the_first_reset_there_is_no_episode():
    suite = Toy()
    with pytest.raises(UnderstudyError, match="call reset"):
        _ = suite.steps
    suite.close()


def test_chatter_does_not_stand_between_answers(toy):
    toy.reset("toy/print", 0)
    for count in range(1, 4):
        toy.step(np.zeros(2))
        assert toy.steps == count


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("toy/die", "killed by SIGSEGV; its last words: .*a driver crashes"),
        ("toy/exit", "exit code 7"),
        ("toy/raise", "exit code 1; its last words: .*the left motor came off"),
    ],
)
def test_a_death_is_named_and_the_next_episode_is_played_by_another(task, told):
    suite = Toy()
    wanted = as_numbers(play(suite))
    suite.reset(task, 0)
    with pytest.raises(EnvironmentCrashed, match=told):
        suite.step(np.zeros(2))
    with pytest.raises(EnvironmentCrashed, match="has ended"):
        suite.step(np.zeros(2))
    assert as_numbers(play(suite)) == wanted
    suite.close()


def test_an_episode_that_dies_before_it_begins_is_counted():
    suite = Toy()
    scene = Scene(Setting("{}"), "toy/stillborn", "toy/stillborn", "random", 0)
    played = Game(scene, suite).advance()
    assert not played.result.success
    assert played.result.fault.startswith(
        "EnvironmentCrashed: the environment's process died while it was asked to 'reset'"
    )
    assert Game(replace(scene, task="toy/add", told="toy/add"), suite).advance().result.fault == ""
    suite.close()


def test_silence_is_ended_and_named(monkeypatch):
    suite = Toy()
    suite.reset("toy/hang", 0)
    monkeypatch.setattr(suite._process, "_patience_s", 0.3)
    with pytest.raises(EnvironmentCrashed, match=r"no answer to 'step' for 0\.3 s"):
        suite.step(np.zeros(2))
    suite.reset("toy/add", 0)
    suite.close()


def test_a_world_that_was_disturbed_when_it_died_says_why():
    suite = Toy()
    suite.reset("toy/exit", 0)
    with pytest.raises(EnvironmentCrashed, match="exit code 7"), suite.disturbed("light", 1, 0):
        suite.step(np.zeros(2))
    suite.close()


def test_a_closed_suite_leaves_no_process_and_can_be_closed_twice():
    suite = Toy()
    child = suite._process._child
    suite.close()
    assert child.poll() is not None
    suite.close()


def test_a_suite_that_nobody_holds_ends_its_process():
    suite = Toy()
    child = suite._process._child
    del suite
    assert child.wait(30) is not None


HOST = """
import sys
from test_guest import Toy
suite = Toy()
suite.reset(sys.argv[1], 0)
print(suite._process._child.pid, flush=True)
suite.step([0.0, 0.0])
sys.stdin.read()
"""


@pytest.mark.parametrize("task", ["toy/add", "toy/hang"])
def test_a_guest_ends_with_its_host_whatever_it_is_doing(task):
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, task],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, Toy.modules))},
    )
    guest = int(host.stdout.readline())
    assert alive(guest)
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdin.close()
    host.stdout.close()
    for _ in range(300):
        if not alive(guest):
            return
        time.sleep(0.1)
    os.kill(guest, signal.SIGKILL)
    pytest.fail("the guest outlived its host by 30 s")


def alive(pid):
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_missing_home_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setenv("UNDERSTUDY_TOY", str(tmp_path))
    with pytest.raises(UnderstudyError, match=r"run `make toy`, or let UNDERSTUDY_TOY"):
        Home("toy").python()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    assert Home("toy").python() == tmp_path / "bin" / "python"
