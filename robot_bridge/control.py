"""What an arm is told, tick by tick: the state machine between chunks and setpoints. No clock, no process, no socket.

    IDLE ──arm──► ARMED ──first chunk──► TRACKING ◄──► EXTRAPOLATE ──60 ms──► RAMP_STOP ──at rest──► STOPPED
      ▲                                      └── a fault, a lost link, the operator's stop ──▲             │
      └──────────────────────────────────────── the operator's reset ────────────────────────────────────┘

Time comes in as nanoseconds of the monotonic clock, so the same code runs in a loop in real time and in a test that
makes its own time. Steps of the policy begin at whole multiples of its period, as observations are taken.
"""

import contextlib
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from policies.execution import ExecutionConfig, combine
from robot_bridge.arms.arm import ArmSpec, ArmState, Joints, Kinematics
from robot_bridge.interpolation import Interpolation, make_reference
from robot_bridge.safety import Governor, RefusedError, check_chunk, check_jump, governed
from robot_bridge.targets import make_targets, outside_m
from vla.errors import UnderstudyError, unknown
from vla.types import ActionChunk, PolicySpec

Array = NDArray[np.float32]


class State(IntEnum):
    """Of the arm's control; see above."""

    IDLE = 0
    ARMED = 1
    TRACKING = 2
    EXTRAPOLATE = 3
    RAMP_STOP = 4
    STOPPED = 5


MOVING = (State.ARMED, State.TRACKING, State.EXTRAPOLATE)
OUTSIDE = 0.02
"""How far [rad] a joint may stand beyond its limits, by measuring, when it is armed."""
STILL_S, STILL = 0.05, 0.01
SLOWED = 0.05
"""How far [rad] the arm is held back when that is worth telling."""
WORKSPACE_NS, BEYOND_M = 8_000_000, 0.01
"""How often the tool's way to rest is looked at, and how far out of its workspace it may lead."""
ORDERS = ("arm", "reset", "stop")
"""What an operator may say."""


@dataclass(frozen=True)
class ControlConfig:
    """How chunks are carried out, and when that ends; times in seconds."""

    execution: ExecutionConfig = field(default_factory=lambda: ExecutionConfig(ensemble="newest"))
    interpolation: Interpolation = "spline"
    extrapolate_s: float = 0.06
    """how long the arm goes straight on when there is nothing to carry out, before it brakes"""
    settle_s: float = 0.2
    """how long before the end of its last chunk an arm that nobody answers any more is to be at rest"""
    future_s: float = 0.005
    """how far ahead of our clock a chunk's stamp may be: both are of this machine"""
    feedback_s: float = 0.1
    """age of the arm's own measurement after which it is taken for frozen"""
    lag_s: float = 0.2
    """how long the arm may be further from its setpoint than its limits say"""
    overrun_s: float = 0.1
    """how long control may have slept; the arm then brakes instead of going on"""
    refusals: int = 3
    """refused chunks or steps in a row after which the arm brakes"""
    warn_rate: float = 0.95
    stop_rate: float = 0.90
    """share of requests answered in time under which the operator is warned, and the arm brakes"""
    shadow: bool = False
    """nothing is sent, so the arm is not expected to follow"""


@dataclass(frozen=True)
class Link:
    """What is known of whoever makes the chunks.

    ``rate``: the share of requests that were answered in time; ``meeting``: counts up at every handshake, so that a
    server that was started anew is another one.
    """

    alive: bool = True
    rate: float = 1.0
    meeting: int = 0
    trouble: str = ""


@dataclass(frozen=True)
class Intervention:
    """Something that was not done as asked: one word, and what was asked and sent, or why not."""

    stamp_ns: int
    code: str
    message: str


@dataclass(frozen=True)
class Step:
    """One step of the policy: ``asked`` and ``sent`` [A], how old the observation was that it answers."""

    stamp_ns: int
    asked: Array
    sent: Array
    age_ns: int


class Controller:
    """Setpoints for one arm. Call `tick` at the arm's rate; it always has an answer."""

    def __init__(
        self,
        policy: PolicySpec,
        arm: ArmSpec,
        kinematics: Kinematics | None = None,
        config: ControlConfig | None = None,
    ) -> None:
        self.policy, self.arm, self.config = policy, arm, config or ControlConfig()
        if self.config.execution.num_chunks < 1:
            raise UnderstudyError(f"num_chunks must be at least 1, got {self.config.execution.num_chunks}")
        self.governor = Governor(arm.limits, arm.rate_hz)
        self.state, self.reason = State.IDLE, ""
        self.counts = Counter[str]()
        self.interventions: deque[Intervention] = deque(maxlen=1000)
        self.steps: deque[Step] = deque(maxlen=1000)
        """what happened since somebody looked; both are emptied by who reads them"""
        self._targets = make_targets(policy.action, arm, kinematics)
        self._reference = make_reference(self.config.interpolation)
        self._step_ns = round(1e9 / policy.control_hz)
        self._chunks: deque[ActionChunk] = deque(maxlen=self.config.execution.num_chunks)
        self._free = None if arm.gripper is None else arm.gripper.index
        self._begun_ns = self._armed_ns = self._starved_ns = self._lagging_ns = self._ticked_ns = 0
        self._tried = self._meeting = 0
        self._refused = Counter[str]()
        """chunks and steps in a row that were refused"""
        self._past: deque[ArmState] = deque(maxlen=int(STILL_S * arm.rate_hz) + 1)
        self._measured: ArmState | None = None
        self._warned = self._slowed = self._fenced = False
        self._kinematics, self._looked_ns = kinematics, 0
        self._link = Link(alive=False, trouble="no server yet")

    def order(self, word: str, now_ns: int) -> str:
        """Do what the operator says; "" or why not."""
        if word not in ORDERS:
            raise unknown("order", word, ORDERS)
        if word == "stop":
            self._stop(now_ns, "operator", "the operator said stop")
            return ""
        wanted = State.IDLE if word == "arm" else State.STOPPED
        if self.state is not wanted:
            return f"{word}: the arm is {self.state.name}, not {wanted.name}"
        if self._measured is None or now_ns - self._measured.stamp_ns > 1e9 * self.config.feedback_s:
            return f"{word}: the arm does not say where it is"
        if (why := self.misplaced(self._measured.joints)) or (why := self._moves()):
            return f"{word}: {why}"
        if word == "reset":
            self.governor.reset(self._measured.joints)
            self.state, self.reason = State.IDLE, ""
            return ""
        if not self._link.alive:
            return f"arm: {self._link.trouble or 'nobody answers'}"
        if (np.abs(self._measured.joints - self.governor.position) > self.arm.limits.lag).any():
            self.governor.reset(self._measured.joints)  # somebody has moved it since
        self._targets.begin(self._measured.joints)
        self._chunks.clear()
        self._armed_ns, self._meeting = now_ns, self._link.meeting
        self._refused.clear()
        self._reference.rest(self.governor.position)
        self.state, self.reason = State.ARMED, ""
        return ""

    def offer(self, chunk: ActionChunk, now_ns: int) -> bool:
        """A chunk from the policy; whether it will be carried out. Only what was seen after arming counts."""
        newest = self._chunks[-1].stamp_ns if self._chunks else self._armed_ns
        if self.state not in MOVING:
            return self._drop("unarmed")
        if chunk.stamp_ns > now_ns + 1e9 * self.config.future_s:
            return self._drop("future")
        if chunk.stamp_ns <= newest:
            return self._drop("old_or_twice")
        if now_ns > self._end_ns(chunk):
            return self._drop("stale")
        try:
            if chunk.actions.shape[:1] != (self.policy.pred_horizon,):
                raise RefusedError("shape", f"{self.policy.pred_horizon} rows were expected, got {chunk.actions.shape}")
            check_chunk(chunk.actions, self.policy.action)
        except RefusedError as refusal:
            self._refuse(now_ns, refusal, "chunk")
            return False
        self._refused["chunk"] = 0
        self._chunks.append(chunk)
        return True

    def misplaced(self, joints: Joints) -> str:
        """Why the arm cannot be driven from ``joints`` [D]; "" when it can."""
        limits = self.arm.limits
        out = (joints < np.asarray(limits.low) - OUTSIDE) | (joints > np.asarray(limits.high) + OUTSIDE)
        if not out.any():
            return ""
        joint = int(np.argmax(out))
        return (
            f"{self.arm.joints[joint]} stands at {joints[joint]:.2f}, beyond its limits {limits.low[joint]:.2f} … "
            f"{limits.high[joint]:.2f}: move it by hand"
        )

    def _moves(self) -> str:
        moved = max((float(np.abs(one.joints - self._past[-1].joints).max()) for one in self._past), default=0.0)
        return f"the arm still moves ({moved:.3f} rad in {STILL_S:g} s)" if moved > STILL else ""

    def tick(self, now_ns: int, measured: ArmState, link: Link) -> Joints:
        """The setpoint [D] of now."""
        self._link = link
        if np.isfinite(measured.joints).all():
            self._measured = measured
            self._past.append(measured)
        elif self.state in MOVING:
            self._stop(now_ns, "feedback", "the arm measures what is no number")
        if self._measured is None:
            return self.governor.position
        if self.state in MOVING:
            self._watch(now_ns)
            self._watch_workspace(now_ns)
            self._warn(now_ns)
        self._ticked_ns = now_ns
        if self.state is State.ARMED and self._untried(now_ns) and self._due(now_ns):
            self._begin(now_ns)
        elif self.state in (State.TRACKING, State.EXTRAPOLATE):
            self._go_on(now_ns)
        if self.state in (State.TRACKING, State.EXTRAPOLATE):
            wanted, velocity = self._reference.at(1e-9 * (now_ns - self._begun_ns))
            setpoint = self.governor.brake() if self._fenced else self.governor.towards(wanted, velocity)
            self._tell_slowed(now_ns, wanted, setpoint)
            return setpoint
        if self.state is State.RAMP_STOP:
            self.governor.brake()
            if self.governor.at_rest:
                self.state = State.STOPPED
        return self.governor.position

    @property
    def reference(self) -> Joints:
        """Where the policy wants the arm to be now [D], before the governor."""
        if self.state in (State.TRACKING, State.EXTRAPOLATE):
            return self._reference.at(1e-9 * (self._ticked_ns - self._begun_ns))[0]
        return self.governor.position

    def _watch(self, now_ns: int) -> None:
        """Reasons to brake."""
        config, measured, link = self.config, self._measured, self._link
        assert measured is not None
        slept = now_ns - self._ticked_ns
        behind = np.abs(measured.joints - self.governor.position) > (np.inf if config.shadow else self.arm.limits.lag)
        self._lagging_ns = (self._lagging_ns or now_ns) if behind.any() else 0
        if self.state is not State.ARMED and slept > 1e9 * config.overrun_s:
            self._stop(now_ns, "overrun", f"control slept for {1e-6 * slept:.0f} ms")
        elif now_ns - measured.stamp_ns > 1e9 * config.feedback_s:
            age = 1e-6 * (now_ns - measured.stamp_ns)
            self._stop(now_ns, "feedback", f"the arm's measurement is {age:.0f} ms old")
        elif self._lagging_ns and now_ns - self._lagging_ns > 1e9 * config.lag_s:
            joint = self.arm.joints[int(np.argmax(behind))]
            self._stop(now_ns, "lag", f"{joint} does not follow: is it blocked?")
        elif link.alive and link.meeting != self._meeting:
            self._stop(now_ns, "meeting", "the server was started anew: look at it, then reset and arm")
        elif link.rate < config.stop_rate:
            self._stop(now_ns, "rate", f"only {link.rate:.0%} of the requests are answered in time")
        elif not link.alive and self._left_s(now_ns) <= self.governor.stop_s + config.settle_s:
            self._stop(now_ns, "link", link.trouble or "nobody answers")

    def _watch_workspace(self, now_ns: int) -> None:
        """See whether the tool still comes to rest inside; while it would not, the governor brakes."""
        if self._kinematics is None or self.arm.workspace is None or now_ns - self._looked_ns < WORKSPACE_NS:
            return
        self._looked_ns = now_ns
        there, here = (outside_m(at, self.arm, self._kinematics) for at in (self.governor.rest, self.governor.position))
        fenced = there > max(here + 1e-4, BEYOND_M)
        if fenced and not self._fenced:
            self._intervene(now_ns, "workspace", f"the tool was to leave its workspace by {1e3 * there:.0f} mm: braked")
        self._fenced = fenced

    def _tell_slowed(self, now_ns: int, wanted: Joints, setpoint: Joints) -> None:
        """Say when the governor begins to hold the arm back."""
        gap = np.abs(wanted - setpoint)
        if self._free is not None:
            gap[self._free] = 0.0
        slowed = bool(gap.max() > (SLOWED / 2 if self._slowed else SLOWED))
        if slowed and not self._slowed:
            joint = int(np.argmax(gap))
            told = f"{self.arm.joints[joint]} was to be at {wanted[joint]:.3f}, and is sent to {setpoint[joint]:.3f}"
            self._intervene(now_ns, "slowed", told)
        self._slowed = slowed

    def _warn(self, now_ns: int) -> None:
        """Once, whenever the answers begin to come late."""
        late = self._link.rate < self.config.warn_rate
        if late and not self._warned:
            self._intervene(now_ns, "warn_rate", f"only {self._link.rate:.0%} of the requests are answered in time")
        self._warned = late

    def _left_s(self, now_ns: int) -> float:
        return 1e-9 * (max(map(self._end_ns, self._chunks), default=now_ns) - now_ns)

    def _end_ns(self, chunk: ActionChunk) -> int:
        return chunk.stamp_ns + self._step_ns * len(chunk.actions)

    def _rows(self, now_ns: int) -> list[tuple[ActionChunk, int]]:
        """The chunks that have a row for now, and which."""
        found = [(chunk, round((now_ns - chunk.stamp_ns) / self._step_ns)) for chunk in self._chunks]
        return [(chunk, row) for chunk, row in found if 0 <= row < len(chunk.actions)]

    def _due(self, now_ns: int) -> bool:
        return bool(self._rows(now_ns // self._step_ns * self._step_ns))

    def _untried(self, now_ns: int) -> bool:
        """Whether this step of the policy has not been begun, or refused, yet."""
        return now_ns // self._step_ns > self._tried

    def _go_on(self, now_ns: int) -> None:
        fresh = self._untried(now_ns)
        if self.state is State.EXTRAPOLATE:
            if fresh and self._due(now_ns):
                self._begin(now_ns)
            elif now_ns - self._starved_ns > 1e9 * self.config.extrapolate_s:
                self._stop(now_ns, "starved", "no chunk has come in time")
        elif fresh and self._due(now_ns):
            self._begin(now_ns)
        elif fresh:
            self.state, self._starved_ns = State.EXTRAPOLATE, now_ns
            self.counts["extrapolated"] += 1

    def _begin(self, now_ns: int) -> None:
        """Begin a step of the policy: rows → action → target → reference."""
        assert self._measured is not None
        self._tried = now_ns // self._step_ns
        rows, spec = self._rows(self._tried * self._step_ns), self.policy.action
        asked = combine(np.stack([chunk.actions[row] for chunk, row in rows]), spec, self.config.execution)
        since_s = 0.0 if self.state is State.ARMED else 1e-9 * (now_ns - self._begun_ns)
        step_s, last = 1e-9 * self._step_ns, self._reference.at(since_s)[0]
        self._begun_ns = now_ns
        try:
            sent = governed(asked, spec)
            target = np.clip(self._target(sent), self.arm.limits.low, self.arm.limits.high)
            check_jump(target, last, self.arm.limits, self._targets.hurry * step_s, free=self._free)
        except RefusedError as refusal:
            self._reference.aim(last, last, since_s, step_s)
            self._refuse(now_ns, refusal, "step")
            return
        self._refused["step"] = 0
        if not np.array_equal(sent, asked):
            changed = zip(spec.names, asked, sent, strict=True)
            told = ", ".join(f"{name} {one:.4g} → {other:.4g}" for name, one, other in changed if one != other)
            self._intervene(now_ns, "clamped", f"out of bounds: {told}")
        self._targets.take()
        chunk, row = rows[-1]
        after = None
        if row + 1 < len(chunk.actions):
            following = governed(chunk.actions[row + 1], spec)
            with contextlib.suppress(RefusedError):  # it is refused when its time comes
                after = self._targets.next(following, self._measured.joints)
        self._reference.aim(target, after, since_s, step_s)
        self.state = State.TRACKING
        self.steps.append(Step(now_ns, asked, sent, now_ns - chunk.stamp_ns))

    def _target(self, action: Array) -> Joints:
        assert self._measured is not None
        try:
            return self._targets.next(action, self._measured.joints)
        except RefusedError:
            raise
        except UnderstudyError as error:
            raise RefusedError("unreachable", str(error)) from error

    def _refuse(self, now_ns: int, refusal: RefusedError, what: str) -> None:
        """Go on without; too often in a row, and the arm brakes."""
        self._refused[what] += 1
        self._intervene(now_ns, refusal.code, str(refusal))
        if self._refused[what] >= self.config.refusals:
            self._stop(now_ns, refusal.code, str(refusal))

    def _stop(self, now_ns: int, code: str, message: str) -> None:
        if self.state in (State.RAMP_STOP, State.STOPPED):
            return
        self._intervene(now_ns, f"stop_{code}", message)
        self.state, self.reason = State.RAMP_STOP, message

    def _intervene(self, now_ns: int, code: str, message: str) -> None:
        self.counts[code] += 1
        self.interventions.append(Intervention(now_ns, code, message))

    def _drop(self, code: str) -> bool:
        self.counts[code] += 1
        return False
