"""A representation as the vision tower of `vla.backbones.small.SmallVLM`.

One camera, a grid of n x n tokens:

    picture ─► its own size ─► representation ─► tokens [n², D] ─► linear, norm, FiLM, SiLU ─┬─► patches [n², C]
                                     ▲                                      ▲                └─► keypoints [2 POINTS]
    instruction ─► the words it knows ┘ (if its encoder reads)   words [C] ─┘   (one spatial softmax a heat map)

What stands left of the tokens is the representation's own and can be frozen; the rest is new. Of the representation
only what makes tokens is kept: decoders and heads of its pre-training are left behind. Frozen, it makes the same
tokens of a dataset's frames in every epoch; they are not kept. With the cpu presets of both, a policy trains about four
times as long through a frozen V-Cond as through the tower that it replaces, and ten times through a fine-tuned one.

A checkpoint of a policy holds these weights among its own, and what else is needed to build the module again in a
folder of its own, so that it outlives the folder that the representation came from:

    representation/  representation.json  config.yaml  tokenizer.json  text_encoder/config.json   (the last two if any)
"""

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from vla.backbones.small import PAD, START, UNKNOWN, ConvStem, FiLM, expected_places
from vla.errors import UnderstudyError
from vla.representation import language
from vla.representation.language import Captions
from vla.representation.load import ABOUT, CONFIG, WEIGHTS, Representation, load, without_weights

FILES = (CONFIG, language.TOKENIZER, f"{language.ENCODER}/config.json")


@dataclass(frozen=True)
class Source:
    """A representation, which becomes a tower's own, and what a checkpoint has to hold of it besides the weights.

    ``about``: its ``name``, the ``path`` it was read from, a hash of its ``weights``; ``files``: name → text.
    """

    representation: Representation
    about: Mapping[str, str]
    files: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Source":
        """From what `vla pretrain` wrote; raises `UnderstudyError` when anything is missing.

        Whichever representation it is, the random numbers after it are the same: so are the first weights of the rest.
        """
        with torch.random.fork_rng(devices=[]):
            representation = load(folder)
        with (folder / WEIGHTS).open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
        about = {"name": representation.name, "path": str(folder), "weights": weights}
        return cls(representation, about, _texts(folder, [name for name in FILES if (folder / name).is_file()]))

    @classmethod
    def without_weights(cls, folder: Path) -> "Source":
        """From what `PretrainedTower.save` wrote; its weights are still to be loaded."""
        about = json.loads(_texts(folder, [ABOUT])[ABOUT])
        files = _texts(folder, about.pop("files"))
        return cls(without_weights(folder), about, files)


def _texts(folder: Path, names: list[str]) -> dict[str, str]:
    for name in names:
        if not (folder / name).is_file():
            raise UnderstudyError(f"the checkpoint lacks {folder / name}; copy the whole folder or train again")
    return {name: (folder / name).read_text("utf-8") for name in names}


class Eyes(nn.Module):
    """A representation's own tokens, without what its pre-training had besides.

    A frozen one stays in evaluation mode and is run without gradients.
    """

    def __init__(self, source: Source, *, freeze: bool) -> None:
        super().__init__()
        given, self.about, self._files = source.representation, source.about, source.files
        self.frozen, self.image_size, self.side = freeze, given.image_size, math.isqrt(given.tokens)
        self.width = given.width
        self.representation = _without_pretraining(given.model, reads=given.reads)
        if freeze:
            self.representation.eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write what `Source.without_weights` reads."""
        for name, text in self._files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8")
        (folder / ABOUT).write_text(json.dumps({**self.about, "files": list(self._files)}, indent=2) + "\n")

    def train(self, mode: bool = True) -> Self:
        """What is frozen does not train."""
        super().train(mode)
        if self.frozen:
            self.representation.eval()
        return self

    def look(self, pictures: Tensor, caption: Tensor | None = None) -> Tensor:
        """[B, H, W, 3] uint8, and what its own captions' ids [B, L] are, if it reads any → [B, n², D]."""
        with torch.no_grad() if self.frozen else nullcontext():
            return self.representation.encode(fitted(pictures, self.image_size), caption)[0]


class PretrainedTower(Eyes):
    """Pictures and words → patches and keypoints: keeps `vla.backbones.small.Tower`."""

    def __init__(self, source: Source, *, width: int, freeze: bool, tokenizer: Tokenizer) -> None:
        super().__init__(source, freeze=freeze)
        given = source.representation
        self.linear = nn.Linear(given.width, width)
        self.norm, self.film = nn.GroupNorm(4, width), FiLM(width, width)
        self.heat = nn.Conv2d(width, ConvStem.POINTS, 1)
        self.sharpness = nn.Parameter(torch.full((ConvStem.POINTS, 1), 3.0))
        known = dictionary(tokenizer, given.captions) if given.reads else {}
        self.strange = sorted(word for word, pieces in known.items() if not pieces and word not in (PAD, UNKNOWN))
        self.register_buffer("known", _table(tokenizer, given.captions, known) if known else None, persistent=False)

    def forward(self, pictures: Tensor, words: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """[B, H, W, 3] uint8, ``words`` [B, C], ``text`` [B, L] ids → patches [B, n², C], keypoints [B, 2 POINTS]."""
        tokens = self.tokens(pictures, text)
        x = self.linear(tokens).transpose(1, 2).unflatten(2, (self.side, self.side))
        x = functional.silu(self.film(self.norm(x), words))
        return x.flatten(2).transpose(1, 2), expected_places(self.heat(x), self.sharpness)

    def tokens(self, pictures: Tensor, text: Tensor) -> Tensor:
        """The representation's own tokens [B, n², D]; ``text``: ids of the policy's tokenizer."""
        return self.look(pictures, self.caption(text))

    def caption(self, text: Tensor) -> Tensor | None:
        """The instruction [B, L] as the representation's own ids [B, L'], ``None`` if its encoder reads no words.

        Words that it does not know are left out, as are those that were in no training instruction; if none is left,
        it is told nothing, which is its visual mode.
        """
        captions = self.representation.captions
        if captions is None:
            return None
        ids = self.known[text].flatten(1)
        longest = captions.tokenizer.truncation["max_length"]
        front = (ids == captions.pad).byte().argsort(dim=1, stable=True)
        ids = ids.gather(1, front)[:, : longest - 1]
        end = (ids != captions.pad).sum(1, keepdim=True)
        mark = torch.where(end > 1, captions.tokenizer.token_to_id(language.SEP), captions.pad)
        return functional.pad(ids, (0, 1), value=captions.pad).scatter(1, end, mark)


def fitted(pictures: Tensor, size: int) -> Tensor:
    """`vla.data.frames.fit_image` for tensors [B, H, W, 3] uint8: the same, within one grey level of 256.

    Where one size is no multiple of the other, torch averages over whole pixels, so it is only nearly the same.
    """
    if pictures.shape[1:3] == (size, size):
        return pictures
    shrinks = min(pictures.shape[1:3]) >= size
    x = functional.interpolate(
        pictures.permute(0, 3, 1, 2).float(), (size, size), mode="area" if shrinks else "bilinear"
    )
    return x.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def dictionary(tokenizer: Tokenizer, captions: Captions) -> dict[str, list[int]]:
    """Word of the policy's ``tokenizer`` → ids of the representation's, none for one that it does not know.

    The beginning of an instruction is that of a caption.
    """
    found: dict[str, list[int]] = {PAD: [], UNKNOWN: [], START: [captions.cls]}
    for word in tokenizer.get_vocab().keys() - found.keys():
        pieces = captions.tokenizer.encode(word, add_special_tokens=False).ids
        found[word] = [] if captions.unknown in pieces else pieces
    return found


def _table(tokenizer: Tokenizer, captions: Captions, known: Mapping[str, list[int]]) -> Tensor:
    """The same as ids [V, P], padded behind."""
    table = torch.full((len(known), max(map(len, known.values()))), captions.pad)
    for word, pieces in known.items():
        table[tokenizer.token_to_id(word), : len(pieces)] = torch.tensor(pieces, dtype=torch.long)
    return table


def _without_pretraining(model: Any, *, reads: bool) -> Any:
    """The model with only what its ``encode`` uses; captions stay if its encoder reads them."""
    wanted = ("encoder", "captions") if reads else ("encoder",)
    own = [*dict(model.named_children()), *dict(model.named_parameters(recurse=False))]
    for name in own:
        if name not in wanted:
            setattr(model, name, None)
    return model
