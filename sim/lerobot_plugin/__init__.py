"""Our suites, policies, arms and videos for LeRobot's commands: ``--env.discover_packages_path=sim.lerobot_plugin``.

``--robot.discover_packages_path`` for those that drive an arm.
"""

import policies.lerobot_plugin.configuration_understudy  # noqa: F401 LeRobot takes no flag for it beside --policy.path
from sim.lerobot_plugin.environment import UnderstudyEnvConfig
from sim.lerobot_plugin.robot import ArmRobot, ArmRobotConfig
from sim.lerobot_plugin.teleoperator import DemoTeleoperator, DemoTeleoperatorConfig

__all__ = ["ArmRobot", "ArmRobotConfig", "DemoTeleoperator", "DemoTeleoperatorConfig", "UnderstudyEnvConfig"]
