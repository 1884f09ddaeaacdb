"""Which frames a method sees: drawn once and for all from the names of the clips, so that every method sees the same.

    index = FrameIndex(corpus.names, corpus.lengths, seed=0)
    clips, epochs = index.order(step, batch=32)
    frames = index.quintets(clips, epochs)  # [32, 5], counted from the start of each clip

Every number is a hash of (seed, the clip's name, epoch, what it is for). Nothing is drawn from a generator that
others share, so the order of the clips does not matter, neither does which other clips there are, nor what was drawn
before. `FrameIndex.stamp` names all of this; results of methods with the same stamp may be compared.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from vla.errors import UnderstudyError

VERSION = 1
"""Of the scheme. Whoever changes which frames are drawn changes this; the tests hold values of it."""
EDGE_SHARE = 0.2
"""The initial frame comes from the first share of a clip, the final frame from the last (Voltron, R3M)."""
QUINTETS, SPANS, UNIFORM, ORDER, DRAW = range(1, 6)
"""What a number is drawn for; numbers for different ends have nothing to do with each other. From DRAW on: `draw`."""
GOLDEN, MIX_1, MIX_2 = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class FrameIndex:
    """The frames of K clips with unique ``names`` and ``lengths`` [K] > 0, drawn by ``seed``."""

    def __init__(self, names: Sequence[str], lengths: np.ndarray, *, seed: int) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        if len(names) != len(self.lengths) or len(set(names)) != len(names) or not len(names):
            raise UnderstudyError(f"one length for each of at least one unique name; got {len(names)} names")
        if self.lengths.min() < 1:
            raise UnderstudyError(f"clip {names[int(self.lengths.argmin())]!r} has no frames; leave it out")
        self.seed = seed
        key = f"{VERSION}/{seed}".encode()
        digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in names)
        self._hashes = np.frombuffer(digests, "<u8").astype(np.uint64)
        self._epoch, self._order = -1, np.empty(0, np.int64)
        whole = hashlib.blake2b(f"{VERSION} {EDGE_SHARE} {seed}".encode(), digest_size=8)
        for name, length in sorted(zip(names, self.lengths.tolist())):
            whole.update(f"{len(name)} {name} {length}\n".encode())
        self.stamp = whole.hexdigest()
        """Names clips, lengths, seed and scheme, in whatever order the clips are; kept in checkpoints."""

    def __len__(self) -> int:
        return len(self.lengths)

    def quintets(self, clips: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """Initial, three inner and final frame of each clip, int64 [B, 5], never decreasing.

        The initial one lies in the first 20 %, the final one in the last; the inner ones are distinct and strictly
        between them. A clip of fewer than 5 frames repeats some.
        """
        lengths = self.lengths[clips]
        chance = self._uniform(clips, epochs, QUINTETS, 5)
        edge = np.maximum(1, (lengths * EDGE_SHARE).astype(np.int64))
        initial = _below(edge, chance[:, 0])
        final = lengths - 1 - _below(edge, chance[:, 4])
        room = final - initial - 1
        inner = initial[:, None] + 1 + _distinct(room, chance[:, 1:4])
        repeated = initial[:, None] + np.sort(_below(room[:, None] + 2, chance[:, 1:4]), axis=1)
        inner = np.where(room[:, None] >= 3, inner, np.minimum(repeated, final[:, None]))
        return np.concatenate([initial[:, None], inner, final[:, None]], axis=1)

    def spans(self, clips: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """First and last frame of a random part of each clip, and two neighbours in it: (i, T, k, k + 1), [B, 4].

        i <= k < k + 1 <= T, as VIP draws them; a clip of one frame gives that frame four times.
        """
        last = self.lengths[clips] - 1
        chance = self._uniform(clips, epochs, SPANS, 3)
        begin = _below(last, chance[:, 0])
        end = begin + 1 + _below(last - begin, chance[:, 1])
        inner = begin + _below(end - begin, chance[:, 2])
        return np.minimum(np.stack([begin, end, inner, inner + 1], axis=1), last[:, None])

    def uniform(self, clips: np.ndarray, epochs: np.ndarray, count: int) -> np.ndarray:
        """``count`` frames of each clip in order, [B, count], as TCC draws them.

        They are distinct where the clip is long enough; of a shorter one, every frame comes as often as the next.
        """
        lengths = self.lengths[clips]
        chance = self._uniform(clips, epochs, UNIFORM, count)
        spread = _below(lengths[:, None], (np.arange(count) + chance[:, :1]) / count)
        return np.where(lengths[:, None] >= count, _distinct(lengths, chance), spread)

    def draw(self, clips: np.ndarray, epochs: np.ndarray, what: int) -> np.ndarray:
        """One number in [0, 1) for each, float64 [B]; ``what`` >= 0 tells a method's own ends apart."""
        return self._uniform(clips, epochs, DRAW + what, 1)[:, 0]

    def order(self, number: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Clips and epochs [B] of batch ``number``; every epoch is its own permutation of all clips.

        Batches may cross from one epoch into the next. A further clip comes in somewhere; the rest keep their order.
        """
        epochs, places = np.divmod(np.arange(number * batch, (number + 1) * batch), len(self))
        clips = np.empty(batch, np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            clips[here] = self._permutation(epoch)[places[here]]
        return clips, epochs

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            everyone = np.arange(len(self))
            self._order = np.argsort(self._uniform(everyone, np.int64(epoch), ORDER, 1)[:, 0], kind="stable")
            self._epoch = epoch
        return self._order

    def _uniform(self, clips: np.ndarray, epochs: np.ndarray, end: int, count: int) -> np.ndarray:
        """Numbers in [0, 1), float64 [B, count]."""
        with np.errstate(over="ignore"):
            state = _mixed(self._hashes[clips] + (np.asarray(epochs).astype(np.uint64) + np.uint64(1)) * GOLDEN)
            state = _mixed(state + np.uint64(end) * GOLDEN)
            bits = _mixed(state[:, None] + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * GOLDEN)
        return (bits >> np.uint64(11)) * 2.0**-53


def _mixed(bits: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: each bit of the result depends on all bits given."""
    bits = (bits ^ (bits >> np.uint64(30))) * MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * MIX_2
    return bits ^ (bits >> np.uint64(31))


def _below(size: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """An integer from 0 to below ``size`` (0 where ``size`` is 0) for a ``chance`` in [0, 1)."""
    return np.maximum(np.minimum((chance * size).astype(np.int64), size - 1), 0)


def _distinct(size: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """As many distinct integers below ``size`` [B] as ``chance`` [B, n] has columns, sorted, every set as likely.

    Floyd's sampling: the j-th draw is from the first ``size - n + j + 1`` and, if it was drawn before, is replaced by
    the last of these. Where ``size`` < n the rows mean nothing.
    """
    count = chance.shape[1]
    chosen = np.full(chance.shape, -1, np.int64)
    for column in range(count):
        top = size - count + column
        value = _below(top + 1, chance[:, column])
        taken = (chosen[:, :column] == value[:, None]).any(axis=1)
        chosen[:, column] = np.where(taken, top, value)
    return np.sort(chosen, axis=1)
