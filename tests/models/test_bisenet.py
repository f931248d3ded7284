"""BiSeNet: the authors' numbers, its two paths and what joins them."""

import pytest
import torch

from pixelwise.models import bisenet, bisenet_coincheung, bisenet_resnet18, bisenet_resnet101
from pixelwise.models.bisenet import AttentionRefinement, FeatureFusion


@pytest.mark.parametrize(
    ("builder", "counted"), [(bisenet_resnet18, 13_494_777), (bisenet_resnet101, 48_239_417)]
)
def test_parameters_are_as_many_as_the_authors_code_has(builder, counted: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in builder(19).parameters()) == counted


def test_two_further_heads_on_the_context_path_are_trained() -> None:
    model = bisenet(3, encoder="tiny", width=8)
    output = model.train()(torch.rand(1, 3, 65, 97))
    assert output.coarse.shape == (1, 3, 9, 13)
    assert [tuple(map.shape[2:]) for map in output.aux] == [(9, 13), (5, 7)]
    assert model.eval()(torch.rand(1, 3, 64, 64)).aux == ()


def test_the_spatial_path_sees_details_and_the_context_path_the_whole_image() -> None:
    model = bisenet(3, encoder="tiny", width=8).double().eval()
    image = torch.rand(1, 3, 32, 320, dtype=torch.float64)
    changed = image.clone()
    changed[..., 192:] = 0
    with torch.no_grad():
        seen, then = (model.spatial_path(model.encoder.normalize(x)) for x in (image, changed))
        assert torch.equal(seen[..., :20], then[..., :20])
        assert not torch.equal(seen, then)
        before, after = model(image).logits[..., :32], model(changed).logits[..., :32]
    assert (before - after).abs().max() > 1e-9


def test_both_modules_gate_channels_by_their_means() -> None:
    arm, fusion = AttentionRefinement(3, 4).eval(), FeatureFusion(5, 4).eval()
    x, context = torch.randn(2, 3, 5, 7), torch.randn(2, 2, 5, 7)
    with torch.no_grad():
        map = arm.conv(x)
        gate = arm.gate[2](arm.gate[1](map.mean((2, 3), keepdim=True))).sigmoid()
        torch.testing.assert_close(arm(x), map * gate)
        map = fusion.conv(torch.cat([x, context], 1))
        gate = fusion.gate[3](fusion.gate[1](map.mean((2, 3), keepdim=True)).relu()).sigmoid()
        torch.testing.assert_close(fusion(x, context), map + map * gate)


def test_the_packages_network_repeats_values_and_its_gate_has_one_layer() -> None:
    model = bisenet_coincheung(3, encoder="tiny", width=8).eval()
    fusion = model.fusion
    x, context = torch.randn(2, 8, 5, 7), torch.randn(2, 8, 5, 7)
    with torch.no_grad():
        map = fusion.conv(torch.cat([x, context], 1))
        gate = fusion.gate[2](fusion.gate[1](map.mean((2, 3), keepdim=True))).sigmoid()
        torch.testing.assert_close(fusion(x, context), map + map * gate)
        torch.testing.assert_close(
            model.enlarge(x, torch.empty(2, 1, 10, 14)), x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        )
        assert not model(torch.rand(1, 3, 33, 65)).align_corners


def test_the_packages_network_has_as_many_parameters_as_its_code() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in bisenet_coincheung(19).parameters()) == 13_425_721
