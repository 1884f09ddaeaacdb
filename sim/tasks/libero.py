"""LIBERO's five suites (Liu et al. 2023; package hf-libero 0.1.4): a Panda at tables, in kitchens and studies.

Tasks are named as in the benchmark, behind the suite they belong to: ``libero/goal/put_the_bowl_on_the_stove``; the
suites are ``spatial``, ``object``, ``goal``, ``long`` (libero_10; ten tasks each, in the benchmark's order) and ``90``.
``tasks=[libero/goal/*]`` takes a whole suite.

They play in a process and an environment of their own (`make libero`), because the package needs robosuite 1.4. Its
wheel brings the tasks and their initial states; the meshes and textures have to be fetched once
(``vla data fetch-assets libero``).

The field's protocol, so that its published figures can be compared with:

- test scenes are the benchmark's initial states in their order: scene *n* is state *n* modulo their number (50). What
  stands fast is not part of these states and is drawn from the seed (in the field, from wherever the generator is).
  Training scenes are drawn anew, as LIBERO draws them;
- then ten steps without a movement and with an open gripper, which count for nothing;
- episodes of 220 (spatial), 280 (object), 300 (goal), 520 (long) and 400 (90) steps, OpenVLA's;
- pictures are robosuite's, which stand on their heads, turned by half a turn: the result is upright, and left is right.
  Policies of the field are trained on that, and both profiles show it;
- actions are seven numbers at 20 Hz, each in -1…1, as LIBERO's recordings have them: displacement of the hand (5 cm),
  rotation (half a radian), about the base's axes, and the gripper, -1 open and +1 closed (in OpenVLA's datasets x is 0
  closed and 1 open: 1 - 2 x);
- proprio is the grip point [m], the hand's rotation as axis times angle [rad] (the angle in 0…2π, from the quaternion
  as MuJoCo has it: no other sign is chosen) and the place of each finger [m].

Two profiles, never to be mixed (their fingerprints differ): ``fast``, 128 px without shadows, reflections and
anti-aliasing; ``libero``, to the pixel what robosuite's own renderer gives, 256 px. There is no expert.
"""

from collections.abc import Sequence

from sim.guest import GuestSuite, Home
from sim.tasks.libero_tasks import SUITES, ProfileName
from vla.data.assets import libero_assets


class LiberoSuite(GuestSuite):
    """`sim.suite.Suite` over LIBERO's tasks.

    ``profile``: ``fast`` or ``libero``, see above; ``image_size``: pixels a side; ``cameras``: any of ``front``
    (agentview) and ``wrist`` (robot0_eye_in_hand); ``renderer``: ``auto`` takes OpenGL where there is one and the rays
    elsewhere. The assets are checked against their list whenever a suite is made.
    """

    home = Home("libero")
    inside = "sim.tasks.libero_guest:LiberoGuest"

    def __init__(
        self,
        *,
        profile: ProfileName = "fast",
        image_size: int | None = None,
        cameras: Sequence[str] = ("front", "wrist"),
        renderer: str = "auto",
    ) -> None:
        self.home.python()
        options = {"profile": profile, "image_size": image_size, "cameras": [*cameras], "renderer": renderer}
        super().__init__(assets=str(libero_assets()), **options)

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        """All 130 tasks."""
        return tuple(f"libero/{suite}/{name}" for suite, one in SUITES.items() for name in one.names)
