"""The Franka kitchen of gymnasium-robotics (Gupta et al. 2019; package 1.4): one Panda arm, seven things to do.

Actions are eight numbers at 12.5 Hz: where the seven joints should be [rad] and the gripper (0 closed, 1 open). The
package takes velocities, as -1…1 of 2 rad/s from where the joint is seen to be; a position that is further away than
such a velocity carries is approached at that speed. Proprio is where the eight are, without the package's noise.
Where doors, knobs and the kettle are must be seen.

The package always begins in the same state. Here a seed draws the arm's joints within 0.1 rad of it and the kettle
within 2 cm. A task is achieved when its thing is within 0.3 (rad, m, and quaternion's entries, all in one norm) of the
package's goal after any step; the package asks for no more, so that a sliding door that is 8 cm open counts as open.
"""

from typing import TYPE_CHECKING

import numpy as np

from sim.disturbance import Place
from sim.tasks.mujoco_suite import AroundEnvironment, Expert, Mount, MujocoSuite, Robot, compiled
from vla.types import ActionSpec, Gripper

if TYPE_CHECKING:
    pass

MOUNTS = (
    Mount("front", position=(-0.8, -1.2, 3.1), looks_at=(-0.2, 0.5, 2.1), fovy=56.0),
    Mount("wrist", (0.1, 0.0, 0.1), (0.0, 0.0, 0.35), fovy=70.0, body="panda0_link7", up=(-1.0, 0.0, 0.0)),
)
LOW = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, 0.0, -2.8973)  # [rad] the tighter of the model's and the package's
HIGH = (2.8973, 1.7628, 2.8973, -0.4, 2.8973, 2.1127, 2.8973)
JOINTS = len(LOW)
SPEED = 2.0  # [rad/s] what the package calls 1
FINGER_TRAVEL = 0.04  # [m] of each finger
ARM_SPREAD, KETTLE_SPREAD = 0.1, 0.02  # [rad], [m]

INSTRUCTIONS = {
    "microwave": "open the microwave",
    "kettle": "push the kettle onto the back burner",
    "light-switch": "turn on the light",
    "slide-cabinet": "slide the cabinet open",
    "hinge-cabinet": "open the right door of the hinge cabinet",
    "bottom-burner": "turn on the front burner",
    "top-burner": "turn on the back burner",
}
"""Task, by the package's name, → the words for it."""


class KitchenWorld(AroundEnvironment):
    """The kitchen, for all seven tasks."""

    def __init__(self) -> None:
        import mujoco
        from gymnasium_robotics.envs.franka_kitchen import kitchen_env

        kitchen = kitchen_env.KitchenEnv(robot_noise_ratio=0.0)
        kitchen.robot_env.model = compiled(kitchen.robot_env.fullpath, MOUNTS)
        super().__init__(kitchen.robot_env)
        self.data = mujoco.MjData(self.model)
        self._entries, self._goals = kitchen_env.OBS_ELEMENT_INDICES, kitchen_env.OBS_ELEMENT_GOALS
        self._near = kitchen_env.BONUS_THRESH
        self.task = ""

    def reset(self, task: str, seed: int) -> None:
        """The package's state, the arm and the kettle moved a little."""
        self.task = task
        self.env.reset(seed=seed)
        rng = np.random.default_rng([0x517C4E, seed])
        state = self.data.qpos.copy()
        state[:JOINTS] = np.clip(state[:JOINTS] + rng.uniform(-ARM_SPREAD, ARM_SPREAD, JOINTS), LOW, HIGH)
        state[self._entries["kettle"][:2]] += rng.uniform(-KETTLE_SPREAD, KETTLE_SPREAD, 2)
        self.env.set_state(state, self.data.qvel.copy())

    def step(self, action: np.ndarray) -> bool:
        """Forty steps of physics of 2 ms, towards the joint positions asked for."""
        finger = action[7] * FINGER_TRAVEL
        now = self.env._last_robot_qpos = self.data.qpos[: JOINTS + 2].copy()
        self.env.step((np.array([*action[:JOINTS], finger, finger]) - now) / (SPEED * self.env.dt))
        return self.achieved()

    def proprio(self) -> np.ndarray:
        """The joints [rad] and the opening of the gripper [8]."""
        return np.array([*self.data.qpos[:JOINTS], self.data.qpos[JOINTS : JOINTS + 2].mean() / FINGER_TRAVEL])

    def achieved(self) -> bool:
        """Whether the task's thing is at its goal now."""
        thing = self.task.replace("-", " ")
        return bool(np.linalg.norm(self.data.qpos[self._entries[thing]] - self._goals[thing]) < self._near)

    def expert(self) -> Expert:
        """Scripted (`sim.tasks.robotics_kitchen_experts`)."""
        from sim.tasks.robotics_kitchen_experts import kitchen_expert

        return kitchen_expert(self)


class KitchenSuite(MujocoSuite):
    """`sim.suite.Suite` over ``kitchen/microwave``, ``kitchen/kettle`` and the five others.

    Options as `MujocoSuite`'s. ``front`` looks over the arm's left shoulder, ``wrist`` past the fingers; the others are
    the package's.
    """

    robot = Robot(
        suite="kitchen",
        embodiment="franka-kitchen",
        package="gymnasium_robotics",
        extra="robotics",
        action=ActionSpec(
            kind="joint_position",
            names=(*(f"joint_{number}" for number in range(1, 8)), "gripper"),
            low=(*LOW, 0.0),
            high=(*HIGH, 1.0),
            gripper=Gripper(index=7, open=1.0, closed=0.0),
        ),
        proprio_names=(*(f"joint_{number}" for number in range(1, 8)), "gripper_opening"),
        control_hz=12.5,
        max_steps=280,
        tasks=INSTRUCTIONS,
        cameras=("front", "wrist", "left_cap", "right_cap"),
        surface=Place((-0.45, 0.2), (0.2, 0.45), height=1.62),
    )

    @classmethod
    def model_of(cls, task: str) -> str:
        """There is one kitchen."""
        return "kitchen"

    def make_world(self, task: str) -> KitchenWorld:
        """The package's kitchen."""
        return KitchenWorld()
