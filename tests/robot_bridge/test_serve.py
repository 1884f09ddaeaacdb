"""The commands: a server that is stopped politely, keys that let a robot in, metrics that can be scraped."""

import signal
import socket
import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from robot_bridge_toys import ToyBrain, observation

from robot_bridge.client import Connection, RemotePolicy
from robot_bridge.metrics import serve_metrics
from robot_bridge.serve import keys
from robot_bridge.server import PolicyServer
from robot_bridge.transport import Keys
from vla.types import Task


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_metrics_count_what_happened():
    with (
        PolicyServer(ToyBrain(), "tcp://127.0.0.1:0").serving() as server,
        serve_metrics(server, port=free_port()) as port,
    ):
        remote = RemotePolicy(Connection(server.address))
        remote.reset(Task("lift"))
        for turn in range(3):
            remote.infer(observation(turn))
        text = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        assert 'understudy_messages_total{what="answered"} 3' in text
        assert "understudy_robots 1" in text
        assert 'understudy_answer_seconds{stage="total",quantile="0.99"}' in text
        assert urlopen(f"http://127.0.0.1:{port}/health").read() == b"ok\n"
        with pytest.raises(HTTPError):
            urlopen(f"http://127.0.0.1:{port}/secrets")
        remote.close()
    with serve_metrics(server, port=0) as port:
        assert port == 0


def test_the_commands_keys_let_a_robot_in(tmp_path, capsys):
    folder = tmp_path / "keys"
    assert keys([str(folder), "--robot", "left"]) == 0
    assert keys([str(folder), "--robot", "right"]) == 0
    assert "--allow" in capsys.readouterr().out
    assert sorted(file.name for file in (folder / "robots").iterdir()) == ["left.key", "right.key"]
    server_keys, known = Keys(folder / "server.key_secret"), folder / "robots"
    with PolicyServer(ToyBrain(), "tcp://127.0.0.1:0", keys=server_keys, allowed=known).serving() as server:
        own = Keys(folder / "right.key_secret", folder / "server.key")
        remote = RemotePolicy(Connection(server.address, keys=own))
        remote.close()


@pytest.mark.slow
def test_a_policy_answers_over_the_bridge_as_it_does_here(tmp_path):
    from policies import train as training
    from policies.policy import load_policy
    from sim.collect import CollectConfig, run
    from vla.config import load
    from vla.data.lerobot import open_dataset
    from vla.types import Observation

    suite = {"image_size": 32, "cameras": ["front"]}
    data = run(CollectConfig(tasks=("tabletop/press-button",), episodes=2, out=tmp_path / "d", suite=suite, workers=0))
    given = ["policy=cogact", "preset=tiny", f"data={data}", f"out={tmp_path / 'run'}", "trainer.steps=2"]
    folder = training.run(load(training.TrainConfig, "train", given))
    port = free_port()
    command = [sys.executable, "-m", "vla", "serve", str(folder), "--address", f"tcp://127.0.0.1:{port}"]
    served = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        connection = Connection(f"tcp://127.0.0.1:{port}")
        connection.open(60)
        remote, local = RemotePolicy(connection), load_policy(folder)
        assert remote.spec.to_dict() == local.spec.to_dict()
        episode = open_dataset(data).episode(0)
        seen = Observation({"front": episode.images["front"]()[0]}, episode.proprio[0], 5)
        for one in (remote, local):
            one.reset(Task("press the button"), seed=4)
        for _ in range(2):
            np.testing.assert_allclose(remote.infer(seen).actions, local.infer(seen).actions, atol=1e-5)
        remote.close()
    finally:
        served.send_signal(signal.SIGTERM)
        _, said = served.communicate(timeout=20)
    assert served.returncode == 0, said
    assert "2 answers, 0 refused" in said
