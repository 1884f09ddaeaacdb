"""A report is what its episodes say, survives the file, and says the unpleasant things."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.intervals import wilson
from sim.results import (
    CONDITIONS,
    EpisodeResult,
    episodes_of,
    latency_table,
    paired_test,
    read_report,
    summarize,
    write_json,
)
from vla.errors import UnderstudyError

LIFT, OPEN = "tabletop/lift-red-cube", "tabletop/open-drawer"


def run(successes, episodes=20, *, task=LIFT, condition="policy", first_seed=0):
    """The first ``successes`` of ``episodes`` scenes succeed."""
    return [
        EpisodeResult(
            task,
            f"do {task}",
            condition,
            first_seed + i,
            first_seed + i,
            i < successes,
            30 + i if i < successes else 120,
        )
        for i in range(episodes)
    ]


@st.composite
def evaluations(draw):
    keys = st.tuples(st.sampled_from(CONDITIONS), st.text(min_size=1, max_size=8), st.integers(0, 2**40))
    chosen = draw(st.lists(keys, max_size=20, unique=True))
    chosen.append(("policy", "a/b", 2**41))
    return [
        EpisodeResult(
            task=task,
            instruction=draw(st.text(max_size=8)),
            condition=condition,
            seed=seed,
            initial_state=draw(st.integers(0, 99)) if condition in ("random", "expert") else seed % 100,
            success=draw(st.booleans()),
            steps=draw(st.integers(0, 500)),
            latency_ms=tuple(draw(st.lists(st.integers(0, 9999).map(lambda n: n / 1000), max_size=3))),
            film=draw(st.sampled_from([None, "films/a.mp4"])),
        )
        for condition, task, seed in chosen
    ]


@settings(deadline=None, max_examples=50)
@given(evaluations())
def test_episodes_survive_summary_and_file(tmp_path_factory, results):
    # A control without a scene of the policy's cannot be compared with it.
    scenes = {(r.task, r.seed) for r in results if r.condition == "policy"}
    for control in ("wrong-instruction", "blank-prompt"):
        played = [r for r in results if r.condition == control]
        if played and not any((r.task, r.seed) in scenes for r in played):
            results = [r for r in results if r not in played]
    report = summarize(results, wall_s={"evaluate": 1.5}, provenance={"seed": 3})
    folder = tmp_path_factory.mktemp("report")
    back = read_report(write_json(folder / "report.json", report))
    assert back == json.loads(json.dumps(report))
    assert read_report(folder) == back
    for condition in CONDITIONS:
        assert set(episodes_of(back, condition)) == {r for r in results if r.condition == condition}


def test_a_report_counts_per_task_and_pools_over_all():
    report = summarize(run(19) + run(5, 10, task=OPEN) + run(1, condition="random"))
    lift, drawer = report["tasks"][LIFT], report["tasks"][OPEN]
    assert (lift["episodes"], lift["successes"], lift["success_rate"]) == (20, 19, 0.95)
    assert lift["wilson"] == pytest.approx([0.764, 0.991], abs=5e-4)
    assert lift["median_steps"] == 39
    assert (drawer["successes"], len(drawer["episodes_detail"])) == (5, 10)
    assert report["mean"]["success_rate"] == 24 / 30
    assert report["mean"]["wilson"] == list(wilson(24, 30))
    assert report["conditions"]["random"]["mean"]["successes"] == 1
    assert report["uses_instruction"] is None


@pytest.mark.parametrize(
    ("policy", "floor", "better"),
    [(20, 0, True), (3, 2, False), (0, 0, False), (0, 20, False), (20, None, None)],
)
def test_better_than_random_needs_intervals_that_do_not_touch(policy, floor, better):
    floors = [] if floor is None else run(floor, condition="random")
    report = summarize(run(policy) + floors)
    assert report["better_than_random"] is better
    said = " ".join(report["remarks"])
    assert ("no better than random" in said) is (better is False)
    assert ("No random floor" in said) is (better is None)


def test_remarks_name_the_worst_task_the_failing_expert_and_the_few_episodes():
    results = run(9, 10) + run(2, 10, task=OPEN) + run(1, 10, task=OPEN, condition="random")
    said = summarize(results + run(9, 10, condition="expert"))["remarks"]
    assert any(OPEN in line and "2 of 10" in line for line in said)
    assert any("Not shown to be above random on 1 of 2" in line for line in said)
    assert any("expert itself fails 1 of 10" in line for line in said)
    assert any("Only 10 episodes" in line for line in said)


@pytest.mark.parametrize(("told_wrong", "uses"), [(2, True), (18, False)])
def test_the_instruction_is_used_only_when_a_wrong_one_harms(told_wrong, uses):
    report = summarize(run(19) + run(told_wrong, condition="wrong-instruction"))
    assert report["uses_instruction"]["difference"] == pytest.approx((19 - told_wrong) / 20)
    assert ("The policy uses its instruction" in " ".join(report["remarks"])) is uses


def broken(results, count):
    """The first ``count`` of them could not be judged."""
    return [
        replace(one, success=False, fault="Diverged: NaN") if number < count else one
        for number, one in enumerate(results)
    ]


def test_what_could_not_be_judged_speaks_for_nobody():
    policy, floor, misled = run(8), run(8, condition="random"), run(8, condition="wrong-instruction")
    for count in (0, 5, 20):
        report = summarize(policy + broken(floor, count) + broken(misled, count))
        assert not report["better_than_random"]
        assert report["uses_instruction"] is None or report["uses_instruction"]["difference"] == 0
        assert any("random could not be judged, left out" in one for one in report["remarks"]) is bool(count)
    assert report["better_than_random"] is report["uses_instruction"] is None
    assert report["conditions"]["random"]["mean"]["faults"] == 20
    assert any("Not shown to be above random on 1 of 1 tasks" in remark for remark in report["remarks"])
    report = summarize(broken(policy, 5) + run(0, condition="random"))
    assert report["mean"]["success_rate"] == 3 / 20  # its own count against it
    assert any("5 episodes of the policy could not be judged, counted as failures" in one for one in report["remarks"])


def test_a_paired_test_counts_only_the_shared_scenes():
    a, b = run(10, 20), run(4, 20, first_seed=8)
    test = paired_test(a, b)
    # Seeds 8 to 19 are shared: a succeeds on 8 and 9, b on 8 to 11.
    assert (test.pairs, test.both, test.only_a, test.only_b, test.neither) == (12, 2, 0, 2, 8)
    assert test.difference == pytest.approx(2 / 12)
    assert test.p_value == 0.5


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_a_paired_test_mirrors_when_the_runs_change_places(outcomes):
    a, b = (
        [EpisodeResult(LIFT, "", "policy", seed, seed, pair[side], 1) for seed, pair in enumerate(outcomes)]
        for side in (0, 1)
    )
    there, back = paired_test(a, b), paired_test(b, a)
    assert there.both + there.only_a + there.only_b + there.neither == there.pairs == len(outcomes)
    assert (there.only_a, there.rate_a, there.p_value) == (back.only_b, back.rate_b, back.p_value)
    assert there.difference == -back.difference == pytest.approx(there.rate_b - there.rate_a)
    assert there.interval[0] - 1e-12 <= there.difference <= there.interval[1] + 1e-12


def test_scenes_that_are_not_the_same_are_refused():
    with pytest.raises(UnderstudyError, match="share no"):
        paired_test(run(1), run(1, first_seed=100))
    with pytest.raises(UnderstudyError, match="not the same scene"):
        paired_test(run(1), [replace(episode, initial_state=7) for episode in run(1)])
    with pytest.raises(UnderstudyError, match="2 times"):
        summarize(run(1) + run(1)[:1])
    with pytest.raises(UnderstudyError, match="no episode"):
        summarize(run(1, condition="random"))


def test_latencies_are_those_of_numpy():
    samples = np.random.default_rng(0).gamma(2.0, 3.0, 500)
    table = latency_table(samples)
    assert [table["p50"], table["p95"], table["p99"]] == pytest.approx(np.percentile(samples, (50, 95, 99)), abs=1e-3)
    assert (table["mean"], table["max"], table["count"]) == (round(samples.mean(), 3), round(samples.max(), 3), 500)
    assert latency_table([]) == {"p50": None, "p95": None, "p99": None, "mean": None, "max": None, "count": 0}


def test_json_is_whole_readable_and_strict(tmp_path):
    report = {"array": np.arange(3), "nan": float("nan"), "half": np.float32(0.5), **summarize(run(19))}
    path = write_json(tmp_path / "new" / "report.json", report)
    text = path.read_text(encoding="utf-8")
    back = json.loads(text)
    assert (back["array"], back["nan"], back["half"]) == ([0, 1, 2], None, 0.5)
    # One line per episode.
    assert sum(line.count('"seed"') == 1 for line in text.splitlines()) == text.count('"seed"') == 20
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def edited(report, change):
    report = json.loads(json.dumps(report))
    change(report)
    return report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.pop("tasks"), "no 'tasks'"),
        (lambda report: report["tasks"][LIFT].pop("episodes_detail"), "no 'episodes_detail'"),
        (lambda report: report["tasks"][LIFT]["episodes_detail"][0].pop("seed"), "lacks its seed"),
        (lambda report: report["tasks"][LIFT]["episodes_detail"][0].update(seed="seven"), "seed"),
        (lambda report: report["tasks"][LIFT].update(successes=20), "other counts"),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(tmp_path, change, message):
    write_json(tmp_path / "report.json", edited(summarize(run(19)), change))
    with pytest.raises(UnderstudyError, match=message):
        read_report(tmp_path)


def test_what_is_no_report_is_refused(tmp_path):
    with pytest.raises(UnderstudyError, match="no report at"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("{", encoding="utf-8")
    with pytest.raises(UnderstudyError, match="not JSON"):
        read_report(tmp_path)
