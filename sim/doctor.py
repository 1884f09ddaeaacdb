"""What this machine can do: one row for each thing that Understudy needs or profits from, and what to do about it.

    vla doctor --json doctor.json

Whatever could crash (a driver, a broken wheel) is tried in a short-lived child process.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sim.rendering import apt_line, choose_backend
from vla.errors import UnderstudyError

Status = Literal["ok", "warn", "fail"]
PYTHON = (3, 12)
DISK_GB, MEMORY_GB = 5.0, 4.0  # for demonstrations and checkpoints; for a training beside two rollout workers

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}
_TRIAL_SECONDS = 180.0
_SETUP = "run: make setup"

_DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><geom type="sphere" size=".2" rgba="1 0 0 1"/>'
    '<camera name="eye" pos="0 -1 0" xyaxes="1 0 0 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
camera = Camera(model, "eye", height=64, width=64)
if camera.render(data).std() == 0:
    raise SystemExit("the picture is empty")
"""
_TRY_RAYS = f"from sim.cameras import RayCamera as Camera\n{_DRAW}\nprint('draws a picture')"
_TRY_OPENGL = f"""
from sim.cameras import GLCamera as Camera
{_DRAW}
from OpenGL import GL
print(GL.glGetString(GL.GL_RENDERER).decode())
"""
_TRY_METAWORLD = """
from sim.suite import make_suite
suite = make_suite("metaworld", cameras=())
suite.reset("metaworld/reach", seed=0)
suite.step(suite.expert()())
print(len(suite.task_names()), "tasks")
"""
_TRY_GPU = """
import torch
if torch.cuda.is_available():
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    print(", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GB)" for gpu in gpus))
elif torch.backends.mps.is_available():
    print("Apple GPU (mps)")
"""


@dataclass(frozen=True)
class Check:
    """One row: what was looked for, how it is, what was found, and what to do about it ("" when nothing)."""

    name: str
    status: Status
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Every check, in the order of the table; takes about ten seconds."""
    return [
        python(),
        *packages(),
        cpu(),
        gpu(),
        opengl(),
        _tried("ray camera", _TRY_RAYS, advice=f"reinstall mujoco; {_SETUP}"),
        _tried("Meta-World", _TRY_METAWORLD, advice=f"reinstall metaworld; {_SETUP}"),
        disk(Path.cwd()),
        memory(),
    ]


def python() -> Check:
    """The interpreter's version."""
    right = sys.version_info[:2] == PYTHON
    wanted = ".".join(map(str, PYTHON))
    return Check("Python", "ok" if right else "fail", platform.python_version(), "" if right else f"install {wanted}")


def packages() -> Iterator[Check]:
    """The packages that the project's metadata asks for, extras left out."""
    try:
        wanted = [Requirement(line) for line in requires("understudy") or ()]
    except PackageNotFoundError:
        yield Check("understudy", "fail", "not installed", _SETUP)
        return
    for requirement in wanted:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield package(requirement)


def package(requirement: Requirement) -> Check:
    """One package: there, and of a version that fits."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Check(requirement.name, "fail", "not installed", _SETUP)
    if requirement.specifier.contains(found, prereleases=True):
        return Check(requirement.name, "ok", found)
    return Check(requirement.name, "warn", found, f"wanted {requirement.specifier}; {_SETUP}")


def cpu() -> Check:
    """Cores that this process may use, and whether they compute in bf16 themselves."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    listed = Path("/proc/cpuinfo")
    words = set(listed.read_text("utf-8").split()) if listed.exists() else set()
    native = sorted(words & {"avx512_bf16", "amx_bf16", "bf16"})
    return Check("CPU", "ok", f"{cores} cores, bf16: {', '.join(native) or 'emulated (train in float32)'}")


def gpu() -> Check:
    """What PyTorch can train on; a GPU is never required."""
    passed, found = _try(_TRY_GPU)
    if not passed:
        return Check("GPU", "fail", found, f"PyTorch does not start; {_SETUP}")
    if found:
        return Check("GPU", "ok", found)
    if Path("/dev/nvidia0").exists():
        return Check("GPU", "warn", "an NVIDIA GPU that PyTorch cannot use", "install a driver for this PyTorch's CUDA")
    return Check("GPU", "ok", "none: everything runs on the CPU, at the small presets")


def opengl() -> Check:
    """The library that pictures are drawn with; without one the ray camera sees."""
    backend = choose_backend()
    if backend == "none":
        return Check("OpenGL", "warn", "none: the ray camera is used", f"for faster large pictures: {apt_line()}")
    passed, found = _try(_TRY_OPENGL)
    if passed:
        return Check("OpenGL", "ok", f"{backend}: {found}")
    return Check("OpenGL", "warn", f"{backend}: {found}", "set MUJOCO_GL=off to use the ray camera")


def disk(folder: Path) -> Check:
    """Free space where the command is run."""
    return _enough("disk", shutil.disk_usage(folder).free / 2**30, DISK_GB, "make room, or write outputs elsewhere")


def memory() -> Check:
    """Memory that programs may still take; on other systems than Linux all that the machine has."""
    listed = Path("/proc/meminfo")
    if listed.exists():
        lines = dict(line.split(":", 1) for line in listed.read_text("utf-8").splitlines())
        free = int(lines["MemAvailable"].split()[0]) / 2**20
    elif hasattr(os, "sysconf"):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    else:
        return Check("memory", "ok", "not known on this system")
    return _enough("memory", free, MEMORY_GB, "close other programs, or use fewer workers and a smaller batch")


def _enough(name: str, free_gb: float, wanted_gb: float, advice: str) -> Check:
    found = f"{free_gb:.1f} GB free"
    if free_gb >= wanted_gb:
        return Check(name, "ok", found)
    return Check(name, "warn", found, f"{wanted_gb:g} GB are comfortable: {advice}")


def _tried(name: str, program: str, *, advice: str) -> Check:
    passed, found = _try(program)
    return Check(name, "ok", found) if passed else Check(name, "fail", found, advice)


def _try(program: str) -> tuple[bool, str]:
    """Run a few lines in a child; whether they went through, and the last line that they wrote."""
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TRIAL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False, f"no answer within {_TRIAL_SECONDS:.0f} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode != 0 and not lines:
        return False, f"crashed (exit code {done.returncode})"
    return done.returncode == 0, lines[-1] if lines else ""


def main(argv: list[str]) -> int:
    """Print the table; 0 unless something required fails."""
    parser = argparse.ArgumentParser(
        prog="vla doctor",
        description="Check what this machine can do, and say what to do where something is missing.",
        epilog="example: vla doctor --json doctor.json",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args(argv)
    checks = examine()
    passed = all(check.status != "fail" for check in checks)
    table = Table("", "what", "found", "what to do")
    for check in checks:
        color = _COLORS[check.status]
        table.add_row(f"[{color}]{check.status}[/]", check.name, escape(check.found), escape(check.advice))
    Console().print(table)
    if options.json:
        text = json.dumps({"ok": passed, "checks": [asdict(check) for check in checks]}, indent=1)
        try:
            options.json.write_text(text + "\n", "utf-8")
        except OSError as problem:
            raise UnderstudyError(f"cannot write {options.json}: {problem.strerror}; give another --json") from problem
    return 0 if passed else 1
