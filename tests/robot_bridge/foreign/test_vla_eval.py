"""Against the harness itself: its connection, its runner, its orchestrator, its model servers."""

import json
import socket
import threading
from urllib.error import HTTPError
from urllib.request import urlopen

import anyio
import numpy as np
import pytest
from foreign_clients import WIDE
from foreign_suite import PLAYED
from robot_bridge_toys import SPEC, ToyBrain
from vla_eval.connection import Connection
from vla_eval.protocol.messages import Message, MessageType, pack_message, unpack_message
from vla_eval.specs import RAW, DimSpec, check_specs
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from policies.execution import ExecutionConfig
from policies.policy import load_policy
from robot_bridge.brain import OneByOne
from robot_bridge.foreign.table import Table
from robot_bridge.foreign.vla_eval import HarnessServer
from sim.rollout import Scene, Setting, play
from sim.suite import TEST_SEEDS
from vla.errors import UnderstudyError

TASK = "tabletop/touch-red-cube"
SUITE = {"image_size": 32, "cameras": ["front"]}
ANY = "ws://127.0.0.1:0"


def serving(brain=None, told=(), **settings):
    brain = brain or ToyBrain()
    table = Table.server(brain.spec, {"front": "agentview", **dict(told)}, "vla-eval")
    return HarnessServer(brain, table, ANY, **settings).serving()


def seen(x=0.0, words="lift", camera="agentview"):
    image = np.full((8, 8, 3), 7, np.uint8)
    return {"images": {camera: image}, "states": np.array([x, 0.5], np.float32), "task_description": words}


def talk(url, ask):
    """Runs ``ask(connection)`` with the harness' own client."""

    async def run():
        async with Connection(url, timeout=10, max_retries=1) as connection:
            return await ask(connection)

    return anyio.run(run)


async def one(connection, observation, **task):
    await connection.start_episode({"task": task})
    return (await connection.act(observation))["actions"]


@pytest.mark.parametrize(
    ("ensemble", "episodes"),
    [pytest.param("adaptive", 4, id="quick"), pytest.param("newest", 6, marks=pytest.mark.slow)],
)
def test_an_evaluation_by_the_harness_gives_the_episodes_of_ours(checkpoint, ensemble, episodes, tmp_path):
    from vla_eval.orchestrator import Orchestrator

    execution, policy = ExecutionConfig(ensemble), load_policy(checkpoint)
    table = Table.server(policy.spec, {}, "vla-eval")
    with HarnessServer(policy, table, ANY, execution=execution).serving() as server:
        benchmark = {
            "benchmark": "foreign_suite:SuiteBenchmark",
            "episodes_per_task": episodes,
            "params": {"tasks": [TASK], "options": SUITE},
        }
        config = {"server": {"url": server.address}, "benchmarks": [benchmark], "output_dir": str(tmp_path)}
        (result,) = anyio.run(Orchestrator(config, no_save=True).run)
        counted = server.counts["answered"]
    theirs = {
        (task["task"], TEST_SEEDS[episode["episode_id"]]): (episode["metrics"]["success"], episode["steps"])
        for task in result["tasks"]
        for episode in task["episodes"]
    }
    setting, ours = Setting(json.dumps(SUITE, sort_keys=True), str(checkpoint), execution), {}
    for task, seed in theirs:
        played = play(Scene(setting, task, task, "policy", seed))
        ours[task, seed] = (played.result.success, played.result.steps)
        np.testing.assert_array_equal(played.actions, np.stack(PLAYED[task, seed][0]))
    assert theirs == ours
    assert len(ours) == episodes
    assert len({success for success, _ in ours.values()}) == 2  # else the rest would prove little
    assert counted == sum(steps for _, steps in ours.values())


def test_what_we_say_of_ourselves_fits_what_the_harness_compares():
    told = {"front": "agentview", "action.ours": "xyz", "action.theirs": "xyz"}
    with serving(told=told.items()) as server:

        async def hello(connection):
            return connection.server_info

        said = talk(server.address, hello)
    action = {name: DimSpec.from_dict(part) for name, part in said["action_spec"].items()}
    observation = {name: DimSpec.from_dict(part) for name, part in said["observation_spec"].items()}
    assert said["observation_params"] == {"send_state": True, "send_wrist_image": False}
    assert said["protocol_version"] == 1
    position = DimSpec("position", 3, "delta_xyz")
    offered = {"agentview": DimSpec("image", 0, "rgb_hwc_uint8"), "language": DimSpec("language", 0, "language")}
    assert not check_specs(action, {"position": position}, observation, offered)
    assert check_specs(action, {"position": DimSpec("position", 3, "absolute_xyz")}, observation, {})


def test_every_connection_has_an_episode_of_its_own():
    answers = {}

    def drive(number):
        async def ask(connection):
            await connection.start_episode({"task": {"seed": 10 * number, "episode_idx": 1}})
            rows = [(await connection.act(seen(number / 10, "x" * number)))["actions"] for _ in range(5)]
            answers[number] = np.stack(rows)

        talk(server.address, ask)

    with serving(execution=ExecutionConfig("newest"), brain=ToyBrain(spec=WIDE)) as server:
        threads = [threading.Thread(target=drive, args=(number,)) for number in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number in (1, 2, 3):  # the toy answers: proprio, seed, letters
        np.testing.assert_allclose(answers[number], [[number / 10, 10 * number + 1, number]] * 5, rtol=1e-6)


def test_other_words_begin_anew_and_an_episode_ends_what_was_under_way():
    brain = ToyBrain(spec=WIDE)
    with serving(brain, execution=ExecutionConfig("newest")) as server:

        async def ask(connection):
            first = await one(connection, seen(0.1, "lift"), seed=3)
            held = (await connection.act(seen(0.2, "lift")))["actions"]  # the chunk goes on
            other = (await connection.act(seen(0.3, "press it")))["actions"]
            await connection.end_episode({})
            again = await one(connection, seen(0.4, "lift"), seed=4)
            return np.stack([first, held, other, again])

        answers = talk(server.address, ask)
    np.testing.assert_allclose(answers, [[0.1, 3, 4], [0.1, 3, 4], [0.3, 3, 8], [0.4, 4, 4]], rtol=1e-6)


@pytest.mark.parametrize(
    ("observation", "why"),
    [
        (seen(camera="overhead"), "lacks the camera agentview .our front.; it has overhead"),
        (seen() | {"states": np.zeros(8)}, "the state has 8 entries, 2 are expected"),
        ({key: value for key, value in seen().items() if key != "states"}, "lacks the state states.*x, y.*images"),
        (seen() | {"states": np.array([np.nan, 0])}, "NaN"),
        ({key: value for key, value in seen().items() if key != "task_description"}, "lacks task_description"),
        (seen() | {"images": {"agentview": np.zeros((8, 8, 3), np.float32)}}, "no picture"),
        (seen(words="explode"), "RuntimeError: no such task"),
    ],
)
def test_an_error_is_told_and_the_next_observation_is_answered(observation, why):
    with serving() as server:

        async def ask(connection):
            await connection.start_episode({"task": {}})
            with pytest.raises(RuntimeError, match=f"(?s){why}"):
                await connection.act(observation)
            return (await connection.act(seen(0.25)))["actions"]

        assert talk(server.address, ask)[0] == np.float32(0.25)


def test_a_start_that_makes_no_sense_is_an_error_and_no_answer_is_out_of_turn():
    with serving() as server:

        async def ask(connection):
            return await one(connection, seen(0.5), seed="seven")

        with pytest.raises(RuntimeError, match="whole numbers"):
            talk(server.address, ask)


def test_garbage_is_answered_and_the_connection_lives():
    with serving() as server, connect(server.address) as ws:
        for data in (b"", b"\xc1", b"nonsense", "text", b"\x80", pack_message(Message(MessageType.ACTION, {}))[:-1]):
            ws.send(data)
            answer = unpack_message(ws.recv(timeout=10))
            assert answer.type is MessageType.ERROR
        ws.send(pack_message(Message(MessageType.OBSERVATION, seen(0.5), seq=9)))
        answer = unpack_message(ws.recv(timeout=10))
        assert (answer.type, answer.seq) == (MessageType.ACTION, 9)
        assert server.counts["refused"] == 6


def test_a_policy_for_one_robot_serves_one_and_says_so():
    with serving(OneByOne(ToyBrain().session())) as server, connect(server.address) as first:
        first.send(pack_message(Message(MessageType.HELLO, {})))
        first.recv(timeout=10)
        with connect(server.address) as second, pytest.raises(ConnectionClosed, match="served already"):
            second.recv(timeout=10)


def test_health_origin_and_token():
    with serving(token=b"a" * 16) as server:
        assert json.load(urlopen(server.address.replace("ws", "http", 1) + "/health")) == {"status": "ok"}
        with pytest.raises(HTTPError, match="401"):
            urlopen(server.address.replace("ws", "http", 1) + "/wrong")
        for url in (server.address, server.address + "/" + "b" * 16):
            with pytest.raises(InvalidStatus, match="401"):
                connect(url)
        with pytest.raises(InvalidStatus, match="403"):  # a page in somebody's browser
            connect(server.address + "/" + "a" * 16, origin="https://example.org")

        async def ask(connection):
            return await one(connection, seen(0.5))

        assert talk(server.address + "/" + "a" * 16, ask)[0] == 0.5


def test_an_open_address_wants_a_token():
    with pytest.raises(UnderstudyError, match=r"other machines.*--token"):
        HarnessServer(ToyBrain(), Table.server(SPEC, {}, "vla-eval"), "ws://0.0.0.0:8000")


def test_an_address_that_is_taken_is_an_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"ws://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UnderstudyError, match="cannot serve"):
            HarnessServer(ToyBrain(), Table.server(SPEC, {}, "vla-eval"), address).run()


def test_a_policy_that_names_no_parts_is_raw_to_the_harness(checkpoint):
    policy = load_policy(checkpoint)
    said = HarnessServer(policy, Table.server(policy.spec, {}, "vla-eval"), ANY).hello()
    assert said["action_spec"] == {"actions": {"name": "raw", "dims": 4, "format": "raw"}}
    assert not check_specs({"actions": DimSpec.from_dict(said["action_spec"]["actions"])}, {"actions": RAW}, {}, {})
