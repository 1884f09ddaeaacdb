"""From a picture to a chunk: where the milliseconds go, beside a plain implementation and LeRobot's diffusion policy.

The head alone: 2.8 M parameters, DDIM with 10 steps and guidance, one observation. "plain" is what one would write
first: attention from PyTorch, two passes for guidance, the scheduler's own step. LeRobot's is its own U-Net at equal
parameters and steps, without guidance, since it has none. Then the whole policy at the ``cpu`` preset, stage by stage,
as it comes and hastened (`policies.cogact.CogACT.hasten`), and the least time that this device could take for the
head: its FLOPs at the measured rate of large products, or its weights at the measured rate of memory, whichever is
more.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.latency import Rates, stages
from benchmarks.train import HORIZON, cogact, parameters, preset, wait
from torch import Tensor, nn

from policies.hastened import Hastened
from policies.heads.diffusion import DiffusionConfig, DiffusionHead, ddim_scheduler
from policies.heads.dit import DiT, DiTSize
from policies.heads.fast import quick
from vla.backbones.backbone import TokenGroup
from vla.backbones.transformer import sinusoid
from vla.bench import Row, interleaved, parser, write_bench

ACTION, TOKEN, STEPS, GUIDANCE = 7, 256, 10, 1.5
SIZE = DiTSize(6, 192, 4)
CACHE = 32e6
"""Bytes of weights that stay close to a processor from one step to the next."""
UNET = (40, 88, 176)
"""Channels of LeRobot's U-Net that make 2.8 M parameters."""


class Block(nn.Module):
    """The plain transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(SIZE.width, elementwise_affine=False)
        self.attention = nn.MultiheadAttention(SIZE.width, SIZE.heads, batch_first=True)
        hidden = 4 * SIZE.width
        self.mlp = nn.Sequential(nn.Linear(SIZE.width, hidden), nn.GELU("tanh"), nn.Linear(hidden, SIZE.width))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm(x)
        x = x + self.attention(seen, seen, seen, need_weights=False)[0]
        return x + self.mlp(self.norm(x))


class Plain(nn.Module):
    """The diffusion transformer and its sampler as one would write them first."""

    def __init__(self) -> None:
        super().__init__()
        width = SIZE.width
        self.action_in, self.cognition_in = nn.Linear(ACTION, width), nn.Linear(TOKEN, width)
        self.time_in = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.position = nn.Parameter(torch.randn(HORIZON + 1, width))
        self.null = nn.Parameter(torch.zeros(1, 1, TOKEN))
        self.blocks = nn.ModuleList(Block() for _ in range(SIZE.depth))
        self.norm, self.action_out = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, ACTION)
        self.scheduler = ddim_scheduler(STEPS)

    def forward(self, noisy: Tensor, time: Tensor, cognition: Tensor) -> Tensor:
        condition = self.time_in(sinusoid(time, 256))[:, None] + self.cognition_in(cognition)
        x = torch.cat([condition, self.action_in(noisy)], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.action_out(self.norm(x)[:, 1:])

    @torch.no_grad()
    def sample(self, cognition: Tensor, noise: Tensor) -> Tensor:
        actions = noise
        for time in self.scheduler.timesteps:
            told = time.expand(len(noise)).to(noise.device)
            conditional = self(actions, told, cognition)
            unconditional = self(actions, told, self.null.expand_as(cognition))
            guided = unconditional + GUIDANCE * (conditional - unconditional)
            actions = self.scheduler.step(guided, time, actions, eta=0.0).prev_sample
        return actions


def our_head(device: torch.device) -> DiffusionHead:
    """CogACT's head of the same sizes."""
    denoiser = DiT(SIZE, action_dim=ACTION, chunk=HORIZON, token_dim=TOKEN)
    config = DiffusionConfig(guidance=GUIDANCE, ddim_steps=STEPS)
    head = DiffusionHead(config, denoiser, action_dim=ACTION, chunk=HORIZON).to(device).eval()
    nn.init.normal_(head.denoiser.action_out.weight, std=0.02)
    return head


def lerobot_sampler(device: torch.device) -> tuple[nn.Module, Callable[[], Tensor]]:
    """LeRobot's U-Net under its own DDIM loop, given its condition."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionConfig as Config
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel

    config = Config(
        horizon=HORIZON,
        down_dims=UNET,
        n_obs_steps=1,
        noise_scheduler_type="DDIM",
        num_inference_steps=STEPS,
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (TOKEN,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        device=device.type,
    )
    model = DiffusionModel(config).to(device).eval()
    condition = torch.randn(1, TOKEN, device=device)

    @torch.no_grad()
    def sample() -> Tensor:
        return model.conditional_sample(1, global_cond=condition)

    return model.unet, sample


def floor(head: DiffusionHead, device: torch.device) -> Row:
    """The least time that the head's sampling can take here."""
    rates, weights = Rates.of(device), parameters(head.denoiser)
    tokens, moved = 2 * (HORIZON + 1), 4 * weights
    seconds = rates.least(STEPS * 2 * weights * tokens, STEPS * moved if moved > CACHE else 0)
    return Row(f"head, floor ({rates})", 1e3 * seconds, "ms")


def whole(rounds: int) -> list[Row]:
    """The stages of the policy of the ``cpu`` preset, as it comes and hastened."""
    config, _ = preset()
    policy = cogact(config)
    policy.model.eval()
    rows = stages(policy, Hastened(policy.model), "policy, cpu preset", rounds)
    policy.hasten()
    return rows + stages(policy, policy.hastened, "policy, cpu preset, hastened", rounds)


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    options = parser("infer", __doc__).parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    head, plain = our_head(device), Plain().to(device).eval()
    unet, peer = lerobot_sampler(device)
    counts = {"ours": parameters(head), "plain": parameters(plain), "lerobot": parameters(unet)}
    assert max(counts.values()) < 1.1 * min(counts.values()), f"no equal numbers of parameters: {counts}"
    noise = torch.randn(1, HORIZON, ACTION, device=device)
    context = TokenGroup(torch.randn(1, 1, TOKEN, device=device), torch.ones(1, 1, dtype=torch.bool, device=device))
    fast = quick(head, context)
    apart = (fast(context, noise) - head.sample(context, noise)).abs().max()
    calls: dict[str, Callable[[], Any]] = {
        "head, plain": lambda: plain.sample(context.tokens, noise),
        "head, as it comes": lambda: head.sample(context, noise),
        "head, quick": lambda: fast(context, noise),
        "head, lerobot diffusion": peer,
    }
    times = interleaved(
        {name: _waiting(call) for name, call in calls.items()}, rounds=100 if options.long else 30, warmup=3
    )
    rows = [Row.of_times(name, samples) for name, samples in times.samples.items()]
    rows += [floor(head, device), *whole(60 if options.long else 20)]
    rows += [Row(f"{name}, parameters", count / 1e6, "M") for name, count in counts.items()]
    ratios = {
        "sample_vs_eager": times.ratio("head, quick", "head, plain"),
        "sample_vs_lerobot_diffusion": times.ratio("head, quick", "head, lerobot diffusion"),
        "uncompiled_vs_eager": times.ratio("head, as it comes", "head, plain"),
    }
    notes = [
        f"one observation, {HORIZON} actions of {ACTION}, DDIM {STEPS}, guidance {GUIDANCE}; LeRobot without guidance",
        f"quick and as it comes differ by at most {apart:.1e} (normalised actions); {torch.get_num_threads()} threads",
    ]
    write_bench("infer", rows, ratios, options.json, noisy=times.noisy, notes=notes)
    return 0


def _waiting(call: Callable[[], Any]) -> Callable[[], None]:
    def waiting() -> None:
        call()
        wait()

    return waiting


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
