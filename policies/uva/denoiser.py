"""One token at a time: a small MLP that denoises it, told what the transformer knows (Li et al. 2024, MAR, §3.3).

The process is that of improved DDPM (Nichol & Dhariwal 2021): 1000 times, a cosine schedule, noise and variance are
predicted; sampling goes through fewer of the times, and a temperature scales the noise that is added on the way.
"""

import math
from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional

from vla.backbones.transformer import init_linear, sinusoid

TRAIN_TIMES = 1000
TIME_FEATURES = 256


@dataclass
class DenoiserConfig:
    """Sizes and habits of one head."""

    width: int = 1024
    depth: int = 6
    steps: int = 100
    """times that sampling goes through"""
    draws: int = 1
    """independent draws of noise and time for each token and pass of the transformer; MAR has 4 (§4.2)"""
    temperature: float = 0.95


class AdaptiveBlock(nn.Module):
    """``x + gate * mlp(scale * norm(x) + shift)``, all three from the condition; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Both [M, W]; ``condition`` has been through its SiLU."""
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        return x + gate * self.mlp(torch.addcmul(shift, self.norm(x), 1 + scale))


class TokenMLP(nn.Module):
    """Noisy tokens [M, C], times [M], conditions [M, D] → noise and variance [M, 2 C]."""

    def __init__(self, config: DenoiserConfig, *, dim: int, condition: int) -> None:
        super().__init__()
        width = config.width
        self.token_in = nn.Linear(dim, width)
        self.time_in = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition_in = nn.Linear(condition, width)
        self.blocks = nn.ModuleList(AdaptiveBlock(width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, 2 * dim)
        self.apply(init_linear)
        for layer in (self.time_in[0], self.time_in[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (*(block.modulation for block in self.blocks), self.modulation, self.out):
            nn.init.zeros_(layer.weight)

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """See the class."""
        told = self.time_in(sinusoid(time, TIME_FEATURES).to(self.token_in.weight.dtype))
        told = functional.silu(told + self.condition_in(condition))
        x = self.token_in(noisy)
        for block in self.blocks:
            x = block(x, told)
        shift, scale = self.modulation(told).chunk(2, dim=-1)
        return self.out(torch.addcmul(shift, self.norm(x), 1 + scale))


class TokenDiffusion(nn.Module):
    """The process around a `TokenMLP`. ``bound``: what is denoised is clipped to so much on the way.

    The paper clips actions alone, to the 1 that they are normalised to. With few steps the first of them divides by the
    square root of 2e-9: without a bound, the smallest error of the network there stays in the picture.
    """

    alphas: Tensor

    def __init__(self, config: DenoiserConfig, *, dim: int, condition: int, bound: float) -> None:
        super().__init__()
        self.config, self.dim, self.bound = config, dim, bound
        self.network = TokenMLP(config, dim=dim, condition=condition)
        with torch.device("cpu"):
            schedule = DDPMScheduler(num_train_timesteps=TRAIN_TIMES, beta_schedule="squaredcos_cap_v2")
            self.register_buffer("alphas", schedule.alphas_cumprod.double(), persistent=False)
            times = torch.linspace(0, TRAIN_TIMES - 1, config.steps).round().long().flip(0).tolist()
        kept = self.alphas.tolist()
        self._least = (1 - kept[1] / kept[0]) * (1 - kept[0]) / (1 - kept[1])
        self._steps = [(time, kept[time], before) for time, before in zip(times, [*(kept[t] for t in times[1:]), 1.0])]

    def loss(self, clean: Tensor, condition: Tensor) -> Tensor:
        """Error of the noise, and the variational bound that teaches the variance; [M] for [M, C] and [M, D]."""
        draws = self.config.draws
        clean, condition = clean.repeat(draws, 1), condition.repeat(draws, 1)
        time = torch.randint(TRAIN_TIMES, (len(clean), 1), device=clean.device)
        alpha, noise = self.alphas[time].float(), torch.randn_like(clean)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        said, variance = self.network(noisy, time[:, 0], condition).float().chunk(2, dim=-1)
        error = (said - noise).square().mean(-1) + self._bits(clean, noisy, said.detach(), variance, time)
        return error.unflatten(0, (draws, -1)).mean(0)

    def _bits(self, clean: Tensor, noisy: Tensor, said: Tensor, variance: Tensor, time: Tensor) -> Tensor:
        """The variational bound of one step in bits [M] (Nichol & Dhariwal 2021, eq. 4 to 7 and 15).

        The Kullback-Leibler divergence of the true step from the predicted one; for the last step, of which there is
        no such thing, the negative log-likelihood of the token.
        """
        alphas, last = self.alphas.float(), time == 0
        alpha, before = alphas[time], torch.where(last, 1.0, alphas[(time - 1).clamp(min=0)])
        beta = 1 - alpha / before
        low = torch.where(last, self._least, (beta * (1 - before) / (1 - alpha)).clamp(min=self._least)).log()
        log_variance = low + (variance + 1) / 2 * (beta.log() - low)
        # The means of both steps differ by what they take for clean, and that by what they take for noise.
        weight = before.sqrt() * beta / (1 - alpha)
        distance = (weight * (clean - (noisy - (1 - alpha).sqrt() * said) / alpha.sqrt())).square()
        divergence = low.sub(log_variance).exp() + distance * (-log_variance).exp() - 1 + log_variance - low
        likelihood = math.log(2 * math.pi) + log_variance + distance * (-log_variance).exp()
        return 0.5 * torch.where(last, likelihood, divergence).mean(-1) / math.log(2)

    @torch.no_grad()
    def sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Tokens [M, C] for conditions [M, D] from ``noise`` [steps + 1, M, C], a standard normal."""
        x = noise[0]
        for number, (time, alpha, before) in enumerate(self._steps):
            times = torch.full((len(x),), time, device=x.device)
            said, variance = self.network(x, times, condition).float().chunk(2, dim=-1)
            clean = ((x - math.sqrt(1 - alpha) * said) / math.sqrt(alpha)).clamp(-self.bound, self.bound)
            beta = 1 - alpha / before
            x = (math.sqrt(before) * beta * clean + math.sqrt(alpha / before) * (1 - before) * x) / (1 - alpha)
            if before < 1:
                low, high = math.log(beta * (1 - before) / (1 - alpha)), math.log(beta)
                log_variance = low + (variance + 1) / 2 * (high - low)
                x = x + self.config.temperature * (0.5 * log_variance).exp() * noise[number + 1]
        return x
