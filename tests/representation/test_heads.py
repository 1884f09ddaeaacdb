"""The extractor, the heads on it, and the loop that trains them."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from vla.errors import UnderstudyError
from vla.representation.evaluation.affordance import IGNORE, NEGATIVE, POSITIVE
from vla.representation.evaluation.fitting import FitConfig, TokenScaler, fit, predict, seeded
from vla.representation.evaluation.heads import GraspHead, PolicyHead, Pooling, PoseHead, ReferHead, grasp_loss
from vla.representation.pooling import MAPExtractor

POOLING = Pooling(token_width=24, width=32, heads=2)


@pytest.fixture
def tokens():
    return torch.randn(6, 16, 24, generator=torch.Generator().manual_seed(0))


def attended_by_hand(extractor, tokens):
    """The extractor's attention, by PyTorch's own module."""
    peer = nn.MultiheadAttention(32, extractor.heads, bias=True, batch_first=True)
    key, value = extractor.key_value.weight.chunk(2)
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([extractor.query.weight, key, value]))
        peer.in_proj_bias.zero_()
        peer.out_proj.load_state_dict(extractor.project.state_dict())
    queries = extractor.latents.expand(len(tokens), -1, -1)
    return peer(queries, tokens, tokens, need_weights=False)[0]


def test_the_extractor_is_attention_with_twice_the_heads_and_norms_behind():
    extractor = MAPExtractor(32, 2, latents=5)
    tokens = torch.randn(3, 7, 32)
    assert extractor.heads == 4
    x = extractor.norm_attention(extractor.latents + attended_by_hand(extractor, tokens))
    expected = extractor.norm_mlp(x + extractor.mlp(x))
    assert torch.allclose(extractor(tokens), expected, atol=1e-5)
    assert torch.allclose(extractor(tokens).square().mean(-1), torch.ones(3, 5), atol=1e-4)


def test_the_extractor_has_the_parameters_of_the_paper():
    extractor = MAPExtractor(32, 2, latents=5)
    linear = 4 * 32 * 32 + 32  # query, key and value without bias, projection with
    mlp = 32 * 256 + 256 + 128 * 32 + 32
    assert sum(p.numel() for p in extractor.parameters()) == 5 * 32 + linear + mlp + 2 * 32
    assert extractor.query.bias is None
    assert extractor.key_value.bias is None
    assert MAPExtractor(192, 3, latents=25).latents.std().item() == pytest.approx(0.02, rel=0.1)


def test_one_latent_is_squeezed_and_the_order_of_tokens_does_not_matter(tokens):
    extractor = MAPExtractor(32, 2, token_width=24)
    assert extractor(tokens).shape == (6, 32)
    assert torch.allclose(extractor(tokens), extractor(tokens.flip(1)), atol=1e-5)
    with pytest.raises(ValueError, match="divisible"):
        MAPExtractor(30, 2)


def test_padding_is_no_key_for_anybody(tokens):
    extractor = MAPExtractor(32, 2, token_width=24)
    mask = torch.arange(16).expand(6, -1) < 10
    noisy = torch.where(mask[..., None], tokens, 1e3)
    assert torch.allclose(extractor(noisy, mask), extractor(tokens[:, :10]), atol=1e-5)


def test_shapes_of_the_heads(tokens):
    assert GraspHead(POOLING)(tokens).shape == (6, 3, 80, 80)
    assert GraspHead(POOLING, grid=4, channels=(16, 8), classes=2)(tokens).shape == (6, 2, 16, 16)
    assert ReferHead(POOLING)(tokens, torch.ones(6, 16, dtype=torch.bool)).shape == (6, 4)
    assert [m.out_features for m in ReferHead(POOLING, scale=0.25).box if isinstance(m, nn.Linear)] == [
        *(128, 64, 32, 16),
        4,
    ]
    assert PoseHead(POOLING, outputs=7)(tokens).shape == (6, 7)
    assert PolicyHead(POOLING, proprio_dim=9, action_dim=4)(tokens, torch.randn(6, 9)).shape == (6, 4)


def test_latents_lie_on_the_grid_row_by_row(tokens):
    head = GraspHead(POOLING, grid=2, channels=(8,))
    latents, seen = head.pool(tokens), []
    head.stages.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head(tokens)
    assert torch.equal(seen[0][:, :, 1, 0], latents[:, 2])


def test_pixels_to_ignore_weigh_nothing():
    logits = torch.randn(2, 3, 4, 4)
    labels = torch.full((2, 4, 4), NEGATIVE, dtype=torch.uint8)
    labels[:, :2] = IGNORE
    changed = logits.clone()
    changed[:, :, :2] = 50 * torch.randn(2, 3, 2, 4)
    assert torch.equal(grasp_loss(logits, labels), grasp_loss(changed, labels))
    labels[:, 2:] = POSITIVE
    assert not torch.equal(grasp_loss(logits, labels), grasp_loss(changed.flip(-2), labels))


def marked_tokens(count):
    """Tokens of which one is marked and holds, in two channels, where something is; in half precision, like a cache."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(count, 16, 24, generator=generator)
    place = torch.rand(count, 2, generator=generator)
    which = torch.randint(16, (count,), generator=generator)
    tokens[torch.arange(count), which, 0] = 6.0
    tokens[torch.arange(count), which, 1:3] = 4 * place - 2
    return tokens.half(), place


def test_a_head_learns_to_read_the_token_that_matters():
    tokens, place = marked_tokens(1200)
    scaled = TokenScaler.of(tokens[:1000])(tokens)
    head = seeded(lambda: PoseHead(POOLING, outputs=2), 0)
    losses = fit(
        head, [scaled[:1000], place[:1000]], loss=functional.mse_loss, config=FitConfig(steps=400, lr=3e-3, seed=0)
    )
    assert losses[-1] < 0.2 * losses[0]
    assert not head.training
    error = functional.mse_loss(predict(head, [scaled[1000:]]), place[1000:])
    assert error < 0.3 * place.var()


def test_the_same_seed_gives_the_same_head():
    tokens, place = marked_tokens(100)
    inputs, after = [tokens, place.repeat(1, 2)], []

    def trained(seed):
        torch.rand(3)  # whatever the rest of the program draws
        head = seeded(lambda: PolicyHead(POOLING, proprio_dim=4, action_dim=2), seed)
        config = FitConfig(steps=7, batch_size=16, seed=seed)
        fit(head, [*inputs, place], loss=functional.mse_loss, config=config, after_step=after.append)
        return predict(head, inputs)

    first = trained(0)
    assert torch.equal(first, trained(0))
    assert not torch.equal(first, trained(1))
    assert after == 3 * list(range(1, 8))


def test_seeding_a_head_leaves_the_rest_of_the_program_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    seeded(lambda: nn.Linear(2, 2), 0)
    assert torch.equal(torch.rand(1), expected)


def test_every_example_is_seen_once_in_a_pass_and_no_batch_is_a_remainder():
    seen = []

    class Recorder(nn.Linear):
        def forward(self, x):
            seen.append(x[:, 0].tolist())
            return super().forward(x)

    numbers = torch.arange(9.0)[:, None]
    config = FitConfig.for_epochs(2, 9, batch_size=4)
    fit(Recorder(1, 1), [numbers, numbers], loss=functional.mse_loss, config=config)
    assert [len(batch) for batch in seen] == [4, 4, 4, 4]
    assert len(set(seen[0] + seen[1])) == 8
    assert seen[0] != seen[2]


def test_predicting_in_the_midst_of_training_changes_nothing():
    tokens, place = marked_tokens(64)
    outcomes = []
    for during in (False, True):
        head = seeded(lambda: PolicyHead(POOLING, proprio_dim=2, action_dim=2), 0)
        config = FitConfig(steps=4, batch_size=32)
        look = partial(predict, head, [tokens, place])
        hook = (lambda _, look=look: look()) if during else None
        outcomes.append(fit(head, [tokens, place, place], loss=functional.mse_loss, config=config, after_step=hook))
    assert outcomes[0] == outcomes[1]


def test_scaled_tokens_have_one_scale_whatever_theirs_was():
    tokens = torch.randn(50, 8, 3) * torch.tensor([100.0, 0.01, 1e-6]) + 5
    scaled = TokenScaler.of(tokens)(tokens)
    assert torch.allclose(scaled.std((0, 1)), torch.tensor([1.0, 1.0, 0.0]), atol=0.01)
    assert torch.allclose(scaled.mean((0, 1)), torch.zeros(3), atol=1e-2)


def test_examples_that_cannot_be_trained_on_are_refused():
    head = nn.Linear(1, 1)
    for examples, steps in (
        ([torch.ones(3, 1)], 1),
        ([torch.ones(3, 1), torch.ones(2, 1)], 1),
        ([torch.ones(3, 1)] * 2, 0),
    ):
        with pytest.raises(UnderstudyError):
            fit(head, examples, loss=functional.mse_loss, config=FitConfig(steps=steps))
