"""Training samples: chunks, padding, masks, and which samples make up a batch."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.data.lerobot import EpisodeWriter, open_dataset
from vla.data.windows import EpochSampler, load_windows, pad_neutral, shifted
from vla.errors import UnderstudyError
from vla.types import ActionSpec, Gripper

LENGTHS = (3, 9, 1, 5)
HORIZON = 4
SIZE = 16


@pytest.fixture
def make_dataset(tmp_path, monkeypatch, spec, make_episode):
    """``make_dataset(**changes of the spec)``: four episodes, one of them shorter than a chunk, one of a frame."""
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "cache"))

    def make(**changes):
        root = tmp_path / "dataset"
        with EpisodeWriter(root, replace(spec, **changes)) as writer:
            for seed, length in enumerate(LENGTHS):
                writer.save(make_episode(seed, length=length))
        return open_dataset(root)

    return make


def windows_of(dataset, **options):
    return load_windows(dataset, **{"pred_horizon": HORIZON, "image_size": SIZE, **options})


def test_every_sample_is_its_frame_and_the_actions_that_follow_it_in_its_episode(make_dataset):
    dataset = make_dataset()
    windows = windows_of(dataset)
    batch = windows.gather(windows.samples)
    assert len(windows) == sum(LENGTHS) == len(batch.mask)
    number = 0
    for index, length in enumerate(LENGTHS):
        arrays = dataset.arrays(index)
        for frame in range(length):
            real = min(HORIZON, length - frame)
            assert batch.mask[number].tolist() == [True] * real + [False] * (HORIZON - real)
            np.testing.assert_array_equal(batch.actions[number, :real], arrays["actions"][frame : frame + real])
            np.testing.assert_array_equal(batch.proprio[number], arrays["proprio"][frame])
            assert batch.instructions[number] == dataset.episodes[index].instruction
            for camera, frames in windows.frames.items():
                np.testing.assert_array_equal(batch.images[camera][number], frames[number])
            number += 1


def test_displacements_are_padded_with_standing_still_and_the_last_gripper(make_dataset):
    dataset = make_dataset()
    windows = windows_of(dataset)
    batch = windows.gather(windows.samples)
    padded = ~batch.mask
    assert padded.any()
    assert not batch.actions[padded][:, :2].any()
    last = windows.actions[windows.ends[windows.samples] - 1, 2]
    np.testing.assert_array_equal(batch.actions[..., 2][padded], np.repeat(last[:, None], HORIZON, axis=1)[padded])


@pytest.mark.parametrize("kind", ["joint_position", "ee_pose"])
def test_targets_are_padded_with_the_last_one(make_dataset, spec, kind):
    windows = windows_of(make_dataset(action=replace(spec.action, kind=kind)))
    batch = windows.gather(windows.samples)
    padded = ~batch.mask
    last = np.repeat(windows.actions[windows.ends[windows.samples] - 1][:, None], HORIZON, axis=1)
    assert padded.any()
    np.testing.assert_array_equal(batch.actions[padded], last[padded])


def test_an_arm_without_a_gripper_stands_still_in_every_entry():
    bare = ActionSpec("ee_delta", ("x", "y"), (-1.0,) * 2, (1.0,) * 2)
    actions, mask = np.ones((2, 3, 2), np.float32), np.array([[1, 0, 0], [1, 1, 1]], bool)
    padded = pad_neutral(actions, mask, bare)
    np.testing.assert_array_equal(padded[..., 0], mask.astype(np.float32))
    assert padded.dtype == np.float32
    gripper = replace(bare, gripper=Gripper(1, 1.0, 0.0))
    np.testing.assert_array_equal(pad_neutral(actions, mask, gripper)[..., 1], np.ones((2, 3)))


def test_chosen_episodes_and_cameras_alone(make_dataset):
    windows = windows_of(make_dataset(), episodes=[1, 3], cameras=["wrist"])
    assert list(windows.frames) == ["wrist"]
    assert windows.samples.tolist() == [*range(3, 12), *range(13, 18)]


def test_gathering_leaves_the_dataset_alone(make_dataset):
    windows = windows_of(make_dataset())
    before = windows.actions.copy()
    windows.gather(windows.samples).actions[:] = 7
    np.testing.assert_array_equal(windows.actions, before)


@pytest.mark.parametrize("key", ["actions", "proprio"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_nan_is_refused_by_episode_and_frame(make_dataset, monkeypatch, key, value):
    dataset = make_dataset()
    read = dataset.arrays

    def spoilt(index):
        arrays = read(index)
        if index == 1:
            arrays[key][6, 1] = value
        return arrays

    monkeypatch.setattr(dataset, "arrays", spoilt)
    with pytest.raises(UnderstudyError, match=f"{key} of episode 1, frame 6 of .* holds NaN or infinity"):
        windows_of(dataset)


def test_what_is_not_there_is_refused(make_dataset, tmp_path, spec):
    with pytest.raises(UnderstudyError, match=r"unknown camera of .* 'wrst'; did you mean 'wrist'"):
        windows_of(make_dataset(), cameras=["wrst"])
    with EpisodeWriter(tmp_path / "empty", spec):
        pass
    with pytest.raises(UnderstudyError, match="has no episodes"):
        windows_of(open_dataset(tmp_path / "empty"))


def pictures():
    return np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)


def test_no_shift_is_the_picture_itself():
    frames, indices = pictures(), np.array([3, 0])
    np.testing.assert_array_equal(shifted(frames, indices, None), frames[indices])
    np.testing.assert_array_equal(shifted(frames, indices, np.zeros((2, 2), int)), frames[indices])


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=4))
def test_a_shift_moves_each_picture_by_its_own_and_repeats_the_border(shifts):
    frames, indices = pictures(), np.arange(len(shifts))
    moved = shifted(frames, indices, np.array(shifts))
    for number, (rows, columns) in enumerate(shifts):
        wide = np.pad(frames[number], ((9, 9), (9, 9), (0, 0)), mode="edge")
        np.testing.assert_array_equal(moved[number], wide[9 + rows : 15 + rows, 9 + columns : 16 + columns])


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5))
def test_every_epoch_is_a_permutation(size, batch_size, seed):
    sampler = EpochSampler(size, batch_size=batch_size, seed=seed)
    batches = 3 * size // batch_size + 2
    drawn = np.concatenate([sampler.indices(step) for step in range(batches)])
    for epoch in range(3):
        assert sorted(drawn[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(st.integers(1, 30), st.integers(1, 40), st.permutations(range(8)))
def test_a_batch_is_a_pure_function_of_seed_and_step(size, batch_size, order):
    sampler = EpochSampler(size, batch_size=batch_size, seed=3)
    jumping = {step: sampler.indices(step).tolist() for step in order}
    for step in range(8):
        assert jumping[step] == EpochSampler(size, batch_size=batch_size, seed=3).indices(step).tolist()


def test_epochs_and_seeds_differ():
    orders = {
        tuple(EpochSampler(50, batch_size=50, seed=seed).indices(epoch)) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9


def test_two_small_batches_are_one_large():
    small, large = (EpochSampler(30, batch_size=size, seed=1) for size in (4, 8))
    for step in range(10):
        both = np.concatenate([small.indices(2 * step), small.indices(2 * step + 1)])
        np.testing.assert_array_equal(both, large.indices(step))
