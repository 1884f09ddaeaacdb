"""robosuite's eleven single-arm tasks (Zhu et al. 2020; package 1.5.2): a Panda over a table.

They play in a process and an environment of their own (`make robosuite`): the package pins a mink, and through it a
NumPy and a MuJoCo, that the rest cannot work with. Actions are seven numbers at 20 Hz, each in -1…1, as in the
datasets of robomimic: displacement of the hand (x away from the robot, y to its left, z up), of which 1.0 is 5 cm; its
rotation about the same axes, of which 1.0 is half a radian; the gripper (-1 opens, +1 closes; Wipe has a sponge
instead, and takes no notice). Proprio is the grip point [m] and the hand's quaternion (w, x, y, z; x is positive) in
the frame of the world, and the place of each finger [m]. Where the objects are must be seen.

Two profiles, never to be mixed (their fingerprints differ); a seed gives the same scene in both:

- ``fast``: 64 px, without shadows, reflections and anti-aliasing, through OpenGL or, without one, the rays;
- ``robosuite``: to the pixel what robosuite's own renderer gives, upright; 256 px.

Tasks for two arms (TwoArm…) are left out: their actions are another robot's. The package ships no experts; ours
(`sim.tasks.robosuite_experts`) do nine tasks, all but Wipe and ToolHang. Collect with ``noise=0.1``: an action asks for
5 cm, of which the arm covers an eighth meanwhile, and three times that noise is more than the experts make good.
"""

from collections.abc import Sequence

from sim.guest import GuestSuite, Home
from sim.tasks.robosuite_tasks import ENVIRONMENTS, ProfileName


class RobosuiteSuite(GuestSuite):
    """`sim.suite.Suite` over ``robosuite/lift``, ``robosuite/stack`` and so on.

    ``profile``: ``fast`` or ``robosuite``, see above; ``image_size``: pixels a side; ``cameras``: any of ``front``
    (robosuite's agentview) and ``wrist`` (its robot0_eye_in_hand); ``renderer``: ``auto`` takes OpenGL where there is
    one and the rays elsewhere.
    """

    home = Home("robosuite")
    inside = "sim.tasks.robosuite_guest:RobosuiteGuest"

    def __init__(
        self,
        *,
        profile: ProfileName = "fast",
        image_size: int | None = None,
        cameras: Sequence[str] = ("front",),
        renderer: str = "auto",
    ) -> None:
        super().__init__(profile=profile, image_size=image_size, cameras=[*cameras], renderer=renderer)

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        """All tasks of the suite."""
        return tuple(f"robosuite/{task}" for task in ENVIRONMENTS)
