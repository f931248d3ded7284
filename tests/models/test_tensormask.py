"""TensorMask: the two representations, and which windows belong to objects."""

import math

import pytest
import torch

from pixelwise.models.fcos import Scales
from pixelwise.models.tensormask import assign_windows, natural_windows, true_windows, windows_of
from pixelwise.models.tensormask.network import WindowHead
from pixelwise.types import Boxes

LEVELS = [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]


def natural_by_definition(aligned: torch.Tensor, cell: tuple[int, int], scale: int) -> torch.Tensor:
    """One window, value by value: interpolation in the four axes v, u, y, x."""
    side = math.isqrt(len(aligned))
    values, length = aligned.unflatten(0, (side, side)), scale * side
    found = torch.zeros(length, length)
    for v in range(length):
        for u in range(length):
            at = (
                (v + 0.5) / scale - 0.5,
                (u + 0.5) / scale - 0.5,
                cell[0] * scale + v - length / 2 + 0.5,
                cell[1] * scale + u - length / 2 + 0.5,
            )
            for corner in range(16):
                weight, index = 1.0, []
                for axis, place in enumerate(at):
                    further = corner >> axis & 1
                    share = place - math.floor(place)
                    weight *= share if further else 1 - share
                    index.append(math.floor(place) + further)
                inside = all(0 <= i < n for i, n in zip(index, values.shape, strict=True))
                found[v, u] += weight * (values[tuple(index)].item() if inside else -6.0)
    return found


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_natural_windows_are_those_of_the_definition(scale: int) -> None:
    torch.manual_seed(0)
    aligned = torch.randn(9, 11, 13)
    cells = torch.tensor([[0, 0], [1, 2], [2, 1]])
    found = natural_windows(aligned, cells, scale)
    assert found.shape == (3, 3 * scale, 3 * scale)
    for window, cell in zip(found, cells.tolist(), strict=True):
        expected = natural_by_definition(aligned, (cell[0], cell[1]), scale)
        torch.testing.assert_close(window, expected, atol=1e-5, rtol=1e-5)


def test_at_the_finest_level_both_representations_hold_the_same_numbers() -> None:
    aligned = torch.randn(9, 7, 7)
    (window,) = natural_windows(aligned, torch.tensor([[3, 4]]), 1)
    for v in range(3):
        for u in range(3):
            # What the place says of itself as part (v, u) of a window.
            assert window[v, u] == aligned[3 * v + u, 3 + v - 1, 4 + u - 1]


def test_a_map_that_says_where_objects_are_gives_masks_of_more_pixels_in_coarser_levels() -> None:
    disc = torch.zeros(48, 48)
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    disc[(y - 24) ** 2 + (x - 24) ** 2 < 15**2] = 1
    aligned = (20 * disc - 10).expand(121, 48, 48)  # whatever the window, the place is in or out
    (window,) = natural_windows(aligned, torch.tensor([[6, 6]]), 4)
    assert window.shape == (44, 44)
    expected = disc[3:47, 3:47] > 0  # half a cell beside it
    drawn = window > 0
    assert (drawn & expected).sum() / (drawn | expected).sum() > 0.9


def test_windows_are_44_and_60_pixels_and_twice_as_large_on_each_level() -> None:
    windows = windows_of(LEVELS, torch.zeros(()))
    sides = windows.boxes[:, 2:] - windows.boxes[:, :2]
    assert len(sides) == 2 * sum(height * width for height, width in LEVELS)
    for level in range(6):
        own = sides[windows.level == level]
        assert own[0].tolist() == [44 * 2**level] * 2
        assert own[1].tolist() == [60 * 2**level] * 2
    assert windows.cell[2 * 33].tolist() == [1, 1]
    assert ((windows.boxes[2 * 33, :2] + windows.boxes[2 * 33, 2:]) / 2).tolist() == [4, 4]


def test_a_window_belongs_to_the_one_object_that_it_contains_in_its_middle() -> None:
    boxes = torch.tensor([[30.0, 20, 60, 45], [34, 24, 50, 44], [70, 40, 120, 90], [0, 0, 0, 0]])
    objects, windows = Boxes.of(boxes, torch.zeros(4).long()), windows_of(LEVELS, torch.zeros(()))
    numbers = assign_windows(windows, objects)
    for (x1, y1, x2, y2), level, number in zip(
        windows.boxes.tolist(), windows.level.tolist(), numbers.tolist(), strict=True
    ):
        stride, fits = 4 * 2**level, []
        for index, (left, top, right, bottom) in enumerate(boxes[:3].tolist()):
            contains = x1 <= left and y1 <= top and x2 >= right and y2 >= bottom
            apart = math.hypot((x1 + x2 - left - right) / 2, (y1 + y2 - top - bottom) / 2)
            longest = max(2 * max(right - left, bottom - top), 40)
            if contains and apart <= stride and x2 - x1 - stride <= longest:
                fits.append(index)
        assert number == (fits[0] if len(fits) == 1 else -1)
    assert {0, 1, 2} <= set(numbers.tolist())


def test_true_windows_show_the_object_where_it_lies_in_them() -> None:
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[1, 5:10, 8:16] = True
    window = torch.tensor([[4.0, 2, 12, 10], [-4, -4, 4, 4]])
    found = true_windows(masks, torch.tensor([1, 1]), window, 8)
    assert torch.equal(found[0], masks[1, 2:10, 4:12])
    assert not found[1].any()


def told_by_fresh_head(width: int) -> torch.Tensor:
    """Spread of the answers of a fresh head to levels of random numbers, of classes and of masks."""
    torch.manual_seed(0)
    levels = [torch.randn(1, width, 16 // 2**i, 16 // 2**i) for i in range(5)]
    with torch.no_grad():
        output = WindowHead(width, 3)(levels, Scales((64, 64), ((64, 64),), ((64, 64),)))
    return torch.stack([output.class_logits.std(), output.aligned[0][0].std()])


def test_a_fresh_head_of_few_channels_is_no_quieter_than_one_of_the_papers_width() -> None:
    assert (told_by_fresh_head(16) > told_by_fresh_head(256) / 5).all()


def test_maps_of_coarser_levels_are_enlarged_in_place_where_the_sizes_do_not_divide() -> None:
    torch.manual_seed(0)
    head = WindowHead(8, 1).double()
    levels = [torch.randn(1, 8, n, n).double() for n in (9, 5, 3, 2, 1, 1)]
    padded = [torch.nn.functional.pad(levels[0], (0, 23, 0, 23))]
    for level, size in zip(levels[1:], (16, 8, 4, 2, 1), strict=True):
        padded.append(torch.nn.functional.pad(level, (0, size - level.shape[-1]) * 2, mode="replicate"))
    head.mask_tower = head.fuse = torch.nn.Identity()  # what is left is the enlargement
    head.masks = torch.nn.ModuleList([torch.nn.Identity()])
    scales = Scales((36, 36), ((36, 36),), ((36, 36),))
    with torch.no_grad():
        found, expected = (head(maps, scales).aligned for maps in (levels, padded))
    for (own,), (whole,) in zip(found, expected, strict=True):
        torch.testing.assert_close(own, whole[..., :9, :9])
