"""Vision-language models that others trained, through transformers: images and words → one cognition token.

The order of the tokens, for two cameras (`vla.backbones.hub_families` has each family's own words):

    [ camera 1: patches | camera 2: patches | words of the prompt | COGNITION ]

The last layer's hidden state at COGNITION is the one token that the action head sees (CogACT, Li et al. 2024, §3.2).
It comes last, so that under a causal mask it has seen everything; whichever side a batch is padded on, it is found by
its mark. The language-model head is never run.
"""

import copy
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub import snapshot_download
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from vla.backbones.backbone import TokenGroup
from vla.backbones.hub_config import HubVLMConfig, is_elsewhere, is_frozen
from vla.backbones.hub_families import Family, family_of
from vla.backbones.small import mlp
from vla.errors import UnderstudyError, first_line
from vla.training.precision import bf16_is_fast

PADDING, COGNITION = -1, -2
"""Marks among token ids, apart from every family's own."""
FOLDER, ABOUT = "vlm", "source.json"
"""What a policy's checkpoint holds of the model besides its weights."""
FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""What is fetched of a model of the hub."""


class Embedding(nn.Module):
    """A model's word embedding, in the precision of the layers that follow.

    With ``learned`` it has one word more, of the number ``code``, with a vector of its own.
    """

    def __init__(self, words: nn.Embedding, *, learned: bool) -> None:
        super().__init__()
        self.words, self.code = words, words.num_embeddings
        self.cognition = nn.Parameter(0.02 * torch.randn(words.embedding_dim)) if learned else None

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [B, L] → [B, L, D]."""
        embedded = self.words(ids.masked_fill(ids == self.code, 0))
        if self.cognition is not None:
            embedded = torch.where((ids == self.code)[..., None], self.cognition, embedded)
        kind = ids.device.type
        return embedded.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else embedded


class HubVLM(nn.Module):
    """One class for every family: keeps `vla.backbones.backbone.Backbone`."""

    def __init__(self, config: HubVLMConfig, source: "Source", *, cameras: Sequence[str], proprio_dim: int) -> None:
        super().__init__()
        self.config, self.cameras, self.about = config, tuple(cameras), source.about
        self.tokenizer, self._processor = source.tokenizer, source.processor
        self.vlm = None if source.model is None else source.model.model
        self.family: Family = family_of(source.settings, image_size=config.image_size)
        self._end = self._end_token()
        self.width: int = source.settings.get_text_config().hidden_size
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and bf16_is_fast(PartialState().device))
        self._settled = False
        mean, std = self.family.statistics(source.processor)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        if self.vlm is not None:
            self._choose_what_learns()
            words = Embedding(self.vlm.get_input_embeddings(), learned=config.cognition == "learned")
            self.vlm.set_input_embeddings(words)
            self._code = self._end if words.cognition is None else words.code
        self.proprio = mlp(proprio_dim, self.width) if config.proprio else None
        if self.proprio is not None:
            nn.init.zeros_(self.proprio[-1].weight)
            nn.init.zeros_(self.proprio[-1].bias)
        if is_elsewhere(config):
            self.register_state_dict_post_hook(_leave_out)
            self.register_load_state_dict_pre_hook(_put_back)

    def _end_token(self) -> int:
        end = self.tokenizer.eos_token_id
        if end is None:
            raise UnderstudyError(f"the tokenizer of {self.config.path} has no end token (eos_token)")
        return int(end)

    def _choose_what_learns(self) -> None:
        config = self.config
        for name in ("",) if is_frozen(config) else self.family.vision if config.freeze == "vision" else ():
            self.vlm.get_submodule(name).requires_grad_(False)
        if config.lora is not None:
            adapters = LoraConfig(
                r=config.lora.rank,
                lora_alpha=config.lora.alpha,
                lora_dropout=config.lora.dropout,
                target_modules=self._linear_layers(),
            )
            inject_adapter_in_model(adapters, self.vlm)
        if config.gradient_checkpointing:
            self.vlm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for parameter in self.vlm.parameters():  # what learns keeps its full precision, the rest is only read
            lower = self.bf16 and not parameter.requires_grad
            parameter.data = parameter.data.to(torch.bfloat16 if lower else torch.float32)

    def _linear_layers(self) -> list[str]:
        apart = tuple(f"{name}." for name in self.family.vision)
        return [
            name
            for name, module in self.vlm.named_modules()
            if isinstance(module, nn.Linear) and not name.startswith(apart) and ".layers." in f".{name}"
        ]

    @property
    def static(self) -> bool:
        """Whether `vla.backbones.graph.Graph` can record it."""
        return self.family.static

    @property
    def frozen(self) -> bool:
        """Whether the features of equal pictures and words stay the same for ever."""
        return self.vlm is None or not any(parameter.requires_grad for parameter in self.vlm.parameters())

    def train(self, mode: bool = True) -> "HubVLM":
        """What is frozen stays in evaluation mode: no dropout in it."""
        super().train(mode)
        still = ("",) if self.frozen else self.family.vision if self.config.freeze == "vision" else ()
        for name in still if self.vlm is not None else ():
            self.vlm.get_submodule(name).eval()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "HubVLM":
        """A copy, such as an average of the weights, that shares what is frozen."""
        frozen = [parameter for parameter in self.parameters() if not parameter.requires_grad]
        memo |= {id(parameter): memo.get(id(parameter), parameter) for parameter in frozen}
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    def save(self, folder: Path) -> None:
        """Write into ``folder / FOLDER`` what the model is built again from, without its weights."""
        target = folder / FOLDER
        for part in (self.tokenizer, self._processor, self.family.config):
            part.save_pretrained(target)
        (target / ABOUT).write_text(json.dumps(self.about, indent=2) + "\n")

    def tokenize(self, instructions: Sequence[str]) -> Tensor:
        """Token ids [B, longest] with a placeholder for each patch, `COGNITION` last and `PADDING` where a row ends."""
        rows = {text: self._ids(text) for text in dict.fromkeys(instructions)}
        longest = max(len(row) for row in rows.values())
        padding = [PADDING] * longest
        if self.tokenizer.padding_side == "left":
            return torch.tensor([(padding + rows[text])[-longest:] for text in instructions])
        return torch.tensor([(rows[text] + padding)[:longest] for text in instructions])

    def _ids(self, instruction: str) -> list[int]:
        asked = self.config.prompt.format(instruction=instruction.lower())
        prompt = self.family.prompt(asked, cameras=len(self.cameras))
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        held, wanted = ids.count(self.family.config.image_token_id), self.family.tokens * len(self.cameras)
        if held != wanted:
            raise UnderstudyError(
                f"the tokenizer of {self.config.path} makes {held} placeholders of {len(self.cameras)} pictures of "
                f"{self.family.tokens}: it does not know {self.family.placeholder!r}; is it this model's?"
            )
        return [*ids, COGNITION]

    @property
    def strange_words(self) -> list[str]:
        """None, for the same reason as `unknown_words`."""
        return []

    def unknown_words(self, instruction: str) -> list[str]:
        """None: these tokenizers spell what they do not know."""
        return []

    def forward(
        self, images: Mapping[str, Tensor], proprio: Tensor, text: Tensor, present: Tensor | None = None
    ) -> TokenGroup:
        """Camera → [B, H, W, 3] uint8, proprio [B, P], ids of `tokenize` → the cognition token [B, 1, D] float32.

        A camera that is not in ``images``, or is false in ``present`` [B, cameras] bool, is seen by no token.
        """
        return self.with_proprio(self.features(images, text, present), proprio)

    def with_proprio(self, features: Tensor, proprio: Tensor) -> TokenGroup:
        """What `features` [B, D] gives, proprio [B, P] → the cognition token [B, 1, D]."""
        if self.proprio is not None:
            features = features + self.proprio(proprio)
        return TokenGroup(features[:, None], torch.ones(len(features), 1, dtype=torch.bool, device=features.device))

    def features(self, images: Mapping[str, Tensor], text: Tensor, present: Tensor | None = None) -> Tensor:
        """What the model alone makes of pictures and words, [B, D] float32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._cognition(images, text, self._present(images, text, present))

    def _present(self, images: Mapping[str, Tensor], text: Tensor, present: Tensor | None) -> Tensor:
        if not any(name in images for name in self.cameras):
            raise UnderstudyError(f"no picture: give one of the cameras {', '.join(self.cameras)}")
        ones = [torch.full((len(text),), name in images, device=text.device) for name in self.cameras]
        given = torch.stack(ones, dim=1)
        return given if present is None else given & present

    def _cognition(self, images: Mapping[str, Tensor], text: Tensor, present: Tensor) -> Tensor:
        real, here = text != PADDING, text == COGNITION
        ids = text.masked_fill(~real, self._end).masked_fill(here, self._code)
        pictures = ids == self.family.config.image_token_id
        number = (pictures.long().cumsum(1) - 1).clamp(min=0) // self.family.tokens
        visible = real & (~pictures | present.gather(1, number.clamp(max=len(self.cameras) - 1)))
        with torch.autocast(text.device.type, torch.bfloat16, enabled=self.bf16 and not self._settled):
            hidden = self.family.run(self.vlm, ids, self._pixels(images, text), real=real, visible=visible)
        return hidden[torch.arange(len(ids), device=ids.device), here.int().argmax(1)].float()

    def _pixels(self, images: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """[B, C, channels, S, S], normalised as the model was trained; a camera that is missing is black."""
        size, side = self.config.image_size, self.family.side
        black = torch.zeros(len(text), size, size, 3, dtype=torch.uint8, device=text.device)
        seen = torch.stack([images.get(name, black) for name in self.cameras], dim=1)
        pixels = seen.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        if pixels.shape[-2:] != (side, side):
            pixels = functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
        pixels = (pixels.repeat(1, len(self.mean) // 3, 1, 1) - self.mean) / self.std
        return pixels.unflatten(0, seen.shape[:2])

    def merge(self) -> None:
        """Fold the adapters into the weights: the same output without their cost. `unmerge` takes them out again."""
        for module in self._adapters():
            module.merge()

    def unmerge(self) -> None:
        """The adapters beside the weights again."""
        for module in self._adapters():
            module.unmerge()

    def settle(self) -> None:
        """For inference alone, and for good: adapters folded in, every weight in the precision it computes in."""
        self.merge()
        for parameter in self.vlm.requires_grad_(False).parameters():
            parameter.data = parameter.data.to(torch.bfloat16 if self.bf16 else torch.float32)
        self._settled = True

    def _adapters(self) -> list[BaseTunerLayer]:
        return [module for module in self.vlm.modules() if isinstance(module, BaseTunerLayer)]


@dataclass(frozen=True)
class Source:
    """A model with what belongs to it; ``about``: its ``name``, ``path``, and a fingerprint of its ``weights``.

    ``model`` is ``None`` where only what it made before is needed (`vla.backbones.feature_cache`).
    """

    tokenizer: Any
    processor: Any
    settings: Any
    model: Any
    about: Mapping[str, str]

    @classmethod
    def read(cls, config: HubVLMConfig, *, with_model: bool = True) -> "Source":
        """The model of ``config.path``; a weight that is missing is an error.

        Whichever model it is, the random numbers after it are the same.
        """
        folder, given = _folder(config), {"local_files_only": True, "trust_remote_code": False}
        try:
            settings = AutoConfig.from_pretrained(folder, **given)
            family_of(settings, image_size=config.image_size)
            tokenizer = AutoTokenizer.from_pretrained(folder, **given)
            processor = AutoImageProcessor.from_pretrained(folder, **given)
            with torch.random.fork_rng(devices=[]):
                model = _model(config, settings, folder, given) if with_model else None
        except (OSError, ValueError) as error:
            raise UnderstudyError(f"cannot read the model {config.path}: {first_line(error)}") from error
        weights = "random" if config.random_init else fingerprint(folder)
        about = {"name": settings.model_type, "path": str(folder), "weights": weights}
        return cls(tokenizer, processor, settings, model, about)

    @classmethod
    def read_again(cls, config: HubVLMConfig, checkpoint: Path) -> "Source":
        """The model of a checkpoint that `HubVLM.save` wrote, whose state is loaded next.

        Its architecture; or, where the weights are elsewhere, those weights.
        """
        folder = checkpoint / FOLDER
        if not (folder / ABOUT).is_file():
            raise UnderstudyError(f"the checkpoint lacks {folder / ABOUT}; copy the whole folder or train again")
        about = json.loads((folder / ABOUT).read_text())
        if not is_elsewhere(config):
            return replace(cls.read(replace(config, path=str(folder), random_init=True)), about=about)
        found = cls.read(replace(config, path=about["path"]))
        if found.about["weights"] != about["weights"]:
            raise UnderstudyError(
                f"the model in {about['path']} is not the one that {checkpoint} was trained on "
                f"(its fingerprint is {found.about['weights']}, not {about['weights']}); put that one back there"
            )
        return found


def _left_out(module: HubVLM) -> dict[str, Tensor]:
    parameters = () if module.vlm is None else module.vlm.named_parameters()
    return {f"vlm.{name}": value for name, value in parameters if not value.requires_grad}


def _leave_out(module: HubVLM, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    for name in _left_out(module):
        del state[prefix + name]


def _put_back(module: HubVLM, state: dict[str, Tensor], prefix: str, *others: object) -> None:
    state.update({prefix + name: value for name, value in _left_out(module).items()})


def _folder(config: HubVLMConfig) -> Path:
    if Path(config.path).is_dir():
        return Path(config.path).resolve()
    try:
        return Path(snapshot_download(config.path, local_files_only=not config.download, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:
        hint = "" if config.download else "; a model of the hub is fetched only with policy.vlm.download=true"
        raise UnderstudyError(f"there is no model {config.path} here: {first_line(error)}{hint}") from error


def _model(config: HubVLMConfig, settings: Any, folder: Path, given: dict[str, Any]) -> Any:
    if config.random_init:
        return AutoModelForImageTextToText.from_config(settings, attn_implementation="sdpa")
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, output_loading_info=True, attn_implementation="sdpa", use_safetensors=True, **given
    )
    lost = sorted([*report["missing_keys"], *(str(one) for one in report["mismatched_keys"])])
    if lost:
        raise UnderstudyError(
            f"{folder} lacks {len(lost)} weights, {lost[0]} among them; for fresh ones set random_init: true"
        )
    return model


def fingerprint(folder: Path) -> str:
    """Sixteen hex digits of a model's folder: its settings, and name, type, shape and place of every weight."""
    told = hashlib.sha256()
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        told.update(f"{file.name} {file.stat().st_size}".encode())
        if file.suffix == ".json":
            told.update(file.read_bytes())
        else:
            with file.open("rb") as weights:
                (length,) = struct.unpack("<Q", weights.read(8))
                told.update(weights.read(length))
    return told.hexdigest()[:16]
