"""The bar before anything moves: segments, figures, verdicts, and the folder that an arm is driven from."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from retarget_made_hands import camera_at, picking, seen_by

from robot_bridge.arms.arm import make_arm
from robot_bridge.demonstration import demo_spec, prepared
from robot_bridge.retarget.folder import JOINTS, QUALITY, load, save
from robot_bridge.retarget.hands import HandTrack
from robot_bridge.retarget.linkage import linkage_of
from robot_bridge.retarget.quality import BARS, jerk, split
from robot_bridge.retarget.report import write_report
from robot_bridge.retarget.retarget import RetargetConfig, chosen, retarget
from vla.errors import UnderstudyError

STAMPS, POINTS, _, CLOSED = picking()
CAMERAS = {"front": camera_at((1.3, 0.2, 0.6)), "side": camera_at((0.6, -0.9, 0.5))}
ARM = make_arm("sim")


@pytest.fixture(scope="module")
def linkage():
    return linkage_of(ARM)


def made(linkage, change=lambda name, track: track, **config):
    tracks = {name: change(name, seen_by(camera, STAMPS, POINTS, noise_px=1.0)) for name, camera in CAMERAS.items()}
    return retarget(tracks, CAMERAS, linkage, ARM.spec, config=RetargetConfig(**config))


def hidden(first, after):
    def hide(name, track):
        pixels = track.pixels.copy()
        pixels[first:after] = np.nan
        return replace(track, pixels=pixels)

    return hide


def test_a_good_clip_is_executed(linkage, tmp_path):
    good = made(linkage)
    assert good.quality.verdict == "execute"
    assert [one.name for one in good.quality.segments] == ["reach", "hold 1", "leave"]
    assert good.quality.figures["detection_rate"] == 1.0
    assert good.quality.figures["jerk"] < 0.3 * good.quality.figures["jerk_raw"]
    assert good.quality.figures["velocity_violations"] == good.quality.figures["position_violations"] == 0
    save(tmp_path, good.quality.to_dict(), good.prepared(ARM.spec.embodiment, 50.0))
    ready = load(tmp_path)
    np.testing.assert_array_equal(ready.joints, good.joints.joints)
    assert (ready.hz, ready.embodiment, ready.verdict) == (50.0, ARM.spec.embodiment, "execute")
    page = write_report(tmp_path, good, filmed=False, facts={"hand": "<b>"}).read_text()
    assert "execute" in page
    assert "<b>" not in page


def test_a_hand_that_is_hidden_is_checked_and_one_that_is_lost_is_rejected(linkage, tmp_path):
    short, long = made(linkage, hidden(40, 45)), made(linkage, hidden(40, 60))
    assert {one.name: one.verdict for one in short.quality.segments} == {
        "reach": "execute",
        "hold 1": "check",
        "leave": "execute",
    }
    assert (
        "not seen" in short.quality.segments[1].reasons[0] or "without the hand" in short.quality.segments[1].reasons[0]
    )
    assert long.quality.verdict == "reject"
    assert long.joints is None
    save(tmp_path, long.quality.to_dict(), None)
    with pytest.raises(
        UnderstudyError, match=r"^\S+ is not for an arm: the arm cannot follow .*hold 1: .*report\.html"
    ):
        load(tmp_path)


def test_one_camera_alone_is_for_looking_only(linkage, tmp_path):
    look = made(linkage, lift="mono")
    assert look.quality.verdict == "reject"
    save(tmp_path, look.quality.to_dict(), look.prepared(ARM.spec.embodiment, 50.0))
    with pytest.raises(UnderstudyError, match="one camera alone does not know how far the hand is"):
        load(tmp_path)


def test_cameras_that_disagree_and_an_arm_that_does_not_reach_are_told(linkage):
    askew = made(linkage, lambda name, track: replace(track, pixels=track.pixels + (40.0 if name == "side" else 0.0)))
    assert any("the cameras disagree" in reason for one in askew.quality.segments for reason in one.reasons)
    far = {
        name: replace(camera, base_from_camera=camera.base_from_camera + moved(0.5)) for name, camera in CAMERAS.items()
    }
    tracks = {name: seen_by(camera, STAMPS, POINTS) for name, camera in CAMERAS.items()}
    unreached = retarget(tracks, far, linkage, ARM.spec)
    assert unreached.quality.verdict == "reject"
    assert unreached.quality.figures["reachable"] < 0.9


def moved(x):
    shift = np.zeros((4, 4))
    shift[0, 3] = x
    return shift


def test_a_lift_says_what_it_lacks():
    track = HandTrack.empty("nobody.mp4", (640, 480), STAMPS)
    tracks = {"front": track}
    assert chosen("auto", tracks, {}, False) == "mono"
    assert chosen("auto", tracks, CAMERAS, False) == "plane"
    assert chosen("auto", {"a": track, "b": track}, CAMERAS, False) == "stereo"
    assert chosen("auto", tracks, CAMERAS, True) == "rgbd"
    with pytest.raises(UnderstudyError, match="needs calibrated cameras"):
        chosen("stereo", tracks, {}, False)
    with pytest.raises(UnderstudyError, match="needs the camera's depth"):
        chosen("rgbd", tracks, CAMERAS, False)


@pytest.mark.parametrize("part", [slice(0, 55), slice(45, None)], ids=["ends in a grasp", "begins in a grasp"])
def test_a_clip_that_is_cut_in_a_grasp_is_retargeted_as_far_as_it_goes(linkage, part):
    def cut(name, track):
        names = ("stamps", "pixels", "relative", "world", "points", "score")
        return replace(track, **{name: getattr(track, name)[part] for name in names})

    found = made(linkage, cut)
    assert found.joints is not None
    assert found.quality.verdict == "execute"
    assert [one.name for one in found.quality.segments][-1] in ("hold 1", "leave", "move")
    assert len(found.path.closed) == len(STAMPS[part])


def test_segments_cover_the_clip(linkage):
    path = made(linkage).path
    parts = split(path)
    assert parts[0][1] == 0
    assert parts[-1][2] == len(STAMPS)
    assert all(a[2] == b[1] for a, b in pairwise(parts))
    never = split(replace(path, closed=np.zeros(len(STAMPS), bool)))
    assert never == [("move", 0, len(STAMPS))]
    cut = split(replace(path, closed=STAMPS > 4.0))  # cut off in the middle of a grasp
    assert [name for name, _, _ in cut] == ["reach", "hold 1"]


def test_jerk_of_a_cubic_is_its_coefficient():
    stamps = np.arange(0, 2, 0.1)
    assert jerk(np.stack([2 * stamps**3, 0 * stamps, stamps**2], axis=1), stamps) == pytest.approx(12.0)


def test_a_folder_that_is_damaged_is_no_traceback(linkage, tmp_path):
    good = made(linkage)
    save(tmp_path, good.quality.to_dict(), good.prepared(ARM.spec.embodiment, 50.0))
    (tmp_path / JOINTS).write_bytes(b"cut off")
    with pytest.raises(UnderstudyError, match="is damaged"):
        load(tmp_path)
    (tmp_path / JOINTS).unlink()
    with pytest.raises(UnderstudyError, match="is damaged"):
        load(tmp_path)
    (tmp_path / QUALITY).write_text("{}")
    with pytest.raises(UnderstudyError, match="is damaged"):
        load(tmp_path)


def test_setpoints_are_for_the_arm_that_they_were_made_for(linkage, tmp_path):
    good = made(linkage)
    save(tmp_path, good.quality.to_dict(), good.prepared("another", 50.0))
    with pytest.raises(UnderstudyError, match="was made for the arm another, and this is panda-primitive"):
        prepared(tmp_path, "sim", ARM.spec)
    with pytest.raises(UnderstudyError, match="holds no retargeted video"):
        load(tmp_path / "nothing")
    said = json.loads((tmp_path / QUALITY).read_text())
    assert set(said["segments"][0]["figures"]) == set(BARS)
    spec = demo_spec(ARM.spec, 50.0)
    assert (spec.action.kind, spec.action.names, spec.cameras) == ("joint_position", ARM.spec.joints, ())
