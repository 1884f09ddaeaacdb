"""When to stop comparing: tests and intervals that hold at every look, however often one looks.

Two policies play the same scenes. Scenes in which both succeed or both fail say nothing about which is better; of the
others, each is won by A or by B, and if neither is better, by a fair coin. Against that coin the *e-value* bets with
Beta(1, 1) over its bias:

    e(a, b) = 2^(a+b) · B(a+1, b+1)          a, b: scenes that only A, only B achieves

Under a fair coin it is a non-negative martingale that begins at 1, so that by Ville's inequality it ever reaches 1/α
with probability at most α (Robbins 1970; Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid
inference", §2). One may therefore look after every scene and stop as soon as it does; McNemar's test, asked as often,
would err far more than α.
"""

from math import exp, inf, lgamma, log

from vla.errors import UnderstudyError


def e_value(only_a: int, only_b: int) -> float:
    """How much a bet against "neither is better" has won by now; 1/α or more refutes it at level α."""
    return exp(min(700.0, _log_beta(only_a + 1, only_b + 1) + (only_a + only_b) * log(2)))


def always_valid(count: int, trials: int, level: float = 0.05) -> tuple[float, float]:
    """An interval of a probability from ``count`` of ``trials`` that holds at all looks at once, with 1 - ``level``.

    The Beta(1, 1) mixture's confidence sequence (Robbins 1970): every p that the mixture does not beat by 1/level.
    """
    if not 0 <= count <= trials or not 0 < level < 1:
        raise UnderstudyError(f"need 0 ≤ count ≤ trials and a level between 0 and 1, got {count}, {trials}, {level}")
    if trials == 0:
        return 0.0, 1.0
    bar = _log_beta(count + 1, trials - count + 1) + log(level)

    def inside(p: float) -> bool:
        return _times_log(count, p) + _times_log(trials - count, 1 - p) > bar

    best = count / trials
    return _edge(inside, best, 0.0), _edge(inside, best, 1.0)


def difference(only_a: int, only_b: int, scenes: int, level: float = 0.05) -> tuple[float, float]:
    """An interval of ``rate_b - rate_a`` that holds at all looks at once, with 1 - ``level``."""
    low_a, high_a = always_valid(only_a, scenes, level / 2)
    low_b, high_b = always_valid(only_b, scenes, level / 2)
    return low_b - high_a, high_b - low_a


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _times_log(times: int, p: float) -> float:
    return 0.0 if times == 0 else times * log(p) if p > 0 else -inf


def _edge(inside: object, best: float, end: float) -> float:
    """Where between ``best``, which is inside, and ``end`` it stops being inside."""
    assert callable(inside)
    if inside(end):
        return end
    within, beyond = best, end
    for _ in range(60):
        middle = (within + beyond) / 2
        within, beyond = (middle, beyond) if inside(middle) else (within, middle)
    return beyond
