"""Files that strangers wrote: whatever is wrong with them is one ValueError that names file and field."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.data import check_data, open_data, read_classes_file, read_mask
from pixelwise.data.formats.coco import read_coco
from pixelwise.types import ClassTable

SQUARE = [[0, 0, 4, 0, 4, 4, 0, 4]]


def coco_text(image=None, annotation=None, category=None) -> str:
    """A file of one image and one instance, with some fields changed."""
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.png", "height": 12, "width": 16, **(image or {})}],
            "annotations": [
                {"id": 5, "image_id": 1, "category_id": 7, "segmentation": SQUARE, **(annotation or {})}
            ],
            "categories": [{"id": 7, "name": "car", **(category or {})}],
        }
    )


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"image": {"height": float("inf")}}, "height"),
        ({"image": {"height": float("nan")}}, "height"),
        ({"image": {"width": -3}}, "width"),
        ({"image": {"height": 10**30}}, "height"),
        ({"image": {"height": 20.5}}, "height"),
        ({"image": {"height": "tall"}}, "height"),
        ({"image": {"height": None}}, "height"),
        ({"image": {"height": 10**6, "width": 10**6}}, "1000000 x 1000000 pixels"),
        ({"image": {"file_name": ""}}, "file_name"),
        ({"image": {"file_name": "."}}, "file_name"),
        ({"image": {"file_name": "a\0.png"}}, "file_name"),
        ({"image": {"id": [1]}}, "id of an image"),
        ({"category": {"id": float("inf")}}, "id of a category"),
        ({"annotation": {"category_id": float("-inf")}}, "category_id"),
        ({"annotation": {"image_id": {}}}, "image_id"),
    ],
)
def test_an_impossible_field_of_a_coco_file_is_named(tmp_path, draw_image, changes, field) -> None:
    draw_image(tmp_path / "a.png")
    (tmp_path / "instances.json").write_text(coco_text(**changes))
    with pytest.raises(ValueError, match=field) as error:
        open_data(tmp_path, format="coco")
    assert "instances.json" in str(error.value)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"images": ' + '{"a":' * 100_000, "nested too deeply"),
        ("[1, 2]", "expected an object"),
        ('{"images": [1], "annotations": [], "categories": []}', "not a COCO file"),
        ('{"images": [], "annotations": [null], "categories": []}', "not a COCO file"),
    ],
)
def test_a_coco_file_of_another_shape_is_named(tmp_path, text, reason) -> None:
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        read_coco(tmp_path / "instances.json")
    assert "instances.json" in str(error.value)


@pytest.mark.parametrize(
    "segmentation, reason",
    [
        ({"size": [10**30, 10**30], "counts": [4]}, "its size must be a whole number"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "expected \\(12, 16\\)"),
        ({"size": [12, 16], "counts": [float("inf")]}, "a run length"),
        ({"size": [12, 16], "counts": [-1, 193]}, "a run length"),
        ({"size": [12, 16], "counts": 4}, "counts must be"),
        ({"size": [12, 16], "counts": "\u4e2d"}, "counts must be"),
        ({"size": 12, "counts": []}, "cannot be drawn"),
        ([[0, 0, float("nan"), 0, 4, 4]], "finite coordinates"),
        ([[0, 0, 1e300, 0, 4, 4]], "finite coordinates"),
        ([["a"] * 6], "finite coordinates"),
        ([3], "list of numbers"),
        ("text", "cannot be drawn"),
    ],
)
def test_an_impossible_outline_is_named_with_its_file(tmp_path, draw_image, segmentation, reason) -> None:
    draw_image(tmp_path / "a.png")
    (tmp_path / "instances.json").write_text(coco_text(annotation={"segmentation": segmentation}))
    with pytest.raises(ValueError, match=reason) as error:
        open_data(tmp_path).train[0]
    assert "instances.json: instance 5 of a.png" in str(error.value)


def test_a_size_may_be_written_as_a_float_or_text(tmp_path, draw_image) -> None:
    draw_image(tmp_path / "a.png")
    (tmp_path / "instances.json").write_text(coco_text(image={"height": 12.0, "width": "16"}))
    assert open_data(tmp_path).train[0].target.labels.sum() == 16


def test_a_size_that_is_not_that_of_the_image_is_told_before_anything_is_drawn(tmp_path, draw_image) -> None:
    draw_image(tmp_path / "a.png")
    (tmp_path / "instances.json").write_text(coco_text(image={"height": 30_000, "width": 30_000}))
    with pytest.raises(ValueError, match=r"a\.png has 12 x 16 pixels, its annotation says 30000 x 30000"):
        open_data(tmp_path).train[0]


def detections_of(tmp_path, draw_image, *changes: dict[str, object]) -> None:
    """A file of boxes, one annotation for each of the changes."""
    draw_image(tmp_path / "a.png")
    content = json.loads(coco_text())
    one = content["annotations"][0]
    del one["segmentation"]
    content["annotations"] = [
        one | {"id": n, "bbox": [2, 2, 4, 4]} | change for n, change in enumerate(changes)
    ]
    (tmp_path / "instances.json").write_text(json.dumps(content))


@pytest.mark.parametrize("sides", [[0, 4], [4, 0.0], [0, 0]])
def test_a_box_without_an_area_is_told_with_its_id(tmp_path, draw_image, sides) -> None:
    detections_of(tmp_path, draw_image, {}, {"id": 31, "bbox": [3, 3, *sides]})
    with pytest.raises(ValueError, match=r"instances\.json: the boxes of these .* no area: 31 of image 1"):
        pw.open_data(tmp_path, task="detection")


def test_where_there_is_an_outline_a_box_without_an_area_is_that_around_it(tmp_path, draw_image) -> None:
    detections_of(tmp_path, draw_image, {"bbox": [0, 0, 0, 0], "segmentation": SQUARE})
    found = pw.open_data(tmp_path, task="detection").train[0].target.boxes
    expected = pw.open_data(tmp_path, task="instance").train[0].target.boxes.boxes
    assert torch.equal(found, expected)
    assert (found[:, 2:] > found[:, :2]).all()


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_two_annotations_with_one_id_are_told(tmp_path, draw_image, task) -> None:
    same = {"id": 8, "segmentation": SQUARE}
    detections_of(tmp_path, draw_image, same, same, {"segmentation": SQUARE})
    with pytest.raises(ValueError, match=r"instances\.json: several annotations have one id: 8$"):
        pw.open_data(tmp_path, task=task)
    assert "several annotations have one id: 8" in "".join(check_data(tmp_path).problems)


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_a_category_that_no_table_knows_is_told(tmp_path, draw_image, task) -> None:
    detections_of(tmp_path, draw_image, {"segmentation": SQUARE}, {"segmentation": SQUARE, "category_id": 99})
    with pytest.raises(ValueError, match=r"instances\.json: .* unknown category 99 \(1 times\)"):
        pw.open_data(tmp_path, task=task)


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_images_that_a_json_names_and_nobody_finds_are_told(tmp_path, draw_image, task) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    detections_of(folder, draw_image, {"segmentation": SQUARE})
    (folder / "a.png").rename(folder / "other.png")
    with pytest.raises(ValueError, match=r"none of the images that .*instances\.json names lies near it"):
        pw.open_data(folder, task=task)


@pytest.mark.parametrize("nothing", [{}, {"segmentation": []}, {"segmentation": None}])
def test_a_coco_file_of_boxes_is_refused(tmp_path, draw_image, nothing) -> None:
    draw_image(tmp_path / "a.png")
    content = json.loads(coco_text())
    del content["annotations"][0]["segmentation"]
    content["annotations"][0] |= {"bbox": [0, 0, 4, 4], **nothing}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    for look in (open_data, check_data):
        with pytest.raises(ValueError, match=r"instances\.json .*boxes only"):
            look(tmp_path)


def test_every_fault_of_a_coco_file_is_told_at_once(tmp_path, draw_image) -> None:
    for i, name in enumerate("abc"):
        draw_image(tmp_path / f"{name}.png", number=i)
    content = json.loads(coco_text())
    one = content["annotations"][0]
    content["images"] += [
        {"id": 1, "file_name": "b.png", "height": 12, "width": 16},
        {"id": 2, "file_name": "c.png", "height": 12, "width": 16},
    ]
    content["annotations"] += [
        {**one, "category_id": 99},
        {**one, "image_id": 50},
        {**one, "segmentation": []},
        {**one, "image_id": 2, "id": 8, "segmentation": [[1, 1]]},
    ]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    problems = check_data(tmp_path).problems
    text = "\n".join(problems)
    for words in (
        "several images have one id: 1 (a.png, b.png)",
        "unknown category 99",
        "unknown image 50",
        "several annotations have one id: 5",
        "1 of 5 annotations have no segmentation",
        "instance 8 of c.png",
    ):
        assert words in text
    with pytest.raises(ValueError, match=r"one id.*and 4 more problems"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    "name, text, field",
    [
        ("a.csv", "name,id\n" + "x" * 140_000 + ",1\n", "field larger"),
        ("a.csv", "name,id\nsky,1e9\n", "id"),
        ("a.csv", "name,id\nsky,1000000000\n", "at most 65535, got '1000000000'"),
        ("a.csv", "name,r,g,b\nsky,1,2,1e999\n", "colour"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '{"names": ["sky"], "ids": [1e999]}', "ids"),
        ("a.json", '{"names": ["sky"], "ignore": 1e999}', "ignore"),
        ("a.json", '{"names": ["sky"], "ignore": 1000000000}', "at most 65535"),
        ("a.json", '{"names": ["sky"], "ids": 5}', "not iterable"),
        ("a.json", '{"names": ["sky"], "colors": [[1, 2, 1e999]]}', "colour"),
        ("a.json", '{"names": ["sky"], "things": [0.5]}', "things"),
        ("a.txt", "\n".join(map(str, range(70_000))), "70000 classes"),
    ],
)
def test_an_impossible_field_of_a_class_table_is_named(tmp_path, name, text, field) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=field) as error:
        read_classes_file(tmp_path / name)
    assert name in str(error.value)


# --- masks ----------------------------------------------------------------------------------------


def array_file(header: bytes, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def damaged_png() -> bytes:
    """The compressed pixels are no zlib stream, while every checksum of the file is right."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        sum_of = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_of)

    head = struct.pack(">IIBBBBB", 16, 12, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"junk") + chunk(b"IEND", b"")


BAD_MASKS = {
    "token.npy": array_file(b"{'descr': '<u1', 'fortran_order': False, 'shape': (\n"),
    "huge.npy": array_file(b"{'descr': '<u1', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"),
    "negative.npy": array_file(b"{'descr': '<u1', 'fortran_order': False, 'shape': (-1, 4), }\n"),
    "zip.npy": b"PK\x03\x04junk",
    "empty.npy": b"",
    "junk.png": damaged_png(),
    "empty.tif": b"",
    "short.tif": b"II*\x00\x08\x00\x00\x00\xff\xff",
    "short.gif": b"GIF89a\x10\x00",
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_a_damaged_mask_is_a_value_error_that_names_it(tmp_path, name) -> None:
    (tmp_path / name).write_bytes(BAD_MASKS[name])
    with pytest.raises(ValueError, match=name):
        read_mask(tmp_path / name)


@pytest.mark.parametrize(
    "error, said",
    [
        (RuntimeError, "inside"),
        (TypeError, "inside"),
        (MemoryError, "it does not fit into memory"),
        (zlib.error, "inside"),
        (AttributeError, "inside"),
    ],
)
def test_whatever_a_library_raises_the_file_is_named(tmp_path, draw_mask, monkeypatch, error, said) -> None:
    path = draw_mask(tmp_path / "a.tif")

    def broken(*_args: object, **_kwargs: object) -> None:
        raise error("inside")

    monkeypatch.setattr(Image.Image, "load", broken)
    with pytest.raises(ValueError, match=rf"cannot read .*a\.tif: {said}"):
        read_mask(path)


def test_the_check_goes_on_behind_damaged_masks(pair_folder, draw_mask) -> None:
    root = pair_folder(count=12)
    for i, (name, content) in enumerate(BAD_MASKS.items()):
        (root / "masks" / f"{i}.png").unlink()
        (root / "masks" / f"{i}.{name.rpartition('.')[2]}").write_bytes(content)
    report = check_data(root)
    assert len(report.problems) == len(BAD_MASKS)
    assert sum(counts.num_images for counts in report.counts.values()) == 3
    assert f"{len(BAD_MASKS)} problems found" in report.render()


@pytest.mark.parametrize("format", ["TIFF", "GIF", "WEBP", "PNG"])
def test_of_several_pages_none_is_taken_silently(pair_folder, format) -> None:
    root = pair_folder(count=3)
    pages = [Image.fromarray(np.full((12, 16), value, np.uint8)) for value in (10, 90, 200)]
    (root / "images" / "1.png").unlink()
    path = root / "images" / f"1.{format.lower()}"
    pages[0].save(path, save_all=True, append_images=pages[1:], format=format)
    problems = check_data(root).problems
    assert len(problems) == 1
    assert path.name in problems[0]
    assert "3 pages or frames" in problems[0]


def test_smaller_copies_in_a_tiff_are_no_pages(tmp_path) -> None:
    pages = [Image.fromarray(np.full((12 >> i, 16 >> i), 7, np.uint8)) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert read_mask(tmp_path / "a.tif").shape == (12, 16)


def test_a_photograph_turned_by_exif_over_its_mask_is_explained(pair_folder) -> None:
    root = pair_folder(count=3)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.open(root / "images" / "1.png").save(buffer, "PNG", exif=exif)
    (root / "images" / "1.png").write_bytes(buffer.getvalue())
    (problem,) = check_data(root).problems
    assert "has 16 x 12 pixels" in problem
    assert "EXIF orientation" in problem


def test_values_of_an_instance_map_are_called_so(tmp_path) -> None:
    Image.fromarray(np.full((4, 4), 700, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"value 700, .* looks like an instance map, .*--mask-rule above-0"):
        read_mask(tmp_path / "a.png", ClassTable.of("ground", "nucleus"))
