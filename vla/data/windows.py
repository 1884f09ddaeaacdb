"""Training samples: one observation, the chunk of actions that follows it, and which rows of it are real.

Around the end of an episode of length T (chunk of 6, episode ends after action T-1):

    actions   a[T-3]  a[T-2]  a[T-1]  pad  pad  pad
    mask        1       1       1      0    0    0

The padding is neutral: the arm stays where it is. End-effector displacements are zero there and the gripper keeps
its last value; joint targets and poses repeat the last row (CogACT and Octo pad in the same way).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from vla.data.corpus import Corpus
from vla.data.frames import Progress, decoded_frames
from vla.data.lerobot import Dataset
from vla.data.lerobot_format import QUALITY
from vla.errors import UnderstudyError, unknown
from vla.types import ActionSpec


@dataclass(frozen=True)
class Batch:
    """Samples side by side.

    ``images``: camera → [B, H, W, 3] uint8; ``proprio`` [B, P] and ``actions`` [B, H, A] float32, in the units that
    `Windows` holds them in; ``mask`` [B, H] bool; ``instructions``: B strings.
    """

    images: dict[str, np.ndarray]
    proprio: np.ndarray
    actions: np.ndarray
    mask: np.ndarray
    instructions: list[str]


@dataclass(frozen=True)
class Later:
    """Frames [B, K] to be seen beside B samples, of the same episodes; ``mask`` [B, K]: which of them count.

    ``pictures``: whether they are looked at, or only their proprio is asked for.
    """

    frames: np.ndarray
    mask: np.ndarray
    pictures: bool = True


@dataclass(frozen=True)
class Windows:
    """All samples of a dataset, one per frame, gathered by index without copying the dataset.

    ``frames``: camera → [N, H, W, 3] uint8, or what stands for them; ``proprio`` [N, P]; ``actions`` [N, A], without
    entries for action-free film; ``ends`` [N]: one past the last frame of the episode that frame *n* is in;
    ``instruction_of`` [N] into ``instructions``; ``quality`` [N]: how far to trust a frame's action, 0…1, where the
    dataset says.
    """

    frames: dict[str, np.ndarray | Corpus]
    proprio: np.ndarray
    actions: np.ndarray
    ends: np.ndarray
    samples: np.ndarray
    instruction_of: np.ndarray
    instructions: tuple[str, ...]
    spec: ActionSpec
    pred_horizon: int
    quality: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def told(self) -> list[str]:
        """The instructions of the samples, each once."""
        return [self.instructions[number] for number in np.unique(self.instruction_of[self.samples])]

    def gather(self, indices: np.ndarray, shift: np.ndarray | None = None) -> Batch:
        """The samples from frames ``indices`` [B] on; ``shift`` [B, 2] moves each one's images by (rows, columns)."""
        rows = indices[:, None] + np.arange(self.pred_horizon)
        mask = rows < self.ends[indices, None]
        actions = self.actions[np.minimum(rows, self.ends[indices, None] - 1)]
        return Batch(
            images={name: shifted(frames, indices, shift) for name, frames in self.frames.items()},
            proprio=self.proprio[indices],
            actions=pad_neutral(actions, mask, self.spec),
            mask=mask,
            instructions=[self.instructions[number] for number in self.instruction_of[indices]],
        )

    def ahead(self, indices: np.ndarray, offsets: np.ndarray, *, pictures: bool = True) -> Later:
        """The frames ``offsets`` [K] control steps after ``indices`` [B], of the same episode.

        Behind its end, the last one, masked out; before its begin, for offsets below 0, the first one.
        """
        frames, last = indices[:, None] + offsets, self.ends[indices, None] - 1
        if offsets.min() < 0:
            frames = np.maximum(frames, np.searchsorted(self.ends, self.ends[indices])[:, None])
        return Later(np.minimum(frames, last), frames <= last, pictures)

    def beside(self, indices: np.ndarray, distance: int, rng: np.random.Generator) -> Later:
        """For each of ``indices`` [B] another frame [B, 1] of its episode, at most ``distance`` control steps away.

        Each that there is, is as likely; in an episode of one frame there is none.
        """
        begin = np.searchsorted(self.ends, self.ends[indices])
        low = np.maximum(indices - distance, begin)
        others = np.minimum(indices + distance, self.ends[indices] - 1) - low
        drawn = low + rng.integers(0, np.maximum(others, 1))
        frames = np.where(others > 0, drawn + (drawn >= indices), indices)
        return Later(frames[:, None], others[:, None] > 0)


def film_windows(corpus: Corpus, *, camera: str, pred_horizon: int, spec: ActionSpec) -> Windows:
    """Every frame of action-free films as a sample, seen by ``camera``: no proprio, no actions.

    Of recordings that several cameras made, clips called ``EPISODE/CAMERA``, only those of that camera are samples.
    """
    told = tuple(dict.fromkeys(corpus.captions))
    total = corpus.num_frames
    own = np.array([name.rpartition("/")[2] == camera for name in corpus.names])
    chosen = np.repeat(own if own.any() else ~own, corpus.lengths)
    return Windows(
        frames={camera: corpus},
        proprio=np.zeros((total, 0), np.float32),
        actions=np.zeros((total, 0), np.float32),
        ends=np.repeat(corpus.starts + corpus.lengths, corpus.lengths),
        samples=np.flatnonzero(chosen),
        instruction_of=np.repeat([told.index(caption) for caption in corpus.captions], corpus.lengths),
        instructions=told,
        spec=spec,
        pred_horizon=pred_horizon,
    )


def pad_neutral(actions: np.ndarray, mask: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """Chunks [B, H, A] whose rows beyond ``mask`` repeat the last action, made neutral (physical units)."""
    if spec.kind != "ee_delta" or not actions.shape[-1]:
        return actions
    still = np.zeros(spec.dim, bool) if spec.gripper is None else np.arange(spec.dim) == spec.gripper.index
    return np.where(mask[..., None] | still, actions, np.float32(0))


def shifted(frames: np.ndarray, indices: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    """Frames [B, H, W, 3], each moved by its ``shift`` of (rows, columns); the border repeats itself."""
    if shift is None:
        return frames[indices]
    _, height, width, _ = frames.shape
    out = np.empty((len(indices), height, width, 3), np.uint8)
    rows = np.clip(np.arange(height) + shift[:, :1], 0, height - 1)
    columns = np.clip(np.arange(width) + shift[:, 1:], 0, width - 1)
    for sample, index in enumerate(indices):
        out[sample] = frames[index][rows[sample]][:, columns[sample]]
    return out


def load_windows(
    dataset: Dataset,
    *,
    pred_horizon: int,
    image_size: int,
    cameras: Sequence[str] = (),
    episodes: Sequence[int] | None = None,
    progress: Progress = lambda done, total: None,
) -> Windows:
    """Decode a dataset (or its cache) into `Windows`; ``cameras`` defaults to all, ``episodes`` to all.

    Raises `UnderstudyError` for a camera that is not there, for an empty dataset, and for NaN or infinity, naming
    the episode and the frame.
    """
    known = [camera.name for camera in dataset.spec.cameras]
    for name in cameras:
        if name not in known:
            raise unknown(f"camera of {dataset.root}", name, known)
    bare = bare_windows(dataset, pred_horizon=pred_horizon, episodes=episodes)
    frames = {
        name: decoded_frames(dataset, camera=name, size=image_size, progress=progress) for name in (cameras or known)
    }
    return replace(bare, frames=frames)


def bare_windows(dataset: Dataset, *, pred_horizon: int, episodes: Sequence[int] | None = None) -> Windows:
    """`load_windows` without pictures: ``frames`` is empty, and nothing is decoded."""
    if not dataset.episodes:
        raise UnderstudyError(f"the dataset at {dataset.root} has no episodes")
    with ThreadPoolExecutor() as pool:
        arrays = list(pool.map(lambda info: _finite(dataset, info.index), dataset.episodes))
    lengths = np.array([info.length for info in dataset.episodes])
    texts = tuple(dict.fromkeys(info.instruction for info in dataset.episodes))
    chosen = np.isin(np.arange(len(lengths)), range(len(lengths)) if episodes is None else list(episodes))
    return Windows(
        frames={},
        proprio=np.concatenate([entry["proprio"] for entry in arrays]),
        actions=np.concatenate([entry["actions"] for entry in arrays]),
        ends=np.repeat(np.cumsum(lengths), lengths),
        samples=np.flatnonzero(np.repeat(chosen, lengths)),
        instruction_of=np.repeat([texts.index(info.instruction) for info in dataset.episodes], lengths),
        instructions=texts,
        spec=dataset.spec.action,
        pred_horizon=pred_horizon,
        quality=np.concatenate([entry[QUALITY] for entry in arrays]) if QUALITY in dataset.spec.extras else None,
    )


def _finite(dataset: Dataset, index: int) -> dict[str, np.ndarray]:
    arrays = dataset.arrays(index)
    for key in ("proprio", "actions"):
        finite = np.isfinite(arrays[key]).all(axis=1)
        if not finite.all():
            frame = int(np.argmin(finite))
            raise UnderstudyError(
                f"{key} of episode {index}, frame {frame} of {dataset.root} holds NaN or infinity: "
                f"{arrays[key][frame].tolist()}; drop the episode or record it again"
            )
    return arrays


class EpochSampler:
    """Which samples make up batch ``step``: a pure function of (seed, step), so that a resumed run sees the same.

    Every epoch is its own permutation of all ``size`` samples; batches may cross from one epoch into the next.
    """

    def __init__(self, size: int, *, batch_size: int, seed: int) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def indices(self, step: int) -> np.ndarray:
        """The samples [B] of batch ``step``."""
        flat = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(flat, self.size)
        out = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = self._permutation(int(epoch))[places[here]]
        return out

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            rng = np.random.default_rng([0x5A3B, self.seed, epoch])
            self._epoch, self._order = epoch, rng.permutation(self.size)
        return self._order
