"""Formats of instances: what is written comes back pixel by pixel, and the format's own tool reads it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

import pixelwise as pw
from pixelwise.data.formats.cityscapes_instances import (
    read_cityscapes_results,
    read_instance_ids,
    write_cityscapes_results,
    write_instance_ids,
)
from pixelwise.data.formats.coco import instances, read_coco, write_coco, write_lvis
from pixelwise.data.formats.labelme import labelme_instances, read_labelme, write_labelme
from pixelwise.data.formats.yolo import (
    read_yolo_classes,
    read_yolo_labels,
    write_yolo_classes,
    write_yolo_labels,
)
from pixelwise.metrics.coco.lvis import LvisGroundTruth
from pixelwise.rle import RleMasks
from pixelwise.tasks import get_task
from pixelwise.types import ClassTable, MaskSet, voc_palette

TABLE = ClassTable(("car", "dog", "cup"), voc_palette(4)[1:], things=(0, 1, 2), ids=(3, 18, 47))
CITY = ClassTable(("person", "car"), voc_palette(3)[1:], things=(0, 1), ids=(24, 26))
HEIGHT, WIDTH = 37, 53


def scene(seed: int = 0, *, crowds: bool = True, overlap: bool = True, table: ClassTable = TABLE) -> MaskSet:
    """A ring, two parts that touch in a corner, noise, one pixel, the whole image, a rectangle."""
    random = np.random.default_rng(seed)
    masks = np.zeros((6, HEIGHT, WIDTH), bool)
    masks[0, 2:14, 3:17] = True
    masks[0, 5:9, 6:12] = False
    masks[0, 6:8, 7:10] = True  # an island in the hole
    masks[1, 16:20, 2:6], masks[1, 20:25, 6:12] = True, True
    masks[2, 26:36, 20:40] = random.random((10, 20)) < 0.6
    masks[3, 0, WIDTH - 1] = True
    masks[4, 1:20, 20:52] = True
    masks[5] = True
    if not overlap:
        taken = masks[:5].any(0)
        masks[5] &= ~taken
    classes = torch.from_numpy(random.integers(0, len(table), 6))
    is_crowd = torch.tensor([False, False, crowds, False, False, False])
    return MaskSet.of(torch.from_numpy(masks), classes, is_crowd=is_crowd)


def same(found: MaskSet, expected: MaskSet, *, crowds: bool = True) -> None:
    assert torch.equal(found.dense, expected.dense)
    assert found.classes.tolist() == expected.classes.tolist()
    if crowds:
        assert found.is_crowd.tolist() == expected.is_crowd.tolist()


# --- COCO and LVIS --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
@pytest.mark.parametrize("polygons", [False, True])
def test_coco_files_come_back_and_pycocotools_reads_them(tmp_path: Path, polygons: bool) -> None:
    path = tmp_path / "instances_train.json"
    named = [("a.png", scene(0)), ("b/c.png", scene(1)), ("empty.png", scene(2).take(torch.zeros(6).bool()))]
    write_coco(path, named, TABLE, polygons=polygons)
    file = read_coco(path)
    label_of = {number: label for label, number in enumerate(TABLE.ids)}
    assert [image.file_name for image in file.images] == [name for name, _ in named]
    assert file.categories == tuple(zip(TABLE.ids, TABLE.names, strict=True))
    for image, (_, expected) in zip(file.images, named, strict=True):
        same(instances(image, label_of), expected)
    tool = COCO(path)
    for number, (_, expected) in enumerate(named, 1):
        annotations = tool.loadAnns(tool.getAnnIds(number))
        for one, mask, crowd in zip(annotations, expected.dense, expected.is_crowd.tolist(), strict=True):
            assert np.array_equal(tool.annToMask(one), mask.numpy())
            assert one["iscrowd"] == crowd
            assert one["area"] == mask.sum()
    kinds = {type(one["segmentation"]) for one in tool.dataset["annotations"]}
    assert kinds == ({list, dict} if polygons else {dict}), "rings with holes and crowds stay run lengths"
    assert len({one["id"] for one in tool.dataset["annotations"]}) == 12


def test_a_file_of_lvis_has_what_its_evaluation_asks_for_and_is_read_by_url(tmp_path: Path) -> None:
    # lvis is not installed: what lvis-api's `LVIS` and `LVISEval` read is checked here by hand.
    path, kept = tmp_path / "lvis_v1_val.json", scene(0, crowds=False)
    write_lvis(
        path,
        [("val2017/1.jpg", kept)],
        TABLE,
        absent={"val2017/1.jpg": [2]},
        incomplete={"val2017/1.jpg": [0]},
    )
    content = json.loads(path.read_text())
    assert content["images"][0]["neg_category_ids"] == [47]
    assert content["images"][0]["not_exhaustive_category_ids"] == [3]
    assert {one["frequency"] for one in content["categories"]} == {"r"}
    assert {"id", "image_id", "category_id", "segmentation", "area", "bbox"} <= set(content["annotations"][0])
    LvisGroundTruth.read(path)
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/1.jpg"
    del content["images"][0]["file_name"]
    path.write_text(json.dumps(content))
    (image,) = read_coco(path).images
    assert image.file_name == "val2017/1.jpg"
    same(instances(image, {n: i for i, n in enumerate(TABLE.ids)}), kept)
    with pytest.raises(ValueError, match="LVIS knows no crowds"):
        write_lvis(path, [("a.jpg", scene())], TABLE)


# --- YOLO-seg -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_outlines_with_holes_and_parts_come_back_from_one_ring(tmp_path: Path, seed: int) -> None:
    expected = scene(seed, crowds=False)
    write_yolo_labels(tmp_path / "a.txt", expected)
    found = read_yolo_labels(tmp_path / "a.txt", HEIGHT, WIDTH, {0: 0, 1: 1, 2: 2})
    same(found, expected)
    # As ultralytics reads a line: a class and pairs of shares in 0..1, three at least.
    for line in (tmp_path / "a.txt").read_text().splitlines():
        words = line.split()
        shares = [float(word) for word in words[1:]]
        assert words[0] in "012"
        assert len(shares) >= 6
        assert len(shares) % 2 == 0
        assert 0 <= min(shares) <= max(shares) <= 1


def test_crowds_have_no_place_in_yolo_and_empty_files_show_nothing(tmp_path: Path) -> None:
    write_yolo_labels(tmp_path / "a.txt", scene())
    assert len(read_yolo_labels(tmp_path / "a.txt", HEIGHT, WIDTH, {0: 0, 1: 1, 2: 2})) == 5
    assert len(read_yolo_labels(tmp_path / "none.txt", HEIGHT, WIDTH, {})) == 0
    write_yolo_labels(tmp_path / "a.txt", scene().take(torch.zeros(6).bool()))
    assert (tmp_path / "a.txt").read_text() == ""


def test_lines_of_yolo_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("3 0 0 0.5 0 0.5 1 0 1\n\n1 0.75 0.5 0.5 1\n")
    found = read_yolo_labels(path, 2, 4, {1: 0, 3: 1})
    assert found.classes.tolist() == [1, 0]
    assert found.dense.int().tolist() == [[[1, 1, 0, 0]] * 2, [[0, 0, 1, 1]] * 2]


@pytest.mark.parametrize(
    "line, told",
    [
        ("0 0.1 0.2 0.3 0.4 0.5", "line 2: expected a class and at least three points"),
        ("7 0 0 1 0 1 1", "line 2: there is no class 7"),
        ("0 0 0 1 zero 1 1", "line 2: expected numbers"),
        ("0 0 0 nan 0 1 1", "line 2: expected a class and at least three points"),
    ],
)
def test_wrong_lines_of_yolo_are_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"0 0 0 1 0 1 1\n{line}\n")
    with pytest.raises(ValueError, match=f"a.txt, {told}"):
        read_yolo_labels(path, 4, 4, {0: 0})


@pytest.mark.parametrize("names, ids", [("[a, b]", (0, 1)), ("{1: a, 3: b}", (1, 3))])
def test_classes_of_yolo_are_a_list_or_a_table(tmp_path: Path, names: str, ids: tuple[int, ...]) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(f"train: images/train\nnames: {names}\n")
    found = read_yolo_classes(path)
    assert (found.names, found.ids) == (("a", "b"), ids)
    write_yolo_classes(path, TABLE, {"train": "images"})
    assert read_yolo_classes(path).names == TABLE.names
    path.write_text("train: images\n")
    with pytest.raises(ValueError, match="names no classes"):
        read_yolo_classes(path)


# --- labelme --------------------------------------------------------------------------------------


def test_masks_come_back_from_labelme_crowds_among_them(tmp_path: Path) -> None:
    path, expected = tmp_path / "a.json", scene()
    write_labelme(path, expected, TABLE, "a.png")
    file = read_labelme(path)
    assert file.image == "a.png"
    found = labelme_instances(file, HEIGHT, WIDTH, {name: i for i, name in enumerate(TABLE.names)})
    same(found, expected)
    content = json.loads(path.read_text())  # what labelme's own LabelFile asks for
    assert {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"} == set(
        content
    )
    for shape in content["shapes"]:
        assert {"label", "points", "group_id", "shape_type", "flags", "description", "mask"} == set(shape)
    assert expected.take(torch.zeros(6).bool()).dense.shape == (0, HEIGHT, WIDTH)


def labelme_file(path: Path, *shapes: dict[str, object]) -> Path:
    path.write_text(json.dumps({"shapes": shapes, "imagePath": "..\\images\\a.png"}))
    return path


def test_shapes_are_drawn_as_labelme_draws_them_and_groups_are_one(tmp_path: Path) -> None:
    corners = [(2.0, 3.0), (20.5, 4.2), (11.0, 17.9)]
    path = labelme_file(
        tmp_path / "a.json",
        {"label": "dog", "points": corners},
        {"label": "car", "points": [(30, 5), (34, 9)], "shape_type": "rectangle", "group_id": 1},
        {"label": "car", "points": [(40, 30), (43, 34)], "shape_type": "circle", "group_id": 1},
        {"label": "dog", "points": [(1, 1), (5, 5)], "shape_type": "line"},
        {"label": "other", "points": corners},
    )
    file = read_labelme(path)
    assert file.image == "../images/a.png"
    assert file.labels == {"dog", "car", "other"}
    found = labelme_instances(file, HEIGHT, WIDTH, {"car": 0, "dog": 1})
    assert found.classes.tolist() == [1, 0]
    canvas = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(canvas).polygon(corners, outline=1, fill=1)
    assert np.array_equal(found.dense[0].numpy(), np.array(canvas, bool))
    assert found.dense[1, 5:10, 30:35].all()
    assert found.dense[1, 30, 40]
    assert found.dense[1, 30, 45]
    assert not found.dense[1, 30, 46]


@pytest.mark.parametrize(
    "shape",
    [
        {"label": "dog", "points": [(1, 1)]},
        {"label": "dog", "points": [(1, 1), (2, float("inf")), (3, 3)]},
        {"label": "dog", "points": [(1, 1), (2, 2)], "shape_type": "star"},
        {"label": "dog", "points": [(1, 1), (90, 90)], "shape_type": "mask", "mask": "AAAA"},
    ],
)
def test_shapes_that_cannot_be_drawn_are_named(tmp_path: Path, shape: dict[str, object]) -> None:
    file = read_labelme(labelme_file(tmp_path / "a.json", shape))
    with pytest.raises(ValueError, match=r"a\.json: shape 0 \('dog'\) cannot be drawn"):
        labelme_instances(file, HEIGHT, WIDTH, {"dog": 0})
    (tmp_path / "b.json").write_text('{"shapes": [{"points": []}]}')
    with pytest.raises(ValueError, match="not a file of labelme"):
        read_labelme(tmp_path / "b.json")


# --- Cityscapes -----------------------------------------------------------------------------------


def told(instances: MaskSet) -> set[tuple[bytes, int, bool]]:
    """Pixels, class and crowd of each instance, in no order."""
    columns = (instances.classes.tolist(), instances.is_crowd.tolist())
    return {(mask.numpy().tobytes(), *rest) for mask, *rest in zip(instances.dense, *columns, strict=True)}


def test_instance_ids_come_back_with_groups_as_crowds(tmp_path: Path) -> None:
    path, expected = tmp_path / "x_instanceIds.png", scene(overlap=False, table=CITY)
    write_instance_ids(path, expected, CITY)
    found = read_instance_ids(path, {24: 0, 26: 1})
    assert told(found) == told(expected)
    # As cityscapesScripts reads it: a map of 16 bits, id // 1000 is the class from 1000 on.
    ids = np.array(Image.open(path))
    assert ids.dtype == np.uint16
    numbers = set(np.unique(ids).tolist()) - {0}
    assert {n // 1000 for n in numbers if n >= 1000} <= {24, 26}
    assert {n for n in numbers if n < 1000} <= {24, 26}
    with pytest.raises(ValueError, match="overlap"):
        write_instance_ids(path, scene(table=CITY), CITY)


def test_classes_without_instances_are_left_out_of_instance_ids(tmp_path: Path) -> None:
    ids = np.array([[7, 26, 26001], [26000, 24000, 33005]], np.uint16)
    Image.fromarray(ids).save(tmp_path / "a.png")
    found = read_instance_ids(tmp_path / "a.png", {24: 0, 26: 1})
    assert found.classes.tolist() == [1, 0, 1, 1]
    assert found.is_crowd.tolist() == [True, False, False, False]
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="16 or 32 bits"):
        read_instance_ids(tmp_path / "b.png", {})


def test_predictions_for_cityscapes_are_lists_of_masks(tmp_path: Path) -> None:
    # cityscapesScripts is not installed: its `readPredInfo` splits lines into mask, class and confidence.
    expected = scene(crowds=False, table=CITY)
    expected = MaskSet(expected.dense, expected.classes, torch.linspace(1, 0.5, 6), expected.is_crowd)
    files = write_cityscapes_results(tmp_path / "x.txt", expected, CITY)
    assert len(files) == 7
    for line in files[0].read_text().splitlines():
        name, kind, score = line.split(" ")
        assert (tmp_path / name).is_file()
        assert int(kind) in (24, 26)
        assert 0 <= float(score) <= 1
    found = read_cityscapes_results(tmp_path / "x.txt", {24: 0, 26: 1})
    same(found, expected)
    assert found.scores.tolist() == pytest.approx(expected.scores.tolist(), abs=1e-6)
    (tmp_path / "x.txt").write_text("masks/x_0.png 7 0.5\n")
    with pytest.raises(ValueError, match="line 1: expected a mask, a class id"):
        read_cityscapes_results(tmp_path / "x.txt", {24: 0})


# --- folders --------------------------------------------------------------------------------------


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path)


def yolo_folder(root: Path) -> None:
    for part in ("train", "val"):
        picture(root / "images" / part / f"{part}.png")
        (root / "labels" / part).mkdir(parents=True)
        write_yolo_labels(root / "labels" / part / f"{part}.txt", scene(crowds=False))
    picture(root / "images" / "train" / "nothing.png")
    write_yolo_classes(root / "data.yaml", TABLE, {"train": "images/train", "val": "images/val"})


def labelme_folder(root: Path) -> None:
    for part in ("train", "val"):
        picture(root / part / f"{part}.png")
        write_labelme(root / part / f"{part}.json", scene(crowds=False), TABLE, f"{part}.png")


def city_folder(root: Path) -> None:
    for part in ("train", "val"):
        picture(root / "leftImg8bit" / part / "ulm" / f"{part}_leftImg8bit.png")
        (root / "gtFine" / part / "ulm").mkdir(parents=True)
        truth = scene(crowds=False, overlap=False, table=CITY)
        write_instance_ids(root / "gtFine" / part / "ulm" / f"{part}_gtFine_instanceIds.png", truth, CITY)


def coco_folder(root: Path) -> None:
    for part in ("train", "val"):
        picture(root / part / f"{part}.png")
        write_coco(root / f"instances_{part}.json", [(f"{part}.png", scene(crowds=False))], TABLE)


FOLDERS = {"yolo": yolo_folder, "labelme": labelme_folder, "cityscapes": city_folder, "coco": coco_folder}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_each_format_is_found_and_read(name: str, tmp_path: Path) -> None:
    FOLDERS[name](tmp_path)
    data = pw.open_data(tmp_path, task="instance")
    assert data.format == name
    assert len(data.val) == 1
    sample = data.val[0]
    assert isinstance(sample.target, MaskSet)
    assert len(sample.target) == 6
    assert sample.target.size == (HEIGHT, WIDTH)
    own = CITY if name == "cityscapes" else TABLE
    expected = scene(crowds=False, overlap=name != "cityscapes", table=own)
    shown = {data.classes.names[label] for label in sample.target.classes.tolist()}
    assert shown == {own.names[label] for label in expected.classes.tolist()}
    assert set(sample.target.dense.flatten(1).sum(1).tolist()) == set(
        expected.dense.flatten(1).sum(1).tolist()
    )
    if name == "yolo":
        assert [len(one.target) for one in data.train] == [0, 6]


@pytest.mark.parametrize("name", ["yolo", "labelme"])
def test_predictions_of_a_folder_are_written_together(name: str, tmp_path: Path) -> None:
    collector = get_task("instance").collectors[name]
    unsure = scene(crowds=False)
    unsure = MaskSet(unsure.dense, unsure.classes, torch.linspace(0.9, 0.1, 6), unsure.is_crowd)
    named = [("a/b.png", unsure), ("c.jpg", scene(crowds=False))]
    files = collector.write(tmp_path, named, TABLE)
    assert files == collector.files(tmp_path, [one for one, _ in named])
    assert all(file.is_file() for file in files)
    if name == "yolo":
        assert len((tmp_path / "labels" / "a" / "b.txt").read_text().splitlines()) == 3
    else:
        assert len(json.loads((tmp_path / "a" / "b.json").read_text())["shapes"]) == 3
    with pytest.raises(ValueError, match="would both be written"):
        collector.files(tmp_path, ["a.png", "a.jpg"])


def test_run_lengths_and_dense_masks_are_written_alike(tmp_path: Path) -> None:
    dense = scene(crowds=False)
    runs = MaskSet(RleMasks.encode(dense.dense), dense.classes, dense.scores, dense.is_crowd)
    for kind, masks in (("dense", dense), ("runs", runs)):
        write_coco(tmp_path / f"{kind}.json", [("a.png", masks)], TABLE)
        write_yolo_labels(tmp_path / f"{kind}.txt", masks)
    for suffix in ("json", "txt"):
        assert (tmp_path / f"dense.{suffix}").read_text() == (tmp_path / f"runs.{suffix}").read_text()
