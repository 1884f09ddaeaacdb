"""What stands between a policy and a motor."""

from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robot_bridge.client import BridgeError
from robot_bridge.safety import RefusedError, governed
from vla.errors import UnderstudyError
from vla.types import ActionSpec, Gripper

SPEC = ActionSpec(
    "ee_delta", ("dx", "dy", "grip"), (-0.03, -0.02, 0.0), (0.03, 0.04, 1.0), gripper=Gripper(2, 1.0, 0.0)
)


@given(hnp.arrays(np.float32, 3, elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_what_is_sent_is_inside_the_bounds_and_what_was_inside_is_unchanged(action):
    low, high = np.float32(SPEC.low), np.float32(SPEC.high)
    sent = governed(action, SPEC)
    assert sent.dtype == np.float32
    assert ((low <= sent) & (sent <= high)).all()
    inside = (low <= action) & (action <= high)
    np.testing.assert_array_equal(sent[inside], action[inside])
    np.testing.assert_array_equal(governed(sent, SPEC), sent)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_no_number_is_refused_by_name(value):
    with pytest.raises(UnderstudyError, match=r"not finite in dy\b.*not sent"):
        governed(np.array([0, value, 0], np.float32), SPEC)


@pytest.mark.parametrize("shape", [(2,), (4,), (1, 3), ()])
def test_an_action_of_another_length_is_refused(shape):
    with pytest.raises(UnderstudyError, match=r"3 entries \(dx, dy, grip\)"):
        governed(np.zeros(shape, np.float32), SPEC)


def test_the_policys_array_is_left_alone():
    action = np.array([9, 9, 9], np.float32)
    governed(action, SPEC)
    assert (action == 9).all()


@pytest.mark.parametrize("kind", [RefusedError, BridgeError])
def test_a_refusal_reaches_another_process_as_it_is(kind):
    back = ForkingPickler.loads(ForkingPickler.dumps(kind("shape", "needs 3 entries")))
    assert (type(back), back.code, str(back)) == (kind, "shape", "needs 3 entries")
