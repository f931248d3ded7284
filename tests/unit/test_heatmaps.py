"""Heatmaps: what is written into them is read from them."""

import math

import pytest
import torch
from torch import Tensor

from pixelwise.decode import keypoints
from pixelwise.heatmaps import dark, gaussian_heatmaps, highest, quarter_offset, unflip, with_flip_test
from pixelwise.types import Heatmaps, Skeleton

PAIR = Skeleton(("nose", "left hand", "right hand"), flip_pairs=((1, 2),))


def maps_of(points: Tensor, size: tuple[int, int] = (64, 48), **settings: object) -> Tensor:
    return gaussian_heatmaps(points, torch.ones(points.shape[:2]), size, **settings).maps


# --- targets --------------------------------------------------------------------------------------


def test_a_target_is_the_gaussian_of_the_formula() -> None:
    maps = maps_of(torch.tensor([[[81.0, 122.0]]]))  # cells 20.25 and 30.5: the nearest are 20 and 31
    for y, x in ((31, 20), (30, 22), (37, 14), (38, 20), (31, 27)):
        distance = (x - 20) ** 2 + (y - 31) ** 2
        inside = abs(x - 20) <= 6 and abs(y - 31) <= 6
        expected = math.exp(-distance / 8) if inside else 0.0
        assert maps[0, 0, y, x].item() == pytest.approx(expected, abs=1e-6)


def test_sigma_follows_the_height_of_the_maps() -> None:
    small, large = maps_of(torch.tensor([[[80.0, 80.0]]])), maps_of(torch.tensor([[[80.0, 80.0]]]), (96, 72))
    assert small[0, 0, 20, 22].item() == pytest.approx(math.exp(-0.5), abs=1e-6)  # sigma 2
    assert large[0, 0, 20, 23].item() == pytest.approx(math.exp(-0.5), abs=1e-6)  # sigma 3


@pytest.mark.parametrize("place, counts", [(-20.0, True), (-27.0, False), (212.0, True), (218.0, False)])
def test_a_joint_counts_while_its_gaussian_reaches_the_map(place: float, counts: bool) -> None:
    target = gaussian_heatmaps(torch.tensor([[[place, 80.0]]]), torch.ones(1, 1), (64, 48))
    assert target.counts.item() is counts
    assert bool(target.maps.any()) is counts


def test_a_joint_that_nobody_annotated_does_not_count() -> None:
    target = gaussian_heatmaps(torch.full((1, 2, 2), 80.0), torch.tensor([[0.0, 1.0]]), (64, 48))
    assert target.counts.tolist() == [[False, True]]
    assert not target.maps[0, 0].any()


# --- decoding -------------------------------------------------------------------------------------


def test_the_quarter_offset_halves_the_error_of_the_highest_cell() -> None:
    points = 30 + 100 * torch.rand(50, 1, 2)
    maps = maps_of(points, unbiased=True)
    coarse = (4 * highest(maps).points - points).abs()
    fine = (4 * quarter_offset(maps).points - points).abs()
    assert coarse.max() <= 2
    assert fine.max() <= 1.001
    assert fine.mean() < 0.6 * coarse.mean()


@pytest.mark.parametrize("size, kernel", [((64, 48), 11), ((96, 72), 17)])
def test_dark_finds_the_joint_between_the_cells(size: tuple[int, int], kernel: int) -> None:
    points = 40 + 90 * torch.rand(50, 1, 2)
    found = dark(maps_of(points, size, unbiased=True), kernel=kernel)
    torch.testing.assert_close(4 * found.points, points, atol=0.05, rtol=0)


def test_a_peak_at_the_border_stays_in_its_cell() -> None:
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0, 0, 0], maps[0, 0, 0, 1], maps[0, 1, 7, 7] = 1.0, 0.5, 1.0
    for refine in (highest, quarter_offset, dark):
        assert refine(maps).points.tolist() == [[[0, 0], [7, 7]]]


def test_maps_without_a_positive_value_say_the_origin() -> None:
    maps = -torch.rand(1, 3, 9, 9) - 0.1
    for refine in (highest, quarter_offset, dark):
        assert (refine(maps).points == 0).all()
        assert (refine(maps).values < 0).all()


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd number of cells, got 4"):
        dark(torch.rand(1, 1, 9, 9), kernel=4)


def test_heatmaps_become_keypoints_in_pixels_of_the_crop() -> None:
    points = torch.tensor([[[80.0, 100.0], [40.0, 60.0]], [[120.0, 20.0], [100.0, 200.0]]])
    maps = maps_of(points) * torch.tensor([[1.5, 0.6], [0.1, 0.1]])[..., None, None]
    first, second = keypoints(Heatmaps(maps, (256, 192)))
    torch.testing.assert_close(first.points, points[:1], atol=1.01, rtol=0)
    torch.testing.assert_close(first.visible, torch.tensor([[1.0, 0.6]]))
    assert first.scores.item() == pytest.approx(0.8)
    assert second.scores.item() == 0  # no joint is sure
    assert second.boxes.tolist() == [[0, 0, 192, 256]]
    assert second.areas.tolist() == [256 * 192]


def test_the_way_of_refining_can_be_chosen() -> None:
    points = torch.tensor([[[81.3, 101.9]]])
    (found,) = keypoints(Heatmaps(maps_of(points, unbiased=True), (256, 192)), dark)
    torch.testing.assert_close(found.points, points, atol=0.05, rtol=0)


# --- the mirror -----------------------------------------------------------------------------------


def test_the_mirror_test_brings_joints_back_to_their_places() -> None:
    points = torch.tensor([[[80.0, 100.0], [40.0, 60.0], [120.0, 60.0]]])
    maps = maps_of(points)
    mirrored_points = torch.stack([191 - points[..., 0], points[..., 1]], -1)[:, [0, 2, 1]]
    back = unflip(maps_of(mirrored_points), PAIR)
    torch.testing.assert_close(highest(back).points, highest(maps).points)
    without = unflip(maps_of(mirrored_points), PAIR, shift=False)
    torch.testing.assert_close(highest(without).points, highest(maps).points - torch.tensor([1.0, 0.0]))


def test_the_mirror_test_averages_two_passes() -> None:
    seen = []

    def f(image: Tensor) -> Heatmaps:
        seen.append(image)
        return Heatmaps(image[:, :, ::4, ::4].clone(), (32, 48))

    image = torch.rand(1, 3, 32, 48)
    output = with_flip_test(f, PAIR, shift=False)(image)
    torch.testing.assert_close(seen[1], image.flip(-1))
    expected = (image[:, :, ::4, ::4] + image.flip(-1)[:, :, ::4, ::4].flip(-1)[:, [0, 2, 1]]) / 2
    torch.testing.assert_close(output.coarse, expected)


def test_a_skeleton_with_other_joints_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 2 heatmaps, the skeleton has 3 joints"):
        unflip(torch.rand(1, 2, 8, 8), PAIR)
