"""What can go wrong on the way between a policy and an arm that moves, judged by how the arm really moved.

The numbers are those of the rows of faults that the bridge has to stand. A run asks a server on the other side of a
`Proxy`, or of a `Tunnel` where this machine permits one; both are ours to spoil. The run and its world last for all
tests: so each also shows that the arm can be driven again after the one before it.
"""

from dataclasses import replace
from time import monotonic_ns, sleep

import numpy as np
import pytest
from robot_bridge_network import Weather
from robot_bridge_stage import BOTH, MOVING, PROXIED, TUNNELLED, wait_for

from robot_bridge.control import State

pytestmark = pytest.mark.realtime

SEEN_S = 0.5
"""A server that is gone is missed in a fifth of a second; a busy machine is given some more."""


def rests_after(stage, begun_ns):
    """The loss is seen in time, and the arm rests before its last chunk ends."""
    wait_for(lambda: not stage.alive)
    assert int(stage.run.rings["link"].newest()["stamp_ns"]) - begun_ns < 1e9 * (SEEN_S + 0.1)
    motion = stage.rests_by(stage.chunk_end_ns)
    assert np.ptp(motion["joints"][:, stage.joint]) > 0.01, "it has not even moved"


@pytest.mark.fault(5)
@BOTH
def test_a_cable_is_cut(lane):
    lane.network.weather = Weather(cut=True)
    rests_after(lane.stage, monotonic_ns())
    lane.network.heal()
    sleep(0.5)
    assert lane.stage.run.state is State.STOPPED  # it waits for its operator
    lane.stage.sways().goes_on()


@pytest.mark.fault(5)
@PROXIED
def test_a_message_stops_in_its_middle(lane):
    lane.network.pause_after = 500
    wait_for(lambda: lane.network.weather.cut)
    rests_after(lane.stage, monotonic_ns())


WEATHERS = {
    "delay and jitter": Weather(delay_s=0.04, jitter_s=0.02),
    "a lost packet of a hundred": Weather(loss=0.01),
    "five of a hundred": Weather(loss=0.05),
    "exchanged and doubled": Weather(delay_s=0.01, jitter_s=0.005, loss=0.01, reorder=0.1, duplicate=0.05),
}


@pytest.mark.fault(6)
@TUNNELLED
@pytest.mark.parametrize("weather", WEATHERS.values(), ids=WEATHERS)
def test_packets_are_late_lost_exchanged_and_doubled(lane, weather):
    before = lane.network.counts.copy()
    lane.network.weather = replace(weather)
    sleep(3)
    stage, happened = lane.stage, lane.network.counts - before
    assert happened["passed"] > 100
    assert all(happened[what] for what, share in (("lost", weather.loss), ("doubled", weather.duplicate)) if share)
    stage.judge()
    if stage.run.state not in MOVING:  # that is in order, if it has been done in order
        stage.rests_by(stage.chunk_end_ns)
    else:
        assert len(stage.records("steps")) > 30
    lane.network.heal()
    stage.sways().goes_on()


@pytest.mark.fault(6)
@PROXIED
def test_a_connection_is_broken_again_and_again(lane):
    for _ in range(4):
        lane.network.hang_up()
        sleep(0.4)
    lane.stage.judge()
    lane.stage.goes_on()
