"""CogACT (Li et al. 2024): a vision-language model reads the scene, a diffusion transformer acts.

    images, words, proprio ─► SmallVLM ─► cognition token [B, 1, D] ─► DiffusionHead ─► 16 actions
                  ▲           or HubVLM                             └► RegressionHead (``head: regression``)
                  └ sees by itself, or through what was learned from video (``backbone.representation``)

One loss trains both ends. What enters the model is made by `CogACT.inputs`, in training and at inference alike.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_model
from torch import Tensor

from policies.checkpoint import CONFIG, NORMALIZER, WEIGHTS, check_files, read_weights
from policies.cogact_model import CogACTConfig, CogACTModel, backbone_from, make_backbone
from policies.embodiments import Embodiments, fit_normalizers, specs_of
from policies.hastened import Hastened
from policies.heads.realtime import Known, soft_weights
from policies.normalizer import NormalizerSet
from policies.policy import Underway, check_seen, read_spec, read_specs, write_spec
from vla.backbones.small import build_tokenizer
from vla.config import from_yaml, to_yaml
from vla.data.corpus import Corpus
from vla.data.frames import fit_image
from vla.data.lerobot import DatasetSpec
from vla.data.windows import Batch, Later, Windows
from vla.errors import UnderstudyError, first_line, unknown
from vla.types import ActionChunk, Observation, Task

logger = logging.getLogger(__name__)


class CogACT:
    """The policy around a `CogACTModel`: keeps `policies.policy.Policy` for one of its ``arms``."""

    family = "cogact"
    config_class = CogACTConfig

    def __init__(
        self,
        config: CogACTConfig,
        arms: Embodiments,
        *,
        normalizers: NormalizerSet,
        embodiment: str,
        model: CogACTModel,
    ) -> None:
        self.config, self.arms, self.model = config, arms, model
        self.normalizers, self.embodiment = normalizers, embodiment
        self.spec = arms.specs[embodiment]
        self._instruction, self._text = "", torch.empty(0)
        self._rng = np.random.default_rng(0)
        self.hastened: Hastened | None = None

    @classmethod
    def create(
        cls,
        config: CogACTConfig,
        dataset: DatasetSpec,
        windows: Windows,
        *,
        features: np.ndarray | None = None,
        others: Sequence[tuple[DatasetSpec, Windows]] = (),
        films: Corpus | None = None,
    ) -> "CogACT":
        """An untrained policy for a dataset, with normalisers and vocabulary fitted on its training samples.

        With ``features`` [N, D] of a frozen vision-language model, one row a frame, the model itself is not loaded.
        ``others``: further datasets that it will be trained on, of this embodiment or of others.
        """
        assert films is None
        parts = [(dataset, windows), *others]
        sizes = {name: getattr(config, name) for name in ("image_size", "pred_horizon", "exec_horizon")}
        arms = Embodiments(specs_of(parts, **sizes))
        normalizers = fit_normalizers(parts, mode=config.normalization)
        tokenizer = build_tokenizer([words for _, part in parts for words in part.told])
        backbone = make_backbone(config, arms, tokenizer, with_model=features is None)
        strange = backbone.strange_words
        if strange:
            logger.warning("words that the representation has never read: %s", ", ".join(strange))
        model = CogACTModel(config, backbone, action_dim=arms.action_dim, proprio_dim=arms.proprio_dim)
        return cls(config, arms, normalizers=normalizers, embodiment=dataset.embodiment, model=model)

    @classmethod
    def load(cls, folder: Path) -> "CogACT":
        """Read what `save` wrote, onto the GPU if there is one; every weight must be there.

        It drives the arm of the first dataset.
        """
        check_files(folder, WEIGHTS, CONFIG, NORMALIZER)
        config, normalizers = from_yaml(CogACTConfig, folder / CONFIG), NormalizerSet.load(folder / NORMALIZER)
        arms = Embodiments(read_specs(folder) or dict.fromkeys(normalizers.by_embodiment, read_spec(folder)))
        backbone = backbone_from(config, arms, folder)
        model = CogACTModel(config, backbone, action_dim=arms.action_dim, proprio_dim=arms.proprio_dim)
        read_weights(model, folder)
        return cls(config, arms, normalizers=normalizers, embodiment=next(iter(arms.specs)), model=model)

    def driving(self, embodiment: str) -> "CogACT":
        """The same policy for another of its arms."""
        if embodiment not in self.arms.specs:
            raise unknown("embodiment of the policy", embodiment, self.arms.specs)
        known = {"normalizers": self.normalizers, "model": self.model}
        return CogACT(self.config, self.arms, embodiment=embodiment, **known)

    @property
    def representation(self) -> dict[str, str] | None:
        """What the policy sees through: name, path and a hash of the weights, as they were before this training."""
        about = self.model.backbone.about
        return None if about is None else dict(about)

    def start_from(self, checkpoint: Path) -> None:
        """Take over the backbone of another checkpoint, as CogACT starts from OpenVLA's; the head stays new."""
        other = CogACT.load(checkpoint)
        if other.model.backbone.tokenizer.get_vocab() != self.model.backbone.tokenizer.get_vocab():
            raise UnderstudyError(
                f"{checkpoint} knows other words than this dataset's instructions; train it on the same"
            )
        theirs, ours = other.representation, self.representation
        if (theirs and theirs["weights"]) != (ours and ours["weights"]):
            raise UnderstudyError(
                f"{checkpoint} was trained to see through {theirs and theirs['path']}, "
                f"this is {ours and ours['path']}; give the same"
            )
        try:
            self.model.backbone.load_state_dict(other.model.backbone.state_dict())
        except RuntimeError as error:
            raise UnderstudyError(
                f"the backbone of {checkpoint} has other sizes than policy.backbone: {first_line(error)}"
            ) from error
        self.model.auxiliary.restart(self.model.backbone)

    def save(self, folder: Path) -> None:
        """Write all that `load` needs."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))
        (folder / CONFIG).write_text(to_yaml(self.config))
        self.model.backbone.save(folder)
        self.normalizers.save(folder / NORMALIZER)
        write_spec(folder, self.family, self.spec, others=self.arms.specs if self.arms.several else {})

    def prepared(self, windows: Windows, content: str) -> Windows:
        """Samples as the policy wants them: as they are."""
        return windows

    def inputs(self, images: Mapping[str, np.ndarray], proprio: np.ndarray) -> dict[str, Tensor]:
        """What the model sees: camera → [B, H, W, 3] uint8 of the model's size, proprio [B, P] physical."""
        normalized = torch.from_numpy(self.normalizers.get(self.embodiment, "proprio").normalize(proprio))
        seen = {"proprio": self.arms.proprio(self.embodiment, normalized)}
        if self.arms.several and images:
            seen["present"] = self.arms.present(self.embodiment, len(proprio))
            images = self.arms.images(images)
        return seen | {f"image.{name}": torch.from_numpy(np.ascontiguousarray(i)) for name, i in images.items()}

    def training_batch(self, batch: Batch) -> dict[str, Tensor]:
        """A batch for the model: `inputs`, words, normalised actions and the mask of real rows."""
        actions = self.normalizers.get(self.embodiment, "action").normalize(batch.actions)
        made = {
            **self.inputs(batch.images, batch.proprio),
            "text": self.tokenize(batch.instructions),
            "actions": self.arms.actions(torch.from_numpy(actions)),
            "mask": torch.from_numpy(batch.mask),
        }
        return made | self._dims(len(actions))

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Instructions as the model takes them."""
        return self.model.backbone.tokenize(texts)

    def _dims(self, count: int) -> dict[str, Tensor]:
        return {"dims": self.arms.dims(self.embodiment, count)} if self.arms.several else {}

    def later(self, windows: Windows, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Later]:
        """What the model wants to see, by name, besides the samples at ``indices`` [B] of ``windows``."""
        return self.model.auxiliary.later(windows, indices, rng)

    def reset(self, task: Task, *, seed: int = 0) -> None:
        """Begin an episode; its noise follows from ``seed`` alone."""
        strange = self.model.backbone.unknown_words(task.instruction)
        if strange:
            logger.warning("words that were in no training instruction: %s", ", ".join(strange))
        self._instruction = task.instruction
        self._text = self.model.backbone.tokenize([task.instruction])
        self._rng = np.random.default_rng([0xAC7, seed])

    def infer(self, observation: Observation, underway: Underway | None = None) -> ActionChunk:
        """The next chunk, in physical units."""
        return self.infer_together([self], [(observation, underway)])[0]

    def session(self) -> "CogACT":
        """The same policy for another episode at the same time; the weights are shared."""
        return self.driving(self.embodiment)

    def infer_together(
        self, sessions: Sequence["CogACT"], seen: Sequence[tuple[Observation, Underway | None]]
    ) -> list[ActionChunk]:
        """What each of the `session` s would answer, in one batch unless something is underway."""
        if len(seen) > 1 and any(underway is not None for _, underway in seen):
            return [self.infer_together([one], [what])[0] for one, what in zip(sessions, seen, strict=True)]
        observations, underway = [observation for observation, _ in seen], seen[0][1]
        for one in observations:
            check_seen(self.spec, one)
        images = {
            c.name: np.stack([fit_image(one.images[c.name], c.height) for one in observations])
            for c in self.spec.cameras
        }
        told = [one._instruction for one in sessions]
        text = sessions[0]._text if len(told) == 1 else self.model.backbone.tokenize(told)
        noise = np.stack([one._rng.standard_normal(self.model.head.noise_shape, np.float32) for one in sessions])
        rows = self.chunks(images, np.stack([one.proprio for one in observations]), text, noise, underway)
        return [
            ActionChunk(actions, one.stamp_ns, 1 / self.spec.control_hz) for actions, one in zip(rows, observations)
        ]

    def chunks(
        self,
        images: Mapping[str, np.ndarray],
        proprio: np.ndarray,
        text: Tensor,
        noise: np.ndarray,
        underway: Underway | None = None,
    ) -> np.ndarray:
        """Actions [B, N, A] in physical units: pictures and proprio as in `inputs`, tokenised ``text``, ``noise``."""
        device = next(self.model.parameters()).device
        seen = {**self.inputs(images, proprio), "text": text, **self._dims(len(proprio))}
        batch = {key: value.to(device) for key, value in seen.items()}
        known = None if underway is None else self._known(underway, device)
        normalized = self._sample(batch, torch.from_numpy(noise).to(device), known)
        own = normalized[..., : self.spec.action.dim].float().cpu().numpy()
        return self.normalizers.get(self.embodiment, "action").unnormalize(own)

    def hasten(self) -> None:
        """Answer quicker from now on; worth it before hundreds of answers, since the first takes a minute to compile.

        For good: adapters are folded in and weights rounded to what is computed in, so train and save before. Without
        it, a GPU launches its usual work as CUDA graphs. What goes on from what is `Underway` is sampled as usual.
        """
        self.hastened = Hastened.settled(self.model.eval())

    def _sample(self, batch: Mapping[str, Tensor], noise: Tensor, known: Known | None) -> Tensor:
        if self.hastened is None and noise.is_cuda and not self.model.training:
            self.hastened = Hastened(self.model)
        return (self.hastened or self.model.sample)(batch, noise, known)

    def _known(self, underway: Underway, device: torch.device) -> Known:
        """What is underway, normalised; behind its end its last row stands for nothing."""
        if underway.how == "trained" and not self.trained_delay:
            raise UnderstudyError(
                "this policy was not trained to go on from a prefix: train with policy.diffusion.max_delay (or "
                "policy.flow.max_delay), or give execution.realtime=guided"
            )
        rows = underway.actions[: self.spec.pred_horizon]
        padded = np.concatenate([rows, np.repeat(rows[-1:], self.spec.pred_horizon - len(rows), axis=0)])
        actions = torch.from_numpy(self.normalizers.get(self.embodiment, "action").normalize(padded)).to(device)
        weights = soft_weights(self.spec.pred_horizon, delay=underway.delay, overlap=len(rows))
        return Known(self.arms.actions(actions[None]), underway.delay, weights.to(device), underway.how)

    @property
    def trained_delay(self) -> int:
        """The longest prefix that the head was trained to go on from."""
        config = {"diffusion": self.config.diffusion, "flow": self.config.flow}.get(self.config.head)
        return 0 if config is None else config.max_delay
