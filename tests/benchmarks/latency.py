"""What the benchmarks of inference share: a device's rates, the least time that work takes there, a policy's stages."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Self

import numpy as np
import torch
from benchmarks.train import wait

from policies.cogact import CogACT
from policies.hastened import Hastened
from vla.bench import Row
from vla.types import Observation, Task

INSTRUCTION = "push the red cube to the white pad"


@dataclass(frozen=True)
class Rates:
    """Measured: FLOP/s of a large product, in fp32 on a CPU and bf16 on a GPU, and bytes/s read from memory."""

    flops: float
    read: float

    @classmethod
    def of(cls, device: torch.device) -> Self:
        """Measure them."""
        kind = torch.bfloat16 if device.type == "cuda" else torch.float32
        size = 8192 if device.type == "cuda" else 1024
        a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
        much = torch.ones(2**28 if device.type == "cuda" else 2**25, device=device)
        return cls(2 * size**3 / _best(lambda: a @ b), 4 * much.numel() / _best(much.sum))

    def least(self, flops: float, moved: float) -> float:
        """Seconds that ``flops`` and ``moved`` bytes take when each hides behind the other: the roofline."""
        return max(flops / self.flops, moved / self.read)

    def __str__(self) -> str:
        return f"{1e-9 * self.flops:,.0f} GFLOP/s, {1e-9 * self.read:,.0f} GB/s from memory"


def _best(call: Callable[[], object]) -> float:
    times = []
    for _ in range(6):
        begun = perf_counter()
        call()
        wait()
        times.append(perf_counter() - begun)
    return min(times)


def observation(policy: CogACT, random: np.random.Generator) -> Observation:
    """Noise of the sizes that ``policy`` sees."""
    images = {
        camera.name: random.integers(256, size=(camera.height, camera.width, 3), dtype=np.uint8)
        for camera in policy.spec.cameras
    }
    return Observation(images, random.uniform(-1, 1, policy.spec.proprio_dim).astype(np.float32), 0)


def stages(policy: CogACT, hastened: Hastened, name: str, rounds: int) -> list[Row]:
    """Capture → tokens → head → chunk, and all, of one observation; the device is waited for between two stages."""
    random, device = np.random.default_rng(0), next(policy.model.parameters()).device
    action = policy.normalizers.get(policy.embodiment, "action")
    text = policy.model.backbone.tokenize([INSTRUCTION])
    policy.reset(Task(INSTRUCTION))
    found: dict[str, list[float]] = {stage: [] for stage in ("capture", "tokens", "head", "chunk", "all")}
    for _ in range(rounds + 2):
        seen, marks = observation(policy, random), []

        def mark(marks: list[float] = marks) -> None:
            wait()
            marks.append(perf_counter())

        mark()
        batch = {**policy.inputs({n: i[None] for n, i in seen.images.items()}, seen.proprio[None]), "text": text}
        on_device = {key: value.to(device) for key, value in batch.items()}
        noise = torch.randn(1, *policy.model.head.noise_shape).to(device)
        mark()
        context = hastened.context(on_device)
        mark()
        sampled = hastened.actions(context, noise)
        mark()
        action.unnormalize(sampled[0].float().cpu().numpy())
        mark()
        for stage, begun, ended in zip(found, marks, marks[1:], strict=False):
            found[stage].append(ended - begun)
        found["all"].append(marks[-1] - marks[0])
    return [Row.of_times(f"{name}: {stage}", seconds[2:]) for stage, seconds in found.items()]
