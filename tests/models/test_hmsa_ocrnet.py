"""Hierarchical multi-scale attention: published count, merging by its definition, any list of scales."""

import pytest
import torch
from torch.nn import functional as F

from pixelwise.losses import make_criterion
from pixelwise.models import hmsa_ocrnet, hmsa_ocrnet_hrnet_w48
from pixelwise.models.hmsa_ocrnet import merge
from pixelwise.types import Batch, ClassTable


def test_parameters_are_as_many_as_the_authors_print() -> None:
    with torch.device("meta"):
        model = hmsa_ocrnet_hrnet_w48(19)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(72.1e6, rel=0.001)


def resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def test_scales_are_merged_from_the_largest_to_the_smallest() -> None:
    torch.manual_seed(0)
    sizes, scales = [(18, 24), (9, 12), (4, 6)], [2.0, 1.0, 0.5]
    maps = [torch.randn(2, 3, *size) for size in sizes]
    trust = [torch.rand(2, 1, *size) for size in sizes]
    middle = trust[1] * maps[1] + (1 - trust[1]) * resized(maps[0], (9, 12))
    low = resized(trust[2] * maps[2], (9, 12))
    expected = low + (1 - resized(trust[2], (9, 12))) * middle
    torch.testing.assert_close(merge(maps, trust, scales), expected)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0), (1.0, 0.25, 2.0, 1.5)])
def test_any_list_of_scales_works_without_other_weights(scales: tuple[float, ...]) -> None:
    torch.manual_seed(1)
    model = hmsa_ocrnet(3, encoder="tiny", width=8, scales=scales).eval()
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        output = model(image)
        views = [model.look(image, scale) for scale in sorted(scales, reverse=True)]
        expected = merge([v.scores for v in views], [v.attention for v in views], sorted(scales)[::-1])
    assert output.logits.shape == (1, 3, 65, 97)
    assert torch.equal(output.logits, expected)


def test_more_scales_change_the_answer_and_full_trust_in_the_low_one_is_its_answer() -> None:
    torch.manual_seed(2)
    model = hmsa_ocrnet(3, encoder="tiny", width=8).eval()
    image = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        two = model(image).logits
        model.set_scales([0.5, 1, 2])
        assert not torch.allclose(model(image).logits, two)
        model.set_scales([0.5, 1])
        model.attention[2].weight.zero_()  # sigmoid(0): half of each
        low, full = model.look(image, 0.5).scores, model.look(image, 1).scores
        torch.testing.assert_close(model(image).logits, (resized(low, (96, 128)) + full) / 2)


def test_training_looks_at_two_scales_and_learns_from_each() -> None:
    model = hmsa_ocrnet(3, encoder="tiny", width=8, scales=(1.0, 2.0)).train()
    batch = Batch.of(torch.rand(2, 3, 96, 128), torch.randint(0, 3, (2, 96, 128)))
    batch.labels[:, :8] = 255
    output = model(batch.image)
    assert [tuple(x.shape[2:]) for x in output.by_scale] == [(96, 128), (48, 64)]
    parts = make_criterion("cross_entropy", ClassTable.of(*"abc")).parts(output, batch)
    assert set(parts) == {"cross_entropy", "aux", "scales"}
    alone = [F.cross_entropy(resized(x, (96, 128)), batch.labels, ignore_index=255) for x in output.by_scale]
    assert parts["scales"].item() == pytest.approx(0.05 * sum(alone).item(), rel=1e-4)


@pytest.mark.parametrize("scales", [(0.5,), (1.0, 1.0), (0.0, 1.0)])
def test_scales_that_cannot_be_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="scales must be different, above 0, and 1 among them"):
        hmsa_ocrnet(3, encoder="tiny", scales=scales)
