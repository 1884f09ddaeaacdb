"""`vla compare` judges only on shared scenes, says what it left out, and never calls noise a difference."""

import json
from html.parser import HTMLParser

import pytest

from sim.compare import compare, main
from sim.results import EpisodeResult, summarize, write_json
from vla.errors import UnderstudyError

LIFT, OPEN = "tabletop/lift-red-cube", "tabletop/open-drawer"


def report(successes, episodes=20, *, tasks=(LIFT, OPEN), first_seed=0, **provenance):
    """On every task the first ``successes`` of ``episodes`` scenes succeed."""
    results = [
        EpisodeResult(task, f"do {task}", "policy", first_seed + i, first_seed + i, i < successes, 30)
        for task in tasks
        for i in range(episodes)
    ]
    return summarize(results, provenance=provenance)


@pytest.fixture
def folders(tmp_path):
    """A succeeds in 8 and B in 16 of 20 scenes of each task; B was given a task and five seeds that A was not."""
    write_json(tmp_path / "a" / "report.json", report(8))
    write_json(tmp_path / "b" / "report.json", report(16, 25, tasks=(LIFT, OPEN, "tabletop/new")))
    return tmp_path / "a", tmp_path / "b"


def test_counts_are_those_of_the_shared_scenes_per_task_and_pooled(folders):
    comparison = compare(report(8), report(16))
    test = comparison["tasks"][LIFT]
    counts = [test[name] for name in ("pairs", "both", "only_a", "only_b", "neither")]
    assert counts == [20, 8, 0, 8, 4]
    assert test["difference"] == pytest.approx(0.4)
    assert test["p_value"] == 2 / 2**8
    # Holm: the smallest of two p values doubles, and the other cannot fall below it.
    assert test["p_holm"] == comparison["tasks"][OPEN]["p_holm"] == 4 / 2**8
    pooled = comparison["pooled"]
    assert [pooled[name] for name in ("pairs", "both", "only_a", "only_b", "neither")] == [40, 16, 0, 16, 8]
    assert pooled["p_value"] == 2 / 2**16


@pytest.mark.parametrize(
    ("a", "b", "verdict", "said"),
    [
        (8, 16, "B better", "B is better: A succeeds in 40.0% and B in 80.0% of the same 40 scenes"),
        (16, 8, "A better", "A is better"),
        (9, 12, "B better", "B is better"),
        (9, 11, "no difference shown", "The two differ on 4 scenes"),
        (9, 9, "no difference shown", "The two differ on 0 scenes"),
    ],
)
def test_the_verdict_follows_the_exact_test(a, b, verdict, said):
    comparison = compare(report(a), report(b))
    assert comparison["pooled"]["verdict"] == verdict
    assert said in comparison["verdict"]


def test_a_task_is_judged_by_the_p_value_that_counts_how_many_were_looked_at():
    # 2 / 2**6 = 3.1% decides one task alone; among two tasks it is 6.2%.
    alone, among = (compare(report(0, tasks=tasks), report(6, tasks=tasks)) for tasks in ([LIFT], [LIFT, OPEN]))
    assert alone["tasks"][LIFT]["verdict"] == "B better"
    assert among["tasks"][LIFT]["verdict"] == "no difference shown"
    assert among["pooled"]["verdict"] == "B better"


def test_five_scenes_can_never_decide_and_six_can():
    assert compare(report(0, tasks=[LIFT]), report(5, tasks=[LIFT]))["pooled"]["verdict"] == "no difference shown"
    assert compare(report(0, tasks=[LIFT]), report(6, tasks=[LIFT]))["pooled"]["verdict"] == "B better"


def test_enough_differing_scenes_without_a_difference_ask_for_no_more_seeds():
    a, b = report(5, 10), report(5, 10)
    for entry in b["tasks"].values():
        for row in entry["episodes_detail"]:
            row["success"] = not row["success"]
    verdict = compare(a, b)["verdict"]
    assert "No difference is shown" in verdict
    assert "more seeds" not in verdict


def test_what_only_one_run_holds_is_left_out_and_said(folders, capsys):
    assert main([str(folder) for folder in folders]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "WARNING: 35 of the 75 scenes of B are in that run alone: LEFT OUT" in said
    assert "tabletop/new" in said
    assert "of the same 40 scenes" in said
    assert said.index("WARNING") < said.index("B is better")
    assert not compare(report(8), report(8))["warnings"]


@pytest.mark.parametrize("name", ["suite", "fingerprint"])
def test_different_simulators_are_said(name):
    said = compare(report(8, **{name: {"profile": "fast"}}), report(8, **{name: {"profile": "lerobot"}}))["warnings"]
    assert len(said) == 1
    assert "'fast'" in said[0]
    assert "'lerobot'" in said[0]
    assert not compare(report(8, **{name: "fast"}), report(8, **{name: "fast"}))["warnings"]


def test_what_could_not_be_judged_and_whom_the_world_waited_for_is_said():
    faulty = summarize(
        [EpisodeResult(LIFT, "", "policy", i, i, i >= 9, 30, fault="Diverged: NaN" if i < 9 else "") for i in range(20)]
    )
    said = compare(report(20, tasks=[LIFT]), faulty)["warnings"]
    assert said == ["9 of the 20 episodes of B could not be judged, and count as failures: Diverged."]
    (said,) = compare(report(8), report(8, charged_latency_ms=400.0))["warnings"]
    assert said.startswith("While A was thinking the world stood still, while B was it moved on for 400 ms")
    assert not compare(report(8, fingerprint="a"), report(8))["warnings"]  # an older report says nothing of it


def test_the_files_hold_what_was_said(folders, tmp_path, capsys):
    data, page = tmp_path / "new" / "c.json", tmp_path / "newer" / "c.html"
    main([str(folders[0] / "report.json"), str(folders[1]), "--json", str(data), "--html", str(page)])
    comparison = json.loads(data.read_text(encoding="utf-8"))
    assert comparison["verdict"] in " ".join(capsys.readouterr().out.split())
    shown = []
    parser = HTMLParser()
    parser.handle_data = shown.append
    parser.feed(page.read_text(encoding="utf-8"))
    text = "".join(shown)
    assert comparison["warnings"]
    expected = [comparison["verdict"], *comparison["warnings"], *comparison["tasks"], "all tasks", comparison["a"]]
    assert [part for part in expected if part not in text] == []
    assert "http" not in page.read_text(encoding="utf-8").replace("http-equiv", "")


@pytest.mark.parametrize(("order", "code"), [((0, 1), 0), ((1, 0), 1), ((0, 0), 0)])
def test_a_gate_fails_only_when_b_is_shown_to_be_worse(folders, order, code):
    arguments = [str(folders[i]) for i in order]
    assert main([*arguments, "--fail-if-worse"]) == code
    assert main(arguments) == 0


def test_errors_are_for_the_person_at_the_keyboard(folders, tmp_path):
    a, b = map(str, folders)
    with pytest.raises(UnderstudyError, match="no report at"):
        main([a, str(tmp_path / "gone")])
    with pytest.raises(UnderstudyError, match="is a folder"):
        main([a, b, "--json", str(tmp_path)])
    write_json(tmp_path / "c" / "report.json", report(3, first_seed=500))
    with pytest.raises(UnderstudyError, match="share no"):
        main([a, str(tmp_path / "c")])
    other = report(8)
    other["tasks"][LIFT]["episodes_detail"][0]["initial_state"] = 99
    with pytest.raises(UnderstudyError, match="not the same scene"):
        compare(report(8), other)


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    assert "vla compare outputs/" in capsys.readouterr().out
