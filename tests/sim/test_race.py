"""Two policies that play until they are told apart."""

import json

import pytest

from sim import race
from sim.race import Look, RaceConfig, Racer, decided
from sim.results import EpisodeResult, episodes_of, read_report
from vla.errors import UnderstudyError

TASKS = ("tabletop/press-button", "tabletop/lift-red-cube")


def playing(rates):
    """Stands for the playing: whose checkpoint ends in a name succeeds in the scenes that the name's rate says."""

    def played(racer, first, count):
        rate = rates[racer.config.policy.name]
        return [
            EpisodeResult(
                task, task, "policy", seed, seed, seed % 100 < 100 * rate, 10, fault="" if rate >= 0 else "Lost"
            )
            for task in racer.config.tasks
            for seed in range(first, first + count)
        ]

    return played


@pytest.fixture
def raced(monkeypatch, tmp_path):
    """Race two rates; the verdict and the looks."""

    def run(rate_a, rate_b, *more):
        monkeypatch.setattr(Racer, "play", playing({"a": rate_a, "b": rate_b}))
        monkeypatch.setattr(race, "setting_of", lambda config, tasks: None)
        given = [f"policy={tmp_path}/b", f"against={tmp_path}/a", f"tasks=[{','.join(TASKS)}]", f"out={tmp_path}/out"]
        assert race.main([*given, *more]) == int(rate_a < 0)
        found = json.loads((tmp_path / "out/race.json").read_text())
        return found["verdict"], found["looks"]

    return run


def test_it_ends_as_soon_as_one_is_better(raced, tmp_path):
    verdict, looks = raced(0.0, 0.5)
    assert verdict.startswith("B is better: only A 0, only B 10, e-value")
    assert [look["scenes"] for look in looks] == [10]
    reports = {who: read_report(tmp_path / "out" / who) for who in ("a", "b")}
    assert [len(episodes_of(report)) for report in reports.values()] == [10, 10]
    assert raced(1.0, 0.02, "episodes=10")[0].startswith("A is better")


def test_it_ends_when_they_are_alike(raced):
    verdict, looks = raced(0.5, 0.5, "most=400", "episodes=100", "margin=0.05")
    assert verdict.startswith("no difference larger than 5 points")
    assert len(looks) < 4


def test_it_gives_up(raced):
    verdict, looks = raced(0.5, 0.52, "most=60", "episodes=20", "margin=0.01")
    assert verdict == "undecided after 60 scenes of each task"
    assert [look["scenes"] for look in looks] == [40, 80, 120]


def test_rounds_go_on_with_new_scenes(raced, tmp_path):
    raced(0.5, 0.5, "most=7", "episodes=3", "seed=90", "margin=0.01")
    seeds = {one.seed for one in episodes_of(read_report(tmp_path / "out/a"))}
    assert seeds == set(range(90, 97))


def test_a_verdict_waits_for_its_evidence():
    config = RaceConfig(policy=None)
    assert decided(Look(20, 0, 5, 19.9, (-0.2, 0.5)), config) == ""
    assert decided(Look(20, 5, 0, 20.0, (-0.2, 0.5)), config).startswith("A is better")
    assert decided(Look(20, 0, 0, 1.0, (-0.09, 0.1)), config) == ""


def test_what_is_no_race_is_refused(raced):
    for wrong in ("margin=0", "level=1", "episodes=200"):
        with pytest.raises(UnderstudyError, match="level and margin"):
            raced(0.5, 0.5, wrong)
    with pytest.raises(UnderstudyError, match="world as it is: leave axes out"):
        raced(0.5, 0.5, "axes=[camera]")


def test_who_could_not_be_judged_is_named(raced, capsys, tmp_path):
    raced(-1, 0.5)
    assert "10 episodes of A could not be judged and count as failures" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/race.json").read_text())["faults"] == {"a": 10, "b": 0}


def test_real_policies_race(video_checkpoint, tmp_path):
    policy = video_checkpoint / "policy"
    given = [f"policy={policy}", f"against={policy}", f"out={tmp_path}/out", "most=1", "episodes=1", "workers=0"]
    suite = "suite={image_size: 32, cameras: [front, wrist]}"
    late = ["latency=100", f"json={tmp_path}/copy.json"]
    assert race.main([*given, *late, "tasks=[tabletop/press-button]", suite, "execution.exec_horizon=16"]) == 0
    assert (tmp_path / "copy.json").read_text() == (tmp_path / "out/race.json").read_text()
    told = [read_report(tmp_path / "out" / who)["provenance"] for who in ("a", "b")]
    assert [one["charged_steps"] for one in told] == [2, 2]
    assert told[0]["test_seeds"][0] == told[0]["test_seeds"][1]
    found = json.loads((tmp_path / "out/race.json").read_text())
    assert found["looks"][0]["only_a"] == found["looks"][0]["only_b"] == 0
    assert found["verdict"].startswith("undecided after 1 scenes")
