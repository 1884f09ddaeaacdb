"""Large models on a GPU: from two pictures to a chunk, beside the least time that the device could take, and training.

Real classes at real sizes with random weights, made on the device: nothing is downloaded, and only time is measured.

    paligemma-3b    SigLIP-So400m/14 at 224 px and Gemma-2B; 256 tokens a picture
    prismatic-7b    DINOv2-L and SigLIP-So400m side by side, Llama-2-7B: CogACT's own arrangement

Each with DiT-B, chunks of 16, DDIM with 10 steps and guidance 1.5, one observation of two cameras. An answer is timed
three ways: eager; as a policy answers on a GPU by itself (CUDA graphs); and after `CogACT.hasten` (compiled as well).
The floor of a stage is its FLOPs at the device's measured bf16 rate, or its weights, in the precision they are kept
in, at the measured rate of memory, whichever takes longer; the weights of the head are read in every step.

Then training steps of paligemma-3b with everything learned: bf16 autocast, fp32 weights, AdamW. FLOPs of a step are
three times those of the products in the forward pass (for each weight and token 2 forward, 4 backward; attention
likewise), so what gradient checkpointing computes twice counts once.
"""

import gc
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from benchmarks.latency import INSTRUCTION, Rates, observation, stages
from benchmarks.train import HORIZON, parameters, recording, wait
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch.utils.flop_counter import FlopCounterMode
from transformers import PaliGemmaConfig, PreTrainedTokenizerFast, SiglipImageProcessor

from policies.cogact import CogACT
from policies.cogact_model import CogACTConfig
from policies.hastened import Hastened
from policies.heads.diffusion import DiffusionConfig
from policies.heads.dit import SIZES, DiTSize
from vla.backbones.hub_config import HubVLMConfig
from vla.backbones.prismatic import DINO, LLAMA, SIGLIP, PrismaticConfig
from vla.bench import Row, parser, write_bench
from vla.errors import UnderstudyError
from vla.training.precision import bf16_if_fast
from vla.training.trainer import TrainerConfig, make_optimizer
from vla.types import Task

GEMMA = {
    "vocab_size": 257_216,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIDE = {"full": 224, "tiny": 56}
AXES = "xyzabcg"
SPECIAL = ("<bos>", "<eos>", "<s>", "</s>", "<image>", "<pad>")
NAMES = ("paligemma-3b", "prismatic-7b")
TRAINED = NAMES[0]
BATCHES = {"full": (64, 32, 16, 8, 4, 2, 1), "tiny": (2, 1)}
"""Samples of a training step: the first number that fits."""


def sizes(name: str, size: str, ids: dict[str, int]) -> PaliGemmaConfig | PrismaticConfig:
    """The configuration of the arrangement ``name``; ``ids``: of the special tokens."""
    small = {**TINY, "image_size": SIDE["tiny"], "patch_size": 14}
    vision, kept = SIGLIP if size == "full" else small, {**ids, "dtype": "bfloat16"}
    if name == "paligemma-3b":
        text = GEMMA if size == "full" else {**TINY, "vocab_size": 64, "num_key_value_heads": 1, "head_dim": 16}
        width = text["hidden_size"]
        seeing = {"model_type": "siglip_vision_model", **vision, "vision_use_head": False, "projection_dim": width}
        return PaliGemmaConfig(
            vision_config=seeing, text_config={"model_type": "gemma", **text}, projection_dim=width, **kept
        )
    dino = {key: value for key, value in small.items() if key != "intermediate_size"}
    return PrismaticConfig(
        dino_config=DINO if size == "full" else dino,
        siglip_config=vision,
        text_config=LLAMA if size == "full" else {**TINY, "vocab_size": 64},
        **kept,
    )


def folder_of(name: str, size: str, folder: Path) -> Path:
    """A model's folder as the hub has them, without weights; its tokenizer makes one token of every word."""
    words = Tokenizer(models.WordLevel({"[unk]": 0}, unk_token="[unk]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[unk]", pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    ids = {
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    for part in (sizes(name, size, ids), tokenizer, SiglipImageProcessor()):
        part.save_pretrained(folder)
    return folder


def made(name: str, size: str, device: torch.device, *, learns: bool = False) -> CogACT:
    """The policy, its weights made at random on ``device``."""
    head = SIZES["B"] if size == "full" else DiTSize(1, 32, 2)
    with tempfile.TemporaryDirectory() as folder:
        vlm = HubVLMConfig(
            str(folder_of(name, size, Path(folder))),
            random_init=True,
            image_size=SIDE[size],
            freeze="none" if learns else "vlm",
            precision="bf16" if device.type == "cuda" else "auto",
            proprio=False,
        )
        diffusion = DiffusionConfig(depth=head.depth, width=head.width, heads=head.heads)
        config = CogACTConfig(vlm=vlm, diffusion=diffusion, pred_horizon=HORIZON)
        with torch.device(device):
            policy = CogACT.create(config, *recording(AXES, side=SIDE[size]))
    torch.nn.init.normal_(policy.model.head.denoiser.action_out.weight, std=0.02)
    policy.model.to(device).eval()
    policy.reset(Task(INSTRUCTION))
    return policy


def counted(call: Callable[[], Any]) -> int:
    """FLOPs of the products in ``call``."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


def floors(policy: CogACT, rates: Rates) -> dict[str, float]:
    """Stage → the least seconds it could take; the table of words, of which a few rows are read, is left out."""
    model, device = policy.model, next(policy.model.parameters()).device
    seen = observation(policy, np.random.default_rng(0))
    batch = {**policy.inputs({n: i[None] for n, i in seen.images.items()}, seen.proprio[None])}
    batch["text"] = model.backbone.tokenize([INSTRUCTION])
    batch = {key: value.to(device) for key, value in batch.items()}
    noise = torch.randn(1, *model.head.noise_shape, device=device)
    with torch.no_grad():
        context = model.context(batch)
    table = set(map(id, model.backbone.vlm.get_input_embeddings().parameters()))
    read = sum(p.numel() * p.element_size() for p in model.backbone.parameters() if id(p) not in table)
    each = 2 if device.type == "cuda" else 4
    steps = model.head.config.ddim_steps
    return {
        "tokens": rates.least(counted(lambda: model.context(batch)), read),
        "head": rates.least(
            counted(lambda: model.head.sample(context, noise)), steps * each * parameters(model.head.denoiser)
        ),
    }


def answers(policy: CogACT, rounds: int) -> list[float]:
    """Seconds from each observation to its chunk in physical units, as a robot would wait for it."""
    random, found = np.random.default_rng(0), []
    for _ in range(rounds + 3):
        seen = observation(policy, random)
        wait()
        begun = perf_counter()
        policy.infer(seen)
        found.append(perf_counter() - begun)
    return found[3:]


def inference(
    name: str, size: str, device: torch.device, rates: Rates, rounds: int
) -> tuple[list[Row], dict[str, float], list[str]]:
    """Rows, ratios and notes of one arrangement."""
    policy = made(name, size, device)
    least = floors(policy, rates)
    count = sum(parameter.numel() for parameter in policy.model.parameters())
    rows = [Row(f"{name}, parameters", count / 1e6, "M")]
    rows += [Row(f"{name}: {stage}, floor", 1e3 * seconds, "ms") for stage, seconds in least.items()]
    rows.append(Row(f"{name}: floor", 1e3 * sum(least.values()), "ms"))
    ways = {"eager": lambda: policy.model.sample, "graphs": lambda: Hastened(policy.model)}
    for way, make in ways.items():
        policy.hastened = make()
        rows.append(Row.of_times(f"{name}, {way}: all", answers(policy, rounds)))
    policy.hasten()
    whole = Row.of_times(f"{name}, hastened: all", answers(policy, rounds))
    rows += [
        whole,
        *(row for row in stages(policy, policy.hastened, f"{name}, hastened", rounds) if "all" not in row.name),
    ]
    notes = [f"{name}: no CUDA graph or no compiled loop: {why}" for why in policy.hastened.refused]
    tokens = policy.model.backbone.tokenize([INSTRUCTION]).shape[1]
    notes.append(f"{name}: {tokens} tokens; {1e-9 * count:.2f} billion parameters")
    return rows, {f"p50_vs_floor {name}": 1e3 * sum(least.values()) / whole.p50}, notes


def training(size: str, device: torch.device, rates: Rates, rounds: int) -> tuple[list[Row], dict[str, float]]:
    """A step with everything learned, without and with gradient checkpointing, at the largest batch that fits."""
    policy = made(TRAINED, size, device, learns=True)
    model = policy.model.train()
    optimizer = make_optimizer(model, TrainerConfig())
    one = batch_of(policy, 1, size, device)
    with bf16_if_fast(device):
        flops = 3 * counted(lambda: model(one))
    rows, best = [], 0.0
    for again in (False, True):
        if again:
            model.backbone.vlm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        fitting = (n for n in BATCHES[size] if fits(policy, optimizer, batch_of(policy, n, size, device)))
        if (count := next(fitting, None)) is None:
            raise UnderstudyError(f"not one sample of a training step fits beside {TRAINED}; give --only NAME")
        batch, found = batch_of(policy, count, size, device), []
        for _ in range(rounds):
            begun = perf_counter()
            step(model, optimizer, batch)
            found.append(perf_counter() - begun)
        row = Row.of_times(f"training{', checkpointed' if again else ''}: step of {count} samples", found)
        share = count * flops / (1e-3 * row.p50 * rates.flops)
        rows += [row, Row(f"{row.name}, share of the bf16 rate", share, "")]
        best = max(best, share)
    return rows, {f"train_vs_products {TRAINED}": best}


def batch_of(policy: CogACT, count: int, size: str, device: torch.device) -> dict[str, torch.Tensor]:
    """``count`` samples of noise on ``device``."""
    _, windows = recording(AXES, side=SIDE[size])
    given = policy.training_batch(windows.gather(np.arange(count) % len(windows.samples)))
    return {key: value.to(device) for key, value in given.items()}


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> None:
    """What the trainer does in one step, but for the average of the weights."""
    with bf16_if_fast(batch["text"].device):
        loss = model(batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    wait()


def fits(policy: CogACT, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> bool:
    """Whether there is memory for steps of this batch; two of them, the first makes the optimizer's moments."""
    try:
        for _ in range(2):
            step(policy.model, optimizer, batch)
    except torch.cuda.OutOfMemoryError:
        optimizer.zero_grad(set_to_none=True)
        return False
    finally:
        _forget()
    return True


def _forget() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    given = parser("gpu", __doc__)
    given.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny: to try the script")
    given.add_argument("--only", choices=(*NAMES, "training"), help="one part")
    options = given.parse_args(argv)
    hint = "to try the script without one: vla bench gpu --device cpu --size tiny"
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UnderstudyError(f"there is no CUDA GPU here, and this benchmark is for one; {hint}")
    if options.device == "cpu" and options.size == "full":
        raise UnderstudyError(f"billions of parameters are for a GPU; {hint}")
    torch.manual_seed(0)
    device = torch.device(options.device)
    rates, rounds = Rates.of(device), 300 if options.long else 100 if options.size == "full" else 10
    rows = [Row("products", 1e-12 * rates.flops, "TFLOP/s"), Row("memory", 1e-9 * rates.read, "GB/s")]
    ratios, notes = {}, []
    for name in NAMES:
        if options.only in (None, name):
            more, compared, said = inference(name, options.size, device, rates, rounds)
            rows, ratios, notes = rows + more, ratios | compared, notes + said
            _forget()
    if options.only in (None, "training"):
        more, compared = training(options.size, device, rates, max(5, rounds // 10))
        rows, ratios = rows + more, ratios | compared
    named = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    seen = f"two cameras of {SIDE[options.size]} px, {HORIZON} actions of {len(AXES)}"
    notes += [
        f"{named}, {datetime.now(UTC):%Y-%m-%d}; {options.size} size, random weights, {seen}",
        "p50_vs_floor: floor over median time of a hastened answer; 0.4 is 2.5 times the floor",
        "published: CogACT 181 ms an answer on an A6000",
    ]
    write_bench("gpu", rows, ratios, options.json, notes=notes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
