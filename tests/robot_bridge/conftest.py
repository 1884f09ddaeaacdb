"""The toys that the bridge is tried with: ``from robot_bridge_toys import …``, ``from robot_bridge_rig import …``."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

for name in ("toys", "rig"):
    spec = spec_from_file_location(f"robot_bridge_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
