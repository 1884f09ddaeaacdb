"""The data-locked index: the same frames for everybody, in the right places, and never changed by mistake."""

import numpy as np
import pytest

from vla.data.frame_index import FrameIndex
from vla.errors import UnderstudyError

NAMES = ("pour/1", "pour/2", "wipe", "öffnen", "x")
LENGTHS = np.array([30, 12, 7, 64, 1])


@pytest.fixture(scope="module")
def many():
    """2000 clips of 1 to 60 frames."""
    lengths = np.random.default_rng(0).integers(1, 61, 2000)
    return FrameIndex([f"clip {number}" for number in range(2000)], lengths, seed=3)


def everything(index, clips, epochs):
    """All that can be drawn, side by side."""
    drawn = [index.quintets(clips, epochs), index.spans(clips, epochs), index.uniform(clips, epochs, 6)]
    return np.concatenate([*drawn, index.draw(clips, epochs, 2)[:, None]], axis=1)


def test_the_scheme_is_what_it_was():
    """Other values here mean that checkpoints can no longer be compared: then VERSION must change, too."""
    index = FrameIndex(NAMES, LENGTHS, seed=7)
    clips, epochs = np.arange(5), np.array([0, 1, 2, 3, 1000000])
    assert index.stamp == "4949a4f37a3f7dfc"
    assert index.quintets(clips, epochs).tolist() == [
        [5, 6, 12, 20, 27],
        [1, 2, 8, 9, 11],
        [0, 2, 4, 5, 6],
        [2, 33, 45, 51, 54],
        [0, 0, 0, 0, 0],
    ]
    assert index.spans(clips, epochs).tolist() == [
        [17, 19, 17, 18],
        [2, 6, 3, 4],
        [1, 4, 2, 3],
        [58, 63, 59, 60],
        [0, 0, 0, 0],
    ]
    assert index.uniform(clips, epochs, 4).tolist() == [
        [1, 5, 13, 29],
        [1, 3, 4, 9],
        [0, 2, 3, 5],
        [1, 16, 26, 53],
        [0, 0, 0, 0],
    ]
    assert index.draw(clips, epochs, 0).round(9).tolist() == [
        0.084612275,
        0.724732871,
        0.377269814,
        0.232366194,
        0.329726013,
    ]
    assert [part.tolist() for part in index.order(1, 4)] == [[3, 4, 2, 3], [0, 1, 1, 1]]


def test_two_instances_draw_the_same():
    clips, epochs = np.arange(5).repeat(50), np.tile(np.arange(50), 5)
    one, two = (FrameIndex(NAMES, LENGTHS, seed=7) for _ in range(2))
    one.quintets(clips[::3], epochs[::3])  # what was drawn before does not matter
    np.testing.assert_array_equal(everything(one, clips, epochs), everything(two, clips, epochs))
    together = everything(two, clips, epochs)
    alone = np.concatenate([everything(one, clips[n : n + 1], epochs[n : n + 1]) for n in range(len(clips))])
    np.testing.assert_array_equal(together, alone)


def test_the_order_of_the_clips_and_the_others_do_not_matter():
    shuffled = [3, 0, 4, 1, 2]
    one = FrameIndex(NAMES, LENGTHS, seed=7)
    two = FrameIndex([NAMES[n] for n in shuffled], LENGTHS[shuffled], seed=7)
    more = FrameIndex(["a", *NAMES, "b"], np.array([9, *LENGTHS, 80]), seed=7)
    epochs = np.arange(5) * 11
    expected = everything(one, np.arange(5), epochs)
    np.testing.assert_array_equal(everything(two, np.arange(5), epochs[shuffled]), expected[shuffled])
    np.testing.assert_array_equal(everything(more, np.arange(1, 6), epochs), expected)
    assert one.stamp == two.stamp != more.stamp
    orders = []
    for index, names in ((one, NAMES), (two, [NAMES[n] for n in shuffled]), (more, ["a", *NAMES, "b"])):
        clips, _ = index.order(2, len(index))
        orders.append([names[clip] for clip in clips if names[clip] in NAMES])
    assert orders[0] == orders[1] == orders[2]


def test_everything_in_it_changes_it():
    base = FrameIndex(NAMES, LENGTHS, seed=7)
    others = [
        FrameIndex(NAMES, LENGTHS, seed=8),
        FrameIndex(("pour/3", *NAMES[1:]), LENGTHS, seed=7),
        FrameIndex(NAMES, np.array([31, *LENGTHS[1:]]), seed=7),
    ]
    assert len({index.stamp for index in [base, *others]}) == 4
    clips, epochs = np.zeros(200, int), np.arange(200)
    draws = [index.draw(clips, epochs, 0) for index in (base, *others[:2])]
    draws += [base.draw(clips, epochs, 1), base.draw(clips, epochs + 1, 0)[:-1], base.draw(clips + 1, epochs, 0)]
    firsts = np.stack([draw[:199] for draw in draws])
    assert (np.abs(np.corrcoef(firsts) - np.eye(len(firsts))) < 0.25).all()
    assert len(np.unique(firsts)) > 0.99 * firsts.size - 200  # the last shift shares its values with the first


def test_numbers_are_spread_evenly(many):
    clips, epochs = np.arange(2000).repeat(25), np.tile(np.arange(25), 2000)
    numbers = many.draw(clips, epochs, 5)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 95  # chi-squared, 49 degrees of freedom: 1 in 10⁴ is above
    by_epoch = numbers.reshape(2000, 25)
    assert abs(np.corrcoef(by_epoch[:, :-1].ravel(), by_epoch[:, 1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(by_epoch[:-1].ravel(), by_epoch[1:].ravel())[0, 1]) < 0.02


def test_quintets_are_where_they_should_be(many):
    clips, epochs = np.arange(2000).repeat(10), np.tile(np.arange(10), 2000)
    found, lengths = many.quintets(clips, epochs), many.lengths[clips]
    assert found.dtype == np.int64
    assert found.min() >= 0
    assert (found < lengths[:, None]).all()
    assert (np.diff(found, axis=1) >= 0).all()
    long = lengths >= 5
    assert (np.diff(found[long], axis=1) > 0).all()
    assert (found[long, 0] < np.maximum(1, 0.2 * lengths[long])).all()
    assert (found[long, 4] >= lengths[long] - np.maximum(1, 0.2 * lengths[long])).all()
    assert (found[lengths == 1] == 0).all()


def test_quintets_reach_everything():
    """In the long run each allowed frame is drawn as often as the next; the inner three are a fair draw of three."""
    index = FrameIndex(["a", "b"], np.array([20, 5]), seed=0)
    found = index.quintets(np.zeros(20000, int), np.arange(20000))
    np.testing.assert_allclose(np.bincount(found[:, 0], minlength=20)[:4] / 20000, 0.25, atol=0.02)
    np.testing.assert_allclose(np.bincount(found[:, 4], minlength=20)[16:] / 20000, 0.25, atol=0.02)
    edges = (found[:, 0] == 3) & (found[:, 4] == 16)
    inner = found[edges, 1:4] - 4
    assert len(inner) > 1000
    np.testing.assert_allclose(np.bincount(inner.ravel(), minlength=12) / len(inner), 3 / 12, atol=0.05)
    assert len(np.unique(inner, axis=0)) > 210  # of the 220 sets of 3 of 12
    assert (index.quintets(np.ones(9, int), np.arange(9)) == np.arange(5)).all()


def test_spans_are_where_they_should_be(many):
    clips, epochs = np.arange(2000).repeat(10), np.tile(np.arange(10), 2000)
    found, lengths = many.spans(clips, epochs), many.lengths[clips]
    begin, end, now, then = found[lengths > 1].T
    assert found.min() >= 0
    assert (found < lengths[:, None]).all()
    assert ((begin <= now) & (then == now + 1) & (then <= end)).all()
    assert (found[lengths == 1] == 0).all()
    index = FrameIndex(["a"], np.array([4]), seed=0)
    assert len(np.unique(index.spans(np.zeros(5000, int), np.arange(5000)), axis=0)) == 10


@pytest.mark.parametrize("count", [1, 4, 20])
def test_uniform_frames_are_sorted_and_distinct(many, count):
    clips, epochs = np.arange(2000), np.full(2000, 4)
    found, lengths = many.uniform(clips, epochs, count), many.lengths
    assert found.shape == (2000, count)
    assert found.min() >= 0
    assert (found < lengths[:, None]).all()
    assert (np.diff(found[lengths >= count], axis=1) > 0).all()
    assert (np.diff(found, axis=1) >= 0).all()
    for row, length in zip(found[lengths < count], lengths[lengths < count]):
        assert set(row.tolist()) == set(range(length))  # a short clip is there as a whole


def test_uniform_is_a_fair_draw():
    index = FrameIndex(["a"], np.array([6]), seed=1)
    found = index.uniform(np.zeros(30000, int), np.arange(30000), 3)
    sets, counts = np.unique(found, axis=0, return_counts=True)
    assert len(sets) == 20
    np.testing.assert_allclose(counts / 30000, 1 / 20, atol=0.006)


def test_every_epoch_has_every_clip_once():
    index = FrameIndex(NAMES, LENGTHS, seed=7)
    clips, epochs = (np.concatenate(parts) for parts in zip(*(index.order(number, 4) for number in range(10))))
    assert epochs.tolist() == np.repeat(np.arange(8), 5).tolist()
    permutations = clips.reshape(8, 5)
    assert (np.sort(permutations, axis=1) == np.arange(5)).all()
    assert len(np.unique(permutations, axis=0)) > 5
    again = FrameIndex(NAMES, LENGTHS, seed=7).order(7, 4)
    np.testing.assert_array_equal(again[0], clips[28:32])
    clips, epochs = index.order(0, 12)  # more than an epoch in a batch
    assert epochs.tolist() == [0] * 5 + [1] * 5 + [2] * 2


@pytest.mark.parametrize(
    ("names", "lengths", "message"),
    [
        (("a", "a"), [1, 2], "unique"),
        (("a",), [1, 2], "one length for each"),
        ((), [], "at least one"),
        (("a", "b"), [1, 0], "clip 'b' has no frames"),
    ],
)
def test_what_is_no_corpus(names, lengths, message):
    with pytest.raises(UnderstudyError, match=message):
        FrameIndex(names, np.array(lengths), seed=0)
