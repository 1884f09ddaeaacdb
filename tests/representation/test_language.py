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


@pytest.fixture
def clip(tmp_path):
    """A tiny CLIP's text side, with a tokenizer that has CLIP's marks."""
    from tokenizers import normalizers, pre_tokenizers, processors, trainers
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

    torch.manual_seed(0)
    begin, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = Tokenizer(models.WordLevel(unk_token=end))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CAPTIONS, trainers.WordLevelTrainer(special_tokens=[begin, end]))
    marks = [(name, tokenizer.token_to_id(name)) for name in (begin, end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}", special_tokens=marks)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "projection_dim": 24, "num_hidden_layers": 1}
    config = CLIPTextConfig(
        **sizes, num_attention_heads=2, vocab_size=tokenizer.get_vocab_size(), bos_token_id=0, eos_token_id=1
    )
    folder = tmp_path / "clip"
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=end, eos_token=end).save_pretrained(folder)
    return folder


def test_clips_feature_of_a_caption_is_transformers_own_whoever_stands_beside_it(clip):
    from transformers import CLIPTextModelWithProjection

    language = make_language(LanguageConfig(clip=clip), [])
    reference = CLIPTextModelWithProjection.from_pretrained(clip).eval()
    together = language.sentence(language.tokenize(["lift the red cube", "", "open the drawer"]))
    assert together.shape == (3, language.width) == (3, 24)
    for said, feature in zip(("lift the red cube", "", "open the drawer"), together, strict=True):
        alone = torch.tensor([language.tokenizer.encode(said).ids])
        torch.testing.assert_close(reference(input_ids=alone).text_embeds[0], feature)
        torch.testing.assert_close(language.sentence(language.tokenize([said]))[0], feature)
    assert language.contextual(language.tokenize(CAPTIONS)).shape[-1] == 24
    assert not any(tensor.requires_grad for tensor in language.parameters())


def test_a_saved_clip_comes_back(clip, tmp_path):
    config = LanguageConfig(clip=clip)
    language = make_language(config, [])
    language.save(tmp_path)
    again = saved_language(config, tmp_path)
    again.load_state_dict(language.state_dict())
    ids = language.tokenize(CAPTIONS)
    assert torch.equal(again.sentence(ids), language.sentence(ids))


def test_a_folder_that_is_no_clip_is_named(tmp_path):
    with pytest.raises(UnderstudyError, match="CLIP"):
        make_language(LanguageConfig(clip=tmp_path), [])
