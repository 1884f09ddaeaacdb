"""`vla leaderboard` ranks on shared scenes only, never calls noise a lead, and shows what it holds and no more."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sim.films import write_film
from sim.leaderboard.command import main
from sim.leaderboard.cost import cost_of
from sim.leaderboard.films import sources
from sim.leaderboard.page import size_text
from sim.leaderboard.runs import read_entrants
from sim.leaderboard.standings import groups_of, standings
from sim.results import EpisodeResult, summarize, write_json
from sim.tasks.metaworld_sets import TASK_SETS
from vla.errors import UnderstudyError
from vla.markup import VOID

LIFT, OPEN = "tabletop/lift-red-cube", "tabletop/open-drawer"
EVAL, TRAIN = "vla eval policy=a <b>", "vla train policy=cogact 'x & y'"


def episodes(successes, count=20, *, tasks=(LIFT, OPEN), condition="policy", first_seed=0, **fields):
    """On every task the first ``successes`` of ``count`` scenes succeed."""
    return [
        EpisodeResult(task, f"do {task}", condition, seed, seed, seed - first_seed < successes, 30, (10.0,), **fields)
        for task in tasks
        for seed in range(first_seed, first_seed + count)
    ]


def run(folder, successes, *more, count=20, tasks=(LIFT, OPEN), provenance=None, **fields):
    """The folder of an evaluation; ``more``: further episodes."""
    results = episodes(successes, count, tasks=tasks, **fields)
    about = {"checkpoint": str(folder / "train"), **(provenance or {})}
    report = summarize([*results, *(one for part in more for one in part)], provenance=about, wall_s={"evaluate": 60})
    write_json(folder / "report.json", report)
    return folder


def board_of(*arguments):
    return standings(read_entrants([str(argument) for argument in arguments]))


def row_of(board, name):
    return next(row for row in board["rows"] if row["name"] == name)


@pytest.fixture
def three(tmp_path):
    """A succeeds in 9, B in 16, C in 17 of 20 scenes of both tasks; each was trained once."""
    return [f"{name}={run(tmp_path / name, wins)}" for name, wins in (("A", 9), ("B", 16), ("C", 17))]


class Page(HTMLParser):
    """The text and the elements of a page; complains about tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if not self.open or self.open[-1] != "style" else ""

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_best_stands_first_and_places_that_are_not_told_apart_are_shared(three):
    board = board_of(*three)
    assert [(row["name"], row["rank"]) for row in board["rows"]] == [("C", [1, 2]), ("B", [1, 2]), ("A", [3, 3])]
    assert board["verdict"].startswith("C leads with 85.0% of the same 40 scenes")
    assert "shown over A; over B it is not" in board["verdict"]
    pair = next(pair for pair in board["pairs"] if (pair["better"], pair["worse"]) == ("B", "A"))
    # 14 scenes decide, all for B: the exact test's 2 / 2**14, times how many of the three pairs Holm still counts.
    assert pair["p_value"] == 2 / 2**14
    assert pair["p_holm"] == 2 * 2 / 2**14
    assert pair["difference"] == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("wins", "said"),
    [
        ({"A": 9}, "A succeeds in 45.0% of 40 scenes"),
        ({"A": 9, "B": 10}, "B is ahead with 50.0% of the same 40 scenes"),
        ({"A": 9, "B": 10}, "its lead over none of the others is shown"),
        ({"A": 9, "B": 18}, "its lead over every other is shown"),
    ],
)
def test_the_verdict_in_words(tmp_path, wins, said):
    assert said in board_of(*(f"{name}={run(tmp_path / name, count)}" for name, count in wins.items()))["verdict"]


def test_a_tie_is_no_lead(tmp_path):
    board = board_of(*(f"{name}={run(tmp_path / name, 20)}" for name in "AB"))
    assert [row["rank"] for row in board["rows"]] == [[1, 2], [1, 2]]
    assert not any(pair["shown"] for pair in board["pairs"])


def test_runs_of_one_name_are_trainings_of_one_row(tmp_path):
    wins = {"a-0": 10, "a-1": 12, "a-2": 17, "b-0": 2, "b-1": 3, "b-2": 2}
    for name, count in wins.items():
        run(tmp_path / name, count)
    board = board_of(f"A={tmp_path}/a-*", f"B={tmp_path}/b-0,{tmp_path}/b-1/report.json,{tmp_path}/b-2")
    row = row_of(board, "A")
    assert (row["trainings"], row["episodes"], row["successes"]) == (3, 120, 78)
    assert row["each_training"] == [0.5, 0.6, 0.85]
    assert row["success_rate"] == pytest.approx(0.65)
    # Trainings that differ are less sure than so many episodes.
    assert row["interval"][0] < row["wilson"][0] < 0.65 < row["wilson"][1] < row["interval"][1]
    assert board["pairs"][0]["shown"]
    assert row["tasks"][LIFT]["episodes"] == 60
    assert board == board_of(f"A={tmp_path}/a-*", f"B={tmp_path}/b-*")


def test_trainings_that_scatter_do_not_lead(tmp_path):
    for number, (a, b) in enumerate([(20, 14), (14, 4), (2, 6)]):
        run(tmp_path / f"a-{number}", a)
        run(tmp_path / f"b-{number}", b)
    pair = board_of(f"A={tmp_path}/a-*", f"B={tmp_path}/b-*")["pairs"][0]
    assert pair["difference"] == pytest.approx(0.2)
    assert not pair["shown"]
    assert pair["interval"][0] < 0 < pair["interval"][1]


def test_only_shared_scenes_count_and_the_rest_is_named_first(tmp_path, capsys):
    a = run(tmp_path / "a", 10)
    b = run(tmp_path / "b", 15, count=25, tasks=(LIFT, OPEN, "tabletop/new"))
    assert main([f"A={a}", f"B={b}", "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "WARNING: 35 of the 75 scenes of B are not in all runs: LEFT OUT" in said
    assert said.index("WARNING") < said.index("B leads")
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert board["scenes"] == {LIFT: 20, OPEN: 20}
    assert [row["episodes"] for row in board["rows"]] == [40, 40]
    with pytest.raises(UnderstudyError, match=r"share no \(task, seed\)"):
        board_of(f"A={a}", f"C={run(tmp_path / 'c', 3, first_seed=500)}")


def test_a_seed_that_was_another_scene_is_refused(tmp_path):
    other = json.loads((run(tmp_path / "a", 8) / "report.json").read_text())
    other["tasks"][LIFT]["episodes_detail"][0]["initial_state"] = 99
    write_json(tmp_path / "b" / "report.json", other)
    with pytest.raises(UnderstudyError, match="not the same scene"):
        board_of(f"A={tmp_path / 'a'}", f"B={tmp_path / 'b'}")


def test_other_simulators_and_other_demonstrations_are_said(tmp_path):
    about = [
        {"suite": {"profile": name}, "policy": {"data": {"hash": hashed}}}
        for name, hashed in (("fast", "1f"), ("lerobot", "2e"))
    ]
    board = board_of(*(f"{name}={run(tmp_path / name, 5, provenance=one)}" for name, one in zip("AB", about)))
    (warning,) = board["warnings"]
    assert all(word in warning for word in ("simulators differ", "'fast'}: A", "'lerobot'}: B"))
    assert any("not" in remark.lower() and "1f: A; 2e: B" in remark for remark in board["remarks"])
    late = run(tmp_path / "late", 5, provenance={"charged_latency_ms": 80.0})
    said = board_of(f"A={run(tmp_path / 'soon', 5)}", f"B={late}")["warnings"]
    assert said == ["The world moved on while these were thinking, and waited for the others: B."]
    alike = board_of(*(f"{name}={run(tmp_path / name, 5, provenance=about[0])}" for name in "AB"))
    assert not alike["warnings"]
    assert not any("demonstrations" in remark for remark in alike["remarks"])


def test_floor_and_ceiling_are_rows_of_their_own_on_the_same_scenes(tmp_path):
    floor, ceiling = (episodes(wins, 25, condition=who) for wins, who in ((1, "random"), (25, "expert")))
    a, b = run(tmp_path / "a", 12, floor, ceiling, count=25), run(tmp_path / "b", 1)
    board = board_of(f"A={a}", f"B={b}")
    counts = {name: (one["successes"], one["episodes"]) for name, one in board["references"].items()}
    assert counts == {"expert": (40, 40), "random": (2, 40)}
    assert board["references"]["random"]["tasks"][LIFT]["success_rate"] == 1 / 20
    assert any(remark == "Not shown to be above random actions (5.0%): B." for remark in board["remarks"])
    bare = board_of(f"B={b}")
    assert bare["references"] == {}
    assert any("No random floor" in remark for remark in bare["remarks"])


def test_what_could_not_be_judged_is_no_success_and_is_counted(tmp_path):
    # Whoever wrote this report called a fault a success.
    broken = episodes(5, 5, tasks=[OPEN], first_seed=20, fault="Diverged: NaN at step 3")
    board = board_of(f"A={run(tmp_path / 'a', 20, broken)}")
    row = row_of(board, "A")
    assert (row["successes"], row["episodes"], row["faults"]) == (40, 45, {"Diverged": 5})
    assert any(
        "5 of 45 episodes could not be judged, and count as failures: Diverged" in one for one in board["remarks"]
    )


def test_floor_and_ceiling_are_of_what_could_be_judged(tmp_path):
    floor = episodes(0, 20, condition="random", fault="Diverged: NaN at step 3")
    assert "random" not in board_of(f"A={run(tmp_path / 'a', 20, floor)}")["references"]


def test_no_interval_is_a_point(tmp_path):
    names = ("a0", "a1", "b0", "b1")
    for name in names:
        write_json(tmp_path / name / "report.json", summarize(episodes(20, tasks=TASK_SETS["metaworld/mt10"])))
    board = board_of(f"A={tmp_path}/a*", f"B={tmp_path}/b*")
    assert board["pairs"][0]["interval"][0] < 0 < board["pairs"][0]["interval"][1]
    for row in board["rows"]:
        assert row["mean_over_groups"] == 1
        assert row["mean_over_groups_interval"][0] < 0.99


def test_groups_are_metaworlds_and_both_averages_are_named(tmp_path):
    tasks = TASK_SETS["metaworld/mt10"]
    results = {task: 20 if task in TASK_SETS["metaworld/easy"] else 5 for task in tasks}
    played = [one for task, wins in results.items() for one in episodes(wins, tasks=[task])]
    write_json(tmp_path / "report.json", summarize(played))
    board = board_of(f"A={tmp_path}")
    assert {name: len(names) for name, names in board["groups"].items()} == {"easy": 7, "medium": 1, "hard": 2}
    row = row_of(board, "A")
    assert row["mean_over_tasks"] == pytest.approx((7 * 1 + 3 * 0.25) / 10)
    assert row["mean_over_groups"] == pytest.approx((1 + 0.25 + 0.25) / 3)
    low, high = row["mean_over_groups_interval"]
    assert low < row["mean_over_groups"] < high
    assert (row["groups"]["hard"]["episodes"], row["groups"]["hard"]["successes"]) == (40, 10)
    assert len(groups_of(TASK_SETS["metaworld/mt50"])) == 4
    assert groups_of([*tasks, LIFT]) == {}
    assert row_of(board_of(f"A={run(tmp_path / 'a', 3)}"), "A")["mean_over_groups"] is None


def checkpoint(folder, **provenance):
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text(json.dumps(provenance), encoding="utf-8")
    save_file({"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float16)}, folder / "model.safetensors")
    return str(folder)


def test_cost_is_what_is_recorded_and_nothing_is_guessed(tmp_path):
    first = checkpoint(tmp_path / "l1", train_s=600, command="vla train first")
    stage = {"train_s": 300, "command": TRAIN, "start_from": first, "episodes": 500}
    second = {"checkpoint": checkpoint(tmp_path / "diffusion"), "policy": stage, "command": EVAL}
    (entrant,) = read_entrants([f"A={run(tmp_path / 'a', 3, provenance=second)}"])
    cost = cost_of(entrant)
    assert (cost["train_s"], cost["parameters"], cost["demonstrations"]) == (900, 22, 500)
    assert (cost["evaluate_s"], cost["latency_ms"]["p95"], cost["latency_ms"]["count"]) == (60, 10, 40)
    row = row_of(standings([entrant]), "A")
    assert row["commands"][0]["training"] == ["vla train first", TRAIN]
    assert row["commands"][0]["evaluation"] == EVAL
    told = run(tmp_path / "b", 3, provenance={**second, "parameters": 4_100_000})
    assert cost_of(read_entrants([f"B={told}"])[0])["parameters"] == 4_100_000
    # A stage of which nothing is known leaves the whole unknown.
    Path(first, "provenance.json").unlink()
    assert cost_of(entrant)["train_s"] is None
    bare = cost_of(read_entrants([f"C={run(tmp_path / 'c', 3)}"])[0])
    assert (bare["train_s"], bare["parameters"], bare["demonstrations"]) == (None, None, None)
    assert [size_text(count) for count in (None, 22, 4_100_000)] == ["–", "22", "4.1 M"]


def test_weights_that_cannot_be_read_are_said(tmp_path):
    Path(checkpoint(tmp_path / "train"), "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UnderstudyError, match="cannot be read"):
        board_of(run(tmp_path, 3))


def test_the_files_hold_what_was_said(three, tmp_path, capsys):
    hostile = run(tmp_path / "train", 4, provenance={"command": EVAL, "policy": {"command": TRAIN, "train_s": 90}})
    out, copy, table = tmp_path / "out", tmp_path / "x" / "b.json", tmp_path / "y" / "b.csv"
    files = ["--out", str(out), "--json", str(copy), "--csv", str(table)]
    assert main([*three, f"[red] <img onerror> & co={hostile}", *files]) == 0
    said = " ".join(capsys.readouterr().out.split())
    board = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))
    assert json.loads(copy.read_text(encoding="utf-8")) == board
    assert board["verdict"] in said
    assert "[red]" in said
    text = (out / "leaderboard.html").read_text(encoding="utf-8")
    page = Page(text)
    expected = [board["verdict"], *board["remarks"], *board["method"], EVAL, TRAIN, "lift-red-cube", "1–2", "85.0%"]
    expected += [row["name"] for row in board["rows"]]
    assert [part for part in expected if part not in page.text] == []
    assert not page.all("script") + page.all("link") + page.all("img")
    assert "http" not in text.replace("http-equiv", "")
    lines = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [line["policy"] for line in lines] == [row["name"] for row in board["rows"]]
    assert (lines[0]["rank"], lines[0]["success_rate"], lines[0]["train_s"]) == ("1–2", "0.85", "")
    assert (lines[-1]["training"], lines[-1]["train_s"]) == (TRAIN, "90.0")


def test_costs_that_differ_are_drawn(tmp_path):
    for name, seconds in (("a", 60), ("b", 600)):
        run(tmp_path / name, 9, provenance={"policy": {"train_s": seconds}})
    main([f"A={tmp_path}/a", f"B={tmp_path}/b", "--out", str(tmp_path / "out")])
    page = Page((tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8"))
    labels = [svg["aria-label"] for svg in page.all("svg") if svg["class"] == "chart"]
    # The latencies are equal, so there is nothing to see over them.
    assert labels == ["A: 45% at 1 min; B: 45% at 10 min"]


@pytest.fixture
def filmed(tmp_path):
    """Four filmed episodes, of which the last two succeed, and one whose film lies outside of its run's folder."""
    films = [*(f"films/{seed}.mp4" for seed in range(4)), "../secret.mp4"]
    results = [
        EpisodeResult(LIFT, "lift", "policy", seed, seed, seed > 1, 9, (), film) for seed, film in enumerate(films)
    ]
    results.append(EpisodeResult(OPEN, "open", "policy", 0, 0, True, 9, (), "../secret.mp4"))
    for film in films:
        write_film(tmp_path / "a" / film, np.zeros((2, 32, 32, 3), np.uint8), 10)
    write_json(tmp_path / "a" / "report.json", summarize(results))
    return tmp_path / "a"


def test_one_success_and_one_failure_of_each_task_are_shown(filmed, tmp_path):
    main([f"A={filmed}", "--out", str(tmp_path / "out")])
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text(encoding="utf-8"))
    kinds = board["rows"][0]["films"][LIFT]
    assert {kind: one["film"] for kind, one in kinds.items()} == {"success": "films/2.mp4", "failure": "films/0.mp4"}
    page = Page((tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8"))
    assert [video["src"].startswith("data:video/mp4;base64,") for video in page.all("video")] == [True, True]
    assert page.text.index("✓ success in 9 steps") < page.text.index("✗ failure after 9 steps")
    assert "there is no film at ../secret.mp4" in page.text


def test_films_beyond_the_limit_are_linked_and_only_those_of_the_run(filmed, tmp_path):
    board, out = board_of(f"A={filmed}"), tmp_path / "pages" / "out"
    out.mkdir(parents=True)
    linked = sources(board, out / "leaderboard.html", limit=0)
    assert sorted(film for _, film in linked) == ["films/0.mp4", "films/2.mp4"]
    assert all((out / source).is_file() for source in linked.values())
    (filmed / "films" / "2.mp4").unlink()
    assert [film for _, film in sources(board, out / "leaderboard.html")] == ["films/0.mp4"]


def test_a_run_without_a_name_is_called_by_its_checkpoints_folder(tmp_path):
    paths = ["act-0/last/pretrained", "act-1/last/pretrained", "ours/train"]
    for number, path in enumerate(paths):
        run(tmp_path / str(number), 5, provenance={"checkpoint": f"outputs/{path}"})
    names = [entrant.name for entrant in read_entrants([f"{tmp_path}/*"])]
    assert names == ["act-0/last/pretrained", "act-1/last/pretrained", "outputs/ours/train"]
    assert read_entrants([str(tmp_path / "2")])[0].name == "train"
    with pytest.raises(UnderstudyError, match="name them apart"):
        read_entrants([str(run(tmp_path / name, 5, provenance={"checkpoint": "x/train"})) for name in ("a", "b")])


def test_errors_are_for_the_person_at_the_keyboard(three, tmp_path):
    a = tmp_path / "A"
    for arguments, message in (
        ([f"A={tmp_path}/gone-*"], "nothing is at"),
        ([str(tmp_path / "gone")], "no report at"),
        ([f"A={a}", f"B={a}"], "is given twice"),
        ([*three, "--json", str(tmp_path)], "is a folder"),
    ):
        with pytest.raises(UnderstudyError, match=message):
            main([*arguments, "--out", str(tmp_path / "out")])
    again = run(tmp_path / "again", 9, provenance={"checkpoint": str(a / "train")})
    with pytest.raises(UnderstudyError, match=r"A is to be several trainings, and the checkpoint .* is there twice"):
        read_entrants([f"A={a},{again}"])
    assert not (tmp_path / "out").exists()


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    assert "vla leaderboard CogACT=outputs/" in capsys.readouterr().out
