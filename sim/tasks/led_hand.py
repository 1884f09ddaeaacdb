"""A hand that is led along straight lines by inverse kinematics, for scripts that say where it should be.

    hand = LedHand(world, site="end_effector", joints=slice(0, 7), stride=0.02, turn=0.1)
    yield from until_there([hand], lambda: hand.toward((position, rotation)))

A pose is a position [3] in metres and a rotation [3, 3], both of the site in the world frame. Joints that lag behind,
by friction or by their weight, are asked for a little further.
"""

from collections.abc import Callable, Iterator, Sequence

import mujoco
import numpy as np

from sim.tasks.mujoco_suite import World

Pose = tuple[np.ndarray, np.ndarray]

WINDUP, MOST = 0.15, 0.12  # share of the lag added to what is asked for at each step, and its bound [rad]
DAMPING = 1e-4
ITERATIONS = 4
REST = 0.1
NEAR = 0.01  # [m]


class LedHand:
    """A site at the end of an arm of which the first ``joints`` have one position and one velocity each.

    ``stride`` [m] and ``turn`` [rad]: how far it is led in a step; ``attitude``: how many metres a radian is worth, for
    an arm that cannot have both.
    """

    def __init__(
        self, world: World, *, site: str, joints: slice, stride: float, turn: float, attitude: float = 1.0
    ) -> None:
        self._world, self._model = world, world.model
        self._scratch = mujoco.MjData(world.model)
        self._site = world.model.site(site).id
        self._joints, self._stride, self._turn = joints, stride, turn
        self._weights = np.repeat([1.0, attitude], 3)
        self._range = world.model.jnt_range[joints].T
        self._angles = self._rest = world.data.qpos[joints].copy()
        self._pose = self._goal = self.pose
        self._further = np.zeros_like(self._angles)

    @property
    def pose(self) -> Pose:
        """Where the hand is."""
        return self._read(self._world.data)

    def is_there(self) -> bool:
        """Whether it has come to where it was last led, to a centimetre."""
        return bool(np.linalg.norm(self.pose[0] - self._goal[0]) < NEAR)

    def toward(self, pose: Pose) -> np.ndarray:
        """The positions [rad] to ask springy joints for: one stride further towards ``pose``."""
        angles = self.angles_toward(pose)
        lag = angles - self._world.data.qpos[self._joints]
        self._further = np.clip(self._further + WINDUP * lag, -MOST, MOST)
        return np.clip(angles + self._further, *self._range)

    def angles_toward(self, pose: Pose) -> np.ndarray:
        """Where the joints should be [rad]: one stride further towards ``pose``."""
        self._goal = pose
        way, turn = pose[0] - self._pose[0], turn_between(self._pose[1], pose[1])
        share = min(1.0, self._stride / max(1e-9, float(np.linalg.norm(way))))
        turn *= min(1.0, self._turn / max(1e-9, float(np.linalg.norm(turn))))
        self._pose = self._pose[0] + share * way, turned(self._pose[1], turn)
        self._solve()
        return self._angles

    def _read(self, data: mujoco.MjData) -> Pose:
        return data.site_xpos[self._site].copy(), data.site_xmat[self._site].reshape(3, 3).copy()

    def _solve(self) -> None:
        """Damped least squares, from where the last solution was."""
        data, jacobian = self._scratch, np.empty((6, self._model.nv))
        for _ in range(ITERATIONS):
            data.qpos[self._joints] = self._angles
            mujoco.mj_kinematics(self._model, data)
            mujoco.mj_comPos(self._model, data)
            position, rotation = self._read(data)
            error = np.concatenate([self._pose[0] - position, turn_between(rotation, self._pose[1])])
            mujoco.mj_jacSite(self._model, data, jacobian[:3], jacobian[3:], self._site)
            arm = self._weights[:, None] * jacobian[:, self._joints]
            self._angles = np.clip(self._angles + self._change(arm, self._weights * error), *self._range)

    def _change(self, arm: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Changes [N] of the angles for an error [6] of the hand; what a joint at its limit cannot do, others do."""
        home = REST * (self._rest - self._angles)  # what a seventh joint is free to do, to stay as it began
        free = np.ones(len(home), bool)
        while True:
            part = arm * free
            inverse = part.T @ np.linalg.inv(part @ part.T + DAMPING * np.eye(6))
            change = free * (inverse @ error + home - inverse @ (part @ home))
            beyond = free & (np.clip(self._angles + change, *self._range) != self._angles + change)
            if not beyond.any():
                return change
            free &= ~beyond


def until_there(hands: Sequence[LedHand], ask: Callable[[], np.ndarray], *, patience: int = 60) -> Iterator[np.ndarray]:
    """Ask for the same until all hands are there, or patience is at its end: what is in the way stays in the way."""
    for _ in range(patience):
        yield ask()
        if all(hand.is_there() for hand in hands):
            return


def turn_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The rotation vector [3], world frame [rad], that turns ``one`` into ``other``."""
    quaternion, turn = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, (other @ one.T).reshape(-1))
    mujoco.mju_quat2Vel(turn, quaternion, 1.0)
    return turn


def turned(rotation: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """``rotation`` [3, 3] turned by a rotation vector [3], world frame [rad]."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-9:
        return rotation
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, turn / angle, angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3) @ rotation
