"""Every objective against a value worked out by hand."""

import math

import pytest
import torch

from vla.representation import objectives as o


def test_the_mean_of_every_patch_scores_one():
    patches = torch.randn(4, 6, 48) * 7 + 3
    score = o.reconstruction(torch.zeros(4, 6, 48), patches)
    assert torch.allclose(score, torch.full((4,), 47 / 48), atol=1e-4)  # unbiased variance over 48 entries


def test_a_perfect_reconstruction_costs_nothing():
    patches = torch.randn(2, 3, 12)
    assert o.reconstruction(o.standardized(patches), patches).max() == 0


def test_caption_likelihood_of_a_uniform_guess_and_of_padding_after_the_end():
    ids = torch.tensor([[2, 5, 3, 0, 0], [2, 4, 6, 5, 3]])
    mask = ids != 0
    assert torch.allclose(o.caption_nll(torch.zeros(2, 5, 7), ids, mask, pad=0), torch.full((2,), math.log(7)))
    certain = torch.full((2, 5, 7), -30.0)
    for row, following in enumerate([[5, 3, 0], [4, 6, 5, 3, 0]]):
        for step, word in enumerate(following):
            certain[row, step, word] = 30.0
    assert o.caption_nll(certain, ids, mask, pad=0).max() < 1e-6
    certain[0, 2] = 0  # the step after the last word counts: padding has to be predicted there
    assert o.caption_nll(certain, ids, mask, pad=0)[0] == pytest.approx(math.log(7) / 3, rel=1e-4)
    certain[0, 3] = torch.randn(7)  # what follows padding does not
    assert o.caption_nll(certain, ids, mask, pad=0)[0] == pytest.approx(math.log(7) / 3, rel=1e-4)


def test_the_frequencies_count_what_the_likelihood_counts():
    ids = torch.tensor([[2, 5, 3, 0], [2, 6, 3, 0]])  # followers: 5, 3, 0 and 6, 3, 0
    each = -(math.log(1 / 6) + math.log(2 / 6) + math.log(2 / 6)) / 3
    assert o.unigram_nll(ids, ids != 0, pad=0).tolist() == pytest.approx([each, each])


def test_time_contrast_by_hand():
    z = torch.tensor([[[0.0], [1.0], [3.0]], [[10.0], [10.0], [10.0]]])
    others = torch.tensor([[1], [0]])
    # first video: late (s2, s1) 2, (s2, s0) 3, other video 7; early (s1, s0) 1, (s2, s0) 3, other video 10
    late = [-2.0, -3.0, -7.0]
    early = [-1.0, -3.0, -10.0]
    second_late = [0.0, 0.0, -7.0]
    second_early = [0.0, 0.0, -10.0]

    def lost(scores):
        return -scores[0] + math.log(sum(map(math.exp, scores)))

    expected = (lost(late) + lost(early) + lost(second_late) + lost(second_early)) / 4
    assert float(o.time_contrast(z, others)) == pytest.approx(expected, abs=1e-4)


def test_progress_ranking_leaves_out_what_has_no_caption():
    right, wrong = torch.zeros(2, 3), torch.zeros(2, 3, 4)
    wrong[1] = 50
    assert float(o.progress_ranking(right, wrong, torch.tensor([1.0, 0.0]))) == pytest.approx(math.log(5))


def test_implicit_value_by_hand():
    z = torch.tensor([[[3.0], [0.0], [2.0], [1.0]], [[30.0], [0.0], [20.0], [19.0]]])
    others = torch.tensor([[1], [0]])
    gamma = 0.9
    near = (1 - gamma) * (3 + 30) / 2
    within = [1 + gamma * 1 - 2, 1 + gamma * 19 - 20]
    across = [within[1], within[0]]

    def log_mean_exp(values):
        return math.log(sum(map(math.exp, values)) / len(values))

    expected = near + log_mean_exp(within) + log_mean_exp(across)
    assert float(o.implicit_value(z, others, discount=gamma)) == pytest.approx(expected, abs=1e-4)


def test_two_identical_ramps_come_back_where_they_began():
    times = torch.linspace(0, 1, 12).expand(2, -1)
    ramp = (times * 60)[..., None]
    assert float(o.cycle_back(ramp, times)) < 1e-6
    shuffled = torch.stack([ramp[0], ramp[0][torch.randperm(12)] * 0])
    assert float(o.cycle_back(shuffled, times)) > 0.05


def test_pairwise_sigmoid_by_hand():
    images, texts = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    scale, bias = torch.tensor(2.0), torch.tensor(-1.0)
    logits = [[1.0, 0.2], [-1.0, 0.6]]  # 2 * cosine - 1
    signs = [[1, -1], [-1, 1]]
    expected = sum(math.log(1 + math.exp(-s * v)) for vs, ss in zip(logits, signs) for v, s in zip(vs, ss)) / 2
    found = o.pairwise_sigmoid(images, texts, same=torch.eye(2, dtype=torch.bool), scale=scale, bias=bias)
    assert float(found) == pytest.approx(expected, abs=1e-5)


def test_equal_captions_are_right_for_each_other():
    unit = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    scale, bias = torch.tensor(20.0), torch.tensor(0.0)
    together = o.pairwise_sigmoid(unit, unit, same=torch.ones(2, 2, dtype=torch.bool), scale=scale, bias=bias)
    apart = o.pairwise_sigmoid(unit, unit, same=torch.eye(2, dtype=torch.bool), scale=scale, bias=bias)
    assert float(together) < 1e-6 < 19 < float(apart)


def test_info_nce_of_orthogonal_pairs():
    a = torch.eye(2)
    expected = -math.log(math.e / (math.e + 2))  # one partner at 1, two others at 0
    assert float(o.info_nce(a, a)) == pytest.approx(expected, abs=1e-5)


def test_quantised_vectors_are_codes_and_pass_the_gradient_on():
    codes = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    z = torch.tensor([[0.2, 0.1], [0.9, 1.2]], requires_grad=True)
    nearest, loss = o.quantized(z, codes, commitment=0.25)
    assert torch.allclose(nearest, codes)
    assert float(loss.detach()) == pytest.approx(1.25 * float((z - codes).square().mean().detach()))
    nearest.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))


def test_joints_fall_into_their_patches():
    points = torch.tensor([[[1.0, 1.0], [15.0, 3.0], [4.0, 9.0], [float("nan"), 2.0], [16.0, 2.0], [-0.5, 2.0]]])
    present = o.joints_to_patches(points, image_size=16, patch_size=8)
    assert present.shape == (1, 4, 6)
    assert present[0].nonzero().tolist() == [[0, 0], [1, 1], [2, 2]]
    assert float(o.joint_in_patch(torch.zeros(1, 4, 6), present)) == pytest.approx(math.log(2))
