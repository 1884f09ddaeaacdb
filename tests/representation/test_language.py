"""Captions in, vectors out: the embedding trained here, and a real DistilBERT class from a folder."""

import pytest
import torch
from tokenizers import Tokenizer, models

from vla.errors import UnderstudyError
from vla.representation.language import LanguageConfig, WordEmbedding, make_language, saved_language, word_tokenizer

CAPTIONS = ["lift the red cube", "open the drawer", "push the green cube to the white pad"]


@pytest.fixture
def distilbert(tmp_path):
    """A folder as the hub has it: a tiny DistilBERT with its tokenizer."""
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    tokenizer = word_tokenizer(CAPTIONS, vocabulary=100)
    config = DistilBertConfig(
        dim=64, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=tokenizer.get_vocab_size(), pad_token_id=0
    )
    folder = tmp_path / "distilbert"
    DistilBertModel(config).save_pretrained(folder)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def test_a_caption_stands_between_its_marks_and_none_is_a_lone_cls():
    language = make_language(LanguageConfig(), CAPTIONS)
    ids = language.tokenize(["open the drawer", ""])
    words = [[language.tokenizer.id_to_token(number) for number in row] for row in ids.tolist()]
    assert words == [["[CLS]", "open", "the", "drawer", "[SEP]"], ["[CLS]"] + ["[PAD]"] * 4]
    assert language.mask(ids).sum(1).tolist() == [5, 1]


def test_a_long_caption_is_cut():
    language = make_language(LanguageConfig(max_words=5), CAPTIONS)
    assert language.tokenize(CAPTIONS).shape == (3, 5)


def test_strange_words_are_counted():
    language = make_language(LanguageConfig(), CAPTIONS)
    assert (language.unknown_words("lift the purple cube"), language.unknown_words(CAPTIONS[0])) == (1, 0)


def test_the_order_of_the_words_matters():
    language = make_language(LanguageConfig(), CAPTIONS)
    one, two = language.contextual(language.tokenize(["red cube", "cube red"]))
    assert not torch.allclose(one.sum(0), two.sum(0), atol=1e-6) or not torch.allclose(one, two)


def test_a_distilbert_folder_is_used_frozen_and_as_transformers_runs_it(distilbert):
    from transformers import DistilBertModel

    language = make_language(LanguageConfig(distilbert=distilbert), [])
    assert language.kind == "distilbert, frozen"
    assert not any(tensor.requires_grad for tensor in language.parameters())
    ids = language.tokenize(CAPTIONS)
    reference = DistilBertModel.from_pretrained(distilbert).eval()
    with torch.no_grad():
        expected = reference(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    language.train()
    assert torch.allclose(language.contextual(ids), expected, atol=1e-5)
    assert language.lexical(ids).shape == (3, ids.shape[1], 64)


def test_a_saved_distilbert_comes_back(distilbert, tmp_path):
    config = LanguageConfig(distilbert=distilbert)
    language = make_language(config, [])
    language.save(tmp_path)
    again = saved_language(config, tmp_path)
    again.load_state_dict(language.state_dict())
    ids = language.tokenize(CAPTIONS)
    assert torch.equal(again.tokenize(CAPTIONS), ids)
    assert torch.allclose(again.contextual(ids), language.contextual(ids))


def test_a_missing_weight_is_an_error_and_no_random_start(distilbert):
    from safetensors.torch import load_file, save_file

    weights = load_file(distilbert / "model.safetensors")
    del weights["transformer.layer.0.ffn.lin1.weight"]
    save_file(weights, distilbert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnderstudyError, match=r"lacks weights.*lin1"):
        make_language(LanguageConfig(distilbert=distilbert), [])


def test_a_folder_that_is_no_distilbert_is_named(tmp_path):
    with pytest.raises(UnderstudyError, match="no folder of a DistilBERT"):
        make_language(LanguageConfig(distilbert=tmp_path), [])


def test_a_tokenizer_without_the_marks_is_refused():
    bare = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    with pytest.raises(UnderstudyError, match=r"has no \[PAD\]"):
        WordEmbedding(bare, width=8, max_words=20)
