"""Vision-language models of every family, with the real classes, small enough to be made on the spot."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    PaliGemmaConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
    SiglipImageProcessor,
    SmolVLMConfig,
    SmolVLMImageProcessor,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessor

from vla.backbones.prismatic import PrismaticConfig

SIDE = 56
"""Pixels a side: a multiple of Qwen2.5's 28, and of the patches of the others."""
SPECIAL = {
    "smolvlm": ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>", "<pad>"],
    "paligemma": ["<bos>", "<eos>", "<image>", "<pad>"],
    "qwen2_5_vl": [
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
        "<pad>",
    ],
    "prismatic": ["<s>", "</s>", "<image>", "<pad>"],
}
SPECIAL["qwen3_vl"] = SPECIAL["qwen2_5_vl"]
ENDS = {
    "smolvlm": "<end_of_utterance>",
    "paligemma": "<eos>",
    "qwen2_5_vl": "<|im_end|>",
    "qwen3_vl": "<|im_end|>",
    "prismatic": "</s>",
}
PLACEHOLDERS = {"qwen2_5_vl": "<|image_pad|>", "qwen3_vl": "<|image_pad|>"}
NAMES = tuple(ENDS)


def tiny_tokenizer(family: str, *, padding_side: str = "right") -> PreTrainedTokenizerFast:
    """Letters and the family's special tokens."""
    letters = [chr(code) for code in range(32, 127)] + ["\n", "[unk]"]
    tokenizer = Tokenizer(models.WordLevel({letter: n for n, letter in enumerate(letters)}, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL[family]])
    named = {"image_token": PLACEHOLDERS.get(family, "<image>"), "video_token": "<|video_pad|>"}
    named |= {"fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"}
    start = {"paligemma": "<bos>", "prismatic": "<s>"}.get(family)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[unk]",
        pad_token="<pad>",
        eos_token=ENDS[family],
        bos_token=start,
        padding_side=padding_side,
        extra_special_tokens={key: value for key, value in named.items() if value in SPECIAL[family]},
    )


def tiny_config(family: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Two layers of everything."""
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    words = {**size, "vocab_size": len(tokenizer), "num_key_value_heads": 1, "head_dim": 16}
    picture = tokenizer.convert_tokens_to_ids(PLACEHOLDERS.get(family, "<image>"))
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
    ids = {"image_token_id": picture, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    if family == "smolvlm":
        vision = {**size, "image_size": SIDE, "patch_size": 14}
        return SmolVLMConfig(vision_config=vision, text_config={"model_type": "llama", **words}, scale_factor=2, **ids)
    if family == "paligemma":
        vision = {
            "model_type": "siglip_vision_model",
            **size,
            "image_size": SIDE,
            "patch_size": 14,
            "projection_dim": 32,
        }
        text = {"model_type": "gemma", **words}
        return PaliGemmaConfig(vision_config=vision, text_config=text, projection_dim=32, **ids)
    if family == "prismatic":
        vision = {**size, "image_size": SIDE, "patch_size": 14}
        text = {**words, "num_key_value_heads": 2}
        dino = {key: value for key, value in vision.items() if key != "intermediate_size"}
        return PrismaticConfig(dino_config=dino, siglip_config=vision, text_config=text, **ids)
    marks = {
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "out_hidden_size": 32,
        "patch_size": 14,
    }
    if family == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [1], "window_size": 28}
        return Qwen2_5_VLConfig(vision_config=vision, text_config={**words, "rope_parameters": rope}, **ids, **marks)
    vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    return Qwen3VLConfig(vision_config=vision, text_config={**words, "rope_parameters": rope}, **ids, **marks)


def tiny_image_processor(family: str) -> Any:
    """The family's own, for pictures of `SIDE` pixels."""
    mean_std = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    if family == "smolvlm":
        sizes = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
        return SmolVLMImageProcessor(**sizes, do_image_splitting=False, **mean_std)
    if family in ("qwen2_5_vl", "qwen3_vl"):
        return Qwen2VLImageProcessor(
            patch_size=14, merge_size=2, size={"shortest_edge": 28 * 28, "longest_edge": 10**6}, **mean_std
        )
    return SiglipImageProcessor(size={"height": SIDE, "width": SIDE}, **mean_std)


def save_tiny(family: str, folder: Path, *, padding_side: str = "right", seed: int = 0) -> Path:
    """A folder as the hub has them: configuration, weights, tokenizer, image processor."""
    tokenizer = tiny_tokenizer(family, padding_side=padding_side)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(tiny_config(family, tokenizer))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data *= 5  # so that what goes in is felt at the end
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tiny_image_processor(family).save_pretrained(folder)
    return folder
