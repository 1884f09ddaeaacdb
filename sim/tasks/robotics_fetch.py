"""The four Fetch tasks of gymnasium-robotics (Plappert et al. 2018; package 1.4): reach, push, slide, pick and place.

Actions are four numbers at 25 Hz: displacement of the gripper (x, y, z) [m] in the world frame (x away from the robot,
y to its left, z up), at most 5 cm a step, of which the weld that drags the arm along yields about two thirds; and the
drive of the fingers (+1 opens, -1 closes), which only pick-and-place heeds: in the other three they are locked. The
package writes the displacement as -1…1; here it is metres. Proprio is the grip point [m] and the opening of the
fingers (0 closed, 1 open, 0.1 m apart). Where the block and the goal are must be seen; the goal is the red ball.

A task is achieved when the block (in reach: the grip point) is within 5 cm of the goal after any step. The field looks
at the last of the 50 steps only: a puck that slides across its goal counts here and not there. As in the package,
nothing keeps a goal from being drawn where the block already lies (measured in 200 scenes: push 7 %, pick-and-place
3 %, reach 2 %, slide 0 %); that much is had for nothing. The package's ``gripper_camera_rgb`` is left out: it sees
the inside of the gripper.
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from sim.disturbance import Place
from sim.tasks.mujoco_suite import AroundEnvironment, Expert, Mount, MujocoSuite, Robot, compiled
from vla.types import ActionSpec, Gripper

if TYPE_CHECKING:
    pass

MOUNTS = (
    Mount("front", position=(2.1, 0.75, 1.2), looks_at=(1.25, 0.75, 0.47), fovy=46.0),
    Mount("wrist", (-0.12, 0.0, 0.11), (0.04, 0.0, 0.0), fovy=60.0, body="robot0:gripper_link"),
)
STEP = 0.05  # [m] what the package calls 1
FINGER_TRAVEL = 0.05  # [m] of each finger

_ENVIRONMENTS = {
    "reach": ("reach", "MujocoFetchReachEnv"),
    "push": ("push", "MujocoFetchPushEnv"),
    "slide": ("slide", "MujocoFetchSlideEnv"),
    "pick-and-place": ("pick_and_place", "MujocoFetchPickAndPlaceEnv"),
}


@cache
def _environment_class(task: str) -> type:
    """The package's environment, but for the model, which gets cameras of ours."""
    from importlib import import_module

    module, name = _ENVIRONMENTS[task]
    base = getattr(import_module(f"gymnasium_robotics.envs.fetch.{module}"), name)

    class Seen(base):
        def _initialize_simulation(self) -> None:
            import mujoco

            self.model = compiled(self.fullpath, MOUNTS)
            self.data = mujoco.MjData(self.model)
            self._model_names = self._utils.MujocoModelNames(self.model)
            self._env_setup(initial_qpos=self.initial_qpos)
            self.initial_time = self.data.time
            self.initial_qpos, self.initial_qvel = self.data.qpos.copy(), self.data.qvel.copy()

    return Seen


class FetchWorld(AroundEnvironment):
    """One of the four environments."""

    def __init__(self, task: str) -> None:
        super().__init__(_environment_class(task)())
        self.task = task

    def reset(self, task: str, seed: int) -> None:
        """Draw the block and the goal; mark the goal."""
        import mujoco

        self.env.reset(seed=seed)
        mark = self.model.site("target0")
        mark.pos[:] = self.goal - self.data.body(mark.bodyid[0]).xpos  # that body is not turned
        mujoco.mj_kinematics(self.model, self.data)

    def step(self, action: np.ndarray) -> bool:
        """Twenty steps of physics of 2 ms."""
        *_, info = self.env.step(np.array([*action[:3] / STEP, action[3]]))
        return bool(info["is_success"])

    def proprio(self) -> np.ndarray:
        """Grip point [m] and opening of the fingers."""
        return np.array([*self.grip, self.opening])

    def expert(self) -> Expert:
        """Scripted (`sim.tasks.robotics_fetch_experts`)."""
        from sim.tasks.robotics_fetch_experts import fetch_expert

        return fetch_expert(self)

    @property
    def grip(self) -> np.ndarray:
        """The grip point [3], metres."""
        return self.data.site("robot0:grip").xpos.copy()

    @property
    def opening(self) -> float:
        """0 closed, 1 open."""
        fingers = [self.data.joint(f"robot0:{side}_gripper_finger_joint").qpos[0] for side in "lr"]
        return float(np.mean(fingers)) / FINGER_TRAVEL

    @property
    def block(self) -> np.ndarray:
        """The middle of the block, or of the puck [3], metres."""
        return self.data.site("object0").xpos.copy()

    @property
    def goal(self) -> np.ndarray:
        """Where the block (in reach: the grip point) should be [3], metres."""
        return self.env.goal.copy()


class FetchSuite(MujocoSuite):
    """`sim.suite.Suite` over ``fetch/reach``, ``fetch/push``, ``fetch/slide`` and ``fetch/pick-and-place``.

    Options as `MujocoSuite`'s. ``front`` faces the robot across its table, ``wrist`` looks past the fingers; the others
    are the package's.
    """

    robot = Robot(
        suite="fetch",
        embodiment="fetch",
        package="gymnasium_robotics",
        extra="robotics",
        action=ActionSpec(
            kind="ee_delta",
            names=("delta_x", "delta_y", "delta_z", "gripper"),
            low=(-STEP, -STEP, -STEP, -1.0),
            high=(STEP, STEP, STEP, 1.0),
            frame="world",
            gripper=Gripper(index=3, open=1.0, closed=-1.0),
        ),
        proprio_names=("ee_x", "ee_y", "ee_z", "gripper_opening"),
        control_hz=25.0,
        max_steps=50,
        tasks={
            "reach": "move the gripper to the red ball",
            "push": "push the block to the red ball",
            "slide": "hit the puck so that it slides to the red ball",
            "pick-and-place": "pick up the block and bring it to the red ball",
        },
        cameras=("front", "wrist", "head_camera_rgb", "external_camera_0", "lidar"),
        surface=Place((1.1, 0.5), (1.5, 1.0), height=0.4),
    )

    def make_world(self, task: str) -> FetchWorld:
        """The package's environment."""
        return FetchWorld(task)
