"""How sure counts of successes make us: intervals of a rate, and of the paired difference of two rates.

For policies that were trained several times a bootstrap with two levels, the trainings and the scenes, which are the
same for all policies: another training would give another rate, and so would other scenes.
"""

from collections.abc import Hashable, Sequence
from math import comb, inf, sqrt
from statistics import NormalDist

import numpy as np

from vla.errors import UnderstudyError

DRAWS = 10_000


def wilson(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a success rate; (0, 1) when there was no episode."""
    if not 0 <= successes <= episodes:
        raise UnderstudyError(f"successes must lie in 0…{episodes} (the number of episodes), got {successes}")
    if not 0 < confidence < 1:
        raise UnderstudyError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    if episodes == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / episodes
    centre = rate + z * z / (2 * episodes)
    half = z * sqrt(rate * (1 - rate) / episodes + z * z / (4 * episodes * episodes))
    scale = 1 + z * z / episodes
    # The ends are exact in theory; floating point would put them a hair inside the estimate.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == episodes else (centre + half) / scale
    return low, high


def joined(parts: Sequence[tuple[float, int, int]], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a weighted sum of independent success rates, (weight, successes, episodes) each; -1 takes one away.

    Wilson's limits of each, joined by the squares of their distances (Zou & Donner 2008, method MOVER).
    """
    total = below = beyond = 0.0
    for weight, successes, episodes in parts:
        rate = weight * successes / episodes
        low, high = sorted(weight * end for end in wilson(successes, episodes, confidence))
        total, below, beyond = total + rate, below + (rate - low) ** 2, beyond + (high - rate) ** 2
    return total - sqrt(below), total + sqrt(beyond)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p value of McNemar's test from the two discordant counts; 1 when there are none."""
    discordant = only_a + only_b
    tail = sum(comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: each p value made larger for having looked at ``len(p_values)`` of them."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def newcombe(both: int, only_a: int, only_b: int, neither: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the paired difference ``rate_b - rate_a`` by Newcombe's method 10 (Wilson limits, joined)."""
    pairs = both + only_a + only_b + neither
    if min(both, only_a, only_b, neither) < 0 or pairs == 0:
        raise UnderstudyError(f"paired counts must be 0 or more, not all 0; got {both}, {only_a}, {only_b}, {neither}")
    with_b, with_a = both + only_b, both + only_a
    rate_b, rate_a = with_b / pairs, with_a / pairs
    low_b, high_b = wilson(with_b, pairs, confidence)
    low_a, high_a = wilson(with_a, pairs, confidence)
    product = with_b * (pairs - with_b) * with_a * (pairs - with_a)
    cross = both * neither - only_a * only_b
    corrected = max(cross - pairs / 2, 0) if cross > 0 else cross
    phi = corrected / sqrt(product) if product else 0.0
    down, up = (rate_b - low_b, high_a - rate_a), (high_b - rate_b, rate_a - low_a)
    spread = [sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0)) for x, y in (down, up)]
    difference = (only_b - only_a) / pairs
    return max(-1.0, difference - spread[0]), min(1.0, difference + spread[1])


def resampled_rates(
    outcomes: Sequence[np.ndarray],
    strata: Sequence[Hashable],
    *,
    weights: Sequence[float] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> np.ndarray:
    """Hierarchical bootstrap of P policies' success rates [draws, P]: trainings, then scenes, with replacement.

    ``outcomes``: for each policy its successes [S, N], S trainings (each policy its own number) on N scenes, which are
    the same for all: a draw of scenes is shared, so differences of columns are paired. ``strata`` [N]: scenes are drawn
    among those of their stratum (their task: tasks are given, not a sample). ``weights`` [N]: of the scenes in the
    rate; all equal by default.

    Of n trainings, and of n scenes of a stratum, n - 1 are drawn: n would understate the variance by a factor of
    (n - 1) / n (Rao & Wu 1988), which for three trainings is a third of it. Where some stratum has one scene only,
    the scenes are drawn among all. Of three trainings on 200 scenes, whose rates scatter by 4, 6 and 10 points, the
    95% percentiles hold the truth 98, 94 and 84 times of 100 (simulated); of five trainings 98, 94 and 94 times.
    """
    rng = np.random.default_rng(seed)
    weight = np.ones(len(strata)) if weights is None else np.asarray(weights, dtype=np.float64)
    rates = [np.asarray(rows, dtype=np.float64) * weight for rows in outcomes]
    trainings = [_drawn(rng, len(rows), draws) / len(rows) for rows in rates]
    sums, total = [np.zeros((draws, len(rows))) for rows in rates], np.zeros(draws)
    for scenes in _strata(strata):
        counts = _drawn(rng, len(scenes), draws)
        total += counts @ weight[scenes]
        for so_far, rows in zip(sums, rates):
            so_far += counts @ rows[:, scenes].T
    return np.stack([(share * so_far).sum(axis=1) / total for share, so_far in zip(trainings, sums)], axis=1)


def _drawn(rng: np.random.Generator, count: int, draws: int) -> np.ndarray:
    """How often each of ``count`` things is drawn [draws, count], scaled to a mean of 1."""
    size = max(1, count - 1)
    return rng.multinomial(size, np.full(count, 1 / count), size=draws) * (count / size)


def _strata(labels: Sequence[Hashable]) -> list[np.ndarray]:
    """The numbers of the scenes of each stratum; all in one when there is a stratum of a single scene."""
    found: dict[Hashable, list[int]] = {}
    for number, label in enumerate(labels):
        found.setdefault(label, []).append(number)
    alone = any(len(numbers) == 1 for numbers in found.values())
    return [np.arange(len(labels))] if alone else [np.array(numbers) for numbers in found.values()]


def percentiles(drawn: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile interval of a bootstrap's draws [draws]."""
    low, high = np.percentile(drawn, [50 - 50 * confidence, 50 + 50 * confidence])
    return float(low), float(high)


def paired_trainings(
    a: np.ndarray, b: np.ndarray, drawn: np.ndarray, confidence: float = 0.95
) -> tuple[tuple[float, float], float]:
    """Interval and two-sided p value of ``rate_b - rate_a`` of two policies [S, N] on the same N scenes.

    ``drawn``: the bootstrap's draws [draws] of the difference, `resampled_rates`. They give its standard error; the
    quantiles are those of Student's t, with the degrees of freedom (Satterthwaite) that so few trainings leave: how
    far three trainings scatter is itself hardly known. Two equal policies of three trainings that scatter by 10 points
    are called different 4 times of 100, by percentiles 10 times (simulated, 200 scenes). The p value is never below
    that of the sign test in which every scene that differs speaks for one side. Where no draw differs from another
    (all succeed, or none) the interval is that of two rates that have nothing to do with each other, `joined`.
    """
    from scipy.stats import t as student

    difference, variance = float(b.mean() - a.mean()), float(np.var(drawn))
    own = [(float(rows.mean(axis=1).var(ddof=1)) / len(rows), len(rows) - 1) for rows in (a, b) if len(rows) > 1]
    uncertain = sum(part**2 / freedom for part, freedom in own)
    freedom = variance**2 / uncertain if uncertain else inf
    error = sqrt(variance)
    half = float(student.ppf(0.5 + confidence / 2, freedom)) * error if error else 0.0
    low, high = difference - half, difference + half
    if not error:
        scenes = a.shape[1]  # of which each is one piece of evidence, however many trainings played it
        low, high = joined(
            [(sign, round(rows.mean() * scenes), scenes) for sign, rows in ((1, b), (-1, a))], confidence
        )
    beyond = 2 * float(student.sf(abs(difference) / error, freedom)) if error else 1.0 if difference == 0 else 0.0
    least = mcnemar(0, int((a.mean(axis=0) != b.mean(axis=0)).sum()))
    return (max(-1.0, low), min(1.0, high)), max(beyond, least)
