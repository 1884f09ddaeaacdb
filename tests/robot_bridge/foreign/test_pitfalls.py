"""What has gone wrong when policies were judged in harnesses that were not their own, one test each.

The list is that of "common pitfalls" in allenai's vla-evaluation-harness; each fails when its convention is broken.
"""

from dataclasses import replace

import numpy as np
import pytest
from robot_bridge_toys import SPEC, Session, ToyBrain

from policies.execution import ExecutionConfig
from robot_bridge.foreign.conventions import Conversion, Layout
from robot_bridge.foreign.episode import Stepwise, check_embodiment
from robot_bridge.foreign.table import Seen, Table
from vla.errors import UnderstudyError
from vla.types import ActionChunk, ActionSpec, CameraSpec, Gripper

ARM = ActionSpec(
    "ee_delta",
    ("dx", "dy", "dz", "rx", "ry", "rz", "gripper"),
    (-1.0,) * 6 + (0.0,),
    (1.0,) * 7,
    gripper=Gripper(6, open=1.0, closed=0.0),
)
ARMED = replace(SPEC, action=ARM, proprio_names=("x", "y", "z", "qw", "qx", "qy", "qz"))
ROTATED = {"state__ours": "xyz quat_wxyz", "action__ours": "xyz axis_angle gripper"}
IDENTITY = np.array([0, 0, 0, 1, 0, 0, 0], np.float32)


def table(spec=SPEC, **told):
    return Table.server(spec, {name.replace("__", "."): value for name, value in told.items()}, "vla-eval")


def seen(state=(0.0, 0.5), words="lift", image=None):
    image = np.full((8, 8, 3), 7, np.uint8) if image is None else image
    return Seen({"front": image}, {"states": np.asarray(state, np.float32)}, words)


def told(action, spec=ARMED, proprio=IDENTITY, **names):
    """The action [A] in their words."""
    made = table(spec, **ROTATED | names)
    return made.carried_out(np.array([action], np.float32), lambda: np.asarray(proprio, np.float32))[0]


class Watching(Session):
    """Keeps what it saw."""

    def infer(self, observation, underway=None):
        self.observations = [*getattr(self, "observations", []), observation]
        return super().infer(observation, underway)


def test_a_picture_that_is_upside_down_there_is_turned_and_not_mirrored():
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    turned = table(turned="front").observed(seen(image=image), 0).images["front"]
    np.testing.assert_array_equal(turned, np.rot90(image, 2))
    np.testing.assert_array_equal(table().observed(seen(image=image), 0).images["front"], image)


def test_quaternions_change_their_order():
    made = table(ARMED, state__theirs="xyz quat_xyzw", **ROTATED).proprio(
        seen([1, 2, 3, 0.1, 0.2, 0.3, np.sqrt(1 - 0.14)])
    )
    np.testing.assert_allclose(made, [1, 2, 3, np.sqrt(1 - 0.14), 0.1, 0.2, 0.3], rtol=1e-6)


@pytest.mark.parametrize("form", ["quat_wxyz", "axis_angle", "euler_xyz"])
def test_a_quaternion_and_its_antipode_are_one_rotation_and_w_is_not_negative(form):
    quaternion = np.array([[-0.9, 0.1, -0.3, 0.2]], np.float32)
    quaternion /= np.linalg.norm(quaternion)
    convert = Conversion(Layout.of("quat_wxyz"), Layout.of(form), what="it")
    np.testing.assert_allclose(convert(quaternion), convert(-quaternion), atol=1e-6)
    if form == "quat_wxyz":
        assert convert(quaternion)[0, 0] >= 0
    if form == "axis_angle":
        assert np.linalg.norm(convert(quaternion)) <= np.pi


def test_euler_angles_are_no_axis_angle_where_it_shows():
    turn = [0, 0, 0, 0.9, -0.8, 0.7, 1]
    axis_angle, euler = told(turn), told(turn, action__theirs="xyz euler_xyz gripper:1:0")
    assert np.abs(axis_angle[3:6] - euler[3:6]).max() > 0.1
    from scipy.spatial.transform import Rotation

    expected = Rotation.from_rotvec(turn[3:6]).as_euler("xyz")
    np.testing.assert_allclose(euler[3:6], expected, atol=1e-6)


def test_the_two_layouts_of_six_numbers_are_told_apart():
    turn = [0, 0, 0, 0.9, -0.8, 0.7, 1]
    rows = told(turn, action__theirs="xyz rot6d_interleaved gripper:1:0")[3:9]
    columns = told(turn, action__theirs="xyz rot6d_contiguous gripper:1:0")[3:9]
    np.testing.assert_allclose(rows.reshape(3, 2).T.ravel(), columns, atol=1e-6)
    assert np.abs(rows - columns).max() > 0.1


@pytest.mark.parametrize(
    ("text", "opened", "shut"), [("-1:1", -1, 1), ("1:-1", 1, -1), ("0:1", 0, 1), ("255:0", 255, 0)]
)
def test_a_gripper_means_open_by_what_they_mean_by_it(text, opened, shut):
    theirs = f"xyz axis_angle gripper:{text}"
    assert told([0] * 6 + [1], action__theirs=theirs)[-1] == opened
    assert told([0] * 6 + [0], action__theirs=theirs)[-1] == shut


@pytest.mark.parametrize(
    ("threshold", "opening", "expected"), [(0.5, 0.6, -1), (0.5, 0.4, 1), (0.8, 0.7, 1), (0.8, 0.9, -1)]
)
def test_a_gripper_that_is_only_ever_open_or_closed_has_its_threshold(threshold, opening, expected):
    assert told([0] * 6 + [opening], action__theirs=f"xyz axis_angle gripper:-1:1:{threshold}")[-1] == expected


def test_displacements_are_not_taken_for_places():
    delta = [0.1, 0, 0, 0, 0, 0, 1]
    proprio = [0.5, 0.2, 0.3, 1, 0, 0, 0]
    np.testing.assert_allclose(told(delta, proprio=proprio)[:3], [0.1, 0, 0], atol=1e-7)
    placed = told(delta, proprio=proprio, action__kind="ee_pose")
    np.testing.assert_allclose(placed[:3], [0.6, 0.2, 0.3], atol=1e-6)
    with pytest.raises(UnderstudyError, match="one side are ee_delta, of the other joint_position"):
        told(delta, action__kind="joint_position")
    with pytest.raises(UnderstudyError, match="say where position and rotation stand"):
        table(ARMED, action__kind="ee_pose")


def test_a_state_that_was_not_sent_is_an_error_and_no_zeros():
    session = Stepwise(ToyBrain().session(), table(), ExecutionConfig())
    with pytest.raises(UnderstudyError, match="lacks the state states, which the policy reads as x, y"):
        session.act(Seen(seen().images, {}, "lift"))


def test_the_state_comes_from_the_source_that_is_named():
    both = Seen(seen().images, {"states": np.ones(2), "controller_states": np.full(2, 5.0)}, "lift")
    assert table().proprio(both).tolist() == [1, 1]
    assert table(state="controller_states").proprio(both).tolist() == [5, 5]


def test_the_opening_of_a_gripper_is_reckoned_from_its_real_ends():
    spec = replace(SPEC, proprio_names=("x", "opening"))
    made = table(spec, state__ours="1 gripper:1:0", state__theirs="1 gripper:0.037:0.015")
    np.testing.assert_allclose(made.proprio(seen([0.3, 0.015])), [0.3, 0], atol=1e-6)
    np.testing.assert_allclose(made.proprio(seen([0.3, 0.037])), [0.3, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (
            {"action__theirs": "xyz axis_angle"},
            "'xyz axis_angle gripper' .7 entries. cannot become 'xyz axis_angle' .6",
        ),
        ({"action__ours": "6"}, "action.ours '6' has 6 entries, the policy 7"),
        ({"state__ours": "xyz"}, "state.ours 'xyz' has 3 entries, the policy 7"),
        ({"action": "arm:6"}, "has 6 entries, action.theirs has 7"),
        ({"overhead": "agentview"}, "unknown name in the map"),
        ({"turned": "wrist"}, "unknown camera in turned 'wrist'"),
    ],
)
def test_another_dimension_is_refused_before_anything_moves(names, why):
    with pytest.raises(UnderstudyError, match=why):
        table(ARMED, **ROTATED | names)


def test_numbers_are_unnormalised_for_the_arm_that_is_named(tmp_path):
    from policies.policy import write_spec

    write_spec(tmp_path, "cogact", SPEC, others={"left": SPEC, "right": SPEC})
    check_embodiment(tmp_path, "right")
    for wrong in ("", "middle"):
        with pytest.raises(UnderstudyError, match="unknown embodiment of the policy"):
            check_embodiment(tmp_path, wrong)


def test_only_the_middle_of_a_picture_goes_on_when_the_policy_was_trained_on_that():
    image = np.zeros((100, 60, 3), np.uint8)
    image[40:60, 25:35] = 200
    middle = table(crop="0.81").observed(seen(image=image), 0).images["front"]
    assert middle.shape == (90, 54, 3)
    np.testing.assert_array_equal(middle, image[5:95, 3:57])


@pytest.mark.parametrize(("horizon", "inferences"), [(1, 8), (2, 4), (4, 2)])
def test_a_chunk_is_carried_out_as_far_as_was_said(horizon, inferences):
    session = Watching(ToyBrain())
    steps = Stepwise(session, table(), ExecutionConfig("newest", exec_horizon=horizon))
    rows = [steps.act(seen([number / 10, 0.5])) for number in range(8)]
    assert len(session.observations) == inferences
    np.testing.assert_allclose(
        [row[0] for row in rows], [number // horizon * horizon / 10 for number in range(8)], rtol=1e-6
    )
    with pytest.raises(UnderstudyError, match="exec_horizon must be 1…4"):
        Stepwise(session, table(), ExecutionConfig(exec_horizon=5))


def test_chunks_that_overlap_are_combined_as_our_own_executor_does():
    from policies.execution import ChunkExecutor

    config = ExecutionConfig("temporal", exec_horizon=1)
    direct, steps = ChunkExecutor(ToyBrain().session(), config), Stepwise(ToyBrain().session(), table(), config)
    from vla.types import Task

    direct.reset(Task("lift"))
    for number in range(6):
        one = seen([number / 10, 0.5])
        expected = np.clip(direct.act(lambda one=one: table().observed(one, 0)), -1, 1)
        np.testing.assert_array_equal(steps.act(one), expected)


def test_the_arm_settles_before_the_policy_is_asked():
    class Gripping(Watching):
        spec = replace(
            SPEC,
            action=replace(ARM, names=ARM.names[3:], low=ARM.low[3:], high=ARM.high[3:], gripper=Gripper(3, 1.0, 0.0)),
        )

        def infer(self, observation, underway=None):
            super().infer(observation, underway)
            return ActionChunk(np.full((4, 4), 0.25, np.float32), 0, 0.05)

    session = Gripping(ToyBrain(), spec=Gripping.spec)
    steps = Stepwise(
        session, table(session.spec, settle="3", action__theirs="3 gripper:-1:1"), ExecutionConfig("newest")
    )
    rows = [steps.act(seen()) for _ in range(5)]
    np.testing.assert_array_equal(rows[:3], [[0, 0, 0, -1]] * 3)
    np.testing.assert_array_equal(rows[3], [0.25, 0.25, 0.25, 0.5])
    assert session.observations[0].stamp_ns == 150_000_000  # three steps of 50 ms
    steps.begin(1)
    np.testing.assert_array_equal(steps.act(seen()), [0, 0, 0, -1])
    with pytest.raises(UnderstudyError, match="settle wants actions that may be nothing"):
        table(replace(SPEC, action=replace(SPEC.action, kind="joint_position")), settle="3")


def test_time_is_that_of_the_steps_however_long_somebody_thinks():
    session = Watching(ToyBrain())
    steps = Stepwise(session, table(), ExecutionConfig("newest", exec_horizon=2))
    for _ in range(6):
        steps.act(seen())
    assert [one.stamp_ns for one in session.observations] == [0, 100_000_000, 200_000_000]


def test_nothing_but_numbers_within_bounds_leaves_the_server():
    class Wild(Session):
        value = 3.0

        def infer(self, observation, underway=None):
            return ActionChunk(np.full((4, 3), self.value, np.float32), 0, 0.05)

    steps = Stepwise(Wild(ToyBrain()), table(), ExecutionConfig())
    assert steps.act(seen()).tolist() == [1, 1, 1]
    wild = Wild(ToyBrain())
    wild.value = np.nan
    with pytest.raises(UnderstudyError, match="not finite"):
        Stepwise(wild, table(), ExecutionConfig()).act(seen())


def test_a_policy_that_is_shown_its_tasks_is_not_served_to_who_only_tells():
    with pytest.raises(UnderstudyError, match="put its tasks by video, the protocol vla-eval by words alone"):
        table(replace(SPEC, accepts=("video",)))


def test_a_table_may_be_a_file(tmp_path):
    from robot_bridge.foreign.table import read_map

    file = tmp_path / "map.yaml"
    file.write_text("front: agentview\nturned: true\nsettle: 10\n")
    found = read_map([str(file), "state=obs"])
    assert found == {"front": "agentview", "turned": "all", "settle": "10", "state": "obs"}
    made = Table.server(
        replace(SPEC, cameras=(CameraSpec("front", 8, 8), CameraSpec("wrist", 8, 8))), found, "vla-eval"
    )
    assert (made.cameras, made.turned) == ({"front": "agentview", "wrist": "wrist"}, {"front", "wrist"})
    for bad in ("front: [a]\n", "- a\n", ":\n\t"):
        file.write_text(bad)
        with pytest.raises(UnderstudyError, match="no table"):
            read_map([str(file)])
    with pytest.raises(UnderstudyError, match="not written name=value"):
        read_map(["front"])
