"""When something is held: by the fingers' opening, and by where the hand stands still."""

from dataclasses import replace

import numpy as np
import pytest

from robot_bridge.retarget.grasps import GraspConfig, events, grasped

STAMPS = np.arange(0.0, 7.0, 1 / 15)
AT = [0.0, 0.5, 1.5, 2.5, 3.2, 3.8, 4.8, 5.8, 6.6, 7.0]
"""Rest, reach, stand over the thing, lift, carry, lower, stand, withdraw, rest."""
HEIGHT = np.interp(STAMPS, AT, [0.2, 0.2, 0.03, 0.03, 0.15, 0.15, 0.03, 0.03, 0.2, 0.2])
ALONG = np.interp(STAMPS, AT, [0.3, 0.3, 0.45, 0.45, 0.45, 0.5, 0.6, 0.6, 0.3, 0.3])
PLACE = np.stack([ALONG, np.zeros(len(STAMPS)), HEIGHT], axis=1)
OPENING = np.interp(STAMPS, [0.6, 1.2, 1.9, 2.3, 5.0, 5.4, 5.9, 6.6], [0.07, 0.09, 0.09, 0.05, 0.05, 0.09, 0.09, 0.07])


def found(opening=OPENING, place=PLACE, height=HEIGHT, upto=None, config=None):
    return events(grasped(opening[:upto], place[:upto], height[:upto], STAMPS[:upto], config))


def assert_times(grasps, first_s, after_s):
    ((first, after),) = grasps
    assert STAMPS[first] == pytest.approx(first_s, abs=0.4)
    assert STAMPS[after - 1] == pytest.approx(after_s, abs=0.4)


@pytest.mark.parametrize("offset", [-0.03, 0.0, 0.03])
def test_a_grasp_is_relative_to_the_clip(offset):
    """Trackers read fingertips that touch as centimetres apart."""
    assert_times(found(OPENING + offset), 2.1, 5.2)


def test_a_hand_at_rest_holds_nothing_however_closed_it_is():
    relaxed = np.minimum(OPENING, np.interp(STAMPS, [0.5, 1.0, 6.0, 6.6], [0.04, 0.09, 0.09, 0.04]))
    assert_times(found(relaxed), 2.1, 5.2)


def test_a_tracker_s_mistakes_on_the_way_are_no_letting_go():
    wrong = OPENING + 0.05 * np.exp(-(((STAMPS - 3.6) / 0.2) ** 2))
    assert_times(found(wrong), 2.1, 5.2)


def test_gaps_and_unknown_heights():
    opening, place, height = OPENING.copy(), PLACE.copy(), HEIGHT.copy()
    opening[48:55], place[48:55], height[48:55] = np.nan, np.nan, np.nan
    assert_times(found(opening, place, height), 2.1, 5.2)
    assert_times(found(height=np.full(len(STAMPS), np.nan)), 2.1, 5.2)
    assert found(np.full(len(STAMPS), np.nan)) == []


def test_a_clip_that_ends_with_something_in_the_hand():
    upto = int(np.searchsorted(STAMPS, 4.8))
    ((first, after),) = found(upto=upto, config=replace(GraspConfig(), ended=1.0))
    assert STAMPS[first] == pytest.approx(2.1, abs=0.4)
    assert after == upto


def test_no_grasp_where_the_fingers_hardly_move_and_none_too_short():
    assert found(0.2 * OPENING) == []
    assert found(config=GraspConfig(least_s=4.0)) == []
