"""An arm, its control and whoever makes chunks, in time that the test makes: nothing here waits, and nothing is random.

One tick of the rig is one tick of the arm: 2 ms. What the arm really did is in ``motion``.
"""

from dataclasses import dataclass, field
from time import monotonic_ns

import numpy as np

from robot_bridge.control import Controller, Link, State
from sim.arm import SimKinematics
from sim.firmware import hardware
from sim.world import SPEC, ArmPhysics
from vla.types import ActionChunk, ActionSpec, CameraSpec, Gripper, PolicySpec

TICK_NS = 2_000_000
JOINT_POLICY = PolicySpec(
    cameras=(CameraSpec("front", 16, 16),),
    proprio_names=SPEC.proprio_names,
    action=ActionSpec(
        "joint_position", SPEC.joints, SPEC.limits.low, SPEC.limits.high, gripper=Gripper(7, open=1.0, closed=0.0)
    ),
    accepts=("instruction",),
    obs_horizon=1,
    pred_horizon=16,
    exec_horizon=4,
    control_hz=20.0,
)
TOOL_POLICY = PolicySpec(
    cameras=(CameraSpec("front", 16, 16),),
    proprio_names=SPEC.proprio_names,
    action=ActionSpec(
        "ee_delta",
        ("delta_x", "delta_y", "delta_z", "gripper"),
        (-0.03, -0.03, -0.03, 0.0),
        (0.03, 0.03, 0.03, 1.0),
        gripper=Gripper(3, open=1.0, closed=0.0),
    ),
    accepts=("instruction",),
    obs_horizon=1,
    pred_horizon=16,
    exec_horizon=4,
    control_hz=20.0,
)


@dataclass
class Rig:
    """Call `run`; ``make`` is asked for rows [H, A] every ``every`` steps, and they arrive ``delay_s`` later."""

    policy: PolicySpec = JOINT_POLICY
    make: object = None
    delay_s: float = 0.02
    every: int = 4
    task: str = "tabletop/touch-red-cube"
    seed: int = 3
    config: object = None
    link: Link = field(default_factory=Link)

    def __post_init__(self):
        self.now_ns = monotonic_ns() // 50_000_000 * 50_000_000
        self.physics = ArmPhysics(self.task, self.seed, now_ns=self.now_ns)
        self.controller = Controller(self.policy, SPEC, SimKinematics(), self.config)
        self.controller.governor.reset(self.physics.joints)
        self.step_ns = round(1e9 / self.policy.control_hz)
        self.coming, self.motion, self.states, self.sent = [], [], [], []
        self.asked = None
        self.tick()

    def arm(self):
        self.controller.order("reset", self.now_ns)
        assert self.controller.order("arm", self.now_ns) == ""

    def tick(self, *, control=True):
        if self.make is not None and self.controller.state != State.IDLE and self.now_ns % self.step_ns == 0:
            step = self.now_ns // self.step_ns
            if self.asked is None or step - self.asked >= self.every:
                self.asked = step
                rows = self.make(self)
                if rows is not None:
                    self.coming.append((self.now_ns + int(1e9 * self.delay_s), self.now_ns, rows))
        while self.coming and self.coming[0][0] <= self.now_ns:
            _, stamp, rows = self.coming.pop(0)
            self.controller.offer(ActionChunk(rows, stamp, 1e-9 * self.step_ns), self.now_ns)
        if control:
            joints = self.controller.tick(self.now_ns, self.physics.state(), self.link)
            self.physics.command(joints, self.now_ns)
            self.sent.append(joints)
        self.physics.advance(1e-9 * TICK_NS)
        self.now_ns += TICK_NS
        self.motion.append((self.physics.joints, self.physics.velocity, self.physics.setpoint))
        self.states.append(self.controller.state)
        if self.now_ns % self.step_ns == 0:
            self.physics.suite.judge()

    @property
    def moved(self):
        """The arm's measured motion so far: joints, velocity, setpoints, [T, 8] each."""
        return tuple(map(np.array, zip(*self.motion, strict=True)))

    def run(self, seconds, **how):
        for _ in range(round(1e9 * seconds / TICK_NS)):
            self.tick(**how)
        return self

    @property
    def codes(self):
        return [one.code for one in self.controller.interventions]


def sine(rig, amplitude=0.15, period=2.0):
    """Rows [16, 8] of a slow sine of every joint around where the rig began, its gripper half open."""
    if not hasattr(rig, "centre"):
        rig.centre, rig.begun_ns = rig.physics.joints, rig.now_ns
    seconds = 1e-9 * (rig.now_ns - rig.begun_ns) + (np.arange(16)[:, None] + 1) / rig.policy.control_hz
    rows = rig.centre + amplitude * np.sin(2 * np.pi * seconds / period)
    rows[:, 7] = 0.5
    return rows.astype(np.float32)


def check_motion(joints, velocity, setpoints, *, dt=0.002, limits=SPEC.limits, touching=False):
    """The arm's measured motion [T, 8] and its setpoints stayed within the limits: the last word on every fault.

    ``touching``: it may have met something, which brakes it harder than any motor.
    """
    low, high = np.array(limits.low), np.array(limits.high)
    assert (joints > low - 0.02).all()
    assert (joints < high + 0.02).all()
    assert (np.abs(velocity) < (1.5 if touching else 1.1) * np.array(limits.velocity) + 0.02).all()
    check_setpoints(setpoints, dt=dt, limits=hardware(limits))
    # acceleration of the arm itself, through its motors, over 20 ms
    if touching:
        return
    smooth = (velocity[10:, :7] - velocity[:-10, :7]) / (10 * dt)
    assert (np.abs(smooth) < 1.3 * np.array(hardware(limits).acceleration)[:7]).all()


def check_setpoints(setpoints, *, dt=0.002, limits=SPEC.limits):
    """Setpoints [T, 8] of consecutive ticks keep position, velocity, acceleration and jerk."""
    assert (setpoints >= np.array(limits.low)).all()
    assert (setpoints <= np.array(limits.high)).all()
    speed = np.diff(setpoints, axis=0) / dt
    assert (np.abs(speed) < 1.0001 * np.array(limits.velocity)).all()
    push = np.diff(speed, axis=0) / dt
    assert (np.abs(push) < 1.001 * np.array(limits.acceleration) + 1e-3).all()
    assert (np.abs(np.diff(push, axis=0) / dt) < 1.001 * np.array(limits.jerk) + 1.0).all()
