"""A policy that needs no learning: it answers what it was asked, so that every answer can be told apart."""

from dataclasses import dataclass, field
from time import sleep

import numpy as np

from vla.types import ActionChunk, ActionSpec, CameraSpec, Observation, PolicySpec, Task

SPEC = PolicySpec(
    cameras=(CameraSpec("front", 8, 8),),
    proprio_names=("x", "y"),
    action=ActionSpec("ee_delta", ("dx", "dy", "dz"), (-1.0,) * 3, (1.0,) * 3),
    accepts=("instruction",),
    obs_horizon=1,
    pred_horizon=4,
    exec_horizon=2,
    control_hz=20.0,
)


def observation(value=0.0, stamp_ns=0):
    """Proprio tells who asks."""
    return Observation(
        images={"front": np.full((8, 8, 3), 7, np.uint8)},
        proprio=np.array([value, 0.5], np.float32),
        stamp_ns=stamp_ns,
    )


@dataclass
class Session:
    """Row i of its answer: what was seen, the seed of the episode, the letters of the instruction."""

    brain: "ToyBrain"
    task: Task = field(default_factory=lambda: Task(""))
    seed: int = -1
    spec: PolicySpec = SPEC

    def reset(self, task, *, seed=0):
        if task.instruction == "explode":
            raise RuntimeError("no such task")
        self.task, self.seed = task, seed

    def infer(self, seen, underway=None):
        row = [seen.proprio[0], self.seed, len(self.task.instruction)]
        actions = np.tile(np.array(row, np.float32), (4, 1))
        if underway is not None:
            actions[: underway.delay] = underway.actions[: underway.delay]
        return ActionChunk(self.brain.spoil(actions), seen.stamp_ns, 0.05)


@dataclass
class ToyBrain:
    """``delay_s``: of an answer; ``spoil``: what is done to its actions; ``batches``: how many it answered at once."""

    delay_s: float = 0.0
    spoil: object = staticmethod(lambda actions: actions)
    spec: PolicySpec = SPEC
    batches: list = field(default_factory=list)

    def session(self):
        return Session(self, spec=self.spec)

    def infer_together(self, sessions, seen):
        self.batches.append(len(seen))
        sleep(self.delay_s)
        return [session.infer(*one) for session, one in zip(sessions, seen, strict=True)]
