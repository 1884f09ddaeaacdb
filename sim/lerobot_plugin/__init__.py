"""Our suites and policies for LeRobot's commands: ``--env.discover_packages_path=sim.lerobot_plugin``."""

import policies.lerobot_plugin  # noqa: F401 registers the policies: LeRobot takes no such flag beside --policy.path
from sim.lerobot_plugin.environment import UnderstudyEnvConfig

__all__ = ["UnderstudyEnvConfig"]
