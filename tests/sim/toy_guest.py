"""A suite that needs nothing, to be played in another process; its tasks do what guests are not supposed to do."""

import os
import signal
import sys
import time
from contextlib import contextmanager

import numpy as np

from sim.suite import Diverged, SuiteSpec
from vla.errors import UnderstudyError, unknown
from vla.types import ActionSpec, CameraSpec, Observation

TASKS = ("toy/add", "toy/raise", "toy/die", "toy/exit", "toy/hang", "toy/diverge", "toy/print", "toy/stillborn")


class ToySuite:
    """Its state is the sum of its actions; more than 3 in the first entry is a success."""

    def __init__(self, *, image_size=8, refuse=""):
        if refuse:
            raise UnderstudyError(refuse)
        self.max_steps = 20
        self.spec = SuiteSpec(
            name="toy",
            embodiment="toy",
            action=ActionSpec(kind="ee_delta", names=("x", "y"), low=(-1.0, -1.0), high=(1.0, 1.0)),
            cameras=(CameraSpec("front", image_size, image_size), CameraSpec("wrist", image_size, 2 * image_size)),
            proprio_names=("x", "y"),
            control_hz=10.0,
            fingerprint=f"toy {image_size}",
        )
        self.instruction, self.steps, self.success, self._shift = "", 0, False, 0

    def reset(self, task, seed):
        """Start."""
        if task not in TASKS:
            raise unknown("task", task, TASKS)
        if task == "toy/stillborn":
            os._exit(7)
        self.instruction, self.steps, self.success = task, 0, False
        self._state = np.random.default_rng(seed).uniform(0, 1, 2)

    def observe(self):
        """Pictures that tell the steps."""
        images = {
            one.name: np.full((one.height, one.width, 3), self.steps + self._shift, np.uint8)
            for one in self.spec.cameras
        }
        return Observation(images=images, proprio=self._state.astype(np.float32), stamp_ns=self.steps * 10**8)

    def step(self, action):
        """Add, or whatever the task is."""
        self.steps += 1
        self._state = self._state + action
        self.success = self.success or bool(self._state[0] > 3)
        match self.instruction:
            case "toy/raise":
                raise RuntimeError("the left motor came off")
            case "toy/die":
                sys.stderr.write("a driver crashes\n")
                sys.stderr.flush()
                os.kill(os.getpid(), signal.SIGSEGV)
            case "toy/exit":
                os._exit(7)
            case "toy/hang":
                time.sleep(3600)
            case "toy/diverge":
                raise Diverged("it flew away")
            case "toy/print":
                sys.stdout.write("chatter " * 1000)
                sys.stdout.flush()
                os.system("echo more chatter")

    def expert(self):
        """Always to the right."""
        if self.instruction == "toy/print":
            raise UnderstudyError("nobody knows how")
        return lambda: np.array([1.0, 0.0], np.float32)

    def keep(self):
        """The sum so far."""
        state, steps, success = self._state, self.steps, self.success

        def back():
            self._state, self.steps, self.success = state, steps, success

        return back

    @contextmanager
    def disturbed(self, axis, level, seed):
        """Brighter."""
        if axis != "light":
            raise unknown("axis", axis, ("light",))
        self._shift = level
        yield
        self._shift = 0

    def film(self, size):
        """Black."""
        return np.zeros((size, size, 3), np.uint8)
