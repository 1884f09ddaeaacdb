"""A UR controller that is only wire and numbers: ``python fake_ur.py ADDRESS MODEL``, a process of its own.

It speaks what ur_rtde asks of a controller: RTDE (30004), the dashboard (29999) and the script port (30003). The script
that ur_rtde uploads is not read; what it would do, this does: it takes commands from the input registers, answers in an
output register, follows the target of ``servoj`` with a lag and a limited speed, and ends when the watchdog is not fed.

Words on its standard input are faults: ``freeze`` (the same package for ever), ``silence`` (no package),
``protective``, ``emergency``, ``local`` (no remote control), ``end`` (the program is ended), ``drop`` (the connections
close), ``well``.
It says ``ready`` once it listens, and each event on a line of its own.
"""

import asyncio
import os
import struct
import sys
from time import monotonic

JOINTS = (0.0, -1.57, 1.57, -1.57, -1.57, 0.0)
PERIOD_S = 0.002
SPEED, LAG_S = 3.14, 0.02
READY, DONE = 1, 2
NO_COMMAND, SERVOJ, SERVO_STOP, STOPJ, SET_WATCHDOG, STOP_SCRIPT = 0, 11, 16, 34, 35, 255
VERSION, CONTROLLER_VERSION, DATA, OUTPUTS, INPUTS, START, PAUSE = b"VvUOISP"
VECTORS = {"actual_q", "actual_qd", "target_q", "target_qd"}
WORDS = {"robot_status_bits", "safety_status_bits", "runtime_state"}


def kind(name):
    """The type of a variable: its name on the wire, and struct's."""
    if name in VECTORS:
        return "VECTOR6D", "6d"
    if name in WORDS:
        return "UINT32", "I"
    whole = "_int_register_" in name or name.endswith("_mode")
    return ("INT32", "i") if whole else ("DOUBLE", "d")


def tell(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Controller:
    """Joints, registers and the program; one for all connections."""

    def __init__(self, major):
        self.major, self.born = major, monotonic()
        self.joints, self.speeds, self.target = list(JOINTS), [0.0] * 6, None
        self.registers, self.running, self.fault = {}, False, "well"
        self.watchdog_s, self.fed, self.stepped = None, monotonic(), monotonic()
        self.shown = self.born

    def step(self):
        """Move on to now."""
        now = monotonic()
        passed, self.stepped = now - self.stepped, now
        if self.running and self.watchdog_s and now - self.fed > self.watchdog_s:
            self.end("watchdog")
        for joint in range(6):
            error = 0.0 if self.target is None else self.target[joint] - self.joints[joint]
            step = min(SPEED * passed, max(-SPEED * passed, error * min(1.0, passed / LAG_S)))
            self.joints[joint] += step
            self.speeds[joint] = step / passed if passed else 0.0
        if self.fault != "freeze":
            self.shown = now

    def end(self, why):
        self.running, self.target, self.watchdog_s = False, None, None
        tell(f"program ended: {why}")

    def upload(self):
        self.running, self.target, self.watchdog_s = True, None, None
        self.registers["output_int_register_0"] = READY
        tell("program uploaded")

    def value(self, name):
        """What an output is now, as a tuple of numbers."""
        if name in ("actual_q", "target_q"):
            return tuple(self.joints)
        if name in ("actual_qd", "target_qd"):
            return tuple(self.speeds)
        stops = {"protective": 1 << 2, "emergency": 1 << 7}
        known = {
            "timestamp": self.shown - self.born,
            "robot_status_bits": 1 | self.running << 1,  # powered on, program running
            "safety_status_bits": stops.get(self.fault, 1),
            "runtime_state": 2 if self.running else 1,
            "robot_mode": 7,
            "safety_mode": 1,
        }
        return (known[name] if name in known else self.registers.get(name, 0),)

    def command(self):
        """Do what the input registers say."""
        self.fed = monotonic()
        if not self.running:
            return
        number = self.registers.get("input_int_register_0", NO_COMMAND)
        numbers = [self.registers.get(f"input_double_register_{i}", 0.0) for i in range(6)]
        if number == SERVOJ:
            self.target = numbers
        elif number in (SERVO_STOP, STOPJ):
            tell(f"stop at {numbers[0]:g}")
            self.target = None
        elif number == SET_WATCHDOG:
            tell(f"watchdog at {numbers[0]:g}")
            self.watchdog_s = 1 / numbers[0]
        elif number == STOP_SCRIPT:
            self.end("asked")
        elif number != NO_COMMAND:
            tell(f"command {number}")
        self.registers["output_int_register_0"] = READY if number in (NO_COMMAND, SERVOJ) else DONE


class Connection:
    """One of RTDE: its recipes, and whether it wants packages."""

    def __init__(self, controller, writer):
        self.controller, self.writer = controller, writer
        self.outputs, self.recipes, self.started = [], [], False

    def send(self, what, payload):
        self.writer.write(struct.pack(">HB", 3 + len(payload), what) + payload)

    def take(self, what, payload):
        """Answer one message."""
        if what == VERSION:
            self.send(what, b"\x01")
        elif what == CONTROLLER_VERSION:
            self.send(what, struct.pack(">4I", self.controller.major, 12, 0, 0))
        elif what == OUTPUTS:
            self.outputs = payload[8:].decode().strip(",").split(",")
            self.send(what, b"\x01" + ",".join(kind(name)[0] for name in self.outputs).encode())
        elif what == INPUTS:
            self.recipes.append(payload.decode().strip(",").split(","))
            kinds = ",".join(kind(name)[0] for name in self.recipes[-1])
            self.send(what, bytes([len(self.recipes)]) + kinds.encode())
        elif what in (START, PAUSE):
            self.started = what == START
            self.send(what, b"\x01")
        elif what == DATA:
            names = self.recipes[payload[0] - 1]
            values = struct.unpack(">" + "".join(kind(name)[1] for name in names), payload[1:])
            self.controller.registers.update(zip(names, values, strict=True))
            self.controller.command()

    def package(self):
        values = [number for name in self.outputs for number in self.controller.value(name)]
        self.send(DATA, b"\x01" + struct.pack(">" + "".join(kind(name)[1] for name in self.outputs), *values))


async def rtde(reader, writer, controller, connections):
    """Serve one connection of RTDE."""
    connection = Connection(controller, writer)
    connections.append(connection)
    try:
        while True:
            size, what = struct.unpack(">HB", await reader.readexactly(3))
            connection.take(what, await reader.readexactly(size - 3))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        connections.remove(connection)
        writer.close()


async def script(reader, writer, controller):
    """Take programs: all that is sent until a pause is one."""
    while await reader.read(1 << 20):
        if not controller.running and controller.fault != "local":
            controller.upload()


async def dashboard(reader, writer, controller):
    """Answer the questions that ur_rtde asks."""
    writer.write(b"Connected: Universal Robots Dashboard Server\n")
    while line := await reader.readline():
        asked = line.decode().strip()
        if asked == "stop" and controller.running:
            controller.end("dashboard")
        answers = {
            "PolyscopeVersion": f"URSoftware {controller.major}.12.0.1101319 (Mar 22 2022)",
            "get serial number": "20235500001",
            "is in remote control": str(controller.fault != "local").lower(),
        }
        writer.write(answers.get(asked, "OK").encode() + b"\n")


async def faults(controller, connections):
    """Read words from standard input; it ends with the parent."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while word := (await lines.readline()).decode().strip():
        if word == "drop":
            for connection in list(connections):
                connection.writer.transport.abort()
        elif word == "end":
            controller.end("pendant")
        else:
            controller.fault = word
        tell(f"told {word}")
    sys.stdout.flush()
    os._exit(0)


async def beat(controller, connections):
    """A package for every connection, 500 times a second; late ones are left out."""
    while True:
        controller.step()
        for connection in connections:
            if connection.started and controller.fault != "silence":
                connection.package()
        await asyncio.sleep(PERIOD_S - monotonic() % PERIOD_S)


async def main(address, model):
    """Listen on the ports that ur_rtde has fixed."""
    controller, connections = Controller(5 if model.endswith("e") else 3), []
    await asyncio.start_server(lambda r, w: rtde(r, w, controller, connections), address, 30004)
    await asyncio.start_server(lambda r, w: dashboard(r, w, controller), address, 29999)
    for port in (30001, 30002, 30003):
        await asyncio.start_server(lambda r, w: script(r, w, controller), address, port)
    tell("ready")
    await asyncio.gather(faults(controller, connections), beat(controller, connections))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
