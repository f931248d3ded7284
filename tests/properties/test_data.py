"""Laws of data: what is written is read back, and an image and its mask never part."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pixelwise.data import (
    LabelEncoding,
    read_classes_file,
    read_image,
    read_mask,
    training_transform,
    write_classes_file,
    write_image,
    write_mask,
)
from pixelwise.data.formats.coco import decode_rle, encode_rle, polygon_mask
from pixelwise.types import ClassTable, LabelMap, Sample

few = settings(max_examples=40, deadline=None)
shapes = arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)
colors = st.tuples(*[st.integers(0, 255)] * 3)
names = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=8)
rows_of_tables = st.lists(st.tuples(names, colors), min_size=1, max_size=5, unique_by=lambda row: row[0])


@few
@given(st.data(), st.integers(1, 300))
def test_a_mask_that_is_written_is_read_back(data, count) -> None:
    table = ClassTable(
        tuple(map(str, range(count))), ((1, 2, 3),) * count, ignore=65535 if count > 255 else 255
    )
    values = st.one_of(st.integers(0, count - 1), st.just(table.ignore))
    labels = torch.from_numpy(data.draw(arrays.arrays(np.int64, shapes, elements=values)))
    with tempfile.TemporaryDirectory() as folder:
        path = write_mask(Path(folder) / "a.png", LabelMap(labels), table)
        assert torch.equal(read_mask(path, table), labels)
        assert torch.equal(read_mask(path), labels)


@few
@given(arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 9)] * 2, st.sampled_from([1, 3, 4]))))
def test_an_image_that_is_written_is_read_back(pixels) -> None:
    image = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    with tempfile.TemporaryDirectory() as folder:
        path = write_image(Path(folder) / "a.png", image)
        assert torch.allclose(read_image(path, len(image)), image)


@few
@given(arrays.arrays(np.uint16, shapes))
def test_sixteen_bits_survive(pixels) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        Image.fromarray(pixels).save(path)
        assert np.array_equal((read_image(path, 1)[0].double() * 65535).round().numpy(), pixels)
        assert np.array_equal(read_mask(path).numpy(), pixels)


@few
@given(rows_of_tables, st.sampled_from([11, 255, 1000]))
def test_a_class_table_that_is_written_is_read_back(rows, ignore) -> None:
    table = ClassTable(tuple(name for name, _ in rows), tuple(color for _, color in rows), ignore=ignore)
    with tempfile.TemporaryDirectory() as folder:
        assert read_classes_file(write_classes_file(Path(folder) / "a.json", table)) == table
        if all(name.strip() == name and name.lower() != "ignore" for name in table.names):
            assert read_classes_file(write_classes_file(Path(folder) / "a.csv", table)) == table


@few
@given(arrays.arrays(np.bool_, shapes), st.booleans())
def test_run_lengths_are_undone(mask, compressed) -> None:
    tensor = torch.from_numpy(mask)
    assert torch.equal(decode_rle(encode_rle(tensor, compressed=compressed)), tensor)


@few
@given(*[st.integers(0, 10)] * 4)
def test_a_rectangle_covers_its_area(left, top, width, height) -> None:
    right, bottom = left + width, top + height
    corners = [left, top, right, top, right, bottom, left, bottom]
    assert polygon_mask([corners], 20, 20).sum() == width * height


@few
@given(st.lists(st.integers(0, 300), min_size=1, max_size=6, unique=True), st.data())
def test_a_coding_gives_each_value_the_place_in_its_list(values, data) -> None:
    encoding = LabelEncoding(ClassTable.of(*map(str, values)), tuple(values), (65535,))
    pixels = data.draw(arrays.arrays(np.uint16, shapes, elements=st.sampled_from([*values, 65535])))
    labels = encoding.labels(pixels, "a.png").numpy()
    value_of = {**dict(enumerate(values)), 255: 65535}
    assert np.array_equal(np.vectorize(value_of.get)(labels), pixels)


# --- alignment ------------------------------------------------------------------------------------

SIDE = 64


def coordinates(height: int = SIDE, width: int = SIDE) -> Sample:
    """An image of its own coordinates, x and y in pixels / 255, and labels that say the same.

    A label is 1 + the number of the 8 x 8 block that the pixel lies in.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([x / 255, y / 255, torch.ones(height, width)])
    return Sample(image, LabelMap(1 + x // 8 + (width // 8) * (y // 8)), "coordinates")


def parting(sample: Sample, width: int = SIDE) -> torch.Tensor:
    """How far in pixels the image says that each labelled pixel lies outside the block its label names."""
    labels = sample.target.labels
    known = (labels != 255) & (sample.image[2] > 0.999)  # bilinear interpolation is exact there
    block = labels[known] - 1
    x, y = sample.image[0][known] * 255, sample.image[1][known] * 255
    distances = []
    for position, number in ((x, block % (width // 8)), (y, block // (width // 8))):
        low = number * 8
        distances += [low - position, position - (low + 7)]
    return torch.stack(distances).amax(0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    crop=st.one_of(st.none(), st.tuples(st.integers(8, 80), st.integers(8, 80))),
    scale=st.tuples(st.floats(0.5, 1.0), st.floats(1.0, 2.0)),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    rotation=st.sampled_from([0.0, 25.0]),
    elastic=st.sampled_from([0.0, 3.0]),
)
def test_image_and_mask_stay_aligned_under_every_change(seed, crop, scale, flip, rotation, elastic) -> None:
    torch.manual_seed(seed)
    transform = training_transform(
        crop, scale=scale, flip=flip, color=0.0, rotation=rotation, elastic=elastic
    )
    sample = transform(coordinates())
    wrong = parting(sample)
    # Each resampling may move a label by half a pixel of the picture it works on, measured in pixels of the
    # original: scaling by s, then one pixel / s for rotation and for deformation.
    steps = 0.5 + 0.5 / scale[0] + (1.0 / scale[0]) * ((rotation > 0) + (elastic > 0))
    assert wrong.numel() == 0 or wrong.max() <= steps + 0.05
    assert wrong.numel() == 0 or wrong.clamp(min=0).mean() < 0.25


def test_the_coordinate_image_betrays_a_mask_that_is_moved_by_two_pixels() -> None:
    sample = coordinates()
    assert parting(sample).max() <= 0
    moved = Sample(sample.image, LabelMap(sample.target.labels.roll(2, 1)), "moved")
    assert parting(moved)[8:].max() >= 2
