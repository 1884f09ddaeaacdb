"""LeRobot's SO-101 as our arm: its real bus and its real `SOFollower` drive six emulated servos."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from time import monotonic, monotonic_ns, sleep

import numpy as np
import pytest

from robot_bridge.arms.arm import ArmError, make_arm
from robot_bridge.arms.lerobot import GRIPPER, JOINTS, RATE_HZ, calibration_file, content, koch, make_prompt, so101
from robot_bridge.arms.lerobot_cameras import LeRobotCameras
from vla.errors import UnderstudyError

SPEC = spec_from_file_location("robot_bridge_servos", Path(__file__).with_name("servos.py"))
emulator = module_from_spec(SPEC)
SPEC.loader.exec_module(emulator)
LOOSE = 0.03  # [rad] of droop, friction and ticks


@pytest.fixture(scope="module")
def servos():
    with emulator.Servos() as made:
        yield made


@pytest.fixture
def arm(servos, tmp_path):
    made = make_arm("so101", port=servos.port, calibration=emulator.calibration(tmp_path), answer_s=0.3)
    made.connect()
    yield made
    servos.fault()
    made.disconnect()


def travel(arm, step, seconds=0.5):
    """Go ``step`` [D] from here in ``seconds``, then wait for it; where it began."""
    begin, ticks = arm.state().joints, int(seconds * RATE_HZ)
    for tick in range(ticks):
        arm.command(begin + step * (tick + 1) / ticks)
        sleep(1 / RATE_HZ)
    sleep(0.5)
    return begin


def towards_the_middle(arm, size):
    step = np.full(len(JOINTS), size)
    step[GRIPPER] = size / 2
    middle = (np.array(arm.spec.limits.low) + arm.spec.limits.high) / 2
    return np.where(arm.state().joints < middle, step, -step)


def test_joints_turn_by_the_radians_that_they_are_sent(arm, servos):
    before = np.array(servos.ask()["angles"])
    step = towards_the_middle(arm, 0.3)
    begin = travel(arm, step)
    turned = np.array(servos.ask()["angles"]) - before
    gripper_span = (emulator.RANGES[GRIPPER][1] - emulator.RANGES[GRIPPER][0]) * 2 * np.pi / 4096  # [rad]
    np.testing.assert_allclose(turned[:GRIPPER], step[:GRIPPER], atol=LOOSE)
    np.testing.assert_allclose(turned[GRIPPER], step[GRIPPER] * gripper_span, atol=LOOSE)
    np.testing.assert_allclose(arm.state().joints - begin, step, atol=LOOSE)


def test_an_opening_of_one_is_open_and_of_nought_closed(arm, servos):
    assert arm.spec.gripper.open == 1.0
    assert arm.spec.gripper.closed == 0.0
    assert arm.spec.gripper.index == GRIPPER
    for opening, end in ((1.0, 1), (0.0, 0)):
        joints = arm.state().joints
        joints[GRIPPER] = opening
        arm.command(joints)
        sleep(1.0)
        told = servos.ask()
        assert abs(told["goals"][GRIPPER] - emulator.RANGES[GRIPPER][end]) <= 1
        np.testing.assert_allclose(arm.state().joints[GRIPPER], opening, atol=LOOSE)


def test_limits_are_those_of_the_calibration(arm):
    low, high = emulator.RANGES[0]
    half = (high - low) / 2 * 2 * np.pi / 4095
    assert arm.spec.limits.low[0] == pytest.approx(-half)
    assert arm.spec.limits.high[0] == pytest.approx(half)
    assert (arm.spec.limits.low[GRIPPER], arm.spec.limits.high[GRIPPER]) == (0.0, 1.0)
    assert max(arm.spec.limits.velocity) <= 4.7 / 2  # [rad/s] half of what an STS3215 does with nothing on it


def test_limits_can_be_other_ones(tmp_path):
    made = so101(port="nowhere", calibration=emulator.calibration(tmp_path), velocity=1.0, acceleration=5.0, jerk=50.0)
    assert (made.spec.limits.velocity[0], made.spec.limits.acceleration[0], made.spec.limits.jerk[0]) == (
        1.0,
        5.0,
        50.0,
    )


def test_what_is_read_is_what_is_sent_back(tmp_path):
    """Through LeRobot's own conversions, at every tick of every joint: holding does not creep."""
    arm = so101(port="nowhere", calibration=emulator.calibration(tmp_path))
    bus = arm._make().bus
    for ticks in zip(*(np.linspace(low, high, 3000).round().astype(int).tolist() for low, high in emulator.RANGES)):
        read = bus._normalize(dict(zip(bus.ids, ticks)))
        sent = arm._to_theirs(arm._to_ours({f"{bus._id_to_name(i)}.pos": value for i, value in read.items()}))
        assert tuple(bus._unnormalize({bus.motors[key[:-4]].id: v for key, v in sent.items()}).values()) == ticks


def test_stopping_makes_here_the_goal(arm, servos):
    arm.command(arm.state().joints + towards_the_middle(arm, 0.5))
    sleep(0.1)
    arm.stop()
    told = servos.ask()
    assert np.abs(np.array(told["goals"]) - told["ticks"]).max() < 300  # [ticks] of 326 that it had before it
    assert told["torque"] == [True] * 6
    sleep(0.5)
    np.testing.assert_allclose(servos.ask()["ticks"], told["goals"], atol=40)


def test_connecting_moves_nothing_and_leaving_lets_nothing_fall(arm, servos):
    before = servos.ask()
    arm.disconnect()
    assert servos.ask()["torque"] == [True] * 6
    arm.connect()
    after = servos.ask()
    assert after["torque"] == [True] * 6
    np.testing.assert_allclose(after["angles"], before["angles"], atol=LOOSE)


def test_beyond_its_range_a_joint_stays_at_the_end(arm, servos):
    joints = arm.state().joints
    joints[0] = 9.0
    arm.command(joints)
    assert abs(servos.ask()["goals"][0] - emulator.RANGES[0][1]) <= 1
    arm.stop()


def test_nothing_that_is_no_number_reaches_the_wire(arm, servos):
    before = servos.ask()
    for bad in (np.nan, np.inf):
        with pytest.raises(UnderstudyError, match="elbow_flex"):
            arm.command(np.where(np.arange(6) == 2, bad, arm.state().joints))
    assert servos.ask()["goals"] == before["goals"]


@pytest.mark.fault(21)
@pytest.mark.parametrize("fault", [{"missing": 0.02}, {"corrupt": 0.02}, {"missing": 0.02, "corrupt": 0.02}])
def test_a_bus_that_loses_two_answers_of_a_hundred_still_drives(arm, servos, fault):
    servos.fault(**fault)
    before = np.array(servos.ask()["angles"])
    step = towards_the_middle(arm, 0.2)
    stamps = []
    begin, ticks = arm.state().joints, 40
    for tick in range(ticks):
        arm.command(begin + step * (tick + 1) / ticks)
        stamps.append(arm.state().stamp_ns)
        sleep(1 / RATE_HZ)
    servos.fault()
    sleep(0.5)
    np.testing.assert_allclose((np.array(servos.ask()["angles"]) - before)[:GRIPPER], step[:GRIPPER], atol=LOOSE)
    np.testing.assert_allclose(arm.state().joints - begin, step, atol=LOOSE)
    assert stamps == sorted(stamps)


@pytest.mark.fault(21)
def test_a_silent_bus_gives_the_old_state_under_its_old_stamp_then_an_error(servos, tmp_path):
    arm = make_arm("so101", port=servos.port, calibration=emulator.calibration(tmp_path), answer_s=0.3)
    arm.connect()
    last = arm.state()
    servos.fault(silent=True)
    stale = arm.state()
    assert stale.stamp_ns == last.stamp_ns
    np.testing.assert_array_equal(stale.joints, last.joints)
    with pytest.raises(ArmError, match="silent"):
        until_it_raises(arm, last.joints)
    with pytest.raises(ArmError, match="where the arm is"):
        arm.stop()
    servos.fault()
    assert arm.state().stamp_ns > last.stamp_ns
    arm.disconnect()


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(arm, servos):
    arm.state()
    make_prompt(arm._robot.bus, 0.01)
    servos.fault(late_s=0.15)
    for _ in range(3):
        arm.state()
    servos.fault()
    make_prompt(arm._robot.bus, 0.1)
    step = towards_the_middle(arm, 0.2)
    travel(arm, step)
    joints = arm.state().joints
    expected = (np.array(servos.ask()["ticks"])[:GRIPPER] - np.mean(emulator.RANGES, 1)[:GRIPPER]) * 2 * np.pi / 4095
    np.testing.assert_allclose(joints[:GRIPPER], expected, atol=0.01)


def test_alarms_that_come_late_are_not_taken_for_positions(arm, servos):
    """Nor positions for alarms: answers of another length are passed over."""
    begin = arm.state().joints
    bus = arm._robot.bus
    for late, early in (("Status", "Present_Position"), ("Present_Position", "Status")):
        make_prompt(bus, 0.02)
        servos.fault(late_s=0.05)
        with pytest.raises(ConnectionError):
            bus.sync_read(late)
        make_prompt(bus, 0.5)
        told = bus.sync_read(early, normalize=False)  # the late answers come first, while this one is awaited
        servos.fault()
        expected = servos.ask()["ticks"] if early == "Present_Position" else [0] * 6
        np.testing.assert_allclose(list(told.values()), expected, atol=3)
    np.testing.assert_allclose(arm.state().joints, begin, atol=LOOSE)


def test_the_content_of_an_answer_is_counted_in_both_protocols():
    assert content([0xFF, 0xFF, 1, 4, 0, 10, 20, 0]) == 2
    assert content([0xFF, 0xFF, 0xFD, 0, 1, 8, 0, 0x55, 0, 1, 2, 3, 4, 0, 0]) == 4


def until_it_raises(arm, joints, seconds=30.0):
    until = monotonic() + seconds
    while monotonic() < until:
        arm.command(joints)
        arm.state()
        sleep(1 / RATE_HZ)


@pytest.mark.fault(21)
def test_a_stuck_servo_is_seen_where_it_is_and_then_named(servos, tmp_path):
    with emulator.Servos() as own:
        arm = make_arm("so101", port=own.port, calibration=emulator.calibration(tmp_path), answer_s=0.3)
        arm.connect()
        own.fault(stuck=[1])
        begin, step = arm.state().joints, np.array([0.3, 0, 0, 0, 0, 0])
        arm.command(begin + step)
        sleep(0.3)
        assert abs(arm.state().joints[0] - begin[0]) < 0.05
        with pytest.raises(ArmError, match="shoulder_pan: overload"):
            until_it_raises(arm, begin + step)
        arm.stop()
        assert own.ask()["torque"] == [True] * 6
        arm.disconnect()


@pytest.mark.fault(21)
def test_a_servo_that_is_too_hot_is_an_error_that_names_it(tmp_path):
    with emulator.Servos() as own:
        arm = make_arm("so101", port=own.port, calibration=emulator.calibration(tmp_path), answer_s=0.3)
        arm.connect()
        own.fault(hot=[3])
        with pytest.raises(ArmError, match="elbow_flex: temperature"):
            until_it_raises(arm, arm.state().joints)
        arm.stop()
        own.fault()
        assert np.isfinite(arm.state().joints).all()
        arm.disconnect()
        own.fault(hot=[3])
        with pytest.raises(ArmError, match=own.port):
            arm.connect()


def test_a_bus_that_is_gone_is_an_error_and_can_still_be_closed(tmp_path):
    with emulator.Servos() as own:
        arm = make_arm("so101", port=own.port, calibration=emulator.calibration(tmp_path))
        arm.connect()
    with pytest.raises(ArmError, match="bus"):
        until_it_raises(arm, arm.spec.limits.high)
    with pytest.raises(ArmError):
        arm.stop()
    arm.disconnect()


def test_without_a_calibration_the_command_that_makes_one_is_named(servos, tmp_path):
    with pytest.raises(ArmError, match=r"lerobot-calibrate --robot.type=so101_follower .*--robot.id=blue"):
        so101(port=servos.port, calibration=str(tmp_path / "blue.json"))


def test_servos_with_another_calibration_are_not_driven(servos, tmp_path):
    before = servos.ask()
    arm = so101(port=servos.port, calibration=emulator.calibration(tmp_path, elbow_flex=900))
    with pytest.raises(ArmError, match="lerobot-calibrate"):
        arm.connect()
    assert servos.ask()["goals"] == before["goals"]


def test_no_arm_at_the_port_is_an_error_that_says_so(tmp_path):
    arm = so101(port=str(tmp_path / "tty"), calibration=emulator.calibration(tmp_path))
    with pytest.raises(ArmError, match="no so101 at"):
        arm.connect()


def test_a_calibration_lies_where_lerobot_keeps_it():
    from lerobot.utils.constants import HF_LEROBOT_CALIBRATION

    follower = so101.args[0]
    assert calibration_file(follower, "blue") == HF_LEROBOT_CALIBRATION / "robots" / "so_follower" / "blue.json"
    moved = {"HF_LEROBOT_HOME": "/data/lerobot"}
    assert calibration_file(follower, "blue", moved) == Path("/data/lerobot/calibration/robots/so_follower/blue.json")


@pytest.mark.parametrize("made", [so101, koch])
def test_lerobot_makes_the_robot_with_our_joints_in_our_units(made, tmp_path):
    """A Koch's servos are not emulated: that LeRobot builds it as we ask is what can be seen."""
    robot = made(port="nowhere", calibration=emulator.calibration(tmp_path))._make()
    assert tuple(robot.bus.motors) == JOINTS
    assert robot.config.use_degrees
    assert robot.config.max_relative_target is None
    assert not robot.config.disable_torque_on_disconnect
    assert robot.cameras == {}
    modes = [motor.norm_mode.value for motor in robot.bus.motors.values()]
    assert modes == ["degrees"] * 5 + ["range_0_100"]


def test_reading_and_writing_go_round(arm, record_property):
    """How often a second goes into the report of the run: 400…1100 on two busy cores, without the wires' 0.9 ms."""
    joints, begin, cycles = arm.state().joints, monotonic(), 0
    while monotonic() - begin < 0.5:
        arm.state()
        arm.command(joints)
        cycles += 1
    record_property("cycles_per_second", cycles / (monotonic() - begin))
    assert cycles


def test_cameras_of_lerobot_give_their_newest_picture():
    """Over LeRobot's own kind of camera on a socket, the one that needs no hardware."""
    import base64
    import threading

    import cv2
    import zmq

    context, done = zmq.Context(), threading.Event()
    socket = context.socket(zmq.PUB)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    picture = np.full((24, 32, 3), (10, 200, 90), np.uint8)
    encoded = base64.b64encode(cv2.imencode(".png", picture)[1]).decode()

    def publish():
        while not done.wait(0.03):
            socket.send_json({"images": {"front": encoded}})

    sender = threading.Thread(target=publish)
    sender.start()
    settings = {"type": "zmq", "server_address": "127.0.0.1", "port": port, "camera_name": "front"}
    cameras = LeRobotCameras({"front": settings | {"width": 32, "height": 24, "fps": 30}})
    try:
        with pytest.raises(ArmError, match="connect"):
            cameras.read()
        cameras.connect()
        pictures, stamp = cameras.read()
        np.testing.assert_array_equal(pictures["front"], picture)
        assert 0 <= monotonic_ns() - stamp < 5e9
        sleep(0.3)
        assert cameras.read()[1] > stamp
        cameras.disconnect()
        cameras.disconnect()
    finally:
        done.set()
        sender.join()
        socket.close(linger=0)
        context.term()


def test_a_kind_of_camera_that_lerobot_does_not_have_is_refused():
    with pytest.raises(UnderstudyError, match="opencv"):
        LeRobotCameras({"front": {"type": "opncv"}})
