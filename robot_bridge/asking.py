"""The process that asks: takes what was seen to the server, and brings chunks back, as often as the policy is made for.

A new chunk is asked for every ``exec_horizon`` steps, and at once when one has not come in time. While one is made, the
arm goes on with the chunk before it.
"""

import os
from collections import deque
from dataclasses import replace
from time import monotonic_ns
from typing import Any

import numpy as np

from policies.policy import Underway
from robot_bridge.client import Answer, BridgeError, Connection
from robot_bridge.plan import MESSAGE, Plan, task_of
from robot_bridge.rings import text
from vla.types import Observation, Task

POLL_S = 0.002
STRANGER = "the server serves another policy than this run was begun for: start it anew"
AGAIN_NS = 500_000_000
"""Between two attempts to shake hands."""
COUNTED = 100
"""Requests whose share of timely answers is watched."""
TELL_NS = 20_000_000


class Asker:
    """What the process knows; `turn` is one round of its loop."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.rings = plan, plan.rings()
        self.connection = Connection(plan.address, arm=plan.name, robot=plan.name, keys=plan.keys, codecs=plan.codecs)
        chosen = plan.config.execution.exec_horizon
        self._every_ns = plan.step_ns * (chosen or plan.policy.exec_horizon)
        self._budget_s = 1e-9 * plan.step_ns * (plan.policy.pred_horizon - 1)
        self._timely: deque[bool] = deque([True] * COUNTED, maxlen=COUNTED)
        self._delays_ns: deque[int] = deque([0], maxlen=20)
        self._asked: tuple[int, int] | None = None
        """the request that is not answered, and when it ceases to be of use [ns]"""
        self._seen_ns = self._encoded_us = self._tried_ns = self._told_ns = 0
        self._last: Answer | None = None
        self._shown = plan.shows.of(Task(""))
        self.meeting = self.begun = self.asked = self.answered = self.dropped = 0
        self.trouble = "not connected yet"

    def turn(self) -> None:
        """Shake hands if need be, begin the episode that is wanted, ask, bring what has come."""
        if self._met():
            self._begin_what_is_wanted()
            self._ask()
            self._bring()
        if monotonic_ns() - self._told_ns > TELL_NS:
            self._tell()

    def _met(self) -> bool:
        lost = self.connection.trouble.partition(":")[0] in ("epoch", "spec", "lease")
        lost = lost or bool(self.begun and not self.connection.ready)
        if self.meeting and not lost:
            return True
        if monotonic_ns() - self._tried_ns < AGAIN_NS:
            self.connection.poll(POLL_S)
            return False
        self._tried_ns = monotonic_ns()
        try:
            spec = self.connection.open(0.4)
        except BridgeError as error:
            self.trouble = str(error)
            return False
        if spec.to_dict() | {"checkpoint": ""} != self.plan.policy.to_dict() | {"checkpoint": ""}:
            self.trouble = STRANGER
            self.connection.trouble = f"spec: {self.trouble}"
            return False
        self.meeting += 1
        self.begun, self._asked, self.trouble = 0, None, "no episode has begun"
        return True

    def _begin_what_is_wanted(self) -> None:
        record = self.rings["task"].newest()
        if record is None or int(record["episode"]) == self.begun:
            return
        episode, task, seed = task_of(record)
        task = replace(self._shown, instruction=task.instruction)
        try:
            self.connection.begin(task, seed=seed, timeout_s=2.0)
        except BridgeError as error:
            self.trouble = str(error)
            return
        self.begun, self._asked, self._seen_ns, self._last = episode, None, 0, None
        self._timely.extend([True] * COUNTED)

    def _ask(self) -> None:
        now_ns = monotonic_ns()
        if self._asked is not None and now_ns > self._asked[1]:
            self._timely.append(False)
            self._asked = None
            self._seen_ns = 0
        seen = self.rings["seen"].newest()
        if not self.connection.ready or self._asked is not None or seen is None or not self._is_due(seen):
            return
        underway = self._underway(int(seen["stamp_ns"]))
        request = self.connection.ask(self._observation(seen), underway, budget_s=self._budget_s)
        self._encoded_us = (monotonic_ns() - now_ns) // 1000
        self._asked, self._seen_ns = (request, now_ns + int(1e9 * self._budget_s)), int(seen["stamp_ns"])
        self.asked += 1

    def _is_due(self, seen: Any) -> bool:
        if seen["trouble"]:
            self.trouble = f"camera: {seen['trouble'].decode(errors='replace')}"
            return False
        if self.trouble.startswith("camera"):
            self.trouble = ""
        return int(seen["stamp_ns"]) - self._seen_ns > self._every_ns - self.plan.step_ns // 2

    def _observation(self, seen: Any) -> Observation:
        images = {camera.name: seen[f"image_{camera.name}"] for camera in self.plan.policy.cameras}
        return Observation(images, seen["proprio"], int(seen["stamp_ns"]))

    def _underway(self, stamp_ns: int) -> Underway | None:
        """What is carried out from ``stamp_ns`` on, if the policy is to go on from it."""
        how = self.plan.config.execution.realtime
        if how == "none" or self._last is None:
            return None
        rows = self._last.chunk.actions[round((stamp_ns - self._last.chunk.stamp_ns) / self.plan.step_ns) :]
        delay = int(np.ceil(np.quantile(self._delays_ns, 0.95) / self.plan.step_ns))
        return Underway(rows, min(delay, len(rows)), how) if len(rows) else None

    def _bring(self) -> None:
        answer = self.connection.poll(POLL_S)
        if answer is not None:
            self._last, self._asked, self.answered = answer, None, self.answered + 1
            self._timely.append(True)
            now_ns = monotonic_ns()
            self._delays_ns.append(now_ns - answer.chunk.stamp_ns)
            self.rings["chunks"].write(
                stamp_ns=answer.chunk.stamp_ns,
                arrived_ns=now_ns,
                round_trip_us=answer.round_trip_us,
                encoded_us=self._encoded_us,
                actions=answer.chunk.actions,
                **{f"{name}_us": value for name, value in answer.timing_us.items()},
            )
        elif self.connection.trouble.startswith(("late", "message", "policy")) and self._asked is not None:
            self._timely.append(False)
            self.trouble, self.connection.trouble = self.connection.trouble, ""
            self._asked, self._seen_ns = None, 0
        if answer is not None and self.begun:
            self.trouble = ""

    def _tell(self) -> None:
        self._told_ns = monotonic_ns()
        connection = self.connection
        if self.trouble == STRANGER:
            connection.trouble = f"spec: {STRANGER}"  # whatever else there is, this is what a person has to know
        wanted = self.rings["task"].newest()
        begun = wanted is not None and connection.ready and int(wanted["episode"]) == self.begun
        well = bool(self.meeting and begun) and not connection.trouble and not self.trouble.startswith("camera")
        self.rings["link"].write(
            stamp_ns=self._told_ns,
            alive=well,
            rate=sum(self._timely) / len(self._timely),
            meeting=self.meeting,
            episode=self.begun,
            asked=self.asked,
            answered=self.answered,
            dropped=sum(connection.counts.values()),
            trouble=text(connection.trouble or self.trouble, MESSAGE),
        )


def ask(plan: Plan, parent: int) -> None:
    """The process: asks until its parent has gone."""
    asker = Asker(plan)
    try:
        while os.getppid() == parent:
            asker.turn()
    finally:
        asker.connection.close()
