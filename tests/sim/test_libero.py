"""LIBERO's tasks: names and words without its packages, episodes over placeholders where its environment is there."""

import io
import pickle
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from sim.suite import TEST_SEEDS, TRAIN_SEEDS, make_suite
from sim.tasks.libero import LiberoSuite
from sim.tasks.libero_states import initial_states
from sim.tasks.libero_tasks import SUITES, words
from vla.data.assets import FOLDER, fetch_libero
from vla.errors import UnderstudyError

SOUP, CHEESE = (
    f"libero/object/pick_up_the_{thing}_and_place_it_in_the_basket" for thing in ("alphabet_soup", "cream_cheese")
)


def test_there_are_five_suites_and_their_words_are_the_benchmarks():
    assert {suite: (len(one.names), one.max_steps) for suite, one in SUITES.items()} == {
        "spatial": (10, 220),
        "object": (10, 280),
        "goal": (10, 300),
        "long": (10, 520),
        "90": (90, 400),
    }
    assert len(set(LiberoSuite.task_names())) == 130
    assert words("put_the_bowl_on_the_stove") == "put the bowl on the stove"
    assert words("KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet") == "close the top drawer of the cabinet"
    assert words("LIVING_ROOM_SCENE1_put_both_x_in_y") == "put both x in y"
    assert all(words(name).islower() for one in SUITES.values() for name in one.names)


class Evil:
    """What runs a program when it is unpickled."""

    def __reduce__(self):
        return print, ("unpickled",)


def saved(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return path


def old_pickle(array):
    """As NumPy 1 wrote arrays, which is how LIBERO's states are written."""
    written = io.BytesIO()
    pickler = pickle._Pickler(written, protocol=2)  # the one in Python, whose names can be put back to the old ones
    pickler.dump(array)
    return written.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_initial_states_are_read_and_nothing_else_is(tmp_path, capsys):
    states = np.random.default_rng(0).normal(size=(50, 77))
    np.testing.assert_array_equal(initial_states(saved(tmp_path / "good", old_pickle(states))), states)
    wide = np.zeros((3, 300))
    assert initial_states(saved(tmp_path / "wide", old_pickle(wide))).shape == (3, 300)
    others = (
        Evil(),
        [states, Evil()],
        np.zeros((2, 2), np.float32),
        np.array([["a"]], object),
        {"a": states},
        states[0],
    )
    for number, other in enumerate(others):
        with pytest.raises(UnderstudyError, match="it is not read"):
            initial_states(saved(tmp_path / f"{number}", old_pickle(other)))
    assert capsys.readouterr().out == ""
    (tmp_path / "text").write_text("no zip")
    for name in ("text", "absent"):
        with pytest.raises(UnderstudyError, match="holds no initial states"):
            initial_states(tmp_path / name)
    with pytest.raises(UnderstudyError, match="holds no initial states"):
        initial_states(saved(tmp_path / "cut", old_pickle(states)[:-40]))


@pytest.fixture(scope="module")
def home():
    try:
        return LiberoSuite.home.python().parents[1]
    except UnderstudyError as missing:
        pytest.skip(str(missing))


def test_all_states_of_the_package_can_be_read(home):
    folder = next(home.glob("lib/python*/site-packages/libero/libero/init_files"))
    for suite, one in SUITES.items():
        for name in one.names:
            states = initial_states(folder / one.folder / f"{name}.pruned_init")
            assert states.shape[0] == 50, (suite, name)
            assert np.isfinite(states).all()


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("libero")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        import_module("placeholders").make_placeholders(folder / "checkout")
        fetch_libero(folder / "checkout", folder / "assets")
        patch.setenv(FOLDER, str(folder / "assets"))
        yield folder / "assets"


@pytest.fixture(scope="module")
def suite(home, assets):
    made = make_suite("libero", image_size=64)
    yield made
    made.close()


def test_an_episode_can_be_played(suite):
    suite.reset(SOUP, TEST_SEEDS[0])
    assert (suite.steps, suite.success, suite.max_steps) == (0, False, 280)
    assert suite.instruction == "pick up the alphabet soup and place it in the basket"
    first = suite.observe()
    assert {name: image.shape for name, image in first.images.items()} == {"front": (64, 64, 3), "wrist": (64, 64, 3)}
    for _ in range(3):
        suite.step(np.array([1.0, 0, 0, 0, 0, 0, -1.0]))
    moved = suite.observe().proprio - first.proprio
    assert suite.steps == 3
    assert moved[0] > 0.02
    np.testing.assert_allclose(moved[1:3], 0, atol=0.01)


def test_test_scenes_are_the_benchmarks_fifty_states_in_turn(suite):
    seen = {}
    for number in (0, 1, 50):
        suite.reset(SOUP, TEST_SEEDS[number])
        seen[number] = suite.observe()
    np.testing.assert_array_equal(seen[0].proprio, seen[50].proprio)
    assert (seen[0].proprio != seen[1].proprio).any()
    suite.reset(SOUP, TRAIN_SEEDS[0])
    one = suite.observe()
    suite.reset(SOUP, TRAIN_SEEDS[50])
    assert (one.images["front"] != suite.observe().images["front"]).any()


def test_a_seed_is_a_scene_after_any_history(suite):
    suite.reset(SOUP, TRAIN_SEEDS[7])
    first = suite.observe()
    suite.step(np.ones(7))
    back = suite.keep()
    there = suite.observe()
    suite.step(-np.ones(7))
    back()
    np.testing.assert_array_equal(suite.observe().proprio, there.proprio)
    np.testing.assert_array_equal(suite.observe().images["front"], there.images["front"])
    suite.reset(CHEESE, TEST_SEEDS[3])
    suite.step(np.ones(7))
    suite.reset(SOUP, TRAIN_SEEDS[7])
    np.testing.assert_array_equal(suite.observe().proprio, first.proprio)
    np.testing.assert_array_equal(suite.observe().images["front"], first.images["front"])


def test_left_is_right_in_its_pictures_as_in_the_fields(suite):
    """The camera looks the robot in the face: what is at the robot's left would be at the right of a true picture."""
    suite.reset(SOUP, TEST_SEEDS[0])
    before = suite.observe().images["front"].astype(int)
    for _ in range(8):
        suite.step(np.array([0, 1.0, 0, 0, 0, 0, -1.0]))
    changed = np.abs(suite.observe().images["front"].astype(int) - before).sum(axis=(0, 2))
    assert changed[:32].sum() > changed[32:].sum()


def test_there_is_no_expert(suite):
    suite.reset(SOUP, TRAIN_SEEDS[0])
    with pytest.raises(UnderstudyError, match="LIBERO has no expert"):
        suite.expert()


def test_without_assets_it_says_what_to_put_where(home, monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER, str(tmp_path / "none"))
    with pytest.raises(
        UnderstudyError, match=r"are not at .*none: run vla data fetch-assets libero --from DIR, DIR being"
    ):
        make_suite("libero")
