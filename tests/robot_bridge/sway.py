"""A policy that sways one joint of an arm gently, its server as a process, and a camera that always shows news.

    python sway.py ADDRESS SPEC.json [SECRET ALLOWED]    says its address; for each line that it reads, its counts

The instruction says it all: ``sway 3 0.15 0.0,-0.2,…`` is joint 3, by 0.15 rad, around these joints. The sine begins
with the first observation of the episode.
"""

import json
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from time import monotonic_ns, sleep

import numpy as np

from robot_bridge.server import PolicyServer
from robot_bridge.transport import Keys
from vla.types import ActionChunk, PolicySpec

PERIOD_S = 2.0


def sway(joint, around, amplitude=0.15):
    """The instruction."""
    return f"sway {joint} {amplitude} " + ",".join(f"{value:.5f}" for value in around)


class Session:
    """One episode."""

    def __init__(self, spec):
        self.spec = spec

    def reset(self, task, *, seed=0):
        _, joint, amplitude, around = task.instruction.split()
        self.joint, self.amplitude = int(joint), float(amplitude)
        self.around = np.array(around.split(","), np.float32)
        self.begun_ns = None

    def infer(self, seen, underway=None):
        if self.begun_ns is None:
            self.begun_ns = seen.stamp_ns
        steps = (np.arange(self.spec.pred_horizon) + 1) / self.spec.control_hz
        seconds = 1e-9 * (seen.stamp_ns - self.begun_ns) + steps
        rows = np.tile(self.around, (len(seconds), 1))
        rows[:, self.joint] += self.amplitude * np.sin(2 * np.pi * seconds / PERIOD_S)
        return ActionChunk(rows.astype(np.float32), seen.stamp_ns, 1 / self.spec.control_hz)


@dataclass
class Swaying:
    """`robot_bridge.brain.Brain`."""

    spec: PolicySpec
    delay_s: float = 0.005

    def session(self):
        return Session(self.spec)

    def infer_together(self, sessions, seen):
        sleep(self.delay_s)
        return [session.infer(*one) for session, one in zip(sessions, seen, strict=True)]


class Camera:
    """Noise: no two pictures are the same, unless the file ``frozen`` is there, or they are of long ago: ``old``."""

    def __init__(self, size=16, folder=""):
        self._random, self._size, self._folder = np.random.default_rng(0), size, Path(folder or "nowhere")
        self._last = self._picture()

    def _picture(self):
        return self._random.integers(0, 256, (self._size, self._size, 3), np.uint8), monotonic_ns()

    def connect(self):
        pass

    def read(self):
        if (self._folder / "old").exists():
            return {"front": self._last[0]}, self._last[1]
        if not (self._folder / "frozen").exists():
            self._last = self._picture()
        return {"front": self._last[0]}, monotonic_ns()

    def disconnect(self):
        pass


class Served:
    """The server's process. ``through``: a tunnel's `command`, for a server that is to run behind it."""

    def __init__(self, address, spec, folder, *, keys=None, through=None):
        file = Path(folder) / "spec.json"
        file.write_text(json.dumps(spec.to_dict()))
        given = [] if keys is None else [str(keys / "server.key_secret"), str(keys / "robots")]
        command = [sys.executable, str(Path(__file__).resolve()), address, str(file), *given]
        self._process = Popen(through(*command) if through else command, stdin=PIPE, stdout=PIPE, text=True)
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the server did not come up"

    @property
    def pid(self):
        return self._process.pid

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    @property
    def counts(self):
        """What it counted; fails when it lives no more."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    @property
    def resident(self):
        """Bytes of memory."""
        return resident(self.pid)

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def resident(pid):
    """Bytes of memory of a process that are its own: without files, and what it shares."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def main(address, spec, secret="", allowed=""):
    keys = {"keys": Keys(Path(secret)), "allowed": Path(allowed)} if secret else {}
    server = PolicyServer(Swaying(PolicySpec.from_dict(json.loads(Path(spec).read_text()))), address, **keys)

    def tell():
        for _ in sys.stdin:
            sys.stdout.write(json.dumps({**server.counts, "robots": server.robots}) + "\n")
            sys.stdout.flush()
        server.stop()  # nobody listens any more

    def ready():
        sys.stdout.write(server.address + "\n")
        sys.stdout.flush()
        threading.Thread(target=tell, daemon=True).start()

    server.run(ready)


if __name__ == "__main__":
    main(*sys.argv[1:])
