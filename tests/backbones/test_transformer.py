"""The block that the image encoder and the diffusion transformer share."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from vla.backbones.transformer import TransformerBlock, attention, sinusoid


def test_attention_is_pytorchs():
    query, key, value = torch.randn(3, 2, 4, 9, 8).unbind()
    torch.testing.assert_close(
        attention(query, key, value), functional.scaled_dot_product_attention(query, key, value), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("width", [32, 96])
def test_a_block_has_twelve_h_squared_and_nine_h_parameters(width):
    count = sum(parameter.numel() for parameter in TransformerBlock(width, 4).parameters())
    assert count == 12 * width**2 + 9 * width


def test_a_block_knows_no_order():
    torch.manual_seed(0)
    block, x, order = TransformerBlock(32, 4), torch.randn(2, 7, 32), torch.randperm(7)
    torch.testing.assert_close(block(x)[:, order], block(x[:, order]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("last", [1, 3, 7])
def test_the_last_tokens_alone_come_out_as_among_all(last):
    torch.manual_seed(0)
    block, x = TransformerBlock(32, 4), torch.randn(2, 7, 32)
    visible = torch.ones(7, 7, dtype=torch.bool).tril()[None, None].repeat(2, 1, 1, 1)
    visible[1, :, :, :2] = False
    visible |= torch.eye(7, dtype=torch.bool)
    for mask in (None, visible):
        torch.testing.assert_close(block(x, mask, last=last), block(x, mask)[:, -last:], rtol=1e-4, atol=1e-5)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width 30 is not divisible by 4 heads"):
        TransformerBlock(30, 4)


def test_sinusoids_are_those_of_vaswani():
    positions = torch.tensor([0, 3, 99])
    features = sinusoid(positions, 8)
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    angles = positions.numpy()[:, None] * frequencies
    np.testing.assert_allclose(features.numpy(), np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-4)
    far = sinusoid(torch.arange(100), 256)
    assert len(torch.unique(far, dim=0)) == 100  # every diffusion time has its own
