"""Our suites and policies for LeRobot's commands: ``--env.discover_packages_path=sim.lerobot_plugin``."""

import policies.lerobot_plugin.configuration_understudy  # noqa: F401 LeRobot takes no flag for it beside --policy.path
from sim.lerobot_plugin.environment import UnderstudyEnvConfig

__all__ = ["UnderstudyEnvConfig"]
