"""Images, masks and class tables in files: every kind of pixel, and everything that can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.data import (
    read_classes_file,
    read_image,
    read_mask,
    write_classes_file,
    write_image,
    write_mask,
)
from pixelwise.data.formats import read_label_encoding
from pixelwise.data.formats.coco import decode_rle, encode_rle, polygon_mask
from pixelwise.types import ClassTable, LabelMap

TABLE = ClassTable(("sky", "road", "car"), ((10, 20, 30), (40, 50, 60), (70, 80, 90)))


def saved(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


# --- images ---------------------------------------------------------------------------------------


def test_eight_bit_values_are_divided_by_255(tmp_path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    image = read_image(saved(tmp_path / "a.png", pixels))
    assert image.shape == (3, 2, 4)
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    assert torch.allclose(image, torch.from_numpy(pixels).permute(2, 0, 1) / 255)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_values_are_divided_by_65535(tmp_path, suffix) -> None:
    pixels = np.array([[0, 256, 32768], [1, 65535, 1000]], dtype=np.uint16)
    path = saved(tmp_path / f"a{suffix}", pixels)
    assert torch.allclose(read_image(path, 1)[0], torch.from_numpy(pixels / 65535).float())
    assert torch.equal(read_image(path, 3)[2], read_image(path, 1)[0])


def test_big_endian_sixteen_bits_are_the_same_numbers(tmp_path) -> None:
    image = Image.frombytes("I;16B", (2, 1), bytes([0x12, 0x34, 0xFF, 0xFF]))
    image.save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", 1).flatten().tolist() == pytest.approx([0x1234 / 65535, 1])


def test_a_32_bit_image_holds_16_bit_values_or_is_refused(tmp_path) -> None:
    path = saved(tmp_path / "a.tif", np.array([[0, 65535]], dtype=np.int32))
    assert read_image(path, 1).flatten().tolist() == [0, 1]
    saved(path, np.array([[0, 70000]], dtype=np.int32))
    with pytest.raises(ValueError, match=r"a\.tif holds values from 0 to 70000, expected 0 to 65535"):
        read_image(path, 1)


def test_floating_point_images_are_in_zero_to_one_or_refused(tmp_path) -> None:
    path = saved(tmp_path / "a.tif", np.array([[0.25, 1.0]], dtype=np.float32))
    assert read_image(path, 1).flatten().tolist() == [0.25, 1]
    for wrong in (1.5, float("nan")):
        saved(path, np.array([[0.25, wrong]], dtype=np.float32))
        with pytest.raises(ValueError, match=r"a\.tif holds values"):
            read_image(path, 1)


def test_grey_and_colour_become_what_is_asked_for(tmp_path) -> None:
    grey = saved(tmp_path / "grey.png", np.array([[0, 51, 255]], dtype=np.uint8))
    assert read_image(grey).shape == (3, 1, 3)
    assert read_image(grey)[1].flatten().tolist() == pytest.approx([0, 0.2, 1])
    red = saved(tmp_path / "red.png", np.array([[[255, 0, 0]]], dtype=np.uint8))
    assert read_image(red, 1).item() == pytest.approx(0.299, abs=0.003)


def test_a_black_and_white_image_is_zero_and_one(tmp_path) -> None:
    path = saved(tmp_path / "a.png", np.array([[0, 255]], dtype=np.uint8), "1")
    assert read_image(path, 1).flatten().tolist() == [0, 1]


def test_transparency_is_dropped_unless_four_channels_are_wanted(tmp_path) -> None:
    path = saved(tmp_path / "a.png", np.array([[[255, 0, 51, 0]]], dtype=np.uint8))
    assert read_image(path).flatten().tolist() == pytest.approx([1, 0, 0.2])
    assert read_image(path, 4).flatten().tolist() == pytest.approx([1, 0, 0.2, 0])


def test_grey_with_transparency_has_two_channels_or_its_grey(tmp_path) -> None:
    Image.frombytes("LA", (1, 1), bytes([51, 10])).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 2).flatten().tolist() == pytest.approx([0.2, 10 / 255])
    assert read_image(tmp_path / "a.png", 1).flatten().tolist() == pytest.approx([0.2])


def test_a_palette_image_gives_its_colours_not_its_indices(tmp_path) -> None:
    image = Image.fromarray(np.array([[1, 0]], dtype=np.uint8))
    image.putpalette([0, 0, 0, 255, 51, 0])
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[:, 0, 0].tolist() == pytest.approx([1, 0.2, 0])
    image.save(tmp_path / "clear.png", transparency=bytes([0, 128]))  # Pillow warns of a direct conversion
    assert read_image(tmp_path / "clear.png")[:, 0, 0].tolist() == pytest.approx([1, 0.2, 0])


def test_cmyk_becomes_rgb(tmp_path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert read_image(tmp_path / "a.jpg")[:, 4, 4].tolist() == pytest.approx([1, 0, 0], abs=0.02)


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".webp", ".gif", ".ppm", ".jp2"])
def test_any_format_of_pillow_is_read(tmp_path, suffix) -> None:
    saved(tmp_path / f"a{suffix}", np.full((8, 8, 3), 255, dtype=np.uint8))
    assert read_image(tmp_path / f"a{suffix}").min() > 0.98


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image(tmp_path, orientation) -> None:
    upright = np.zeros((16, 24, 3), dtype=np.uint8)
    upright[:8, :8] = 255  # bright corner at the top left
    undo = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](upright))
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (3, 16, 24)
    assert torch.allclose(image, torch.from_numpy(upright).permute(2, 0, 1) / 255, atol=0.05)


def test_a_mask_is_turned_only_if_it_says_so_itself(tmp_path) -> None:
    pixels = np.array([[0, 1, 2]], dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_mask(saved(tmp_path / "plain.png", pixels)).shape == (1, 3)
    assert read_mask(saved(tmp_path / "turned.png", pixels, exif=exif)).tolist() == [[0], [1], [2]]


def test_numpy_files_hold_any_number_of_channels(tmp_path) -> None:
    values = np.random.default_rng(0).integers(0, 65535, (4, 5, 7), dtype=np.uint16)
    np.save(tmp_path / "last.npy", values)
    np.save(tmp_path / "first.npy", values.transpose(2, 0, 1))
    expected = torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32)) / 65535
    assert torch.allclose(read_image(tmp_path / "last.npy", 7), expected)
    assert torch.allclose(read_image(tmp_path / "first.npy", 7), expected)
    with pytest.raises(ValueError, match=r"last\.npy has the shape \(4, 5, 7\), expected 6 channels"):
        read_image(tmp_path / "last.npy", 6)


def test_tiff_files_hold_more_channels_than_pillow_knows(tmp_path) -> None:
    import tifffile

    values = np.random.default_rng(0).integers(0, 255, (6, 8, 9), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="separate")
    assert torch.allclose(read_image(tmp_path / "a.tif", 6), torch.from_numpy(values) / 255)
    (tmp_path / "b.tif").write_bytes(b"this is no tiff")
    with pytest.raises(ValueError, match=r"cannot read .*b\.tif"):
        read_image(tmp_path / "b.tif", 6)


def test_a_numpy_file_of_objects_is_not_unpickled(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"cannot read .*a\.npy"):
        read_image(tmp_path / "a.npy")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow announces some truncated files twice
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.02])
def test_a_truncated_image_is_an_error_that_names_it(tmp_path, suffix, keep) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = saved(tmp_path / f"cut{suffix}", noise)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"cannot read .*cut\{suffix}"):
        read_image(path)


def test_what_is_no_image_is_an_error_that_names_it(tmp_path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ValueError, match=r"cannot read .*a\.png: it is not an image"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"there is no file .*b\.png"):
        read_image(tmp_path / "b.png")
    with pytest.raises(ValueError, match="cannot read"):
        read_image(tmp_path)
    with pytest.raises(ValueError, match="channels must be at least 1"):
        read_image(tmp_path / "a.png", 0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_written_image_is_read_back(tmp_path, channels) -> None:
    image = torch.randint(0, 256, (channels, 5, 6)) / 255
    assert torch.allclose(read_image(write_image(tmp_path / "new" / "a.png", image), channels), image)


def test_other_channels_are_written_as_numpy_or_refused(tmp_path) -> None:
    image = torch.randint(0, 256, (6, 5, 4)) / 255
    assert torch.allclose(read_image(write_image(tmp_path / "a.npy", image), 6), image)
    with pytest.raises(ValueError, match=r"a\.png cannot hold 6 channels"):
        write_image(tmp_path / "a.png", image)


# --- masks ----------------------------------------------------------------------------------------


def test_a_palette_mask_gives_indices(tmp_path) -> None:
    image = Image.fromarray(np.array([[2, 0, 1]], dtype=np.uint8))
    image.putpalette([200, 200, 200, 1, 1, 1, 0, 0, 0])
    image.save(tmp_path / "a.png", bits=2)
    assert read_mask(tmp_path / "a.png").tolist() == [[2, 0, 1]]
    assert read_mask(tmp_path / "a.png").dtype == torch.int64


def test_grey_masks_have_eight_or_sixteen_bits(tmp_path) -> None:
    assert read_mask(saved(tmp_path / "a.png", np.array([[3, 200]], np.uint8))).tolist() == [[3, 200]]
    assert read_mask(saved(tmp_path / "b.png", np.array([[3, 1000]], np.uint16))).tolist() == [[3, 1000]]
    assert read_mask(saved(tmp_path / "c.tif", np.array([[3, 1000]], np.int32))).tolist() == [[3, 1000]]
    assert read_mask(saved(tmp_path / "d.png", np.array([[0, 255]], np.uint8), "1")).tolist() == [[0, 1]]
    np.save(tmp_path / "e.npy", np.array([[3, 70]]))
    assert read_mask(tmp_path / "e.npy").tolist() == [[3, 70]]


def test_transparency_of_a_mask_does_not_count(tmp_path) -> None:
    Image.frombytes("LA", (2, 1), bytes([1, 255, 2, 0])).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == [[1, 2]]
    pixels = np.array([[[10, 20, 30, 255], [70, 80, 90, 0]]], dtype=np.uint8)
    assert read_mask(saved(tmp_path / "b.png", pixels), TABLE).tolist() == [[0, 2]]


def test_colours_become_the_labels_of_the_table(tmp_path) -> None:
    pixels = np.array([[[70, 80, 90], [10, 20, 30]], [[40, 50, 60], [70, 80, 90]]], dtype=np.uint8)
    path = saved(tmp_path / "a.png", pixels)
    assert read_mask(path, TABLE).tolist() == [[2, 0], [1, 2]]
    with pytest.raises(ValueError, match=r"a\.png is a mask in colours: give a class table"):
        read_mask(path)


def test_a_colour_that_no_class_has_is_named_with_its_file(tmp_path) -> None:
    path = saved(tmp_path / "odd.png", np.array([[[70, 80, 90], [9, 8, 7]]], dtype=np.uint8))
    with pytest.raises(ValueError, match=r"odd\.png holds the colour \(9, 8, 7\)"):
        read_mask(path, TABLE)


def test_a_grey_mask_that_was_saved_in_colours_gives_its_values(tmp_path) -> None:
    path = saved(tmp_path / "a.png", np.array([[[1, 1, 1], [2, 2, 2], [0, 0, 0]]], dtype=np.uint8))
    assert read_mask(path).tolist() == [[1, 2, 0]]
    assert read_mask(path, TABLE).tolist() == [[1, 2, 0]]


def test_a_value_outside_the_table_is_named_with_its_file(tmp_path) -> None:
    table = ClassTable.of(*(f"class {i}" for i in range(11)))
    path = saved(tmp_path / "odd.png", np.array([[0, 37, 255]], dtype=np.uint8))
    with pytest.raises(ValueError, match=r"odd\.png holds the value 37, but the table has 11 classes"):
        read_mask(path, table)
    saved(path, np.array([[0, 40000]], dtype=np.uint16))
    with pytest.raises(ValueError, match=r"odd\.png holds the value 40000"):
        read_mask(path, table)


def test_masks_need_whole_numbers(tmp_path) -> None:
    assert read_mask(saved(tmp_path / "a.tif", np.array([[1, 2]], np.float32))).tolist() == [[1, 2]]
    with pytest.raises(ValueError, match=r"cannot read .*b\.tif: a mask needs whole numbers"):
        read_mask(saved(tmp_path / "b.tif", np.array([[1, 2.5]], np.float32)))
    np.save(tmp_path / "c.npy", np.array([[1, 2.5]]))
    with pytest.raises(ValueError, match=r"c\.npy holds float64"):
        read_mask(tmp_path / "c.npy")


def test_a_mask_is_written_in_the_colours_of_its_classes(tmp_path) -> None:
    labels = torch.tensor([[0, 1, 2], [255, 2, 0]])
    path = write_mask(tmp_path / "new" / "a.png", LabelMap(labels), TABLE)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert tuple(image.convert("RGB").getpixel((2, 0))) == TABLE.colors[2]
    assert torch.equal(read_mask(path, TABLE), labels)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_more_than_256_classes_are_written_with_16_bits(tmp_path) -> None:
    table = ClassTable(tuple(f"c{i}" for i in range(300)), ((0, 0, 0),) * 300, ignore=65535)
    labels = torch.tensor([[0, 299, 65535]])
    assert torch.equal(read_mask(write_mask(tmp_path / "a.png", LabelMap(labels), table), table), labels)


def test_a_mask_that_cannot_be_written_leaves_nothing(tmp_path) -> None:
    with pytest.raises(ValueError, match="3 is no label of the 3 classes"):
        write_mask(tmp_path / "a.png", LabelMap(torch.tensor([[3]])), TABLE)
    with pytest.raises(ValueError, match=r"written as \.png"):
        write_mask(tmp_path / "a.jpg", LabelMap(torch.tensor([[0]])), TABLE)
    with pytest.raises(ValueError, match="height and a width"):
        write_mask(tmp_path / "a.png", LabelMap(torch.zeros(1, 2, 2, dtype=torch.long)), TABLE)
    negative = ClassTable(TABLE.names, TABLE.colors, ignore=-100)
    with pytest.raises(ValueError, match="got -100"):
        write_mask(tmp_path / "a.png", LabelMap(torch.tensor([[-100]])), negative)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot"):
        write_mask(tmp_path / "file" / "a.png", LabelMap(torch.tensor([[0]])), TABLE)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# --- class tables ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_written_class_table_is_read_back(tmp_path, suffix) -> None:
    table = ClassTable(('sky, "blue"', "road"), ((1, 2, 3), (4, 5, 6)), ignore=11)
    assert read_classes_file(write_classes_file(tmp_path / f"a{suffix}", table)) == table


def test_json_keeps_what_a_csv_cannot_hold(tmp_path) -> None:
    table = ClassTable(("sky", "car"), ((1, 2, 3), (4, 5, 6)), exclusive=False, things=(1,))
    assert read_classes_file(write_classes_file(tmp_path / "a.json", table)) == table
    with pytest.raises(ValueError, match=r"write them as \.json"):
        write_classes_file(tmp_path / "a.csv", table)
    with pytest.raises(ValueError, match=r"write them as \.json"):
        write_classes_file(tmp_path / "a.csv", ClassTable.of("a", "Ignore"))
    with pytest.raises(ValueError, match=r"\.csv or \.json"):
        write_classes_file(tmp_path / "a.txt", table)


def test_a_csv_may_be_as_short_as_a_list_of_names(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("name\nsky\nroad\n")
    (tmp_path / "a.txt").write_text("sky\nroad\n\n")
    (tmp_path / "a.json").write_text('["sky", "road"]')
    expected = ClassTable.of("sky", "road")
    assert [read_classes_file(tmp_path / f"a.{s}") for s in ("csv", "txt", "json")] == [expected] * 3


def test_ids_tell_the_values_in_masks(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("name,r,g,b,id\nroad,1,2,3,7\nsky,4,5,6,23\nignore,0,0,0,0\n")
    encoding = read_label_encoding(tmp_path / "a.csv")
    assert encoding.classes == ClassTable(("road", "sky"), ((1, 2, 3), (4, 5, 6)), ignore=255)
    path = saved(tmp_path / "m.png", np.array([[23, 7, 0]], dtype=np.uint8))
    assert read_mask(path, encoding).tolist() == [[1, 0, 255]]
    saved(path, np.array([[[4, 5, 6], [0, 0, 0]]], dtype=np.uint8))
    assert read_mask(path, encoding).tolist() == [[1, 255]]
    saved(path, np.array([[1]], dtype=np.uint8))
    with pytest.raises(
        ValueError, match=r"holds the value 1, but the table has 2 classes with the values 7, 23"
    ):
        read_mask(path, encoding)


@pytest.mark.parametrize(
    "name, text, reason",
    [
        ("a.csv", "sky,road\n1,2\n", "header with `name`"),
        ("a.csv", "", "header with `name`"),
        ("a.csv", "name,r,g,b\nsky,1,2,3\nsky,1,2,3\n", "names must differ"),
        ("a.csv", "name,r,g,b\nsky,1,2,300\n", "0..255"),
        ("a.csv", "name,r,g,b\nsky,1,2,x\n", "a colour must be a whole number, got 'x'"),
        ("a.csv", "name,r,g,b\nsky,1,2,3\nroad,,,\n", "some have none"),
        ("a.csv", "name,id\nsky,1\nroad,1\n", "its own"),
        ("a.csv", "name,id\nsky,1\nroad,\n", "some have none"),
        ("a.csv", "name,id\nsky,1\nignore,1\n", "also the one that is ignored"),
        ("a.json", "{", "Expecting"),
        ("a.json", '{"classes": 3}', "list of `names`"),
        ("a.json", '{"names": ["a"], "colors": [[1, 2]]}', "a colour needs three numbers"),
        ("a.json", '{"names": []}', "at least one class"),
        ("a.txt", "", "at least one class"),
        ("a.yaml", "", "csv, .json, .toml or .txt"),
        ("a.toml", "names = [", "a.toml is not a class table"),
        ("a.toml", "name = 3", "expected a list of `names`"),
    ],
)
def test_a_wrong_class_table_is_an_error_that_names_it(tmp_path, name, text, reason) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        read_classes_file(tmp_path / name)
    assert name in str(error.value)


def test_a_missing_or_binary_class_table_is_an_error_that_names_it(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"there is no class table .*a\.csv"):
        read_classes_file(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\xfa\x00")
    with pytest.raises(ValueError, match=r"cannot read the class table .*a\.csv"):
        read_classes_file(tmp_path / "a.csv")


# --- COCO -----------------------------------------------------------------------------------------


def test_run_lengths_go_down_the_columns() -> None:
    mask = torch.tensor([[0, 1, 1], [0, 0, 1]]).bool()
    assert encode_rle(mask, compressed=False) == {"size": [2, 3], "counts": [2, 1, 1, 2]}
    assert torch.equal(decode_rle({"size": [2, 3], "counts": [2, 1, 1, 2]}), mask)


def test_compressed_run_lengths_are_those_of_coco() -> None:
    # Made with pycocotools 2.0: a disc, and a mask whose first pixel is set.
    y, x = np.mgrid[:40, :60]
    disc = torch.from_numpy((y - 15) ** 2 + (x - 30) ** 2 < 144)
    assert encode_rle(disc) == {"size": [40, 60], "counts": DISC}
    assert torch.equal(decode_rle({"size": [40, 60], "counts": DISC.encode()}), disc)
    corner = torch.zeros(3, 4, dtype=torch.bool)
    corner[0, 0] = corner[2, 3] = True
    assert encode_rle(corner) == {"size": [3, 4], "counts": CORNER}


DISC = "Sh09m04M2N2N2N2O0O2O0000000000000001N101N2N2N2N3LWf0"
CORNER = "01:0"


@pytest.mark.parametrize(
    "counts, reason",
    [
        ([1, 2], "fill 3 pixels"),
        ([5, -1], "fill 4 pixels"),
        ("P", "ends within"),
        ("é", "cannot be in a string"),
    ],
)
def test_wrong_run_lengths_are_refused(counts, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_rle({"size": [2, 2], "counts": counts})


def test_a_polygon_covers_the_pixels_whose_centres_it_holds() -> None:
    square = [1, 1, 4, 1, 4, 3, 1, 3]
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[1:3, 1:4] = True
    assert torch.equal(polygon_mask([square], 5, 6), expected)
    both = polygon_mask([square, [0, 4, 6, 4, 6, 5, 0, 5]], 5, 6)
    expected[4] = True
    assert torch.equal(both, expected)
    assert polygon_mask([[-10, -10, 20, -10, 20, 20, -10, 20]], 5, 6).all()


def test_a_polygon_needs_three_points() -> None:
    with pytest.raises(ValueError, match="at least three points"):
        polygon_mask([[1, 1, 2, 2]], 4, 4)


def test_the_readme_form_of_a_run_directory_table_is_understood(tmp_path) -> None:
    fields = {
        "names": ["a", "b"],
        "colors": [[0, 0, 0], [1, 1, 1]],
        "ignore": 11,
        "exclusive": True,
        "things": [],
    }
    (tmp_path / "classes.json").write_text(json.dumps(fields))
    assert read_classes_file(tmp_path / "classes.json").ignore == 11
