"""UVA's inverse model beside a regression: the actions between frames of demonstrations that neither has seen.

The regression is a plain network on the same latents of the same frames, trained on the same demonstrations with an
absolute error until it no longer gets better on a tenth of them. Errors are mean absolute ones in parts of half of an
action's range, without the gripper's.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from benchmarks import mt10
from torch import nn

from policies.uva.inverse import label
from policies.uva.policy import UVA
from sim import collect
from sim.predict import samples_of, video_model
from vla.bench import Row, parser, write_bench
from vla.config import build
from vla.data.windows import Windows

FIRST_SEED = 500_000
"""Of the demonstrations that nobody has learned from."""
WIDTH, BATCH, EPOCHS, PATIENCE = 512, 256, 40, 4
RESAMPLES = 2000


class Regression(nn.Module):
    """Latents of F frames side by side → N actions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        layers = [nn.Linear(inputs, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, outputs))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[B, F, S, C] → [B, N A]."""
        return self.layers(rows.flatten(1))


def shown(policy: UVA, windows: Windows, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """What both see of samples, latents [B, F, S, C], and normalised actions [B, N, A]."""
    later = policy.later(windows, indices, np.random.default_rng(0))["future"].frames
    rows = np.asarray(windows.frames[policy.spec.cameras[0].name][later.ravel()])
    means = torch.from_numpy(rows).float().chunk(2, dim=-1)[0].unflatten(0, later.shape)
    batch = windows.gather(indices)
    return means, torch.from_numpy(policy.normalizers.get(policy.embodiment, "action").normalize(batch.actions))


def fit(policy: UVA, windows: Windows, *, seed: int = 0) -> Regression:
    """The regression, stopped early."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    ends = random.permutation(np.unique(windows.ends))
    held = np.isin(windows.ends, ends[: len(ends) // 10])
    kept, other = np.flatnonzero(~held), np.flatnonzero(held)[::7]
    seen, actions = shown(policy, windows, kept[:2])
    network = Regression(seen[0].numel(), actions[0].numel())
    optimizer, best, waited = torch.optim.AdamW(network.parameters(), 1e-3), (np.inf, {}), 0
    for _ in range(EPOCHS):
        for indices in np.array_split(random.permutation(kept), len(kept) // BATCH):
            seen, actions = shown(policy, windows, indices)
            optimizer.zero_grad()
            (network(seen) - actions.flatten(1)).abs().mean().backward()
            optimizer.step()
        with torch.no_grad():
            seen, actions = shown(policy, windows, other)
            error = float((network(seen) - actions.flatten(1)).abs().mean())
        waited = 0 if error < best[0] else waited + 1
        if not waited:
            best = error, {name: value.clone() for name, value in network.state_dict().items()}
        if waited == PATIENCE:
            break
    network.load_state_dict(best[1])
    return network.eval()


def errors(policy: UVA, network: Regression, windows: Windows) -> dict[str, list[float]]:
    """Who → the mean error of each episode, of the actions that every window between its ends tells."""
    camera, normalizer = policy.spec.cameras[0].name, policy.normalizers.get(policy.embodiment, "action")
    gripper = policy.spec.action.gripper
    moving = [entry for entry in range(policy.spec.action.dim) if gripper is None or entry != gripper.index]
    found: dict[str, list[float]] = {"inverse model": [], "regression": [], "the mean action": []}
    stride, horizon = policy.config.stride, policy.config.pred_horizon
    for end in np.unique(windows.ends):
        begin = int(np.searchsorted(windows.ends, end))
        truth = normalizer.normalize(windows.actions[begin:end])
        told = normalizer.normalize(
            label(
                policy, windows.frames[camera][begin:end], windows.instructions[windows.instruction_of[begin]]
            ).actions
        )
        anchors = np.arange(begin, max(end - horizon, begin + 1), stride)
        with torch.no_grad():
            rows = network(shown(policy, windows, anchors)[0]).view(len(anchors), horizon, -1).numpy()
        total, count = np.zeros_like(truth), np.zeros(len(truth))
        for anchor, row in zip(anchors, rows, strict=True):  # the rows that lie between frames, as the inverse model's
            span = np.arange(anchor - begin + stride, min(anchor - begin + horizon, len(truth)))
            total[span] += row[stride : stride + len(span)]
            count[span] += 1
        both = count > 0
        mean = windows.actions.mean(0, keepdims=True)
        for who, made in (
            ("inverse model", told[both]),
            ("regression", total[both] / count[both, None]),
            ("the mean action", np.repeat(normalizer.normalize(mean), both.sum(), axis=0)),
        ):
            found[who].append(float(np.abs(made - truth[both])[:, moving].mean()))
    return found


def main(argv: list[str]) -> int:
    """``vla bench uva_inverse``: after ``vla bench uva_study``, ten minutes."""
    arguments = parser("uva_inverse", __doc__)
    arguments.add_argument("--policy", type=Path, default=Path("outputs/uva/uva-100"))
    arguments.add_argument("--demonstrations", type=Path, default=Path("outputs/mt10/data"), help="of vla bench mt10")
    arguments.add_argument("--work", type=Path, default=Path("outputs/uva"), help="where new demonstrations go")
    given = arguments.parse_args(argv)
    recording = {"tasks": list(mt10.TASKS), "episodes": 4, "suite": mt10.SUITE, "noise": mt10.NOISE, "seed": FIRST_SEED}
    unseen = collect.run(build(collect.CollectConfig, recording | {"out": given.work / "data-unseen"}))
    policy = video_model(given.policy)
    network = fit(policy, samples_of(policy, given.demonstrations)[1])
    found = errors(policy, network, samples_of(policy, unseen)[1])
    random, rows = np.random.default_rng(0), []
    for who, each in found.items():
        means = random.choice(each, (RESAMPLES, len(each))).mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        rows.append(Row(who, float(np.mean(each)), "of half the range"))
        sys.stdout.write(f"{who}: {np.mean(each):.3f} ({low:.3f} – {high:.3f}), {len(each)} episodes\n")
    write_bench("uva_inverse", rows, {}, given.json, notes=("95 % intervals over episodes above",))
    return 0
