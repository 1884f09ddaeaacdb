"""Server and robots over real sockets: who gets which answer, and what is dropped."""

import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import numpy as np
import pytest
import zmq
from robot_bridge_toys import SPEC, ToyBrain, observation

from policies.policy import Underway
from robot_bridge.brain import OneByOne
from robot_bridge.client import BridgeError, Connection, RemotePolicy
from robot_bridge.server import PolicyServer
from robot_bridge.transport import Keys, is_local, make_keys, socket
from robot_bridge.wire import Header, Kind, pack_map
from vla.errors import UnderstudyError
from vla.types import Task


@pytest.fixture
def brain():
    return ToyBrain()


@pytest.fixture
def server(brain):
    with PolicyServer(brain, "tcp://127.0.0.1:0").serving() as made:
        yield made


@pytest.fixture
def connect(server):
    """``connect(arm="left")``: a connection that is open."""
    made = []

    def make(address=None, **settings):
        connection = Connection(address or server.address, **{"arm": f"arm {len(made)}", **settings})
        made.append(connection)
        connection.open()
        return connection

    yield make
    for connection in made:
        connection.close()


def wait_for(condition, timeout_s=3.0):
    until = monotonic() + timeout_s
    while not condition():
        assert monotonic() < until, "it did not happen"
        sleep(0.005)


def answer(connection, timeout_s=3.0):
    until = monotonic() + timeout_s
    while monotonic() < until:
        found = connection.poll(0.02)
        if found is not None:
            return found
    raise AssertionError(f"no answer: {connection.trouble}")


def test_a_remote_policy_answers_as_the_policy_does(server):
    remote = RemotePolicy(Connection(server.address))
    assert remote.spec == SPEC
    remote.reset(Task("lift"), seed=3)
    chunk = remote.infer(observation(1.5, stamp_ns=77))
    np.testing.assert_array_equal(chunk.actions, np.tile(np.float32([1.5, 3, 4]), (4, 1)))
    assert (chunk.stamp_ns, chunk.dt) == (77, 0.05)
    going = Underway(np.full((3, 3), 9, np.float32), 2, "guided")
    assert (remote.infer(observation(1.5), going).actions[:2] == 9).all()
    assert remote.last.timing_us["total"] <= remote.last.round_trip_us
    remote.close()


def test_each_robot_gets_its_own_answers_and_they_share_a_batch(server, brain, connect):
    brain.delay_s = 0.02
    robots = [connect() for _ in range(3)]
    for number, robot in enumerate(robots):
        robot.begin(Task("a" * (number + 1)), seed=number)
    for turn in range(5):
        for number, robot in enumerate(robots):
            robot.ask(observation(10 * number + turn))
        for number, robot in enumerate(robots):
            expected = [10 * number + turn, number, number + 1]
            np.testing.assert_array_equal(answer(robot).chunk.actions[0], expected)
    assert max(brain.batches) == 3


def test_only_the_newest_observation_is_answered(server, brain, connect):
    robot = connect()
    robot.begin(Task("lift"))
    brain.delay_s = 0.2
    robot.ask(observation(0))
    sleep(0.05)  # the first is in the policy now
    for value in range(1, 20):
        robot.ask(observation(value))
        sleep(0.002)
    assert answer(robot).chunk.actions[0, 0] == 19
    assert robot.poll(0.3) is None
    assert sum(brain.batches) == 2
    assert server.counts["overtaken"] > 10
    assert robot.counts["late_or_unasked"] == 1


@pytest.mark.fault(14)
def test_what_is_of_no_more_use_is_not_answered(server, brain, connect):
    robot = connect()
    robot.begin(Task("lift"))
    brain.delay_s = 0.15
    robot.ask(observation(1), budget_s=0.05)
    assert robot.poll(0.4) is None
    assert robot.counts["out_of_budget"] == 1


@pytest.mark.fault(14)
def test_an_answer_to_the_episode_before_is_dropped(server, brain, connect):
    robot = connect()
    robot.begin(Task("lift"))
    brain.delay_s = 0.1
    robot.ask(observation(1))
    robot.begin(Task("push"))
    assert robot.poll(0.3) is None
    robot.ask(observation(2))
    assert answer(robot).chunk.actions[0, 0] == 2


def test_a_task_that_takes_long_to_begin_costs_no_lease(server, brain, connect, monkeypatch):
    robot = connect()
    monkeypatch.setattr(type(brain.session()), "reset", lambda self, task, seed=0: sleep(1.4))
    robot.begin(Task("lift"))
    robot.ask(observation(2))
    assert answer(robot).chunk.actions[0, 0] == 2


def test_one_robot_drives_an_arm(server, connect):
    first = connect(arm="left", robot="bench")
    with pytest.raises(BridgeError, match="driven by 'bench'") as caught:
        connect(arm="left", robot="other")
    assert caught.value.code == "lease"
    first.close()
    wait_for(lambda: not server._robots)
    connect(arm="left", robot="other").begin(Task("lift"))


def test_a_robot_that_falls_silent_loses_its_arm(server, connect):
    connect(arm="left")  # says nothing any more
    sleep(1.3)
    connect(arm="left")
    assert server.counts["silent"] == 1


def test_a_robot_that_only_listens_keeps_its_arm(server, connect):
    robot = connect(arm="left")
    until = monotonic() + 1.4
    while monotonic() < until:
        robot.poll(0.02)
    assert not robot.trouble
    assert len(server._robots) == 1


@pytest.mark.fault(24)
def test_a_policy_that_fails_or_answers_nonsense_is_an_error_and_the_server_goes_on(server, brain):
    remote = RemotePolicy(Connection(server.address), timeout_s=3)
    with pytest.raises(BridgeError, match="RuntimeError: no such task"):
        remote.reset(Task("explode"))
    remote.reset(Task("lift"))
    wrong = {
        "NaN": lambda actions: np.full_like(actions, np.nan),
        "its spec says": lambda actions: actions[:2],
        "ZeroDivisionError": lambda actions: 1 / 0,
    }
    for said, spoil in wrong.items():
        brain.spoil = spoil
        with pytest.raises(BridgeError, match=said) as caught:
            remote.infer(observation(1))
        assert caught.value.code == "policy"
    brain.spoil = lambda actions: actions
    assert remote.infer(observation(4)).actions[0, 0] == 4
    remote.close()


@pytest.mark.fault(3)
def test_a_server_that_was_started_anew_is_another(brain):
    with PolicyServer(brain, "tcp://127.0.0.1:0").serving() as first:
        address = first.address
        connection = Connection(address)
        connection.open()
        connection.begin(Task("lift"))
        before = connection.epoch
    with PolicyServer(brain, address).serving():
        wait_for(lambda: connection.poll(0.01) is None and connection.trouble.startswith("epoch"))
        with pytest.raises(BridgeError, match="no episode"):
            connection.ask(observation())
        connection.open()
        assert connection.epoch != before
        connection.begin(Task("lift"))
        connection.ask(observation(6))
        assert answer(connection).chunk.actions[0, 0] == 6
    connection.close()


def test_another_policy_on_the_same_server_is_refused(brain, server, connect):
    robot = connect()
    robot.begin(Task("lift"))
    robot._hash = bytes(8)
    robot.ask(observation())
    wait_for(lambda: robot.poll(0.02) is None and robot.trouble.startswith("spec"))
    assert not brain.batches


def test_a_server_that_is_gone_or_frozen_is_noticed(brain):
    with PolicyServer(brain, "tcp://127.0.0.1:0").serving() as made:
        connection = Connection(made.address)
        connection.open()
        connection.poll(0.1)
        assert not connection.trouble
    began = monotonic()
    wait_for(lambda: connection.poll(0.01) is None and connection.trouble)
    assert monotonic() - began < 0.5
    assert connection.trouble.startswith(("disconnected", "frozen"))
    connection.close()


def test_nobody_there_is_said_in_time():
    connection = Connection("tcp://127.0.0.1:9")
    began = monotonic()
    with pytest.raises(BridgeError, match="has not answered within"):
        connection.open(0.3)
    assert monotonic() - began < 1
    connection.close()


def test_garbage_is_counted_and_the_server_goes_on(server, connect):
    raw = socket(zmq.Context.instance(), zmq.DEALER)
    raw.connect(server.address)
    rng = np.random.default_rng(0)
    good = Header(Kind.HELLO, request=1).pack()
    junk = [[], [b""], [b"x" * 72], [good], [good, b"\xc1"], [good, pack_map({"arm": 3})], [good, b"", b""]]
    junk += [[rng.bytes(int(rng.integers(1, 2000))) for _ in range(int(rng.integers(1, 5)))] for _ in range(50)]
    junk += [[good, pack_map({"arm": "a", "codecs": wrong})] for wrong in (5, None, "raw", [[]], {"raw": 1})]
    junk += [[good, pack_map({"arm": "a", "codecs": ["zip"]})], [good[:-1]], [good, bytes(1 << 20)]]
    for parts in junk:
        raw.send_multipart(parts or [b""])
    robot = connect()
    robot.begin(Task("lift"))
    robot.ask(observation(3))
    assert answer(robot).chunk.actions[0, 0] == 3
    wait_for(lambda: server.counts["refused"] >= 50)
    raw.close()


def test_a_message_of_the_wrong_size_is_refused_before_the_policy_sees_it(server, brain, connect):
    robot = connect()
    robot.begin(Task("lift"))
    robot.ask(observation())
    answer(robot)
    header = robot._header(Kind.OBSERVE, budget_ns=10**9)
    robot._say([header.pack(), b"", bytes(8), bytes(100)])
    wait_for(lambda: robot.poll(0.02) is None and robot.trouble.startswith("message"))
    assert sum(brain.batches) == 1


def test_a_policy_without_batches_serves_one_robot(brain):
    with PolicyServer(OneByOne(brain.session()), "tcp://127.0.0.1:0").serving() as made:
        one, two = Connection(made.address, arm="a"), Connection(made.address, arm="b")
        one.open()
        one.begin(Task("lift"))
        one.ask(observation(5))
        assert answer(one).chunk.actions[0, 0] == 5
        with pytest.raises(BridgeError) as caught:
            two.open()
        assert caught.value.code == "full"
        one.close()
        two.close()


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_the_codec_is_agreed_on(server, codec):
    connection = Connection(server.address, codecs=(codec,))
    connection.open()
    connection.begin(Task("lift"))
    connection.ask(observation(2))
    assert answer(connection).chunk.actions[0, 0] == 2
    connection.close()


@pytest.fixture
def keyring(tmp_path):
    server = make_keys(tmp_path, "server")
    robot = make_keys(tmp_path / "known", "robot")
    stranger = make_keys(tmp_path, "stranger")
    return server, robot, stranger


def test_a_known_key_is_let_in_and_no_other(brain, keyring, tmp_path):
    (public, secret), (_, robot), (other_public, stranger) = keyring
    with PolicyServer(brain, "tcp://127.0.0.1:0", keys=Keys(secret), allowed=tmp_path / "known").serving() as made:
        remote = RemotePolicy(Connection(made.address, keys=Keys(robot, public)))
        remote.reset(Task("lift"))
        assert remote.infer(observation(8)).actions[0, 0] == 8
        strangers = {
            "an unknown key": Keys(stranger, public),
            "another server": Keys(robot, other_public),
            "no key at all": None,
        }
        for who, keys in strangers.items():
            connection = Connection(made.address, arm="other", keys=keys)
            began = monotonic()
            with pytest.raises(BridgeError) as caught:
                connection.open(2.5)
            assert caught.value.code in ("refused", "timeout"), who
            assert monotonic() - began < 3
            connection.close()
        assert made.counts["hello"] == 1
        remote.close()


def test_without_keys_only_this_machine_is_served(brain, keyring, tmp_path):
    (_, secret), _, _ = keyring
    for address in ("tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://192.168.1.5:5555", "tcp://robot.local:5555"):
        assert not is_local(address)
        with pytest.raises(UnderstudyError, match="vla keys"):
            PolicyServer(brain, address)
        with pytest.raises(UnderstudyError, match="vla keys"):
            Connection(address)
    assert all(map(is_local, ("tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1", "ipc:///tmp/x")))
    with pytest.raises(UnderstudyError, match="whose to let in"):
        PolicyServer(brain, "tcp://0.0.0.0:5555", keys=Keys(secret))


def test_a_secret_is_its_owners_alone(keyring):
    (public, secret), _, _ = keyring
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.chmod(0o644)
    with pytest.raises(UnderstudyError, match="chmod 600"):
        Connection("tcp://127.0.0.1:1", keys=Keys(secret, public))
    with pytest.raises(UnderstudyError, match="already holds"):
        make_keys(public.parent, "server")


def test_the_robots_side_needs_no_learning_framework(tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'mujoco', 'lerobot', 'cv2', 'hydra', 'omegaconf'):\n"
        "    sys.modules[name] = None\n"
        "import robot_bridge.client, robot_bridge.server, robot_bridge.wire\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])


def test_a_slow_policy_does_not_keep_the_server_from_saying_that_it_lives(server, brain, connect):
    robot = connect()
    robot.begin(Task("lift"))
    brain.delay_s = 1.0
    robot.ask(observation(), budget_s=3)
    until, troubles = monotonic() + 0.9, set()
    while monotonic() < until:
        robot.poll(0.02)
        troubles.add(robot.trouble)
    assert troubles == {""}
    assert answer(robot).chunk is not None


def test_two_threads_of_robots_never_get_each_others_answers(server, connect):
    robots = [connect() for _ in range(2)]
    wrong = []

    def work(number):
        robot = robots[number]
        robot.begin(Task("lift"), seed=number)
        for turn in range(100):
            robot.ask(observation(turn))
            got = answer(robot).chunk.actions[0]
            if (got[0], got[1]) != (turn, number):
                wrong.append((number, turn, got))

    threads = [Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert replace(SPEC) == robots[0].spec
