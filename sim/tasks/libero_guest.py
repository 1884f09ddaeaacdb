"""LIBERO's tasks (Liu et al. 2023; package hf-libero 0.1.4), as they play in their own process.

`sim.tasks.libero` says what they are. What LIBERO does by itself and this file does not: it asks on the terminal where
its data is to lie when it is imported for the first time; it downloads its assets when it finds none.
"""

import tempfile
from collections.abc import Sequence
from importlib import import_module
from os import environ
from pathlib import Path
from typing import Any

import numpy as np

from sim.suite import TEST_SEEDS, NoExpert
from sim.tasks.libero_states import initial_states
from sim.tasks.libero_tasks import PROFILES, SUITES, suite_and_name, words
from sim.tasks.mujoco_suite import Expert, Robot
from sim.tasks.robosuite_base import ACTION, CAMERAS, HZ, SURFACE, PandaSuite, PandaWorld, import_robosuite
from vla.errors import UnderstudyError

SETTLING = 10
"""Steps without a movement and with an open gripper, before an episode begins: things fall into place."""
_STILL = np.array([0.0] * 6 + [ACTION.gripper.open])


def import_libero(assets: Path) -> Any:
    """The package, with its assets where we say; it looks for a configuration and asks on the terminal without one."""
    import_robosuite()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.yaml").write_text(f"assets: {assets}\n", "utf-8")
        environ["LIBERO_CONFIG_PATH"] = folder
        libero = import_module("libero.libero")
    libero._assets_path_cache = str(assets)
    return libero


class LiberoWorld(PandaWorld):
    """One of LIBERO's environments."""

    def __init__(self, task: str, assets: Path) -> None:
        libero, robosuite = import_libero(assets), import_robosuite()
        envs, problems = import_module("libero.libero.envs"), import_module("libero.libero.envs.bddl_utils")
        suite, name = suite_and_name(task)
        files = Path(libero.__file__).parent
        problem = files / "bddl_files" / SUITES[suite].folder / f"{name}.bddl"
        env = envs.TASK_MAPPING[problems.get_problem_info(str(problem))["problem_name"]](
            str(problem),
            robots=["Panda"],
            controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
            initialization_noise=None,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            control_freq=HZ,
            hard_reset=False,
            ignore_done=True,
        )
        super().__init__(env)
        self.states = initial_states(files / "init_files" / SUITES[suite].folder / f"{name}.pruned_init")
        wanted = 1 + self.model.nq + self.model.nv
        if self.states.shape[1] != wanted:
            raise UnderstudyError(f"{task}: its initial states have {self.states.shape[1]} numbers, its scene {wanted}")

    def reset(self, task: str, seed: int) -> None:
        """The benchmark's initial states in turn for test scenes, a scene drawn anew for others; then it settles."""
        self.draw(seed)
        if seed in TEST_SEEDS:
            state = self.states[(seed - TEST_SEEDS.start) % len(self.states)]
            self.env.sim.set_state_from_flattened(state)
            self.env.sim.forward()
        for _ in range(SETTLING):
            self.step(_STILL)

    def proprio(self) -> np.ndarray:
        """Where the grip point is [m], how the hand is turned [rad about each axis], where the fingers are [m]."""
        w, *axis = self.hand.xquat
        angle, length = 2 * np.arccos(np.clip(w, -1, 1)), float(np.linalg.norm(axis))
        turned = np.array(axis) * (angle / length if length > 1e-8 else 0.0)
        return np.array([*self.grip.xpos, *turned, *(finger.qpos[0] for finger in self.fingers)])

    def expert(self) -> Expert:
        """There is none."""
        raise NoExpert(
            "LIBERO has no expert: its demonstrations were recorded by people. Import these (vla data import)"
        )


class LiberoGuest(PandaSuite):
    """The suite of `sim.tasks.libero.LiberoSuite`, in its process."""

    robot = Robot(
        suite="libero",
        embodiment="panda-libero",
        package="libero",
        extra="libero",
        action=ACTION,
        proprio_names=("ee_x", "ee_y", "ee_z", "ee_turn_x", "ee_turn_y", "ee_turn_z", "finger_left", "finger_right"),
        control_hz=HZ,
        max_steps=max(one.max_steps for one in SUITES.values()),
        tasks={f"{suite}/{name}": words(name) for suite, one in SUITES.items() for name in one.names},
        cameras=tuple(CAMERAS),
        surface=SURFACE,
    )
    mirrored = True
    profiles = PROFILES

    def __init__(self, *, assets: str, cameras: Sequence[str] = ("front", "wrist"), **looks: Any) -> None:
        super().__init__(cameras=cameras, **looks)
        self._assets = Path(assets)

    def make_world(self, task: str) -> LiberoWorld:
        """Load the environment of ``task``, in some seconds."""
        return LiberoWorld(task, self._assets)

    def reset(self, task: str, seed: int) -> None:
        """Start ``task`` in the scene that ``seed`` decides."""
        super().reset(task, seed)
        self.max_steps = SUITES[suite_and_name(self._task)[0]].max_steps
