"""What somebody, another arm too, may do to a server while it drives an arm, judged by how the arm really moved.

The numbers are those of the rows of faults that the bridge has to stand. The run and its world last for all tests, and
each of them finds and leaves an arm that moves.
"""

import socket as tcp
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from robot_bridge_rig import JOINT_POLICY, Rig
from robot_bridge_stage import MOVING, PROXIED, STILL, make_keyring, robots_keys, staged, wait_for
from robot_bridge_sway import Served, sway

from robot_bridge.asking import Asker
from robot_bridge.client import BridgeError
from robot_bridge.control import Link, State
from robot_bridge.plan import Made, Plan
from robot_bridge.run import run_folder
from robot_bridge.transport import Keys
from robot_bridge.wire import Header, Kind, pack_map
from sim.world import SPEC
from vla.errors import UnderstudyError
from vla.types import Observation, Task

pytestmark = pytest.mark.realtime

ROOMY = 64 << 20
"""Bytes by which a server's memory may vary."""


def garbage():
    """Messages that are none."""
    rng = np.random.default_rng(0)
    hello, observe = Header(Kind.HELLO, request=1).pack(), Header(Kind.OBSERVE, request=2).pack()
    yield from ([b""], [b"x" * 72], [hello], [hello[:-1]], [hello, b"\xc1"], [hello, b"", b""], [b"", hello])
    yield from ([hello, bytes(1 << 20)], [b"x"] * 200, [Header(Kind.CHUNK).pack(), b"1"], [observe, *[b""] * 50])
    for size in np.geomspace(1, 1_000_000, 40):
        yield [rng.bytes(int(size))]
        yield [hello, rng.bytes(int(size))]


@pytest.mark.fault(7)
@PROXIED
def test_garbage_from_somebody_with_a_key(lane):
    before, rude = lane.server.counts, lane.dealer("rude")
    messages = list(garbage())
    for parts in messages:
        rude.send_multipart(parts)
    wait_for(lambda: lane.server.counts.get("refused", 0) >= before.get("refused", 0) + len(messages) - 10)
    rude.close()
    lane.stage.goes_on(1.0)
    lane.stage.judge()


@pytest.mark.fault(7)
@PROXIED
def test_garbage_from_somebody_without_one(lane):
    before, rng = lane.server.counts, np.random.default_rng(0)
    greeting = bytes(lane.network.sent[-1][:64])
    junk = [b"GET / HTTP/1.1\r\n\r\n", b"\xff", greeting[:20], greeting + b"\x04\x06\x05READY", greeting * 2]
    junk += [rng.bytes(size) for size in (1, 10, 1000, 100_000, 1_000_000)]
    junk += [greeting + rng.bytes(size) for size in (1, 10, 1000, 100_000)]
    with ExitStack() as stack:
        for piece in junk:
            made = stack.enter_context(tcp.create_connection(("127.0.0.1", lane.server.port)))
            with suppress(OSError):  # it hangs up as soon as it has read enough
                made.sendall(piece)
        lane.stage.goes_on(1.0)
    lane.stage.judge()
    assert lane.counted("refused_connections", before)


@pytest.mark.fault(8)
@PROXIED
@pytest.mark.parametrize("announced", [512 << 20, 3 << 30], ids=["512 MiB", "3 GiB"])
def test_a_huge_length_is_announced(lane, announced):
    memory, sent = lane.server.resident, 0
    greeting = bytes(lane.network.sent[-1][:64])
    with tcp.create_connection(("127.0.0.1", lane.server.port), timeout=2) as made, suppress(OSError):
        made.sendall(greeting + b"\x06" + announced.to_bytes(8, "big"))
        while sent < ROOMY:
            sent += made.send(bytes(1 << 16))
    assert sent < ROOMY
    lane.stage.goes_on()
    lane.stage.judge()
    assert abs(lane.server.resident - memory) < ROOMY


@pytest.mark.fault(8)
@PROXIED
def test_a_huge_frame_from_somebody_with_a_key(lane):
    memory, rude = lane.server.resident, lane.dealer("rude")
    rude.send(b"hello")  # once it is connected
    peak, until = 0, monotonic() + 2
    rude.send(bytes(512 << 20), copy=False)
    while monotonic() < until:
        peak = max(peak, lane.server.resident)
        sleep(0.01)
    rude.close()
    assert peak - memory < ROOMY
    lane.stage.goes_on()
    lane.stage.judge()


@pytest.mark.fault(9)
@PROXIED
def test_buffers_that_are_not_what_the_spec_says(lane):
    before, probe = lane.server.counts, lane.connection("probe", arm="other")
    probe.open()
    probe.begin(Task(sway(0, np.zeros(8))))
    proprio, image = np.zeros(4, "<f4"), np.zeros((16, 16, 3), "u1")
    wrong = [
        *([b"", proprio.astype(dtype).tobytes(), image.tobytes()] for dtype in ("f8", "f2", "i1", "c16")),
        *([b"", array.tobytes(), image.tobytes()] for array in (proprio[:0], proprio[:3], np.zeros((4, 4), "<f4"))),
        *([b"", proprio.tobytes(), image.astype(dtype).tobytes()] for dtype in ("f4", "u2", "i8")),
        *([b"", proprio.tobytes(), image[:rows].tobytes()] for rows in (0, 1, 15)),
        [b"", np.array([{}, [], None, "x"], object).tobytes(), image.tobytes()],
        [b"", np.full(4, np.nan, "<f4").tobytes(), image.tobytes()],
        [b"", np.full(4, -np.inf, "<f4").tobytes(), image.tobytes()],
        [b"\xff\xff\xff\xff" + bytes(32), proprio.tobytes(), image.tobytes()],
        [b"", proprio.tobytes()],
        [b"", proprio.tobytes(), image.tobytes(), image.tobytes()],
    ]
    for parts in wrong:
        probe.counts.clear()
        probe._say([probe._header(Kind.OBSERVE, budget_ns=10**10).pack(), *parts])
        wait_for(lambda: probe.poll(0.02) is None and probe.counts["error_message"])
    assert lane.server.counts["refused"] >= before.get("refused", 0) + len(wrong)
    probe.trouble = ""
    probe.ask(Observation({"front": image}, proprio, 1))
    wait_for(lambda: probe.poll(0.02) is not None)
    probe.close()
    lane.stage.goes_on()
    lane.stage.judge()


@pytest.mark.fault(16)
@PROXIED
def test_what_was_recorded_is_played_again_on_a_connection_of_its_own(lane):
    before, recorded = lane.server.counts, bytes(lane.network.sent[-1])
    assert len(recorded) > 1000
    for piece in (recorded, recorded[:64], recorded[:500]):
        with tcp.create_connection(("127.0.0.1", lane.server.port), timeout=1) as made, suppress(OSError):
            made.sendall(piece)
            while made.recv(1 << 16):
                pass
    after = lane.server.counts
    assert after["robots"] == before["robots"]
    assert after["hello"] == before["hello"]
    assert lane.counted("refused_connections", before)
    lane.stage.goes_on()
    lane.stage.judge()


@pytest.mark.fault(16)
@PROXIED
def test_what_was_recorded_is_slipped_into_the_same_connection(lane):
    before, log = lane.server.counts, lane.network.sent[-1]
    begin = len(log)
    wait_for(lambda: len(log) > begin + 2000)
    lane.network.inject(bytes(log[begin:]))
    wait_for(lambda: lane.counted("refused_connections", before))
    sleep(1)
    lane.stage.judge()
    if lane.stage.run.state not in MOVING:
        lane.stage.rests_by(lane.stage.chunk_end_ns)
    lane.stage.sways().goes_on()


@pytest.mark.fault(16)
@PROXIED
def test_an_old_request_is_not_answered_again(lane):
    before, probe, said = lane.server.counts, lane.connection("probe", arm="other"), []
    probe.open()
    say, probe._say = probe._say, lambda parts: (said.append(list(map(bytes, parts))), say(parts))
    probe.begin(Task(sway(0, np.zeros(8))))
    seen = Observation({"front": np.zeros((16, 16, 3), np.uint8)}, np.zeros(4, np.float32), 1)
    for _ in range(2):
        probe.ask(seen)
        wait_for(lambda: probe.poll(0.02) is not None)
    old = [parts for parts in said if Header.unpack(parts[0]).kind is Kind.OBSERVE]
    answered = lane.server.counts["answered"]
    for parts in (*old, [Header.unpack(old[0][0])._replace(kind=Kind.RESET).pack(), pack_map({"instruction": ""})]):
        say(parts)
    wait_for(lambda: lane.server.counts.get("out_of_order", 0) >= before.get("out_of_order", 0) + 2)
    assert probe.poll(0.2) is None
    assert lane.server.counts["answered"] - answered < 10  # those of the arm that moves
    probe.close()
    lane.stage.goes_on()
    lane.stage.judge()


def strangers(keyring):
    """Who may not drive: its keys."""
    known = keyring / "robots" / "robot.key_secret"
    return {
        "another server's key": Keys(known, keyring / "stranger.key"),
        "a key that is not known": Keys(keyring / "stranger.key_secret", keyring / "server.key"),
        "no key at all": None,
    }


@pytest.mark.fault(17)
@pytest.mark.parametrize("who", strangers(Path()))
def test_a_stranger_does_not_get_to_arm(proxied, who):
    keys = strangers(proxied.keyring)[who]
    about = {"arm": Made(""), "cameras": Made(""), "policy": JOINT_POLICY, "arm_spec": SPEC, "name": who}
    plan = Plan(folder=run_folder(), address=proxied.server.address, keys=keys, **about)
    rings, rig, begun = plan.rings(make=True), Rig(), monotonic()
    asker = Asker(plan)
    while not asker.trouble.startswith(f"{plan.address} does not know our key"):
        asker.turn()
        rig.run(0.02)
        assert monotonic() < begun + 2, asker.trouble
    asker._told_ns = 0
    asker.turn()
    link = rings["link"].newest()
    rig.link = Link(bool(link["alive"]), float(link["rate"]), int(link["meeting"]), link["trouble"].decode())
    rig.run(0.1)
    assert "does not know our key" in rig.controller.order("arm", rig.now_ns)
    rig.run(0.3)
    assert rig.controller.state is State.IDLE
    assert np.abs(rig.moved[1]).max() < STILL
    asker.connection.close()


@pytest.mark.fault(17)
@PROXIED
def test_a_servers_key_is_exchanged_while_it_is_asked(lane, tmp_path):
    stage, port = lane.stage, lane.server.port
    (other := make_keyring(tmp_path / "other", "robot")).joinpath("robots", "robot.key_secret").unlink()
    for file in (lane.keyring / "robots").glob("*.key"):
        (other / "robots" / file.name).write_text(file.read_text())
    lane.server.close()
    lane.server = Served(f"tcp://127.0.0.1:{port}", JOINT_POLICY, tmp_path, keys=other)
    begun = monotonic()
    wait_for(lambda: b"does not know our key" in stage.run.rings["link"].newest()["trouble"])
    assert monotonic() - begun < 2
    stage.rests_by(stage.chunk_end_ns)
    stage.look()
    with pytest.raises(UnderstudyError, match="cannot be armed"):
        stage.run.arm(timeout_s=1.0)
    assert stage.run.state is State.IDLE
    assert np.abs(stage.judge()["velocity"]).max() < STILL
    lane.server.close()
    lane.server = Served(f"tcp://127.0.0.1:{port}", JOINT_POLICY, tmp_path, keys=lane.keyring)
    stage.sways().goes_on()  # no process had to be started anew


def delays(probe, seconds):
    """Microseconds of each round trip."""
    found, until = [], monotonic() + seconds
    seen = Observation({"front": np.zeros((16, 16, 3), np.uint8)}, np.zeros(4, np.float32), 1)
    while monotonic() < until:
        probe.ask(seen)
        while (answer := probe.poll(0.5)) is None:
            assert not probe.trouble, probe.trouble
        found.append(answer.round_trip_us)
        sleep(0.01)
    return np.array(found)


@pytest.mark.fault(18)
@PROXIED
def test_a_flood_of_connections(lane, record_property):
    target, stop, held = ("127.0.0.1", lane.server.port), threading.Event(), []

    def flood():
        while len(held) < 1500 and not stop.is_set():
            held.append(tcp.create_connection(target))
        while not stop.wait(0.003):
            tcp.create_connection(target).close()

    probe = lane.connection("probe", arm="other")
    probe.open()
    probe.begin(Task(sway(0, np.zeros(8))))
    quiet = delays(probe, 1.5)
    thread = threading.Thread(target=flood)
    thread.start()
    try:
        busy = delays(probe, 3.0)
    finally:
        stop.set()
        thread.join()
        for one in held:
            one.close()
    probe.close()
    assert len(held) == 1500
    for name, found in (("quiet", quiet), ("busy", busy)):
        record_property(f"{name}_us", [float(np.quantile(found, q)) for q in (0.5, 0.99)])
    assert np.median(busy) < 3 * np.median(quiet)
    assert np.quantile(busy, 0.9) < 5 * np.quantile(quiet, 0.9)
    lane.stage.goes_on()
    lane.stage.judge()


@pytest.mark.fault(15)
@PROXIED
def test_two_arms_on_one_server(lane):
    left = lane.stage
    with staged(lane.server.address, keys=robots_keys(lane.keyring, "right"), name="right", joint=3, seed=4) as right:
        right.sways()
        left.sways()
        thief = lane.connection("probe", arm="arm", robot="thief")
        with pytest.raises(BridgeError, match="driven by 'arm'"):
            thief.open()
        thief.close()
        right.goes_on(1.5)
        left.goes_on()
        for stage in (left, right):
            motion = stage.judge()  # also that no joint has moved that is the other arm's to move
            assert np.ptp(motion["joints"][:, stage.joint]) > 0.1
