"""Every annotation moves with its image."""

import pytest
import torch
from torch.nn import functional as F
from torchvision import tv_tensors

from pixelwise.data import training_transform
from pixelwise.data.transforms import ElasticDeformation, OnSample, deformed_points
from pixelwise.types import Boxes, Keypoints, MaskSet, PanopticMap, Sample


def sample() -> Sample:
    masks = torch.zeros(3, 60, 80, dtype=torch.bool)
    masks[0, 10:40, 20:50] = True
    masks[1, :6, :6] = True
    masks[2, 50:, 60:] = True
    return Sample(torch.rand(3, 60, 80), MaskSet.of(masks, torch.tensor([0, 1, 2])), "a", (0.5, 0.5))


def moved(target: object, seed: int, *, scale: tuple[float, float] = (0.5, 2.0), crop=(48, 48)) -> Sample:
    torch.manual_seed(seed)
    given = sample()
    return training_transform(crop, scale=scale)(Sample(given.image, target, "a", given.spacing))


@pytest.mark.parametrize("seed", range(12))
def test_a_box_moves_with_its_mask(seed: int) -> None:
    masks = sample().target
    after = moved(masks, seed).target
    boxes = moved(masks.boxes, seed).target
    shown = {int(c): box for c, box in zip(boxes.classes, boxes.boxes, strict=True)}
    assert set(after.classes.tolist()) <= set(shown) | {
        int(c) for c, mask in zip(after.classes, after.masks, strict=True) if mask.any(0).sum() < 2
    } | {int(c) for c, mask in zip(after.classes, after.masks, strict=True) if mask.any(1).sum() < 2}
    for label, box in zip(after.classes.tolist(), after.boxes.boxes, strict=True):
        if label in shown:
            assert (shown[label] - box).abs().max() <= 1.0


@pytest.mark.parametrize("seed", range(6))
def test_nothing_lies_outside_a_small_image(seed: int) -> None:
    # Scaled to a half, the image lies somewhere in the window: what is outside belongs to no object.
    after = moved(sample().target, seed, scale=(0.5, 0.5), crop=(90, 90))
    assert len(after.target) == 3
    areas = after.target.masks.flatten(1).sum(1)
    assert torch.allclose(areas.float(), torch.tensor([225.0, 9.0, 50.0]), atol=35)
    assert after.target.masks.sum() < 400


def test_the_spacing_stays_and_so_do_samples_without_a_target() -> None:
    assert moved(sample().target, 0).spacing == (0.5, 0.5)
    assert moved(None, 0).spacing == (0.5, 0.5)
    assert moved(None, 0).target is None


def test_what_has_left_the_image_is_dropped() -> None:
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[0], masks[1, 0, 0] = True, True
    gone = 0
    for seed in range(10):
        after = moved(MaskSet.of(masks, torch.tensor([3, 4])), seed, scale=(2.0, 2.0)).target
        assert after.masks.flatten(1).any(1).all()
        gone += after.classes.tolist() == [3]
        boxes = moved(Boxes.of(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([4])), seed, scale=(2.0, 2.0))
        assert (boxes.target.boxes[:, 2:] - boxes.target.boxes[:, :2] >= 1).all()
    assert gone


@pytest.mark.parametrize("seed", range(6))
def test_a_panoptic_map_keeps_the_segments_that_are_left(seed: int) -> None:
    id_map = torch.zeros(60, 80, dtype=torch.long)
    id_map[10:40, 20:50], id_map[:3, :3] = 255, 7  # 255 is also what fills label maps
    target = PanopticMap.of(id_map, torch.tensor([255, 7]), torch.tensor([1, 0]))
    for scale in ((0.5, 0.5), (1.0, 1.0)):
        after = moved(target, seed, scale=scale).target
        assert set(after.id_map.unique().tolist()) - {0} == set(after.ids.tolist())
        assert (after.id_map == 255).sum() < 2000  # at a half, the window holds all of it and more


def coordinates(height: int, width: int) -> torch.Tensor:
    """x and y of each pixel's centre, as shares of the sides."""
    x = (torch.arange(width) + 0.5).expand(height, width) / width
    y = (torch.arange(height) + 0.5)[:, None].expand(height, width) / height
    return torch.stack([x, y])


def test_points_and_boxes_follow_the_field_of_a_deformation() -> None:
    """At its new place a point sees the coordinates of its old one."""
    torch.manual_seed(3)
    height, width = 90, 140
    points = torch.rand(40, 2) * torch.tensor([90.0, 50.0]) + 20
    change = ElasticDeformation(6.0)
    boxes = torch.cat([points[:20], points[:20] + 15], 1)
    image, moved, around = change(
        tv_tensors.Image(coordinates(height, width)),
        tv_tensors.KeyPoints(points, canvas_size=(height, width)),
        tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
    )
    size = torch.tensor([width, height])
    grid = (moved.as_subclass(torch.Tensor) / size * 2 - 1)[None, None]
    seen = F.grid_sample(image.as_subclass(torch.Tensor)[None], grid, align_corners=False)[0, :, 0].T * size
    assert (moved - points).abs().max() > 3
    torch.testing.assert_close(seen, points, atol=0.05, rtol=0)
    assert (around[:, :2] <= moved[:20] + 1e-3).all()
    assert (around[:, 2:] - around[:, :2] > 5).all()
    nowhere = torch.zeros(1, height, width, 2)
    torch.testing.assert_close(deformed_points(points, nowhere), points)


def test_a_deformation_of_nothing_leaves_key_points_and_their_areas() -> None:
    points = torch.tensor([[[10.0, 12.0], [30.0, 8.0]]])
    target = Keypoints(
        points,
        torch.tensor([[2, 1]]),
        torch.ones(1),
        torch.tensor([300.0]),
        torch.tensor([[5.0, 5.0, 35.0, 20.0]]),
        torch.tensor([False]),
    )
    sample = Sample(torch.rand(3, 40, 50), target, "a", None)
    still = OnSample([ElasticDeformation(1e-6)])(sample)
    torch.testing.assert_close(still.target.points, points, atol=1e-3, rtol=0)
    torch.testing.assert_close(still.target.areas, target.areas, atol=0.1, rtol=0)
    torch.manual_seed(0)
    moved = OnSample([ElasticDeformation(3.0)])(sample)
    assert (moved.target.points - points).abs().max() > 0.5
    assert 150 < moved.target.areas.item() < 600
