"""What is kept of a run while it lasts, and its numbers: one latency ledger, in simulation and on an arm.

captured ─waited─► asked ─encode─► ─wire, there and back─► [ queued ─► infer ] ─► arrived ─ready─► actuated
└─────────────────────────── arrived_after ──────────────────────────────────────┘                 │
└─────────────────────────── actuated_after ───────────────────────────────────────────────────────┘
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.control import State
from robot_bridge.plan import Plan
from robot_bridge.rings import Ring

STAGES = ("waited", "encode", "wire", "queued", "infer", "server", "arrived_after", "ready", "actuated_after")
"""As drawn above; ``server``: what a server took beside queueing and inference."""
SHOWN_HZ = 50.0
MOST_SHOWN = 60_000
"""Ticks kept for drawing; when there are more, every second one goes, and so on."""
LAST_CHUNKS = 64
_READ = ("ticks", "steps", "events", "chunks")


class Histogram:
    """Positive numbers, counted in bins that are 1 % wide: quantiles to 1 % of any number of values, in little room."""

    SMALLEST, RATIO, BINS = 1e-6, 1.01, 3000

    def __init__(self) -> None:
        self.count, self.max = 0, 0.0
        self._bins = np.zeros(self.BINS, np.int64)

    def add(self, values: Iterable[float]) -> None:
        """Count ``values``; what is negative or nothing counts as the smallest."""
        given = np.asarray(list(values), np.float64)
        if not len(given):
            return
        places = np.log(np.maximum(given, self.SMALLEST) / self.SMALLEST) / np.log(self.RATIO)
        self._bins += np.bincount(np.minimum(places.astype(np.int64), self.BINS - 1), minlength=self.BINS)
        self.count, self.max = self.count + len(given), max(self.max, float(given.max()))

    def quantile(self, share: float) -> float:
        """The value under which ``share`` of all lie; 0 when there are none."""
        if not self.count:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._bins), share * self.count))
        return min(self.max, self.SMALLEST * self.RATIO ** (place + 0.5))

    def summary(self) -> dict[str, float]:
        """``count``, ``p50``, ``p95``, ``p99`` and ``max``; only the count when there are none."""
        if not self.count:
            return {"count": 0}
        quantiles = {name: self.quantile(share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
        return {"count": self.count, **quantiles, "max": self.max}


@dataclass(frozen=True)
class Ledger:
    """The numbers of a run so far.

    ``stages_ms``: `Histogram.summary` by `STAGES`, milliseconds; ``late_ms``: of a tick after its instant; ``missed``:
    ticks left out; ``unseen``: records that were overwritten before `Log` read them; ``asked``, ``answered``,
    ``dropped``: requests, answers, and messages that were of no use; ``deadline_misses``: requests not answered within
    their budget, and chunks that came after it; ``interventions``: how often, by code.
    """

    state: str
    seconds: float
    stages_ms: dict[str, dict[str, float]]
    late_ms: dict[str, float]
    ticks: int
    missed: int
    unseen: int
    asked: int
    answered: int
    dropped: int
    deadline_misses: int
    interventions: dict[str, int]
    trouble: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def line(self) -> str:
        """One line for who watches the run."""
        infer, age = self.stages_ms["infer"], self.stages_ms["actuated_after"]
        rate = self.ticks / self.seconds if self.seconds else 0.0
        parts = [f"{self.state} {self.seconds:.1f} s · {rate:.0f} Hz"]
        if infer["count"]:
            parts.append(f"infer {infer['p50']:.0f} ms (p99 {infer['p99']:.0f})")
        if age["count"]:
            parts.append(f"seen to moved {age['p50']:.0f} ms (p99 {age['p99']:.0f})")
        if self.late_ms["count"]:
            parts.append(f"tick {self.late_ms['p99']:.2f} ms late at p99, {self.missed} of {self.ticks} missed")
        parts.append(f"{self.answered} of {self.asked} answered")
        total = sum(self.interventions.values())
        parts.append(f"{total} intervention{'' if total == 1 else 's'}")
        return " · ".join(part for part in (*parts, self.trouble) if part)


class Log:
    """Drains the rings of a run; call `drain` at least every few seconds, 20 times a second for a live line.

    ``ticks``: some of them, for drawing; ``steps``, ``events``: all, as the rings' records.
    """

    def __init__(self, plan: Plan, rings: Mapping[str, Ring] | None = None) -> None:
        self.plan, self.rings = plan, rings if rings is not None else plan.rings()
        self.ticks: list[Any] = []
        self.steps: list[Any] = []
        self.events: list[Any] = []
        self.codes = Counter[str]()
        self.unseen = 0
        self._at = {name: self.rings[name].written for name in _READ}
        self._stages = {stage: Histogram() for stage in STAGES}
        self._late = Histogram()
        self._shown_ns = round(1e9 / SHOWN_HZ)
        self._first_ns = self._last_ns = self._late_chunks = 0
        self._arrivals: OrderedDict[int, int] = OrderedDict()
        """when chunks arrived that nothing has been carried out of yet, by their stamp"""

    @property
    def begun_ns(self) -> int:
        """Stamp of the first tick."""
        return self._first_ns

    def drain(self) -> None:
        """Take over what the rings hold that is new."""
        news = {name: self._new(name) for name in _READ}
        self._read_ticks(news["ticks"])
        self._read_chunks(news["chunks"])
        self._read_steps(news["steps"])
        self.events += news["events"]
        self.codes.update(code for one in news["events"] if not (code := decoded(one["code"])).startswith("order_"))

    def ledger(self) -> Ledger:
        """The numbers so far."""
        control, link = self.rings["control"].newest(), self.rings["link"].newest()
        asked, answered, dropped = (0 if link is None else int(link[name]) for name in ("asked", "answered", "dropped"))
        open_still = 1 if link is not None and bool(link["alive"]) else 0
        return Ledger(
            state="-" if control is None else State(int(control["state"])).name,
            seconds=1e-9 * (self._last_ns - self._first_ns),
            stages_ms={stage: histogram.summary() for stage, histogram in self._stages.items()},
            late_ms=self._late.summary(),
            ticks=0 if control is None else int(control["ticks"]),
            missed=0 if control is None else int(control["missed"]),
            unseen=self.unseen,
            asked=asked,
            answered=answered,
            dropped=dropped,
            deadline_misses=max(0, asked - answered - open_still) + self._late_chunks,
            interventions=dict(self.codes.most_common()),
            trouble="" if link is None else decoded(link["trouble"]),
        )

    def _new(self, name: str) -> list[Any]:
        found, self._at[name], lost = self.rings[name].since(self._at[name])
        self.unseen += lost
        return found

    def _read_ticks(self, ticks: list[Any]) -> None:
        self._late.add(1e-6 * float(one["late_ns"]) for one in ticks)
        for one in ticks:
            self._last_ns = int(one["stamp_ns"])
            self._first_ns = self._first_ns or self._last_ns
            last = self.ticks[-1] if self.ticks else None
            if last is None or last["state"] != one["state"] or self._last_ns - last["stamp_ns"] >= self._shown_ns:
                self.ticks.append(one)
        while len(self.ticks) > MOST_SHOWN:
            self.ticks, self._shown_ns = self.ticks[::2], 2 * self._shown_ns

    def _read_chunks(self, chunks: list[Any]) -> None:
        if self.plan.actions is not None:
            return  # nobody was asked
        budget_ns = self.plan.step_ns * (self.plan.policy.pred_horizon - 1)
        for one in chunks:
            after_us = (int(one["arrived_ns"]) - int(one["stamp_ns"])) / 1e3
            trip, encode, total = (float(one[f"{name}_us"]) for name in ("round_trip", "encoded", "total"))
            queued, infer = float(one["queued_us"]), float(one["inferred_us"])
            spent_us = {
                "waited": after_us - trip,
                "encode": encode,
                "wire": trip - encode - total,
                "queued": queued,
                "infer": infer,
                "server": total - queued - infer,
                "arrived_after": after_us,
            }
            for stage, value in spent_us.items():
                self._stages[stage].add([1e-3 * value])
            self._late_chunks += 1e3 * after_us > budget_ns
            self._arrivals[int(one["stamp_ns"])] = int(one["arrived_ns"])
        while len(self._arrivals) > LAST_CHUNKS:
            self._arrivals.popitem(last=False)

    def _read_steps(self, steps: list[Any]) -> None:
        self.steps += steps
        for one in steps:
            age_ns = int(one["age_ns"])
            arrived_ns = self._arrivals.pop(int(one["stamp_ns"]) - age_ns, None)
            if arrived_ns is not None:
                self._stages["ready"].add([1e-6 * (int(one["stamp_ns"]) - arrived_ns)])
                self._stages["actuated_after"].add([1e-6 * age_ns])


def decoded(value: bytes) -> str:
    """Text of a record's field."""
    return value.decode(errors="replace")


def stacked(records: list[Any], field: str) -> NDArray[Any]:
    """A field of many records, [T, …]."""
    return np.stack([one[field] for one in records]) if records else np.empty(0)
