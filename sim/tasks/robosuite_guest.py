"""robosuite's single-arm tasks (Zhu et al. 2020; package 1.5.2), as they play in their own process.

`sim.tasks.robosuite` says what they are. Tasks are the package's own environments with their defaults: the Panda, its
own controller (`OSC_POSE`, 20 Hz), the door with its latch. Each is loaded once and reset in place, in 3 ms instead of
1 s: everything is drawn anew but the size of Lift's cube, which robosuite draws as it loads (4.0 to 4.4 cm; 4.1 here).
"""

import numpy as np

from sim.tasks.mujoco_suite import Expert, Robot
from sim.tasks.robosuite_base import ACTION, CAMERAS, HZ, SURFACE, PandaSuite, PandaWorld, import_robosuite
from sim.tasks.robosuite_tasks import ENVIRONMENTS, PROFILES


class RobosuiteWorld(PandaWorld):
    """One of the package's environments."""

    floor = 0.82  # of the bins

    def __init__(self, task: str) -> None:
        super().__init__(
            import_robosuite().make(
                ENVIRONMENTS[task].made,
                robots="Panda",
                has_renderer=False,
                has_offscreen_renderer=False,
                use_camera_obs=False,
                control_freq=HZ,
                hard_reset=False,
                ignore_done=True,
                seed=0,
            )
        )
        self.task = task

    def reset(self, task: str, seed: int) -> None:
        """The scene of ``seed``."""
        self.draw(seed)

    def proprio(self) -> np.ndarray:
        """Where the grip point is [m], how the hand is turned, and where the fingers are [m]."""
        quaternion = self.hand.xquat if self.hand.xquat[1] >= 0 else -self.hand.xquat
        fingers = [finger.qpos[0] for finger in self.fingers] or (0.0, 0.0)
        return np.array([*self.grip.xpos, *quaternion, *fingers])

    def expert(self) -> Expert:
        """Scripted (`sim.tasks.robosuite_experts`)."""
        from sim.tasks.robosuite_experts import robosuite_expert

        return robosuite_expert(self)


class RobosuiteGuest(PandaSuite):
    """The suite of `sim.tasks.robosuite.RobosuiteSuite`, in its process."""

    robot = Robot(
        suite="robosuite",
        embodiment="panda-robosuite",
        package="robosuite",
        extra="robosuite",
        action=ACTION,
        proprio_names=(
            *("ee_x", "ee_y", "ee_z", "ee_qw", "ee_qx", "ee_qy", "ee_qz"),
            *("finger_left", "finger_right"),
        ),
        control_hz=HZ,
        max_steps=max(one.max_steps for one in ENVIRONMENTS.values()),
        tasks={task: one.words for task, one in ENVIRONMENTS.items()},
        cameras=tuple(CAMERAS),
        surface=SURFACE,
    )
    profiles = PROFILES

    def make_world(self, task: str) -> RobosuiteWorld:
        """Load the environment of ``task``, in a second."""
        return RobosuiteWorld(task)

    def reset(self, task: str, seed: int) -> None:
        """Start ``task`` in the scene that ``seed`` decides."""
        super().reset(task, seed)
        self.max_steps = ENVIRONMENTS[self._task].max_steps
