"""Vid2Robot as a policy: shown a video of the task, it does it (Jain et al. 2024).

Task.video ─► the prompt's tokens, once an episode ─┐
last frames of the cameras, proprio ────────────────┴─► `Vid2RobotModel` ─► a chunk of actions
"""

from collections.abc import Sequence
from dataclasses import replace
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
from policies.prompts import Prompts
from policies.vid2robot_model import Vid2RobotConfig, Vid2RobotModel, Video
from vla.config import from_yaml, to_yaml
from vla.data.corpus import Corpus, open_corpus
from vla.data.frames import fit_image
from vla.data.lerobot import DatasetSpec
from vla.data.windows import Batch, Later, Windows
from vla.errors import UnderstudyError, first_line
from vla.prompt import spread
from vla.representation.language import TOKENIZER, Captions, make_language, saved_language
from vla.types import Observation, PolicySpec, Task


class Vid2Robot(OneArm):
    """The policy around a `Vid2RobotModel`: keeps `policies.policy.Policy`."""

    family = "vid2robot"
    config_class = Vid2RobotConfig

    def __init__(
        self,
        config: Vid2RobotConfig,
        spec: PolicySpec,
        embodiment: str,
        *,
        normalizers: NormalizerSet,
        model: Vid2RobotModel,
        prompts: Prompts | None = None,
    ) -> None:
        super().__init__(spec, embodiment, normalizers=normalizers, model=model)
        self.config, self.prompts = config, prompts

    @classmethod
    def create(
        cls,
        config: Vid2RobotConfig,
        dataset: DatasetSpec,
        windows: Windows,
        *,
        features: np.ndarray | None = None,
        others: Sequence[tuple[DatasetSpec, Windows]] = (),
        films: Corpus | None = None,
    ) -> "Vid2Robot":
        """An untrained policy for a dataset; its prompts are the dataset's own episodes and ``films``."""
        if features is not None or others:
            raise UnderstudyError("vid2robot is trained on one dataset, and on videos=…: give no features and no mix")
        shown, prompts = config.prompt == "video", None
        if films is not None and not shown:
            raise UnderstudyError("policy.prompt=words looks at no videos: leave videos out")
        if shown:
            prompts = Prompts(windows, films, config.pairs, frames=config.prompt_frames, colocated=config.colocated)
        sizes = {name: getattr(config, name) for name in ("image_size", "pred_horizon", "exec_horizon")}
        spec = specs_of([(dataset, windows)], **sizes, accepts=("video" if shown else "instruction",))[
            dataset.embodiment
        ]
        model = _model(config, spec, make_language(config.language, windows.told))
        normalizers = fit_normalizers([(dataset, windows)], mode=config.normalization)
        return cls(config, spec, dataset.embodiment, normalizers=normalizers, model=model, prompts=prompts)

    @classmethod
    def load(cls, folder: Path) -> "Vid2Robot":
        """Read what `save` wrote, onto the GPU if there is one; every weight must be there."""
        check_files(folder, WEIGHTS, CONFIG, NORMALIZER, TOKENIZER)
        config, normalizers = from_yaml(Vid2RobotConfig, folder / CONFIG), NormalizerSet.load(folder / NORMALIZER)
        spec = read_spec(folder)
        model = _model(config, spec, saved_language(config.language, folder))
        read_weights(model, folder)
        return cls(config, spec, next(iter(normalizers.by_embodiment)), normalizers=normalizers, model=model)

    @classmethod
    def films(cls, config: Vid2RobotConfig, videos: Sequence[Path], dataset: DatasetSpec) -> Corpus:
        """The films that may be prompts."""
        return open_corpus(videos, image_size=config.image_size)

    def save(self, folder: Path) -> None:
        """Write all that `load` needs."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))
        (folder / CONFIG).write_text(to_yaml(self.config))
        self.model.words.save(folder)
        self.normalizers.save(folder / NORMALIZER)
        write_spec(folder, self.family, self.spec)

    def start_from(self, checkpoint: Path) -> None:
        """Take over all weights of another checkpoint, but for the head."""
        other = Vid2Robot.load(checkpoint)
        if other.model.words.tokenizer.to_str() != self.model.words.tokenizer.to_str():
            raise UnderstudyError(f"{checkpoint} knows other words; train both on the same tasks")
        weights = {name: value for name, value in other.model.state_dict().items() if not name.startswith("head.")}
        try:
            strange = self.model.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise UnderstudyError(f"{checkpoint} has other sizes: {first_line(error)}") from error
        odd = [*strange.unexpected_keys, *(name for name in strange.missing_keys if not name.startswith("head."))]
        if odd:
            raise UnderstudyError(f"{checkpoint} was trained with other settings: they differ in {', '.join(odd[:4])}")

    def training_batch(self, batch: Batch) -> dict[str, Tensor]:
        """Words, which of them are the same, normalised actions and the mask of real rows; the rest comes `later`."""
        actions = self.normalizers.get(self.embodiment, "action").normalize(batch.actions)
        alike = {words: number for number, words in enumerate(dict.fromkeys(batch.instructions))}
        return {
            "text": self.tokenize(batch.instructions),
            "task": torch.tensor([alike[words] for words in batch.instructions]),
            "actions": torch.from_numpy(actions),
            "mask": torch.from_numpy(batch.mask),
        }

    def later(self, windows: Windows, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Later | Tensor]:
        """The frames of the state of samples at ``indices`` [B], and for each a prompt [B, F, H, W, 3]."""
        steps = self.config.stride * np.arange(1 - self.config.state_frames, 1)
        history, begins = windows.ahead(indices, steps), np.searchsorted(windows.ends, windows.ends[indices])
        history = replace(history, mask=indices[:, None] + steps >= begins[:, None])
        if self.config.prompt == "words":
            return {"history": history}
        assert self.prompts is not None, "only a policy that was created, not loaded, has films to be shown"
        prompts = self.prompts.draw(indices, rng, augment=self.config.augment)
        return {"history": history, "prompt": torch.from_numpy(prompts)}

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Instructions as the model takes them, for the loss alone."""
        return self.model.words.tokenize(texts)

    def begin(self, seed: int) -> None:
        """Forget the prompt too."""
        super().begin(seed)
        self._shown: Video | None = None

    def reset(self, task: Task, *, seed: int = 0) -> None:
        """Begin an episode: look at the task's video, once."""
        if self.config.prompt == "words":
            self.begin(seed)
            with torch.inference_mode(), self.computing():
                self._shown = self.model.hear(self.tokenize([task.instruction]).to(self.device))
            return
        if task.video is None:
            raise UnderstudyError(
                "vid2robot is shown what to do, and there is no video: give prompt=VIDEO (an mp4 of somebody doing it)"
            )
        self.begin(seed)
        chosen = task.video.frames[spread(len(task.video.frames), self.config.prompt_frames)]
        seen = np.stack([fit_image(frame, self.config.image_size) for frame in chosen])
        with torch.inference_mode(), self.computing():
            self._shown = self.model.watch(torch.from_numpy(seen)[None].to(self.device))

    def answer(self, sessions: Sequence["Vid2Robot"], observations: Sequence[Observation]) -> np.ndarray:
        """The next chunks."""
        batch = self._remembered(sessions, observations)
        shown = [one._shown for one in sessions]
        if any(one is None for one in shown):
            raise UnderstudyError("reset the policy first: it has been shown nothing")
        prompt = Video(torch.cat([one.tokens for one in shown]), torch.cat([one.frames for one in shown]))
        noise = np.stack([one._rng.standard_normal(self.model.head.noise_shape, np.float32) for one in sessions])
        with torch.inference_mode(), self.computing():
            return self.physical(self.model.sample(batch, prompt, torch.from_numpy(noise).to(self.device)))

    def _remembered(self, sessions: Sequence["Vid2Robot"], observations: Sequence[Observation]) -> dict[str, Tensor]:
        """A batch for the model, after every session has seen its observation."""
        step_ns = 1e9 * self.config.stride / self.spec.control_hz
        pictures: dict[str, list[np.ndarray]] = {camera.name: [] for camera in self.spec.cameras}
        proprio = []
        for session, one in zip(sessions, observations, strict=True):
            own = {name: fit_image(one.images[name], self.config.image_size) for name in pictures}
            session._memory.add(one.stamp_ns, (own, one.proprio))
            history = session._memory.back(self.config.state_frames, step_ns)
            for name, rows in pictures.items():
                rows.append(np.stack([images[name] for images, _ in history]))
            proprio.append(np.stack([state for _, state in history]))
        count, frames = len(proprio), self.config.state_frames
        flat = {name: np.stack(rows).reshape(count * frames, *rows[0].shape[1:]) for name, rows in pictures.items()}
        seen = self.inputs(flat, np.concatenate(proprio))
        return {f"history.{key}": value.unflatten(0, (count, frames)).to(self.device) for key, value in seen.items()}


def _model(config: Vid2RobotConfig, spec: PolicySpec, words: Captions) -> Vid2RobotModel:
    cameras = tuple(camera.name for camera in spec.cameras)
    sizes = {"action_dim": spec.action.dim, "proprio_dim": spec.proprio_dim, "cameras": cameras}
    return Vid2RobotModel(config, **sizes, words=words)
