"""How far to trust a retargeted video: figures for each segment of it, and a verdict before anything moves.

A clip falls into segments at the hand's own events: reach, hold, let go, … Each is to be *executed*, *checked* by a
person first, or *rejected*; one that is rejected keeps the arm from being armed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np

from robot_bridge.arms.arm import Limits
from robot_bridge.retarget.grasps import events
from robot_bridge.retarget.hands import Floats
from robot_bridge.retarget.inverse import Solved
from robot_bridge.retarget.pacing import JointPath
from robot_bridge.retarget.tool_path import ToolPath

Verdict = Literal["execute", "check", "reject"]
VERDICTS: tuple[Verdict, ...] = ("execute", "check", "reject")


@dataclass(frozen=True)
class Bar:
    """A figure beyond ``check`` is to be looked at by a person, beyond ``reject`` it is not to be executed."""

    check: float
    reject: float
    unit: str = ""
    says: str = ""


BARS = {
    "unseen": Bar(0.1, 0.5, "share", "frames in which the hand was not seen and its place was filled in"),
    "gap_s": Bar(0.2, 0.5, "s", "longest time without the hand"),
    "reprojection_px": Bar(8.0, 20.0, "px", "how far the cameras disagree, median"),
    "inverse_mm": Bar(2.0, 15.0, "mm", "how far the tool stays off its path, worst"),
    "turning_deg": Bar(5.0, 25.0, "°", "how far the tool stays off its turning, worst"),
    "slowed": Bar(2.0, 6.0, "×", "the arm's time beside the hand's"),
    "touching_mm": Bar(-5.0, 0.0, "mm", "how deep links come into what they must not touch, 0 and more is a touch"),
}
"""Figure → its bar; all are the worse, the larger they are."""


@dataclass(frozen=True)
class Segment:
    """From ``start_s`` to ``end_s`` of the video; ``figures``: by the names of `BARS`."""

    name: str
    start_s: float
    end_s: float
    figures: Mapping[str, float]
    reasons: tuple[str, ...] = ()
    verdict: Verdict = "execute"


@dataclass(frozen=True)
class Quality:
    """Of a whole clip; ``figures``: those of the clip as one, without bars."""

    segments: tuple[Segment, ...]
    figures: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of the segments; rejected where the clip as a whole has a reason to be."""
        if self.reasons:
            return "reject"
        return max((one.verdict for one in self.segments), key=VERDICTS.index, default="reject")

    def to_dict(self) -> dict[str, object]:
        """For a JSON file."""
        return {**asdict(self), "verdict": self.verdict}


def judged(path: ToolPath, solved: Solved, paced: JointPath | None, *, raw: Floats, limits: Limits) -> Quality:
    """The quality of a path, of its joints and of their pace, ``None`` where the arm finds none.

    ``raw`` [T, 3] m: the tool's place before it was smoothed; ``limits``: of the arm without its gripper.
    """
    segments = tuple(
        _judged(name, first, after, path=path, solved=solved, paced=paced) for name, first, after in split(path)
    )
    reasons = []
    if path.method == "mono":
        reasons.append("one camera alone does not know how far the hand is: for looking only, not for an arm")
    if paced is None:
        reasons.append("the arm cannot follow the path at any pace, or the hand is lost on the way")
    known = path.known
    figures = {
        "seconds": float(np.ptp(path.stamps[known])) if known.any() else 0.0,
        "detection_rate": float(path.measured.mean()),
        "gaps": float(len(_gaps(path))),
        "grasps": float(len(events(path.closed))),
        "jerk_raw": jerk(raw, path.stamps),
        "jerk": jerk(path.position, path.stamps),
        "reprojection_px": _median(path.error_px),
        "inverse_mm_median": 1e3 * _median(solved.position_m),
        "at_joint_end": float(solved.at_end[known].sum()),
        "reachable": float((solved.position_m[known] < 1e-3 * BARS["inverse_mm"].reject).mean())
        if known.any()
        else 0.0,
        **(_violations(paced, limits) if paced is not None else {}),
    }
    return Quality(segments, figures, tuple(reasons))


def split(path: ToolPath) -> list[tuple[str, int, int]]:
    """Name, first frame and the one after the last of each segment."""
    found = np.flatnonzero(path.known)
    if not len(found):
        return []
    begin, end = int(found[0]), int(found[-1]) + 1
    cuts, names = [begin], []
    for number, (first, after) in enumerate(events(path.closed)):
        for name, cut in (("reach" if number == 0 else "go on", first), (f"hold {number + 1}", after)):
            if cuts[-1] < min(cut, end):
                names.append(name)
                cuts.append(min(cut, end))
    if cuts[-1] < end:
        names.append("leave" if names else "move")
        cuts.append(end)
    return list(zip(names, cuts[:-1], cuts[1:], strict=True))


def jerk(place: Floats, stamps: Floats) -> float:
    """Rms of the third derivative [m/s³] where the place [T, 3] is known; 0 for fewer than four frames."""
    step = float(np.median(np.diff(stamps)))
    third = np.diff(place, 3, axis=0) / step**3
    third = third[np.isfinite(third).all(1)]
    return float(np.sqrt((third**2).sum(1).mean())) if len(third) else 0.0


def _judged(name: str, first: int, after: int, *, path: ToolPath, solved: Solved, paced: JointPath | None) -> Segment:
    part = slice(first, after)
    start, end = float(path.stamps[first]), float(path.stamps[after - 1])
    gaps = [b - a for a, b in _gaps(path) if a <= end and b >= start]
    figures = {
        "unseen": float(1 - path.measured[part].mean()),
        "gap_s": max(gaps, default=0.0),
        "reprojection_px": _median(path.error_px[part]),
        "inverse_mm": 1e3 * _worst(solved.position_m[part]),
        "turning_deg": float(np.degrees(_worst(solved.turning_rad[part]))),
        "slowed": _slowed(paced, start, end),
        "touching_mm": -1e3 * float(np.nanmin(solved.clearance_m[part], initial=0.1)),
    }
    verdict: Verdict = "execute"
    reasons = []
    for figure, bar in BARS.items():
        if figures[figure] <= bar.check:
            continue
        worse: Verdict = "reject" if figures[figure] > bar.reject else "check"
        verdict = max(verdict, worse, key=VERDICTS.index)
        reasons.append(f"{bar.says}: {figures[figure]:.3g} {bar.unit}, {worse} above {_bound(bar, worse):g}")
    return Segment(name, start, end, figures, tuple(reasons), verdict)


def _bound(bar: Bar, verdict: Verdict) -> float:
    return bar.reject if verdict == "reject" else bar.check


def _gaps(path: ToolPath) -> Sequence[tuple[float, float]]:
    """Last time that the hand was seen before each gap, and the first one after."""
    seen = path.stamps[path.measured]
    usual = 1.5 * float(np.median(np.diff(path.stamps)))
    return [(float(a), float(b)) for a, b in pairwise(seen) if b - a > usual]


def _slowed(paced: JointPath | None, start: float, end: float) -> float:
    """The arm's time beside the hand's between two of the video's times, waits for the gripper left out."""
    if paced is None or end <= start:
        return 1.0
    inside = (paced.source_s >= start) & (paced.source_s <= end)
    moves = inside[1:] & (np.diff(paced.source_s) > 1e-9)
    return float(np.diff(paced.stamps)[moves].sum() / (end - start))


def _violations(paced: JointPath, limits: Limits) -> dict[str, float]:
    """How many setpoints are beyond each limit of the arm's joints, and the largest share of it that is used."""
    step = float(np.median(np.diff(paced.stamps)))
    joints = paced.joints[:, : len(limits.low)]
    speed = np.diff(joints, axis=0) / step
    used = {
        "velocity": np.abs(speed) / np.array(limits.velocity),
        "acceleration": np.abs(np.diff(speed, axis=0)) / step / np.array(limits.acceleration),
    }
    beyond = ((joints < np.array(limits.low) - 1e-9) | (joints > np.array(limits.high) + 1e-9)).any(1)
    figures = {"position_violations": float(beyond.sum())}
    for name, share in used.items():
        figures[f"{name}_violations"] = float((share > 1 + 1e-6).any(1).sum())
        figures[f"{name}_used"] = float(share.max(initial=0.0))
    return figures


def _median(values: Floats) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else 0.0


def _worst(values: Floats) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
