"""The simulated arm's own computer: what would be a box beside a real arm, one for every arm that MuJoCo knows.

    driver ──setpoints──► firmware: follows them, and brakes when they stop coming ──► motors ──► MuJoCo
    driver ◄──measured joints: delayed, noisy, or frozen, as asked──┘

It makes no time of its own, so tests can let it pass as they like.
"""

from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from robot_bridge.arms.arm import ArmSpec, ArmState, Limits
from robot_bridge.safety import Governor
from sim.mechanism import Mechanism

PHYSICS_S = 0.001
TICK_HZ = 500.0
"""Of the firmware, however often it is told something."""
FASTEST = 20.0
"""Setpoints that imply more than this [rad/s] are ignored, as Universal Robots' controllers do."""


def hardware(limits: Limits) -> Limits:
    """What the arm itself can do: more than setpoints may ask for, so that it can follow those that ask the most."""
    faster, harder, jerkier = (
        tuple(factor * value for value in values)
        for factor, values in ((1.1, limits.velocity), (1.5, limits.acceleration), (3.0, limits.jerk))
    )
    return replace(limits, velocity=faster, acceleration=harder, jerk=jerkier)


@dataclass(frozen=True)
class Faults:
    """What is wrong with the arm; ``stuck``: the joint that does not move, -1: none; ``deaf``: takes no setpoints."""

    frozen: bool = False
    noise_rad: float = 0.0
    delay_s: float = 0.0
    stuck: int = -1
    deaf: bool = False


class Scene(Protocol):
    """An arm and what stands around it.

    ``cameras`` is asked by whoever looks; the firmware needs the rest. ``success``: whether the task has been achieved
    since `reset`, never in a scene without tasks.
    """

    spec: ArmSpec
    mechanism: Mechanism
    success: bool

    def reset(self, task: str, seed: int) -> None:
        """Lay it out anew, with the arm at rest in it, at `PHYSICS_S` a step."""
        ...

    def proprio(self) -> np.ndarray:
        """What the arm tells a policy [P] float32."""
        ...

    def judge(self) -> bool:
        """See whether the task is achieved now, or was."""
        ...

    def look(self) -> dict[str, np.ndarray]:
        """A picture [H, W, 3] of each camera."""
        ...


class Firmware:
    """The arm of a scene as hardware, in time that the caller makes."""

    def __init__(self, scene: Scene, task: str, seed: int, *, now_ns: int = 0, watchdog_s: float | None = None) -> None:
        """``watchdog_s``: silence after which it brakes, as its spec says unless told."""
        self.scene, self.spec, self.mechanism = scene, scene.spec, scene.mechanism
        limits = hardware(self.spec.limits)
        self._watchdog_ns = int(1e9 * (self.spec.watchdog_s if watchdog_s is None else watchdog_s))
        self._drives = Governor(limits, TICK_HZ)
        self._fastest = np.asarray(limits.velocity)
        self.faults = Faults()
        self.reset(task, seed, now_ns)

    def reset(self, task: str, seed: int, now_ns: int) -> None:
        """Lay out the scene anew, with the arm at rest in it."""
        self.scene.reset(task, seed)
        self.now_ns = self._heard_ns = self._sent_ns = now_ns
        self._random = np.random.default_rng(seed)
        self._drives.reset(self.joints)
        self.setpoint = self._told = self._drives.position
        self._speed = np.zeros(len(self.setpoint))
        self.ticks, self.ignored, self.braking = 0, 0, False
        """whether the firmware brakes, or holds after it has"""
        self._past: deque[ArmState] = deque(maxlen=200)
        self._past.append(self._measure())

    @property
    def joints(self) -> np.ndarray:
        """Where the joints really are [D]."""
        return self.mechanism.joints

    @property
    def velocity(self) -> np.ndarray:
        """How fast they really move [D]."""
        return self.mechanism.velocity

    def command(self, joints: np.ndarray, stamp_ns: int) -> None:
        """A setpoint [D] from the driver, which sent it at ``stamp_ns``."""
        usual = 1 / self.spec.rate_hz
        since = np.clip(1e-9 * (stamp_ns - self._sent_ns), usual, 2 * usual)
        if self.faults.deaf or np.abs(joints - self._told).max() > FASTEST * since:
            self.ignored += 1
            return
        self._speed = np.clip((joints - self._told) / since, -self._fastest, self._fastest)
        self._told, self._sent_ns, self._heard_ns, self.braking = joints, stamp_ns, self.now_ns, False

    def brake(self) -> None:
        """Brake by the firmware's own means, until the next setpoint."""
        self.braking = True

    def advance(self, seconds: float) -> None:
        """Let time pass: one tick of the firmware, and the physics under it.

        Between two setpoints the firmware goes straight on, and it limits what it is told as it limits itself.
        """
        silent_ns = self.now_ns - self._heard_ns
        if self.braking or silent_ns > self._watchdog_ns:
            self.braking = True
            self.setpoint = self._drives.brake()
            self._told, self._speed = self.setpoint, self._drives.velocity
        else:
            ahead = 1e-9 * silent_ns * self._speed
            self.setpoint = self._drives.towards(self._told + ahead, self._speed)
        self.mechanism.drive(self.setpoint + self.mechanism.lag_s * self._drives.velocity)
        self.mechanism.step(round(seconds / PHYSICS_S), stuck=self.faults.stuck)
        self.now_ns += round(1e9 * seconds)
        self.ticks += 1
        if not self.faults.frozen:
            self._past.append(self._measure())

    def state(self) -> ArmState:
        """What the sensors say now."""
        late = self.now_ns - int(1e9 * self.faults.delay_s)
        return next((state for state in reversed(self._past) if state.stamp_ns <= late), self._past[0])

    def _measure(self) -> ArmState:
        joints = self.joints
        noise = self._random.normal(0, self.faults.noise_rad, len(joints)) if self.faults.noise_rad else 0.0
        return ArmState(joints + noise, self.scene.proprio(), self.now_ns)
