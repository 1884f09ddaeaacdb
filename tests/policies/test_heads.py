"""The action heads: what they learn from, what they draw, and DDIM against the formula."""

import math

import numpy as np
import pytest
import torch

from policies.heads.diffusion import TRAIN_TIMES, DiffusionConfig, DiffusionHead, ddim_scheduler
from policies.heads.dit import DiT, DiTSize
from policies.heads.flow import NEAREST, FlowConfig, FlowHead
from policies.heads.head import mean_over_dims
from policies.heads.realtime import Known, soft_weights
from policies.heads.regression import RegressionConfig, RegressionHead
from policies.heads.unet import UNet, UNetSize
from vla.backbones.backbone import TokenGroup
from vla.errors import UnderstudyError

CHUNK, ACTION, TOKEN = 8, 3, 16


def group(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TokenGroup(torch.randn(batch, 1, TOKEN, generator=generator), torch.ones(batch, 1, dtype=torch.bool))


def clean_actions(batch, seed=1):
    return torch.rand(batch, CHUNK, ACTION, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def diffusion(**settings):
    torch.manual_seed(0)
    return DiffusionHead(DiffusionConfig(**settings), transformer(), action_dim=ACTION, chunk=CHUNK)


def transformer():
    return DiT(DiTSize(1, 32, 2), action_dim=ACTION, chunk=CHUNK, token_dim=TOKEN)


def flow(**settings):
    torch.manual_seed(0)
    return FlowHead(FlowConfig(**settings), transformer(), action_dim=ACTION, chunk=CHUNK)


def unet(**settings):
    torch.manual_seed(0)
    network = UNet(UNetSize((16, 24)), action_dim=ACTION, chunk=CHUNK, token_dim=TOKEN)
    return DiffusionHead(DiffusionConfig(**settings), network, action_dim=ACTION, chunk=CHUNK)


def awake(head):
    """The head with weights where it starts at zero, so that it says something."""
    if hasattr(head.denoiser, "action_out"):
        torch.nn.init.normal_(head.denoiser.action_out.weight, std=0.1)
    torch.nn.init.normal_(head.denoiser.null)
    return head


def regression():
    torch.manual_seed(0)
    return RegressionHead(RegressionConfig(width=24, blocks=1), action_dim=ACTION, chunk=CHUNK, token_dim=TOKEN)


def spied(monkeypatch, head):
    """What the head passes to `add_noise` and to the denoiser: lists that fill as it works."""
    added, asked = [], []
    add_noise, denoise = head.scheduler.add_noise, head.denoiser.forward

    def spy_noise(clean, noise, time):
        added.append((clean.clone(), noise.clone(), time.clone()))
        return add_noise(clean, noise, time)

    def spy_denoiser(noisy, time, cognition, drop=None):
        asked.append((noisy.clone(), time.clone(), cognition.clone(), None if drop is None else drop.clone()))
        return denoise(noisy, time, cognition, drop)

    monkeypatch.setattr(head.scheduler, "add_noise", spy_noise)
    monkeypatch.setattr(head.denoiser, "forward", spy_denoiser)
    return added, asked


def test_ten_steps_visit_ninety_to_zero():
    assert ddim_scheduler(10).timesteps.tolist() == list(range(90, -1, -10))
    assert ddim_scheduler(100).timesteps.tolist() == list(range(99, -1, -1))
    for steps in (0, 7, 101):
        with pytest.raises(ValueError, match="must divide 100"):
            ddim_scheduler(steps)


def test_alpha_bar_is_the_cosine():
    def level(t):
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((t + 1) / TRAIN_TIMES) / level(t / TRAIN_TIMES), 0.999) for t in range(TRAIN_TIMES)]
    ours = ddim_scheduler(10).alphas_cumprod.numpy()
    np.testing.assert_allclose(ours, np.cumprod(1 - np.array(betas)), rtol=1e-4, atol=1e-9)
    assert ours[90] == pytest.approx(0.0195, abs=5e-5)
    assert ours[0] > 0.999
    assert (np.diff(ours) < 0).all()


def by_the_formula(head, noise, predict):
    """DDIM with eta 0, written out (Song et al. 2021, equation 12)."""
    alpha_bar, x = head.scheduler.alphas_cumprod, noise
    step = TRAIN_TIMES // head.config.ddim_steps
    for time in range(TRAIN_TIMES - step, -1, -step):
        now = alpha_bar[time]
        before = alpha_bar[time - step] if time >= step else torch.tensor(1.0)
        predicted = predict(x, time)
        guess = (x - (1 - now).sqrt() * predicted) / now.sqrt()
        x = before.sqrt() * guess + (1 - before).sqrt() * predicted
    return x


@pytest.mark.parametrize("steps", [5, 10, 100])
def test_sampling_is_ddim(steps):
    head, context = awake(diffusion(guidance=1.0, ddim_steps=steps)), group(2)
    noise = torch.randn(2, CHUNK, ACTION)
    expected = by_the_formula(head, noise, lambda x, t: head.denoiser(x, torch.full((2,), t), context.tokens))
    torch.testing.assert_close(head.sample(context, noise), expected.detach(), rtol=1e-3, atol=1e-4)


def test_who_knows_the_noise_finds_the_actions_again(monkeypatch):
    head, clean = diffusion(), clean_actions(3)

    def oracle(noisy, time, cognition, drop=None):
        level = head.scheduler.alphas_cumprod[time][:, None, None]
        copies = len(noisy) // len(clean)
        return (noisy - level.sqrt() * clean.repeat(copies, 1, 1)) / (1 - level).sqrt()

    monkeypatch.setattr(head.denoiser, "forward", oracle)
    for seed in range(3):
        noise = torch.randn(3, CHUNK, ACTION, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(head.sample(group(3), noise), clean, rtol=1e-3, atol=1e-3)


def test_guidance_of_one_is_no_guidance(monkeypatch):
    head = awake(diffusion(guidance=1.0))
    _, asked = spied(monkeypatch, head)
    noise, context = torch.randn(2, CHUNK, ACTION), group(2)
    head.sample(context, noise)
    assert all(drop is None and len(noisy) == 2 for noisy, _, _, drop in asked)
    torch.testing.assert_close(asked[0][2], context.tokens)


def test_guidance_asks_for_both_in_one_batch_and_goes_beyond_the_conditional(monkeypatch):
    head, context = diffusion(guidance=1.5), group(2)
    asked = []

    def constant(noisy, time, cognition, drop):
        asked.append((len(noisy), drop.tolist(), time.tolist()))
        assert torch.equal(noisy[:2], noisy[2:])
        return torch.where(drop[:, None, None], 0.25, 0.5).expand_as(noisy)

    monkeypatch.setattr(head.denoiser, "forward", constant)
    noise = torch.randn(2, CHUNK, ACTION)
    guided = head.sample(context, noise)
    assert asked == [(4, [False, False, True, True], [time] * 4) for time in range(90, -1, -10)]
    beyond = 0.25 + 1.5 * (0.5 - 0.25)
    expected = by_the_formula(head, noise, lambda x, t: torch.full_like(x, beyond))
    torch.testing.assert_close(guided, expected, rtol=1e-3, atol=1e-4)


def test_guidance_changes_nothing_where_the_cognition_is_the_null():
    noise, strong, none = torch.randn(2, CHUNK, ACTION), awake(diffusion(guidance=3.0)), diffusion(guidance=1.0)
    none.load_state_dict(strong.state_dict())
    null = TokenGroup(strong.denoiser.null.detach().expand(2, 1, -1), torch.ones(2, 1, dtype=torch.bool))
    torch.testing.assert_close(strong.sample(null, noise), none.sample(null, noise), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(strong.sample(group(2), noise), none.sample(group(2), noise), atol=1e-2)


def test_every_repeat_draws_its_own_noise_and_time(monkeypatch):
    head, clean, context = awake(diffusion(repeats=8, drop=0.5)), clean_actions(4), group(4)
    added, asked = spied(monkeypatch, head)
    head.loss(context, clean, torch.ones(4, CHUNK, dtype=torch.bool))
    ((copies, noise, times),) = added
    assert len(noise) == len(times) == 8 * 4
    assert len(torch.unique(noise.flatten(1), dim=0)) == 32
    for sample in range(4):
        assert len(set(times[sample::4].tolist())) > 4
    _, asked_times, cognition, drop = asked[0]
    assert torch.equal(asked_times, times)
    for number in range(32):  # each draw belongs to one sample, with its cognition
        assert torch.equal(copies[number], clean[number % 4])
        assert torch.equal(cognition[number], context.tokens[number % 4])
    assert any(0 < drop[sample::4].sum() < 8 for sample in range(4))


def test_times_are_uniform_and_labels_drop_as_often_as_asked(monkeypatch):
    head = diffusion(repeats=8, drop=0.1)
    added, asked = spied(monkeypatch, head)
    head.loss(group(512), clean_actions(512), torch.ones(512, CHUNK, dtype=torch.bool))
    times = added[0][2]
    assert (times.min(), times.max()) == (0, TRAIN_TIMES - 1)
    counts = torch.bincount(times // 10, minlength=10)
    assert (counts - 409.6).abs().max() < 5 * math.sqrt(409.6)
    assert asked[0][3].float().mean().item() == pytest.approx(0.1, abs=0.02)
    never = diffusion(drop=0.0)
    _, asked = spied(monkeypatch, never)
    never.loss(group(8), clean_actions(8), torch.ones(8, CHUNK, dtype=torch.bool))
    assert not asked[0][3].any()


def test_the_first_loss_is_that_of_predicting_nothing():
    loss = diffusion(repeats=8).loss(group(256), clean_actions(256), torch.ones(256, CHUNK, dtype=torch.bool))
    assert loss.item() == pytest.approx(1, abs=0.03)  # 49 152 squares of standard normal numbers


MAKERS = {"diffusion": diffusion, "flow": flow, "unet": unet}


@pytest.mark.parametrize("make", [*MAKERS.values(), regression], ids=[*MAKERS, "regression"])
def test_a_sample_is_a_pure_function_of_features_and_noise(make):
    head = make().eval()
    head, context = head if make is regression else awake(head), group(3)
    noise = torch.randn(3, *head.noise_shape)
    kept = noise.clone()
    first = head.sample(context, noise)
    torch.manual_seed(99)
    assert torch.equal(head.sample(context, noise), first)
    assert torch.equal(noise, kept)
    assert first.shape == (3, CHUNK, ACTION)
    assert not first.requires_grad
    alone = head.sample(TokenGroup(context.tokens[1:2], context.mask[1:2]), noise[1:2])
    torch.testing.assert_close(alone[0], first[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(head.sample(group(3, seed=5), noise), first)


def test_other_noise_is_another_sample_for_diffusion_and_the_same_for_regression():
    context = group(2)
    for head, same in ((awake(diffusion()), False), (regression(), True)):
        one, two = (head.sample(context, torch.randn(2, CHUNK, ACTION)) for _ in range(2))
        assert torch.equal(one, two) is same


def padded(batch):
    mask = torch.ones(batch, CHUNK, dtype=torch.bool)
    mask[:, 4:] = False
    mask[0, 1:] = False
    return mask


def test_rows_beyond_the_end_do_not_count_for_the_regression():
    head, actions, mask = regression(), clean_actions(4), padded(4)
    garbage = torch.where(mask[..., None], actions, torch.tensor(77.0))
    assert torch.equal(head.loss(group(4), actions, mask), head.loss(group(4), garbage, mask))
    assert head.loss(group(4), garbage, torch.ones_like(mask)) > 10


def test_the_error_on_rows_beyond_the_end_does_not_count_for_the_diffusion(monkeypatch):
    head, actions, mask = diffusion(repeats=2), clean_actions(4), padded(4)
    wrong = torch.zeros(8, CHUNK, ACTION, requires_grad=True)
    monkeypatch.setattr(head.denoiser, "forward", lambda noisy, *_: wrong)
    head.loss(group(4), actions, mask).backward()
    counted = wrong.grad.abs().sum(-1) > 0
    assert torch.equal(counted, mask.repeat(2, 1))


def test_the_loss_is_the_mean_over_the_rows_that_count(monkeypatch):
    head, mask = diffusion(repeats=2), padded(4)
    added, _ = spied(monkeypatch, head)
    loss = head.loss(group(4), clean_actions(4), mask)
    noise = added[0][1]  # at its start the head predicts zero, so the noise is the error
    torch.testing.assert_close(loss, noise[mask.repeat(2, 1)].square().mean())
    reg, actions = regression(), clean_actions(4)
    error = (reg.sample(group(4), torch.zeros_like(actions)) - actions)[mask].abs().mean()
    torch.testing.assert_close(reg.loss(group(4), actions, mask).detach(), error)


@pytest.mark.parametrize("name", MAKERS)
def test_a_head_learns_one_sample(name):
    head, context, actions = MAKERS[name](repeats=16, drop=0.0, guidance=1.0), group(1), clean_actions(1)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        head.loss(context, actions, torch.ones(1, CHUNK, dtype=torch.bool)).backward()
        optimizer.step()
    sampled = head.sample(context, torch.randn(1, CHUNK, ACTION))
    assert (sampled - actions).abs().mean() < 0.15


def test_the_flow_is_a_straight_line_that_is_trained_more_often_near_the_noise():
    head, clean = flow(), clean_actions(4)
    noise, time = torch.randn(4, CHUNK, ACTION), torch.tensor([0.0, 25.0, 50.0, 100.0])
    noisy, velocity = head.corrupt(clean, noise, time)
    torch.testing.assert_close(noisy[0], clean[0])
    torch.testing.assert_close(noisy[2], (clean[2] + noise[2]) / 2)
    torch.testing.assert_close(noisy[3], noise[3])
    torch.testing.assert_close(velocity, noise - clean)
    times = head.draw_times(40_000, torch.device("cpu")) / 100
    assert times.min() >= NEAREST
    assert times.max() <= 1
    assert times.mean().item() == pytest.approx(0.6 * (1 - NEAREST) + NEAREST, abs=0.005)  # Beta(1.5, 1)
    assert (times < 0.25).float().mean().item() == pytest.approx(0.25**1.5, abs=0.01)


def test_the_flows_sampler_is_eulers_method():
    head, context, noise = awake(flow(steps=7)), group(2), torch.randn(2, CHUNK, ACTION)
    x = noise
    for number in range(7):
        time = 1 - number / 7
        x = x - head.denoiser(x, torch.full((2,), 100 * time), context.tokens) / 7
    torch.testing.assert_close(head.sample(context, noise), x.detach(), rtol=1e-4, atol=1e-5)


def test_who_knows_the_velocity_finds_the_actions_again(monkeypatch):
    head, clean, noise = flow(steps=4), clean_actions(3), torch.randn(3, CHUNK, ACTION)
    monkeypatch.setattr(head.denoiser, "forward", lambda *_: noise - clean)
    torch.testing.assert_close(head.sample(group(3), noise), clean, rtol=1e-4, atol=1e-5)


def test_the_unet_wants_a_chunk_that_it_can_halve():
    with pytest.raises(UnderstudyError, match="multiple of 4"):
        UNet(UNetSize((8, 16, 24)), action_dim=ACTION, chunk=6, token_dim=TOKEN)


def test_soft_weights_are_those_of_the_paper():
    weights = soft_weights(8, delay=2, overlap=6)
    falling = [(6 - row) / (6 - 2 + 1) for row in range(2, 6)]
    expected = [1, 1, *(c * (math.exp(c) - 1) / (math.e - 1) for c in falling), 0, 0]
    torch.testing.assert_close(weights, torch.tensor(expected))
    assert soft_weights(4, delay=4, overlap=4).tolist() == [1, 1, 1, 1]


def known(*, how, delay=2, weights=None, scale=1.0):
    soft = soft_weights(CHUNK, delay=delay, overlap=5) if weights is None else weights
    return Known(scale * clean_actions(2, seed=9), delay, soft, how)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("how", ["guided", "identity"])
def test_what_weighs_nothing_changes_nothing(name, how):
    head, context, noise = awake(MAKERS[name]()).eval(), group(2), torch.randn(2, CHUNK, ACTION)
    nothing = known(how=how, delay=0, weights=torch.zeros(CHUNK))
    torch.testing.assert_close(head.sample(context, noise, nothing), head.sample(context, noise))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("how", ["guided", "identity", "trained"])
def test_what_is_carried_out_already_stays_as_it_is(name, how):
    settings = {"max_delay": 3} if how == "trained" and name != "unet" else {}
    head, context, noise = awake(MAKERS[name](**settings)).eval(), group(2), torch.randn(2, CHUNK, ACTION)
    past = known(how=how)
    sampled = head.sample(context, noise, past)
    assert torch.equal(sampled[:, :2], past.actions[:, :2])
    assert not sampled.requires_grad
    assert torch.isfinite(sampled).all()
    assert (sampled[:, 2:] != past.actions[:, 2:]).any()


@pytest.mark.parametrize("name", ["diffusion", "flow"])
@pytest.mark.parametrize("how", ["guided", "identity"])
def test_the_pull_brings_a_chunk_nearer_and_lets_go_behind(name, how):
    """A head that has learned two chunks, A and B, is to go on from A's beginning, with the soft weights."""
    head, context = taught_two(name)
    distances = {True: [], False: []}
    for seed in range(8):
        noise = torch.randn(1, CHUNK, ACTION, generator=torch.Generator().manual_seed(seed))
        past = Known(0.8 * torch.ones(1, CHUNK, ACTION), 2, soft_weights(CHUNK, delay=2, overlap=5), how)
        for pulled in (True, False):
            sampled = head.sample(context, noise, past if pulled else None)
            distances[pulled].append((sampled[:, 2:4] - 0.8).abs().mean().item())
    assert np.mean(distances[True]) < 0.5 * np.mean(distances[False])


def taught_two(name, *, steps=250, **settings):
    """A head that has learned two chunks under one cognition, all 0.8 and all -0.8, and that cognition."""
    head, context = MAKERS[name](**{"repeats": 32, "drop": 0.0, "guidance": 1.0, **settings}), group(1)
    both = 0.8 * torch.tensor([1.0, -1.0])[:, None, None].expand(2, CHUNK, ACTION)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    twice = TokenGroup(context.tokens.repeat(2, 1, 1), context.mask.repeat(2, 1))
    for _ in range(steps):
        optimizer.zero_grad()
        head.loss(twice, both, torch.ones(2, CHUNK, dtype=torch.bool)).backward()
        optimizer.step()
    return head.eval(), context


def test_the_true_product_goes_through_the_denoiser(monkeypatch):
    """A denoiser that copies row 3 into row 0: only the true product tells row 3 what row 0 has to be."""
    head, noise = flow(steps=1), torch.randn(1, CHUNK, ACTION)

    def copying(noisy, time, cognition, drop=None):
        return noisy - torch.cat([noisy[:, 3:4], noisy[:, 1:]], dim=1)

    monkeypatch.setattr(head.denoiser, "forward", copying)
    first = torch.zeros(CHUNK)
    first[0] = 1
    found = {}
    for how in ("guided", "identity"):
        past = Known(torch.full((1, CHUNK, ACTION), 0.5), 0, first, how)
        found[how] = head.sample(group(1), noise, past)
    plain = head.sample(group(1), noise)
    assert torch.equal(found["identity"][:, 1:], plain[:, 1:])
    assert (found["guided"][:, 3] != plain[:, 3]).all()


def test_a_trained_prefix_is_clean_told_its_own_time_and_not_asked_for(monkeypatch):
    head, clean = awake(diffusion(repeats=8, max_delay=3, drop=0.0)), clean_actions(16)
    _, asked = spied(monkeypatch, head)
    head.loss(group(16), clean, torch.ones(16, CHUNK, dtype=torch.bool))
    noisy, time, _, _ = asked[0]
    assert time.shape == (128, CHUNK)
    given = (noisy == clean.repeat(8, 1, 1)).all(-1)
    delays = given.sum(1)
    assert set(delays.tolist()) == {0, 1, 2, 3}
    assert torch.equal(given, torch.arange(CHUNK) < delays[:, None])
    assert (time[given] == 0).all()
    assert all(len(set(row[~mask].tolist())) == 1 for row, mask in zip(time, given, strict=True))
    wrong = torch.zeros(128, CHUNK, ACTION, requires_grad=True)
    monkeypatch.setattr(head.denoiser, "forward", lambda *_: wrong)
    torch.manual_seed(5)
    head.loss(group(16), clean, torch.ones(16, CHUNK, dtype=torch.bool)).backward()
    free = (wrong.grad != 0).any(-1)
    assert set((~free).sum(1).tolist()) == {0, 1, 2, 3}
    assert torch.equal(free, torch.arange(CHUNK) >= (~free).sum(1, keepdim=True))


def test_a_head_trained_on_prefixes_goes_on_from_them():
    """Chunks that keep their sign: which one it is, only the prefix tells."""
    head, context = taught_two("diffusion", steps=300, repeats=64, max_delay=3)
    for sign in (1.0, -1.0):
        past = Known(torch.full((1, CHUNK, ACTION), 0.8 * sign), 2, torch.zeros(CHUNK), "trained")
        noises = torch.randn(20, 1, CHUNK, ACTION, generator=torch.Generator().manual_seed(3))
        sampled = torch.cat([head.sample(context, noise, past) for noise in noises])
        assert ((sampled[:, 2:].mean((1, 2)) * sign > 0.4).float().mean() >= 0.9).all()


DIMS = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
MAKERS = {"diffusion": diffusion, "flow": flow, "unet": unet, "regression": regression}


@pytest.mark.parametrize("name", MAKERS)
def test_entries_that_an_embodiment_lacks_do_not_count(name):
    head, actions, mask = MAKERS[name](), clean_actions(3), torch.ones(3, CHUNK, dtype=torch.bool)
    if name != "regression":
        awake(head)

    def loss(truth):
        torch.manual_seed(5)
        return head.loss(group(3), truth, mask, DIMS)

    there = DIMS[:, None].expand(-1, CHUNK, -1)
    garbage = torch.where(there, actions, torch.tensor(77.0))
    torch.testing.assert_close(loss(garbage), loss(actions))
    assert (loss(garbage + 1) - loss(actions)).abs() > 1e-3


@pytest.mark.parametrize("name", MAKERS)
def test_a_sample_is_zero_where_an_embodiment_has_nothing_and_no_noise_there_matters(name):
    head, noise = MAKERS[name](), torch.randn(3, CHUNK, ACTION, generator=torch.Generator().manual_seed(2))
    if name != "regression":
        awake(head)
    there = DIMS[:, None].expand(-1, CHUNK, -1)
    actions = head.sample(group(3), noise, dims=DIMS)
    assert not actions[~there].any()
    assert actions[there].all()
    other = head.sample(group(3), torch.where(there, noise, torch.tensor(9.0)), dims=DIMS)
    torch.testing.assert_close(other, actions)
    torch.testing.assert_close(actions[1], head.sample(group(3), noise)[1])  # it has every entry


def test_the_mean_is_over_the_entries_that_there_are():
    error = torch.tensor([[[1.0, 3.0, 50.0]], [[1.0, 2.0, 3.0]], [[4.0, 50.0, 50.0]]])
    torch.testing.assert_close(mean_over_dims(error, DIMS), torch.tensor([[2.0], [2.0], [4.0]]))
