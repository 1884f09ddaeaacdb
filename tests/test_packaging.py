"""What is installed, from what, and under which names."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPO = Path(__file__).resolve().parent.parent
PACKAGES = {"vla", "policies", "sim", "robot_bridge"}
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))
LOCK = (REPO / "requirements.lock").read_text("utf-8")
PINS = [block for block in re.split(r"\n(?=\S)", LOCK) if not block.startswith("#")]
LOCKED = [Requirement(re.split(r"\s\\?\s*(?:--hash|#)", block)[0].rstrip(" \\")) for block in PINS]
WANTED = [Requirement(line) for line in (*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"])]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pin(requirement):
    """The version that ``==`` names."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", f"{requirement} is not pinned"
    return specifier.version


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that the checkout stays clean."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "configs", "tests"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", source)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, target], cwd=source, check=True, capture_output=True)
    (path,) = target.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_our_four_packages_and_nothing_else(wheel):
    names = {Path(name).parts[0] for name in wheel.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == PACKAGES
    for path in (REPO / package for package in PACKAGES):
        apart = {file.parent for file in path.rglob("pyproject.toml")}  # distributions of their own
        ours = {p for p in path.rglob("*.py") if not apart & set(p.parents)}
        assert {p.relative_to(REPO).as_posix() for p in ours} <= set(wheel.namelist())


def test_the_wheel_holds_the_scenes_and_texts_that_the_code_reads(wheel):
    data = {p.relative_to(REPO).as_posix() for package in PACKAGES for p in (REPO / package).rglob("*.xml")}
    data |= {p.relative_to(REPO).as_posix() for package in PACKAGES for p in (REPO / package).rglob("*.json")}
    assert data
    assert data <= set(wheel.namelist())


def test_an_index_refuses_the_wheel(wheel):
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    assert "Classifier: Private :: Do Not Upload" in wheel.read(metadata).decode().splitlines()


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_nobody_else_owns_our_names(name):
    assert set(packages_distributions()[name]) == {PROJECT["project"]["name"]}


def test_the_command_is_installed():
    (script,) = (point for point in distribution("understudy").entry_points if point.group == "console_scripts")
    assert (script.name, script.value) == ("vla", "vla.cli:entry")


def test_every_pin_has_its_hashes():
    assert len(PINS) > 50
    assert not [block.split()[0] for block in PINS if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", block)]


def test_the_lock_names_no_place_to_download_from():
    assert not re.findall(r"^.*(?:://|--index|--extra-index|--find-links|--trusted-host| @ ).*$", LOCK, re.MULTILINE)


def test_the_lock_satisfies_what_the_project_asks_for():
    pins = {normal(requirement.name): pin(requirement) for requirement in LOCKED}
    asked = {normal(wanted.name): wanted for wanted in WANTED}
    assert not asked.keys() - pins.keys()
    assert not [f"{wanted}, locked {pins[n]}" for n, wanted in asked.items() if pins[n] not in wanted.specifier]


def test_what_is_installed_is_what_is_locked():
    applies = [requirement for requirement in LOCKED if not requirement.marker or requirement.marker.evaluate()]
    differs = [f"{r} but {v}" for r in applies if (v := distribution(r.name).version) != pin(r)]
    assert not differs, f"{differs}: run make setup"


def test_the_robot_extra_is_part_of_what_is_installed():
    asked = {normal(Requirement(line).name) for line in PROJECT["project"]["optional-dependencies"]["robot"]}
    assert asked <= {normal(wanted.name) for wanted in WANTED}


@pytest.mark.parametrize("path", ["uv.lock", ".venv/x", "outputs/x", "multirun/x", "dist/x"])
def test_what_tools_leave_behind_is_ignored(path):
    subprocess.run(["git", "-C", REPO, "check-ignore", "--quiet", path], check=True)
