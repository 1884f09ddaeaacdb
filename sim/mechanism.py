"""Which parts of an MJCF are an arm's: its joints, the motors that follow setpoints, the gripper's fingers, the tool.

A `Wiring` names them, once for each file; a `Mechanism` reads and drives them, whatever else stands in the scene. The
gripper is one joint of ours, a fraction of its opening, however many fingers and motors it has:

    setpoint   [ joint 1 … joint N,      opening      ]
                    │                       │  closed … open → what its motors are told
    ctrl       [ position servos [rad], fingers' motors ]
"""

from dataclasses import dataclass

import mujoco
import numpy as np

from vla.errors import UnderstudyError

ROUNDS = 6
"""More would wander off where a pose cannot be reached."""
NEAR_M = 1e-4
DAMPING = 1e-4


@dataclass(frozen=True)
class Wiring:
    """Names in an MJCF. ``joints``: of the arm, each with one motor that takes its position [rad].

    ``tool``: a site, or a body, whose frame is the tool's, ``offset`` [m] further on and ``turn`` (w, x, y, z)
    from a body's frame; ``fingers``: joints of the gripper, ``travel``: where they are when it is closed and open;
    ``grips``: its motors, ``told``: what they are told for closed and open.
    """

    joints: tuple[str, ...]
    tool: str
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    fingers: tuple[str, ...] = ()
    travel: tuple[float, float] = (0.0, 1.0)
    grips: tuple[str, ...] = ()
    told: tuple[float, float] = (0.0, 1.0)


class Mechanism:
    """An arm in a MuJoCo model; D joints, the gripper last if it has one."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, wiring: Wiring, *, site: str) -> None:
        """``site``: of the tool, which is there by now."""
        self.model, self.data, self.wiring = model, data, wiring
        self.site = model.site(site).id
        joints, fingers = ([_joint(model, name) for name in names] for names in (wiring.joints, wiring.fingers))
        self.angles, self._openings = model.jnt_qposadr[joints], model.jnt_qposadr[fingers]
        self.dofs, self._finger_dofs = model.jnt_dofadr[joints], model.jnt_dofadr[fingers]
        self._motors = np.array([_motor(model, joint) for joint in joints], int)
        self._grips = np.array([model.actuator(name).id for name in wiring.grips], int)
        self.low, self.high = model.jnt_range[joints].T
        damping = model.dof_damping[self.dofs] - model.actuator_biasprm[self._motors, 2]
        lag = damping / model.actuator_gainprm[self._motors, 0]
        self.lag_s = np.append(lag, 0.0) if fingers else lag
        """how far each motor with its damping lags behind a moving setpoint [s]; [D]"""

    @property
    def joints(self) -> np.ndarray:
        """Where the joints really are [D]."""
        angles = self.data.qpos[self.angles]
        if not len(self._openings):
            return angles
        closed, opened = self.wiring.travel
        return np.append(angles, (self.data.qpos[self._openings].mean() - closed) / (opened - closed))

    @property
    def velocity(self) -> np.ndarray:
        """How fast they really move [D]."""
        speeds = self.data.qvel[self.dofs]
        if not len(self._openings):
            return speeds
        closed, opened = self.wiring.travel
        return np.append(speeds, self.data.qvel[self._finger_dofs].mean() / (opened - closed))

    @property
    def tool(self) -> np.ndarray:
        """Where the tool is [3]: metres in the frame of the scene, in whose origin the arm stands."""
        return self.data.site_xpos[self.site].copy()

    def place(self, joints: np.ndarray) -> None:
        """Be at ``joints`` [D], at rest, with the motors told to stay."""
        count = len(self.angles)
        self.data.qpos[self.angles] = joints[:count]
        if len(self._openings):
            closed, opened = self.wiring.travel
            self.data.qpos[self._openings] = closed + joints[count] * (opened - closed)
        self.drive(joints)

    def drive(self, target: np.ndarray) -> None:
        """Tell the motors to be at ``target`` [D]."""
        count = len(self.angles)
        self.data.ctrl[self._motors] = target[:count]
        if len(self._grips):
            closed, opened = self.wiring.told
            self.data.ctrl[self._grips] = closed + target[count] * (opened - closed)

    def step(self, times: int, *, stuck: int = -1) -> None:
        """Let physics pass; the joint ``stuck`` does not move, -1: all do."""
        places, dofs = self._parts(stuck)
        held = self.data.qpos[places].copy()
        for _ in range(times):
            mujoco.mj_step(self.model, self.data)
            if len(places):
                self.data.qpos[places], self.data.qvel[dofs] = held, 0.0

    def _parts(self, joint: int) -> tuple[np.ndarray, np.ndarray]:
        """Addresses of one joint of ours in positions and velocities."""
        if joint < 0:
            return self.angles[:0], self.dofs[:0]
        if joint < len(self.angles):
            return self.angles[joint : joint + 1], self.dofs[joint : joint + 1]
        return self._openings, self._finger_dofs


def _joint(model: mujoco.MjModel, name: str) -> int:
    try:
        return model.joint(name).id
    except KeyError as error:
        raise UnderstudyError(f"the model has no joint {name}: is it another version of it?") from error


def _motor(model: mujoco.MjModel, joint: int) -> int:
    kinds, targets = model.actuator_trntype, model.actuator_trnid[:, 0]
    found = np.flatnonzero((kinds == mujoco.mjtTrn.mjTRN_JOINT) & (targets == joint))
    if len(found) != 1:
        raise UnderstudyError(f"the model's joint {model.joint(joint).name} has {len(found)} motors, not one")
    return int(found[0])
