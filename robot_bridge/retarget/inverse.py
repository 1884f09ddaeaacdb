"""Joints for a tool's path: inverse kinematics by mink, under the joints' ends, their speeds and what must not touch.

tool path [T] ─► mink, frame by frame from where the joints are ─► joints [T, D] and what is left of the error
                                                                      │
joint path at the arm's own pace ◄── time stretched until no joint is faster or more accelerated than allowed
"""

from dataclasses import dataclass
from typing import Any

import mink
import mujoco
import numpy as np
from mink.limits.collision_avoidance_limit import compute_contact_normal_jacobian
from numpy.typing import NDArray

from robot_bridge.arms.arm import Limits
from robot_bridge.retarget.hands import Floats
from robot_bridge.retarget.linkage import Linkage
from robot_bridge.retarget.tool_path import ToolPath
from vla.errors import UnderstudyError

SOLVER = "daqp"
ROUNDS = 40
"""Steps at most from one frame to the next; a few do, where the path is smooth."""
PATIENCE = 4
"""Rounds that may be for nothing: at what is out of reach, more only press the links into what they touch."""
NEAR_M, NEAR_RAD = 2e-4, 2e-3
"""An error that needs no further round."""
STEP_S = 0.03
"""Time of one round: with the joints' speeds the most that they turn in it."""
HEED_M = 0.08
"""Links nearer than this are kept apart: more than an arm moves in one round, or it would pass through."""
FIRST_ROUNDS = 150
"""From the arm's home to the path's begin."""
TRIES = 16
DAMPING = 1e-6
PUSH_M = 0.002
"""By which links that are too near are pushed apart in a round."""
POSTURE = 1e-3
"""Cost of leaving the home pose beside that of the tool's error: it only decides where the arm has a choice."""


@dataclass(frozen=True)
class InverseConfig:
    """How exactly the tool follows."""

    turning: float = 0.1
    """cost of an error of 1 rad beside one of 1 m"""
    slowest: float = 6.0
    """the arm takes up to so many times the hand's time; what is faster still is left as an error"""
    share: float = 0.8
    """of the arm's speed and acceleration; the rest is the governor's"""


@dataclass(frozen=True)
class Solved:
    """Joints [T, N] of the arm without its gripper; ``position_m``, ``turning_rad`` [T]: how far the tool is off.

    ``at_end`` [T]: whether a joint is at its end; ``clearance_m`` [T]: the least distance of what must keep apart;
    ``steps``: of mink, from the arm's home on.
    """

    joints: Floats
    position_m: Floats
    turning_rad: Floats
    at_end: NDArray[np.bool_]
    clearance_m: Floats
    steps: int


def solve(linkage: Linkage, path: ToolPath, limits: Limits, config: InverseConfig | None = None) -> Solved:
    """Joints for each known frame of ``path``, from the linkage's home on; NaN for the others.

    An arm whose home nobody says begins where, of several tries, the path's first place is reached best. Raises
    `UnderstudyError` for a path without a known frame.
    """
    config = config or InverseConfig()
    if not path.known.any():
        raise UnderstudyError("there is no frame whose tool has a place")
    solver, quaternions = _begun(linkage, path, limits, config)
    count = len(path.stamps)
    joints, apart = np.full((count, len(linkage.joints)), np.nan), np.full((count, 2), np.nan)
    clearance = np.full(count, np.nan)
    for number, frame in enumerate(np.flatnonzero(path.known)):
        most = ROUNDS if number else FIRST_ROUNDS
        joints[frame], apart[frame] = solver.reach(path.position[frame], quaternions[frame], most)
        clearance[frame] = solver.clearance()
    low, high = linkage.model.jnt_range[[linkage.model.joint(name).id for name in linkage.joints]].T
    at_end = (np.minimum(joints - low, high - joints) < 2e-2).any(1)
    return Solved(joints, apart[:, 0], apart[:, 1], at_end, clearance, solver.steps)


def _begun(linkage: Linkage, path: ToolPath, limits: Limits, config: InverseConfig) -> "tuple[_Solver, Floats]":
    """The arm at the path's first place, and the path's quaternions [T, 4]: as they are, or turned by half a turn.

    A gripper turned by half a turn about its own axis is the same gripper, but another way for the arm's last joint:
    of both, and of all starts, the one that reaches the place, and then stays farthest from the joints' ends.
    """
    first = int(np.argmax(path.known))
    w, x, y, z = path.quaternion.T
    both = (path.quaternion, np.stack([-z, y, -x, w], axis=1))
    low, high = np.array(limits.low), np.array(limits.high)
    found = []
    for start in [np.array(linkage.home)] if linkage.home is not None else _starts(limits):
        for quaternions in both:
            solver = _Solver(linkage, start, limits, config)
            joints, apart = solver.reach(path.position[first], quaternions[first], FIRST_ROUNDS)
            ends = float((np.minimum(joints - low, high - joints) / (high - low)).min())
            found.append((max(float(apart.max()), 5 * NEAR_RAD), -ends, solver, quaternions))
    _, _, solver, quaternions = min(found, key=lambda one: one[:2])
    return solver, quaternions


def _starts(limits: Limits) -> list[Floats]:
    """The middle of the joints' ends, and joints drawn about it [N], always the same."""
    low, high = np.maximum(limits.low, -np.pi), np.minimum(limits.high, np.pi)
    middle, reach, random = (low + high) / 2, (high - low) / 2, np.random.default_rng(0)
    return [middle, *(middle + 0.7 * reach * random.uniform(-1, 1, len(middle)) for _ in range(TRIES))]


class KeepApart(mink.CollisionAvoidanceLimit):
    """mink's limit, with bounds for a displacement, as its solver takes them, and not for a speed.

    What is nearer than it may be is pushed apart, a little each round: two boxes turn about their corners, and would
    creep into each other if they were only kept from coming nearer.
    """

    def compute_qp_inequalities(self, configuration: mink.Configuration, dt: float) -> Any:
        """``G Δq ≤ h``: no pair comes nearer by more than a share of the distance that is left."""
        nearer = np.zeros((len(self.geom_id_pairs), self.model.nv))
        bound = np.full(len(self.geom_id_pairs), np.inf)
        for index, (a, b) in enumerate(self.geom_id_pairs):
            contact = self._compute_contact_with_minimum_distance(configuration.data, a, b)
            if not contact.inactive:
                nearer[index] = -np.sign(contact.dist) * compute_contact_normal_jacobian(
                    self.model, configuration.data, contact
                )
                left = contact.dist - self.minimum_distance_from_collisions
                bound[index] = max(self.gain * left, -PUSH_M)
        return mink.Constraint(G=nearer, h=bound)


class _Solver:
    """mink's configuration with its tasks and limits, kept from frame to frame."""

    def __init__(self, linkage: Linkage, home: Floats, limits: Limits, config: InverseConfig) -> None:
        self._linkage, self._places = linkage, linkage.places
        self._weights = np.array([1.0, config.turning])
        self.steps = 0
        self._tool = mink.FrameTask(linkage.tool, "site", position_cost=1.0, orientation_cost=config.turning)
        self._posture = mink.PostureTask(linkage.model, cost=POSTURE)
        model = linkage.model
        start = model.qpos0.copy()
        start[self._places] = home
        self._configuration = mink.Configuration(model, q=start)
        self._posture.set_target_from_configuration(self._configuration)
        speeds = {name: config.share * limits.velocity[index] for index, name in enumerate(linkage.joints)}
        self._limits = [mink.ConfigurationLimit(model), mink.VelocityLimit(model, speeds)]
        if linkage.avoid:
            apart = [(list(a), list(b)) for a, b in linkage.avoid]
            self._limits.append(KeepApart(model, apart, collision_detection_distance=HEED_M))

    def reach(self, position: Floats, quaternion: Floats, most: int) -> tuple[Floats, Floats]:
        """Joints [N] for a pose, and how far the tool is off (m, rad)."""
        wanted = mink.SE3.from_rotation_and_translation(mink.SO3(quaternion / np.linalg.norm(quaternion)), position)
        self._tool.set_target(wanted)
        least, since = np.inf, 0
        for taken in range(most + 1):
            error = self._tool.compute_error(self._configuration)
            apart = np.array([np.linalg.norm(error[:3]), np.linalg.norm(error[3:])])
            size = float(np.linalg.norm(self._weights * apart))
            least, since = (size, 0) if size < 0.99 * least else (least, since + 1)
            if taken == most or since > PATIENCE or (apart[0] < NEAR_M and apart[1] < NEAR_RAD):
                break
            tasks = [self._tool, self._posture]
            try:
                speed = mink.solve_ik(self._configuration, tasks, STEP_S, SOLVER, damping=DAMPING, limits=self._limits)
            except mink.NoSolutionFound:  # pushed from two sides
                break
            self._configuration.integrate_inplace(speed, STEP_S)
            self.steps += 1
            if np.abs(speed).max() * STEP_S < 1e-5:
                break
        return self._configuration.q[self._places].copy(), apart

    def clearance(self) -> float:
        """The least distance [m] of what must keep apart, 0.1 if it is farther."""
        model, data = self._linkage.model, self._configuration.data
        least = 0.1
        for a, b in self._linkage.avoid:
            for one in a:
                for other in b:
                    least = min(least, mujoco.mj_geomDistance(model, data, one, other, 0.1, None))
        return float(least)
