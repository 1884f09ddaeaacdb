"""What a policy has seen of an episode, for those that look back."""

from collections import deque

from vla.errors import UnderstudyError

REMEMBERED = 64
"""Observations."""


class Memory[Seen]:
    """The last things seen, each with its stamp."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, Seen]] = deque(maxlen=REMEMBERED)

    def clear(self) -> None:
        """Forget everything: an episode begins."""
        self._seen.clear()

    def add(self, stamp_ns: int, what: Seen) -> None:
        """Remember what was seen at ``stamp_ns``."""
        self._seen.append((stamp_ns, what))

    def back(self, count: int, step_ns: float) -> list[Seen]:
        """What was seen nearest to each of ``count`` times that end now and lie ``step_ns`` apart, oldest first.

        Where an episode is younger than that, its first sight stands for what was before.
        """
        if not self._seen:
            raise UnderstudyError("nothing has been seen in this episode")
        now = self._seen[-1][0]
        wanted = [now - step * step_ns for step in reversed(range(count))]
        return [min(self._seen, key=lambda one, when=when: abs(one[0] - when))[1] for when in wanted]
