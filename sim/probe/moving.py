"""Problems that films ask: is the same moment seen as the same, the same task as the same, and how far has it come?

Nothing is trained here but a PCA to `WIDTH` on training films, so that all subjects are equally wide.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sim.probe.material import Films, films
from sim.probe.record import Metric, mean, plain, rate
from sim.probe.scale import Scale
from sim.probe.subjects import Subject, caption_scores
from vla.representation.evaluation.collapse import measure_collapse
from vla.representation.evaluation.intent import TIMES, intent_chance, intent_hits
from vla.representation.evaluation.probes import Projection, fit_pca
from vla.representation.evaluation.retrieval import Retrieval, clip_embedding, retrieve
from vla.representation.evaluation.temporal import (
    cycle_consistency,
    kendall_tau,
    shuffled,
    trimmed_and_warped,
)
from vla.representation.evaluation.value import auroc, monotone_fraction, spearman
from vla.representation.objectives import unigram_nll
from vla.representation.voltron import MaskedAutoencoder

WIDTH = 32


@dataclass(frozen=True)
class Looked:
    """Films and what the eyes made of each: ``features``, a list of [T, E]."""

    films: Films
    features: list[np.ndarray]


def looked(eyes: Subject, material: Films, project: Projection) -> Looked:
    """Every frame's vector, projected."""
    return Looked(material, material.split(project(eyes.vectors(material.frames)).astype(np.float32)))


def projection(eyes: Subject, scale: Scale, exogenous: bool) -> Projection:
    """PCA of the vectors of training films, people's and robots'."""
    make = partial(films, per_task=max(1, scale.films // 3), tier="T2", test=False, exogenous=exogenous)
    frames = np.concatenate([make("hand").frames, make("robot").frames])
    vectors = eyes.vectors(frames[:: max(1, len(frames) // 1500)])
    return fit_pca(vectors, min(WIDTH, vectors.shape[1]))


def alignment(eyes: Subject, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """Nearest frames across a person's and a robot's film of one task, each trimmed, warped and paused by itself.

    ``same scene`` is the control in which both share the background, so that any clock will do.
    """
    project = projection(eyes, scale, exogenous)
    make = partial(films, per_task=scale.films, test=True, exogenous=exogenous)
    person = looked(eyes, make("hand", tier="T2"), project)
    robot = looked(eyes, make("robot", tier="T2"), project)
    there, back, cycle, share, mixed = [], [], [], [], []
    for number, (a, b) in enumerate(_pairs(person, robot, scale)):
        there.append(kendall_tau(a, b))
        back.append(kendall_tau(b, a))
        cycle.append(cycle_consistency(a, b))
        share.append(cycle_consistency(a, b, tolerance=0.05))
        mixed.append(kendall_tau(a[shuffled(len(a), np.random.default_rng([0x5F1E, number]))], b))
    found = {
        "τ": mean((np.array(there) + back) / 2, chance=0.0),
        "τ person to robot": mean(there, chance=0.0),
        "τ robot to person": mean(back, chance=0.0),
        "cycle ±1 frame": mean(cycle),
        "cycle ±5 %": mean(share),
        "τ shuffled (control)": mean(mixed, chance=0.0),
    }
    alike = looked(eyes, make("hand", tier="T1"), project)
    found["τ same scene"] = mean([kendall_tau(a, b) for a, b in _pairs(alike, robot, scale, shift=0)], chance=0.0)
    return found


def _pairs(person: Looked, robot: Looked, scale: Scale, *, shift: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    """Films of the same task, each with that of the other embodiment ``shift`` scenes on, warped."""
    found = []
    for number, features in enumerate(person.features):
        task, place = divmod(number, scale.films)
        other = robot.features[task * scale.films + (place + shift) % scale.films]
        warps = [np.random.default_rng([0x3A8B, number, side]) for side in range(2)]
        a, b = (
            one[trimmed_and_warped(len(one), rng)] if len(one) >= 8 else one
            for one, rng in zip((features, other), warps, strict=True)
        )
        found.append((a, b))
    return found


def retrieval(eyes: Subject, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """A person's film asks for the robot's films of the same task, in other scenes and looks.

    ``by words``: through the scores of all captions, for eyes that give them.
    """
    project = projection(eyes, scale, exogenous)
    make = partial(films, per_task=scale.films, tier="T2", test=True, exogenous=exogenous)
    person, robot = make("hand"), make("robot")
    queries, gallery = (
        np.array([clip_embedding(one, kind="mean_and_change") for one in looked(eyes, one_kind, project).features])
        for one_kind in (person, robot)
    )
    found = _retrieved(retrieve(queries, person.task, gallery=gallery, gallery_labels=robot.task), "")
    worded = [_worded(eyes, one_kind) for one_kind in (person, robot)]
    if worded[0] is not None:
        result = retrieve(worded[0], person.task, gallery=worded[1], gallery_labels=robot.task)
        found |= _retrieved(result, " by words")
    return found


def _retrieved(result: Retrieval, how: str) -> dict[str, Metric]:
    return {
        f"R@1{how}": rate(result.hits(1), chance=result.chance_recall(1)),
        f"R@5{how}": rate(result.hits(5), chance=result.chance_recall(5)),
        f"mAP{how}": mean(result.average_precision, chance=result.chance_average_precision()),
    }


def _captions(material: Films) -> list[str]:
    return list(dict.fromkeys(material.caption.tolist()))


def _worded(eyes: Subject, material: Films) -> np.ndarray | None:
    """Each film by the scores of all captions from its first frame to its last, standardised over the films."""
    first, last = material.frames[material.starts[:-1]], material.frames[material.starts[1:] - 1]
    scores = caption_scores(eyes, first, last, _captions(material))
    return None if scores is None else (scores - scores.mean(0)) / (scores.std(0) + 1e-6)


def value(eyes: Subject, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """Minus the distance to a goal picture as value: the last frame of the robot's film of the same scene.

    Success beats failure when a person's successful film ends nearer to that goal than its failed one.
    """
    project = projection(eyes, scale, exogenous)
    make = partial(films, per_task=max(2, scale.films // 2), tier="T1", test=True, exogenous=exogenous)
    robot = looked(eyes, make("robot"), project)
    person = looked(eyes, make("hand"), project)
    failed = looked(eyes, make("hand", failures=1.0), project)
    goals = [features[-1] for features in robot.features]
    rank, rises, ends, lost = [], [], [], []
    for number, features in enumerate(person.features):
        worth = -np.linalg.norm(features - goals[number], axis=1)
        done = person.films.split(person.films.progress)[number]
        rank.append(spearman(worth, done))
        rises.append(monotone_fraction(worth))
        ends.append(worth[-1] - worth[0])
        other = -np.linalg.norm(failed.features[number] - goals[number], axis=1)
        lost.append(other[-1] - other[0])
    found = {
        "Spearman with progress": mean(np.nan_to_num(rank), chance=0.0),
        "steps that rise": mean(rises, chance=0.5),
    }
    kept = person.films.success & robot.films.success & ~failed.films.success
    if kept.any():
        won, gone = np.array(ends)[kept], np.array(lost)[kept]
        found["success above its failure"] = mean((won > gone) + 0.5 * (won == gone), chance=0.5)
        found["AUROC success against failure"] = plain(auroc(won, gone))
    return found


def intent(eyes: Subject, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """Which of all captions tells best what has happened after a quarter, a half, … of a film; empty without words."""
    found: dict[str, Metric] = {}
    for who, name in (("hand", "person"), ("robot", "robot")):
        material = films(who, scale.films, tier="T2", test=True, exogenous=exogenous)
        captions = _captions(material)
        first = material.frames[material.starts[:-1]]
        scores = []
        for share in TIMES:
            now = material.starts[:-1] + np.floor(share * (np.diff(material.starts) - 1)).astype(int)
            scores.append(caption_scores(eyes, first, material.frames[now], captions))
        if scores[0] is None:
            return {}
        blank = caption_scores(eyes, first, first, captions)  # nothing has happened yet
        truth = np.array([captions.index(caption) for caption in material.caption])
        hits = intent_hits(np.stack(scores, axis=1), truth, blank=blank)
        for column, share in enumerate(TIMES):
            found[f"{name} at {share:.0%}"] = mean(hits[:, column], chance=intent_chance(len(captions)))
    return found


MASKS = 8
"""Draws of the mask over which each film's reconstruction error is averaged."""


def reading(eyes: Subject, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """Does the right caption help to fill in what is masked? Beside another film's caption, under the same masks.

    For V-Gen also how well it tells the films' captions, beside what the words' frequencies alone would give.
    """
    model, made = eyes.representation.model, eyes.representation
    material = films("hand", scale.films, tier="T2", test=True, exogenous=exogenous)
    first, last = material.frames[material.starts[:-1]], material.frames[material.starts[1:] - 1]
    images = made.prepare(np.stack([first, last][-model.frames :], axis=1))
    caption = material.caption
    other = np.roll(caption, scale.films)  # films are in the order of their tasks
    right, wrong = (_errors(model, images, made.captions.tokenize(words.tolist())) for words in (caption, other))
    found = {
        "gain of the right caption": mean(wrong - right, chance=0.0),
        "error, right caption": plain(right.mean()),
        "error, another's": plain(wrong.mean()),
    }
    if eyes.scores_captions:
        captions = _captions(material)
        own = caption_scores(eyes, first, last, captions)[np.arange(len(caption)), [captions.index(c) for c in caption]]
        ids = made.captions.tokenize(caption.tolist())
        guess = unigram_nll(ids, made.captions.mask(ids), pad=made.captions.pad).numpy()
        found["nats below the words' frequencies"] = mean(guess + own, chance=0.0)
        found["nats a token by the words' frequencies"] = plain(guess.mean())
        found["nats a token"] = plain(-own.mean())
    return found


def _errors(model: MaskedAutoencoder, images: Tensor, text: Tensor) -> np.ndarray:
    """Reconstruction error of each film [N], the mean over `MASKS` draws that are the same for every text."""
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        draws = [model.reconstruct({"images": images}, text.to(images.device)).error for _ in range(MASKS)]
    return torch.stack(draws).mean(0).cpu().numpy()


def collapse(eyes: Subject, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """Whether the vectors still differ: spread, effective rank, uniformity, length; as they are, not projected."""
    material = films("hand", scale.films, tier="T2", test=True, exogenous=exogenous)
    vectors = eyes.vectors(material.frames[:: max(1, len(material.frames) // 2000)])
    seen = measure_collapse(vectors)
    return {
        "width": plain(vectors.shape[1]),
        "effective rank": plain(seen.effective_rank),
        "mean spread": plain(seen.std_mean),
        "dead share": plain(seen.dead_share),
        "uniformity": plain(seen.uniformity),
        "mean length": plain(seen.norm_mean),
    }
