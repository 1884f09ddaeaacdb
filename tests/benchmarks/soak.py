"""Two simulated arms on one server for minutes, over a cable that loses packets, while the server is started anew.

The operator is a script: whenever an arm has stopped, it looks, begins and arms again. What counts is how the arms
really moved, at every tick: no limit may be exceeded, and no step may answer an observation older than its chunk
reaches. Processes may not grow. As root the cable is one of IP packets, with loss; else a proxy, with delay alone.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from types import ModuleType
from typing import Any

from vla.bench import Row, parser, write_bench
from vla.errors import UnderstudyError

ARMS = {"left": 0, "right": 3}
"""Name → the joint that is swayed."""
WINDOW_S = 1.0
TRIES = 10
SETTLED_S = 120.0
"""Memory is compared from here on, or from half of a shorter run."""
BAD = "this is not how it should be"
MOST_GROWTH = 32 << 20
"""Bytes that a process may have grown by."""


def beside(name: str) -> ModuleType:
    """What the bridge's tests are made of: ``tests/robot_bridge/name.py``."""
    known = f"robot_bridge_{name}"
    if known not in sys.modules:
        spec = spec_from_file_location(known, Path(__file__).parents[1] / "robot_bridge" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


rig, network, sway, stage = map(beside, ("rig", "network", "sway", "stage"))


@dataclass
class Soak:
    """What has been seen so far; ``memory``: process → bytes, at each look."""

    folder: Path
    loss: float
    arms: dict[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    memory: dict[str, list[int]] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keys, cable, server and both arms."""
        keys = stage.make_keyring(self.folder / "keys", *ARMS)
        with ExitStack() as stack:
            self.cable = None if network.no_tunnel() else stack.enter_context(network.Tunnel())
            address = f"tcp://{self.cable.there}:5555" if self.cable else "tcp://127.0.0.1:0"
            through = self.cable.command if self.cable else None
            self.server = sway.Served(address, rig.JOINT_POLICY, self.folder, keys=keys, through=through)
            self._again = lambda: sway.Served(
                self.server.address, rig.JOINT_POLICY, self.folder, keys=keys, through=through
            )
            stack.callback(lambda: self.server.close())
            if self.cable is None:
                self.cable = stack.enter_context(network.Proxy(("127.0.0.1", self.server.port)))
            asked = self.server.address if through else self.cable.address
            self.cable.weather = network.Weather(delay_s=0.002, jitter_s=0.001, loss=self.loss)
            for seed, (name, joint) in enumerate(ARMS.items()):
                about = {"keys": stage.robots_keys(keys, name), "name": name, "joint": joint, "seed": seed + 3}
                self.arms[name] = stack.enter_context(stage.staged(asked, rendered=True, **about))
            yield

    def restart(self) -> None:
        """The server dies, and another one takes its place."""
        self.server.close()
        self.server = self._again()
        self.counts["server starts"] += 1

    def look(self) -> None:
        """Judge the last window of each arm, and be its operator."""
        for name, arm in self.arms.items():
            self.judge(arm)
            if arm.run.state not in stage.MOVING:
                self.counts["stops"] += 1
                self.troubles[arm.run.reason.partition(": tcp")[0]] += 1
                self.arm_again(name)
            else:
                arm.look()

    def judge(self, arm: Any) -> None:
        """Limits and ages, from what was measured since the last look."""
        motion, ticks, steps = (arm.records(name) for name in ("motion", "ticks", "steps"))
        try:
            rig.check_motion(motion["joints"], motion["velocity"], ticks["sent"])
        except AssertionError as error:
            self.counts["limits exceeded"] += 1
            self.troubles[f"limit: {str(error)[:80]}"] += 1
        self.counts["ticks judged"] += len(motion)
        self.counts["steps"] += len(steps)
        if len(steps):
            self.counts["stale steps"] += int((steps["age_ns"] > 1e9 * stage.HORIZON_S).sum())

    def arm_again(self, name: str) -> None:
        """What an operator does; under loss it may take several attempts."""
        for _ in range(TRIES):
            try:
                self.arms[name].sways(timeout_s=10.0)
            except (UnderstudyError, AssertionError):
                self.counts["attempts that failed"] += 1
            else:
                self.counts["rearmings"] += 1
                return
        raise UnderstudyError(f"the arm {name} cannot be driven again: {self.arms[name].run.reason}")

    def weigh(self) -> None:
        """Note the memory of every process."""
        pids = {"the soak itself": os.getpid(), "server": self.server.pid}
        for name, arm in self.arms.items():
            pids[f"{name}: world"] = arm.world.pid
            pids |= {f"{name}: {what}": process.pid for what, process in arm.run.processes.items()}
        for what, pid in pids.items():
            self.memory.setdefault(what, []).append(sway.resident(pid))

    def growth(self, first: int) -> dict[str, int]:
        """Process → bytes by which it has grown since look number ``first``."""
        return {what: sizes[-1] - sizes[min(first, len(sizes) - 1)] for what, sizes in self.memory.items()}


def run(minutes: float, restart_s: float, loss: float, folder: Path) -> tuple[list[Row], list[str]]:
    """Rows and notes, of which the last is `BAD` when a limit was exceeded, a step was stale or a process grew."""
    soak = Soak(folder, loss)
    with soak.running():
        for name in soak.arms:
            soak.arm_again(name)
        soak.counts["rearmings"] = 0
        begun = restarted = monotonic()
        settled, first = min(SETTLED_S, 30 * minutes), None
        while (passed := monotonic() - begun) < 60 * minutes:
            if first is None and passed > settled:
                first = len(soak.memory.get("server", []))
            sleep(WINDOW_S)
            soak.look()
            soak.weigh()
            if monotonic() - restarted > restart_s:
                soak.restart()
                restarted = monotonic()
        status = [arm.run.status for arm in soak.arms.values()]
        passed, lost = soak.cable.counts["passed"], soak.cable.counts["lost"]
    growth, counts = soak.growth(first or 0), soak.counts
    most = max(growth, key=lambda what: growth[what])
    names = ("limits exceeded", "stale steps", "steps", "ticks judged", "stops", "rearmings", "attempts that failed")
    rows = [Row("minutes", minutes, "min"), *(Row(name, counts[name], "") for name in (*names, "server starts"))]
    rows += [
        Row("ticks of control", sum(int(one["ticks"]) for one in status), ""),
        Row("ticks missed", sum(int(one["missed"]) for one in status), ""),
        Row("packets lost", lost, ""),
        Row("packets passed", passed, ""),
        *(Row(f"{what}, growth", bytes_ / 2**20, "MiB") for what, bytes_ in growth.items()),
    ]
    notes = [f"{count} stops: {why}" for why, count in soak.troubles.most_common()]
    if not passed:
        notes.append("without root no packets could be lost: a proxy delayed the bytes")
    bad = counts["limits exceeded"] or counts["stale steps"] or growth[most] > MOST_GROWTH
    return rows, [*notes, *([BAD] if bad else [])]


def main(argv: list[str]) -> int:
    """``vla bench soak``."""
    arguments = parser("soak", __doc__)
    arguments.add_argument("--minutes", type=float, help="how long (2; 10 with --long)")
    arguments.add_argument("--restart", type=float, default=60.0, metavar="SECONDS", help="of the server")
    arguments.add_argument("--loss", type=float, default=0.01, help="share of packets (%(default)s)")
    given = arguments.parse_args(argv)
    minutes = given.minutes or (10.0 if given.long else 2.0)
    with TemporaryDirectory() as folder:
        rows, notes = run(minutes, given.restart, given.loss, Path(folder))
    write_bench("soak", rows, {}, given.json, notes=notes)
    return int(BAD in notes)
