"""Tracks of hands: what is seen, what is a gap, and files that are no tracks."""

from dataclasses import replace

import numpy as np
import pytest
from retarget_made_hands import camera_at, picking, seen_by

from robot_bridge.retarget.hands import BONES, HandTrack, segments, side_of
from vla.errors import UnderstudyError

STAMPS, POINTS, _, _ = picking()
TRACK = seen_by(camera_at((1.2, 0.3, 0.5)), STAMPS, POINTS)


def test_what_was_saved_is_read_again(tmp_path):
    TRACK.save(tmp_path / "track.npz")
    again = HandTrack.load(tmp_path / "track.npz")
    assert (again.source, again.size) == (TRACK.source, TRACK.size)
    np.testing.assert_array_equal(again.stamps, TRACK.stamps)
    np.testing.assert_allclose(again.pixels, TRACK.pixels, rtol=1e-6)


def test_a_gap_lies_between_two_frames_with_a_hand():
    pixels = TRACK.pixels.copy()
    pixels[:3], pixels[10:14], pixels[-2:] = np.nan, np.nan, np.nan
    track = replace(TRACK, pixels=pixels)
    assert track.gaps("right") == [(10, 14)]
    assert track.seen("right").sum() == len(STAMPS) - 9
    assert track.busier() == "right"
    assert not track.seen("left").any()


def test_no_hand_at_all_is_said():
    with pytest.raises(UnderstudyError, match=r"no hand in holiday\.mp4: none of its 5 frames"):
        HandTrack.empty("holiday.mp4", (64, 48), np.arange(5.0)).busier()


def test_what_is_no_track_is_refused(tmp_path):
    with pytest.raises(UnderstudyError, match="vla track"):
        HandTrack.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("not a track")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], object), allow_pickle=True)
    for name in ("text", "other", "pickled"):
        with pytest.raises(UnderstudyError, match="no track of hands"):
            HandTrack.load(tmp_path / f"{name}.npz")
    with pytest.raises(UnderstudyError, match="do not ascend"):
        replace(TRACK, stamps=STAMPS[::-1])
    with pytest.raises(UnderstudyError, match="pixels of"):
        replace(TRACK, pixels=TRACK.pixels[:5])
    with pytest.raises(UnderstudyError, match="did you mean 'right'"):
        side_of("rigth")


def test_bones_join_every_keypoint_to_the_wrist():
    assert len(BONES) == 20
    parent = {joint: before for before, joint in BONES}
    for joint in range(1, 21):
        while joint:
            joint = parent[joint]


def test_segments():
    assert list(segments(np.array([True, True, False, True]))) == [(0, 2), (3, 4)]
    assert list(segments(np.zeros(3, bool))) == []
