"""What the drivers of makers' arms have in common: a kit that may be missing, and measurements that may be old."""

from collections.abc import Callable
from importlib import import_module
from time import monotonic, sleep
from typing import Any

import numpy as np

from robot_bridge.arms.arm import ArmError, ArmState, Joints

DRIFT = 1e-4
"""By how much two clocks may run apart: 100 µs in a second is what the cheapest crystals do."""


def load_kit(module: str, extra: str) -> Any:
    """The maker's module; raises `ArmError` that says how it is installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ArmError(f"{module} is not installed ({error}): pip install 'understudy[{extra}]'") from error


def connected[Kit](kit: Kit | None) -> Kit:
    """What `connect` made; raises `ArmError` where it has not been called."""
    if kit is None:
        raise ArmError("the arm is not connected: call connect() first")
    return kit


def joint_state(joints: Joints, stamp_ns: int) -> ArmState:
    """The state of an arm that tells a policy its ``joints`` [D] and nothing else."""
    return ArmState(joints, joints.astype(np.float32), stamp_ns)


class TheirClock:
    """When something was measured, on our clock, by the stamp that it bears on another.

    A measurement that came faster than every one before tells best how far the clocks are apart. Stamps that stand
    still, or that lag behind more and more, thereby grow old, whenever they are read:

        theirs  10.0   10.1   10.2   10.2   10.2         the controller stands still from 10.2 on
        ours    50.003 50.101 50.204 50.301 57.0
        answer  50.003 50.101 50.201 50.201 50.201
    """

    def __init__(self) -> None:
        self._theirs_s: float | None = None
        self._apart_ns = self._seen_ns = self._stamp_ns = 0

    def stamp_ns(self, theirs_s: float, now_ns: int) -> int:
        """Our time [ns] of what bears ``theirs_s`` [s] and is there at ``now_ns``."""
        if theirs_s == self._theirs_s:
            return self._stamp_ns
        apart_ns = now_ns - round(1e9 * theirs_s)
        if self._theirs_s is not None:
            apart_ns = min(apart_ns, self._apart_ns + round(DRIFT * (now_ns - self._seen_ns)))
        self._theirs_s, self._apart_ns, self._seen_ns = theirs_s, apart_ns, now_ns
        self._stamp_ns = max(self._stamp_ns, round(1e9 * theirs_s) + apart_ns)
        return self._stamp_ns


class NewsClock:
    """When something was measured, for stamps that only tell one measurement from the next.

    That a wall clock is set meanwhile does no harm; what stands still grows old from when it was first read.
    """

    def __init__(self) -> None:
        self._seen: object = None
        self._stamp_ns = 0

    def stamp_ns(self, seen: object, now_ns: int) -> int:
        """Our time [ns] at which ``seen`` was first there."""
        if seen != self._seen:
            self._seen, self._stamp_ns = seen, now_ns
        return self._stamp_ns


def wait_for(happened: Callable[[], object], seconds: float) -> bool:
    """Whether ``happened()`` became true; it is asked every 2 ms."""
    until = monotonic() + seconds
    while not happened():
        if monotonic() > until:
            return False
        sleep(0.002)
    return True
