"""UVA's network: what each task may know, what each loss is of, and the sizes of the paper."""

from dataclasses import replace

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch.distributions import Normal, kl_divergence

from policies.uva.denoiser import TRAIN_TIMES, DenoiserConfig, TokenDiffusion
from policies.uva.model import Shapes, UVAConfig, UVAModel
from policies.uva.tasks import LEAST_MASKED, TASKS, masked_places, truncated
from vla.errors import UnderstudyError
from vla.representation.language import make_language

HEAD = DenoiserConfig(width=16, depth=1, steps=4)
TINY = UVAConfig(
    vae="nowhere",
    image_size=32,
    frames=2,
    stride=2,
    width=24,
    depth=1,
    heads=2,
    dropout=0.0,
    video=HEAD,
    action=HEAD,
    language_tokens=2,
)
SHAPES = Shapes(side=4, channels=3, action_dim=5, proprio_dim=6, cameras=("front", "wrist"))
BATCH = 3


def make(config=TINY, shapes=SHAPES):
    torch.manual_seed(0)
    model = UVAModel(config, shapes, make_language(config.language, ["lift the cube", "press"]))
    for parameter in model.parameters():  # nothing is the identity that begins as one
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def batch_of(model, films=False, seed=1):
    generator, config, shapes = torch.Generator().manual_seed(seed), model.config, model.shapes

    def rows(camera):
        shape = (BATCH, config.frames, shapes.side**2, 2 * shapes.channels)
        return {f"{when}.image.{camera}": torch.randn(shape, generator=generator) for when in ("history", "future")}

    made = rows("front") | {"text": model.language.tokenize(["lift the cube", "press", ""])}
    if films:
        return made
    horizon = config.pred_horizon
    actions = torch.rand(BATCH, horizon, shapes.action_dim, generator=generator) * 2 - 1
    proprio = torch.randn(BATCH, config.frames, shapes.proprio_dim, generator=generator)
    mask = torch.ones(BATCH, horizon, dtype=torch.bool)
    return made | rows("wrist") | {"actions": actions, "mask": mask, "history.proprio": proprio}


def z_of(model, batch, task, seed=3):
    torch.manual_seed(seed)
    future = model.latents(batch["future.image.front"])
    masked = masked_places(TASKS[task], BATCH, model.places_of_frame, future.device)
    return model.joint(batch, TASKS[task], masked, future)


def matters(model, task, *names):
    """Whether Z changes with what the batch holds under these names."""
    batch = batch_of(model)
    other = {**batch, **{name: batch_of(model, seed=2)[name] for name in names}}
    return not torch.equal(z_of(model, batch, task), z_of(model, other, task))


SEES = {
    "policy": "history proprio text",
    "video": "history future text",
    "dynamics": "history future actions proprio text",
    "inverse": "future text",
    "policy_video": "history future proprio text",
}
PARTS = {
    "history": ("history.image.front",),
    "future": ("future.image.front",),
    "actions": ("actions",),
    "proprio": ("history.proprio",),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("task", TASKS)
def test_a_task_knows_what_its_row_says_and_nothing_else(task, part):
    assert matters(make(), task, *PARTS[part]) == (part in SEES[task].split())


@pytest.mark.parametrize("task", TASKS)
def test_another_cameras_history_is_seen_as_the_first_ones(task):
    assert matters(make(), task, "history.image.wrist") == TASKS[task].history
    assert not matters(make(), task, "future.image.wrist")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_hears_the_words(task):
    model = make()
    batch = batch_of(model)
    other = {**batch, "text": batch["text"].flip(0)}
    assert not torch.equal(z_of(model, batch, task), z_of(model, other, task))


@pytest.mark.parametrize("task", TASKS)
def test_a_task_learns_what_its_row_says(task):
    model = make()
    losses = model.losses(batch_of(model), TASKS[task])
    wanted = {"action": TASKS[task].learns_actions, "video": TASKS[task].learns_video}
    assert set(losses) == {name for name, learned in wanted.items() if learned}
    sum(losses.values()).backward()
    for head, name in ((model.action_head, "action"), (model.video_head, "video")):
        assert all((parameter.grad is not None) == wanted[name] for parameter in head.parameters())


def test_the_video_loss_is_of_masked_tokens_alone(monkeypatch):
    model = make()
    asked = {}
    monkeypatch.setattr(model.video_head, "loss", lambda clean, z: asked.update(clean=clean, z=z) or clean.sum(-1))
    future, z = torch.randn(BATCH, 2, 16, 3), torch.randn(BATCH, 32, 24)
    masked = torch.rand(BATCH, 16) < 0.7
    model._video_loss(z, future, masked)
    expected = [future[b, f, s] for b in range(BATCH) for f in range(2) for s in range(16) if masked[b, s]]
    torch.testing.assert_close(asked["clean"], torch.stack(expected))
    assert len(asked["z"]) == 2 * int(masked.sum())


def test_a_given_place_of_the_future_is_seen_and_a_masked_one_is_not():
    model = make()
    batch = batch_of(model)
    future = model.latents(batch["future.image.front"])
    masked = torch.zeros(BATCH, 16, dtype=torch.bool)
    masked[:, :10] = True
    before = model.joint(batch, TASKS["video"], masked, future)
    hidden, given = future.clone(), future.clone()
    hidden[:, :, :10] += 1
    given[:, :, 10:] += 1
    assert torch.equal(model.joint(batch, TASKS["video"], masked, hidden), before)
    assert not torch.equal(model.joint(batch, TASKS["video"], masked, given), before)


def test_an_action_stands_at_its_own_places():
    model = make()
    actions = torch.arange(4.0)[None, :, None].expand(1, 4, 5)
    model.actions.project.weight.data = torch.zeros(24, 5).index_fill(1, torch.tensor([0]), 1.0)
    model.actions.project.bias.data.zero_()
    laid = model._at_places(actions)[0, :, :, 0]
    assert laid.tolist() == [[0.0] * 8 + [1.0] * 8, [2.0] * 8 + [3.0] * 8]


def test_at_least_seven_tenths_are_masked_at_the_same_places_of_all_frames():
    masked = masked_places(TASKS["video"], 500, 64, torch.device("cpu"))
    share = masked.float().mean(1)
    assert share.min() >= LEAST_MASKED
    assert masked.ndim == 2  # one mask for all frames of a sample
    assert 0 < masked.float().mean(0).min() < masked.float().mean(0).max() < 1
    drawn = truncated(20_000, torch.device("cpu"))
    normal = Normal(1.0, 0.25)
    below = (normal.cdf(torch.tensor(0.85)) - normal.cdf(torch.tensor(0.7))) / (0.5 - normal.cdf(torch.tensor(0.7)))
    assert (drawn < 0.85).float().mean() == pytest.approx(float(below), abs=0.01)


def test_films_without_actions_teach_the_video_task_alone(monkeypatch):
    model, asked = make(), []
    losses = model.losses
    monkeypatch.setattr(model, "losses", lambda batch, task: asked.append(task) or losses(batch, task))
    assert torch.isfinite(model(batch_of(model, films=True)))
    assert asked == [TASKS["video"]]
    for _ in range(40):
        model(batch_of(model))
    assert {id(task) for task in asked} == {id(task) for task in TASKS.values()}


def test_the_policy_asks_the_transformer_once_and_never_the_video_head(monkeypatch):
    model, passes = make(), []
    monkeypatch.setattr(model, "video_head", None)
    joint = model.joint
    monkeypatch.setattr(model, "joint", lambda *given: passes.append(1) or joint(*given))
    batch = {name: value for name, value in batch_of(model).items() if not name.startswith(("future", "actions"))}
    actions = model.actions_of(model.seen(batch), torch.randn(5, BATCH, 4, 5))
    assert actions.shape == (BATCH, 4, 5)
    assert len(passes) == 1


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_film_is_made_place_by_place(rounds, monkeypatch):
    model, passes = make(), []
    joint = model.joint
    monkeypatch.setattr(model, "joint", lambda *given: passes.append(given[2].sum(1).tolist()) or joint(*given))
    batch = {name: value for name, value in batch_of(model).items() if not name.startswith("future")}
    film = model.video_of(batch, torch.Generator().manual_seed(0), "dynamics", rounds=rounds)
    assert film.shape == (BATCH, 2, 16, 3)
    assert (film != 0).all()
    assert passes == [[16] * BATCH, [13] * BATCH, [8] * BATCH][:rounds]


def test_places_that_actions_cannot_share_are_refused():
    with pytest.raises(UnderstudyError, match="stride=3"):
        make(replace(TINY, stride=3))


def test_the_papers_preset_has_the_papers_sizes():
    from policies.policy import policy_class
    from policies.train import TrainConfig
    from vla.config import build, load

    settings = dict(load(TrainConfig, "train", ["policy=uva", "preset=paper", "data=.", "policy.vae=."]).policy)
    config = build(policy_class(settings.pop("name")).config_class, settings)
    with torch.device("meta"):
        shapes = Shapes(side=16, channels=16, action_dim=10, proprio_dim=0, cameras=("front",))
        model = UVAModel(config, shapes, make_language(config.language, [""]))

    def millions(*parts):
        return sum(parameter.numel() for part in parts for parameter in part.parameters()) / 1e6

    assert millions(model) == pytest.approx(261, abs=0.5)
    assert millions(model.video_head) == pytest.approx(35.7, abs=0.1)
    assert millions(model.action_head, model.adapter) == pytest.approx(52.2, abs=0.1)
    assert (config.pred_horizon, config.exec_horizon, config.image_size) == (16, 8, 256)
    assert (config.video.steps, config.video.temperature, config.normalization) == (100, 0.95, "minmax")


def scheduler(steps):
    made = DDPMScheduler(
        TRAIN_TIMES, beta_schedule="squaredcos_cap_v2", variance_type="learned_range", clip_sample=False
    )
    made.set_timesteps(timesteps=torch.linspace(TRAIN_TIMES - 1, 0, steps).round().long().tolist())
    return made


class Said(torch.nn.Module):
    """A network whose answers are known."""

    def forward(self, noisy, time, condition):
        return torch.cat([0.3 * noisy + 0.1, 0.5 * torch.tanh(noisy) - 0.2], dim=-1)


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_sampling_is_diffusers_own_but_for_the_temperature(temperature, monkeypatch):
    head = TokenDiffusion(replace(HEAD, steps=8, temperature=temperature), dim=3, condition=4, bound=1e9)
    head.network = Said()
    noise, made = torch.randn(9, 10, 3, generator=torch.Generator().manual_seed(0)), scheduler(8)
    x, drawn = noise[0], iter(noise[1:])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: temperature * next(drawn))
    for time in made.timesteps:
        x = made.step(Said()(x, time, None), time, x).prev_sample
    torch.testing.assert_close(head.sample(torch.zeros(10, 4), noise), x, rtol=2e-3, atol=2e-3)


def test_the_bound_is_the_divergence_of_two_steps(monkeypatch):
    head = TokenDiffusion(HEAD, dim=3, condition=4, bound=1.0)
    clean, noise = torch.randn(50, 3), torch.randn(50, 3)
    time = torch.randint(1, TRAIN_TIMES, (50, 1))
    alpha, before = head.alphas[time].float(), head.alphas[time - 1].float()
    noisy, beta = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, 1 - alpha / before
    said, variance = 0.9 * noise, torch.rand(50, 3) * 2 - 1
    low, high = beta * (1 - before) / (1 - alpha), beta
    spread = (low.log() + (variance + 1) / 2 * (high.log() - low.log())).exp()

    def mean(start):
        return (before.sqrt() * beta * start + (alpha / before).sqrt() * (1 - before) * noisy) / (1 - alpha)

    guess = (noisy - (1 - alpha).sqrt() * said) / alpha.sqrt()
    true, model = Normal(mean(clean), low.sqrt()), Normal(mean(guess), spread.sqrt())
    expected = kl_divergence(true, model).mean(-1) / torch.log(torch.tensor(2.0))
    torch.testing.assert_close(head._bits(clean, noisy, said, variance, time), expected, rtol=1e-2, atol=1e-3)


def test_the_bound_teaches_the_variance_and_not_the_noise():
    head = TokenDiffusion(HEAD, dim=3, condition=4, bound=1.0)
    said = torch.randn(8, 3, requires_grad=True)
    head._bits(torch.randn(8, 3), torch.randn(8, 3), said.detach(), said, torch.full((8, 1), 500)).sum().backward()
    assert said.grad.abs().sum() > 0


def test_a_head_learns_two_modes():
    """Of a token that is 0.5 or -0.5 by chance it makes both, and nothing in between: 400 steps."""
    torch.manual_seed(0)
    head = TokenDiffusion(DenoiserConfig(width=64, depth=2, steps=20, temperature=1.0), dim=1, condition=2, bound=1.0)
    optimizer = torch.optim.AdamW(head.parameters(), 2e-3)
    for _ in range(400):
        clean = torch.randint(2, (512, 1)) - 0.5
        optimizer.zero_grad()
        head.loss(clean, torch.zeros(512, 2)).mean().backward()
        optimizer.step()
    made = head.sample(torch.zeros(400, 2), torch.randn(21, 400, 1))
    assert ((made.abs() - 0.5).abs() < 0.15).float().mean() > 0.9
    assert 0.3 < (made > 0).float().mean() < 0.7


def test_a_token_may_be_drawn_several_times_for_one_pass():
    one, four = (
        TokenDiffusion(DenoiserConfig(width=16, depth=1, draws=draws), dim=3, condition=4, bound=1.0)
        for draws in (1, 4)
    )
    four.load_state_dict(one.state_dict())
    clean, condition = torch.randn(30, 3), torch.randn(30, 4)
    torch.manual_seed(5)
    expected = one.loss(clean.repeat(4, 1), condition.repeat(4, 1)).view(4, 30).mean(0)
    torch.manual_seed(5)
    torch.testing.assert_close(four.loss(clean, condition), expected)
