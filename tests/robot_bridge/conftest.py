"""What the bridge is tried with: ``from robot_bridge_toys import …``, and so on."""

import sys
from contextlib import ExitStack
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

toys = {}
for name in ("toys", "fake_arms", "recorded", "rig", "network", "sway", "stage"):
    spec = spec_from_file_location(f"robot_bridge_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
    toys[name] = sys.modules[spec.name]

network, stage, sway = (toys[name] for name in ("network", "stage", "sway"))


def pytest_runtest_setup(item):
    if item.get_closest_marker("needs_root") and (why := network.no_tunnel()):
        pytest.skip(why)


@pytest.fixture(scope="module")
def on_the_path():
    """The processes of a run can import what lies here: ``sway:Camera``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        yield


@pytest.fixture(scope="module")
def keyring(tmp_path_factory):
    return stage.make_keyring(tmp_path_factory.mktemp("keys"), "robot", "right", "rude", "probe")


@pytest.fixture(scope="module")
def proxied(on_the_path, keyring, tmp_path_factory):
    with ExitStack() as on:
        server = sway.Served("tcp://127.0.0.1:0", stage.JOINT_POLICY, tmp_path_factory.mktemp("served"), keys=keyring)
        cable = on.enter_context(network.Proxy(("127.0.0.1", server.port)))
        driven = on.enter_context(stage.staged(cable.address, keys=stage.robots_keys(keyring)))
        lane = stage.Lane(driven, cable, server, keyring)
        on.callback(lambda: lane.server.close())
        yield lane


@pytest.fixture(scope="module")
def tunnelled(on_the_path, keyring, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with ExitStack() as on:
        cable = on.enter_context(network.Tunnel())
        server = sway.Served(
            f"tcp://{cable.there}:5555", stage.JOINT_POLICY, folder, keys=keyring, through=cable.command
        )
        on.callback(server.close)
        driven = on.enter_context(stage.staged(server.address, keys=stage.robots_keys(keyring)))
        yield stage.Lane(driven, cable, server, keyring)


@pytest.fixture
def lane(request):
    """An arm that moves, on the network that is asked for."""
    found = request.getfixturevalue(request.param)
    found.stage.sways()
    yield found
    found.network.heal()
