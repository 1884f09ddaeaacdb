"""Live views of a run in Rerun: what the cameras see, joints asked, sent and measured, the state, what happened."""

from importlib import import_module
from typing import Any

from robot_bridge.control import State
from robot_bridge.run import Run
from vla.errors import UnderstudyError


class Views:
    """Call `show` now and then; opens Rerun's viewer."""

    def __init__(self, run: Run, *, spawn: bool = True) -> None:
        try:
            self._rerun: Any = import_module("rerun")
        except ImportError as error:
            raise UnderstudyError("live views want the package rerun-sdk: pip install rerun-sdk") from error
        self._run, self._seen = run, {"ticks": 0, "seen": 0, "events": 0}
        self._rerun.init("understudy", spawn=spawn)

    def show(self) -> None:
        """What has come since."""
        rerun, plan = self._rerun, self._run.plan
        found = {}
        for name, seen in self._seen.items():
            found[name], self._seen[name], _ = self._run.rings[name].since(seen)
        for seen in found["seen"][-1:]:
            self._at(seen)
            for camera in plan.policy.cameras:
                rerun.log(f"cameras/{camera.name}", rerun.Image(seen[f"image_{camera.name}"]))
        for tick in found["ticks"][::10]:
            self._at(tick)
            for index, joint in enumerate(plan.arm_spec.joints):
                for which in ("reference", "sent", "measured"):
                    rerun.log(f"joints/{joint}/{which}", rerun.Scalars(float(tick[which][index])))
            rerun.log("state", rerun.TextLog(State(int(tick["state"])).name))
        for event in found["events"]:
            self._at(event)
            rerun.log("events", rerun.TextLog(f"{event['code'].decode()}: {event['message'].decode()}"))

    def _at(self, record: Any) -> None:
        self._rerun.set_time("run", duration=1e-9 * float(record["stamp_ns"]))
