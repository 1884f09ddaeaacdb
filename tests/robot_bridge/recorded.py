"""A run whose rings the test fills, in time that the test makes: ``from robot_bridge_recorded import Filled``."""

from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns

import numpy as np
from robot_bridge_toys import SPEC

from robot_bridge.arms.arm import ArmSpec, Limits
from robot_bridge.control import State
from robot_bridge.plan import Made as Target
from robot_bridge.plan import Plan

PERIOD_NS, TICK_NS = 50_000_000, 10_000_000
ARM = ArmSpec(
    embodiment="toy-arm",
    joints=("j1", "j2"),
    limits=Limits((-1.0,) * 2, (1.0,) * 2, (1.0,) * 2, (9.0,) * 2, (99.0,) * 2, (0.2,) * 2),
    rate_hz=100.0,
    proprio_names=SPEC.proprio_names,
)


def make_plan(folder: Path, **changes):
    folder.mkdir(exist_ok=True)
    given = {"arm": Target("toys:Arm"), "cameras": Target("toys:Cameras"), "policy": SPEC, "arm_spec": ARM}
    return Plan(folder=folder, address="tcp://127.0.0.1:5555", **{**given, **changes})


@dataclass
class Filled:
    """Writes as the processes of a run would. Step ``k`` is at ``k`` periods; its action says ``k``."""

    plan: Plan
    rings: dict = field(init=False)
    k: int = field(init=False)

    def __post_init__(self):
        self.rings, self.k = self.plan.rings(make=True), monotonic_ns() // PERIOD_NS
        self.first, self.episode = self.k, 0

    def begin(self, instruction="lift"):
        self.episode += 1
        self.rings["task"].write(episode=self.episode, instruction=instruction.encode(), seed=3)
        self.link()
        self.status(State.ARMED)

    def link(self, **more):
        given = {"alive": True, "rate": 1.0, "meeting": 1, "episode": self.episode}
        self.rings["link"].write(stamp_ns=self.now_ns, **given, **more)

    @property
    def now_ns(self):
        return self.k * PERIOD_NS

    def see(self, late_ns=-1_000_000, trouble=b""):
        """Pictures that show the step's number."""
        image, where = np.full((8, 8, 3), self.k % 251, np.uint8), np.array([self.k % 1000, 0.5], np.float32)
        stamp = self.now_ns + late_ns
        self.rings["seen"].write(stamp_ns=stamp, proprio=where, trouble=trouble, image_front=image)

    def step(self, age_ns=PERIOD_NS):
        action = np.full(3, self.k % 1000, np.float32)
        self.rings["steps"].write(stamp_ns=self.now_ns + 200_000, asked=action + 1, sent=action, age_ns=age_ns)
        self.status(State.TRACKING)

    def status(self, state, **more):
        self.rings["control"].write(stamp_ns=self.now_ns + 300_000, state=state, **more)

    def say(self, code, message="done"):
        self.rings["events"].write(stamp_ns=self.now_ns, code=code.encode(), message=message.encode())

    def run(self, steps, turn=lambda: None, **how):
        for _ in range(steps):
            self.see(**how)
            self.step()
            self.k += 1
            turn()

    def stop(self):
        self.status(State.STOPPED)
        self.k += 1
