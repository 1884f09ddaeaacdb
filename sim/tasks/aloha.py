"""The two simulated ALOHA tasks (Zhao et al. 2023; gym-aloha 0.1): two ViperX arms hand a cube over, or insert a peg.

Actions are 14 numbers at 50 Hz, the positions to hold: for the left arm, then for the right, six joints [rad] and the
gripper (0 closed, 1 open). Proprio is where these fourteen are. Where the objects are must be seen.

Two profiles, never to be mixed (their fingerprints differ):

- ``fast``: small square pictures without shadows and anti-aliasing, 300 steps;
- ``lerobot``: LeRobot's protocol: gym-aloha's own picture (the camera ``top`` alone, 480 x 640, the model's lights,
  shadows and anti-aliasing), 400 steps, success at gym-aloha's highest reward. It is the one picture here that is not
  square; what wants a square one squeezes it.

A seed gives the scene that it gives in gym-aloha, and the physics is gym-aloha's bit by bit. It is not run through
gym-aloha itself, which draws three pictures of 480 x 640 at every step whether anybody looks or not (0.2 to 0.3 s of a
processor's time, the physics 0.3 ms).
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from sim.disturbance import Place
from sim.tasks.mujoco_suite import Expert, Mount, MujocoSuite, RendererName, Robot, choose_renderer, compiled
from vla.errors import UnderstudyError, unknown
from vla.types import ActionSpec, CameraSpec

ProfileName = Literal["fast", "lerobot"]

SIDES = ("left", "right")
JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
NAMES = tuple(f"{side}_{joint}" for side in SIDES for joint in (*JOINTS, "gripper"))
LOW = (-3.14158, -1.85005, -1.76278, -3.14158, -1.8675, -3.14158, 0.0) * 2
HIGH = (3.14158, 1.25664, 1.6057, 3.14158, 2.23402, 3.14158, 1.0) * 2
SUBSTEPS = 10  # of 2 ms
OWN_CAMERAS = ("top", "angle", "front_close", "left_pillar", "right_pillar", "left_wrist", "right_wrist")

MOUNTS = (
    Mount("front", position=(0.0, -0.3, 0.65), looks_at=(0.0, 0.5, 0.12), fovy=58.0),
    Mount(
        "wrist",
        body="vx300s_right/gripper_link",
        position=(-0.06, 0.0, 0.12),
        looks_at=(0.15, 0.0, 0.0),
        fovy=55.0,
    ),
)
_MODELS = {
    "transfer-cube": ("bimanual_viperx_transfer_cube.xml", "sample_box_pose"),
    "insertion": ("bimanual_viperx_insertion.xml", "sample_insertion_pose"),
}
_FINGERS = {side: f"vx300s_{side}/10_{side}_gripper_finger" for side in SIDES}


class AlohaWorld:
    """One of the two scenes."""

    def __init__(self, task: str) -> None:
        import mujoco
        from gym_aloha import constants, utils

        model, draw = _MODELS[task]
        self.task = task
        self.model = compiled(str(constants.ASSETS_DIR / model), MOUNTS)
        self.data = mujoco.MjData(self.model)
        self._draw: Callable[[int], np.ndarray | tuple[np.ndarray, ...]] = getattr(utils, draw)
        self._start = np.array(constants.START_ARM_POSE)
        closed, opened = constants.PUPPET_GRIPPER_POSITION_CLOSE, constants.PUPPET_GRIPPER_POSITION_OPEN
        self._closed, self._travel = closed, opened - closed  # [m] of a finger

    def reset(self, task: str, seed: int) -> None:
        """Both arms in their starting pose, the objects where gym-aloha's seed puts them."""
        import mujoco

        mujoco.mj_resetData(self.model, self.data)
        self._forward_idle()
        self.data.qpos[:16] = self.data.ctrl[:] = self._start
        self.data.qpos[16:] = np.concatenate(self._draw(seed), axis=None)
        self._forward_idle()
        self._forward_idle()

    def _forward_idle(self) -> None:
        """What dm_control does three times on its way: the last bits of the first step depend on all of them."""
        import mujoco

        idle = int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)
        self.model.opt.disableflags |= idle
        mujoco.mj_forward(self.model, self.data)
        self.model.opt.disableflags &= ~idle

    def step(self, action: np.ndarray) -> bool:
        """Ten steps of physics, cut as dm_control cuts them: what is seen afterwards is of that very instant."""
        import mujoco

        for first, arm in ((0, action[:7]), (8, action[7:])):
            finger = self._closed + arm[6] * self._travel
            self.data.ctrl[first : first + 8] = *arm[:6], finger, -finger
        mujoco.mj_step2(self.model, self.data)
        mujoco.mj_step(self.model, self.data, nstep=SUBSTEPS - 1)
        mujoco.mj_step1(self.model, self.data)
        return self.reward() == 4

    def proprio(self) -> np.ndarray:
        """Where the joints and the grippers are [14]."""
        arms = self.data.qpos[:16].reshape(2, 8)[:, :7].copy()
        arms[:, 6] = (arms[:, 6] - self._closed) / self._travel
        return arms.reshape(-1)

    def expert(self) -> Expert:
        """Scripted (`sim.tasks.aloha_experts`)."""
        from sim.tasks.aloha_experts import aloha_expert

        return aloha_expert(self)

    def reward(self) -> int:
        """gym-aloha's reward of this instant, 0…4, which counts how far one has come."""
        return self._transferred() if self.task == "transfer-cube" else self._inserted()

    def touch(self, one: str, *others: str) -> bool:
        """Whether a geom touches any of others."""
        geom, rest = self.model.geom(one).id, {self.model.geom(other).id for other in others}
        return any((geom == a and b in rest) or (geom == b and a in rest) for a, b in self.data.contact.geom.tolist())

    def _transferred(self) -> int:
        lifted = not self.touch("red_box", "table")
        if self.touch("red_box", _FINGERS["left"]):
            return 4 if lifted else 3
        if self.touch("red_box", _FINGERS["right"]):
            return 2 if lifted else 1
        return 0

    def _inserted(self) -> int:
        walls = [f"socket-{side}" for side in range(1, 5)]
        if self.touch("red_peg", "pin"):
            return 4
        lifted = not self.touch("table", "red_peg", *walls)
        if lifted and self.touch("red_peg", *walls):
            return 3
        held = self.touch("red_peg", _FINGERS["right"]) and self.touch(_FINGERS["left"], *walls)
        return (2 if lifted else 1) if held else 0


class AlohaSuite(MujocoSuite):
    """`sim.suite.Suite` over ``aloha/transfer-cube`` and ``aloha/insertion``.

    ``profile``: ``fast`` or ``lerobot``, see above; ``image_size``: pixels a side (64 in ``fast``; the height, always
    480, in ``lerobot``); ``cameras``:
    ``front`` (across the table), ``wrist`` (on the right arm) and gym-aloha's own; ``renderer`` as `MujocoSuite`'s.
    """

    robot = Robot(
        suite="aloha",
        embodiment="aloha-viperx",
        package="gym_aloha",
        extra="aloha",
        action=ActionSpec(kind="joint_position", names=NAMES, low=LOW, high=HIGH),  # two grippers: a spec names but one
        proprio_names=NAMES,
        control_hz=50.0,
        max_steps=300,
        tasks={
            "transfer-cube": "pick up the red cube with the right arm and hand it to the left arm",
            "insertion": "insert the red peg into the blue socket",
        },
        cameras=("front", "wrist", *OWN_CAMERAS),
        surface=Place((-0.25, 0.35), (0.25, 0.65), height=0.0),
    )

    def __init__(
        self,
        *,
        profile: ProfileName = "fast",
        image_size: int | None = None,
        cameras: Sequence[str] | None = None,
        renderer: RendererName = "auto",
    ) -> None:
        if profile not in get_args(ProfileName):
            raise unknown("profile", profile, get_args(ProfileName))
        if profile == "fast":
            size, names = 64 if image_size is None else image_size, ("front",) if cameras is None else cameras
            super().__init__(image_size=size, cameras=names, renderer=renderer)
            return
        names, height = ("top",) if cameras is None else tuple(cameras), 480 if image_size is None else image_size
        if (names, height) != (("top",), 480):
            raise UnderstudyError(
                f"profile 'lerobot' has one camera, 'top', of 480 x 640; got {', '.join(names) or 'none'} of {height}: "
                "leave both out, give cameras=[top] and image_size=480, or use profile='fast'"
            )
        if choose_renderer(renderer) == "ray":
            raise UnderstudyError("profile 'lerobot' needs OpenGL; use profile='fast'")
        self._look([CameraSpec("top", 480, 640)], renderer="gl", profile=profile, nice=True)
        self.max_steps = 400

    def make_world(self, task: str) -> AlohaWorld:
        """gym-aloha's model."""
        return AlohaWorld(task)
