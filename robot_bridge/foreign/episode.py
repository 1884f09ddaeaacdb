"""Episodes that somebody else runs, and a policy of ours that answers in them."""

import json
import logging
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from time import monotonic_ns
from typing import Any, Self

from policies.execution import ChunkExecutor, ExecutionConfig
from policies.policy import SPEC_FILE, Policy, read_specs
from robot_bridge.brain import Brain, OneByOne
from robot_bridge.foreign.conventions import Rows
from robot_bridge.foreign.table import Seen, Table
from robot_bridge.safety import governed
from robot_bridge.server import MOST_ROBOTS
from robot_bridge.transport import is_local
from vla.errors import UnderstudyError, first_line, unknown
from vla.types import Task

logger = logging.getLogger(__name__)


class Episode:
    """It begins with its first observation, since only that says what is to be done; other words begin it anew."""

    def __init__(self, policy: Policy, reset: Callable[..., None]) -> None:
        self.policy, self._reset = policy, reset
        self.seed = 0
        self._words: str | None = None

    def begin(self, seed: int) -> None:
        """Forget the one before."""
        self.seed, self._words = seed, None

    def hear(self, words: str) -> bool:
        """Be told; whether that began an episode."""
        if words == self._words:
            return False
        self._reset(Task(words), seed=self.seed)
        self._words = words
        return True


class Stepwise(Episode):
    """One action for each observation: our executor does what `vla eval`'s does."""

    def __init__(self, policy: Policy, table: Table, execution: ExecutionConfig) -> None:
        self._executor, self._table, self._steps = ChunkExecutor(policy, execution), table, 0
        super().__init__(policy, self._executor.reset)

    def act(self, seen: Seen) -> Rows:
        """Their next action. Time is that of the steps: their world may stand still while somebody thinks."""
        if self.hear(seen.instruction):
            self._steps = 0
        table, spec = self._table, self.policy.spec
        stamp_ns = round(1e9 * self._steps / spec.control_hz)
        if self._steps < table.settle:
            action = table.still()
        else:
            action = governed(self._executor.act(lambda: table.observed(seen, stamp_ns)), spec.action)
        made = table.carried_out(action[None], lambda: table.proprio(seen))[0]
        self._steps += 1
        return made


@dataclass
class Asked(ABC):
    """What every server for others has: a `Brain`, the words of the other side, and what it counts."""

    brain: Brain
    table: Table
    address: str
    token: bytes = b""

    def __post_init__(self) -> None:
        if not self.token and not is_local(self.address):
            raise UnderstudyError(
                f"{self.address} can be reached from other machines, and this protocol asks nobody who he is: give "
                "--token FILE, or an address of this machine"
            )
        self.counts: Counter[str] = Counter()
        self.latencies_us: dict[str, deque[int]] = {"total": deque(maxlen=1000)}
        self.most = 1 if isinstance(self.brain, OneByOne) else MOST_ROBOTS

    @abstractmethod
    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`, having said that one is ``ready``."""

    @abstractmethod
    def stop(self) -> None:
        """End `run`."""

    @contextmanager
    def serving(self) -> Iterator[Self]:
        """Serve in a thread of its own."""
        up = threading.Event()
        thread = threading.Thread(target=self.run, args=(up.set,), daemon=True)
        thread.start()
        if not up.wait(10):
            raise UnderstudyError(f"the server did not come up at {self.address}")
        try:
            yield self
        finally:
            self.stop()
            thread.join(10)

    def allowed(self, token: object) -> bool:
        """Whether somebody with this token may ask."""
        given = token.encode() if isinstance(token, str) else b""
        return not self.token or compare_digest(given, self.token)

    def answered(self, began_ns: int, count: int = 1) -> None:
        """Count an answer."""
        self.counts["answered"] += count
        self.latencies_us["total"].append((monotonic_ns() - began_ns) // 1000)

    def failed(self, error: Exception) -> str:
        """Count what went wrong; the reason to be told. What is ours to mend is logged whole."""
        if isinstance(error, UnderstudyError):
            self.counts["refused"] += 1
            return first_line(error)[:500]
        self.counts["failed"] += 1
        logger.error("the policy failed", exc_info=error)
        return f"{type(error).__name__}: {first_line(error)}"[:500]


def read_token(file: Path | None) -> bytes:
    """The secret in a file that its owner alone can read; nothing without a file."""
    if file is None:
        return b""
    if not file.is_file() or file.stat().st_mode & 0o077:
        raise UnderstudyError(
            f"{file} is no file that you alone can read: write a secret into it, then chmod 600 {file}"
        )
    token = file.read_bytes().strip()
    if len(token) < 16 or not token.isalnum():
        raise UnderstudyError(
            f"the secret in {file} must be at least 16 letters and digits: openssl rand -hex 16 makes one"
        )
    return token


def check_embodiment(checkpoint: Path, embodiment: str) -> None:
    """Refuse to guess whose statistics turn a policy's answers into physical units."""
    specs = read_specs(checkpoint) if (checkpoint / SPEC_FILE).is_file() else {}
    if specs and embodiment not in specs:
        raise unknown("embodiment of the policy", embodiment, specs)


def seed_of(told: object) -> int:
    """``seed`` plus ``episode_idx`` of what a harness says of a task, 0 each if it does not."""
    task = told if isinstance(told, dict) else {}
    numbers: Sequence[Any] = [task.get(name, 0) for name in ("seed", "episode_idx")]
    if any(type(one) is not int or not 0 <= one < 2**62 for one in numbers):
        raise UnderstudyError(
            f"seed and episode_idx of a task are whole numbers from 0 on, got {json.dumps(numbers)[:80]}"
        )
    return sum(numbers)
