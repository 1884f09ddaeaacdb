"""Training steps of what is shown its tasks, at the ``cpu`` presets on all cores: pairs a second and tuples a second.

Vid2Robot: 16 + 8 frames of 64 px, batches of 4 pairs. Manipulate by Seeing: three pictures of 64 px and 1000 moves to
choose from, batches of 32. "plain" is the same network as one would write it first: everything in float32, AdamW step
by step, and for every candidate move the state beside it from the first layer on.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from policies.manipulate_by_seeing_model import Dynamics, ScratchEyes, SeeingModel, unit
from policies.policy import policy_class
from policies.train import TrainConfig
from policies.vid2robot_model import Vid2RobotModel
from vla.bench import Row, parser, write_bench
from vla.config import build, load
from vla.representation.language import make_language
from vla.training.precision import bf16_is_fast

GOALS = {"vid2robot": 5.7, "manipulate_by_seeing": 60.0}
"""Samples a second of another plain implementation, on two idle cores of another machine."""
BATCH = {"vid2robot": 4, "manipulate_by_seeing": 32}
ACTIONS, PROPRIO, CAMERA = 7, 8, "front"


class PlainDynamics(Dynamics):
    """State and move side by side."""

    def forward(self, state: Tensor, move: Tensor) -> Tensor:
        """[..., S] and [..., 3] → [..., S]."""
        lead = torch.broadcast_shapes(state.shape[:-1], move.shape[:-1])
        both = torch.cat([state.expand(*lead, -1), move.expand(*lead, -1)], dim=-1)
        first = torch.cat([self.of_state.weight, self.of_move.weight], dim=1)
        return unit(self.rest(nn.functional.linear(both, first, self.of_state.bias)))


def config_of(name: str) -> object:
    """The preset's."""
    settings = dict(load(TrainConfig, "train", [f"policy={name}", "preset=cpu", "data=."]).policy)
    return build(policy_class(settings.pop("name")).config_class, settings)


def network(name: str, *, plain: bool) -> nn.Module:
    """What is trained."""
    config = config_of(name)
    if name == "vid2robot":
        sizes = {"action_dim": ACTIONS, "proprio_dim": PROPRIO, "cameras": (CAMERA,)}
        return Vid2RobotModel(config, **sizes, words=make_language(config.language, ["lift the red cube"]))

    def eyes() -> tuple[nn.Module, int]:
        made = ScratchEyes(config.encoder)
        return made, made.tokens

    moves = unit(torch.randn(config.candidates, 3))
    made = SeeingModel(config, camera=CAMERA, candidates=moves, gripper=True, make_eyes=eyes)
    if plain:
        made.dynamics = PlainDynamics(config.state, config.hidden, 3)
    return made


def batch(name: str, model: nn.Module) -> dict[str, Tensor]:
    """Noise of the right shapes."""
    config, count = model.config, BATCH[name]

    def pictures(*lead: int) -> Tensor:
        return torch.randint(0, 256, (count, *lead, config.image_size, config.image_size, 3), dtype=torch.uint8)

    if name == "manipulate_by_seeing":
        seen = {f"{when}image.{CAMERA}": pictures(*lead) for when, lead in (("", ()), ("next.", (1,)), ("goal.", (1,)))}
        moves = {"move": unit(torch.randn(count, 3)), "moved": torch.ones(count, dtype=torch.bool)}
        moves["next.mask"] = torch.ones(count, 1, dtype=torch.bool)
        return {**seen, **moves, "closed": torch.zeros(count)}
    return {
        "prompt": pictures(config.prompt_frames),
        f"history.image.{CAMERA}": pictures(config.state_frames),
        "history.proprio": torch.randn(count, config.state_frames, PROPRIO),
        "history.mask": torch.ones(count, config.state_frames, dtype=torch.bool),
        "actions": torch.rand(count, config.pred_horizon, ACTIONS) * 2 - 1,
        "mask": torch.ones(count, config.pred_horizon, dtype=torch.bool),
        "text": model.words.tokenize(["lift the red cube"] * count),
        "task": torch.arange(count) % 2,
    }


def step(model: nn.Module, optimizer: torch.optim.Optimizer, given: dict[str, Tensor], *, fast: bool) -> None:
    """One training step."""
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        loss = model(given)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def call_of(name: str, *, plain: bool) -> Callable[[], None]:
    """What is timed."""
    torch.manual_seed(0)
    model, fast = network(name, plain=plain).train(), not plain and bf16_is_fast(torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=not plain, foreach=False)
    return partial(step, model, optimizer, batch(name, model), fast=fast)


def main(argv: list[str]) -> int:
    """``vla bench shown``."""
    arguments = parser("shown", __doc__)
    arguments.add_argument("--rounds", type=int, default=15)
    given = arguments.parse_args(argv)
    timed = {(name, plain): call_of(name, plain=plain) for name in GOALS for plain in (False, True)}
    spent: dict[tuple[str, bool], list[float]] = {key: [] for key in timed}
    for turn in range(given.rounds + 2):
        for key, call in timed.items():
            begun = perf_counter()
            call()
            if turn >= 2:
                spent[key].append(perf_counter() - begun)
    rate = {key: BATCH[key[0]] / median(seconds) for key, seconds in spent.items()}
    rows = [Row(name + (", plain" if plain else ""), value, "samples/s") for (name, plain), value in rate.items()]
    ratios = {f"{name}_vs_plain": rate[name, False] / rate[name, True] for name in GOALS}
    sizes = {name: sum(one.numel() for one in network(name, plain=False).parameters()) / 1e6 for name in GOALS}
    notes = [
        f"{name}: {sizes[name]:.1f} M parameters, at least {goal:g} samples/s wanted" for name, goal in GOALS.items()
    ]
    write_bench("shown", rows, ratios, given.json, notes=notes)
    return 0
