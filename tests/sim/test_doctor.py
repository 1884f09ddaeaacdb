"""The doctor's rows, on machines that lack things, and its table and file on this one."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from sim import doctor
from vla.errors import UnderstudyError


def test_a_healthy_machine_exits_0_and_a_broken_one_1(monkeypatch, capsys, tmp_path):
    file = tmp_path / "doctor.json"
    rows = [doctor.Check("numpy", "ok", "2.2"), doctor.Check("OpenGL", "warn", "none", "apt-get install [mesa]")]
    monkeypatch.setattr(doctor, "examine", lambda: rows)
    assert doctor.main(["--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "[mesa]" in printed
    written = json.loads(file.read_text("utf-8"))
    assert written["ok"] is True
    assert written["checks"][1] == {
        "name": "OpenGL",
        "status": "warn",
        "found": "none",
        "advice": "apt-get install [mesa]",
    }
    rows.append(doctor.Check("torch", "fail", "not installed", "run: make setup"))
    assert doctor.main(["--json", str(file)]) == 1
    assert json.loads(file.read_text("utf-8"))["ok"] is False


def test_a_file_that_cannot_be_written_is_said_so(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "examine", list)
    with pytest.raises(UnderstudyError, match="cannot write"):
        doctor.main(["--json", str(tmp_path / "nowhere" / "doctor.json")])


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        doctor.main(["--help"])
    assert stop.value.code == 0
    assert "example: vla doctor" in capsys.readouterr().out


def test_packages_are_the_projects_own_without_extras(monkeypatch):
    wanted = ["numpy>=2", "absent-thing>=1", "rich>=999", 'pyzmq>=26; extra == "robot"']
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    rows = {row.name: row for row in doctor.packages()}
    assert list(rows) == ["numpy", "absent-thing", "rich"]
    assert [row.status for row in rows.values()] == ["ok", "fail", "warn"]
    assert ">=999" in rows["rich"].advice
    assert all(row.advice for row in rows.values() if row.status != "ok")


def test_an_environment_without_the_project_fails(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", missing)
    assert [row.status for row in doctor.packages()] == ["fail"]


def test_a_package_of_the_right_version_needs_nothing():
    assert doctor.package(Requirement("numpy>=2")).advice == ""


def test_the_wrong_python_fails(monkeypatch):
    assert doctor.python().status == "ok"
    monkeypatch.setattr(doctor, "PYTHON", (3, 99))
    assert (doctor.python().status, doctor.python().advice) == ("fail", "install 3.99")


def test_without_opengl_the_doctor_names_the_one_line_that_gives_it(monkeypatch):
    monkeypatch.setattr(doctor, "choose_backend", lambda: "none")
    row = doctor.opengl()
    assert row.status == "warn"
    assert "apt-get install -y --no-install-recommends libosmesa6" in row.advice


def test_an_opengl_that_does_not_draw_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor, "choose_backend", lambda: "egl")
    monkeypatch.setattr(doctor, "_TRY_OPENGL", "raise SystemExit('the picture is empty')")
    row = doctor.opengl()
    assert (row.status, row.found) == ("warn", "egl: the picture is empty")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("print('noise'); print('50 tasks')", (True, "50 tasks")),
        ("import nothing_of_that_name", (False, "ModuleNotFoundError: No module named 'nothing_of_that_name'")),
        ("import os; os._exit(7)", (False, "crashed (exit code 7)")),
        ("pass", (True, "")),
    ],
)
def test_trials_run_in_a_child_and_report_their_last_line(program, expected):
    assert doctor._try(program) == expected


def test_a_trial_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(doctor, "_TRIAL_SECONDS", 0.2)
    assert doctor._try("import time; time.sleep(60)") == (False, "no answer within 0 s")


def test_little_room_is_a_warning_with_advice(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * 2**30))
    row = doctor.disk(tmp_path)
    assert (row.status, row.found) == ("warn", "2.0 GB free")
    assert "5 GB" in row.advice
    monkeypatch.setattr(doctor, "MEMORY_GB", 1e6)
    assert doctor.memory().status == "warn"


def test_what_is_required_works_on_this_machine():
    ray = doctor._tried("ray camera", doctor._TRY_RAYS, advice="")
    world = doctor._tried("Meta-World", doctor._TRY_METAWORLD, advice="")
    assert (ray.status, ray.found) == ("ok", "draws a picture")
    assert (world.status, world.found) == ("ok", "50 tasks")


@pytest.mark.slow
def test_every_row_of_this_machine_says_what_to_do_where_something_is_amiss():
    rows = doctor.examine()
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.found or row.advice for row in rows)
    assert all(bool(row.advice) == (row.status != "ok") for row in rows)
    assert doctor.disk(Path.cwd()).name == "disk"
