"""Class files that do work, and masks in every form in which people have them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from pixelwise.data import check_data, open_data, propose_classes, training_transform
from pixelwise.data.formats.class_file import read_label_encoding, write_classes_file
from pixelwise.data.formats.mask import read_mask, read_mask_pixels
from pixelwise.predict.tta import flipped
from pixelwise.types import Boxes, ClassTable, DenseLogits, LabelMap, MaskSet, Sample

STREET = """name,r,g,b,id
road,128,64,128,7
road,128,0,192,8
car,0,0,142,26
ignore,,,,*
"""


def encoding_of(folder: Path, text: str, name: str = "classes.csv"):
    (folder / name).write_text(text)
    return read_label_encoding(folder / name)


def saved(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def deep_png(path: Path, pixels: np.ndarray) -> Path:
    """A PNG of 16 bits and 3 or 4 channels, whose rows use all five filters of the format in turn."""
    height, width, channels = pixels.shape
    size = 2 * channels
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1).astype(int)
    content, above = bytearray(), np.zeros(rows.shape[1], int)
    for number, row in enumerate(rows):
        left, corner = np.concatenate([np.zeros(size, int), row[:-size]]), np.zeros(rows.shape[1], int)
        corner[size:] = above[:-size]
        estimate = left + above - corner
        distances = np.stack([abs(estimate - left), abs(estimate - above), abs(estimate - corner)])
        paeth = np.stack([left, above, corner])[distances.argmin(0), np.arange(rows.shape[1])]
        guess = [0 * row, left, above, (left + above) // 2, paeth][number % 5]
        content += bytes([number % 5, *((row - guess) % 256).tolist()])
        above = row

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(content))) + chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# --- class files ------------------------------------------------------------------------------------


def test_rows_of_one_name_are_one_class_and_a_star_ignores_the_rest(tmp_path) -> None:
    encoding = encoding_of(tmp_path, STREET)
    assert encoding.classes.names == ("road", "car")
    grey = saved(tmp_path / "m.png", np.array([[7, 8, 26, 0, 33, 255]], np.uint8))
    assert read_mask(grey, encoding).tolist() == [[0, 0, 1, 255, 255, 255]]
    colors = np.array([[[128, 64, 128], [128, 0, 192], [0, 0, 142], [1, 2, 3]]], np.uint8)
    assert read_mask(saved(tmp_path / "c.png", colors), encoding).tolist() == [[0, 0, 1, 255]]
    deep = saved(tmp_path / "d.png", np.array([[7, 8, 1000]], np.uint16))
    assert read_mask(deep, encoding).tolist() == [[0, 0, 255]]


def test_colours_alone_may_be_merged_too(tmp_path) -> None:
    encoding = encoding_of(tmp_path, "name,r,g,b\npole,1,1,2\npole,3,3,4\nsky,9,9,9\n")
    pixels = np.array([[[3, 3, 4], [1, 1, 2], [9, 9, 9]]], np.uint8)
    assert read_mask(saved(tmp_path / "m.png", pixels), encoding).tolist() == [[0, 0, 1]]


def test_a_value_that_two_classes_claim_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="its own"):
        encoding_of(tmp_path, "name,id\nroad,7\nroad,8\ncar,8\n")
    with pytest.raises(ValueError, match="names must differ"):
        encoding_of(tmp_path, "name,id\nroad,7\nroad,7\n")


def test_sides_and_things_stand_in_a_csv(tmp_path) -> None:
    text = "name,id,flip,thing\nleft arm,14,right arm,\nright arm,15,left arm,\nhat,1,,1\n"
    classes = encoding_of(tmp_path, text).classes
    assert classes.flip_pairs == ((0, 1),)
    assert classes.flipped == (1, 0, 2)
    assert classes.things == (2,)
    with pytest.raises(ValueError, match="mirrored to 'left leg'"):
        encoding_of(tmp_path, "name,flip\nright leg,left leg\n")


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_what_a_class_file_says_is_written_and_read_back(tmp_path, suffix) -> None:
    text = (
        "name,r,g,b,id,flip,thing\nl,1,1,1,3,r,\nl,2,2,2,4,r,\nr,5,5,5,5,l,\ncar,6,6,6,9,,1\n"
        "ignore,0,0,0,0,,\nignore,,,,*,,\n"
    )
    encoding = encoding_of(tmp_path, text)
    assert encoding.further == ((4, 0),)
    assert read_label_encoding(write_classes_file(tmp_path / f"again{suffix}", encoding)) == encoding


def test_a_toml_file_says_what_a_json_file_says(tmp_path) -> None:
    path = tmp_path / "classes.toml"
    path.write_text('names = ["sky", "road"]\ncolors = [[1, 2, 3], [4, 5, 6]]\nids = [7, 9]\nignore = 0\n')
    encoding = read_label_encoding(path)
    assert encoding.classes.names == ("sky", "road")
    assert encoding.classes.colors == ((1, 2, 3), (4, 5, 6))
    assert encoding.values == (7, 9)
    assert encoding.ignored == (0,)


def test_the_lists_of_colours_that_cvat_writes_are_understood(tmp_path) -> None:
    colors = encoding_of(tmp_path, "# r g b name\n128 64 128 road\n0 0 142 a car\n", "label_colors.txt")
    assert colors.classes.names == ("road", "a car")
    assert colors.classes.colors == ((128, 64, 128), (0, 0, 142))
    labels = encoding_of(tmp_path, "# label:color:parts:actions\nbg:0,0,0::\nroad:9,8,7::\n", "labelmap.txt")
    assert labels.classes.names == ("bg", "road")
    assert labels.classes.colors[1] == (9, 8, 7)


def test_a_colour_that_is_a_little_off_is_named_with_its_neighbour(tmp_path) -> None:
    encoding = encoding_of(tmp_path, "name,r,g,b\nwhite,255,255,255\nred,255,0,0\n")
    path = saved(tmp_path / "m.png", np.array([[[254, 0, 0]]], np.uint8))
    with pytest.raises(ValueError, match=r"\(254, 0, 0\), which no class .* 'red' has \(255, 0, 0\)"):
        read_mask(path, encoding)


# --- files of masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_keep_their_labels(tmp_path, channels) -> None:
    pixels = np.random.default_rng(0).integers(0, 700, (10, 7, channels), np.uint16)
    path = deep_png(tmp_path / "m.png", pixels)
    assert (np.array(Image.open(path).convert("RGB"))[..., :3] != pixels[..., :3]).any()  # what Pillow reads
    assert (read_mask_pixels(path) == pixels[..., :3]).all()


def test_the_masks_of_synthia_are_read_by_their_first_channel(tmp_path, draw_image) -> None:
    for name, value in (("a", 3), ("b", 22)):
        pixels = np.zeros((12, 16, 3), np.uint16)
        pixels[..., 0], pixels[..., 1] = value, np.arange(16)
        deep_png(tmp_path / "s" / "masks" / f"{name}.png", pixels)
        draw_image(tmp_path / "s" / "images" / f"{name}.png")
    (tmp_path / "s" / "classes.csv").write_text("name,id\nroad,3\nlane,22\nignore,*\n")
    with pytest.raises(ValueError, match="first-channel"):
        open_data(tmp_path / "s", val_fraction=0).train.labels(0)
    data = open_data(tmp_path / "s", val_fraction=0, mask_rule="first-channel").train
    assert [data.labels(i).unique().tolist() for i in range(2)] == [[0], [1]]
    (tmp_path / "s" / "classes.csv").unlink()
    found = open_data(tmp_path / "s", val_fraction=0, mask_rule="first-channel")
    assert found.encoding.values == (3, 22)


def test_a_damaged_16_bit_picture_is_one_sentence(tmp_path) -> None:
    path = deep_png(tmp_path / "m.png", np.ones((9, 9, 3), np.uint16))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cannot read .*m\.png"):
        read_mask_pixels(path)


def test_what_a_gif_shows_counts_not_its_indices(tmp_path) -> None:
    shown = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
    grey = saved(tmp_path / "grey.gif", shown)
    two = Image.fromarray((shown == 0).astype(np.uint8), "P")  # index 0 is white here
    two.putpalette([255, 255, 255, 0, 0, 0])
    two.save(tmp_path / "two.gif")
    assert read_mask_pixels(grey).tolist() == shown.tolist()
    assert read_mask_pixels(tmp_path / "two.gif").tolist() == shown.tolist()


def test_matrices_of_matlab_are_found_by_name_or_alone(tmp_path) -> None:
    labels = np.array([[0, 20, 20], [1, 0, 0]], np.uint8)
    boundaries = np.ones((2, 3), np.uint8)
    sbd = {"GTcls": {"Segmentation": labels, "Boundaries": boundaries, "CategoriesPresent": [20]}}
    files = {"sbd": sbd, "flow": {"S": labels.astype(float), "names": ["a", "b"]}, "own": {"x": labels}}
    for name, content in files.items():
        savemat(tmp_path / f"{name}.mat", content)
        assert read_mask_pixels(tmp_path / f"{name}.mat").tolist() == labels.tolist(), name
    savemat(tmp_path / "two.mat", {"x": labels, "y": labels})
    with pytest.raises(ValueError, match=r"2 matrices of labels .*which of them counts"):
        read_mask_pixels(tmp_path / "two.mat")
    truths = np.empty((1, 2), object)
    truths[0, 0] = truths[0, 1] = {"Segmentation": labels, "Boundaries": boundaries}
    savemat(tmp_path / "bsds.mat", {"groundTruth": truths})
    with pytest.raises(ValueError, match="regions that 2 people drew"):
        read_mask_pixels(tmp_path / "bsds.mat")
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file, ...")
    with pytest.raises(ValueError, match="HDF5"):
        read_mask_pixels(tmp_path / "new.mat")


def test_folders_of_matrices_and_of_text_are_pairs(tmp_path, draw_image) -> None:
    for name, write in (
        ("mat", lambda path, x: savemat(path.with_suffix(".mat"), {"S": x})),
        ("text", lambda path, x: np.savetxt(path.with_suffix(".txt"), x, fmt="%d")),
    ):
        root = tmp_path / name
        (root / "labels").mkdir(parents=True)
        for stem in "ab":
            draw_image(root / "images" / f"{stem}.jpg", size=(2, 3))
            write(root / "labels" / stem, np.array([[0, 1, 1], [2, 2, 0]]))
        data = open_data(root, val_fraction=0)
        assert data.format == "pairs"
        assert data.train.labels(0).tolist() == [[0, 1, 1], [2, 2, 0]]


def test_the_text_files_of_yolo_are_no_masks(tmp_path, draw_image) -> None:
    draw_image(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n0 0.2 0.1 0.5 0.1 0.5 0.5\n")
    with pytest.raises(ValueError, match="YOLO-seg"):
        open_data(tmp_path)


# --- the check --------------------------------------------------------------------------------------


def test_the_check_says_which_value_is_which_class_and_proposes_a_class_file(pair_folder) -> None:
    root = pair_folder(values=(0, 3, 7))
    report = check_data(root)
    assert "value 3" in report.render()
    assert "in masks" in report.render()
    path = propose_classes(root, report)
    assert path == root / "classes.csv"
    assert read_label_encoding(path).values == (0, 3, 7)
    assert open_data(root).encoding.values == (0, 3, 7)
    path.write_text("name,id\nground,0\nthing,3\nthing,7\n")
    with pytest.raises(ValueError, match=r"classes\.csv exists and is not replaced"):
        propose_classes(root, check_data(root))
    assert "3, 7 or" in check_data(root).render()


# --- left and right -----------------------------------------------------------------------------------

SIDES = ClassTable(("ground", "left", "right"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), flip_pairs=((1, 2),))


def test_a_mirrored_left_is_a_right() -> None:
    image, labels = torch.rand(3, 2, 3), torch.tensor([[1, 0, 0], [0, 0, 2]])
    for flips in ({"flip": 1.0}, {"flip": 0.0, "flip_vertical": 1.0}):
        change = training_transform(None, scale=(1, 1), color=0, flip_pairs=SIDES.flip_pairs, **flips)
        changed = change(Sample(image, LabelMap(labels), "a", None))
        axis = 1 if flips["flip"] else 0
        swapped = torch.tensor([0, 2, 1])[labels]
        assert torch.equal(changed.target.labels, swapped.flip(axis))
        assert torch.equal(changed.image, image.flip(axis + 1))


def test_objects_change_their_class_with_their_side() -> None:
    mirror = training_transform(None, scale=(1, 1), color=0, flip=1.0, flip_pairs=SIDES.flip_pairs)
    masks = torch.zeros(2, 2, 3, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 1, 2] = True
    for target in (
        MaskSet.of(masks, torch.tensor([1, 0])),
        Boxes.of(torch.tensor([[0.0, 0, 1, 1], [1, 1, 3, 2]]), torch.tensor([1, 0])),
    ):
        changed = mirror(Sample(torch.rand(3, 2, 3), target, "a", None))
        assert changed.target.classes.tolist() == [2, 0]


def test_mirrored_predictions_exchange_the_sides() -> None:
    scores = torch.randn(1, 3, 2, 4)

    def network(image):
        # Sees left where it is bright on the left side: a mirrored image gives mirrored, exchanged scores.
        seen = scores if image[0, 0, 0, 0] == 1 else scores.flip(-1)[:, [0, 2, 1]]
        return DenseLogits(seen, (2, 4))

    image = torch.zeros(1, 3, 2, 4)
    image[..., 0] = 1
    both = flipped(network, flip_pairs=SIDES.flip_pairs)(image).logits
    assert torch.allclose(both.softmax(1), scores.softmax(1), atol=1e-6)
    assert not torch.allclose(flipped(network)(image).logits.softmax(1), scores.softmax(1), atol=1e-3)


def test_a_label_has_one_other_side() -> None:
    with pytest.raises(ValueError, match="each label once"):
        ClassTable.of("a", "b").__class__(("a", "b"), ((0, 0, 0),) * 2, flip_pairs=((0, 1), (1, 0)))
