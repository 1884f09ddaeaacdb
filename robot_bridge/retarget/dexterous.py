"""From a hand to a hand with fingers: joints of a dexterous hand, by dex-retargeting (Qin et al. 2023, "AnyTeleop").

    points [T, 21, 3] ─► in the hand's own frame ─► vectors between keypoints ─► dex-retargeting ─► joints [T, N]

The package is an option (``pip install 'understudy[dexterous]'``), and so are the models of hands: its settings name
a URDF that is looked for in a folder of yours. Its low pass is left out: the keypoints are smooth before.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from robot_bridge.retarget.hands import INDEX_ROOT, MIDDLE_ROOT, WRIST, Floats, Side
from robot_bridge.retarget.lifting import HandPath
from robot_bridge.retarget.tool_path import ToolPathConfig, smoothed
from vla.errors import UnderstudyError

OPERATOR_TO_MANO = {
    "right": np.array([[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]]),
    "left": np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]),
}
"""From the frame of `hand_frames` to the one in which dex-retargeting's settings name directions."""


@dataclass(frozen=True)
class Fingers:
    """``joints`` [T, N] rad (or m) of a dexterous hand by ``names`` [N], at ``stamps`` [T] s; NaN in gaps."""

    stamps: Floats
    names: tuple[str, ...]
    joints: Floats

    def save(self, file: Path) -> None:
        """As arrays, without pickles."""
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, stamps=self.stamps, names=np.array(self.names), joints=self.joints)


def fingers(hand: HandPath, settings: Path, urdfs: Path, config: ToolPathConfig | None = None) -> Fingers:
    """The joints of the hand that ``settings`` (dex-retargeting's YAML) describe, its URDF being in ``urdfs``.

    Raises `UnderstudyError` where the package is missing, for settings that it does not understand, and for a hand
    that is known in fewer than five frames.
    """
    known = hand.known
    if known.sum() < 5:
        raise UnderstudyError(f"the {hand.side} hand is known in {known.sum()} frames of {len(known)}: not enough")
    solver = _solver(settings, urdfs)
    count = len(hand.stamps)
    points = smoothed(hand.points.reshape(count, -1), hand.stamps, known, config or ToolPathConfig())
    own = in_hand(points.reshape(hand.points.shape), hand.side)
    joints = np.full((count, len(solver.joint_names)), np.nan)
    for frame in np.flatnonzero(np.isfinite(own).all((1, 2))):
        joints[frame] = solver.retarget(_asked(solver.optimizer, own[frame]))
    return Fingers(hand.stamps, tuple(solver.joint_names), joints)


def in_hand(points: Floats, side: Side) -> Floats:
    """Keypoints [T, 21, 3] from the wrist, in the frame of MANO's hand of that side."""
    turned = np.einsum("tki,tij->tkj", points - points[:, [WRIST]], hand_frames(points))
    return np.asarray(turned @ OPERATOR_TO_MANO[side])


def hand_frames(points: Floats) -> Floats:
    """Axes of the palm as columns [T, 3, 3]: x from the middle finger's root to the wrist, y normal to the palm."""
    wrist, index, middle = (points[:, one] for one in (WRIST, INDEX_ROOT, MIDDLE_ROOT))
    x = wrist - middle
    normal = np.cross(index - middle, x)
    x, normal = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (x, normal))
    return np.stack([x, normal, np.cross(x, normal)], axis=2)


def _asked(optimizer: Any, points: Floats) -> Floats:
    """What the optimizer is to reach: places of keypoints, or vectors between two of them."""
    indices = optimizer.target_link_human_indices
    if optimizer.retargeting_type == "POSITION":
        return np.asarray(points[indices])
    origin, task = indices
    return np.asarray(points[task] - points[origin])


def _solver(settings: Path, urdfs: Path) -> Any:
    try:
        from dex_retargeting.retargeting_config import RetargetingConfig
    except ImportError as error:
        raise UnderstudyError(
            f"dexterous hands need dex-retargeting ({error}): pip install 'understudy[dexterous]'"
        ) from error
    if not settings.is_file() or not urdfs.is_dir():
        raise UnderstudyError(f"there is no file {settings}, or no folder {urdfs} with its URDF")
    try:
        told = yaml.safe_load(settings.read_text())["retargeting"]
        told["urdf_path"] = str((urdfs / told["urdf_path"]).resolve())
        return RetargetingConfig.from_dict(told, override={"low_pass_alpha": 1.0}).build()
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UnderstudyError(f"{settings} are no settings of dex-retargeting: {error}") from error
