"""Whether bfloat16 pays on this machine."""

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def bf16_is_fast(device: torch.device) -> bool:
    """Whether ``device`` multiplies bf16 in hardware: a recent GPU, or a CPU with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def bf16_if_fast(device: torch.device) -> torch.autocast:
    """A context in which ``device`` computes in bf16 where that is fast, and in float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device))
