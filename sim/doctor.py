"""What this machine can do: one row for each thing that Understudy needs or profits from, and what to do about it.

    vla doctor --json doctor.json
    vla doctor --checkpoint outputs/train --arm sim      # whether a policy fits a robot: `sim.robot_doctor`

Whatever could crash (a driver, a broken wheel) is tried in a short-lived child process.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sim.guest import Home
from sim.rendering import apt_line, choose_backend
from vla.errors import UnderstudyError

if TYPE_CHECKING:
    from robot_bridge.fitting import Fit

Status = Literal["ok", "warn", "fail"]
PYTHON = (3, 12)
DISK_GB, MEMORY_GB = 5.0, 4.0  # for demonstrations and checkpoints; for a training beside two rollout workers

EXAMPLES = """\
example: vla doctor --json doctor.json
         vla doctor --checkpoint outputs/train --dataset outputs/collect --arm sim
         vla doctor --server tcp://10.0.0.7:5555 --key keys/left.key_secret --server-key keys/server.key \\
             --arm ur --arm-option host=192.168.0.10 --camera front=480x640
"""
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
        *guests(),
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


def guests() -> Iterator[Check]:
    """The suites that play in environments of their own; none is required."""
    for name in ("robosuite", "libero"):
        there = Home(name).folder
        missing = not (there / "bin" / "python").is_file()
        yield Check(f"suite {name}", "ok", f"not set up; `make {name}` does it" if missing else str(there))


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
        description="Check what this machine can do, and say what to do where something is missing; or, with any of "
        "--checkpoint, --dataset, --arm and --server, whether these fit each other, before anything moves.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    _add_robot(parser.add_argument_group("a robot"))
    options = parser.parse_args(argv)
    if options.checkpoint or options.dataset or options.arm or options.server:
        from sim.robot_doctor import examine_robot, robot_of  # what these import may be what the machine lacks

        rows: Sequence[Check | Fit] = examine_robot(robot_of(options))
        table = Table("", "what", "given", "wanted", "what to do")
    else:
        rows = examine()
        table = Table("", "what", "found", "what to do")
    for row in rows:
        status, *words = _words(row)
        table.add_row(f"[{_COLORS[status]}]{status}[/]", *map(escape, words))
    Console().print(table)
    passed = all(row.status != "fail" for row in rows)
    if options.json:
        _write(options.json, {"ok": passed, "checks": [asdict(row) for row in rows]})
    return 0 if passed else 1


def _add_robot(parser: argparse._ArgumentGroup) -> None:
    """The options that make a `sim.robot_doctor.Robot`."""
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="a policy's folder")
    parser.add_argument("--embodiment", default="", help="of a policy for several arms: which")
    parser.add_argument("--dataset", type=Path, metavar="DIR", help="recordings")
    parser.add_argument(
        "--arm", default="", metavar="NAME", help="as in robot_bridge: sim, ur, so101, …; not connected"
    )
    parser.add_argument("--arm-option", dest="arm_options", action="append", metavar="KEY=VALUE", help="of that arm")
    parser.add_argument(
        "--camera", dest="cameras", action="append", metavar="NAME=HxW", help="that sees a real arm, and its pictures"
    )
    parser.add_argument("--server", default="", metavar="ADDRESS", help="of vla serve, e.g. tcp://127.0.0.1:5555")
    parser.add_argument("--key", type=Path, help="the robot's .key_secret")
    parser.add_argument("--server-key", type=Path, help="the server's .key")


def _words(row: "Check | Fit") -> tuple[str, ...]:
    """The cells of a row."""
    if isinstance(row, Check):
        return row.status, row.name, row.found, row.advice
    return row.status, row.about, row.given, row.wanted, row.advice


def _write(file: Path, content: dict[str, object]) -> None:
    try:
        file.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    except OSError as problem:
        raise UnderstudyError(f"cannot write {file}: {problem.strerror}; give another --json") from problem
