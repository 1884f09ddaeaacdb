"""``vla demo`` in miniature, from nothing to a page."""

import json

import pytest

from sim import demo
from sim.demo import MARK, DemoConfig
from sim.suite import suite_of
from vla.config import build, load
from vla.errors import UnderstudyError

MINIATURE = (
    "preset=tiny",
    "collect.tasks=[tabletop/press-button,tabletop/lift-red-cube]",
    "collect.episodes=3",
    "collect.workers=0",
    "collect.suite={image_size: 32, cameras: [front]}",
    "evaluate.episodes=2",
    "evaluate.control_episodes=1",
    "evaluate.workers=0",
    "trainer.steps=4",
    "trainer.precision=fp32",
    "warm_up.steps=2",
    "warm_up.batch_size=8",
)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "cache"))


def settings(out, *overrides):
    return load(DemoConfig, "demo", [*MINIATURE, f"out={out}", *overrides])


@pytest.mark.parametrize("suite", ["tabletop", "metaworld"])
def test_the_settings_of_every_demo_fit_what_they_configure(suite):
    from policies.policy import policy_class
    from sim.collect import CollectConfig
    from sim.evaluate import EvalConfig
    from vla.training.trainer import TrainerConfig

    config = load(DemoConfig, "demo", [f"suite={suite}"])
    collected = build(CollectConfig, config.collect)
    assert {suite_of(task) for task in collected.tasks} == {suite}
    assert len(collected.tasks) >= 6
    build(EvalConfig, {**config.evaluate, "policy": "x"})
    for changes in ({}, config.warm_up, config.real.trainer if config.real else {}):
        build(TrainerConfig, {**config.trainer, **changes})
    policy = {key: value for key, value in config.policy.items() if key != "name"}
    build(policy_class(config.policy["name"]).config_class, policy)


@pytest.mark.parametrize("name", ["notes.txt", "report.json"])
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UnderstudyError, match="holds something that is no demo; give another folder"):
        demo.run(settings(tmp_path, "real=null"))
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_from_nothing_to_a_page(tmp_path):
    out = tmp_path / "demo"
    page = demo.run(settings(out, "real=null"))
    report = json.loads((out / "report.json").read_text())
    assert page == out / "report.html"
    assert {"tabletop/press-button", "tabletop/lift-red-cube"} == set(report["tasks"])
    assert all(entry["episodes"] == 2 for entry in report["tasks"].values())
    assert set(report["wall_s"]) == {"imports", "collect", "train", "evaluate", "total"}
    assert report["wall_s"]["total"] >= sum(report["wall_s"][part] for part in ("collect", "train", "evaluate"))
    filmed = [row["film"] for entry in report["tasks"].values() for row in entry["episodes_detail"] if row["film"]]
    assert filmed
    assert all((out / film).is_file() for film in filmed)
    (out / "leftover.txt").write_text("of the demo before")
    again = settings(out, "real=null", "resume=true", "trainer.steps=6")
    demo.run(again)
    assert (out / "leftover.txt").is_file()
    assert len(list((out / "data" / "data").rglob("*.parquet"))) == 6
    steps = [json.loads(line)["step"] for line in (out / "train" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 6]
    demo.run(settings(out, "real=null"))  # without resume, a demo's own folder is begun anew
    assert not (out / "leftover.txt").exists()
    assert (out / MARK).is_file()


@pytest.mark.slow
def test_with_a_real_recording(tmp_path, samples):
    out = tmp_path / "demo"
    source = samples / "robot" / "g1_pick_bottle_lerobot_v21"
    overrides = (f"real.source={source}", "real.trainer={steps: 2}", "collect.episodes=1", "evaluate.films=false")
    page = demo.run(settings(out, *overrides, "real.image_size=32"))
    report = json.loads((out / "report.json").read_text())
    assert "real recording" in report["wall_s"]
    assert "a real recording: held-out episode" in page.read_text()
    trained = json.loads((out / "real" / "train" / "provenance.json").read_text())
    assert trained["episodes"] >= 1
