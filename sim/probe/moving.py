"""Problems that films ask: is the same moment seen as the same, the same task as the same, and how far has it come?

Nothing is trained here but a PCA to `WIDTH` on training films, so that all subjects are equally wide.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from sim.probe.material import Films, films
from sim.probe.record import Metric, mean, plain, rate
from sim.probe.scale import Scale
from sim.probe.subjects import Subject, caption_scores, clip_vectors
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


@dataclass(frozen=True)
class Wanted:
    """Which films; see `sim.probe.material.films`."""

    embodiment: str
    per_task: int
    tier: str
    test: bool
    exogenous: bool
    tasks: tuple[str, ...]
    failures: float = 0.0

    @classmethod
    def of(cls, scale: Scale, embodiment: str, tier: str, exogenous: bool, *, failures: float = 0.0) -> "Wanted":
        """The test films of a scale."""
        return cls(embodiment, scale.films, tier, True, exogenous, scale.film_tasks, failures)

    def made(self) -> Films:
        """The films."""
        return films(**vars(self))


@cache
def vectors(eyes: Subject, wanted: Wanted) -> np.ndarray:
    """Of every frame of these films, [sum of T, E]; several problems ask for the same ones."""
    return eyes.vectors(wanted.made().frames)


@cache
def changes(eyes: Subject, wanted: Wanted) -> np.ndarray:
    """Of every frame, what is new since its film began, [sum of T, E].

    A family that compares clips compares the two frames itself (SigLIP); else it is the difference of their vectors.
    """
    made = wanted.made()
    first = np.repeat(made.starts[:-1], np.diff(made.starts))
    found = clip_vectors(eyes, made.frames[first], made.frames)
    if found is None:
        seen = vectors(eyes, wanted)
        found = seen - seen[first]
    return found


def looked(
    eyes: Subject, embodiment: str, tier: str, scale: Scale, exogenous: bool, *, failures: float = 0.0
) -> Looked:
    """Test films and their frames' vectors, projected."""
    wanted = Wanted.of(scale, embodiment, tier, exogenous, failures=failures)
    made, seen = wanted.made(), vectors(eyes, wanted)
    return Looked(made, made.split(projection(eyes, vectors, scale, exogenous)(seen).astype(np.float32)))


def since_start(eyes: Subject, embodiment: str, tier: str, scale: Scale, exogenous: bool) -> Looked:
    """Test films and what is new in each frame, projected."""
    wanted = Wanted.of(scale, embodiment, tier, exogenous)
    made, seen = wanted.made(), changes(eyes, wanted)
    return Looked(made, made.split(projection(eyes, changes, scale, exogenous)(seen).astype(np.float32)))


@cache
def projection(eyes: Subject, kind: Callable[..., np.ndarray], scale: Scale, exogenous: bool) -> Projection:
    """PCA of ``vectors`` or ``changes`` of training films, people's and robots'."""
    per_task = max(1, scale.films // 3)
    wanted = [Wanted(who, per_task, "T2", False, exogenous, scale.film_tasks) for who in ("hand", "robot")]
    seen = np.concatenate([kind(eyes, one) for one in wanted])
    seen = seen[:: max(1, len(seen) // 1500)]
    return fit_pca(seen, min(WIDTH, seen.shape[1]))


def alignment(eyes: Subject, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """Nearest frames across a person's and a robot's film of one task, each trimmed, warped and paused by itself.

    Frames are known by what is new in them since their film began; ``frames alone``: by themselves. ``same scene`` is
    the control in which both films share the background, so that any clock will do.
    """
    person, robot = (since_start(eyes, who, "T2", scale, exogenous) for who in ("hand", "robot"))
    there, back, cycle, share, mixed = [], [], [], [], []
    for number, (a, b) in enumerate(_pairs(person, robot, scale)):
        there.append(kendall_tau(a, b))
        back.append(kendall_tau(b, a))
        cycle.append(cycle_consistency(a, b))
        share.append(cycle_consistency(a, b, tolerance=0.05))
        mixed.append(kendall_tau(a[shuffled(len(a), np.random.default_rng([0x5F1E, number]))], b))
    alike = since_start(eyes, "hand", "T1", scale, exogenous)
    alone = [looked(eyes, who, "T2", scale, exogenous) for who in ("hand", "robot")]
    return {
        "τ": mean((np.array(there) + back) / 2, chance=0.0),
        "τ person to robot": mean(there, chance=0.0),
        "τ robot to person": mean(back, chance=0.0),
        "cycle ±1 frame": mean(cycle),
        "cycle ±5 %": mean(share),
        "τ shuffled (control)": mean(mixed, chance=0.0),
        "τ same scene": mean([kendall_tau(a, b) for a, b in _pairs(alike, robot, scale, shift=0)], chance=0.0),
        "τ frames alone": mean(
            [(kendall_tau(a, b) + kendall_tau(b, a)) / 2 for a, b in _pairs(*alone, scale)], chance=0.0
        ),
    }


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

    A film is the vector that the family compares clips by (SigLIP's), or else the mean of its frames' vectors and
    their change, less the mean over its embodiment's films. ``by words``: the scores of all captions, for eyes that
    give them.
    """
    person, robot = (looked(eyes, who, "T2", scale, exogenous) for who in ("hand", "robot"))
    queries, gallery = (_clips(eyes, one) for one in (person, robot))
    tasks = person.films.task, robot.films.task
    found = _retrieved(retrieve(queries, tasks[0], gallery=gallery, gallery_labels=tasks[1]), "")
    worded = [_worded(eyes, one.films) for one in (person, robot)]
    if worded[0] is not None:
        result = retrieve(worded[0], tasks[0], gallery=worded[1], gallery_labels=tasks[1])
        found |= _retrieved(result, " by words")
    return found


def _clips(eyes: Subject, seen: Looked) -> np.ndarray:
    """One vector for each film, [N, E]."""
    found = clip_vectors(eyes, *_ends(seen.films))
    if found is None:
        found = np.array([clip_embedding(one, kind="mean_and_change") for one in seen.features])
    return found - found.mean(0)


def _ends(material: Films) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last frame of each film."""
    return material.frames[material.starts[:-1]], material.frames[material.starts[1:] - 1]


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
    scores = caption_scores(eyes, *_ends(material), _captions(material))
    return None if scores is None else (scores - scores.mean(0)) / (scores.std(0) + 1e-6)


def value(eyes: Subject, scale: Scale, exogenous: bool) -> dict[str, Metric]:
    """Minus the distance to a goal picture as value: the last frame of the robot's film of the same scene.

    Success beats failure when a person's successful film ends nearer to that goal than its failed one.
    """
    robot, person = (looked(eyes, who, "T1", scale, exogenous) for who in ("robot", "hand"))
    failed = looked(eyes, "hand", "T1", scale, exogenous, failures=1.0)
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
        material = Wanted.of(scale, who, "T2", exogenous).made()
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
    material = Wanted.of(scale, "hand", "T2", exogenous).made()
    first, last = _ends(material)
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
    found = vectors(eyes, Wanted.of(scale, "hand", "T2", exogenous))
    seen = measure_collapse(found)
    return {
        "width": plain(found.shape[1]),
        "effective rank": plain(seen.effective_rank),
        "mean spread": plain(seen.std_mean),
        "dead share": plain(seen.dead_share),
        "uniformity": plain(seen.uniformity),
        "mean length": plain(seen.norm_mean),
    }
