"""The toys that the bridge is tried with: ``from robot_bridge_toys import …``."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

SPEC = spec_from_file_location("robot_bridge_toys", Path(__file__).with_name("toys.py"))
if SPEC.name not in sys.modules:
    sys.modules[SPEC.name] = module_from_spec(SPEC)
    SPEC.loader.exec_module(sys.modules[SPEC.name])
