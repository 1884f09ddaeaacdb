"""From chunks to one action per control step. Numpy only: the same code runs in simulation and at the robot.

A new chunk is inferred every ``exec_horizon`` steps. Chunks overlap in time, and an *ensemble* says how the rows that
are due now are combined (exec_horizon 2, pred_horizon 6; columns are control steps):

    chunk 1   a0 a1 a2 a3 a4 a5
    chunk 2         b0 b1 b2 b3 b4 b5
    chunk 3               c0 c1 c2 c3 c4 c5
                          ▲ due now: a4, b2, c0 → weights → one action
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policies.policy import Policy, Realtime, Underway
from vla.errors import UnderstudyError, unknown
from vla.types import ActionSpec, Observation, PolicySpec, Task

Array = NDArray[np.float32]
Ensemble = Literal["newest", "temporal", "adaptive"]


@dataclass(frozen=True)
class ExecutionConfig:
    """How chunks become actions.

    ``ensemble``: ``newest`` follows the last chunk alone (receding horizon), ``temporal`` averages with weights that
    favour the oldest prediction (ACT, Zhao et al. 2023, §IV-A), ``adaptive`` favours those that agree with the newest
    (CogACT, Li et al. 2024, §3.4). ``num_chunks``: how many chunks may take part. ``exec_horizon``: control steps
    between two inferences; ``None`` takes the policy's own.
    """

    ensemble: Ensemble = "adaptive"
    num_chunks: int = 2
    exec_horizon: int | None = None
    alpha: float = 0.1
    """``adaptive``: weights are ``exp(alpha * cosine)``"""
    decay: float = 0.01
    """``temporal``: weights are ``exp(-decay * age rank)``, rank 0 the oldest"""
    delay: int = 0
    """control steps that pass before a chunk arrives; meanwhile the chunks before it are carried out, and behind their
    end the arm stands still"""
    realtime: Realtime = "none"
    """real-time chunking, with ``newest``: a new chunk goes on from the rows that are carried out while it is made,
    ``trained`` to do so or ``guided`` there while it is sampled (``identity``: the cheap form)"""


def temporal_weights(count: int, *, decay: float) -> Array:
    """ACT's weights [K] for predictions ordered from the oldest to the newest."""
    weights = np.exp(-decay * np.arange(count))
    return (weights / weights.sum()).astype(np.float32)


def adaptive_weights(rows: Array, spec: ActionSpec, *, alpha: float) -> Array:
    """CogACT's weights [K] for predictions ``rows`` [K, A], oldest first.

    Cosine similarity to the newest row, of actions scaled by their bounds and without the gripper: on raw actions
    the 0/1 gripper would decide alone (metres and radians are small beside it).
    """
    low, high = np.asarray(spec.low), np.asarray(spec.high)
    scaled = (rows - (low + high) / 2) / ((high - low) / 2)
    if spec.gripper is not None:
        scaled = np.delete(scaled, spec.gripper.index, axis=1)
    newest = scaled[-1]
    lengths = np.linalg.norm(scaled, axis=1) * np.linalg.norm(newest)
    cosine = np.where(lengths > 1e-7, scaled @ newest / np.maximum(lengths, 1e-7), 1.0)
    weights = np.exp(alpha * cosine)
    return (weights / weights.sum()).astype(np.float32)


def combine(rows: Array, spec: ActionSpec, config: ExecutionConfig) -> Array:
    """One action [A] from all predictions for this instant, ``rows`` [K, A], oldest first.

    The gripper is taken from the newest prediction: an average of open and closed is neither.
    """
    newest = rows[-1]
    if len(rows) == 1 or config.ensemble == "newest":
        return newest
    if config.ensemble == "temporal":
        weights = temporal_weights(len(rows), decay=config.decay)
    elif config.ensemble == "adaptive":
        weights = adaptive_weights(rows, spec, alpha=config.alpha)
    else:
        raise unknown("ensemble", config.ensemble, ("newest", "temporal", "adaptive"))
    action: Array = (weights @ rows).astype(np.float32)
    if spec.gripper is not None:
        action[spec.gripper.index] = newest[spec.gripper.index]
    return action


class Execution:
    """The state of carrying out chunks, one action per control step; whoever makes the chunks is somewhere else.

    execution.begin()
    while …:
        if execution.asks:  # a new chunk is due: of what is seen now, going on from `underway()`
            execution.take(chunk)
        action = execution.next()
    """

    def __init__(self, spec: PolicySpec, config: ExecutionConfig | None = None) -> None:
        self.spec, self.config = spec, config or ExecutionConfig()
        chosen = self.config.exec_horizon
        self.exec_horizon = spec.exec_horizon if chosen is None else chosen
        if not 1 <= self.exec_horizon <= spec.pred_horizon:
            raise UnderstudyError(
                f"exec_horizon must be 1…{spec.pred_horizon} (the policy's pred_horizon), got {self.exec_horizon}"
            )
        if self.config.num_chunks < 1:
            raise UnderstudyError(f"num_chunks must be at least 1, got {self.config.num_chunks}")
        if self.config.realtime != "none" and self.config.ensemble != "newest":
            raise UnderstudyError(f"realtime={self.config.realtime} goes with ensemble=newest alone")
        if self.config.delay < 0 or (self.config.delay and spec.pred_horizon == 1):
            raise UnderstudyError(
                f"delay must be 0 or more, and 0 for a policy that answers with one action at a time, "
                f"got {self.config.delay} and chunks of {spec.pred_horizon}"
            )
        self.exec_horizon = max(self.exec_horizon, self.config.delay)  # one chunk is made at a time
        if self.config.realtime != "none" and self.exec_horizon + self.config.delay > spec.pred_horizon:
            raise UnderstudyError(
                f"realtime={self.config.realtime} goes on from a chunk, and one of {spec.pred_horizon} rows does not "
                f"last for exec_horizon={self.exec_horizon} and delay={self.config.delay} steps"
            )
        self.begin()

    def begin(self) -> None:
        """Forget the episode before."""
        self._chunks: deque[tuple[int, Array]] = deque(maxlen=self.config.num_chunks)
        self._coming: tuple[int, Array] | None = None
        self._step = 0
        self._last: Array | None = None

    @property
    def asks(self) -> bool:
        """Whether a new chunk is due, and has not been taken."""
        return self._step % self.exec_horizon == 0 and (self._coming is None or self._coming[0] != self._step)

    def underway(self) -> Underway | None:
        """What the new chunk has to go on from, if it is to."""
        self._take_what_has_arrived()
        if self.config.realtime == "none" or not self._chunks:
            return None
        start, actions = self._chunks[-1]
        return Underway(actions[self._step - start :], self.config.delay, self.config.realtime)

    def take(self, actions: Array) -> None:
        """The chunk [N, A] that was asked for; it arrives ``delay`` steps later, the first of an episode at once."""
        self._take_what_has_arrived()
        self._coming = (self._step, actions)

    def next(self) -> Array:
        """The action [A] of this control step: of all chunks that are there, or none where they have run out."""
        self._take_what_has_arrived()
        due = [actions[self._step - start] for start, actions in self._chunks if self._step - start < len(actions)]
        self._step += 1
        self._last = combine(np.stack(due), self.spec.action, self.config) if due else self._idle()
        return self._last

    def _take_what_has_arrived(self) -> None:
        if self._coming is not None and (not self._chunks or self._step - self._coming[0] >= self.config.delay):
            self._chunks.append(self._coming)  # the first chunk of an episode is waited for
            self._coming = None

    def _idle(self) -> Array:
        """Stand still: no displacement, or the last place again; the gripper stays as it is."""
        assert self._last is not None, "the first chunk has not been taken"
        idle = self._last.copy()
        if self.spec.action.kind == "ee_delta":
            moving = np.ones(len(idle), bool)
            if self.spec.action.gripper is not None:
                moving[self.spec.action.gripper.index] = False
            idle[moving] = 0
        return idle


class ChunkExecutor(Execution):
    """Turns a `Policy` into one action per control step.

    ``latencies_ms``: how long each inference of the current episode took [ms].
    """

    def __init__(self, policy: Policy, config: ExecutionConfig | None = None) -> None:
        super().__init__(policy.spec, config)
        self.policy = policy
        self.latencies_ms: list[float] = []

    def reset(self, task: Task, *, seed: int = 0) -> None:
        """Begin an episode."""
        self.policy.reset(task, seed=seed)
        self.begin()
        self.latencies_ms = []

    def act(self, observe: Callable[[], Observation]) -> Array:
        """The action [A] of this control step; ``observe`` is called only when a new chunk is due."""
        if self.asks:
            observation = observe()
            began = perf_counter()
            self.take(self.policy.infer(observation, self.underway()).actions)
            self.latencies_ms.append(1e3 * (perf_counter() - began))
        return self.next()
