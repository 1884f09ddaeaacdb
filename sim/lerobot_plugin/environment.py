r"""Our suites as LeRobot's environments, so that ``lerobot-eval`` and ``lerobot-train`` play them.

    lerobot-eval --env.discover_packages_path=sim.lerobot_plugin --env.type=understudy \
        --env.task=tabletop/lift-red-cube --policy.path=outputs/train …

A seed is a test scene of ``vla eval``: seed 7 there is ``seed=7`` here. The governor stands between policy and arm, as
everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from robot_bridge.safety import governed
from sim.suite import TEST_SEEDS, Suite, make_suite, suite_of
from vla.errors import UnderstudyError


@EnvConfig.register_subclass("understudy")
@dataclass
class UnderstudyEnvConfig(EnvConfig):
    """One task or several, by name, and the suite's options."""

    task: str = "tabletop/lift-red-cube"
    """suite/task; several of one suite with commas between them"""
    suite: dict[str, Any] = field(default_factory=lambda: {"image_size": 64, "cameras": ["front", "wrist"]})
    """options of the suite; they must give the pictures that the policy was trained on"""
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        suite = self._make()
        spec = suite.spec
        suite.close()
        self.fps = round(spec.control_hz)
        self.features = {
            "action": PolicyFeature(type=FeatureType.ACTION, shape=(spec.action.dim,)),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=(len(spec.proprio_names),)),
        }
        self.features_map = {"action": ACTION, "agent_pos": OBS_STATE}
        for camera in spec.cameras:
            shape = (camera.height, camera.width, 3)
            self.features[f"pixels/{camera.name}"] = PolicyFeature(type=FeatureType.VISUAL, shape=shape)
            self.features_map[f"pixels/{camera.name}"] = f"{OBS_IMAGES}.{camera.name}"

    @property
    def tasks(self) -> list[str]:
        """The tasks by name."""
        return self.task.split(",")

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """None: `create_envs` makes what is needed."""
        return {}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """``n_envs`` copies of every task: suite → number of the task → its environments."""
        side_by_side = gym.vector.AsyncVectorEnv if use_async_envs and n_envs > 1 else gym.vector.SyncVectorEnv
        context = {"context": "forkserver"} if side_by_side is gym.vector.AsyncVectorEnv else {}
        made = {}
        for number, task in enumerate(self.tasks):
            copies = [partial(SuiteEnv, task, self._make)] * n_envs
            made[number] = side_by_side(copies, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP, **context)
        return {suite_of(self.tasks[0]): made}

    def _make(self) -> Suite:
        names = {suite_of(task) for task in self.tasks}
        if len(names) > 1:
            raise UnderstudyError(f"tasks of one suite at a time, got {self.task}")
        return make_suite(names.pop(), **self.suite)


class SuiteEnv(gym.Env):
    """One task of a suite behind gymnasium's interface, with the keys that LeRobot reads."""

    def __init__(self, task: str, make: Callable[[], Suite]) -> None:
        self.task, self._suite = task, make()
        spec = self._suite.spec
        self._max_episode_steps = self._suite.max_steps
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(spec.control_hz)}
        self.render_mode = "rgb_array"
        self.action_space = gym.spaces.Box(np.float32(spec.action.low), np.float32(spec.action.high))
        pictures = {c.name: gym.spaces.Box(0, 255, (c.height, c.width, 3), np.uint8) for c in spec.cameras}
        proprio = gym.spaces.Box(-np.inf, np.inf, (len(spec.proprio_names),), np.float32)
        self.observation_space = gym.spaces.Dict({"pixels": gym.spaces.Dict(pictures), "agent_pos": proprio})
        self._suite.reset(task, TEST_SEEDS.start)
        self.task_description = self._suite.instruction

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The test scene ``seed``; without one, a scene drawn from the second half of them."""
        super().reset(seed=seed, options=options)
        scene = int(self.np_random.integers(len(TEST_SEEDS) // 2, len(TEST_SEEDS))) if seed is None else seed
        self._suite.reset(self.task, TEST_SEEDS[scene])
        return self._observation(), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One control step; the reward is 1 when the task is achieved."""
        self._suite.step(governed(np.asarray(action, np.float32), self._suite.spec.action))
        done = self._suite.success
        late = self._suite.steps >= self._suite.max_steps
        return self._observation(), float(done), done, late and not done, {"is_success": done}

    def render(self) -> np.ndarray:
        """A frame [256, 256, 3] for people to watch."""
        return self._suite.film(256)

    def close(self) -> None:
        """Free the renderer."""
        self._suite.close()

    def _observation(self) -> dict[str, Any]:
        seen = self._suite.observe()
        return {"pixels": dict(seen.images), "agent_pos": seen.proprio}
