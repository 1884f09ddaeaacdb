"""The Prismatic arrangement that OpenVLA and CogACT are built on (Karamcheti et al. 2024; Kim et al. 2024, §3.1).

    picture ─► DINOv2 (with registers) ─┐
            └► SigLIP ──────────────────┴► 256 patches, features side by side ─► 3-layer MLP ─► Llama

Each tower gives the patches of its last layer but one, without the final norm; both see the same picture, each
normalised in its own way: six channels. The parts are transformers' own classes; only the arrangement is written here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaModel,
    PretrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast


class PrismaticConfig(PretrainedConfig):
    """The configurations of the three parts; the defaults are those of OpenVLA-7B at 224 pixels."""

    model_type = "understudy_prismatic"
    sub_configs = {  # noqa: RUF012 as transformers declares it
        "dino_config": Dinov2WithRegistersConfig,
        "siglip_config": SiglipVisionConfig,
        "text_config": LlamaConfig,
    }

    def __init__(
        self,
        dino_config: dict[str, Any] | PretrainedConfig | None = None,
        siglip_config: dict[str, Any] | PretrainedConfig | None = None,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        image_token_id: int = 32_000,
        **kwargs: Any,
    ) -> None:
        self.dino_config = _of(Dinov2WithRegistersConfig, dino_config, DINO)
        self.siglip_config = _of(SiglipVisionConfig, siglip_config, SIGLIP)
        self.text_config = _of(LlamaConfig, text_config, LLAMA)
        self.image_token_id = image_token_id
        super().__init__(**kwargs)


DINO = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14, "image_size": 224}
SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
}
LLAMA = {"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32}


def _of(kind: type, given: dict[str, Any] | PretrainedConfig | None, default: dict[str, Any]) -> Any:
    return given if isinstance(given, kind) else kind(**(default if given is None else given))


class PrismaticModel(PreTrainedModel):
    """Pictures and words → the language model's last hidden states."""

    config_class = PrismaticConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("LlamaDecoderLayer", "Dinov2WithRegistersLayer", "SiglipEncoderLayer")

    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__(config)
        self.dino = Dinov2WithRegistersModel._from_config(config.dino_config)
        self.siglip = SiglipVisionModel._from_config(config.siglip_config)
        joined, width = (
            config.dino_config.hidden_size + config.siglip_config.hidden_size,
            config.text_config.hidden_size,
        )
        self.projector = nn.Sequential(
            nn.Linear(joined, 4 * joined), nn.GELU(), nn.Linear(4 * joined, width), nn.GELU(), nn.Linear(width, width)
        )
        self.language_model = LlamaModel._from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The words' embedding."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another in its place."""
        self.language_model.set_input_embeddings(value)

    def see(self, pixels: Tensor) -> Tensor:
        """Pictures [B, 6, S, S], normalised for the one and for the other tower → patches [B, N, Llama's width]."""
        dino = self.dino(pixels[:, :3], output_hidden_states=True).hidden_states[-2]
        siglip = self.siglip(pixels[:, 3:], output_hidden_states=True).hidden_states[-2]
        prefix = 1 + self.config.dino_config.num_register_tokens
        return self.projector(torch.cat([dino[:, prefix:], siglip], dim=-1))

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Token ids [B, L] with placeholders, pictures [B * cameras, 6, S, S]; the mask [B, L] is of what is seen."""
        pictures = input_ids == self.config.image_token_id
        embedded = self.get_input_embeddings()(input_ids.masked_fill(pictures, 0))
        seen = self.see(pixel_values).to(embedded.dtype)
        embedded = embedded.masked_scatter(pictures[..., None].expand_as(embedded), seen)
        if attention_mask is not None:  # transformers would look first whether all is seen, and make the host wait
            before = torch.ones(input_ids.shape[1], input_ids.shape[1], dtype=torch.bool, device=input_ids.device)
            attention_mask = before.tril() & attention_mask.bool()[:, None, None]
        return self.language_model(
            inputs_embeds=embedded, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )


class PrismaticForConditionalGeneration(PreTrainedModel):
    """`PrismaticModel` under the name ``model``, as transformers keeps every vision-language model.

    It has no language-model head: what is read is the hidden state.
    """

    config_class = PrismaticConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = PrismaticModel._no_split_modules

    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__(config)
        self.model = PrismaticModel(config)
        self.post_init()

    def forward(self, **inputs: Any) -> BaseModelOutputWithPast:
        """`PrismaticModel.forward`."""
        return self.model(**inputs)


AutoConfig.register(PrismaticConfig.model_type, PrismaticConfig)
AutoModelForImageTextToText.register(PrismaticConfig, PrismaticForConditionalGeneration)
