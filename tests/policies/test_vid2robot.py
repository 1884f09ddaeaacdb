"""Vid2Robot: its four losses in closed form, its prompts, and a run from films to a checkpoint."""

import json
import math

import cv2
import numpy as np
import pytest
import torch

from policies.policy import load_policy
from policies.prompts import Prompts
from policies.train import TrainConfig, run, training_windows
from policies.vid2robot_losses import PARTNERS, SigmoidContrast, partners
from policies.vid2robot_model import PairsConfig, Vid2RobotConfig, Vid2RobotModel
from vla.backbones.backbone import TokenGroup
from vla.config import build, load
from vla.data.corpus import open_corpus
from vla.errors import UnderstudyError
from vla.prompt import check_prompt, read_prompt, spread
from vla.representation.language import make_language
from vla.representation.objectives import cycle_between
from vla.types import Observation, Task, VideoClip

WORDS = ("push the puck", "open the drawer")
SAME = ("lift the red cube", "lift the red cube")


def network(*overrides, preset="tiny", cameras=("side",)):
    given = ["policy=vid2robot", f"preset={preset}", "data=.", *overrides]
    plain = {key: value for key, value in load(TrainConfig, "train", given).policy.items() if key != "name"}
    config = build(Vid2RobotConfig, plain)
    torch.manual_seed(0)
    words = make_language(config.language, WORDS)
    return Vid2RobotModel(config, action_dim=4, proprio_dim=3, cameras=cameras, words=words)


def batch_of(model, count=4, seed=0):
    config, random = model.config, torch.Generator().manual_seed(seed)
    size = (config.image_size, config.image_size, 3)

    def frames(number):
        return torch.randint(0, 256, (count, number, *size), dtype=torch.uint8, generator=random)

    told = [WORDS[number % 2] for number in range(count)]
    return {
        "prompt": frames(config.prompt_frames),
        **{f"history.image.{name}": frames(config.state_frames) for name in model.cameras},
        "history.proprio": torch.randn(count, config.state_frames, 3, generator=random),
        "history.mask": torch.ones(count, config.state_frames, dtype=torch.bool),
        "actions": torch.rand(count, config.pred_horizon, 4, generator=random) * 2 - 1,
        "mask": torch.ones(count, config.pred_horizon, dtype=torch.bool),
        "text": model.words.tokenize(told),
        "task": torch.arange(count) % 2,
    }


def test_the_loss_is_the_mean_of_four_and_what_is_left_out_counts_nothing():
    model = network()
    batch = batch_of(model)
    losses = model.losses(batch)
    assert set(losses) == {"actions", "alignment", "contrast", "words"}
    torch.testing.assert_close(model(batch), sum(losses.values()) / 4)
    assert set(model.metrics()) == {f"{name}_loss" for name in losses}
    alone = network("policy.alignment=0", "policy.contrast=0", "policy.words=0")
    torch.testing.assert_close(alone(batch), alone.losses(batch)["actions"] / 4)
    assert set(alone.losses(batch)) == {"actions"}


def test_every_weight_learns():
    model = network()
    model(batch_of(model)).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_cross_entropy_of_bins_that_know_nothing_is_that_of_chance():
    """Equal logits: log 256 for each entry of each row, the one that says whether it is over among them."""
    model = network()
    torch.nn.init.zeros_(model.head.choose.weight)
    batch = batch_of(model)
    batch["mask"][0, 2:] = False
    assert model.losses(batch)["actions"].item() == pytest.approx(math.log(256), abs=1e-4)


def test_the_likeliest_bin_is_the_action():
    head, actions = network().head, torch.tensor([-1.0, -0.2, 0.0, 1.0])
    context = TokenGroup(torch.zeros(1, 3, 32), torch.ones(1, 3, dtype=torch.bool))
    wanted = ((actions + 1) / 2 * 255).round()
    logits = torch.full((1, 4, 5, 256), -9.0)
    logits[..., range(4), wanted.long()] = 9.0
    logits[:, :3, 4, 0], logits[:, 3, 4, 255] = 9.0, 9.0
    head._logits = lambda _: logits
    np.testing.assert_allclose(head.sample(context, torch.empty(0))[0, 2], actions, atol=1 / 254)
    head.decode = "mean"
    np.testing.assert_allclose(head.sample(context, torch.empty(0))[0, 2], actions, atol=1 / 254)
    logits[..., :-1, 255] = 9.0  # as likely as the other
    np.testing.assert_allclose(head.sample(context, torch.empty(0))[0, 2], (actions + 1) / 2, atol=1 / 254)
    logits[..., :-1, 255] = torch.where(wanted == 255, 9.0, -9.0)
    mask = torch.tensor([[True, True, True, False]])
    assert float(head.loss(context, actions.expand(1, 4, 4), mask)) < 1e-4
    assert float(head.loss(context, actions.expand(1, 4, 4), ~mask)) > 5
    # What comes after the end is no action to be learned.
    other = torch.cat([actions.expand(1, 3, 4), -actions.expand(1, 1, 4)], dim=1)
    assert float(head.loss(context, other, mask)) < 1e-4


def test_frames_before_the_begin_are_not_aligned():
    model = network("policy.contrast=0", "policy.words=0")
    batch = batch_of(model)
    batch["history.mask"][:2, 0] = False
    before = model.losses(batch)["alignment"]
    batch["history.image.side"][:2, 0] = 0
    batch["history.image.side"][:2, 1] = 255
    torch.testing.assert_close(model.losses(batch)["alignment"], before)
    batch["history.image.side"][2, 0] = 0
    assert model.losses(batch)["alignment"] != before


def test_what_has_no_weight_is_not_built():
    alone = network("policy.alignment=0", "policy.contrast=0", "policy.words=0")
    alone(batch_of(alone)).backward()
    assert not [n for n, weight in alone.named_parameters() if weight.requires_grad and weight.grad is None]
    told = network("policy.prompt=words")
    told(batch_of(told)).backward()
    assert not [n for n, weight in told.named_parameters() if weight.requires_grad and weight.grad is None]


def test_partners_are_the_next_that_were_told_the_same():
    pairs = list(zip(*(side.tolist() for side in partners(torch.tensor([0, 1, 0, 2, 0, 1]))), strict=True))
    assert pairs == [(0, 2), (0, 4), (1, 5), (2, 4), (2, 0), (3, 3), (4, 0), (4, 2), (5, 1)]
    assert [side.tolist() for side in partners(torch.tensor([3]))] == [[0], [0]]
    one, other = partners(torch.zeros(20, dtype=torch.long))
    assert torch.equal((other - one) % 20, torch.arange(1, PARTNERS + 1).repeat(20))


def test_a_frame_s_place_is_told_by_pictures_alone():
    """A still film has the same vector at every place, its ends included."""
    model = network()
    still = model.align(torch.randn(2, 1, model.config.encoder.width).expand(-1, 6, -1))
    torch.testing.assert_close(still, still[:, :1].expand_as(still))
    torch.testing.assert_close(still.norm(dim=-1), torch.ones(2, 6))


def test_alignment_there_and_back_by_hand():
    """Two frames each, on a line: α and β are plain sigmoids of differences of squares."""
    a, b = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.0], [2.0]]])
    times = torch.tensor([[0.0, 1.0]])
    expected = 0.0
    for place, time in ((0.0, 0.0), (1.0, 1.0)):
        near = [math.exp(-((place - other) ** 2)) for other in (0.0, 2.0)]
        there = 2.0 * near[1] / sum(near)
        back = [math.exp(-((there - other) ** 2)) for other in (0.0, 1.0)]
        expected += (back[1] / sum(back) - time) ** 2 / 2
    assert float(cycle_between(a, b, times, scale=1.0)) == pytest.approx(expected, abs=1e-6)


def test_alignment_is_in_squared_frames_of_whole_films_and_from_the_state():
    """Frames that all look alike come back to the middle: the variance of 0 … F - 1."""
    model = network("policy.contrast=0", "policy.words=0")
    alike = torch.ones(2, 5, 4)
    assert float(model._cycled(alike, alike)) == pytest.approx(2)
    torch.nn.init.zeros_(model.align.mlp[-1].weight)
    batch = batch_of(model)
    prompt, state = (np.var(np.arange(n)) for n in (model.config.prompt_frames, model.config.state_frames))
    assert model.losses(batch)["alignment"].item() == pytest.approx((prompt + state) / 2, rel=1e-4)


def test_frames_are_wanted_where_they_are_in_the_other_film():
    """Two unlike frames: none is misplaced in the same film, each by one frame in the film played backwards."""
    model, film = network(), torch.eye(2, 4)[None]
    assert float(model._misplaced(film, film)) == pytest.approx(0, abs=1e-6)
    assert float(model._misplaced(film, film.flip(1))) == pytest.approx(1, abs=1e-6)
    torch.manual_seed(0)
    ordered = network("policy.order=0.5", "policy.contrast=0", "policy.words=0")
    batch, plain = batch_of(ordered), network("policy.contrast=0", "policy.words=0")
    plain.load_state_dict(ordered.state_dict())
    more = ordered.losses(batch)["alignment"] - plain.losses(batch)["alignment"]
    assert 0 < float(more.detach()) < 0.5 * (model.config.prompt_frames - 1) ** 2


def test_contrast_by_hand_and_no_negatives_of_the_same_task():
    contrast = SigmoidContrast()
    unit = torch.eye(3)[:2]
    same = torch.tensor([[True, False], [False, True]])
    right = math.log1p(math.exp(-0.0))  # 10 - 10
    wrong = math.log1p(math.exp(-10.0))  # no likeness: 0 - 10
    assert float(contrast(3 * unit, unit, same)) == pytest.approx(right + wrong, abs=1e-5)
    all_same = torch.ones(2, 2, dtype=torch.bool)
    assert float(contrast(unit, unit, all_same)) == pytest.approx(right + 10 + wrong, abs=1e-4)
    model = network("policy.alignment=0", "policy.words=0")
    batch = batch_of(model)
    apart = model.losses({**batch, "task": torch.arange(4)})["contrast"]
    assert float(apart) != pytest.approx(float(model.losses(batch)["contrast"]))


def test_the_prompt_matters_and_is_looked_at_once():
    model = network().eval()
    batch, noise = batch_of(model), torch.empty(0)
    prompt = model.watch(batch["prompt"])
    logits = model.head._logits(model.aware(model.look(batch), prompt, batch))
    other = model.watch(batch["prompt"].flip(1))
    assert not torch.allclose(logits, model.head._logits(model.aware(model.look(batch), other, batch)))
    model.watch = None
    assert model.sample(batch, prompt, noise).shape == (4, 4, 4)


def test_the_papers_and_the_laptops_sizes():
    count = sum(weight.numel() for weight in network(preset="cpu").parameters())
    assert 7.7e6 < count < 8.0e6
    given = ["policy=vid2robot", "preset=paper", "data=."]
    plain = {key: value for key, value in load(TrainConfig, "train", given).policy.items() if key != "name"}
    config = build(Vid2RobotConfig, plain)
    assert (config.prompt_frames, config.state_frames, config.latents, config.bins) == (16, 8, 64, 256)
    assert (config.resampler_depth, config.prompt_depth, config.action_depth, config.pred_horizon) == (2, 4, 4, 4)
    assert config.encoder.tokens == 196


@pytest.fixture
def films(tmp_path):
    """Two folders: a person elsewhere, and one in the robot's place; each lifts the red cube, which is a square."""
    for folder, value in (("there", 60), ("here", 120)):
        (tmp_path / folder).mkdir()
        writer = cv2.VideoWriter(str(tmp_path / folder / "0.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (32, 32))
        for frame in range(12):
            picture = np.full((32, 32, 3), value, np.uint8)
            cv2.rectangle(picture, (2 * frame, 4), (2 * frame + 7, 12), (0, 0, 255), -1)
            writer.write(picture)
        writer.release()
        (tmp_path / folder / "captions.csv").write_text("file,caption\n0.mp4,lift the red cube\n")
    return [tmp_path / "there", tmp_path / "here"]


def windows_of(dataset, **changes):
    config = Vid2RobotConfig(**changes)
    config.encoder.image_size = 32
    return training_windows(dataset, config, holdout=0)


def test_prompts_are_of_the_same_words_never_of_the_same_episode(make_dataset, films):
    windows = windows_of(make_dataset(instructions=SAME))
    corpus = open_corpus(films, image_size=32)
    pairs = PairsConfig(robot_robot=1.0, hindsight=0.0, colocated=0.0)
    prompts = Prompts(windows, corpus, pairs, frames=4, colocated=["here"])
    frames = windows.frames["front"]
    shown = prompts.draw(np.array([0]), np.random.default_rng(0), augment=False)
    first = int(windows.ends[0])
    others = [begin for begin in np.unique(windows.ends)[:-1] if begin >= first]
    same = [begin for begin in others if windows.instruction_of[begin] == windows.instruction_of[0]]
    assert any(np.array_equal(shown[0, 0], frames[begin]) for begin in same)
    assert not np.array_equal(shown[0, 0], frames[0])


@pytest.mark.parametrize(("kind", "value"), [("hindsight", 60), ("colocated", 120)])
def test_prompts_of_people_come_from_the_folders_that_the_settings_name(kind, value, make_dataset, films):
    windows = windows_of(make_dataset(instructions=SAME))
    shares = {"robot_robot": 0.0, "hindsight": 0.0, "colocated": 0.0, kind: 1.0}
    prompts = Prompts(windows, open_corpus(films, image_size=32), PairsConfig(**shares), frames=4, colocated=["here"])
    shown = prompts.draw(np.array([0]), np.random.default_rng(0), augment=False)
    assert abs(float(shown[0, :, 20:].mean()) - value) < 8
    augmented = prompts.draw(np.array([0] * 4), np.random.default_rng(0), augment=True)
    assert len({video.tobytes() for video in augmented}) == 4


def test_shares_are_those_of_the_settings_among_what_there_is(make_dataset, films):
    windows = windows_of(make_dataset(instructions=SAME))
    words = windows.instructions[windows.instruction_of[0]]
    both = Prompts(windows, open_corpus(films, image_size=32), PairsConfig(), frames=4, colocated=["here"])
    alone = Prompts(windows, None, PairsConfig(), frames=4)
    np.testing.assert_allclose(both.shares(words), [0.9, 0.05, 0.05])
    np.testing.assert_allclose(alone.shares(words), [1, 0, 0])
    with pytest.raises(UnderstudyError, match=r"nowhere, and videos=\[…\] has"):
        Prompts(windows, open_corpus(films, image_size=32), PairsConfig(), frames=4, colocated=["nowhere"])


def test_a_task_that_nothing_shows_is_named(make_dataset):
    with pytest.raises(UnderstudyError, match="nothing shows 'open the drawer'"):
        Prompts(windows_of(make_dataset()), None, PairsConfig(), frames=4)


def test_a_prompt_in_other_speeds_keeps_its_order_and_its_ends():
    assert spread(31, 16).tolist() == list(range(0, 31, 2))
    assert spread(3, 6).tolist() == [0, 0, 1, 1, 2, 2]
    random = np.random.default_rng(0)
    for _ in range(50):
        frames = spread(101, 16, random)
        assert (np.diff(frames) >= 0).all()
        assert frames[0] <= 10
        assert frames[-1] >= 90


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (np.full((3, 40, 40, 3), 99, np.uint8), "has 3 frames"),
        (np.full((20, 40, 40, 3), 3, np.uint8), "too dark"),
        (np.full((20, 40, 40, 3), 99, np.uint8), "nothing moves"),
        (np.full((900, 8, 8, 3), 99, np.uint8), "lasts 90 s"),
    ],
)
def test_a_prompt_that_shows_nothing_is_refused(frames, told):
    with pytest.raises(UnderstudyError, match=told):
        check_prompt(VideoClip(frames, 10.0))


def test_a_prompt_is_read_from_a_video_of_any_shape_and_rate(films, tmp_path):
    clip = read_prompt(films[0] / "0.mp4")
    assert clip.frames.shape == (12, 128, 128, 3)
    assert clip.fps == 10
    check_prompt(clip)
    writer = cv2.VideoWriter(str(tmp_path / "wide.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30.0, (96, 48))
    for frame in range(300):
        picture = np.zeros((48, 96, 3), np.uint8)
        picture[:, 24:72] = (0, 0, min(frame, 255))  # the middle square, red
        writer.write(picture)
    writer.release()
    clip = read_prompt(tmp_path / "wide.mp4")
    assert clip.frames.shape == (64, 128, 128, 3)
    assert clip.fps == pytest.approx(6.4)
    assert clip.frames[-1, :, 8:-8, 0].min() > 200
    assert (np.diff(clip.frames[:, 64, 64, 0].astype(int)) >= -2).all()
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(UnderstudyError, match="cannot be read as a video"):
        read_prompt(tmp_path / "broken.mp4")
    with pytest.raises(UnderstudyError, match="there is no video"):
        read_prompt(tmp_path / "none.mp4")


def settings(dataset, films, out, *overrides):
    given = ["policy=vid2robot", "preset=tiny", f"data={dataset.root}", f"out={out}"]
    given += [f"videos=[{','.join(map(str, films))}]", "policy.colocated=[here]", "trainer.precision=fp32"]
    return load(TrainConfig, "train", [*given, "trainer.steps=4", *overrides])


def test_from_films_to_a_checkpoint_that_must_be_shown_its_task(make_dataset, films, tmp_path):
    dataset, out = make_dataset(instructions=SAME), tmp_path / "out"
    run(settings(dataset, films, out))
    policy = load_policy(out)
    assert policy.spec.accepts == ("video",)
    assert json.loads((out / "provenance.json").read_text())["videos"] == [str(folder) for folder in films]
    with pytest.raises(UnderstudyError, match="prompt=VIDEO"):
        policy.reset(Task("lift the red cube"))
    policy.reset(Task("", video=VideoClip(open_corpus(films, image_size=32).clip(0), 10.0)))
    episode = dataset.episode(0)
    seen = Observation({name: decode()[0] for name, decode in episode.images.items()}, episode.proprio[0], 0)
    assert policy.infer(seen).actions.shape == (4, dataset.spec.action.dim)


def test_two_steps_and_two_more_are_four(make_dataset, films, tmp_path):
    from safetensors.torch import load_file

    dataset = make_dataset(instructions=SAME)
    run(settings(dataset, films, tmp_path / "whole"))
    run(settings(dataset, films, tmp_path / "parts", "trainer.steps=2"))
    run(settings(dataset, films, tmp_path / "parts", "resume=true"))
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight)
