"""Is it better than eyes that learned nothing? Paired on the same items, as one word, for a table."""

from dataclasses import dataclass

import numpy as np

from sim.intervals import mcnemar, newcombe
from sim.probe.record import Metric
from vla.representation.evaluation.intervals import paired_difference, verdict


@dataclass(frozen=True)
class Verdict:
    """A difference of two subjects on one metric, with its 95 % interval, and ``word``: better, worse, not better."""

    word: str
    difference: float
    low: float
    high: float


def compared(metric: Metric, baseline: Metric) -> Verdict | None:
    """``metric`` beside ``baseline`` on the same items; ``None`` when there are none to pair."""
    a, b = np.array(metric.items), np.array(baseline.items)
    if len(a) < 2 or len(a) != len(b):
        return None
    if np.isin(np.concatenate([a, b]), (0, 1)).all():
        both, only_a, only_b, neither = (
            int(np.sum(x & y)) for x, y in ((a == 1, b == 1), (a == 1, b == 0), (a == 0, b == 1), (a == 0, b == 0))
        )
        low, high = newcombe(both, only_b, only_a, neither)
        sure = mcnemar(only_a, only_b) <= 0.05
        word = ("better" if only_a > only_b else "worse") if sure else "not better"
        return Verdict(word, float((a - b).mean()), low, high)
    difference = paired_difference(a, b)
    # the items of errors are negated, so that more is always better here
    word = verdict(difference).replace(" than", "")
    return Verdict(word, difference.estimate, difference.low, difference.high)
