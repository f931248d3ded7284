"""Every annotation moves with its image."""

import pytest
import torch

from pixelwise.data import training_transform
from pixelwise.types import Boxes, MaskSet, PanopticMap, Sample


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
