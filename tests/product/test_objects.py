"""Instances and boxes from the command line, with default threads, on COCO folders of 480 x 640 images."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import ended as ended

NETWORK = ["--encoder", "resnet18", "--scratch", "--set", "min_size=256", "--set", "width=32"]


@pytest.fixture(scope="module")
def coco(place: Path) -> Path:
    """`shapes`: squares and bars as polygons, three images to train on and two to validate."""
    random, home = np.random.default_rng(0), place / "shapes"
    (home / "images").mkdir(parents=True)
    for part, count in (("train", 3), ("val", 2)):
        images, annotations = [], []
        for number in range(1, count + 1):
            pixels = random.integers(0, 80, (480, 640, 3), dtype=np.uint8)
            for place_of_thing in range(4):
                left, top = 20 + 150 * place_of_thing, int(random.integers(20, 300))
                category = 1 + place_of_thing % 2
                right, bottom = left + 110, top + (110 if category == 1 else 50)
                pixels[top:bottom, left:right, category] += 150
                outline = [left, top, right, top, right, bottom, left, bottom]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": category,
                        "segmentation": [outline],
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": 0,
                    }
                )
            name = f"{part}_{number}.jpg"
            Image.fromarray(pixels).save(home / "images" / name, quality=95)
            images.append({"id": number, "file_name": name, "height": 480, "width": 640})
        categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "bar"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (home / f"instances_{part}.json").write_text(json.dumps(content))
    return home


def test_instances_from_a_coco_folder_to_coco_results(pixelwise: Callable, place: Path, coco: Path) -> None:
    assert "3 images, 12 objects" in ended(pixelwise("check", "shapes", "--task", "instance"))
    run = ["--steps", "2", "--workers", "0", "--out", "runs/mask_rcnn"]
    assert "AP50" in ended(pixelwise("train", "shapes", "--model", "mask_rcnn", *NETWORK, *run))
    report = (place / "runs" / "mask_rcnn" / "report.html").read_text()
    assert "--model mask_rcnn --task instance" in report
    assert "--batch-size" not in report  # the command leaves out what is usual for the task
    ended(pixelwise("evaluate", "runs/mask_rcnn", "shapes", "--csv", "shapes.csv"))
    with (place / "shapes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["images/val_1.jpg", "images/val_2.jpg"]
    assert all(0 <= float(row["mask_ap"]) <= 1 for row in rows)
    options = ["--format", "coco", "--overlay", "--out", "found"]
    ended(pixelwise("predict", "runs/mask_rcnn", "shapes/images", *options))
    assert isinstance(json.loads((place / "found" / "coco_results.json").read_text()), list)
    assert len(json.loads((place / "found" / "coco_images.json").read_text())["images"]) == 5
    with Image.open(place / "found" / "val_1_overlay.png") as overlay:
        assert overlay.size == (640, 480)


@pytest.mark.slow
def test_boxes_from_a_coco_folder_to_yolo_files(pixelwise: Callable, place: Path, coco: Path) -> None:
    run = ["--steps", "1", "--workers", "0", "--out", "runs/faster_rcnn"]
    assert "AP50" in ended(pixelwise("train", "shapes", "--model", "faster_rcnn", *NETWORK, *run))
    image = "shapes/images/val_1.jpg"
    ended(pixelwise("predict", "runs/faster_rcnn", image, "--format", "txt", "--out", "yolo"))
    for line in (place / "yolo" / "val_1.txt").read_text().splitlines():
        label, *shares, score = line.split()
        assert label in ("0", "1")
        assert len(shares) == 4
        assert all(0 <= float(x) <= 1 for x in (*shares, score))
