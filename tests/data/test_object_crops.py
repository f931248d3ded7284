"""Crops of single objects: points and pixels move together, and come back."""

import math

import pytest
import torch
from torch import Tensor

from pixelwise.data import Augmented
from pixelwise.data.object_crops import (
    Crop,
    ObjectCrops,
    RandomObjectCrop,
    SingleObjects,
    crop_around,
    joined,
    mirrored,
)
from pixelwise.types import Keypoints, LabelMap, Sample, Skeleton

SKELETON = Skeleton(("nose", "left hand", "right hand"), flip_pairs=((1, 2),))


def people(points: Tensor, visible: Tensor | None = None, crowd: tuple[bool, ...] = ()) -> Keypoints:
    boxes = torch.cat([points.amin(1) - 2, points.amax(1) + 2], 1)
    sides = boxes[:, 2:] - boxes[:, :2]
    is_crowd = torch.tensor(crowd or (False,) * len(points), dtype=torch.bool)
    seen = torch.full(points.shape[:2], 2.0) if visible is None else visible
    return Keypoints(points, seen, torch.ones(len(points)), sides.prod(1), boxes, is_crowd)


class Drawn:
    """Images with a bright dot at every joint."""

    def __init__(self, *annotations: Keypoints, size: tuple[int, int] = (120, 160)) -> None:
        self.annotations, self.size = annotations, size

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Sample:
        y, x = torch.meshgrid(*(torch.arange(n) for n in self.size), indexing="ij")
        image = torch.zeros(1, *self.size)
        for place in self.annotations[index].points.flatten(0, 1):
            image += torch.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 8)
        return Sample(image.clamp(max=1), self.annotations[index], f"{index}.png")

    def keypoints(self, index: int) -> Keypoints:
        return self.annotations[index]


def dots(count: int = 2) -> Drawn:
    points = torch.tensor([[50.0, 30], [40, 60], [70, 90]]) + torch.tensor([[[0.0, 0]], [[45, 10]]])
    return Drawn(*(people(points + 2 * i) for i in range(count)))


def brightest(image: Tensor, near: Tensor) -> Tensor:
    """Centre of the light around a point, in pixels."""
    y, x = torch.meshgrid(*(torch.arange(n) for n in image.shape[-2:]), indexing="ij")
    light = image[0] * (((x - near[0]) ** 2 + (y - near[1]) ** 2) < 64)
    return torch.stack([(light * x).sum(), (light * y).sum()]) / light.sum()


# --- geometry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", [0.0, 30.0, -100.0])
@pytest.mark.parametrize("box", [(10, 20, 40, 90), (-30.5, 3, 200, 18.25), (0, 0, 1, 1)])
def test_points_come_back_exactly(box: tuple[float, ...], rotation: float) -> None:
    crop = crop_around(box, (256, 192), rotation=rotation)
    points = 300 * torch.rand(7, 5, 2, dtype=torch.float64) - 50
    torch.testing.assert_close(crop.points_back(crop.points(points)), points, atol=1e-9, rtol=0)
    single = points.float()
    torch.testing.assert_close(crop.points_back(crop.points(single)), single, atol=1e-2, rtol=1e-5)


def test_the_window_is_that_of_the_authors() -> None:
    # Wider than 3:4: the height grows; then both by a quarter. The centre becomes the centre.
    crop = crop_around((100, 50, 190, 110), (256, 192))
    scale = 192 / (90 * 1.25)
    expected = [[scale, 0, 96 - scale * 145], [0, scale, 128 - scale * 80]]
    torch.testing.assert_close(crop.matrix, torch.tensor(expected, dtype=torch.float64))
    tall = crop_around((100, 50, 110, 130), (256, 192))
    assert tall.matrix[0, 0].item() == pytest.approx(256 / (80 * 1.25))


def test_a_rotation_turns_clockwise_about_the_centre() -> None:
    crop = crop_around((0, 0, 48, 64), (64, 48), padding=1.0, rotation=90.0)
    right_of_centre = torch.tensor([34.0, 32.0])
    torch.testing.assert_close(crop.points(right_of_centre), torch.tensor([24.0, 42.0]))


def test_a_crop_of_the_whole_image_is_the_image() -> None:
    image = torch.rand(3, 64, 48)
    crop = crop_around((0, 0, 48, 64), (64, 48), padding=1.0)
    torch.testing.assert_close(crop.image(image), image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rotation", [0.0, 20.0, -70.0])
def test_pixels_and_points_move_together(rotation: float) -> None:
    sample = dots(1)[0]
    crop = crop_around((30, 20, 90, 100), (256, 192), rotation=rotation)
    image, points = crop.image(sample.image), crop.points(sample.target.points[0])
    for point in points:
        torch.testing.assert_close(brightest(image, point), point, atol=0.3, rtol=0)


def test_what_lies_outside_the_image_is_black() -> None:
    crop = crop_around((-100, -100, -40, -20), (64, 48))
    assert not crop.image(torch.ones(3, 30, 30)).any()


def test_areas_and_boxes_follow() -> None:
    target = dots(1).keypoints(0)
    crop = crop_around(target.boxes[0], (256, 192))
    moved = crop.keypoints(target)
    zoom = crop.matrix[0, 0].item() ** 2
    torch.testing.assert_close(moved.areas, target.areas * zoom, rtol=1e-5, atol=0)
    torch.testing.assert_close(moved.boxes.view(-1, 2), crop.points(target.boxes.view(-1, 2)))
    back = crop.keypoints_back(moved)
    torch.testing.assert_close(back.points, target.points, atol=1e-3, rtol=0)
    torch.testing.assert_close(back.boxes, target.boxes, atol=1e-3, rtol=0)
    torch.testing.assert_close(back.areas, target.areas, rtol=1e-5, atol=0)


def test_an_empty_box_is_refused() -> None:
    with pytest.raises(ValueError, match="x1 < x2 and y1 < y2"):
        crop_around((5, 5, 5, 9))
    with pytest.raises(ValueError, match="padding must be above 0, got 0"):
        crop_around((5, 5, 6, 9), padding=0.0)


# --- the mirror -----------------------------------------------------------------------------------


def test_the_mirror_moves_pixels_and_points_and_exchanges_sides() -> None:
    sample = dots(1)[0]
    mirror = mirrored(sample, SKELETON)
    for joint, other in enumerate(SKELETON.flipped):
        place = mirror.target.points[0, joint]
        assert place[0] == 159 - sample.target.points[0, other, 0]
        torch.testing.assert_close(brightest(mirror.image, place), place, atol=0.1, rtol=0)
    again = mirrored(mirror, SKELETON)
    torch.testing.assert_close(again.target.points, sample.target.points)
    torch.testing.assert_close(again.target.boxes, sample.target.boxes)


def test_a_target_of_another_kind_is_named() -> None:
    with pytest.raises(ValueError, match="target of a must be key points, got LabelMap"):
        mirrored(Sample(torch.rand(3, 4, 4), LabelMap(torch.zeros(4, 4).long()), "a"), SKELETON)


# --- data sets ------------------------------------------------------------------------------------


def test_every_person_is_one_sample() -> None:
    crops = ObjectCrops(dots(2), (64, 48))
    assert [sample.id for sample in crops] == ["0.png#0", "0.png#1", "1.png#0", "1.png#1"]
    for sample in crops:
        assert sample.image.shape == (1, 64, 48)
        assert sample.target.points.shape == (1, 3, 2)
        for point in sample.target.points[0]:
            torch.testing.assert_close(brightest(sample.image, point), point, atol=1.5, rtol=0)


def test_who_cannot_be_learned_from_is_left_out() -> None:
    points = 20 + 60 * torch.rand(4, 3, 2)
    unseen = torch.full((4, 3), 2.0)
    unseen[1] = 0
    annotation = people(points, unseen, crowd=(False, False, True, False))
    annotation.boxes[3, 2] = annotation.boxes[3, 0]
    assert [sample.id for sample in SingleObjects(Drawn(annotation))] == ["0.png#0"]


def test_predictions_come_back_into_their_images() -> None:
    data = dots(2)
    empty = Drawn(data.keypoints(0), people(torch.zeros(0, 3, 2)), data.keypoints(1))
    crops = ObjectCrops(empty, (256, 192))
    found = crops.in_images([sample.target for sample in crops])
    assert [len(one) for one in found] == [2, 0, 2]
    torch.testing.assert_close(found[0].points, data.keypoints(0).points, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[2].points, data.keypoints(1).points, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="there are 4 crops, got 1 predictions"):
        crops.in_images([crops[0].target])


def test_random_crops_depend_on_seed_epoch_and_index_alone() -> None:
    data = Augmented(SingleObjects(dots(1)), RandomObjectCrop(SKELETON, (64, 48)), seed=3)
    first, again = data[0], data[0]
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target.points, again.target.points)
    data.epoch = 1
    assert not torch.equal(first.image, data[0].image)


def handedness(points: Tensor) -> bool:
    """On which side of the line from the nose to the left hand the right hand lies."""
    nose, left, right = points
    return bool((left - nose)[0] * (right - nose)[1] > (left - nose)[1] * (right - nose)[0])


def test_random_crops_keep_dots_at_their_joints_and_left_at_the_left() -> None:
    crop, sample = RandomObjectCrop(SKELETON, (256, 192)), SingleObjects(dots(1))[0]
    without_sides = RandomObjectCrop(Skeleton(SKELETON.names), (256, 192))
    sides, mirrored_sides = [], []
    for _ in range(20):
        cut = crop(sample)
        for point in cut.target.points[0]:
            if 8 < point[0] < 184 and 8 < point[1] < 248:
                torch.testing.assert_close(brightest(cut.image, point), point, atol=2.0, rtol=0)
        sides.append(handedness(cut.target.points[0]))
        mirrored_sides.append(handedness(without_sides(sample).target.points[0]))
    assert len(set(sides)) == 1
    assert 3 < sum(mirrored_sides) < 17


def test_a_random_crop_wants_one_object() -> None:
    with pytest.raises(ValueError, match=r"0.png must have one object, got 2"):
        RandomObjectCrop(SKELETON)(dots(1)[0])
    with pytest.raises(ValueError, match="scale must be at least 0 and below 1, got 1"):
        RandomObjectCrop(SKELETON, scale=1.0)


def test_sets_are_joined_in_order() -> None:
    first, second = dots(1).keypoints(0), people(torch.rand(1, 3, 2))
    both = joined([first, second])
    assert len(both) == 3
    assert torch.equal(both.points[2:], second.points)
    with pytest.raises(ValueError, match="at least one set"):
        joined([])


def test_the_zoom_of_a_turned_crop_is_that_of_an_upright_one() -> None:
    upright, turned = (crop_around((0, 0, 30, 40), rotation=angle) for angle in (0.0, 77.0))
    one = dots(1).keypoints(0)
    torch.testing.assert_close(turned.keypoints(one).areas, upright.keypoints(one).areas)
    assert isinstance(turned, Crop)
    assert not math.isclose(turned.matrix[0, 1].item(), 0.0)
