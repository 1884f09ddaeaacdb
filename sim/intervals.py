"""How sure counts of successes make us: intervals of a rate, and of the paired difference of two rates."""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist

from vla.errors import UnderstudyError


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
