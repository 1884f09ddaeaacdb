"""Moves of a hand: out of the rows of a dataset's actions, as numbers for a network, and back into rows.

A move is what some displacements make together: a way [3], and with rotations also a turn, as a rotation vector [3] in
radians, which is also what the rows must hold.
The network sees the way, divided by a unit; with rotations it sees the first three rows of the transform [R | way]
instead, 12 numbers, as in Manipulate by Seeing (Wang, Dasari et al. 2023), which turns a knob so.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import RigidTransform, Rotation

from vla.errors import UnderstudyError
from vla.types import ActionSpec

STILL = ("base", "world")
"""Frames whose axes stand still while a hand moves; those of others (its own, a camera's) turn with it."""


@dataclass(frozen=True)
class Moves:
    """What part of the actions of ``spec`` moves the hand: the first three entries that are not the gripper's, or six.

    Raises `UnderstudyError` for actions of another kind, and where there are not enough of them.
    """

    spec: ActionSpec
    rotations: bool = False

    def __post_init__(self) -> None:
        if self.spec.kind != "ee_delta" or len(self.entries) < self.wanted:
            turned = "ways and turns" if self.rotations else "ways"
            raise UnderstudyError(
                f"displacements of the hand (ee_delta), {self.wanted} entries besides the gripper's, are wanted for "
                f"{turned}; got {self.spec.kind} with {', '.join(self.spec.names)}"
            )

    @property
    def wanted(self) -> int:
        """Entries of a move: 3 or 6."""
        return 6 if self.rotations else 3

    @property
    def entries(self) -> list[int]:
        """Which entries of an action they are."""
        gripper = self.spec.gripper
        return [index for index in range(self.spec.dim) if gripper is None or index != gripper.index][: self.wanted]

    @property
    def numbers(self) -> int:
        """What the network sees of a move: 3 or 12."""
        return 12 if self.rotations else 3

    def made_by(self, actions: np.ndarray) -> np.ndarray:
        """The move [B, 3 or 6] that rows [B, N, A] make one after the other.

        Where a frame is `STILL`, ways add and each turn is about the same axes; elsewhere the axes turn with the hand,
        and the next way is along them.
        """
        rows = actions[..., self.entries]
        if not self.rotations:
            return rows.sum(1)
        way, turned = np.zeros((len(rows), 3)), Rotation.identity(len(rows))
        still = self.spec.frame in STILL
        for row in np.moveaxis(rows, 1, 0):
            turn = Rotation.from_rotvec(row[:, 3:])
            way += row[:, :3] if still else turned.apply(row[:, :3])
            turned = turn * turned if still else turned * turn
        return np.concatenate([way, turned.as_rotvec()], axis=1)

    def split(self, moves: np.ndarray, steps: int) -> np.ndarray:
        """Moves [B, 3 or 6] as so many equal rows, each [B, 3 or 6], that make them one after the other."""
        if not self.rotations or self.spec.frame in STILL:
            return moves / steps
        whole = RigidTransform.from_components(moves[:, :3], Rotation.from_rotvec(moves[:, 3:]))
        way, turn = RigidTransform.from_exp_coords(whole.as_exp_coords() / steps).as_components()
        return np.concatenate([way, turn.as_rotvec()], axis=1)

    def long_enough(self, moves: np.ndarray, least: float, least_turn: float) -> np.ndarray:
        """Which moves [B] go farther than ``least``, or turn more than ``least_turn`` [rad]."""
        return (np.linalg.norm(moves[:, :3], axis=1) > least) | (np.linalg.norm(moves[:, 3:], axis=1) > least_turn)

    def seen(self, moves: np.ndarray, unit: float | np.ndarray) -> np.ndarray:
        """Moves [B, 3 or 6] for the network, [B, 3 or 12] float32; ``unit``: a length, or one for each [B, 1]."""
        ways = moves[:, :3] / unit
        if self.rotations:
            turns = Rotation.from_rotvec(moves[:, 3:]).as_matrix()
            ways = np.concatenate([turns, ways[..., None]], axis=2).reshape(len(moves), 12)
        return ways.astype(np.float32)

    def meant(self, seen: np.ndarray, unit: float) -> np.ndarray:
        """The moves [B, 3 or 6] that numbers of a network mean; what is no rotation becomes the nearest one."""
        if not self.rotations:
            return seen * unit
        parts = seen.reshape(-1, 3, 4).astype(np.float64)
        left, _, right = np.linalg.svd(parts[..., :3])
        left[..., -1] *= np.linalg.det(left @ right)[:, None]
        return np.concatenate([parts[..., 3] * unit, Rotation.from_matrix(left @ right).as_rotvec()], axis=1)
