"""The driver of UR's arms, by the real ur_rtde, against a controller that is a process of its own."""

import sys
from time import monotonic, monotonic_ns, sleep
from unittest.mock import patch

import numpy as np
import pytest
from robot_bridge_fake_arms import fake_ur

from robot_bridge.arms.arm import ArmError, make_arm
from robot_bridge.arms.ur import URArm
from vla.errors import UnderstudyError


@pytest.fixture
def fake():
    with fake_ur() as made:
        yield made


@pytest.fixture
def arm(fake):
    made = URArm(fake.address, watchdog_s=2.0)
    made.connect()
    yield made
    made.disconnect()


def age_s(state):
    return 1e-9 * (monotonic_ns() - state.stamp_ns)


def follow(arm, target, seconds=0.3):
    """Command a way to ``target`` at the arm's rate."""
    begin, ticks = arm.state().joints, int(seconds * arm.spec.rate_hz)
    for tick in range(ticks):
        arm.command(begin + (target - begin) * (tick + 1) / ticks)
        sleep(1 / arm.spec.rate_hz)


@pytest.mark.parametrize("fault", ["freeze", "silence"])
def test_feedback_that_stands_still_grows_old(arm, fake, fault):
    assert age_s(arm.state()) < 0.2
    fake.tell(fault)
    sleep(0.5)  # nobody asks meanwhile: what is first read then is as old
    first = arm.state()
    assert age_s(first) > 0.4
    sleep(0.2)
    second = arm.state()
    assert second.stamp_ns == first.stamp_ns
    fake.tell("well")
    until = monotonic() + 10
    while age_s(arm.state()) > 0.1 and monotonic() < until:
        sleep(0.01)
    assert age_s(arm.state()) < 0.2


@pytest.mark.parametrize(("fault", "told"), [("protective", "unlock it"), ("emergency", "release the button")])
def test_a_stop_by_somebody_else_says_what_to_do(arm, fake, fault, told):
    fake.tell(fault)
    sleep(0.1)
    with pytest.raises(ArmError, match=told):
        arm.state()
    with pytest.raises(ArmError, match=told):
        arm.command(np.zeros(6))
    arm.disconnect()
    with pytest.raises(ArmError, match=told):
        arm.connect()
    fake.tell("well")
    sleep(0.1)
    arm.connect()
    follow(arm, arm.state().joints)


def test_a_lost_connection_is_told_and_mended_by_connecting_again(arm, fake):
    fake.tell("drop")
    sleep(0.3)
    with pytest.raises(ArmError, match="connection"):
        arm.state()
    arm.disconnect()
    arm.connect()
    assert age_s(arm.state()) < 0.2


def test_a_controller_that_dies_does_no_harm_to_disconnecting(arm, fake):
    follow(arm, arm.state().joints, 0.05)
    fake.process.kill()
    sleep(0.3)
    with pytest.raises(ArmError):
        arm.command(np.zeros(6))
    arm.disconnect()
    arm.disconnect()


def test_stopping_and_disconnecting_come_to_an_end_where_nobody_answers(arm, fake):
    follow(arm, arm.state().joints, 0.05)
    fake.tell("silence")
    sleep(0.5)
    with pytest.raises(ArmError, match="watchdog brakes"):
        arm.stop()
    with pytest.raises(ArmError, match="silent"):
        arm.command(np.zeros(6))
    arm.disconnect()
    with pytest.raises(ArmError, match="not connected"):
        arm.state()


def test_a_program_that_was_ended_on_the_pendant_is_not_started_again_unasked(arm, fake):
    begin = arm.state().joints
    follow(arm, begin, 0.1)
    fake.tell("end")
    sleep(0.1)
    with pytest.raises(ArmError, match="pendant"):
        arm.command(begin)
    with pytest.raises(ArmError, match="pendant"):
        arm.command(begin)


def test_silence_makes_the_controller_brake(fake):
    arm = URArm(fake.address, watchdog_s=0.4)
    arm.connect()
    begin = arm.state().joints
    arm.command(begin)
    fake.until("watchdog at 2.5")
    arm.command(begin + 0.5)
    fake.until("program ended: watchdog")
    sleep(0.1)  # until that is heard
    with pytest.raises(ArmError, match=r"0\.4 s of silence"):
        arm.command(begin)
    rest = arm.state().joints
    sleep(0.2)
    np.testing.assert_allclose(arm.state().joints, rest, atol=1e-6)
    arm.disconnect()


def test_stop_brakes_gently_and_the_next_setpoint_is_followed(fake):
    arm = URArm(fake.address, watchdog_s=0.5)
    arm.connect()
    begin = arm.state().joints
    follow(arm, begin + 0.05, 0.2)
    arm.stop()
    fake.until("stop at 4")
    fake.until("program ended: watchdog")
    rest = arm.state().joints
    follow(arm, rest - 0.05)
    fake.until("program uploaded")
    assert (arm.state().joints < rest - 0.02).all()
    arm.disconnect()


def test_an_arm_of_the_old_series_runs_at_125_hz():
    with fake_ur("ur5") as fake:
        arm = make_arm("ur", host=fake.address, model="ur5", watchdog_s=2.0)
        assert arm.spec.rate_hz == 125
        arm.connect()
        follow(arm, arm.state().joints + 0.05)
        arm.disconnect()


def test_what_hinders_connecting_says_what_to_do(fake):
    with pytest.raises(UnderstudyError, match="did you mean 'ur5"):
        URArm(fake.address, model="ur5f")
    with patch.dict(sys.modules, {"rtde_receive": None}), pytest.raises(ArmError, match=r"understudy\[ur\]"):
        URArm(fake.address).connect()
    with pytest.raises(ArmError, match=r"no arm at 127\.0\.0\.99"):
        URArm("127.0.0.99").connect()
    fake.tell("local")
    with pytest.raises(ArmError, match="remote control"):
        URArm(fake.address).connect()
