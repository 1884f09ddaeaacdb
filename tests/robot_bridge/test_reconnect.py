"""A connection that breaks at the worst moment, and comes back."""

from threading import Timer
from time import monotonic, sleep

import pytest
from robot_bridge_network import Proxy
from robot_bridge_stage import wait_for
from robot_bridge_toys import ToyBrain, observation

from robot_bridge.client import BridgeError, Connection
from robot_bridge.server import PolicyServer
from robot_bridge.transport import Keys, make_keys
from robot_bridge.wire import Kind, pack_map
from vla.types import Task


@pytest.fixture
def slow_reset(monkeypatch):
    """Tasks that take their time to begin; how many have."""
    begun = []

    def reset(self, task, *, seed=0):
        sleep(0.4)
        begun.append(task.instruction)

    monkeypatch.setattr(type(ToyBrain().session()), "reset", reset)
    return begun


@pytest.fixture
def server():
    with PolicyServer(ToyBrain(), "tcp://127.0.0.1:0").serving() as made:
        yield made


@pytest.fixture
def proxy(server):
    with Proxy(("127.0.0.1", int(server.address.rpartition(":")[2]))) as made:
        yield made


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
def test_an_episode_begins_once_although_the_connection_breaks_meanwhile(proxy, slow_reset, after_s):
    connection = Connection(proxy.address)
    connection.open()
    Timer(after_s, proxy.hang_up).start()
    connection.begin(Task("lift"), timeout_s=5)
    connection.ask(observation(3))
    wait_for(lambda: connection.poll(0.02) is not None)
    assert slow_reset == ["lift"]
    connection.close()


def test_an_episode_begins_although_what_began_it_was_lost(proxy, slow_reset):
    connection = Connection(proxy.address)
    connection.open()
    proxy.weather.cut = True

    def lose():
        proxy.hang_up()
        proxy.heal()

    Timer(0.1, lose).start()
    connection.begin(Task("lift"), timeout_s=5)
    assert slow_reset == ["lift"]
    connection.close()


def test_a_task_that_is_said_again_is_begun_once_and_answered_again(server, slow_reset):
    connection = Connection(server.address)
    connection.open()
    header, heard = connection._header(Kind.RESET), []
    parts = [header.pack(), pack_map({"instruction": "lift"})]
    for _ in range(3):
        connection._say(parts)
    connection._complain = lambda *about: heard.append("error")
    wait_for(lambda: connection.poll(0.02) is None and slow_reset == ["lift"])
    before = server.counts["reset"]
    connection._say(parts)
    answered, told = connection._answer_to(parts, header, Kind.READY, 2.0)
    assert (answered.request, told, heard) == (header.request, {}, [])
    wait_for(lambda: server.counts["reset"] >= before + 2)
    assert slow_reset == ["lift"]
    connection.close()


def test_that_a_server_is_another_one_is_not_forgotten_when_it_goes_too():
    with PolicyServer(ToyBrain(), "tcp://127.0.0.1:0").serving() as first:
        connection = Connection(first.address)
        connection.open()
    with PolicyServer(ToyBrain(), first.address).serving():
        wait_for(lambda: connection.poll(0.01) is None and connection.trouble.startswith("epoch"))
    until = monotonic() + 0.7
    while monotonic() < until:
        connection.poll(0.02)
        assert connection.trouble.startswith("epoch")
    connection.close()


def test_a_refused_robot_is_let_in_once_its_key_is_known(tmp_path):
    public, secret = make_keys(tmp_path, "server")
    known, robot = make_keys(tmp_path / "robots", "robot")
    others = tmp_path / "others"
    make_keys(others, "other")
    keys = Keys(secret)
    with PolicyServer(ToyBrain(), "tcp://127.0.0.1:0", keys=keys, allowed=others).serving() as first:
        connection = Connection(first.address, keys=Keys(robot, public))
        for _ in range(2):
            with pytest.raises(BridgeError, match="does not know our key"):
                connection.open()
        assert first.counts["refused_connections"] >= 2
    with PolicyServer(ToyBrain(), first.address, keys=keys, allowed=known.parent).serving():
        connection.open(3)
        connection.begin(Task("lift"))
    connection.close()
