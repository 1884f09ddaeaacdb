"""Which OpenGL is chosen, for whom; the probes themselves are answered for, but for one run in a real child."""

import os
import subprocess
import sys

import pytest

from sim import rendering
from sim.rendering import CHOSEN, apt_line, choose_backend


@pytest.fixture
def machine(monkeypatch):
    """A Linux machine without a display, on which the backends named by the test work; nothing was chosen yet."""
    asked: list[str] = []
    for name in (CHOSEN, "MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, "")  # so that what the choice writes is taken back after the test
        monkeypatch.delenv(name)
    monkeypatch.setattr(rendering, "_replace_in_imported_mujoco", lambda backend: None)
    monkeypatch.setattr(rendering.platform, "system", lambda: "Linux")

    def with_working(*backends):
        monkeypatch.setattr(rendering, "_works", lambda backend: asked.append(backend) or backend in backends)
        return asked

    return with_working


@pytest.mark.parametrize(
    ("working", "expected"),
    [(("egl", "osmesa"), "egl"), (("osmesa",), "osmesa"), ((), "none")],
)
def test_the_first_that_works_is_taken(machine, working, expected):
    machine(*working)
    assert choose_backend() == expected
    assert os.environ["MUJOCO_GL"] == ("disable" if expected == "none" else expected)
    assert os.environ.get("PYOPENGL_PLATFORM") == (None if expected == "none" else expected)


def test_a_window_system_is_the_last_resort(machine, monkeypatch):
    machine()
    monkeypatch.setenv("DISPLAY", ":0")
    assert choose_backend() == "glfw"


def test_other_systems_have_one_of_their_own(machine, monkeypatch):
    asked = machine()
    monkeypatch.setattr(rendering.platform, "system", lambda: "Darwin")
    assert choose_backend() == "glfw"
    assert asked == []


def test_the_choice_is_remembered_and_not_probed_again(machine):
    asked = machine("osmesa")
    assert choose_backend() == "osmesa"
    first = list(asked)
    assert choose_backend() == "osmesa"
    assert asked == first == ["egl", "osmesa"]


def test_a_choice_is_made_anew_when_the_user_changes_his_mind(machine, monkeypatch):
    machine("egl", "osmesa")
    assert choose_backend() == "egl"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert choose_backend() == "osmesa"


@pytest.mark.parametrize("word", ["off", "DISABLE", "0"])
def test_the_user_may_switch_opengl_off(machine, monkeypatch, word):
    asked = machine("egl")
    monkeypatch.setenv("MUJOCO_GL", word)
    assert choose_backend() == "none"
    assert asked == []


@pytest.mark.parametrize("impossible", ["osmesa", "glfw"])
def test_what_the_user_asks_for_in_vain_is_replaced_with_a_warning(machine, monkeypatch, caplog, impossible):
    machine("egl")
    monkeypatch.setenv("MUJOCO_GL", impossible)
    assert choose_backend() == "egl"
    assert f"MUJOCO_GL={impossible}" in caplog.text
    assert apt_line() in caplog.text


@pytest.mark.parametrize("result", [OSError("no such program"), subprocess.TimeoutExpired("probe", 1)])
def test_a_probe_that_does_not_run_means_no(monkeypatch, result):
    def fail(*args, **kwargs):
        raise result

    monkeypatch.setattr(rendering.subprocess, "run", fail)
    assert not rendering._works("egl")


def test_a_probe_that_crashes_means_no(monkeypatch):
    monkeypatch.setitem(rendering._PROBES, "egl", "import os; os.kill(os.getpid(), 11)")
    assert not rendering._works("egl")
    monkeypatch.setitem(rendering._PROBES, "egl", "raise SystemExit(0)")
    assert rendering._works("egl")


def test_apt_asks_for_rights_only_where_they_are_missing(monkeypatch):
    monkeypatch.setattr(rendering.os, "geteuid", lambda: 0, raising=False)
    assert apt_line().startswith("apt-get install")
    monkeypatch.setattr(rendering.os, "geteuid", lambda: 1000, raising=False)
    assert apt_line().startswith("sudo apt-get install")


@pytest.mark.parametrize(
    ("asked", "mujoco_first"),
    [("", True), ("", False), ("osmesa", False), ("glfw", False), ("nonsense", False)],
)
def test_cameras_can_be_imported_whatever_the_environment_says(asked, mujoco_first):
    """In a real child: the renderer that is reported draws, also when mujoco was imported before it was chosen."""
    environment = {name: value for name, value in os.environ.items() if name not in (CHOSEN, "PYOPENGL_PLATFORM")}
    environment["MUJOCO_GL"] = asked
    program = f"""
{"import mujoco" if mujoco_first else ""}
from sim.cameras import BACKEND, make_camera
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><geom type="sphere" size=".2"/>'
    '<camera name="eye" pos="0 -1 0" xyaxes="1 0 0 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = "ray" if BACKEND == "none" else "gl"
print(BACKEND, make_camera(model, "eye", height=32, width=32, renderer=renderer).render(data).std() > 0)
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    backend, drawn = done.stdout.split()[-2:]
    assert backend in ("egl", "osmesa", "glfw", "none")
    assert drawn == "True"
