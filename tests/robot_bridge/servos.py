"""Six STS3215 servos of an SO-101 on a pty, in a process of their own, over joints that MuJoCo moves in real time.

    with Servos() as servos:        # LeRobot's own FeetechMotorsBus talks to servos.port
        servos.fault(missing=0.02)

As a program (the child) it prints its port as a line of JSON, and answers every line that it is given with one.
What is emulated is what LeRobot's bus touches: the frames of Feetech's protocol, EEPROM that is locked with the
torque, sign-and-magnitude registers, homing offsets, speed, load, temperature, and alarms that take the torque away.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory
from time import monotonic

import numpy as np

NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
OFFSETS = (120, -85, 33, 0, -300, 64)  # homing offsets [ticks]: present = actual - offset
RANGES = ((700, 3400), (800, 3300), (850, 3080), (840, 3200), (0, 4095), (1900, 3400))  # [ticks]
START = (0.3, -0.4, 0.5, 0.4, -0.3, 0.6)  # [rad] of MuJoCo's joints
STEP_S = 0.002
STRENGTH = 2.9  # [Nm] stall torque at 12 V
NO_LOAD = 4.7  # [rad/s]

PING, READ, WRITE, SYNC_READ, SYNC_WRITE, EVERYONE = 1, 2, 3, 0x82, 0x83, 0xFE
MODEL, LOWEST, HIGHEST, HOTTEST, UNLOADING, OFFSET, PROTECTION = 3, 9, 11, 13, 19, 31, 35
TORQUE, GOAL, LOCK, PRESENT, SPEED, LOAD, VOLTS, HEAT, STATUS, MOVING = 40, 42, 55, 56, 58, 60, 62, 63, 65, 66
HOT, OVERLOADED = 4, 32  # bits of the status
CALM = {"missing": 0.0, "corrupt": 0.0, "silent": False, "late_s": 0.0, "stuck": [], "hot": []}
"""Shares of answers that are lost or whose checksum is wrong; none at all; all late; ids that are stuck or hot."""

ARM = (
    """
<mujoco><option timestep="0.002" integrator="implicitfast"/>
<default>
  <joint damping="0.6" armature="0.028" frictionloss="0.05"/><geom type="capsule" size="0.015" contype="0"/>
  <position kp="50" kv="2" forcerange="-2.9 2.9"/>
</default>
<worldbody><body><joint name="shoulder_pan" axis="0 0 1"/><geom fromto="0 0 0 0 0 0.06" mass="0.1"/>
 <body pos="0 0 0.06"><joint name="shoulder_lift" axis="0 1 0"/><geom fromto="0 0 0 0 0 0.116" mass="0.1"/>
  <body pos="0 0 0.116"><joint name="elbow_flex" axis="0 1 0"/><geom fromto="0 0 0 0.135 0 0" mass="0.1"/>
   <body pos="0.135 0 0"><joint name="wrist_flex" axis="0 1 0"/><geom fromto="0 0 0 0.06 0 0" mass="0.06"/>
    <body pos="0.06 0 0"><joint name="wrist_roll" axis="1 0 0"/><geom fromto="0 0 0 0.04 0 0" mass="0.04"/>
     <body pos="0.04 0 0"><joint name="gripper" axis="0 0 1"/><geom fromto="0 0 0 0.06 0 0" mass="0.02"/></body>
    </body></body></body></body></body></worldbody>
<actuator>"""
    + "".join(f'<position joint="{name}"/>' for name in NAMES)
    + "</actuator></mujoco>"
)


def signed(value, bit):
    return (abs(value) & ((1 << bit) - 1)) | ((value < 0) << bit)


def unsigned(word, bit):
    return -(word & ((1 << bit) - 1)) if word >> bit & 1 else word


def checksum(body):
    return ~sum(body) & 0xFF


class Joints:
    """What the servos turn: position control whose goal runs no faster than a servo does."""

    def __init__(self):
        import mujoco

        self.mujoco, self.model = mujoco, mujoco.MjModel.from_xml_string(ARM)
        self.data = mujoco.MjData(self.model)
        self.data.qpos[:] = START
        self.gains = self.model.actuator_gainprm.copy(), self.model.actuator_biasprm.copy()
        self.damping = self.model.dof_damping.copy()
        self.goals, self.torque = np.array(START), np.ones(6, bool)
        self.data.ctrl[:] = START
        self.straining_s = np.zeros(6)
        self.now = monotonic()

    def drive(self, torque, stuck):
        """Set which servos pull [6], and which cannot turn [6]."""
        if (torque == self.torque).all() and ((self.model.dof_damping > 1e3) == stuck).all():
            return
        fresh = torque & ~self.torque
        self.data.ctrl[fresh] = self.data.qpos[fresh]  # the ramp begins where the joint is
        self.torque = torque
        self.model.actuator_gainprm[:] = self.gains[0] * torque[:, None]
        self.model.actuator_biasprm[:] = self.gains[1] * torque[:, None]
        self.model.dof_damping[:] = np.where(stuck, 1e5, self.damping)

    def advance(self):
        """Up to now; what a stalled process has missed beyond 0.2 s is left out."""
        steps = int((monotonic() - self.now) / STEP_S)
        self.now += steps * STEP_S
        for _ in range(min(steps, 100)):
            self.data.ctrl += np.clip(self.goals - self.data.ctrl, -NO_LOAD * STEP_S, NO_LOAD * STEP_S)
            self.mujoco.mj_step(self.model, self.data)
            straining = np.abs(self.data.actuator_force) > 0.8 * STRENGTH
            self.straining_s = np.where(straining, self.straining_s + STEP_S, 0.0)


class Bus:
    """The servos' registers, and what they answer."""

    def __init__(self, joints):
        self.joints, self.faults = joints, dict(CALM)
        self.rng, self.input, self.answers, self.outbox = np.random.default_rng(0), b"", 0, []
        self.registers = [bytearray(128) for _ in NAMES]
        for index, memory in enumerate(self.registers):
            memory[0:2], memory[5], memory[HOTTEST], memory[UNLOADING] = bytes((3, 10)), index + 1, 70, 44
            memory[PROTECTION] = 200  # x 10 ms of straining, then it is an overload
            for address, word in ((MODEL, 777), (OFFSET, signed(OFFSETS[index], 11)), (GOAL, 2500)):
                memory[address : address + 2] = word.to_bytes(2, "little")
            for address, word in zip((LOWEST, HIGHEST), RANGES[index]):
                memory[address : address + 2] = word.to_bytes(2, "little")

    def word(self, index, address, bit=16):
        return unsigned(int.from_bytes(self.registers[index][address : address + 2], "little"), bit)

    def put(self, index, address, word):
        self.registers[index][address : address + 2] = word.to_bytes(2, "little")

    def measure(self):
        """Bring the registers that are read, and what the goals mean, up to date."""
        joints = self.joints
        joints.advance()
        angles, speeds = joints.data.qpos.tolist(), joints.data.qvel.tolist()
        forces, strains = joints.data.actuator_force.tolist(), joints.straining_s.tolist()
        torque, stuck = np.zeros(6, bool), np.zeros(6, bool)
        for index, memory in enumerate(self.registers):
            offset = self.word(index, OFFSET, 11)
            self.put(index, PRESENT, signed(round(2048 + angles[index] * 2048 / np.pi) - offset, 15))
            self.put(index, SPEED, signed(round(speeds[index] * 2048 / np.pi), 15))
            self.put(index, LOAD, signed(round(forces[index] / STRENGTH * 1000), 10))
            memory[VOLTS], memory[MOVING] = 121, abs(speeds[index]) > 0.02
            memory[HEAT] = 80 if index + 1 in self.faults["hot"] else 35
            hot = memory[HEAT] > memory[HOTTEST]
            overloaded = strains[index] > memory[PROTECTION] / 100 or memory[STATUS] & OVERLOADED
            memory[STATUS] = HOT * hot | OVERLOADED * bool(overloaded)
            if memory[STATUS] & HOT & memory[UNLOADING]:
                memory[TORQUE] = 0
            goal = min(max(self.word(index, GOAL, 15), self.word(index, LOWEST)), self.word(index, HIGHEST))
            joints.goals[index] = (goal + offset - 2048) * np.pi / 2048
            torque[index], stuck[index] = memory[TORQUE], index + 1 in self.faults["stuck"]
        joints.drive(torque, stuck)

    def write(self, index, address, data):
        if address < TORQUE and self.registers[index][LOCK]:
            return  # the EEPROM is locked
        if address < PRESENT or address > 70:
            self.registers[index][address : address + len(data)] = data

    def answer(self, index, data=b""):
        """A status packet, unless a fault eats it."""
        if self.faults["silent"] or self.rng.random() < self.faults["missing"]:
            return b""
        body = bytes((index + 1, len(data) + 2, self.registers[index][STATUS])) + bytes(data)
        wrong = 0x55 if self.rng.random() < self.faults["corrupt"] else 0
        self.answers += 1
        return b"\xff\xff" + body + bytes((checksum(body) ^ wrong,))

    def carry_out(self, address, instruction, rest):
        """What the servos say to one instruction."""
        self.measure()
        if instruction == SYNC_WRITE:
            where, size = rest[0], rest[1]
            for start in range(2, len(rest), size + 1):
                self.write(rest[start] - 1, where, rest[start + 1 : start + 1 + size])
            return b""
        if instruction == SYNC_READ:
            where, size = rest[0], rest[1]
            return b"".join(self.answer(i - 1, self.registers[i - 1][where : where + size]) for i in rest[2:])
        said = b""
        for index in range(len(NAMES)) if address == EVERYONE else [address - 1]:
            if not 0 <= index < len(NAMES):
                continue
            if instruction == WRITE:
                self.write(index, rest[0], rest[1:])
            data = self.registers[index][rest[0] : rest[0] + rest[1]] if instruction == READ else b""
            said += self.answer(index, data)
        return said

    def hear(self, received):
        """Bytes from the line; whole instructions in them are carried out."""
        self.input += received
        while (begin := self.input.find(b"\xff\xff")) >= 0 and len(self.input) >= begin + 6:
            size = self.input[begin + 3] + 4
            if len(self.input) < begin + size:
                return
            body, self.input = self.input[begin + 2 : begin + size], self.input[begin + size :]
            if checksum(body[:-1]) == body[-1]:
                self.outbox.append((monotonic() + self.faults["late_s"], self.carry_out(body[0], body[2], body[3:-1])))


def tell(told):
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def serve():
    """The child: until its standard input is closed."""
    import tty

    with suppress(OSError):  # a real servo does not wait for a core either
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    bus = Bus(Joints())
    master, slave = os.openpty()
    tty.setraw(slave)
    tell({"port": os.ttyname(slave)})
    while True:
        ready, _, _ = select([master, sys.stdin], [], [], STEP_S)
        bus.measure()
        if master in ready:
            bus.hear(os.read(master, 4096))
        while bus.outbox and bus.outbox[0][0] <= monotonic():
            os.write(master, bus.outbox.pop(0)[1])
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            bus.faults |= json.loads(line)
            bus.measure()
            told = {
                "angles": bus.joints.data.qpos.tolist(),
                "ticks": [bus.word(i, PRESENT, 15) for i in range(6)],
                "goals": [bus.word(i, GOAL, 15) for i in range(6)],
                "torque": [bool(memory[TORQUE]) for memory in bus.registers],
                "answers": bus.answers,
            }
            tell(told)


class Servos:
    """The emulator as a process; ``port`` is where its bus is."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = json.loads(self.process.stdout.readline())["port"]
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait(timeout=20)
        self.process.stdout.close()

    def ask(self, **faults):
        """What is true of the joints now: ``angles`` [rad], ``ticks``, ``goals`` [ticks], ``torque``, ``answers``."""
        self.process.stdin.write(json.dumps(faults) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def fault(self, **faults):
        """From now on these faults of `CALM`, and no others."""
        return self.ask(**(CALM | faults))


def calibration(folder, name="emulated", **changes):
    """The file that lerobot-calibrate would have written; joint → ``range_min`` in ``changes`` makes it another."""
    told = {
        joint: {"id": i + 1, "drive_mode": 0, "homing_offset": OFFSETS[i], "range_min": low, "range_max": high}
        for i, (joint, (low, high)) in enumerate(zip(NAMES, RANGES))
    }
    for joint, low in changes.items():
        told[joint]["range_min"] = low
    file = Path(folder) / f"{name}.json"
    file.write_text(json.dumps(told), "utf-8")
    return str(file)


@contextmanager
def emulated_so101():
    """An SO-101 that is not yet connected. It waits longer than on real wires: processes share the cores here."""
    from robot_bridge.arms.arm import make_arm

    with Servos() as servos, TemporaryDirectory() as folder:
        yield make_arm("so101", port=servos.port, calibration=calibration(folder), answer_s=0.3)


if __name__ == "__main__":
    serve()
