"""Problems that a still asks: where things are, where to grasp, which one is meant."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sim.probe.material import Stills, stills
from sim.probe.record import Metric, mean, rate, told
from sim.probe.scale import Scale
from sim.probe.staged import View
from sim.probe.subjects import Subject
from vla.representation.evaluation.affordance import blurred, graspable, precision_at, precision_chance
from vla.representation.evaluation.fitting import FitConfig, TokenScaler, fit, predict, seeded
from vla.representation.evaluation.grounding import box_iou
from vla.representation.evaluation.heads import GraspHead, Pooling, PoseHead, ReferHead, grasp_loss
from vla.representation.evaluation.probes import fit_pca, fit_ridge, regression_score

WIDTH = 192
"""Of the features that a linear probe reads, whatever the eyes' own."""


def pose(eyes: Subject, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """X and y of the four objects and the place of the end effector, by linear and by MAP probes.

    ``unseen look``: the camera strays farther than in the pictures that the probes are fitted on.
    """
    train = stills(scale.stills, View(exogenous=exogenous), test=False)
    seen = eyes.tokens(train.images)
    tests = {
        "": stills(scale.test_stills, View(exogenous=exogenous), test=True),
        ", unseen look": stills(scale.test_stills, View(exogenous=exogenous, unseen=True), test=True),
    }
    tokens = {name: eyes.tokens(test.images) for name, test in tests.items()}
    found: dict[str, Metric] = {}
    for labels in scale.labels:
        guesses = _linear(seen[:labels], train.pose[:labels], tokens)
        for look, test in tests.items():
            for name, columns in WHAT.items():
                few = f", {labels} labels" * (labels < scale.stills)
                found[f"{name}, linear R²{few}{look}"] = _r2(guesses[look], test.pose, columns)
    guesses = _pooled(seen, train.pose, tokens, scale)
    for look, test in tests.items():
        for name, columns in WHAT.items():
            found[f"{name}, MAP R²{look}"] = _r2(guesses[look], test.pose, columns)
            errors = np.abs(guesses[look] - test.pose)[:, columns].mean(1)
            found[f"{name}, MAP, minus error in cm{look}"] = mean(-100 * errors)
    return found


WHAT = {"objects": slice(0, 8), "hand": slice(8, 11)}


def _r2(guess: np.ndarray, truth: np.ndarray, columns: slice) -> Metric:
    guess, truth = guess[:, columns], truth[:, columns]
    shares = ((guess - truth) ** 2 / truth.var(0)).mean(1)
    return told(regression_score(guess, truth).r2, -shares)  # of which R² is one plus the mean


def _linear(tokens: Tensor, truth: np.ndarray, tests: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Ridge on the first principal components of all tokens, as many for every subject."""
    flat = tokens.flatten(1).float().numpy()
    project = fit_pca(flat, min(WIDTH, len(flat) - 1))
    probe = fit_ridge(project(flat), truth)
    return {name: probe.predict(project(test.flatten(1).float().numpy())) for name, test in tests.items()}


def _pooled(tokens: Tensor, truth: np.ndarray, tests: dict[str, Tensor], scale: Scale) -> dict[str, np.ndarray]:
    scaler, middle, spread = TokenScaler.of(tokens), truth.mean(0), truth.std(0)
    head = seeded(partial(PoseHead, Pooling(tokens.shape[-1]), outputs=truth.shape[1]), scale.seed)
    target = torch.from_numpy(((truth - middle) / spread).astype(np.float32))
    config = FitConfig(steps=scale.head_steps, seed=scale.seed)
    fit(head, (scaler(tokens), target), loss=functional.mse_loss, config=config)
    return {name: predict(head, (scaler(test),)).numpy() * spread + middle for name, test in tests.items()}


def grasp(eyes: Subject, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """Where a suction cup holds: precision of the most confident pixels."""
    train, test = _train_and_test(scale, exogenous)
    tokens = eyes.tokens(train.images)
    scaler = TokenScaler.of(tokens)
    head = seeded(partial(GraspHead, Pooling(tokens.shape[-1])), scale.seed)
    config = FitConfig(steps=scale.grasp_steps, batch_size=32, seed=scale.seed)
    fit(head, (scaler(tokens), torch.from_numpy(train.graspable)), loss=grasp_loss, config=config)
    maps = blurred(graspable(predict(head, (scaler(eyes.tokens(test.images)),))))
    chance = float(precision_chance(test.graspable).mean())
    return {
        f"precision {name}": mean(values, chance=chance) for name, values in precision_at(maps, test.graspable).items()
    }


class WordedReferHead(nn.Module):
    """A `ReferHead` that is told the words too: for eyes that cannot read, all that it knows of them."""

    def __init__(self, pooling: Pooling, *, phrases: int) -> None:
        super().__init__()
        self.words = nn.Embedding(phrases, pooling.token_width)
        self.head = ReferHead(pooling)

    def forward(self, tokens: Tensor, phrase: Tensor) -> Tensor:
        """Tokens [B, N, D] and numbers of phrases [B] → boxes [B, 4]."""
        said = self.words(phrase)[:, None]
        return self.head(torch.cat([tokens + said, said], dim=1))


def refer(eyes: Subject, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """The box of what the words name; by split, and with another picture's words as control."""
    train, test = _train_and_test(scale, exogenous)
    phrases = sorted(set(train.words.tolist()))
    said = torch.tensor([phrases.index(words) for words in train.words])
    asked = torch.tensor([phrases.index(words) for words in test.words])
    tokens = eyes.tokens(train.images, train.words.tolist())
    scaler = TokenScaler.of(tokens)
    head = seeded(partial(WordedReferHead, Pooling(tokens.shape[-1]), phrases=len(phrases)), scale.seed)
    middle, spread = train.box.mean(0), train.box.std(0)
    target = torch.from_numpy(((train.box - middle) / spread).astype(np.float32))
    config = FitConfig(steps=scale.head_steps, seed=scale.seed)
    fit(head, (scaler(tokens), said, target), loss=functional.huber_loss, config=config)

    def overlap(words: np.ndarray, numbers: Tensor) -> np.ndarray:
        boxes = predict(head, (scaler(eyes.tokens(test.images, words.tolist())), numbers)).numpy() * spread + middle
        return box_iou(boxes, test.box)

    iou = overlap(test.words, asked)
    right, turned = iou >= 0.25, np.roll(np.arange(len(asked)), 1)
    found = {"accuracy IoU 0.25": rate(right), "accuracy IoU 0.5": rate(iou >= 0.5)}
    found |= {f"accuracy IoU 0.25, {split}": rate(right[test.split == split]) for split in sorted(set(test.split))}
    other = test.words[turned] != test.words
    found["other words, IoU 0.25"] = rate(overlap(test.words[turned], asked[turned])[other] >= 0.25)
    return found


def _train_and_test(scale: Scale, exogenous: bool) -> tuple[Stills, Stills]:
    view = View(exogenous=exogenous)
    return stills(scale.stills, view, test=False), stills(scale.test_stills, view, test=True)
