"""What the bridge is tried with: ``from robot_bridge_toys import …``, and so on."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

for stem in ("toys", "rig", "fake_arms", "recorded"):
    spec = spec_from_file_location(f"robot_bridge_{stem}", Path(__file__).with_name(f"{stem}.py"))
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
