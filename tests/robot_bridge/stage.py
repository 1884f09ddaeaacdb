"""An arm driven for real: a simulated world, the processes of a run, and what it takes to judge how it moved."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, monotonic_ns, sleep

import numpy as np
import pytest
import zmq
from robot_bridge_network import Proxy, Tunnel
from robot_bridge_rig import JOINT_POLICY, check_motion, check_setpoints
from robot_bridge_sway import Served, sway

from robot_bridge.client import Connection
from robot_bridge.control import State
from robot_bridge.plan import Made, Plan
from robot_bridge.run import Run, run_folder
from robot_bridge.transport import Keys, lock_client, make_keys, socket
from sim.world import SPEC, World
from vla.types import Task

HORIZON_S = JOINT_POLICY.pred_horizon / JOINT_POLICY.control_hz
MOVING = (State.ARMED, State.TRACKING, State.EXTRAPOLATE)
STILL = 0.02
"""Faster [rad/s] than this is no rest."""
YIELDS = 0.06
"""How far [rad] a joint that is to stand may give way when another one brakes: 0.03 has been seen."""


def wait_for(condition, timeout_s=5.0, told=lambda: "it did not happen"):
    """The time that it took; ``condition`` is asked every few milliseconds."""
    begun = monotonic()
    while not condition():
        assert monotonic() < begun + timeout_s, told()
        sleep(0.004)
    return monotonic() - begun


def make_keyring(folder, *robots):
    """Keys of a server, of robots that it lets in, and of a stranger."""
    make_keys(folder, "server")
    make_keys(folder, "stranger")
    for robot in robots:
        make_keys(folder / "robots", robot)
    return folder


def robots_keys(keyring, robot="robot"):
    return Keys(keyring / "robots" / f"{robot}.key_secret", keyring / "server.key")


class Stage:
    """A world with an arm, and a run that drives it; `sways` sets it going."""

    def __init__(self, world, run, joint):
        self.world, self.run, self.joint = world, run, joint
        self.look()

    def look(self):
        """From here on the motion is judged."""
        self._since = {name: self.run.rings[name].written for name in ("ticks", "steps", "events")}
        self._since["motion"] = self.world.rings["motion"].written
        return self

    def records(self, name):
        """What a ring holds since `look`."""
        ring = self.world.rings[name] if name == "motion" else self.run.rings[name]
        return np.array(ring.since(self._since[name])[0])

    @property
    def chunk_end_ns(self):
        """When the newest chunk that has arrived ends."""
        return int(self.run.rings["chunks"].newest()["stamp_ns"]) + int(1e9 * HORIZON_S)

    @property
    def alive(self):
        """Whether the asking process says that the server answers."""
        return bool(self.run.rings["link"].newest()["alive"])

    def sways(self, timeout_s=20.0):
        """Begin an episode where the arm stands, arm it, and wait until it has moved."""
        if self.run.state in MOVING:
            return self.look()
        joints = self.world.rings["motion"].newest()["joints"]
        self.run.begin(Task(sway(self.joint, joints)), timeout_s=timeout_s)
        self.run.arm()
        self.look()
        wait_for(lambda: self.run.state is State.TRACKING, told=self.tells)
        wait_for(lambda: np.abs(self.world.rings["motion"].newest()["velocity"][self.joint]) > 0.1, told=self.tells)
        return self

    def tells(self):
        """What the run knows, for who wonders why nothing moves."""
        link = self.run.rings["link"].newest()
        heard = {name: link[name] for name in ("alive", "asked", "answered", "dropped", "trouble")}
        return f"{self.run.state.name}: {self.run.reason or 'no reason'}; {heard}"

    def goes_on(self, seconds=0.5):
        """It moves on, by chunks that are newer than now."""
        steps, now = self.run.rings["steps"].written, monotonic()
        sleep(seconds)
        assert self.run.state in MOVING, self.run.reason
        found = self.run.rings["steps"].written - steps
        assert found >= (monotonic() - now) * JOINT_POLICY.control_hz / 2, "the arm does not follow its policy"

    def judge(self):
        """Limits were kept, nothing too old was carried out, and no other joint was moved: by measurement."""
        motion, ticks, steps = self.records("motion"), self.records("ticks"), self.records("steps")
        check_motion(motion["joints"], motion["velocity"], motion["setpoint"])
        check_setpoints(ticks["sent"])
        others = [joint for joint in range(7) if joint != self.joint]
        for what, most in (("setpoint", 0.01), ("joints", YIELDS)):
            spread = np.ptp(motion[what][:, others], axis=0)
            assert spread.max() < most, f"{what} of the other joints spread over {spread.round(3)} rad"
        if len(steps):
            assert steps["age_ns"].max() <= 1e9 * HORIZON_S
        return motion

    def rests_by(self, when_ns, seconds=0.4):
        """The arm stands still from ``when_ns`` on, for as long as one looks, and has kept its limits on the way."""
        self.run.wait_for(State.STOPPED, timeout_s=5)
        sleep(max(0.0, 1e-9 * (when_ns - monotonic_ns())) + seconds)
        motion = self.judge()
        after = motion[motion["stamp_ns"] > when_ns]
        assert len(after) > 100 * seconds
        assert np.abs(after["velocity"]).max() < STILL
        assert np.ptp(after["joints"], axis=0).max() < 2e-3
        return motion


@contextmanager
def staged(address, *, keys=None, name="arm", joint=0, seed=3, cameras=None, rendered=False, record=None):
    """A stage whose run asks at ``address``; ``sway.py`` must be on the path, or pictures ``rendered``."""
    world = World("tabletop/touch-red-cube", seed)
    there = {"world": str(world.folder)}
    plan = Plan(
        folder=run_folder(),
        arm=Made("sim", there),
        cameras=cameras
        or (Made("sim.arm:SimCameras", {**there, "image_size": 16}) if rendered else Made("sway:Camera")),
        record=record,
        policy=JOINT_POLICY,
        arm_spec=SPEC,
        address=address,
        keys=keys,
        name=name,
    )
    try:
        with Run(plan) as run:
            yield Stage(world, run, joint)
    finally:
        world.close()


@dataclass
class Lane:
    """A driven arm, the network that its run asks through, the server behind it, and keys."""

    stage: Stage
    network: Proxy | Tunnel
    server: Served
    keyring: Path

    def connection(self, key, **settings):
        """One more robot's, to the server itself."""
        return Connection(self.server.address, keys=robots_keys(self.keyring, key), **settings)

    def dealer(self, key):
        """A socket of somebody who has a key that is known, and no manners."""
        made = socket(zmq.Context.instance(), zmq.DEALER)
        made.sndtimeo = 5000
        lock_client(made, robots_keys(self.keyring, key))
        made.connect(self.server.address)
        return made

    def counted(self, what, before):
        """Whether the server has counted more of ``what`` than it had ``before``; it lives, then."""
        return self.server.counts.get(what, 0) > before.get(what, 0)


PROXIED = pytest.mark.parametrize("lane", ["proxied"], indirect=True)
TUNNELLED = pytest.mark.parametrize("lane", [pytest.param("tunnelled", marks=pytest.mark.needs_root)], indirect=True)
BOTH = pytest.mark.parametrize(
    "lane", ["proxied", pytest.param("tunnelled", marks=pytest.mark.needs_root)], indirect=True
)
