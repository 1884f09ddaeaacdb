"""Whether a policy, a dataset, an arm and a server mean the same by what they say to each other. Numpy and specs only.

    found = misfits(policy_spec, arm.spec, [CameraSpec("front", 64, 64)], kinematics=arm.kinematics is not None)
    if any(one.status == "fail" for one in found): ...

          ┌──────── `alike` ────────┐
    checkpoint ── dataset ── server        three that say what an action is
          └────────┬───────────┘
                   │ `drives`
                  arm, cameras             who carries it out

Most robots that "do not work" have one of these wrong: joints in another order, degrees for radians, a gripper that
opens where it should close, another rate, a camera of another name. A ``fail`` would move the arm otherwise than the
policy means, or not at all; a ``warn`` may be meant so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from robot_bridge.arms.arm import ArmSpec
from robot_bridge.targets import LEAD_M
from vla.types import ActionSpec, CameraSpec, PolicySpec

Status = Literal["ok", "warn", "fail"]
UNKNOWN = 1e5
"""Bounds beyond this are of a dataset that does not know them."""
OTHER_UNIT = 10.0
"""Times the arm's own range from which bounds are of another unit: degrees are 57 times radians."""
SAME_RATE = 0.01
"""Share by which two rates may differ and be the same."""
SLACK = 1e-3
"""What bounds may stand over limits [rad or m], and openings over their ends."""
SEEN = 0.2
"""Share of a gripper's way that recordings use at least, and how far they may go beyond it."""


@dataclass(frozen=True)
class Fit:
    """One thing compared: what was ``given``, what is ``wanted``, and what to do ("" when nothing)."""

    about: str
    status: Status
    given: str
    wanted: str
    advice: str = ""

    def __str__(self) -> str:
        """One line for whoever stands at the robot."""
        return f"{self.about}: {self.given}, wanted: {self.wanted}{f'; {self.advice}' if self.advice else ''}"


@dataclass(frozen=True)
class Side:
    """Whoever says what an action is, under the name that the rows give it; see `of_policy`."""

    name: str
    action: ActionSpec
    cameras: tuple[CameraSpec, ...]
    proprio_names: tuple[str, ...]
    rate_hz: float


def of_policy(spec: PolicySpec, name: str = "checkpoint") -> Side:
    """The side of a policy."""
    return Side(name, spec.action, spec.cameras, spec.proprio_names, spec.control_hz)


def misfits(policy: PolicySpec, arm: ArmSpec, cameras: Sequence[CameraSpec] | None, kinematics: bool) -> list[Fit]:
    """What keeps ``policy`` from driving ``arm`` (``fail``), or may (``warn``); empty when all fits.

    ``cameras``: what sees the arm, height and width 0 where they are not known, ``None`` when nothing is known of them;
    ``kinematics``: whether the arm knows where its tool is.
    """
    rows = drives(of_policy(policy, "the policy"), arm, kinematics=kinematics)
    rows += looks(of_policy(policy, "the policy"), cameras)
    return [row for row in rows if row.status != "ok"]


def alike(one: Side, other: Side) -> list[Fit]:
    """Whether two sides mean the same by an action and an observation: a row for each thing."""
    mine, theirs, pair = one.action, other.action, f"{one.name} ↔ {other.name}"
    return [
        _same_names(f"{pair}: actions", theirs.names, mine.names),
        _said(f"{pair}: kind of action", theirs.kind, mine.kind, f"{other.name} is of another robot or another task"),
        _said(f"{pair}: frame", theirs.frame, mine.frame, "convert the actions", matters=mine.kind != "joint_position"),
        _same_gripper(f"{pair}: gripper", theirs, mine),
        _same_bounds(f"{pair}: bounds", theirs, mine),
        _same_rate(f"{pair}: rate", other.rate_hz, one.rate_hz),
        *_same_cameras(pair, other.cameras, one.cameras, grave="warn"),
        _same_names(f"{pair}: proprio", other.proprio_names, one.proprio_names),
    ]


def in_step(one: PolicySpec, other: PolicySpec, names: tuple[str, str] = ("checkpoint", "server")) -> Fit:
    """Whether two policies see and answer in the same steps, and are told what to do in the same way."""
    given, wanted = (
        f"{spec.obs_horizon} seen, {spec.pred_horizon} answered, {spec.exec_horizon} carried out, by "
        f"{_listed(spec.accepts)}"
        for spec in (other, one)
    )
    return _said(f"{names[0]} ↔ {names[1]}: horizons", given, wanted, "another checkpoint is served: restart it")


def drives(side: Side, arm: ArmSpec, *, kinematics: bool) -> list[Fit]:
    """Whether ``arm`` can carry out the actions of ``side``, and measures what it wants to know."""
    pair, action = f"{side.name} ↔ arm", side.action
    rows = [_drivable(f"{pair}: kind of action", action, kinematics=kinematics)]
    if action.kind == "joint_position":
        rows += [_same_names(f"{pair}: joints", arm.joints, action.names), *_joint_bounds(pair, action, arm)]
    else:
        base = _said(f"{pair}: frame", "base", action.frame, "the bridge moves the tool in the base's frame: convert")
        rows += [base, _tool_bounds(f"{pair}: bounds", action, arm)]
    return [
        *rows,
        _arms_gripper(f"{pair}: gripper", action, arm),
        _multiple(f"{pair}: rate", arm.rate_hz, side.rate_hz),
        _same_names(f"{pair}: proprio", arm.proprio_names, side.proprio_names),
    ]


def looks(side: Side, cameras: Sequence[CameraSpec] | None) -> list[Fit]:
    """Whether the robot's cameras show what ``side`` wants to see."""
    pair = f"{side.name} ↔ cameras"
    if cameras is None:
        names = _listed(camera.name for camera in side.cameras)
        return [Fit(pair, "warn", "not known", names, "compare them yourself")] if names else []
    return _same_cameras(pair, cameras, side.cameras, grave="fail")


def normalised(side: Side, numbers: Mapping[str, Any] | None, *, where: str) -> list[Fit]:
    """Whether the statistics that actions and proprio are scaled by are there, and numbers.

    ``numbers``: key (``action``, ``proprio``) → ``center`` and ``scale``; ``where``: the file that they are read from.
    """
    wanted = {"action": side.action.names, "proprio": side.proprio_names}
    return [
        _normaliser(f"{side.name}: statistics of {key}", (numbers or {}).get(key), names, where)
        for key, names in wanted.items()
        if names
    ]


def gripper_seen(
    side: Side, low: float, high: float, begins: Sequence[float] = (), *, where: str = "the dataset"
) -> list[Fit]:
    """Whether the values ``low``…``high`` that were recorded are what the gripper is said to be told.

    ``begins``: the first value of some episodes: hands begin open more often than not.
    """
    gripper, about = side.action.gripper, f"{side.name}: gripper's values"
    if gripper is None:
        return []
    ends = sorted((gripper.open, gripper.closed))
    way, given = ends[1] - ends[0], f"{low:g}…{high:g} in {where}"
    wanted = f"{gripper.open:g} (open), {gripper.closed:g} (closed)"
    if not way:
        return [Fit(about, "fail", given, "two values", f"open and closed are both {gripper.open:g}")]
    if not np.isfinite((low, high)).all() or low < ends[0] - SEEN * way or high > ends[1] + SEEN * way:
        return [Fit(about, "fail", given, wanted, "another unit, or open and closed are wrong: correct the spec")]
    if high - low < SEEN * way:
        return [Fit(about, "warn", given, wanted, "it hardly moves: is this the gripper, and in this unit?")]
    shares = (np.asarray(begins, np.float64) - gripper.closed) / (gripper.open - gripper.closed)
    if len(shares) and (shares < 0.5).mean() > 0.5:
        begun = f"{int((shares < 0.5).sum())} of {len(shares)} episodes begin closed"
        return [Fit(about, "warn", begun, wanted, "are open and closed exchanged? look at a film")]
    return [Fit(about, "ok", given, wanted)]


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"


def _said(about: str, given: str, wanted: str, advice: str, *, matters: bool = True) -> Fit:
    if given == wanted or not matters:
        return Fit(about, "ok", given, wanted)
    return Fit(about, "fail", given, wanted, advice)


def _same_names(about: str, given: Sequence[str], wanted: Sequence[str]) -> Fit:
    """The same names in the same order."""
    if tuple(given) == tuple(wanted):
        return Fit(about, "ok", _listed(given), _listed(wanted))
    if sorted(given) == sorted(wanted):
        return Fit(about, "fail", _listed(given), _listed(wanted), "the same in another order: bring them into one")
    lacking = [name for name in wanted if name not in given]
    more = [name for name in given if name not in wanted]
    told = [f"{word} {', '.join(names)}" for word, names in (("lacks", lacking), ("has besides", more)) if names]
    return Fit(about, "fail", _listed(given), _listed(wanted), "; ".join(told))


def _same_gripper(about: str, theirs: ActionSpec, mine: ActionSpec) -> Fit:
    given, wanted = _gripper_words(theirs), _gripper_words(mine)
    if theirs.gripper == mine.gripper:
        return Fit(about, "ok", given, wanted)
    if theirs.gripper is None or mine.gripper is None:
        return Fit(about, "warn", given, wanted, "one side does not say which entry the gripper is, and which way")
    if (theirs.gripper.open, theirs.gripper.closed) == (mine.gripper.closed, mine.gripper.open):
        return Fit(about, "fail", given, wanted, "open and closed are exchanged")
    return Fit(about, "fail", given, wanted, "convert the one into the other's values")


def _gripper_words(action: ActionSpec) -> str:
    gripper = action.gripper
    if gripper is None:
        return "none"
    return f"{action.names[gripper.index]}: {gripper.open:g} open, {gripper.closed:g} closed"


def _same_bounds(about: str, theirs: ActionSpec, mine: ActionSpec) -> Fit:
    given, wanted = _range_words(theirs), _range_words(mine)
    if theirs.dim != mine.dim:
        return Fit(about, "fail", given, wanted, "another number of entries")
    if _unknown(theirs) or _unknown(mine):
        return Fit(about, "warn", given, wanted, "not known on one side")
    ratio = _spans(theirs) / _spans(mine)
    if np.median(ratio) > OTHER_UNIT or np.median(ratio) < 1 / OTHER_UNIT:
        return Fit(about, "fail", given, wanted, f"{np.median(ratio):.3g} times as wide: another unit?")
    if np.allclose((theirs.low, theirs.high), (mine.low, mine.high), atol=SLACK):
        return Fit(about, "ok", given, wanted)
    return Fit(about, "warn", given, wanted, "not the same: was the policy trained on this?")


def _same_rate(about: str, given: float, wanted: float) -> Fit:
    same = abs(given - wanted) <= SAME_RATE * wanted
    advice = "" if same else f"everything would go {given / wanted:.2g} times as fast"
    return Fit(about, "ok" if same else "fail", f"{given:g} Hz", f"{wanted:g} Hz", advice)


def _same_cameras(pair: str, given: Sequence[CameraSpec], wanted: Sequence[CameraSpec], *, grave: Status) -> list[Fit]:
    """A row for each camera that is wanted; ``grave``: how it is when its pictures are of another size."""
    known, rows = {camera.name: camera for camera in given}, []
    for camera in wanted:
        about, size = f"{pair}: camera {camera.name}", f"{camera.height} x {camera.width}"
        found = known.get(camera.name)
        if found is None:
            rows.append(
                Fit(about, "fail", f"there are {_listed(known)}", camera.name, "name that camera so, or add it")
            )
        elif not found.height or not found.width:
            rows.append(Fit(about, "warn", "size not known", size, "compare them yourself"))
        elif (found.height, found.width) != (camera.height, camera.width):
            rows.append(Fit(about, grave, f"{found.height} x {found.width}", size, f"give pictures of {size}"))
        else:
            rows.append(Fit(about, "ok", size, size))
    return rows


def _drivable(about: str, action: ActionSpec, *, kinematics: bool) -> Fit:
    if action.kind == "joint_position":
        return Fit(about, "ok", "joints", action.kind)
    moving = action.dim - (action.gripper is not None)
    if not kinematics:
        return Fit(about, "fail", "joints alone", action.kind, "this arm does not know where its tool is: use joints")
    if moving not in (3, 6):
        wanted = "x, y, z, and perhaps a rotation vector, beside the gripper"
        return Fit(about, "fail", _listed(action.names), wanted, "say which entry the gripper is, or convert")
    return Fit(about, "ok", "joints, and the tool by kinematics", action.kind)


def _joint_bounds(pair: str, action: ActionSpec, arm: ArmSpec) -> Iterator[Fit]:
    """Unit, and whether the actions' ends are within the arm's; the gripper has a row of its own."""
    if action.dim != len(arm.joints):
        return
    free = [index for index in range(action.dim) if arm.gripper is None or index != arm.gripper.index]
    low, high = _of(action.low, free), _of(action.high, free)
    least, most = _of(arm.limits.low, free), _of(arm.limits.high, free)
    given, wanted = _range_words(action), f"{least.min():.3g}…{most.max():.3g} rad"
    if _unknown(action):
        yield Fit(f"{pair}: unit", "warn", "bounds not known", wanted, "make sure that they are radians")
        return
    ratio = float(np.median((high - low) / (most - least)))
    if ratio > OTHER_UNIT:
        advice = f"{ratio:.0f} times the arm's range: degrees, or per cent? convert to radians"
        yield Fit(f"{pair}: unit", "fail", given, wanted, advice)
        return
    yield Fit(f"{pair}: unit", "ok", given, wanted)
    yield _within(f"{pair}: bounds", [action.names[index] for index in free], (low, high), (least, most))


def _within(about: str, names: Sequence[str], asked: tuple[Any, Any], may: tuple[Any, Any]) -> Fit:
    """Whether ``asked`` (low, high) [N] is within what it ``may`` be: apart fails, beyond warns."""
    (low, high), (least, most) = asked, may
    apart = [name for name, far in zip(names, (low > most) | (high < least), strict=True) if far]
    beyond = [name for name, far in zip(names, (low < least - SLACK) | (high > most + SLACK), strict=True) if far]
    wanted = "within the arm's limits"
    if apart:
        return Fit(about, "fail", f"{', '.join(apart)} never within", wanted, "is the zero of the joints another one?")
    if beyond:
        return Fit(about, "warn", f"{', '.join(beyond)} beyond", wanted, "what is beyond will be held back")
    return Fit(about, "ok", "all within", wanted)


def _tool_bounds(about: str, action: ActionSpec, arm: ArmSpec) -> Fit:
    """Metres, and for a pose within the workspace."""
    gripper = -1 if action.gripper is None else action.gripper.index
    moving = [index for index in range(action.dim) if index != gripper][:3]
    low, high, names = _of(action.low, moving), _of(action.high, moving), [action.names[index] for index in moving]
    if _unknown(action):
        return Fit(about, "warn", "not known", "metres", "make sure that they are metres")
    if action.kind == "ee_pose":
        box = arm.workspace or ((-OTHER_UNIT,) * 3, (OTHER_UNIT,) * 3)
        return _within(about, names, (low, high), (_of(box[0], range(len(names))), _of(box[1], range(len(names)))))
    most = float(np.abs((low, high)).max(initial=0.0))
    given, wanted = f"up to {most:g} a step", f"up to {LEAD_M:g} m a step"
    if most > OTHER_UNIT * LEAD_M:
        return Fit(about, "fail", given, wanted, "not metres: un-normalise, or convert")
    if most > LEAD_M + SLACK:
        return Fit(about, "warn", given, wanted, "what is beyond will be held back")
    return Fit(about, "ok", given, wanted)


def _arms_gripper(about: str, action: ActionSpec, arm: ArmSpec) -> Fit:
    """Open becomes open whatever the values are; but both must have one, and mean the same joint."""
    wanted, own = _gripper_words(action), arm.gripper
    given = "none" if own is None else f"{arm.joints[own.index]}: {own.open:g} open, {own.closed:g} closed"
    if action.gripper is None:
        if own is None:
            return Fit(about, "ok", given, wanted)
        return Fit(about, "warn", given, wanted, "values go to it as they are, or none do: say which entry drives it")
    if own is None:
        return Fit(about, "fail", given, wanted, "the arm has nothing to grip with")
    index, ends = action.gripper.index, (action.gripper.open, action.gripper.closed)
    if ends[0] == ends[1]:
        return Fit(about, "fail", given, wanted, "open and closed are the same value")
    if action.kind == "joint_position" and index != own.index:
        return Fit(about, "fail", given, wanted, "another joint: is the gripper's index right?")
    if min(ends) < action.low[index] - SLACK or max(ends) > action.high[index] + SLACK:
        reach = f"{action.low[index]:g}…{action.high[index]:g}"
        return Fit(about, "fail", f"{given}; bounds {reach}", wanted, "the bounds do not let it open and close")
    return Fit(about, "ok", given, wanted)


def _multiple(about: str, given: float, wanted: float) -> Fit:
    times = given / wanted
    words = (f"{given:g} Hz", f"a multiple of {wanted:g} Hz")
    if times < 1 - SAME_RATE:
        return Fit(about, "fail", *words, "the arm is slower than the policy: train at a lower rate")
    if abs(times - round(times)) > SAME_RATE * times:
        return Fit(about, "warn", *words, "steps will begin up to a tick late")
    return Fit(about, "ok", *words)


def _normaliser(about: str, given: Mapping[str, Any] | None, names: Sequence[str], where: str) -> Fit:
    wanted, advice = f"{len(names)} finite numbers in {where}", "copy the checkpoint whole, or train again"
    if given is None or "center" not in given or "scale" not in given:
        return Fit(about, "fail", "missing", wanted, advice)
    center, scale = (np.asarray(given[key], np.float64).reshape(-1) for key in ("center", "scale"))
    if not len(center) == len(scale) == len(names):
        return Fit(about, "fail", f"{len(center)} and {len(scale)} numbers", wanted, advice)
    bad = [name for name, *pair in zip(names, center, scale, strict=True) if not np.isfinite(pair).all() or pair[1] < 0]
    if bad:
        return Fit(about, "fail", f"no numbers for {', '.join(bad)}", wanted, "the data held NaN: repair, train again")
    scaled = given.get("mask") or [True] * len(names)
    still = [name for name, size, used in zip(names, scale, scaled, strict=True) if used and size <= 1e-8]
    if still:
        return Fit(about, "warn", f"{', '.join(still)} never moved", wanted, "what never moved will not be moved")
    return Fit(about, "ok", f"{len(names)} numbers", wanted)


def _of(values: ArrayLike, chosen: Sequence[int]) -> Any:
    return np.asarray(values, np.float64)[list(chosen)]


def _spans(action: ActionSpec) -> Any:
    return np.subtract(action.high, action.low)


def _unknown(action: ActionSpec) -> bool:
    return bool(np.abs((action.low, action.high)).max() >= UNKNOWN)


def _range_words(action: ActionSpec) -> str:
    return f"{min(action.low):.3g}…{max(action.high):.3g}"
