"""``from retarget_made_hands import …``: a hand made of numbers."""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from robot_bridge.retarget.tracker import hands_python
from vla.errors import UnderstudyError

spec = spec_from_file_location("retarget_made_hands", Path(__file__).with_name("made_hands.py"))
if spec.name not in sys.modules:
    sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])


@pytest.fixture(scope="session")
def mediapipe():
    """The environment of the tracker; without it the test is skipped, but never in CI."""
    try:
        return hands_python()
    except UnderstudyError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the tracker: {error}")
        pytest.skip(str(error))
