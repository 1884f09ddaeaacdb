"""How late the ticks of the control process are while both cores are busy with other things.

The process is the one that drives arms, with all that it does in a tick, on an arm that answers at once; it follows
chunks that come 20 times a second. At 500 Hz it is scheduled first (FIFO) where the machine permits it, at 100 Hz not.
"""

import multiprocessing as mp
import os
import sys
from dataclasses import replace
from time import monotonic, monotonic_ns, sleep

import numpy as np

from robot_bridge import loop
from robot_bridge.arms import arm as arms
from robot_bridge.arms.arm import ArmSpec, ArmState, Limits
from robot_bridge.control import ControlConfig, State
from robot_bridge.orders import SOCKET, give_order
from robot_bridge.plan import Made, Plan
from robot_bridge.run import run_folder
from vla.bench import Row, parser, write_bench
from vla.types import ActionSpec, CameraSpec, PolicySpec

JOINTS = tuple(f"joint{index}" for index in range(1, 8))
LIMITS = Limits((-3.0,) * 7, (3.0,) * 7, (2.0,) * 7, (10.0,) * 7, (1000.0,) * 7, (0.5,) * 7)
POLICY = PolicySpec(
    cameras=(CameraSpec("front", 8, 8),),
    proprio_names=JOINTS,
    action=ActionSpec("joint_position", JOINTS, LIMITS.low, LIMITS.high),
    accepts=("instruction",),
    obs_horizon=1,
    pred_horizon=16,
    exec_horizon=4,
    control_hz=20.0,
)


class Obedient:
    """An arm that is where it was told to be."""

    kinematics = None

    def __init__(self, rate_hz: float = 500.0) -> None:
        self.spec = ArmSpec("obedient", JOINTS, LIMITS, rate_hz, JOINTS)
        self._joints = np.zeros(7)

    def connect(self) -> None:
        """Nothing to find."""

    def state(self) -> ArmState:
        """Of now."""
        return ArmState(self._joints, self._joints.astype(np.float32), monotonic_ns())

    def command(self, joints: np.ndarray) -> None:
        """Be there."""
        self._joints = joints

    def stop(self) -> None:
        """Stay."""

    disconnect = connect


def control(plan: Plan, parent: int, first: bool) -> None:
    """The control process, scheduled ``first`` or like everybody."""
    arms.ARMS["obedient"] = f"{__name__}:Obedient"
    if not first:
        os.sched_setscheduler = _refused
    loop.control(plan, parent)


def _refused(*about: object) -> None:
    raise OSError("not permitted, for the sake of the measurement")


def burn() -> None:
    """Keep a core busy."""
    while True:
        sum(range(10_000))


def lateness(rate_hz: float, *, first: bool, seconds: float) -> tuple[np.ndarray, int]:
    """Lateness [µs] of each tick, and how many ticks were missed, while two processes want all of both cores."""
    arms.ARMS["obedient"] = f"{__name__}:Obedient"
    plan = Plan(run_folder(), Made("obedient", {"rate_hz": rate_hz}), Made(""), POLICY, Obedient(rate_hz).spec)
    plan = replace(plan, config=ControlConfig(overrun_s=10.0))
    rings, context = plan.rings(make=True), mp.get_context("fork")
    others = [context.Process(target=burn, daemon=True) for _ in range(os.cpu_count() or 2)]
    process = context.Process(target=control, args=(plan, os.getpid(), first), daemon=True)
    for one in (*others, process):
        one.start()
    late, seen, begun, until = [], 0, 0, monotonic() + seconds
    before = (0, 0)
    while monotonic() < until:
        now = monotonic_ns()
        rings["link"].write(stamp_ns=now, alive=True, rate=1.0, meeting=1)
        phase = 1e-9 * now + np.arange(1, 17)[:, None] / 20
        rings["chunks"].write(stamp_ns=now, actions=np.repeat(0.04 * np.sin(phase), 7, axis=1))
        ticks, seen, _ = rings["ticks"].since(seen)
        status = rings["control"].newest()
        if status is not None and status["state"] == State.IDLE and (plan.folder / SOCKET).exists():
            give_order(plan.folder, "arm")
        elif status is not None and status["state"] == State.TRACKING:
            begun += 1
            if begun == 20:  # a second for everything to have been used once
                before = (int(status["missed"]), len(late))
                late.clear()
            late += [int(tick["late_ns"]) / 1000 for tick in ticks]
        sleep(0.05)
    status = rings["control"].newest()
    for one in (*others, process):
        one.kill()
    if status["state"] != State.TRACKING:
        raise SystemExit(f"the arm was not driven: {status['reason'].decode()}")
    return np.array(late), int(status["missed"]) - before[0]


def main(argv: list[str]) -> int:
    """``vla bench loop``: a minute."""
    arguments = parser("loop", __doc__)
    arguments.add_argument("--seconds", type=float, default=20.0, help="of each measurement (%(default)s)")
    given = arguments.parse_args(argv)
    rows, notes = [], [f"both of {os.cpu_count()} cores kept busy"]
    for rate_hz, first in ((500.0, True), (500.0, False), (100.0, False)):
        late, missed = lateness(rate_hz, first=first, seconds=given.seconds)
        p50, p99, most = np.percentile(late, [50, 99, 100])
        how = "FIFO" if first else "without FIFO"
        rows.append(Row(f"{rate_hz:.0f} Hz, {how}", float(p99), "µs late (p99)", float(p50), float(p99)))
        notes.append(f"{rate_hz:.0f} Hz, {how}: {missed} of {len(late)} ticks missed, at most {most:.0f} µs late")
    write_bench("loop", rows, {}, given.json, notes=tuple(notes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
