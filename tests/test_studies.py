"""What studies share: cells are played once for their settings, differences are of the same scenes."""

import json
from importlib import import_module

import pytest

from vla.bench import script
from vla.errors import UnderstudyError

vid2robot = script("vid2robot_study")
study = import_module("benchmarks.study")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    return tmp_path


def cell_after(calls, **about):
    def play():
        calls.append(about)
        return study.cell_of({"a": 1}, about["episodes"])

    return study.kept("one", play, **about)


@pytest.mark.parametrize("changed", ["config.yaml", "model.safetensors"])
def test_a_cell_is_played_once_and_again_for_more_episodes_or_another_checkpoint(changed, results, tmp_path):
    calls, checkpoint = [], tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.yaml", "model.safetensors"):
        (checkpoint / name).write_text("as it was")
    for _ in range(2):
        assert cell_after(calls, episodes=2, checkpoint=checkpoint, train_s=3)["success_rate"] == 0.5
    assert len(calls) == 1
    (checkpoint / changed).write_text("trained anew")
    for _ in range(2):
        cell_after(calls, episodes=2, checkpoint=checkpoint)
    assert len(calls) == 2
    cell_after(calls, episodes=3, checkpoint=checkpoint)
    assert len(calls) == 3


def test_a_checkpoint_of_other_settings_is_not_taken_for_this_one(tmp_path):
    (tmp_path / "cell.json").write_text(json.dumps({"steps": 3, "seconds": 10.0, "settings": ["x=1"]}))
    with pytest.raises(UnderstudyError, match=r"remove it and cell\.json"):
        study.train_for(10.0, tmp_path / "cell", ["x=2"], batch_size=4)
    with pytest.raises(UnderstudyError, match="20"):
        study.train_for(20.0, tmp_path / "cell", ["x=1"], batch_size=4)


def test_a_difference_counts_the_same_scenes():
    low, high = ({"won": won, "success_rate": sum(won) / 10} for won in ([0] * 8 + [1] * 2, [0] * 2 + [1] * 8))
    assert study.more(low, high).startswith("+60 (")
    assert study.more(high, low).startswith("-60 (-")
    assert study.more(low, low).startswith("+0 (")


def test_the_interval_of_a_difference_is_that_of_pairs():
    """As many scenes are won, but by others: that says less than the same ones."""
    first, last = ({"won": won, "success_rate": 0.5} for won in ([1] * 5 + [0] * 5, [0] * 5 + [1] * 5))
    assert study.more(first, first) == "+0 (-17 – 17)"
    assert study.more(first, last) == "+0 (-53 – 53)"


def test_what_is_shown_is_the_task_its_opposite_or_the_same_of_another_thing():
    assert all(task == film for task, film in vid2robot.shows("hand").items())
    assert vid2robot.shows("blank-prompt") == vid2robot.shows("hand")
    assert vid2robot.shows("opposite")["metaworld/drawer-open"] == "metaworld/drawer-close"
    assert vid2robot.shows("opposite")["metaworld/door-lock"] == "metaworld/door-unlock"
    assert vid2robot.shows("other-thing")["metaworld/drawer-open"] == "metaworld/faucet-open"
    assert vid2robot.shows("other-thing-opposite")["metaworld/window-open"] == "metaworld/drawer-close"
    for how in (*vid2robot.CONTROLS, "hand"):
        tasks = [task for task in vid2robot.TASKS if "other" not in how or "door-" not in task]
        assert sorted(vid2robot.shows(how)) == sorted(tasks) == sorted(vid2robot.shows(how).values())
