"""Small recordings to write and read back."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vla.data.lerobot import DatasetSpec
from vla.types import ActionSpec, CameraSpec, Episode, Gripper, Task

SIDE = 32


@pytest.fixture
def spec() -> DatasetSpec:
    """Two cameras, five proprio entries, three actions, 10 Hz, PNG."""
    return DatasetSpec(
        fps=10.0,
        cameras=(CameraSpec("top", SIDE, SIDE), CameraSpec("wrist", SIDE, SIDE + 8)),
        proprio_names=("j0", "j1", "j2", "j3", "opening"),
        action=ActionSpec("ee_delta", ("dx", "dy", "grip"), (-1.0,) * 3, (1.0,) * 3, gripper=Gripper(2, 1.0, -1.0)),
        embodiment="test-arm",
        fingerprint="test/1",
    )


@pytest.fixture
def make_episode(spec: DatasetSpec) -> Callable[..., Episode]:
    """``make_episode(seed, length=6, **changes)``: smooth moving pictures, random numbers, jittered stamps."""

    def make(seed: int, length: int = 6, **changes: object) -> Episode:
        rng = np.random.default_rng(seed)
        images = {}
        for camera in spec.cameras:
            rows, columns = np.mgrid[0 : camera.height, 0 : camera.width]
            ramp = np.stack([rows * 5, columns * 5, (rows + columns) * 2], axis=-1) + 10 * (seed % 7)
            frames = np.stack([np.clip(ramp + 6 * t, 0, 255) for t in range(length)]).astype(np.uint8)
            images[camera.name] = lambda frames=frames: frames
        episode = Episode(
            images=images,
            proprio=rng.normal(size=(length, len(spec.proprio_names))).astype(np.float32),
            actions=rng.normal(size=(length, spec.action.dim)).astype(np.float32),
            task=Task(f"do task {seed % 2}"),
            fps=spec.fps,
            embodiment=spec.embodiment,
            success=[True, False, None][seed % 3],
            source="expert",
            stamps_ns=np.arange(length) * 100_000_000 + rng.integers(0, 9_000_000, length) + 5_000_000_000,
            seed=seed,
            initial_state=seed % 4,
        )
        return replace(episode, **changes)

    return make


def same(one: Episode, two: Episode, tolerance: int = 0) -> None:
    """Assert that two episodes hold the same; images may differ by ``tolerance`` levels."""
    np.testing.assert_array_equal(one.proprio, two.proprio)
    np.testing.assert_array_equal(one.actions, two.actions)
    np.testing.assert_array_equal(one.stamps_ns, two.stamps_ns)
    for name in ("task", "fps", "embodiment", "success", "source", "seed", "initial_state"):
        assert getattr(one, name) == getattr(two, name), name
    assert set(one.images) == set(two.images)
    for camera in one.images:
        difference = np.abs(one.images[camera]().astype(int) - two.images[camera]())
        assert difference.max() <= tolerance, f"{camera} differs by {difference.max()}"


@pytest.fixture(name="same")
def same_fixture() -> Callable[..., None]:
    """The function `same`."""
    return same


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """The module recordings.py beside this file; loaded by place, as other distributions install a ``tests``, too."""
    spec = importlib.util.spec_from_file_location("recordings", Path(__file__).with_name("recordings.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def lay():
    """The module human_layouts.py beside this file."""
    spec = importlib.util.spec_from_file_location("human_layouts", Path(__file__).with_name("human_layouts.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
