"""Frozen eyes, a small head, a few demonstrations: does the arm get there? (R3M's and Voltron's control protocol.)

The head pools the tokens by attention, adds proprio and answers with the next `CHUNK` actions, of which half are done
before it looks again. The last weights are used: no checkpoint is chosen by its success.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sim.pool import default_workers, run_jobs, with_progress
from sim.probe.material import CLUSTER, kept
from sim.probe.record import Metric, rate
from sim.probe.scale import Scale
from sim.probe.staged import CAMERA, StagedSuite, View, stage
from sim.probe.subjects import Subject
from sim.suite import TEST_SEEDS, TRAIN_SEEDS
from vla.representation.encoder import EncoderConfig, FrameEncoder
from vla.representation.evaluation.fitting import FitConfig, TokenScaler, fit, predict, seeded
from vla.representation.evaluation.heads import PolicyHead, Pooling

CHUNK, DONE = 8, 4
NOISE, PERSISTENCE = 0.2, 0.8
"""Of what is done in demonstrations, as `vla collect` has it; what is recorded stays clean."""
PATIENCE = 2
HORIZON = 80
"""Control steps that a policy has; the experts take 25 to 50."""


@dataclass(frozen=True)
class Demo:
    """One demonstration: ``images`` [T, S, S, 3], ``proprio`` [T, P], ``actions`` [T, A] physical."""

    images: np.ndarray
    proprio: np.ndarray
    actions: np.ndarray
    words: str


FIRST_SEED = 700_000
"""Of the training scenes that are demonstrated in: far from those that `vla human` films by default."""
LANGUAGE_TASKS = ("tabletop/touch-red-cube", "tabletop/touch-green-cube", "tabletop/touch-blue-cube")


def demonstrate(job: tuple[str, int, View]) -> Demo | None:
    """The expert under noise in the scene of a seed; ``None`` when it failed."""
    task, seed, view = job
    staged, rng = stage(view), np.random.default_rng([0xDE30, seed])
    staged.reset(task, seed)
    suite, act = staged.suite, staged.expert()
    scale = (np.array(suite.spec.action.high) - suite.spec.action.low) / 2 * NOISE
    scale[-1] = 0
    rows, drift = [], np.zeros(len(scale))
    while not suite.success and suite.steps < PATIENCE * suite.max_steps:
        seen, action = staged.observe(), act()
        rows.append((seen.images[CAMERA], seen.proprio, action))
        drift = PERSISTENCE * drift + (1 - PERSISTENCE**2) ** 0.5 * rng.standard_normal(len(scale))
        suite.step(action + scale * drift)
    images, proprio, actions = (np.stack(column) for column in zip(*rows, strict=True))
    return Demo(images, proprio, actions.astype(np.float32), suite.instruction) if suite.success else None


def demonstrations(task: str, count: int, view: View, *, workers: int) -> list[Demo]:
    """The first ``count`` demonstrations that succeed, of the training scenes; made once, kept."""
    settings = {"task": task, "count": count, **asdict(view)}
    found = kept("demonstrations", settings, partial(_demonstrations, task, count, view, workers))
    rows = (np.split(found[name], found["starts"][1:-1]) for name in ("images", "proprio", "actions"))
    return [Demo(*columns, words=str(found["words"])) for columns in zip(*rows, strict=True)]


def _demonstrations(task: str, count: int, view: View, workers: int) -> dict[str, np.ndarray]:
    found: list[Demo] = []
    start = 0
    while len(found) < count:
        jobs = [
            (task, seed, view) for seed in TRAIN_SEEDS[FIRST_SEED + start : FIRST_SEED + start + count - len(found) + 2]
        ]
        start += len(jobs)
        made = run_jobs(demonstrate, jobs, workers=workers, preload=("sim.probe.control",), cluster=CLUSTER.get())
        found += [demo for demo in with_progress(made, what=f"demonstrations of {task}", total=len(jobs)) if demo]
    found = found[:count]
    names = ("images", "proprio", "actions")
    columns = {name: np.concatenate([getattr(demo, name) for demo in found]) for name in names}
    starts = np.cumsum([0, *(len(demo.actions) for demo in found)])
    return {**columns, "starts": starts, "words": np.array(found[0].words)}


@dataclass(frozen=True)
class Student:
    """A network with the scales of what goes in and out; ``see`` makes its inputs of pictures and words."""

    see: Callable[[np.ndarray, Sequence[str]], tuple[Tensor, ...]]
    network: nn.Module
    mean: np.ndarray
    scale: np.ndarray

    @torch.inference_mode()
    def act(self, images: np.ndarray, words: Sequence[str], proprio: np.ndarray) -> np.ndarray:
        """Chunks of actions [B, CHUNK, A] in physical units."""
        answer = predict(self.network, (*self.see(images, words), torch.from_numpy(proprio))).numpy()
        return answer.reshape(len(images), CHUNK, -1) * self.scale + self.mean


class WordedPolicyHead(nn.Module):
    """A `PolicyHead` that is told which of a few instructions was given, as all that eyes know that cannot read."""

    def __init__(self, pooling: Pooling, *, instructions: int, proprio_dim: int, action_dim: int) -> None:
        super().__init__()
        self.words = nn.Embedding(instructions, pooling.token_width)
        self.head = PolicyHead(pooling, proprio_dim=proprio_dim, action_dim=action_dim)

    def forward(self, tokens: Tensor, instruction: Tensor, proprio: Tensor) -> Tensor:
        """Tokens [B, N, D], numbers of instructions [B], proprio [B, P] → [B, CHUNK * A]."""
        return self.head(tokens + self.words(instruction)[:, None], proprio)


class EndToEnd(nn.Module):
    """The same head on a small ResNet that learns with it: what a policy does without any pre-training."""

    CONFIG = EncoderConfig("resnet", image_size=64, patch_size=8, width=96, depth=1, heads=3)

    def __init__(self, *, instructions: int, proprio_dim: int, action_dim: int) -> None:
        super().__init__()
        self.eyes = FrameEncoder(self.CONFIG)
        self.place = nn.Parameter(0.02 * torch.randn(self.CONFIG.tokens, self.CONFIG.width))
        sizes = {"instructions": instructions, "proprio_dim": proprio_dim, "action_dim": action_dim}
        self.head = WordedPolicyHead(Pooling(self.CONFIG.width), **sizes)

    def forward(self, images: Tensor, instruction: Tensor, proprio: Tensor) -> Tensor:
        """Pictures [B, H, W, 3] uint8, numbers of instructions, proprio → [B, CHUNK * A]."""
        return self.head(self.eyes(images) + self.place, instruction, proprio)


def taught(eyes: Subject | None, demos: Sequence[Demo], *, steps: int, seed: int) -> Student:
    """Behaviour cloning, on frozen tokens or (``None``) end to end; instructions are those of the demonstrations."""
    instructions = sorted({demo.words for demo in demos})
    frames = np.concatenate([demo.images for demo in demos])
    words = [demo.words for demo in demos for _ in demo.actions]
    actions = np.concatenate([demo.actions for demo in demos])
    mean, scale = actions.mean(0), actions.std(0) + 1e-3
    chunks = np.concatenate([_chunks(demo.actions) for demo in demos])
    target = torch.from_numpy(((chunks - mean) / scale).reshape(len(chunks), -1).astype(np.float32))
    proprio = torch.from_numpy(np.concatenate([demo.proprio for demo in demos]))
    sizes = {"instructions": len(instructions), "proprio_dim": proprio.shape[1], "action_dim": target.shape[1]}

    def numbers(said: Sequence[str]) -> Tensor:
        return torch.tensor([instructions.index(one) for one in said])

    if eyes is None:
        inputs, network = torch.from_numpy(frames), seeded(lambda: EndToEnd(**sizes), seed)

        def see(images: np.ndarray, said: Sequence[str]) -> tuple[Tensor, ...]:
            return torch.from_numpy(images), numbers(said)
    else:
        reading = words if len(instructions) > 1 else None
        raw = eyes.tokens(frames, reading)
        scaler = TokenScaler.of(raw)
        inputs = scaler(raw)
        network = seeded(lambda: WordedPolicyHead(Pooling(raw.shape[-1]), **sizes), seed)

        def see(images: np.ndarray, said: Sequence[str]) -> tuple[Tensor, ...]:
            return scaler(eyes.tokens(images, said if reading is not None else None)), numbers(said)

    config = FitConfig(steps=steps, batch_size=64, lr=1e-3, seed=seed)
    fit(network, (inputs, numbers(words), proprio, target), loss=functional.mse_loss, config=config)
    return Student(see, network, mean, scale)


def _chunks(actions: np.ndarray) -> np.ndarray:
    """[T, A] → [T, CHUNK, A]: what follows each step; beyond the end the arm rests and the gripper stays."""
    rows = np.arange(len(actions))[:, None] + np.arange(CHUNK)
    chunks = actions[np.minimum(rows, len(actions) - 1)].copy()
    chunks[..., :-1][rows >= len(actions)] = 0
    return chunks


@cache
def _stages(view: View, count: int) -> tuple[StagedSuite, ...]:
    """Made once: to compile a scene takes longer than to play in it."""
    return tuple(StagedSuite(view) for _ in range(count))


def rollouts(student: Student, task: str, view: View, *, count: int) -> np.ndarray:
    """Successes [count] in test scenes, played side by side so that the eyes see one batch."""
    stages = _stages(view, count)
    for staged, seed in zip(stages, TEST_SEEDS[:count], strict=True):
        staged.reset(task, seed)
    going = list(stages)
    while going:
        seen = [staged.observe() for staged in going]
        images = np.stack([observation.images[CAMERA] for observation in seen])
        words = [staged.suite.instruction for staged in going]
        chunks = student.act(images, words, np.stack([observation.proprio for observation in seen]))
        for staged, chunk in zip(going, chunks, strict=True):
            for action in chunk[:DONE]:
                if not staged.suite.success:
                    staged.step(action)
        going = [staged for staged in going if not staged.suite.success and staged.suite.steps < HORIZON]
    return np.array([staged.suite.success for staged in stages])


def control(eyes: Subject | None, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """One policy for each task and number of demonstrations; under the distractor only for the largest."""
    view, found = View(exogenous=exogenous), {}
    for demos in scale.demos[-1:] if exogenous else scale.demos:
        hits = []
        for task in scale.tasks:
            shown = demonstrations(task, max(scale.demos), view, workers=default_workers())[:demos]
            student = taught(eyes, shown, steps=scale.policy_steps, seed=scale.seed)
            hits.append(rollouts(student, task, view, count=scale.rollouts))
        found[f"success {demos} demos"] = rate(np.concatenate(hits))
        if len(hits) > 1:
            named = zip(scale.tasks, hits, strict=True)
            found |= {f"{task.partition('/')[2]}, {demos} demos": rate(played) for task, played in named}
    return found


def language(eyes: Subject | None, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """One policy that has to do what it is told in scenes that look alike."""
    view = View(exogenous=exogenous)
    demos = [
        demo
        for task in LANGUAGE_TASKS
        for demo in demonstrations(task, max(scale.demos), view, workers=default_workers())
    ]
    student = taught(eyes, demos, steps=scale.policy_steps, seed=scale.seed)
    count = max(10, scale.rollouts // 2)
    hits = [rollouts(student, task, view, count=count) for task in LANGUAGE_TASKS]
    return {"success": rate(np.concatenate(hits))}
