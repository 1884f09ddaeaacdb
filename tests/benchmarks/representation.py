"""One training step of V-Cond, V-Dual and V-Gen at 64 px, patches of 8, batch 32, beside a plain implementation.

Both have the sizes of the ``cpu`` preset and the same captions, and the optimizer counts. The plain one is written
down the way the paper reads: float32, captions padded to 20 words, every patch embedded before the masked ones are
thrown away, PyTorch's attention, and pixels predicted for every patch. Ours pads to the longest caption of the batch,
which changes no number since padding is no key for anybody, embeds what is kept, predicts what is masked, and runs
under bf16 where the processor has it; "ours, fp32" is without the last of these.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla.bench import Row, interleaved, parser, write_bench
from vla.representation.encoder import EncoderConfig, RMSNorm, SwishGLU, normalized, patch_positions, patchify
from vla.representation.language import Captions, LanguageConfig, make_language
from vla.representation.voltron import (
    CaptioningAutoencoder,
    GenerationConfig,
    MaskedAutoencoder,
    MaskedConfig,
    decoder_sizes,
    prefix_mask,
)
from vla.training.precision import bf16_is_fast

BATCH, WORDS = 32, 20
KINDS = ("vcond", "vdual", "vgen")
CAPTIONS = ("lift the red cube", "open the drawer", "stack the red cube on the green cube", "press the button")
ENCODER = EncoderConfig(image_size=64, patch_size=8, width=192, depth=6, heads=3)
MEASURED = {"vcond": 63.0, "vdual": 41.0, "vgen": 35.0}
"""Samples/s of an earlier plain implementation on one core of another machine."""


class PlainBlock(nn.Module):
    """Pre-norm attention and MLP, each scaled."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = SwishGLU(width, 4 * width)
        self.scale1, self.scale2 = (nn.Parameter(torch.full((width,), 0.1)) for _ in range(2))

    def forward(self, x: Tensor, hidden: Tensor | None, padding: Tensor | None) -> Tensor:
        """[B, N, D] → [B, N, D]; ``hidden`` [N, N] and ``padding`` [B, N] are true where nothing may be seen."""
        y = self.norm1(x)
        attended, _ = self.attention(y, y, y, attn_mask=hidden, key_padding_mask=padding, need_weights=False)
        x = x + self.scale1 * attended
        return x + self.scale2 * self.mlp(self.norm2(x))


class PlainVoltron(nn.Module):
    """V-Cond (``frames=1``), V-Dual (2), and V-Gen (``writes``)."""

    def __init__(self, captions: Captions, *, frames: int, writes: bool) -> None:
        super().__init__()
        small = decoder_sizes(ENCODER)
        self.captions, self.frames, self.writes, self.small = captions, frames, writes, small
        self.embed = nn.Conv2d(3, ENCODER.width, ENCODER.patch_size, stride=ENCODER.patch_size)
        self.image, self.word = (nn.Parameter(0.02 * torch.randn(ENCODER.width)) for _ in range(2))
        self.context = nn.Parameter(torch.randn(1, 2, 1, ENCODER.width))
        self.context_out = nn.Parameter(torch.randn(1, 2, 1, small.width))
        self.language = nn.Linear(captions.width, ENCODER.width)
        self.encoder = nn.ModuleList(PlainBlock(ENCODER.width, ENCODER.heads) for _ in range(ENCODER.depth))
        self.decoder = nn.ModuleList(PlainBlock(small.width, small.heads) for _ in range(small.depth))
        self.norm, self.norm_out = RMSNorm(ENCODER.width), RMSNorm(small.width)
        self.shrink, self.mask = nn.Linear(ENCODER.width, small.width), nn.Parameter(torch.zeros(small.width))
        self.pixels = nn.Linear(small.width, 3 * ENCODER.patch_size**2)
        self.say_in, self.say = nn.Linear(captions.width, small.width), nn.Linear(small.width, captions.vocabulary)
        self.register_buffer("place", patch_positions(ENCODER, ENCODER.width), persistent=False)
        self.register_buffer("place_out", patch_positions(small, small.width), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The training loss of ``images`` [B, F, H, W, 3] and ``text`` [B, 20]."""
        images, text = batch["images"], batch["text"]
        size, frames, patches = len(images), self.frames, ENCODER.tokens
        target = normalized(patchify(images, ENCODER.patch_size))
        pixels = target.view(size * frames, 8, 8, 8, 8, 3).permute(0, 5, 1, 3, 2, 4).reshape(size * frames, 3, 64, 64)
        x = self.embed(pixels).flatten(2).transpose(1, 2).view(size, frames, patches, -1)
        x = x + self.place + self.image + (self.context if frames > 1 else 0)
        order = torch.rand(size, patches).argsort(1)
        kept, restore = order[:, : patches // 4], order.argsort(1)
        x = x.gather(2, kept[:, None, :, None].expand(-1, frames, -1, x.shape[-1])).flatten(1, 2)
        writes = torch.rand(size) < 0.5 if self.writes else torch.zeros(size, dtype=torch.bool)
        read = self.captions.blank(text, writes)
        seen = x.shape[1]
        padding = functional.pad(read == self.captions.pad, (seen, 0), value=False)
        x = torch.cat([x, self.language(self.captions.contextual(read)) + self.word], 1)
        for block in self.encoder:
            x = block(x, None, padding)
        y = self.shrink(self.norm(x)[:, :seen]).view(size, frames, patches // 4, -1)
        y = torch.cat([y, self.mask.expand(size, frames, patches - patches // 4, -1)], 2)
        y = y.gather(2, restore[:, None, :, None].expand(-1, frames, -1, y.shape[-1]))
        y = (y + self.place_out + (self.context_out if frames > 1 else 0)).flatten(1, 2)
        hidden = None
        if self.writes:
            y = torch.cat([y, self.say_in(self.captions.lexical(text))], 1)
            hidden = ~prefix_mask(frames * patches, y.shape[1])[0, 0]
        for block in self.decoder:
            y = block(y, hidden, None)
        y = self.norm_out(y)
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        error = (
            self.pixels(y[:, : frames * patches]).view_as(target) - (target - mean) / (variance + 1e-6).sqrt()
        ) ** 2
        masked = torch.ones(size, patches).scatter(1, kept, 0.0)[:, None]
        loss = (error.mean(-1) * masked).sum() / (masked.sum() * frames)
        return loss + 0.5 * self._caption_loss(y[:, frames * patches :], text, writes) if self.writes else loss

    def _caption_loss(self, y: Tensor, text: Tensor, writes: Tensor) -> Tensor:
        mask = (text != self.captions.pad)[:, :-1].float()
        told = functional.cross_entropy(self.say(y)[:, :-1].flatten(0, 1), text[:, 1:].flatten(), reduction="none")
        return ((told.view_as(mask) * mask).sum(1) / mask.sum(1) * writes).sum() / writes.sum().clamp(min=1)


def ours(kind: str, captions: Captions) -> nn.Module:
    """The model of `vla pretrain`."""
    if kind == "vgen":
        return CaptioningAutoencoder(GenerationConfig(ENCODER), frames=2, captions=captions)
    return MaskedAutoencoder(MaskedConfig(ENCODER), frames=1 if kind == "vcond" else 2, captions=captions)


def step_of(model: nn.Module, batch: dict[str, Tensor], *, bf16: bool) -> Callable[[], None]:
    """One whole optimizer step."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def steps_for(kind: str, captions: Captions, *, batch: int) -> dict[str, Callable[[], None]]:
    """Plain, ours in float32, and ours as it trains."""
    frames = 1 if kind == "vcond" else 2
    images = torch.randint(0, 256, (batch, frames, 64, 64, 3), dtype=torch.uint8)
    text = captions.tokenize([CAPTIONS[number % len(CAPTIONS)] for number in range(batch)])
    padded = functional.pad(text, (0, WORDS - text.shape[1]), value=captions.pad)
    plain = PlainVoltron(captions, frames=frames, writes=kind == "vgen")
    return {
        "plain": step_of(plain, {"images": images, "text": padded}, bf16=False),
        "ours, fp32": step_of(ours(kind, captions), {"images": images, "text": text}, bf16=False),
        "ours": step_of(ours(kind, captions), {"images": images, "text": text}, bf16=bf16_is_fast(torch.device("cpu"))),
    }


def main(argv: list[str]) -> int:
    """``vla bench representation``: two minutes."""
    arguments = parser("representation", __doc__)
    arguments.add_argument("--batch", type=int, default=BATCH)
    given = arguments.parse_args(argv)
    torch.manual_seed(0)
    captions = make_language(LanguageConfig(), CAPTIONS)
    rows, ratios, noisy = [], {}, False
    cores = torch.get_num_threads()
    for kind in KINDS:
        steps = steps_for(kind, captions, batch=given.batch)
        times = interleaved(steps, rounds=60 if given.long else 20)
        noisy = noisy or times.noisy
        for name, seconds in times.medians.items():
            rows.append(Row(f"{kind}, {name}", given.batch / seconds / cores, "samples/s/core"))
        rows.append(Row(f"{kind}, goal", MEASURED[kind], "samples/s/core"))
        ratios[f"{kind}_vs_plain"] = times.ratio("ours", "plain")
        ratios[f"{kind}_vs_plain_fp32"] = times.ratio("ours, fp32", "plain")
    write_bench("representation", rows, ratios, given.json, noisy=noisy)
    return 0
