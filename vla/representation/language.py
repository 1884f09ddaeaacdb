"""Captions as tokens: a frozen DistilBERT or CLIP from a folder when one is given, else an embedding trained here.

All put a caption between two marks (``[CLS]`` and ``[SEP]``); a caption that nobody gave is the first alone.
``contextual`` is what an encoder is conditioned on, ``lexical`` what a decoder that has to say the words itself may
know of them.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from vla.backbones.transformer import sinusoid
from vla.errors import UnderstudyError, first_line

PAD, UNKNOWN, CLS, SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
TOKENIZER, ENCODER = "tokenizer.json", "text_encoder"

logger = logging.getLogger(__name__)


@dataclass
class LanguageConfig:
    """Where the words' vectors come from."""

    distilbert: Path | None = None
    """folder of a DistilBERT (config.json, weights, tokenizer), kept frozen; none: an embedding trained here"""
    clip: Path | None = None
    """folder of a CLIP, of which the text side is used, kept frozen"""
    width: int = 64
    """of the embedding trained here"""
    max_words: int = 20
    """longest caption in tokens, with [CLS] and [SEP]; the rest is cut off"""
    vocabulary: int = 30_522
    """most words of the embedding trained here"""


def word_tokenizer(captions: Sequence[str], *, vocabulary: int) -> Tokenizer:
    """A lower-cased word-level tokenizer over the words of the captions, most frequent first."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=[PAD, UNKNOWN, CLS, SEP])
    tokenizer.train_from_iterator(sorted(captions), trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in (CLS, SEP)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{CLS} $A {SEP}", special_tokens=ends)
    return tokenizer


class Captions(nn.Module):
    """What both kinds share: ids in, vectors out. ``kind`` is what a checkpoint says of itself."""

    kind = ""
    marks = (PAD, UNKNOWN, CLS, SEP)
    """what the tokenizer calls padding, an unknown word, the begin and the end"""
    width: int

    def __init__(self, tokenizer: Tokenizer, *, max_words: int) -> None:
        super().__init__()
        missing = [name for name in self.marks if tokenizer.token_to_id(name) is None]
        if missing:
            raise UnderstudyError(f"the tokenizer has no {', '.join(missing)}; is it another model's?")
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_words)
        self.tokenizer = tokenizer
        self.pad, self.unknown, self.cls, _ = (tokenizer.token_to_id(name) for name in self.marks)
        self.nothing = [self.cls]

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.tokenizer.get_vocab_size()

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Ids [B, longest] int64; an empty caption is ``[CLS]`` alone."""
        rows = [encoding.ids if text else self.nothing for text, encoding in zip(captions, self._encoded(captions))]
        longest = max(map(len, rows), default=1)
        return torch.tensor([row + [self.pad] * (longest - len(row)) for row in rows])

    def unknown_words(self, caption: str) -> int:
        """How many tokens of the caption were in no training caption."""
        return self.tokenizer.encode(caption).ids.count(self.unknown)

    def mask(self, ids: Tensor) -> Tensor:
        """True where a token is real, [B, L]."""
        return ids != self.pad

    def blank(self, ids: Tensor, which: Tensor) -> Tensor:
        """A copy of ``ids`` [B, L] in which the rows ``which`` [B] are ``[CLS]`` alone."""
        first = torch.arange(ids.shape[1], device=ids.device) == 0
        return torch.where(which[:, None] & ~first, self.pad, ids)

    def contextual(self, ids: Tensor) -> Tensor:
        """[B, L] → [B, L, width], each word as it stands among the others."""
        raise NotImplementedError

    def lexical(self, ids: Tensor) -> Tensor:
        """[B, L] → [B, L, width], each word by itself, at its place."""
        raise NotImplementedError

    def sentence(self, ids: Tensor) -> Tensor:
        """Mean over a caption's real tokens, so that it does not depend on its neighbours' lengths: [B, width]."""
        mask = self.mask(ids)[..., None].float()
        return (self.contextual(ids) * mask).sum(1) / mask.sum(1)

    def untrained(self) -> "Captions":
        """The same vocabulary with fresh vectors, if they are trained at all."""
        return self

    def save(self, folder: Path) -> None:
        """What `saved_language` needs besides the weights."""
        self.tokenizer.save(str(folder / TOKENIZER))

    def _encoded(self, captions: Sequence[str]) -> list:
        return self.tokenizer.encode_batch(list(captions))


class WordEmbedding(Captions):
    """One trained vector for each word, plus a sine for its place."""

    kind = "embedding trained here"

    def __init__(self, tokenizer: Tokenizer, *, width: int, max_words: int) -> None:
        super().__init__(tokenizer, max_words=max_words)
        self.width, self._max_words = width, max_words
        self.words = nn.Embedding(self.vocabulary, width)
        self.register_buffer("place", sinusoid(torch.arange(max_words), width, longest=100.0), persistent=False)

    def untrained(self) -> "WordEmbedding":
        """Fresh vectors of the same words."""
        return WordEmbedding(self.tokenizer, width=self.width, max_words=self._max_words)

    def contextual(self, ids: Tensor) -> Tensor:
        """The same as `lexical`: there is no model between them."""
        return self.lexical(ids)

    def lexical(self, ids: Tensor) -> Tensor:
        """[B, L] → [B, L, width]."""
        return self.words(ids) + self.place[: ids.shape[1]]


class DistilBert(Captions):
    """A frozen DistilBERT (Sanh et al. 2019)."""

    kind = "distilbert, frozen"

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, *, max_words: int, config_file: Path) -> None:
        super().__init__(tokenizer, max_words=max_words)
        self.model, self.width, self._config_file = model.eval().requires_grad_(False), model.config.dim, config_file

    def train(self, mode: bool = True) -> "DistilBert":
        """Its dropout stays off."""
        super().train(mode)
        self.model.eval()
        return self

    @torch.no_grad()
    def contextual(self, ids: Tensor) -> Tensor:
        """The last hidden states [B, L, 768]."""
        return self.model(input_ids=ids, attention_mask=self.mask(ids).long()).last_hidden_state

    @torch.no_grad()
    def lexical(self, ids: Tensor) -> Tensor:
        """The input embeddings [B, L, 768]."""
        return self.model.embeddings(ids)

    def save(self, folder: Path) -> None:
        """The tokenizer and the model's configuration; its weights are among the checkpoint's."""
        super().save(folder)
        target = folder / ENCODER / "config.json"
        target.parent.mkdir(exist_ok=True)
        if self._config_file != target:
            shutil.copyfile(self._config_file, target)


class ClipText(DistilBert):
    """The text side of a frozen CLIP (Radford et al. 2021), in the space that it shares with pictures."""

    kind = "clip, frozen"
    marks = ("<|endoftext|>", "<|endoftext|>", "<|startoftext|>", "<|endoftext|>")

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, *, max_words: int, config_file: Path) -> None:
        Captions.__init__(self, tokenizer, max_words=max_words)
        self.model, self.width = model.eval().requires_grad_(False), model.config.projection_dim
        self._config_file, self.nothing = config_file, [self.cls, self.pad]

    def unknown_words(self, caption: str) -> int:
        """None: its pieces spell every word."""
        return 0

    def mask(self, ids: Tensor) -> Tensor:
        """True where a token is real, [B, L]: its padding is its own mark for the end, of which the first is real."""
        return (ids == self.pad).cumsum(1) - (ids == self.pad).long() == 0

    @torch.no_grad()
    def contextual(self, ids: Tensor) -> Tensor:
        """The last hidden states, projected, [B, L, 512]."""
        states = self.model(input_ids=ids, attention_mask=self.mask(ids).long()).last_hidden_state
        return self.model.text_projection(states)

    @torch.no_grad()
    def lexical(self, ids: Tensor) -> Tensor:
        """The input embeddings [B, L, 512]."""
        return self.model.text_model.embeddings(ids)

    @torch.no_grad()
    def sentence(self, ids: Tensor) -> Tensor:
        """CLIP's own feature of a caption, that of its end, [B, 512]."""
        return self.model(input_ids=ids, attention_mask=self.mask(ids).long()).text_embeds


def make_language(config: LanguageConfig, captions: Sequence[str]) -> Captions:
    """For a new model: what ``config`` names a folder of, or an embedding of the captions' words."""
    if config.distilbert is not None:
        return _read(DistilBert, config.distilbert, max_words=config.max_words)
    if config.clip is not None:
        return _read(ClipText, config.clip, max_words=config.max_words)
    tokenizer = word_tokenizer(captions, vocabulary=config.vocabulary)
    return WordEmbedding(tokenizer, width=config.width, max_words=config.max_words)


def saved_language(config: LanguageConfig, folder: Path) -> Captions:
    """For a checkpoint in ``folder``: the same module, weights still to be loaded."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    kind = DistilBert if config.distilbert is not None else ClipText if config.clip is not None else None
    if kind is None:
        return WordEmbedding(tokenizer, width=config.width, max_words=config.max_words)
    file = folder / ENCODER / "config.json"
    made, settings = _model_of(kind)
    return kind(made(settings.from_json_file(str(file))), tokenizer, max_words=config.max_words, config_file=file)


def _model_of(kind: type[DistilBert]) -> tuple[Any, Any]:
    """The classes of transformers: the model's and its configuration's."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, DistilBertConfig, DistilBertModel

    return (CLIPTextModelWithProjection, CLIPTextConfig) if kind is ClipText else (DistilBertModel, DistilBertConfig)


def _read(kind: type[DistilBert], folder: Path, *, max_words: int) -> DistilBert:
    from transformers import AutoTokenizer

    name = {DistilBert: "DistilBERT", ClipText: "CLIP"}[kind]
    if not (folder / "config.json").is_file():
        raise UnderstudyError(f"{folder} is no folder of a {name}: it has no config.json")
    made, _ = _model_of(kind)
    try:
        model, told = made.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except (OSError, ValueError, RuntimeError) as error:
        raise UnderstudyError(f"the {name} in {folder} cannot be read: {first_line(error)}") from error
    if told["missing_keys"]:
        raise UnderstudyError(f"the {name} in {folder} lacks weights: {', '.join(sorted(told['missing_keys'])[:3])}")
    return kind(model, tokenizer, max_words=max_words, config_file=folder / "config.json")
