"""A SmolVLM small enough to learn from nothing in minutes, as a folder of the hub: what SmolVLA stands on."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

SPECIAL = ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>", "<pad>")
SIDE = 64


def tiny_smolvla(folder: Path, texts: Iterable[str]) -> Path:
    """Configuration and processor, no weights; its words are those of ``texts``."""
    if (folder / "config.json").is_file():
        return folder
    words = sorted({word for text in texts for word in text.split()})
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["[unk]", *words])}, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    named = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
    named |= {"global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[unk]",
        pad_token="<pad>",
        eos_token="<end_of_utterance>",
        extra_special_tokens=named,
    )
    size = {"num_hidden_layers": 4, "intermediate_size": 512}
    vision = {**size, "hidden_size": 128, "num_attention_heads": 4, "image_size": SIDE, "patch_size": 8}
    text = {"model_type": "llama", **size, "hidden_size": 192, "num_attention_heads": 4, "num_key_value_heads": 4}
    text |= {"head_dim": 48, "vocab_size": len(fast)}
    ids = {"image_token_id": fast.convert_tokens_to_ids("<image>"), "pad_token_id": fast.pad_token_id}
    SmolVLMConfig(vision_config=vision, text_config=text, scale_factor=2, **ids).save_pretrained(folder)
    sizes = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    pictures, films = SmolVLMImageProcessor(**sizes, do_image_splitting=False), SmolVLMVideoProcessor(**sizes)
    SmolVLMProcessor(pictures, fast, films, image_seq_len=16).save_pretrained(folder)
    return folder
