"""Do features keep the order of time across clips: Kendall's τ and cycle consistency of nearest frames (XIRL, §4).

Clips are features [T, D] over frames; nearness is Euclidean. Everything rests on one table:

    table[a, b, t]   the frame of clip b that is nearest to frame t of clip a

A frame that has several nearest ones takes the first. So a constant feature, which ties every frame with every
other, scores τ = 0 and returns from a cycle to frame 0, not to where it started.
"""

from collections.abc import Sequence

import numpy as np

from vla.errors import UnderstudyError

SPEEDS = (0.5, 2.0)
"""The slowest and the fastest that `trimmed_and_warped` plays a clip."""


def nearest_frames(clips: Sequence[np.ndarray]) -> np.ndarray:
    """The table [N, N, T] of the clips' nearest frames; 0 where t lies past the end of a shorter clip."""
    lengths = _lengths(clips)
    longest = max(lengths)
    # Distances come from |b|² − 2ab, which cancels badly where the features share a large offset.
    centre = np.concatenate(clips).mean(axis=0, dtype=np.float64)
    bank = np.zeros((len(clips), longest, clips[0].shape[1]))
    for row, clip in zip(bank, clips):
        row[: len(clip)] = clip - centre
    squared = (bank**2).sum(-1)
    past = np.arange(longest) >= np.array(lengths)[:, None]
    offset = np.where(past, np.inf, squared)
    # Above the rounding of the products: equal frames (a pause) must tie whatever order BLAS sums in.
    slack = 1e-12 * squared.max()
    table = np.zeros((len(clips), len(clips), longest), dtype=np.int64)
    for a, clip in enumerate(bank):
        distance = offset - 2 * (clip @ bank.reshape(-1, clip.shape[-1]).T).reshape(longest, *squared.shape)
        table[a] = (distance <= distance.min(-1, keepdims=True) + slack).argmax(-1).T
    return np.where(past[:, None], 0, table)


def kendall_tau(a: np.ndarray, b: np.ndarray, *, stride: int = 1) -> float:
    """Kendall's τ-b between time in clip ``a`` [Ta, D] and the nearest frames in ``b`` [Tb, D]; 1 is in order.

    Args:
        a: The clip whose frames ask.
        b: The clip in which the nearest frames are sought.
        stride: Only every so-manieth frame of both is used; XIRL takes 3.
    """
    return float(kendall_taus([a, b], stride=stride)[0, 1])


def kendall_taus(clips: Sequence[np.ndarray], *, stride: int = 1) -> np.ndarray:
    """τ of every ordered pair, [N, N]; nan for a clip with itself."""
    if stride < 1:
        raise UnderstudyError(f"stride must be at least 1, got {stride}")
    strided = [clip[::stride] for clip in clips]
    table, lengths = nearest_frames(strided), _lengths(strided)
    return _off_diagonal(np.stack([_tau(rows[:, :length]) for rows, length in zip(table, lengths)]))


def cycle_consistency(a: np.ndarray, b: np.ndarray, *, tolerance: float = 1) -> float:
    """Share of the frames of ``a`` from which the way to ``b`` and back ends where it began, within the tolerance.

    Args:
        a: The clip to start from, [Ta, D].
        b: The clip to visit, [Tb, D].
        tolerance: 0, 1, 2, … frames, or a share of the length of ``a`` if it lies between 0 and 1 (0.05: ±5 %).
    """
    return float(cycle_consistencies([a, b], tolerance=tolerance)[0, 1])


def cycle_consistencies(clips: Sequence[np.ndarray], *, tolerance: float = 1) -> np.ndarray:
    """Cycle consistency of every ordered pair, [N, N]; nan for a clip with itself."""
    table, lengths = nearest_frames(clips), _lengths(clips)
    every = np.arange(len(clips))[:, None]
    shares = [_returned(table[every, a, table[a, :, :n]], n, tolerance) for a, n in enumerate(lengths)]
    return _off_diagonal(np.stack(shares))


def three_way(a: np.ndarray, b: np.ndarray, c: np.ndarray, *, tolerance: float = 1) -> float:
    """Share of the frames of ``a`` from which the way a → b → c → a ends where it began, within the tolerance."""
    return float(three_way_consistencies([a, b, c], tolerance=tolerance)[0, 1, 2])


def three_way_consistencies(clips: Sequence[np.ndarray], *, tolerance: float = 1) -> np.ndarray:
    """Three-way consistency a → b → c → a of every ordered triple, [N, N, N]; nan where a clip comes twice."""
    table, lengths = nearest_frames(clips), _lengths(clips)
    every = np.arange(len(clips))
    shares = np.full((len(clips),) * 3, np.nan)
    for a, length in enumerate(lengths):
        for b in np.delete(every, a):
            in_c = table[b][:, table[a, b, :length]]  # (N, Ta)
            shares[a, b] = _returned(table[every[:, None], a, in_c], length, tolerance)
            shares[a, b, [a, b]] = np.nan
    return shares


def cycle_chance(length: int, *, tolerance: float = 1) -> float:
    """Cycle consistency of a clip of ``length`` frames whose cycles end anywhere."""
    gaps = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    return float((gaps <= _frames(tolerance, length)).mean())


def trimmed_and_warped(
    length: int, rng: np.random.Generator, *, trim: float = 0.2, pauses: int = 2, longest_pause: float = 0.1
) -> np.ndarray:
    """Indices that play a clip of ``length`` frames from late to early end, now slow, now fast, with pauses.

    Without them a representation that only counts frames aligns any two clips of equal length.

    Args:
        length: Frames of the clip, at least 8.
        rng: Source of the randomness.
        trim: Largest share of the clip that is cut off at either end, at most 0.25.
        pauses: How many frames are held.
        longest_pause: Share of the clip that a frame is held for at most.

    Returns:
        Frame numbers that never fall and advance by at most 2; as many as it takes, 2 or more.
    """
    if length < 8 or not 0 <= trim <= 0.25:
        raise UnderstudyError(f"at least 8 frames and a trim of 0…0.25 are needed, got {length} and {trim}")
    start, stop = np.array([rng.uniform(0, trim), 1 - rng.uniform(0, trim)]) * (length - 1)
    slow, fast = np.log(SPEEDS)
    place = np.linspace(start, stop, 8 * length)
    speed = np.exp(np.interp(place, np.linspace(start, stop, 5), rng.uniform(slow, fast, 5)))
    clock = np.concatenate([[0.0], np.cumsum(np.diff(place) * 2 / (speed[1:] + speed[:-1]))])
    frames = np.floor(np.interp(np.arange(int(clock[-1]) + 1), clock, place) + 0.5).astype(np.int64)
    held = np.ones(len(frames), dtype=np.int64)
    np.add.at(held, rng.integers(len(frames), size=pauses), rng.integers(0, int(longest_pause * length) + 1, pauses))
    return np.repeat(frames, held)


def shuffled(length: int, rng: np.random.Generator) -> np.ndarray:
    """Indices that play a clip in random order: the control on which τ must be about 0."""
    return rng.permutation(length)


def _tau(order: np.ndarray) -> np.ndarray:
    """τ-b of each row [..., T] with 0, 1, …, T - 1; 0 for a constant row, which says nothing of order."""
    early, late = np.triu_indices(order.shape[-1], k=1)
    signs = np.sign(order[..., late] - order[..., early])
    untied = np.abs(signs).sum(-1)
    return signs.sum(-1) / np.sqrt(np.maximum(untied, 1) * len(early))


def _returned(back: np.ndarray, length: int, tolerance: float) -> np.ndarray:
    """Share of the cycles [..., T] that end near their start."""
    return (np.abs(back - np.arange(length)) <= _frames(tolerance, length)).mean(-1)


def _frames(tolerance: float, length: int) -> float:
    if tolerance < 0 or (tolerance > 1 and tolerance != int(tolerance)):
        raise UnderstudyError(f"tolerance must be whole frames or a share between 0 and 1, got {tolerance}")
    return tolerance if tolerance >= 1 else tolerance * length + 1e-9


def _lengths(clips: Sequence[np.ndarray]) -> list[int]:
    shapes = [np.shape(clip) for clip in clips]
    if len(shapes) < 2 or any(len(shape) != 2 or shape[0] < 2 or shape[1] != shapes[0][-1] for shape in shapes):
        raise UnderstudyError(f"at least two clips of features [T >= 2, D] with one D are needed, got {shapes[:4]}")
    if not all(np.isfinite(clip).all() for clip in clips):
        raise UnderstudyError("features must be finite; some are nan or infinite")
    return [shape[0] for shape in shapes]


def _off_diagonal(table: np.ndarray) -> np.ndarray:
    np.fill_diagonal(table, np.nan)
    return table
