"""The page of a run: what was asked, what was sent and what the arm did, every intervention, and the latency ledger.

log = Log(run.plan)
while …:                      # as long as the run lasts
    log.drain()
    live.update(log.ledger().line())
    sleep(0.05)
write_report(folder, log)     # folder/report.html, one file that needs nothing else, and folder/report.json
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.control import State
from robot_bridge.ledger import STAGES, Ledger, Log, decoded, stacked
from robot_bridge.plan import Plan
from vla.charts import Band, legend, line_chart, short
from vla.errors import UnderstudyError
from vla.markup import Markup, document, el, join

PAGE, NUMBERS = "report.html", "report.json"
MOST_POINTS = 1500
MOST_ROWS = 500
QUANTILES = ("p50", "p95", "p99", "max", "count")
SHADED = (State.TRACKING, State.EXTRAPOLATE, State.RAMP_STOP, State.STOPPED)
STAGE_WORDS = {
    "waited": "captured → asked",
    "encode": "encoding",
    "wire": "wire, there and back",
    "queued": "queued at the server",
    "infer": "inference",
    "server": "the server's own",
    "arrived_after": "captured → arrived",
    "ready": "arrived → first used",
    "actuated_after": "captured → actuated",
}


def write_report(folder: Path, log: Log, *, more: Mapping[str, object] | None = None) -> Path:
    """Write the page and its numbers into ``folder``; the page's path. ``more``: what else to say under provenance.

    Raises `UnderstudyError` when the folder cannot be written.
    """
    log.drain()
    ledger, facts = log.ledger(), {**provenance(log.plan), **(more or {})}
    numbers = {
        "ledger": ledger.to_dict(),
        "provenance": facts,
        "events": [
            {"s": _seconds(log, one), "code": decoded(one["code"]), "message": decoded(one["message"])}
            for one in log.events
        ],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / NUMBERS, json.dumps(numbers, indent=2, allow_nan=False, default=str))
        _replace(folder / PAGE, page(log, ledger, facts))
    except OSError as error:
        raise UnderstudyError(f"the report cannot be written to {folder}: {error.strerror}") from error
    return folder / PAGE


def provenance(plan: Plan) -> dict[str, object]:
    """What a run was, in plain JSON types; no keys, and no options of the arm, which may hold a password."""
    mode = "replay" if plan.actions is not None else "shadow, nothing is sent" if plan.config.shadow else "drive"
    return {
        "mode": mode,
        "checkpoint": plan.policy.checkpoint or "-",
        "actions from": str(plan.actions or plan.address),
        "encrypted": plan.keys is not None,
        "arm": f"{plan.arm.target} ({plan.arm_spec.embodiment}, {plan.arm_spec.rate_hz:g} Hz)",
        "cameras": ", ".join(f"{one.name} {one.width}x{one.height}" for one in plan.policy.cameras),
        "policy": f"{plan.policy.control_hz:g} Hz, {plan.policy.pred_horizon} steps at once, "
        f"{plan.policy.exec_horizon} carried out, {plan.policy.action.kind}",
        "control": asdict(plan.config),
        "limits": asdict(plan.arm_spec.limits),
    }


def page(log: Log, ledger: Ledger, facts: Mapping[str, object]) -> str:
    """The whole HTML document."""
    bands = _bands(log)
    return document(
        f"{ledger.state} after {ledger.seconds:.1f} s · Understudy run",
        _headline(ledger, facts),
        _trajectory(log, bands),
        _actions(log, bands),
        _events(log),
        _latencies(ledger),
        _provenance(facts),
        el("footer", f"All figures of this page, but the curves, are in {NUMBERS} beside it."),
    )


def _headline(ledger: Ledger, facts: Mapping[str, object]) -> Markup:
    total = sum(ledger.interventions.values())
    faults = {code for code in ledger.interventions if code.startswith("stop_")} - {"stop_operator"}
    kind = "ko" if faults else "ok"
    pill = el("span", f"{total} interventions" if total != 1 else "1 intervention", class_=f"pill {kind}")
    title = el("h1", f"Understudy run · {facts['mode']} · {facts['checkpoint']}")
    return el("header", title, el("div", f"{ledger.seconds:.1f} s", class_="big num"), el("p", ledger.line()), pill)


def _trajectory(log: Log, bands: Sequence[Band]) -> Markup:
    if not log.ticks:
        return el("section", el("h2", "Joints"), el("p", "No tick of control was seen."))
    ticks = _thinned(log.ticks)
    x = [_seconds(log, one) for one in ticks]
    lines = {"asked": "reference", "sent": "sent", "measured": "measured"}
    values = {name: stacked(ticks, field) for name, field in lines.items()}
    gripper = log.plan.arm_spec.gripper
    hand = -1 if gripper is None else gripper.index
    lag = np.abs(values["sent"] - values["measured"]).max(0)
    panels = [
        line_chart(joint, x, _series(values, index), unit="" if index == hand else "rad", log=False, bands=bands,
                   note=f"sent − measured up to {short(float(lag[index]))}")
        for index, joint in enumerate(log.plan.arm_spec.joints)
    ]  # fmt: skip
    note = "Over seconds. Asked: what the policy wants, between its steps; sent: what the governor made of it. Shaded: "
    key = [el("span", _words(state), class_=f"band-key {state.name.lower()}") for state in SHADED]
    told = el("p", note, *[join(one, " ") for one in key], class_="muted small")
    style = el("style", Markup(BANDS))
    return el("section", style, el("h2", "Joints"), told, legend(list(lines)), el("div", *panels, class_="panels"))


def _actions(log: Log, bands: Sequence[Band]) -> Markup:
    if not log.steps:
        return Markup("")
    steps, period_ns = _thinned(log.steps), log.plan.step_ns
    x = [_seconds(log, one) for one in steps]
    values = {name: stacked(steps, name).astype(np.float64) for name in ("asked", "sent")}
    gap_s = 2.5e-9 * period_ns * max(1, len(log.steps) // len(steps))
    breaks = [index for index, (a, b) in enumerate(pairwise(x), start=1) if b - a > gap_s]
    x_broken = np.insert(np.asarray(x), breaks, [x[index] for index in breaks]).tolist()
    broken = {name: np.insert(rows, breaks, np.nan, axis=0) for name, rows in values.items()}
    panels = [
        line_chart(name, x_broken, _series(broken, index), log=False, bands=bands)
        for index, name in enumerate(log.plan.policy.action.names)
    ]
    note = f"{len(log.steps)} steps, in the action's own units ({log.plan.policy.action.kind})."
    head = join(el("h2", "The policy's actions"), el("p", note, class_="muted small"))
    return el("section", head, legend(["asked", "sent"]), el("div", *panels, class_="panels"))


def _events(log: Log) -> Markup:
    if not log.events:
        return el("section", el("h2", "Interventions and orders"), el("p", "None."))
    shown = log.events if len(log.events) <= MOST_ROWS else log.events[-MOST_ROWS:]
    rows = [
        [f"{_seconds(log, one):.3f} s", decoded(one["code"]), decoded(one["message"])] for one in shown
    ]  # fmt: skip
    counts = ", ".join(f"{code} {count}" for code, count in log.codes.most_common()) or "no interventions"
    left = f" The last {len(shown)} of {len(log.events)}; all are in {NUMBERS}." if len(shown) < len(log.events) else ""
    head = join(el("h2", "Interventions and orders"), el("p", f"{counts}.{left}", class_="muted small"))
    return el("section", head, _table(["when", "code", "what"], rows))


def _latencies(ledger: Ledger) -> Markup:
    rows = [
        [STAGE_WORDS[stage], *_figures(ledger.stages_ms[stage])] for stage in STAGES if ledger.stages_ms[stage]["count"]
    ]
    control = [["a tick after its instant", *_figures(ledger.late_ms)]] if ledger.late_ms["count"] else []
    counts = [
        ["requests asked", str(ledger.asked)],
        ["answered", str(ledger.answered)],
        ["messages dropped", str(ledger.dropped)],
        ["deadlines missed", str(ledger.deadline_misses)],
        ["control ticks", str(ledger.ticks)],
        ["ticks missed", str(ledger.missed)],
        ["records that this page lacks", str(ledger.unseen)],
    ]
    note = "Milliseconds; quantiles to 1 %. Stamps are of this machine's monotonic clock; a server reports spans only."
    return el(
        "section",
        el("h2", "Latencies"),
        el("p", note, class_="muted small"),
        _table(["stage", *QUANTILES], rows, numbers=True),
        _table(["control", *QUANTILES], control, numbers=True),
        _table(["counted", ""], counts, numbers=True),
    )


def _provenance(facts: Mapping[str, object]) -> Markup:
    terms = [join(el("dt", name), el("dd", _fact(value))) for name, value in facts.items()]
    return el("section", el("h2", "Provenance"), el("dl", *terms))


def _fact(value: object) -> Markup:
    plain = isinstance(value, str | int | float | None)
    return join(str(value)) if plain else el("code", json.dumps(value, ensure_ascii=False, default=str))


def _figures(summary: Mapping[str, float]) -> list[str]:
    return [short(summary[name]) for name in QUANTILES]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False) -> Markup:
    if not rows:
        return Markup("")
    kinds = ["num" if numbers and index else None for index in range(len(head))]
    top = el("tr", *[el("th", word, class_=kind) for word, kind in zip(head, kinds, strict=True)])
    body = [el("tr", *[el("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)]) for row in rows]
    return el("div", el("table", el("thead", top), el("tbody", *body), class_="plain"), class_="scroll")


def _bands(log: Log) -> list[Band]:
    """Stretches of one state, seconds since the first tick."""
    bands: list[Band] = []
    changes = [one for before, one in pairwise([None, *log.ticks]) if before is None or before["state"] != one["state"]]
    for one, after in pairwise([*changes, *log.ticks[-1:]]):
        state = State(int(one["state"]))
        if state in SHADED and after["stamp_ns"] > one["stamp_ns"]:
            bands.append((_seconds(log, one), _seconds(log, after), state.name.lower()))
    return bands


def _series(values: Mapping[str, NDArray[np.float64]], index: int) -> dict[str, list[float | None]]:
    return {
        name: [float(value) if np.isfinite(value) else None for value in rows[:, index]]
        for name, rows in values.items()
    }  # fmt: skip


def _words(state: State) -> str:
    return state.name.lower().replace("_", " ")


def _thinned(records: list[Any]) -> list[Any]:
    """At most so many that a page stays small."""
    return records[:: max(1, -(-len(records) // MOST_POINTS))]


def _seconds(log: Log, record: Any) -> float:
    return round(1e-9 * (int(record["stamp_ns"]) - log.begun_ns), 4) if log.begun_ns else 0.0


def _replace(file: Path, content: str) -> None:
    """Whole or not at all."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(content, "utf-8")
    part.replace(file)


BANDS = """
.band { opacity: .16; } .band.tracking { fill: var(--ok); } .band.extrapolate { fill: var(--note-edge); }
.band.ramp_stop { fill: var(--ko); } .band.stopped { fill: var(--soft); }
.band-key { padding: 0 8px; border-bottom: 4px solid; } .band-key.tracking { border-color: var(--ok); }
.band-key.extrapolate { border-color: var(--note-edge); } .band-key.ramp_stop { border-color: var(--ko); }
.band-key.stopped { border-color: var(--soft); }
"""
