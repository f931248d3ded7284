"""PolarMask: rays are cast as the paper says, and drawn again they are the object."""

import math

import pytest
import torch

from pixelwise import decode
from pixelwise.models.fcos import PlaceLogits, Scales, assign_places, middles_of_mass, places_of
from pixelwise.models.polarmask import (
    NUM_RAYS,
    SHORTEST,
    PolarLogits,
    cast_rays,
    polar_centerness,
    polar_iou_loss,
    polygons,
)
from pixelwise.types import Boxes, MaskSet

SAME = torch.ones(2)


def disc(radius: float, hole: float = 0.0) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(80) + 0.5, torch.arange(100) + 0.5, indexing="ij")
    away = ((x - 50) ** 2 + (y - 40) ** 2).sqrt()
    return (away < radius) & (away >= hole)


def test_rays_of_a_disc_are_its_radius_and_end_where_it_ends_for_the_last_time() -> None:
    middle = torch.tensor([[50.0, 40.0]])
    for mask in (disc(25), disc(25, hole=12)):
        assert (cast_rays(mask, middle, SAME, 60) - 25).abs().max() <= 1
    assert polar_centerness(cast_rays(disc(25), middle, SAME, 60)) > 0.97


def test_rays_from_elsewhere_are_those_of_geometry_and_rays_that_miss_are_shortest() -> None:
    x, radius = 60.0, 25.0
    rays = cast_rays(disc(radius), torch.tensor([[x, 40.0]]), SAME, 60)[0]
    for number, ray in enumerate(rays.tolist()):
        angle = 2 * math.pi * number / NUM_RAYS
        along = 10 * math.cos(angle)
        expected = -along + math.sqrt(along**2 + radius**2 - 100)
        assert ray == pytest.approx(expected, abs=1.2)
    outside = cast_rays(disc(radius), torch.tensor([[95.0, 40.0]]), SAME, 100)[0]
    assert outside[0] == SHORTEST
    assert outside[NUM_RAYS // 2] == pytest.approx(70, abs=1)
    # The same object, seen at half the size.
    half = cast_rays(disc(radius), torch.tensor([[25.0, 20.0]]), 2 * SAME, 60)
    assert (half - radius / 2).abs().max() <= 1


def test_polar_iou_is_the_ratio_of_sums() -> None:
    rays, wanted = torch.full((1, NUM_RAYS), 10.0), torch.full((1, NUM_RAYS), 20.0)
    assert polar_iou_loss(rays, wanted).item() == pytest.approx(math.log(2))
    assert polar_iou_loss(wanted, wanted).item() == 0
    torch.manual_seed(0)
    first, second = torch.rand(NUM_RAYS) + 0.1, torch.rand(NUM_RAYS) + 0.1
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    iou = sum(min(pair) for pair in pairs) / sum(max(pair) for pair in pairs)
    assert polar_iou_loss(first[None], second[None]).item() == pytest.approx(-math.log(iou), abs=1e-5)


def test_corners_of_polygons_lie_at_the_ends_of_rays() -> None:
    corners = polygons(torch.tensor([[3.0, 5.0]]), torch.arange(1.0, NUM_RAYS + 1)[None])[0]
    torch.testing.assert_close(corners[0], torch.tensor([4.0, 5.0]))
    torch.testing.assert_close(corners[9], torch.tensor([3.0, 15.0]))  # a quarter turn, towards y
    torch.testing.assert_close(corners[18], torch.tensor([-16.0, 5.0]))


def test_true_rays_decode_to_the_object() -> None:
    mask = disc(25)
    mask[40:60, 50:90] = True
    instances = MaskSet.of(mask[None], torch.zeros(1, dtype=torch.long))
    levels, size = ((10, 13), (5, 7), (3, 4), (2, 2), (1, 1)), (80, 100)
    places = places_of(levels, (8, 16, 32, 64, 128), torch.zeros(()))
    number = assign_places(
        places, Boxes.of(instances.boxes.boxes, instances.classes), middles_of_mass(instances, size, size)
    )
    assert (number >= 0).any()
    rays = cast_rays(mask, places.points, SAME, 120)
    scores = torch.where(number >= 0, 8.0, -8.0)[None, :, None]
    best = polar_centerness(rays)[None].logit(1e-6)
    boxes = torch.full((1, len(number), 4), 30.0)
    objects = PlaceLogits(scores, boxes, best, levels, Scales(size, (size,), (size,)))
    (found,) = decode.instances(PolarLogits(objects, rays[None]))
    drawn = found.dense[0]
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.9
