"""The study of several training seeds: steps are planned once, commands are those that are written down."""

import json
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest

from vla.bench import script
from vla.errors import UnderstudyError

study = script("mt10_seeds")
DATA = Path("data")


@pytest.fixture
def planned(monkeypatch, tmp_path):
    monkeypatch.setattr(study, "PLAN", tmp_path / "plan.json")
    asked = []

    def seconds(policy, *, data, work):
        asked.append(policy)
        return {stage: 0.5 for stage, _, _ in study.STAGES.get(policy, [(policy, 1.0, [])])}

    monkeypatch.setattr(study, "seconds_a_step", seconds)
    return asked


def test_steps_are_what_the_minutes_buy_and_are_planned_once(planned, tmp_path):
    found = study.plan(10, data=DATA, work=tmp_path)
    assert found["steps"]["l1"] == {"l1": 1200}
    assert found["steps"]["act"] == {"act": 1200}
    assert found["steps"]["cogact"] == {"l1": 800, "diffusion": 400}
    assert planned == list(study.POLICIES)
    assert study.plan(10, data=DATA, work=tmp_path) == found
    assert len(planned) == len(study.POLICIES)
    with pytest.raises(UnderstudyError, match="is for 10 minutes"):
        study.plan(20, data=DATA, work=tmp_path)


def test_the_same_demonstrations_steps_and_seed_go_to_everybody(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "tiny_smolvla", lambda folder, texts: folder)
    for kind in study.PEERS:
        command = study.theirs(kind, data=DATA, out=tmp_path, steps=60, seed=2)
        assert {"--steps=60", "--seed=2", f"--dataset.root={DATA.resolve()}"} <= set(command)
    for _, _, settings in study.STAGES["cogact"]:
        command = study.ours(settings, data=DATA, out=tmp_path, steps=60, seed=2)
        assert {"trainer.steps=60", "trainer.seed=2", "data=data"} <= set(command)


def test_a_peers_training_goes_on_from_its_last_state(tmp_path):
    out, checkpoint = tmp_path / "train", tmp_path / "train/checkpoints/last/pretrained_model"
    out.mkdir()
    (out / "left-over").touch()
    command = ["python", "-m", "lerobot", "--steps=60"]
    assert study.gone_on(command, checkpoint, out) == command
    assert not out.exists()  # LeRobot refuses a folder that is there
    checkpoint.mkdir(parents=True)
    (checkpoint / "train_config.json").touch()
    again = study.gone_on(command, checkpoint, out)
    assert again == ["python", "-m", "lerobot", f"--config_path={checkpoint}/train_config.json", "--resume=true"]


def test_what_made_a_checkpoint_is_written_down_as_it_may_be_given_again(tmp_path):
    (tmp_path / "provenance.json").write_text('{"data": 1}')
    study.noted(tmp_path, ["/bin/python", "-m", "vla", "train", "a=[1, 2]", "resume=true"], 12.5)
    plain = {"data": 1, "train_s": 12.5, "command": "vla train 'a=[1, 2]'"}
    assert json.loads((tmp_path / "provenance.json").read_text()) == plain


def cell_of(rates):
    """As of a report: four scenes of each task, ``rates`` of them won."""
    tasks = import_module("benchmarks.mt10").TASKS
    detail = [{"seed": seed, "success": seed < rates} for seed in range(4)]
    report = {
        "tasks": {task: {"episodes": 4, "successes": rates, "episodes_detail": detail} for task in tasks},
        "provenance": {"parameters": 1_500_000},
        "latency_ms": {"p50": 1.0, "p95": 12.4},
        "wall_s": {"evaluate": 60.0},
    }
    return study.told(report)


def test_seeds_are_together_and_shown_apart():
    cells = [cell_of(4), cell_of(2)]
    whole = study.together(cells)
    assert whole["success_rate"] == 0.75
    assert whole["wilson"][1] - whole["wilson"][0] > 0.4  # two trainings that differ by half
    assert study.together(cells[:1])["wilson"] == cells[0]["wilson"]
    line = study.table({"ours": cells}).splitlines()[-1]
    assert line.startswith("| ours | 0.75 (")
    assert "| 1.00, 0.50 | 1.5 M | 12 ms | 6 | 6 |" in line


def test_a_cell_is_kept_and_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("benchmarks.study"), "RESULTS", tmp_path)
    monkeypatch.setattr(study, "trained", lambda *_, **__: tmp_path)
    monkeypatch.setattr(study, "evaluated", lambda *_, **__: {})
    monkeypatch.setattr(study, "told", lambda report: {"won": [1]})
    given, planned = Namespace(data=DATA, work=tmp_path, episodes=4), {"steps": {"l1": {"l1": 7}}}
    first = study.cell("l1", 0, planned, given)
    assert first["steps_trained"] == {"l1": 7}
    monkeypatch.setattr(study, "trained", lambda *_, **__: pytest.fail("trained again"))
    assert study.cell("l1", 0, planned, given) == first
