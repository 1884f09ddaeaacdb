"""Which caption a model believes in, on tables made by hand."""

import numpy as np
import pytest

from vla.errors import UnderstudyError
from vla.representation.evaluation.intent import TIMES, intent_accuracy, intent_chance, intent_hits

# Two clips, two times, three captions; the first caption is likely whatever is seen.
SCORES = np.array(
    [
        [[-1.0, -3.0, -3.0], [-1.0, -1.5, -3.0]],
        [[-0.5, -3.0, -3.0], [-0.5, -3.0, -2.9]],
    ]
)
BLANK = np.array([-1.0, -3.0, -3.0])


def test_hits_counted_by_hand():
    hits = intent_hits(SCORES, [1, 0], blank=BLANK)
    # clip 0 gains (0, 0, 0), then (0, 1.5, 0); clip 1 gains (0.5, 0, 0), then (0.5, 0, 0.1)
    assert hits == pytest.approx(np.array([[1 / 3, 1], [1, 1]]))
    assert intent_accuracy(hits) == pytest.approx([2 / 3, 1])


def test_without_the_blank_video_a_likely_caption_wins_all():
    naive = intent_hits(SCORES, [1, 0], blank=np.zeros(3))
    assert naive.tolist() == [[0, 0], [1, 1]]


def test_a_model_that_does_not_look_scores_exactly_chance():
    prior = np.random.default_rng(0).normal(size=(6, 4))
    blind = np.repeat(prior[:, None], len(TIMES), axis=1).astype(np.float32)
    hits = intent_hits(blind, np.arange(6) % 4, blank=prior)
    assert intent_accuracy(hits) == pytest.approx([intent_chance(4)] * len(TIMES))


def test_tables_that_do_not_fit_are_refused():
    for truth, blank in (([0, 3], BLANK), ([0], BLANK), ([0, 1], BLANK[:2]), ([0, 1], np.full(3, np.nan))):
        with pytest.raises(UnderstudyError):
            intent_hits(SCORES, truth, blank=blank)
