"""The process that plays recorded actions again in the place of a server: no model, no network, the same safety."""

import os
from time import monotonic_ns, sleep

import numpy as np
from numpy.typing import NDArray

from robot_bridge.plan import MESSAGE, Plan
from robot_bridge.rings import text


def replay(plan: Plan, parent: int) -> None:
    """The process: from each arming on, chunk after chunk of the recording in the file ``plan.actions``."""
    assert plan.actions is not None
    rings, actions = plan.rings(), np.load(plan.actions, allow_pickle=False).astype(np.float32)
    horizon, done = plan.policy.pred_horizon, False
    episode = began_ns = at = 0
    while os.getppid() == parent:
        now_ns = monotonic_ns()
        task, control = rings["task"].newest(), rings["control"].newest()
        if task is not None and int(task["episode"]) != episode:
            episode, began_ns, done = int(task["episode"]), 0, False
        if control is not None and episode and not began_ns and control["state"] == 1:
            began_ns, at = (now_ns // plan.step_ns + 1) * plan.step_ns, 0
        if began_ns and not done and now_ns >= began_ns + at * plan.step_ns:
            rows = actions[at : at + horizon]
            stamp_ns = began_ns + at * plan.step_ns
            done = at + plan.policy.exec_horizon >= len(actions)
            rows = padded(rows, horizon, plan)
            rings["chunks"].write(stamp_ns=stamp_ns, arrived_ns=now_ns, actions=rows)
            at += plan.policy.exec_horizon
        ended = done and now_ns > began_ns + len(actions) * plan.step_ns
        trouble = "the recording has been played" if ended else ""
        link = {"alive": bool(episode) and not ended, "rate": 1.0, "meeting": 1, "episode": episode}
        rings["link"].write(stamp_ns=now_ns, trouble=text(trouble, MESSAGE), **link)
        sleep(0.005)


def padded(rows: NDArray[np.float32], horizon: int, plan: Plan) -> NDArray[np.float32]:
    """``rows`` and then rows [horizon, A] that stay there: the last one again, or no displacement."""
    more = np.repeat(rows[-1:], horizon - len(rows), axis=0)
    if plan.policy.action.kind == "ee_delta":
        gripper = plan.policy.action.gripper
        more[:, [index for index in range(rows.shape[1]) if gripper is None or index != gripper.index]] = 0.0
    return np.concatenate([rows, more])
