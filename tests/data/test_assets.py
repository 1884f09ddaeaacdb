"""Fetching assets: complete or not at all, and never other files than those of the first fetch."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from vla.data import assets
from vla.data.assets import FOLDER, MANIFEST, fetch_libero, libero_assets
from vla.data.cli import main
from vla.errors import UnderstudyError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Placeholders of all that LIBERO's package refers to, as in a checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "sim")
        folder = tmp_path_factory.mktemp("made")
        import_module("placeholders").make_placeholders(folder / "libero/libero/assets")
    return folder


@pytest.fixture
def checkout(made, tmp_path):
    """A copy, to be spoilt."""
    from shutil import copytree

    copytree(made, tmp_path / "checkout")
    return tmp_path / "checkout"


@pytest.fixture
def target(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache" / "assets"))
    return tmp_path / "cache" / "assets"


def inside(checkout, name="plate/mesh/plate.obj"):
    return checkout / "libero/libero/assets/stable_scanned_objects" / name


def test_what_the_tasks_need_is_copied_with_what_that_refers_to(checkout, target, capsys):
    (checkout / "libero/libero/assets/not_needed.bin").write_bytes(b"x")
    assert main(["fetch-assets", "libero", "--from", str(checkout)]) == 0
    assert "taken as they are" in capsys.readouterr().out
    assert libero_assets() == target
    there = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert there == {MANIFEST, *json.loads((target / MANIFEST).read_text())}
    assert "stable_scanned_objects/plate/mesh/plate.obj" in there
    assert "not_needed.bin" not in there
    assert [path.name for path in target.parent.iterdir()] == ["assets"]


@pytest.mark.parametrize("place", [".", "libero", "libero/libero", "libero/libero/assets"])
def test_the_assets_are_found_wherever_a_user_points(checkout, target, place):
    assert not fetch_libero(checkout / place).known
    assert fetch_libero(checkout / place).known


def test_an_incomplete_checkout_is_refused_and_leaves_nothing(checkout, target):
    inside(checkout).unlink()
    with pytest.raises(UnderstudyError, match=r"1 of the \d+ files .* are not in .*plate\.obj for one"):
        fetch_libero(checkout)
    inside(checkout).touch()
    with pytest.raises(UnderstudyError, match=r"plate\.obj for one"):
        fetch_libero(checkout)
    assert not target.exists()


def test_a_pointer_of_git_lfs_is_no_file(checkout, target):
    inside(checkout).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UnderstudyError, match="git lfs pull"):
        fetch_libero(checkout)


def test_a_reference_may_not_lead_out(checkout, target):
    model = inside(checkout, "plate/plate.xml")
    model.write_text(model.read_text().replace("mesh/plate.obj", "../../../../../../etc/passwd"))
    with pytest.raises(UnderstudyError, match="outside of the assets"):
        fetch_libero(checkout)
    model.write_text("<mujoco>")
    with pytest.raises(UnderstudyError, match="is no XML"):
        fetch_libero(checkout)


def test_later_fetches_and_starts_are_held_to_the_first(checkout, target):
    fetch_libero(checkout)
    inside(checkout).write_text("another plate")
    with pytest.raises(UnderstudyError, match=r"other files than those that were fetched .*plate\.obj"):
        fetch_libero(checkout)
    libero_assets()
    (target / "stable_scanned_objects/plate/mesh/plate.obj").write_text("a third plate")
    with pytest.raises(UnderstudyError, match=r"1 of LIBERO's files .* are not those that were fetched, .*plate\.obj"):
        libero_assets()
    (target / "scenes/libero_floor_base_style.xml").unlink()
    with pytest.raises(UnderstudyError, match="2 of LIBERO's files"):
        libero_assets()


def test_a_spoilt_copy_is_mended_by_the_same_checkout(checkout, target):
    fetch_libero(checkout)
    (target / "stable_scanned_objects/plate/mesh/plate.obj").unlink()
    assert fetch_libero(checkout).known
    assert libero_assets() == target


def test_a_folder_of_somebody_else_is_not_written_to(checkout, target, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UnderstudyError, match="was not made by this command"):
        fetch_libero(checkout, tmp_path / "mine")


def test_another_target_says_how_the_suite_finds_it(checkout, target, tmp_path, capsys):
    assert main(["fetch-assets", "libero", "--from", str(checkout), "--to", str(tmp_path / "there")]) == 0
    assert f"{FOLDER}={tmp_path / 'there'}" in capsys.readouterr().out


def test_nothing_there_says_what_to_do(target, tmp_path):
    with pytest.raises(UnderstudyError, match=r"not at .*assets: run vla data fetch-assets libero --from DIR"):
        libero_assets()
    with pytest.raises(UnderstudyError, match="there are no assets of LIBERO in"):
        fetch_libero(tmp_path)


def test_the_default_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path))
    assert assets.libero_folder() == tmp_path / "libero-assets"
