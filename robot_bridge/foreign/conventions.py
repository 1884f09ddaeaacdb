"""What the same robot's numbers are called elsewhere, and the one place where they are converted.

A *layout* says what the entries of a vector mean, part by part: ``"xyz quat_xyzw gripper:0.04:0 skip:1"``.

    3                     three numbers that are copied
    xyz                   a position [m], or its change
    axis_angle …          a rotation, in one of `ROTATIONS`
    gripper:OPEN:CLOSED   a gripper, and its values; with a third number T, it is only ever open (above T) or closed
    skip:2                two entries that this side does not read

Two layouts of the same things make a `Conversion`. Rotations go through `scipy`'s; a quaternion comes out with w ≥ 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla.errors import UnderstudyError, unknown
from vla.types import ActionKind, ActionSpec, Gripper

Rows = NDArray[np.float32]


class Form(NamedTuple):
    """A way to write a rotation as ``size`` numbers, and to read it; rows [N, size]."""

    size: int
    read: Callable[[NDArray[Any]], Any]
    write: Callable[[Any], NDArray[Any]]


def _read_columns(first: NDArray[Any], second: NDArray[Any]) -> Any:
    """Rotations of their first two columns [N, 3], straightened by Gram and Schmidt (Zhou et al. 2019, §4.1)."""
    x = first / np.linalg.norm(first, axis=1, keepdims=True)
    y = second - (x * second).sum(1, keepdims=True) * x
    y = y / np.linalg.norm(y, axis=1, keepdims=True)
    return Rotation.from_matrix(np.stack([x, y, np.cross(x, y)], axis=-1))


ROTATIONS = {
    "axis_angle": Form(3, Rotation.from_rotvec, Rotation.as_rotvec),
    "euler_xyz": Form(3, lambda rows: Rotation.from_euler("xyz", rows), lambda found: found.as_euler("xyz")),
    "quat_xyzw": Form(4, Rotation.from_quat, lambda found: found.as_quat(canonical=True)),
    "quat_wxyz": Form(
        4,
        lambda rows: Rotation.from_quat(np.roll(rows, -1, axis=1)),
        lambda found: np.roll(found.as_quat(canonical=True), 1, axis=1),
    ),
    "rot6d_interleaved": Form(
        6,
        lambda rows: _read_columns(rows[:, 0::2], rows[:, 1::2]),
        lambda found: found.as_matrix()[:, :, :2].reshape(-1, 6),
    ),
    "rot6d_contiguous": Form(
        6,
        lambda rows: _read_columns(rows[:, :3], rows[:, 3:]),
        lambda found: found.as_matrix()[:, :, :2].swapaxes(1, 2).reshape(-1, 6),
    ),
}
"""``euler_xyz`` turns about the fixed axes x, y, z [rad]; ``rot6d``: two columns of the matrix, row by row or whole."""


@dataclass(frozen=True)
class Part:
    """Entries of a layout that belong together; ``at``: the first of them."""

    kind: str
    at: int
    size: int
    gripper: Gripper | None = None
    threshold: float | None = None

    @property
    def entries(self) -> slice:
        """Where it stands in a vector."""
        return slice(self.at, self.at + self.size)


@dataclass(frozen=True)
class Layout:
    """What the entries of a vector mean."""

    text: str
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, text: str, *, gripper: Gripper | None = None) -> "Layout":
        """Read a layout; a bare ``gripper`` has the values of ``gripper``. Raises `UnderstudyError`."""
        parts: list[Part] = []
        at = 0
        for word in text.split():
            part = _part(word, at, gripper)
            parts.append(part)
            at += part.size
        return cls(" ".join(text.split()), tuple(parts))

    @classmethod
    def of_action(cls, spec: ActionSpec) -> "Layout":
        """The plainest layout of a policy's actions: its gripper, and numbers that are copied."""
        if spec.gripper is None:
            return cls.of(str(spec.dim))
        before, behind = spec.gripper.index, spec.dim - spec.gripper.index - 1
        words = [str(before)] * (before > 0) + ["gripper"] + [str(behind)] * (behind > 0)
        return cls.of(" ".join(words), gripper=spec.gripper)

    @property
    def size(self) -> int:
        """Entries of a vector."""
        return sum(part.size for part in self.parts)

    def find(self, *kinds: str) -> Part | None:
        """The first part of one of these kinds."""
        return next((part for part in self.parts if part.kind in kinds), None)


def _part(word: str, at: int, gripper: Gripper | None) -> Part:
    kind, *values = word.split(":")
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        raise UnderstudyError(f"{word!r} in a layout: what follows the colons are numbers") from None
    if kind.isdecimal() and int(kind) and not numbers:
        return Part("plain", at, int(kind))
    if kind == "skip" and len(numbers) == 1 and numbers[0] >= 1 and numbers[0].is_integer():
        return Part(kind, at, int(numbers[0]))
    if kind == "gripper" and (len(numbers) in (2, 3) or (gripper and not numbers)):
        own = Gripper(at, numbers[0], numbers[1]) if numbers else gripper
        return Part(kind, at, 1, own, *numbers[2:])
    if not numbers and (kind == "xyz" or kind in ROTATIONS):
        return Part(kind, at, 3 if kind == "xyz" else ROTATIONS[kind].size)
    raise unknown("part of a layout", word, ["3", "xyz", *ROTATIONS, "gripper:OPEN:CLOSED", "skip:N"])


class Conversion:
    """Rows [N, source.size] of one layout → rows [N, target.size] of another; made once, so it is refused early."""

    def __init__(self, source: Layout, target: Layout, *, what: str) -> None:
        """``what`` the vectors are, for the error when the layouts do not hold the same things in the same order."""
        self.source, self.target, self.what = source, target, what
        read = [part for part in source.parts if part.kind != "skip"]
        self._pairs = list(zip(read, target.parts, strict=False))
        fit = len(read) == len(target.parts) and all(_fit(one, other) for one, other in self._pairs)
        if not fit:
            raise UnderstudyError(
                f"{what}: {source.text!r} ({source.size} entries) cannot become {target.text!r} ({target.size}): both "
                "must name the same things in the same order"
            )

    def __call__(self, rows: NDArray[Any]) -> Rows:
        """Raises `UnderstudyError` when the rows have another length, or hold a rotation that is none."""
        if rows.ndim != 2 or rows.shape[1] != self.source.size:
            raise UnderstudyError(
                f"{self.what} has {rows.shape[-1] if rows.ndim else 1} entries, {self.source.size} are expected "
                f"({self.source.text})"
            )
        made = np.empty((len(rows), self.target.size), np.float32)
        for one, other in self._pairs:
            made[:, other.entries] = _converted(rows[:, one.entries], one, other, self.what)
        return made


def _fit(one: Part, other: Part) -> bool:
    if one.kind in ROTATIONS:
        return other.kind in ROTATIONS
    if "gripper" in (one.kind, other.kind):
        return one.kind == other.kind
    return one.size == other.size and other.kind in ("plain", "xyz")


def _converted(rows: NDArray[Any], one: Part, other: Part, what: str) -> NDArray[Any]:
    if one.kind in ROTATIONS and (one.kind != other.kind or one.size == 4):
        return ROTATIONS[other.kind].write(read_rotation(rows, one.kind, what))
    if one.gripper is not None and other.gripper is not None:
        return _gripped(rows, one.gripper, other.gripper, other.threshold)
    return rows


def _gripped(rows: NDArray[Any], one: Gripper, other: Gripper, threshold: float | None) -> NDArray[Any]:
    if threshold is None and (one.open, one.closed) == (other.open, other.closed):
        return rows
    opening = (rows.astype(np.float64) - one.closed) / (one.open - one.closed)
    if threshold is not None:
        opening = (opening > threshold).astype(np.float64)
    return other.closed + opening * (other.open - other.closed)


def read_rotation(rows: NDArray[Any], kind: str, what: str) -> Any:
    """`scipy` rotations of rows [N, size]; raises `UnderstudyError` for what is none, such as a quaternion of zeros."""
    try:
        with np.errstate(invalid="raise", divide="raise"):
            return ROTATIONS[kind].read(rows.astype(np.float64))
    except (ValueError, FloatingPointError) as error:
        raise UnderstudyError(f"{what} holds a rotation ({kind}) that is none: {rows.tolist()}") from error


@dataclass(frozen=True)
class Pose:
    """Where an end effector is: ``position`` [3] in metres, and how it is turned, if anybody says."""

    position: NDArray[Any]
    rotation: Any = None

    @classmethod
    def of(cls, vector: NDArray[Any], layout: Layout) -> "Pose":
        """The first position and the first rotation of a vector [P]."""
        position, turned = layout.find("xyz"), layout.find(*ROTATIONS)
        assert position is not None
        rotation = None
        if turned is not None:
            rotation = read_rotation(vector[None, turned.entries], turned.kind, "the state")[0]
        return cls(vector[position.entries].astype(np.float64), rotation)


def check_rebase(kinds: Sequence[ActionKind], action: Layout, state: Layout) -> None:
    """Refuse actions of two ``kinds`` between which nobody can convert with what these layouts say."""
    if kinds[0] == kinds[1]:
        return
    if "joint_position" in kinds:
        raise UnderstudyError(
            f"the actions of one side are {kinds[0]}, of the other {kinds[1]}: nobody knows the arm's kinematics here"
        )
    lacks = action.find("xyz") is None or state.find("xyz") is None
    if lacks or (action.find(*ROTATIONS) is not None and state.find(*ROTATIONS) is None):
        raise UnderstudyError(
            f"the actions of one side are {kinds[0]}, of the other {kinds[1]}: say where position and rotation stand, "
            f"as in action.ours='xyz axis_angle gripper' and state.ours='xyz quat_wxyz'; got {action.text!r} and "
            f"{state.text!r}"
        )


def rebased(rows: Rows, layout: Layout, pose: Pose, *, to: ActionKind) -> Rows:
    """Rows [N, A] of displacements as poses (``to="ee_pose"``), or the other way round, from ``pose`` on.

    Displacements add up over the rows; rotations are about the axes of the base, as the arm's positions are.
    """
    made = rows.copy()
    position, turned = layout.find("xyz"), layout.find(*ROTATIONS)
    assert position is not None
    where = rows[:, position.entries].astype(np.float64)
    if to == "ee_pose":
        made[:, position.entries] = pose.position + np.cumsum(where, axis=0)
    else:
        made[:, position.entries] = np.diff(where, axis=0, prepend=pose.position[None])
    if turned is not None:
        told, last, found = read_rotation(rows[:, turned.entries], turned.kind, "an action"), pose.rotation, []
        for one in told:
            found.append(one * last if to == "ee_pose" else one * last.inv())
            last = found[-1] if to == "ee_pose" else one
        made[:, turned.entries] = ROTATIONS[turned.kind].write(Rotation.concatenate(found))
    return made


def centre(image: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """The middle of a picture [H, W, 3] that has this ``share`` of its area."""
    height, width = (round(side * sqrt(share)) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
