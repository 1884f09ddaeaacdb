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
    "foresee={preset: tiny, holdout: 1, autoencoder: {steps: 2, batch_size: 2}, trainer: {steps: 2}}",
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


def test_the_policy_is_trained_on_what_was_collected_from_the_backbone_that_learned_to_see(tmp_path, monkeypatch):
    """In a second, what `test_from_nothing_to_a_page` does in half a minute."""
    trained, out = [], tmp_path / "demo"
    monkeypatch.setattr(demo.collect, "run", lambda config: config.out)
    monkeypatch.setattr(demo.training, "run", lambda config: trained.append(config) or config.out)
    monkeypatch.setattr(demo, "start_server", lambda modules: None)

    class ReachedError(Exception):
        pass

    def evaluated(config):
        raise ReachedError(config.policy)

    monkeypatch.setattr(demo, "evaluate", evaluated)
    with pytest.raises(ReachedError, match="train"):
        demo.run(settings(out))
    warm_up, policy = trained
    assert [config.data for config in trained] == [out / "data"] * 2
    assert (warm_up.mix, policy.mix, warm_up.videos) == ((), (), ())
    assert (warm_up.policy["head"], policy.policy.get("head", "diffusion")) == ("regression", "diffusion")
    assert (warm_up.trainer["steps"], policy.trainer["steps"]) == (2, 4)
    assert policy.start_from == warm_up.out == out / "warm-up"


@pytest.mark.slow
def test_from_nothing_to_a_page(tmp_path):
    out = tmp_path / "demo"
    page = demo.run(settings(out, "real=null"))
    report = json.loads((out / "report.json").read_text())
    assert page == out / "report.html"
    assert {"tabletop/press-button", "tabletop/lift-red-cube"} == set(report["tasks"])
    assert all(entry["episodes"] == 2 for entry in report["tasks"].values())
    assert set(report["wall_s"]) == {"imports", "collect", "train", "evaluate", "video model", "total"}
    assert len(report["films"]) == 1
    assert all((out / film).is_file() for film in report["films"].values())
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
