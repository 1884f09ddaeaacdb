"""UVA as a policy: the last frames in, the next actions out, and, for who asks, the pictures that it expects.

camera ─► frozen autoencoder ─► memory of the last frames ─► `UVAModel` ─► Z ─► actions
                                                                          └► pictures of the future (`foresee`)
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_model
from torch import Tensor

from policies.checkpoint import CONFIG, NORMALIZER, WEIGHTS, check_files, read_weights
from policies.embodiments import fit_normalizers, specs_of
from policies.normalizer import NormalizerSet
from policies.one_arm import OneArm
from policies.policy import read_spec, write_spec
from policies.uva.latents import FOLDER, Autoencoder, latents_of
from policies.uva.model import Shapes, UVAConfig, UVAModel
from vla.config import from_yaml, to_yaml
from vla.data.corpus import Corpus, open_corpus
from vla.data.frames import fit_image
from vla.data.lerobot import DatasetSpec
from vla.data.windows import Batch, Later, Windows, film_windows
from vla.errors import UnderstudyError, first_line
from vla.representation.language import TOKENIZER, Captions, make_language, saved_language
from vla.types import Observation, PolicySpec, Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """One observation: camera → rows of latents [S, 2 C], and normalised proprio [P]."""

    rows: Mapping[str, Tensor]
    proprio: Tensor


class UVA(OneArm):
    """The policy around a `UVAModel`: keeps `policies.policy.Policy`."""

    family = "uva"
    config_class = UVAConfig

    def __init__(
        self,
        config: UVAConfig,
        spec: PolicySpec,
        embodiment: str,
        *,
        normalizers: NormalizerSet,
        model: UVAModel,
        autoencoder: Autoencoder,
    ) -> None:
        super().__init__(spec, embodiment, normalizers=normalizers, model=model)
        self.config, self.autoencoder, self._instruction = config, autoencoder, ""

    @classmethod
    def create(
        cls,
        config: UVAConfig,
        dataset: DatasetSpec,
        windows: Windows,
        *,
        features: np.ndarray | None = None,
        others: Sequence[tuple[DatasetSpec, Windows]] = (),
        films: Corpus | None = None,
    ) -> "UVA":
        """An untrained policy for a dataset, normalisers and vocabulary fitted on its samples and on ``films``."""
        if features is not None or others:
            raise UnderstudyError("uva is trained on one dataset, and on videos=…: give no features and no mix")
        autoencoder = Autoencoder.read(config.vae)
        sizes = {name: getattr(config, name) for name in ("image_size", "pred_horizon", "exec_horizon")}
        spec = specs_of([(dataset, windows)], **sizes)[dataset.embodiment]
        told = [*windows.told, *(films.captions if films is not None else ())]
        model = _model(config, spec, autoencoder, make_language(config.language, told))
        normalizers = fit_normalizers([(dataset, windows)], mode=config.normalization)
        parts = {"normalizers": normalizers, "model": model, "autoencoder": autoencoder}
        return cls(config, spec, dataset.embodiment, **parts)

    @classmethod
    def load(cls, folder: Path) -> "UVA":
        """Read what `save` wrote, onto the GPU if there is one; every weight must be there."""
        check_files(folder, WEIGHTS, CONFIG, NORMALIZER, TOKENIZER)
        config, normalizers = from_yaml(UVAConfig, folder / CONFIG), NormalizerSet.load(folder / NORMALIZER)
        spec, autoencoder = read_spec(folder), Autoencoder.read(folder / FOLDER)
        model = _model(config, spec, autoencoder, saved_language(config.language, folder))
        read_weights(model, folder)
        parts = {"model": model, "autoencoder": autoencoder.to(next(model.parameters()).device)}
        return cls(config, spec, next(iter(normalizers.by_embodiment)), normalizers=normalizers, **parts)

    @classmethod
    def films(cls, config: UVAConfig, videos: Sequence[Path], dataset: DatasetSpec) -> Corpus:
        """Action-free videos, whose frames follow each other as fast as those that the policy sees."""
        return open_corpus(videos, image_size=config.image_size, fps=dataset.fps / config.stride, max_frames=10**6)

    def film_samples(self, films: Corpus) -> Windows:
        """Films as samples of their own, `prepared`."""
        camera, spec = self.spec.cameras[0].name, self.spec
        windows = film_windows(films, camera=camera, pred_horizon=spec.pred_horizon, spec=spec.action)
        return self.prepared(windows, films.folder.name)

    def save(self, folder: Path) -> None:
        """Write all that `load` needs, the autoencoder too."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))
        (folder / CONFIG).write_text(to_yaml(self.config))
        self.model.language.save(folder)
        self.autoencoder.save(folder / FOLDER)
        self.normalizers.save(folder / NORMALIZER)
        write_spec(folder, self.family, self.spec)

    def start_from(self, checkpoint: Path) -> None:
        """Take over all weights of another checkpoint: the paper's second stage begins with those of the first."""
        other = UVA.load(checkpoint)
        if other.autoencoder.weights != self.autoencoder.weights:
            raise UnderstudyError(
                f"{checkpoint} sees through another autoencoder; give policy.vae={checkpoint}/{FOLDER}"
            )
        if other.model.language.tokenizer.to_str() != self.model.language.tokenizer.to_str():
            raise UnderstudyError(f"{checkpoint} knows other words; train both stages on the same data and videos")
        try:
            self.model.load_state_dict(other.model.state_dict())
        except RuntimeError as error:
            raise UnderstudyError(f"{checkpoint} has other sizes: {first_line(error)}") from error

    @property
    def representation(self) -> dict[str, str]:
        """What the policy sees through."""
        return {"name": "vae", "path": str(self.config.vae), "weights": self.autoencoder.weights}

    def prepared(self, windows: Windows, content: str) -> Windows:
        """Samples whose frames are rows of latents, made once; ``content`` names their pictures."""
        frames = {
            name: latents_of(frames, self.autoencoder, content=f"{content}-{name}")
            for name, frames in windows.frames.items()
        }
        return replace(windows, frames=frames)

    def training_batch(self, batch: Batch) -> dict[str, Tensor]:
        """Words, and unless it is of films normalised actions and the mask of real rows; the rest comes `later`."""
        made = {"text": self.tokenize(batch.instructions)}
        if batch.actions.shape[-1]:
            actions = self.normalizers.get(self.embodiment, "action").normalize(batch.actions)
            made |= {"actions": torch.from_numpy(actions), "mask": torch.from_numpy(batch.mask)}
        return made

    def later(self, windows: Windows, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Later]:
        """The frames of the history and of the future of samples at ``indices`` [B]."""
        stride = self.config.stride if windows.actions.shape[1] else 1
        steps = stride * np.arange(self.config.frames)
        return {"history": windows.ahead(indices, steps - steps[-1]), "future": windows.ahead(indices, steps + stride)}

    def shown(self, windows: Windows, indices: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray]:
        """All that is known of samples at ``indices`` [B] of `prepared` windows, and what frames [B, F] come later."""
        batch, later = (
            self.training_batch(windows.gather(indices)),
            self.later(windows, indices, np.random.default_rng(0)),
        )
        for name, asked in later.items():
            seen = windows.gather(asked.frames.ravel())
            made = self.inputs(seen.images, seen.proprio)
            batch |= {f"{name}.{key}": value.unflatten(0, asked.frames.shape) for key, value in made.items()}
        return {key: value.to(self.device) for key, value in batch.items()}, later["future"].frames

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Instructions as the model takes them."""
        return self.model.language.tokenize(texts)

    def reset(self, task: Task, *, seed: int = 0) -> None:
        """Begin an episode; its noise follows from ``seed`` alone, its memory is empty."""
        if strange := self.model.language.unknown_words(task.instruction):
            logger.warning("%d words of %r were in no training instruction", strange, task.instruction)
        self._instruction = task.instruction
        self.begin(seed)

    def answer(self, sessions: Sequence["UVA"], observations: Sequence[Observation]) -> np.ndarray:
        """The next chunks."""
        batch = self._remembered(sessions, observations)
        noise = torch.cat([one._noise(1) for one in sessions], dim=1)
        with self.computing():
            return self.physical(self.model.actions_of(self.model.seen(batch), noise.to(self.device)))

    def imagined(self, observation: Observation, count: int) -> tuple[np.ndarray, Tensor]:
        """``count`` chunks [K, N, A] that it could carry out now, and what it expects of each: latents [K, F, S, C]."""
        batch = self._remembered([self], [observation])
        with self.computing():
            z = self.model.seen(batch).expand(count, -1, -1)
            actions = self.model.actions_of(z, self._noise(count).to(self.device)).float()
            told = {name: value.expand(count, *value.shape[1:]) for name, value in batch.items()} | {"actions": actions}
            return self.physical(actions), self.model.video_of(told, self._generator(), "dynamics")

    def latents(self, pictures: np.ndarray) -> Tensor:
        """Pictures [B, H, W, 3] uint8 as the model predicts them, [B, S, C]."""
        fitted = np.stack([fit_image(picture, self.config.image_size) for picture in pictures])
        return self.model.latents(self.autoencoder.rows(fitted))

    def _noise(self, count: int) -> Tensor:
        shape = (self.config.action.steps + 1, count, self.config.pred_horizon, self.spec.action.dim)
        return torch.from_numpy(self._rng.standard_normal(shape, np.float32))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(self._rng.integers(2**31)))

    def foresee(self, *, task: str = "policy_video", rounds: int = 1) -> np.ndarray:
        """The pictures [F, H, W, 3] uint8 that are expected after the last observation, a ``stride`` apart."""
        with self.computing():
            latents = self.model.video_of(self._batch([self]), self._generator(), task, rounds=rounds)
        return self.autoencoder.pictures(latents)[0]

    def _remembered(self, sessions: Sequence["UVA"], observations: Sequence[Observation]) -> dict[str, Tensor]:
        """A batch for the model, after every session has seen its observation."""
        cameras = self.spec.cameras
        pictures = [fit_image(one.images[camera.name], camera.height) for one in observations for camera in cameras]
        rows = self.autoencoder.rows(np.stack(pictures)).unflatten(0, (len(observations), len(cameras)))
        proprio = np.stack([one.proprio for one in observations])
        told = torch.from_numpy(self.normalizers.get(self.embodiment, "proprio").normalize(proprio)).to(self.device)
        for session, one, own, state in zip(sessions, observations, rows, told, strict=True):
            named = {camera.name: row for camera, row in zip(cameras, own, strict=True)}
            session._memory.add(one.stamp_ns, Seen(named, state))
        return self._batch(sessions)

    def _batch(self, sessions: Sequence["UVA"]) -> dict[str, Tensor]:
        step_ns = 1e9 * self.config.stride / self.spec.control_hz
        histories = [session._memory.back(self.config.frames, step_ns) for session in sessions]
        batch = {
            f"history.image.{camera.name}": torch.stack(
                [torch.stack([one.rows[camera.name] for one in history]) for history in histories]
            )
            for camera in self.spec.cameras
        }
        batch["history.proprio"] = torch.stack([torch.stack([one.proprio for one in own]) for own in histories])
        return batch | {"text": self.tokenize([one._instruction for one in sessions]).to(self.device)}


def _model(config: UVAConfig, spec: PolicySpec, autoencoder: Autoencoder, language: Captions) -> UVAModel:
    cameras = tuple(camera.name for camera in spec.cameras)
    grid = {"side": autoencoder.side(config.image_size), "channels": autoencoder.channels}
    sizes = {"action_dim": spec.action.dim, "proprio_dim": spec.proprio_dim, "cameras": cameras}
    return UVAModel(config, Shapes(**grid, **sizes), language)
