"""Choose how OpenGL is reached, before mujoco is imported, so that nobody has to know of ``MUJOCO_GL``.

    choose_backend()      # egl → osmesa → glfw (with a display) → none
    import mujoco         # works in every case; without OpenGL, `sim.cameras.RayCamera` sees

MuJoCo decides at import which library it will draw with, and fails there when the library is missing. A short-lived
child process therefore tries the libraries first: a driver that crashes takes only the child with it.
"""

import logging
import os
import platform
import subprocess
import sys
from importlib import import_module
from typing import Literal, get_args

Backend = Literal["egl", "osmesa", "glfw", "none"]

CHOSEN = "UNDERSTUDY_GL"
"""Environment variable that remembers the choice for this process and its children."""

_OFF = ("disable", "disabled", "off", "false", "0")
_PROBE_SECONDS = 10.0

_PROBE_EGL = """
import ctypes as c
for name in ("libOpenGL.so.0", "libGL.so.1"):
    try:
        c.CDLL(name, c.RTLD_GLOBAL)
        break
    except OSError:
        continue
else:
    raise SystemExit("neither libOpenGL nor libGL")
egl, P = c.CDLL("libEGL.so.1"), c.c_void_p
for name in ("eglGetProcAddress", "eglCreateContext"):
    getattr(egl, name).restype = P
query = c.CFUNCTYPE(c.c_uint, c.c_int, c.POINTER(P), c.POINTER(c.c_int))(egl.eglGetProcAddress(b"eglQueryDevicesEXT"))
display_of = c.CFUNCTYPE(P, c.c_uint, P, P)(egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT"))
devices, count = (P * 10)(), c.c_int()
query(10, devices, c.byref(count))
for device in devices[: count.value]:
    display = P(display_of(0x313F, device, None))
    if not display or not egl.eglInitialize(display, None, None):
        continue
    wanted = (c.c_int * 7)(0x3033, 1, 0x3040, 8, 0x3025, 24, 0x3038)
    config, found = P(), c.c_int()
    egl.eglChooseConfig(display, wanted, c.byref(config), 1, c.byref(found))
    egl.eglBindAPI(0x30A2)
    context = P(egl.eglCreateContext(display, config, None, None))
    if found.value and context and egl.eglMakeCurrent(display, None, None, context):
        raise SystemExit(0)
raise SystemExit("no EGL device gives a headless OpenGL context")
"""

_PROBE_OSMESA = """
import ctypes as c, ctypes.util
mesa = c.CDLL(c.util.find_library("OSMesa") or "libOSMesa.so.8")
mesa.OSMesaCreateContextExt.restype = c.c_void_p
raise SystemExit(0 if mesa.OSMesaCreateContextExt(0x1908, 24, 8, 0, None) else "OSMesa gives no context")
"""

_PROBES = {"egl": _PROBE_EGL, "osmesa": _PROBE_OSMESA}

logger = logging.getLogger(__name__)


def choose_backend() -> Backend:
    """Find an OpenGL that draws without a window, and tell MuJoCo to use it.

    Sets ``MUJOCO_GL`` and ``PYOPENGL_PLATFORM``; keeps what the user has set there, unless it cannot work: then
    another is looked for, with a warning, because ``import mujoco`` would fail. Probes once (about 0.1 s) for this
    process and its children. Calling it after ``import mujoco`` still works: MuJoCo's choice is then replaced.
    """
    chosen = os.environ.get(CHOSEN)
    if chosen not in get_args(Backend) or os.environ.get("MUJOCO_GL") != _mujoco_word(chosen):
        chosen = _from_user() or _probe_all()
        os.environ[CHOSEN] = chosen
    os.environ["MUJOCO_GL"] = _mujoco_word(chosen)
    if chosen in _PROBES:
        os.environ["PYOPENGL_PLATFORM"] = chosen
    _replace_in_imported_mujoco(chosen)
    return chosen


def apt_line() -> str:
    """The one command that gives a Debian or Ubuntu machine an OpenGL (the smallest set that works: 8 packages)."""
    sudo = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install -y --no-install-recommends libosmesa6"


def _mujoco_word(backend: Backend) -> str:
    return "disable" if backend == "none" else backend


def _from_user() -> Backend | None:
    """The backend that ``MUJOCO_GL`` asks for; ``None`` when it asks for nothing, or for what cannot work."""
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    if asked in _OFF:
        return "none"
    if asked in ("glfw", "glx", "wgl", "cgl"):
        asked = "glfw"
    if asked != "glfw" and asked not in _PROBES:
        return None
    if _has_window_system() if asked == "glfw" else _works(asked):
        return asked
    logger.warning("MUJOCO_GL=%s cannot work here and is ignored; what would help: %s", asked, apt_line())
    return None


def _probe_all() -> Backend:
    if platform.system() != "Linux":
        return "glfw"
    for backend in _PROBES:
        if _works(backend):
            return backend
    return "glfw" if _has_window_system() else "none"


def _has_window_system() -> bool:
    return platform.system() != "Linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _works(backend: str) -> bool:
    command = [sys.executable, "-I", "-S", "-c", _PROBES[backend]]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        logger.debug("the probe of %s did not run: %s", backend, problem)
        return False
    logger.debug("probe of %s: %s %s", backend, done.returncode, done.stderr.decode(errors="replace").strip())
    return done.returncode == 0


def _replace_in_imported_mujoco(backend: Backend) -> None:
    """MuJoCo looks its context class up at each use, so an earlier ``import mujoco`` does no harm."""
    module = sys.modules.get("mujoco.gl_context")
    if module is None or backend not in _PROBES:
        return
    current = getattr(getattr(module, "GLContext", None), "__module__", "")
    if current != f"mujoco.{backend}":
        module.GLContext = import_module(f"mujoco.{backend}").GLContext
