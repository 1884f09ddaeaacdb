"""Which film shows a sample its task: other episodes of the robot's, films of people, those of people in its own place.

Pairs are made by their words (Jain et al. 2024, §III-A): whoever was told the same did the same. Words are needed for
nothing else.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from policies.vid2robot_model import PairsConfig
from vla.data.corpus import Corpus
from vla.data.windows import Windows
from vla.errors import UnderstudyError
from vla.prompt import spread
from vla.representation.batches import augmented

KINDS = ("robot_robot", "hindsight", "colocated")


class Prompts:
    """Films for the samples of ``windows``, whose first camera's episodes are prompts too.

    ``colocated``: names of the folders in ``films`` that were filmed in the robot's place.
    """

    def __init__(
        self, windows: Windows, films: Corpus | None, pairs: PairsConfig, *, frames: int, colocated: Sequence[str] = ()
    ) -> None:
        self._robot, self._films, self._frames = next(iter(windows.frames.values())), films, frames
        self._ends, self._weights = windows.ends, asdict(pairs)
        told = [windows.instructions[number] for number in windows.instruction_of]
        self._words = np.array(told, object)
        last = np.unique(windows.ends[windows.samples])
        begins = np.searchsorted(windows.ends, last)
        self._spans: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
        for words in dict.fromkeys(told):
            own = self._words[begins] == words
            self._spans["robot_robot"][words] = np.stack([begins[own], last[own]], axis=1)
        if films is not None:
            self._file(films, colocated)
        self._check(windows)

    def _file(self, films: Corpus, colocated: Sequence[str]) -> None:
        spans = np.stack([films.starts, films.starts + films.lengths], axis=1)
        folders = {name.partition("/")[0] for name in films.names}
        for name in colocated:
            if not any(clip.startswith(f"{name}/") for clip in films.names):
                raise UnderstudyError(
                    f"policy.colocated names {name}, and videos=[…] has {', '.join(sorted(folders))}; give several "
                    "folders of videos, and the name of one of them"
                )
        here = np.array([clip.startswith(tuple(f"{name}/" for name in colocated)) for clip in films.names])
        words = np.array(films.captions, object)
        for kind, chosen in (("hindsight", ~here), ("colocated", here)):
            self._spans[kind] = {told: spans[chosen & (words == told)] for told in dict.fromkeys(films.captions)}

    def _check(self, windows: Windows) -> None:
        """Every sample must have some prompt."""
        for words in windows.told:
            if self.shares(words).sum() == 0:
                raise UnderstudyError(
                    f"nothing shows {words!r}: there is one episode of it, and no film in videos=[…] has these words"
                )

    def shares(self, words: str) -> np.ndarray:
        """How often a sample that was told ``words`` has a prompt of each of `KINDS`; all 0 if there is none."""
        counts = [len(self._spans[kind].get(words, ())) for kind in KINDS]
        least = (2, 1, 1)  # an episode is no prompt for itself
        weights = np.array([self._weights[kind] * (n >= need) for kind, n, need in zip(KINDS, counts, least)])
        return weights / weights.sum() if weights.sum() else weights

    def draw(self, indices: np.ndarray, rng: np.random.Generator, *, augment: bool) -> np.ndarray:
        """Prompts [B, F, H, W, 3] for the samples at ``indices`` [B]."""
        shown = []
        for index in indices:
            words = self._words[index]
            kind = KINDS[rng.choice(len(KINDS), p=self.shares(words))]
            spans = self._spans[kind][words]
            if kind == "robot_robot":
                spans = spans[spans[:, 1] != self._ends[index]]
            begin, end = spans[rng.integers(len(spans))]
            source = self._robot if kind == "robot_robot" else self._films
            shown.append(np.asarray(source[begin + spread(int(end - begin), self._frames, rng if augment else None)]))
        prompts = np.stack(shown)
        return augmented(prompts, rng) if augment else prompts
