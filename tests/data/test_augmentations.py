"""Further changes by name: pixels that are degraded, images that are mixed, and what a task refuses."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from pixelwise.data import (
    AUGMENTATIONS,
    Augmented,
    Mixing,
    degradations_of,
    mixings_of,
    parse_augmentations,
    training_transform,
)
from pixelwise.data.augmentations import DEGRADATIONS, MIXES, PLACES
from pixelwise.data.degradations import Sometimes, gaussian_blur, jpeg
from pixelwise.data.mixing import classmix, cutmix, mosaic
from pixelwise.data.transforms import drawn_pixel
from pixelwise.types import Boxes, ClassMasks, Keypoints, LabelMap, MaskSet, PanopticMap, Sample

# --- names ----------------------------------------------------------------------------------------


def test_every_name_is_of_one_kind_and_has_a_number() -> None:
    kinds = [*DEGRADATIONS, *PLACES, *MIXES]
    assert sorted(kinds) == sorted(AUGMENTATIONS)
    assert parse_augmentations("") == {}
    assert parse_augmentations(",".join(AUGMENTATIONS)) == {
        name: one.usual for name, one in AUGMENTATIONS.items()
    }
    assert parse_augmentations(" blur = 1 ,shear=0.5") == {"blur": 1.0, "shear": 0.5}


@pytest.mark.parametrize(
    "text, reason",
    [
        ("blurr", "augment names 'blurr', which is no augmentation: did you mean blur"),
        ("xyzzy", "there are gamma, bias_field"),
        ("blur,blur=0.5", "augment names blur twice"),
        ("blur=2", "blur of augment must be the share of the images, from 0 to 1, got '2'"),
        ("shear=-1", "largest angle in degrees, from 0 to 60"),
        ("blur=", "got ''"),
        ("noise=nan", "got 'nan'"),
        ("blur,", "augment names ''"),
    ],
)
def test_what_is_no_augmentation_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_augmentations(text)


@pytest.mark.parametrize("name, kind", [("cutmix", Boxes), ("classmix", MaskSet), ("cutmix", Keypoints)])
def test_annotations_that_cannot_be_mixed_are_refused(name: str, kind: type) -> None:
    with pytest.raises(ValueError, match=f"{name} of augment is for .*, not for {kind.__name__}"):
        mixings_of({name: 0.5}, kind, 255)
    assert mixings_of({name: 0.0}, kind, 255) == ()


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 20, 30), (3, 20, 30), (5, 20, 30), (2, 9, 10, 12)])
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_degraded_image_keeps_its_size_and_range(name: str, shape: tuple[int, ...]) -> None:
    if name == "jpeg" and shape[0] not in (1, 3):
        with pytest.raises(ValueError, match="one or three channels"):
            jpeg(torch.rand(shape))
        return
    image = torch.rand(shape)
    kept = image.clone()
    changed = DEGRADATIONS[name](image)
    assert changed.shape == image.shape
    assert changed.dtype == torch.float32
    assert changed.is_contiguous()
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(image, kept)
    assert not torch.allclose(changed, image, atol=1e-3)
    assert (changed - image).abs().mean() < 0.3


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_an_even_image_stays_even_but_for_noise_and_fields(name: str) -> None:
    image = torch.full((3, 24, 24), 0.5)
    spread = DEGRADATIONS[name](image).std()
    assert (spread > 1e-3) == (name in ("noise", "bias_field"))


@pytest.mark.parametrize("shape", [(2, 30, 40), (1, 11, 12, 13)])
@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_blur_is_the_gaussian_of_scipy(shape: tuple[int, ...], sigma: float) -> None:
    image = torch.rand(shape)
    reach = int(np.ceil(3 * sigma))
    expected = [ndimage.gaussian_filter(c, sigma, mode="nearest", radius=reach) for c in image.numpy()]
    assert np.allclose(gaussian_blur(image, sigma).numpy(), np.stack(expected), atol=1e-5)


def test_images_are_changed_as_often_as_told_and_labels_never() -> None:
    sample = Sample(torch.rand(3, 8, 8), LabelMap(torch.zeros(8, 8, dtype=torch.long)), "a")
    (change,) = degradations_of({"noise": 0.25, "blur": 0.0})
    assert isinstance(change, Sometimes)
    changed = [change(sample) for _ in range(200)]
    assert 30 < sum(not torch.equal(one.image, sample.image) for one in changed) < 75
    assert all(one.target is sample.target for one in changed)


# --- several images as one ------------------------------------------------------------------------


def plain(value: float, label: int, size: tuple[int, int] = (40, 60)) -> Sample:
    """One grey value, and one label that goes with it."""
    return Sample(torch.full((3, *size), value), LabelMap(torch.full(size, label)), f"image {label}")


@pytest.mark.parametrize("size", [(40, 60), (80, 30), (10, 10)])
def test_a_mosaic_shows_four_images_with_their_labels(size: tuple[int, int]) -> None:
    samples = [plain(0.2 * n, n, (40, 60) if n == 1 else size) for n in range(1, 5)]
    corners = set()
    for _ in range(20):
        made = mosaic(*samples, ignore=9)
        assert made.image.shape == (3, 40, 60)
        assert made.id == "image 1"
        labels = made.target.labels
        for n in range(1, 5):
            assert torch.allclose(made.image[:, labels == n], torch.tensor(0.2 * n))
        assert (made.image[:, labels == 9] == 0).all()
        assert set(labels.unique().tolist()) <= {1, 2, 3, 4, 9}
        height, width = (labels == 1).any(1).sum().item(), (labels == 1).any(0).sum().item()
        assert 10 <= height <= 30
        assert 15 <= width <= 45
        corners.add((height, width))
    assert len(corners) > 10


def test_a_mosaic_of_other_than_four_images_or_of_several_kinds_is_refused() -> None:
    with pytest.raises(ValueError, match="made of four images, got 2"):
        mosaic(plain(0.1, 1), plain(0.2, 2))
    other = Sample(torch.zeros(3, 40, 60), Boxes.of(torch.zeros(0, 4), torch.zeros(0).long()), "b")
    with pytest.raises(ValueError, match="one kind"):
        mosaic(plain(0.1, 1), other, other, other)


def test_cutmix_takes_half_of_the_area() -> None:
    places = set()
    for _ in range(20):
        mixed = cutmix(plain(0.1, 1), plain(0.9, 2))
        inside = mixed.target.labels == 2
        assert inside.sum().item() == pytest.approx(1200, rel=0.05)
        rows, columns = inside.any(1), inside.any(0)
        assert inside[rows][:, columns].all()
        assert torch.equal(mixed.image[0] > 0.5, inside)
        places.add((rows.nonzero()[0].item(), columns.nonzero()[0].item()))
    assert len(places) > 10


def test_cutmix_ignores_what_a_smaller_image_does_not_cover() -> None:
    mixed = cutmix(plain(0.1, 1), plain(0.9, 2, (8, 8)), ignore=7)
    assert set(mixed.target.labels.unique().tolist()) <= {1, 2, 7}
    assert (mixed.target.labels == 7).sum() > 900


def test_classmix_pastes_half_of_the_classes_and_never_ignored_pixels() -> None:
    labels = torch.arange(40 * 60).view(40, 60) % 5
    labels[0] = 255
    other = Sample(torch.full((3, 40, 60), 0.9), LabelMap(labels + 10 * (labels != 255)), "b")
    for _ in range(10):
        mixed = classmix(plain(0.1, 1), other)
        found = set(mixed.target.labels.unique().tolist())
        assert 1 in found
        assert 255 not in found
        assert len(found - {1}) == 3  # of five
        assert torch.equal(mixed.image[0] > 0.5, mixed.target.labels >= 10)
    with pytest.raises(ValueError, match="ClassMix needs labels, c has MaskSet"):
        classmix(plain(0.1, 1), Sample(other.image, objects(0).target, "c"))


def objects(seed: int) -> Sample:
    """Two squares with a class of their own, whose pixels hold (class + 1) / 10."""
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 5:15, 5:15], masks[1, 20:35, 30:55] = True, True
    classes = torch.tensor([2 * seed, 2 * seed + 1])
    image = (masks * (classes + 1)[:, None, None]).sum(0)[None] / 10.0
    return Sample(image, MaskSet.of(masks, classes), f"objects {seed}")


def test_masks_move_with_their_pixels_in_mixtures_and_empty_ones_are_dropped() -> None:
    lost = 0
    for _ in range(10):
        for made in (mosaic(*map(objects, range(4))), cutmix(objects(0), objects(1))):
            masks, classes = made.target.dense, made.target.classes
            assert masks.flatten(1).any(1).all()
            shown = (masks * (classes + 1)[:, None, None]).sum(0) / 10.0
            assert torch.allclose(shown, made.image[0])
            lost += len(masks) < 4
    assert lost


def test_boxes_and_masks_agree_in_a_mosaic() -> None:
    for seed in range(10):
        both = []
        for as_boxes in (False, True):
            torch.manual_seed(seed)
            given = [objects(n) for n in range(4)]
            if as_boxes:
                given = [Sample(one.image, one.target.boxes, one.id) for one in given]
            both.append(mosaic(*given).target)
        masks, boxes = both
        large = masks.boxes.boxes[:, 2:] - masks.boxes.boxes[:, :2] >= 1
        assert torch.equal(masks.classes[large.all(1)], boxes.classes)
        assert torch.allclose(masks.boxes.boxes[large.all(1)], boxes.boxes)


@pytest.mark.parametrize("mix", [mosaic, cutmix])
def test_segments_of_several_maps_have_ids_of_their_own(mix) -> None:
    def sample(number: int) -> Sample:
        one = objects(number)
        ids = torch.zeros(40, 60, dtype=torch.long)
        ids[one.target.dense[0]], ids[one.target.dense[1]] = 5, 900
        return Sample(one.image, PanopticMap.of(ids, torch.tensor([5, 900]), one.target.classes), one.id)

    made = mix(*[sample(n) for n in range(4 if mix is mosaic else 2)])
    target = made.target
    assert sorted(target.ids.tolist()) == sorted(set(target.id_map.unique().tolist()) - {0})
    for segment, label in zip(target.ids, target.classes, strict=True):
        assert (made.image[0][target.id_map == segment] * 10 - 1).round().unique().tolist() == [label.item()]


def test_masks_of_classes_are_mixed_as_labels_are() -> None:
    samples = []
    for n in range(4):
        masks = torch.zeros(2, 40, 60, dtype=torch.long)
        masks[n % 2] = 1
        samples.append(Sample(torch.full((3, 40, 60), n % 2 / 1.0), ClassMasks(masks), "a"))
    for made in (mosaic(*samples), cutmix(*samples[:2])):
        assert torch.equal(made.target.masks[1], made.image[0].long())
        assert torch.equal(made.target.masks.sum(0), torch.ones(40, 60, dtype=torch.long))


def test_mixtures_depend_on_seed_epoch_and_index_alone() -> None:
    data = [plain(0.1 * n, n) for n in range(1, 8)]
    mixings = mixings_of({"mosaic": 0.5, "cutmix": 0.3, "classmix": 0.3}, LabelMap, 255)
    assert [(one.share, one.others) for one in mixings] == [(0.5, 3), (0.3, 1), (0.3, 1)]
    mixed = Augmented(data, lambda sample: sample, seed=1, mixings=mixings)  # type: ignore[arg-type]
    first = [mixed[index] for index in range(7)]
    again = [mixed[index] for index in reversed(range(7))][::-1]
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert any(len(one.target.labels.unique()) > 2 for one in first)


def test_objects_are_pasted_before_images_are_mixed() -> None:
    mixings = mixings_of({"mosaic": 1.0}, MaskSet, 0, pasted=0.4)
    assert [one.others for one in mixings] == [1, 3]
    assert isinstance(mixings[0], Mixing)
    assert mixings[0].share == 0.4


# --- places ---------------------------------------------------------------------------------------


def test_balanced_crops_hold_each_class_equally_often() -> None:
    labels = torch.zeros(60, 60, dtype=torch.long)
    labels[3, 3], labels[50:, 50:] = 1, 2
    drawn = [int(labels[drawn_pixel(labels, evenly=True)]) for _ in range(300)]
    assert all(70 < drawn.count(label) < 130 for label in range(3))
    sample = Sample(torch.rand(1, 60, 60), LabelMap(labels), "a")
    cut = training_transform((8, 8), scale=(1.0, 1.0), flip=0.0, color=0.0, places={"balanced_crops": 1.0})
    found = sum((cut(sample).target.labels == 1).any().item() for _ in range(200))
    assert 40 < found < 95


def test_images_are_moved_and_slanted_as_far_as_told() -> None:
    labels = torch.zeros(50, 50, dtype=torch.long)
    labels[25, 25] = 1
    sample = Sample(torch.zeros(1, 50, 50), LabelMap(labels), "a")
    move = training_transform(
        None, scale=(1.0, 1.0), flip=0.0, color=0.0, ignore=9, places={"translate": 0.2}
    )
    places = torch.stack([(move(sample).target.labels == 1).nonzero()[0] for _ in range(80)]) - 25
    assert places.abs().max() in (9, 10)
    assert (places.amin(0) < -6).all()
    assert (places.amax(0) > 6).all()
    assert (move(sample).target.labels == 9).any()
    tall = torch.zeros(50, 50, dtype=torch.long)
    tall[5:45, 25] = 1
    slant = training_transform(None, scale=(1.0, 1.0), flip=0.0, color=0.0, places={"shear": 45.0})
    spans = []
    for _ in range(40):
        columns = (slant(Sample(torch.zeros(1, 50, 50), LabelMap(tall), "a")).target.labels == 1).nonzero()
        spans.append((columns[:, 1].max() - columns[:, 1].min()).item())
    assert min(spans) < 8
    assert 20 < max(spans) <= 50
