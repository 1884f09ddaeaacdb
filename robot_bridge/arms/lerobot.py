"""LeRobot's arms as ours: its followers on a bus of servos, driven through its own `Robot` interface.

    arm = make_arm("so101", port="/dev/ttyACM0", calibration="blue")     # as in lerobot-calibrate --robot.id=blue

LeRobot is imported by `connect`. Its cameras stay out of the arm (`robot_bridge.arms.lerobot_cameras` reads them, in
another process), and its ``max_relative_target`` stays off: that clamp reads the bus once more before each write, and
what keeps a setpoint within velocity, acceleration and jerk is our governor.

50 setpoints a second, of what a bus at 1 Mbaud can do: asking six servos and telling six is 0.9 ms of bits and 1–4 ms
with the USB adapter's turns, so that more than 100 would go; but a lost answer must be asked for again *within* the
tick, and three questions of 5 ms fit into 20 ms.
"""

import json
import logging
import os
import termios
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any

import numpy as np

from robot_bridge.arms.arm import ArmError, ArmSpec, ArmState, Joints, Limits, setpoint
from vla.types import Gripper

log = logging.getLogger(__name__)

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
GRIPPER = JOINTS.index("gripper")
RATE_HZ = 50.0
TRIES = 3  # questions for the joints in one tick
PATIENCE = 20  # times the wait for an answer: 0.1 s, five ticks, after which a silent bus is a fault
CONNECT_S = 0.2  # how long to wait for an answer while nothing is in a hurry
HEALTH_S = 0.2  # between two questions after the servos' own alarms
TICKS = 4095  # what LeRobot divides a turn into, for servos that count 4096
LAG = 0.35  # [rad]; the gripper's is beyond its whole way, for what it grips stops it
ALARMS = {1: "voltage", 2: "angle sensor", 4: "temperature", 8: "current", 16: "electrical shock", 32: "overload"}
ALARM_REGISTERS = ("Status", "Hardware_Error_Status")  # Feetech's, Dynamixel's
FAULTS = (OSError, RuntimeError, termios.error)
"""What LeRobot and the kits below it raise: no answer is a ConnectionError, a servo's alarm a RuntimeError."""


@dataclass(frozen=True)
class Follower:
    """``robot``: LeRobot's name for ``--robot.type``; ``package``: of `lerobot.robots`, and of its calibrations."""

    embodiment: str
    robot: str
    package: str


class LeRobotArm:
    """`Arm` over one of LeRobot's followers: radians where LeRobot has degrees, an opening 0…1 where it has 0…100.

    ``port``: of the bus; ``calibration``: LeRobot's ``id`` of the arm, or the path of its file; ``velocity`` [rad/s],
    ``acceleration`` [rad/s²], ``jerk`` [rad/s³]: of every joint; ``answer_s``: how long to wait for the servos.

    An STS3215 turns with 45…52 rpm (4.7…5.4 rad/s) when nothing loads it, at 7.4…12 V (its datasheet), and LeRobot
    sets its ramp to 39 rad/s² (254 steps of 100 ticks): the defaults are well under half and about a quarter of that.

    What the bus does wrong: a lost or garbled answer is asked for again at once, `TRIES` times; a tick that ends
    without one gives the last state under its old stamp; after `PATIENCE` waits of silence `state` raises. A servo's
    alarm (overheated, overloaded because it is stuck, …) raises within `HEALTH_S`. Setpoints are not acknowledged:
    the next tick's repeats one that was lost.
    """

    kinematics = None

    def __init__(
        self,
        follower: Follower,
        port: str,
        calibration: str = "None",
        *,
        velocity: float = 2.0,
        acceleration: float = 10.0,
        jerk: float = 100.0,
        answer_s: float = 0.005,
    ) -> None:
        self._follower, self._port, self._answer_s = follower, port, answer_s
        self._file = calibration_file(follower, calibration)
        spans = self._spans()
        reach = spans / 2  # [rad] from the middle of the calibrated range, which is LeRobot's zero
        reach[GRIPPER] = 1.0
        low = -reach
        low[GRIPPER] = 0.0
        unit = np.ones(len(JOINTS))
        unit[GRIPPER] = 1 / spans[GRIPPER]  # of the gripper's way in a radian
        lag = np.full(len(JOINTS), LAG)
        lag[GRIPPER] = 1.5
        self._scale = np.full(len(JOINTS), np.pi / 180)  # theirs → ours
        self._scale[GRIPPER] = 0.01
        self._half_tick = np.pi / TICKS * unit
        self.spec = ArmSpec(
            embodiment=follower.embodiment,
            joints=JOINTS,
            limits=Limits(
                *(tuple(v.tolist()) for v in (low, reach, *np.outer((velocity, acceleration, jerk), unit), lag))
            ),
            rate_hz=RATE_HZ,
            proprio_names=JOINTS,
            gripper=Gripper(index=GRIPPER, open=1.0, closed=0.0),
        )
        self._robot: Any = None
        self._last: ArmState | None = None
        self._healthy = 0.0

    def connect(self) -> None:
        """Find the servos, and hold the arm where it is; one that holds already is not let go for a moment.

        An arm without torque gets LeRobot's settings first. Raises `ArmError` with the command that calibrates it.
        """
        if self._robot is not None:
            return
        robot = self._make()
        make_strict(robot.bus)
        make_prompt(robot.bus, max(CONNECT_S, self._answer_s))
        for left in reversed(range(TRIES)):
            try:
                self._open(robot)
                break
            except FAULTS as error:
                self._close(robot)
                if not left:
                    raise ArmError(f"no {self.spec.embodiment} at {self._port}: {_told(error)}") from error
            except ArmError:
                self._close(robot)
                raise
        make_prompt(robot.bus, self._answer_s)
        self._robot, self._last, self._healthy = robot, None, monotonic()

    def state(self) -> ArmState:
        """The joints [D], measured now; the last ones under their old stamp when the bus says nothing this tick."""
        robot = self._connected()
        try:
            self._last = self._measured(robot)
            if monotonic() - self._healthy > HEALTH_S:
                self._check_alarms(robot.bus)
        except ConnectionError as error:
            silent_s = self._answer_s * PATIENCE
            if self._last is None or monotonic_ns() - self._last.stamp_ns > silent_s * 1e9:
                raise ArmError(
                    f"the bus at {self._port} has been silent for {silent_s:.2g} s: {_told(error)}"
                ) from error
        except FAULTS as error:
            raise ArmError(f"the bus at {self._port} failed: {_told(error)}") from error
        return self._last

    def command(self, joints: Joints) -> None:
        """Send ``joints`` [D], within their calibrated range: in a Koch no servo would keep to it by itself."""
        robot = self._connected()
        limits = self.spec.limits
        self._send(robot, np.clip(setpoint(joints, self.spec), limits.low, limits.high))

    def stop(self) -> None:
        """Make where the arm is its goal; the torque stays on."""
        robot = self._connected()
        try:
            here = self._measured(robot).joints
        except FAULTS as error:
            raise ArmError(f"the bus at {self._port} does not say where the arm is: {_told(error)}") from error
        self._send(robot, here)

    def disconnect(self) -> None:
        """Close the port; the servos go on holding their last goal."""
        robot, self._robot = self._robot, None
        if robot is not None:
            self._close(robot)

    def _open(self, robot: Any) -> None:
        """Find the servos, check that they are calibrated, make here their goal, and switch on what is off."""
        robot.bus.connect()
        if not robot.is_calibrated:
            raise ArmError(f"the servos do not have the calibration of {self._file}: {self._how_to_calibrate()}")
        here = robot.bus.sync_read("Present_Position", normalize=False)
        robot.bus.sync_write("Goal_Position", here, normalize=False)
        if not all(robot.bus.sync_read("Torque_Enable", normalize=False).values()):
            robot.configure()

    def _measured(self, robot: Any) -> ArmState:
        """Ask, and ask again when the answer is lost; raises the last question's error."""
        for left in reversed(range(TRIES)):
            stamp = monotonic_ns()
            try:
                seen = robot.get_observation()
            except ConnectionError:
                if not left:
                    raise
                continue
            joints = self._to_ours(seen)
            return ArmState(joints, joints.astype(np.float32), stamp)
        raise AssertionError("a question has an answer or an error")

    def _to_ours(self, seen: Mapping[str, Any]) -> Joints:
        return np.array([seen[f"{name}.pos"] for name in JOINTS]) * self._scale

    def _to_theirs(self, joints: Joints) -> dict[str, float]:
        # LeRobot cuts ticks off where it should round: with half a tick more, what was read is what is sent.
        values = (joints + self._half_tick) / self._scale
        return {f"{name}.pos": float(value) for name, value in zip(JOINTS, values, strict=True)}

    def _send(self, robot: Any, joints: Joints) -> None:
        try:
            robot.send_action(self._to_theirs(joints))
        except FAULTS as error:
            raise ArmError(f"the bus at {self._port} takes no setpoint: {_told(error)}") from error

    def _check_alarms(self, bus: Any) -> None:
        """Raise `ArmError` for a servo that has raised an alarm: LeRobot's reading of all at once does not look."""
        table = bus.model_ctrl_table[bus.models[0]]
        register = next(name for name in ALARM_REGISTERS if name in table)
        told = {name: bits for name, bits in bus.sync_read(register, normalize=False).items() if bits}
        if told:
            words = [
                f"{name}: {' and '.join(word for bit, word in ALARMS.items() if bits & bit) or bits}"
                for name, bits in told.items()
            ]
            raise ArmError(
                f"a servo has raised an alarm ({'; '.join(words)}): let it cool, free what blocks it, and switch the "
                "arm's power off and on"
            )
        self._healthy = monotonic()

    def _spans(self) -> Joints:
        """Calibrated range of each joint [rad], [D]."""
        if not self._file.is_file():
            raise ArmError(f"no calibration at {self._file}: {self._how_to_calibrate()}")
        told = json.loads(self._file.read_text("utf-8"))
        try:
            ticks = [told[name]["range_max"] - told[name]["range_min"] for name in JOINTS]
        except (KeyError, TypeError) as error:
            raise ArmError(f"{self._file} is no calibration of {', '.join(JOINTS)}") from error
        if min(ticks) <= 0:
            raise ArmError(f"{self._file} leaves a joint no range: {self._how_to_calibrate()}")
        return np.array(ticks) * 2 * np.pi / TICKS

    def _how_to_calibrate(self) -> str:
        return (
            f"run lerobot-calibrate --robot.type={self._follower.robot} --robot.port={self._port} "
            f"--robot.id={self._file.stem} --robot.calibration_dir={self._file.parent}"
        )

    def _make(self) -> Any:
        """LeRobot's robot, not yet connected."""
        try:
            from lerobot.robots import RobotConfig, make_robot_from_config

            import_module(f"lerobot.robots.{self._follower.package}")
            kind = RobotConfig.get_choice_class(self._follower.robot)
            options = {
                "port": self._port,
                "id": self._file.stem,
                "calibration_dir": self._file.parent,
                "use_degrees": True,
                "disable_torque_on_disconnect": False,
                "max_relative_target": None,
                "num_read_retries": 0,  # `_measured` asks again
            }
            names = {field.name for field in fields(kind)}
            return make_robot_from_config(kind(**{name: value for name, value in options.items() if name in names}))
        except ImportError as error:
            raise ArmError(f"{error}: pip install -e .[lerobot-arms]") from error

    def _connected(self) -> Any:
        if self._robot is None:
            raise ArmError(f"the {self.spec.embodiment} at {self._port} is not connected: call connect first")
        return self._robot

    def _close(self, robot: Any) -> None:
        try:
            if robot.bus.is_connected:
                robot.bus.disconnect(disable_torque=False)
        except FAULTS as error:
            log.warning("the bus at %s did not close: %s", self._port, _told(error))


def calibration_file(follower: Follower, calibration: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Where LeRobot keeps the calibration of that ``id``; a path to a ``.json`` is taken as it is."""
    if calibration.endswith(".json"):
        return Path(calibration).expanduser()
    cache = environment.get("XDG_CACHE_HOME", "~/.cache")
    home = environment.get("HF_LEROBOT_HOME", f"{environment.get('HF_HOME', f'{cache}/huggingface')}/lerobot")
    folder = Path(environment.get("HF_LEROBOT_CALIBRATION", f"{home}/calibration")).expanduser()
    return folder / "robots" / follower.package / f"{calibration}.json"


def make_prompt(bus: Any, answer_s: float) -> None:
    """Wait for an answer ``answer_s`` beyond its bits, on the monotonic clock; the kits wait 34…50 ms."""
    port = bus.port_handler

    def expect(length: int) -> None:
        port.packet_start_time = port.getCurrentTime()
        port.packet_timeout = port.tx_time_per_byte * length + 1e3 * answer_s  # [ms]

    port.getCurrentTime = lambda: 1e3 * monotonic()
    port.setPacketTimeout = expect


def make_strict(bus: Any) -> None:
    """Take no old answer for a new one.

    The kits leave in the port what came too late: from then on every question would get the answer to the one before
    it. Nor do they look at an answer's length: alarms that come late, one byte each, would be read as positions, with
    the checksum for the second byte. Old positions that arrive within one try after a lost one cannot be told from
    new ones; what is left of them is dropped with the next question.
    """
    port, handler = bus.port_handler, bus.packet_handler
    take, answer = handler.rxPacket, handler.readRx
    wanted: int | None = None

    def clear() -> None:
        port.ser.flush()
        port.ser.reset_input_buffer()

    def receive(*arguments: Any) -> tuple[list[int], int]:
        while True:
            packet, result = take(*arguments)
            if wanted is None or result != bus._comm_success or content(packet) == wanted:
                return packet, result

    def read(at: Any, servo: int, length: int) -> Any:
        nonlocal wanted
        wanted = length
        try:
            return answer(at, servo, length)
        finally:
            wanted = None

    port.clearPort, handler.rxPacket, handler.readRx = clear, receive, read


def content(packet: list[int]) -> int:
    """How many bytes a status packet carries: in Dynamixel's protocol 2 (its third byte is no id) or Feetech's."""
    return packet[5] + 256 * packet[6] - 4 if packet[2] == 0xFD else packet[3] - 2


def _told(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


so100 = partial(LeRobotArm, Follower("so100", "so100_follower", "so_follower"))
so101 = partial(LeRobotArm, Follower("so101", "so101_follower", "so_follower"))
koch = partial(LeRobotArm, Follower("koch", "koch_follower", "koch_follower"))
