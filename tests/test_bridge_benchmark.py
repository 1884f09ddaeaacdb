"""The benchmark of the bridge: our own systems with a handful of requests, its arithmetic, and missing peers."""

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from vla import bench
from vla.bench import script
from vla.errors import UnderstudyError

bridge = script("bridge")
peers = bridge.peers


def test_our_own_systems_are_timed(tmp_path):
    file = tmp_path / "bridge.json"
    few = ["--requests", "3", "--rounds", "2", "--systems", *bridge.OURS]
    bench.main(["bridge", *few, "--json", str(file)])
    found = json.loads(file.read_text("utf-8"))
    assert [row["name"] for row in found["rows"]] == list(bridge.OURS)
    for row in found["rows"]:
        assert row["unit"] == "ms"
        assert 0 < row["value"] == row["p50"] <= row["p99"]
    assert found["ratios"] == {}


def test_a_ratio_is_theirs_over_ours_and_figures_are_medians_over_the_rounds():
    found = {
        "ours, raw": [[1.0, 1, 1], [2, 2, 2], [1, 1, 1]],
        "openpi": [[3.0, 3, 3], [6, 6, 6], [9, 9, 9]],
        "LeRobot pattern": [[8.0] * 3] * 3,
    }
    rows, ratios, noisy = bridge.summary(found)
    assert ratios == {"raw_vs_openpi": pytest.approx(3), "raw_vs_lerobot": pytest.approx(8)}
    assert [(row.name, row.p50) for row in rows] == [("ours, raw", 1), ("openpi", 6), ("LeRobot pattern", 8)]
    assert noisy
    steady = {"ours, raw + CURVE": [[1.0, 5.0]] * 5, "gRPC stream, TLS": [[6.0, 6.0]] * 5}
    assert bridge.summary(steady)[1:] == ({"curve_vs_grpc_tls": pytest.approx(2)}, False)


def test_every_ratio_names_two_systems():
    for ours, peer in bridge.RATIOS.values():
        assert ours in bridge.OURS
        assert peer in peers.PEERS


def test_the_peers_need_nothing_of_ours():
    module = ast.parse(Path(peers.__file__).read_text("utf-8"))
    names = {alias.name for node in ast.walk(module) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(module) if isinstance(node, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in names} & {"vla", "policies", "robot_bridge", "sim", "benchmarks"}
    top = {node.module for node in module.body if isinstance(node, ast.ImportFrom)}
    assert not any(name.startswith(("lerobot", "openpi_client", "websockets")) for name in top)


def test_all_are_asked_the_same():
    spec = bridge.Constant(peers.CAMERAS).spec
    seen = peers.observation()
    for camera in spec.cameras:
        assert seen[camera.name].shape == (camera.height, camera.width, 3) == (224, 224, 3)
        assert seen[camera.name].dtype == np.uint8
    assert seen["state"].shape == (spec.proprio_dim,) == (14,)
    assert peers.ACTIONS.shape == (spec.pred_horizon, spec.action.dim) == (16, 7)


def test_a_peer_that_cannot_come_up_is_left_out_and_named(monkeypatch):
    def missing():
        raise UnderstudyError("no environment")

    monkeypatch.setattr(bridge, "openpi_python", missing)
    found, notes = bridge.measure(["ours, state only", "openpi"], 1, 2)
    assert list(found) == ["ours, state only"]
    assert notes == ["openpi is left out: no environment"]


def test_a_process_that_ends_says_why(tmp_path):
    bridge.prepare(tmp_path)
    with (
        pytest.raises(UnderstudyError, match="openpi ended: "),
        bridge.running("openpi", Path(sys.executable), tmp_path),
    ):
        pass


def test_without_uv_there_is_no_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(bridge.subprocess, "run", lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError("uv")))
    with pytest.raises(UnderstudyError, match="FileNotFoundError"):
        bridge.openpi_python(tmp_path / "none")
