"""Manipulate by Seeing as a policy (Wang, Dasari et al. 2023): given a picture of the goal, it goes there.

    Task.goal ─► its state, once an episode ─────┐
    the camera's picture ─► its state ───────────┴─► of the moves that were recorded, the one that leads nearest

It learns from recordings of a hand-held gripper with a camera on it (`vla collect by=grabber`), or from any dataset
whose actions are displacements: of those the first three entries (six with ``rotations``) and the gripper's are
learned and moved.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from policies.checkpoint import CONFIG, NORMALIZER, WEIGHTS, check_files, read_weights
from policies.embodiments import fit_normalizers, specs_of
from policies.manipulate_by_seeing_model import ManipulateBySeeingConfig, ScratchEyes, SeeingModel
from policies.moves import Moves
from policies.normalizer import NormalizerSet
from policies.one_arm import OneArm
from policies.policy import read_spec, write_spec
from vla.config import from_yaml, to_yaml
from vla.data.corpus import Corpus
from vla.data.frames import fit_image
from vla.data.lerobot import DatasetSpec
from vla.data.windows import Batch, Later, Windows
from vla.errors import UnderstudyError, first_line
from vla.representation.tower import Eyes, Source
from vla.types import Observation, PolicySpec, Task

FOLDER = "representation"
"""What a checkpoint holds of the representation besides its weights."""


class ManipulateBySeeing(OneArm):
    """The policy around a `SeeingModel`: keeps `policies.policy.Policy`."""

    family = "manipulate_by_seeing"
    config_class = ManipulateBySeeingConfig
    model: SeeingModel

    def __init__(
        self,
        config: ManipulateBySeeingConfig,
        spec: PolicySpec,
        embodiment: str,
        *,
        normalizers: NormalizerSet,
        model: SeeingModel,
    ) -> None:
        super().__init__(spec, embodiment, normalizers=normalizers, model=model)
        self.config, self._camera, self.length = config, spec.cameras[0].name, float(model.length)
        self._moves = Moves(spec.action, config.rotations)

    @classmethod
    def create(
        cls,
        config: ManipulateBySeeingConfig,
        dataset: DatasetSpec,
        windows: Windows,
        *,
        features: np.ndarray | None = None,
        others: Sequence[tuple[DatasetSpec, Windows]] = (),
        films: Corpus | None = None,
    ) -> "ManipulateBySeeing":
        """An untrained policy for a dataset; it chooses among the moves of its samples."""
        if features is not None or others:
            raise UnderstudyError("manipulate_by_seeing is trained on one dataset: give no features and no mix")
        if len(windows.frames) != 1:
            raise UnderstudyError(
                f"manipulate_by_seeing looks through one camera: give policy.cameras=[NAME], one of "
                f"{', '.join(windows.frames)}"
            )
        sizes = {"image_size": config.image_size, "pred_horizon": config.stride, "exec_horizon": config.stride}
        spec = specs_of([(dataset, windows)], **sizes, accepts=("goal",))[dataset.embodiment]
        moves = recorded_moves(config, windows)
        ways = np.linalg.norm(moves[:, :3], axis=1)
        usual = float(np.median(ways) if config.directions else np.sqrt(np.square(ways).mean()))
        unit = config.reach or max(usual, config.least)  # where all moves are turns, no way is usual
        seen = Moves(spec.action, config.rotations).seen(moves, ways[:, None] if config.directions else unit)
        chosen = np.resize(np.random.default_rng(0x5EE).permutation(len(moves)), config.candidates)
        source = None if config.representation is None else Source.read(config.representation)
        model = _model(config, spec, torch.from_numpy(seen[chosen]), source)
        model.length.fill_(unit)
        normalizers = fit_normalizers([(dataset, windows)], mode="quantile")
        return cls(config, spec, dataset.embodiment, normalizers=normalizers, model=model)

    @classmethod
    def load(cls, folder: Path) -> "ManipulateBySeeing":
        """Read what `save` wrote, onto the GPU if there is one; every weight must be there."""
        check_files(folder, WEIGHTS, CONFIG, NORMALIZER)
        config = from_yaml(ManipulateBySeeingConfig, folder / CONFIG)
        spec, normalizers = read_spec(folder), NormalizerSet.load(folder / NORMALIZER)
        source = None if config.representation is None else Source.without_weights(folder / FOLDER)
        candidates = torch.zeros(config.candidates, Moves(spec.action, config.rotations).numbers)
        model = _model(config, spec, candidates, source)
        read_weights(model, folder)
        return cls(config, spec, next(iter(normalizers.by_embodiment)), normalizers=normalizers, model=model)

    @property
    def representation(self) -> dict[str, str] | None:
        """What the policy sees through."""
        eyes = self.model.phi.eyes
        return dict(eyes.about) if isinstance(eyes, Eyes) else None

    def save(self, folder: Path) -> None:
        """Write all that `load` needs."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))
        (folder / CONFIG).write_text(to_yaml(self.config))
        if isinstance(self.model.phi.eyes, Eyes):
            self.model.phi.eyes.save(folder / FOLDER)
        self.normalizers.save(folder / NORMALIZER)
        write_spec(folder, self.family, self.spec)

    def start_from(self, checkpoint: Path) -> None:
        """Take over all weights of another checkpoint, but for the moves that it knew."""
        other = ManipulateBySeeing.load(checkpoint)
        kept = {"candidates": self.model.candidates, "length": self.model.length}
        try:
            self.model.load_state_dict(other.model.state_dict() | kept)
        except RuntimeError as error:
            raise UnderstudyError(f"{checkpoint} was trained with other settings: {first_line(error)}") from error

    def training_batch(self, batch: Batch) -> dict[str, Tensor]:
        """The picture, the move that follows, whether it is long enough to learn from, the gripper's command."""
        moves = self._moves.made_by(batch.actions * batch.mask[..., None])
        moved = batch.mask.all(1) & self._moves.long_enough(moves, self.config.least, self.config.least_turn)
        ways = np.linalg.norm(moves[:, :3], axis=1, keepdims=True)
        seen = self._moves.seen(moves, np.maximum(ways, 1e-9) if self.config.directions else self.length)
        made = self.inputs(batch.images, batch.proprio[:, :0])
        made |= {"move": torch.from_numpy(seen), "moved": torch.from_numpy(moved)}
        gripper = self.spec.action.gripper
        if gripper is not None:
            share = (batch.actions[:, 0, gripper.index] - gripper.open) / (gripper.closed - gripper.open)
            made["closed"] = torch.from_numpy((share > 0.5).astype(np.float32))
        return made

    def later(self, windows: Windows, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Later]:
        """After a move, and at some later instant of the same recording: the goal."""
        after = windows.ahead(indices, np.array([self.config.stride]))
        left = windows.ends[indices] - after.frames[:, 0]
        goal = after.frames + rng.integers(0, left)[:, None]
        return {"next": after, "goal": Later(goal, after.mask)}

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """It reads no words."""
        return torch.zeros(len(texts), 0, dtype=torch.long)

    def begin(self, seed: int) -> None:
        """Forget the goal too."""
        super().begin(seed)
        self._goal: Tensor | None = None
        self._closed: bool | None = None

    def reset(self, task: Task, *, seed: int = 0) -> None:
        """Begin an episode: look at the goal, once."""
        if task.goal is None:
            raise UnderstudyError(
                "manipulate_by_seeing wants a picture of the goal: give goal=IMAGE (as its camera should see it in the "
                "end), or goal=VIDEO, whose last frame it is"
            )
        self.begin(seed)
        self._goal = self.states(task.goal[None])

    def states(self, pictures: np.ndarray) -> Tensor:
        """φ of pictures [B, H, W, 3] uint8: [B, S] of unit length."""
        fitted = np.stack([fit_image(picture, self.config.image_size) for picture in pictures])
        with torch.inference_mode(), self.computing():
            return self.model.state(torch.from_numpy(fitted).to(self.device))

    def distances(self, pictures: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """How far pictures [B, H, W, 3] are from ``goal`` [H, W, 3]: 0, the same, to 2; one minus the cosine [B]."""
        assert self.config.learns == "distance", "one that clones has learned no distance"
        return (1 - self.states(pictures) @ self.states(goal[None])[0]).cpu().numpy()

    def answer(self, sessions: Sequence["ManipulateBySeeing"], observations: Sequence[Observation]) -> np.ndarray:
        """One move each, in equal steps; a gripper that opens or closes is waited for."""
        if any(one._goal is None for one in sessions):
            raise UnderstudyError("reset the policy first: it has no goal")
        size = self.config.image_size
        seen = torch.from_numpy(np.stack([fit_image(one.images[self._camera], size) for one in observations]))
        generators = [torch.Generator().manual_seed(int(one._rng.integers(2**31))) for one in sessions]
        with torch.inference_mode(), self.computing():
            seen = seen.to(self.device)
            states = self.model.state(seen)
            moves = torch.cat(
                [
                    self.model.choose(state[None], one._goal, generator)
                    for state, one, generator in zip(states, sessions, generators, strict=True)
                ]
            )
            if self.config.directions:
                moves = nn.functional.normalize(moves.float(), dim=-1)
            closed = (
                None
                if self.model.gripper is None
                else (self.model.gripper(seen)[:, 0].sigmoid() > self.config.closes).cpu().numpy()
            )
        return self._chunks(sessions, self._moves.meant(moves.cpu().numpy(), self.length), closed)

    def _chunks(
        self, sessions: Sequence["ManipulateBySeeing"], moves: np.ndarray, closed: np.ndarray | None
    ) -> np.ndarray:
        """Moves [B, 3 or 6] and whether to close [B] as rows [B, N, A]."""
        action, steps, entries = self.spec.action, self.config.stride, self._moves.entries
        rows = np.zeros((len(moves), steps, action.dim), np.float32)
        rows[..., entries] = self._moves.split(moves, steps)[:, None]
        if closed is not None and action.gripper is not None:
            rows[..., action.gripper.index] = np.where(closed, action.gripper.closed, action.gripper.open)[:, None]
            for number, one in enumerate(sessions):
                if one._closed is not None and one._closed != closed[number]:
                    rows[number][:, entries] = 0
                one._closed = bool(closed[number])
        return rows


def recorded_moves(config: ManipulateBySeeingConfig, windows: Windows) -> np.ndarray:
    """The moves [K, 3 or 6] over ``stride`` steps, from every sample, that are long enough."""
    last = np.minimum(windows.samples + config.stride, windows.ends[windows.samples])
    whole = windows.samples[last - windows.samples == config.stride]
    kind = Moves(windows.spec, config.rotations)
    rows = windows.actions[whole[:, None] + np.arange(config.stride)]
    turns = np.linalg.norm(rows[..., kind.entries][..., 3:], axis=2).sum(1)
    if turns.max(initial=0) >= np.pi:
        raise UnderstudyError(
            f"a move over policy.stride={config.stride} steps turns by {turns.max():.1f}, half a circle or more: "
            "policy.rotations=true wants rotation vectors in radians, and moves that turn less"
        )
    moves = kind.made_by(rows)
    moves = moves[kind.long_enough(moves, config.least, config.least_turn)]
    if not len(moves):
        raise UnderstudyError(
            f"no move over policy.stride={config.stride} steps is longer than policy.least={config.least}: "
            "lower policy.least, in the unit of the dataset's actions"
        )
    return moves


def _model(
    config: ManipulateBySeeingConfig, spec: PolicySpec, candidates: Tensor, source: Source | None
) -> SeeingModel:
    """``source``: of the representation; each of the two eyes begins with a copy of its own."""

    def make() -> tuple[nn.Module, int]:
        if source is None:
            eyes = ScratchEyes(config.encoder)
            return eyes, eyes.tokens
        own = Eyes(deepcopy(source), freeze=config.freeze)
        return own, own.side**2

    sizes = {"camera": spec.cameras[0].name, "gripper": spec.action.gripper is not None}
    return SeeingModel(config, candidates=candidates, make_eyes=make, **sizes)
