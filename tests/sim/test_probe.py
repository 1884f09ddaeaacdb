"""The probe: scenes that are what they say, problems that a seeing subject solves and a blind one does not, cells."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sim.probe import command, control, material, moving, pictures, study
from sim.probe.record import Metric, mean, plain, rate
from sim.probe.report import marked, page
from sim.probe.scale import QUICK
from sim.probe.staged import CAMERA, LABEL_SIZE, StagedSuite, View, still
from sim.probe.subjects import Learned, Pixels, caption_scores, clip_vectors, subject, untrained
from sim.probe.verdicts import compared
from sim.suite import TEST_SEEDS
from vla.errors import UnderstudyError
from vla.representation.evaluation.affordance import POSITIVE
from vla.representation.load import Representation

TASKS = ("tabletop/lift-red-cube", "tabletop/open-drawer", "tabletop/press-button")
TINY = replace(
    QUICK,
    name="tiny",
    stills=40,
    test_stills=12,
    labels=(20,),
    head_steps=5,
    grasp_steps=3,
    films=2,
    film_tasks=TASKS,
    demos=(2,),
    tasks=("tabletop/touch-red-cube",),
    rollouts=2,
    policy_steps=5,
)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path_factory.getbasetemp() / "probe-cache"))
    monkeypatch.setattr(material, "default_workers", lambda: 0)
    monkeypatch.setattr(control, "default_workers", lambda: 0)


@pytest.fixture(scope="module")
def learned():
    torch.manual_seed(1)
    captions = ["lift the red cube", "open the drawer", "press the button"]
    encoder = {"image_size": 64, "patch_size": 8, "width": 48, "depth": 1, "heads": 3}
    made = Representation.create("voltron_gen", {"encoder": encoder}, captions)
    made.model.eval()
    return Learned(made, name="v-gen", key="gen-test")


class Seeing:
    """Tokens that hold the answer: what is red, green, blue and yellow in each patch, and where the patch is."""

    name, key, image_size, reads = "seeing", "seeing-test", 64, False

    def tokens(self, images, text=None):
        return Pixels().tokens(images)

    def vectors(self, images):
        return Pixels().vectors(images)


class Blind(Seeing):
    name, key = "blind", "blind-test"

    def tokens(self, images, text=None):
        return torch.zeros(len(images), 4, 8).half()

    def vectors(self, images):
        return np.tile(np.arange(4, dtype=np.float32), (len(images), 1))


def test_a_still_shows_what_its_labels_say():
    made = next(one for one in (still(seed, View()) for seed in range(5)) if one is not None)
    assert made.image.shape == (64, 64, 3)
    left, top, width, height = made.box
    middle = made.image[int(64 * (top + height / 2)), int(64 * (left + width / 2))].astype(int)
    strongest = {"red": 0, "green": 1, "blue": 2, "yellow": 0}[made.words.split()[1]]
    assert middle[strongest] == middle.max()
    assert made.graspable.shape == (LABEL_SIZE, LABEL_SIZE)
    assert 10 < (made.graspable == POSITIVE).sum() < 400


def test_the_same_seed_is_the_same_still_and_a_loose_camera_is_another():
    one, two, other = still(3, View()), still(3, View()), still(3, View(unseen=True))
    assert (one.image == two.image).all()
    assert (one.image != other.image).any()
    assert np.allclose(one.pose, other.pose)


def test_the_distractor_moves_by_itself_and_touches_nothing():
    seen = []
    for exogenous in (False, True):
        staged = StagedSuite(View(exogenous=exogenous))
        staged.reset("tabletop/touch-red-cube", TEST_SEEDS[0])
        before = staged.observe().images[CAMERA]
        for _ in range(10):
            staged.step(np.array([0.0, 0.0, 0.0, 1.0]))
        seen.append((staged.suite.position("red cube"), before, staged.observe().images[CAMERA]))
    assert np.allclose(seen[0][0], seen[1][0])
    moved = [np.abs(before.astype(int) - after).max(-1) for _, before, after in seen]
    assert (moved[1] > 20).sum() > (moved[0] > 20).sum() + 3


def test_training_and_test_scenes_are_not_the_same():
    train, test = (material.stills(4, View(), test=flag) for flag in (False, True))
    assert not any((a == b).all() for a in train.images for b in test.images)


def test_films_of_both_embodiments_are_of_the_same_tasks():
    person, robot = (material.films(who, 2, tier="T1", test=True, tasks=TASKS) for who in ("hand", "robot"))
    assert (person.task == robot.task).all()
    assert len(person) == 6
    assert len(person.split(person.progress)) == 6
    assert person.success.all()
    failed = material.films("hand", 2, tier="T1", test=True, failures=1.0, tasks=TASKS)
    assert not failed.success.any()


def test_a_colour_in_the_picture_can_be_found_and_nothing_by_the_blind():
    scale = replace(TINY, stills=120, labels=(120,), head_steps=1)
    seen, blind = (pictures.pose(eyes, scale, False)["hand, linear R²"].value for eyes in (Seeing(), Blind()))
    assert seen > 0.2
    assert blind < 0.1


def test_the_blind_have_no_order_and_find_nothing():
    found = moving.alignment(Blind(), TINY, False)
    assert found["τ"].value == 0
    found = moving.retrieval(Blind(), TINY, False)
    assert found["R@1"].value <= found["R@1"].chance + 0.2
    assert moving.intent(Blind(), TINY, False) == {}


@pytest.mark.parametrize("problem", [name for name in study.PROBLEMS if name not in ("control", "language")])
def test_every_problem_answers_with_finite_numbers(problem, learned):
    found = study.PROBLEMS[problem].ask(learned, TINY, False)
    assert found
    assert all(np.isfinite(metric.value) for metric in found.values())


def test_control_plays_frozen_and_end_to_end(learned):
    for eyes in (learned, None):
        (metric,) = control.control(eyes, TINY, False).values()
        assert len(metric.items) == 2
    assert len(control.language(learned, replace(TINY, rollouts=2), False)["success"].items) == 30


def test_an_expert_in_the_head_would_succeed(monkeypatch):
    """The rollout itself is no obstacle: with the expert's actions in the student's place the task is done."""
    played = []
    make = control.StagedSuite

    def staged(view):
        played.append(make(view))
        return played[-1]

    class Cheat:
        def act(self, images, words, proprio):
            going = [one for one in played if not one.suite.success and one.suite.steps < control.HORIZON]
            return np.stack([np.repeat(one.expert()()[None], control.CHUNK, 0) for one in going])

    monkeypatch.setattr(control, "StagedSuite", staged)
    assert control.rollouts(Cheat(), "tabletop/touch-red-cube", View(), count=4).all()


def test_the_right_caption_is_worth_nothing_to_eyes_that_learned_nothing(learned):
    found = moving.reading(learned, TINY, False)
    gain = found["gain of the right caption"]
    assert abs(gain.value) < 0.02
    assert len(gain.items) == 6
    assert found["nats a token"].value > 2


def test_caption_scores_are_of_those_that_have_them(learned):
    images = np.zeros((2, 64, 64, 3), np.uint8)
    assert caption_scores(learned, images, images, ["open the drawer", "press the button"]).shape == (2, 2)
    assert caption_scores(Pixels(), images, images, ["open the drawer"]) is None


def test_clips_are_compared_by_the_family_that_compares_clips(learned):
    torch.manual_seed(2)
    encoder = {"kind": "resnet", "image_size": 64, "width": 48}
    siglip = Learned(Representation.create("siglip", {"encoder": encoder}, ["open the drawer"]), name="s", key="s-test")
    siglip.representation.model.eval()
    first, later = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64, 3), dtype=np.uint8)
    assert clip_vectors(siglip, first, later).shape[0] == 3
    assert not np.allclose(clip_vectors(siglip, first, later), clip_vectors(siglip, first, first), atol=1e-3)
    assert clip_vectors(learned, first, later) is None
    assert clip_vectors(Pixels(), first, later) is None


def test_demonstrations_are_kept_and_apart():
    made, again = (control.demonstrations("tabletop/touch-red-cube", 2, View(), workers=0) for _ in range(2))
    assert len(made) == 2
    for one, other in zip(made, again, strict=True):
        assert len(one.images) == len(one.actions) == len(one.proprio)
        assert one.words == other.words == "touch the red cube"
        assert (one.images == other.images).all()
        assert (one.actions == other.actions).all()
    assert not np.array_equal(made[0].images[0], made[1].images[0])


def test_a_random_init_is_the_same_architecture_with_other_weights(learned, tmp_path):
    fresh = untrained(learned.representation)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert fresh.tokens(images).shape == learned.tokens(images).shape
    assert not torch.allclose(fresh.tokens(images), learned.tokens(images), atol=1e-2)
    assert torch.equal(fresh.tokens(images), untrained(learned.representation).tokens(images))
    words = [one.representation.captions.words.weight for one in (fresh, learned)]
    assert not torch.allclose(*words)
    learned.representation.save(tmp_path / "gen")
    assert subject(f"random:{tmp_path / 'gen'}").key == fresh.key
    assert subject(str(tmp_path / "gen")).key != learned.key
    with pytest.raises(UnderstudyError, match="random:FOLDER or pixels"):
        subject("other:thing")


def test_a_cell_is_asked_once(learned, tmp_path, monkeypatch):
    asked = []

    def ask(eyes, scale, exogenous):
        asked.append(eyes)
        return {"effective rank": plain(3.0)}

    monkeypatch.setitem(study.PROBLEMS, "collapse", replace(study.PROBLEMS["collapse"], ask=ask))
    plan = study.plan([learned, Pixels()], ["collapse"], exogenous=True)
    first = list(study.answered(plan, TINY, tmp_path))
    assert len(asked) == 2
    again = list(study.answered(plan, TINY, tmp_path))
    assert len(asked) == 2
    assert [cell.metrics["effective rank"].value for cell in again] == [3.0, 3.0]
    next(tmp_path.glob("pixels*.json")).write_text("{ cut off")
    list(study.answered(plan, TINY, tmp_path))
    assert len(asked) == 3
    assert [cell.subject for cell in first] == ["v-gen", "raw pixels"]


def test_verdicts_are_of_pairs():
    good, bad = rate(np.arange(40) < 36), rate(np.arange(40) < 8)
    assert compared(good, bad).word == "better"
    assert compared(bad, good).word == "worse"
    assert compared(good, rate(np.arange(40) < 35)).word == "not better"
    rng = np.random.default_rng(0)
    scores = rng.normal(size=60)
    assert compared(mean(scores + 1), mean(scores)).word == "better"
    assert compared(mean(scores), plain(1.0)) is None


def test_a_table_says_who_is_better_than_those_that_learned_nothing():
    def cell(subject, key, successes):
        metrics = {"mAP": mean((np.arange(60) < successes).astype(float) + np.linspace(0, 0.1, 60))}
        return study.Cell("retrieval", subject, key, "tiny", False, metrics, 1.0)

    cells = [
        cell("pixels", "pixels-64-8", 20),
        cell("random", "random-vit-1", 10),
        cell("a", "a", 55),
        cell("b", "b", 10),
    ]
    marks = {one.subject: marked(one, cells)[0] for one in cells}
    assert marks == {"pixels": "", "random": "", "a": "▲", "b": "="}
    alone = [one for one in cells if one.key != "pixels-64-8"]
    assert marked(alone[1], alone)[0] == "△"  # nobody asked the pixels
    told = page(cells, {"scale": "tiny"})
    assert "not better than random init" in told
    assert told.count("<svg") == 4


def test_metrics_survive_a_file():
    metric = rate([True, False, True])
    assert study.metric_of(json.loads(json.dumps(metric.to_dict()))) == replace(metric, low=metric.low)
    assert isinstance(metric, Metric)


def test_the_command_writes_a_page_and_goes_on(learned, tmp_path, monkeypatch, capsys):
    learned.representation.save(tmp_path / "gen")
    monkeypatch.setattr("sim.probe.scale.QUICK", TINY)
    arguments = [str(tmp_path / "gen"), "--quick", "--problems", "collapse", "retrieval", "--no-distractor"]
    assert command.main([*arguments, "--out", str(tmp_path / "probe")]) == 0
    told = capsys.readouterr().out
    assert "raw pixels" in told
    report = json.loads((tmp_path / "probe/probe.json").read_text())
    assert {cell["subject"] for cell in report["cells"]} == {"gen", "raw pixels", "random init (voltron_gen, vit)"}
    assert "retrieval" in (tmp_path / "probe/probe.html").read_text()
    with pytest.raises(UnderstudyError, match="retrieval"):
        command.main([str(tmp_path / "gen"), "--problems", "retrival"])
