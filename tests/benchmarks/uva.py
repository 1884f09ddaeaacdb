"""UVA at the ``cpu`` preset on latents of 8 x 8 places: 256 tokens, one thread, batches of 8; CPU-seconds.

"plain" is the same network as one would write it first: transformers of PyTorch's own layers, everything in float32.
A training step is forward, backward and AdamW; inference starts from latents.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from time import process_time

import torch
from torch import Tensor, nn

from policies.policy import policy_class
from policies.train import TrainConfig
from policies.uva.model import Shapes, UVAModel
from policies.uva.tasks import TASKS
from vla.bench import Row, parser, write_bench
from vla.config import build, load
from vla.representation.language import make_language
from vla.training.precision import bf16_is_fast

BATCH, SIDE, CHANNELS, ACTIONS, PROPRIO = 8, 8, 16, 7, 8
GOALS = {"policy step": 0.49, "full step": 0.74, "policy": 0.056, "policy and video": 0.175}
"""What another plain implementation took [CPU-s], on another machine."""


class PlainBlock(nn.TransformerEncoderLayer):
    """PyTorch's layer, called as ours are."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)

    def forward(self, x: Tensor, visible: Tensor | None = None, *, last: int | None = None) -> Tensor:
        """[B, N, D] → [B, ``last``, D]."""
        return super().forward(x)[:, -(last or x.shape[1]) :]


def network(*, plain: bool) -> UVAModel:
    """The preset's, or the same with PyTorch's own layers."""
    settings = dict(load(TrainConfig, "train", ["policy=uva", "preset=cpu", "data=.", "policy.vae=."]).policy)
    config = build(policy_class(settings.pop("name")).config_class, settings)
    shapes = Shapes(SIDE, CHANNELS, ACTIONS, PROPRIO, ("front",))
    made = UVAModel(config, shapes, make_language(config.language, ["lift the red cube"]))
    if plain:
        for part in (made.encoder, made.decoder):
            for number in range(len(part)):
                part[number] = PlainBlock(config.width, config.heads)
    return made


def batch(model: UVAModel, size: int) -> dict[str, Tensor]:
    """Noise of the right shapes."""
    config, places = model.config, SIDE**2
    rows = {
        f"{when}.image.front": torch.randn(size, config.frames, places, 2 * CHANNELS) for when in ("history", "future")
    }
    return rows | {
        "history.proprio": torch.randn(size, config.frames, PROPRIO),
        "text": model.language.tokenize(["lift the red cube"] * size),
        "actions": torch.rand(size, config.pred_horizon, ACTIONS) * 2 - 1,
        "mask": torch.ones(size, config.pred_horizon, dtype=torch.bool),
    }


def step(model: UVAModel, optimizer: torch.optim.Optimizer, given: dict[str, Tensor], task: str, *, fast: bool) -> None:
    """One training step."""
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        loss = torch.stack([*model.losses(given, TASKS[task]).values()]).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def infer(model: UVAModel, given: dict[str, Tensor], *, video: bool, fast: bool) -> None:
    """Actions, and the pictures' latents too if asked."""
    config = model.config
    noise = torch.randn(config.action.steps + 1, 1, config.pred_horizon, ACTIONS)
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        z = model.seen(given)
        model.actions_of(z, noise)
        if video:
            model.video_of(given, torch.Generator(), "policy_video", z=z)


def calls(*, plain: bool) -> dict[str, Callable[[], None]]:
    """What is timed."""
    torch.manual_seed(0)
    model, fast = network(plain=plain), not plain and bf16_is_fast(torch.device("cpu"))
    optimizer, given = torch.optim.AdamW(model.parameters(), 1e-4, fused=not plain), batch(model, BATCH)
    acting = network(plain=plain).eval()
    seen = batch(acting, 1)
    return {
        "policy step": partial(step, model.train(), optimizer, given, "policy", fast=fast),
        "full step": partial(step, model, optimizer, given, "policy_video", fast=fast),
        "policy": partial(infer, acting, seen, video=False, fast=fast),
        "policy and video": partial(infer, acting, seen, video=True, fast=fast),
    }


def main(argv: list[str]) -> int:
    """``vla bench uva``."""
    arguments = parser("uva", __doc__)
    arguments.add_argument("--rounds", type=int, default=15)
    given = arguments.parse_args(argv)
    torch.set_num_threads(1)
    timed = calls(plain=False) | {f"{name}, plain": call for name, call in calls(plain=True).items()}
    spent: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(given.rounds + 2):
        for name, call in timed.items():
            begun = process_time()
            call()
            if turn >= 2:
                spent[name].append(process_time() - begun)
    rows = [Row.of_times(name, seconds) for name, seconds in spent.items()]
    ratios = {
        f"{name}_vs_plain".replace(" ", "_"): median(spent[f"{name}, plain"]) / median(spent[name]) for name in GOALS
    }
    notes = [f"{name}: at most {1e3 * goal:.0f} ms wanted" for name, goal in GOALS.items()]
    write_bench("uva", rows, ratios, given.json, notes=[f"{_size():.2f} M parameters; CPU time of one thread", *notes])
    return 0


def _size() -> float:
    return sum(parameter.numel() for parameter in network(plain=False).parameters()) / 1e6
