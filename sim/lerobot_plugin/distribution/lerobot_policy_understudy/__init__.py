"""LeRobot imports every installed distribution whose name begins with ``lerobot_policy_``: this one registers ours."""

import sim.lerobot_plugin  # noqa: F401
