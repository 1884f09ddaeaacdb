"""The process that plays recorded actions again in the place of a server: no model, no network, the same safety."""

import os
from time import monotonic_ns, sleep

import numpy as np
from numpy.typing import NDArray

from robot_bridge.control import State
from robot_bridge.plan import MESSAGE, Plan
from robot_bridge.rings import text
from vla.errors import UnderstudyError

MOVING = (State.ARMED, State.TRACKING, State.EXTRAPOLATE)


def replay(plan: Plan, parent: int) -> None:
    """The process: from each arming on, chunk after chunk of the recording in the file ``plan.actions``.

    Raises `UnderstudyError` for a recording that has nothing to play.
    """
    player = Player(plan)
    while os.getppid() == parent:
        player.turn(monotonic_ns())
        sleep(0.005)


class Player:
    """Plays the recording from its beginning whenever the arm has been armed."""

    def __init__(self, plan: Plan) -> None:
        assert plan.actions is not None
        self._plan, self._rings = plan, plan.rings()
        self._actions = np.load(plan.actions, allow_pickle=False).astype(np.float32)
        if self._actions.ndim != 2 or not len(self._actions) or self._actions.shape[1] != plan.policy.action.dim:
            wanted = f"a recording has rows of {plan.policy.action.dim} entries, at least one of them"
            raise UnderstudyError(f"{wanted}: {plan.actions.name} has the shape {self._actions.shape}")
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
        if control is not None:
            self._state = State(int(control["state"]))
        if self._state not in MOVING:
            self._began_ns = 0
        elif self._state is State.ARMED and before is not State.ARMED and self._episode:
            self._began_ns, self._at = (now_ns // self._plan.step_ns + 1) * self._plan.step_ns, 0


def padded(rows: NDArray[np.float32], horizon: int, plan: Plan) -> NDArray[np.float32]:
    """``rows`` and then rows [horizon, A] that stay there: the last one again, or no displacement."""
    more = np.repeat(rows[-1:], horizon - len(rows), axis=0)
    if plan.policy.action.kind == "ee_delta":
        gripper = plan.policy.action.gripper
        more[:, [index for index in range(rows.shape[1]) if gripper is None or index != gripper.index]] = 0.0
    return np.concatenate([rows, more])
