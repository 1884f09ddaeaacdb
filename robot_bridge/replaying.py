"""The process that plays recorded actions again in the place of a server: no model, no network, the same safety."""

import os
from time import monotonic_ns, sleep

import numpy as np
from numpy.typing import NDArray

from robot_bridge.arms.arm import ArmSpec, Joints
from robot_bridge.control import State
from robot_bridge.plan import MESSAGE, Plan
from robot_bridge.rings import text
from vla.errors import UnderstudyError

SHARE = 0.5
"""Of the arm's speed and acceleration, on the way to where a path begins."""
LEAST_S = 0.2
MOVING = (State.ARMED, State.TRACKING, State.EXTRAPOLATE)


def replay(plan: Plan, parent: int) -> None:
    """The process: from each arming on, chunk after chunk of the recording in the file ``plan.actions``.

    Raises `UnderstudyError` for a recording that has nothing to play.
    """
    player = Player(plan)
    while os.getppid() == parent:
        player.turn(monotonic_ns())
        sleep(0.005)


class Again:
    """A recording, from its beginning whenever the arm is armed."""

    def __init__(self, actions: NDArray[np.float32]) -> None:
        self._actions = actions

    def begin(self) -> None:
        """A new episode."""

    def rows(self, measured: Joints) -> NDArray[np.float32]:
        """What is played now [T, A]; ``measured`` [D]: where the arm is."""
        return self._actions

    def played(self, count: int) -> None:
        """So many rows of the last `rows` have been played."""


class Onward:
    """Setpoints of the joints, from where the arm is: it is led to them, and after a stop to those that are left."""

    def __init__(self, actions: NDArray[np.float32], spec: ArmSpec, hz: float) -> None:
        self._actions, self._spec, self._hz = actions, spec, hz
        self._at = self._from = self._leading = 0
        """rows that are done with, those that were when it was armed, and the length of the way to them"""

    def begin(self) -> None:
        """See `Again`."""
        self._at = 0

    def rows(self, measured: Joints) -> NDArray[np.float32]:
        """See `Again`; when all has been played, it is played again."""
        self._from = self._at if self._at < len(self._actions) - 1 else 0
        leading = lead_in(measured, self._actions[self._from].astype(np.float64), self._spec, self._hz)
        self._leading = len(leading)
        return np.concatenate([leading, self._actions[self._from :]]).astype(np.float32)

    def played(self, count: int) -> None:
        """See `Again`."""
        self._at = min(self._from + max(0, count - self._leading), len(self._actions) - 1)


def lead_in(start: Joints, end: Joints, spec: ArmSpec, hz: float) -> Joints:
    """Setpoints [T, D] from rest at ``start`` [D] to rest at ``end`` [D], ``hz`` a second: a line of minimum jerk.

    Its speed is 1.875 times that of an even one, its acceleration 5.77 times the way by the square of the time (Flash
    and Hogan 1985); both keep to `SHARE` of the arm's limits. The gripper is opened or closed at once.
    """
    way, grip = np.abs(end - start), spec.gripper
    arm = [index for index in range(len(way)) if grip is None or index != grip.index]
    speed, acceleration = (SHARE * np.array(limit)[arm] for limit in (spec.limits.velocity, spec.limits.acceleration))
    lasting = max((1.875 * way[arm] / speed).max(), np.sqrt(5.7735 * way[arm] / acceleration).max(), LEAST_S)
    share = np.linspace(0.0, 1.0, int(np.ceil(lasting * hz)) + 1)[:, None]
    rows = start + (end - start) * share**3 * (10 - 15 * share + 6 * share**2)
    if grip is not None:
        rows[:, grip.index] = end[grip.index]
    return rows


class Player:
    """Plays the recording in ``plan.actions`` when the arm has been armed."""

    def __init__(self, plan: Plan) -> None:
        assert plan.actions is not None
        self._plan, self._rings = plan, plan.rings()
        actions = np.load(plan.actions, allow_pickle=False).astype(np.float32)
        if actions.ndim != 2 or not len(actions) or actions.shape[1] != plan.policy.action.dim:
            wanted = f"a recording has rows of {plan.policy.action.dim} entries, at least one of them"
            raise UnderstudyError(f"{wanted}: {plan.actions.name} has the shape {actions.shape}")
        self._actions = actions
        hz = plan.policy.control_hz
        self._source: Again | Onward = Onward(actions, plan.arm_spec, hz) if plan.goes_on else Again(actions)
        self._state, self._episode = State.IDLE, 0
        self._began_ns = self._at = 0
        """when the recording began, 0 while it is not played, and the next row"""

    def turn(self, now_ns: int) -> None:
        """Look what the arm does, and pass the next chunk on when its time has come."""
        plan, length = self._plan, len(self._actions)
        self._look(now_ns)
        stamp_ns = self._began_ns + self._at * plan.step_ns
        if self._began_ns and self._at < length and now_ns >= stamp_ns:
            rows = padded(self._actions[self._at : self._at + plan.policy.pred_horizon], plan.policy.pred_horizon, plan)
            self._rings["chunks"].write(stamp_ns=stamp_ns, arrived_ns=now_ns, actions=rows)
            self._source.played(self._at)
            self._at += plan.policy.exec_horizon
        ended = bool(self._began_ns) and now_ns > self._began_ns + length * plan.step_ns
        trouble = "the recording has been played" if ended else ""
        link = {"alive": bool(self._episode) and not ended, "rate": 1.0, "meeting": 1, "episode": self._episode}
        self._rings["link"].write(stamp_ns=now_ns, trouble=text(trouble, MESSAGE), **link)

    def _look(self, now_ns: int) -> None:
        task, control = self._rings["task"].newest(), self._rings["control"].newest()
        before = self._state
        if task is not None and int(task["episode"]) != self._episode:
            self._episode, self._began_ns, before = int(task["episode"]), 0, State.IDLE
            self._source.begin()
        if control is not None:
            self._state = State(int(control["state"]))
        if self._state not in MOVING:
            self._began_ns = 0
        elif self._state is State.ARMED and before is not State.ARMED and self._episode:
            state = self._rings["state"].newest()
            measured = self._actions[0] if state is None else np.asarray(state["joints"], np.float64)
            self._actions = self._source.rows(measured)
            self._began_ns, self._at = (now_ns // self._plan.step_ns + 1) * self._plan.step_ns, 0


def padded(rows: NDArray[np.float32], horizon: int, plan: Plan) -> NDArray[np.float32]:
    """``rows`` and then rows [horizon, A] that stay there: the last one again, or no displacement."""
    more = np.repeat(rows[-1:], horizon - len(rows), axis=0)
    if plan.policy.action.kind == "ee_delta":
        gripper = plan.policy.action.gripper
        more[:, [index for index in range(rows.shape[1]) if gripper is None or index != gripper.index]] = 0.0
    return np.concatenate([rows, more])
