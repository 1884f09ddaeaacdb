"""What a policy is shown in an evaluation, and that the report says how much of its success came from that."""

import json

import cv2
import numpy as np
import pytest

from sim.conditions import plan
from sim.evaluate import EvalConfig
from sim.human import HumanConfig
from sim.human import run as film_people
from sim.results import EpisodeResult, summarize
from sim.rollout import Setting, beside
from sim.shown import chosen, clip_of, left_by_expert, pictured, prompts_of, shown
from sim.suite import TEST_SEEDS, make_suite
from vla.errors import UnderstudyError
from vla.types import Task, VideoClip

TASKS = ("tabletop/press-button", "tabletop/open-drawer")
WORDS = {TASKS[0]: "press the button", TASKS[1]: "open the drawer"}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two films of people, of test scenes."""
    out = tmp_path_factory.mktemp("shown") / "films"
    film_people(HumanConfig(tasks=TASKS, clips=2, out=out, split="test", image_size=32, failures=0.0, workers=0))
    return out


def write_checkpoint(folder, accepts):
    """What an evaluation reads of a policy before it plays."""
    from vla.types import ActionSpec, PolicySpec

    action = ActionSpec("ee_delta", ("x",), (-1.0,), (1.0,))
    spec = PolicySpec((), ("x",), action, (accepts,), 1, 4, 4, 20.0)
    (folder / "policy_spec.json").write_text(json.dumps({"policy": "any", "spec": spec.to_dict()}))
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    """Of a policy that is shown its tasks."""
    return write_checkpoint(tmp_path, "video")


def test_each_task_has_the_films_of_its_words(films):
    found = prompts_of(films, WORDS)
    assert {task: len(paths) for task, paths in found.items()} == {TASKS[0]: 1, TASKS[1]: 1}
    assert found[TASKS[0]] != found[TASKS[1]]
    one = found[TASKS[0]][0]
    assert prompts_of(films / "clips/000000.mp4", WORDS) == {task: [str(films / "clips/000000.mp4")] for task in TASKS}
    assert chosen(["a", "b", "c"], TASKS[0], 7) == chosen(["a", "b", "c"], TASKS[0], 7)
    assert len({chosen(["a", "b", "c"], TASKS[0], seed) for seed in range(20)}) == 3
    assert clip_of(one).frames.shape[1:] == (128, 128, 3)


def test_the_controls_of_a_prompt(films):
    path = str(films / "clips/000000.mp4")
    right, blank, shuffled = (shown(path, how, 3).frames for how in ("policy", "blank-prompt", "shuffled-prompt"))
    assert not blank.any()
    assert blank.shape == right.shape
    assert not np.array_equal(shuffled, right)
    assert sorted(frame.tobytes() for frame in shuffled) == sorted(frame.tobytes() for frame in right)


def test_films_of_scenes_that_are_trained_on_are_refused(films, tmp_path):
    with pytest.raises(UnderstudyError, match="no film in"):
        prompts_of(films, {"tabletop/lift-red-cube": "lift the red cube"})
    with pytest.raises(UnderstudyError, match="neither a video nor a folder"):
        prompts_of(tmp_path / "nowhere", WORDS)
    settings = json.loads((films / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**settings, "split": "train"}))
    with pytest.raises(UnderstudyError, match="split=test"):
        prompts_of(tmp_path, WORDS)


def test_an_evaluation_of_a_policy_that_is_shown(checkpoint, films):
    """Every scene has a film of what it is told; the controls play the first of the same scenes."""
    setting = Setting(json.dumps({"image_size": 32}), str(checkpoint))
    config = EvalConfig(policy=checkpoint, prompt=films, episodes=3, control_episodes=2)
    scenes = plan(TASKS, setting, config)
    found = prompts_of(films, WORDS)
    for scene in scenes:
        if scene.condition in ("random", "expert"):
            assert scene.prompt == ""
        else:
            assert scene.prompt in found[scene.told]
    counts = {name: sum(one.condition == name for one in scenes) for name in ("policy", "blank-prompt", "random")}
    assert counts == {"policy": 6, "blank-prompt": 4, "random": 6}
    assert {one.seed for one in scenes if one.condition == "shuffled-prompt"} == set(TEST_SEEDS[:2])
    one = EvalConfig(policy=checkpoint, prompt=films / "clips/000000.mp4", episodes=3, control_episodes=2)
    played = {scene.condition for scene in plan(TASKS, setting, one)}
    assert played == {"policy", "blank-prompt", "shuffled-prompt", "random", "expert"}  # no other film to mislead with
    with pytest.raises(UnderstudyError, match="prompt=VIDEO"):
        plan(TASKS, setting, EvalConfig(policy=checkpoint, episodes=3))
    with pytest.raises(UnderstudyError, match="looks at no prompt"):
        plan(TASKS, setting, EvalConfig(policy=checkpoint / "other", prompt=films))


def test_the_report_says_how_much_came_from_the_prompt():
    def played(condition, successes):
        return [
            EpisodeResult(TASKS[0], "press the button", condition, seed, seed, seed < successes, 10)
            for seed in range(20)
        ]

    report = summarize([*played("policy", 18), *played("blank-prompt", 4)])
    assert report["uses_prompt"]["difference"] == pytest.approx(0.7)
    assert any(remark.startswith("The policy uses its prompt") for remark in report["remarks"])
    report = summarize([*played("policy", 10), *played("blank-prompt", 9)])
    assert any(remark.startswith("It is not shown that the policy uses its prompt") for remark in report["remarks"])


def test_a_goal_is_what_is_left_in_the_very_scene_or_one_picture_for_all(tmp_path):
    suite = make_suite("tabletop", image_size=32, cameras=["front", "wrist"])
    seed = TEST_SEEDS[1]
    left = left_by_expert(suite, "front", TASKS[0], seed)
    assert suite.success
    np.testing.assert_array_equal(pictured("expert", suite, "front", TASKS[0], seed, "policy"), left)
    assert not np.array_equal(pictured("expert", suite, "front", TASKS[1], seed, "policy"), left)
    assert not pictured("expert", suite, "front", TASKS[0], seed, "blank-prompt").any()
    held = pictured("grabber", suite, "wrist", "tabletop/lift-red-cube", seed, "policy")
    assert held.shape == (32, 32, 3)
    cv2.imwrite(str(tmp_path / "goal.png"), left[..., ::-1])
    np.testing.assert_array_equal(pictured(str(tmp_path / "goal.png"), suite, "front", TASKS[1], 0, "policy"), left)


def test_an_evaluation_of_a_policy_that_is_pictured_its_goal(tmp_path):
    setting = Setting(json.dumps({"image_size": 32}), str(write_checkpoint(tmp_path, "goal")))
    config = EvalConfig(policy=tmp_path, goal="expert", episodes=3, control_episodes=2)
    scenes = plan(TASKS, setting, config)
    assert {scene.goal for scene in scenes if scene.condition in ("policy", "blank-prompt")} == {"expert"}
    assert {scene.goal for scene in scenes if scene.condition in ("random", "expert")} == {""}
    counts = {name: sum(one.condition == name for one in scenes) for name in ("policy", "blank-prompt", "random")}
    assert counts == {"policy": 6, "blank-prompt": 4, "random": 6}
    misled = [one for one in scenes if one.condition == "wrong-instruction"]
    assert len(misled) == 4
    assert all(one.told != one.task for one in misled)
    cv2.imwrite(str(tmp_path / "goal.png"), np.full((32, 32, 3), 99, np.uint8))
    one = plan(TASKS, setting, EvalConfig(policy=tmp_path, goal=str(tmp_path / "goal.png"), episodes=3))
    assert {scene.condition for scene in one} == {"policy", "blank-prompt", "random", "expert"}
    with pytest.raises(UnderstudyError, match="wants to see its goal"):
        plan(TASKS, setting, EvalConfig(policy=tmp_path))
    with pytest.raises(UnderstudyError, match="there is no picture"):
        plan(TASKS, setting, EvalConfig(policy=tmp_path, goal="nowhere.png"))
    write_checkpoint(tmp_path, "instruction")
    with pytest.raises(UnderstudyError, match="looks at no goal"):
        plan(TASKS, setting, EvalConfig(policy=tmp_path, goal="expert"))


def test_a_film_has_what_showed_the_task_at_its_left():
    film = np.full((30, 40, 40, 3), 7, np.uint8)
    clip = VideoClip(np.repeat(np.arange(10, dtype=np.uint8), 64 * 64 * 3).reshape(10, 64, 64, 3) * 20, 10.0)
    shown = beside(Task("", video=clip), film, 20.0)
    assert shown.shape == (30, 40, 80, 3)
    assert (shown[:, :, 40:] == 7).all()
    assert shown[::2, 0, 0, 0].tolist() == [*range(0, 200, 20), *[180] * 5]
    goal = np.full((20, 20, 3), 99, np.uint8)
    assert (beside(Task("", goal=goal), film, 20.0)[:, :, :40] == 99).all()
    assert beside(Task("press the button"), film, 20.0) is film
