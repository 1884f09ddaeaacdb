"""Train a head on tokens that are already in memory: one loop for every head, the same under the same seed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla.errors import UnderstudyError
from vla.training.precision import bf16_if_fast

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FitConfig:
    """AdamW whose learning rate falls to 0 along a cosine, so that the last step is also a good one."""

    steps: int = 500
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0
    """of the batches; `seeded` is for the weights"""

    @classmethod
    def for_epochs(
        cls, epochs: int, count: int, *, batch_size: int = 64, lr: float = 1e-3, seed: int = 0
    ) -> "FitConfig":
        """As many steps as ``epochs`` passes over ``count`` examples take."""
        return cls(steps=epochs * max(1, count // batch_size), batch_size=batch_size, lr=lr, seed=seed)


@dataclass(frozen=True)
class TokenScaler:
    """Tokens on one scale, per channel, by the training tokens' statistics.

    A head trained with one learning rate for all would favour the representation that happens to have its scale.
    """

    mean: Tensor
    """[D]"""
    scale: Tensor
    """[D]"""

    @classmethod
    def of(cls, tokens: Tensor) -> "TokenScaler":
        """The scaler of training tokens [N, T, D]; a channel that is constant stays 0."""
        wide = tokens.float().flatten(0, -2)
        std, mean = torch.std_mean(wide, dim=0, correction=0)
        return cls(mean, torch.where(std > 1e-6 * wide.square().mean().sqrt(), 1 / std, 0.0))

    def __call__(self, tokens: Tensor) -> Tensor:
        """[N, T, D] → [N, T, D], of the same type as ``tokens``."""
        return ((tokens.float() - self.mean) * self.scale).to(tokens.dtype)


def seeded[Head: nn.Module](build: Callable[[], Head], seed: int) -> Head:
    """A head with the initial weights of ``seed``; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def fit(
    head: nn.Module,
    examples: Sequence[Tensor],
    *,
    loss: Loss,
    config: FitConfig,
    after_step: Callable[[int], None] | None = None,
) -> list[float]:
    """Train ``head`` in place and leave it in evaluation mode.

    Args:
        head: Called with a batch of all examples but the last.
        examples: The head's inputs, then the target; each [N, …]. Half precision is widened batch by batch.
        loss: Of a prediction and the target.
        config: How long and how fast.
        after_step: Told the number of steps done, for a caller that keeps the best on validation data. It may
            `predict`, which leaves the head in the mode it found.

    Returns:
        The loss of every step.
    """
    _check(examples, config)
    device = next(head.parameters()).device
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.steps)
    head.train()
    losses = []
    for step, rows in enumerate(_batches(len(examples[0]), config), start=1):
        *inputs, target = (_widened(tensor[rows]).to(device) for tensor in examples)
        with bf16_if_fast(device):
            guess = head(*inputs)
        value = loss(guess.float(), target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        losses.append(value.detach())
        if after_step is not None:
            after_step(step)
    head.eval()
    return torch.stack(losses).tolist()


@torch.no_grad()
def predict(head: nn.Module, inputs: Sequence[Tensor], *, batch_size: int = 256) -> Tensor:
    """What ``head`` says of ``inputs``, each [N, …], in evaluation mode; on the CPU."""
    device, training = next(head.parameters()).device, head.training
    head.eval()
    batches = zip(*(tensor.split(batch_size) for tensor in inputs), strict=True)
    with bf16_if_fast(device):
        outputs = [head(*(_widened(tensor).to(device) for tensor in batch)).float().cpu() for batch in batches]
    head.train(training)
    return torch.cat(outputs)


def _batches(count: int, config: FitConfig) -> Iterator[Tensor]:
    """Rows of each step: shuffled passes whose remainder is dropped, since batch norm cannot bear a batch of one."""
    generator = torch.Generator().manual_seed(config.seed)
    size = min(config.batch_size, count)
    per_pass = count // size
    for step in range(config.steps):
        place = step % per_pass
        if place == 0:
            order = torch.randperm(count, generator=generator)
        yield order[place * size : (place + 1) * size]


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _check(examples: Sequence[Tensor], config: FitConfig) -> None:
    counts = [len(tensor) for tensor in examples]
    if len(counts) < 2 or len(set(counts)) > 1 or counts[0] < 2:
        raise UnderstudyError(f"inputs and a target of the same 2 or more examples are needed, got {counts}")
    if config.steps < 1 or config.batch_size < 2:
        raise UnderstudyError(f"at least 1 step and batches of 2 are needed, got {config.steps}, {config.batch_size}")
