"""CondInst: the drawn mask is that of a small network whose weights the place brings."""

import pytest
import torch
from torch.nn import functional as F

from pixelwise.models.condinst import CHANNELS, NUM_BIASES, NUM_WEIGHTS, STRIDE, dice_loss, draw


def test_masks_are_those_of_three_layers_that_see_where_they_are() -> None:
    torch.manual_seed(0)
    n, height, width = 5, 7, 9
    maps, filters = torch.randn(CHANNELS, height, width), 0.3 * torch.randn(n, 169)
    points = torch.rand(n, 2) * torch.tensor([72.0, 56.0])
    reach = torch.tensor([64.0, 64, 128, 256, 512])
    assert sum(NUM_WEIGHTS) + sum(NUM_BIASES) == filters.shape[1]
    found = draw(maps, filters, points, reach)
    assert found.shape == (n, 2 * height, 2 * width)
    for number in range(n):
        own = filters[number]
        y, x = torch.meshgrid(
            STRIDE * (torch.arange(height) + 0.5), STRIDE * (torch.arange(width) + 0.5), indexing="ij"
        )
        away = [(points[number, i] - axis) / reach[number] for i, axis in enumerate((x, y))]
        seen = torch.cat([torch.stack(away), maps])[None]
        first, second, third, b1, b2, b3 = own.split([80, 64, 8, 8, 8, 1])
        seen = F.conv2d(seen, first.view(8, 10, 1, 1), b1).relu()
        seen = F.conv2d(seen, second.view(8, 8, 1, 1), b2).relu()
        seen = F.conv2d(seen, third.view(1, 8, 1, 1), b3)
        expected = F.interpolate(seen, scale_factor=2, mode="bilinear")[0, 0]
        torch.testing.assert_close(found[number], expected, atol=1e-4, rtol=1e-4)


def test_dice_is_0_for_equal_masks_and_1_for_disjoint_ones() -> None:
    mask = torch.zeros(2, 4, 4)
    mask[:, :2] = 1
    drawn = torch.stack([mask[0], 1 - mask[1]])
    assert dice_loss(drawn, mask).tolist() == pytest.approx([0, 1], abs=1e-5)
