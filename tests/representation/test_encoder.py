"""The encoder's parts, against their definitions and the paper's sizes."""

import pytest
import torch

from vla.representation.encoder import (
    Block,
    EncoderConfig,
    FrameEncoder,
    RMSNorm,
    SwishGLU,
    VisionTransformer,
    normalized,
    patchify,
)

SMALL = EncoderConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3)


def parameters(module):
    return sum(tensor.numel() for tensor in module.parameters())


def test_rms_norm_is_its_definition():
    norm, x = RMSNorm(8), torch.randn(3, 8)
    expected = x / (x.norm(dim=-1, keepdim=True) * 8**-0.5) * norm.g
    assert torch.allclose(norm(x), expected, atol=1e-6)


def test_swish_glu_gates_its_first_half_by_silu_of_its_second():
    mlp, x = SwishGLU(4, 16), torch.randn(2, 4)
    a, b = mlp.project(x)[:, :16], mlp.project(x)[:, 16:]
    assert torch.allclose(mlp(x), mlp.back(a * b * torch.sigmoid(b)))


def test_layer_scale_starts_at_a_tenth():
    block = Block(12, 3)
    assert (block.scale_attention == 0.1).all()
    assert (block.scale_mlp == 0.1).all()


def test_the_papers_small_encoder_has_28_4_million_parameters_in_its_blocks():
    config = EncoderConfig(image_size=224, patch_size=16, width=384, depth=12, heads=6)
    with torch.device("meta"):
        blocks = [Block(config.width, config.heads) for _ in range(config.depth)]
    assert sum(map(parameters, blocks)) / 1e6 == pytest.approx(28.4, abs=0.05)
    assert config.tokens == 196


def test_patches_are_cut_row_by_row():
    images = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3)
    patches = patchify(images, 2)
    assert patches.shape == (2, 4, 12)
    assert torch.equal(patches[1, 1], images[1, 0:2, 2:4].reshape(-1))
    assert torch.equal(patches[0, 2], images[0, 2:4, 0:2].reshape(-1))


def test_normalised_pixels_are_imagenets():
    white = normalized(torch.full((1, 3), 255, dtype=torch.uint8))
    assert torch.allclose(white, (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]))


def test_padding_among_the_words_changes_nothing():
    """The released code masks queries instead of keys, so that padding is attended to."""
    torch.manual_seed(0)
    encoder = VisionTransformer(SMALL, language_width=8)
    patches = torch.randint(0, 255, (2, 1, 16, 192), dtype=torch.uint8)
    words = torch.randn(2, 3, 8)
    mask = torch.ones(2, 3, dtype=torch.bool)
    tokens, said = encoder(patches, words, mask)
    padded = torch.cat([words, 100 * torch.randn(2, 4, 8)], 1)
    longer = torch.cat([mask, torch.zeros(2, 4, dtype=torch.bool)], 1)
    again, said_again = encoder(patches, padded, longer)
    assert torch.allclose(tokens, again, atol=1e-5)
    assert torch.allclose(said, said_again[:, :3], atol=1e-5)
    assert not torch.allclose(tokens, encoder(patches, padded, torch.ones_like(longer))[0], atol=1e-3)


def test_only_the_kept_patches_are_seen():
    encoder = VisionTransformer(SMALL)
    patches = torch.randint(0, 255, (2, 1, 16, 192), dtype=torch.uint8)
    keep = torch.tensor([[3, 7], [0, 15]])
    tokens, _ = encoder(patches, keep=keep)
    other = patches.clone()
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, keep, False)
    other[:, 0][hidden] = 0
    assert tokens.shape == (2, 2, 48)
    assert torch.equal(tokens, encoder(other, keep=keep)[0])


def test_two_frames_are_told_apart():
    encoder = VisionTransformer(SMALL, frames=2)
    frame = torch.randint(0, 255, (1, 1, 16, 192), dtype=torch.uint8)
    tokens, _ = encoder(frame.expand(-1, 2, -1, -1))
    first, second = tokens.chunk(2, dim=1)
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_both_kinds_give_one_token_a_patch(kind):
    config = EncoderConfig(kind, image_size=32, patch_size=8, width=48, depth=1, heads=3)
    tokens = FrameEncoder(config)(torch.randint(0, 255, (2, 32, 32, 3), dtype=torch.uint8))
    assert tokens.shape == (2, config.tokens, 48)


def test_a_token_of_the_resnet_is_where_its_patch_is():
    torch.manual_seed(0)
    encoder = FrameEncoder(EncoderConfig("resnet", image_size=64, patch_size=8, width=32, depth=1, heads=2)).eval()
    images = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    images[1, 2:5, 50:53] = 255
    change = (encoder(images)[1] - encoder(images)[0]).norm(dim=-1)
    assert change.view(8, 8).argmax() in (6, 7)


@pytest.mark.parametrize("wrong", [{"patch_size": 7}, {"width": 50}])
def test_sizes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="must be a multiple"):
        EncoderConfig(**wrong)
