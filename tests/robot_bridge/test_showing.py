"""A run's task that is shown: what is refused before anything moves, and a drive over real sockets."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from robot_bridge_rig import TOOL_POLICY

from robot_bridge.drive import Drive, drive
from robot_bridge.showing import Shows
from vla.data.video import encode_mp4
from vla.errors import UnderstudyError
from vla.types import Task

TASK = "tabletop/press-button"


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A film in which something moves, and a picture."""
    folder = tmp_path_factory.mktemp("seen")
    frames = np.full((20, 64, 64, 3), 120, np.uint8)
    for number, frame in enumerate(frames):
        frame[20:40, 2 * number : 2 * number + 20] = (220, 30, 30)
    (folder / "film.mp4").write_bytes(encode_mp4(frames, 10.0))
    cv2.imwrite(str(folder / "goal.png"), frames[-1][..., ::-1])
    cv2.imwrite(str(folder / "dark.png"), np.zeros((8, 8, 3), np.uint8))
    return folder


def test_a_task_is_put_with_what_shows_it(seen):
    put = Shows(seen / "film.mp4", seen / "goal.png").of(Task("press"))
    assert put.instruction == "press"
    assert put.video.frames.shape[1:] == (128, 128, 3)
    assert put.goal.shape == (64, 64, 3)
    last = Shows(goal=seen / "film.mp4").of(Task("")).goal
    assert np.abs(last.astype(int) - put.goal).mean() < 6
    assert Shows().of(Task("press")) == Task("press")


def test_a_policy_is_shown_just_what_it_looks_at(seen):
    pictured, shown = (replace(TOOL_POLICY, accepts=(kind,)) for kind in ("goal", "video"))
    Shows(goal=seen / "goal.png").check(pictured)
    Shows(prompt=seen / "film.mp4").check(shown)
    Shows().check(TOOL_POLICY)
    for shows, spec, why in (
        (Shows(), pictured, "--goal IMAGE"),
        (Shows(), shown, "--prompt VIDEO"),
        (Shows(prompt=seen / "film.mp4"), TOOL_POLICY, "looks at no video"),
        (Shows(goal=seen / "goal.png"), shown, "--prompt VIDEO"),
        (Shows(prompt=seen / "film.mp4", goal=seen / "goal.png"), shown, "looks at no goal"),
        (Shows(goal=seen / "dark.png"), pictured, "too dark"),
        (Shows(goal=seen / "nowhere.png"), pictured, "there is no picture"),
        (Shows(goal=seen), pictured, "there is no picture"),
        (Shows(prompt=seen / "goal.png"), shown, "frames"),
    ):
        with pytest.raises(UnderstudyError, match=why):
            shows.check(spec)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two demonstrations, as small as they can be."""
    from sim.collect import CollectConfig, run

    out = tmp_path_factory.mktemp("shown") / "data"
    suite = {"image_size": 32, "cameras": ["wrist"]}
    return run(CollectConfig(tasks=(TASK,), episodes=2, out=out, suite=suite, workers=0))


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("policy", "shows"),
    [("manipulate_by_seeing", {"goal": "goal.png"}), ("vid2robot", {"prompt": "film.mp4"})],
)
def test_a_drive_is_shown_its_task_over_real_sockets(policy, shows, dataset, seen, tmp_path):
    from policies.train import TrainConfig, run
    from vla.config import load

    given = [f"policy={policy}", "preset=tiny", "trainer.steps=1", f"data={dataset}", f"out={tmp_path / 'policy'}"]
    checkpoint = run(load(TrainConfig, "train", given))
    asked = Drive(
        checkpoint=checkpoint,
        arm_options=(("task", TASK),),
        shows=Shows(**{name: seen / file for name, file in shows.items()}),
        out=tmp_path / "report",
        seconds=3.0,
    )
    (ended,) = drive(asked)
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert ended.seconds > 1
    assert told["ledger"]["ticks"] > 100
    assert "goal" not in ended.reason
    with pytest.raises(UnderstudyError, match="this policy is shown what to do"):
        drive(replace(asked, shows=Shows()))
