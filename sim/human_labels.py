"""What only evaluation may see of a table-top film: phases and progress, by the same rules for whoever acts."""

import mujoco
import numpy as np

from sim.experts import CARRY
from sim.human_world import base_model
from sim.tasks.tabletop import OBJECTS, TabletopTask

PHASES = ("approach", "grasp", "act", "release", "retreat")
_MOVED = 0.005  # [m] from where it was
_MOVES, _CLOSE_BY = 0.002, 0.06  # [m] in a frame; [m] between tool and thing
_NEAR = 0.03  # [m] from the tool to the middle of what it is about: it is there
_LETTING_GO = 2  # frames
_HANDLED = {"drawer": "handle", "button": "button cap"}


def places(qpos: np.ndarray) -> dict[str, np.ndarray]:
    """Where everything that has a name is [T, 3] in states [T, nq] of the table-top model; ``grip``: the robot's."""
    model = base_model()
    data = mujoco.MjData(model)
    bodies, found = (*OBJECTS, "button cap", "tray", "pad"), {}
    rows = {name: np.empty((len(qpos), 3)) for name in (*bodies, "handle", "grip")}
    for number, state in enumerate(qpos):
        data.qpos[:] = state
        mujoco.mj_kinematics(model, data)
        found = {name: data.body(name).xpos for name in bodies}
        found |= {"handle": data.geom("handle").xpos, "grip": data.site("grip").xpos}
        for name, row in rows.items():
            row[number] = found[name]
    return rows


def handled(task: TabletopTask) -> str:
    """The name in `places` of what the task is about."""
    return _HANDLED.get(task.target, task.target)


def robot_contact(task: TabletopTask, qpos: np.ndarray, touched: np.ndarray) -> np.ndarray:
    """When the robot is at the thing [T]: its fingers touch it, or it moves while they are close by.

    Fingers that pull a drawer let go of its handle at most of the instants that are looked at.
    """
    known = places(qpos)
    path = known[handled(task)]
    moves = np.linalg.norm(np.diff(path, axis=0, prepend=path[:1]), axis=1) > _MOVES
    return touched | (moves & (np.linalg.norm(known["grip"] - path, axis=1) < _CLOSE_BY))


def phases_of_robot(task: TabletopTask, qpos: np.ndarray, contact: np.ndarray) -> np.ndarray:
    """Numbers in `PHASES` [T], told from when it is touched and when it moves."""
    path = places(qpos)[handled(task)]
    moved = np.linalg.norm(path - path[0], axis=1) > _MOVED
    time = np.arange(len(qpos))
    first = int(contact.argmax()) if contact.any() else len(qpos)
    last = int(time[contact].max()) if contact.any() else len(qpos)
    acts = first if task.verb in ("touch", "press") else int(moved.argmax()) if moved.any() else last + 1
    phases = np.zeros(len(qpos), np.int8)
    for phase, start in enumerate((first, max(first, acts), last + 1, last + 1 + _LETTING_GO), start=1):
        phases[time >= start] = phase
    return phases


def progress(
    task: TabletopTask, qpos: np.ndarray, tool: np.ndarray, *, contact: np.ndarray, done_at: int
) -> np.ndarray:
    """Share of the way [T] that is behind: of the tool to the thing and of the thing to its goal; 1 from success on.

    It never falls, so that a retreat costs nothing; a failure stays below 1.
    """
    known = places(qpos)
    target = known[handled(task)]
    far = np.maximum(0, np.linalg.norm(tool - target, axis=1) - _NEAR)
    far[np.logical_or.accumulate(contact)] = 0
    remaining = far + _left(task, known, qpos)
    share = np.maximum.accumulate(np.clip(1 - remaining / max(remaining[0], 1e-6), 0, 0.99))
    share[done_at:] = 1
    return share.astype(np.float32)


def _left(task: TabletopTask, known: dict[str, np.ndarray], qpos: np.ndarray) -> np.ndarray:
    """How far the thing itself has to go [T] m."""
    target, model = known[handled(task)], base_model()
    if task.verb == "touch":
        return np.zeros(len(qpos))
    if task.verb == "lift":
        return np.maximum(0, CARRY - target[:, 2])
    if task.verb in ("open", "close", "press"):
        joint = model.joint(task.target)
        low, high = joint.range
        slid = qpos[:, int(joint.qposadr[0])]
        return high - slid if task.verb == "open" else slid - low
    return np.linalg.norm(target - _goal(task, known), axis=1)


def _goal(task: TabletopTask, known: dict[str, np.ndarray]) -> np.ndarray:
    """Where the middle of the target should come to lie [T, 3]."""
    goal = known[task.goal].copy()
    goal[:, 2] = known[task.target][0, 2] + (2 * goal[0, 2] if task.verb == "stack" else 0)
    return goal
