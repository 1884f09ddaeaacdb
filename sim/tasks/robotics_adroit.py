"""The four Adroit tasks of gymnasium-robotics (Rajeswaran et al. 2018; package 1.4): a Shadow hand on a moving forearm.

Actions are thirty numbers at 100 Hz, the positions to hold: the forearm's three slides [m] and three turns [rad], the
wrist's two and the fingers' twenty-two joints [rad]. The package's tasks each drive another part of the forearm (door:
4 of its joints, hammer: 2, relocate: all 6, pen: none); here there is one spec for all, and what a task's forearm does
not have is not heeded and felt as 0. The package takes -1…1 of a range of forces; here a number is the position at
which that force and the joint's own spring are in balance without a load. The forearm's springs are so soft that this
lies up to 2.5 times beyond its joints' ends: nothing of the package's range of actions is lost. Proprio is where the
thirty are. Where the door, the hammer, the pen, the ball and their goals are must be seen.

A task is achieved when the package says so after any step.
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from sim.disturbance import Place
from sim.tasks.mujoco_suite import AroundEnvironment, Expert, Mount, MujocoSuite, Robot, compiled
from vla.types import ActionSpec

if TYPE_CHECKING:
    import mujoco

MOUNTS = (
    Mount("front", position=(0.75, -0.85, 0.75), looks_at=(0.0, -0.05, 0.2), fovy=45.0),
    Mount("wrist", (0.0, 0.12, -0.05), (0.0, 0.0, 0.1), fovy=75.0, body="palm"),
)
UNDERHAND = Mount("wrist", (0.0, -0.15, -0.05), (0.0, 0.0, 0.1), fovy=75.0, body="palm")  # the pen lies in the palm
FOREARM = {
    "ARTx": (-0.625, 0.625),
    "ARTy": (0.0, 0.5),
    "ARTz": (-0.75, 1.25),
    "ARRx": (-1.875, 1.875),
    "ARRy": (-1.875, 1.875),
    "ARRz": (-2.5, 5.0),
}
WRIST = {"WRJ1": (-0.524, 0.175), "WRJ0": (-0.79, 0.61)}
_KNUCKLE, _BEND = (-0.44, 0.44), (0.0, 1.6)
_FINGER = {3: _KNUCKLE, 2: _BEND, 1: _BEND, 0: _BEND}
_THUMB = {4: (-1.0, 1.0), 3: (0.0, 1.3), 2: (-0.26, 0.26), 1: (-0.52, 0.52), 0: (-1.571, 0.0)}
_HAND = {"FF": _FINGER, "MF": _FINGER, "RF": _FINGER, "LF": {4: (0.0, 0.7), **_FINGER}, "TH": _THUMB}
FINGERS = {f"{finger}J{number}": bounds for finger, joints in _HAND.items() for number, bounds in joints.items()}
JOINTS = {**FOREARM, **WRIST, **FINGERS}
"""Joint → the positions [m], [rad] that may be asked of it: of all tasks the widest."""

_NAMES = tuple(JOINTS)


@cache
def _environment_class(task: str) -> type:
    """The package's environment, but for the model, which gets cameras of ours."""
    from importlib import import_module

    base = getattr(import_module(f"gymnasium_robotics.envs.adroit_hand.adroit_{task}"), f"AdroitHand{task.title()}Env")

    class Seen(base):
        def _initialize_simulation(self) -> "tuple[mujoco.MjModel, mujoco.MjData]":
            import mujoco

            model = compiled(self.fullpath, (MOUNTS[0], UNDERHAND) if task == "pen" else MOUNTS)
            return model, mujoco.MjData(model)

    return Seen


class AdroitWorld(AroundEnvironment):
    """One of the four environments."""

    def __init__(self, task: str) -> None:
        super().__init__(_environment_class(task)(reward_type="dense"))
        self.task, self.seed = task, 0
        joints = [self.model.joint(joint).name for joint in self.model.actuator_trnid[:, 0]]
        self._asked = [_NAMES.index(joint) for joint in joints]
        self._felt = self.model.jnt_qposadr[self.model.actuator_trnid[:, 0]]
        self._per_unit = -self.model.actuator_biasprm[:, 1] / self.model.actuator_gainprm[:, 0]

    def reset(self, task: str, seed: int) -> None:
        """Draw the scene."""
        self.env.reset(seed=seed)
        self.seed = seed

    def step(self, action: np.ndarray) -> bool:
        """Five steps of physics of 2 ms."""
        controls = action[self._asked] * self._per_unit
        *_, self.reward, _, _, info = self.env.step((controls - self.env.act_mean) / self.env.act_rng)
        return bool(info["success"])

    def proprio(self) -> np.ndarray:
        """Where the joints are [30]; 0 for one that this task's forearm does not have."""
        felt = np.zeros(len(_NAMES))
        felt[self._asked] = self.data.qpos[self._felt]
        return felt

    def has(self, joint: str) -> bool:
        """Whether this task's hand has a joint."""
        return _NAMES.index(joint) in self._asked

    def expert(self) -> Expert:
        """Recorded or scripted (`sim.tasks.robotics_adroit_experts`)."""
        from sim.tasks.robotics_adroit_experts import adroit_expert

        return adroit_expert(self)


class AdroitSuite(MujocoSuite):
    """`sim.suite.Suite` over ``adroit/door``, ``adroit/hammer``, ``adroit/pen`` and ``adroit/relocate``.

    Options as `MujocoSuite`'s. ``front`` stands at the side of the table, ``wrist`` looks along the hand; the others
    are the package's.
    """

    robot = Robot(
        suite="adroit",
        embodiment="adroit",
        package="gymnasium_robotics",
        extra="robotics",
        action=ActionSpec(
            kind="joint_position",
            names=_NAMES,
            low=tuple(low for low, _ in JOINTS.values()),
            high=tuple(high for _, high in JOINTS.values()),
        ),
        proprio_names=_NAMES,
        control_hz=100.0,
        max_steps=200,
        tasks={
            "door": "turn the latch and open the door",
            "hammer": "pick up the hammer and drive in the nail",
            "pen": "turn the pen until it points like the green one",
            "relocate": "pick up the ball and bring it to the green sphere",
        },
        cameras=("front", "wrist", "fixed", "vil_camera"),
        surface=Place((-0.3, -0.3), (0.3, 0.2), height=0.0),
    )

    def make_world(self, task: str) -> AdroitWorld:
        """The package's environment."""
        return AdroitWorld(task)
