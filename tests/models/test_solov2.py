"""SOLOv2: cells, their filters, and peaks."""

import pytest
import torch
from torch.nn import functional as F

from pixelwise.models.solov2 import GRIDS, RANGES, assign_cells, draw, peaks, with_positions
from pixelwise.types import Boxes


def test_masks_are_the_answers_of_1x1_filters() -> None:
    maps, filters = torch.randn(6, 5, 7), torch.randn(4, 6)
    expected = F.conv2d(maps[None], filters[:, :, None, None])[0]
    torch.testing.assert_close(draw(maps, filters), expected)


def test_positions_go_from_minus_one_to_one() -> None:
    x = with_positions(torch.zeros(2, 3, 5, 9))
    assert x.shape == (2, 5, 5, 9)
    assert x[0, 3, 2].tolist() == pytest.approx(torch.linspace(-1, 1, 9).tolist())
    assert x[1, 4, :, 3].tolist() == pytest.approx(torch.linspace(-1, 1, 5).tolist())
    assert with_positions(torch.zeros(1, 1, 1, 1)).isfinite().all()


def test_the_cells_around_the_middle_of_an_object_are_its_own() -> None:
    boxes = torch.tensor([[100.0, 40, 180, 120], [300, 100, 700, 500], [0, 0, 0, 0]])
    objects = Boxes.of(boxes, torch.tensor([0, 1, 2]))
    middles = torch.tensor([[140.0, 80], [450, 320], [0, 0]])
    cells, owners = assign_cells(objects, middles, (600, 800))
    expected = {}
    first = 0
    for side, (least, most) in zip(GRIDS, RANGES, strict=True):
        height, width = 600 / side, 800 / side
        for number in (0, 1):
            x1, y1, x2, y2 = boxes[number].tolist()
            if not least <= ((x2 - x1) * (y2 - y1)) ** 0.5 <= most:
                continue
            x, y = middles[number].tolist()
            for row in range(side):
                for column in range(side):
                    near = abs(row - y // height) <= 1 and abs(column - x // width) <= 1
                    meets = (
                        column * width <= x + 0.1 * (x2 - x1)
                        and (column + 1) * width > x - 0.1 * (x2 - x1)
                        and row * height <= y + 0.1 * (y2 - y1)
                        and (row + 1) * height > y - 0.1 * (y2 - y1)
                    )
                    if near and meets:
                        expected[first + row * side + column] = number
        first += side * side
    assert dict(zip(cells.tolist(), owners.tolist(), strict=True)) == expected
    assert set(expected.values()) == {0, 1}


def test_only_peaks_remain() -> None:
    torch.manual_seed(0)
    scores = torch.rand(sum(n * n for n in GRIDS), 2)
    found, first = peaks(scores), 0
    for side in GRIDS:
        grid = scores[first : first + side * side].view(side, side, 2)
        own = found[first : first + side * side].view(side, side, 2)
        for row in range(0, side, 3):
            for column in range(0, side, 5):
                around = grid[max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1]
                peak = grid[row, column] == around.flatten(0, 1).amax(0)
                assert torch.equal(own[row, column], grid[row, column] * peak)
        first += side * side
