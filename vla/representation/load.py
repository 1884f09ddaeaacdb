"""A trained representation: read it from its folder, look at pictures through it.

    representation = load("outputs/pretrain")
    tokens = representation.encode(images)                                      # [B, N, D], one token a patch
    tokens = representation.encode(images, ["lift the red cube"] * B, mode="multimodal")      # [B, N + L, D]
    vectors = representation.embed(images)                                      # [B, E], one vector a picture

``images`` [B, H, W, 3] uint8 of any size, or [B, 2, H, W, 3] for a family that looks at two frames (one frame stands
for both, as in Voltron's evaluation). For control, pool tokens with `vla.representation.pooling.MAPExtractor`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from vla.config import build, from_yaml, to_yaml
from vla.data.frames import fit_image
from vla.errors import UnderstudyError, first_line
from vla.representation.families import family, parameters
from vla.representation.language import TOKENIZER, Captions, make_language, saved_language
from vla.representation.vae import VAE
from vla.representation.voltron import MaskedAutoencoder

WEIGHTS, CONFIG, ABOUT = "model.safetensors", "config.yaml", "representation.json"

Mode = Literal["visual", "multimodal"]


class Representation:
    """A family's model and its settings."""

    def __init__(self, name: str, config: Any, model: nn.Module) -> None:
        self.name, self.config, self.model = name, config, model

    @classmethod
    def create(cls, name: str, settings: dict[str, Any], captions: Sequence[str]) -> "Representation":
        """An untrained one, its vocabulary from ``captions``."""
        made = family(name)
        config = build(made.config, settings, where="representation")
        language = make_language(config.language, captions) if made.reads else None
        return cls(name, config, made.make(config, language))

    @property
    def captions(self) -> Captions | None:
        """The text side; ``None`` for a family without words."""
        return self.model.captions

    @property
    def reads(self) -> bool:
        """Whether words go into the encoder itself and change what is seen."""
        return isinstance(self.model, MaskedAutoencoder) and self.captions is not None

    def untrained(self) -> "Representation":
        """The same architecture and vocabulary with fresh weights."""
        captions = None if self.captions is None else self.captions.untrained()
        return Representation(self.name, self.config, family(self.name).make(self.config, captions))

    @property
    def image_size(self) -> int:
        """Pixels a side of what the encoder sees."""
        return self.config.encoder.image_size

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.model.width if isinstance(self.model, VAE) else self.config.encoder.width

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        return self.config.encoder.tokens

    @torch.inference_mode()
    def encode(self, images: np.ndarray, text: Sequence[str] | None = None, *, mode: Mode = "visual") -> Tensor:
        """Tokens [B, N, D] of pictures; ``multimodal``: with those of the words behind them, [B, N + L, D], padding 0.

        ``text``: a caption for each picture, which a language-conditioned encoder also lets change the patches' tokens.
        """
        if mode not in ("visual", "multimodal"):
            raise UnderstudyError(f"mode must be visual or multimodal, got {mode!r}")
        if not self.reads and (text is not None or mode == "multimodal"):
            raise UnderstudyError(f"the representation {self.name} reads no words: give images alone, mode='visual'")
        if text is not None and len(text) != len(images):
            raise UnderstudyError(f"{len(text)} captions for {len(images)} images: give one for each")
        ids = None if text is None else self.captions.tokenize(text).to(self.device)
        patches, words = self.model.encode(self.prepare(images), ids)
        if mode == "visual":
            return patches
        if ids is not None:
            words = words * self.captions.mask(ids)[..., None]
        return torch.cat([patches, words], dim=1)

    @torch.inference_mode()
    def embed(self, images: np.ndarray) -> Tensor:
        """One vector for each picture [B, E]: what the family's loss compares, or the mean or maximum of the tokens."""
        return self.model.embed(self.prepare(images)).float()

    def prepare(self, images: np.ndarray) -> Tensor:
        """Pictures [..., H, W, 3] uint8 at the encoder's size, as a tensor on its device."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim not in (4, 5) or images.shape[-1] != 3:
            raise UnderstudyError(
                f"images are [B, H, W, 3] or [B, F, H, W, 3] uint8, got {images.dtype} {list(images.shape)}"
            )
        size = (self.image_size, self.image_size)
        if images.shape[-3:-1] != size:
            flat = images.reshape(-1, *images.shape[-3:])
            fitted = np.stack([fit_image(image, self.image_size) for image in flat])
            images = fitted.reshape(*images.shape[:-3], *size, 3)
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    def save(self, folder: Path) -> None:
        """Write all that `load` needs."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))
        (folder / CONFIG).write_text(to_yaml(self.config))
        about = {"name": self.name, "parameters": parameters(self.model)}
        if self.captions is not None:
            self.captions.save(folder)
            about["text"] = self.captions.kind
        (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def load(folder: str | Path) -> Representation:
    """Read what `Representation.save` wrote; raises `UnderstudyError` when anything is missing."""
    folder = Path(folder)
    if not (folder / WEIGHTS).is_file():
        raise UnderstudyError(f"{folder} is no representation: it lacks {WEIGHTS}; make one with vla pretrain")
    made = without_weights(folder)
    try:
        load_model(made.model, folder / WEIGHTS)
    except (RuntimeError, OSError, SafetensorError) as error:
        raise UnderstudyError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {first_line(error)}") from error
    made.model.eval()
    return made


def without_weights(folder: Path) -> Representation:
    """The architecture that a folder describes; whoever asks has to fill in the weights."""
    missing = [name for name in (ABOUT, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise UnderstudyError(
            f"{folder} is no representation: it lacks {', '.join(missing)}; make one with vla pretrain"
        )
    name = json.loads((folder / ABOUT).read_text())["name"]
    made = family(name)
    config = from_yaml(made.config, folder / CONFIG)
    if made.reads and not (folder / TOKENIZER).is_file():
        raise UnderstudyError(f"{folder} lacks {TOKENIZER}; copy the whole folder")
    return Representation(
        name, config, made.make(config, saved_language(config.language, folder) if made.reads else None)
    )
