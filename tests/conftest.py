"""Fixtures shared by every test."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest

# One thread for torch and BLAS, as in the workers of the program: sums are rounded otherwise with more.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# The contract's shapes are checked in tests and cost nothing in production. The hook must stand before vla.types is
# imported; with the numeric tower an int is a float, as mypy has it.
jaxtyping.install_import_hook("vla.types", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

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


@pytest.fixture(scope="session")
def tiny_vlm() -> ModuleType:
    """``tests/tiny_vlm.py``, which takes seconds to import: vision-language models made on the spot."""
    spec = spec_from_file_location("tiny_vlm", REPO / "tests" / "tiny_vlm.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def run_python():
    """A call that runs code in a fresh interpreter, as a person would: without the test session's hooks."""

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)

    return run


FAULTS = 27


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rows of faults travel with the reports, also from a worker's process."""
    for item in items:
        item.user_properties += [("fault", mark.args[0]) for mark in item.iter_markers("fault")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which rows of faults have been tried: a row counts when one of its tests has passed."""
    rows = {
        outcome: {
            row
            for report in terminalreporter.getreports(outcome)
            for name, row in getattr(report, "user_properties", ())  # a module that cannot be read has none
            if name == "fault"
        }
        for outcome in ("passed", "failed", "error", "skipped")
    }
    if not any(rows.values()):
        return
    bad = rows["failed"] | rows["error"]
    told = {
        f"of {FAULTS} tested": rows["passed"] - bad,
        "failed": bad,
        "skipped": rows["skipped"] - rows["passed"] - bad,
    }
    terminalreporter.write_line(
        "faults: rows "
        + "; ".join(f"{what}: {', '.join(map(str, sorted(found))) or 'none'}" for what, found in told.items())
    )
