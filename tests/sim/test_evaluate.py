"""``vla eval``: which scenes, told what, refused when, and the report's shape."""

import json
from dataclasses import replace
from itertools import combinations
from math import ceil
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from policies.policy import policy_class
from policies.provenance import write_provenance
from policies.train import TrainConfig, training_windows
from sim import collect, evaluate, merge
from sim.conditions import instructions, plan, wrong_instructions
from sim.evaluate import EvalConfig, charge, check_fingerprint, trained_tasks
from sim.results import read_report
from sim.rollout import Setting
from sim.suite import TEST_SEEDS, TRAIN_SEEDS, NoExpert
from sim.tasks.tabletop import TASKS as TABLETOP
from sim.tasks.tabletop import TabletopSuite
from vla.config import build, load
from vla.data.lerobot import open_dataset
from vla.errors import UnderstudyError

TASKS = ("tabletop/press-button", "tabletop/lift-red-cube")
SUITE = {"image_size": 32, "cameras": ["front"]}
SETTING = Setting(json.dumps(SUITE, sort_keys=True))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained policy with the provenance of a trained one."""
    folder = tmp_path_factory.mktemp("evaluate")
    data = collect.run(collect.CollectConfig(TASKS, episodes=1, out=folder / "data", suite=SUITE, workers=0))
    config = load(TrainConfig, "train", ["preset=tiny", f"data={data}", f"out={folder / 'policy'}"])
    made = policy_class(config.policy["name"])
    settings = build(made.config_class, {key: value for key, value in config.policy.items() if key != "name"})
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_CACHE", str(folder / "cache"))
        dataset = open_dataset(data)
        policy = made.create(settings, dataset.spec, training_windows(dataset, settings, holdout=0))
    policy.save(config.out)
    write_provenance(config, dataset)
    return config.out


def config(checkpoint, out, **changes):
    plain = {"policy": checkpoint, "episodes": 2, "control_episodes": 1, "out": out, "suite": SUITE, "workers": 0}
    return EvalConfig(**{**plain, "films": False, **changes})


def test_every_condition_plays_the_same_scenes_none_of_them_trained_on(tmp_path):
    scenes = plan(TASKS, SETTING, config(tmp_path, tmp_path, episodes=5, control_episodes=3, seed=7))
    seeds = TEST_SEEDS[7:12]
    played = {condition: [] for condition in ("policy", "random", "expert", "wrong-instruction")}
    for scene in scenes:
        assert scene.seed not in TRAIN_SEEDS
        assert (scene.told == scene.task) is (scene.condition != "wrong-instruction")
        played[scene.condition].append((scene.task, scene.seed))
    for condition in ("policy", "random", "expert"):
        assert played[condition] == [(task, seed) for task in TASKS for seed in seeds]
    assert played["wrong-instruction"] == [(task, seed) for task in TASKS for seed in seeds[:3]]
    uncontrolled = plan(TASKS, SETTING, config(tmp_path, tmp_path, control_episodes=0))
    assert {scene.condition for scene in uncontrolled} == {"policy", "random", "expert"}
    with pytest.raises(UnderstudyError, match="episodes must be at least 1"):
        plan(TASKS, SETTING, config(tmp_path, tmp_path, episodes=0))


def test_the_wrong_instruction_is_another_one_about_another_object():
    told = wrong_instructions(instructions(tuple(TABLETOP), SETTING))
    assert set(told) == set(TABLETOP)
    assert set(told.values()) <= set(TABLETOP)
    for task, other in told.items():
        assert TABLETOP[task].target != TABLETOP[other].target


def test_the_wrong_instruction_is_about_another_object_among_any_two_tasks():
    pairs = [pair for pair in combinations(TABLETOP, 2) if TABLETOP[pair[0]].target == TABLETOP[pair[1]].target]
    same = [pair for pair in pairs if wrong_instructions(instructions(pair, SETTING))]
    assert not same


def test_tasks_about_one_object_have_no_wrong_instruction():
    assert wrong_instructions(instructions(("tabletop/open-drawer", "tabletop/close-drawer"), SETTING)) == {}
    assert wrong_instructions(instructions(("tabletop/lift-red-cube",), SETTING)) == {}


def test_pictures_of_another_kind_are_refused(checkpoint, tmp_path):
    trained = json.loads((checkpoint / "provenance.json").read_text())["data"]["fingerprint"]
    check_fingerprint(checkpoint, trained)
    with pytest.raises(UnderstudyError, match=r"pictures are .*this suite's 'other'.*other_scene=true"):
        check_fingerprint(checkpoint, "other")
    larger = {**SUITE, "image_size": 48}
    with pytest.raises(UnderstudyError, match="give the same suite"):
        evaluate.evaluate(config(checkpoint, tmp_path, suite=larger))


def test_the_tasks_are_those_trained_on_unless_said_otherwise(checkpoint, tmp_path):
    assert trained_tasks(checkpoint) == tuple(sorted(TASKS))
    with pytest.raises(UnderstudyError, match=r"does not say which tasks .*give tasks="):
        trained_tasks(tmp_path)


@pytest.fixture(scope="module")
def report(checkpoint, tmp_path_factory):
    """What ``vla eval`` writes, as JSON."""
    out = tmp_path_factory.mktemp("report")
    arguments = [f"policy={checkpoint}", f"out={out}", "episodes=2", "control_episodes=1", "workers=0", "films=false"]
    suite = ["suite.image_size=32", "suite.cameras=[front]", f"json={out / 'copy.json'}"]
    assert evaluate.main([*arguments, *suite]) == 0
    assert (out / "report.html").stat().st_size > 1000
    assert (out / "copy.json").read_text() == (out / "report.json").read_text()
    return json.loads((out / "report.json").read_text())


def test_the_report_has_the_keys_that_others_read(report):
    assert set(report) >= {"tasks", "wall_s", "provenance"}
    assert set(report["tasks"]) == set(TASKS)
    for entry in report["tasks"].values():
        assert entry["episodes"] == len(entry["episodes_detail"]) == 2
        assert entry["successes"] == sum(row["success"] for row in entry["episodes_detail"])
        assert entry["success_rate"] == entry["successes"] / 2
        low, high = entry["wilson"]
        assert 0 <= low <= entry["success_rate"] <= high <= 1
        for row in entry["episodes_detail"]:
            assert isinstance(row["success"], bool)
            assert 1 <= row["steps"] <= 100
            assert row["seed"] - TEST_SEEDS.start == row["initial_state"]
    assert report["wall_s"]["evaluate"] > 0
    assert report["conditions"]["expert"]["mean"]["success_rate"] == 1
    assert report["conditions"]["wrong-instruction"]["mean"]["episodes"] == 2


def test_the_report_says_where_it_comes_from(report, checkpoint):
    told = report["provenance"]
    assert told["checkpoint"] == str(checkpoint)
    assert told["suite"] == SUITE
    assert told["fingerprint"] == told["policy"]["data"]["fingerprint"]
    assert told["test_seeds"] == [TEST_SEEDS[0], TEST_SEEDS[1]]
    assert told["policy"]["data"]["hash"]
    assert told["execution"]["ensemble"]
    assert told["code"]
    assert told["command"].startswith(f"vla eval policy={checkpoint} ")
    assert told["parameters"] == sum(weight.numel() for weight in load_file(checkpoint / "model.safetensors").values())


@pytest.mark.slow
def test_a_success_and_a_failure_are_filmed(checkpoint, tmp_path):
    done = evaluate.evaluate(config(checkpoint, tmp_path, episodes=2, control_episodes=0, films=True))
    filmed = [result for result in done.results if result.film]
    assert {(result.task, result.success) for result in filmed} == {
        (result.task, result.success) for result in done.results if result.condition == "policy"
    }
    assert all((tmp_path / result.film).stat().st_size > 1000 for result in filmed)
    assert len(done.action_plots) == len(filmed)
    for plot in done.action_plots.values():
        assert np.asarray(plot["executed"]).shape[1] == len(plot["names"])


@pytest.fixture(scope="module")
def disturbed(checkpoint, tmp_path_factory):
    """A report with a grid, and of a policy that takes its time."""
    out = tmp_path_factory.mktemp("disturbed")
    arguments = [f"policy={checkpoint}", f"out={out}", "episodes=2", "control_episodes=0", "workers=0", "films=false"]
    suite = ["suite.image_size=32", "suite.cameras=[front]", "axes=[camera,instruction-swapped]", "latency=120"]
    assert evaluate.main([*arguments, *suite]) == 0
    return out


def test_a_grid_is_reported_beside_the_undisturbed(disturbed):
    report = read_report(disturbed)
    grid = report["robustness"]
    assert {axis: list(levels) for axis, levels in grid.items()} == {
        "camera": ["1", "2", "3"],
        "instruction-swapped": ["1"],
    }
    for levels in grid.values():
        for cell in levels.values():
            assert cell["mean"]["episodes"] == cell["test"]["pairs"] == 4
            assert cell["test"]["rate_b"] == cell["mean"]["success_rate"]
    page = (disturbed / "report.html").read_text()
    assert "Robustness" in page
    assert "instruction-swapped" in page


def test_a_late_answer_is_charged_in_steps_of_the_world(disturbed):
    told = read_report(disturbed)["provenance"]
    assert (told["charged_latency_ms"], told["charged_steps"]) == (120.0, 3)  # of 50 ms


def test_latency_is_measured_or_milliseconds(checkpoint, tmp_path):
    scene = plan(TASKS, replace(SETTING, checkpoint=str(checkpoint)), config(checkpoint, tmp_path))[0]
    setting, told = charge("measured", scene)
    assert 0 < told["charged_latency_ms"] < 60_000
    assert setting.execution.delay == ceil(told["charged_latency_ms"] / 50)
    assert charge("50", scene)[0].execution.delay == 1
    with pytest.raises(UnderstudyError, match="latency is milliseconds, or 'measured'; got 'long'"):
        charge("long", scene)
    for wrong in ("-5", "nan", "inf"):
        with pytest.raises(UnderstudyError, match="0 milliseconds or more"):
            charge(wrong, scene)


def test_many_at_once_are_evaluated_like_one_at_a_time(checkpoint, tmp_path):
    made = [evaluate.evaluate(config(checkpoint, tmp_path, batch=batch, workers=2)) for batch in (1, 2)]
    alike = [[(one.task, one.condition, one.seed, one.success) for one in each.results] for each in made]
    assert alike[0] == alike[1]


@pytest.mark.parametrize("at", [0, 2])
def test_faults_are_an_exit_code_and_not_filmed(checkpoint, tmp_path, monkeypatch, at):
    step = TabletopSuite.step

    def explode(suite, action):
        suite.data.qvel[0] = 1e20 if suite.steps == at else suite.data.qvel[0]
        step(suite, action)

    monkeypatch.setattr(TabletopSuite, "step", explode)
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    arguments = [f"policy={checkpoint}", f"out={tmp_path}", "episodes=1", "control_episodes=0", "workers=0"]
    assert evaluate.main([*arguments, "suite.image_size=32", "suite.cameras=[front]"]) == 1
    report = read_report(tmp_path)
    assert report["faults"] == {"Diverged": 6}
    assert report["better_than_random"] is None
    for who in (
        "the policy could not be judged, counted as failures",
        "random could not be judged, left out",
    ):
        assert any(f"2 episodes of {who}" in remark for remark in report["remarks"])
    assert not any(row["film"] for task in report["tasks"].values() for row in task["episodes_detail"])


def test_a_film_in_which_it_ended_otherwise_is_not_shown(checkpoint, tmp_path, monkeypatch):
    play = evaluate.play_all

    def otherwise(scenes, **about):
        for scene, one in zip(scenes, play(scenes, **about)):
            yield replace(one, result=replace(one.result, steps=1)) if scene.film else one

    monkeypatch.setattr(evaluate, "play_all", otherwise)
    done = evaluate.evaluate(config(checkpoint, tmp_path, tasks=TASKS[:1], episodes=1, control_episodes=0, films=True))
    assert not any(one.film for one in done.results)
    assert not done.action_plots
    assert not list(tmp_path.glob("films/*.mp4"))


def test_the_first_scene_is_a_test_scene(tmp_path):
    for wrong in (-1, len(TEST_SEEDS) - 1):
        with pytest.raises(UnderstudyError, match=r"seed \(the first of 2 test scenes\) must be 0…999998, got"):
            plan(TASKS, SETTING, config(tmp_path, tmp_path, seed=wrong))


def test_a_task_that_nobody_can_do_has_no_ceiling(tmp_path, monkeypatch):
    expert = TabletopSuite.expert

    def unable(suite):
        if suite.task.verb == "lift":
            raise NoExpert("nobody lifts")
        return expert(suite)

    monkeypatch.setattr(TabletopSuite, "expert", unable)
    scenes = plan(TASKS, SETTING, config(tmp_path, tmp_path))
    assert {scene.task for scene in scenes if scene.condition == "expert"} == {"tabletop/press-button"}
    assert {scene.task for scene in scenes if scene.condition == "policy"} == set(TASKS)


def test_an_evaluation_goes_on_where_it_stopped(checkpoint, tmp_path, monkeypatch):
    whole = evaluate.evaluate(config(checkpoint, tmp_path / "whole"))
    todo, played = config(checkpoint, tmp_path / "stopped"), []
    play = evaluate.play_all

    def some(scenes, **about):
        for number, one in enumerate(play(scenes, **about)):
            if number == 5 and not played:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(evaluate, "play_all", some)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(todo)
    monkeypatch.setattr(
        evaluate, "play_all", lambda scenes, **about: played.append(len(scenes)) or play(scenes, **about)
    )
    again = evaluate.evaluate(todo)
    assert played == [len(whole.results) - 5]
    assert [replace(one, latency_ms=()) for one in again.results] == [
        replace(one, latency_ms=()) for one in whole.results
    ]


def test_floor_and_ceiling_of_one_policy_are_those_of_another(checkpoint, tmp_path, monkeypatch):
    first = evaluate.evaluate(config(checkpoint, tmp_path / "first"))
    other = Path(copytree(checkpoint, tmp_path / "other"))
    (spec := other / "policy_spec.json").write_text(spec.read_text() + "\n")
    assert merge.main([str(tmp_path / "first"), "--out", str(tmp_path / "second")]) == 0
    played, play = [], evaluate.play_all
    monkeypatch.setattr(evaluate, "play_all", lambda scenes, **about: played.extend(scenes) or play(scenes, **about))
    second = evaluate.evaluate(config(other, tmp_path / "second"))
    assert {scene.condition for scene in played} == {"policy", "wrong-instruction"}
    assert len(second.results) == len(first.results) > len(played)
