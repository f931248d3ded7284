"""Segmenter: linear decoder and mask transformer."""

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pixelwise.encoders import TokenEncoder
from pixelwise.models import (
    MaskTransformer,
    Segmenter,
    segmenter,
    segmenter_vit_base,
    segmenter_vit_large,
    segmenter_vit_small,
    segmenter_vit_tiny,
)

TRUNKS = {
    "tiny": (192, 5_597_376),
    "small": (384, 21_811_584),
    "base": (768, 86_090_496),
    "large": (1024, 303_690_752),
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size", TRUNKS)
def test_parameters_are_those_of_trunk_and_decoder(size: str) -> None:
    builders = (segmenter_vit_tiny, segmenter_vit_small, segmenter_vit_base, segmenter_vit_large)
    builder = dict(zip(TRUNKS, builders, strict=True))[size]
    d, trunk = TRUNKS[size]
    k = 150
    with torch.device("meta"):
        mask, linear = builder(k), builder(k, decoder="linear")
    assert count(linear) == trunk + d * k + k
    # Two blocks, a projection with bias, k embeddings, two products, two norms.
    assert count(mask) == trunk + 2 * (12 * d * d + 13 * d) + (d * d + d) + k * d + 2 * d * d + 2 * d + 2 * k


@pytest.mark.parametrize(
    ("builder", "side", "millions"), [(segmenter_vit_tiny, 512, 7), (segmenter_vit_large, 640, 334)]
)
def test_published_counts_hold_the_classifier_of_imagenet(
    builder: Callable[..., Segmenter], side: int, millions: float
) -> None:
    """As the authors' README tells, in whole millions; their encoder keeps its layer of 1000 classes.

    Their 27 and 106 million for S and B are 2 % more than their code has.
    """
    with torch.device("meta"):
        model = builder(150)
    d = model.encoder.channels
    positions = (side // 16) ** 2 - (384 // 16) ** 2
    assert (count(model) + positions * d + 1000 * d + 1000) / 1e6 == pytest.approx(millions, abs=0.5)


def test_the_mask_transformer_is_its_formula() -> None:
    torch.manual_seed(4)
    decoder = MaskTransformer(16, 3, num_heads=2, num_blocks=1).double().eval()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    patches = torch.randn(2, 6, 16, dtype=torch.float64)
    with torch.no_grad():
        x = torch.cat([decoder.project(patches), decoder.class_token.expand(2, -1, -1)], dim=1)
        block = decoder.blocks[0]
        q, k, v = block.attn.qkv(block.norm1(x)).view(2, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1)
        x = x + block.attn.proj((attention @ v).transpose(1, 2).reshape(2, 9, 16))
        x = decoder.norm(x + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(x)))))
        wanted = torch.zeros(2, 6, 3, dtype=torch.float64)
        for b in range(2):
            for p in range(6):
                for c in range(3):
                    one = decoder.project_patches.weight @ x[b, p]
                    other = decoder.project_classes.weight @ x[b, 6 + c]
                    wanted[b, p, c] = one @ other / one.norm() / other.norm()
        found = decoder(patches)
    torch.testing.assert_close(found, decoder.mask_norm(wanted), atol=1e-10, rtol=1e-8)


def test_the_linear_decoder_scores_each_patch_alone() -> None:
    model = segmenter(4, encoder="tiny", decoder="linear").eval()
    with torch.no_grad():
        tokens = model.encoder(torch.rand(1, 3, 48, 80))
        coarse = model.decoder(tokens.patches())
        torch.manual_seed(0)
        image = torch.rand(1, 3, 48, 80)
        found = model(image).coarse
        one = model.encoder(image).patches()[0, 7] @ model.decoder.weight.T + model.decoder.bias
    assert coarse.shape == (1, 15, 4)
    torch.testing.assert_close(found[0, :, 1, 2], one, atol=1e-5, rtol=1e-5)


def test_class_embeddings_do_not_decay() -> None:
    roles = segmenter(4, encoder="tiny").parameter_roles()
    assert not roles["decoder.class_token"].decays
    assert roles["decoder.project.weight"].decays
    assert not roles["encoder.body.pos_embed"].decays


def test_an_image_smaller_than_a_patch_is_refused_and_any_other_is_padded() -> None:
    body = VisionTransformer(
        img_size=128, patch_size=64, embed_dim=32, depth=1, num_heads=2, num_classes=0, dynamic_img_size=True
    )
    model = segmenter(4, encoder=TokenEncoder(body), decoder="linear").eval()
    assert model.minimum_size == 64
    with pytest.raises(ValueError, match="images of at least 64 x 64 pixels, got 63 x 80"):
        model(torch.rand(1, 3, 63, 80))
    assert model(torch.rand(1, 3, 64, 65)).logits.shape == (1, 4, 64, 65)
