"""A simulated arm in real time, in a process of its own, which goes on when the driver dies, as the arm would.

    world ── scene, faults ──► `sim.firmware` over MuJoCo ── state, pose, motion ──► drivers, cameras

What it shares with others lies in a folder: one ring for each direction, and ``setting.json``, which says what to make.
"""

import multiprocessing as mp
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from time import monotonic_ns, sleep

import numpy as np

from robot_bridge.arms.arm import ArmSpec
from robot_bridge.loop import be_prompt
from robot_bridge.rings import Field, Ring, text
from sim.firmware import TICK_HZ, Faults, Firmware
from sim.scenes import SPEC, TABLETOP, Setting, TabletopScene
from sim.tasks.tabletop import TabletopSuite
from vla.errors import UnderstudyError

TASK = "tabletop/lift-red-cube"
QPOS = 64


class ArmPhysics(Firmware):
    """The table-top suite's arm as hardware, in time that the caller makes."""

    scene: TabletopScene

    def __init__(self, task: str, seed: int, *, now_ns: int = 0, watchdog_s: float = SPEC.watchdog_s) -> None:
        super().__init__(TabletopScene(), task, seed, now_ns=now_ns, watchdog_s=watchdog_s)

    @property
    def suite(self) -> TabletopSuite:
        """What it stands in."""
        return self.scene.suite


def channels(spec: ArmSpec) -> dict[str, tuple[list[Field], int]]:
    """What is shared with the drivers and cameras: fields and slots of each ring; ``motion``: the last four minutes."""
    joints, proprio = (len(spec.joints),), (len(spec.proprio_names),)
    return {
        "command": ([("stamp_ns", "<i8"), ("joints", "<f8", joints), ("brake", "?")], 8),
        "state": ([("stamp_ns", "<i8"), ("joints", "<f8", joints), ("proprio", "<f4", proprio)], 8),
        "faults": ([("frozen", "?"), ("noise_rad", "<f8"), ("delay_s", "<f8"), ("stuck", "<i4"), ("deaf", "?")], 8),
        "scene": ([("episode", "<i8"), ("task", "S80"), ("seed", "<i8")], 8),
        "pose": ([("stamp_ns", "<i8"), ("qpos", "<f8", (QPOS,)), ("episode", "<i8"), ("success", "?")], 8),
        "motion": (
            [
                *(("stamp_ns", "<i8"), ("joints", "<f8", joints), ("velocity", "<f8", joints)),
                *(("setpoint", "<f8", joints), ("tool", "<f8", (3,))),
            ],
            1 << 17,
        ),
    }


class World:
    """A simulated arm in a process of its own, in real time; the owner closes it."""

    def __init__(self, task: str = "", seed: int = 0, *, model: str = TABLETOP) -> None:
        """``model``: ``tabletop``, or one of `sim.arm_models.MODELS`, which stands alone and has no ``task``."""
        self.setting = Setting.of(model)
        shm = Path("/dev/shm")  # noqa: S108 a folder of our own is made in it
        self.folder = Path(tempfile.mkdtemp(prefix="understudy-world-", dir=shm if shm.is_dir() else None))
        self.setting.write(self.folder)
        self.rings = open_rings(self.folder, self.setting.spec, make=True)
        self._faults, self._episode = self.rings["faults"], 0
        self.inject()
        self._process = mp.get_context("spawn").Process(target=_run, args=(self.folder, os.getpid()), daemon=True)
        self._process.start()
        try:
            self.reset(task, seed)
        except UnderstudyError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def success(self) -> bool:
        """Whether the task has been achieved since the last `reset`."""
        newest = self.rings["pose"].newest()
        return newest is not None and bool(newest["success"]) and int(newest["episode"]) == self._episode

    def reset(self, task: str, seed: int, *, timeout_s: float = 30.0) -> None:
        """Lay out a scene; returns when it stands. Without a ``task`` the table top has its first one."""
        task = task or (TASK if self.setting.model == TABLETOP else "")
        self._episode += 1
        self.rings["scene"].write(episode=self._episode, task=text(task, 80), seed=seed)
        until = monotonic_ns() + int(1e9 * timeout_s)
        while monotonic_ns() < until and self._process.is_alive():
            newest = self.rings["pose"].newest()
            if newest is not None and int(newest["episode"]) == self._episode:
                return
            sleep(0.01)
        raise UnderstudyError(f"the simulated arm's process does not lay out {task or self.setting}: see above")

    def inject(self, **faults: object) -> None:
        """Break the arm: fields of `Faults`; nothing given mends it."""
        self._faults.write(**asdict(Faults(**faults)))  # type: ignore[arg-type]

    def motion(self) -> np.ndarray:
        """The arm's real motion so far, one record (`channels`) a tick."""
        return np.array(self.rings["motion"].since(0)[0])

    def close(self) -> None:
        """End it; a second time is no harm."""
        self._process.kill()
        self._process.join()
        shutil.rmtree(self.folder, ignore_errors=True)


def open_rings(folder: Path, spec: ArmSpec, *, make: bool = False) -> dict[str, Ring]:
    """The rings of a world with such an arm, by name."""
    return {
        name: Ring(folder / name, fields, slots=slots, make=make) for name, (fields, slots) in channels(spec).items()
    }


def _run(folder: Path, owner: int) -> None:
    """The process: keeps up with real time, and ends when its owner has gone."""
    setting = Setting.read(folder)
    rings, physics, episode = open_rings(folder, setting.spec), None, 0
    tick_ns, due_ns = round(1e9 / TICK_HZ), monotonic_ns()
    be_prompt()  # an arm's own computer does not share its core either
    while os.getppid() == owner:
        scene = rings["scene"].newest()
        if scene is not None and int(scene["episode"]) != episode:
            task, seed, episode = scene["task"].decode(), int(scene["seed"]), int(scene["episode"])
            if physics is None:
                physics = Firmware(setting.scene(), task, seed, now_ns=monotonic_ns())
            physics.reset(task, seed, monotonic_ns())
            heard, due_ns = rings["command"].written, physics.now_ns
        if physics is None:
            sleep(0.001)
            continue
        due_ns += tick_ns
        left_ns = due_ns - monotonic_ns()
        if left_ns > 0:
            sleep(1e-9 * left_ns)
        elif left_ns < -50_000_000:  # this machine is too slow, or slept: time stood still meanwhile
            due_ns = monotonic_ns()
            physics.now_ns = due_ns - tick_ns
        heard = _obey(physics, rings, heard)
        physics.advance(1e-9 * tick_ns)  # up to now, not beyond: a measurement is never of the future
        _tell(physics, rings, episode)


def _obey(physics: Firmware, rings: dict[str, Ring], heard: int) -> int:
    faults = rings["faults"].newest()
    if faults is not None:
        physics.faults = Faults(**{name: faults[name].item() for name in faults.dtype.names})
    if rings["command"].written != heard and (command := rings["command"].newest()) is not None:
        if command["brake"]:
            physics.brake()
        else:
            physics.command(command["joints"], int(command["stamp_ns"]))
    return rings["command"].written


def _tell(physics: Firmware, rings: dict[str, Ring], episode: int) -> None:
    state, scene, arm = physics.state(), physics.scene, physics.mechanism
    rings["state"].write(stamp_ns=state.stamp_ns, joints=state.joints, proprio=state.proprio)
    rings["motion"].write(
        stamp_ns=physics.now_ns,
        joints=physics.joints,
        velocity=physics.velocity,
        setpoint=physics.setpoint,
        tool=arm.tool,
    )
    if physics.ticks % 5 == 0:
        qpos = np.zeros(QPOS)
        qpos[: arm.model.nq] = arm.data.qpos
        success = scene.judge() if physics.ticks % 25 == 0 else scene.success
        rings["pose"].write(stamp_ns=physics.now_ns, qpos=qpos, episode=episode, success=success)
