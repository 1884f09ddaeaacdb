"""The simulated demonstrators at the table-top tasks: what they achieve, what is filmed, what is told about it."""

import ast
import json
from pathlib import Path

import mujoco
import numpy as np
import pytest

import sim.human_tabletop
from sim.human import FilmJob, HumanConfig, film, jobs_of, run
from sim.human_hand import PAD, SKINS, Grip, Hand, HandLook
from sim.human_shots import shoot
from sim.human_strokes import LONGEST, SHORTEST
from sim.suite import TEST_SEEDS, TRAIN_SEEDS, make_suite
from sim.tasks.tabletop import TASKS
from vla.config import load
from vla.data.privileged import labels_of, read_labels
from vla.data.video import decode_at
from vla.errors import UnderstudyError

REPO = Path(__file__).resolve().parents[2]
LIFT, PUT, OPEN = "tabletop/lift-red-cube", "tabletop/put-red-cube-tray", "tabletop/open-drawer"
TINY = 16


def tiny(task, tier="T1", seed=0, embodiment="hand", **options):
    return film(FilmJob(task, tier, seed, embodiment, **({"image_size": TINY, "failures": 0.0} | options)))


def place(made, name):
    """Where something is in each frame [T, 3]."""
    return made.labels["object_positions"][:, list(made.labels["object_names"]).index(name)]


@pytest.fixture(scope="module")
def suite():
    return make_suite("tabletop", cameras=())


def judged(suite, task, made, frame):
    """The suite's own verdict on the things in ``frame``, in its own scene."""
    suite.reset(task, made.about["seed"])
    suite.data.joint("drawer").qpos[0] += suite.data.geom("handle").xpos[1] - place(made, "handle")[frame, 1]
    suite.data.joint("button").qpos[0] += place(made, "button cap")[frame, 2] - suite.data.body("button cap").xpos[2]
    for name in ("red cube", "green cube", "blue cube", "yellow cylinder"):
        address = suite.model.jnt_qposadr[suite.model.body(name).jntadr[0]]
        suite.data.qpos[address : address + 3] = place(made, name)[frame]
    mujoco.mj_forward(suite.model, suite.data)
    return suite._achieved()


def achieved(suite, task, made):
    verb = TASKS[task].verb
    if verb == "touch":  # the robot's fingers are not there; the pads of the hand are
        tips = made.labels["keypoints_3d"][made.labels["contact"]][:, 8]
        target = place(made, TASKS[task].target)[made.labels["contact"]]
        return len(tips) > 0 and np.linalg.norm(tips - target, axis=1).min() < 0.05
    frames = range(len(made.frames)) if verb == "press" else [-1]
    return any(judged(suite, task, made, frame) for frame in frames)


def test_every_task_ends_as_the_suite_wants_it(suite):
    outcomes = {}
    for number, task in enumerate(TASKS):
        for seed in (number, TEST_SEEDS.start + number):
            made = tiny(task, seed=seed)
            outcomes[task, seed] = achieved(suite, task, made)
            assert made.about["success"], (task, seed)
            assert made.caption == TASKS[task].instruction
            assert SHORTEST < len(made.frames) <= LONGEST + 1
    assert np.mean(list(outcomes.values())) >= 0.95, [key for key, good in outcomes.items() if not good]


@pytest.mark.parametrize("tier", ["T2", "T3"])
@pytest.mark.parametrize("embodiment", ["hand", "grabber", "sphere"])
def test_other_places_other_things_and_other_tools_succeed_too(tier, embodiment):
    made = [tiny(task, tier, seed, embodiment) for seed, task in enumerate([*TASKS][::2])]
    assert np.mean([one.about["success"] for one in made]) >= 0.95
    assert all(np.isnan(one.labels["keypoints_3d"]).all() != (embodiment == "hand") for one in made)


def test_the_scene_is_the_robots_in_t1_and_another_in_t2(suite):
    robot, same, other = (tiny(LIFT, *rest) for rest in (("T1", 3, "robot"), ("T1", 3), ("T2", 3)))
    suite.reset(LIFT, 3)
    for name in ("red cube", "yellow cylinder", "tray"):
        np.testing.assert_allclose(place(same, name)[0], suite.position(name), atol=2e-3)
        np.testing.assert_allclose(place(same, name)[0], place(robot, name)[0], atol=2e-3)
    np.testing.assert_array_equal(same.labels["camera_pose"][0], robot.labels["camera_pose"][0])
    assert np.abs(place(other, "red cube")[0] - place(robot, "red cube")[0]).max() > 0.01
    assert np.abs(other.labels["camera_pose"][0] - robot.labels["camera_pose"][0]).max() > 1e-3
    assert same.about["pair"] == robot.about["pair"] != other.about["pair"]
    path = same.labels["pinch_point"]
    robots = robot.labels["pinch_point"]
    assert len(path) != len(robots) or np.abs(path - robots).max() > 0.05  # its own way of doing it


def test_t0_follows_the_robot_frame_by_frame():
    for task in (PUT, OPEN):
        robot, hand = tiny(task, "T0", 5, "robot"), tiny(task, "T0", 5)
        for name in ("pinch_point", "opening", "object_positions", "phase", "progress", "contact"):
            np.testing.assert_allclose(hand.labels[name], robot.labels[name], atol=1e-5, err_msg=name)
        assert hand.about["success"] == robot.about["success"]
        assert not np.array_equal(hand.frames, robot.frames)
        tips = hand.labels["keypoints_3d"][:, [4, 8, 12]]  # thumb against the first two fingers
        middle = (tips[:, 0] + tips[:, 1:].mean(axis=1)) / 2
        assert np.linalg.norm(middle - robot.labels["pinch_point"], axis=1).max() < 0.02


def test_t3_has_another_instance_and_the_same_words():
    made = [tiny(task, "T3", 1) for task in (LIFT, OPEN, "tabletop/press-button")]
    assert [[*one.about["instance"]] for one in made] == [["red cube"], ["handle"], ["button cap"]]
    assert made[0].caption == "lift the red cube"
    assert {tiny(LIFT, "T3", seed).about["instance"]["red cube"][0] for seed in range(8)} == {2, 5, 6}


@pytest.mark.parametrize("task", [LIFT, PUT, OPEN, "tabletop/touch-blue-cube", "tabletop/push-green-cube-pad"])
def test_a_failure_begins_like_a_success_and_leaves_the_thing(suite, task):
    for seed in range(3):
        made = tiny(task, seed=seed, failures=1.0)
        good = tiny(task, seed=seed)
        assert not made.about["success"]
        assert made.about["failure"]
        assert not achieved(suite, task, made) or TASKS[task].verb == "touch"
        assert made.caption == good.caption
        np.testing.assert_array_equal(made.frames[0], good.frames[0])
        assert made.labels["progress"].max() < 1 == good.labels["progress"].max()


def test_labels_agree_with_each_other():
    for task, embodiment in ((PUT, "hand"), (PUT, "robot"), (OPEN, "grabber"), ("tabletop/press-button", "sphere")):
        made = tiny(task, "T2", 4, embodiment)
        labels, count = made.labels, len(made.frames)
        by_frame = ("phase", "progress", "contact", "pinch_point", "hand_pose", "keypoints_2d", "camera_pose")
        assert {len(labels[name]) for name in by_frame} == {count}
        assert (np.diff(labels["progress"]) >= 0).all()
        assert labels["progress"][0] < 0.2 < labels["progress"][-1] == 1
        assert (np.diff(labels["phase"].astype(int)) >= 0).all()
        assert not labels["contact"][labels["phase"] == 0].any()
        assert labels["contact"].any()
        assert made.about["frames"] == count
        np.testing.assert_allclose(np.linalg.norm(labels["hand_pose"][:, 3:], axis=1), 1, atol=1e-5)


def test_keypoints_lie_on_the_hand(monkeypatch):
    taken = []
    monkeypatch.setattr(sim.human_tabletop, "shoot", lambda shot: taken.append(shot) or shoot(shot))
    on_hand, seen = 0, 0
    for seed, camera in enumerate(("front", "side", "ego")):
        made = tiny(PUT, "T2", seed, image_size=96, camera=camera)
        shot = taken[-1]
        for frame in range(0, len(made.frames), 5):
            shot.data.qpos[: len(shot.states[frame])] = shot.states[frame]
            shot.acting.tool.show(shot.data, shot.acting.grips[frame], shot.acting.shoulder)
            shot.model.cam_pos[shot.camera_id] = made.labels["camera_pose"][frame, :3, 3]
            mujoco.mj_kinematics(shot.model, shot.data)
            mujoco.mj_camlight(shot.model, shot.data)
            picture, pose = shot.camera.picture(shot.data), made.labels["camera_pose"][frame]
            pixels = np.floor(made.labels["keypoints_2d"][frame]).astype(int)
            away = (made.labels["keypoints_3d"][frame] - pose[:3, 3]) @ pose[:3, 2]
            inside = ((pixels >= 0) & (pixels < 96)).all(axis=1)
            column, row = pixels[inside].T
            visible = picture.depth[row, column] > away[inside] - 0.025  # nothing stands before it but its own flesh
            on_hand += np.isin(picture.segmentation[row, column][visible], [*shot.acting.tool.geoms]).sum()
            seen += visible.sum()
    assert seen > 100
    assert on_hand / seen > 0.8


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_the_hand_takes_hold_where_it_is_told_to(side, scale):
    hand, spec = Hand(HandLook(side, scale, SKINS[0], SKINS[1])), mujoco.MjSpec()
    hand.add(spec)
    model = spec.compile()
    data = mujoco.MjData(model)
    hand.bind(model)
    point, angles = np.array([0.4, 0.1, 0.05]), np.array([0.5, 0.6, 0.1])
    for gap in (0.0, 0.03, 0.06):
        hand.show(data, Grip(point, angles, gap), np.array([1.0, 0.5, 0.4]))
        mujoco.mj_kinematics(model, data)
        keypoints = hand.keypoints(data)
        thumb, fingers = keypoints[4], keypoints[[8, 12]].mean(axis=0)
        np.testing.assert_allclose((thumb + fingers) / 2, point, atol=2e-3)
        assert np.linalg.norm(thumb - fingers) == pytest.approx(gap + 2 * PAD * scale, abs=4e-3)
    for posture, tip in (({"pointing": 1.0}, 8), ({"flat": 1.0}, 12)):
        hand.show(data, Grip(point, angles, 0.02, **posture), np.array([1.0, 0.5, 0.4]))
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(hand.keypoints(data)[tip], point, atol=1e-6)


def test_what_is_exogenous_does_not_depend_on_the_task():
    one, other = (tiny(task, seed=2, exogenous=True) for task in (LIFT, OPEN))
    paths = [made.labels["exogenous_position"] for made in (one, other)]
    count = min(map(len, paths))
    np.testing.assert_allclose(paths[0][:count], paths[1][:count])
    assert np.abs(np.diff(paths[0], axis=0)).max() < 0.15  # it moves, and does not jump
    assert np.ptp(paths[0], axis=0).min() > 0.01
    plain = tiny(LIFT, seed=2)
    np.testing.assert_array_equal(plain.labels["object_positions"], one.labels["object_positions"])
    assert not np.array_equal(plain.frames, one.frames)


def test_a_film_is_a_function_of_its_job():
    first = tiny(PUT, "T3", 11, camera="ego", exogenous=True)
    tiny(OPEN, "T2", 12)
    again = tiny(PUT, "T3", 11, camera="ego", exogenous=True)
    np.testing.assert_array_equal(first.frames, again.frames)
    for name, values in first.labels.items():
        np.testing.assert_array_equal(values, again.labels[name], err_msg=name)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def config_for(out, **options):
    common = {"clips": 5, "image_size": TINY, "embodiment": "mixed", "tiers": ("T0", "T1", "T2"), "workers": 0}
    return HumanConfig(out=out, **(common | options))


def test_workers_and_interruptions_change_nothing(tmp_path):
    whole = contents(run(config_for(tmp_path / "whole")))
    assert contents(run(config_for(tmp_path / "parallel", workers=2))) == whole
    cut = run(config_for(tmp_path / "cut", clips=3))
    (cut / "clips" / "000002.mp4").write_bytes(b"half")
    captions = (cut / "captions.jsonl").read_bytes()
    (cut / "captions.jsonl").write_bytes(captions[:-9])
    assert contents(run(config_for(cut))) == whole
    assert contents(run(config_for(cut, clips=2))) == whole
    with pytest.raises(UnderstudyError, match="image_size"):
        run(config_for(cut, image_size=32))


def test_what_is_written_can_be_read(tmp_path):
    out = run(config_for(tmp_path / "films", clips=2, tiers=("T1",)))
    lines = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    assert [{*line} for line in lines] == [{"file", "caption"}] * 2
    human, robot = read_labels(out)
    assert human["embodiment"] != "robot" == robot["embodiment"]
    assert human["pair"] == robot["pair"]
    for line, about in zip(lines, (human, robot), strict=True):
        labels = labels_of(out, about["name"])
        frames = decode_at(out / line["file"], np.arange(about["frames"]) / about["fps"], tolerance_s=0.01)
        made = tiny(about["task"], about["tier"], about["seed"], about["embodiment"], failures=0.1)
        assert np.abs(frames.astype(int) - made.frames).mean() < 12  # as lossy as so small a picture is
        np.testing.assert_array_equal(labels["progress"], made.labels["progress"])
        assert str(labels["object_names"][0]) == "red cube"
    with pytest.raises(UnderstudyError, match="there is no"):
        labels_of(out, "000009")
    (out / "privileged" / "000000.npz").write_bytes(b"not a zip")
    with pytest.raises(UnderstudyError, match="damaged"):
        labels_of(out, "000000")
    with pytest.raises(UnderstudyError, match="vla human"):
        read_labels(tmp_path)


def test_no_loader_of_training_data_knows_the_labels():
    for path in [*(REPO / "vla/data").rglob("*.py"), *(REPO / "vla/training").rglob("*.py")]:
        imported = {
            name
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", ""), *(alias.name for alias in node.names)]
        }
        assert not imported & {"vla.data.privileged", "privileged"}, path


def test_scenes_to_train_on_are_not_those_to_be_judged_on():
    for split, seeds in (("train", TRAIN_SEEDS), ("test", TEST_SEEDS)):
        jobs = jobs_of(load(HumanConfig, "human", [f"split={split}", "clips=40", "tasks=[tabletop/lift-*]"]))
        assert all(job.seed in seeds and job.scene in seeds for job in jobs)
        assert len({job.seed for job in jobs}) == 40
        assert {job.tier for job in jobs} == {"T1", "T2", "T3"}
        assert len({job.task for job in jobs}) == 4


def test_no_pair_and_no_object_is_in_both_splits():
    """Both films of a pair are of one split, and what is handled in T3 is drawn anew for each film."""
    found = {}
    for split in ("train", "test"):
        given = [f"split={split}", "clips=60", "tasks=[metaworld/push,metaworld/drawer-open]", "embodiment=mixed"]
        jobs = jobs_of(load(HumanConfig, "human", [*given, "tiers=[T2,T3]"]))
        pairs = [job.pair for job in jobs]
        assert all(pairs.count(pair) == 2 for pair in pairs)
        objects = {tuple(job.rng("instance").uniform(0.1, 0.9, 3)) for job in jobs if job.tier == "T3"}
        found[split] = set(pairs), objects, {job.scene for job in jobs}
    for one, other in zip(found["train"], found["test"], strict=True):
        assert one
        assert one.isdisjoint(other)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tiers": ("T4",)}, "T4"),
        ({"tiers": ()}, "tier"),
        ({"clips": 0}, "clips"),
        ({"failures": 1.5}, "failures"),
        ({"image_size": 15}, "image_size"),
        ({"seed": -1}, "seed"),
        ({"tasks": ("tabletop/juggle",)}, "juggle"),
        ({"randomize": ("gravity",)}, "gravity"),
    ],
)
def test_what_cannot_be_is_refused(settings, told):
    with pytest.raises(UnderstudyError, match=told):
        jobs_of(HumanConfig(**settings))


def test_a_job_that_cannot_be_is_refused():
    for job in (FilmJob("tabletop/juggle"), FilmJob(LIFT, "T9"), FilmJob(LIFT, seed=-1), FilmJob(LIFT, embodiment="x")):
        with pytest.raises(UnderstudyError):
            film(job)
