"""Fixtures shared by every test."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SAMPLES = REPO.parent / "shared" / "samples"


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real recordings that lies beside the repo; without it the test is skipped, but never in CI."""
    if not SAMPLES.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI must run on the real recordings, but there is no {SAMPLES}")
        pytest.skip(f"no real recordings at {SAMPLES}")
    return SAMPLES
