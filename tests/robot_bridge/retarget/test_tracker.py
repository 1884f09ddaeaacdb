"""The tracker on real and rendered videos, on what phones do to them, and its process when it fails."""

import json
import stat
import struct
import sys

import numpy as np
import pytest

from robot_bridge.retarget import tracker
from robot_bridge.retarget.cameras import Camera
from robot_bridge.retarget.hands import HandTrack
from robot_bridge.retarget.overlay import write_overlay
from robot_bridge.retarget.track import main, said
from robot_bridge.retarget.tracker import Sighting, TrackerConfig, hands_python, track_frames, track_video
from vla.data.video import decode_all, every_frame, frame_size, probe, write_mp4
from vla.errors import UnderstudyError

UPRIGHT = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
ON_ITS_SIDE = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
"""Matrices of an mp4's track: as it is, and to be turned by a quarter when it is shown."""


@pytest.fixture(scope="module")
def front(samples):
    return samples / "synthetic_hand/front.mp4"


@pytest.fixture(scope="module")
def clip(front):
    """The first two seconds, at 15 frames a second."""
    return [frame for _, (_, frame) in zip(range(30), every_frame(front))]


@pytest.fixture(scope="module")
def track(mediapipe, clip):
    return track_frames((number / 15, frame) for number, frame in enumerate(clip))


def test_the_hand_is_where_it_is(mediapipe, samples, front):
    """The keypoints' truth is known: a rendered hand."""
    truth = json.loads((samples / "synthetic_hand/gt.json").read_text())
    about = next(one for one in truth["cams"] if one["name"] == "front")
    camera = Camera.of_mujoco(np.array(about["pos"]), np.array(about["R"]), fovy=about["fovy"], size=(640, 480))
    steps = []
    track = track_video(front, progress=lambda done, total: steps.append((done, total)))
    assert track.seen("right").all()
    assert steps[-1] == (121, 121)
    points = camera.project(np.array([frame["K"] for frame in truth["frames"]]))
    apart = np.linalg.norm(track.pixels[:, 1] - points, axis=-1)
    assert np.median(apart) < 6.0
    assert np.abs(np.median(track.pixels[:, 1] - points, axis=(0, 1))).max() < 2.0  # not half a pixel's convention off
    np.testing.assert_allclose(track.stamps, np.arange(121) / 15, atol=1e-3)


def test_a_phone_held_upright_and_frames_that_do_not_come_evenly(mediapipe, clip, track, tmp_path):
    stamps = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.11, len(clip)))
    lying = tmp_path / "lying.mp4"
    write_mp4(lying, zip(stamps, (np.rot90(frame) for frame in clip)), fps=15)
    held = lying.read_bytes()
    assert held.count(b"tkhd") == 1
    lying.write_bytes(held.replace(UPRIGHT, ON_ITS_SIDE).replace(ON_ITS_SIDE, UPRIGHT, 1))  # the film's own stays
    found = track_video(lying)
    assert found.size == (640, 480)
    np.testing.assert_allclose(found.stamps - found.stamps[0], stamps - stamps[0], atol=2e-3)
    assert np.median(np.linalg.norm(found.pixels[:, 1] - track.pixels[:, 1], axis=-1)) < 5.0


def test_a_picture_of_120_pixels_and_one_without_a_hand(mediapipe, samples, clip):
    small = track_video(samples / "human/kitchen_play_view1.mp4", TrackerConfig(confidence=0.3))
    assert small.size == (120, 120)
    assert 0.3 < np.mean(small.seen("left") | small.seen("right")) <= 1.0
    assert small.gaps(small.busier())
    empty = track_frames((number / 15, np.full((120, 160, 3), 90, np.uint8)) for number in range(5))
    assert said(empty) == "no hand in any of 5 frames"
    with pytest.raises(UnderstudyError, match="there is no hand in frames"):
        empty.busier()


def test_two_hands_are_two(mediapipe, clip):
    """The same hand twice, once as in a mirror."""
    pair = (np.hstack([frame[:, 120:520], frame[:, 520:120:-1]]) for frame in clip[:12])
    both = track_frames((number / 15, frame) for number, frame in enumerate(pair))
    assert both.seen("left").mean() > 0.7
    assert both.seen("right").mean() > 0.7
    shown = both.seen("left") & both.seen("right")
    assert (both.pixels[shown, 1, 0, 0] < 400).all()
    assert (both.pixels[shown, 0, 0, 0] > 400).all()


def test_the_command_writes_a_track_and_a_film(mediapipe, clip, tmp_path, capsys):
    video = tmp_path / "me.mp4"
    write_mp4(video, ((number / 15, frame) for number, frame in enumerate(clip[:10])), fps=15)
    assert main([str(video), "--out", str(tmp_path / "out")]) == 0
    assert "right hand in 10 of 10 frames (100 %)" in capsys.readouterr().out
    track = HandTrack.load(tmp_path / "out/track.npz")
    assert probe(tmp_path / "out/overlay.mp4")[0] == 10
    assert frame_size(tmp_path / "out/overlay.mp4") == (480, 640)
    film = decode_all(tmp_path / "out/overlay.mp4")
    assert np.abs(film[5].astype(int) - clip[5]).max() > 60  # something is drawn over it
    write_overlay(video, HandTrack.empty("", (640, 480), track.stamps), tmp_path / "none.mp4")
    with pytest.raises(UnderstudyError, match="there is no video"):
        main([str(tmp_path / "missing.mp4")])
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(UnderstudyError, match=r"notes\.mp4"):
        track_video(tmp_path / "notes.mp4")


def a_python(tmp_path, monkeypatch, body):
    """A Python of the tracker that is a script of ours."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(tracker.PYTHON, str(script))


PICTURES = [(0.0, np.zeros((8, 8, 3), np.uint8)), (0.1, np.zeros((8, 8, 3), np.uint8))]


def test_a_process_that_fails_says_why(tmp_path, monkeypatch):
    a_python(tmp_path, monkeypatch, "import sys; sys.exit('out of memory')")
    with pytest.raises(UnderstudyError, match="ended with 1: out of memory"):
        track_frames(PICTURES)
    a_python(tmp_path, monkeypatch, "import mediapipe_that_is_not_there")
    with pytest.raises(UnderstudyError, match="has no MediaPipe; run `make hands`"):
        track_frames(PICTURES)
    body = "import os, sys; os.write(1, bytes(1)); sys.stdin.buffer.read(8); sys.exit('killed')"
    a_python(tmp_path, monkeypatch, body)
    with pytest.raises(UnderstudyError, match="killed"):
        track_frames(PICTURES)


def test_what_is_wrong_with_the_frames_is_raised_here(tmp_path, monkeypatch):
    answer = "import os, sys\nos.write(1, bytes(1))\nwhile sys.stdin.buffer.read(8 + 192): os.write(1, bytes(1))"
    a_python(tmp_path, monkeypatch, answer)
    assert not track_frames(PICTURES).seen("right").any()
    with pytest.raises(UnderstudyError, match="no frame that can be decoded"):
        track_frames([])
    with pytest.raises(UnderstudyError, match="change from"):
        track_frames([PICTURES[0], (0.1, np.zeros((8, 4, 3), np.uint8))])

    def broken():
        yield PICTURES[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        track_frames(broken())


def test_without_mediapipe_it_is_said_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv(tracker.PYTHON, str(tmp_path / "none"))
    with pytest.raises(UnderstudyError, match="there is no such file; run `make hands`"):
        hands_python()
    monkeypatch.delenv(tracker.PYTHON)
    monkeypatch.setattr(tracker, "__file__", str(tmp_path / "a/b/c/tracker.py"))
    monkeypatch.setattr(tracker, "find_spec", lambda name: None)
    with pytest.raises(UnderstudyError, match="MediaPipe is needed"):
        hands_python()


def sighting(side, x, score=0.9):
    image = np.zeros((21, 3))
    image[:, 0], image[:, 1] = x + 0.005 * np.arange(21), 0.5
    return Sighting(side, score, image, np.zeros((21, 3)))


def assembled(found):
    return tracker._assembled(HandTrack.empty("", (640, 480), np.arange(len(found)) / 15), found)


def test_a_hand_is_left_or_right_for_as_long_as_it_is_seen():
    flickering = [[sighting(side, 0.3)] for side in (1, 1, 0, 1, 1, 0, 1)]
    track = assembled(flickering)
    assert track.seen("right").all()
    assert not track.seen("left").any()


def test_one_hand_that_is_found_twice_is_one_and_two_alike_are_two():
    twice = [[sighting(1, 0.3), sighting(0, 0.302, 0.6)] for _ in range(5)]
    assert not assembled(twice).seen("left").any()
    alike = [[sighting(1, 0.2), sighting(1, 0.7, 0.8)] for _ in range(5)]
    both = assembled(alike)
    assert both.seen("right").all()
    assert both.seen("left").all()
    assert (both.pixels[:, 1, 0, 0] < 200).all()


def test_hands_that_come_one_after_the_other_keep_their_sides():
    gone = [[sighting(0, 0.2)]] * 4 + [[]] * 20 + [[sighting(1, 0.7)]] * 4
    track = assembled(gone)
    assert track.seen("left").sum() == track.seen("right").sum() == 4
