"""``vla serve --protocol …``: the commands, and what they refuse."""

import signal
import socket
import subprocess
import sys

import anyio
import numpy as np
import pytest
import zmq
from foreign_clients import Gr00tClient
from vla_eval.connection import Connection

from policies.policy import load_policy
from robot_bridge.foreign.episode import read_token
from robot_bridge.serve import main
from vla.errors import UnderstudyError


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ask_harness(port):
    async def ask():
        async with Connection(f"ws://127.0.0.1:{port}", timeout=60, max_retries=6) as connection:
            await connection.start_episode({"task": {}})
            images = {"agentview": np.zeros((32, 32, 3), np.uint8)}
            told = {"images": images, "states": np.zeros(4, np.float32), "task_description": "touch the red cube"}
            return (await connection.act(told))["actions"]

    return anyio.run(ask)


def ask_gr00t(port):
    with Gr00tClient(f"tcp://127.0.0.1:{port}") as client:
        client.socket.setsockopt(zmq.RCVTIMEO, 60_000)
        seen = {
            "video.agentview": np.zeros((1, 1, 32, 32, 3), np.uint8),
            "state.state": np.zeros((1, 1, 4), np.float32),
        }
        actions, _ = client.get_action(seen | {"annotation.human.action.task_description": ["touch the red cube"]})
        return actions["action.action"][0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "scheme", "ask"), [("vla-eval", "ws", ask_harness), ("gr00t", "tcp", ask_gr00t)])
def test_a_checkpoint_is_served_and_the_server_is_stopped_politely(checkpoint, protocol, scheme, ask):
    port = free_port()
    given = ["--protocol", protocol, "--address", f"{scheme}://127.0.0.1:{port}", "--map", "front=agentview"]
    command = [sys.executable, "-m", "vla", "serve", str(checkpoint), *given]
    served = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        action, spec = ask(port), load_policy(checkpoint).spec.action
        assert action.shape == (spec.dim,)
        assert (np.asarray(spec.low) <= action).all()
        assert (action <= np.asarray(spec.high)).all()
    finally:
        served.send_signal(signal.SIGTERM)
        _, said = served.communicate(timeout=20)
    assert served.returncode == 0, said
    assert "1 answers, 0 refused" in said


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--map", "front=agentview"], "go with --protocol vla-eval or gr00t"),
        (["--protocol", "gr00t", "--ensemble", "newest"], "is given whole chunks"),
        (["--protocol", "vla-eval", "--key", "k"], "knows no keys: give --token FILE"),
        (["--protocol", "vla-eval", "--exec-horizon", "99"], "exec_horizon must be 1…"),
        (["--protocol", "vla-eval", "--map", "wrist=x"], "unknown name in the map"),
        (["--protocol", "vla-eval", "--address", "ws://0.0.0.0:1"], "other machines"),
        (["--protocol", "gr00t", "--address", "tcp://0.0.0.0:1"], "other machines"),
        (["--protocol", "vla-eval", "--address", "tcp://127.0.0.1:1"], "is written ws://HOST:PORT"),
    ],
)
def test_what_makes_no_sense_is_refused(checkpoint, given, why):
    with pytest.raises(UnderstudyError, match=why):
        main([str(checkpoint), *given])


def test_a_secret_is_long_and_nobody_else_can_read_it(tmp_path):
    file = tmp_path / "token"
    for text, mode, why in (
        ("a" * 32, 0o644, "chmod 600"),
        ("short", 0o600, "16 letters"),
        ("a/b" * 9, 0o600, "letters"),
    ):
        file.write_text(text)
        file.chmod(mode)
        with pytest.raises(UnderstudyError, match=why):
            read_token(file)
    file.write_text("a" * 32 + "\n")
    assert read_token(file) == b"a" * 32
    assert read_token(None) == b""
    with pytest.raises(UnderstudyError, match="no file"):
        read_token(tmp_path / "none")
