"""Kinematics of an arm whose joints all turn, from the table that its maker publishes; numpy, nothing on the wire.

    flange = first · turn(q₀) · link₀ · turn(q₁) · link₁ · … · turn(qₙ₋₁) · linkₙ₋₁

``turn`` is about z. Both ways to write Denavit and Hartenberg's table come down to that: in the standard one, what
belongs to a joint besides its angle stands behind the angle; in the modified one (Craig's), before it. Joints beyond
the chain, as a gripper's, are handed through.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robot_bridge.arms.arm import Joints, Pose

ROUNDS = 60
CLOSE = 1e-7
"""An error of position [m] and turn [rad] that needs no further round."""
STEP = 0.3
"""The most that a joint turns in one round [rad]: the solution stays on the side of ``near``."""


@dataclass(frozen=True)
class Link:
    """One row of a maker's table: ``d``, ``a`` [m], ``alpha``, ``offset`` [rad]."""

    d: float = 0.0
    a: float = 0.0
    alpha: float = 0.0
    offset: float = 0.0


class Chain:
    """`Kinematics` of turning joints; ``low``, ``high`` [D] bound what `inverse` answers."""

    def __init__(self, first: Joints, links: Joints, offsets: Joints, low: Sequence[float], high: Sequence[float]):
        """``first`` [4, 4], ``links`` [n, 4, 4], ``offsets`` [n]: see above."""
        self.first, self.links, self.offsets = first, links, offsets
        self.low, self.high = np.array(low[: len(links)]), np.array(high[: len(links)])

    @classmethod
    def standard(cls, table: Sequence[Link], low: Sequence[float], high: Sequence[float]) -> "Chain":
        """Of a table in the standard way."""
        links = np.stack([moved(z=link.d) @ moved(x=link.a) @ tilted(link.alpha) for link in table])
        return cls(np.eye(4), links, np.array([link.offset for link in table]), low, high)

    @classmethod
    def modified(
        cls, table: Sequence[Link], low: Sequence[float], high: Sequence[float], flange: float = 0.0
    ) -> "Chain":
        """Of a table in the modified way; ``flange`` [m]: how far it is beyond the last joint."""
        before = [tilted(link.alpha) @ moved(x=link.a) for link in table]
        behind = [moved(z=link.d) for link in table]
        behind[-1] = behind[-1] @ moved(z=flange)
        links = np.stack([here @ then for here, then in zip(behind, [*before[1:], np.eye(4)], strict=True)])
        return cls(before[0], links, np.array([link.offset for link in table]), low, high)

    def forward(self, joints: Joints) -> Pose:
        """See `Kinematics`; the pose of the flange."""
        frame = self._frames(joints)[-1]
        return Pose(frame[:3, 3].copy(), quaternion(frame[:3, :3]))

    def inverse(self, pose: Pose, near: Joints) -> Joints:
        """See `Kinematics`: damped least squares from ``near`` on; what is out of reach is reached for."""
        count = len(self.links)
        turned = np.clip(np.asarray(near[:count], np.float64), self.low, self.high)
        best, least = turned, np.inf
        for _ in range(ROUNDS):
            frames = self._frames(turned)
            error = np.concatenate([pose.position - frames[-1][:3, 3], apart(frames[-1], pose.quaternion)])
            size = float(np.linalg.norm(error))
            if size < least:
                best, least = turned, size
            if size < CLOSE:
                break
            jacobian = self._jacobian(frames)
            # The damping goes as the error does: it keeps from wild turns far away, and does not slow down near.
            damped = jacobian @ jacobian.T + (1e-9 + 1e-2 * min(size, 1.0) ** 2) * np.eye(6)
            step = jacobian.T @ np.linalg.solve(damped, error)
            step *= min(1.0, STEP / max(float(np.abs(step).max()), 1e-12))
            turned = np.clip(turned + step, self.low, self.high)
        return np.concatenate([best, np.asarray(near[count:], np.float64)])

    def _frames(self, joints: Joints) -> list[Joints]:
        """The frame [4, 4] that each joint turns about, in the base's, and the flange's behind them."""
        frames = [self.first]
        for angle, link in zip(joints[: len(self.links)] + self.offsets, self.links, strict=True):
            cosine, sine = np.cos(angle), np.sin(angle)
            turn = np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
            frames.append(frames[-1] @ turn @ link)
        return frames

    @staticmethod
    def _jacobian(frames: list[Joints]) -> Joints:
        """How the flange moves and turns [6, n] with each joint."""
        stacked = np.stack(frames)
        axes, places = stacked[:-1, :3, 2], stacked[:-1, :3, 3]
        return np.concatenate([np.cross(axes, stacked[-1, :3, 3] - places), axes], axis=1).T


def moved(x: float = 0.0, z: float = 0.0) -> Joints:
    """A shift [4, 4]."""
    frame = np.eye(4)
    frame[0, 3], frame[2, 3] = x, z
    return frame


def tilted(angle: float) -> Joints:
    """A turn about x [4, 4]."""
    frame = np.eye(4)
    frame[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return frame


def quaternion(turn: Joints) -> Joints:
    """(w, x, y, z) of a rotation [3, 3], w ≥ 0.

    Four times its outer product with itself is linear in the matrix; the column with the largest entry on the diagonal
    is the one that is never near 0.
    """
    ((a, b, c), (d, e, f), (g, h, i)) = turn.tolist()
    outer = np.array(
        [
            [1 + a + e + i, h - f, c - g, d - b],
            [h - f, 1 + a - e - i, b + d, c + g],
            [c - g, b + d, 1 - a + e - i, f + h],
            [d - b, c + g, f + h, 1 - a - e + i],
        ]
    )
    column = outer[:, int(np.argmax(np.diag(outer)))]
    return column / np.linalg.norm(column) * (1.0 if column[0] >= 0 else -1.0)


def apart(frame: Joints, wanted: Joints) -> Joints:
    """The turn [3] (axis times angle, base's frame) from ``frame`` [4, 4] to the quaternion ``wanted`` [4]."""
    w, x, y, z = quaternion(frame[:3, :3])
    W, X, Y, Z = wanted / np.linalg.norm(wanted)
    real = W * w + X * x + Y * y + Z * z
    vector = np.array(
        [
            -W * x + X * w - Y * z + Z * y,
            -W * y + Y * w - Z * x + X * z,
            -W * z + Z * w - X * y + Y * x,
        ]
    )
    if real < 0:  # the short way round
        real, vector = -real, -vector
    length = float(np.linalg.norm(vector))
    if length < 1e-12:
        return np.zeros(3)
    return vector / length * 2 * np.arctan2(length, real)
