"""Random changes for training: sizes, ranges, fill, and each change by itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from pixelwise.data import Augmented, SegmentationData, open_data, training_transform
from pixelwise.data.cache import cached
from pixelwise.data.transforms import (
    ColorChange,
    ElasticDeformation,
    OnSample,
    QuarterTurn,
    ScaleAndCrop,
    displacement_field,
    drawn_pixel,
)
from pixelwise.types import LabelMap, Sample


def sample_of(height: int = 20, width: int = 30, channels: int = 3) -> Sample:
    labels = torch.arange(height * width).view(height, width) % 5
    return Sample(torch.rand(channels, height, width), LabelMap(labels), "a")


@pytest.mark.parametrize("crop", [(16, 16), (40, 70), (1, 1), None])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.3, 0.4), (0.5, 2.0), (2.5, 3.0)])
def test_what_comes_out_has_the_size_of_the_crop(crop, scale) -> None:
    transform = training_transform(crop, scale=scale, rotation=10.0, elastic=2.0)
    for _ in range(5):
        sample = transform(sample_of())
        assert sample.image.shape == (3, *(crop or (20, 30)))
        assert sample.target.labels.shape == (crop or (20, 30))
        assert sample.image.dtype == torch.float32
        assert sample.target.labels.dtype == torch.int64
        assert type(sample.image) is torch.Tensor
        assert 0 <= sample.image.min() <= sample.image.max() <= 1
        assert set(sample.target.labels.unique().tolist()) <= {0, 1, 2, 3, 4, 255}


def test_everything_off_changes_nothing() -> None:
    sample = sample_of()
    same = training_transform(None, scale=(1.0, 1.0), flip=0.0, color=0.0)(sample)
    assert torch.equal(same.image, sample.image)
    assert torch.equal(same.target.labels, sample.target.labels)
    assert same.id == "a"


def test_a_crop_without_scale_is_a_part_of_the_image() -> None:
    sample = sample_of()
    cut = training_transform((6, 7), scale=(1.0, 1.0), flip=0.0, color=0.0)(sample)
    windows = sample.image.unfold(1, 6, 1).unfold(2, 7, 1).permute(1, 2, 0, 3, 4)
    assert (windows == cut.image).flatten(2).all(-1).sum() == 1


def test_crops_lie_everywhere_also_at_the_borders() -> None:
    image = torch.arange(20 * 30).view(1, 20, 30) / 600
    transform = training_transform((18, 28), scale=(1.0, 1.0), flip=0.0, color=0.0)
    corners = {transform(Sample(image, None, "a")).image[0, 0, 0].item() for _ in range(200)}
    assert len(corners) == 9


def test_a_small_image_lies_within_the_crop_among_ignored_pixels() -> None:
    sample = Sample(torch.full((3, 4, 5), 0.5), LabelMap(torch.full((4, 5), 3)), "a")
    places = set()
    for _ in range(50):
        out = training_transform((8, 8), scale=(1.0, 1.0), flip=0.0, color=0.0, ignore=11)(sample)
        inside = out.target.labels == 3
        assert inside.sum() == 20
        assert (out.target.labels[~inside] == 11).all()
        assert (out.image[:, inside] == 0.5).all()
        assert (out.image[:, ~inside] == 0).all()
        places.add(tuple(inside.nonzero()[0].tolist()))
    assert len(places) > 10


def test_the_scale_is_that_of_the_range() -> None:
    labels = torch.zeros(100, 100, dtype=torch.long)
    labels[40:60, 40:60] = 1
    sample = Sample(torch.zeros(1, 100, 100), LabelMap(labels), "a")
    transform = training_transform((400, 400), scale=(0.5, 2.0), flip=0.0, color=0.0)
    sides = torch.tensor([(transform(sample).target.labels == 1).sum().sqrt().item() for _ in range(100)])
    assert 9 <= sides.min() < 13
    assert 33 < sides.max() <= 41
    assert 0.3 < (sides < 20).float().mean() < 0.7  # log-uniform: as often smaller as larger


@pytest.mark.parametrize("size", [(100, 50), (400, 800)])
def test_large_scale_jitter_is_relative_to_what_fits_into_the_crop(size) -> None:
    height, width = size
    sample = Sample(
        torch.zeros(1, height, width), LabelMap(torch.zeros(height, width, dtype=torch.long)), "a"
    )
    fits = min(200 / height, 200 / width)
    for scale in (0.1, 0.5, 1.0):
        transform = training_transform((200, 200), scale=(scale, scale), scale_to="crop", flip=0.0, color=0.0)
        inside = transform(sample).target.labels == 0
        assert inside.any(1).sum().item() == pytest.approx(scale * fits * height, abs=1)
        assert inside.any(0).sum().item() == pytest.approx(scale * fits * width, abs=1)
    transform = training_transform((200, 200), scale=(0.1, 2.0), scale_to="crop", flip=0.0, color=0.0)
    longest = [
        max((mask := transform(sample).target.labels == 0).any(1).sum(), mask.any(0).sum()).item()
        for _ in range(60)
    ]
    assert min(longest) < 30
    assert max(longest) == 200


@pytest.mark.parametrize("scale", [1 / 3, 3.0])
def test_scaling_moves_image_and_labels_by_nothing(scale) -> None:
    # Where a pixel that comes out has one pixel at its centre, image and labels say the same x and y.
    x = torch.arange(90).expand(90, 90).contiguous()
    for along in (x, x.T.contiguous()):
        sample = Sample(along[None] / 255, LabelMap(along), "a")
        out = training_transform((30, 30), scale=(scale, scale), flip=0.0, color=0.0)(sample)
        error = (out.image[0] * 255 - out.target.labels)[2:-2, 2:-2]
        assert error.abs().max() <= (0.01 if scale < 1 else 0.34)
        assert error.mean().abs() < 0.02


def test_mirroring_has_its_probability() -> None:
    sample = sample_of()
    always = training_transform(None, scale=(1.0, 1.0), flip=1.0, color=0.0)(sample)
    assert torch.equal(always.image, sample.image.flip(-1))
    assert torch.equal(always.target.labels, sample.target.labels.flip(-1))


def test_rotation_stays_within_its_angle_and_fills_with_ignore() -> None:
    labels = torch.zeros(41, 41, dtype=torch.long)
    labels[20, 20:] = 1  # a hand that points to the right
    sample = Sample(torch.zeros(1, 41, 41), LabelMap(labels), "a")
    transform = training_transform(None, scale=(1.0, 1.0), flip=0.0, color=0.0, rotation=30.0, ignore=9)
    angles = []
    for _ in range(60):
        out = transform(sample).target.labels
        assert set(out.unique().tolist()) <= {0, 1, 9}
        y, x = (out == 1).nonzero().float().mean(0) - 20
        angles.append(torch.rad2deg(torch.atan2(y, x)).item())
    assert -32 < min(angles) < -15
    assert 15 < max(angles) < 32
    assert any((transform(sample).target.labels == 9).any() for _ in range(3))


def test_elastic_displacements_are_those_of_the_grid_in_pixels() -> None:
    coarse = torch.zeros(1, 2, 3, 3)
    coarse[0, 0], coarse[0, 1] = 4.0, -2.0  # 4 pixels along x, -2 along y
    field = displacement_field(coarse, 20, 40)
    sample = sample_of(20, 40)
    moved = v2.functional.elastic(tv_tensors.Image(sample.image), field, fill=0.0)
    assert torch.allclose(moved[:, 2:, :-4], sample.image[:, :-2, 4:], atol=1e-4)
    coarse[0, :, 1, 1] = 0
    corners = displacement_field(coarse, 20, 40)[0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.allclose(
        corners * torch.tensor([20.0, 10.0]), torch.tensor([4.0, -2.0]).expand(4, 2), atol=1e-4
    )


def test_elastic_deformation_is_smooth_and_as_strong_as_told() -> None:
    fields = []
    for _ in range(100):
        params = ElasticDeformation(10.0).make_params([torch.zeros(1, 60, 60)])
        fields.append(params["displacement"][0] * 30)
    corner = torch.stack(fields)[:, 0, 0]
    assert 8.5 < corner.std() < 11.5
    steps = torch.stack([field.diff(dim=0).abs().max() for field in fields])
    assert steps.max() < 3.5


def test_colour_is_brightness_contrast_and_saturation() -> None:
    image = tv_tensors.Image(torch.rand(3, 9, 9) * 0.4 + 0.2)
    change = ColorChange(0.4)
    for params in ((1.2, 1.0, 1.0), (1.0, 0.7, 1.0), (1.0, 1.0, 1.3), (0.9, 1.1, 0.8)):
        b, c, s = params
        out = change.transform(image, {"brightness": b, "contrast": c, "saturation": s})
        expected = v2.functional.adjust_saturation(image, s)
        expected = v2.functional.adjust_contrast(expected, c)
        expected = v2.functional.adjust_brightness(expected, b)
        assert torch.allclose(out, expected, atol=2e-3)  # torchvision rounds the weights of grey


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_colour_takes_any_number_of_channels_and_leaves_labels(channels) -> None:
    sample = sample_of(channels=channels)
    out = training_transform(None, scale=(1.0, 1.0), flip=0.0, color=0.5)(sample)
    assert out.image.shape == sample.image.shape
    assert not torch.equal(out.image, sample.image)
    assert torch.equal(out.target.labels, sample.target.labels)


def test_an_image_without_labels_is_changed_alone() -> None:
    sample = Sample(torch.rand(3, 20, 30), None, "a")
    out = training_transform((8, 8), rotation=5.0, elastic=2.0)(sample)
    assert out.target is None
    assert out.image.shape == (3, 8, 8)


def test_any_transform_of_torchvision_can_be_put_in() -> None:
    sample = sample_of()
    out = OnSample([v2.RandomVerticalFlip(1.0), v2.GaussianBlur(3)])(sample)
    assert torch.equal(out.target.labels, sample.target.labels.flip(0))
    assert repr(ScaleAndCrop((8, 8))).startswith("ScaleAndCrop")


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"crop": (0, 8)}, "crop must be"),
        ({"scale": (0.0, 1.0)}, "scale must be"),
        ({"scale": (2.0, 1.0)}, "scale must be"),
        ({"flip": 1.5}, "flip must be between 0 and 1"),
        ({"color": -1.0}, "color must be between 0 and 1"),
        ({"rotation": 200.0}, "rotation must be between 0 and 180"),
        ({"elastic": -1.0}, "elastic must be"),
    ],
)
def test_impossible_settings_are_refused(changes, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        training_transform(**{"crop": (8, 8), **changes})


# --- images without an up, rare classes ---------------------------------------------------------------


def test_mirrors_and_quarter_turns_reach_all_eight_positions_of_image_and_labels() -> None:
    labels = torch.arange(9).view(3, 3)
    sample = Sample(labels[None] / 9, LabelMap(labels), "a")
    transform = training_transform(
        None, scale=(1.0, 1.0), flip=0.5, flip_vertical=0.5, rotate90=0.5, color=0.0
    )
    seen = set()
    for _ in range(200):
        moved = transform(sample)
        assert torch.equal((moved.image[0] * 9).round().long(), moved.target.labels)
        seen.add(tuple(moved.target.labels.flatten().tolist()))
    assert len(seen) == 8


@pytest.mark.parametrize("turns", [1, 3])
def test_boxes_turn_with_their_masks(turns: int) -> None:
    mask = torch.zeros(1, 6, 9, dtype=torch.uint8)
    mask[0, 1:3, 4:9] = 1
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[4.0, 1.0, 9.0, 3.0]]), format="XYXY", canvas_size=(6, 9))
    turn, params = QuarterTurn(1.0), {"turns": turns}
    turned, (box,) = turn.transform(tv_tensors.Mask(mask), params), turn.transform(boxes, params)
    rows, columns = turned[0].nonzero().T
    x1, y1, x2, y2 = box.tolist()
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)


def test_crops_for_rare_classes_hold_them_anywhere() -> None:
    labels = torch.zeros(100, 100, dtype=torch.long)
    labels[90, 90] = 1
    sample = Sample(torch.rand(1, 100, 100), LabelMap(labels), "a")

    def found(share: float) -> list[tuple[int, ...]]:
        cut = training_transform((20, 20), scale=(1.0, 1.0), flip=0.0, color=0.0, rare_crops=share)
        places = [(cut(sample).target.labels == 1).nonzero() for _ in range(100)]
        return [tuple(place[0].tolist()) for place in places if len(place)]

    assert len(found(0.0)) < 15
    often = found(1.0)
    assert len(often) > 80  # 1 / sqrt(1) beside 1 / sqrt(9999)
    assert len(set(often)) > 20


def test_a_pixel_is_drawn_by_the_root_of_its_class_and_never_an_ignored_one() -> None:
    labels = torch.full((30, 30), 255)
    labels[0, :16], labels[1, :4] = 0, 1
    rows = [drawn_pixel(labels)[0] for _ in range(600)]
    assert set(rows) == {0, 1}
    assert 0.6 < sum(rows) / 600 < 0.74  # 1 / sqrt(4) beside 1 / sqrt(16): two thirds
    assert drawn_pixel(torch.full((2, 2), 255)) is None


# --- images in bytes ----------------------------------------------------------------------------------


def folder_of_pictures(folder: Path) -> SegmentationData:
    chance = np.random.default_rng(2)
    for kind, shape, high in (("images", (40, 50, 3), 256), ("masks", (40, 50), 3)):
        (folder / kind).mkdir()
        for number in range(4):
            pixels = chance.integers(0, high, shape).astype(np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number}.png")
    return open_data(folder, val_fraction=0.0, test_fraction=0.0).train


@pytest.mark.parametrize("changes", [{}, {"crop": None, "scale": (1.0, 1.0)}, {"flip_pairs": ((0, 1),)}])
def test_bytes_and_numbers_of_a_file_are_changed_alike(tmp_path: Path, changes: dict) -> None:
    data = folder_of_pictures(tmp_path)
    transform = training_transform(**{"crop": (33, 21), "rotation": 5.0, **changes})
    in_bytes = Augmented(data, transform, seed=3)
    in_numbers = Augmented(data, lambda sample: transform(sample), seed=3)
    assert data.stored(0).image.dtype == torch.uint8
    for index in range(8):
        one, other = in_bytes[index], in_numbers[index]
        assert one.image.dtype == other.image.dtype == torch.float32
        assert torch.allclose(one.image, other.image, atol=1e-5)
        assert torch.equal(one.target.labels, other.target.labels)


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_bytes_of_a_cache_give_the_same_numbers_as_those_of_files(tmp_path: Path, place: str) -> None:
    data = folder_of_pictures(tmp_path)
    transform = training_transform((33, 21))
    files, kept = (Augmented(one, transform, seed=3) for one in (data, cached(data, place)))
    for index in range(4):
        assert torch.equal(files[index].image, kept[index].image)


def test_a_change_of_colours_leaves_the_image_that_it_was_given() -> None:
    sample = sample_of()
    before = sample.image.clone()
    for transform in (
        training_transform(None, scale=(1.0, 1.0), flip=0.0),
        training_transform(None, scale=(1.0, 1.0), flip=1.0),
        training_transform((20, 30), scale=(1.0, 1.0), flip=0.0),
    ):
        transform(sample)
        assert torch.equal(sample.image, before)


def test_a_mirrored_window_is_the_mirror_of_the_window() -> None:
    sample = sample_of()
    plain, mirrored = (ScaleAndCrop((12, 40), (0.5, 2.0), mirror=share) for share in (0.0, 1.0))
    image, mask = tv_tensors.Image(sample.image), tv_tensors.Mask(sample.target.labels)
    for _ in range(20):
        params = plain.make_params([image, mask])
        other = {**params, "mirrored": True}
        assert torch.equal(mirrored.transform(image, other), plain.transform(image, params).flip(-1))
        assert torch.equal(mirrored.transform(mask, other), plain.transform(mask, params).flip(-1))
    assert mirrored.make_params([image])["mirrored"]
    assert not plain.make_params([image])["mirrored"]
