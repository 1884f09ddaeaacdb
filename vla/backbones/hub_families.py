"""How each family of vision-language models wants its pictures and its words.

A `Family` writes the prompt with its placeholders, packs pixels as the vision tower takes them, and says where each
token stands. The rest is alike in all, and is in `vla.backbones.hub`. Pictures are made of tensors, without the
family's Python image processor: what comes out is the same (tested), and it is made where the model is.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vla.backbones.prismatic import PrismaticConfig
from vla.errors import UnderstudyError, unknown


class Family:
    """What the families share: one placeholder a token, pictures first, tokens counted from 0."""

    template: ClassVar[str]
    """the prompt; ``{images}`` is ``image`` once for each camera, ``{text}`` what is asked"""
    image: ClassVar[str]
    """one picture among the words; ``{tokens}`` are its placeholders"""
    placeholder: ClassVar[str]
    vision: ClassVar[tuple[str, ...]]
    """the modules that a frozen vision tower is made of"""
    first_position: ClassVar[int] = 0
    static: ClassVar[bool] = False
    """whether `run` never looks at values on the device, so that a CUDA graph can hold it"""

    def __init__(self, config: Any, *, image_size: int) -> None:
        self.config = config
        self.side = self._side(image_size)

    def _side(self, image_size: int) -> int:
        """Pixels a side that the vision tower sees."""
        return self.config.vision_config.image_size

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        raise NotImplementedError

    def prompt(self, text: str, *, cameras: int) -> str:
        """All that is tokenized, with every placeholder."""
        image = self.image.format(tokens=self.placeholder * self.tokens)
        return self.template.format(images=image * cameras, text=text)

    def statistics(self, image_processor: Any) -> tuple[list[float], list[float]]:
        """Mean and spread of each channel of a picture in 0…1."""
        return list(image_processor.image_mean), list(image_processor.image_std)

    def pack(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pictures [B, C, 3, S, S] as the model's keyword arguments."""
        return {"pixel_values": pixels.flatten(0, 1)}

    def place(self, model: nn.Module, ids: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Where tokens [B, L] stand, padding (where ``real`` is false) not counted: more keyword arguments."""
        return {"position_ids": (real.long().cumsum(1) - 1).clamp(min=0) + self.first_position}

    def run(self, model: nn.Module, ids: Tensor, pixels: Tensor, *, real: Tensor, visible: Tensor) -> Tensor:
        """Hidden states [B, L, D] of the last layer; ``real`` and ``visible`` [B, L]: no padding, and seen at all."""
        given = {**self.place(model, ids, real), **self.pack(pixels)}
        return model(input_ids=ids, attention_mask=visible.long(), use_cache=False, **given).last_hidden_state


class SmolVLM(Family):
    """SmolVLM2: one view of each picture, not cut into tiles."""

    template = "<|im_start|>User:{images}{text}<end_of_utterance>\nAssistant:"
    image = "<fake_token_around_image><global-img>{tokens}<fake_token_around_image>"
    placeholder = "<image>"
    vision = ("vision_model",)

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        vision = self.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2 // self.config.scale_factor**2

    def pack(self, pixels: Tensor) -> dict[str, Tensor]:
        """The pictures of each sample together."""
        return {"pixel_values": pixels}


class PaliGemma(Family):
    """PaliGemma and PaliGemma 2: all of the prompt sees all of it, and positions count from 1."""

    template = "{images}<bos>{text}\n"
    image = "{tokens}"
    placeholder = "<image>"
    vision = ("vision_tower",)
    first_position = 1
    static = True

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        return (self.config.vision_config.image_size // self.config.vision_config.patch_size) ** 2

    def run(self, model: nn.Module, ids: Tensor, pixels: Tensor, *, real: Tensor, visible: Tensor) -> Tensor:
        """The same as the model's own forward, which counts placeholders on the device and makes the host wait."""
        pictures = ids == self.config.image_token_id
        words = model.get_input_embeddings()(ids.masked_fill(pictures, 0))
        seen = model.get_image_features(**self.pack(pixels)).pooler_output.to(words.dtype)
        outputs = model.language_model(
            inputs_embeds=words.masked_scatter(pictures[..., None].expand_as(words), seen),
            attention_mask=visible[:, None, None].expand(-1, 1, ids.shape[1], -1),
            use_cache=False,
            **self.place(model, ids, real),
        )
        return outputs.last_hidden_state


class QwenVL(Family):
    """Qwen2.5-VL and Qwen3-VL: any size of picture, each twice in time; places have three coordinates."""

    template = "<|im_start|>user\n{images}{text}<|im_end|>\n<|im_start|>assistant\n"
    image = "<|vision_start|>{tokens}<|vision_end|>"
    placeholder = "<|image_pad|>"
    vision = ("visual",)

    def _side(self, image_size: int) -> int:
        vision = self.config.vision_config
        unit = vision.patch_size * vision.spatial_merge_size
        if image_size % unit:
            raise UnderstudyError(
                f"policy.vlm.image_size must be a multiple of {unit} for this model, got {image_size}"
            )
        return image_size

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        return (self._grid // self.config.vision_config.spatial_merge_size) ** 2

    @property
    def _grid(self) -> int:
        return self.side // self.config.vision_config.patch_size

    def pack(self, pixels: Tensor) -> dict[str, Tensor]:
        """Patches in the order in which they are merged, [B * C * grid², 3 * times * patch²], and the grids."""
        vision, count = self.config.vision_config, pixels.shape[0] * pixels.shape[1]
        merge, patch, times = vision.spatial_merge_size, vision.patch_size, vision.temporal_patch_size
        blocks = self._grid // merge
        cut = pixels.reshape(count, 3, blocks, merge, patch, blocks, merge, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
        twice = cut[:, :, :, :, :, :, None].expand(-1, -1, -1, -1, -1, -1, times, -1, -1)
        return {"pixel_values": twice.reshape(count * self._grid**2, -1), "image_grid_thw": self._grids(count, pixels)}

    def place(self, model: nn.Module, ids: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Time, row and column of each token, by the model's own count."""
        pictures = ids == self.config.image_token_id
        grids = self._grids(int(pictures.sum()) // self.tokens, ids)
        places, _ = model.get_rope_index(
            ids, mm_token_type_ids=pictures.int(), image_grid_thw=grids, attention_mask=real.long()
        )
        return {"position_ids": places}

    def _grids(self, count: int, like: Tensor) -> Tensor:
        return torch.tensor([[1, self._grid, self._grid]] * count, device=like.device)


class Prismatic(Family):
    """CogACT's own: DINOv2 and SigLIP side by side, Llama; the prompt is OpenVLA's."""

    template = "<s>{images}In: {text}\nOut:"
    image = "{tokens}"
    placeholder = "<image>"
    vision = ("dino", "siglip")
    static = True

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        return (self.side // self.config.siglip_config.patch_size) ** 2

    def _side(self, image_size: int) -> int:
        return self.config.siglip_config.image_size

    def statistics(self, image_processor: Any) -> tuple[list[float], list[float]]:
        """ImageNet's for DINOv2, then SigLIP's: six channels, the picture twice."""
        return [0.485, 0.456, 0.406, 0.5, 0.5, 0.5], [0.229, 0.224, 0.225, 0.5, 0.5, 0.5]


FAMILIES: Mapping[str, type[Family]] = {
    "smolvlm": SmolVLM,
    "paligemma": PaliGemma,
    "qwen2_5_vl": QwenVL,
    "qwen3_vl": QwenVL,
    PrismaticConfig.model_type: Prismatic,
}
"""``model_type`` in a model's ``config.json`` → its family."""


def family_of(config: Any, *, image_size: int) -> Family:
    """The family of a model's configuration; raises `UnderstudyError` for one that nobody wrote a reader for."""
    if config.model_type not in FAMILIES:
        raise unknown("family of vision-language models", config.model_type, FAMILIES)
    return FAMILIES[config.model_type](config, image_size=image_size)
