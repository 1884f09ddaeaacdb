"""A policy that fails in its own ways: who is told, and that no server goes on that cannot answer."""

from threading import Thread
from time import monotonic, sleep

import numpy as np
import pytest
from robot_bridge_toys import ToyBrain, observation

from robot_bridge.client import Connection
from robot_bridge.server import PolicyServer
from vla.errors import UnderstudyError
from vla.types import Task


class Miscounting(ToyBrain):
    """Answers ``wrong(chunks)``."""

    wrong = staticmethod(lambda chunks: chunks)

    def infer_together(self, sessions, seen):
        return self.wrong(super().infer_together(sessions, seen))


def until(condition, timeout_s=5.0):
    end = monotonic() + timeout_s
    while not (found := condition()):
        assert monotonic() < end, "it did not happen"
        sleep(0.005)
    return found


def begun(address, arm):
    connection = Connection(address, arm=arm)
    connection.open()
    connection.begin(Task("lift"))
    return connection


def asked(connection, value):
    """What the server says: a chunk's first entry, or the trouble."""
    connection.trouble = ""
    connection.ask(observation(value))
    return heard(connection)


def heard(connection):
    def either():
        found = connection.poll(0.02)
        return float(found.chunk.actions[0, 0]) if found is not None else connection.trouble

    return until(either)


@pytest.fixture
def brain():
    return Miscounting()


@pytest.fixture
def robots(brain):
    with PolicyServer(brain, "tcp://127.0.0.1:0", batch_wait_s=0.2).serving() as server:
        made = [begun(server.address, arm) for arm in ("left", "right", "middle")]
        yield made
        for one in made:
            one.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda chunks: chunks[:-1], "asked for 1 chunks and answered 0"),
        (lambda chunks: [*chunks, *chunks], "asked for 1 chunks and answered 2"),
        (lambda chunks: None, "TypeError"),
        (lambda chunks: [None], "AttributeError"),
    ],
)
def test_too_few_chunks_too_many_or_none_are_an_error_and_the_server_goes_on(brain, wrong, said):
    with PolicyServer(brain, "tcp://127.0.0.1:0").serving() as server:
        robot = begun(server.address, "left")
        brain.wrong = wrong
        assert said in asked(robot, 1.0)
        brain.wrong = lambda chunks: chunks
        assert asked(robot, 2.0) == 2.0
        robot.close()


def test_one_robots_nan_fails_that_robot_alone(brain, robots):
    brain.spoil = lambda actions: np.full_like(actions, np.nan) if actions[0, 0] == 2 else actions
    for value, robot in enumerate(robots, 1):
        robot.ask(observation(value))
    found = [heard(robot) for robot in robots]
    assert brain.batches[-1] == 3
    assert (found[0], found[2]) == (1.0, 3.0)
    assert "NaN" in found[1]


def test_a_server_whose_inference_has_died_ends_with_an_error_and_answers_no_more(brain, monkeypatch):
    server, ended = PolicyServer(brain, "tcp://127.0.0.1:0"), []

    def serve():
        try:
            server.run()
        except UnderstudyError as error:
            ended.append(error)

    thread = Thread(target=serve, daemon=True)
    thread.start()
    until(lambda: server.address)
    robot = begun(server.address, "left")
    assert asked(robot, 3.0) == 3.0

    def die(*about):
        raise MemoryError("no memory is left")

    monkeypatch.setattr(server, "_answers", die)
    robot.ask(observation(4.0))
    thread.join(5.0)
    assert not thread.is_alive()
    assert "no memory is left" in str(ended[0])
    assert isinstance(ended[0].__cause__, MemoryError)
    until(lambda: robot.poll(0.02) is None and robot.trouble)
    robot.close()
