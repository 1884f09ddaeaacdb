"""The contract: what it refuses, and that it survives a trip through JSON."""

import json
import sys

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from vla.types import ActionChunk, ActionSpec, CameraSpec, Episode, Gripper, Observation, PolicySpec, Task, VideoClip

ACTION = ActionSpec("ee_delta", ("x", "y", "grip"), (-1, -1, 0), (1, 1, 1), gripper=Gripper(index=2, open=1, closed=0))
POLICY = PolicySpec(
    cameras=(CameraSpec("front", 64, 48), CameraSpec("wrist", 32, 32)),
    proprio_names=("x", "y"),
    action=ACTION,
    accepts=("instruction", "goal"),
    obs_horizon=2,
    pred_horizon=8,
    exec_horizon=4,
    control_hz=10,
    checkpoint="outputs/train",
)


def picture(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


def episode(**changes):
    fields = {
        "images": {"front": lambda: picture(5, 4, 4, 3)},
        "proprio": np.zeros((5, 2), np.float32),
        "actions": np.zeros((5, 3), np.float32),
        "task": Task("lift"),
        "fps": 10,
        "embodiment": "arm",
        "success": None,
        "source": "expert",
        "stamps_ns": np.zeros(5, np.int64),
    }
    return Episode(**fields | changes)


def test_what_fits_is_taken():
    clip = VideoClip(picture(5, 4, 6, 3), fps=30)
    Observation({"front": picture(4, 6, 3), "wrist": picture(8, 8, 3)}, np.zeros(2, np.float32), stamp_ns=1)
    ActionChunk(np.zeros((8, 3), np.float32), stamp_ns=1, dt=0.1)
    assert Task("lift", video=clip, goal=picture(4, 4, 3)).video is clip
    assert episode().length == 5


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: VideoClip(picture(4, 6, 3), 30.0), id="clip without time"),
        pytest.param(lambda: VideoClip(picture(5, 3, 4, 6), 30.0), id="clip with channels first"),
        pytest.param(lambda: Task("lift", goal=picture(4, 4, 4)), id="goal with alpha"),
        pytest.param(lambda: Task("lift", goal=picture(4, 4, 3, dtype=np.float32)), id="goal of floats"),
        pytest.param(
            lambda: Observation({"front": picture(1, 4, 4, 3)}, np.zeros(2, np.float32), 1), id="batched image"
        ),
        pytest.param(lambda: Observation({}, np.zeros((1, 2), np.float32), 1), id="batched proprio"),
        pytest.param(lambda: Observation({}, np.zeros(2), 1), id="double proprio"),
        pytest.param(lambda: ActionChunk(np.zeros(3, np.float32), 1, 0.1), id="one action instead of a chunk"),
        pytest.param(lambda: ActionChunk([[0.0]], 1, 0.1), id="list of actions"),
        pytest.param(lambda: episode(actions=np.zeros((4, 3), np.float32)), id="fewer actions than observations"),
        pytest.param(lambda: episode(stamps_ns=np.zeros(6, np.int64)), id="more stamps than observations"),
        pytest.param(lambda: episode(stamps_ns=np.zeros(5)), id="stamps in seconds"),
    ],
)
def test_a_wrong_shape_or_dtype_is_refused(build):
    with pytest.raises(TypeCheckError):
        build()


def test_the_checks_cost_nothing_outside_tests(run_python):
    code = """
import sys, numpy as np
from vla.types import ActionChunk
ActionChunk(np.zeros(3), 1, .1)
sys.exit("beartype" in sys.modules)
"""
    assert run_python(code).returncode == 0
    assert "beartype" in sys.modules


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "torque"}, "torque"),
        ({"low": (-1, -1)}, "3 names, 2 low"),
        ({"low": (-1, 1, 0)}, "under its high"),
        ({"low": (-1, float("nan"), 0)}, "under its high"),
        ({"gripper": Gripper(3, 1, 0)}, "outside 0…2"),
    ],
)
def test_an_action_spec_that_contradicts_itself_is_refused(changes, told):
    fields = {"kind": "ee_delta", "names": ("x", "y", "grip"), "low": (-1, -1, 0), "high": (1, 1, 1)}
    with pytest.raises((ValueError, TypeCheckError), match=told):
        ActionSpec(**fields | changes)


@pytest.mark.parametrize("exec_horizon", [0, 9])
def test_no_more_is_carried_out_than_was_predicted(exec_horizon):
    with pytest.raises(ValueError, match=r"1…8"):
        PolicySpec.from_dict(POLICY.to_dict() | {"exec_horizon": exec_horizon})


@pytest.mark.parametrize(
    "spec", [POLICY, PolicySpec((), (), ActionSpec("ee_pose", ("z",), (0,), (1,)), (), 1, 1, 1, 5)]
)
def test_a_policy_spec_survives_json(spec):
    assert PolicySpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("missing", ["cameras", "action", "control_hz"])
def test_a_policy_spec_with_a_key_too_few_or_too_many_is_refused(missing):
    data = POLICY.to_dict()
    with pytest.raises(TypeError):
        PolicySpec.from_dict(data | {"colour": "red"})
    del data[missing]
    with pytest.raises((KeyError, TypeError)):
        PolicySpec.from_dict(data)
