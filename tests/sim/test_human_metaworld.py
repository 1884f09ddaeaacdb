"""The simulated demonstrators at Meta-World's tasks."""

import mujoco
import numpy as np
import pytest

import sim.human_metaworld
from sim.cameras import RayCamera
from sim.human import FilmJob, HumanConfig, film, jobs_of, run
from sim.human_shots import shoot
from sim.tasks.metaworld import INSTRUCTIONS
from vla.errors import UnderstudyError

DRAWER, PUCK = "metaworld/drawer-open", "metaworld/pick-place"


def tiny(task, tier="T1", seed=0, embodiment="hand", **options):
    return film(
        FilmJob(task, tier, seed, embodiment, **({"image_size": 16, "camera": "side", "failures": 0.0} | options))
    )


def moved(made):
    """How far things are from where they were [m], at most, in each frame [T]."""
    places = made.labels["object_positions"]
    return np.linalg.norm(places - places[0], axis=-1).max(axis=1)


@pytest.mark.parametrize("task", [DRAWER, PUCK])
def test_a_demonstrator_does_what_the_expert_did(task):
    made = tiny(task)
    labels, count = made.labels, len(made.frames)
    assert made.about["success"]
    assert made.caption == INSTRUCTIONS[task.removeprefix("metaworld/")]
    assert 15 < count < 90
    assert {len(labels[name]) for name in ("phase", "progress", "contact", "pinch_point", "keypoints_2d")} == {count}
    assert (np.diff(labels["phase"].astype(int)) >= 0).all()
    assert (np.diff(labels["progress"]) >= 0).all()
    assert labels["progress"][-1] == 1
    approach = labels["phase"] == 0
    assert moved(made)[approach].max() < 2e-3 < moved(made)[-1]
    assert not labels["contact"][approach].any()
    assert np.abs(np.diff(labels["pinch_point"], axis=0)).max() < 0.2  # no jump where its own path meets the expert's


def test_tiers_share_what_they_should():
    robot, same, other, third = (
        tiny(DRAWER, tier, 3, name) for tier, name in (("T1", "robot"), ("T1", "hand"), ("T2", "hand"), ("T3", "hand"))
    )
    start = [made.labels["object_positions"][0] for made in (robot, same, other)]
    np.testing.assert_allclose(start[0], start[1], atol=5e-3)
    assert np.abs(start[0] - start[2]).max() > 5e-3
    np.testing.assert_array_equal(robot.labels["camera_pose"][0], same.labels["camera_pose"][0])
    assert np.abs(robot.labels["camera_pose"][0] - other.labels["camera_pose"][0]).max() > 1e-3
    assert robot.about["pair"] == same.about["pair"]
    assert third.about["success"]


def test_t0_follows_the_robot_frame_by_frame():
    robot, tool = tiny(PUCK, "T0", 5, "robot"), tiny(PUCK, "T0", 5, "grabber")
    for name in ("pinch_point", "opening", "object_positions", "phase", "progress"):
        np.testing.assert_allclose(tool.labels[name], robot.labels[name], atol=2e-3, err_msg=name)
    assert np.isnan(tool.labels["keypoints_3d"]).all()
    assert not np.array_equal(tool.frames, robot.frames)


@pytest.mark.parametrize("embodiment", ["hand", "sphere"])
def test_a_failure_ends_before_anything_has_moved(embodiment):
    made = tiny(PUCK, seed=2, failures=1.0, embodiment=embodiment)
    assert not made.about["success"]
    assert moved(made).max() < 2e-3
    assert made.labels["progress"].max() < 1
    assert not made.labels["contact"].any()


def test_a_film_is_a_function_of_its_job():
    first = tiny(PUCK, "T3", 7, exogenous=True)
    tiny(PUCK, "T2", 8, "hand", exogenous=True)
    again = tiny(PUCK, "T3", 7, exogenous=True)
    np.testing.assert_array_equal(first.frames, again.frames)
    assert "exogenous_position" in first.labels


@pytest.mark.parametrize("camera", ["side", "front"])
def test_keypoints_lie_on_the_hand(monkeypatch, camera):
    taken = []
    monkeypatch.setattr(sim.human_metaworld, "shoot", lambda shot: taken.append(shot) or shoot(shot))
    made = tiny(DRAWER, seed=1, image_size=96, camera=camera)
    shot = taken[0]
    rays = RayCamera(shot.model, shot.camera_id, height=96, width=96)
    on_hand, seen = 0, 0
    for frame in range(0, len(made.frames), 6):
        shot.data.qpos[: len(shot.states[frame])] = shot.states[frame]
        shot.acting.tool.show(shot.data, shot.acting.grips[frame], shot.acting.shoulder)
        mujoco.mj_kinematics(shot.model, shot.data)
        mujoco.mj_camlight(shot.model, shot.data)
        picture, pose = rays.picture(shot.data), made.labels["camera_pose"][frame]
        turn = -1 if shot.upside_down else 1
        depth, geoms = (plane[::turn, ::turn] for plane in (picture.depth, picture.segmentation))
        pixels = np.floor(made.labels["keypoints_2d"][frame]).astype(int)
        away = (made.labels["keypoints_3d"][frame] - pose[:3, 3]) @ pose[:3, 2]
        inside = ((pixels >= 0) & (pixels < 96)).all(axis=1)
        column, row = pixels[inside].T
        visible = depth[row, column] > away[inside] - 0.025  # nothing stands before it but its own flesh
        on_hand += np.isin(geoms[row, column][visible], [*shot.acting.tool.geoms]).sum()
        seen += visible.sum()
    assert seen > 30
    assert on_hand / seen > 0.8


def test_films_of_a_task_follow_each_other():
    jobs = jobs_of(HumanConfig(tasks=("metaworld/*",), clips=12))
    assert [job.task for job in jobs[:5]] == [jobs[0].task] * 4 + [jobs[4].task]
    assert len({job.task for job in jobs}) == 3


def test_what_cannot_be_is_refused():
    with pytest.raises(UnderstudyError, match="front or side"):
        tiny(DRAWER, camera="ego")
    with pytest.raises(UnderstudyError, match="drawer-open"):
        tiny("metaworld/drawer-opn")


@pytest.mark.slow
def test_workers_change_nothing(tmp_path):
    def made(workers):
        settings = {"tasks": ("metaworld/reach",), "clips": 3, "image_size": 32, "embodiment": "mixed"}
        out = run(HumanConfig(out=tmp_path / str(workers), workers=workers, camera="side", **settings))
        return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}

    assert made(0) == made(2)
