"""Their servers in our harness: a folder that `load_policy` takes as any other."""

import json
import logging
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from time import monotonic

import msgpack
import numpy as np
import pytest
import zmq
from foreign_clients import WIDE, pack_nd, unpacked
from robot_bridge_toys import SPEC, ToyBrain, observation
from vla_eval.api import serve_background
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.specs import GRIPPER_CLOSE_POS, IMAGE_RGB, LANGUAGE, POSITION_DELTA, RAW, ROTATION_AA

from policies.execution import ExecutionConfig
from policies.policy import load_policy
from robot_bridge.foreign.gr00t import Gr00tServer
from robot_bridge.foreign.remote import Remote, RemotePolicy
from robot_bridge.foreign.table import Table
from robot_bridge.foreign.vla_eval import HarnessServer
from sim.evaluate import EvalConfig, setting_of
from sim.remote import main
from sim.rollout import Scene, Setting, play
from sim.suite import TEST_SEEDS
from vla.config import load
from vla.errors import UnderstudyError
from vla.types import ActionSpec, Gripper, Task

SUITE, TASK = {"image_size": 32, "cameras": ["front"]}, "tabletop/touch-red-cube"
OPTIONS = ["--option", "image_size=32", 'cameras=["front"]']


class Echo(PredictModelServer):
    """A model server of the harness: it answers what it saw, and remembers it."""

    def __init__(self, rows=1, **settings):
        super().__init__(**settings)
        self.rows, self.seen = rows, []

    def predict(self, obs, ctx):
        self.seen.append(obs)
        if obs["task_description"] == "explode":
            raise RuntimeError("no such task")
        row = np.concatenate([obs["states"], [0.125]])
        return {"actions": row if self.rows == 1 else np.stack([row] * self.rows)}

    def get_action_spec(self):
        return {"actions": RAW}

    def get_observation_spec(self):
        return {"front": IMAGE_RGB, "language": LANGUAGE}


@pytest.fixture
def echo():
    server = Echo()
    with serve_background(server) as handle:
        yield server, handle.url


def policy(url, spec=SPEC, horizon=1, timeout_s=10.0, **told):
    spec = replace(spec, pred_horizon=horizon, exec_horizon=1)
    return RemotePolicy(spec, Remote(url, {name.replace("__", "."): v for name, v in told.items()}, timeout_s))


def test_a_model_server_of_the_harness_is_a_policy_of_ours(echo):
    server, url = echo
    remote = policy(url, front="agentview")
    remote.reset(Task("lift"), seed=3)
    chunk = remote.infer(observation(0.25, stamp_ns=7))
    np.testing.assert_array_equal(chunk.actions, [[0.25, 0.5, 0.125]])
    assert (chunk.stamp_ns, chunk.dt) == (7, 0.05)
    np.testing.assert_array_equal(server.seen[0]["images"]["agentview"], observation().images["front"])
    assert server.seen[0]["task_description"] == "lift"
    remote.link.close()


def test_what_the_server_refuses_is_told_and_it_can_be_asked_again(echo):
    remote = policy(echo[1])
    remote.reset(Task("explode"))
    with pytest.raises(UnderstudyError, match=r"ws://.*refused: observation_failed: RuntimeError: no such task"):
        remote.infer(observation())
    remote.reset(Task("lift"))
    assert remote.infer(observation(0.5)).actions[0, 0] == 0.5
    remote.link.close()


def test_a_chunk_of_another_length_is_refused_with_both_lengths():
    with serve_background(Echo(rows=4)) as handle:
        short, right = policy(handle.url), policy(handle.url, horizon=4)
        for remote in (short, right):
            remote.reset(Task("lift"))
        with pytest.raises(UnderstudyError, match=r"answered 4 actions, the policy's pred_horizon is 1.*--chunk 4"):
            short.infer(observation())
        assert right.infer(observation()).actions.shape == (4, 3)
        for remote in (short, right):
            remote.link.close()


def test_their_conventions_become_ours():
    spec = replace(
        SPEC,
        proprio_names=("x", "y", "z", "opening"),
        action=ActionSpec("ee_delta", tuple("abcd"), (-1.0,) * 4, (1.0,) * 4, gripper=Gripper(3, 1.0, 0.0)),
    )
    told = {
        "state__ours": "xyz gripper:1:0",
        "state__theirs": "xyz gripper:0.04:0",
        "action__ours": "xyz gripper",
        "action__theirs": "xyz skip:3 gripper:-1:1",
        "action__kind": "ee_pose",
    }

    class Placing(Echo):
        def predict(self, obs, ctx):
            self.seen.append(obs)
            return {"actions": np.array([*(obs["states"][:3] + 0.1), 9, 9, 9, -1], np.float32)}

    server = Placing()
    with serve_background(server) as handle:
        remote = policy(handle.url, spec, **told)
        remote.reset(Task("lift"))
        seen = replace(observation(), proprio=np.array([0.3, 0.2, 0.1, 0.5], np.float32))
        np.testing.assert_allclose(remote.infer(seen).actions, [[0.1, 0.1, 0.1, 1]], atol=1e-6)
        np.testing.assert_allclose(server.seen[0]["states"], [0.3, 0.2, 0.1, 0.02], atol=1e-6)
        remote.link.close()


def test_a_server_that_is_lost_or_silent_is_named_and_nobody_waits_for_ever(echo):
    class Silent(Echo):
        def predict(self, obs, ctx):
            done.wait(5)
            return super().predict(obs, ctx)

    done = threading.Event()
    with pytest.raises(UnderstudyError, match=r"no server answers at ws://127.0.0.1:1"):
        policy("ws://127.0.0.1:1").reset(Task("lift"))
    with serve_background(Silent()) as handle:
        remote = policy(handle.url, timeout_s=0.3)
        remote.reset(Task("lift"))
        began = monotonic()
        with pytest.raises(UnderstudyError, match=r"did not answer in 0.3 s"):
            remote.infer(observation())
        assert monotonic() - began < 4
        done.set()
    remote = policy(echo[1])
    remote.reset(Task("lift"))
    remote.link._connection.socket.close()
    with pytest.raises(UnderstudyError, match="was lost"):
        remote.infer(observation())
    remote.reset(Task("lift"))  # on a new connection
    assert remote.infer(observation(0.5)).actions[0, 0] == 0.5
    remote.link.close()
    with pytest.raises(UnderstudyError, match=r"gr00t://127.0.0.1:1 did not answer in 0.2 s"):
        policy("gr00t://127.0.0.1:1", timeout_s=0.2).reset(Task("lift"))


class Upstream:
    """A server as GR00T's own: one REP socket; arrays as N1.7 or N1.6 writes them, keys nested or flat."""

    def __init__(self, flat):
        self.flat, self.seen, self.socket = flat, [], zmq.Context.instance().socket(zmq.REP)
        self.address = f"127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            request = msgpack.unpackb(self.socket.recv(), object_hook=unpacked)
            if request["endpoint"] == "kill":
                self.socket.send(msgpack.packb(None))
                return self.socket.close()
            self.socket.send(
                msgpack.packb(getattr(self, request["endpoint"])(**request.get("data", {})), default=pack_nd)
            )

    def reset(self, options):
        self.seed = options["seed"]
        return {}

    def get_modality_config(self):
        keys = {"video": ["front"], "state": ["state"], "action": ["action"], "language": ["task"]}
        steps = {"action": [0, 1, 2]}
        return {
            name: {"__ModalityConfig__": True, "as_json": {"delta_indices": steps.get(name, [0]), "modality_keys": key}}
            for name, key in keys.items()
        }

    def get_action(self, observation, options):
        self.seen.append(observation)
        state = observation["state.state"] if self.flat else observation["state"]["state"]
        assert state.shape == (1, 1, 2)
        assert state.dtype == np.float32
        image = observation["video.front"] if self.flat else observation["video"]["front"]
        assert image.shape == (1, 1, 8, 8, 3)
        assert (observation["task"] if self.flat else observation["language"]["task"][0]) == ["lift"]
        chunk = np.full((1, 3, 3), state[0, 0, 0], np.float32)
        return ({"action.action" if self.flat else "action": chunk}, {})


@pytest.mark.parametrize("flat", [False, True])
def test_a_server_of_gr00t_is_a_policy_of_ours(flat):
    server = Upstream(flat)
    remote = policy(f"gr00t{'-sim' * flat}://{server.address}", horizon=3, instruction="task")
    remote.reset(Task("lift"), seed=5)
    np.testing.assert_array_equal(remote.infer(observation(0.75)).actions, np.full((3, 3), 0.75))
    assert server.seed == 5
    remote.link._call("kill", None)
    remote.link.close()


@contextmanager
def served(checkpoint, protocol):
    brain = load_policy(checkpoint)
    table = Table.server(brain.spec, {}, protocol)
    if protocol == "gr00t":
        with Gr00tServer(brain, table, "tcp://127.0.0.1:0").serving() as server:
            yield server.address.replace("tcp", "gr00t", 1)
    else:
        with HarnessServer(brain, table, "ws://127.0.0.1:0", execution=ExecutionConfig("newest")).serving() as server:
            yield server.address


@pytest.mark.parametrize("protocol", ["vla-eval", "gr00t"])
def test_an_evaluation_of_what_is_served_gives_the_episodes_of_what_is_here(checkpoint, protocol, tmp_path, caplog):
    """Our policy, served, asked by our own harness through the other project's protocol."""
    caplog.set_level(logging.INFO)
    out, options = tmp_path / "remote", json.dumps(SUITE, sort_keys=True)
    here = load_policy(checkpoint).spec
    with ExitStack() as on:
        address = on.enter_context(served(checkpoint, protocol))
        rows = ["--exec-horizon", str(here.exec_horizon)] if protocol == "gr00t" else []
        assert main([address, "--like", "tabletop", *OPTIONS, "--out", str(out), *rows]) == 0
        told = json.loads((out / "provenance.json").read_text())
        assert TASK in told["tasks"]
        command = caplog.messages[-1].removeprefix("now: vla eval ").split()
        setting_of(load(EvalConfig, "eval", command), [TASK])  # else: these are not its pictures
        for seed in TEST_SEEDS[:1]:
            played = [
                play(Scene(Setting(options, str(folder), ExecutionConfig("newest")), TASK, TASK, "policy", seed))
                for folder in (checkpoint, out)
            ]
            np.testing.assert_array_equal(played[0].actions, played[1].actions)
            assert played[0].result.success == played[1].result.success
    made = load_policy(out).spec
    assert (made.pred_horizon, made.action) == (here.pred_horizon if protocol == "gr00t" else 1, here.action)


def test_the_command_refuses_a_server_that_does_not_fit(tmp_path):
    class Arm(Echo):
        def get_action_spec(self):
            return {"position": POSITION_DELTA, "rotation": ROTATION_AA, "gripper": GRIPPER_CLOSE_POS}

    with serve_background(Arm()) as handle:
        with pytest.raises(
            UnderstudyError, match=r"answers 7 entries .position, rotation, gripper., action.theirs has 4"
        ):
            main([handle.url, "--like", "tabletop", *OPTIONS, "--out", str(tmp_path / "a")])
        fits = ["--map", "action.ours=xyz gripper", "action.theirs=xyz skip:3 gripper:-1:1"]
        assert main([handle.url, "--like", "tabletop", *OPTIONS, "--out", str(tmp_path / "b"), *fits]) == 0
    server = Upstream(flat=False)
    with pytest.raises(UnderstudyError, match=r"the language of the server at .* is task, the map says annotation"):
        main([f"gr00t://{server.address}", "--like", "tabletop", *OPTIONS, "--out", str(tmp_path / "c")])
    with pytest.raises(UnderstudyError, match="unknown suite"):
        main(["ws://127.0.0.1:1", "--like", "tabeltop", "--out", str(tmp_path / "d")])
    with pytest.raises(UnderstudyError, match="unknown scheme of a server's address 'http'"):
        main(["http://127.0.0.1:1", "--like", "tabletop", *OPTIONS, "--out", str(tmp_path / "e")])


def test_a_dataset_says_what_the_server_drives(checkpoint, tmp_path, echo):
    data = checkpoint.parent / "data"
    assert main([echo[1], "--like", str(data), "--out", str(tmp_path / "remote")]) == 0
    made, trained = load_policy(tmp_path / "remote").spec, load_policy(checkpoint).spec
    assert (made.cameras, made.proprio_names, made.action) == (trained.cameras, trained.proprio_names, trained.action)


def test_a_server_with_a_token_is_asked_with_it_and_the_folder_holds_none(tmp_path):
    token = tmp_path / "token"
    token.write_text("a1" * 16)
    token.chmod(0o600)
    brain = ToyBrain(spec=WIDE)
    with HarnessServer(
        brain, Table.server(WIDE, {}, "vla-eval"), "ws://127.0.0.1:0", token=b"a1" * 16
    ).serving() as server:
        remote = RemotePolicy(replace(WIDE, pred_horizon=1, exec_horizon=1), Remote(server.address, {}, 10, str(token)))
        remote.reset(Task("lift"), seed=2)
        np.testing.assert_allclose(remote.infer(observation(0.5)).actions, [[0.5, 2, 4]])
        remote.save(tmp_path / "made")
        remote.link.close()
    assert "a1a1" not in "".join(file.read_text() for file in (tmp_path / "made").iterdir())
    token.chmod(0o644)
    with pytest.raises(UnderstudyError, match="chmod 600"):
        load_policy(tmp_path / "made")


def test_it_runs_elsewhere_and_cannot_be_hastened(echo):
    with pytest.raises(UnderstudyError, match="as quick as its server"):
        policy(echo[1]).hasten()
