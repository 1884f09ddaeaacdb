"""Episodes: the same whoever plays them, in whatever order, and however many play at once."""

import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from policies.execution import ExecutionConfig
from policies.policy import SPEC_FILE, load_policy, policy_class
from policies.train import TrainConfig, training_windows
from robot_bridge.safety import governed
from sim import collect, rollout
from sim.results import episodes_of, summarize
from sim.rollout import Scene, Setting, check_fits, play, play_all
from sim.suite import TEST_SEEDS, make_suite, shared_suite
from vla.config import build, load
from vla.data.lerobot import open_dataset
from vla.errors import UnderstudyError

TASKS = ("tabletop/press-button", "tabletop/lift-red-cube")
SUITE = {"image_size": 32, "cameras": ["front"]}
OPTIONS = json.dumps(SUITE, sort_keys=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A policy that was never trained, and so moves at random, but always the same for the same scene."""
    folder = tmp_path_factory.mktemp("rollout")
    data = collect.run(collect.CollectConfig(TASKS, episodes=1, out=folder / "data", suite=SUITE, workers=0))
    settings = dict(load(TrainConfig, "train", ["preset=tiny", "data=nowhere"]).policy)
    made = policy_class(settings.pop("name"))
    config, dataset = build(made.config_class, settings), open_dataset(data)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_CACHE", str(folder / "cache"))
        policy = made.create(config, dataset.spec, training_windows(dataset, config, holdout=0))
    torch.nn.init.normal_(policy.model.head.denoiser.action_out.weight, std=0.05)
    policy.save(folder / "policy")
    return folder / "policy"


def scenes(checkpoint, conditions=("policy", "random", "expert"), seeds=2):
    setting = Setting(OPTIONS, str(checkpoint))
    return [
        Scene(setting, task, task, condition, seed)
        for condition in conditions
        for task in TASKS
        for seed in TEST_SEEDS[:seeds]
    ]


def plain(played):
    """What must not depend on who played it: all but the clock's readings."""
    return replace(played.result, latency_ms=(), film=None)


def assert_same(one, two):
    assert [plain(played) for played in one] == [plain(played) for played in two]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions, err_msg=str(plain(a)))


def test_workers_and_order_change_nothing(checkpoint):
    todo = scenes(checkpoint)
    alone = list(play_all(todo, workers=0))
    different = {played.actions.tobytes() for played in alone if played.result.condition == "policy"}
    assert len(different) == len(scenes(checkpoint, ["policy"]))  # else the rest would prove little
    for workers in (1, 2):
        assert_same(list(play_all(todo, workers=workers)), alone)
    order = np.random.default_rng(0).permutation(len(todo))
    assert_same(list(play_all([todo[number] for number in order], workers=0)), [alone[number] for number in order])
    assert_same([play(todo[3])], [alone[3]])


@pytest.mark.parametrize("condition", ["policy", "random", "expert"])
def test_an_episode_is_what_its_scene_says(checkpoint, condition):
    (scene,) = scenes(checkpoint, [condition], seeds=1)[:1]
    suite = make_suite("tabletop", **SUITE)
    played = play(scene)
    result = played.result
    assert (result.task, result.condition, result.seed) == (scene.task, condition, scene.seed)
    assert result.initial_state == scene.seed - TEST_SEEDS.start
    assert 1 <= result.steps == len(played.actions) <= suite.max_steps
    assert result.success or result.steps == suite.max_steps
    low, high = np.float32(suite.spec.action.low), np.float32(suite.spec.action.high)
    assert ((low <= played.actions) & (played.actions <= high)).all()
    suite.reset(scene.task, scene.seed)
    for action in played.actions:
        assert not suite.success  # it stops at its success
        suite.step(action)
    assert bool(suite.success) is bool(result.success)
    assert (len(result.latency_ms) > 0) is (condition == "policy")


def test_the_expert_presses_the_button_and_chance_does_not(checkpoint):
    expert, chance = (
        [played.result.success for played in play_all(scenes(checkpoint, [condition]), workers=0)]
        for condition in ("expert", "random")
    )
    assert all(expert)
    assert sum(chance) < len(chance)


def test_the_policy_is_told_what_the_scene_says_and_judged_on_its_task(checkpoint):
    scene = Scene(Setting(OPTIONS, str(checkpoint)), TASKS[0], TASKS[1], "wrong-instruction", TEST_SEEDS[0])
    told, told_right = play(scene), play(replace(scene, told=TASKS[0], condition="policy"))
    assert told.result.task == told_right.result.task == TASKS[0]
    assert told.result.instruction == "lift the red cube"
    assert told_right.result.instruction == "press the button"
    assert not np.array_equal(told.actions[:4], told_right.actions[:4])


def test_the_policy_is_asked_only_when_a_chunk_is_due(checkpoint):
    (scene,) = scenes(checkpoint, ["policy"], seeds=1)[:1]
    for horizon in (4, 16):
        execution = ExecutionConfig("newest", exec_horizon=horizon)
        result = play(replace(scene, setting=replace(scene.setting, execution=execution))).result
        assert len(result.latency_ms) == -(-result.steps // horizon)


def test_nothing_but_governed_actions_reaches_the_arm(checkpoint, monkeypatch):
    (scene,) = scenes(checkpoint, ["random"], seeds=1)[:1]
    sent, passed, suite = [], [], shared_suite("tabletop", OPTIONS)
    step = suite.step

    def govern(action, spec):
        passed.append(governed(action, spec))
        return passed[-1]

    monkeypatch.setattr(rollout, "governed", govern)
    monkeypatch.setattr(suite, "step", lambda action: (sent.append(action), step(action)))
    play(scene)
    assert len(sent) == len(passed) > 0
    assert all(one is two for one, two in zip(sent, passed, strict=True))


def test_a_policy_that_says_nan_is_stopped_and_counted(checkpoint, monkeypatch):
    (scene,) = scenes(checkpoint, ["random"], seeds=1)[:1]
    said = iter([np.zeros(4), np.full(4, np.nan)])
    monkeypatch.setattr(rollout, "at_random", lambda spec, seed: lambda: next(said))
    played = play(scene)
    assert played.result.fault.startswith("NotFinite: the action of step 1 is [nan")
    assert (played.result.success, played.result.steps, len(played.actions)) == (False, 1, 1)


def test_a_world_that_diverges_is_named_and_the_next_episode_is_sound(checkpoint, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    (scene,) = scenes(checkpoint, ["random"], seeds=1)[:1]
    sound, suite = play(scene), shared_suite("tabletop", OPTIONS)
    step = suite.step

    def explode(action):
        if suite.steps == 3:
            suite.data.qvel[0] = 1e20
        step(action)

    monkeypatch.setattr(suite, "step", explode)
    played = play(scene)
    assert re.match(r"Diverged: BADQ(VEL|ACC|POS) at step \d+, degree of freedom \d+", played.result.fault)
    assert not played.result.success
    assert played.result.steps == 3
    monkeypatch.undo()
    assert_same([play(scene)], [sound])


def test_faults_are_counted_in_the_report(checkpoint):
    (scene,) = scenes(checkpoint, ["random"], seeds=1)[:1]
    result = replace(play(scene).result, condition="policy")
    bad = replace(result, seed=result.seed + 1, success=False, fault="Diverged: BADQACC at step 3")
    report = summarize([result, bad])
    assert report["faults"] == {"Diverged": 1}
    assert report["remarks"][0] == "1 episode of the policy could not be judged, counted as failures: Diverged."
    assert episodes_of(report) == [result, bad]


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        (
            {"image_size": 32, "cameras": ["side"]},
            r"looks through front, .*made with side; give suite\.cameras=\[front\]",
        ),
        ({"image_size": 64, "cameras": ["front", "wrist"]}, None),
    ],
)
def test_a_policy_must_fit_the_suite(checkpoint, suite, message):
    policy = load_policy(checkpoint)
    if message is None:
        check_fits(policy.spec, make_suite("tabletop", **suite))
    else:
        with pytest.raises(UnderstudyError, match=message):
            check_fits(policy.spec, make_suite("tabletop", **suite))


@pytest.mark.parametrize("key", ["control_hz", "proprio_names"])
def test_another_rate_or_proprio_is_refused(checkpoint, tmp_path, key):
    spec = json.loads((checkpoint / SPEC_FILE).read_text())["spec"]
    policy = load_policy(checkpoint)
    changed = {"control_hz": 10.0, "proprio_names": tuple(f"q{n}" for n in range(len(spec["proprio_names"])))}[key]
    policy.spec = replace(policy.spec, **{key: changed})
    with pytest.raises(UnderstudyError, match=r"the policy's (control rate|proprio)"):
        check_fits(policy.spec, make_suite("tabletop", **SUITE))


@pytest.mark.slow
def test_a_film_shows_every_step_and_changes_nothing(checkpoint, tmp_path):
    (scene,) = scenes(checkpoint, ["expert"], seeds=1)[:1]
    filmed = play(replace(scene, film=str(tmp_path / "films" / "one.mp4")))
    assert_same([filmed], [play(scene)])
    video = cv2.VideoCapture(str(tmp_path / "films" / "one.mp4"))
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == filmed.result.steps + 1


def test_a_policy_is_hastened_only_when_that_is_asked_for(monkeypatch):
    class Counting:
        hastened = 0

        def hasten(self):
            self.hastened += 1

    monkeypatch.setattr(rollout, "load_policy", lambda checkpoint, embodiment: Counting())
    rollout.shared_policy.cache_clear()
    policies = [rollout.shared_policy("a", quick=quick) for quick in (False, True, True)]
    rollout.shared_policy.cache_clear()
    assert [policy.hastened for policy in policies] == [0, 1, 1]
