"""FoveaNet: where it looks, that the window comes back to its place, and what teaches it perspective."""

import numpy as np
import pytest
import torch

from pixelwise.losses import make_criterion
from pixelwise.models import foveanet, foveanet_resnet101
from pixelwise.models.foveanet import CELLS, enlarged, fovea_of, remoteness_of, replaced
from pixelwise.types import Batch, ClassTable


def test_the_fovea_is_the_window_with_the_largest_mean() -> None:
    far = torch.rand(3, 1, 64, 48)
    for own, (x, y) in zip(fovea_of(far), fovea_of(far).tolist(), strict=True):
        assert own.abs().max() <= 0.5, (x, y)
    means = {}
    half_height, half_width = 32, 24
    for row in range(CELLS // 2 + 1):
        for column in range(CELLS // 2 + 1):
            top, left = row * 64 // CELLS, column * 48 // CELLS
            window = far[0, 0, top : top + half_height, left : left + half_width]
            means[(left + 12) / 24 - 1, (top + 16) / 32 - 1] = window.mean().item()
    assert fovea_of(far)[0].tolist() == pytest.approx(max(means, key=means.__getitem__))


@pytest.mark.parametrize("fovea", [(0.0, 0.0), (0.5, -0.5), (-0.25, 0.125)])
def test_the_window_is_enlarged_twice_and_comes_back_to_its_place(fovea: tuple[float, float]) -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    image = torch.stack([x, y])[None]
    centre = torch.tensor([fovea])
    window = enlarged(image, centre)
    middle = window[0, :, 31:33, 31:33].mean((1, 2))
    torch.testing.assert_close(middle, centre[0] * 64 / 63, atol=1e-4, rtol=1e-4)
    back = replaced(window, centre, (64, 64))
    inside = replaced(torch.ones_like(window[:, :1]), centre, (64, 64)) > 0.99
    assert 30**2 <= int(inside.sum()) <= 32**2
    difference = (back - image).abs().amax(1, keepdim=True)
    assert difference[inside].max() < 0.02
    outside = replaced(torch.ones_like(window[:, :1]), centre, (64, 64)) == 0
    assert int(outside.sum()) >= 64**2 - 34**2


def test_outside_the_fovea_the_coarse_branch_speaks_alone() -> None:
    model = foveanet(3, encoder="tiny").eval()
    image = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        before = model(image)
        model.fovea_head[-1].bias += 4
        after = model(image)
    change = (after.coarse - before.coarse)[:, 0]
    inside = replaced(torch.ones(2, 1, 9, 13), before.fovea, (17, 25))[:, 0]
    torch.testing.assert_close(change, 2 * inside, atol=1e-4, rtol=1e-4)
    assert (change == 0).float().mean() > 0.5


def test_small_regions_are_remote() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, :2, :2], labels[0, 5:, 5:], labels[0, 4] = 1, 1, 255
    found = remoteness_of(labels, 2)[0, 0]
    assert found[0, 0].item() == pytest.approx(1 - (4 / 64) ** 0.5)
    assert found[7, 7].item() == pytest.approx(1 - (9 / 64) ** 0.5)  # another region of the same class
    assert found[0, 7].item() == pytest.approx(1 - (28 / 64) ** 0.5)
    assert (found[4] == -1).all()
    layers = torch.stack([labels[0] * 0 + 1, (labels[0] == 1).long()])[None]
    both = remoteness_of(layers, 2)[0, 0]
    assert both[0, 0].item() == pytest.approx(1 - (4 / 64) ** 0.5)
    assert both[4, 4].item() == 0


def test_perspective_is_learned_where_labels_are_known() -> None:
    labels = torch.full((1, 64, 64), 255)
    labels[0, :32] = 1
    batch = Batch.of(torch.rand(1, 3, 64, 64), labels)
    model = foveanet(3, encoder="tiny").train()
    output = model(batch.image)
    parts = make_criterion("cross_entropy", ClassTable.of(*"abc")).parts(output, batch)
    assert set(parts) == {"cross_entropy", "aux", "perspective"}
    target = 1 - np.sqrt(0.5)
    upper = output.remoteness[:, :, : output.remoteness.shape[2] // 2]
    assert parts["perspective"].item() == pytest.approx((upper - target).square().mean().item(), rel=1e-4)
    parts["perspective"].backward()
    assert model.perspective[-1].weight.grad.any()


def test_the_paper_s_network_works_at_stride_8() -> None:
    with torch.device("meta"):
        model = foveanet_resnet101(19)
    assert model.encoder.strides.c4 == model.encoder.strides.c5 == 8
