"""What the simulator knows about a film that ``vla human`` made: for evaluation only.

    for about in read_labels(root):             # one for each clip: task, tier, seed, success, pair, …
        labels = labels_of(root, about["name"])  # arrays by frame: keypoints_3d, phase, progress, …

By frame (T frames, world frame, metres): ``keypoints_3d`` [T, 21, 3] and ``keypoints_2d`` [T, 21, 2] px (NaN for what
has no fingers, and behind the camera), ``hand_pose`` [T, 7] (xyz, wxyz), ``pinch_point`` [T, 3], ``opening`` [T],
``object_positions`` [T, n, 3], ``camera_pose`` [T, 4, 4] (x right, y down, z forward), ``phase`` [T], ``progress`` [T],
``contact`` [T], and ``exogenous_position`` [T, 3] where something moves by itself. For all of it: ``object_names`` [n],
``phase_names``, ``camera_matrix`` [3, 3], ``success``.

No loader of videos may import this module: a learner from video has the pictures and the words, nothing else. The one
exception is `vla.representation.pretrain`, for PAAT, which learns from keypoints and says so.
"""

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from vla.errors import UnderstudyError

TABLE = "privileged/clips.jsonl"
LABELS = "privileged/{name}.npz"


def read_labels(root: Path) -> list[dict[str, Any]]:
    """What each clip is, in the order of the clips."""
    path = Path(root) / TABLE
    if not path.exists():
        raise UnderstudyError(f"there is no {path}: only folders that `vla human` has written have labels")
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise UnderstudyError(f"{path} is damaged ({error}); run the same `vla human` command again") from error


def labels_of(root: Path, name: str) -> dict[str, np.ndarray]:
    """What happens in the clip ``name``: arrays whose first axis is the frame, and some that hold for all of it."""
    path = Path(root) / LABELS.format(name=name)
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError as error:
        raise UnderstudyError(f"there is no {path}") from error
    except (BadZipFile, ValueError, OSError, EOFError) as error:
        raise UnderstudyError(f"{path} is damaged ({error}); run the same `vla human` command again") from error
