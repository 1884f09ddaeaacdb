"""An arm that follows setpoints as it would under the bridge, in time that nobody has to wait for."""

from itertools import pairwise

import numpy as np

from robot_bridge.replaying import lead_in
from robot_bridge.safety import Governor
from sim.firmware import Firmware


def follow(physics: Firmware, setpoints: np.ndarray, hz: float, *, rest_s: float = 1.0) -> None:
    """Lead the arm to the first of ``setpoints`` [M, D], send it along them, ``hz`` a second, and let it stand still.

    As in `vla drive`, a governor of the arm's limits decides what it is told; the scene judges after each tick.
    """
    spec, dt = physics.spec, 1 / physics.spec.rate_hz
    governor = Governor(spec.limits, spec.rate_hz)
    governor.reset(physics.joints)
    rows = np.concatenate([lead_in(physics.joints, setpoints[0], spec, hz), setpoints])
    times = np.arange(len(rows)) / hz
    ticks = np.arange(0.0, times[-1] + rest_s, dt)
    wanted = np.stack([np.interp(np.append(ticks, ticks[-1] + dt), times, column) for column in rows.T], axis=1)
    for now, then in pairwise(wanted):
        physics.command(governor.towards(now, (then - now) / dt), physics.now_ns)
        physics.advance(dt)
        physics.scene.judge()
