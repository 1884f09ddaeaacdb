"""What stands between a policy and a motor, in simulation and on hardware alike, and is never switched off.

    chunk ─► `check_chunk` ─► action ─► `governed` ─► joints ─► `check_jump` ─► reference ─► `Governor` ─► setpoint
             no number, no       clipped to its        too far for         every tick: position, velocity,
             sense: refused      bounds, and said      one step: refused   acceleration, jerk

A refused chunk or action is never repaired: the arm goes on with what it has, or brakes.
"""

from math import sqrt
from typing import Any

import numpy as np
import ruckig
from numpy.typing import NDArray

from robot_bridge.arms.arm import Joints, Limits
from vla.errors import UnderstudyError
from vla.types import ActionSpec

MARGIN = 1e-6
"""Setpoints end this much [rad] before a joint's end, so that rounding does not lead beyond it."""


class RefusedError(UnderstudyError):
    """A chunk or an action that is not carried out; ``code`` is one word of why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """What another process makes it anew from."""
        return type(self), (self.code, str(self))


def governed(action: NDArray[np.float32], spec: ActionSpec) -> NDArray[np.float32]:
    """``action`` [A] clipped to ``spec.low``…``spec.high``.

    Raises `RefusedError` for NaN, infinity or a wrong length: such an action is refused, never repaired.
    """
    if action.shape != (spec.dim,):
        raise RefusedError(
            "shape", f"an action must have {spec.dim} entries ({', '.join(spec.names)}), got {action.shape}"
        )
    _check_finite(action, spec)
    return np.clip(action, spec.low, spec.high).astype(np.float32)


def check_chunk(actions: NDArray[np.float32], spec: ActionSpec) -> None:
    """Refuse a whole chunk [H, A] that holds what no policy means: NaN, infinity, or more than a range out of bounds.

    What is a little out of bounds is left to `governed`.
    """
    if actions.ndim != 2 or actions.shape[1] != spec.dim or not len(actions):
        raise RefusedError("shape", f"a chunk has rows of {spec.dim} entries, got {actions.shape}")
    _check_finite(actions, spec)
    low, high = np.asarray(spec.low), np.asarray(spec.high)
    outside = np.abs(actions - (low + high) / 2) > 1.5 * (high - low)
    if outside.any():
        row, entry = np.argwhere(outside)[0]
        raise RefusedError(
            "absurd",
            f"{spec.names[entry]} is {actions[row, entry]:g} in row {row}; it means something between "
            f"{low[entry]:g} and {high[entry]:g}",
        )


def _check_finite(actions: NDArray[np.float32], spec: ActionSpec) -> None:
    finite = np.isfinite(actions).reshape(-1, spec.dim)
    if not finite.all():
        bad = [name for index, name in enumerate(spec.names) if not finite[:, index].all()]
        raise RefusedError("finite", f"the action is not finite in {', '.join(bad)}: it was not sent")


def check_jump(target: Joints, last: Joints, limits: Limits, dt: float, *, free: int | None = None) -> None:
    """Refuse a ``target`` [D] that is further from ``last`` [D] than the arm gets in ``dt`` seconds.

    ``free``: the gripper, which may be told to open at once: it is only slowed down.
    """
    reach = np.asarray(limits.velocity) * dt * (1 + 1e-6)
    far = ~(np.abs(target - last) <= reach)  # also what is no number
    if free is not None:
        far[free] = False
    if far.any():
        joint = int(np.argmax(np.abs(target - last) / reach * far))
        raise RefusedError(
            "jump",
            f"joint {joint} was to move by {target[joint] - last[joint]:.3f} in {dt:.3f} s, more than "
            f"{reach[joint]:.3f}: refused, the arm goes on without",
        )


class Governor:
    """Setpoints that never leave the limits, whatever is asked.

    Each tick moves the setpoint towards a moving reference by the time-optimal profile that keeps velocity,
    acceleration and jerk (Berscheid and Kröger 2021, "Jerk-limited real-time trajectory generation with arbitrary
    target states"), planned in the frame that moves with the reference; and from every state that it leaves behind it
    can still brake before the end of each joint.
    """

    def __init__(self, limits: Limits, rate_hz: float) -> None:
        self.limits, self.dt = limits, 1 / rate_hz
        ends = ([low + MARGIN for low in limits.low], [high - MARGIN for high in limits.high])
        self._axes = list(zip(*ends, limits.acceleration, limits.jerk, strict=True))
        size = len(self._axes)
        self._planner: Any = ruckig.Ruckig(size, self.dt)
        self._wanted, self._next = ruckig.InputParameter(size), ruckig.OutputParameter(size)
        self._wanted.max_acceleration, self._wanted.max_jerk = list(limits.acceleration), list(limits.jerk)
        self._wanted.target_position = self._wanted.target_acceleration = self._still = [0.0] * size
        self._wanted.synchronization = ruckig.Synchronization.No
        self.reset(np.zeros(size))

    def reset(self, joints: Joints, velocity: Joints | None = None) -> None:
        """Be at ``joints`` [D], at rest or at a ``velocity`` [D]."""
        self._p, self._a = self._within(joints.tolist()), self._still
        self._v = self._still if velocity is None else velocity.tolist()

    @property
    def position(self) -> Joints:
        """The last setpoint [D]."""
        return np.array(self._p)

    @property
    def velocity(self) -> Joints:
        """Of the setpoint [D]."""
        return np.array(self._v)

    @property
    def acceleration(self) -> Joints:
        """Of the setpoint [D]."""
        return np.array(self._a)

    @property
    def at_rest(self) -> bool:
        """Whether the setpoint stands still."""
        return all(abs(v) < 1e-6 for v in self._v) and all(abs(a) < 1e-4 for a in self._a)

    @property
    def rest(self) -> Joints:
        """Where it comes to rest [D] when it brakes now."""
        axes = zip(self._p, self._v, self._a, self._axes, strict=True)
        return np.array([p + braking(v, a, most, jerk) for p, v, a, (_, _, most, jerk) in axes])

    @property
    def stop_s(self) -> float:
        """An upper bound of how long braking takes from here [s]."""
        axes = zip(self._v, self._a, self._axes, strict=True)
        return max((abs(v) + a * a / (2 * j)) / most + 2 * most / j for v, a, (_, _, most, j) in axes)

    def towards(self, joints: Joints, velocity: Joints) -> Joints:
        """The setpoint [D] of the next tick, on the way to a reference that then passes ``joints`` at ``velocity``."""
        limits, dt = self.limits, self.dt
        speed = [min(max(v, -0.99 * most), 0.99 * most) for v, most in zip(velocity.tolist(), limits.velocity)]
        origin = [p - v * dt for p, v in zip(self._within(joints.tolist()), speed)]
        wanted = self._wanted
        wanted.control_interface = ruckig.ControlInterface.Position
        wanted.max_velocity = [most - v for most, v in zip(limits.velocity, speed)]
        wanted.min_velocity = [-most - v for most, v in zip(limits.velocity, speed)]
        wanted.target_velocity = self._still
        before = (self._p, self._v, self._a)
        found = self._advance(origin, speed)
        free = [found and ends for ends in self._can_brake()]
        if not all(free):
            wished = (self._p, self._v, self._a)
            self._p, self._v, self._a = before
            self.brake()
            braked = (self._p, self._v, self._a)
            chosen = [wished if fine else held for fine, held in zip(free, [braked] * len(free))]
            self._p, self._v, self._a = ([one[k][axis] for axis, one in enumerate(chosen)] for k in range(3))
        return self.position

    def brake(self) -> Joints:
        """The setpoint [D] of the next tick, on the shortest way to rest."""
        wanted = self._wanted
        wanted.control_interface = ruckig.ControlInterface.Velocity
        wanted.max_velocity, wanted.min_velocity = list(self.limits.velocity), None
        wanted.target_velocity = self._still
        if not self._advance(self._still, self._still):
            raise UnderstudyError(f"no way to rest from {self._p}, {self._v}, {self._a}")
        self._p = self._within(self._p)
        return self.position

    def _within(self, joints: list[float]) -> list[float]:
        return [min(max(p, low), high) for p, (low, high, _, _) in zip(joints, self._axes, strict=True)]

    def _advance(self, origin: list[float], speed: list[float]) -> bool:
        """One tick in the frame that is at ``origin`` now and moves at ``speed``; whether there is a way."""
        wanted, after = self._wanted, self._next
        wanted.current_position = [p - o for p, o in zip(self._p, origin)]
        wanted.current_velocity = [v - s for v, s in zip(self._v, speed)]
        wanted.current_acceleration = self._a
        try:
            done = self._planner.update(wanted, after)
        except ruckig.RuckigError:
            return False
        if done not in (ruckig.Result.Working, ruckig.Result.Finished):
            return False
        self._p = [x + o + s * self.dt for x, o, s in zip(after.new_position, origin, speed)]
        self._v = [v + s for v, s in zip(after.new_velocity, speed)]
        self._a = list(after.new_acceleration)
        return True

    def _can_brake(self) -> list[bool]:
        """Of each joint, whether the shortest way to rest stays within its ends."""
        return [
            low <= p <= high and low <= p + braking(v, a, most, j) <= high
            for p, v, a, (low, high, most, j) in zip(self._p, self._v, self._a, self._axes, strict=True)
        ]


def braking(v: float, a: float, most: float, jerk: float) -> float:
    """The way [rad] to rest from velocity ``v`` and acceleration ``a``, braking with at most ``most`` and ``jerk``."""
    sign = 1.0 if v >= 0 else -1.0
    v, d, way = sign * v, -sign * a, 0.0  # d: deceleration
    if d < 0:  # first it is still pushed
        t = -d / jerk
        way, v, d = v * t - d * t**2 / 2 - jerk * t**3 / 6, v - d * t / 2, 0.0
    if v <= d**2 / (2 * jerk):  # it stands before the deceleration can be taken back
        t = (d - sqrt(max(d**2 - 2 * jerk * v, 0.0))) / jerk
        return sign * (way + v * t - d * t**2 / 2 + jerk * t**3 / 6)
    peak = min(sqrt(jerk * v + d**2 / 2), most)
    up, down = (peak - d) / jerk, peak / jerk
    held = max((v + (d**2 / 2 - peak**2) / jerk) / peak, 0.0)
    way += v * up - d * up**2 / 2 - jerk * up**3 / 6
    v -= d * up + jerk * up**2 / 2
    way += v * held - peak * held**2 / 2
    v -= peak * held
    return sign * (way + v * down - peak * down**2 / 2 + jerk * down**3 / 6)
