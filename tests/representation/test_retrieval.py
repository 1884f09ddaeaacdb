"""Retrieval against rankings made by hand, and against what chance gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.errors import UnderstudyError
from vla.representation.evaluation.retrieval import clip_embedding, retrieve

unhurried = settings(deadline=None, max_examples=30)


def at(*degrees):
    """Directions in the plane."""
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_ranks_and_precisions_counted_by_hand():
    found = retrieve(
        at(0, 90), ["open", "close"], gallery=3 * at(10, 20, 30, 80), gallery_labels=["close", "open", "open", "close"]
    )
    # from 0°: close, open, open, close; from 90°: close, open, open, close
    assert found.first_rank.tolist() == [2, 1]
    assert found.average_precision == pytest.approx([(1 / 2 + 2 / 3) / 2, (1 + 2 / 4) / 2])
    assert found.hits(1).tolist() == [False, True]
    assert (found.recall(1), found.recall(5)) == (0.5, 1.0)
    assert found.mean_average_precision() == pytest.approx((7 / 12 + 3 / 4) / 2)
    assert found.chance_recall(1) == pytest.approx(0.5)
    assert found.chance_recall(2) == pytest.approx(1 - 1 / 6)
    assert found.chance_recall(5) == 1


def test_features_of_the_task_find_every_clip():
    labels = np.arange(6).repeat(4)
    clips = np.eye(6)[labels]
    found = retrieve(clips, labels, gallery=clips + 0.01, gallery_labels=labels)
    assert (found.recall(1), found.mean_average_precision()) == (1, pytest.approx(1))


@pytest.mark.parametrize("labels", [["a", "b"] * 3, ["a"] * 3 + ["b"] * 3])
def test_a_collapsed_feature_finds_nothing_whatever_the_order(labels):
    same = np.full((6, 5), 0.3) * np.linspace(1, 2, 6)[:, None]
    found = retrieve(same, labels, gallery=same, gallery_labels=labels)
    assert found.recall(1) == 0
    assert found.first_rank.tolist() == [4] * 6


def test_random_features_score_by_chance():
    rng = np.random.default_rng(0)
    labels = np.arange(5).repeat([2, 4, 6, 8, 10])
    results = [
        retrieve(rng.normal(size=(30, 8)), labels, gallery=rng.normal(size=(30, 8)), gallery_labels=labels)
        for _ in range(200)
    ]
    for k in (1, 5):
        assert np.mean([r.recall(k) for r in results]) == pytest.approx(results[0].chance_recall(k), abs=0.02)
    mean = np.mean([r.mean_average_precision() for r in results])
    assert mean == pytest.approx(results[0].chance_average_precision(), abs=0.01)


@unhurried
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 4))
def test_results_do_not_depend_on_the_galleries_order_or_lengths(seed, tasks, each):
    rng = np.random.default_rng(seed)
    labels = np.arange(tasks).repeat(each)
    queries, gallery = rng.normal(size=(len(labels), 6)), rng.normal(size=(len(labels), 6))
    order = rng.permutation(len(labels))
    first = retrieve(queries, labels, gallery=gallery, gallery_labels=labels)
    second = retrieve(2 * queries, labels, gallery=5 * gallery[order], gallery_labels=labels[order])
    assert (first.first_rank == second.first_rank).all()
    assert first.average_precision == pytest.approx(second.average_precision)
    assert (1 / first.first_rank / each <= first.average_precision + 1e-12).all()
    assert (first.average_precision <= 1 + 1e-12).all()


def test_direction_tells_apart_what_the_mean_confuses():
    clip = np.linspace([1.0, 5.0], [2.0, 5.0], 7)
    assert clip_embedding(clip) == pytest.approx([1.5, 5])
    forward, backward = (clip_embedding(c, kind="mean_and_change") for c in (clip, clip[::-1]))
    assert forward[:2] == pytest.approx(backward[:2])
    assert forward[2:] == pytest.approx([1, 0])
    assert backward[2:] == pytest.approx([-1, 0])
    assert np.linalg.norm(forward[:2]) == pytest.approx(1)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(UnderstudyError, match="no clip labelled 'stack'"):
        retrieve(at(0), ["stack"], gallery=at(0), gallery_labels=["open"])
    with pytest.raises(UnderstudyError, match="one label for each clip"):
        retrieve(at(0, 1), ["open"], gallery=at(0), gallery_labels=["open"])
    with pytest.raises(UnderstudyError, match="did you mean 'mean'"):
        clip_embedding(np.ones((2, 2)), kind="meen")
    assert retrieve(at(0), [0], gallery=at(0), gallery_labels=[0]).chance_average_precision() == 1
