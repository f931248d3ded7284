"""Folders as people lay them out: every layout is found by looking, every bad folder told in a sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.data import check_data, open_data, write_classes_file
from pixelwise.data.coins import write_coins
from pixelwise.data.datasets import camvid, voc
from pixelwise.data.formats.coco import encode_rle
from pixelwise.tasks import get_task
from pixelwise.types import ClassTable


def ids(data) -> list[str]:
    return [pair.id for pair in data.pairs]


# --- pairs ----------------------------------------------------------------------------------------

ARRANGEMENTS = {
    "parts below": ("images/{part}/{name}.jpg", "masks/{part}/{name}.png"),
    "parts above": ("{part}/images/{name}.jpg", "{part}/masks/{name}.png"),
    "labels, deeper": ("images/{part}/town/{name}.jpg", "labels/{part}/town/{name}.png"),
    "annot": ("{part}/{name}.jpg", "{part}annot/{name}.png"),
    "labels beside": ("{part}/{name}.jpg", "{part}_labels/{name}.png"),
    "images beside": ("{part}_images/{name}.jpg", "{part}_masks/{name}.png"),
    "suffix in parts": ("{part}/{name}.jpg", "{part}/{name}_mask.png"),
    "suffix in folders": ("images/{part}/{name}.jpg", "annotations/{part}/{name}_label.png"),
    "capitals": ("Images/{part}/{name}.jpg", "Masks/{part}/{name}.png"),
}


@pytest.mark.parametrize("image, mask", ARRANGEMENTS.values(), ids=list(ARRANGEMENTS))
def test_parts_are_found_however_they_are_arranged(tmp_path, draw_image, draw_mask, image, mask) -> None:
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        for i in range(count):
            draw_image(tmp_path / image.format(part=part, name=f"{part}{i}"))
            draw_mask(tmp_path / mask.format(part=part, name=f"{part}{i}"))
    data = open_data(tmp_path)
    assert data.format == "pairs"
    assert data.test is not None
    assert [len(data.train), len(data.val), len(data.test)] == [3, 2, 1]
    assert ids(data.train)[1] == image.format(part="train", name="train1")
    assert not data.unpaired
    assert not data.made_val
    sample = data.val[1]
    assert sample.image.shape == (3, 12, 16)
    assert sample.target.labels[0, :4].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    "image, mask",
    [
        ("images/{}.jpg", "masks/{}.png"),
        ("imgs/{}.tif", "gt/{}.tif"),
        ("frames/{}.jpg", "annotations/{}.png"),
        ("{}.jpg", "{}_mask.png"),
        ("{}.png", "{}-seg.png"),
        ("{}.jpg", "{}.png"),
    ],
)
def test_without_parts_validation_is_drawn_from_the_images(
    tmp_path, draw_image, draw_mask, image, mask
) -> None:
    for i in range(10):
        draw_image(tmp_path / image.format(i))
        draw_mask(tmp_path / mask.format(i))
    data = open_data(tmp_path, val_fraction=0.3)
    assert [len(data.train), len(data.val), data.test] == [7, 3, None]
    assert data.made_val
    assert sorted(ids(data.train) + ids(data.val)) == sorted(image.format(i) for i in range(10))
    assert all(pair.mask.name == Path(mask.format(Path(pair.id).stem)).name for pair in data.train.pairs)


def test_the_draw_depends_on_the_seed_alone(pair_folder) -> None:
    root = pair_folder(12)
    assert ids(open_data(root, seed=3).val) == ids(open_data(root, seed=3).val)
    assert len({tuple(ids(open_data(root, seed=seed).val)) for seed in range(6)}) > 1


@pytest.mark.parametrize("count, fraction, expected", [(1, 0.5, 0), (2, 0.01, 1), (2, 0.99, 1), (5, 0.0, 0)])
def test_both_parts_keep_an_image_where_there_are_two(pair_folder, count, fraction, expected) -> None:
    data = open_data(pair_folder(count), val_fraction=fraction)
    assert [len(data.train), len(data.val)] == [count - expected, expected]


@pytest.mark.parametrize("fraction", [1.0, -0.1])
def test_an_impossible_fraction_is_refused(pair_folder, fraction) -> None:
    with pytest.raises(ValueError, match="val_fraction must be in"):
        open_data(pair_folder(), val_fraction=fraction)


def test_lists_tell_the_parts(pair_folder) -> None:
    root = pair_folder(4)
    (root / "train.txt").write_text("images/0.png masks/0.png\n2\n")
    (root / "val.txt").write_text("3.png\n\n1.png\n")
    data = open_data(root)
    assert ids(data.train) == ["images/0.png", "images/2.png"]
    assert ids(data.val) == ["images/3.png", "images/1.png"]
    (root / "val.txt").write_text("nobody\n")
    with pytest.raises(ValueError, match=r"val\.txt names nobody"):
        open_data(root)


def test_what_has_no_partner_is_left_out_and_listed(pair_folder, draw_image, draw_mask, caplog) -> None:
    root = pair_folder(3)
    draw_image(root / "images" / "alone.png")
    draw_mask(root / "masks" / "lonely.png")
    data = open_data(root)
    assert len(data.train) + len(data.val) == 3
    assert [path.name for path in data.unpaired] == ["alone.png", "lonely.png"]
    assert "2 files have no partner" in caplog.text


def test_hidden_files_and_notes_do_not_count(pair_folder) -> None:
    root = pair_folder(2)
    (root / "images" / ".DS_Store.png").write_text("")
    (root / "images" / "notes.txt").write_text("")
    (root / ".cache").mkdir()
    assert not open_data(root).unpaired


def test_two_masks_of_one_name_are_refused(pair_folder, draw_mask) -> None:
    root = pair_folder(2)
    draw_mask(root / "masks" / "0.bmp")
    with pytest.raises(ValueError, match=r"0\.bmp and .*0\.png have one name"):
        open_data(root)


def test_only_a_validation_part_leaves_nothing_to_train_on(tmp_path, draw_image, draw_mask) -> None:
    draw_image(tmp_path / "val" / "images" / "a.jpg")
    draw_mask(tmp_path / "val" / "masks" / "a.png")
    data = open_data(tmp_path)
    assert [len(data.train), len(data.val)] == [0, 1]
    with pytest.raises(ValueError, match="has no train part: it has val"):
        data.part("train")
    with pytest.raises(ValueError, match="is one of train, val, test, got 'holdout'"):
        data.part("holdout")
    assert data.part("val") is data.val


def test_the_embedded_sample_is_read(tmp_path) -> None:
    data = open_data(write_coins(tmp_path / "coins"))
    assert data.classes.names == ("background", "coin")
    assert data.test is not None
    sample = data.part("test")[0]
    assert sample.image.shape[-2:] == sample.target.labels.shape
    assert sample.target.labels.unique().tolist() == [0, 1]


@pytest.mark.parametrize("format", ["auto", "pairs", "coco"])
def test_a_missing_folder_is_told(tmp_path, format) -> None:
    with pytest.raises(ValueError, match=r"there is no data folder .*nowhere"):
        open_data(tmp_path / "nowhere", format=format)


def test_an_empty_or_useless_folder_is_told(tmp_path, draw_image) -> None:
    with pytest.raises(ValueError, match=r"the data folder .* is empty"):
        open_data(tmp_path)
    draw_image(tmp_path / "images" / "a.png")
    with pytest.raises(ValueError, match=r"holds 1 image files but no image with a mask"):
        open_data(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match=r"no image with a mask"):
        open_data(tmp_path)
    with pytest.raises(ValueError, match=r"expected a data folder .* got the file"):
        open_data(tmp_path / "images" / "a.png")


@pytest.mark.parametrize(
    "format, reason",
    [
        ("voc", "no VOC layout"),
        ("camvid", "no CamVid layout"),
        ("coco", "no COCO file"),
        ("cityscape", "format must be auto, voc, .* or one of `pixelwise datasets`, got 'cityscape'"),
    ],
)
def test_a_format_that_does_not_fit_is_told(pair_folder, format, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        open_data(pair_folder(), format=format)


# --- VOC ------------------------------------------------------------------------------------------


@pytest.fixture
def voc_folder(tmp_path, draw_image, draw_mask) -> Path:
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("2007_01", "2007_02", "2007_03", "2007_04"):
        draw_image(home / "JPEGImages" / f"{name}.jpg")
    for name in ("2007_01", "2007_02", "2007_03"):
        draw_mask(home / "SegmentationClass" / f"{name}.png", values=(0, 20, 255))
    lists = home / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_01\n2007_03\n")
    (lists / "val.txt").write_text("2007_02\n")
    (lists / "trainval.txt").write_text("2007_01\n2007_02\n2007_03\n")
    (lists / "test.txt").write_text("2007_04\n")
    return home


@pytest.mark.parametrize("above", [0, 1, 2])
def test_voc_is_found_from_any_folder_above(voc_folder, above) -> None:
    data = open_data([voc_folder, *voc_folder.parents][above])
    assert data.format == "voc"
    assert [len(data.train), len(data.val), data.test] == [2, 1, None]
    assert ids(data.train)[1].endswith("JPEGImages/2007_03.jpg")
    assert len(data.classes) == 21
    assert data.classes.names[20] == "tvmonitor"
    assert data.train[0].target.labels[0, :3].tolist() == [0, 20, 255]


def test_voc_masks_may_be_drawn_in_colours(voc_folder) -> None:
    path = voc_folder / "SegmentationClass" / "2007_01.png"
    pixels = np.zeros((12, 16, 3), dtype=np.uint8)
    pixels[:, 0], pixels[:, 1] = voc.CLASSES.colors[15], (224, 224, 192)
    Image.fromarray(pixels).save(path)
    assert open_data(voc_folder).train[0].target.labels[0, :3].tolist() == [15, 255, 0]


def test_voc_without_lists_is_divided(voc_folder) -> None:
    shutil.rmtree(voc_folder / "ImageSets")
    data = open_data(voc_folder)
    assert [len(data.train), len(data.val)] == [2, 1]
    assert data.made_val


def test_voc_lists_what_its_lists_promise_in_vain(voc_folder) -> None:
    lists = voc_folder / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("2007_02\n2007_04\nnobody\n")
    assert [path.name for path in open_data(voc_folder).unpaired] == ["2007_04.jpg", "nobody.jpg"]
    for name in ("train", "val", "trainval"):
        (lists / f"{name}.txt").write_text("nobody\n")
    with pytest.raises(ValueError, match="no image with a mask that its lists name"):
        open_data(voc_folder)


# --- CamVid ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("images, labels", [("images/{}", "labels/{}"), ("{}", "{}annot")])
def test_camvid_is_known_by_the_names_of_its_frames(tmp_path, draw_image, draw_mask, images, labels) -> None:
    for part, names in (("train", ("0001TP_006690", "0006R0_f00930")), ("val", ("0016E5_07959",))):
        for name in names:
            draw_image(tmp_path / images.format(part) / f"{name}.png")
            draw_mask(tmp_path / labels.format(part) / f"{name}.png", values=(0, 10, 11))
        (tmp_path / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
    data = open_data(tmp_path)
    assert data.format == "camvid"
    assert data.classes == camvid.CLASSES
    assert data.classes.ignore == 11
    assert [len(data.train), len(data.val), data.test] == [2, 1, None]
    draw_mask(tmp_path / labels.format("train") / "0001TP_006690.png", values=(0, 37))
    with pytest.raises(
        ValueError, match=r"0001TP_006690\.png holds the value 37, but the table has 11 classes"
    ):
        data.train[0]
    (tmp_path / "val.txt").write_text("0016E5_07959\n0016E5_00000\n")
    assert [path.name for path in open_data(tmp_path).unpaired] == ["0016E5_00000.png"]


def test_the_same_folders_with_other_names_are_pairs(tmp_path, draw_image, draw_mask) -> None:
    for part in ("train", "val"):
        draw_image(tmp_path / "images" / part / "a.png")
        draw_mask(tmp_path / "labels" / part / "a.png")
        (tmp_path / f"{part}.txt").write_text("a\n")
    assert open_data(tmp_path).format == "pairs"


# --- COCO -----------------------------------------------------------------------------------------


def instances(names: list[str], annotations: list[dict], categories=((7, "car"), (3, "sky"))) -> str:
    images = [{"id": i, "file_name": name, "height": 12, "width": 16} for i, name in enumerate(names)]
    return json.dumps(
        {
            "images": images,
            "annotations": [{"id": i, "iscrowd": 0, **a} for i, a in enumerate(annotations)],
            "categories": [{"id": number, "name": name} for number, name in categories],
        }
    )


def box(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


@pytest.fixture
def coco_folder(tmp_path, draw_image) -> Path:
    crowd = torch.zeros(12, 16, dtype=torch.bool)
    crowd[:, 8:] = True
    small = torch.zeros(12, 16, dtype=torch.bool)
    small[0, 0] = True
    annotations = [
        {"image_id": 0, "category_id": 3, "segmentation": encode_rle(small)},
        {"image_id": 0, "category_id": 7, "segmentation": box(0, 0, 4, 6)},
        {"image_id": 0, "category_id": 3, "segmentation": box(8, 0, 10, 2)},
        {"image_id": 0, "category_id": 7, "segmentation": encode_rle(crowd, compressed=False), "iscrowd": 1},
    ]
    for part in ("train2017", "val2017"):
        for name in ("a.jpg", "b.jpg"):
            draw_image(tmp_path / "images" / part / name)
        path = tmp_path / "annotations" / f"instances_{part}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(instances(["a.jpg", "b.jpg"], annotations))
        (path.parent / f"captions_{part}.json").write_text('{"info": {}, "images": []}')
    return tmp_path


def test_coco_instances_become_semantic_labels(coco_folder) -> None:
    data = open_data(coco_folder)
    assert data.format == "coco"
    assert data.classes.names == ("background", "sky", "car")  # in the order of their ids
    assert ids(data.train) == ["images/train2017/a.jpg", "images/train2017/b.jpg"]
    assert ids(data.val) == ["images/val2017/a.jpg", "images/val2017/b.jpg"]
    labels = data.train[0].target.labels
    expected = torch.zeros(12, 16, dtype=torch.long)
    expected[:, 8:] = 255  # the crowd
    expected[0:2, 8:10] = 1  # an instance on it
    expected[0:6, 0:4] = 2
    expected[0, 0] = 1  # the smaller instance lies above
    assert torch.equal(labels, expected)
    assert not data.train[1].target.labels.any()


def test_a_coco_file_may_be_opened_itself(coco_folder) -> None:
    data = open_data(coco_folder / "annotations" / "instances_val2017.json", val_fraction=0.0)
    assert len(data.val) == 2
    assert data.val.pairs[0].image == coco_folder / "images" / "val2017" / "a.jpg"


def test_coco_beside_the_images_of_each_part(tmp_path, draw_image) -> None:
    for part in ("train", "valid"):
        draw_image(tmp_path / part / "a.jpg")
        (tmp_path / part / "_annotations.coco.json").write_text(instances(["a.jpg"], []))
    data = open_data(tmp_path)
    assert [ids(data.train), ids(data.val)] == [["train/a.jpg"], ["valid/a.jpg"]]


def test_coco_may_be_given_other_names_but_not_other_classes(coco_folder) -> None:
    table = ClassTable.of("nothing", "heaven", "vehicle", ignore=99)
    data = open_data(coco_folder, classes=table)
    assert data.classes == table
    assert data.train[0].target.labels.unique().tolist() == [0, 1, 2, 99]
    with pytest.raises(ValueError, match="has 2 categories and background, the class table 2 classes"):
        open_data(coco_folder, classes=ClassTable.of("a", "b"))


def test_coco_images_that_are_not_there_are_listed(coco_folder) -> None:
    (coco_folder / "images" / "train2017" / "b.jpg").unlink()
    (coco_folder / "images" / "val2017" / "b.jpg").unlink()
    data = open_data(coco_folder)
    assert [len(data.train), [path.name for path in data.unpaired]] == [1, ["b.jpg", "b.jpg"]]
    shutil.rmtree(coco_folder / "images")
    with pytest.raises(ValueError, match=r"none of the images that .*train2017\.json names"):
        open_data(coco_folder)


@pytest.mark.parametrize(
    "content, reason",
    [
        ('{"images": [', "cannot read"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": 3, "annotations": [], "categories": []}', "not iterable"),
        (instances(["a.jpg"], [{"image_id": 0, "category_id": 8, "segmentation": []}]), "unknown category 8"),
        (instances(["a.jpg"], [{"image_id": 5, "category_id": 7, "segmentation": []}]), "unknown image 5"),
        (instances(["gone.jpg"], []), "none of the images"),
    ],
)
def test_a_wrong_coco_file_is_an_error_that_names_it(tmp_path, draw_image, content, reason) -> None:
    draw_image(tmp_path / "a.jpg")
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(ValueError, match=reason) as error:
        open_data(tmp_path, format="coco")
    assert "instances.json" in str(error.value)


@pytest.mark.parametrize(
    "segmentation, reason",
    [
        ([[1, 1, 2, 2]], "three points"),
        ({"size": [12, 16], "counts": [3]}, "fill 3 pixels"),
        ({"size": [2, 2], "counts": [4]}, r"has a mask of \(2, 2\), expected \(12, 16\)"),
        ({"size": [2, 2]}, "cannot be drawn"),
    ],
)
def test_an_instance_that_cannot_be_drawn_is_named(tmp_path, draw_image, segmentation, reason) -> None:
    draw_image(tmp_path / "a.jpg")
    (tmp_path / "instances.json").write_text(
        instances(["a.jpg"], [{"image_id": 0, "category_id": 7, "segmentation": segmentation}])
    )
    with pytest.raises(ValueError, match=reason) as error:
        open_data(tmp_path).train[0]
    assert "instance 0 of a.jpg" in str(error.value)


def test_coco_files_that_contradict_each_other_are_refused(coco_folder) -> None:
    annotations = coco_folder / "annotations"
    (annotations / "instances_val2017.json").write_text(instances(["a.jpg"], [], [(1, "x")]))
    with pytest.raises(ValueError, match="have different categories"):
        open_data(coco_folder)
    shutil.copy(annotations / "instances_train2017.json", annotations / "instances_train2014.json")
    with pytest.raises(ValueError, match="describe one part"):
        open_data(coco_folder)


# --- classes --------------------------------------------------------------------------------------


def test_a_class_table_in_the_folder_is_used(pair_folder) -> None:
    root = pair_folder()
    write_classes_file(root / "classes.csv", ClassTable.of("sky", "road", "car"))
    assert open_data(root).classes.names == ("sky", "road", "car")
    other = write_classes_file(root.parent / "mine.json", ClassTable.of("a", "b", "c"))
    assert open_data(root, classes=other).classes.names == ("a", "b", "c")
    assert open_data(root, classes=ClassTable.of("x", "y", "z")).classes.names == ("x", "y", "z")


def test_without_a_table_the_values_in_the_masks_are_the_classes(pair_folder) -> None:
    data = open_data(pair_folder(values=(0, 1, 3, 255)))
    assert data.classes == ClassTable.of("class 0", "class 1", "class 2", "class 3")
    assert data.encoding.from_files


def test_masks_of_only_0_and_255_are_background_and_foreground(pair_folder) -> None:
    data = open_data(pair_folder(values=(0, 255)))
    assert data.classes.names == ("background", "foreground")
    assert data.train[0].target.labels.unique().tolist() == [0, 1]


def test_values_with_wide_gaps_are_numbered_in_order(pair_folder) -> None:
    data = open_data(pair_folder(values=(0, 100, 200)))
    assert data.classes.names == ("value 0", "value 100", "value 200")
    assert data.train[0].target.labels[0, :3].tolist() == [0, 1, 2]


def test_colours_in_masks_are_classes_in_ascending_order(tmp_path, draw_image) -> None:
    for i, color in enumerate([(0, 0, 0), (200, 0, 0), (0, 0, 200)]):
        draw_image(tmp_path / "images" / f"{i}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("RGB", (16, 12), color).save(tmp_path / "masks" / f"{i}.png")
    data = open_data(tmp_path, val_fraction=0.0)
    assert data.classes.colors == ((0, 0, 0), (0, 0, 200), (200, 0, 0))
    assert [sample.target.labels.unique().tolist() for sample in data.train] == [[0], [2], [1]]


def test_the_palette_of_the_masks_colours_the_classes(tmp_path, draw_image) -> None:
    draw_image(tmp_path / "images" / "a.png")
    mask = Image.fromarray(np.tile(np.array([0, 1], dtype=np.uint8), (12, 8)))
    mask.putpalette([5, 6, 7, 8, 9, 10])
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks" / "a.png")
    assert open_data(tmp_path).classes.colors == ((5, 6, 7), (8, 9, 10))


def test_masks_with_too_many_values_are_no_classes(tmp_path, draw_image) -> None:
    draw_image(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    instance_map = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16)
    Image.fromarray(instance_map).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"hold 192 different values .*instances, not classes"):
        open_data(tmp_path)
    (tmp_path / "masks" / "a.png").unlink()
    draw_image(tmp_path / "masks" / "a.jpg")
    with pytest.raises(ValueError, match="JPEG blurs masks"):
        open_data(tmp_path)


def test_a_broken_mask_stops_the_search_for_classes(pair_folder) -> None:
    root = pair_folder()
    (root / "masks" / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"cannot read .*masks/1\.png"):
        open_data(root)


# --- real data ------------------------------------------------------------------------------------


def test_camvid_itself(shared_data) -> None:
    data = open_data(shared_data("data", "camvid"))
    assert data.format == "camvid"
    assert [len(data.train), len(data.val)] == [367, 101]
    assert data.train[0].image.shape == (3, 360, 480)
    assert data.val[0].target.labels.max() <= 11


@pytest.mark.parametrize(
    "folder, format, classes, count",
    [
        ("oxford_pet_sample", "pairs", 3, 20),
        ("isbi2012_em", "pairs", 2, 24),
        ("fruits_nuts", "coco", 4, 14),
        ("coco128", "coco", 81, 26),
        ("ade20k_sample", "pairs", 16, 3),
        ("davis_sample/car-shadow", "pairs", 2, 40),
    ],
)
def test_other_real_folders(shared_data, folder, format, classes, count) -> None:
    data = open_data(shared_data("data", *folder.split("/")))
    assert data.format == format
    assert len(data.classes) == classes
    assert len(data.train) + len(data.val) >= count
    sample = data.train[0]
    assert sample.target.labels.shape == sample.image.shape[-2:]


def test_instance_maps_of_nuclei_need_a_class_table(shared_data) -> None:
    with pytest.raises(ValueError, match="are these instances, not classes"):
        open_data(shared_data("data", "dsb2018_nuclei"))


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_a_folder_without_a_layout_is_told_in_the_words_of_the_task(task, tmp_path, draw_image) -> None:
    draw_image(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=r"holds 1 image files|has none of the layouts|no COCO pan"
    ) as caught:
        open_data(tmp_path, formats=get_task(task).formats)
    assert "Cityscapes files" not in str(caught.value)


def test_a_coco_file_in_an_unusual_place_is_named(coco_folder) -> None:
    assert not any("are those of" in remark for remark in check_data(coco_folder).remarks)
    (coco_folder / "annotations").rename(coco_folder / "subset")
    remarks = check_data(coco_folder).remarks
    assert any("are those of" in r and "instances_val2017.json alone, for 2 images" in r for r in remarks)


def test_a_folder_of_data_sets_names_one_that_can_be_opened(tmp_path) -> None:
    for name in ("first", "second"):
        for kind in ("frames", "annotations"):
            (tmp_path / name / kind).mkdir(parents=True)
            Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / name / kind / "00000.png")
    with pytest.raises(ValueError, match=r"but .*first in it has one: open that folder"):
        open_data(tmp_path)
