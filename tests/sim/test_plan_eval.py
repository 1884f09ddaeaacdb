"""The plan of an evaluation: measured terms, plain arithmetic, and what is not measured is said to be so."""

import json
from dataclasses import replace

import pytest

from sim import plan_eval
from sim.plan_eval import PACKING, Cost, Elsewhere, Line, Meter, PlanEvalConfig, planned, totals
from vla.errors import UnderstudyError

COST = Cost(
    reset=1.0,
    step=0.1,
    observe=0.2,
    infer=0.3,
    expert=0.05,
    film=0.5,
    build=4.0,
    steps=10,
    expert_steps=5,
    max_steps=20,
    steps_a_chunk=4,
    film_bytes=1000.0,
    memory=2e9,
)


def config(**changes):
    suite = {"image_size": 32, "cameras": ["front"]}
    plain = {"tasks": ("tabletop/press-button",), "episodes": 3, "control_episodes": 2, "cpus": 10, "suite": suite}
    return PlanEvalConfig(**{**plain, "sample": 1, **changes})


def test_an_episode_costs_its_resets_steps_pictures_and_inferences():
    assert COST.acting(10) == pytest.approx(2 * 1.0 + 10 * 0.1 + 3 * (0.2 + 0.3))
    assert replace(COST, steps_a_chunk=1).acting(10) == pytest.approx(2 + 1 + 10 * 0.5)


def test_conditions_cost_what_they_do():
    lines = {line.condition: line for line in plan_eval._lines("tabletop", 2, COST, config())}
    assert {name: line.episodes for name, line in lines.items()} == {
        "policy": 6,
        "wrong-instruction": 4,
        "random": 6,
        "expert": 6,
        "film": 4,
    }
    assert lines["policy"].low == COST.acting(10)
    assert lines["wrong-instruction"].low == COST.acting(20)
    assert lines["random"].low == pytest.approx(1.0 + 20 * 0.1)
    assert lines["expert"].low == pytest.approx(1.0 + 5 * 0.15)
    assert lines["film"].low == pytest.approx(COST.acting(10) + 10 * 0.5)


def test_many_cpus_are_as_quick_as_the_longest_episode_and_few_as_the_work(monkeypatch):
    monkeypatch.setattr(plan_eval, "_import_s", lambda: 6.0)
    lines = [Line("tabletop", "policy", 1000, 2.0, 4.0)]
    few = totals(lines, {"tabletop": COST}, config(cpus=10), 0.0)
    assert few["cpu_hours"] == pytest.approx([2000 / 3600, 4000 / 3600])
    assert few["start_s"] == 10.0
    assert few["wall_s"] == pytest.approx([10 + 200 / PACKING, 10 + 400 / PACKING])
    many = totals(lines, {"tabletop": COST}, config(cpus=100_000), 0.0)
    assert many["wall_s"] == [10 + COST.acting(20) + 20 * 0.5] * 2
    assert many["start_cpu_hours"] == pytest.approx(1000 * 10 / 3600)  # no more workers than episodes


class Suite:
    steps = 3

    def reset(self, task, seed):
        sum(range(200_000))

    def step(self, action):
        raise UnderstudyError("no")

    def expert(self):
        return lambda: 7


def test_a_meter_counts_and_hides_nothing():
    meter = Meter(Suite())
    for _ in range(3):
        meter.reset("task", seed=1)
    with pytest.raises(UnderstudyError):
        meter.step(0)
    act = meter.expert()
    assert (act(), act(), meter.steps) == (7, 7, 3)
    assert meter.calls == {"reset": 3, "step": 1, "expert": 2}
    assert meter.spent["reset"] > 0
    assert meter.each("reset") == meter.spent["reset"] / 3
    assert meter.each("film") == 0


@pytest.mark.slow
def test_a_worker_takes_seconds_to_import_what_it_plays_with():
    assert 0.5 < plan_eval._import_s() < 120


def test_a_plan_measures_and_tells(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan_eval, "_import_s", lambda: 6.0)
    arguments = ["tasks=[tabletop/press-button]", "episodes=4", "control_episodes=0", "cpus=8", "sample=1"]
    options = ["suite.image_size=32", "suite.cameras=[front]"]
    assert plan_eval.main([*arguments, *options, f"json={tmp_path / 'plan.json'}"]) == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    assert [line["condition"] for line in found["lines"]] == ["policy", "random", "expert", "film"]
    assert all(0 < line["low"] == line["high"] and line["source"] == "measured" for line in found["lines"])
    cost = found["costs"]["tabletop"]
    assert all(cost[name] > 0 for name in ("reset", "step", "observe", "film", "build", "film_bytes"))
    assert cost["infer"] == 0
    assert cost["expert_steps"] < cost["max_steps"] == cost["steps"]
    assert cost["memory"] > 20e6
    assert found["totals"]["episodes"] == 3 * 4 + 2
    told = capsys.readouterr().out
    assert "on 8 CPUs" in told
    assert "no policy" in told


def test_what_cannot_be_played_here_is_known_from_elsewhere_or_an_error(monkeypatch):
    def absent(tasks, config):
        raise UnderstudyError("its assets are not there")

    monkeypatch.setattr(plan_eval, "_measured", absent)
    with pytest.raises(UnderstudyError, match="assets are not there"):
        planned(config())
    monkeypatch.setitem(plan_eval.ELSEWHERE, "tabletop", Elsewhere(42, 66, "measured elsewhere"))
    monkeypatch.setattr(plan_eval, "_import_s", lambda: 6.0)
    found = planned(config(cpus=1000))
    (line,) = found["lines"]
    assert (line["episodes"], line["low"], line["high"]) == (3, 42, 66)
    assert line["source"] == "measured elsewhere; here: its assets are not there"
    assert found["totals"]["cpu_hours"] == pytest.approx([3 * 42 / 3600, 3 * 66 / 3600])
    assert found["totals"]["wall_s"][1] == pytest.approx(6 + 66 / PACKING)


def test_libero_is_known_and_numbers_that_plan_nothing_are_refused():
    assert (plan_eval.ELSEWHERE["libero"].low, plan_eval.ELSEWHERE["libero"].high) == (42, 66)
    for name in ("episodes", "cpus", "sample"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            config(**{name: 0})
