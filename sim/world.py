"""The simulated arm's own computer and the physics under it: what would be a box beside a real arm.

    driver ──setpoints──► firmware: follows them, and brakes when they stop coming ──► motors ──► MuJoCo
    driver ◄──measured joints: delayed, noisy, or frozen, as asked──┘

`ArmPhysics` makes no time of its own, so tests can let it pass as they like; `World` runs it in real time in a process
of its own, which goes on when the driver dies, as the arm would.
"""

import multiprocessing as mp
import os
import shutil
import tempfile
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic_ns, sleep

import mujoco
import numpy as np

from robot_bridge.arms.arm import ArmSpec, ArmState, Limits
from robot_bridge.loop import be_prompt
from robot_bridge.rings import Field, Ring, text
from robot_bridge.safety import Governor
from sim.tasks.tabletop import FINGER_TRAVEL, WORKSPACE_HIGH, WORKSPACE_LOW, TabletopSuite
from vla.errors import UnderstudyError
from vla.types import Gripper

PHYSICS_S = 0.001
FASTEST = 20.0
"""Setpoints that imply more than this [rad/s] are ignored, as Universal Robots' controllers do."""
RATE_HZ = 500.0
JOINTS = tuple(f"joint{index}" for index in range(1, 8))
LOW = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973, 0.0)
HIGH = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973, 1.0)

SPEC = ArmSpec(
    embodiment="panda-primitive",
    joints=(*JOINTS, "gripper"),
    limits=Limits(
        low=LOW,
        high=HIGH,
        velocity=(*(2.175,) * 4, *(2.61,) * 3, 6.0),
        acceleration=(*(10.0,) * 7, 60.0),
        jerk=(*(1000.0,) * 7, 6000.0),
        lag=(*(0.3,) * 4, *(0.4,) * 3, 2.0),
    ),
    rate_hz=RATE_HZ,
    proprio_names=("ee_x", "ee_y", "ee_z", "gripper_opening"),
    gripper=Gripper(index=7, open=1.0, closed=0.0),
    workspace=(tuple(WORKSPACE_LOW.tolist()), tuple(WORKSPACE_HIGH.tolist())),
    watchdog_s=0.04,
)
"""Franka Panda: the maker's joint ends and velocities (less than its 15…20 rad/s² and 7500…15000 rad/s³ at the joints);
the gripper is a fraction of its opening, and may be blocked by what it holds."""

CHANNELS: dict[str, tuple[list[Field], int]] = {
    "command": ([("stamp_ns", "<i8"), ("joints", "<f8", (8,)), ("brake", "?")], 8),
    "state": ([("stamp_ns", "<i8"), ("joints", "<f8", (8,)), ("proprio", "<f4", (4,))], 8),
    "faults": ([("frozen", "?"), ("noise_rad", "<f8"), ("delay_s", "<f8"), ("stuck", "<i4"), ("deaf", "?")], 8),
    "scene": ([("episode", "<i8"), ("task", "S80"), ("seed", "<i8")], 8),
    "pose": ([("stamp_ns", "<i8"), ("qpos", "<f8", (64,)), ("episode", "<i8"), ("success", "?")], 8),
    "motion": (
        [
            *(("stamp_ns", "<i8"), ("joints", "<f8", (8,)), ("velocity", "<f8", (8,))),
            *(("setpoint", "<f8", (8,)), ("tool", "<f8", (3,))),
        ],
        1 << 17,
    ),
}
"""What is shared with the drivers and cameras: fields and slots of each ring; ``motion``: the last four minutes."""


_FASTEST = np.asarray(SPEC.limits.velocity)


@dataclass(frozen=True)
class Faults:
    """What is wrong with the arm; ``stuck``: the joint that does not move, -1: none; ``deaf``: takes no setpoints."""

    frozen: bool = False
    noise_rad: float = 0.0
    delay_s: float = 0.0
    stuck: int = -1
    deaf: bool = False


class ArmPhysics:
    """The table-top suite's arm as hardware, in time that the caller makes."""

    spec = SPEC

    def __init__(self, task: str, seed: int, *, now_ns: int = 0, watchdog_s: float = SPEC.watchdog_s) -> None:
        self.suite = TabletopSuite(cameras=())
        self._usual_s = self.suite.model.opt.timestep
        self._watchdog_ns = int(1e9 * watchdog_s)
        self._drives = Governor(SPEC.limits, RATE_HZ)
        self.faults = Faults()
        model = self.suite.model
        damping = model.dof_damping[:7] - model.actuator_biasprm[:7, 2]
        self._lag_s = damping / model.actuator_gainprm[:7, 0]
        """how far motors with their damping lag behind [s], which the drives feed forward"""
        self.reset(task, seed, now_ns)

    def reset(self, task: str, seed: int, now_ns: int) -> None:
        """Lay out the scene anew, with the arm at rest in it."""
        self.suite.model.opt.timestep = self._usual_s
        self.suite.reset(task, seed)
        self.suite.model.opt.timestep = PHYSICS_S
        self.now_ns = self._heard_ns = self._sent_ns = now_ns
        self._random = np.random.default_rng(seed)
        self._drives.reset(self.joints)
        self.setpoint = self._told = self._drives.position
        self._speed = np.zeros(8)
        self.ticks, self.ignored, self.braking = 0, 0, False
        """whether the firmware brakes, or holds after it has"""
        self._past: deque[ArmState] = deque(maxlen=200)
        self._past.append(self._measure())

    @property
    def joints(self) -> np.ndarray:
        """Where the joints really are [8]."""
        return np.append(self.suite.data.qpos[:7], self.suite.gripper_opening)

    @property
    def velocity(self) -> np.ndarray:
        """How fast they really move [8]."""
        return np.append(self.suite.data.qvel[:7], self.suite.data.qvel[7:9].mean() / FINGER_TRAVEL)

    def command(self, joints: np.ndarray, stamp_ns: int) -> None:
        """A setpoint [8] from the driver, which sent it at ``stamp_ns``."""
        since = np.clip(1e-9 * (stamp_ns - self._sent_ns), 1 / RATE_HZ, 2 / RATE_HZ)
        if self.faults.deaf or np.abs(joints - self._told).max() > FASTEST * since:
            self.ignored += 1
            return
        self._speed = np.clip((joints - self._told) / since, -_FASTEST, _FASTEST)
        self._told, self._sent_ns, self._heard_ns, self.braking = joints, stamp_ns, self.now_ns, False

    def brake(self) -> None:
        """Brake by the firmware's own means, until the next setpoint."""
        self.braking = True

    def advance(self, seconds: float) -> None:
        """Let time pass: one tick of the firmware, and the physics under it.

        Between two setpoints the firmware goes straight on, and it limits what it is told as it limits itself.
        """
        silent_ns = self.now_ns - self._heard_ns
        if self.braking or silent_ns > self._watchdog_ns:
            self.braking = True
            self.setpoint = self._drives.brake()
            self._told, self._speed = self.setpoint, self._drives.velocity
        else:
            ahead = 1e-9 * silent_ns * self._speed
            self.setpoint = self._drives.towards(self._told + ahead, self._speed)
        data, stuck = self.suite.data, self.faults.stuck
        data.ctrl[:7] = self.setpoint[:7] + self._lag_s * self._drives.velocity[:7]
        data.ctrl[7:9] = self.setpoint[7] * FINGER_TRAVEL
        held = None if stuck < 0 else float(data.qpos[stuck])
        for _ in range(round(seconds / PHYSICS_S)):
            mujoco.mj_step(self.suite.model, data)
            if held is not None:
                data.qpos[stuck], data.qvel[stuck] = held, 0.0
        self.now_ns += round(1e9 * seconds)
        self.ticks += 1
        if not self.faults.frozen:
            self._past.append(self._measure())

    def state(self) -> ArmState:
        """What the sensors say now."""
        late = self.now_ns - int(1e9 * self.faults.delay_s)
        return next((state for state in reversed(self._past) if state.stamp_ns <= late), self._past[0])

    def _measure(self) -> ArmState:
        noise = self._random.normal(0, self.faults.noise_rad, 8) if self.faults.noise_rad else 0.0
        proprio = np.array([*self.suite.grip_position, self.suite.gripper_opening], np.float32)
        return ArmState(self.joints + noise, proprio, self.now_ns)


class World:
    """An `ArmPhysics` in a process of its own, in real time; the owner closes it."""

    def __init__(self, task: str = "tabletop/lift-red-cube", seed: int = 0) -> None:
        shm = Path("/dev/shm")  # noqa: S108 a folder of our own is made in it
        self.folder = Path(tempfile.mkdtemp(prefix="understudy-world-", dir=shm if shm.is_dir() else None))
        self.rings = open_rings(self.folder, make=True)
        self._faults, self._episode = self.rings["faults"], 0
        self.inject()
        self._process = mp.get_context("spawn").Process(target=_run, args=(self.folder, os.getpid()), daemon=True)
        self._process.start()
        self.reset(task, seed)

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
        """Lay out a scene; returns when it stands."""
        self._episode += 1
        self.rings["scene"].write(episode=self._episode, task=text(task, 80), seed=seed)
        until = monotonic_ns() + int(1e9 * timeout_s)
        while monotonic_ns() < until and self._process.is_alive():
            newest = self.rings["pose"].newest()
            if newest is not None and int(newest["episode"]) == self._episode:
                return
            sleep(0.01)
        raise UnderstudyError(f"the simulated arm's process does not lay out {task}; is it a task of the table top?")

    def inject(self, **faults: object) -> None:
        """Break the arm: fields of `Faults`; nothing given mends it."""
        self._faults.write(**asdict(Faults(**faults)))  # type: ignore[arg-type]

    def motion(self) -> np.ndarray:
        """The arm's real motion so far, one record (`MOTION`) a tick."""
        return np.array(self.rings["motion"].since(0)[0])

    def close(self) -> None:
        """End it; a second time is no harm."""
        self._process.kill()
        self._process.join()
        shutil.rmtree(self.folder, ignore_errors=True)


def open_rings(folder: Path, *, make: bool = False) -> dict[str, Ring]:
    """The rings of a world, by name."""
    return {name: Ring(folder / name, fields, slots=slots, make=make) for name, (fields, slots) in CHANNELS.items()}


def _run(folder: Path, owner: int) -> None:
    """The process: keeps up with real time, and ends when its owner has gone."""
    be_prompt()  # an arm's own computer waits for nobody else's work
    rings, physics, episode = open_rings(folder), None, 0
    tick_ns, due_ns = round(1e9 / RATE_HZ), monotonic_ns()
    be_prompt()  # an arm's own computer does not share its core either
    while os.getppid() == owner:
        scene = rings["scene"].newest()
        if scene is not None and int(scene["episode"]) != episode:
            task, seed, episode = scene["task"].decode(), int(scene["seed"]), int(scene["episode"])
            if physics is None:
                physics = ArmPhysics(task, seed, now_ns=monotonic_ns())
            physics.reset(task, seed, monotonic_ns())
            heard, due_ns = rings["command"].written, monotonic_ns()
        if physics is None:
            sleep(0.001)
            continue
        heard = _obey(physics, rings, heard)
        physics.advance(1e-9 * tick_ns)
        _tell(physics, rings, episode)
        due_ns += tick_ns
        left_ns = due_ns - monotonic_ns()
        if left_ns > 0:
            sleep(1e-9 * left_ns)
        elif left_ns < -50_000_000:  # this machine is too slow, or slept: time stood still meanwhile
            due_ns = monotonic_ns()
            physics.now_ns = due_ns


def _obey(physics: ArmPhysics, rings: dict[str, Ring], heard: int) -> int:
    faults = rings["faults"].newest()
    if faults is not None:
        physics.faults = Faults(**{name: faults[name].item() for name in faults.dtype.names})
    if rings["command"].written != heard and (command := rings["command"].newest()) is not None:
        if command["brake"]:
            physics.brake()
        else:
            physics.command(command["joints"], int(command["stamp_ns"]))
    return rings["command"].written


def _tell(physics: ArmPhysics, rings: dict[str, Ring], episode: int) -> None:
    state, suite = physics.state(), physics.suite
    rings["state"].write(stamp_ns=state.stamp_ns, joints=state.joints, proprio=state.proprio)
    rings["motion"].write(
        stamp_ns=physics.now_ns,
        joints=physics.joints,
        velocity=physics.velocity,
        setpoint=physics.setpoint,
        tool=suite.grip_position,
    )
    if physics.ticks % 5 == 0:
        qpos = np.zeros(64)
        qpos[: suite.model.nq] = suite.data.qpos
        success = suite.judge() if physics.ticks % 25 == 0 else suite.success
        rings["pose"].write(stamp_ns=physics.now_ns, qpos=qpos, episode=episode, success=success)
