"""Moves with turns: they add up as transforms do, and what the network sees of them can be meant again."""

import numpy as np
import pytest
from scipy.spatial.transform import RigidTransform, Rotation

from policies.manipulate_by_seeing import recorded_moves
from policies.moves import Moves
from policies.policy import load_policy
from policies.train import TrainConfig, run, training_windows
from vla.config import load
from vla.data.lerobot import DatasetSpec, EpisodeWriter, open_dataset
from vla.errors import UnderstudyError
from vla.types import ActionSpec, CameraSpec, Episode, Gripper, Observation, Task


def spec_of(frame):
    names = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    return ActionSpec("ee_delta", names, (-1.0,) * 7, (1.0,) * 7, frame=frame, gripper=Gripper(6, open=1, closed=0))


def rows(count=5, steps=4):
    return np.random.default_rng(0).normal(0, 0.3, (count, steps, 7))


def test_in_the_tools_frame_moves_add_up_as_transforms():
    actions = rows()
    made = Moves(spec_of("tool"), rotations=True).made_by(actions)
    for move, steps in zip(made, actions, strict=True):
        whole = RigidTransform.identity()
        for step in steps:
            whole *= RigidTransform.from_components(step[:3], Rotation.from_rotvec(step[3:6]))
        way, turn = whole.as_components()
        np.testing.assert_allclose(move, [*way, *turn.as_rotvec()], atol=1e-9)


@pytest.mark.parametrize("frame", ["base", "world"])
def test_in_frames_that_stand_still_ways_add_and_turns_are_about_the_same_axes(frame):
    actions = rows()
    made = Moves(spec_of(frame), rotations=True).made_by(actions)
    np.testing.assert_allclose(made[:, :3], actions[..., :3].sum(1), atol=1e-9)
    arrow = np.array([1.0, 2.0, 3.0])
    for move, steps in zip(made, actions, strict=True):
        turned = arrow
        for step in steps:
            turned = Rotation.from_rotvec(step[3:6]).apply(turned)
        np.testing.assert_allclose(Rotation.from_rotvec(move[3:]).apply(arrow), turned, atol=1e-9)


@pytest.mark.parametrize("frame", ["base", "tool"])
def test_a_move_in_equal_rows_is_made_by_them(frame):
    kind = Moves(spec_of(frame), rotations=True)
    moves = kind.made_by(rows())
    actions = np.zeros((5, 4, 7))
    actions[..., :6] = kind.split(moves, 4)[:, None]
    np.testing.assert_allclose(kind.made_by(actions), moves, atol=1e-9)


@pytest.mark.parametrize("rotations", [False, True])
def test_what_is_seen_of_a_move_means_it_again(rotations):
    kind = Moves(spec_of("base"), rotations)
    moves = kind.made_by(rows())
    seen = kind.seen(moves, 0.5)
    assert seen.shape == (5, kind.numbers)
    np.testing.assert_allclose(kind.meant(seen, 0.5), moves, atol=1e-5)


def test_twelve_numbers_are_the_first_rows_of_the_transform_and_any_twelve_mean_some_turn():
    kind = Moves(spec_of("base"), rotations=True)
    seen = kind.seen(np.array([[0.1, 0.2, 0.3, 0, 0, np.pi / 2]]), 1.0).reshape(3, 4)
    np.testing.assert_allclose(seen, [[0, -1, 0, 0.1], [1, 0, 0, 0.2], [0, 0, 1, 0.3]], atol=1e-6)
    meant = kind.meant(np.random.default_rng(1).normal(size=(50, 12)), 1.0)
    assert np.isfinite(meant).all()
    assert (np.linalg.norm(meant[:, 3:], axis=1) <= np.pi + 1e-9).all()


def test_a_turn_on_the_spot_is_long_enough():
    moves = np.array([[0.0, 0, 0, 0, 0, 0.2], [0.0, 0, 0, 0, 0, 0.01], [0.02, 0, 0, 0, 0, 0]])
    assert Moves(spec_of("base"), rotations=True).long_enough(moves, 0.005, 0.05).tolist() == [True, False, True]


def knob(angle):
    """A bar that is turned by ``angle`` [rad], one end of it white."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    bar = (np.abs(across) < 0.25) & (np.abs(along) < 0.9)
    return np.stack([255 * bar, 255 * (bar & (along > 0)), 0 * x], axis=2).astype(np.uint8)


@pytest.fixture
def turned(tmp_path):
    """Recordings of a knob that somebody turns, one way or the other."""
    spec = DatasetSpec(
        fps=10.0,
        cameras=(CameraSpec("wrist", 32, 32),),
        proprio_names=(),
        action=spec_of("base"),
        embodiment="grabber",
        fingerprint="knob/1",
    )
    random = np.random.default_rng(0)
    with EpisodeWriter(tmp_path / "data", spec) as writer:
        for number in range(40):
            way, begin = 0.15 * (-1) ** number, random.uniform(-0.6, 0.6)
            frames = np.stack([knob(begin + way * step) for step in range(9)])
            actions = np.zeros((9, 7), np.float32)
            actions[:, 5], actions[:, 6] = way, 1
            stamps = (np.arange(9) * 1e8).astype(np.int64)
            writer.save(
                Episode(
                    images={"wrist": lambda frames=frames: frames},
                    proprio=np.zeros((9, 0), np.float32),
                    actions=actions,
                    task=Task("turn the knob"),
                    fps=10.0,
                    embodiment="grabber",
                    success=True,
                    source="test",
                    stamps_ns=stamps,
                )
            )
    return tmp_path / "data"


def test_turns_of_half_a_circle_are_refused(turned, tmp_path):
    given = ["policy=manipulate_by_seeing", "preset=tiny", f"data={turned}", f"out={tmp_path / 'out'}"]
    given += ["policy.rotations=true", "policy.directions=false", "policy.stride=8"]
    run(load(TrainConfig, "train", [*given, "trainer.steps=1"]))
    dataset = open_dataset(turned)
    config = load_policy(tmp_path / "out").config
    windows = training_windows(dataset, config, holdout=0)
    windows.actions[:, 5] *= 4
    with pytest.raises(UnderstudyError, match="radians"):
        recorded_moves(config, windows)


def test_a_knob_is_turned_towards_its_picture(turned, tmp_path):
    given = ["policy=manipulate_by_seeing", "preset=tiny", f"data={turned}", f"out={tmp_path / 'out'}"]
    given += ["policy.rotations=true", "policy.directions=false", "policy.stride=2", "trainer.batch_size=16"]
    given += ["policy.temperature=0.1", "policy.pool=all", "trainer.steps=100"]
    run(load(TrainConfig, "train", given))
    policy = load_policy(tmp_path / "out")
    right = 0
    for begin in np.linspace(-0.5, 0.5, 6):
        for way in (-0.6, 0.6):
            policy.reset(Task("", goal=knob(begin + way)))
            chunk = policy.infer(Observation({"wrist": knob(begin)}, np.zeros(0, np.float32), 0)).actions
            right += np.sign(chunk[:, 5].sum()) == np.sign(way)
            assert np.abs(chunk[:, :5]).max() < 0.05
    assert right >= 10
