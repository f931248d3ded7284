"""Layouts that are met every day: read where file names decide, named where they are not read yet."""

import zlib

import numpy as np
import pytest
from PIL import Image

from pixelwise.data import check_data, open_data
from pixelwise.data.datasets import export_of
from pixelwise.data.datasets.cityscapes import CLASSES


def ids(data) -> list[tuple[str, str]]:
    return sorted((pair.id, pair.mask.name) for pair in data.pairs)


@pytest.mark.parametrize(
    "train, val",
    [
        (("img_dir/train/a.jpg", "ann_dir/train/a.png"), ("img_dir/val/b.jpg", "ann_dir/val/b.png")),
        (("train/img_1.png", "train/mask_1.png"), ("val/img_2.png", "val/mask_2.png")),
        (
            ("images/train/img_1.png", "masks/train/mask_1.png"),
            ("images/val/img_2.png", "masks/val/mask_2.png"),
        ),
        (
            ("images/train/image-1.jpg", "labels/train/label-1.png"),
            ("images/val/3.jpg", "labels/val/gt_3.png"),
        ),
        (("train/7_img.jpg", "train/7_mask.png"), ("valid/8_img.jpg", "valid/8_mask.png")),
        (("train/7_image.jpg", "train_labels/7_L.png"), ("val/8.png", "val_labels/8_L.png")),
        (
            (
                "ISIC2019_Task1-2_Training_Input/ISIC_1.jpg",
                "ISIC2019_Task1_Training_GroundTruth/ISIC_1_segmentation.png",
            ),
            (
                "ISIC2019_Task1-2_Validation_Input/ISIC_2.jpg",
                "ISIC2019_Task1_Validation_GroundTruth/ISIC_2_segmentation.png",
            ),
        ),
        (
            (
                "ISIC-2016_Training_Data/ISIC_1.jpg",
                "ISIC-2016_Training_Part1_GroundTruth/ISIC_1_segmentation.png",
            ),
            (
                "ISIC-2016_Validation_Data/ISIC_2.jpg",
                "ISIC-2016_Validation_Part1_GroundTruth/ISIC_2_segmentation.png",
            ),
        ),
    ],
)
def test_file_names_that_differ_between_image_and_mask(tmp_path, draw_image, draw_mask, train, val) -> None:
    for number, (image, mask) in enumerate((train, val)):
        draw_image(tmp_path / image, number=number)
        draw_mask(tmp_path / mask)
    data = open_data(tmp_path)
    assert data.format == "pairs"
    assert data.unpaired == ()
    assert [ids(data.train), ids(data.val)] == [
        [(image, mask.rpartition("/")[2])] for image, mask in (train, val)
    ]
    assert len(data.train[0].target.labels.unique()) == 3


def test_camvid_as_it_was_published_first(tmp_path, draw_image, draw_mask) -> None:
    for number, name in enumerate(("0001TP_006690", "0016E5_00390")):
        draw_image(tmp_path / "701_StillsRaw_full" / f"{name}.png", number=number)
        draw_mask(tmp_path / "LabeledApproved_full" / f"{name}_L.png")
    data = open_data(tmp_path)
    assert len(data.train) + len(data.val) == 2
    assert data.unpaired == ()


def test_a_mark_is_part_of_the_name_where_the_mask_has_it_too(tmp_path, draw_image, draw_mask) -> None:
    for number, name in enumerate(("img_1", "1")):
        draw_image(tmp_path / f"{name}.jpg", number=number)
        draw_mask(tmp_path / f"{name}_mask.png")
    data = open_data(tmp_path, val_fraction=0.0)
    assert ids(data.train) == [("1.jpg", "1_mask.png"), ("img_1.jpg", "img_1_mask.png")]


# --- Cityscapes -----------------------------------------------------------------------------------


def cityscapes(root, draw_image, draw_mask, kinds=("labelIds",), truth="gtFine"):
    values = {"labelIds": (0, 3, 7, 26, 33), "labelTrainIds": (255, 255, 0, 13, 18)}
    for number, (part, city) in enumerate((("train", "aachen"), ("val", "lindau"), ("test", "bonn"))):
        name = f"{city}_000000_000019"
        draw_image(root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png", number=number)
        for kind in kinds:
            blank = {"labelIds": (0, 3), "labelTrainIds": (255,)}[kind]
            drawn = values[kind] if part != "test" else blank
            draw_mask(root / truth / part / city / f"{name}_{truth}_{kind}.png", values=drawn)
    return root


@pytest.mark.parametrize("truth", ["gtFine", "gtCoarse"])
@pytest.mark.parametrize("kinds", [("labelIds",), ("labelTrainIds",), ("labelIds", "labelTrainIds")])
def test_cityscapes_has_its_19_classes(tmp_path, draw_image, draw_mask, kinds, truth) -> None:
    data = open_data(cityscapes(tmp_path, draw_image, draw_mask, kinds, truth))
    assert data.format == "cityscapes"
    assert data.classes == CLASSES
    assert len(data.classes) == 19
    assert data.test is None  # its masks are blank
    assert any("not public" in remark for remark in data.remarks)
    assert data.train[0].target.labels[0, :5].tolist() == [255, 255, 0, 13, 18]
    assert data.train.pairs[0].mask.stem.endswith(kinds[-1])
    assert data.val.pairs[0].id == "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png"


def test_cityscapes_without_masks_of_ids_is_told(tmp_path, draw_image, draw_mask) -> None:
    root = cityscapes(tmp_path, draw_image, draw_mask)
    for path in root.glob("gtFine/*/*/*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no labelIds\.png of the images and no polygons"):
        open_data(root)


# --- named, not read ------------------------------------------------------------------------------

NAMED = {
    "YOLO": {
        "train/images/a.jpg": None,
        "train/labels/a.txt": "\n",
        "valid/labels/b.txt": "1 0.5 0.5 0.25 1e-2\r\n",
    },
    "nnU-Net": {"imagesTr/a_0000.png": None, "labelsTr/a.png": None, "dataset.json": '{"name": "x"}'},
    "Data Science Bowl": {"stage1_train/id1/images/id1.png": None, "stage1_train/id1/masks/m1.png": None},
    "COCO panoptic": {"a.jpg": None, "panoptic.json": '{"annotations": [{"segments_info": []}]}'},
    "VOC annotations of boxes": {"JPEGImages/a.jpg": None, "Annotations/a.xml": "<annotation/>"},
    "Kaggle": {"train.csv": "ImageId,EncodedPixels\na.jpg,1 2\n", "train/a.jpg": None},
    "NIfTI": {"case/volume.nii.gz": "x"},
}


@pytest.mark.parametrize("name", NAMED)
def test_an_export_that_is_not_read_is_named(tmp_path, draw_image, name) -> None:
    for path, text in NAMED[name].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            draw_image(tmp_path / path)
        else:
            (tmp_path / path).write_text(text)
    for look in (open_data, check_data):
        with pytest.raises(
            ValueError, match=rf"looks like .*{name}.*, but has no layout that this task reads: \w"
        ):
            look(tmp_path)


def test_images_without_anything_else_look_like_nothing(tmp_path, draw_image) -> None:
    draw_image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "notes.txt").write_text("0 apples and 3 pears\n")
    (tmp_path / "readme.json").write_text("{}")
    assert export_of(tmp_path) is None


def test_real_trees_are_read_or_named(shared_data) -> None:
    assert "panoptic" in export_of(shared_data("data", "panopticapi_sample")).name
    assert "NIfTI" in export_of(shared_data("data", "mni152_tissue")).name
    assert export_of(shared_data("data", "camvid")) is None


# --- remarks of the check -------------------------------------------------------------------------


def test_twelve_bits_in_files_of_sixteen_are_a_remark(pair_folder) -> None:
    root = pair_folder(count=3)
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 4096, (12, 16), dtype=np.uint16)
        pixels[0, 0] = 4095
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
    (dark,) = [remark for remark in check_data(root).remarks if "almost black" in remark]
    assert "12 bits in 16-bit files" in dark
    assert "multiply them by 16" in dark
    pixels[0, 0] = 60_000  # one bright image, and the whole range is in use
    Image.fromarray(pixels).save(root / "images" / "2.png")
    assert not any("almost black" in remark for remark in check_data(root).remarks)


def test_many_equal_images_make_a_short_line(pair_folder) -> None:
    root = pair_folder(count=60)
    content = (root / "images" / "0.png").read_bytes()
    for path in (root / "images").iterdir():
        path.write_bytes(content)
    report = check_data(root)
    (same,) = [text for text in report.problems if "the same image" in text]
    assert same.endswith("and 55 more")
    assert len(same) < 300


def test_data_say_in_a_line_what_they_are(pair_folder) -> None:
    data = open_data(pair_folder(values=tuple(range(40))))
    for text in (repr(data), repr(data.train)):
        assert "16 classes: class 0, class 1" in text
        assert "and 11 more" in text
        assert len(text.splitlines()) <= 3
        assert len(text) < 400
    assert "4 train, 1 val" in repr(data)
    assert "4 images" in repr(data.train)
    assert "1 image, first images/" in repr(data.val)
    assert "0 images;" in repr(data.val.take([]))


def test_a_long_name_is_not_echoed_whole(pair_folder) -> None:
    root = pair_folder()
    for wrong in ({"format": "f" * 5000}, {"mask_rule": "m" * 5000}):
        with pytest.raises(ValueError, match=r"\.\.\.") as error:
            open_data(root, **wrong)
        assert len(str(error.value)) < 400
    with pytest.raises(ValueError, match=r"\.\.\.") as error:
        open_data(root).part("p" * 5000)
    assert len(str(error.value)) < 400


def test_a_compressed_file_of_another_kind_is_no_export(tmp_path) -> None:
    (tmp_path / "a.json").write_bytes(zlib.compress(b"x" * 100))
    assert export_of(tmp_path) is None
