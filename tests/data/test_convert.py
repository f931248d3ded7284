"""Conversions: what goes in comes out, exactly or within half a pixel; what cannot is counted."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.data.convert import READINGS, WRITERS, convert
from pixelwise.data.formats.coco import write_coco
from pixelwise.data.formats.labelme import write_labelme
from pixelwise.tasks import open_data, task_for_conversion
from pixelwise.types import ClassTable, LabelMap, MaskSet

HEIGHT, WIDTH = 40, 56
TABLE = ClassTable(("car", "dog"), ((9, 0, 0), (0, 9, 0)), things=(0, 1))
OBJECTS = [to for to in WRITERS if to not in ("pairs", "panoptic")]


def scene(seed: int = 0, *, crowds: bool = True) -> MaskSet:
    """A ragged blob, a ring with a hole, an object of two parts, and a crowd; none of them overlap."""
    masks = np.zeros((4, HEIGHT, WIDTH), bool)
    noise = np.random.default_rng(seed).random((12, 14)) < 0.8
    masks[0, 2:14, 3:17] = noise
    masks[0, 4:12, 6:14] = True
    masks[1, 18:30, 5:20], masks[1, 22:25, 9:15] = True, False
    masks[2, 3:9, 30:36], masks[2, 3:9, 44:50] = True, True
    masks[3, 30:38, 30:50] = True
    kept = slice(4) if crowds else slice(3)
    labels, crowd = torch.tensor([0, 1, 0, 1]), torch.tensor([False, False, False, True])
    return MaskSet.of(torch.from_numpy(masks)[kept], labels[kept], is_crowd=crowd[kept])


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def coco_folder(root: Path, *, crowds: bool = True) -> Path:
    for part in ("train", "val"):
        picture(root / "images" / part / f"{part}.png")
        found = scene(crowds=crowds)
        write_coco(root / "annotations" / f"instances_{part}.json", [(f"{part}.png", found)], TABLE)
    return root


def opened(root: Path, task: str = "instance"):
    return open_data(root, task=task, val_fraction=0, test_fraction=0)


def parts_of(mask_set: MaskSet) -> dict[tuple[int, bool], np.ndarray]:
    """The pixels of each class, crowds apart."""
    found: dict[tuple[int, bool], np.ndarray] = {}
    for mask, label, crowd in zip(
        mask_set.dense.numpy(), mask_set.classes.tolist(), mask_set.is_crowd.tolist(), strict=True
    ):
        key = (label, crowd)
        found[key] = found[key] | mask if key in found else mask
    return found


@pytest.mark.parametrize("to", ["coco", "cvat", "labelme", "geojson"])
def test_masks_come_back_exactly(tmp_path, to) -> None:
    source = opened(coco_folder(tmp_path / "in"))
    done = convert(source, to, tmp_path / "out")
    assert (done.num_images, done.num_shapes) == (2, 8)
    again = opened(tmp_path / "out")
    assert list(again.parts()) == ["train", "val"]
    assert again.classes.names == source.classes.names
    for part in ("train", "val"):
        expected, found = source.part(part).target(0), again.part(part).target(0)
        if to == "cvat":  # knows no crowds, and says so
            assert found.is_crowd.sum() == 0
            assert sum(done.lost.values()) == 2
            expected = MaskSet.of(expected.dense, expected.classes)
        else:
            assert not done.lost
        assert found.classes.tolist() == expected.classes.tolist()
        assert found.is_crowd.tolist() == expected.is_crowd.tolist()
        assert torch.equal(found.dense, expected.dense)
        image, old = again.part(part)[0].image, source.part(part)[0].image
        assert torch.equal(image, old)


def test_yolo_counts_what_it_cannot_hold_once(tmp_path) -> None:
    done = convert(opened(coco_folder(tmp_path / "in")), "yolo", tmp_path / "out")
    told = done.render().splitlines()
    assert sum("crowds, which were left out" in line for line in told) == 1
    assert next(count for what, count in done.lost.items() if what.startswith("crowds")) == 2
    assert any(what.startswith("objects of several parts") for what in done.lost)
    holes = next(count for what, count in done.lost.items() if what.startswith("holes"))
    assert holes >= 2
    again = opened(tmp_path / "out").train.target(0)
    assert again.classes.tolist() == [0, 1, 0]
    assert torch.equal(again.dense[2], scene().dense[2])  # of two parts
    filled = scene().dense[1].clone()
    filled[18:30, 5:20] = True
    assert torch.equal(again.dense[1], filled)


@pytest.mark.parametrize("part", ["train", "test"])
def test_yolo_without_a_validation_part_comes_back_once(part, tmp_path) -> None:
    for name in "ab":
        picture(tmp_path / "in" / "images" / part / f"{name}.png")
    found = [(f"{name}.png", scene(crowds=False)) for name in "ab"]
    (tmp_path / "in" / "annotations").mkdir()
    write_coco(tmp_path / "in" / "annotations" / f"instances_{part}.json", found, TABLE)
    there = convert(opened(tmp_path / "in"), "yolo", tmp_path / "yolo")
    back = convert(opened(tmp_path / "yolo"), "coco", tmp_path / "out")
    assert (there.num_images, there.num_shapes) == (back.num_images, back.num_shapes) == (2, 6)
    assert [name for name, data in opened(tmp_path / "yolo").parts().items() if len(data)] == [part]
    remarks = opened(tmp_path / "yolo").remarks
    assert any(f"names the same images as {part} and as val" in remark for remark in remarks)


def test_panoptic_files_say_the_same_as_the_objects(tmp_path) -> None:
    source = opened(coco_folder(tmp_path / "in"))
    convert(source, "panoptic", tmp_path / "out")
    again = opened(tmp_path / "out", "panoptic")
    segments = again.train.target(0)
    assert segments.classes.tolist() == [1, 0, 1, 0] or sorted(segments.classes.tolist()) == [0, 0, 1, 1]
    assert segments.is_crowd.sum() == 1
    for number, label, crowd in zip(
        segments.ids.tolist(), segments.classes.tolist(), segments.is_crowd.tolist(), strict=True
    ):
        mask = segments.id_map == number
        matching = [torch.equal(mask, own) for own in source.train.target(0).dense]
        own = source.train.target(0)
        assert sum(matching) == 1
        at = matching.index(True)
        assert (int(own.classes[at]), bool(own.is_crowd[at])) == (label, crowd)


def test_objects_become_classes_of_pixels_and_back(tmp_path) -> None:
    source = opened(coco_folder(tmp_path / "in", crowds=False), "semantic")
    convert(source, "pairs", tmp_path / "pairs")
    pairs = opened(tmp_path / "pairs", "semantic")
    assert pairs.format == "pairs"
    assert pairs.classes == ClassTable(source.classes.names, source.classes.colors, 255)
    for part in ("train", "val"):
        assert torch.equal(pairs.part(part).labels(0), source.part(part).labels(0))
    for to in ("coco", "labelme", "cvat", "geojson"):
        convert(pairs, to, tmp_path / to)
        again = opened(tmp_path / to, "semantic")
        assert torch.equal(again.train.labels(0), source.train.labels(0)), to
    convert(pairs, "panoptic", tmp_path / "panoptic")
    segments = opened(tmp_path / "panoptic", "panoptic")
    assert segments.classes.names == ("background", "car", "dog")
    target = segments.train.target(0)
    for number, label in zip(target.ids.tolist(), target.classes.tolist(), strict=True):
        assert torch.equal(target.id_map == number, source.train.labels(0) == label)


# --- polygons -----------------------------------------------------------------------------------------

POLYGONS = {
    "car": [(4.25, 3.5), (20.75, 6.0), (18.5, 22.25), (6.0, 17.0)],
    "dog": [(30.0, 10.5), (44.5, 12.0), (40.25, 33.75)],
}


def labelme_polygons(root: Path) -> Path:
    shapes = [
        {"label": name, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}
        for name, points in POLYGONS.items()
    ]
    content = {"version": "5", "shapes": shapes, "imagePath": "a.png", "imageData": None}
    picture(root / "a.png")
    (root / "a.json").write_text(json.dumps(content))
    return root


def corners_in(to: str, root: Path) -> list[np.ndarray]:
    """The corners in the files of a target, in pixels from the corner of the image, read by hand."""
    if to == "coco":
        content = json.loads((root / "annotations" / "instances_train.json").read_text())
        return [np.reshape(one["segmentation"][0], (-1, 2)) for one in content["annotations"]]
    if to == "yolo":
        lines = (root / "labels" / "train" / "a.txt").read_text().splitlines()
        shares = [np.reshape(np.array(line.split()[1:], float), (-1, 2)) for line in lines]
        return [share * [WIDTH, HEIGHT] for share in shares]
    if to == "cvat":
        import re

        found = re.findall(r'points="([^"]*)"', (root / "annotations.xml").read_text())
        return [np.array([point.split(",") for point in text.split(";")], float) for text in found]
    if to == "labelme":
        shapes = json.loads((root / "train" / "a.json").read_text())["shapes"]
        return [np.array(shape["points"]) + 0.5 for shape in shapes]
    features = json.loads((root / "train" / "a.geojson").read_text())["features"]
    return [np.array(one["geometry"]["coordinates"][0][:-1]) for one in features]


@pytest.mark.parametrize("to", OBJECTS)
def test_polygons_stay_the_polygons_that_were_drawn(tmp_path, to) -> None:
    source = opened(labelme_polygons(tmp_path / "in"))
    convert(source, to, tmp_path / "out")
    for corners, drawn in zip(corners_in(to, tmp_path / "out"), POLYGONS.values(), strict=True):
        assert np.abs(corners - (np.array(drawn) + 0.5)).max() < 0.01  # labelme counts from centres of pixels
    # and on to each other tool and back
    back = convert(opened(tmp_path / "out"), "labelme", tmp_path / "back")
    assert not back.lost
    for corners, drawn in zip(corners_in("labelme", tmp_path / "back"), POLYGONS.values(), strict=True):
        assert np.abs(corners - (np.array(drawn) + 0.5)).max() < 0.01


def test_exact_means_the_pixels_that_the_tool_draws(tmp_path) -> None:
    source = opened(labelme_polygons(tmp_path / "in"))
    for to in ("coco", "cvat", "geojson"):
        convert(source, to, tmp_path / to, exact=True)
        assert torch.equal(opened(tmp_path / to).train.target(0).dense, source.train.target(0).dense)
    convert(source, "coco", tmp_path / "polygons")
    assert not torch.equal(opened(tmp_path / "polygons").train.target(0).dense, source.train.target(0).dense)


# --- folders ------------------------------------------------------------------------------------------


def test_a_damaged_file_leaves_nothing_behind(tmp_path) -> None:
    root = labelme_polygons(tmp_path / "in")
    picture(root / "b.png")
    broken = {"shapes": [{"label": "dog", "points": [[1, 1], [2, 2]]}], "imagePath": "b.png"}
    (root / "b.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"b\.json.*three points"):
        convert(opened(root), "coco", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_annotations_that_no_target_holds_are_named(tmp_path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for name in "ab":
            volume = nibabel.Nifti1Image(np.full((4, 5, 6), name == "b", np.uint8), np.eye(4))
            nibabel.save(volume, tmp_path / kind / f"{name}.nii.gz")
    with pytest.raises(ValueError, match="is read by the task volume, whose annotations are not converted"):
        task_for_conversion(tmp_path, "auto", READINGS["coco"])
    assert task_for_conversion(coco_folder(tmp_path / "coco"), "auto", READINGS["pairs"]) == "semantic"
    with pytest.raises(ValueError, match="is of the layout volumes, and only pictures are converted"):
        convert(opened(tmp_path, "volume"), "coco", tmp_path.parent / "out")


def test_a_folder_with_files_is_never_written_to(tmp_path) -> None:
    source = opened(labelme_polygons(tmp_path / "in"))
    (tmp_path / "out").mkdir()
    convert(source, "coco", tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="is not empty"):
        convert(source, "yolo", tmp_path / "out")
    with pytest.raises(ValueError, match="lies in the data folder"):
        convert(source, "yolo", tmp_path / "in" / "out")
    with pytest.raises(ValueError, match="to must be one of coco, yolo"):
        convert(source, "tfrecord", tmp_path / "other")
    assert sorted(tmp_path.rglob("*")) == before


def test_images_of_one_name_are_both_kept(tmp_path) -> None:
    for folder, label in (("Urban", "car"), ("Rural", "dog")):
        picture(tmp_path / "in" / folder / "0.png", seed=len(folder))
        only = MaskSet.of(scene().dense[:1], torch.tensor([TABLE.names.index(label)]))
        write_labelme(tmp_path / "in" / folder / "0.json", only, TABLE, "0.png")
    for to in ("yolo", "coco", "labelme"):
        convert(opened(tmp_path / "in"), to, tmp_path / to)
        again = opened(tmp_path / to).train
        assert [again.target(i).classes.tolist() for i in range(2)] == [[1], [0]]


def test_links_are_links(tmp_path) -> None:
    convert(opened(labelme_polygons(tmp_path / "in")), "yolo", tmp_path / "out", link=True)
    image = tmp_path / "out" / "images" / "train" / "a.png"
    assert image.is_symlink()
    assert image.read_bytes() == (tmp_path / "in" / "a.png").read_bytes()


def test_ignored_pixels_are_counted_where_they_are_lost(tmp_path, draw_image, draw_mask) -> None:
    for name in "ab":
        draw_image(tmp_path / "in" / "images" / f"{name}.png")
        draw_mask(tmp_path / "in" / "masks" / f"{name}.png", values=(0, 1, 255))
    done = convert(opened(tmp_path / "in", "semantic"), "coco", tmp_path / "out")
    assert done.lost == {"images with ignored pixels, which became background": 2}
    kept = convert(opened(tmp_path / "in", "semantic"), "pairs", tmp_path / "pairs")
    assert not kept.lost
    assert isinstance(opened(tmp_path / "pairs", "semantic").train.target(0), LabelMap)


def test_progress_ends_with_all_images(tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    convert(
        opened(coco_folder(tmp_path / "in")),
        "coco",
        tmp_path / "out",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]
    assert set(READINGS) == set(WRITERS)


@pytest.mark.parametrize("name", ["../secret.png", "/secret.png"])
def test_panoptic_files_do_not_leave_their_folder(name, tmp_path) -> None:
    convert(opened(coco_folder(tmp_path / "in")), "panoptic", tmp_path / "out")
    file = next((tmp_path / "out").rglob("panoptic_train.json"))
    content = json.loads(file.read_text())
    content["annotations"][0]["file_name"] = name
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"secret\.png' leaves the folder of the segments"):
        opened(tmp_path / "out", "panoptic")
