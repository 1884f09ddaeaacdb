"""From a policy's rate to the arm's: where the reference is between two steps of the policy.

The governor follows the reference (`robot_bridge.safety.Governor`), so neither way can break a limit. `Spline` gives
it a smooth one; `Steps` leaves the whole way to the governor's time-optimal profile, which is quicker and harder.
"""

from typing import Literal, Protocol

import numpy as np

from robot_bridge.arms.arm import Joints
from vla.errors import unknown

Interpolation = Literal["spline", "steps"]


class Reference(Protocol):
    """Where to be at a time [s] that counts from the last `aim`."""

    def rest(self, joints: Joints) -> None:
        """Stand still at ``joints`` [D]."""
        ...

    def aim(self, target: Joints, after: Joints | None, begun_s: float, step_s: float) -> None:
        """Be at ``target`` [D] ``step_s`` after this step began.

        It begins ``begun_s`` after the last one did; ``after``: the target that will follow, if it is known already.
        """
        ...

    def at(self, seconds: float) -> tuple[Joints, Joints]:
        """Position and velocity [D], ``seconds`` after the step began; beyond its end it goes straight on."""
        ...


class Spline:
    """Quintic pieces that meet with equal position, velocity and acceleration (C²).

    At each target the velocity is the mean over the steps before and after it, the acceleration zero.
    """

    def __init__(self) -> None:
        self._piece: Joints = np.zeros((6, 1))
        self._step_s = 1.0

    def rest(self, joints: Joints) -> None:
        """See `Reference`."""
        self._piece = np.zeros((6, len(joints)))
        self._piece[0] = joints

    def aim(self, target: Joints, after: Joints | None, begun_s: float, step_s: float) -> None:
        """See `Reference`."""
        begin = self._derivatives(begun_s)
        velocity = (target - begin[0]) / step_s if after is None else (after - begin[0]) / (2 * step_s)
        self._piece, self._step_s = quintic(begin, np.stack([target, velocity, 0 * velocity]), step_s), step_s

    def at(self, seconds: float) -> tuple[Joints, Joints]:
        """See `Reference`."""
        position, velocity, _ = self._derivatives(seconds)
        return position, velocity

    def _derivatives(self, seconds: float) -> Joints:
        inside = min(seconds, self._step_s)
        powers = inside ** np.arange(6.0)
        coefficients, found = self._piece, []
        for order in range(3):
            found.append(powers[: 6 - order] @ coefficients)
            coefficients = coefficients[1:] * np.arange(1.0, 6 - order)[:, None]
        found[0] = found[0] + (seconds - inside) * found[1]
        return np.stack(found)


class Steps:
    """The target itself, at once."""

    def __init__(self) -> None:
        self._target: Joints = np.zeros(1)

    def rest(self, joints: Joints) -> None:
        """See `Reference`."""
        self._target = joints

    def aim(self, target: Joints, after: Joints | None, begun_s: float, step_s: float) -> None:
        """See `Reference`."""
        self._target = target

    def at(self, seconds: float) -> tuple[Joints, Joints]:
        """See `Reference`."""
        return self._target, np.zeros_like(self._target)


def quintic(begin: Joints, end: Joints, seconds: float) -> Joints:
    """Coefficients [6, D] of the polynomial in time with the given position, velocity, acceleration [3, D] at its ends.

    Solved in closed form in the time scaled to one.
    """
    scale = np.array([1.0, seconds, seconds**2])[:, None]
    p0, v0, a0 = begin * scale
    p1, v1, a1 = end * scale
    way = p1 - p0
    scaled = np.stack(
        [
            p0,
            v0,
            a0 / 2,
            10 * way - 6 * v0 - 4 * v1 - 1.5 * a0 + 0.5 * a1,
            -15 * way + 8 * v0 + 7 * v1 + 1.5 * a0 - a1,
            6 * way - 3 * v0 - 3 * v1 - 0.5 * a0 + 0.5 * a1,
        ]
    )
    return scaled / (seconds ** np.arange(6.0))[:, None]


def make_reference(name: Interpolation) -> Reference:
    """``spline`` or ``steps``; raises `UnderstudyError` for another."""
    if name == "spline":
        return Spline()
    if name == "steps":
        return Steps()
    raise unknown("interpolation", name, ("spline", "steps"))
