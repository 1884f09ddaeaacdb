"""A client that speaks GR00T's framings, and our server."""

import msgpack
import numpy as np
import pytest
import zmq
from foreign_clients import WIDE, Gr00tClient, pack_nd, pack_npy
from robot_bridge_toys import SPEC, ToyBrain

from robot_bridge.brain import OneByOne
from robot_bridge.foreign.gr00t import Gr00tServer
from robot_bridge.foreign.table import Table
from vla.errors import UnderstudyError

ANY, WORDS = "tcp://127.0.0.1:0", "annotation.human.action.task_description"
MAP = {"front": "ego_view", "state": "arm,hand", "action": "arm:2,hand:1"}


def serving(brain=None, told=MAP, **settings):
    brain = brain or ToyBrain(spec=WIDE)
    return Gr00tServer(brain, Table.server(brain.spec, told, "gr00t"), ANY, **settings).serving()


def nested(*values, words="lift", time=1):
    count = len(values)
    state = np.array(values, np.float32)[:, None, None].repeat(time, axis=1)
    return {
        "video": {"ego_view": np.zeros((count, time, 8, 8, 3), np.uint8)},
        "state": {"arm": state, "hand": np.full((count, time, 1), 0.5, np.float32)},
        "language": {WORDS: [[words]] * count},
    }


def flat(*values):
    whole = nested(*values)
    groups = {f"{group}.{name}": value for group in ("video", "state") for name, value in whole[group].items()}
    return groups | {WORDS: tuple("lift" for _ in values)}


@pytest.mark.parametrize("pack", [pack_npy, pack_nd])
def test_whole_chunks_for_every_environment(pack):
    with serving() as server, Gr00tClient(server.address, pack=pack) as client:
        assert client.call("ping")["status"] == "ok"
        assert client.call("reset", {"options": None}) == {}
        actions, info = client.get_action(nested(0.25, 0.5, 0.75))
        assert info == {}
        assert {name: part.shape for name, part in actions.items()} == {"arm": (3, 4, 2), "hand": (3, 4, 1)}
        np.testing.assert_allclose(actions["arm"][:, 0, 0], [0.25, 0.5, 0.75])
        np.testing.assert_array_equal(actions["arm"][:, 0, 1], [0, 1, 2])  # the seeds
        assert actions["arm"].dtype == np.float32
        assert server.brain.batches == [3]
        sent, _ = client.get_action(flat(0.25, 0.5))
        assert sorted(sent) == ["action.arm", "action.hand"]
        np.testing.assert_array_equal(sent["action.arm"], actions["arm"][:2])


def test_the_newest_of_a_history_counts():
    with serving() as server, Gr00tClient(server.address) as client:
        observation = nested(0.1, time=3)
        observation["state"]["arm"][0, :, 0] = [0.1, 0.2, 0.3]
        assert client.get_action(observation)[0]["arm"][0, 0, 0] == np.float32(0.3)


def test_the_client_of_n1_5_sends_one_environment_and_is_answered_so():
    with serving() as server, Gr00tClient(server.address) as client:
        told = {
            "video.ego_view": np.zeros((1, 8, 8, 3), np.uint8),
            "state.arm": np.array([[0.25]]),
            "state.hand": np.array([[0.5]]),
            WORDS: ["lift"],
        }
        actions = client.call("get_action", told)
        assert actions["action.arm"].shape == (4, 2)
        assert actions["action.arm"][0, 0] == np.float32(0.25)


def test_what_is_asked_for_is_told():
    with serving() as server, Gr00tClient(server.address) as client:
        assert client.call("get_modality_config") == {
            "video": {"delta_indices": [0], "modality_keys": ["ego_view"]},
            "state": {"delta_indices": [0], "modality_keys": ["arm", "hand"]},
            "action": {"delta_indices": [0, 1, 2, 3], "modality_keys": ["arm", "hand"]},
            "language": {"delta_indices": [0], "modality_keys": [WORDS]},
        }


def test_a_seed_may_be_given_and_each_client_has_its_own_episodes():
    with serving() as server, Gr00tClient(server.address) as one, Gr00tClient(server.address) as other:
        one.call("reset", {"options": {"seed": 1}})
        assert one.get_action(nested(0.5))[0]["arm"][0, 0, 1] == 1
        assert other.get_action(nested(0.5))[0]["arm"][0, 0, 1] == 0
        assert one.get_action(nested(0.5))[0]["arm"][0, 0, 1] == 1
        assert server.robots == 2


def test_one_policy_that_knows_no_sessions_serves_one_environment():
    with serving(OneByOne(ToyBrain(spec=WIDE).session())) as server, Gr00tClient(server.address) as client:
        with pytest.raises(RuntimeError, match="2 environments asked at once, this policy serves 1"):
            client.get_action(nested(0.1, 0.2))
        assert client.get_action(nested(0.5))[0]["arm"].shape == (1, 4, 2)


def without(group, name):
    whole = nested(0.5)
    return whole | {group: {key: value for key, value in whole[group].items() if key != name}}


def another(group, name, value):
    whole = nested(0.5)
    return whole | {group: {**whole[group], name: value}}


@pytest.mark.parametrize(
    ("observation", "why"),
    [
        (without("video", "ego_view"), "lacks the camera ego_view .our front."),
        (without("state", "hand"), "lacks the state hand, which the policy reads as x, y; it has arm"),
        (without("language", WORDS), "lacks the words"),
        (another("state", "arm", np.zeros((1, 1, 7), np.float32)), "the state has 8 entries, 2 are expected"),
        (another("video", "ego_view", np.zeros((1, 1, 8, 8, 4), np.uint8)), "no picture"),
        (another("video", "ego_view", np.zeros((1, 1, 8, 8, 3), np.float32)), "no picture"),
        (
            another("state", "arm", np.zeros((2, 1, 1), np.float32)),
            "arm is of 2 environments, the instructions are of 1",
        ),
        (another("language", WORDS, [["explode"]]), "RuntimeError: no such task"),
        ({}, "lacks the words"),
        ([1], "a map"),
        (nested(0.5) | {"video": 3}, "video of an observation is a map"),
    ],
)
def test_an_error_is_told_and_the_next_question_is_answered(observation, why):
    with serving() as server, Gr00tClient(server.address) as client:
        with pytest.raises(RuntimeError, match=why):
            client.get_action(observation)
        assert client.get_action(nested(0.5))[0]["arm"][0, 0, 0] == 0.5


def test_an_unknown_endpoint_is_named_and_kill_ends_the_server():
    with serving() as server, Gr00tClient(server.address) as client:
        with pytest.raises(RuntimeError, match="unknown endpoint 'get_actions'; did you mean 'get_action'"):
            client.call("get_actions", {})
        assert client.call("kill") is None
        with Gr00tClient(server.address) as late:
            late.socket.setsockopt(zmq.RCVTIMEO, 500)
            with pytest.raises(zmq.Again):
                late.call("ping")


def test_who_has_no_token_is_told_nothing_and_cannot_kill():
    with serving(token=b"s" * 16) as server:
        for token in (None, "x" * 16, "s" * 15):
            with Gr00tClient(server.address, token=token) as stranger:
                for endpoint in ("ping", "kill", "get_modality_config"):
                    with pytest.raises(RuntimeError, match="Unauthorized"):
                        stranger.call(endpoint)
        with Gr00tClient(server.address, token="s" * 16) as client:
            assert client.call("ping")["status"] == "ok"


def test_the_older_framing_is_refused_in_the_word_that_it_knows(caplog):
    with serving() as server, Gr00tClient(server.address) as client:
        for pickled in (b"PK\x03\x04 an archive", b"\x80\x04\x95 a pickle"):
            assert client.raw(pickled) == b"ERROR"
        assert "TorchSerializer" in caplog.text
        assert client.call("ping")["status"] == "ok"


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"nonsense", b"\x93\x01\x02\x03", msgpack.packb({"endpoint": ["ping"]}), b"\xdf\xff\xff\xff\xff"],
)
def test_malformed_bytes_are_answered_with_an_error(data):
    with serving() as server, Gr00tClient(server.address) as client:
        assert "error" in msgpack.unpackb(client.raw(data))
        assert client.call("ping")["status"] == "ok"


def test_an_array_of_objects_is_never_unpickled():
    evil = {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": b"\x80\x04cos\nsystem\n"}
    with serving() as server, Gr00tClient(server.address) as client, pytest.raises(RuntimeError, match="objects"):
        client.get_action(another("state", "arm", evil))


def test_who_is_no_req_gets_no_answer_and_harms_nobody():
    with serving() as server, Gr00tClient(server.address) as client:
        push = zmq.Context.instance().socket(zmq.DEALER)
        push.connect(server.address)
        push.send(b"hello")
        assert client.call("ping")["status"] == "ok"
        assert not push.poll(100)
        push.close(linger=0)


def test_addresses():
    table = Table.server(SPEC, {}, "gr00t")
    with pytest.raises(UnderstudyError, match="other machines"):
        Gr00tServer(ToyBrain(), table, "tcp://0.0.0.0:5555")
    with (
        Gr00tServer(ToyBrain(), table, ANY).serving() as server,
        pytest.raises(UnderstudyError, match="cannot serve"),
    ):
        Gr00tServer(ToyBrain(), table, server.address).run()


def test_a_chunk_that_makes_no_sense_is_refused_and_one_a_little_out_of_bounds_is_clipped():
    why = "dz is 4 in row 0; it means something between -1 and 1"
    with (
        serving(ToyBrain()) as server,
        Gr00tClient(server.address) as client,
        pytest.raises(RuntimeError, match=why),
    ):
        client.get_action(nested(0.5))
    with serving(ToyBrain(spoil=lambda rows: rows / 3)) as server, Gr00tClient(server.address) as client:
        assert client.get_action(nested(0.75))[0]["hand"].max() == 1
